//! How two sets of packages differ, as `treestrap diff` prints it.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use crate::debian::version;

/// A package of an image or a lock: name, architecture, version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageId {
    /// The package's name.
    pub name: String,
    /// Its architecture, which may be `all`.
    pub architecture: String,
    /// Its version.
    pub version: String,
}

/// One line a difference, by name: `+ name version` only in `b`, `- name version` only in `a`,
/// `~ name old -> new` in both, with `(older)` where the version went down, and with the
/// architecture behind each version where that changed, to or from `all` too.
///
/// A name that one of the two has for several architectures is `name:architecture` everywhere.
pub fn packages(a: &[PackageId], b: &[PackageId]) -> Vec<String> {
    let several: BTreeSet<&str> = several(a).chain(several(b)).collect();
    let (a, b) = (by_name(a, &several), by_name(b, &several));
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let mut lines = Vec::new();
    for name in names {
        match (a.get(name), b.get(name)) {
            (Some(old), None) => lines.push(format!("- {name} {}", old.version)),
            (None, Some(new)) => lines.push(format!("+ {name} {}", new.version)),
            (Some(old), Some(new)) if old != new => lines.push(change(name, old, new)),
            _ => {}
        }
    }
    lines
}

/// The line of a package that both have, and not alike.
fn change(name: &str, old: &PackageId, new: &PackageId) -> String {
    let older = match version::compare(&new.version, &old.version) {
        Ordering::Less => " (older)",
        Ordering::Equal | Ordering::Greater => "",
    };
    let shown = |package: &PackageId| match old.architecture == new.architecture {
        true => package.version.clone(),
        false => format!("{} {}", package.version, package.architecture),
    };
    format!("~ {name} {} -> {}{older}", shown(old), shown(new))
}

/// The names that a set has more than once.
fn several(packages: &[PackageId]) -> impl Iterator<Item = &str> {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for package in packages {
        *count.entry(&package.name).or_default() += 1;
    }
    count.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name)
}

/// Packages by what they are called here.
fn by_name<'a>(packages: &'a [PackageId], several: &BTreeSet<&str>) -> BTreeMap<String, &'a PackageId> {
    let key = |package: &PackageId| match several.contains(package.name.as_str()) {
        true => format!("{}:{}", package.name, package.architecture),
        false => package.name.clone(),
    };
    packages.iter().map(|package| (key(package), package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[(&str, &str, &str)]) -> Vec<PackageId> {
        let id = |&(name, architecture, version): &(&str, &str, &str)| PackageId {
            name: name.into(),
            architecture: architecture.into(),
            version: version.into(),
        };
        list.iter().map(id).collect()
    }

    #[test]
    fn each_kind_of_difference() {
        let a = ids(&[
            ("down", "all", "2"),
            ("gone", "all", "1"),
            ("same", "amd64", "1"),
            ("up", "all", "1~rc1"),
        ]);
        let b = ids(&[
            ("down", "all", "1"),
            ("libc6", "amd64", "1"),
            ("libc6", "i386", "1"),
            ("same", "amd64", "1"),
            ("up", "all", "1"),
        ]);
        assert_eq!(
            packages(&a, &b),
            ["~ down 2 -> 1 (older)", "- gone 1", "+ libc6:amd64 1", "+ libc6:i386 1", "~ up 1~rc1 -> 1"]
        );
    }

    #[test]
    fn architectures() {
        let one = &[("libc6", "amd64", "1")][..];
        let two = &[("libc6", "amd64", "1"), ("libc6", "i386", "1")][..];
        for (a, b, expected) in [
            // Whether it is shown does not depend on the side.
            (one, two, &["+ libc6:i386 1"][..]),
            (two, one, &["- libc6:i386 1"]),
            (two, two, &[]),
            (two, &[("libc6", "i386", "2")], &["- libc6:amd64 1", "~ libc6:i386 1 -> 2"]),
            (one, &[("libc6", "arm64", "1")], &["~ libc6 1 amd64 -> 1 arm64"]),
            (&[("tzdata", "all", "2")], &[("tzdata", "armhf", "1")], &["~ tzdata 2 all -> 1 armhf (older)"]),
            (two, &[("libc6", "all", "1")], &["+ libc6:all 1", "- libc6:amd64 1", "- libc6:i386 1"]),
        ] {
            assert_eq!(packages(&ids(a), &ids(b)), expected, "{a:?} {b:?}");
        }
    }
}
