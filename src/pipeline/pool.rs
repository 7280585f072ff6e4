//! `fetch`: the debs of locks into the repository, each once, and what foreign images need on this machine.

use std::{
    collections::BTreeMap,
    io::Read,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Session, joint::Tools, locks, write_back::while_writing_back};
use crate::{
    Context, Error, Result,
    acquire::Acquire,
    artefacts::{Image, Ingested, LockedPackage, Lockfile, Repository},
    digest::Sha256,
    fetch::{self, DebSink, Extras, Fetch},
    ingest::{self, Ingester},
    lock::sources,
};

/// Downloads what the locks name and ingests it.
pub fn fetch(session: &Session<'_>, images: &[Image]) -> Result<()> {
    let lockfiles = images.iter().map(|image| locks::read(&image.lock)).collect::<Result<Vec<_>>>()?;
    let pairs: Vec<(&Image, &Lockfile)> = images.iter().zip(&lockfiles).collect();
    fetch_all(session, &pairs, true, &|| {})
}

/// The packages of locks that were read, alone. What several images need is downloaded once.
pub(super) fn fetch_locked(session: &Session<'_>, images: &[(&Image, &Lockfile)]) -> Result<()> {
    run_with(session, images, None)
}

/// The same with what foreign images need on this machine, `native` programs among it, by the same threads;
/// `ready` is called once, when the images' own packages are in the repository. Of what is needed on this
/// machine nothing but an interruption is an error.
pub(super) fn fetch_all(
    session: &Session<'_>,
    images: &[(&Image, &Lockfile)],
    native: bool,
    ready: &(dyn Fn() + Sync),
) -> Result<()> {
    run_with(session, images, Some(Tools::new(session, images, native, ready)?))
}

/// The emulator of an image alone.
pub(super) fn fetch_emulator(session: &Session<'_>, image: &Image, lockfile: &Lockfile) -> Result<()> {
    let images = [(image, lockfile)];
    let tools = Tools::new(session, &images, false, &|| {})?;
    let nothing = Lockfile { packages: Vec::new(), request: None };
    run_with(session, &[(image, &nothing)], Some(tools))
}

fn run_with(session: &Session<'_>, images: &[(&Image, &Lockfile)], tools: Option<Tools<'_>>) -> Result<()> {
    let Some((first, _)) = images.first() else { return Ok(()) };
    let ingester = Ingester::new(&session.repo)?;
    let mut wanted: BTreeMap<Sha256, &LockedPackage> = BTreeMap::new();
    for (image, lockfile) in images {
        for package in &lockfile.packages {
            if !wanted.contains_key(&package.sha256)
                && ingester.lookup(package).with_context(|| image.lock.display().to_string())?.is_none()
            {
                wanted.insert(package.sha256, package);
            }
        }
    }
    drop(ingester);
    if wanted.is_empty() && tools.is_none() {
        return Ok(());
    }
    let repositories = repositories(images.iter().flat_map(|(image, _)| &image.request.repositories))?;
    // The digests of an archive that nobody signed may be those of what lies there.
    let is_signed = images
        .iter()
        .flat_map(|(image, _)| &image.request.repositories)
        .all(|repository| !repository.trusted);
    let unpacked = AtomicU64::new(0);
    let make_sink = || {
        let ingester = Ingester::new(&session.repo)?.of_archive(is_signed);
        let pool = Pool { ingester, tools: tools.as_ref(), unpacked: &unpacked };
        Ok(Box::new(pool) as Box<dyn DebSink + '_>)
    };
    let packages: Vec<&LockedPackage> = wanted.into_values().collect();
    let extras = tools.as_ref().map(|tools| tools as &dyn Extras);
    let acquire = Acquire::new(session.offline, session.stop);
    let name = name(images, first);
    while_writing_back(&session.repo, &unpacked, || {
        run(session, &name, &repositories, &acquire, (&packages, extras), &make_sink)
    })
}

/// Downloads packages, and extra ones with them, into sinks.
pub(super) fn run<'a>(
    session: &'a Session<'_>,
    name: &'a str,
    repositories: &'a [(String, Vec<String>)],
    acquire: &'a Acquire<'a>,
    (packages, extras): (&[&LockedPackage], Option<&dyn Extras>),
    make_sink: &'a (dyn Fn() -> Result<Box<dyn DebSink + 'a>> + Sync),
) -> Result<()> {
    let fetch = Fetch {
        image: name,
        repositories,
        jobs: fetch::threads(),
        keep_debs: session.keep_debs.as_deref(),
        acquire,
        reporter: session.reporter,
        make_sink,
    };
    match extras {
        Some(extras) => fetch.run_with(packages, extras),
        None => fetch.run(packages),
    }
}

/// What events call these images.
pub(super) fn name(images: &[(&Image, &Lockfile)], first: &Image) -> String {
    match images.len() {
        1 => first.request.image.clone(),
        count => format!("{count} images"),
    }
}

/// The repositories of one or more images with their URIs, each once.
pub(super) fn repositories<'a>(
    repositories: impl Iterator<Item = &'a Repository>,
) -> Result<Vec<(String, Vec<String>)>> {
    let mut located: Vec<(String, Vec<String>)> = Vec::new();
    for repository in repositories {
        if !located.iter().any(|(name, _)| *name == repository.name) {
            located.push((repository.name.clone(), sources::uris(repository, Path::new("/"))?));
        }
    }
    Ok(located)
}

/// The packages of a lock as they are in the repository.
pub(super) fn ingested(session: &Session<'_>, lockfile: &Lockfile) -> Result<Ingested> {
    let ingester = Ingester::new(&session.repo)?;
    let packages = lockfile.packages.iter().map(|package| {
        ingester.lookup(package)?.ok_or_else(|| {
            Error::input(format!("{} is not in {}", package.id(), session.repo.display()))
                .hint("treestrap fetch")
        })
    });
    Ok(Ingested { packages: packages.collect::<Result<_>>()? })
}

/// Ingests debs on one thread, and takes programs out of some.
struct Pool<'a> {
    ingester: Ingester,
    tools: Option<&'a Tools<'a>>,
    /// The bytes of all packages that any thread has unpacked.
    unpacked: &'a AtomicU64,
}

impl DebSink for Pool<'_> {
    fn deb(&mut self, package: &LockedPackage, body: &mut dyn Read) -> Result<()> {
        match self.tools.and_then(|tools| tools.emulators(package)) {
            Some(programs) => ingest::extract(self.ingester.store(), package, body, programs)?,
            None => drop(self.ingester.ingest(package, body)?),
        }
        self.unpacked.fetch_add(package.size, Ordering::Relaxed);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.ingester.flush()
    }
}
