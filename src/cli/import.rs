//! `treestrap import`: what another system has unpacked already.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{outcome::Outcome, program::Program};
use crate::{
    Result,
    pipeline::{self, Import},
};

/// Take packages from another system's repository, so that they are not downloaded again
///
/// A package is taken if what its deb would give can be told from what is there: then its commit is
/// the very one that fetching it makes. The others are named and left to be fetched. Every object is
/// checked, and linked where both repositories are bare-user and on one file system, else copied.
/// The exit status is 1 if something is damaged, or nothing that the system writes.
///
/// Examples:
///   treestrap import apt2ostree _build/ostree && treestrap build
///   treestrap import apt2ostree _build/ostree --lock board.lock      the packages of one lock
///   treestrap import apt2ostree _build/ostree Packages.lock && \
///     treestrap diff deb/imported/Packages.lock/configured board     an image of theirs, to compare
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// What wrote the repository
    #[arg(value_name = "SYSTEM")]
    system: System,
    /// The repository that it wrote
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// Images to take as they are, by apt2ostree's names: as the lock is called, with _ for each slash
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Take the packages of this lock only; may be repeated
    #[arg(long = "lock", value_name = "FILE")]
    locks: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum System {
    Apt2ostree,
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let session = program.session(None)?;
    let Arguments { from, images, locks, .. } = arguments;
    let imported = match arguments.system {
        System::Apt2ostree => {
            let import = Import { from: from.clone(), locks: locks.clone(), images: images.clone() };
            pipeline::import(&session, &import)?
        }
    };
    program.output.outcome(&Outcome::Imported(imported))?;
    Ok(u8::from(imported.refused > 0))
}
