//! `multistrap`: what multistrap(1) does with a configuration, without root and for any architecture.
//!
//! | file | what it does |
//! |---|---|
//! | `scripts` | the files that a configuration names: scripts, hooks, answers, pins |
//! | `keyring` | the keys that vouch for the repositories, got as multistrap gets them |
//! | `choice` | which packages: multistrap's command line for apt, in two rounds |
//! | `folder` | the folder that is made, and files in it |
//! | `place` | who has it for a run, and what a killed run left |
//! | `apt` | what apt finds in it |
//! | `archives` | the packages themselves, and their sources, where they are to be kept |
//! | `tree` | packages unpacked into the folder, the user's scripts, stage 2 |
//! | `conffiles` | configuration files at their places |
//! | `words` | hints in the words of a configuration |
//! | `making` | the order of all that |

mod apt;
mod archives;
mod choice;
mod conffiles;
mod folder;
mod keyring;
mod making;
mod place;
mod scripts;
mod tree;
mod words;

use std::path::{Path, PathBuf};

pub use making::make;
pub use scripts::Scripts;

use crate::{
    Error, Result,
    artefacts::{IdentityPolicy, StageTwo},
    manifest::multistrap::Configuration,
};

/// What is to be made.
pub struct Order<'a> {
    /// The configuration, with what the command line says instead of it.
    pub configuration: &'a Configuration,
    /// The files that it names.
    pub scripts: &'a Scripts,
    /// The lock to use, or to make where it is not there; none: the newest packages.
    pub lock: Option<&'a Path>,
    /// Whether what scripts print goes to standard error, since standard output is data.
    pub stdout_is_data: bool,
    /// What becomes of what identifies a device.
    pub identity: IdentityPolicy,
    /// How packages' scripts are run.
    pub stage_two: StageTwo,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The name of its trees in the repository.
    pub image: String,
    /// The folder, or the tarball that it became.
    pub path: PathBuf,
    /// Scripts and hooks of the user's that failed; the rest was done all the same.
    pub failures: Vec<String>,
}

/// Debian's name of this machine's architecture.
///
/// # Errors
/// `Kind::Machine` if Debian has none.
pub fn host_architecture() -> Result<&'static str> {
    let host = qemu::host().map(|host| host.name);
    host.ok_or_else(|| {
        Error::machine("this machine's architecture is none of Debian's").hint("name one: -a ARCH")
    })
}
