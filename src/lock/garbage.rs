//! Packages that were marked on the way and that nothing needs in the end: apt drops them.

use std::collections::HashSet;

use super::{
    marking::{By, Follow, Marking},
    universe::{DependencyId, Kind, PackageId, VersionId},
};

/// Takes out of the plan what no requested, protected or essential package leads to by
/// dependencies, recommendations or suggestions.
pub(super) fn collect(marking: &mut Marking<'_, '_>) {
    let universe = marking.universe;
    let installed = marking.installed();
    let mut needed = HashSet::new();
    let mut open: Vec<PackageId> = installed
        .iter()
        .copied()
        .filter(|&package| {
            let (state, data) = (marking.state(package), universe.package(package));
            !state.automatic || state.protected || data.essential || data.important
        })
        .collect();
    while let Some(package) = open.pop() {
        if !needed.insert(package) {
            continue;
        }
        let Some(version) = marking.state(package).install else { continue };
        for dependency in universe.dependencies(version) {
            if !universe.dependency(dependency).kind.is_negative() {
                open.extend(fulfilling(marking, dependency));
            }
        }
    }
    let mut dropped: Vec<PackageId> = installed.into_iter().filter(|p| !needed.contains(p)).collect();
    dropped.retain(|&package| marking.mark_delete(package));
    dropped.sort_by_key(|&package| (universe.name(package), package));
    restore(marking, dropped);
}

/// The packages of the plan that fulfil a relation.
pub(super) fn fulfilling(marking: &Marking<'_, '_>, dependency: DependencyId) -> Vec<PackageId> {
    let universe = marking.universe;
    let target = universe.dependency(dependency).target;
    let installed = |version: VersionId| {
        let package = universe.version(version).package;
        (marking.state(package).install == Some(version)).then_some(package)
    };
    let own = marking.state(target).install;
    let own = own.filter(|&version| universe.version_fulfils(dependency, version)).and_then(installed);
    let providers = universe
        .providers(target)
        .filter(|&id| universe.provision_fulfils(dependency, id))
        .filter_map(|id| installed(universe.provision(id).owner));
    own.into_iter().chain(providers).collect()
}

/// Where dropping broke something, what somebody in the plan names comes back.
fn restore(marking: &mut Marking<'_, '_>, mut dropped: Vec<PackageId>) {
    let universe = marking.universe;
    let is_whole = |marking: &Marking<'_, '_>| marking.installed().iter().all(|&p| !marking.is_lacking(p));
    if dropped.is_empty() || is_whole(marking) {
        return;
    }
    loop {
        let named = dropped.iter().position(|&package| {
            let provided =
                marking.state(package).candidate.into_iter().flat_map(|candidate| {
                    universe.provisions(candidate).map(|id| universe.provision(id).target)
                });
            std::iter::once(package).chain(provided).any(|target| {
                universe.dependents(target).any(|dependent| {
                    let dependent = universe.dependency(dependent);
                    let parent = universe.version(dependent.parent).package;
                    counts(marking, dependent.kind)
                        && marking.state(parent).install == Some(dependent.parent)
                        && marking.state(parent).candidate == Some(dependent.parent)
                })
            })
        });
        let Some(at) = named else { return };
        let package = dropped.remove(at);
        marking.mark_install(package, Follow::Nothing, 0, By::Dependency);
    }
}

fn counts(marking: &Marking<'_, '_>, kind: Kind) -> bool {
    !kind.is_negative() && marking.is_important(kind)
}
