//! `treestrap lock`: choose versions, and pin them.

use clap::Args;

use super::{outcome::Outcome, program::Program};
use crate::{
    Result,
    pipeline::{self, LockMode},
};

/// Resolve images and write their locks
///
/// Chooses the packages of each image as apt would and writes them to IMAGE.lock beside the
/// manifest: a Debian Packages index with the hash of every package, to be kept in version control.
/// A lock that is there keeps its versions as far as the manifest allows; a lock that would not
/// change is not touched.
///
/// Packages that are added, and nothing else, are a layer of their own: a build continues from the
/// tree that was finished before. --update puts all of an image into one layer again.
///
/// Examples:
///   treestrap lock                      every image of the manifest
///   treestrap lock --update board       move the image `board` to the newest versions
///   treestrap lock --why libssl3 board  say why a package is in an image
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Images of the manifest [default: all of them]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Move to the newest versions
    #[arg(long)]
    update: bool,
    /// Write nothing; fail if a lock is not what the manifest asks for
    #[arg(long, conflicts_with = "update")]
    check: bool,
    /// Say on standard output why PKG is in the locks: a chain from a requested package
    #[arg(long, value_name = "PKG", conflicts_with_all = ["update", "check"])]
    why: Option<String>,
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let images = program.manifest()?.select(&arguments.images)?;
    let session = program.session(None)?;
    let mode = match arguments {
        Arguments { check: true, .. } => LockMode::Check,
        Arguments { update: true, .. } => LockMode::Update,
        _ => LockMode::Keep,
    };
    Ok(program.each(&images, |image| {
        let name = &image.request.image;
        if let Some(package) = &arguments.why {
            let chain = pipeline::why(&session, image, package)?;
            return program.output.outcome(&Outcome::Why { image: name, package, chain });
        }
        let locked = pipeline::lock(&session, image, mode)?;
        program.output.outcome(&Outcome::Locked {
            image: name,
            path: locked.path.display().to_string(),
            packages: locked.lockfile.packages.len(),
            written: locked.written,
        })
    }))
}
