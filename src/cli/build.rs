//! `treestrap build`: all stages.

use std::path::PathBuf;

use clap::Args;

use super::{outcome::Outcome, program::Program, stage_two::StageTwoArguments};
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
    stage_two: StageTwoArguments,
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let images = program.manifest()?.select(&arguments.images)?;
    let session = program.session(arguments.keep_debs.as_deref())?;
    let mut results = pipeline::build(&session, &images, &arguments.stage_two.options()).into_iter();
    Ok(program.each(&images, |_| {
        let committed = results.next().expect("build gives one result an image")?;
        program.output.outcome(&Outcome::Committed { image: &committed.image, commit: committed.commit })
    }))
}
