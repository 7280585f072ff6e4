//! Several trees as one, as overlayfs would show them, for the view that does without overlayfs.

use std::collections::{BTreeMap, HashMap};

use super::{
    builder::{ListingBuilder, Metadata},
    listing::Listing,
    tree::{Kind, ROOT},
};
use crate::error::{Error, Result};

/// Merges trees, the topmost first: a name is what the first tree says that has it; folders show the
/// entries of all trees down to the first where the name is something else. `content` makes the content
/// path from a tree's number and the path there.
pub(crate) fn merge(trees: &[Listing], content: &dyn Fn(usize, &[u8]) -> Vec<u8>) -> Result<Listing> {
    rebuild(trees, content, &|_, metadata| metadata)
}

/// The tree with other metadata, which `change` makes.
pub(crate) fn changed(tree: &Listing, change: &dyn Fn(Kind, Metadata) -> Metadata) -> Result<Listing> {
    rebuild(std::slice::from_ref(tree), &|_, path| path.to_vec(), change)
}

fn rebuild(
    trees: &[Listing],
    content: &dyn Fn(usize, &[u8]) -> Vec<u8>,
    change: &dyn Fn(Kind, Metadata) -> Metadata,
) -> Result<Listing> {
    let roots: Vec<(usize, u64)> = (0..trees.len()).map(|tree| (tree, ROOT)).collect();
    let &(tree, root) = roots.first().ok_or_else(|| Error::plan("a sandbox needs at least one layer"))?;
    let builder = ListingBuilder::new(&change(Kind::Folder, metadata(&trees[tree], root)?))?;
    let mut merge = Merge { trees, content, change, builder, made: HashMap::new() };
    let mut pending = vec![(ROOT, roots)];
    while let Some((folder, sources)) = pending.pop() {
        merge.folder(folder, &sources, &mut pending)?;
    }
    merge.builder.finish()
}

/// Content paths for [`StoredTree::merged`](super::StoredTree::merged): `NUMBER/PATH`.
pub(crate) fn numbered(tree: usize, path: &[u8]) -> Vec<u8> {
    [format!("{tree}/").as_bytes(), path].concat()
}

/// The tree with folders and empty files of `skeleton` where it has nothing. Their contents nobody
/// reads: something is mounted over them.
pub(crate) fn with_mount_points(tree: &Listing, skeleton: &Listing) -> Result<Listing> {
    if is_below(tree, ROOT, skeleton, ROOT) {
        return Ok(tree.clone());
    }
    merge(&[tree.clone(), skeleton.clone()], &|tree, path| if tree == 0 { path.to_vec() } else { Vec::new() })
}

/// Whether the tree has all names of the skeleton already.
fn is_below(tree: &Listing, folder: u64, skeleton: &Listing, wanted: u64) -> bool {
    let inode = |listing: &Listing, number| listing.entry(number).map(|entry| entry.inode);
    skeleton.entries(wanted).into_iter().flatten().all(|number| {
        let Some(entry) = skeleton.entry(number) else { return false };
        let found = tree.find(folder, entry.name).and_then(|number| inode(tree, number));
        found.is_some_and(|found| is_below(tree, found, skeleton, entry.inode))
    })
}

/// A folder of the result, and the folders that it is made of.
type Folder = (u64, Vec<(usize, u64)>);

struct Merge<'a> {
    trees: &'a [Listing],
    content: &'a dyn Fn(usize, &[u8]) -> Vec<u8>,
    change: &'a dyn Fn(Kind, Metadata) -> Metadata,
    builder: ListingBuilder,
    /// A tree's inode with several names → ours.
    made: HashMap<(usize, u64), u64>,
}

impl Merge<'_> {
    fn folder(&mut self, folder: u64, sources: &[(usize, u64)], pending: &mut Vec<Folder>) -> Result<()> {
        let mut names: BTreeMap<&[u8], Vec<(usize, u64)>> = BTreeMap::new();
        for &(tree, inode) in sources {
            let listing = &self.trees[tree];
            for entry in listing.entries(inode).into_iter().flatten().filter_map(|n| listing.entry(n)) {
                names.entry(entry.name).or_default().push((tree, entry.inode));
            }
        }
        for (name, found) in names {
            let kind = |&(tree, inode): &(usize, u64)| self.trees[tree].node(inode).map(|node| node.kind);
            if kind(&found[0]) == Some(Kind::Folder) {
                let folders: Vec<_> =
                    found.iter().copied().take_while(|source| kind(source) == Some(Kind::Folder)).collect();
                let (tree, inode) = folders[0];
                let metadata = (self.change)(Kind::Folder, metadata(&self.trees[tree], inode)?);
                let made = self.builder.folder(folder, name, &metadata)?;
                pending.push((made, folders));
            } else {
                self.other(folder, name, found[0])?;
            }
        }
        Ok(())
    }

    /// Anything but a folder.
    fn other(&mut self, folder: u64, name: &[u8], (tree, inode): (usize, u64)) -> Result<()> {
        if let Some(&made) = self.made.get(&(tree, inode)) {
            return self.builder.link(folder, name, made);
        }
        let listing = &self.trees[tree];
        let missing = || Error::bug("a node of the listing is missing");
        let node = listing.node(inode).ok_or_else(missing)?;
        let metadata = (self.change)(node.kind, metadata(listing, inode)?);
        let made = match node.kind {
            Kind::File => {
                let content = (self.content)(tree, listing.content_path(inode).ok_or_else(missing)?);
                self.builder.file(folder, name, &metadata, node.size, &content)?
            }
            Kind::Symlink => {
                let target = listing.target(inode).ok_or_else(missing)?;
                self.builder.symlink(folder, name, &metadata, target)?
            }
            kind => self.builder.special(folder, name, kind, &metadata)?,
        };
        if node.links > 1 {
            self.made.insert((tree, inode), made);
        }
        Ok(())
    }
}

/// A node's metadata as the builder takes it.
pub(crate) fn metadata(listing: &Listing, inode: u64) -> Result<Metadata> {
    let node = listing.node(inode).ok_or_else(|| Error::bug("a node of the listing is missing"))?;
    let mut xattrs = Vec::new();
    listing.xattrs(inode, &mut |name, value| {
        xattrs.push((name.to_vec(), value.to_vec()));
        true
    });
    Ok(Metadata {
        uid: node.uid,
        gid: node.gid,
        mode: node.permissions.into(),
        modified: node.modified,
        modified_nanoseconds: node.modified_nanoseconds,
        xattrs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of `path=content` files and `path/` folders, all with this mode; `path>target` links.
    fn tree(mode: u32, paths: &[&str]) -> Listing {
        let metadata = Metadata { mode, ..Metadata::default() };
        let mut builder = ListingBuilder::new(&metadata).unwrap();
        let mut folders = HashMap::from([(String::new(), ROOT)]);
        for path in paths {
            let bare = path.trim_end_matches('/').split(['=', '>']).next().unwrap();
            let (parent, name) = bare.rsplit_once('/').unwrap_or(("", bare));
            let (parent, name) = (folders[parent], name.as_bytes());
            if path.ends_with('/') {
                folders.insert(bare.to_owned(), builder.folder(parent, name, &metadata).unwrap());
            } else if let Some((_, target)) = path.split_once('>') {
                builder.symlink(parent, name, &metadata, target.as_bytes()).unwrap();
            } else {
                let content = path.split_once('=').unwrap().1;
                builder.file(parent, name, &metadata, 1, content.as_bytes()).unwrap();
            }
        }
        builder.finish().unwrap()
    }

    /// All paths with their modes and contents.
    fn shown(listing: &Listing) -> Vec<String> {
        let mut all = Vec::new();
        let mut pending = vec![(ROOT, String::new())];
        while let Some((folder, path)) = pending.pop() {
            for entry in listing.entries(folder).unwrap().map(|number| listing.entry(number).unwrap()) {
                let path = format!("{path}/{}", String::from_utf8_lossy(entry.name));
                let node = listing.node(entry.inode).unwrap();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let what = match node.kind {
                    Kind::Folder => "/".to_owned(),
                    Kind::Symlink => format!(">{}", text(listing.target(entry.inode).unwrap())),
                    _ => format!("={}", text(listing.content_path(entry.inode).unwrap())),
                };
                all.push(format!("{path}{what} {:o}", node.permissions));
                if node.kind == Kind::Folder {
                    pending.push((entry.inode, path));
                }
            }
        }
        all.sort();
        all
    }

    #[test]
    fn upper_trees_hide_lower_ones() {
        let upper = tree(0o755, &["both/", "both/new=n", "file=u", "folder-over-file/", "sbin/"]);
        let lower = tree(
            0o700,
            &["both/", "both/old=o", "file=l", "folder-over-file=f", "only/", "only/in=i", "sbin>usr/sbin"],
        );
        let lowest = tree(0o711, &["both/", "both/old=x", "folder-over-file/", "folder-over-file/hidden=h"]);
        let merged = merge(&[upper, lower, lowest], &numbered).unwrap();
        assert_eq!(
            shown(&merged),
            [
                "/both/ 755",
                "/both/new=0/n 755",
                "/both/old=1/o 700",
                "/file=0/u 755",
                "/folder-over-file/ 755",
                "/only/ 700",
                "/only/in=1/i 700",
                "/sbin/ 755"
            ]
        );
    }

    #[test]
    fn mount_points_change_nothing_that_is_there() {
        let base = tree(0o750, &["etc/", "etc/file=f", "sbin>usr/sbin"]);
        let points = tree(0o755, &["etc/", "etc/file=", "proc/", "sbin/", "sbin/hidden="]);
        let merged = with_mount_points(&base, &points).unwrap();
        assert_eq!(shown(&merged), ["/etc/ 750", "/etc/file=f 750", "/proc/ 755", "/sbin>usr/sbin 777"]);
        let nothing_new = with_mount_points(&merged, &tree(0o755, &["etc/", "proc/"])).unwrap();
        assert_eq!(nothing_new.as_bytes(), merged.as_bytes());
    }

    #[test]
    fn hard_links_stay() {
        let metadata = Metadata { mode: 0o644, ..Metadata::default() };
        let mut builder = ListingBuilder::new(&metadata).unwrap();
        let file = builder.file(ROOT, b"a", &metadata, 1, b"c").unwrap();
        builder.link(ROOT, b"b", file).unwrap();
        let merged = merge(&[builder.finish().unwrap(), tree(0o755, &["b=l", "c=l"])], &numbered).unwrap();
        let inode = |name: &[u8]| merged.entry(merged.find(ROOT, name).unwrap()).unwrap().inode;
        assert_eq!(inode(b"a"), inode(b"b"));
        assert_ne!(inode(b"a"), inode(b"c"));
        assert_eq!(merged.node(inode(b"a")).unwrap().links, 2);
    }
}
