//! From a request to versions to mark: what `apt-get install NAME… NAME/SUITE NAME=VERSION NAME-`
//! makes of its command line.
//!
//! The equal command line is: the essential packages and those of the wanted priorities, by name,
//! leaving out what the request names itself; then the requested packages in the request's order.
//! Unlike apt's, names are only names: no task (`name^`), pattern or regular expression.

use std::collections::{HashMap, HashSet};

use super::{
    index::Index,
    marking::{By, Follow, Marking},
    policy::Matcher,
    universe::{Architecture, DependencyId, PackageId, Universe, VersionId, priority_number},
};
use crate::{
    Error, Result,
    artefacts::{Constraint, PackageRequest, Request},
};

/// What a request means.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// The versions to install, in the order in which to mark them.
    pub(super) install: Vec<VersionId>,
    /// What must not be installed.
    pub(super) absent: Vec<PackageId>,
    /// The versions among them that were asked for as such.
    pub(super) exact: Vec<VersionId>,
    /// Why each of their packages is to be installed: "requested", "essential", "required".
    pub(super) why: HashMap<PackageId, String>,
    /// Versions chosen by suite: their dependencies may need versions of that suite too.
    by_release: Vec<(VersionId, Matcher)>,
}

/// Names with several meanings or none, in the order in which they were found.
#[derive(Default)]
struct Problems {
    messages: Vec<String>,
    hint: Option<String>,
}

impl Problems {
    fn add(&mut self, message: String, hint: impl Into<String>) {
        self.messages.push(message);
        self.hint.get_or_insert_with(|| hint.into());
    }
}

/// Finds the versions that a request means.
pub(super) fn select(
    marking: &mut Marking<'_, '_>,
    indexes: &[Index],
    request: &Request,
) -> Result<Selection> {
    let mut selection = Selection::default();
    let mut problems = Problems::default();
    let mut wanted = Vec::new();
    for package in &request.packages {
        match find_package(marking.universe, &package.name) {
            Ok(id) => wanted.push((package, id)),
            Err(hint) => {
                problems.add(format!("no index has a package named {:?}", package.name), hint);
            }
        }
    }
    let named: HashSet<PackageId> = wanted.iter().map(|&(_, id)| id).collect();
    for (version, why) in implied(marking, request, &named) {
        selection.why.insert(marking.universe.version(version).package, why);
        selection.install.push(version);
    }
    for (package, id) in wanted {
        if package.constraint == Constraint::Absent {
            selection.absent.push(id);
            continue;
        }
        match choose(marking, indexes, package, id, &mut selection) {
            Ok(version) => {
                let id = marking.universe.version(version).package;
                selection.why.insert(id, "requested".to_owned());
                selection.install.push(version);
                if package.constraint != Constraint::Any {
                    selection.exact.push(version);
                }
            }
            Err(Choice::Broken(error)) => return Err(error.context(&package.name)),
            Err(Choice::None(message, hint)) => problems.add(message, hint),
        }
    }
    let mut seen = HashSet::new();
    selection.install.retain(|&version| seen.insert(version));
    if problems.messages.is_empty() {
        return Ok(selection);
    }
    Err(Error::input(problems.messages.join("; ")).hint(problems.hint.unwrap_or_default()))
}

/// The essential packages and those of the wanted priorities, by name.
fn implied(
    marking: &Marking<'_, '_>,
    request: &Request,
    named: &HashSet<PackageId>,
) -> Vec<(VersionId, String)> {
    let universe = marking.universe;
    let numbers: Vec<u8> = request.priority.iter().map(|name| priority_number(name.as_bytes())).collect();
    let mut implied = Vec::new();
    for package in universe.package_ids() {
        if universe.package(package).architecture != Architecture::NATIVE || named.contains(&package) {
            continue;
        }
        let Some(candidate) = marking.state(package).candidate else { continue };
        let version = universe.version(candidate);
        let field = |name| crate::debian::deb822::field(version.stanza, name);
        let essential =
            request.essential && universe.package(package).essential && field("Essential") == Some(b"yes");
        if essential {
            implied.push((candidate, "essential".to_owned()));
        } else if numbers.contains(&version.priority) {
            // Several names have one number; the text decides. It is looked for in few stanzas only: all of them
            // are most of an index.
            let priority = field("Priority").unwrap_or_default();
            if let Some(priority) = request.priority.iter().find(|name| name.as_bytes() == priority) {
                implied.push((candidate, format!("of priority {priority}")));
            }
        }
    }
    implied.sort_by_key(|&(version, _)| universe.name(universe.version(version).package));
    implied
}

/// The package that a name means; if there is none, what to do about it.
fn find_package(universe: &Universe<'_>, full_name: &str) -> Result<PackageId, String> {
    let (name, architecture) = match full_name.split_once(':') {
        Some((name, architecture)) => (name, Some(architecture)),
        None => (full_name, None),
    };
    let group = universe.find_name(name.as_bytes());
    let found = group.and_then(|group| match architecture {
        None => universe.preferred(group, true),
        Some("native" | "all") => universe.find(group, Architecture::NATIVE),
        Some("any") => universe.preferred(group, true),
        Some(name) => universe.find(group, universe.find_architecture(name.as_bytes())?),
    });
    // A name that is only mentioned, in a Suggests say, is as good as none.
    let exists =
        |&id: &PackageId| universe.versions(id).next().is_some() || universe.providers(id).next().is_some();
    if let Some(id) = found.filter(exists) {
        return Ok(id);
    }
    if let (Some(architecture), Some(group)) = (architecture, group)
        && universe.preferred(group, true).as_ref().is_some_and(exists)
    {
        return Err(format!(
            "there is {name}, but not of {architecture}: ask for {name}, or list the repository's \
             {architecture} packages"
        ));
    }
    Err(match near_names(universe, name) {
        near if near.is_empty() => {
            "check the spelling, and that the manifest's suites and components have it".to_owned()
        }
        near => format!("did you mean {}?", near.join(", ")),
    })
}

/// Up to three names that look like `name`.
fn near_names(universe: &Universe<'_>, name: &str) -> Vec<String> {
    let mut near: Vec<(f64, String)> = universe
        .names()
        .filter(|&(group, _)| {
            universe.siblings(group).any(|package| universe.versions(package).next().is_some())
        })
        .map(|(_, known)| String::from_utf8_lossy(known).into_owned())
        .map(|known| (strsim::jaro_winkler(name, &known), known))
        .filter(|&(likeness, _)| likeness > 0.85)
        .collect();
    near.sort_by(|(a, name_a), (b, name_b)| b.total_cmp(a).then_with(|| name_a.cmp(name_b)));
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Why no version could be chosen.
enum Choice {
    /// What is wrong, and what to do.
    None(String, String),
    /// The request itself makes no sense.
    Broken(Error),
}

fn choose(
    marking: &mut Marking<'_, '_>,
    indexes: &[Index],
    request: &PackageRequest,
    package: PackageId,
    selection: &mut Selection,
) -> Result<VersionId, Choice> {
    let universe = marking.universe;
    let name = &request.name;
    let (matcher, exact) = match &request.constraint {
        Constraint::Any | Constraint::Absent => {
            if let Some(candidate) = marking.state(package).candidate {
                return Ok(candidate);
            }
            let providers = universe.providers(package).map(|id| universe.provision(id).owner);
            let candidates: Vec<VersionId> = providers
                .filter(|&version| {
                    marking.state(universe.version(version).package).candidate == Some(version)
                })
                .collect();
            return only_provider(universe, &candidates).ok_or_else(|| no_candidate(marking, name, package));
        }
        Constraint::Version(version) => (Matcher::version(version), Some(version)),
        Constraint::Suite(suite) => (Matcher::release(suite), None),
    };
    let matcher = matcher.map_err(Choice::Broken)?;
    let fits = |&version: &VersionId| matcher.matches_version(universe, indexes, version);
    let mut found = universe.versions(package).find(fits);
    if found.is_none() {
        // A virtual package has the versions that it is provided in, the suites of its providers.
        let providers: Vec<VersionId> = universe
            .providers(package)
            .map(|id| universe.provision(id))
            .filter(|provides| match exact {
                Some(version) => provides.number == Some(version.as_bytes()),
                None => fits(&provides.owner),
            })
            .map(|provides| provides.owner)
            .collect();
        found = only_provider(universe, &providers);
        if let Some(version) = found {
            marking.set_candidate(version);
        }
    }
    let Some(version) = found else {
        let known: Vec<String> = universe.versions(package).map(|v| describe(universe, indexes, v)).collect();
        let wanted = match &request.constraint {
            Constraint::Suite(suite) => format!("no version of {name} is in suite {suite:?}"),
            _ => format!("no index has version {:?} of {name}", exact.map_or("", |v| v.as_str())),
        };
        let hint = match known.as_slice() {
            [] => format!("{name} is a virtual package: name one of its providers"),
            known => format!("there is {}", known.join(", ")),
        };
        return Err(Choice::None(wanted, hint));
    };
    if exact.is_none_or(|exact| exact.as_bytes() != universe.version(version).number) {
        selection.by_release.push((version, matcher));
    }
    Ok(version)
}

/// A version with the suites that have it.
fn describe(universe: &Universe<'_>, indexes: &[Index], version: VersionId) -> String {
    let version = universe.version(version);
    let mut suites: Vec<&str> = version
        .indexes
        .iter()
        .filter_map(|&at| indexes.get(usize::from(at)))
        .map(|index| index.suite.as_str())
        .collect();
    suites.dedup();
    format!("{} ({})", String::from_utf8_lossy(version.number), suites.join(", "))
}

/// The one provider, if all are of one name; of several architectures the first.
fn only_provider(universe: &Universe<'_>, versions: &[VersionId]) -> Option<VersionId> {
    let package = |version: VersionId| universe.package(universe.version(version).package);
    let &first = versions.first()?;
    let one_name = versions.iter().all(|&version| package(version).group == package(first).group);
    one_name.then(|| {
        let best = versions.iter().copied().min_by_key(|&version| package(version).architecture);
        best.unwrap_or(first)
    })
}

fn no_candidate(marking: &Marking<'_, '_>, name: &str, package: PackageId) -> Choice {
    let universe = marking.universe;
    let mut providers: Vec<String> = universe
        .providers(package)
        .map(|id| universe.provision(id).owner)
        .filter(|&version| marking.state(universe.version(version).package).candidate == Some(version))
        .map(|version| universe.display(universe.version(version).package))
        .collect();
    providers.sort();
    providers.dedup();
    if providers.is_empty() {
        return Choice::None(
            format!("no version of {name} is a candidate"),
            "the pins, or the suites' NotAutomatic, forbid all of them: pin it, or ask for name/suite"
                .to_owned(),
        );
    }
    Choice::None(
        format!("{name} is a virtual package with several providers"),
        format!("name one of them: {}", providers.join(", ")),
    )
}

/// Marks what was selected, first alone, then with what it needs.
pub(super) fn mark(marking: &mut Marking<'_, '_>, indexes: &[Index], selection: &Selection) {
    let universe = marking.universe;
    for &package in &selection.absent {
        let state = marking.state_mut(package);
        state.protected = true;
        state.absent = true;
    }
    for &version in &selection.install {
        let package = universe.version(version).package;
        marking.set_candidate(version);
        marking.state_mut(package).protected = true;
        marking.mark_install(package, Follow::Nothing, 0, By::Request);
    }
    for &(version, _) in &selection.by_release {
        marking.set_candidate(version);
    }
    let mut switched: Vec<VersionId> = Vec::new();
    for (version, matcher) in &selection.by_release {
        switched.push(*version);
        let mut switch = ReleaseSwitch { marking: &mut *marking, indexes, matcher, switched: &mut switched };
        switch.follow(*version);
    }
    for &version in &selection.install {
        let package = universe.version(version).package;
        marking.mark_install(package, Follow::Dependencies, 0, By::Request);
    }
}

/// Makes versions of the same suite the candidates of what a version from it needs, where the
/// candidates do not suffice.
struct ReleaseSwitch<'s, 'u, 'a> {
    marking: &'s mut Marking<'u, 'a>,
    indexes: &'s [Index],
    matcher: &'s Matcher,
    /// The versions that were made candidates so far.
    switched: &'s mut Vec<VersionId>,
}

impl ReleaseSwitch<'_, '_, '_> {
    /// Whether all that `version` depends on is fine now.
    fn follow(&mut self, version: VersionId) -> bool {
        let universe = self.marking.universe;
        self.marking.set_candidate(version);
        let undo_from = self.switched.len();
        for group in universe.dependency_groups(version) {
            let kind = universe.dependency(group[0]).kind;
            if kind.is_negative() || !self.marking.is_important(kind) || self.candidates_suffice(&group) {
                continue;
            }
            if !self.switch_one(&group) && kind.is_critical() {
                let undo: Vec<VersionId> = self.switched.drain(undo_from..).collect();
                for version in undo {
                    self.marking.set_candidate(version);
                }
                return false;
            }
        }
        true
    }

    /// Whether a candidate fulfils one of the alternatives and could be installed as things are.
    fn candidates_suffice(&self, group: &[DependencyId]) -> bool {
        let (marking, universe) = (&*self.marking, self.marking.universe);
        group.iter().any(|&dependency| {
            let data = universe.dependency(dependency);
            let own = marking.state(data.target).candidate;
            let mut providers = universe.providers(data.target).peekable();
            if data.constraint.is_none() && providers.peek().is_some() {
                return providers.map(|id| universe.provision(id).owner).any(|owner| {
                    marking.state(universe.version(owner).package).candidate == Some(owner)
                        && marking.is_installable_now(owner)
                });
            }
            own.is_some_and(|version| {
                universe.version_fulfils(dependency, version) && marking.is_installable_now(version)
            })
        })
    }

    fn switch_one(&mut self, group: &[DependencyId]) -> bool {
        let universe = self.marking.universe;
        for (at, &dependency) in group.iter().enumerate() {
            let data = universe.dependency(dependency);
            if data.constraint.is_none() {
                continue;
            }
            let fits = |&version: &VersionId| self.matcher.matches_version(universe, self.indexes, version);
            let Some(version) = universe.versions(data.target).find(fits) else { continue };
            if !universe.version_fulfils(dependency, version) {
                continue;
            }
            let old = self.marking.state(data.target).candidate;
            let touched = |&other: &VersionId| universe.version(other).package == data.target;
            if old == Some(version) && self.switched.iter().any(touched) {
                return true;
            }
            self.switched.push(version);
            if self.follow(version) {
                return true;
            }
            // apt leaves the last alternative switched, though it did not help; so do we.
            if at + 1 < group.len() {
                if let Some(old) = old {
                    self.marking.set_candidate(old);
                }
                self.switched.pop();
            }
        }
        false
    }
}
