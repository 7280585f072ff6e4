//! `treestrap diff`: what changed between two images.

use clap::Args;

use super::{outcome::Outcome, program::Program};
use crate::{Result, pipeline};

/// Compare two locks, images or commits
///
/// Prints the packages that differ, then the files, a line each. A and B are paths of locks, names
/// of images, refs or checksums of commits. Exit status 0 whether they differ or not.
///
/// Examples:
///   treestrap diff old.lock board.lock
///   treestrap diff board board-debug
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// The older lock, image or commit
    a: String,
    /// The newer one
    b: String,
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    for text in pipeline::diff(&program.session(None)?, &arguments.a, &arguments.b)? {
        program.output.outcome(&Outcome::Difference { text })?;
    }
    Ok(0)
}
