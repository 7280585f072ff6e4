//! How two sets of packages differ, as `treestrap diff` prints it.

use std::{cmp::Ordering, collections::BTreeMap};

use crate::debian::version;

/// A package of an image or a lock: name, architecture, version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageId {
    /// The package's name.
    pub name: String,
    /// Its architecture; `all` counts as the image's own, so that a package may move to it.
    pub architecture: String,
    /// Its version.
    pub version: String,
}

/// One line a difference, by name: `+ name version` only in `b`, `- name version` only in `a`,
/// `~ name old -> new` in both, with `(older)` where the version went down.
pub fn packages(a: &[PackageId], b: &[PackageId]) -> Vec<String> {
    let (a, b) = (by_name(a), by_name(b));
    let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let mut lines = Vec::new();
    for key in names {
        match (a.get(key), b.get(key)) {
            (Some(old), None) => lines.push(format!("- {key} {old}")),
            (None, Some(new)) => lines.push(format!("+ {key} {new}")),
            (Some(old), Some(new)) if old != new => {
                let older = if version::compare(new, old) == Ordering::Less { " (older)" } else { "" };
                lines.push(format!("~ {key} {old} -> {new}{older}"));
            }
            _ => {}
        }
    }
    lines
}

/// Versions by name, with the architecture where one name has several.
fn by_name(packages: &[PackageId]) -> BTreeMap<String, &str> {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for package in packages {
        *count.entry(&package.name).or_default() += 1;
    }
    packages
        .iter()
        .map(|p| {
            let several = count.get(p.name.as_str()).is_some_and(|n| *n > 1);
            let key = if several { format!("{}:{}", p.name, p.architecture) } else { p.name.clone() };
            (key, p.version.as_str())
        })
        .collect()
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
}
