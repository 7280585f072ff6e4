//! The writable file system, for machines where overlayfs cannot be mounted in a user namespace:
//! an immutable tree below, a plain folder above that takes all changes, in overlayfs's own form.
//!
//! It behaves as overlayfs with `userxattr` does, so that what a command does, and what is found in
//! the upper folder afterwards, are the same: folders of the tree cannot be renamed (EXDEV), the
//! names of a hard-linked file of the tree part when one is changed, removed names leave whiteouts.
//! Better than there, a file that is open for reading sees what is written to it after copying up.
//!
//! Files are copied up by what changes them, not by being opened for it. The kernel opens files by
//! itself, without a message, so there are no file handles: a number stands for a file as long as the
//! kernel knows it, with a name or without.
//!
//! Every name and attribute goes through this one mount, so the kernel caches them for good; only
//! what the upper folder's own file system does by itself (times on writing) it is told again.
//!
//! What it does not have: device nodes, `O_TMPFILE` (a message that the protocol's library does not know,
//! so the kernel says EOPNOTSUPP, as for any file system without; tmpfile(3) and its kin then make a named
//! file), and locks or changes visible to anybody but through this mount. Inode numbers are its own.
//!
//! The names of a hard-linked file of the tree are nodes of their own for the kernel, since one can be
//! changed without the others. They show one inode number all the same: to a lookup the protocol's
//! library gives a node's number as its inode number, so that answer counts for no time, and the kernel
//! asks for the attributes by themselves, which may say another.

mod layers;
mod upper;

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, OFlag, fallocate},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        stat::{Mode, SFlag, fstat, mkdirat, mknodat},
        statvfs::fstatvfs,
        time::TimeSpec,
    },
    unistd::{Whence, lseek64, symlinkat},
};

use super::{
    Device, Owners, ServerHandle,
    attributes::{FOREVER, attributes, reply_with_room, shown_name, time},
    device,
    kept::{KeptFiles, read_fully},
    readonly,
    tree::{Kind, Tree},
};
use crate::error::{Doing, Result};
use layers::{Layers, errno};
use upper::Upper;

/// What fsync(2) and its kin do, and with them writes with `O_SYNC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// Nothing: for an upper folder that is thrown away on failure.
    Nothing,
    /// They reach the disk.
    Real,
}

/// Serves `tree` with changes kept in the folder `upper`; `work` is an empty folder on the same file
/// system. The device must have been mounted writable. What the folder already holds, of an earlier
/// session, is shown.
///
/// It uses a descriptor for each changed file that the kernel knows, and so raises the process's soft
/// limit of open files to its hard limit.
pub fn serve_writable(
    device: Device,
    tree: impl Tree,
    upper: &Path,
    work: &Path,
    owners: Owners,
    syncs: Syncs,
) -> Result<ServerHandle> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).doing("asking for the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).doing("raising the limit of open files")?;
    let folder = upper::open_folder(upper).doing_to("opening", upper)?;
    let work_folder = upper::open_folder(work).doing_to("opening", work)?;
    let shared = Arc::new(Upper::new(work_folder).doing("opening /proc/self/fd")?);
    let tree = Arc::new(tree);
    let layers = Layers::new(Arc::clone(&tree), folder, Arc::clone(&shared), owners)
        .doing_to("reading the attributes of", upper)?;
    let cow = Cow::new(tree, shared, layers, owners, syncs);
    let kernel = Arc::clone(&cow.kernel);
    device::start_notifying(device, cow, |notifier| drop(kernel.set(notifier)))
}

/// Marks the key of an open file in the upper folder.
const IN_UPPER: u64 = 1 << 63;

/// What an open folder showed when it was last read from its start: number, file type bits, name.
type Shown = Arc<Vec<(u64, u32, Vec<u8>)>>;

/// The file system. One lock guards which node is what; reading and writing go on without it.
struct Cow<T> {
    tree: Arc<T>,
    upper: Arc<Upper>,
    layers: Mutex<Layers<T>>,
    owners: Owners,
    syncs: Syncs,
    files: KeptFiles,
    folders: Mutex<HashMap<u64, Shown>>,
    next: AtomicU64,
    kernel: Arc<OnceLock<Notifier>>,
}

/// How long the attributes count that come with a node's number: not at all where stat(2) shows another.
fn validity<T: Tree>(layers: &Layers<T>, id: u64) -> Duration {
    if layers.shared_number(id).is_some() { Duration::ZERO } else { FOREVER }
}

/// A reply's error.
fn refusal(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno as i32)
}

/// Sends an answer's error, or goes on with its value.
macro_rules! or_refuse {
    ($reply:expr, $answer:expr) => {
        match $answer {
            Ok(value) => value,
            Err(errno) => return $reply.error(refusal(errno)),
        }
    };
}

impl<T: Tree> Cow<T> {
    fn new(tree: Arc<T>, upper: Arc<Upper>, layers: Layers<T>, owners: Owners, syncs: Syncs) -> Self {
        Cow {
            tree,
            upper,
            layers: Mutex::new(layers),
            owners,
            syncs,
            files: KeptFiles::new(),
            folders: Mutex::default(),
            next: AtomicU64::new(1),
            kernel: Arc::default(),
        }
    }

    /// No code under the lock panics; if some did, going on is still better than ending.
    fn layers(&self) -> MutexGuard<'_, Layers<T>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, layers: &Layers<T>, id: u64) -> nix::Result<FileAttr> {
        let located = layers.locate(id)?;
        let Some(fd) = located.upper else {
            let node = located.lower.and_then(|inode| self.tree.node(inode)).ok_or(Errno::EIO)?;
            let shown = attributes(id, &node, self.owners);
            let has_one_name = node.kind != Kind::Folder && layers.shared_number(id).is_none();
            return Ok(if has_one_name { FileAttr { nlink: 1, ..shown } } else { shown });
        };
        let status = upper::status(fd.as_fd())?;
        let merged = located.lower.is_some();
        Ok(FileAttr {
            ino: INodeNo(id),
            size: status.st_size as u64,
            blocks: status.st_blocks as u64,
            atime: time(status.st_atime, status.st_atime_nsec as u32),
            mtime: time(status.st_mtime, status.st_mtime_nsec as u32),
            ctime: time(status.st_ctime, status.st_ctime_nsec as u32),
            crtime: UNIX_EPOCH,
            kind: file_type(upper::kind(&status)),
            perm: (status.st_mode & 0o7777) as u16,
            // As overlayfs has it: programs do not count a merged folder's folders by its links.
            nlink: if merged { 1 } else { status.st_nlink as u32 },
            uid: status.st_uid,
            gid: status.st_gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// The same with the inode number that stat(2) shows.
    fn status(&self, id: u64) -> nix::Result<FileAttr> {
        let layers = self.layers();
        let attributes = self.attributes(&layers, id)?;
        Ok(FileAttr { ino: INodeNo(layers.shared_number(id).unwrap_or(id)), ..attributes })
    }

    /// Answers with a node that the kernel then knows.
    fn enter(&self, layers: &mut Layers<T>, id: u64) -> nix::Result<FileAttr> {
        let attributes = self.attributes(layers, id)?;
        layers.count_lookup(id)?;
        Ok(attributes)
    }

    /// What has this name, and how long its attributes count.
    fn find(&self, folder: u64, name: &[u8]) -> nix::Result<Option<(FileAttr, Duration)>> {
        if name.len() > libc::NAME_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut layers = self.layers();
        let found = layers.find(folder, name)?;
        let entered = |found: layers::Found| {
            let attributes = self.enter(&mut layers, found.id)?;
            Ok((attributes, validity(&layers, found.id)))
        };
        found.map(entered).transpose()
    }

    /// Makes something, and answers with it.
    fn create_entry(
        &self,
        request: &Request,
        (folder, name): (INodeNo, &OsStr),
        (mode, umask): (u32, u32),
        make: impl FnOnce(std::os::fd::BorrowedFd<'_>, &OsStr) -> nix::Result<()>,
    ) -> nix::Result<FileAttr> {
        if name.len() > libc::NAME_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut layers = self.layers();
        let owner = (request.uid(), request.gid());
        let made = layers.create(folder.0, name.as_bytes(), (mode, umask), owner, make)?;
        self.enter(&mut layers, made)
    }

    /// The content of a file, for reading.
    fn file(&self, id: u64) -> nix::Result<Arc<File>> {
        let located = self.layers().locate(id)?;
        if let Some(fd) = located.upper {
            return self.upper_file(id, &fd);
        }
        let inode = located.lower.ok_or(Errno::ESTALE)?;
        self.files.get(id, || self.tree.open(inode).map_err(errno))
    }

    /// The content of a file, for writing.
    fn changed_file(&self, id: u64) -> nix::Result<Arc<File>> {
        let fd = self.changed(id)?;
        self.upper_file(id, &fd)
    }

    fn upper_file(&self, id: u64, fd: &OwnedFd) -> nix::Result<Arc<File>> {
        self.files.get(id | IN_UPPER, || self.upper.open(fd.as_fd(), OFlag::O_RDWR))
    }

    fn read_node(&self, id: u64, offset: u64, size: u32) -> nix::Result<Vec<u8>> {
        let mut buffer = vec![0; size as usize];
        let filled = read_fully(&*self.file(id)?, &mut buffer, offset).map_err(errno)?;
        buffer.truncate(filled);
        Ok(buffer)
    }

    /// What a folder shows, from `offset` on: listed anew when it is read from its start, as
    /// rewinddir(3) has it; what is removed or made in between does not shift what follows.
    fn shown(&self, id: u64, handle: FileHandle, offset: u64) -> nix::Result<Shown> {
        let folders = || self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let known = if offset == 0 { None } else { folders().get(&handle.0).cloned() };
        if let Some(shown) = known {
            return Ok(shown);
        }
        let mut list = vec![(id, libc::S_IFDIR, b".".to_vec()), (id, libc::S_IFDIR, b"..".to_vec())];
        list.extend(self.layers().list(id)?);
        let shown = Arc::new(list);
        folders().insert(handle.0, Arc::clone(&shown));
        Ok(shown)
    }

    /// Writes, and takes the set-id bits away if the writer is not to keep them: the kernel leaves that
    /// to us (`FUSE_HANDLE_KILLPRIV_V2`). Capabilities go by themselves, and the bits may, too: for the
    /// upper folder's file system we are but somebody of a user namespace.
    fn write_node(&self, id: u64, data: &[u8], offset: u64, drop: bool) -> nix::Result<()> {
        let file = self.changed_file(id)?;
        let mode = if drop { fstat(&*file)?.st_mode } else { 0 };
        file.write_all_at(data, offset).map_err(errno)?;
        if mode & (libc::S_ISUID | libc::S_ISGID) == 0 {
            return Ok(());
        }
        self.drop_set_id(id)?;
        // The kernel does not expect the answer to a write to change the mode it knows. Offset −1:
        // the attributes alone.
        if let Some(kernel) = self.kernel.get() {
            let _ = kernel.inval_inode(INodeNo(id), -1, 0);
        }
        Ok(())
    }

    /// As setattr_should_drop_suidgid() in the kernel's fs/attr.c: set-gid without execution by the
    /// group means something else, and stays.
    fn drop_set_id(&self, id: u64) -> nix::Result<()> {
        let Some(fd) = self.layers().locate(id)?.upper else { return Ok(()) };
        let mode = upper::status(fd.as_fd())?.st_mode;
        let group = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
        let kept = mode & !(libc::S_ISUID | group);
        if kept == mode { Ok(()) } else { self.upper.set_mode(fd.as_fd(), kept) }
    }

    /// The order matters: chown(2) clears set-id bits.
    fn change(&self, id: u64, change: &Change) -> nix::Result<FileAttr> {
        let mut layers = self.layers();
        let fd = layers.copy_up(id, change.size == Some(0))?;
        if let Some(size) = change.size {
            self.upper.open(fd.as_fd(), OFlag::O_WRONLY)?.set_len(size).map_err(errno)?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            upper::set_owner(fd.as_fd(), change.uid, change.gid)?;
        }
        if let Some(mode) = change.mode {
            self.upper.set_mode(fd.as_fd(), mode)?;
        }
        if change.access.is_some() || change.modification.is_some() {
            let [access, modification] = [change.access, change.modification].map(time_spec);
            upper::set_both_times(fd.as_fd(), &access, &modification)?;
        }
        self.attributes(&layers, id)
    }

    fn xattr(&self, id: u64, name: &[u8]) -> nix::Result<Option<Vec<u8>>> {
        let located = self.layers().locate(id)?;
        if let Some(fd) = located.upper {
            return upper::attribute(fd.as_fd(), name);
        }
        let mut found = None;
        self.tree.xattrs(located.lower.ok_or(Errno::ESTALE)?, &mut |known, value| {
            if known == name && shown_name(known) == known {
                found = Some(value.to_vec());
            }
            found.is_none()
        });
        Ok(found)
    }

    fn xattr_names(&self, id: u64) -> nix::Result<Vec<u8>> {
        let located = self.layers().locate(id)?;
        let mut list = Vec::new();
        if let Some(fd) = located.upper {
            for name in upper::attributes_of(fd.as_fd())? {
                list.extend_from_slice(name.to_bytes_with_nul());
            }
            return Ok(list);
        }
        self.tree.xattrs(located.lower.ok_or(Errno::ESTALE)?, &mut |name, _| {
            if !upper::is_reserved(name) {
                list.extend_from_slice(name);
                list.push(0);
            }
            true
        });
        Ok(list)
    }

    /// fsync(2), or fdatasync(2) if `data` alone.
    fn sync(&self, id: u64, data: bool) -> nix::Result<()> {
        if self.syncs == Syncs::Nothing {
            return Err(Errno::ENOSYS); // success, that the kernel does not ask for again
        }
        let located = self.layers().locate(id)?;
        let Some(fd) = located.upper else { return Ok(()) }; // nothing of it has changed
        let flags =
            if upper::is_folder(&upper::status(fd.as_fd())?) { OFlag::O_DIRECTORY } else { OFlag::empty() };
        let file = self.upper.open(fd.as_fd(), OFlag::O_RDONLY | flags)?;
        if data { file.sync_data() } else { file.sync_all() }.map_err(errno)
    }

    /// The node's descriptor in the upper folder, to be changed.
    fn changed(&self, id: u64) -> nix::Result<Arc<OwnedFd>> {
        self.layers().copy_up(id, false)
    }
}

/// What setattr asks for.
struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    access: Option<TimeOrNow>,
    modification: Option<TimeOrNow>,
}

/// The form that utimensat(2) takes.
fn time_spec(time: Option<TimeOrNow>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(TimeOrNow::Now) => TimeSpec::UTIME_NOW,
        Some(TimeOrNow::SpecificTime(time)) => match time.duration_since(UNIX_EPOCH) {
            Ok(since) => TimeSpec::from_duration(since),
            Err(before) => {
                let before = before.duration();
                let (whole, part) = (before.as_secs() as i64, i64::from(before.subsec_nanos()));
                if part == 0 {
                    TimeSpec::new(-whole, 0)
                } else {
                    TimeSpec::new(-whole - 1, 1_000_000_000 - part)
                }
            }
        },
    }
}

fn file_type(bits: u32) -> FileType {
    match bits {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

impl<T: Tree> Filesystem for Cow<T> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_POSIX_ACL,
            // A folder's default list takes the umask's place.
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match or_refuse!(reply, self.find(parent.0, name.as_bytes())) {
            Some((attributes, validity)) => {
                reply.entry_with_ttls(&validity, &FOREVER, &attributes, Generation(0));
            }
            None => readonly::reply_with_nothing(reply),
        }
    }

    fn forget(&self, _: &Request, inode: INodeNo, lookups: u64) {
        if self.layers().forget(inode.0, lookups) {
            self.files.close(inode.0 | IN_UPPER);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let attributes = or_refuse!(reply, self.status(inode.0));
        reply.attr(&FOREVER, &attributes);
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        access: Option<TimeOrNow>,
        modification: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { mode, uid, gid, size, access, modification };
        let mut changed = self.change(inode.0, &change);
        if changed.is_ok() && size.is_some() && request.uid() != 0 {
            let dropped = self.drop_set_id(inode.0);
            changed = dropped.and_then(|()| self.attributes(&self.layers(), inode.0));
        }
        let attributes = or_refuse!(reply, changed);
        reply.attr(&FOREVER, &attributes);
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        let located = or_refuse!(reply, self.layers().locate(inode.0));
        match located.upper {
            Some(fd) => {
                let target = or_refuse!(reply, upper::target(fd.as_fd()));
                reply.data(&target);
            }
            None => match located.lower.and_then(|inode| self.tree.target(inode)) {
                Some(target) => reply.data(target),
                None => reply.error(fuser::Errno::EINVAL),
            },
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG => SFlag::S_IFREG,
            libc::S_IFIFO => SFlag::S_IFIFO,
            libc::S_IFSOCK => SFlag::S_IFSOCK,
            // No user namespace may make a device, and 0:0 would be a whiteout.
            _ => return reply.error(fuser::Errno::EPERM),
        };
        let made = self.create_entry(request, (parent, name), (mode, umask), |work, path| {
            mknodat(work, path, kind, Mode::from_bits_truncate(0o600), 0)
        });
        let attributes = or_refuse!(reply, made);
        reply.entry(&FOREVER, &attributes, Generation(0));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = libc::S_IFDIR | (mode & 0o7777);
        let made = self.create_entry(request, (parent, name), (mode, umask), |work, path| {
            mkdirat(work, path, Mode::from_bits_truncate(0o700))
        });
        let attributes = or_refuse!(reply, made);
        reply.entry(&FOREVER, &attributes, Generation(0));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let made = self.create_entry(request, (parent, name), (libc::S_IFLNK | 0o777, 0), |work, path| {
            symlinkat(target, work, path)
        });
        let attributes = or_refuse!(reply, made);
        reply.entry(&FOREVER, &attributes, Generation(0));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        or_refuse!(reply, self.layers().remove(parent.0, name.as_bytes(), false));
        reply.ok();
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        or_refuse!(reply, self.layers().remove(parent.0, name.as_bytes(), true));
        reply.ok();
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty()
            && flags != RenameFlags::RENAME_NOREPLACE
            && flags != RenameFlags::RENAME_EXCHANGE
        {
            return reply.error(fuser::Errno::EINVAL);
        }
        if new_name.len() > libc::NAME_MAX as usize {
            return reply.error(fuser::Errno::ENAMETOOLONG);
        }
        let mut layers = self.layers();
        let (from, to) = ((parent.0, name.as_bytes()), (new_parent.0, new_name.as_bytes()));
        if flags == RenameFlags::RENAME_EXCHANGE {
            or_refuse!(reply, layers.exchange(from, to));
            return reply.ok();
        }
        if !flags.is_empty() && or_refuse!(reply, layers.find(to.0, to.1)).is_some() {
            return reply.error(fuser::Errno::EEXIST);
        }
        or_refuse!(reply, layers.rename(from, to));
        reply.ok();
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut layers = self.layers();
        or_refuse!(reply, layers.link(inode.0, parent.0, name.as_bytes()));
        let attributes = or_refuse!(reply, self.enter(&mut layers, inode.0));
        reply.entry(&FOREVER, &attributes, Generation(0));
    }

    /// As in the read-only file system: from now on the kernel opens files by itself.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mode = libc::S_IFREG | (mode & 0o7777);
        let made = self.create_entry(request, (parent, name), (mode, umask), Layers::<T>::make_file);
        let attributes = or_refuse!(reply, made);
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        reply.created(&FOREVER, &attributes, Generation(0), FileHandle(0), flags);
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
        let data = or_refuse!(reply, self.read_node(inode.0, offset, size));
        reply.data(&data);
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let drop = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        or_refuse!(reply, self.write_node(inode.0, data, offset, drop));
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, data: bool, reply: ReplyEmpty) {
        or_refuse!(reply, self.sync(inode.0, data));
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, data: bool, reply: ReplyEmpty) {
        or_refuse!(reply, self.sync(inode.0, data));
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        // Until something in the folder changes, the kernel need not read it again.
        reply.opened(FileHandle(handle), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let shown = or_refuse!(reply, self.shown(inode.0, handle, offset));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (id, kind, name)) in (1..).zip(shown.iter()).skip(skip) {
            if reply.add(INodeNo(*id), next, file_type(*kind), OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let shown = or_refuse!(reply, self.shown(inode.0, handle, offset));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut layers = self.layers();
        for (next, (_, _, name)) in (1..).zip(shown.iter()).skip(skip) {
            let is_dots = matches!(name.as_slice(), b"." | b"..");
            let attributes = match is_dots {
                true => self.attributes(&layers, inode.0).map(Some),
                // What has gone since is left out.
                false => match layers.find(inode.0, name) {
                    Ok(Some(found)) => self.enter(&mut layers, found.id).map(Some),
                    Ok(None) => Ok(None),
                    Err(errno) => Err(errno),
                },
            };
            let Some(attributes) = or_refuse!(reply, attributes) else { continue };
            let (id, name) = (attributes.ino, OsStr::from_bytes(name));
            let validity = if is_dots { FOREVER } else { validity(&layers, id.0) };
            if reply.add(id, next, name, &validity, &attributes, Generation(0)) {
                // It did not fit, so the kernel has not been told of it. Of the dots it never is.
                if !is_dots {
                    layers.forget(id.0, 1);
                }
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let root = or_refuse!(reply, self.layers().copy_up(super::tree::ROOT, false));
        let status = or_refuse!(reply, fstatvfs(&root));
        reply.statfs(
            status.blocks(),
            status.blocks_free(),
            status.blocks_available(),
            status.files(),
            status.files_free(),
            status.block_size() as u32,
            libc::NAME_MAX as u32,
            status.fragment_size() as u32,
        );
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match or_refuse!(reply, self.xattr(inode.0, name.as_bytes())) {
            Some(value) => reply_with_room(reply, size, &value),
            None => reply.error(fuser::Errno::ENODATA),
        }
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let names = or_refuse!(reply, self.xattr_names(inode.0));
        reply_with_room(reply, size, &names);
    }

    fn setxattr(
        &self,
        _: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        if upper::is_reserved(name.as_bytes()) {
            return reply.error(fuser::Errno::EPERM);
        }
        let fd = or_refuse!(reply, self.changed(inode.0));
        or_refuse!(reply, upper::set_attribute(fd.as_fd(), name.as_bytes(), value, flags));
        reply.ok();
    }

    fn removexattr(&self, _: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if or_refuse!(reply, self.xattr(inode.0, name.as_bytes())).is_none() {
            return reply.error(fuser::Errno::ENODATA); // nothing to copy up for
        }
        let fd = or_refuse!(reply, self.changed(inode.0));
        or_refuse!(reply, upper::remove_attribute(fd.as_fd(), name.as_bytes()));
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let file = or_refuse!(reply, self.changed_file(inode.0));
        let narrow = |number: u64| i64::try_from(number).map_err(|_| Errno::EFBIG);
        let (offset, length) = (or_refuse!(reply, narrow(offset)), or_refuse!(reply, narrow(length)));
        let mode = FallocateFlags::from_bits_retain(mode);
        or_refuse!(reply, fallocate(&*file, mode, offset, length));
        reply.ok();
    }

    /// Only holes come here; the rest of lseek(2) the kernel does itself.
    fn lseek(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let file = or_refuse!(reply, self.file(inode.0));
        let whence = match whence {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let found = or_refuse!(reply, lseek64(&*file, offset, whence));
        reply.offset(found);
    }
}
