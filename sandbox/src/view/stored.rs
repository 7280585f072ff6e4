//! The tree that views usually serve: a [`Listing`], and a folder with the files' contents.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    ops::Range,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
};

use super::{
    listing::Listing,
    tree::{Entry, Node, Tree},
};
use crate::error::{Doing, Result};

/// A listing with the contents it refers to.
#[derive(Clone, Debug)]
pub struct StoredTree {
    listing: Listing,
    /// One folder; or, if content paths begin with their folder's number, several.
    contents: Arc<Vec<OwnedFd>>,
    numbered: bool,
}

/// Opens a folder of contents.
pub(crate) fn open_contents(folder: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(folder, flags, Mode::empty()).doing_to("opening", folder)
}

impl StoredTree {
    /// `contents` is the folder that the listing's content paths are relative to, such as the
    /// `objects` of a repository.
    pub fn new(listing: Listing, contents: &Path) -> Result<Self> {
        Ok(StoredTree { listing, contents: Arc::new(vec![open_contents(contents)?]), numbered: false })
    }

    /// The tree that [`merge`](super::merge) gave, with the folder of each of its layers.
    pub(crate) fn merged(listing: Listing, contents: &[PathBuf]) -> Result<Self> {
        let folders: Result<Vec<_>> = contents.iter().map(|folder| open_contents(folder)).collect();
        Ok(StoredTree { listing, contents: Arc::new(folders?), numbered: true })
    }

    /// The folder that a content path is in, and the path in it.
    fn place<'a>(&self, path: &'a [u8]) -> Option<(&OwnedFd, &'a [u8])> {
        if !self.numbered {
            return self.contents.first().map(|folder| (folder, path));
        }
        let (number, rest) = path.split_at(path.iter().position(|&byte| byte == b'/')?);
        let number: usize = std::str::from_utf8(number).ok()?.parse().ok()?;
        self.contents.get(number).map(|folder| (folder, &rest[1..]))
    }

    /// The listing.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }
}

impl Tree for StoredTree {
    fn node_count(&self) -> u64 {
        self.listing.node_count()
    }

    fn entry_count(&self) -> u32 {
        self.listing.entry_count()
    }

    fn node(&self, inode: u64) -> Option<Node> {
        self.listing.node(inode)
    }

    fn entries(&self, folder: u64) -> Option<Range<u32>> {
        self.listing.entries(folder)
    }

    fn entry(&self, number: u32) -> Option<Entry<'_>> {
        self.listing.entry(number)
    }

    fn find(&self, folder: u64, name: &[u8]) -> Option<u32> {
        self.listing.find(folder, name)
    }

    fn entry_of(&self, inode: u64) -> Option<u32> {
        self.listing.entry_of(inode)
    }

    fn target(&self, inode: u64) -> Option<&[u8]> {
        self.listing.target(inode)
    }

    fn xattrs(&self, inode: u64, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.listing.xattrs(inode, each);
    }

    fn has_access_lists(&self) -> bool {
        self.listing.has_access_lists()
    }

    fn content_path(&self, inode: u64) -> Option<&[u8]> {
        self.listing.content_path(inode)
    }

    fn open(&self, inode: u64) -> io::Result<File> {
        let path = self.content_path(inode).ok_or(io::ErrorKind::NotFound)?;
        let (folder, path) = self.place(path).ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
        Ok(openat(folder, OsStr::from_bytes(path), flags, Mode::empty())?.into())
    }
}
