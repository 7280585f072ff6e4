//! Which programs were started when, and for how long they ran, if the plan asks for it: a line of JSON
//! ([`Program`]) for each when it has ended, or was replaced by the next one of its process.
//!
//! Seen are the programs' starts (execve(2)), which wait until they are noted, and the ends of their processes
//! (pidfd_open(2)). A program that is still running when the sandbox ends, ends with it.

use std::{collections::HashMap, fs::File, io::Write, os::fd::OwnedFd};

use nix::{
    fcntl::AtFlags,
    sys::stat::Mode,
    time::{ClockId, clock_gettime},
};

use super::{
    caller::{Caller, NAME},
    files::Target,
};
use crate::{
    error::{Doing, Result},
    plan::{self, Program, UNNOTED},
    sys::folders::open_process,
};

/// The log.
pub(super) struct Programs {
    file: File,
    /// By the number of their process.
    running: HashMap<i32, Running>,
}

struct Running {
    /// Readable when the process has ended.
    process: OwnedFd,
    path: Vec<u8>,
    since: f64,
}

impl Programs {
    /// Opens the log, which the caller of the sandbox has made.
    pub(super) fn open(wanted: &plan::Programs) -> Result<Self> {
        let file = File::options().append(true).open(&wanted.log).doing_to("opening", &wanted.log)?;
        Ok(Programs { file, running: HashMap::new() })
    }

    /// Notes a start that is yet to be carried out. What cannot be found out is not noted, nor is a file that is
    /// not there: shells try one folder after the other.
    pub(super) fn note(&mut self, target: Target, caller: &Caller<'_>) {
        if target == Target::Path && caller.argument(3) as u32 == UNNOTED {
            return; // tier single is asked all the same
        }
        let Some(path) = path(target, caller) else { return };
        let pid = caller.thread().as_raw();
        self.end(pid);
        if let Ok(process) = open_process(caller.thread()) {
            self.running.insert(pid, Running { process, path, since: now() });
        }
    }

    /// Descriptors that can be read when a process has ended.
    pub(super) fn processes(&self) -> impl Iterator<Item = (i32, &OwnedFd)> {
        self.running.iter().map(|(&pid, running)| (pid, &running.process))
    }

    /// Notes the end of what a process was running.
    pub(super) fn end(&mut self, pid: i32) {
        let Some(Running { path, since, .. }) = self.running.remove(&pid) else { return };
        let process = pid.unsigned_abs();
        let program = Program { path, process, begun: since, ended: now() };
        if let Ok(mut line) = serde_json::to_vec(&program) {
            line.push(b'\n');
            let _ = self.file.write_all(&line);
        }
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let left: Vec<i32> = self.running.keys().copied().collect();
        left.into_iter().for_each(|pid| self.end(pid));
    }
}

/// The program as it is started, and where it is.
fn path(target: Target, caller: &Caller<'_>) -> Option<Vec<u8>> {
    let (folder, index) = match target {
        Target::At(flags) if caller.int(flags) & AtFlags::AT_EMPTY_PATH.bits() != 0 => {
            let file = caller.descriptor(caller.int(0)).ok()?;
            return caller.surroundings.path_of(&file).ok();
        }
        Target::At(_) => (caller.int(0), 1),
        _ => (libc::AT_FDCWD, 0),
    };
    let path = caller.path(index).ok()?;
    caller.open(folder, &path, NAME, Mode::empty()).ok()?;
    Some(path)
}

/// Seconds of CLOCK_MONOTONIC.
fn now() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or((0, 0), |time| (time.tv_sec(), time.tv_nsec()));
    time.0 as f64 + time.1 as f64 / 1e9
}
