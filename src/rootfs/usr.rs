//! Merges `/bin`, `/sbin` and `/lib*` of a folder into `/usr`, as usrmerge(1) would if it could: it
//! refuses to on overlayfs, where folders of a lower layer cannot be renamed.
//!
//! Only where the folder's packages ask for it (`usrmerge`, or `usr-is-merged`, whose preinst
//! fails elsewhere), and only in the view until stage 2 has succeeded: then the folder follows.

use sandbox::Rearrange as Step;

use super::tree::{Node, NodeKind, Tree, join};
use crate::{Context, Error, Result, artefacts::UnpackedPackage};

/// The folders that become links; those that are there.
const ALIASES: [&[u8]; 7] = [b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libo32", b"libx32"];

/// Whether packages want the tree to have a merged `/usr`.
pub(super) fn is_wanted(packages: &[UnpackedPackage]) -> bool {
    packages.iter().any(|package| ["usrmerge", "usr-is-merged"].contains(&package.name.as_str()))
}

/// Merges the tree and says how the folder is brought to the same. `same`: whether the contents of two
/// files of the folder are equal.
///
/// # Errors
/// `Kind::Input` naming two different files of which one would have to go.
pub(super) fn merge(tree: &mut Tree, same: impl Fn(&[u8], &[u8]) -> Result<bool>) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for alias in ALIASES {
        if !tree.is_folder(alias) {
            continue;
        }
        let target = join(b"usr", alias);
        let metadata = tree.get(alias).map(|node| node.metadata.clone()).unwrap_or_else(|| unreachable!());
        folder(tree, alias, &target, &same, &mut steps)?;
        steps.push(Step::Link(alias.to_vec(), target.clone()));
        let metadata = sandbox::Metadata { mode: 0o120_777, xattrs: Vec::new(), ..metadata };
        tree.0.insert(
            alias.to_vec(),
            Node { metadata, kind: NodeKind::Symlink(target), is_given: false, device: None },
        );
    }
    Ok(steps)
}

/// The link that multistrap makes for every architecture, `lib64 -> ./lib`, goes where `/usr` is merged:
/// base-files (Debian 13) refuses to be configured beside it.
pub(super) fn remove_stray_link(tree: &mut Tree) -> Option<Step> {
    let is_merged = tree.link(b"lib") == Some(b"usr/lib");
    let is_stray = tree.link(b"lib64").is_some_and(|target| [&b"./lib"[..], b"lib"].contains(&target));
    (is_merged && is_stray && tree.0.remove(&b"lib64"[..]).is_some()).then(|| Step::Remove(b"lib64".to_vec()))
}

/// Moves a folder into another place, or what is in it into the folder that is there.
fn folder(
    tree: &mut Tree,
    from: &[u8],
    to: &[u8],
    same: &impl Fn(&[u8], &[u8]) -> Result<bool>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    if tree.get(to).is_none() {
        steps.push(Step::Rename(from.to_vec(), to.to_vec()));
        let paths = tree.below(from);
        for path in std::iter::once(from.to_vec()).chain(paths) {
            if let Some(node) = tree.0.remove(&path) {
                tree.0.insert([to, &path[from.len()..]].concat(), node);
            }
        }
        return Ok(());
    }
    if !tree.is_folder(to) {
        return Err(conflict(from, to));
    }
    for path in children(tree, from) {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(&path);
        let place = join(to, name);
        if tree.is_folder(&path) {
            folder(tree, &path, &place, same, steps)?;
            continue;
        }
        let step = match tree.get(&place) {
            None => Step::Rename(path.clone(), place.clone()),
            Some(_) if leads_to(tree, &path, &place) => Step::Remove(path.clone()),
            Some(_) if leads_to(tree, &place, &path) => Step::Rename(path.clone(), place.clone()),
            Some(other) => match (&tree.0[&path].kind, &other.kind) {
                (NodeKind::Symlink(a), NodeKind::Symlink(b)) if a == b => Step::Remove(path.clone()),
                (NodeKind::File { content: a, size, .. }, NodeKind::File { content: b, size: other, .. })
                    if size == other && same(a, b)? =>
                {
                    Step::Remove(path.clone())
                }
                _ => return Err(conflict(&path, &place)),
            },
        };
        let node = tree.0.remove(&path);
        if let (Step::Rename(..), Some(node)) = (&step, node) {
            tree.0.insert(place, node);
        }
        steps.push(step);
    }
    tree.0.remove(from);
    steps.push(Step::RemoveFolder(from.to_vec()));
    Ok(())
}

/// The entries of a folder.
fn children(tree: &Tree, folder: &[u8]) -> Vec<Vec<u8>> {
    let mut below = tree.below(folder);
    below.retain(|path| !path[folder.len() + 1..].contains(&b'/'));
    below
}

/// Whether a path is a link to the other one, by its full name.
fn leads_to(tree: &Tree, link: &[u8], path: &[u8]) -> bool {
    let Some(target) = tree.link(link) else { return false };
    let mut names: Vec<&[u8]> = match target.starts_with(b"/") {
        true => Vec::new(),
        false => link.split(|&byte| byte == b'/').collect(),
    };
    names.pop(); // its own name
    for name in target.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join(&b'/') == path
}

fn conflict(from: &[u8], to: &[u8]) -> Error {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    Error::input(format!("/usr cannot be merged: /{} and /{} differ", text(from), text(to)))
        .hint("remove one of the two, or leave usrmerge and usr-is-merged out")
}

/// Compares two files of the folder.
pub(super) fn same_content(folder: &std::path::Path, a: &[u8], b: &[u8]) -> Result<bool> {
    let read = |path: &[u8]| {
        let path = folder.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path));
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
    };
    Ok(read(a)? == read(b)?)
}

#[cfg(test)]
mod tests {
    use sandbox::{Change, Entry, Metadata};

    use super::*;

    /// Files as `path=content`, folders as `path/`, links as `path>target`.
    fn tree(entries: &[&str]) -> Tree {
        let metadata = |mode| Metadata { uid: 0, gid: 0, mode, xattrs: Vec::new(), modified: (0, 0) };
        let mut tree = Tree::default();
        let folder = || Entry::Folder { metadata: metadata(0o040_755), opaque: false };
        tree.add(Change { path: Vec::new(), now: folder() });
        for entry in entries {
            let (path, now) = if let Some(path) = entry.strip_suffix('/') {
                (path, folder())
            } else if let Some((path, target)) = entry.split_once('>') {
                (path, Entry::Symlink { metadata: metadata(0o120_777), target: target.into() })
            } else {
                let (path, content) = entry.split_once('=').expect("a file");
                let size = content.len() as u64;
                (path, Entry::File { metadata: metadata(0o100_644), size, hard_link: None })
            };
            tree.add(Change { path: path.into(), now });
        }
        tree
    }

    fn merged(entries: &[&str], same: bool) -> Result<(Vec<String>, Vec<Step>)> {
        let mut tree = tree(entries);
        let steps = merge(&mut tree, |_, _| Ok(same))?;
        let paths = tree.0.iter().skip(1).map(|(path, node)| {
            let path = String::from_utf8_lossy(path);
            match &node.kind {
                NodeKind::Folder => format!("{path}/"),
                NodeKind::File { content, .. } => format!("{path}={}", String::from_utf8_lossy(content)),
                NodeKind::Symlink(target) => format!("{path}>{}", String::from_utf8_lossy(target)),
                NodeKind::Special => path.into_owned(),
            }
        });
        Ok((paths.collect(), steps))
    }

    #[test]
    fn names_move_and_aliases_become_links() {
        let entries = [
            "bin/",
            "bin/sh>dash",
            "bin/dash=x",
            "bin/which>/usr/bin/which",
            "lib/",
            "lib/a/",
            "lib/a/b=x",
            "lib/m/",
            "lib/m/c=x",
            "sbin/",
            "usr/",
            "usr/bin/",
            "usr/bin/which=y",
            "usr/bin/touch>../../bin/dash",
            "usr/lib/",
            "usr/lib/m/",
            "usr/lib/m/d=x",
        ];
        let (paths, steps) = merged(&entries, false).expect("merged");
        assert_eq!(
            paths,
            [
                "bin>usr/bin",
                "lib>usr/lib",
                "sbin>usr/sbin",
                "usr/",
                "usr/bin/",
                "usr/bin/dash=bin/dash",
                "usr/bin/sh>dash",
                "usr/bin/touch>../../bin/dash",
                "usr/bin/which=usr/bin/which",
                "usr/lib/",
                "usr/lib/a/",
                "usr/lib/a/b=lib/a/b",
                "usr/lib/m/",
                "usr/lib/m/c=lib/m/c",
                "usr/lib/m/d=usr/lib/m/d",
                "usr/sbin/",
            ]
        );
        assert!(steps.contains(&Step::Remove(b"bin/which".to_vec())));
        assert!(steps.contains(&Step::Rename(b"lib/a".to_vec(), b"usr/lib/a".to_vec())));
        assert!(steps.contains(&Step::RemoveFolder(b"lib/m".to_vec())));
    }

    #[test]
    fn a_stray_link_goes_where_usr_is_merged() {
        for (lib, lib64, expected) in [
            ("lib>usr/lib", "lib64>./lib", true),
            ("lib>usr/lib", "lib64>usr/lib64", false),
            ("lib/", "lib64>./lib", false),
        ] {
            let mut tree = tree(&[lib, lib64]);
            assert_eq!(remove_stray_link(&mut tree).is_some(), expected, "{lib} {lib64}");
            assert_eq!(tree.get(b"lib64").is_none(), expected);
        }
    }

    #[test]
    fn equal_files_are_one_and_different_ones_an_error() {
        let entries = ["bin/", "bin/x=1", "usr/", "usr/bin/", "usr/bin/x=2"];
        let (paths, _) = merged(&entries, true).expect("merged");
        assert_eq!(paths, ["bin>usr/bin", "usr/", "usr/bin/", "usr/bin/x=usr/bin/x"]);
        let error = merged(&entries, false).expect_err("they differ").to_string();
        assert!(error.contains("/bin/x") && error.contains("/usr/bin/x"), "{error}");
    }

    #[test]
    fn a_link_to_the_other_place_gives_way() {
        let (paths, _) =
            merged(&["bin/", "bin/x=1", "usr/", "usr/bin/", "usr/bin/x>/bin/x"], false).expect("merged");
        assert_eq!(paths, ["bin>usr/bin", "usr/", "usr/bin/", "usr/bin/x=bin/x"]);
    }
}
