//! `treestrap verify`: whether an image comes out the same again.

use clap::Args;

use super::{outcome::Outcome, program::Program, stage_two::StageTwoArguments};
use crate::{Error, Result, pipeline};

/// Make images again, under other conditions, and say what differs
///
/// Composes and configures each image a second time, as far as this machine can in another tier and
/// view of the sandbox, with one processor and other process numbers, and compares the two commits. Prints `IMAGE CHECKSUM` where they are the same. Where they are not,
/// each path that differs is printed with the programs that wrote it, and the second image stays at
/// deb/images/IMAGE/again. An image must have been built before; the longer ago, the more of what
/// depends on the date shows.
///
/// Examples:
///   treestrap verify board
///   treestrap verify --accelerate off board            with all foreign programs in qemu
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Images of the manifest [default: all of them]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    pub(super) stage_two: StageTwoArguments,
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let images = program.manifest()?.select(&arguments.images)?;
    let (session, options) = (program.session(None)?, arguments.stage_two.options());
    Ok(program.each(&images, |image| {
        let name = &image.request.image;
        let verified = pipeline::verify(&session, image, &options)?;
        if verified.commit == verified.again {
            session.reporter.note(name, format!("the same again: {}", verified.conditions));
            return program.output.outcome(&Outcome::Verified { image: name, commit: verified.commit });
        }
        for pipeline::Disparity { sign, path, writers } in &verified.differences {
            let path = String::from_utf8_lossy(path);
            program.output.outcome(&Outcome::Disparity { image: name, sign: *sign, path: &path, writers })?;
        }
        let count = verified.differences.len();
        let message = format!(
            "{count} paths differ ({}): {} is now {}",
            verified.conditions, verified.commit, verified.again
        );
        Err(Error::input(message).hint(format!("treestrap diff {name} {name}/again    compares the two")))
    }))
}
