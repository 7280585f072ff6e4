//! `treestrap prune`: what no image needs any more is removed.

use clap::Args;

use super::{outcome::Outcome, program::Program};
use crate::{Result, pipeline};

/// Remove from the repository what none of its images needs any more
///
/// What stays: all images (with --only-manifest those of the manifest alone), the debs that a lock of the
/// manifest names or that an image that stays was made of, the emulators and native programs that go with
/// them, and all refs that do not begin with deb/. Everything else goes: debs of earlier locks, what
/// `verify` left of images that are gone, caches. Fails while another run uses the repository.
///
/// Examples:
///   treestrap prune --dry-run
///   treestrap prune --only-manifest
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove images that are not in the manifest, too
    #[arg(long)]
    only_manifest: bool,
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    // A repository of its own may serve several manifests, or none.
    let without_manifest =
        program.global.repo.is_some() && !program.global.manifest.exists() && !arguments.only_manifest;
    let images = if without_manifest { Vec::new() } else { program.manifest()?.select(&[])? };
    let session = program.session(None)?;
    let removed = pipeline::prune(&session, &images, arguments.only_manifest, arguments.dry_run)?;
    for reference in &removed.references {
        program.output.outcome(&Outcome::Removed { reference, dry_run: arguments.dry_run })?;
    }
    let (objects, bytes) = (removed.objects.objects, removed.objects.bytes);
    let references = removed.references.len();
    program.output.outcome(&Outcome::Pruned { references, objects, bytes, dry_run: arguments.dry_run })?;
    Ok(0)
}
