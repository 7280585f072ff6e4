//! A tree as a folder on disk, for overlayfs: files are hard links to their contents where these look
//! as the tree has it, and copies with the right owner, mode and attributes where they do not.
//!
//! Written as root of the user namespace, which alone can give files to others. Names of one file of
//! the tree are hard links of each other, and nothing else is: two files that share a content (most
//! of them empty) are two files, as they would be on the image's own disk, or `cp -a` would join them.

use std::{
    collections::{HashMap, HashSet},
    ffi::{CString, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat},
    sys::{
        stat::{
            FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, mkdirat, mknodat,
            utimensat,
        },
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchownat, linkat, symlinkat},
};

use super::{
    Owners,
    attributes::shown_name,
    listing::Listing,
    merge::metadata,
    stored::open_contents,
    tree::{Entry, Kind, Node, ROOT},
};
use crate::{
    acl,
    error::{Doing, Error, Result},
    sys::xattr::{self, Place},
};

/// Fills `target`, an empty folder, with the tree.
pub(crate) fn check_out(listing: &Listing, contents: &Path, target: &Path, owners: Owners) -> Result<()> {
    let mut checkout = Checkout {
        listing,
        owners,
        contents: open_contents(contents)?,
        linked: HashSet::new(),
        names: HashMap::new(),
        paths: HashMap::from([(ROOT, target.to_owned())]),
    };
    // Entries are sorted by their folder's number, and a folder's number is above its parent's: so
    // each folder is there before anything is put into it.
    let mut number = 0;
    while let Some(first) = listing.entry(number) {
        let entries = listing.entries(first.folder).filter(|entries| entries.contains(&number));
        let entries = entries.ok_or_else(|| Error::bug("the listing of the tree is damaged"))?;
        number = entries.end;
        checkout.folder(first.folder, entries.filter_map(|entry| listing.entry(entry)))?;
    }
    // Last of all: its default access control list would be for what is made in it.
    give_metadata(listing, ROOT, target, owners)
}

struct Checkout<'a> {
    listing: &'a Listing,
    owners: Owners,
    contents: OwnedFd,
    /// Contents that have a link in the checkout: a second one would join two files.
    linked: HashSet<&'a [u8]>,
    /// Files with several names → the first of them.
    names: HashMap<u64, PathBuf>,
    /// Where folders are.
    paths: HashMap<u64, PathBuf>,
}

impl<'a> Checkout<'a> {
    /// What is in one folder; and then the folder's default access control list, which would be for what is
    /// made in it, and its time, which filling it has changed.
    fn folder(&mut self, inode: u64, entries: impl Iterator<Item = Entry<'a>>) -> Result<()> {
        let path =
            self.paths.get(&inode).ok_or_else(|| Error::bug("the listing's folders are in disorder"))?;
        let path = path.clone();
        let folder = open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .doing_to("opening", &path)?;
        for entry in entries {
            let name = OsStr::from_bytes(entry.name);
            self.entry(&folder, name, &path.join(name), entry.inode).map_err(|errno| {
                Error::system(format_args!("writing {}", path.join(name).display()), errno)
            })?;
        }
        let node = self.node(inode)?;
        self.set_xattrs(&folder, inode, &|name| name == acl::DEFAULT)
            .doing_to("setting an attribute of", &path)?;
        set_times(&folder, OsStr::new("."), &node).doing_to("setting the times of", &path)
    }

    fn node(&self, inode: u64) -> Result<Node> {
        self.listing.node(inode).ok_or_else(|| Error::bug("a node of the listing is missing"))
    }

    fn entry(&mut self, folder: &OwnedFd, name: &OsStr, path: &Path, inode: u64) -> nix::Result<()> {
        let node = self.listing.node(inode).ok_or(Errno::EIO)?;
        if let Some(first) = self.names.get(&inode) {
            return linkat(AT_FDCWD, first, folder, name, AtFlags::empty());
        }
        let private = Mode::from_bits_truncate(0o700);
        match node.kind {
            Kind::Folder => {
                mkdirat(folder, name, private)?;
                self.paths.insert(inode, path.to_owned());
                self.finish(folder, name, inode, &node)?;
            }
            Kind::Symlink => {
                let target = self.listing.target(inode).ok_or(Errno::EIO)?;
                symlinkat(OsStr::from_bytes(target), folder, name)?;
                self.finish(folder, name, inode, &node)?;
            }
            Kind::File => self.file(folder, name, inode, &node)?,
            Kind::Fifo | Kind::Socket => {
                let kind = if node.kind == Kind::Fifo { SFlag::S_IFIFO } else { SFlag::S_IFSOCK };
                mknodat(folder, name, kind, private, 0)?;
                self.finish(folder, name, inode, &node)?;
            }
        }
        if node.links > 1 && node.kind != Kind::Folder {
            self.names.insert(inode, path.to_owned());
        }
        Ok(())
    }

    fn file(&mut self, folder: &OwnedFd, name: &OsStr, inode: u64, node: &Node) -> nix::Result<()> {
        let content = self.listing.content_path(inode).ok_or(Errno::EIO)?;
        let content_path = OsStr::from_bytes(content);
        let status = fstatat(&self.contents, content_path, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if looks_like(&status, node, self.owners) && self.has_no_xattrs(inode) && self.linked.insert(content)
        {
            match linkat(&self.contents, content_path, folder, name, AtFlags::empty()) {
                // Another file system; too many links; somebody else's file
                // (fs.protected_hardlinks). A copy shows the same, and costs its bytes.
                Err(Errno::EXDEV | Errno::EMLINK | Errno::EPERM) => {}
                linked => return linked,
            }
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut from = File::from(openat(&self.contents, content_path, flags, Mode::empty())?);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mut to = File::from(openat(folder, name, flags, Mode::from_bits_truncate(0o600))?);
        // By reflink where the file system can.
        io::copy(&mut from, &mut to).map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        self.finish(folder, name, inode, node)
    }

    fn has_no_xattrs(&self, inode: u64) -> bool {
        let mut none = true;
        self.listing.xattrs(inode, &mut |_, _| {
            none = false;
            false
        });
        none
    }

    /// Owner first: a change of owner clears set-id bits and capabilities. Times last.
    fn finish(&self, folder: &OwnedFd, name: &OsStr, inode: u64, node: &Node) -> nix::Result<()> {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        // Root's, too: what is made in a set-gid folder has the folder's group.
        if self.owners == Owners::Real {
            fchownat(folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        if node.kind != Kind::Symlink {
            let mode = Mode::from_bits_truncate(node.permissions.into());
            // What was made a moment ago, by nobody else, is no link.
            fchmodat(folder, name, mode, FchmodatFlags::FollowSymlink)?;
            if !self.has_no_xattrs(inode) {
                let made = openat(folder, name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
                let is_empty = self.listing.entries(inode).is_none_or(|entries| entries.is_empty());
                self.set_xattrs(&made, inode, &|name| is_empty || name != acl::DEFAULT)?;
            }
        }
        set_times(folder, name, node)
    }

    fn set_xattrs(&self, file: &OwnedFd, inode: u64, is_wanted: &dyn Fn(&[u8]) -> bool) -> nix::Result<()> {
        let mut result = Ok(());
        self.listing.xattrs(inode, &mut |name, value| {
            // trusted.* is not for user namespaces.
            if !name.starts_with(b"trusted.") && is_wanted(name) {
                result = CString::new(shown_name(name))
                    .map_err(|_| Errno::EINVAL)
                    .and_then(|name| xattr::set(Place::Descriptor(file.as_fd()), &name, value));
            }
            result.is_ok()
        });
        result
    }
}

/// Gives a folder that exists the owner, mode and attributes of a node of the tree.
pub(crate) fn give_metadata(listing: &Listing, inode: u64, path: &Path, owners: Owners) -> Result<()> {
    let metadata = metadata(listing, inode)?;
    let folder = open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .doing_to("opening", path)?;
    let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    let set = || -> nix::Result<()> {
        if owners == Owners::Real {
            fchownat(&folder, ".", Some(uid), Some(gid), AtFlags::empty())?;
        }
        nix::sys::stat::fchmod(&folder, Mode::from_bits_truncate(metadata.mode & 0o7777))?;
        for (name, value) in &metadata.xattrs {
            let name = CString::new(shown_name(name)).map_err(|_| Errno::EINVAL)?;
            xattr::set(Place::Open(folder.as_fd()), &name, value)?;
        }
        Ok(())
    };
    set().doing_to("setting owner, mode and attributes of", path)
}

/// Whether a content file shows what the tree has, as far as stat(2) tells.
fn looks_like(status: &FileStat, node: &Node, owners: Owners) -> bool {
    let owner = if owners == Owners::Real { (node.uid, node.gid) } else { (0, 0) };
    status.st_mode == node.kind.bits() | u32::from(node.permissions)
        && (status.st_uid, status.st_gid) == owner
        && (status.st_mtime, status.st_mtime_nsec) == (node.modified, node.modified_nanoseconds.into())
        && u64::try_from(status.st_size) == Ok(node.size)
}

fn set_times(folder: &OwnedFd, name: &OsStr, node: &Node) -> nix::Result<()> {
    let time = TimeSpec::new(node.modified, node.modified_nanoseconds.into());
    utimensat(folder, name, &time, &time, UtimensatFlags::NoFollowSymlink)
}
