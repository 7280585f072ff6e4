//! From a request and indexes to a lock.

use std::collections::{HashMap, HashSet};

use super::{
    garbage,
    index::Index,
    lockfile,
    marking::Marking,
    policy::Policy,
    problem::ProblemResolver,
    selection,
    universe::{PackageId, Universe, VersionId},
};
use crate::{
    Error, Result,
    artefacts::{LockedPackage, Lockfile, Request},
    digest::Sha256,
};

/// The digest of what of a request influences the choice: not its image's name, where its
/// repositories are, or who signs them.
pub fn digest(request: &Request) -> Sha256 {
    let mut request = request.clone();
    request.image.clear();
    for repository in &mut request.repositories {
        repository.uris.clear();
        repository.signed_by.clear();
        repository.check_valid_until = true;
        repository.trusted = false;
    }
    let json = serde_json::to_vec(&request).expect("strings, numbers and lists have a JSON form");
    Sha256::of(&json)
}

/// Chooses the packages of an image.
pub fn resolve(request: &Request, indexes: &[Index], previous: Option<&Lockfile>) -> Result<Lockfile> {
    let _ = previous;
    let universe = Universe::new(&request.architecture, indexes)?;
    let policy = Policy::new(&universe, indexes, &request.pins)?;
    let candidates = universe.package_ids().map(|package| policy.candidate(&universe, package)).collect();
    let mut marking = Marking::new(&universe, candidates, request.recommends);
    let selection = selection::select(&mut marking, indexes, request)?;
    selection::mark(&mut marking, indexes, &selection);
    let requested: HashSet<PackageId> = selection
        .install
        .iter()
        .map(|&version| universe.version(version).package)
        .chain(selection.absent.iter().copied())
        .collect();
    if !ProblemResolver::new(&mut marking, &requested).resolve() {
        return Err(Error::input("unsolvable"));
    }
    garbage::collect(&mut marking);
    let versions = marking.installed().into_iter().filter_map(|package| marking.state(package).install);
    lock(&universe, indexes, versions, digest(request))
}

fn lock(
    universe: &Universe<'_>,
    indexes: &[Index],
    versions: impl Iterator<Item = VersionId>,
    request: Sha256,
) -> Result<Lockfile> {
    let entry = |version: VersionId| {
        let version = universe.version(version);
        let index = &indexes[usize::from(version.indexes[0])];
        lockfile::entry(version.stanza, &index.repository, &index.suite)
    };
    let mut packages: Vec<LockedPackage> = versions.map(entry).collect::<Result<_>>()?;
    lockfile::sort(&mut packages);
    Ok(Lockfile { packages, request: Some(request) })
}

#[allow(unused)]
type Unused = HashMap<(), ()>;

pub fn check(_: &Request, _: &Lockfile) -> Result<()> {
    Ok(())
}
pub fn why(_: &Request, _: &Lockfile, _: &str) -> Result<Vec<String>> {
    Ok(vec![])
}
