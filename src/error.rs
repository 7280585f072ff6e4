//! The one error type of the pipeline: what went wrong, whose fault it is, and the way out.
//!
//! The kind decides the exit status (design: 1 input, 3 machine, 70 bug; clap exits with 2 for
//! usage). The message names the file, package or repository; the hint is a command or an edit.

use std::fmt;

/// A result whose error is [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The manifest, the lock, an archive or a package is at fault: exit status 1.
    Input,
    /// This machine cannot do it (namespaces, a full disk, no permission): exit status 3.
    Machine,
    /// A bug in treestrap: exit status 70 (EX_SOFTWARE of sysexits.h).
    Bug,
    /// The user asked to stop (Ctrl-C, SIGTERM, SIGHUP): exit status 130.
    Interrupted,
}

/// An error with its kind, its chain of causes (outermost first) and an optional hint.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    /// Outermost context first; never empty.
    messages: Vec<String>,
    hint: Option<String>,
}

impl Error {
    /// An error of `kind` with one message.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Error { kind, messages: vec![message.to_string()], hint: None }
    }

    /// The input or the packages are at fault.
    pub fn input(message: impl fmt::Display) -> Self {
        Error::new(Kind::Input, message)
    }

    /// This machine cannot do it.
    pub fn machine(message: impl fmt::Display) -> Self {
        Error::new(Kind::Machine, message)
    }

    /// A bug of ours.
    pub fn bug(message: impl fmt::Display) -> Self {
        Error::new(Kind::Bug, message)
    }

    /// Adds the way out: a command to run or an edit to make. The innermost hint wins.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint.get_or_insert_with(|| hint.to_string());
        self
    }

    /// Adds an outer step to the chain of causes.
    #[must_use]
    pub fn context(mut self, message: impl fmt::Display) -> Self {
        self.messages.insert(0, message.to_string());
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The chain of causes, outermost first.
    pub fn messages(&self) -> &[String] {
        &self.messages
    }

    /// The way out, if one is known.
    pub fn get_hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.messages.join(": "))
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    /// Disk full, no permission and their like are the machine's fault; what else I/O reports
    /// (a missing file, garbage) is the input's.
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        // An Error that travelled through an I/O interface comes out as it went in.
        if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            let inner = error.into_inner().and_then(|inner| inner.downcast::<Error>().ok());
            return inner.map_or_else(|| Error::bug("an I/O error lost its cause"), |e| *e);
        }
        let kind = match error.kind() {
            E::PermissionDenied
            | E::StorageFull
            | E::QuotaExceeded
            | E::ReadOnlyFilesystem
            | E::OutOfMemory => Kind::Machine,
            // EIO, EXDEV, ENFILE, EMFILE, ENOSYS (errno(3)): no input brings these about.
            _ if error.raw_os_error().is_some_and(|errno| [5, 18, 23, 24, 38].contains(&errno)) => {
                Kind::Machine
            }
            _ => Kind::Input,
        };
        let result = Error::new(kind, &error);
        match error.kind() {
            E::StorageFull | E::QuotaExceeded => {
                result.hint("free some space (df -h), then run the same command again: what was done is kept")
            }
            _ => result,
        }
    }
}

impl From<sandbox::Error> for Error {
    fn from(error: sandbox::Error) -> Self {
        use sandbox::Kind as K;
        let kind = match error.kind() {
            K::Machine => Kind::Machine,
            K::Command | K::TimeLimit | K::Folder => Kind::Input,
            K::Interrupted => Kind::Interrupted,
            _ => Kind::Bug,
        };
        let result = Error::new(kind, &error);
        match error.hint() {
            Some(hint) => result.hint(hint),
            None if kind == Kind::Machine => {
                result.hint("treestrap doctor    says what this machine lacks, and the command that mends it")
            }
            None => result,
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::other(error)
    }
}

/// Adds a step to the chain of causes of a failed result: `read(path).context("reading …")?`.
pub trait Context<T> {
    /// The step, as text.
    fn context(self, message: impl fmt::Display) -> Result<T>;
    /// The step, made only on failure.
    fn with_context<M: fmt::Display>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, message: impl fmt::Display) -> Result<T> {
        self.map_err(|e| e.into().context(message))
    }

    fn with_context<M: fmt::Display>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|e| e.into().context(message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_an_io_interface() {
        let error = Error::input("nginx: bad ar header").hint("fetch it again");
        let back = Error::from(std::io::Error::from(error)).context("ingest");
        assert_eq!(back.to_string(), "ingest: nginx: bad ar header");
        assert_eq!((back.kind(), back.get_hint()), (Kind::Input, Some("fetch it again")));
    }
}
