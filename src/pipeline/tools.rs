//! qemu-user for foreign images: pinned beside the lock, fetched like packages, found again.
//!
//! `IMAGE.tools.HOST.lock` pins the package of the archive that has it, for hosts of one
//! architecture. Of that package only the one program is kept, at `deb/tools/HOST/qemu-NAME/DEB`.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use qemu::Architecture;

use super::{Session, locks, pool};
use crate::{
    Context, Error, Result,
    acquire::Acquire,
    artefacts::{Image, LockedPackage},
    configure::Emulator,
    error::Kind,
    fetch::DebSink,
    ingest, lock,
    store::Store,
};

/// A foreign image on this host.
struct Foreign {
    host: &'static Architecture,
    target: &'static Architecture,
    /// qemu's name of the architecture, as in `qemu-arm`.
    name: &'static str,
}

impl Foreign {
    /// None if this machine runs the image's programs itself.
    fn new(session: &Session<'_>, architecture: &str) -> Result<Option<Foreign>> {
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

    /// Where the pinned package of an image is named.
    fn lock(&self, image: &Image) -> PathBuf {
        image.lock.with_file_name(format!("{}.tools.{}.lock", image.request.image, self.host.name))
    }

    /// The refs of its emulators.
    fn references(&self) -> String {
        format!("deb/tools/{}/qemu-{}", self.host.name, self.name)
    }

    /// The ref of the emulator from this package.
    fn reference(&self, package: &LockedPackage) -> String {
        format!("{}/{}", self.references(), package.sha256)
    }

    fn pinned(&self, image: &Image) -> Result<Option<LockedPackage>> {
        let lockfile = locks::read_if_there(&self.lock(image))?;
        Ok(lockfile.and_then(|lockfile| lockfile.packages.into_iter().next()))
    }
}

/// Pins the emulator of a foreign image. `update`: even if one is pinned already.
pub(super) fn lock(session: &Session<'_>, image: &Image, update: bool, acquire: &Acquire<'_>) -> Result<()> {
    let Some(foreign) = Foreign::new(session, &image.request.architecture)? else { return Ok(()) };
    let path = foreign.lock(image);
    if !update && path.exists() {
        return Ok(());
    }
    let indexes = locks::obtain(session, &image.request, &[foreign.host.name.to_owned()], acquire)?;
    // Which package has a static one differs between suites; the first suite decides.
    let suite = indexes.first().map_or("", |index| index.suite.as_str());
    let names: Vec<&str> =
        qemu::packaged(foreign.target, suite).iter().map(|emulator| emulator.package).collect();
    let lockfile = lock::resolve_tools(foreign.host.name, &[&names.join(" | ")], &indexes)?;
    locks::write(&path, &lockfile).map(|_| ())
}

/// Gets the pinned emulator of a foreign image, unless it is there. Where that cannot be had, says so:
/// the host's own may do.
pub(super) fn fetch(session: &Session<'_>, image: &Image) -> Result<()> {
    match Foreign::new(session, &image.request.architecture)? {
        Some(foreign) => tolerate(session, image, fetch_pinned(session, image, &foreign)),
        None => Ok(()),
    }
}

/// Reports that there is no emulator of the archive, which another one can make good.
pub(super) fn tolerate(session: &Session<'_>, image: &Image, result: Result<()>) -> Result<()> {
    match result {
        Err(error) if matches!(error.kind(), Kind::Input | Kind::Machine) => {
            let message = format!("no emulator could be got from the archive: {error}");
            session.reporter.warn(&image.request.image, message);
            Ok(())
        }
        result => result,
    }
}

fn fetch_pinned(session: &Session<'_>, image: &Image, foreign: &Foreign) -> Result<()> {
    let acquire = Acquire::new(session.offline, session.stop);
    lock(session, image, false, &acquire)?;
    let Some(package) = foreign.pinned(image)? else { return Ok(()) };
    let reference = foreign.reference(&package);
    if ingest::extracted(&Store::open_or_create(&session.repo)?, &reference)?.is_some() {
        return Ok(());
    }
    let paths = ["-static", ""].map(|suffix| format!("usr/bin/qemu-{}{suffix}", foreign.name)).to_vec();
    let make_sink = || {
        let (reference, paths) = (reference.clone(), paths.clone());
        Ok(Box::new(Program { store: Store::open(&session.repo)?, reference, paths })
            as Box<dyn DebSink + '_>)
    };
    let repositories = pool::repositories(image.request.repositories.iter())?;
    pool::run(session, &image.request.image, &repositories, &acquire, &[&package], &make_sink)
}

/// Takes one program out of a deb.
struct Program {
    store: Store,
    reference: String,
    paths: Vec<String>,
}

impl DebSink for Program {
    fn deb(&mut self, package: &LockedPackage, body: &mut dyn Read) -> Result<()> {
        ingest::extract(&self.store, package, body, &self.paths, &self.reference)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(()) // each program is a commit of its own
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
    match pinned {
        Some(_) if !is_pinned => {
            session.reporter.note(about, format!("{message}, which is not the pinned one"))
        }
        _ => session.reporter.detail(about, message),
    }
    Ok(Some(Emulator { name: registration.name, line: registration.line, program: emulator.path }))
}

fn at(path: &Path) -> Result<qemu::Emulator> {
    qemu::Emulator::at(path)
        .map_err(|error| Error::machine(format!("the emulator from the archive: {error}")))
}
