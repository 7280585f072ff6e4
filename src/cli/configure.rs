//! `treestrap configure`: stage 2.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{outcome::Outcome, program::Program, stage_two::StageTwoArguments};
use crate::{
    Result,
    artefacts::{IdentityPolicy, Preseed},
    pipeline::{self, Target},
};

/// Stage 2: run the packages' scripts and commit the configured images
///
/// Runs `dpkg --configure -a` in a sandbox over the tree that `compose` made, without root and
/// without network, foreign architectures through an emulator, and commits what changed as
/// deb/images/IMAGE/configured. Prints `IMAGE CHECKSUM`, a line each. When a script fails,
/// `treestrap run --failed IMAGE` opens a shell at that point.
///
/// With --rootfs it finishes a folder that another tool left, in place: one of multistrap, of
/// debootstrap --foreign, of dpkg --unpack below another root, or an unpacked checkout of
/// apt2ostree. The folder is changed only when all has gone well.
///
/// Examples:
///   treestrap configure board
///   treestrap configure --explain-acceleration board
///   treestrap configure --rootfs rootfs --output-tar rootfs.tar
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Images of the manifest [default: all of them]
    #[arg(value_name = "IMAGE", conflicts_with = "rootfs")]
    images: Vec<String>,
    /// Say which programs of a foreign image ran in qemu, how often, and why not natively
    #[arg(long)]
    explain_acceleration: bool,
    #[command(flatten)]
    rootfs: RootfsArguments,
    #[command(flatten)]
    pub(super) stage_two: StageTwoArguments,
}

/// The options of `--rootfs`.
#[derive(Args, Debug)]
#[command(next_help_heading = "Options of --rootfs")]
struct RootfsArguments {
    /// Finish this folder in place, without a manifest
    ///
    /// Its files belong to you (then they are root's inside), or you are root, or subordinate ids of yours
    /// have them (as mmdebstrap --mode=unshare leaves them). Owners in the finished folder are real where
    /// a range of ids can be mapped (tier full); else each file of another owner carries a record,
    /// which --output-tar and later runs read.
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Debian's name of its architecture [default: what its packages say]
    #[arg(long, value_name = "ARCH", requires = "rootfs")]
    arch: Option<String>,
    /// Take owners and modes from this file: a tar of the same tree, or what `fakeroot -s` saved
    #[arg(long, value_name = "FILE", requires = "rootfs")]
    owners: Option<PathBuf>,
    /// Answer packages' questions from this file, in the format of debconf-set-selections(1)
    #[arg(long, value_name = "FILE", requires = "rootfs")]
    preseed: Option<PathBuf>,
    /// What becomes of what identifies a device: machine id, host keys
    ///
    /// `first-boot` removes it and lets the device make it, `remove` only removes it, `keep` leaves what
    /// package scripts made.
    #[arg(long, value_name = "POLICY", requires = "rootfs", default_value = "first-boot")]
    identity: Identity,
    /// Change the folder also when a script fails: it then has what was done until that point
    #[arg(long, requires = "rootfs")]
    in_place_now: bool,
    /// Write the finished folder to a tar file, with real owners; `-` is standard output
    #[arg(long, value_name = "FILE", requires = "rootfs")]
    output_tar: Option<PathBuf>,
}

/// The values of `--identity`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Identity {
    FirstBoot,
    Remove,
    Keep,
}

impl Identity {
    /// As the pipeline takes it.
    pub(super) fn policy(self) -> IdentityPolicy {
        match self {
            Identity::FirstBoot => IdentityPolicy::FirstBoot,
            Identity::Remove => IdentityPolicy::Remove,
            Identity::Keep => IdentityPolicy::Keep,
        }
    }
}

impl Arguments {
    /// Whether to say which programs ran in qemu.
    pub(super) fn explain_acceleration(&self) -> bool {
        self.explain_acceleration
    }

    /// Whether a tar goes to standard output.
    pub(super) fn to_stdout(&self) -> bool {
        self.rootfs.output_tar.as_deref() == Some(Path::new("-"))
    }
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let options = arguments.stage_two.options();
    if let Some(folder) = &arguments.rootfs.rootfs {
        let session = program.session_without_manifest()?;
        let packages = pipeline::configure_rootfs(&session, &target(folder, &arguments.rootfs), &options)?;
        let folder = folder.display().to_string();
        program.output.outcome(&Outcome::Configured { folder, packages })?;
        return Ok(0);
    }
    let images = program.manifest()?.select(&arguments.images)?;
    let session = program.session(None)?;
    Ok(program.each(&images, |image| {
        let committed = pipeline::configure(&session, image, &options)?;
        program.output.outcome(&Outcome::Committed { image: &committed.image, commit: committed.commit })
    }))
}

fn target(folder: &Path, arguments: &RootfsArguments) -> Target {
    Target {
        folder: folder.to_owned(),
        architecture: arguments.arch.clone(),
        owners: arguments.owners.clone(),
        preseed: arguments.preseed.clone().map(Preseed::File),
        identity: arguments.identity.policy(),
        in_place_now: arguments.in_place_now,
        output_tar: arguments.output_tar.clone(),
        known: pipeline::Known::default(),
    }
}
