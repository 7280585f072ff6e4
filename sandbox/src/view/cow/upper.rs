//! The upper folder: system calls on what `O_PATH` descriptors refer to, and overlayfs's conventions
//! for what is not there any more (Documentation/filesystems/overlayfs.rst, "Whiteouts and opaque
//! directories", in the form that `-o userxattr` reads).

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, OsStr},
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, RenameFlags, open, openat, renameat, renameat2},
    sys::{
        stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, mknodat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, unlinkat},
};

use crate::sys::{
    view::{remove_xattr, set_times, set_xattr},
    xattr::{self, Place},
};

/// On a folder: `y`, nothing of the lower folder shows; `x`, there are whiteouts that are files.
const OPAQUE: &CStr = c"user.overlay.opaque";
/// On an empty file in such a folder: it is a whiteout.
const WHITEOUT: &CStr = c"user.overlay.whiteout";

const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The upper folder, the work folder beside it, and the way to open what a descriptor refers to.
#[derive(Debug)]
pub(super) struct Upper {
    work: OwnedFd,
    /// /proc/self/fd, held so that a later change of the root does not matter.
    descriptors: OwnedFd,
    next: AtomicU64,
}

/// Opens a folder as a handle.
pub(super) fn open_folder(path: &Path) -> nix::Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// What stat(2) says of it.
pub(super) fn status(fd: BorrowedFd<'_>) -> nix::Result<FileStat> {
    fstat(fd)
}

/// The file type bits of a mode.
pub(super) fn kind(status: &FileStat) -> u32 {
    status.st_mode & libc::S_IFMT
}

/// Whether it is a folder.
pub(super) fn is_folder(status: &FileStat) -> bool {
    kind(status) == libc::S_IFDIR
}

/// A name as a path of one part.
fn part(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

impl Upper {
    pub(super) fn new(work: OwnedFd) -> nix::Result<Self> {
        let descriptors = open_folder(Path::new("/proc/self/fd"))?;
        Ok(Upper { work, descriptors, next: AtomicU64::new(0) })
    }

    /// What `name` is in the folder; none if nothing or a whiteout is there.
    pub(super) fn child(&self, folder: BorrowedFd<'_>, name: &[u8]) -> nix::Result<Child> {
        let fd = match openat(folder, part(name), HANDLE, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(Child::Nothing),
            fd => fd?,
        };
        let status = fstat(&fd)?;
        if is_whiteout(fd.as_fd(), &status)? { Ok(Child::Whiteout) } else { Ok(Child::There(fd, status)) }
    }

    /// Opens the content of what `fd` refers to; never a pipe or a device.
    pub(super) fn open(&self, fd: BorrowedFd<'_>, flags: OFlag) -> nix::Result<File> {
        let name = fd.as_raw_fd().to_string();
        openat(&self.descriptors, name.as_str(), flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty())
            .map(File::from)
    }

    /// Sets the permission bits. Not for a symbolic link.
    pub(super) fn set_mode(&self, fd: BorrowedFd<'_>, mode: u32) -> nix::Result<()> {
        let name = fd.as_raw_fd().to_string();
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        fchmodat(&self.descriptors, name.as_str(), mode, FchmodatFlags::FollowSymlink)
    }

    /// Makes another name for it.
    pub(super) fn link(&self, fd: BorrowedFd<'_>, folder: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
        let own = fd.as_raw_fd().to_string();
        let temporary = self.temporary();
        let follow = AtFlags::AT_SYMLINK_FOLLOW; // of /proc's link, not of one it leads to
        linkat(&self.descriptors, own.as_str(), &self.work, temporary.as_str(), follow)?;
        self.put(&temporary, folder, name)
    }

    /// A name in the work folder that nothing has.
    fn temporary(&self) -> String {
        format!("#{:x}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes something in the work folder with `make`, readies it with `ready`, and only then gives
    /// it its name, replacing what is no folder. Nothing is left behind on failure.
    pub(super) fn create(
        &self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        make: impl FnOnce(BorrowedFd<'_>, &OsStr) -> nix::Result<()>,
        ready: impl FnOnce(BorrowedFd<'_>) -> nix::Result<()>,
    ) -> nix::Result<OwnedFd> {
        let temporary = self.temporary();
        make(self.work.as_fd(), OsStr::new(&temporary))?;
        let made = openat(&self.work, temporary.as_str(), HANDLE, Mode::empty());
        let readied = made.and_then(|fd| ready(fd.as_fd()).map(|()| fd));
        match readied {
            Ok(fd) => self.put(&temporary, folder, name).map(|()| fd),
            Err(errno) => {
                self.discard(&temporary);
                Err(errno)
            }
        }
    }

    /// Moves a temporary name to its place.
    fn put(&self, temporary: &str, folder: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
        let moved = renameat(&self.work, temporary, folder, part(name));
        if moved.is_err() {
            self.discard(temporary);
        }
        moved
    }

    fn discard(&self, temporary: &str) {
        let removed = unlinkat(&self.work, temporary, UnlinkatFlags::NoRemoveDir);
        if removed == Err(Errno::EISDIR) {
            let _ = unlinkat(&self.work, temporary, UnlinkatFlags::RemoveDir);
        }
    }

    /// A regular file without a name, for changes to one that has been removed.
    pub(super) fn nameless(&self) -> nix::Result<OwnedFd> {
        let temporary = self.temporary();
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        openat(&self.work, temporary.as_str(), flags, Mode::from_bits_truncate(0o600))?;
        let fd = openat(&self.work, temporary.as_str(), HANDLE, Mode::empty());
        self.discard(&temporary);
        fd
    }

    /// Hides what the lower folder has under this name, replacing what is no folder.
    pub(super) fn white_out(&self, folder: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
        // Device 0:0, which anybody may make since Linux 5.8.
        let device =
            |work: BorrowedFd<'_>, path: &OsStr| mknodat(work, path, SFlag::S_IFCHR, Mode::empty(), 0);
        match self.create(folder, name, device, |_| Ok(())) {
            Err(Errno::EPERM | Errno::EACCES) => {}
            made => return made.map(drop),
        }
        let file = |work: BorrowedFd<'_>, path: &OsStr| {
            mknodat(work, path, SFlag::S_IFREG, Mode::from_bits_truncate(0o600), 0)
        };
        self.create(folder, name, file, |fd| xattr::set(Place::Descriptor(fd), WHITEOUT, b"y"))?;
        if !is_opaque(folder)? {
            xattr::set(Place::Descriptor(folder), OPAQUE, b"x")?;
        }
        Ok(())
    }

    /// The names in a folder; none stands for a whiteout.
    pub(super) fn names(&self, folder: BorrowedFd<'_>) -> nix::Result<BTreeMap<Vec<u8>, Option<FileStat>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut names = BTreeMap::new();
        for entry in Dir::from_fd(self.open(folder, flags)?.into())?.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if matches!(name.as_slice(), b"." | b"..") {
                continue;
            }
            match self.child(folder, &name)? {
                Child::Nothing => {}
                Child::Whiteout => drop(names.insert(name, None)),
                Child::There(_, status) => drop(names.insert(name, Some(status))),
            }
        }
        Ok(names)
    }
}

/// What a name in an upper folder is.
pub(super) enum Child {
    /// The lower folder decides.
    Nothing,
    /// Nothing, whatever the lower folder has.
    Whiteout,
    /// This.
    There(OwnedFd, FileStat),
}

fn is_whiteout(fd: BorrowedFd<'_>, status: &FileStat) -> nix::Result<bool> {
    match kind(status) {
        libc::S_IFCHR => Ok(status.st_rdev == 0),
        libc::S_IFREG if status.st_size == 0 => Ok(xattr::get(Place::Descriptor(fd), WHITEOUT)?.is_some()),
        _ => Ok(false),
    }
}

/// Whether an upper folder hides the lower one.
pub(super) fn is_opaque(folder: BorrowedFd<'_>) -> nix::Result<bool> {
    Ok(xattr::get(Place::Descriptor(folder), OPAQUE)?.is_some_and(|value| value == b"y"))
}

/// Makes an upper folder hide the lower one.
pub(super) fn make_opaque(folder: BorrowedFd<'_>) -> nix::Result<()> {
    xattr::set(Place::Descriptor(folder), OPAQUE, b"y")
}

/// chown(2) of the thing itself.
pub(super) fn set_owner(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> nix::Result<()> {
    fchownat(fd, "", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::AT_EMPTY_PATH)
}

/// Access and modification time.
pub(super) fn set_both_times(
    fd: BorrowedFd<'_>,
    access: &TimeSpec,
    modification: &TimeSpec,
) -> nix::Result<()> {
    set_times(fd, access, modification)
}

/// Removes a name.
pub(super) fn remove(folder: BorrowedFd<'_>, name: &[u8], is_folder: bool) -> nix::Result<()> {
    let flag = if is_folder { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    unlinkat(folder, part(name), flag)
}

/// Moves a name.
pub(super) fn rename(from: (BorrowedFd<'_>, &[u8]), to: (BorrowedFd<'_>, &[u8])) -> nix::Result<()> {
    renameat(from.0, part(from.1), to.0, part(to.1))
}

/// Exchanges two names.
pub(super) fn exchange(a: (BorrowedFd<'_>, &[u8]), b: (BorrowedFd<'_>, &[u8])) -> nix::Result<()> {
    renameat2(a.0, part(a.1), b.0, part(b.1), RenameFlags::RENAME_EXCHANGE)
}

/// The target of a symbolic link.
pub(super) fn target(fd: BorrowedFd<'_>) -> nix::Result<Vec<u8>> {
    nix::fcntl::readlinkat(fd, "").map(|target| target.as_bytes().to_vec())
}

/// A foreign attribute name for a system call.
fn attribute_name(name: &[u8]) -> nix::Result<CString> {
    CString::new(name).map_err(|_| Errno::EINVAL)
}

/// All attributes but overlay's own; a symbolic link has none that a user namespace may see.
pub(super) fn attributes_of(fd: BorrowedFd<'_>) -> nix::Result<Vec<CString>> {
    if kind(&fstat(fd)?) == libc::S_IFLNK {
        return Ok(Vec::new());
    }
    let names = xattr::names(Place::Descriptor(fd))?;
    Ok(names.into_iter().filter(|name| !is_reserved(name.to_bytes())).collect())
}

/// One attribute.
pub(super) fn attribute(fd: BorrowedFd<'_>, name: &[u8]) -> nix::Result<Option<Vec<u8>>> {
    if is_reserved(name) || kind(&fstat(fd)?) == libc::S_IFLNK {
        return Ok(None);
    }
    xattr::get(Place::Descriptor(fd), &attribute_name(name)?)
}

/// Sets an attribute. A symbolic link cannot have any (xattr(7)).
pub(super) fn set_attribute(fd: BorrowedFd<'_>, name: &[u8], value: &[u8], flags: i32) -> nix::Result<()> {
    refuse_links(fd)?;
    set_xattr(fd, &attribute_name(name)?, value, flags)
}

/// Removes an attribute.
pub(super) fn remove_attribute(fd: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
    refuse_links(fd)?;
    remove_xattr(fd, &attribute_name(name)?)
}

fn refuse_links(fd: BorrowedFd<'_>) -> nix::Result<()> {
    if kind(&fstat(fd)?) == libc::S_IFLNK { Err(Errno::EPERM) } else { Ok(()) }
}

/// Whether the attribute is one of overlayfs's own.
pub(super) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(super::super::attributes::OVERLAY_PREFIX)
}
