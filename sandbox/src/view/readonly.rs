//! The read-only file system: a tree's metadata, and its data too if asked. Nothing in it changes,
//! so the kernel is told to keep whatever it was told, and there is no state and no lock.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, sync::Arc};

use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};

use super::{
    Owners, Serve,
    attributes::{FOREVER, attributes, file_type, reply_with_room, shown_name},
    kept::{KeptFiles, read_fully},
    tree::{Kind, ROOT, Tree},
};

/// What overlayfs asks for: "this file's data is elsewhere" (Linux ≥ 6.16 with `userxattr`;
/// Documentation/filesystems/overlayfs.rst, "Data-only lower layers").
const METACOPY: &[u8] = b"user.overlay.metacopy";
/// … and where: a path from the root of the data-only layer.
const REDIRECT: &[u8] = b"user.overlay.redirect";

/// Offsets 1 and 2 in a folder are `.` and `..`; entry n of the folder is at FIRST_ENTRY + n.
const FIRST_ENTRY: u64 = 3;

/// Serves a tree that never changes.
pub(super) struct ReadOnly<T> {
    tree: T,
    serve: Serve,
    owners: Owners,
    files: KeptFiles,
}

impl<T: Tree> ReadOnly<T> {
    pub(super) fn new(tree: T, serve: Serve, owners: Owners) -> Self {
        ReadOnly { tree, serve, owners, files: KeptFiles::new() }
    }

    fn attributes(&self, inode: u64) -> Option<FileAttr> {
        self.tree.node(inode).map(|node| attributes(inode, &node, self.owners))
    }

    /// The tree's own attributes and those that this mode adds.
    fn each_xattr(&self, inode: u64, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let mut more = true;
        self.tree.xattrs(inode, &mut |name, value| {
            more = each(&shown_name(name), value);
            more
        });
        // An empty file has no content elsewhere.
        let has_content = || self.tree.node(inode).is_some_and(|node| node.size > 0);
        if self.serve == Serve::Metadata
            && more
            && has_content()
            && let Some(path) = self.tree.content_path(inode)
            && each(METACOPY, b"")
        {
            each(REDIRECT, &[b"/", path].concat());
        }
    }

    fn read(&self, inode: u64, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let length = self.tree.node(inode).ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?.size;
        let wanted = length.saturating_sub(offset).min(size.into()) as usize;
        let mut buffer = vec![0; wanted];
        if wanted == 0 {
            return Ok(buffer);
        }
        let file = match u64::from(size) < length {
            true => self.files.get(inode, || self.tree.open(inode))?,
            false => Arc::new(self.tree.open(inode)?), // there will be no second piece
        };
        let filled = read_fully(&file, &mut buffer, offset)?;
        // Shorter than the commit says: the object is damaged. The kernel would show zeroes.
        if filled < wanted { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(buffer) }
    }

    /// What comes at and after `offset` in a folder: offset of the next, inode, name. The numbers of
    /// `.` and `..` matter to nobody but old programs.
    fn listing(&self, folder: u64, offset: u64) -> Option<impl Iterator<Item = (u64, u64, &[u8])>> {
        let entries = self.tree.entries(folder)?;
        let parent = self.tree.entry_of(folder).and_then(|entry| self.tree.entry(entry));
        let parent = parent.map_or(ROOT, |entry| entry.folder);
        let dots = [(1, folder, b".".as_slice()), (2, parent, b"..".as_slice())];
        let skip = u32::try_from(offset.saturating_sub(FIRST_ENTRY - 1)).unwrap_or(u32::MAX);
        let start = entries.start.saturating_add(skip).min(entries.end);
        let base = entries.start;
        let named = (start..entries.end).filter_map(move |number| {
            let entry = self.tree.entry(number)?;
            Some((FIRST_ENTRY + u64::from(number - base), entry.inode, entry.name))
        });
        Some(dots.into_iter().filter(move |dot| dot.0 > offset).chain(named))
    }
}

impl<T: Tree> Filesystem for ReadOnly<T> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ];
        // A kernel without one of them is slower, not wrong.
        for flag in wanted {
            let _ = config.add_capabilities(flag);
        }
        if self.tree.has_access_lists() {
            // Without it the kernel refuses access control lists of a user namespace's mount.
            let _ = config.add_capabilities(InitFlags::FUSE_POSIX_ACL);
        }
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // The kernel's own limit for FUSE is 4095 (since Linux 6.15).
        if name.len() > libc::NAME_MAX as usize {
            return reply.error(Errno::ENAMETOOLONG);
        }
        let entry = self.tree.find(parent.0, name.as_bytes()).and_then(|number| self.tree.entry(number));
        match entry.map(|entry| self.attributes(entry.inode)) {
            Some(Some(attributes)) => reply.entry(&FOREVER, &attributes, Generation(0)),
            Some(None) => reply.error(Errno::EIO),
            None => reply_with_nothing(reply),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode.0) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match self.tree.target(inode.0) {
            Some(target) => reply.data(target),
            None => reply.error(Errno::EINVAL),
        }
    }

    /// "Not implemented" makes the kernel open files and folders by itself from then on, and keep
    /// their pages: an open, a close and a second read cost no message at all. The two init flags
    /// above say that it understands that (Linux ≥ 5.1); an older one gets a plain open.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.serve == Serve::Metadata {
            // Under the overlay nobody reads here. Without one, a clear no beats an empty file.
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.read(inode.0, offset, size) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error.into()),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(listing) = self.listing(inode.0, offset) else { return reply.error(Errno::ENOTDIR) };
        for (next, inode, name) in listing {
            let Some(node) = self.tree.node(inode) else { return reply.error(Errno::EIO) };
            if reply.add(INodeNo(inode), next, file_type(node.kind), OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(listing) = self.listing(inode.0, offset) else { return reply.error(Errno::ENOTDIR) };
        for (next, inode, name) in listing {
            let Some(attributes) = self.attributes(inode) else { return reply.error(Errno::EIO) };
            let name = OsStr::from_bytes(name);
            if reply.add(INodeNo(inode), next, name, &FOREVER, &attributes, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let nodes = self.tree.node_count();
        reply.statfs(0, 0, 0, nodes, 0, 4096, libc::NAME_MAX as u32, 4096);
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let mut found = None;
        self.each_xattr(inode.0, &mut |known, value| {
            if known == name.as_bytes() {
                found = Some(value.to_vec());
            }
            found.is_none()
        });
        match found {
            Some(value) => reply_with_room(reply, size, &value),
            None => reply.error(Errno::ENODATA),
        }
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let mut names = Vec::new();
        self.each_xattr(inode.0, &mut |name, _| {
            names.extend_from_slice(name);
            names.push(0);
            true
        });
        reply_with_room(reply, size, &names);
    }
}

/// "There is no such name", to be remembered: an entry of inode 0. An ENOENT would be asked for
/// again and again.
pub(super) fn reply_with_nothing(reply: ReplyEntry) {
    let nothing = super::tree::Node {
        kind: Kind::File,
        permissions: 0,
        uid: 0,
        gid: 0,
        links: 0,
        size: 0,
        modified: 0,
        modified_nanoseconds: 0,
    };
    reply.entry(&FOREVER, &attributes(0, &nothing, Owners::Root), Generation(0));
}
