//! A stored tree written to a folder of the host that others will change: as copies, which share blocks
//! with the contents where the file system can, and never as further names of them.

use std::{
    ffi::OsStr,
    fs,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::{
    FirstIds, Moved,
    write::{Content, How, InTheWay, Writing, join},
};
use crate::{
    capture::{Change, Entry, Metadata},
    enforced::Tier,
    error::{Doing, Error, Kind, Result},
    plan::Stored,
    view::{self, Listing, ROOT, open_contents},
};

/// Writes the tree into `target`, which is there.
pub(crate) fn fill(stored: &Stored, target: &Path, tier: Tier) -> Result<Moved> {
    let listing = Listing::read(&stored.listing).map_err(|error| error.of_kind(Kind::Plan))?;
    let how = How {
        tier,
        first_id: FirstIds::default(),
        in_the_way: InTheWay::Refused,
        may_link: false,
        leave: Default::default(),
        without: Vec::new(),
    };
    let mut step = || Ok(());
    let writing = Writing::new(target, how, &mut step);
    let contents = open_contents(&stored.contents).map_err(|error| error.of_kind(Kind::Plan))?;
    let mut filling = Filling { listing: &listing, contents, writing };
    filling.folder(ROOT, Vec::new())?;
    filling.writing.end()?;
    let mut not_on_disk = filling.writing.not_on_disk;
    not_on_disk.sort();
    Ok(Moved { tier, first_id: FirstIds::default(), not_on_disk })
}

struct Filling<'a> {
    listing: &'a Listing,
    contents: OwnedFd,
    writing: Writing<'a>,
}

impl Filling<'_> {
    fn folder(&mut self, inode: u64, path: Vec<u8>) -> Result<()> {
        let metadata = self.metadata(inode)?;
        let now = Entry::Folder { metadata, opaque: false };
        self.writing.take(Change { path: path.clone(), now }, None)?;
        for entry in self.listing.entries(inode).into_iter().flatten() {
            let entry = self.listing.entry(entry).ok_or_else(damaged)?;
            self.entry(entry.inode, join(&path, entry.name))?;
        }
        Ok(())
    }

    fn entry(&mut self, inode: u64, path: Vec<u8>) -> Result<()> {
        let node = self.listing.node(inode).ok_or_else(damaged)?;
        let metadata = self.metadata(inode)?;
        let (now, content) = match node.kind {
            view::Kind::Folder => return self.folder(inode, path),
            view::Kind::File => {
                let hard_link = (node.links > 1).then_some(inode);
                (Entry::File { metadata, size: node.size, hard_link }, Some(self.content(inode)?))
            }
            view::Kind::Symlink => {
                let target = self.listing.target(inode).ok_or_else(damaged)?.to_vec();
                (Entry::Symlink { metadata, target }, None)
            }
            view::Kind::Fifo | view::Kind::Socket => (Entry::Special { metadata, device: (0, 0) }, None),
        };
        self.writing.take(Change { path, now }, content)
    }

    fn content(&self, inode: u64) -> Result<Content> {
        let path = OsStr::from_bytes(self.listing.content_path(inode).ok_or_else(damaged)?);
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.contents, path, flags, Mode::empty())
            .doing_to("opening the content", Path::new(path))?;
        Ok(Content { file, is_replaced: true })
    }

    fn metadata(&self, inode: u64) -> Result<Metadata> {
        let node = self.listing.node(inode).ok_or_else(damaged)?;
        let view::Metadata { uid, gid, mode, modified, modified_nanoseconds, xattrs } =
            view::metadata(self.listing, inode)?;
        let mode = node.kind.bits() | mode;
        Ok(Metadata { uid, gid, mode, xattrs, modified: (modified, modified_nanoseconds) })
    }
}

fn damaged() -> Error {
    Error::bug("the listing of the tree is damaged")
}

/// Makes a folder for it, if there is none.
pub(super) fn make(target: &Path) -> Result<()> {
    fs::create_dir_all(target).doing_to("making", target).map_err(|error| error.of_kind(Kind::Folder))
}
