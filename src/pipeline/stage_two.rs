//! `configure` and `run`: the sandbox over a tree of the repository.

use std::{collections::BTreeMap, ffi::OsString, fs::File, os::unix::ffi::OsStringExt, path::Path};

use serde_json::json;

use super::{
    Session, StageTwo, acceleration,
    layers::{self, Unfinished},
    listings, not_built, tools,
};
use crate::{
    Context, Error, Result,
    artefacts::{
        Accelerated, Begin, Committed, Composed, Configured, Image, Metadata, PackageState, Preseed,
        SlowPackage, UnpackedPackage,
    },
    commit::Adopter,
    compose,
    configure::{self, Acceleration, Adopt, Base, Changes, Requirements, Trial},
    digest::Sha256,
    report::Stage,
    store::{
        Store,
        records::{configured_reference, memory_reference},
    },
};

/// The commit's metadata that says what stage 2 was made from, besides the composed tree.
const STAGE_TWO_KEY: &str = "treestrap.stage-two";

/// What `run` runs if nothing is named: bash where there is one.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash -l; fi; exec /bin/sh"];

/// Starts on a sandbox that will be needed: worth it for a verb that does little else. Must come before
/// this process has threads, or it does nothing.
pub fn prepare_sandbox() {
    sandbox::prepare();
}

/// Stage 2.
pub fn configure(session: &Session<'_>, image: &Image, options: &StageTwo) -> Result<Committed> {
    let name = &image.request.image;
    let store = Store::open(&session.repo)?;
    let composed = compose::load(&store, name)?.ok_or_else(|| {
        Error::input(format!("{name}: nothing is unpacked yet")).hint(format!("treestrap build {name}"))
    })?;
    configure_composed(session, image, options, &composed, &Unfinished::default())
}

/// Stage 2 of a tree that was just composed or loaded: of its topmost layer, after those below are finished.
pub(super) fn configure_composed(
    session: &Session<'_>,
    image: &Image,
    options: &StageTwo,
    composed: &Composed,
    unfinished: &Unfinished,
) -> Result<Committed> {
    let composed = layers::on_what_is_below(session, image, options, composed, unfinished)?;
    run_stage_two(session, image, options, &composed, None).map(|(committed, _)| committed)
}

/// The same, perhaps to see whether it comes out the same again.
pub(super) fn run_stage_two(
    session: &Session<'_>,
    image: &Image,
    options: &StageTwo,
    composed: &Composed,
    trial: Option<&Trial>,
) -> Result<(Committed, Configured)> {
    let name = &image.request.image;
    let requirements = Requirements::new(options)?;
    let preseed = read_preseed(image)?;
    let store = Store::open(&session.repo)?;
    let emulator = tools::emulator(session, Some(image), &composed.architecture, &store)?;
    let base = base(session, name, composed.tree())?;
    let wish = requirements.acceleration();
    let members = || acceleration::composed(session, image, composed);
    let acceleration = acceleration::prepare(session, image, composed, emulator.as_ref(), wish, members)?;
    let debs = composed.below.map(|_| layers::write_debs(session, image, composed)).transpose()?;
    let begin = match &debs {
        Some(debs) => layers::begin(image, composed, debs),
        None => Begin::Composed,
    };
    let to_do = |package: &&UnpackedPackage| package.state != PackageState::Installed;
    let total = composed.packages.iter().filter(to_do).count() as u64;
    // The store's transaction begins with the first change: scripts may take minutes.
    let mut adopting = Adopting { repo: &session.repo, adopter: None };
    let configured = session.stage(name, Stage::Configure, Some(total), "packages", || {
        let inputs = configure::Inputs {
            composed,
            begin: &begin,
            base: &base,
            emulator: emulator.as_ref(),
            acceleration: acceleration.as_ref(),
            preseed: preseed.as_deref(),
            identity: image.identity,
            requirements: &requirements,
            logs: session.logs(),
            kept: session.kept(name),
            look: format!("treestrap run --failed {name}    opens the sandbox as the failure left it"),
            trial,
            debug: session.debug,
        };
        let configured = configure::configure(&inputs, &mut adopting, session.reporter, session.stop)?;
        let summary =
            summary(configured.packages.len(), &configured.slowest, configured.accelerated.as_ref());
        Ok((configured, summary))
    })?;
    let committed = session.stage(name, Stage::Commit, None, "changes", || {
        let inputs = stage_two_inputs(image, preseed.as_deref())?;
        let extra = BTreeMap::from([(STAGE_TWO_KEY.to_owned(), inputs)]);
        let memory = match trial {
            None => Some(memory_reference(digest(image, source(&store, composed.commit)?)?)),
            Some(_) => None,
        };
        let committed = adopting.into_adopter()?.commit(composed, &configured, &extra, memory.as_deref())?;
        let summary = format!("{} changes, {}", configured.changes.len(), committed.commit);
        Ok((committed, summary))
    })?;
    // The image is there; what could not be cleaned up is no reason to deny it.
    for (what, result) in [
        ("what an earlier failed run left", configure::forget_kept(&session.kept(name))),
        ("the work folder", base.remove()),
        ("the work folder of native programs", acceleration.map_or(Ok(()), Acceleration::remove)),
        ("the folder of debs", debs.map_or(Ok(()), |debs| debs.remove().context("removing a work folder"))),
    ] {
        if let Err(error) = result {
            session.reporter.warn(name, format!("{what} could not be removed: {error}"));
        }
    }
    Ok((committed, configured))
}

/// The finished image, if it was made from this composed tree and nothing else changed.
pub(super) fn finished(store: &Store, image: &Image, composed: &Composed) -> Result<Option<Committed>> {
    let name = &image.request.image;
    let commit = store.resolve(&configured_reference(name))?;
    let commit = is_of(store, commit, image, composed)?;
    Ok(commit.map(|commit| Committed { image: name.clone(), commit }))
}

/// The same; else the result of another image, or of an earlier lock, that was made of the same: then it is
/// this image's, too.
pub(super) fn remembered(
    session: &Session<'_>,
    store: &Store,
    image: &Image,
    composed: &Composed,
) -> Result<Option<Committed>> {
    if let Some(committed) = finished(store, image, composed)? {
        return Ok(Some(committed));
    }
    let name = &image.request.image;
    let source = source(store, composed.commit)?;
    let commit = store.resolve(&memory_reference(digest(image, source)?))?;
    let Some(commit) = is_of(store, commit, image, composed)? else { return Ok(None) };
    store.set_reference(&configured_reference(name), commit)?;
    session.reporter.note(name, "configured before, of the same packages and settings: nothing is run again");
    Ok(Some(Committed { image: name.clone(), commit }))
}

/// The commit, if it was made from this composed tree and with the image's settings.
fn is_of(
    store: &Store,
    commit: Option<Sha256>,
    image: &Image,
    composed: &Composed,
) -> Result<Option<Sha256>> {
    let Some(commit) = commit.filter(|&commit| store.has_commit(commit).unwrap_or(false)) else {
        return Ok(None);
    };
    let same_tree = store.image_record(commit)?.is_some_and(|record| record.source == composed.commit);
    Ok((same_tree && has_settings(store, commit, image)?).then_some(commit))
}

/// Whether a finished tree was made with an image's settings.
pub(super) fn has_settings(store: &Store, commit: Sha256, image: &Image) -> Result<bool> {
    let inputs = stage_two_inputs(image, read_preseed(image)?.as_deref())?;
    Ok(store.commit_value(commit, STAGE_TWO_KEY)? == Some(inputs))
}

/// The digest of what an unpacked tree was composed from.
pub(super) fn source(store: &Store, unpacked: Sha256) -> Result<Sha256> {
    let record = store.image_record(unpacked)?;
    Ok(record.ok_or_else(|| Error::bug("an unpacked tree of another format"))?.source)
}

/// The digest of all that determines the finished image; `source`: that of what its tree is composed from.
pub(super) fn digest(image: &Image, source: Sha256) -> Result<Sha256> {
    let inputs = stage_two_inputs(image, read_preseed(image)?.as_deref())?;
    let text = serde_json::to_string(&(source, inputs)).map_err(Error::bug)?;
    Ok(Sha256::of(text.as_bytes()))
}

/// What decides the result of stage 2 besides the composed tree.
fn stage_two_inputs(image: &Image, preseed: Option<&[u8]>) -> Result<serde_json::Value> {
    let mut inputs = own_inputs(image, preseed);
    if let Some(base) = &image.base {
        inputs["from"] = stage_two_inputs(base, read_preseed(base)?.as_deref())?;
    }
    Ok(inputs)
}

fn own_inputs(image: &Image, preseed: Option<&[u8]>) -> serde_json::Value {
    json!({ "rules": configure::RULES, "preseed": preseed.map(Sha256::of), "identity": image.identity })
}

/// The same without answers to packages' questions, which may be in a file.
pub(super) fn settings(image: &Image) -> serde_json::Value {
    own_inputs(image, None)
}

fn read_preseed(image: &Image) -> Result<Option<Vec<u8>>> {
    preseed_text(image.preseed.as_ref())
}

/// The text of debconf's answers.
pub(super) fn preseed_text(preseed: Option<&Preseed>) -> Result<Option<Vec<u8>>> {
    match preseed {
        None => Ok(None),
        Some(Preseed::Lines(lines)) => Ok(Some((lines.join("\n") + "\n").into_bytes())),
        Some(Preseed::File(path)) => {
            std::fs::read(path).map(Some).with_context(|| format!("reading {}", path.display()))
        }
    }
}

/// One line: how many packages, and the slowest of them with what they ran most of that time.
pub(super) fn summary(packages: usize, slowest: &[SlowPackage], accelerated: Option<&Accelerated>) -> String {
    let describe = |SlowPackage { package, seconds, ran }: &SlowPackage| {
        let ran: Vec<String> = ran
            .iter()
            .filter(|(_, own)| *own >= 0.05)
            .map(|(program, own)| format!("{program} {own:.1}"))
            .collect();
        let ran = if ran.is_empty() { String::new() } else { format!(" ({})", ran.join(", ")) };
        format!("{package} {seconds:.1} s{ran}")
    };
    let slowest: Vec<String> = slowest.iter().map(describe).collect();
    let ran = accelerated.map_or(String::new(), |ran| {
        format!("; {} programs run natively and {} in qemu", ran.native, ran.emulated)
    });
    let slowest = match slowest.is_empty() {
        true => String::new(),
        false => format!("; slowest: {}", slowest.join(", ")),
    };
    format!("{packages} packages{ran}{slowest}")
}

/// Lists a commit for a sandbox, after what killed runs left is removed.
fn base(session: &Session<'_>, image: &str, commit: Sha256) -> Result<Base> {
    let work = session.work();
    if let Err(error) = sandbox::sweep(&work) {
        session.reporter.warn(image, format!("what a killed run left could not be removed: {error}"));
    }
    let store = Store::open(&session.repo)?;
    let listing = listings::of_commit(session, image, &store, commit)?;
    Base::new(&work, &listing, store.objects())
}

/// Takes contents from the sandbox into the repository.
struct Adopting<'a> {
    repo: &'a Path,
    adopter: Option<Adopter>,
}

impl Adopting<'_> {
    fn adopter(&mut self) -> Result<&mut Adopter> {
        match &mut self.adopter {
            Some(adopter) => Ok(adopter),
            none => Ok(none.insert(Adopter::new(self.repo)?)),
        }
    }

    fn into_adopter(self) -> Result<Adopter> {
        self.adopter.map_or_else(|| Adopter::new(self.repo), Ok)
    }
}

impl Adopt for Adopting<'_> {
    fn file(&mut self, metadata: &Metadata, content: &mut File, size: u64) -> Result<Sha256> {
        self.adopter()?.adopt_file(metadata, content, size)
    }

    fn symlink(&mut self, metadata: &Metadata, target: &[u8]) -> Result<Sha256> {
        self.adopter()?.adopt_symlink(metadata, target)
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
        (failed_commit(session, &store, image)?, Changes::Kept(kept))
    } else {
        let commit = store.resolve(&configured_reference(image))?.ok_or_else(|| not_built(image))?;
        (commit, Changes::New)
    };
    let record = store.image_record(commit)?.ok_or_else(|| not_built(image))?;
    let emulator = tools::emulator(session, None, &record.architecture, &store)?;
    let base = base(session, image, commit)?;
    let wish = requirements.acceleration();
    let acceleration = acceleration::found(session, image, commit, emulator.as_ref(), wish)?;
    let command = match command {
        [] => SHELL.map(|word| word.as_bytes().to_vec()).to_vec(),
        command => command.iter().map(|word| word.clone().into_vec()).collect(),
    };
    let run = configure::Run {
        command,
        architecture: &record.architecture,
        changes,
        acceleration: acceleration.as_ref(),
        debug: session.debug,
        requirements: &requirements,
    };
    let status = configure::run(&base, emulator.as_ref(), run, image, session.reporter, session.stop);
    if let Err(error) = base.remove() {
        session.reporter.warn(image, format!("the work folder could not be removed: {error}"));
    }
    status
}

/// The unpacked tree that a failed run was of: the image may have been composed anew since.
fn failed_commit(session: &Session<'_>, store: &Store, image: &str) -> Result<Sha256> {
    let path = configure::kept_commit(&session.kept(image));
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let commit =
        text.parse::<Sha256>().map_err(|error| Error::input(format!("{}: {error}", path.display())))?;
    if store.has_commit(commit)? {
        return Ok(commit);
    }
    let message = format!("{image}: the tree that the failed run was of is no longer in the repository");
    Err(Error::input(message).hint(format!("treestrap configure {image}")))
}
