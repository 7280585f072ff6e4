//! `treestrap compose`: stage 1.

use clap::Args;

use super::{outcome::Outcome, program::Program};
use crate::{Result, pipeline};

/// Stage 1: make the unpacked tree of images
///
/// Merges the trees of an image's packages, which `fetch` brought, into what unpacking them with
/// dpkg would leave, and commits that as deb/images/IMAGE/unpacked. Prints `IMAGE CHECKSUM`, a line
/// each.
///
/// Example:
///   treestrap compose board
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Images of the manifest [default: all of them]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let images = program.manifest()?.select(&arguments.images)?;
    let session = program.session(None)?;
    Ok(program.each(&images, |image| {
        let composed = pipeline::compose(&session, image)?;
        program.output.outcome(&Outcome::Composed { image: &image.request.image, commit: composed.commit })
    }))
}
