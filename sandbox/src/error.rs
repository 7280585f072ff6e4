//! What goes wrong in a sandbox: one serialisable value, since it travels between processes.

use std::{fmt, path::Path};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Who is at fault, for a caller that branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// This machine cannot do it: namespaces forbidden, no ids to map, a full disk.
    Machine,
    /// The plan asks for what is not there or not possible.
    Plan,
    /// A folder of the host that is worked on is not as it has to be.
    Folder,
    /// A command could not be started: not found, not executable.
    Command,
    /// The caller asked to stop.
    Interrupted,
    /// A command ran longer than it may.
    TimeLimit,
    /// A bug in this crate, or a process of the sandbox died under it.
    Bug,
}

/// Which step of starting a sandbox failed; [`diagnose`](crate::diagnose) explains by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Step {
    /// Making the folder where the upper layer lives.
    WorkFolder,
    /// `unshare(CLONE_NEWUSER)`.
    UserNamespace,
    /// Mapping a range of ids into it.
    Mapping,
    /// The other namespaces.
    Namespaces,
    /// Mounting a FUSE file system.
    Fuse,
    /// Mounting the overlay.
    Overlay,
    /// Mounting a fresh /proc.
    Proc,
    /// The private /dev.
    Devices,
    /// Mounts that the plan asks for, and changing the root.
    Mounts,
    /// The private binfmt_misc.
    Binfmt,
    /// The private network.
    Network,
    /// Capabilities and resource limits.
    Privileges,
    /// The system call filter.
    Seccomp,
}

/// An error: who is at fault, at which step, what happened and perhaps the way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    kind: Kind,
    step: Option<Step>,
    errno: Option<i32>,
    message: String,
    hint: Option<String>,
}

impl Error {
    /// An error of `kind`.
    pub(crate) fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Error { kind, step: None, errno: None, message: message.to_string(), hint: None }
    }

    /// This machine cannot do it.
    pub(crate) fn machine(message: impl fmt::Display) -> Self {
        Error::new(Kind::Machine, message)
    }

    /// The plan is at fault.
    pub(crate) fn plan(message: impl fmt::Display) -> Self {
        Error::new(Kind::Plan, message)
    }

    /// A folder of the host is at fault.
    pub(crate) fn folder(message: impl fmt::Display) -> Self {
        Error::new(Kind::Folder, message)
    }

    /// This crate is at fault.
    pub(crate) fn bug(message: impl fmt::Display) -> Self {
        Error::new(Kind::Bug, message)
    }

    /// A system call failed while `action` was done.
    pub(crate) fn system(action: impl fmt::Display, errno: Errno) -> Self {
        let error = Error::machine(format_args!("{action}: {}", errno.desc()));
        Error { errno: Some(errno as i32), ..error }
    }

    /// Names the step, unless an inner one has done so.
    #[must_use]
    pub(crate) fn at(mut self, step: Step) -> Self {
        self.step.get_or_insert(step);
        self
    }

    /// Adds the way out: a command or an edit. The innermost hint wins.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint.get_or_insert_with(|| hint.to_string());
        self
    }

    /// The same error, with what else was tried in vain.
    #[must_use]
    pub(crate) fn and(mut self, more: impl fmt::Display) -> Self {
        self.message = format!("{}; {more}", self.message);
        self
    }

    /// The same fault, of another kind.
    #[must_use]
    pub(crate) fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// At which step of the start it happened, if it was then.
    pub fn step(&self) -> Option<Step> {
        self.step
    }

    /// The error number of the system call that failed, if one did.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// The way out, if one is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Turns the error of a system call into ours, saying what was being done.
pub(crate) trait Doing<T> {
    /// `action` reads as "doing this to that".
    fn doing(self, action: impl fmt::Display) -> Result<T>;

    /// The same for a path.
    fn doing_to(self, action: &str, path: &Path) -> Result<T>
    where
        Self: Sized,
    {
        self.doing(format_args!("{action} {}", path.display()))
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, action: impl fmt::Display) -> Result<T> {
        self.map_err(|errno| Error::system(action, errno))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, action: impl fmt::Display) -> Result<T> {
        self.map_err(|error| match error.raw_os_error() {
            Some(number) => Error::system(action, Errno::from_raw(number)),
            None => Error::machine(format_args!("{action}: {error}")),
        })
    }
}
