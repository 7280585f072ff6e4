//! Which program wrote which file, if the plan asks for it: a line of JSON ([`Writer`]) for each open for
//! writing and each new name of a file. It is for finding out why two runs differ, not an audit: what a
//! program writes through a descriptor that it was given is under the name of whoever opened the file.

use std::{fs::File, io::Write};

use nix::{fcntl::OFlag, sys::stat::Mode};

use super::{
    Call,
    caller::{Caller, NAME},
    files::{self, Make},
};
use crate::{
    error::{Doing, Result},
    plan::{self, Writer},
};

/// The flags of an open that may change a file.
pub(super) const WRITES: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;

/// Of a command line, as many characters are noted.
const LONGEST: usize = 160;

/// The log.
pub(super) struct Writers {
    file: File,
    /// `NAME=` of the variable.
    variable: Vec<u8>,
}

impl Writers {
    /// Opens the log, which the caller of the sandbox has made.
    pub(super) fn open(wanted: &plan::Writers) -> Result<Self> {
        let file = File::options().append(true).open(&wanted.log).doing_to("opening", &wanted.log)?;
        Ok(Writers { file, variable: format!("{}=", wanted.variable).into_bytes() })
    }

    /// Notes a call that is yet to be carried out, if it is one that writes; whatever cannot be found out
    /// is not noted.
    pub(super) fn note(&mut self, call: Call, caller: &Caller<'_>) {
        if let Some(writer) = self.writer(call, caller)
            && let Ok(mut line) = serde_json::to_vec(&writer)
        {
            line.push(b'\n');
            let _ = self.file.write_all(&line);
        }
    }

    fn writer(&self, call: Call, caller: &Caller<'_>) -> Option<Writer> {
        let (folder, path) = match call {
            Call::Make(make @ (Make::Open | Make::OpenAt | Make::OpenAt2)) => {
                make.how(caller).ok()?.filter(|how| how.flags & WRITES != 0)?;
                make.path()
            }
            Call::Make(make) => make.path(),
            Call::Name(folder, path) => (folder, path),
            _ => return None,
        };
        let path = caller.path(path).ok()?;
        let (parent, name) = files::split(&path);
        let folder = folder.map_or(libc::AT_FDCWD, |index| caller.int(index));
        let parent = match parent {
            b"" => caller.base(folder),
            parent => caller.open(folder, parent, NAME | OFlag::O_DIRECTORY, Mode::empty()),
        };
        let parent = caller.surroundings.path_of(&parent.ok()?).ok()?;
        let path = [parent.as_slice(), b"/", name].concat();
        let environment = caller.text("environ").ok()?;
        let variable =
            environment.split(|&byte| byte == 0).find_map(|line| line.strip_prefix(&*self.variable));
        let command = caller.text("cmdline").ok()?;
        let command: Vec<_> = command.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        Some(Writer {
            path: path.into_iter().skip_while(|&byte| byte == b'/').collect(),
            command: command.join(" ").trim_end().chars().take(LONGEST).collect(),
            variable: variable.map(|value| String::from_utf8_lossy(value).into_owned()),
        })
    }
}
