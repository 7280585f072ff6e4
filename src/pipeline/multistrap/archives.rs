//! The packages themselves, where they are to be kept: in apt's cache in the folder, or beside their sources.

use std::{fs, io::Read};

use super::{apt, folder::Root};
use crate::{
    Context, Result,
    acquire::Acquire,
    artefacts::{Image, LockedPackage, Lockfile},
    fetch::DebSink,
    pipeline::{Session, pool},
};

/// Gets the packages of a lock into the repository; with `keep`, their debs stay in apt's cache in that
/// folder as well, under apt's names. No deb is downloaded twice.
pub(super) fn fetch(
    session: &Session<'_>,
    image: &Image,
    lockfile: &Lockfile,
    keep: Option<&Root>,
) -> Result<()> {
    let Some(root) = keep else { return pool::fetch_locked(session, &[(image, lockfile)]) };
    root.make_folder(&format!("{}/partial", apt::ARCHIVES))?;
    let debs = root.path().join(apt::ARCHIVES);
    let keeping = Session {
        repo: session.repo.clone(),
        cache: session.cache.clone(),
        state: session.state.clone(),
        keep_debs: Some(debs.clone()),
        ..*session
    };
    pool::fetch_locked(&keeping, &[(image, lockfile)])?;
    // What the repository had already was not downloaded now.
    let is_missing = |package: &&LockedPackage| {
        ![name_in_archive(package).to_owned(), apt::archive_name(package)]
            .iter()
            .any(|name| debs.join(name).is_file())
    };
    let missing: Vec<&LockedPackage> = lockfile.packages.iter().filter(is_missing).collect();
    if !missing.is_empty() {
        let acquire = Acquire::new(session.offline, session.stop);
        let repositories = pool::repositories(image.request.repositories.iter())?;
        let make_sink = || Ok(Box::new(Nothing) as Box<dyn DebSink>);
        pool::run(&keeping, &image.request.image, &repositories, &acquire, &missing, &make_sink)?;
    }
    for package in &lockfile.packages {
        let (from, to) = (debs.join(name_in_archive(package)), debs.join(apt::archive_name(package)));
        if from != to && from.is_file() {
            fs::rename(&from, &to).with_context(|| format!("renaming {}", from.display()))?;
        }
    }
    Ok(())
}

/// What the archive calls a package's file.
fn name_in_archive(package: &LockedPackage) -> &str {
    package.filename.rsplit('/').next().unwrap_or_default()
}

/// Wants nothing of a deb: it is kept, and that is all.
struct Nothing;

impl DebSink for Nothing {
    fn deb(&mut self, _: &LockedPackage, _: &mut dyn Read) -> Result<()> {
        Ok(()) // what is left of the stream is read, checked and kept all the same
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
