//! What foreign images need on this machine, pinned beside the lock: qemu-user, fetched like packages
//! and found again here; and the packages of native twins, for `acceleration`.
//!
//! `IMAGE.tools.HOST.lock` names them, for hosts of one architecture. Of qemu's package only the one
//! program is kept, at `deb/tools/HOST/qemu-NAME/DEB`.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use qemu::Architecture;

use super::{
    Session,
    indexes::{Indexes, Key, by_key},
    locks,
};
use crate::{
    Context, Error, Result,
    artefacts::{Image, LockedPackage, Lockfile, Repository},
    configure::Emulator,
    digest::Sha256,
    error::Kind,
    ingest,
    lock::{self, index::Index, lockfile},
    store::Store,
};

/// What a lock of tools depends on beside the image's lock: what is pinned in it.
const RULES: u32 = 1;

/// A foreign image on this host.
pub(super) struct Foreign {
    pub(super) host: &'static Architecture,
    pub(super) target: &'static Architecture,
    /// qemu's name of the architecture, as in `qemu-arm`.
    name: &'static str,
}

impl Foreign {
    /// None if this machine runs the image's programs itself.
    pub(super) fn new(session: &Session<'_>, architecture: &str) -> Result<Option<Foreign>> {
        let host =
            qemu::host().ok_or_else(|| Error::machine("this machine's architecture is none of Debian's"))?;
        let target = qemu::find(architecture)
            .ok_or_else(|| Error::input(format!("{architecture} is no architecture of Debian")))?;
        let scratch = &session.cache;
        if qemu::execution(host, target) == qemu::Execution::Perhaps {
            std::fs::create_dir_all(scratch).with_context(|| format!("creating {}", scratch.display()))?;
        }
        if qemu::runs_natively(host, target, scratch).map_err(Error::machine)? {
            return Ok(None);
        }
        let name = target
            .qemu
            .ok_or_else(|| Error::machine(format!("qemu-user does not emulate {architecture}")))?;
        Ok(Some(Foreign { host, target, name }))
    }

    /// Where an image's tools are pinned.
    fn lock_path(&self, image: &Image) -> PathBuf {
        // By the image's own lock: a second run of it (`verify`) has another name and the same tools.
        image.lock.with_extension(format!("tools.{}.lock", self.host.name))
    }

    /// The indexes that its tools come from.
    fn key(&self, repositories: &[Repository]) -> Key {
        Key { repositories: repositories.to_vec(), architectures: vec![self.host.name.to_owned()] }
    }

    /// The refs of its emulators.
    fn references(&self) -> String {
        format!("deb/tools/{}/qemu-{}", self.host.name, self.name)
    }

    /// The ref of the emulator from this package.
    fn reference(&self, package: &LockedPackage) -> String {
        format!("{}/{}", self.references(), package.sha256)
    }

    /// The image's lock of tools, if it has one.
    pub(super) fn tools(&self, image: &Image) -> Result<Option<Lockfile>> {
        locks::read_if_there(&self.lock_path(image))
    }

    /// The package of the pinned emulator.
    fn pinned(&self, image: &Image) -> Result<Option<LockedPackage>> {
        Ok(self.tools(image)?.and_then(|tools| tools.packages.into_iter().find(is_emulator)))
    }
}

/// An image's lock of tools for this host, if there is one, and the ref of the emulator that it pins.
pub(super) fn locked(session: &Session<'_>, image: &Image) -> Result<Option<(Lockfile, Option<String>)>> {
    let Some(foreign) = Foreign::new(session, &image.request.architecture)? else { return Ok(None) };
    let Some(lockfile) = foreign.tools(image)? else { return Ok(None) };
    let emulator = lockfile.packages.iter().find(|package| is_emulator(package));
    let reference = emulator.map(|package| foreign.reference(package));
    Ok(Some((lockfile, reference)))
}

/// Whether a package of a lock of tools is the emulator's.
pub(super) fn is_emulator(package: &LockedPackage) -> bool {
    package.stanza.get(lockfile::REASON) == Some(lock::EMULATOR)
}

/// The indexes that tools for images of these indexes come from: those of this machine's architecture.
pub(super) fn keys<'k>(session: &Session<'_>, images: impl Iterator<Item = &'k Key>) -> Vec<Key> {
    let mut keys = Vec::new();
    for Key { repositories, architectures } in images {
        // What is wrong is said when tools are pinned.
        let foreign = architectures.first().map(|architecture| Foreign::new(session, architecture));
        if let Some(Ok(Some(foreign))) = foreign {
            let key = foreign.key(repositories);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

/// The pinning of one image's tools.
struct Pinning<'a> {
    position: usize,
    image: &'a Image,
    lockfile: &'a Lockfile,
    foreign: Foreign,
    previous: Option<Lockfile>,
    request: Sha256,
}

impl<'a> Pinning<'a> {
    /// None for an image that needs no tools, or whose tools are pinned.
    fn new(
        session: &Session<'_>,
        position: usize,
        (image, lockfile): (&'a Image, &'a Lockfile),
        update: bool,
    ) -> Result<Option<Self>> {
        let Some(foreign) = Foreign::new(session, &image.request.architecture)? else { return Ok(None) };
        let previous = foreign.tools(image)?.filter(|_| !update);
        let request = digest(lockfile)?;
        if previous.as_ref().is_some_and(|previous| previous.request == Some(request)) {
            return Ok(None);
        }
        Ok(Some(Pinning { position, image, lockfile, foreign, previous, request }))
    }

    /// The packages that can be the emulator. Which one has a static program differs between suites; the
    /// first suite decides.
    fn emulators(&self, indexes: &[Index]) -> Vec<&'static str> {
        let suite = indexes.first().map_or("", |index| index.suite.as_str());
        qemu::packaged(self.foreign.target, suite).iter().map(|emulator| emulator.package).collect()
    }

    /// Writes the lock of tools. An emulator that is pinned stays until an update.
    fn write(&self, offer: &lock::Tools<'_>, indexes: &[Index]) -> Result<()> {
        let mut tools = offer.resolve(&self.emulators(indexes), &self.lockfile.packages)?;
        let previous = self.previous.iter().flat_map(|previous| &previous.packages);
        if let Some(emulator) = previous.into_iter().find(|package| is_emulator(package)) {
            tools.packages.retain(|package| !is_emulator(package));
            tools.packages.push(emulator.clone());
        }
        tools.request = Some(self.request);
        locks::write(&self.foreign.lock_path(self.image), &tools).map(|_| ())
    }
}

/// Pins the tools of images with these locks, where they are not; one result an image. That there is no emulator
/// is reported.
pub(super) fn lock(
    session: &Session<'_>,
    indexes: &Indexes<'_>,
    images: &[(&Image, &Lockfile)],
    update: bool,
) -> Vec<Result<()>> {
    let mut results: Vec<Result<()>> = images.iter().map(|_| Ok(())).collect();
    let mut pinnings = Vec::new();
    for (position, &(image, lockfile)) in images.iter().enumerate() {
        match Pinning::new(session, position, (image, lockfile), update) {
            Ok(None) => {}
            Ok(Some(pinning)) => {
                pinnings.push((pinning.foreign.key(&image.request.repositories), pinning));
            }
            Err(error) => results[position] = tolerate(session, &image.request.image, Err(error)),
        }
    }
    for (key, members) in by_key(pinnings.into_iter()) {
        if let Err((at, error)) = pin(session, indexes, &key, &members) {
            // What is wrong with one is wrong with all: it is said once.
            let member = &members[at];
            results[member.position] = tolerate(session, &member.image.request.image, Err(error));
        }
    }
    results
}

/// Pins the tools of images that get them from the same indexes; an error with the place of the image.
fn pin(
    session: &Session<'_>,
    indexes: &Indexes<'_>,
    key: &Key,
    members: &[Pinning<'_>],
) -> Result<(), (usize, Error)> {
    let name = members.first().map_or("", |member| &member.image.request.image);
    let indexes = indexes.get(name, key).map_err(|error| (0, error))?;
    let mut names: HashSet<&str> = HashSet::new();
    for member in members {
        names.extend(member.emulators(&indexes));
        names.extend(member.lockfile.packages.iter().map(|package| package.name.as_str()));
    }
    let architecture = key.architectures.first().map_or("", String::as_str);
    session.step(name, "tools", architecture, || {
        let offer = lock::Tools::new(architecture, &names, &indexes).map_err(|error| (0, error))?;
        let write =
            |(at, member): (usize, &Pinning<'_>)| member.write(&offer, &indexes).map_err(|error| (at, error));
        members.iter().enumerate().try_for_each(write)
    })
}

/// The digest of what of an image's lock its tools depend on.
fn digest(lockfile: &Lockfile) -> Result<Sha256> {
    let packages: Vec<(&str, &str)> = lockfile
        .packages
        .iter()
        .filter(|package| package.architecture != "all")
        .map(|package| (package.name.as_str(), package.source_version()))
        .collect();
    Ok(Sha256::of(serde_json::to_string(&(RULES, packages)).map_err(Error::bug)?.as_bytes()))
}

/// Reports that there is no emulator of the archive, which another one can make good.
pub(super) fn tolerate(session: &Session<'_>, image: &str, result: Result<()>) -> Result<()> {
    match result {
        Err(error) if matches!(error.kind(), Kind::Input | Kind::Machine) => {
            let message = format!("no emulator could be got from the archive: {error}");
            session.reporter.warn(image, message);
            Ok(())
        }
        result => result,
    }
}

/// A pinned emulator that is not in the repository yet.
pub(super) struct Pinned {
    /// Its package.
    pub(super) package: LockedPackage,
    /// What is taken out of it.
    pub(super) program: ingest::Program,
}

impl Pinned {
    /// That of a foreign image whose tools are pinned.
    pub(super) fn missing(session: &Session<'_>, image: &Image) -> Result<Option<Pinned>> {
        let Some(foreign) = Foreign::new(session, &image.request.architecture)? else { return Ok(None) };
        let Some(package) = foreign.pinned(image)? else { return Ok(None) };
        let reference = foreign.reference(&package);
        if ingest::extracted(&Store::open_or_create(&session.repo)?, &reference)?.is_some() {
            return Ok(None);
        }
        let paths = ["-static", ""].map(|suffix| format!("usr/bin/qemu-{}{suffix}", foreign.name)).to_vec();
        Ok(Some(Pinned { package, program: ingest::Program { paths, reference } }))
    }
}

/// The emulator for an image of this architecture; none if this machine runs its programs itself.
/// The one that the image pins, else any that was fetched, else the host's own.
pub(super) fn emulator(
    session: &Session<'_>,
    image: Option<&Image>,
    architecture: &str,
    store: &Store,
) -> Result<Option<Emulator>> {
    let Some(foreign) = Foreign::new(session, architecture)? else { return Ok(None) };
    let mut references = Vec::new();
    if let Some(image) = image
        && let Some(package) = foreign.pinned(image)?
    {
        references.push(foreign.reference(&package));
    }
    let pinned = references.first().cloned();
    references.extend(store.references(&foreign.references())?.into_iter().map(|(reference, _)| reference));
    let (mut found, mut is_pinned) = (None, false);
    for reference in references {
        if let Some(path) = ingest::extracted(store, &reference)? {
            found = Some(at(&path)?);
            is_pinned = pinned.as_ref() == Some(&reference);
            break;
        }
    }
    let emulator = match found {
        Some(emulator) => emulator,
        None => qemu::Emulator::on_host(foreign.target).map_err(|error| {
            Error::machine(format!("{architecture} programs need an emulator: {error}"))
                .hint("treestrap fetch    gets one from the archive; or apt install qemu-user-static")
        })?,
    };
    let registration = emulator.registration(foreign.target);
    let about = image.map_or("", |image| &image.request.image);
    let message = format!("{architecture} programs run in qemu-user {}", emulator.version);
    for bad in emulator.known_bad(foreign.target).map_err(Error::machine)? {
        let what = format!("qemu-user {} has a known fault: {} ({})", emulator.version, bad.what, bad.link);
        session.reporter.warn(about, what);
    }
    match pinned {
        Some(_) if !is_pinned => {
            session.reporter.note(about, format!("{message}, which is not the pinned one"))
        }
        _ => session.reporter.detail(about, message),
    }
    Ok(Some(Emulator {
        name: registration.name,
        line: registration.line,
        program: emulator.path,
        version: emulator.version.to_string(),
        preserves_argv0: emulator.version.knows_preserved_argv0(),
    }))
}

fn at(path: &Path) -> Result<qemu::Emulator> {
    qemu::Emulator::at(path)
        .map_err(|error| Error::machine(format!("the emulator from the archive: {error}")))
}
