//! What every verb has at hand: the manifest, the session, the images that it was asked for.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use super::{arguments::Global, folders, output::Output, worst};
use crate::{
    Context, Error, Result,
    artefacts::Image,
    error::Kind,
    manifest::{self, Manifest},
    pipeline::Session,
};

/// The running program.
pub(super) struct Program<'a> {
    pub(super) global: &'a Global,
    pub(super) output: &'a Output,
    pub(super) stop: &'a AtomicBool,
}

impl<'a> Program<'a> {
    /// Reads the manifest.
    pub(super) fn manifest(&self) -> Result<Manifest> {
        Manifest::read(&self.global.manifest)
    }

    /// Where the repository is.
    pub(super) fn repo(&self) -> Result<PathBuf> {
        let repo = match &self.global.repo {
            Some(repo) => repo.clone(),
            None => Manifest::folder(&self.global.manifest).join(".treestrap/repo"),
        };
        // The sandbox mounts it: a relative path would depend on whose working folder it is.
        std::path::absolute(&repo).with_context(|| format!("cannot find the folder of {}", repo.display()))
    }

    /// Where things are, for the pipeline. `keep_debs` is `--keep-debs`.
    pub(super) fn session(&self, keep_debs: Option<&Path>) -> Result<Session<'a>> {
        Ok(Session {
            repo: self.repo()?,
            cache: folders::cache()?,
            state: folders::state()?,
            offline: self.global.offline,
            keep_debs: keep_debs.map(Path::to_owned),
            debug: self.global.debug,
            reporter: self.output,
            stop: self.stop,
        })
    }

    /// Checks that an image can be meant by `name`: one of the manifest, if there is a manifest;
    /// with `--repo` alone, one of that repository, which the pipeline looks for.
    pub(super) fn check_image(&self, name: &str) -> Result<()> {
        if self.global.repo.is_some() && !self.global.manifest.exists() {
            return manifest::check_name(name);
        }
        self.manifest()?.image(name).map(|_| ())
    }

    /// Does `work` with each image, reports failures and goes on with the next image, unless it
    /// was told to stop. Gives the exit status.
    pub(super) fn each(&self, images: &[Image], mut work: impl FnMut(&Image) -> Result<()>) -> u8 {
        let mut failures: Vec<Kind> = Vec::new();
        for image in images {
            if let Err(error) = work(image) {
                failures.push(self.failed(image, &error));
                if error.kind() == Kind::Interrupted || self.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        worst(failures)
    }

    /// Reports what became of an image; gives whose fault it is.
    pub(super) fn failed(&self, image: &Image, error: &Error) -> Kind {
        self.output.error(&image.request.image, error);
        error.kind()
    }
}
