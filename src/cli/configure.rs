//! `treestrap configure`: stage 2.

use clap::Args;

use super::{outcome::Outcome, program::Program, stage_two::StageTwoArguments};
use crate::{Result, pipeline};

/// Stage 2: run the packages' scripts and commit the configured images
///
/// Runs `dpkg --configure -a` in a sandbox over the tree that `compose` made, without root and
/// without network, foreign architectures through an emulator, and commits what changed as
/// deb/images/IMAGE/configured. Prints `IMAGE CHECKSUM`, a line each. When a script fails,
/// `treestrap run --failed IMAGE` opens a shell at that point.
///
/// Examples:
///   treestrap configure board
///   treestrap configure --explain-acceleration board
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Images of the manifest [default: all of them]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Say which programs of a foreign image ran in qemu, how often, and why not natively
    #[arg(long)]
    explain_acceleration: bool,
    #[command(flatten)]
    stage_two: StageTwoArguments,
}

impl Arguments {
    /// Whether to say which programs ran in qemu.
    pub(super) fn explain_acceleration(&self) -> bool {
        self.explain_acceleration
    }
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let images = program.manifest()?.select(&arguments.images)?;
    let (session, options) = (program.session(None)?, arguments.stage_two.options());
    Ok(program.each(&images, |image| {
        let committed = pipeline::configure(&session, image, &options)?;
        program.output.outcome(&Outcome::Committed { image: &committed.image, commit: committed.commit })
    }))
}
