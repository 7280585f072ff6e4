//! A complete search, for when apt's way of marking gives up: resolvo, a SAT solver, finds a
//! solution if there is one, or says why there is none.
//!
//! It prefers what apt would: candidates before other versions, alternatives in their order, apt's
//! order of providers. Packages are first restricted to their candidates; only if that has no
//! solution, all versions that the pins allow may be chosen.

use std::{cell::RefCell, collections::HashMap, fmt::Display};

use resolvo::{
    Candidates, Condition, ConditionId, ConditionalRequirement, DenseIndex, Dependencies, DependencyProvider,
    HintDependenciesAvailable, Interner, KnownDependencies, NameId, Problem, Requirement, SolvableId, Solver,
    SolverCache, StringId, UnsolvableOrCancelled, VersionSetId, VersionSetUnionId,
    conflict::{ConflictEdge, ConflictGraph, ConflictNode},
};

use super::{
    marking::Marking,
    policy::Policy,
    selection::Selection,
    universe::{DependencyId, PackageId, VersionId},
};

/// Which versions may be chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Breadth {
    Candidates,
    AllVersions,
}

/// Finds versions that fulfil the selection; if there are none, a chain of reasons.
///
/// `marking` has the candidates, and the requested packages as protected; nothing is marked in it.
pub(super) fn solve(
    marking: &Marking<'_, '_>,
    policy: &Policy,
    selection: &Selection,
) -> Result<Vec<VersionId>, Vec<String>> {
    let mut reasons = None;
    for breadth in [Breadth::Candidates, Breadth::AllVersions] {
        let search = Search::new(marking, policy, selection, breadth);
        let requirements = selection.install.iter().map(|&version| {
            let package = marking.universe.version(version).package;
            let set = search.version_set(package, search.domain(package));
            ConditionalRequirement { condition: None, requirement: Requirement::Single(set) }
        });
        let problem = Problem::new().requirements(requirements.collect());
        let mut solver = Solver::new(search);
        match solver.solve(problem) {
            Ok(solvables) => return Ok(solvables.into_iter().map(version_id).collect()),
            Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
                // What holds candidates back is what people know; other versions only add to it.
                reasons
                    .get_or_insert_with(|| explain(solver.provider(), selection, &conflict.graph(&solver)));
            }
            Err(UnsolvableOrCancelled::Cancelled(_)) => {}
        }
    }
    Err(reasons.unwrap_or_default())
}

fn version_id(solvable: SolvableId) -> VersionId {
    VersionId::new(solvable.to_index())
}

fn solvable_id(version: VersionId) -> SolvableId {
    SolvableId::from_index(version.index())
}

/// Some versions of one package.
struct VersionSet {
    package: PackageId,
    versions: Vec<VersionId>,
}

/// What the solver asks.
struct Search<'m, 'u, 'a> {
    marking: &'m Marking<'u, 'a>,
    policy: &'m Policy,
    breadth: Breadth,
    /// Versions that were requested as such, and packages that must be absent.
    fixed: HashMap<PackageId, Option<VersionId>>,
    sets: RefCell<Vec<VersionSet>>,
    unions: RefCell<Vec<Vec<VersionSetId>>>,
}

impl<'m, 'u, 'a> Search<'m, 'u, 'a> {
    fn new(
        marking: &'m Marking<'u, 'a>,
        policy: &'m Policy,
        selection: &Selection,
        breadth: Breadth,
    ) -> Self {
        let exact = selection.exact.iter().map(|&v| (marking.universe.version(v).package, Some(v)));
        let absent = selection.absent.iter().map(|&package| (package, None));
        Search {
            marking,
            policy,
            breadth,
            fixed: exact.chain(absent).collect(),
            sets: RefCell::default(),
            unions: RefCell::default(),
        }
    }

    /// The versions of a package that may be chosen, the best first.
    fn domain(&self, package: PackageId) -> Vec<VersionId> {
        if let Some(fixed) = self.fixed.get(&package) {
            return fixed.iter().copied().collect();
        }
        let Some(candidate) = self.marking.state(package).candidate else { return Vec::new() };
        let mut versions = vec![candidate];
        if self.breadth == Breadth::AllVersions {
            let universe = self.marking.universe;
            versions.extend(
                universe
                    .versions(package)
                    .filter(|&version| version != candidate && self.policy.allows(universe, version)),
            );
        }
        versions
    }

    fn version_set(&self, package: PackageId, versions: Vec<VersionId>) -> VersionSetId {
        let mut sets = self.sets.borrow_mut();
        sets.push(VersionSet { package, versions });
        VersionSetId::from_index(sets.len() - 1)
    }

    /// The packages that can fulfil a group of alternatives, the best first, with the versions
    /// that do.
    fn solutions(&self, group: &[DependencyId]) -> Vec<(PackageId, Vec<VersionId>)> {
        let universe = self.marking.universe;
        let mut solutions: Vec<(PackageId, Vec<VersionId>)> = Vec::new();
        for &dependency in group {
            let target = universe.dependency(dependency).target;
            let mut versions = universe.targets(dependency);
            versions.retain(|version| self.domain(universe.version(*version).package).contains(version));
            versions.sort_by(|&a, &b| self.marking.compare_providers(target, a, b));
            for version in versions {
                let package = universe.version(version).package;
                match solutions.iter_mut().find(|(known, _)| *known == package) {
                    Some((_, versions)) if versions.contains(&version) => {}
                    Some((_, versions)) => versions.push(version),
                    None => solutions.push((package, vec![version])),
                }
            }
        }
        for (package, versions) in &mut solutions {
            let order = self.domain(*package);
            versions.sort_by_key(|version| order.iter().position(|known| known == version));
        }
        solutions
    }

    fn requirement(&self, group: &[DependencyId]) -> Requirement {
        let solutions = self.solutions(group);
        let target = self.marking.universe.dependency(group[0]).target;
        let mut sets: Vec<VersionSetId> =
            solutions.into_iter().map(|(package, versions)| self.version_set(package, versions)).collect();
        match sets.len() {
            0 => Requirement::Single(self.version_set(target, Vec::new())),
            1 => Requirement::Single(sets.remove(0)),
            _ => {
                let mut unions = self.unions.borrow_mut();
                unions.push(sets);
                Requirement::Union(VersionSetUnionId::from_index(unions.len() - 1))
            }
        }
    }

    /// For each package that a conflict means: the versions that it does not.
    fn constraints(&self, conflict: DependencyId) -> Vec<VersionSetId> {
        self.solutions(&[conflict])
            .into_iter()
            .map(|(package, unwanted)| {
                let mut allowed = self.domain(package);
                allowed.retain(|version| !unwanted.contains(version));
                self.version_set(package, allowed)
            })
            .collect()
    }

    fn display(&self, version: VersionId) -> String {
        let universe = self.marking.universe;
        let version = universe.version(version);
        format!("{} {}", universe.display(version.package), String::from_utf8_lossy(version.number))
    }
}

impl Interner for Search<'_, '_, '_> {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl Display + '_ {
        self.display(version_id(solvable))
    }

    fn display_name(&self, name: NameId) -> impl Display + '_ {
        self.marking.universe.display(PackageId::new(name.to_index()))
    }

    fn display_version_set(&self, set: VersionSetId) -> impl Display + '_ {
        let universe = self.marking.universe;
        let numbers = self.sets.borrow()[set.to_index()]
            .versions
            .iter()
            .map(|&version| String::from_utf8_lossy(universe.version(version).number).into_owned())
            .collect::<Vec<_>>();
        numbers.join(" | ")
    }

    fn display_string(&self, _: StringId) -> impl Display + '_ {
        ""
    }

    fn version_set_name(&self, set: VersionSetId) -> NameId {
        NameId::from_index(self.sets.borrow()[set.to_index()].package.index())
    }

    fn solvable_name(&self, solvable: SolvableId) -> NameId {
        NameId::from_index(self.marking.universe.version(version_id(solvable)).package.index())
    }

    fn version_sets_in_union(&self, union: VersionSetUnionId) -> impl Iterator<Item = VersionSetId> {
        self.unions.borrow()[union.to_index()].clone().into_iter()
    }

    fn resolve_condition(&self, _: ConditionId) -> Condition {
        unreachable!("no requirement has a condition")
    }
}

impl DependencyProvider for Search<'_, '_, '_> {
    async fn filter_candidates(
        &self,
        candidates: &[SolvableId],
        set: VersionSetId,
        inverse: bool,
    ) -> Vec<SolvableId> {
        let sets = self.sets.borrow();
        let versions = &sets[set.to_index()].versions;
        let wanted = candidates.iter().copied();
        wanted.filter(|&candidate| versions.contains(&version_id(candidate)) != inverse).collect()
    }

    async fn get_candidates(&self, name: NameId) -> Option<Candidates> {
        let domain = self.domain(PackageId::new(name.to_index()));
        Some(Candidates {
            candidates: domain.into_iter().map(solvable_id).collect(),
            hint_dependencies_available: HintDependenciesAvailable::None,
            ..Candidates::default()
        })
    }

    async fn sort_candidates(&self, _: &SolverCache<Self>, _: &mut [SolvableId]) {
        // A domain is sorted, and filtering keeps its order.
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        let universe = self.marking.universe;
        let mut known = KnownDependencies::default();
        for group in universe.dependency_groups(version_id(solvable)) {
            let kind = universe.dependency(group[0]).kind;
            if kind.is_negative() {
                known.constrains.extend(self.constraints(group[0]));
            } else if kind.is_critical() {
                let requirement = self.requirement(&group);
                known.requirements.push(ConditionalRequirement { condition: None, requirement });
            }
        }
        Dependencies::Known(known)
    }
}

/// The shortest way through the solver's conflict, as lines a person can follow.
fn explain(search: &Search<'_, '_, '_>, selection: &Selection, conflict: &ConflictGraph) -> Vec<String> {
    let graph = &conflict.graph;
    // From the root, breadth first: by which version each version got into play.
    let mut parents: HashMap<VersionId, Option<VersionId>> = HashMap::new();
    let node_version = |node| match graph[node] {
        ConflictNode::Solvable(solvable) => Some(version_id(solvable)),
        _ => None,
    };
    let mut open = vec![conflict.root_node];
    let mut dead_end = None;
    let mut clash = None;
    while !open.is_empty() {
        let mut next = Vec::new();
        for &node in &open {
            let parent = node_version(node);
            let mut neighbours: Vec<_> = graph.neighbors(node).collect();
            neighbours.sort();
            for neighbour in neighbours {
                let edges = graph
                    .edge_indices()
                    .filter(|&edge| graph.edge_endpoints(edge) == Some((node, neighbour)));
                for edge in edges {
                    match (graph[edge], node_version(neighbour)) {
                        (ConflictEdge::Requires(_), Some(version)) => {
                            if let std::collections::hash_map::Entry::Vacant(entry) = parents.entry(version) {
                                entry.insert(parent);
                                next.push(neighbour);
                            }
                        }
                        (ConflictEdge::Requires(_), None) => dead_end = dead_end.or(Some(parent)),
                        (ConflictEdge::Conflict(_), Some(version)) => {
                            clash = clash.or(Some((parent, version)));
                        }
                        (ConflictEdge::Conflict(_), None) => {}
                    }
                }
            }
        }
        open = next;
    }
    let mut lines = Vec::new();
    match (dead_end, clash) {
        (Some(Some(version)), _) => {
            lines.extend(chain(search, selection, &parents, version));
            lines.extend(missing(search, version));
        }
        (_, Some((parent, version))) => {
            if let Some(parent) = parent {
                lines.extend(chain(search, selection, &parents, parent));
            }
            lines.extend(chain(search, selection, &parents, version));
            lines.push(match parent.and_then(|parent| relation_between(search, parent, version)) {
                Some(line) => line,
                None => format!("{} may not be installed with the others", search.display(version)),
            });
        }
        _ => {}
    }
    let mut seen = std::collections::HashSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines
}

/// How a version got into play, from the request on.
fn chain(
    search: &Search<'_, '_, '_>,
    selection: &Selection,
    parents: &HashMap<VersionId, Option<VersionId>>,
    version: VersionId,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut at = version;
    // No version is its own ancestor in a breadth-first tree; the limit is for the reader.
    while lines.len() < 50 {
        match parents.get(&at).copied().flatten() {
            Some(parent) => {
                lines.extend(relation_between(search, parent, at));
                at = parent;
            }
            None => {
                let package = search.marking.universe.version(at).package;
                let name = search.marking.universe.display(package);
                lines.push(match selection.why.get(&package) {
                    Some(why) => format!("{name} is {why}"),
                    None => format!("{name} is wanted"),
                });
                break;
            }
        }
    }
    lines.reverse();
    lines
}

/// The relation by which one version leads to, or excludes, another.
fn relation_between(search: &Search<'_, '_, '_>, from: VersionId, to: VersionId) -> Option<String> {
    let universe = search.marking.universe;
    let group = universe.dependency_groups(from).find(|group| {
        universe.dependency(group[0]).kind.is_critical()
            && group.iter().any(|&dependency| universe.targets(dependency).contains(&to))
    })?;
    let text = display_group(search, &group);
    let kind = universe.dependency(group[0]).kind;
    let package = universe.version(to).package;
    let direct = group.iter().any(|&dependency| universe.dependency(dependency).target == package);
    let by = match (direct, kind.is_negative()) {
        (true, false) => String::new(),
        (true, true) => format!(": {}", search.display(to)),
        (false, _) => format!(", that is {}", search.display(to)),
    };
    Some(format!("{} {} {text}{by}", search.display(from), kind.verb()))
}

fn display_group(search: &Search<'_, '_, '_>, group: &[DependencyId]) -> String {
    let parts: Vec<String> =
        group.iter().map(|&dependency| search.marking.universe.display_relation(dependency)).collect();
    parts.join(" | ")
}

/// What a version needs and nothing can give.
fn missing(search: &Search<'_, '_, '_>, version: VersionId) -> Vec<String> {
    let universe = search.marking.universe;
    let mut lines = Vec::new();
    for group in universe.dependency_groups(version) {
        let kind = universe.dependency(group[0]).kind;
        if !kind.is_critical() || kind.is_negative() || !search.solutions(&group).is_empty() {
            continue;
        }
        lines.push(format!("{} {} {}", search.display(version), kind.verb(), display_group(search, &group)));
        for &dependency in &group {
            let target = universe.dependency(dependency).target;
            let name = universe.display(target);
            let known: Vec<String> = universe
                .versions(target)
                .map(|version| String::from_utf8_lossy(universe.version(version).number).into_owned())
                .collect();
            lines.push(match (search.fixed.get(&target), known.as_slice()) {
                (Some(None), _) => format!("{name} is to be absent, as requested"),
                (Some(Some(fixed)), _) => format!("{} is what was requested of it", search.display(*fixed)),
                (None, []) => no_provider(search, dependency),
                (None, known) => format!("of {name} there is {}, which does not fit", known.join(", ")),
            });
        }
        break;
    }
    lines
}

/// Why nothing provides a package that has no versions itself.
fn no_provider(search: &Search<'_, '_, '_>, dependency: DependencyId) -> String {
    let universe = search.marking.universe;
    let name = universe.display(universe.dependency(dependency).target);
    let owners = universe.targets(dependency).into_iter().map(|version| universe.version(version).package);
    let mut providers: Vec<String> = owners
        .map(|package| match search.fixed.get(&package) {
            Some(None) => format!("{} (to be absent, as requested)", universe.display(package)),
            _ => format!("{} (not a candidate)", universe.display(package)),
        })
        .collect();
    providers.sort();
    providers.dedup();
    match providers.as_slice() {
        [] => format!("no index has {name}, and nothing provides it as wanted"),
        providers => format!("{name} is provided by {} alone", providers.join(", ")),
    }
}
