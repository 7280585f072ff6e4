//! `treestrap fetch`: all that needs the network.

use std::path::PathBuf;

use clap::Args;

use super::program::Program;
use crate::{Result, pipeline};

/// Download what the locks name; afterwards all else works offline
///
/// Each package is checked against the lock while it streams, and unpacked into the repository
/// while others download. What the repository has is not downloaded again, whichever image brought
/// it.
///
/// Examples:
///   treestrap fetch && treestrap --offline build
///   treestrap fetch --keep-debs debs board
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Images of the manifest [default: all of them]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Keep the downloaded packages in this folder, too
    #[arg(long, value_name = "DIR")]
    keep_debs: Option<PathBuf>,
    /// Say in FILE which packages there are; it is left alone if it says so already
    ///
    /// For build systems that compare times: what is made from packages depends on FILE, and is not
    /// made again because a lock was touched.
    #[arg(long, value_name = "FILE")]
    stamp: Option<PathBuf>,
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let images = program.manifest()?.select(&arguments.images)?;
    let session = program.session(arguments.keep_debs.as_deref())?;
    pipeline::fetch(&session, &images)?;
    if let Some(stamp) = &arguments.stamp {
        pipeline::stamp(&session, &images, stamp)?;
    }
    Ok(0)
}
