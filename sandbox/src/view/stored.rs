//! The tree that views usually serve: a [`Listing`], and a folder with the files' contents.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    ops::Range,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
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
#[derive(Debug)]
pub struct StoredTree {
    listing: Listing,
    contents: OwnedFd,
}

impl StoredTree {
    /// `contents` is the folder that the listing's content paths are relative to, such as the
    /// `objects` of a repository.
    pub fn new(listing: Listing, contents: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let contents = open(contents, flags, Mode::empty()).doing_to("opening", contents)?;
        Ok(StoredTree { listing, contents })
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
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
        Ok(openat(&self.contents, OsStr::from_bytes(path), flags, Mode::empty())?.into())
    }
}
