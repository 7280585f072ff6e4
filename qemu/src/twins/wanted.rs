//! Which packages of an image are needed natively: those in the table, and what they lean on.
//!
//! The image itself says what that is: for every library that a foreign program needs, it has the
//! package that provides it. No dependency has to be resolved.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    inventory::Package,
    libraries::{Resolver, Tree},
    machine::Machine,
    policy::{MODULES, Policy, matches},
};

/// The packages of `image` that are needed natively, each with its reason. `machine` is the
/// image's architecture.
pub fn wanted(image: &[Package<'_>], machine: &Machine, policy: &Policy) -> BTreeMap<String, String> {
    let tree = Tree::new(image.iter().map(|package| (package.name, package.inventory)));
    let resolver = Resolver::at_home(&tree, machine);
    let by_name: BTreeMap<_, _> = image.iter().map(|package| (package.name, package)).collect();
    let mut result = BTreeMap::new();
    let mut queue: Vec<&str> = Vec::new();
    for package in image {
        if let Some(reason) = policy.package(package.name) {
            result.insert(package.name.to_owned(), reason.to_owned());
            queue.push(package.name);
        }
    }
    while let Some(name) = queue.pop() {
        for (needed, reason) in leans_on(image, by_name[name], &resolver, machine) {
            if let Some((name, _)) = by_name.get_key_value(needed.as_str())
                && !result.contains_key(*name)
            {
                result.insert((*name).to_owned(), reason);
                queue.push(name);
            }
        }
    }
    // Without an ELF file there's nothing that could be native.
    result.retain(|name, _| by_name[name.as_str()].inventory.objects().next().is_some());
    result
}

/// The packages with libraries that this package's objects need, and those with modules that they
/// load.
fn leans_on(
    image: &[Package<'_>],
    package: &Package<'_>,
    resolver: &Resolver<'_>,
    machine: &Machine,
) -> Vec<(String, String)> {
    let mut result = Vec::new();
    for (path, object) in package.inventory.objects() {
        for library in resolver.closure(path, object).map(|closure| closure.packages).unwrap_or_default() {
            result.push((library, format!("libraries of {}", package.name)));
        }
    }
    for modules in MODULES.iter().filter(|modules| matches(modules.loader, package.name)) {
        for name in with_modules(image, modules.pattern, machine) {
            result.push((name.to_owned(), format!("modules that {} loads", package.name)));
        }
    }
    result
}

/// The packages that have modules of this pattern.
pub(super) fn with_modules<'a>(
    packages: &'a [Package<'_>],
    pattern: &'a str,
    machine: &'a Machine,
) -> BTreeSet<&'a str> {
    let has = |package: &&Package<'_>| {
        package.inventory.objects().any(|(path, _)| matches(pattern, &machine.neutral(path)))
    };
    packages.iter().filter(has).map(|package| package.name).collect()
}
