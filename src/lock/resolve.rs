//! From a request and indexes to a lock: what is tried, in which order.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    agreement::{self, Alternative, Member},
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
    if let Some(previous) = previous.filter(|previous| previous.request == Some(digest(request))) {
        return Ok(previous.clone());
    }
    let offer = Offer::new(&request.architecture, indexes).with_context(|| about(request))?;
    offer.resolve(request, previous, &[])
}

fn about(request: &Request) -> String {
    format!("image {:?} ({})", request.image, request.architecture)
}

/// What archives have for images of one architecture: read once, for as many images as there are.
pub struct Offer<'a> {
    universe: Universe<'a>,
    indexes: &'a [Index],
}

impl<'a> Offer<'a> {
    /// Reads the indexes.
    pub fn new(architecture: &'a str, indexes: &'a [Index]) -> Result<Self> {
        Ok(Offer { universe: Universe::new(architecture, indexes)?, indexes })
    }

    /// Chooses the packages of an image, as [`resolve`] does.
    ///
    /// Of what `previous` does not have, the versions that `neighbours` have, other images, come before others:
    /// the first neighbour's first, where the archives still have them and the request allows them.
    pub fn resolve(
        &self,
        request: &Request,
        previous: Option<&Lockfile>,
        neighbours: &[Member<'_>],
    ) -> Result<Lockfile> {
        let digest = digest(request);
        if let Some(previous) = previous.filter(|previous| previous.request == Some(digest)) {
            return Ok(previous.clone());
        }
        let solve = || -> Result<Lockfile> {
            let chosen = self.choose(request, &Kept::of(request, previous, &self.universe), neighbours)?;
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
        result.with_context(|| about(request))
    }

    fn choose(
        &self,
        request: &Request,
        kept: &Kept<'_>,
        neighbours: &[Member<'_>],
    ) -> Result<Vec<LockedPackage>> {
        let indexes: Vec<Index> = self.indexes.iter().cloned().chain(kept.index.clone()).collect();
        let extended;
        let universe = match &kept.index {
            None => &self.universe,
            Some(index) => {
                extended = self.universe.with(index, self.indexes.len())?;
                &extended
            }
        };
        let policy = Policy::new(universe, &indexes, &request.pins)?;
        let kept_versions = kept.versions(universe, &policy);
        let mut candidates: Vec<Option<VersionId>> =
            universe.package_ids().map(|package| policy.candidate(universe, package)).collect();
        let common = common_versions(universe, &policy, &candidates, request, neighbours, self.indexes.len());
        for (&package, &version) in common.iter().chain(&kept_versions) {
            candidates[package.index()] = Some(version);
        }
        let plan = || {
            let mut marking = Marking::new(universe, candidates.clone(), request.recommends);
            for &package in kept_versions.keys() {
                marking.state_mut(package).preferred = true;
            }
            marking
        };

        let mut marking = plan();
        let selection = selection::select(&mut marking, &indexes, request)?;
        let versions: Vec<VersionId> = if request.dependencies {
            let requested = selection.packages(universe);
            selection::mark(&mut marking, &indexes, &selection);
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
                match kept.entry(universe, version) {
                    Some(entry) if index.repository.is_empty() => Ok(entry.clone()),
                    _ => lockfile::entry(data.stanza, &index.repository, &index.suite),
                }
            })
            .collect()
    }
}

/// What of the lock before may be kept.
struct Kept<'p> {
    /// The stanzas that the archives do not have any more, as an index behind all others; none if there
    /// are none.
    index: Option<Index>,
    packages: Vec<&'p LockedPackage>,
}

impl<'p> Kept<'p> {
    fn of(request: &Request, previous: Option<&'p Lockfile>, universe: &Universe<'_>) -> Self {
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
        let vanished: Vec<&Stanza> = packages
            .iter()
            .map(|package| &package.stanza)
            .filter(|stanza| !universe.has(deb822::print([*stanza]).as_bytes()))
            .collect();
        let index = (!vanished.is_empty()).then(|| Index {
            repository: String::new(),
            uri: String::new(),
            suite: String::new(),
            component: String::new(),
            architecture: request.architecture.clone(),
            release: Arc::new(Release::default()),
            packages: Arc::new(deb822::print(vanished).into_bytes()),
        });
        Kept { index, packages }
    }

    /// The kept versions, by package.
    fn versions(&self, universe: &Universe<'_>, policy: &Policy) -> HashMap<PackageId, VersionId> {
        let mut versions = HashMap::new();
        for kept in &self.packages {
            if let Some(package) = package_of(universe, &kept.name, &kept.architecture)
                && let Some(version) = allowed_version(universe, policy, package, &kept.version)
            {
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

/// The package of a name that has versions of this architecture.
fn package_of(universe: &Universe<'_>, name: &str, architecture: &str) -> Option<PackageId> {
    let group = universe.find_name(name.as_bytes())?;
    universe.siblings(group).find(|&package| {
        let mut versions = universe.versions(package);
        versions.any(|version| universe.architecture_of(version) == architecture)
    })
}

fn allowed_version(
    universe: &Universe<'_>,
    policy: &Policy,
    package: PackageId,
    number: &str,
) -> Option<VersionId> {
    universe
        .versions(package)
        .filter(|&version| universe.version(version).number == number.as_bytes())
        .find(|&version| policy.allows(universe, version))
}

/// The versions that other images have, by package, of those that are in the first `offered` indexes. What is
/// a neighbour's own business beside the candidates counts for it alone.
fn common_versions(
    universe: &Universe<'_>,
    policy: &Policy,
    candidates: &[Option<VersionId>],
    request: &Request,
    neighbours: &[Member<'_>],
    offered: usize,
) -> HashMap<PackageId, VersionId> {
    let mut versions = HashMap::new();
    for neighbour in neighbours.iter().filter(|other| agreement::comparable(other.request, request)) {
        // Of another architecture's package, the version; the native package is what it stands for.
        let find = |package: &LockedPackage| {
            let known = package.architecture == "all"
                || universe.find_architecture(package.architecture.as_bytes()).is_some();
            let architecture = if known { &package.architecture } else { &request.architecture };
            package_of(universe, &package.name, architecture)
        };
        let own = agreement::own_versions(neighbour, |package| {
            let version = universe.version(candidates[find(package)?.index()]?);
            let field = |name: &str| deb822::field(version.stanza, name);
            Some(Alternative::of(&String::from_utf8_lossy(version.number), |name| {
                field(name).map(|text| String::from_utf8_lossy(text).into_owned())
            }))
        });
        for package in &neighbour.lockfile.packages {
            if !own.is_empty() && own.contains(&(package.name.clone(), package.architecture.clone())) {
                continue;
            }
            let Some(id) = find(package) else { continue };
            let version = allowed_version(universe, policy, id, &package.version).filter(|&version| {
                universe.version(version).indexes.iter().any(|&at| usize::from(at) < offered)
            });
            if let Some(version) = version {
                versions.entry(id).or_insert(version);
            }
        }
    }
    versions
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

/// What a machine's archives have of what runs images' programs there.
pub struct Tools<'a> {
    architecture: &'a str,
    universe: Universe<'a>,
    policy: Policy,
    indexes: &'a [Index],
}

impl<'a> Tools<'a> {
    /// Reads of the indexes of `architecture` the packages of these names.
    pub fn new(architecture: &'a str, names: &HashSet<&str>, indexes: &'a [Index]) -> Result<Self> {
        let wanted = |name: &[u8]| std::str::from_utf8(name).is_ok_and(|name| names.contains(name));
        let universe = Universe::of(architecture, indexes, wanted)?;
        let policy = Policy::new(&universe, indexes, &[])?;
        Ok(Tools { architecture, universe, policy, indexes })
    }

    /// Picks what runs an image's programs: the first of the packages `emulators` that has a candidate, and
    /// of each package of the image the one of the same source version, if there is one. Nothing that they
    /// depend on: of twins only those are used whose libraries are twins, too.
    pub fn resolve(&self, emulators: &[&str], image: &[LockedPackage]) -> Result<Lockfile> {
        let Tools { architecture, universe, policy, indexes } = self;
        let entry = |version: VersionId, reason: &str| {
            let data = universe.version(version);
            let index = &indexes[usize::from(data.indexes[0])];
            let mut entry = lockfile::entry(data.stanza, &index.repository, &index.suite)?;
            entry.stanza.set(lockfile::REASON, reason);
            Ok::<_, Error>(entry)
        };
        let candidate = emulators.iter().find_map(|name| {
            let group = universe.find_name(name.as_bytes())?;
            policy.candidate(universe, universe.preferred(group, true)?)
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
                if universe.architecture_of(version) != *architecture {
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
