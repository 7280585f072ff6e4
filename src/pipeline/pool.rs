//! `fetch`: the debs of locks into the repository, each once.

use std::{collections::BTreeMap, io::Read, path::Path};

use super::{Session, acceleration, indexes::Indexes, locks, tools};
use crate::{
    Context, Error, Result,
    acquire::Acquire,
    artefacts::{Image, Ingested, LockedPackage, Lockfile, Repository},
    digest::Sha256,
    fetch::{self, DebSink, Fetch},
    ingest::Ingester,
    lock::sources,
};

/// Downloads what the locks name and ingests it.
pub fn fetch(session: &Session<'_>, images: &[Image]) -> Result<()> {
    let lockfiles = images.iter().map(|image| locks::read(&image.lock)).collect::<Result<Vec<_>>>()?;
    let pairs: Vec<(&Image, &Lockfile)> = images.iter().zip(&lockfiles).collect();
    fetch_locked(session, &pairs)?;
    let indexes = Indexes::new(session);
    pairs.iter().try_for_each(|(image, lockfile)| {
        tools::fetch(session, &indexes, image, lockfile)?;
        acceleration::fetch(session, image, lockfile)
    })
}

/// The same for locks that were read. What several images need is downloaded once.
pub(super) fn fetch_locked(session: &Session<'_>, images: &[(&Image, &Lockfile)]) -> Result<()> {
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
    if !wanted.is_empty() {
        let acquire = Acquire::new(session.offline, session.stop);
        let name = match images.len() {
            1 => first.request.image.clone(),
            count => format!("{count} images"),
        };
        let repositories = repositories(images.iter().flat_map(|(image, _)| &image.request.repositories))?;
        let packages: Vec<&LockedPackage> = wanted.into_values().collect();
        let make_sink = || Ok(Box::new(Pool(Ingester::new(&session.repo)?)) as Box<dyn DebSink + '_>);
        run(session, &name, &repositories, &acquire, &packages, &make_sink)?;
    }
    Ok(())
}

/// Downloads packages into sinks.
pub(super) fn run<'a>(
    session: &'a Session<'_>,
    name: &'a str,
    repositories: &'a [(String, Vec<String>)],
    acquire: &'a Acquire<'_>,
    packages: &[&LockedPackage],
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
    fetch.run(packages)
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

/// Ingests debs on one thread.
struct Pool(Ingester);

impl DebSink for Pool {
    fn deb(&mut self, package: &LockedPackage, body: &mut dyn Read) -> Result<()> {
        self.0.ingest(package, body).map(|_| ())
    }

    fn finish(&mut self) -> Result<()> {
        self.0.flush()
    }
}
