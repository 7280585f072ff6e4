//! apt's problem resolver: what to give up when marking left packages broken.
//!
//! Each package gets a score from its priority and from who depends on it. From the highest
//! score down, a broken package either loses what it conflicts with, if that scores less, or is
//! given up itself. Several rounds, since each change may break others.

use std::collections::HashSet;

use super::{
    marking::{By, Follow, Marking},
    universe::{DependencyId, Kind, PackageId, VersionId},
};

/// apt's rounds.
const ROUNDS: usize = 20;

/// The points of priorities by apt's numbers: none, required, important, standard, optional, extra.
const PRIORITY_SCORES: [i32; 6] = [0, 3, 2, 1, -1, -2];
/// The points of an essential or important package, early on.
const ESSENTIAL_SCORE: i32 = 100;
/// And those that lift it above nearly everything in the end.
const ESSENTIAL_LIFT: i32 = 5000;
/// The points of a request: above everything.
const REQUESTED_LIFT: i32 = 10_000;
/// The buckets of apt's package table, whose order decides between equal scores.
const BUCKETS: u32 = 196_613;

/// The problem resolver.
pub(super) struct ProblemResolver<'m, 'u, 'a> {
    marking: &'m mut Marking<'u, 'a>,
    /// What was requested, present or absent.
    requested: &'m HashSet<PackageId>,
    scores: Vec<i32>,
    /// Packages that were tried as a remedy.
    tried: HashSet<PackageId>,
}

impl<'m, 'u, 'a> ProblemResolver<'m, 'u, 'a> {
    /// A resolver of what `marking` left.
    pub(super) fn new(marking: &'m mut Marking<'u, 'a>, requested: &'m HashSet<PackageId>) -> Self {
        ProblemResolver { marking, requested, scores: Vec::new(), tried: HashSet::new() }
    }

    /// Changes the plan until nothing is broken; whether that worked.
    pub(super) fn resolve(mut self) -> bool {
        if self.marking.broken_count() == 0 {
            return true;
        }
        let before: HashSet<PackageId> = self.marking.installed().into_iter().collect();
        self.scores = self.make_scores();
        let order = self.by_score();
        for round in 0..ROUNDS {
            let mut changed = false;
            for &package in &order {
                if self.marking.is_broken(package) {
                    changed |= self.repair(package, round);
                }
            }
            if !changed {
                break;
            }
        }
        for package in self.marking.installed() {
            if !before.contains(&package) {
                self.marking.state_mut(package).automatic = true;
            }
        }
        self.marking.broken_count() == 0
    }

    fn score(&self, package: PackageId) -> i32 {
        self.scores[package.index()]
    }

    fn make_scores(&self) -> Vec<i32> {
        let universe = self.marking.universe;
        let installed = self.marking.installed();
        let mut scores = vec![0; universe.package_count()];
        for &package in &installed {
            let data = universe.package(package);
            let Some(version) = self.marking.state(package).install else { continue };
            if data.essential || data.important {
                scores[package.index()] += ESSENTIAL_SCORE;
            }
            scores[package.index()] += PRIORITY_SCORES[usize::from(universe.version(version).priority)];
            for dependency in universe.dependencies(version) {
                self.score_targets(dependency, &mut scores);
            }
        }
        let direct = scores.clone();
        // Who depends on a package makes it heavier.
        for &package in &installed {
            for dependent in universe.dependents(package) {
                let dependent = universe.dependency(dependent);
                let parent = universe.version(dependent.parent).package;
                if matches!(dependent.kind, Kind::Depends | Kind::PreDepends | Kind::Recommends)
                    && self.marking.state(parent).install == Some(dependent.parent)
                {
                    scores[package.index()] += direct[parent.index()].max(0);
                }
            }
        }
        // And so what it provides does.
        for package in universe.package_ids() {
            let gained = (scores[package.index()] - direct[package.index()]).abs();
            if gained != 0 {
                let explicit = |&id: &_| !universe.provision(id).implicit;
                for provider in self.installed_providers(package, explicit) {
                    scores[provider.index()] += gained;
                }
            }
        }
        for package in universe.package_ids() {
            let data = universe.package(package);
            if self.requested.contains(&package) {
                scores[package.index()] += REQUESTED_LIFT;
            }
            if data.essential || data.important {
                scores[package.index()] += ESSENTIAL_LIFT;
            }
        }
        scores
    }

    /// Gives a point to what a relation means, takes one from what a conflict means.
    fn score_targets(&self, dependency: DependencyId, scores: &mut [i32]) {
        let universe = self.marking.universe;
        let data = universe.dependency(dependency);
        let points = match data.kind {
            Kind::Depends | Kind::PreDepends | Kind::Recommends => 1,
            Kind::Conflicts | Kind::Breaks => -1,
            Kind::Suggests => return,
        };
        if !universe.ignores_package(dependency, data.target) {
            let install = self.marking.state(data.target).install;
            let fulfils = install.is_some_and(|version| universe.version_fulfils(dependency, version));
            if data.constraint.is_some() && !fulfils {
                return;
            }
            scores[data.target.index()] += points;
        }
        let meant = |&id: &_| {
            !universe.ignores_provider(dependency, id) && universe.provision_fulfils(dependency, id)
        };
        for provider in self.installed_providers(data.target, meant) {
            scores[provider.index()] += points;
        }
    }

    /// The providers of a package that will be installed, each once.
    fn installed_providers(
        &self,
        package: PackageId,
        wanted: impl Fn(&super::universe::ProvidesId) -> bool,
    ) -> Vec<PackageId> {
        let universe = self.marking.universe;
        let owners = universe.providers(package).filter(wanted).map(|id| universe.provision(id).owner);
        let mut providers: Vec<PackageId> = owners
            .filter(|&owner| self.marking.state(universe.version(owner).package).install == Some(owner))
            .map(|owner| universe.version(owner).package)
            .collect();
        providers.sort_unstable();
        providers.dedup();
        providers
    }

    /// All packages, the highest score first; equal ones as in apt's table.
    fn by_score(&self) -> Vec<PackageId> {
        let universe = self.marking.universe;
        let mut order: Vec<(u32, PackageId)> = universe
            .package_ids()
            .filter(|&package| universe.versions(package).next().is_some())
            .map(|package| (bucket(universe.name(package)), package))
            .collect();
        order.sort_by(|(bucket_a, a), (bucket_b, b)| {
            bucket_a
                .cmp(bucket_b)
                .then_with(|| universe.name(*a).cmp(universe.name(*b)))
                .then_with(|| a.cmp(b))
        });
        let mut order: Vec<PackageId> = order.into_iter().map(|(_, package)| package).collect();
        order.sort_by_key(|&package| std::cmp::Reverse(self.score(package)));
        order
    }

    /// Mends one broken package, or gives it up; whether anything changed.
    fn repair(&mut self, package: PackageId, round: usize) -> bool {
        let universe = self.marking.universe;
        let Some(version) = self.marking.state(package).install else { return false };
        let mut changed = false;
        let mut to_drop: Vec<PackageId> = Vec::new();
        for group in universe.dependency_groups(version) {
            if !universe.dependency(group[0]).kind.is_critical() {
                continue;
            }
            let outcome = self.repair_group(package, &group, &mut to_drop);
            changed |= outcome.changed;
            if outcome.given_up {
                break;
            }
        }
        if self.marking.state(package).install.is_some() {
            for other in to_drop {
                let dropped = self.marking.mark_keep(other, By::Dependency);
                changed |= dropped;
                // Whoever keeps coming back loses next time.
                if (!dropped || round > 1) && self.score(package) > self.score(other) {
                    self.scores[other.index()] = self.score(package);
                    changed = true;
                }
            }
        }
        changed
    }

    fn repair_group(
        &mut self,
        package: PackageId,
        group: &[DependencyId],
        to_drop: &mut Vec<PackageId>,
    ) -> Outcome {
        let universe = self.marking.universe;
        let mut outcome = Outcome::default();
        let mut alternatives = group.len() > 1;
        let dropped_before = to_drop.len();
        let mut keep_is_enough = false;
        for &dependency in group {
            if self.marking.any_fulfilled(group) {
                alternatives = false;
                continue;
            }
            let negative = universe.dependency(dependency).kind.is_negative();
            let targets = universe.targets(dependency);
            if targets.is_empty() && !self.marking.state(package).protected && !negative {
                if alternatives {
                    continue;
                }
                // Nothing anywhere can fulfil it.
                self.marking.mark_keep(package, By::Dependency);
                return Outcome { changed: true, given_up: true };
            }
            let step = self.weigh_targets(package, dependency, &targets, alternatives, to_drop);
            keep_is_enough |= step.given_up;
            outcome.changed |= step.given_up;
            if !alternatives && step.given_up {
                return Outcome { changed: true, given_up: true };
            }
        }
        if alternatives && dropped_before == to_drop.len() {
            if keep_is_enough {
                self.marking.mark_keep(package, By::Dependency);
                outcome.changed = true;
            } else if !self.marking.state(package).protected {
                self.marking.mark_delete(package);
                outcome.changed = true;
            }
        }
        outcome
    }

    /// Decides between a package and each target of one of its unfulfilled relations.
    fn weigh_targets(
        &mut self,
        package: PackageId,
        dependency: DependencyId,
        targets: &[VersionId],
        alternatives: bool,
        to_drop: &mut Vec<PackageId>,
    ) -> Outcome {
        let universe = self.marking.universe;
        let kind = universe.dependency(dependency).kind;
        for &target in targets {
            let other = universe.version(target).package;
            if kind.is_negative() && self.marking.state(other).install != Some(target) {
                continue;
            }
            if !kind.is_negative() || self.score(package) <= self.score(other) {
                if self.marking.state(package).protected {
                    if self.try_remedy(other) {
                        self.scores[other.index()] = self.score(other).min(self.score(package));
                        break;
                    }
                    continue;
                }
                self.marking.mark_keep(package, By::Dependency);
                if alternatives {
                    // Another alternative may still do.
                    self.marking.mark_install(package, Follow::Nothing, 0, By::Dependency);
                }
                return Outcome { changed: true, given_up: true };
            }
            if kind == Kind::Breaks && self.marking.is_fulfilled_by_candidate(dependency) {
                self.marking.mark_install(other, Follow::Nothing, 0, By::Dependency);
                continue;
            }
            if !self.marking.state(other).protected {
                to_drop.push(other);
            }
        }
        Outcome::default()
    }

    /// Tries to install a package to mend another, with what it needs in turn.
    fn try_remedy(&mut self, package: PackageId) -> bool {
        let universe = self.marking.universe;
        if self.tried.contains(&package)
            || self.marking.state(package).candidate.is_none()
            || self.requested.contains(&package)
        {
            return false;
        }
        self.tried.insert(package);
        let was_kept = self.marking.state(package).install.is_none();
        if !self.marking.mark_install(package, Follow::Nothing, 0, By::Dependency) {
            return false;
        }
        let Some(version) = self.marking.state(package).install else { return false };
        let mut failed = false;
        for group in universe.dependency_groups(version) {
            if !universe.dependency(group[0]).kind.is_critical() {
                continue;
            }
            for &dependency in &group {
                if self.marking.any_fulfilled(&group) {
                    break;
                }
                let target = self.likely_target(dependency);
                if self.marking.state(target).protected {
                    failed = true;
                } else if self.marking.is_fulfilled_by_candidate(dependency) {
                    failed = !self.try_remedy(target);
                    if !failed {
                        break;
                    }
                } else if universe.dependency(dependency).kind.is_negative() {
                    // The rounds deal with conflicts.
                    break;
                } else {
                    failed = true;
                }
            }
            if failed {
                break;
            }
        }
        if failed && was_kept {
            self.marking.mark_keep(package, By::Dependency);
        } else if failed {
            self.marking.mark_delete(package);
        }
        !failed
    }

    /// A relation's target, or its provider where it has no versions itself.
    fn likely_target(&self, dependency: DependencyId) -> PackageId {
        let universe = self.marking.universe;
        let data = universe.dependency(dependency);
        let own = universe.version(data.parent).package;
        if universe.versions(data.target).next().is_some() {
            return data.target;
        }
        let owners = universe.providers(data.target).map(|id| universe.provision(id).owner);
        owners.map(|owner| universe.version(owner).package).find(|&p| p != own).unwrap_or(data.target)
    }
}

/// What became of a broken package.
#[derive(Clone, Copy, Default)]
struct Outcome {
    changed: bool,
    given_up: bool,
}

/// Where apt's table has a name.
fn bucket(name: &[u8]) -> u32 {
    let hash =
        name.iter().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(byte | 0x20)));
    hash % BUCKETS
}
