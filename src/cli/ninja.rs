//! `treestrap ninja`: a `build.ninja`.

use std::{env, ffi::OsStr, path::PathBuf};

use clap::Args;

use super::{outcome::Outcome, program::Program, stage_two::StageTwoArguments};
use crate::{
    Error, Result,
    manifest::Manifest,
    ninja,
    pipeline::{self, Ninja},
};

/// Write a build.ninja that makes images, for ninja(1)
///
/// It has one edge a stage and image: fetch, compose, configure. Nothing runs where nothing changed,
/// and what comes out as it was starts nothing further. The images are the refs
/// REPO/refs/heads/deb/images/IMAGE/configured, which other rules can have as inputs. A lock that is
/// missing is made; `ninja update-lock-IMAGE` (or update-locks) moves it to the newest versions.
/// ninja writes the file again when the manifest changed. Paths in it are relative to the current
/// folder, in which ninja is to run.
///
/// Examples:
///   treestrap ninja && ninja
///   treestrap ninja --tar out -o images.ninja board     an image and its tar file out/board.tar
///   treestrap --manifest os/treestrap.toml ninja --fragment -o os/images.ninja
///                     for `subninja os/images.ninja` in a build.ninja of your own
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Images of the manifest [default: all of them]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Where it goes
    #[arg(short, long, value_name = "FILE", default_value = "build.ninja")]
    output: PathBuf,
    /// Write a part of a larger build, for `subninja`: nothing in it is made unless it is asked for
    ///
    /// ninja writes no part again by itself: let the build.ninja around it depend on the part.
    #[arg(long)]
    fragment: bool,
    /// Make tar files of the images, too, as DIR/IMAGE.tar
    #[arg(long, value_name = "DIR")]
    tar: Option<PathBuf>,
    #[command(flatten)]
    stage_two: StageTwoArguments,
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let images = program.manifest()?.select(&arguments.images)?;
    let options = arguments.stage_two.options();
    let manifest = &program.global.manifest;
    let folder = Manifest::folder(manifest).to_owned();
    let repo = program.global.repo.clone().unwrap_or_else(|| folder.join(".treestrap/repo"));
    let name = env::args_os().next().unwrap_or_else(|| "treestrap".into());
    let mut treestrap = vec![word(&name)?, "--manifest".to_owned(), word(manifest)?];
    if let Some(repo) = &program.global.repo {
        treestrap.extend(["--repo".to_owned(), word(repo)?]);
    }
    let mut again = vec!["ninja".to_owned(), "-o".to_owned(), word(&arguments.output)?];
    if arguments.fragment {
        again.push("--fragment".to_owned());
    }
    if let Some(folder) = &arguments.tar {
        again.extend(["--tar".to_owned(), word(folder)?]);
    }
    again.extend(ninja::options(&options));
    again.extend(arguments.images.iter().cloned());
    // One that was replaced while it ran is no file any more (proc(5), `/proc/PID/exe`).
    let program_file = env::current_exe().ok().filter(|path| path.exists());
    let sources = [manifest.clone()].into_iter().chain(program_file).collect();
    let ninja = Ninja {
        treestrap,
        again,
        output: arguments.output.clone(),
        sources,
        repo,
        folder,
        tars: arguments.tar.clone(),
        is_fragment: arguments.fragment,
        options,
    };
    if pipeline::ninja(&images, &ninja)? {
        program.output.outcome(&Outcome::Written { path: arguments.output.display().to_string() })?;
    }
    Ok(0)
}

/// A word of a command line.
fn word(text: impl AsRef<OsStr>) -> Result<String> {
    let text = text.as_ref();
    let utf8 = text.to_str().map(str::to_owned);
    utf8.ok_or_else(|| Error::input(format!("{}: this is not UTF-8", text.to_string_lossy())))
}
