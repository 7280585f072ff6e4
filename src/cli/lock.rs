//! `treestrap lock`: choose versions, and pin them.

use std::path::{Path, PathBuf};

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
/// Images that take packages from the same repositories, with the same pins, are to have one version of each
/// package that they share: what an image's lock does not have yet is taken in the version that other images have,
/// while the archive has it. Where locks differ all the same, a warning says so, --check fails, and
/// --update of all images mends it. A version that `packages` ask for ("name=version", "name/suite") may differ.
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
    /// Write nothing; fail if a lock is not what the manifest asks for, or images differ in versions
    #[arg(long, conflicts_with = "update")]
    check: bool,
    /// Say on standard output why PKG is in the locks: a chain from a requested package
    #[arg(long, value_name = "PKG", conflicts_with_all = ["update", "check"])]
    why: Option<String>,
    /// Write a timeline of what took how long to this file, for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

impl Arguments {
    /// Where the timeline is to be written.
    pub(super) fn trace(&self) -> Option<&Path> {
        self.trace.as_deref()
    }
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let manifest = program.manifest()?;
    let images = manifest.select(&arguments.images)?;
    let session = program.session(None)?;
    if let Some(package) = &arguments.why {
        return Ok(program.each(&images, |image| {
            let chain = pipeline::why(&session, image, package)?;
            program.output.outcome(&Outcome::Why { image: &image.request.image, package, chain })
        }));
    }
    let mode = match arguments {
        Arguments { check: true, .. } => LockMode::Check,
        Arguments { update: true, .. } => LockMode::Update,
        _ => LockMode::Keep,
    };
    let locks = pipeline::lock(&session, &images, &manifest.images, mode);
    let mut results = locks.images.into_iter();
    let status = program.each(&images, |image| {
        let Some(locked) = results.next().transpose()? else { return Ok(()) };
        program.output.outcome(&Outcome::Locked {
            image: &image.request.image,
            path: locked.path.display().to_string(),
            packages: locked.lockfile.packages.len(),
            written: locked.written,
        })
    });
    match (status, locks.agreement) {
        // What is wrong with one of them comes first.
        (0, Err(error)) => Err(error),
        (status, Err(error)) => {
            program.output.error("", &error);
            Ok(status)
        }
        (status, Ok(())) => Ok(status),
    }
}
