//! From a request and indexes to a lock: what is tried, in which order.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    closure, complete, garbage,
    index::Index,
    lockfile,
    marking::{By, Follow, Marking},
    policy::Policy,
    problem::ProblemResolver,
    selection::{self, Selection},
    universe::{PackageId, Universe, VersionId},
};
use crate::{
    Context, Error, Result,
    artefacts::{LockedPackage, Lockfile, Request},
    debian::{
        deb822::{self, Stanza},
        release::Release,
    },
    digest::Sha256,
    error::Kind,
};

/// Marking recurses along chains of dependencies, apt's limit being 3000 deep; that much and a bit.
const STACK: usize = 64 << 20;

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
///
/// The choice is that of `apt-get install` (2.6) with an empty dpkg status on the same indexes in
/// the same order: see [`selection`] for the equal command line. Where apt gives up, a complete
/// search decides; where that finds nothing, the error says why.
///
/// `previous` is a lock whose versions are kept where the request still allows them, even those
/// that the indexes no longer have. One that answers this very request is returned as it is.
pub fn resolve(request: &Request, indexes: &[Index], previous: Option<&Lockfile>) -> Result<Lockfile> {
    let digest = digest(request);
    if let Some(previous) = previous.filter(|previous| previous.request == Some(digest)) {
        return Ok(previous.clone());
    }
    let context = || format!("image {:?} ({})", request.image, request.architecture);
    let solve = || -> Result<Lockfile> {
        let kept = Kept::of(request, previous);
        let all: Vec<Index> = indexes.iter().cloned().chain(kept.index.clone()).collect();
        let chosen = choose(request, &all, &kept)?;
        if chosen.is_empty() {
            return Err(Error::input("the request asks for no package at all")
                .hint("name packages in the manifest, or leave `essential` at its default"));
        }
        closure::explained(Lockfile { packages: chosen, request: Some(digest) }, request)
    };
    let result = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("resolver".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, solve)
            .map_err(|error| Error::new(Kind::Machine, error).context("starting the resolver's thread"))?
            .join()
            .unwrap_or_else(|_| Err(Error::bug("the resolver panicked")))
    });
    result.with_context(context)
}

/// What of the lock before may be kept.
struct Kept<'p> {
    /// Its stanzas, as an index behind all others; none if there is nothing.
    index: Option<Index>,
    packages: Vec<&'p LockedPackage>,
}

impl<'p> Kept<'p> {
    fn of(request: &Request, previous: Option<&'p Lockfile>) -> Self {
        let is_still_there = |package: &&LockedPackage| match &package.repository {
            None => true,
            Some(name) => request.repositories.iter().any(|repository| {
                let suite = package.stanza.get(lockfile::SUITE);
                repository.name == *name
                    && suite.is_none_or(|suite| repository.suites.iter().any(|known| known == suite))
            }),
        };
        let packages: Vec<&LockedPackage> =
            previous.into_iter().flat_map(|lock| &lock.packages).filter(is_still_there).collect();
        let stanzas: Vec<Stanza> = packages.iter().map(|package| package.stanza.clone()).collect();
        let index = (!packages.is_empty()).then(|| Index {
            repository: String::new(),
            uri: String::new(),
            suite: String::new(),
            component: String::new(),
            architecture: request.architecture.clone(),
            release: Arc::new(Release::default()),
            packages: deb822::print(&stanzas).into_bytes().into(),
        });
        Kept { index, packages }
    }

    /// The kept versions, by package.
    fn versions(&self, universe: &Universe<'_>, policy: &Policy) -> HashMap<PackageId, VersionId> {
        let mut versions = HashMap::new();
        for kept in &self.packages {
            let Some(package) = universe.find_name(kept.name.as_bytes()).and_then(|group| {
                universe.siblings(group).find(|&package| {
                    let mut versions = universe.versions(package);
                    versions.any(|version| universe.architecture_of(version) == kept.architecture)
                })
            }) else {
                continue;
            };
            let version = universe
                .versions(package)
                .filter(|&version| universe.version(version).number == kept.version.as_bytes())
                .find(|&version| policy.allows(universe, version));
            if let Some(version) = version {
                versions.insert(package, version);
            }
        }
        versions
    }

    /// The lock's own entry of a version.
    fn entry(&self, universe: &Universe<'_>, version: VersionId) -> Option<&LockedPackage> {
        let data = universe.version(version);
        self.packages.iter().copied().find(|kept| {
            kept.name.as_bytes() == universe.name(data.package)
                && kept.version.as_bytes() == data.number
                && kept.architecture == universe.architecture_of(version)
        })
    }
}

fn choose(request: &Request, indexes: &[Index], kept: &Kept<'_>) -> Result<Vec<LockedPackage>> {
    let universe = Universe::new(&request.architecture, indexes)?;
    let policy = Policy::new(&universe, indexes, &request.pins)?;
    let kept_versions = kept.versions(&universe, &policy);
    let candidates: Vec<Option<VersionId>> = universe
        .package_ids()
        .map(|package| {
            let kept = kept_versions.get(&package).copied();
            kept.or_else(|| policy.candidate(&universe, package))
        })
        .collect();
    let plan = || {
        let mut marking = Marking::new(&universe, candidates.clone(), request.recommends);
        for &package in kept_versions.keys() {
            marking.state_mut(package).preferred = true;
        }
        marking
    };

    let mut marking = plan();
    let selection = selection::select(&mut marking, indexes, request)?;
    let versions: Vec<VersionId> = if request.dependencies {
        let requested = selection.packages(&universe);
        selection::mark(&mut marking, indexes, &selection);
        if !ProblemResolver::new(&mut marking, &requested).resolve() {
            marking = search(plan, &policy, &selection)?;
        }
        garbage::collect(&mut marking);
        marking.installed().into_iter().filter_map(|package| marking.state(package).install).collect()
    } else {
        // One may be there by several names.
        let chosen: BTreeSet<VersionId> = selection.install.iter().copied().collect();
        chosen.into_iter().collect()
    };
    versions
        .into_iter()
        .map(|version| {
            let data = universe.version(version);
            let index = &indexes[usize::from(data.indexes[0])];
            match kept.entry(&universe, version) {
                Some(entry) if index.repository.is_empty() => Ok(entry.clone()),
                _ => lockfile::entry(data.stanza, &index.repository, &index.suite),
            }
        })
        .collect()
}

/// Decides by a complete search, and marks what it found.
fn search<'u, 'a>(
    plan: impl Fn() -> Marking<'u, 'a>,
    policy: &Policy,
    selection: &Selection,
) -> Result<Marking<'u, 'a>> {
    let mut marking = plan();
    let universe = marking.universe;
    for &version in &selection.install {
        marking.set_candidate(version);
        marking.state_mut(universe.version(version).package).protected = true;
    }
    let versions = complete::solve(&marking, policy, selection).map_err(|reasons| {
        let message = match reasons.as_slice() {
            [] => "the request has no solution".to_owned(),
            reasons => {
                format!("the request has no solution:\n  {}", reasons.join("\n  "))
            }
        };
        Error::input(message).hint(
            "drop or change the request that the list starts with, add the suite or repository that has what \
             is missing, or pin another version",
        )
    })?;

    let mark_all = |marking: &mut Marking<'u, 'a>| {
        for &package in &selection.absent {
            let state = marking.state_mut(package);
            (state.protected, state.absent) = (true, true);
        }
        for &version in &versions {
            let package = universe.version(version).package;
            marking.set_candidate(version);
            marking.mark_install(package, Follow::Nothing, 0, By::Request);
            let state = marking.state_mut(package);
            state.protected = true;
            state.automatic = !selection.why.contains_key(&package);
        }
    };
    let mut marking = plan();
    mark_all(&mut marking);
    if marking.recommends {
        // Now that all is decided that must be, recommendations may add what does not disturb it.
        for &version in &versions {
            let package = universe.version(version).package;
            let automatic = marking.state(package).automatic;
            marking.mark_install(package, Follow::Dependencies, 0, By::Request);
            marking.state_mut(package).automatic = automatic;
        }
        if marking.broken_count() > 0 {
            marking = plan();
            mark_all(&mut marking);
        }
    }
    for &version in &versions {
        let package = universe.version(version).package;
        marking.state_mut(package).protected = selection.why.contains_key(&package);
    }
    match marking.broken_count() {
        0 => Ok(marking),
        _ => Err(Error::bug("the solver's solution is not one")),
    }
}

/// Why a package is in a lock of tools: it runs the image's programs on this machine.
pub const EMULATOR: &str = "emulator";
/// Why a package is in a lock of tools: it is one of the image's, for this machine.
pub const TWIN: &str = "twin";

/// Picks what runs an image's programs on a machine of `architecture`, whose indexes these are: the
/// first of the packages `emulators` that has a candidate, and of each package of the image the one
/// of the same source version, if there is one. Nothing that they depend on: of twins only those
/// are used whose libraries are twins, too.
pub fn resolve_tools(
    architecture: &str,
    emulators: &[&str],
    image: &[LockedPackage],
    indexes: &[Index],
) -> Result<Lockfile> {
    let universe = Universe::new(architecture, indexes)?;
    let policy = Policy::new(&universe, indexes, &[])?;
    let entry = |version: VersionId, reason: &str| {
        let data = universe.version(version);
        let index = &indexes[usize::from(data.indexes[0])];
        let mut entry = lockfile::entry(data.stanza, &index.repository, &index.suite)?;
        entry.stanza.set(lockfile::REASON, reason);
        Ok::<_, Error>(entry)
    };
    let candidate = emulators.iter().find_map(|name| {
        let group = universe.find_name(name.as_bytes())?;
        policy.candidate(&universe, universe.preferred(group, true)?)
    });
    let Some(emulator) = candidate else {
        let message = format!("no index for {architecture} has {}", emulators.join(" or "));
        return Err(Error::input(message)
            .hint("add a Debian suite with the component main to the manifest's repositories"));
    };
    let mut packages = vec![entry(emulator, EMULATOR)?];
    for package in image.iter().filter(|package| package.architecture != "all") {
        let Some(group) = universe.find_name(package.name.as_bytes()) else { continue };
        for version in universe.siblings(group).flat_map(|sibling| universe.versions(sibling)) {
            if universe.architecture_of(version) != architecture {
                continue;
            }
            let twin = entry(version, TWIN)?;
            if twin.source_version() == package.source_version() && twin.name != packages[0].name {
                packages.push(twin);
                break;
            }
        }
    }
    lockfile::sort(&mut packages);
    packages.dedup();
    Ok(Lockfile { packages, request: None })
}

/// A package's candidate in these indexes, for this architecture.
pub fn candidate(architecture: &str, name: &str, indexes: &[Index]) -> Result<Option<LockedPackage>> {
    let universe = Universe::new(architecture, indexes)?;
    let policy = Policy::new(&universe, indexes, &[])?;
    let package = universe.find_name(name.as_bytes()).and_then(|group| universe.preferred(group, true));
    let Some(version) = package.and_then(|package| policy.candidate(&universe, package)) else {
        return Ok(None);
    };
    let data = universe.version(version);
    let index = &indexes[usize::from(data.indexes[0])];
    lockfile::entry(data.stanza, &index.repository, &index.suite).map(Some)
}

/// The names of all packages of these priorities, in whatever version or architecture; those that are
/// essential and have no priority count as required. Sorted.
///
/// That is the set of debootstrap and multistrap (`get_debs` and `get_required_debs`), which look at
/// indexes and not at candidates.
pub fn of_priority(priorities: &[String], indexes: &[Index]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for stanza in indexes.iter().flat_map(|index| deb822::stanzas(&index.packages)) {
        let priority = match deb822::field(stanza, "Priority") {
            Some(priority) => priority,
            None if deb822::field(stanza, "Essential").is_some() => b"required",
            None => continue,
        };
        if priorities.iter().any(|wanted| wanted.as_bytes() == priority)
            && let Some(name) = deb822::field(stanza, "Package")
        {
            names.insert(String::from_utf8_lossy(name).into_owned());
        }
    }
    names
}

/// All packages that a selection names, wanted or unwanted.
impl Selection {
    fn packages(&self, universe: &Universe<'_>) -> HashSet<PackageId> {
        let wanted = self.install.iter().map(|&version| universe.version(version).package);
        wanted.chain(self.absent.iter().copied()).collect()
    }
}
