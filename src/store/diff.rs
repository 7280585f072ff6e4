//! What differs between two trees: by checksums, so that only folders that differ are looked into.

use super::{Folder, Node, Store};
use crate::{digest::Sha256, error::Result};

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Only in the second tree.
    Added,
    /// Only in the first tree.
    Removed,
    /// Other content, link target, owner, mode or attributes.
    Changed,
    /// A folder in one tree, something else in the other.
    Replaced,
}

impl Change {
    /// As people read it: `+` only in the second tree, `-` only in the first, `~` in both.
    pub fn sign(self) -> char {
        match self {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Changed | Change::Replaced => '~',
        }
    }
}

/// A path that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The path, without a leading slash; empty: the root.
    pub path: Vec<u8>,
    /// How it differs.
    pub change: Change,
}

impl Store {
    /// The paths that differ between the trees of two commits, sorted as trees are. What is below
    /// an added or removed folder is listed too.
    ///
    /// # Errors
    /// If a commit or a folder of it is missing.
    pub fn diff(&self, a: Sha256, b: Sha256) -> Result<Vec<Difference>> {
        let (mut a, mut b) = (self.root(a)?, self.root(b)?);
        let mut differences = Vec::new();
        self.compare_folders(&mut a, &mut b, &mut String::new(), &mut differences)?;
        Ok(differences)
    }

    fn compare_folders(
        &self,
        a: &mut Folder,
        b: &mut Folder,
        path: &mut String,
        differences: &mut Vec<Difference>,
    ) -> Result<()> {
        if a.metadata != b.metadata {
            differences.push(difference(path, Change::Changed));
        }
        if a.stored_tree().is_some() && a.stored_tree() == b.stored_tree() {
            return Ok(());
        }
        let (a, b) = (a.entries(self)?, b.entries(self)?);
        let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
        names.sort();
        names.dedup();
        let names: Vec<String> = names.into_iter().cloned().collect();
        for name in names {
            let length = path.len();
            if length > 0 {
                path.push('/');
            }
            path.push_str(&name);
            match (a.get_mut(&name), b.get_mut(&name)) {
                (Some(Node::Folder(a)), Some(Node::Folder(b))) => {
                    self.compare_folders(a, b, path, differences)?;
                }
                (Some(Node::Object { checksum: a, .. }), Some(Node::Object { checksum: b, .. })) => {
                    if a != b {
                        differences.push(difference(path, Change::Changed));
                    }
                }
                (Some(a), Some(b)) => {
                    differences.push(difference(path, Change::Replaced));
                    self.list_below(a, path, Change::Removed, differences)?;
                    self.list_below(b, path, Change::Added, differences)?;
                }
                (Some(node), None) => self.list(node, path, Change::Removed, differences)?,
                (None, Some(node)) => self.list(node, path, Change::Added, differences)?,
                (None, None) => {}
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn list(
        &self,
        node: &mut Node,
        path: &mut String,
        change: Change,
        out: &mut Vec<Difference>,
    ) -> Result<()> {
        out.push(difference(path, change));
        self.list_below(node, path, change, out)
    }

    fn list_below(
        &self,
        node: &mut Node,
        path: &mut String,
        change: Change,
        out: &mut Vec<Difference>,
    ) -> Result<()> {
        let Node::Folder(folder) = node else { return Ok(()) };
        for (name, node) in folder.entries(self)? {
            let length = path.len();
            path.push('/');
            path.push_str(name);
            self.list(node, path, change, out)?;
            path.truncate(length);
        }
        Ok(())
    }
}

fn difference(path: &str, change: Change) -> Difference {
    Difference { path: path.as_bytes().to_vec(), change }
}
