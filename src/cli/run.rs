//! `treestrap run`: a command or a shell in an image.

use std::ffi::OsString;

use clap::Args;

use super::{program::Program, stage_two::StageTwoArguments};
use crate::{Result, pipeline};

/// Run a command, or a shell, in an image; changes are thrown away
///
/// Opens the sandbox of stage 2 over a configured image, whatever its architecture, without
/// network. Gives the command's exit status, or 128 and the number of the signal that ended it.
///
/// No service can be started inside: policy-rc.d and start-stop-daemon are stand-ins that refuse or
/// do nothing. With --failed, changes are not thrown away: the shell goes on in what the failed run
/// left, and the next --failed finds what this one changed, until `configure` runs again.
///
/// Examples:
///   treestrap run board                                a shell
///   treestrap run board -- dpkg -l                     a command
///   treestrap run --failed board                       a shell where `configure` failed
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// The image
    image: String,
    /// Go on in the state that a failed `configure` left; changes stay for the next --failed
    #[arg(long)]
    failed: bool,
    /// The command and its arguments [default: a shell]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
    #[command(flatten)]
    pub(super) stage_two: StageTwoArguments,
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    // A layer of an image can have failed, too: `IMAGE/layer-N`.
    let layer = arguments.image.split_once('/').filter(|_| arguments.failed);
    program.check_image(layer.map_or(arguments.image.as_str(), |(image, _)| image))?;
    let (session, options) = (program.session(None)?, arguments.stage_two.options());
    pipeline::run(&session, &arguments.image, &arguments.command, &options, arguments.failed)
}
