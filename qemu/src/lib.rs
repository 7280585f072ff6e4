//! Foreign binaries: Debian's architectures, how the kernel recognises their programs, and the
//! qemu-user that runs them.
//!
//! | module | what |
//! |---|---|
//! | `architecture` | the table of architectures; which the host's CPU runs by itself |
//! | [`crash`] | whether a crash was the program's fault or the emulator's |
//! | `elf` | whose a program is, and whether it is static |
//! | `binfmt` | a line for binfmt_misc |
//! | `emulator` | qemu on the host: finding it, its version; which Debian package has it |
//! | [`interpreter`] | qemu with the dispatcher in front of it, for acceleration |
//! | [`known_bad`] | versions of qemu in which programs are known to crash |
//! | [`program`] | reading an ELF file: segments, loader, libraries, build id |
//! | [`starts`] | what the dispatcher has noted, added up and explained |
//! | [`twins`] | which foreign programs the host can run itself |
//!
//! It knows nothing of sandboxes: a [`Registration`] is text, and whoever has a binfmt_misc writes it.
//!
//! ```no_run
//! # fn main() -> Result<(), qemu::Error> {
//! let target = qemu::find("armhf").expect("an architecture of Debian");
//! let host = qemu::host().expect("a host of Debian");
//! if !qemu::runs_natively(host, target, std::path::Path::new("/tmp"))? {
//!     let emulator = qemu::Emulator::on_host(target)?;
//!     println!("{} by {}", emulator.registration(target).line, emulator.path.display());
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod architecture;
mod binfmt;
pub mod crash;
mod elf;
mod emulator;
pub mod interpreter;
pub mod known_bad;
pub mod program;
pub mod starts;
pub mod twins;

pub use architecture::{
    ARCHITECTURES, Architecture, Endian, Execution, execution, find, host, runs_natively,
};
pub use binfmt::{INTERPRETER, Registration};
pub use elf::{Elf, read_elf};
pub use emulator::{Emulator, PackagedEmulator, Version, packaged};

use std::path::PathBuf;

/// What goes wrong here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read, written or started.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// No static qemu-user for the architecture is on this machine.
    #[error("no static {program} on this machine{}", rejected.as_ref().map(|path| format!(" ({} is not static)", path.display())).unwrap_or_default())]
    NoEmulator {
        /// The program's name, such as `qemu-arm`.
        program: String,
        /// One that was found and needs libraries, so that it cannot run in another root.
        rejected: Option<PathBuf>,
    },
    /// qemu has no user-mode emulation of the architecture.
    #[error("qemu-user does not emulate {0}")]
    NotEmulated(&'static str),
    /// The program is no qemu-user.
    #[error("{path} --version says {said:?}, not which qemu it is", path = path.display())]
    NotQemu {
        /// The program.
        path: PathBuf,
        /// Its output's first line.
        said: String,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }
}
