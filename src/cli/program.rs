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

    /// Where things are, for verbs that need no manifest: its repository where there is one, else one in
    /// the cache folder.
    pub(super) fn session_without_manifest(&self) -> Result<Session<'a>> {
        if self.global.repo.is_some() || self.global.manifest.exists() {
            return self.session(None);
        }
        Ok(Session { repo: folders::cache()?.join("repo"), ..self.session(None)? })
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
    /// was told to stop: then the images that are left are not begun. Gives the exit status, that
    /// of a signal if it was stopped with images left undone.
    pub(super) fn each(&self, images: &[Image], mut work: impl FnMut(&Image) -> Result<()>) -> u8 {
        let mut failures: Vec<Kind> = Vec::new();
        for image in images {
            let stopped = || self.stop.load(Ordering::Relaxed);
            let done = match stopped() {
                true => Err(Error::new(Kind::Interrupted, "interrupted")),
                false => work(image),
            };
            if let Err(error) = done {
                failures.push(self.failed(image, &error));
                // Whatever it failed with: what ends because of the signal may have other words for it.
                if error.kind() == Kind::Interrupted || stopped() {
                    failures.push(Kind::Interrupted);
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::output::{Options, Verbosity};

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        global: Global,
    }

    /// The exit status, and the images that were begun, where the signal comes during `stops_in` and
    /// `fails` fails.
    fn each(stops_in: &str, fails: &str) -> (u8, Vec<String>) {
        let text = "[repos.d]\nsuites = [\"sid\"]\n".to_owned()
            + &["a", "b", "c"]
                .map(|name| format!("[images.{name}]\narch = \"armhf\"\npackages = [\"bash\"]\n"))
                .concat();
        let manifest = Manifest::parse(Path::new("/nowhere/treestrap.toml"), &text).expect("a good manifest");
        let global = Command::parse_from(["test"]).global;
        let output = Output::new(Options {
            json: false,
            verbosity: Verbosity::Quiet,
            stdout_is_data: false,
            explain_acceleration: false,
        });
        let stop = AtomicBool::new(stops_in == "before");
        let program = Program { global: &global, output: &output, stop: &stop };
        let mut begun = Vec::new();
        let status = program.each(&manifest.images, |image| {
            let name = &image.request.image;
            begun.push(name.clone());
            stop.fetch_or(name == stops_in, Ordering::Relaxed);
            if name == fails { Err(Error::input("on purpose")) } else { Ok(()) }
        });
        (status, begun)
    }

    #[test]
    fn a_signal_leaves_the_other_images_alone() {
        for (stops_in, fails, status, begun) in [
            ("", "", 0, &["a", "b", "c"][..]),
            ("", "a", 1, &["a", "b", "c"]),
            ("before", "", 130, &[]),
            ("a", "", 130, &["a"]),
            ("b", "b", 130, &["a", "b"]),
            ("b", "a", 130, &["a", "b"]),
            // Nothing is left undone.
            ("c", "", 0, &["a", "b", "c"]),
        ] {
            let (found, images) = each(stops_in, fails);
            assert_eq!(
                (found, images.as_slice()),
                (status, &begun.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..]),
                "{stops_in} {fails}"
            );
        }
    }
}
