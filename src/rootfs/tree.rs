//! A folder's entries by path, as the sandbox reads them, and the listing that is made of them.

use std::collections::{BTreeMap, HashMap};

use sandbox::{
    Change, Entry, Metadata,
    view::{self, Kind, Listing, ListingBuilder, ROOT},
};

use crate::{Error, Result};

/// An entry of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Owner, mode, attributes, time.
    pub(super) metadata: Metadata,
    /// What it is.
    pub(super) kind: NodeKind,
    /// Whether the folder does not have its owner and mode.
    pub(super) is_given: bool,
    /// A device's numbers, major and minor.
    pub(super) device: Option<(u32, u32)>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeKind {
    /// A folder.
    Folder,
    /// A file.
    File {
        /// Where the folder has it: another path than the tree's where /usr is merged only in the view.
        content: Vec<u8>,
        /// Bytes.
        size: u64,
        /// The number of its group of hard links, if it has several names.
        hard_link: Option<u64>,
    },
    /// A symbolic link and where it leads.
    Symlink(Vec<u8>),
    /// A device, pipe or socket: see the mode.
    Special,
}

/// All entries, parents before what is in them; the root is the empty path.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree(pub(super) BTreeMap<Vec<u8>, Node>);

/// A path's parent; none of the root.
pub(super) fn parent(path: &[u8]) -> Option<&[u8]> {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => Some(&path[..slash]),
        None => (!path.is_empty()).then_some(b""),
    }
}

/// A path below another one.
pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

impl Tree {
    /// Adds what the sandbox read.
    pub(super) fn add(&mut self, change: Change) {
        let (metadata, kind) = match change.now {
            Entry::Removed => return,
            Entry::Folder { metadata, .. } => (metadata, NodeKind::Folder),
            Entry::File { metadata, size, hard_link } => {
                (metadata, NodeKind::File { content: change.path.clone(), size, hard_link })
            }
            Entry::Symlink { metadata, target } => (metadata, NodeKind::Symlink(target)),
            Entry::Special { metadata, .. } => (metadata, NodeKind::Special),
        };
        self.0.insert(change.path, Node { metadata, kind, is_given: false, device: None });
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<&Node> {
        self.0.get(path)
    }

    pub(super) fn is_folder(&self, path: &[u8]) -> bool {
        self.get(path).is_some_and(|node| node.kind == NodeKind::Folder)
    }

    /// The target of a link.
    pub(super) fn link(&self, path: &[u8]) -> Option<&[u8]> {
        match &self.get(path)?.kind {
            NodeKind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// The entries below a folder, at any depth.
    pub(super) fn below(&self, folder: &[u8]) -> Vec<Vec<u8>> {
        let prefix = join(folder, b"");
        let from = self.0.range(prefix.clone()..);
        from.map(|(path, _)| path).take_while(|path| path.starts_with(&prefix)).cloned().collect()
    }

    /// The tree as a sandbox takes it. Devices are not in it: the sandbox has its own /dev, and those
    /// of the folder stay there.
    pub(super) fn listing(&self) -> Result<Listing> {
        let missing = || Error::bug("the folder's tree has no root");
        let root = self.get(b"").ok_or_else(missing)?;
        let mut builder = ListingBuilder::new(&metadata(&root.metadata))?;
        let mut folders: HashMap<&[u8], u64> = HashMap::from([(&b""[..], ROOT)]);
        let mut files: HashMap<u64, u64> = HashMap::new();
        for (path, node) in self.0.iter().skip(1) {
            let folder = parent(path).and_then(|parent| folders.get(parent));
            let &folder = folder.ok_or_else(|| Error::bug("a folder after what is in it"))?;
            let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
            let metadata = metadata(&node.metadata);
            match &node.kind {
                NodeKind::Folder => {
                    folders.insert(path, builder.folder(folder, name, &metadata)?);
                }
                NodeKind::File { hard_link: Some(group), .. } if files.contains_key(group) => {
                    builder.link(folder, name, files[group])?;
                }
                NodeKind::File { content, size, hard_link } => {
                    let file = builder.file(folder, name, &metadata, *size, content)?;
                    if let Some(group) = hard_link {
                        files.insert(*group, file);
                    }
                }
                NodeKind::Symlink(target) => {
                    builder.symlink(folder, name, &metadata, target)?;
                }
                NodeKind::Special => {
                    let kind = match node.metadata.mode & 0o170_000 {
                        0o010_000 => Kind::Fifo,
                        0o140_000 => Kind::Socket,
                        _ => continue,
                    };
                    builder.special(folder, name, kind, &metadata)?;
                }
            }
        }
        Ok(builder.finish()?)
    }
}

fn metadata(metadata: &Metadata) -> view::Metadata {
    view::Metadata {
        uid: metadata.uid,
        gid: metadata.gid,
        mode: metadata.mode,
        modified: metadata.modified.0,
        modified_nanoseconds: metadata.modified.1,
        xattrs: metadata.xattrs.clone(),
    }
}
