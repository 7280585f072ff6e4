//! `treestrap export`: an image for the outside world.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{outcome::Outcome, program::Program};
use crate::{
    Result,
    pipeline::{self, ExportTo},
};

/// Write an image to a tar file or a folder
///
/// The tar file has real owners, extended attributes and hard links, and its bytes follow from the
/// image alone. A folder has owners only as far as the user may set them.
///
/// Examples:
///   treestrap export board --tar board.tar
///   treestrap export board --tar - | zstd > board.tar.zst
///   treestrap export board --dir rootfs
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// The image
    image: String,
    #[command(flatten)]
    to: To,
}

/// What is written: one of them.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct To {
    /// Write a tar file; `-` is standard output
    #[arg(long, value_name = "FILE")]
    tar: Option<PathBuf>,
    /// Write a folder, which must be new or empty
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Arguments {
    /// Whether the image goes to standard output.
    pub(super) fn to_stdout(&self) -> bool {
        self.to.tar.as_deref() == Some(Path::new("-"))
    }
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    program.check_image(&arguments.image)?;
    let (to, path) = match (&arguments.to.tar, &arguments.to.dir) {
        (Some(tar), _) => (ExportTo::Tar(tar.clone()), tar),
        (None, Some(dir)) => (ExportTo::Folder(dir.clone()), dir),
        (None, None) => unreachable!("clap requires one of the two"),
    };
    pipeline::export(&program.session(None)?, &arguments.image, &to)?;
    let path = path.display().to_string();
    program.output.outcome(&Outcome::Exported { image: &arguments.image, path })?;
    Ok(0)
}
