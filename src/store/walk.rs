//! A commit's tree, entry by entry, with all metadata and no content: what a view of it is made from.
//!
//! Folders come from dirtree and dirmeta objects. A file's size is its object's, and owner, mode and
//! attributes are in an attribute of the object, so each file costs two system calls and no object is
//! opened but symbolic links', whose target is their content.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use super::{
    Folder, Node, Store,
    object::{S_IFLNK, S_IFMT},
};
use crate::{artefacts::Metadata, digest::Sha256, error::Result};

/// Where an entry of a tree is, and what.
#[derive(Debug)]
pub struct Visit<'a> {
    /// The path, without a leading slash; empty for the root, which comes first.
    pub path: &'a str,
    /// What is there.
    pub what: Visited<'a>,
}

/// What an entry is.
#[derive(Debug)]
pub enum Visited<'a> {
    /// A folder; what is in it comes next, sorted by name.
    Folder(&'a Metadata),
    /// A regular file.
    File {
        /// Its metadata.
        metadata: &'a Metadata,
        /// Bytes.
        size: u64,
        /// Its object's path below [`Store::objects`].
        object: &'a str,
        /// Whether other names of it come later.
        has_links: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Its metadata.
        metadata: &'a Metadata,
        /// Where it leads.
        target: &'a [u8],
    },
    /// Another name of a file that came before.
    HardLink {
        /// That file's path.
        first: &'a str,
    },
}

impl Store {
    /// The folder with the repository's objects, for views that read contents by themselves.
    pub fn objects(&self) -> PathBuf {
        self.path.join("objects")
    }

    /// Walks a commit's tree: folders before what is in them, hard links as the image's record has them.
    ///
    /// # Errors
    /// If an object is missing or corrupt; what `each` gives.
    pub fn walk(&self, commit: Sha256, each: &mut dyn FnMut(Visit<'_>) -> Result<()>) -> Result<()> {
        let groups = self.hard_links(commit)?;
        let groups = (0..)
            .zip(&groups)
            .flat_map(|(number, group)| group.iter().map(move |path| (path.as_str(), number)));
        let mut walk = Walk {
            store: self,
            each,
            groups: groups.collect(),
            firsts: BTreeMap::new(),
            folders: HashMap::new(),
        };
        walk.folder(&mut self.root(commit)?, &mut String::new())
    }
}

struct Walk<'a> {
    store: &'a Store,
    each: &'a mut dyn FnMut(Visit<'_>) -> Result<()>,
    /// Path → number of its group of hard links.
    groups: HashMap<&'a str, usize>,
    /// Group → the path that came first.
    firsts: BTreeMap<usize, String>,
    /// Most folders share a handful of dirmeta objects.
    folders: HashMap<Sha256, Arc<Metadata>>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &mut Folder, path: &mut String) -> Result<()> {
        let metadata = match self.folders.get(&folder.metadata) {
            Some(known) => Arc::clone(known),
            None => {
                let metadata = Arc::new(self.store.folder_metadata(folder.metadata)?);
                Arc::clone(self.folders.entry(folder.metadata).or_insert(metadata))
            }
        };
        (self.each)(Visit { path, what: Visited::Folder(&metadata) })?;
        for (name, node) in folder.entries(self.store)? {
            let length = path.len();
            if length > 0 {
                path.push('/');
            }
            path.push_str(name);
            match node {
                Node::Folder(child) => self.folder(child, path)?,
                Node::Object { checksum, .. } => self.object(*checksum, path)?,
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn object(&mut self, checksum: Sha256, path: &str) -> Result<()> {
        let group = self.groups.get(path).copied();
        if let Some(group) = group {
            if let Some(first) = self.firsts.get(&group) {
                return (self.each)(Visit { path, what: Visited::HardLink { first } });
            }
            self.firsts.insert(group, path.to_owned());
        }
        let (metadata, size) = self.store.object_status(checksum)?;
        if metadata.mode & S_IFMT == S_IFLNK {
            let target = self.store.link_target(checksum)?;
            return (self.each)(Visit {
                path,
                what: Visited::Symlink { metadata: &metadata, target: &target },
            });
        }
        let object = Store::object_name(checksum);
        (self.each)(Visit {
            path,
            what: Visited::File { metadata: &metadata, size, object: &object, has_links: group.is_some() },
        })
    }
}
