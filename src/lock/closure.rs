//! What can be said of a lock without indexes: whether it is complete and what the request asks
//! for, and why each of its packages is in.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use super::{
    garbage,
    index::Index,
    lockfile,
    marking::{By, Follow, Marking},
    policy::Matcher,
    resolve::digest,
    universe::{Kind, PackageId, Universe, VersionId},
};
use crate::{
    Error, Result,
    artefacts::{Constraint, LockedPackage, Lockfile, PackageRequest, Request},
    debian::{deb822, release::Release},
};

/// How a package came into a lock.
#[derive(Clone, Debug)]
enum Reason {
    /// By the request itself: "requested", "essential", "priority required".
    Root(String),
    /// By a relation of another package.
    Of(PackageId, Kind),
}

/// The lock's packages as the only ones there are.
fn as_indexes(lock: &Lockfile) -> Vec<Index> {
    let architectures: BTreeSet<&str> = lock.packages.iter().map(|p| p.architecture.as_str()).collect();
    let mut indexes: Vec<Index> = architectures
        .into_iter()
        .map(|architecture| {
            let stanzas = lock.packages.iter().filter(|p| p.architecture == architecture).map(|p| &p.stanza);
            Index {
                repository: String::new(),
                uri: String::new(),
                suite: String::new(),
                component: String::new(),
                architecture: architecture.to_owned(),
                release: Arc::new(Release::default()),
                packages: Arc::new(deb822::print(stanzas).into_bytes()),
            }
        })
        .collect();
    // Conflicts between architectures want all of them known.
    indexes.sort_by_key(|index| index.architecture == "all");
    indexes
}

/// A plan in which all packages of the lock are installed.
fn installed<'u, 'a>(universe: &'u Universe<'a>) -> Marking<'u, 'a> {
    let candidates = universe.package_ids().map(|package| universe.versions(package).next()).collect();
    let mut marking = Marking::new(universe, candidates, false);
    for package in universe.package_ids() {
        marking.mark_install(package, Follow::Nothing, 0, By::Request);
    }
    marking
}

/// The package that a request means in this lock: of that name, or the provider of it.
fn meant(marking: &Marking<'_, '_>, request: &PackageRequest) -> Option<PackageId> {
    let universe = marking.universe;
    let (name, architecture) = match request.name.split_once(':') {
        Some((name, architecture)) => (name, Some(architecture)),
        None => (request.name.as_str(), None),
    };
    let group = universe.find_name(name.as_bytes())?;
    let package = match architecture {
        None | Some("any" | "native" | "all") => universe.preferred(group, true)?,
        Some(name) => universe.find(group, universe.find_architecture(name.as_bytes())?)?,
    };
    if marking.state(package).install.is_some() {
        return Some(package);
    }
    let owners = universe.providers(package).map(|id| universe.provision(id).owner);
    owners.map(|version| universe.version(version).package).find(|&p| marking.state(p).install.is_some())
}

/// Why each package is in.
fn reasons(marking: &Marking<'_, '_>, request: &Request) -> HashMap<PackageId, Reason> {
    let universe = marking.universe;
    let mut reasons: HashMap<PackageId, Reason> = HashMap::new();
    let mut by_name = marking.installed();
    by_name.sort_by_key(|&package| (universe.name(package), package));
    for wanted in request.packages.iter().filter(|wanted| wanted.constraint != Constraint::Absent) {
        if let Some(package) = meant(marking, wanted) {
            reasons.insert(package, Reason::Root("requested".to_owned()));
        }
    }
    for &package in &by_name {
        let Some(version) = marking.state(package).install else { continue };
        let field = |name| deb822::field(universe.version(version).stanza, name).unwrap_or_default();
        let priority = String::from_utf8_lossy(field("Priority")).into_owned();
        if request.essential && field("Essential") == b"yes" {
            reasons.entry(package).or_insert_with(|| Reason::Root("essential".to_owned()));
        } else if request.priority.contains(&priority) {
            reasons.entry(package).or_insert_with(|| Reason::Root(format!("priority {priority}")));
        }
    }
    // Each kind of relation only where the stronger ones do not lead.
    let stages: [&[Kind]; 3] = [
        &[Kind::PreDepends, Kind::Depends],
        &[Kind::PreDepends, Kind::Depends, Kind::Recommends],
        &[Kind::PreDepends, Kind::Depends, Kind::Recommends, Kind::Suggests],
    ];
    for kinds in stages {
        let mut open: VecDeque<PackageId> =
            by_name.iter().copied().filter(|package| reasons.contains_key(package)).collect();
        while let Some(package) = open.pop_front() {
            let Some(version) = marking.state(package).install else { continue };
            for dependency in universe.dependencies(version) {
                let kind = universe.dependency(dependency).kind;
                if !kinds.contains(&kind) {
                    continue;
                }
                for found in garbage::fulfilling(marking, dependency) {
                    if let std::collections::hash_map::Entry::Vacant(entry) = reasons.entry(found) {
                        entry.insert(Reason::Of(package, kind));
                        open.push_back(found);
                    }
                }
            }
        }
    }
    reasons
}

/// The lock with each package's reason written into its stanza.
pub(super) fn explained(mut lock: Lockfile, request: &Request) -> Result<Lockfile> {
    lockfile::sort(&mut lock.packages);
    let indexes = as_indexes(&lock);
    let universe = Universe::new(&request.architecture, &indexes)?;
    let marking = installed(&universe);
    let reasons = reasons(&marking, request);
    for package in &mut lock.packages {
        let reason = find(&universe, package).and_then(|id| reasons.get(&id));
        package.stanza.set(
            lockfile::REASON,
            match reason {
                Some(Reason::Root(reason)) => reason.clone(),
                Some(Reason::Of(parent, kind)) => format!("{} of {}", noun(*kind), universe.display(*parent)),
                None => "left over".to_owned(),
            },
        );
    }
    Ok(lock)
}

fn noun(kind: Kind) -> &'static str {
    match kind {
        Kind::Recommends => "recommends",
        Kind::Suggests => "suggests",
        _ => "depends",
    }
}

fn find(universe: &Universe<'_>, package: &LockedPackage) -> Option<PackageId> {
    let group = universe.find_name(package.name.as_bytes())?;
    universe.siblings(group).find(|&id| {
        let mut versions = universe.versions(id);
        versions.any(|version| universe.architecture_of(version) == package.architecture)
    })
}

/// Why a package is in a lock: a chain from the request to it, a line a step.
pub fn why(request: &Request, lock: &Lockfile, package: &str) -> Result<Vec<String>> {
    let indexes = as_indexes(lock);
    let universe = Universe::new(&request.architecture, &indexes)?;
    let marking = installed(&universe);
    let wanted = PackageRequest { name: package.to_owned(), constraint: Constraint::Any };
    let Some(package) = meant(&marking, &wanted) else {
        return Err(Error::input(format_args!("{package} is not in the lock of image {:?}", request.image))
            .hint("`treestrap lock` resolves it if it is in the manifest's packages"));
    };
    let reasons = reasons(&marking, request);
    let mut lines = Vec::new();
    let mut at = package;
    loop {
        match reasons.get(&at) {
            Some(Reason::Root(reason)) => lines.push(format!("{} is {reason}", universe.display(at))),
            Some(&Reason::Of(parent, kind)) => {
                lines.push(step(&marking, parent, kind, at));
                at = parent;
                continue;
            }
            None => lines.push(format!("nothing in the lock asks for {}", universe.display(at))),
        }
        break;
    }
    lines.reverse();
    Ok(lines)
}

/// "a 1.0 depends on b | c, here c 2.0"
fn step(marking: &Marking<'_, '_>, parent: PackageId, kind: Kind, child: PackageId) -> String {
    let universe = marking.universe;
    let display = |package: PackageId, version: VersionId| {
        format!("{} {}", universe.display(package), String::from_utf8_lossy(universe.version(version).number))
    };
    let shown = |package| match marking.state(package).install {
        Some(version) => display(package, version),
        None => universe.display(package),
    };
    let group = marking.state(parent).install.and_then(|version| {
        universe.dependency_groups(version).find(|group| {
            universe.dependency(group[0]).kind == kind
                && group.iter().any(|&member| garbage::fulfilling(marking, member).contains(&child))
        })
    });
    let Some(group) = group else { return format!("{} {} {}", shown(parent), kind.verb(), shown(child)) };
    let text: Vec<String> = group.iter().map(|&member| universe.display_relation(member)).collect();
    let direct = group.len() == 1 && universe.dependency(group[0]).target == child;
    let here = if direct { String::new() } else { format!(", here {}", shown(child)) };
    format!("{} {} {}{here}", shown(parent), kind.verb(), text.join(" | "))
}

/// Whether a lock is what a request asks for: the same request by its digest, if the lock has one,
/// and in any case complete, without conflicts, with everything that is asked for and, as far as the lock
/// tells, nothing else.
pub fn check(request: &Request, lock: &Lockfile) -> Result<()> {
    let mut problems = Vec::new();
    if lock.request.is_some_and(|known| known != digest(request)) {
        problems.push("it was made for another request: packages, suites or options have changed".to_owned());
    }
    problems.extend(semantic_problems(request, lock)?);
    if problems.is_empty() {
        return Ok(());
    }
    let shown: Vec<&str> = problems.iter().take(10).map(String::as_str).collect();
    let more = match problems.len() - shown.len() {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    Err(Error::input(format_args!(
        "the lock of image {:?} is not what the manifest asks for:\n  {}{more}",
        request.image,
        shown.join("\n  ")
    ))
    .hint(format_args!("treestrap lock {}", request.image)))
}

fn semantic_problems(request: &Request, lock: &Lockfile) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let indexes = as_indexes(lock);
    let universe = Universe::new(&request.architecture, &indexes)?;
    let marking = installed(&universe);
    let names_foreign = request.packages.iter().any(|package| package.name.contains(':'));
    for package in &lock.packages {
        let native = package.architecture == "all" || package.architecture == request.architecture;
        if !native && !names_foreign {
            problems.push(format!(
                "{} is of {}, the image of {}",
                package.name, package.architecture, request.architecture
            ));
        }
    }
    for wanted in &request.packages {
        problems.extend(wanted_problem(&marking, lock, wanted)?);
    }
    let mut packages = marking.installed();
    packages.sort_by_key(|&package| (universe.name(package), package));
    for &package in &packages {
        let Some(version) = marking.state(package).install else { continue };
        for group in universe.dependency_groups(version) {
            let kind = universe.dependency(group[0]).kind;
            let counts = kind.is_critical() && (request.dependencies || kind.is_negative());
            if counts && !marking.any_fulfilled(&group) {
                let text: Vec<String> = group.iter().map(|&d| universe.display_relation(d)).collect();
                let verdict = if kind.is_negative() { "which is in it" } else { "which is not in it" };
                problems.push(format!(
                    "{} {} {}, {verdict}",
                    universe.display(package),
                    kind.verb(),
                    text.join(" | ")
                ));
            }
        }
    }
    if !tells_essential(lock) {
        return Ok(problems);
    }
    let reasons = reasons(&marking, request);
    for package in packages {
        if !reasons.contains_key(&package) {
            problems.push(format!("nothing asks for {}", universe.display(package)));
        }
    }
    Ok(problems)
}

/// Whether a lock says which of its packages are Essential, and so why they are in: apt2ostree's have no
/// such field.
fn tells_essential(lock: &Lockfile) -> bool {
    lock.request.is_some() || lock.packages.iter().any(|package| package.stanza.get("Essential").is_some())
}

fn wanted_problem(
    marking: &Marking<'_, '_>,
    lock: &Lockfile,
    wanted: &PackageRequest,
) -> Result<Option<String>> {
    let name = &wanted.name;
    let found = meant(marking, wanted);
    let version = found.and_then(|package| marking.state(package).install);
    let Some(version) = version else {
        return Ok((wanted.constraint != Constraint::Absent).then(|| format!("{name} is not in it")));
    };
    let number = String::from_utf8_lossy(marking.universe.version(version).number).into_owned();
    Ok(match &wanted.constraint {
        Constraint::Any => None,
        Constraint::Absent => {
            let real = marking.universe.name(marking.universe.version(version).package);
            // A provider of an unwanted name is not that package.
            (real == name.split(':').next().unwrap_or(name).as_bytes())
                .then(|| format!("{name} is in it, and must be absent"))
        }
        Constraint::Version(pattern) => {
            let fits = Matcher::version(pattern)?.matches_version(marking.universe, &[], version);
            (!fits).then(|| format!("{name} is {number} in it, asked for is {pattern}"))
        }
        Constraint::Suite(suite) => {
            // A suite has two names, of which the lock knows the manifest's: another one may be
            // the same suite, so that only the digest can tell.
            let entry = lock.packages.iter().find(|package| package.name == *name);
            let from = entry.and_then(|package| package.stanza.get(lockfile::SUITE));
            match from {
                Some(from) if lock.request.is_none() && from != suite => {
                    Some(format!("{name} is from {from} in it, asked for is {suite}"))
                }
                _ => None,
            }
        }
    })
}
