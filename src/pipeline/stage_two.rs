//! `configure` and `run`: the sandbox over a tree of the repository.

use std::{collections::BTreeMap, ffi::OsString, fs::File, os::unix::ffi::OsStringExt, path::Path};

use serde_json::json;

use super::{Session, StageTwo, not_built, tools};
use crate::{
    Context, Error, Result,
    artefacts::{Committed, Composed, Configured, Image, Metadata},
    commit::Adopter,
    compose,
    configure::{self, Adopt, Base, Changes, Emulator, Requirements},
    digest::Sha256,
    report::Stage,
    store::{Store, records::configured_reference},
};

/// The commit's metadata that says what stage 2 was made from, besides the composed tree.
const STAGE_TWO_KEY: &str = "treestrap.stage-two";

/// What `run` runs if nothing is named: bash where there is one.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash -l; fi; exec /bin/sh"];

/// Stage 2.
pub fn configure(session: &Session<'_>, image: &Image, options: &StageTwo) -> Result<Committed> {
    let name = &image.request.image;
    let store = Store::open(&session.repo)?;
    let composed = compose::load(&store, name)?.ok_or_else(|| {
        Error::input(format!("{name}: nothing is unpacked yet")).hint(format!("treestrap build {name}"))
    })?;
    let emulator = tools::emulator(session, Some(image), &composed.architecture, &store)?;
    configure_composed(session, image, options, &composed, emulator.as_ref())
}

/// Stage 2 of a tree that was just composed or loaded.
pub(super) fn configure_composed(
    session: &Session<'_>,
    image: &Image,
    options: &StageTwo,
    composed: &Composed,
    emulator: Option<&Emulator>,
) -> Result<Committed> {
    let name = &image.request.image;
    let requirements = Requirements::new(options)?;
    let total = composed.packages.len() as u64;
    let mut adopting = Adopting(Adopter::new(&session.repo)?);
    let configured = session.stage(name, Stage::Configure, Some(total), "packages", || {
        let base = base(session, composed.commit)?;
        let inputs = configure::Inputs {
            composed,
            base: &base,
            emulator,
            preseed: image.preseed.as_deref(),
            requirements: &requirements,
            logs: session.state.join("logs"),
            kept: session.kept(name),
            debug: session.debug,
        };
        let configured = configure::configure(&inputs, &mut adopting, session.reporter, session.stop)?;
        base.remove()?;
        let summary = summary(&configured);
        Ok((configured, summary))
    })?;
    session.stage(name, Stage::Commit, None, "changes", || {
        let extra = BTreeMap::from([(STAGE_TWO_KEY.to_owned(), stage_two_inputs(image)?)]);
        let committed = adopting.0.commit(composed, &configured, &extra)?;
        configure::forget_kept(&session.kept(name))?;
        let summary = format!("{} changes, {}", configured.changes.len(), committed.commit);
        Ok((committed, summary))
    })
}

/// The finished image, if it was made from this composed tree and nothing else changed.
pub(super) fn finished(store: &Store, image: &Image, composed: &Composed) -> Result<Option<Committed>> {
    let name = &image.request.image;
    let Some(commit) = store.resolve(&configured_reference(name))? else { return Ok(None) };
    let same_tree = store.image_record(commit)?.is_some_and(|record| record.source == composed.commit);
    let same_inputs = store.commit_value(commit, STAGE_TWO_KEY)? == Some(stage_two_inputs(image)?);
    Ok((same_tree && same_inputs).then(|| Committed { image: name.clone(), commit }))
}

/// What decides the result of stage 2 besides the composed tree.
fn stage_two_inputs(image: &Image) -> Result<serde_json::Value> {
    let preseed = match &image.preseed {
        Some(path) => {
            let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            Some(Sha256::of(&text))
        }
        None => None,
    };
    Ok(json!({ "rules": configure::RULES, "preseed": preseed }))
}

/// One line: how many packages, and the slowest of them.
fn summary(configured: &Configured) -> String {
    let mut slowest: Vec<&(String, f64)> = configured.packages.iter().collect();
    slowest.sort_by(|a, b| b.1.total_cmp(&a.1));
    let slowest: Vec<String> =
        slowest.iter().take(3).map(|(package, seconds)| format!("{package} {seconds:.1} s")).collect();
    format!("{} packages; slowest: {}", configured.packages.len(), slowest.join(", "))
}

/// Checks a commit out for a sandbox, after what killed runs left is removed.
fn base(session: &Session<'_>, commit: Sha256) -> Result<Base> {
    let work = session.work();
    sandbox::sweep(&work).context("removing what a killed run left")?;
    let store = Store::open(&session.repo)?;
    Base::new(&work, |folder: &Path| -> Result<Vec<(Vec<u8>, Metadata)>> {
        let fixups = store.checkout_links(commit, folder)?;
        Ok(fixups.into_iter().map(|fixup| (fixup.path, fixup.metadata)).collect())
    })
}

/// Takes contents from the sandbox into the repository.
struct Adopting(Adopter);

impl Adopt for Adopting {
    fn file(&mut self, metadata: &Metadata, content: &mut File, size: u64) -> Result<Sha256> {
        self.0.adopt_file(metadata, content, size)
    }

    fn symlink(&mut self, metadata: &Metadata, target: &[u8]) -> Result<Sha256> {
        self.0.adopt_symlink(metadata, target)
    }
}

/// A command (or a shell, if empty) in a configured image; gives its exit status, 128 + signal
/// where a signal ended it. `failed`: in the state that a failed `configure` left.
pub fn run(
    session: &Session<'_>,
    image: &str,
    command: &[OsString],
    options: &StageTwo,
    failed: bool,
) -> Result<u8> {
    let requirements = Requirements::new(options)?;
    let store = Store::open(&session.repo)?;
    let kept = session.kept(image);
    let (commit, changes) = if failed {
        if !kept.exists() {
            let message = format!("{image}: no failed run of stage 2 is kept");
            return Err(Error::input(message).hint(format!("treestrap configure {image}")));
        }
        let composed = compose::load(&store, image)?.ok_or_else(|| not_built(image))?;
        (composed.commit, Changes::Kept(kept))
    } else {
        let commit = store.resolve(&configured_reference(image))?.ok_or_else(|| not_built(image))?;
        (commit, Changes::New)
    };
    let record = store.image_record(commit)?.ok_or_else(|| not_built(image))?;
    let emulator = tools::emulator(session, None, &record.architecture, &store)?;
    let base = base(session, commit)?;
    let command = match command {
        [] => SHELL.map(|word| word.as_bytes().to_vec()).to_vec(),
        command => command.iter().map(|word| word.clone().into_vec()).collect(),
    };
    let run = configure::Run { command, changes, debug: session.debug, requirements: &requirements };
    let status = configure::run(&base, emulator.as_ref(), run, image, session.reporter, session.stop);
    base.remove()?;
    status
}
