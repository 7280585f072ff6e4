//! A tree of folders that is read as far as someone looks, and edited in memory.

use std::collections::BTreeMap;

use ostree::ObjectType;

use super::{Store, checksum_of, corrupt};
use crate::{digest::Sha256, error::Result};

/// A folder: its metadata, and its entries, which are read on first sight.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The dirmeta object.
    pub metadata: Sha256,
    /// A mark of the caller's own (compose: which package it is from). What is loaded from below a
    /// folder gets the folder's mark.
    pub mark: u32,
    contents: Contents,
}

#[derive(Clone, Debug)]
enum Contents {
    Stored(Sha256),
    Loaded(BTreeMap<String, Node>),
}

/// An entry of a folder.
#[derive(Clone, Debug)]
pub enum Node {
    /// A file or a symbolic link.
    Object {
        /// The content object.
        checksum: Sha256,
        /// As [`Folder::mark`].
        mark: u32,
    },
    /// A folder.
    Folder(Folder),
}

impl Node {
    /// The entry's mark.
    pub fn mark(&self) -> u32 {
        match self {
            Node::Object { mark, .. } => *mark,
            Node::Folder(folder) => folder.mark,
        }
    }
}

impl Folder {
    /// A folder of the repository.
    pub fn stored(tree: Sha256, metadata: Sha256) -> Self {
        Folder { metadata, mark: 0, contents: Contents::Stored(tree) }
    }

    /// An empty folder.
    pub fn empty(metadata: Sha256) -> Self {
        Folder { metadata, mark: 0, contents: Contents::Loaded(BTreeMap::new()) }
    }

    /// The dirtree object, while nothing of the folder has been loaded.
    pub fn stored_tree(&self) -> Option<Sha256> {
        match &self.contents {
            Contents::Stored(tree) => Some(*tree),
            Contents::Loaded(_) => None,
        }
    }

    /// The entries if they are loaded, else the dirtree object that has them.
    pub(super) fn loaded(&self) -> Result<&BTreeMap<String, Node>, Sha256> {
        match &self.contents {
            Contents::Loaded(entries) => Ok(entries),
            Contents::Stored(tree) => Err(*tree),
        }
    }

    /// The entries, to read and to edit; sorted by name, as dirtree objects are.
    ///
    /// # Errors
    /// If the dirtree object is missing or corrupt.
    pub fn entries(&mut self, store: &Store) -> Result<&mut BTreeMap<String, Node>> {
        if let Contents::Stored(tree) = self.contents {
            self.contents = Contents::Loaded(store.read_tree(tree, self.mark)?);
        }
        match &mut self.contents {
            Contents::Loaded(entries) => Ok(entries),
            Contents::Stored(_) => unreachable!("loaded above"),
        }
    }

    /// The entry at a path (no leading slash), following no links.
    ///
    /// # Errors
    /// As [`Folder::entries`].
    pub fn find(&mut self, store: &Store, path: &str) -> Result<Option<&mut Node>> {
        match path.split_once('/') {
            None => Ok(self.entries(store)?.get_mut(path)),
            Some((first, rest)) => match self.entries(store)?.get_mut(first) {
                Some(Node::Folder(folder)) => folder.find(store, rest),
                _ => Ok(None),
            },
        }
    }

    /// The folder at a path (no leading slash; empty: this one), following no links.
    ///
    /// # Errors
    /// As [`Folder::entries`].
    pub fn folder(&mut self, store: &Store, path: &str) -> Result<Option<&mut Folder>> {
        if path.is_empty() {
            return Ok(Some(self));
        }
        Ok(match self.find(store, path)? {
            Some(Node::Folder(folder)) => Some(folder),
            _ => None,
        })
    }

    /// The folder at a path, made with `metadata` (and its missing parents too) where it is missing;
    /// none if something else than a folder is in the way.
    ///
    /// # Errors
    /// As [`Folder::entries`].
    pub fn make_folder(
        &mut self,
        store: &Store,
        path: &str,
        metadata: Sha256,
    ) -> Result<Option<&mut Folder>> {
        let mut folder = self;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let node = folder
                .entries(store)?
                .entry(name.to_owned())
                .or_insert_with(|| Node::Folder(Folder::empty(metadata)));
            match node {
                Node::Folder(child) => folder = child,
                Node::Object { .. } => return Ok(None),
            }
        }
        Ok(Some(folder))
    }
}

impl Store {
    fn read_tree(&self, checksum: Sha256, mark: u32) -> Result<BTreeMap<String, Node>> {
        let variant = self.load(ObjectType::DirTree, checksum)?;
        let mut entries = BTreeMap::new();
        for file in variant.child_value(0).iter() {
            let object = Node::Object { checksum: checksum_of(&file.child_value(1))?, mark };
            entries.insert(entry_name(&file, checksum)?, object);
        }
        for folder in variant.child_value(1).iter() {
            let (tree, metadata) =
                (checksum_of(&folder.child_value(1))?, checksum_of(&folder.child_value(2))?);
            let child = Folder { metadata, mark, contents: Contents::Stored(tree) };
            entries.insert(entry_name(&folder, checksum)?, Node::Folder(child));
        }
        Ok(entries)
    }
}

/// The name of an entry: never one that leads elsewhere, whoever wrote the object.
fn entry_name(entry: &ostree::glib::Variant, checksum: Sha256) -> Result<String> {
    let name = entry.child_value(0);
    match name.str() {
        Some(name) if !matches!(name, "" | "." | "..") && !name.contains('/') => Ok(name.to_owned()),
        _ => Err(corrupt("dirtree", checksum)),
    }
}
