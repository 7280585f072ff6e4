//! `treestrap build`: all stages.

use std::path::PathBuf;

use clap::Args;

use super::{outcome::Outcome, program::Program, stage_two::StageTwoArguments, worst};
use crate::{Result, pipeline};

/// Make images, all stages, doing only what is missing
///
/// Several images are made in parallel. A lock that is there is used and never changed; where there
/// is none, one is made. Prints `IMAGE CHECKSUM`, a line for each image that is done; an image that
/// fails does not stop the others.
///
/// Examples:
///   treestrap build                                    every image of the manifest
///   treestrap build --keep-debs debs board             one, and keep its packages
///   treestrap --json build | jq -r 'select(.event == "committed").commit'
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Images of the manifest [default: all of them]
    #[arg(value_name = "IMAGE")]
    pub(super) images: Vec<String>,
    /// Keep the downloaded packages in this folder, too
    #[arg(long, value_name = "DIR")]
    keep_debs: Option<PathBuf>,
    #[command(flatten)]
    pub(super) stage_two: StageTwoArguments,
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let manifest = program.manifest()?;
    let images = manifest.select(&arguments.images)?;
    let session = program.session(arguments.keep_debs.as_deref())?;
    let results = pipeline::build(&session, &images, &manifest.images, &arguments.stage_two.options());
    // All are shown, though the user may have stopped some: those that are done are done.
    let failures = images.iter().zip(results).filter_map(|(image, result)| {
        let shown = result.and_then(|committed| {
            program.output.outcome(&Outcome::Committed { image: &committed.image, commit: committed.commit })
        });
        shown.err().map(|error| program.failed(image, &error))
    });
    Ok(worst(failures))
}
