//! What is to be installed, and how marking one package marks others: apt's classic algorithm.
//!
//! Nothing is ever installed already: an image starts from an empty dpkg status, so of apt's
//! states (keep, install, delete) two are left, and all that is about upgrades falls away.
//!
//! One detail of apt shows in its choices and is kept: whether relations are fulfilled is noted
//! when a package's state changes, not when it is asked for. A candidate that was given up in the
//! meantime therefore still counts, until something else touches the same target. [`Notes`]
//! remembers per target what was known of it last.

use std::collections::{HashMap, HashSet};

use super::universe::{DependencyId, Kind, Package, PackageId, Universe, VersionId};

/// apt gives up on chains of dependencies that are longer.
const MAXIMUM_DEPTH: usize = 3000;

/// What is planned for a package.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// The version that would be installed.
    pub(super) candidate: Option<VersionId>,
    /// The version that will be installed.
    pub(super) install: Option<VersionId>,
    /// Only a request may change what is planned.
    pub(super) protected: bool,
    /// It was not requested.
    pub(super) automatic: bool,
    /// It must not be installed.
    pub(super) absent: bool,
    /// The lock of before has it: it comes first among providers.
    pub(super) preferred: bool,
}

/// Whether marking may look for dependencies too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// The package alone.
    Nothing,
    /// Its dependencies too.
    Dependencies,
}

/// Who wants a package marked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A request: it is always right.
    Request,
    /// A dependency.
    Dependency,
}

/// What was known of a target when its dependents were last told.
#[derive(Clone, Debug)]
struct Notes {
    install: Option<VersionId>,
    candidate: Option<VersionId>,
    /// Of each provider, in the universe's order: whether it is being installed, whether it is a
    /// candidate.
    providers: Vec<(bool, bool)>,
}

/// The plan.
pub(super) struct Marking<'u, 'a> {
    /// All packages.
    pub(super) universe: &'u Universe<'a>,
    /// Whether Recommends count.
    pub(super) recommends: bool,
    states: Vec<State>,
    /// The candidates before anything was marked.
    initial: Vec<Option<VersionId>>,
    notes: HashMap<PackageId, Notes>,
    /// Packages that are or were marked, in order; with repetitions.
    touched: Vec<PackageId>,
}

impl<'u, 'a> Marking<'u, 'a> {
    /// A plan with nothing in it.
    pub(super) fn new(
        universe: &'u Universe<'a>,
        candidates: Vec<Option<VersionId>>,
        recommends: bool,
    ) -> Self {
        let states = candidates.iter().map(|&candidate| State { candidate, ..State::default() }).collect();
        Marking {
            universe,
            recommends,
            states,
            initial: candidates,
            notes: HashMap::new(),
            touched: Vec::new(),
        }
    }

    /// A package's state.
    pub(super) fn state(&self, package: PackageId) -> &State {
        &self.states[package.index()]
    }

    /// A package's state, for changes that its dependents are not told of.
    pub(super) fn state_mut(&mut self, package: PackageId) -> &mut State {
        &mut self.states[package.index()]
    }

    /// The packages that will be installed, in the order in which they were first marked.
    pub(super) fn installed(&self) -> Vec<PackageId> {
        let mut seen = HashSet::new();
        let marked = self.touched.iter().copied();
        marked.filter(|&p| self.state(p).install.is_some() && seen.insert(p)).collect()
    }

    /// Whether a kind of relation counts.
    pub(super) fn is_important(&self, kind: Kind) -> bool {
        kind.is_critical() || kind == Kind::Recommends && self.recommends
    }

    // ---- what is known of relations

    fn candidate_note(&self, package: PackageId) -> Option<VersionId> {
        self.notes.get(&package).map_or(self.initial[package.index()], |notes| notes.candidate)
    }

    /// Whether something that will be installed is meant by a relation, as far as is noted.
    fn hits_installed(&self, dependency: DependencyId) -> bool {
        let target = self.universe.dependency(dependency).target;
        let Some(notes) = self.notes.get(&target) else { return false };
        let own = notes.install.is_some_and(|version| {
            !self.universe.ignores_package(dependency, target)
                && self.universe.version_fulfils(dependency, version)
        });
        own || self.universe.providers(target).zip(&notes.providers).any(|(provides, &(installed, _))| {
            installed
                && !self.universe.ignores_provider(dependency, provides)
                && self.universe.provision_fulfils(dependency, provides)
        })
    }

    /// Whether a candidate is meant by a relation, as far as is noted.
    fn hits_candidate(&self, dependency: DependencyId) -> bool {
        let universe = self.universe;
        let target = universe.dependency(dependency).target;
        let own = self.candidate_note(target).is_some_and(|version| {
            !universe.ignores_package(dependency, target) && universe.version_fulfils(dependency, version)
        });
        let noted = self.notes.get(&target).map(|notes| &notes.providers);
        own || universe.providers(target).enumerate().any(|(at, provides)| {
            let is_candidate = match noted {
                Some(noted) => noted[at].1,
                None => {
                    let owner = universe.provision(provides).owner;
                    self.initial[universe.version(owner).package.index()] == Some(owner)
                }
            };
            is_candidate
                && !universe.ignores_provider(dependency, provides)
                && universe.provision_fulfils(dependency, provides)
        })
    }

    /// Whether a relation is fulfilled by what will be installed.
    pub(super) fn is_fulfilled(&self, dependency: DependencyId) -> bool {
        self.hits_installed(dependency) != self.universe.dependency(dependency).kind.is_negative()
    }

    /// Whether any of a group of alternatives is fulfilled.
    pub(super) fn any_fulfilled(&self, group: &[DependencyId]) -> bool {
        group.iter().any(|&dependency| self.is_fulfilled(dependency))
    }

    /// Whether a relation would be fulfilled by candidates.
    pub(super) fn is_fulfilled_by_candidate(&self, dependency: DependencyId) -> bool {
        self.hits_candidate(dependency) != self.universe.dependency(dependency).kind.is_negative()
    }

    /// The groups of a version's relations that are not fulfilled by what will be installed, of
    /// the kinds that `counts` accepts.
    fn unfulfilled(&self, version: VersionId, counts: impl Fn(Kind) -> bool) -> bool {
        self.universe
            .dependency_groups(version)
            .any(|group| counts(self.universe.dependency(group[0]).kind) && !self.any_fulfilled(&group))
    }

    /// Whether what will be installed of a package is broken.
    pub(super) fn is_broken(&self, package: PackageId) -> bool {
        self.state(package).install.is_some_and(|version| self.unfulfilled(version, Kind::is_critical))
    }

    /// Whether it is broken, or lacks recommended packages where they count.
    pub(super) fn is_lacking(&self, package: PackageId) -> bool {
        let install = self.state(package).install;
        install.is_some_and(|version| self.unfulfilled(version, |kind| self.is_important(kind)))
    }

    /// Whether a version could be installed with what will be installed.
    pub(super) fn is_installable_now(&self, version: VersionId) -> bool {
        !self.unfulfilled(version, Kind::is_critical)
    }

    /// How many packages are broken.
    pub(super) fn broken_count(&self) -> usize {
        self.installed().into_iter().filter(|&package| self.is_broken(package)).count()
    }

    /// Tells the dependents of a package, and of what its candidate provides.
    fn update(&mut self, package: PackageId) {
        self.note(package);
        if let Some(candidate) = self.state(package).candidate {
            let provisions: Vec<_> = self.universe.provisions(candidate).collect();
            for provides in provisions {
                self.note(self.universe.provision(provides).target);
            }
        }
    }

    fn note(&mut self, target: PackageId) {
        let universe = self.universe;
        let providers = universe.providers(target).map(|provides| {
            let owner = universe.provision(provides).owner;
            let state = self.state(universe.version(owner).package);
            (state.install == Some(owner), state.candidate == Some(owner))
        });
        let State { install, candidate, .. } = *self.state(target);
        let notes = Notes { install, candidate, providers: providers.collect() };
        self.notes.insert(target, notes);
    }

    // ---- marks

    /// Whether a package may be marked for installation.
    fn may_install(&self, package: PackageId, depth: usize, by: By) -> bool {
        let state = self.state(package);
        depth <= MAXIMUM_DEPTH
            && self.universe.versions(package).next().is_some()
            && (by == By::Request || state.install.is_some() || !state.protected && !state.absent)
    }

    /// Takes a package out of the plan; whether that is allowed.
    pub(super) fn mark_keep(&mut self, package: PackageId, by: By) -> bool {
        let state = self.state_mut(package);
        if state.install.is_none() {
            return true;
        }
        if by == By::Dependency && state.protected {
            return false;
        }
        state.install = None;
        self.update(package);
        true
    }

    /// Takes a package out of the plan as apt does when it removes it, which essential and
    /// requested packages resist; whether that is allowed.
    pub(super) fn mark_delete(&mut self, package: PackageId) -> bool {
        let Package { essential, important, .. } = *self.universe.package(package);
        let state = self.state(package);
        if state.protected || essential || important || state.absent {
            return false;
        }
        if state.install.is_none() {
            return true;
        }
        if !state.automatic {
            return false;
        }
        self.state_mut(package).install = None;
        self.update(package);
        true
    }

    /// Gives up a package's candidate; its dependents are not told.
    fn discard_candidate(&mut self, package: PackageId) {
        let state = self.state_mut(package);
        state.candidate = state.install;
    }

    fn discard_install(&mut self, package: PackageId) {
        let state = self.state_mut(package);
        if state.install.is_some() || state.candidate.is_some() {
            state.install = None;
            self.update(package);
            self.discard_candidate(package);
        }
    }

    /// Makes `version` the candidate, and what is installed if the package is marked.
    pub(super) fn set_candidate(&mut self, version: VersionId) {
        let package = self.universe.version(version).package;
        let state = self.state_mut(package);
        if state.candidate == Some(version) {
            return;
        }
        if state.install.is_some() && state.candidate == state.install {
            state.install = Some(version);
        }
        state.candidate = Some(version);
        self.update(package);
    }

    fn plan_candidate(&mut self, package: PackageId, by: By) {
        let state = self.state_mut(package);
        if state.protected && state.install == state.candidate {
            return;
        }
        state.install = state.candidate;
        state.automatic = by == By::Dependency;
        self.touched.push(package);
        self.update(package);
    }

    /// Whether each critical dependency of the candidate has a candidate itself. If not, the
    /// candidate is given up, or the problem resolver would stumble over it.
    fn has_possible_dependencies(&mut self, package: PackageId) -> bool {
        let Some(candidate) = self.state(package).candidate else { return true };
        let impossible = self.universe.dependency_groups(candidate).any(|group| {
            let kind = self.universe.dependency(group[0]).kind;
            kind.is_critical()
                && !kind.is_negative()
                && !group.iter().any(|&dependency| {
                    self.is_fulfilled(dependency) || self.is_fulfilled_by_candidate(dependency)
                })
        });
        if impossible && !self.state(package).protected {
            let state = self.state_mut(package);
            state.candidate = None;
        }
        !impossible
    }

    /// Marks a package for installation, and what it needs; whether that worked. Where it did not
    /// and the package was not requested, the package is taken out again, though not all that was
    /// marked on the way.
    pub(super) fn mark_install(&mut self, package: PackageId, follow: Follow, depth: usize, by: By) -> bool {
        if !self.may_install(package, depth, by) {
            return false;
        }
        let State { candidate, install, protected, .. } = *self.state(package);
        let Some(candidate) = candidate else { return false };
        if install.is_some() && !protected && !self.is_lacking(package) {
            return true;
        }
        if follow == Follow::Dependencies && !self.has_possible_dependencies(package) {
            return false;
        }
        if by == By::Request {
            self.plan_candidate(package, by);
        }
        let fail_early = !protected && by == By::Dependency;
        let mut failed = false;
        let mut needs = Vec::new();
        if follow == Follow::Dependencies {
            let (wanted, unwanted) = self.collect_dependencies(candidate, protected);
            needs = wanted;
            if !self.drop_conflicting(&unwanted, protected, by) {
                if fail_early {
                    return false;
                }
                failed = true;
            }
        }
        if by == By::Dependency {
            self.plan_candidate(package, by);
        }
        if follow == Follow::Nothing {
            return !failed;
        }
        // While its dependencies are looked for nothing may take the package out again.
        self.state_mut(package).protected = true;
        let installed = self.install_dependencies(needs, protected, depth, by);
        if !installed && fail_early {
            self.discard_install(package);
        }
        self.state_mut(package).protected = protected;
        installed && !failed
    }

    /// A version's relations that need work: groups of alternatives to install, and what must go.
    fn collect_dependencies(
        &self,
        version: VersionId,
        protected: bool,
    ) -> (Vec<Vec<DependencyId>>, Vec<DependencyId>) {
        let (mut needs, mut unwanted) = (Vec::new(), Vec::new());
        for group in self.universe.dependency_groups(version) {
            let kind = self.universe.dependency(group[0]).kind;
            if !self.is_important(kind) || !protected && self.any_fulfilled(&group) {
                continue;
            }
            if kind.is_negative() {
                unwanted.push(group[0]);
            } else {
                needs.push(group);
            }
        }
        (needs, unwanted)
    }

    /// Takes what conflicts out of the plan. A protected package does more: what it conflicts with
    /// can no longer be chosen at all.
    fn drop_conflicting(&mut self, conflicts: &[DependencyId], protected: bool, by: By) -> bool {
        let mut failed = false;
        for &conflict in conflicts {
            for version in self.solutions(&[conflict]) {
                let package = self.universe.version(version).package;
                if self.state(package).candidate != Some(version) {
                    continue;
                }
                if self.state(package).install.is_some() && !self.mark_keep(package, By::Dependency) {
                    failed = true;
                    if !protected && by == By::Dependency {
                        return false;
                    }
                } else if protected {
                    self.discard_candidate(package);
                    self.state_mut(package).protected = true;
                }
            }
        }
        !failed
    }

    fn install_dependencies(
        &mut self,
        needs: Vec<Vec<DependencyId>>,
        protected: bool,
        depth: usize,
        by: By,
    ) -> bool {
        let mut failed = false;
        for group in needs {
            let critical = self.universe.dependency(group[0]).kind.is_critical();
            if self.any_fulfilled(&group) {
                if protected && critical && !self.protect_only_solution(&group, depth) {
                    failed = true;
                }
                continue;
            }
            let found = self.install_first_solution(&group, protected && critical, depth);
            if !found && critical {
                failed = true;
                if !protected && by == By::Dependency {
                    break;
                }
            }
        }
        !failed
    }

    /// What a protected package cannot do without is protected itself.
    fn protect_only_solution(&mut self, group: &[DependencyId], depth: usize) -> bool {
        let mut solutions = self.unsorted_solutions(group);
        solutions.sort_unstable();
        solutions.dedup();
        solutions.retain(|&version| !self.is_ruled_out(version));
        let [only] = solutions[..] else { return true };
        let package = self.universe.version(only).package;
        if self.state(package).protected {
            return true;
        }
        self.state_mut(package).protected = true;
        self.mark_install(package, Follow::Dependencies, depth + 1, By::Dependency)
    }

    fn install_first_solution(&mut self, group: &[DependencyId], protect: bool, depth: usize) -> bool {
        let solutions = self.solutions(group);
        let only = solutions.len() == 1;
        for version in solutions {
            let package = self.universe.version(version).package;
            if self.state(package).candidate != Some(version) {
                continue;
            }
            if protect && only {
                if !self.mark_install(package, Follow::Nothing, depth + 1, By::Dependency) {
                    continue;
                }
                self.state_mut(package).protected = true;
            }
            if self.mark_install(package, Follow::Dependencies, depth + 1, By::Dependency) {
                return true;
            }
        }
        false
    }

    // ---- what could fulfil a relation

    /// The candidates that a relation means, the target's own first.
    fn candidates_for(&self, dependency: DependencyId) -> Vec<VersionId> {
        let universe = self.universe;
        if !self.hits_candidate(dependency) {
            return Vec::new();
        }
        let target = universe.dependency(dependency).target;
        let own = self.state(target).candidate.filter(|&version| {
            !universe.ignores_package(dependency, target) && universe.version_fulfils(dependency, version)
        });
        let providers = universe.providers(target).filter(|&provides| {
            let owner = universe.provision(provides).owner;
            !universe.ignores_provider(dependency, provides)
                && self.state(universe.version(owner).package).candidate == Some(owner)
                && universe.provision_fulfils(dependency, provides)
        });
        own.into_iter().chain(providers.map(|provides| universe.provision(provides).owner)).collect()
    }

    fn unsorted_solutions(&self, group: &[DependencyId]) -> Vec<VersionId> {
        group.iter().flat_map(|&dependency| self.candidates_for(dependency)).collect()
    }

    /// Whether it was decided that the version's package is not installed.
    fn is_ruled_out(&self, version: VersionId) -> bool {
        let state = self.state(self.universe.version(version).package);
        state.protected && state.install.is_none()
    }

    /// The candidates that fulfil a group of alternatives: alternative by alternative, the best
    /// provider of each first. Of a conflict: all that it means.
    fn solutions(&self, group: &[DependencyId]) -> Vec<VersionId> {
        let universe = self.universe;
        let (mut kept, mut new) = (Vec::new(), Vec::new());
        for &dependency in group {
            let mut versions = self.candidates_for(dependency);
            let target = universe.dependency(dependency).target;
            versions.sort_by(|&a, &b| self.compare_providers(target, a, b));
            for version in versions {
                let preferred = self.state(universe.version(version).package).preferred;
                if preferred { kept.push(version) } else { new.push(version) }
            }
        }
        kept.append(&mut new);
        kept.dedup();
        if !universe.dependency(group[0]).kind.is_negative() {
            kept.retain(|&version| !self.is_ruled_out(version));
        }
        kept
    }

    /// apt's order of the providers of a package, the best first.
    pub(super) fn compare_providers(
        &self,
        target: PackageId,
        a: VersionId,
        b: VersionId,
    ) -> std::cmp::Ordering {
        let universe = self.universe;
        let (version_a, version_b) = (universe.version(a), universe.version(b));
        let (a, b) = (version_a.package, version_b.package);
        let (package_a, package_b) = (universe.package(a), universe.package(b));
        let first_if = |a: bool, b: bool| b.cmp(&a);
        let target_group = universe.package(target).group;
        first_if(self.state(a).protected, self.state(b).protected)
            .then_with(|| first_if(self.state(a).preferred, self.state(b).preferred))
            .then_with(|| first_if(package_a.group == target_group, package_b.group == target_group))
            .then_with(|| first_if(package_a.essential, package_b.essential))
            .then_with(|| first_if(package_a.important, package_b.important))
            .then_with(|| package_a.architecture.cmp(&package_b.architecture))
            .then_with(|| version_a.priority.cmp(&version_b.priority))
            // The one that the indexes mention last.
            .then_with(|| b.cmp(&a))
    }
}
