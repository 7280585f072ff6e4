//! Which node is what: the tree below, the upper folder above, and copying up from one to the other.
//!
//! Node numbers: [`ROOT`]; entry number of the tree + 2; behind those the numbers that several names of
//! one file of the tree show together; then what is in the upper folder alone. All are small: 32-bit
//! programs without large file support cannot stat(2) larger ones.
//!
//! A file of the tree with several names is a node for each, since a change to one name's file leaves
//! the others as they are, as under overlayfs. Until then they show one inode number and all their links.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::{
        stat::{FileStat, Mode, SFlag, mkdirat, mknodat},
        time::TimeSpec,
    },
    unistd::symlinkat,
};

use super::super::{
    Owners,
    tree::{Kind, ROOT, Tree},
};
use super::upper::{self, Child, Upper};
use crate::acl::{self, Acl};

/// Inode numbers 0 and 1 have their own meaning.
const FIRST_ENTRY: u64 = 2;

/// What a number the kernel knows stands for.
#[derive(Clone, Debug, Default)]
struct Known {
    upper: Option<Arc<OwnedFd>>,
    /// The inode of the tree: what a folder is merged with, or anything not copied up.
    lower: Option<u64>,
    /// Whether its name is gone, so that a copy cannot have it either.
    nameless: bool,
    /// How many times the kernel has been told of it, less what it forgot.
    lookups: u64,
}

/// A node, found.
#[derive(Clone, Debug)]
pub(super) struct Located {
    pub(super) upper: Option<Arc<OwnedFd>>,
    pub(super) lower: Option<u64>,
}

/// What there is under a name.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: u64,
    pub(super) is_folder: bool,
    /// Whether it is in the upper folder.
    in_upper: bool,
}

/// The state of a writable view.
pub(super) struct Layers<T> {
    pub(super) tree: Arc<T>,
    pub(super) upper: Arc<Upper>,
    owners: Owners,
    nodes: HashMap<u64, Known>,
    /// Inode numbers of the upper file system → ours. Valid while a node holds its descriptor.
    by_upper: HashMap<u64, u64>,
    next: u64,
}

impl<T: Tree> Layers<T> {
    pub(super) fn new(tree: Arc<T>, folder: OwnedFd, upper: Arc<Upper>, owners: Owners) -> nix::Result<Self> {
        let lower = if upper::is_opaque(folder.as_fd())? { None } else { Some(ROOT) };
        let root = Known { upper: Some(Arc::new(folder)), lower, nameless: false, lookups: 1 };
        let nodes = HashMap::from([(ROOT, root)]);
        let next = u64::from(tree.entry_count()) + FIRST_ENTRY + tree.node_count();
        Ok(Layers { tree, upper, owners, nodes, by_upper: HashMap::new(), next })
    }

    /// The entry of the tree that a number stands for, if it has that many.
    fn entry_number(id: u64) -> Option<u32> {
        u32::try_from(id.checked_sub(FIRST_ENTRY)?).ok()
    }

    /// What the number stands for.
    pub(super) fn locate(&self, id: u64) -> nix::Result<Located> {
        if let Some(known) = self.nodes.get(&id) {
            return Ok(Located { upper: known.upper.clone(), lower: known.lower });
        }
        let entry = Self::entry_number(id).and_then(|number| self.tree.entry(number));
        entry.map(|entry| Located { upper: None, lower: Some(entry.inode) }).ok_or(Errno::ESTALE)
    }

    /// The inode number that a node shows together with other names of the same file of the tree; none if
    /// it has no others, or is no longer that file.
    pub(super) fn shared_number(&self, id: u64) -> Option<u64> {
        let located = self.locate(id).ok()?;
        let inode = located.lower.filter(|_| located.upper.is_none() && !self.is_nameless(id))?;
        let node = self.tree.node(inode)?;
        let is_shared = node.kind != Kind::Folder && node.links > 1;
        is_shared.then_some(FIRST_ENTRY + u64::from(self.tree.entry_count()) + inode)
    }

    fn is_nameless(&self, id: u64) -> bool {
        self.nodes.get(&id).is_some_and(|known| known.nameless)
    }

    /// The entry of this name in the lower folder that `folder` is merged with.
    fn lower_entry(&self, folder: &Located, name: &[u8]) -> Option<u32> {
        folder.lower.and_then(|lower| self.tree.find(lower, name))
    }

    fn is_lower_folder(&self, entry: u32) -> bool {
        let node = self.tree.entry(entry).and_then(|entry| self.tree.node(entry.inode));
        node.is_some_and(|node| node.kind == Kind::Folder)
    }

    /// What is under this name, if anything.
    pub(super) fn find(&mut self, folder: u64, name: &[u8]) -> nix::Result<Option<Found>> {
        let located = self.locate(folder)?;
        if let Some(above) = &located.upper {
            match self.upper.child(above.as_fd(), name)? {
                Child::There(fd, status) => return self.know(&located, name, fd, &status).map(Some),
                Child::Whiteout => return Ok(None),
                Child::Nothing => {}
            }
        }
        Ok(self.lower_entry(&located, name).map(|entry| Found {
            id: u64::from(entry) + FIRST_ENTRY,
            is_folder: self.is_lower_folder(entry),
            in_upper: false,
        }))
    }

    /// Gives what is in the upper folder its number.
    fn know(&mut self, folder: &Located, name: &[u8], fd: OwnedFd, status: &FileStat) -> nix::Result<Found> {
        let is_folder = upper::is_folder(status);
        let known = self.by_upper.get(&status.st_ino).copied();
        let merged = match self.lower_entry(folder, name) {
            Some(entry) if is_folder && self.is_lower_folder(entry) && !upper::is_opaque(fd.as_fd())? => {
                Some(entry)
            }
            _ => None,
        };
        let id = match (known, merged) {
            (Some(id), _) => id,
            (None, Some(entry)) => u64::from(entry) + FIRST_ENTRY,
            (None, None) => self.new_number(),
        };
        if known.is_none() {
            let lower = merged.and_then(|entry| self.tree.entry(entry)).map(|entry| entry.inode);
            let lookups = self.nodes.get(&id).map_or(0, |node| node.lookups);
            self.nodes.insert(id, Known { upper: Some(Arc::new(fd)), lower, nameless: false, lookups });
            self.by_upper.insert(status.st_ino, id);
        }
        Ok(Found { id, is_folder, in_upper: true })
    }

    fn new_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Counts that the kernel is told of a node.
    pub(super) fn count_lookup(&mut self, id: u64) -> nix::Result<()> {
        let located = self.locate(id)?;
        let known = self.nodes.entry(id).or_insert(Known {
            upper: located.upper,
            lower: located.lower,
            ..Known::default()
        });
        known.lookups += 1;
        Ok(())
    }

    /// Counts what the kernel forgot. True: it does not know the node any more, and will look its name
    /// up again before it uses it.
    pub(super) fn forget(&mut self, id: u64, lookups: u64) -> bool {
        let Some(known) = self.nodes.get_mut(&id).filter(|_| id != ROOT) else { return false };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups > 0 {
            return false;
        }
        if let Some(fd) = self.nodes.remove(&id).and_then(|known| known.upper)
            && let Ok(status) = upper::status(fd.as_fd())
        {
            self.by_upper.remove(&status.st_ino);
        }
        true
    }

    /// The node in the upper folder, copied there if it is not yet. `empty`: without a file's
    /// content, which is about to be truncated.
    pub(super) fn copy_up(&mut self, id: u64, empty: bool) -> nix::Result<Arc<OwnedFd>> {
        let located = self.locate(id)?;
        if let Some(fd) = located.upper {
            return Ok(fd);
        }
        let inode = located.lower.ok_or(Errno::ESTALE)?;
        let fd = if self.is_nameless(id) {
            let fd = self.upper.nameless()?;
            self.fill(inode, fd.as_fd(), empty)?;
            fd
        } else {
            let tree = Arc::clone(&self.tree);
            let entry = Self::entry_number(id).and_then(|number| tree.entry(number)).ok_or(Errno::ESTALE)?;
            let folder_id = match self.tree.entry_of(entry.folder) {
                None => ROOT,
                Some(number) => u64::from(number) + FIRST_ENTRY,
            };
            let folder = self.copy_up(folder_id, false)?;
            let times = upper::status(folder.as_fd())?;
            let fd = self.copy(inode, folder.as_fd(), entry.name, empty)?;
            // Nothing has changed in the folder for those who look. Overlayfs does so, too.
            restore_times(folder.as_fd(), &times)?;
            fd
        };
        let status = upper::status(fd.as_fd())?;
        let fd = Arc::new(fd);
        let known = self.nodes.entry(id).or_default();
        known.upper = Some(Arc::clone(&fd));
        known.lower = upper::is_folder(&status).then_some(inode);
        self.by_upper.insert(status.st_ino, id);
        Ok(fd)
    }

    /// Copies a node of the tree, whatever it is.
    fn copy(&self, inode: u64, folder: BorrowedFd<'_>, name: &[u8], empty: bool) -> nix::Result<OwnedFd> {
        let node = self.tree.node(inode).ok_or(Errno::EIO)?;
        let private = Mode::from_bits_truncate(0o600);
        let make = |work: BorrowedFd<'_>, path: &OsStr| match node.kind {
            Kind::Folder => mkdirat(work, path, Mode::from_bits_truncate(0o700)),
            Kind::Symlink => {
                let target = self.tree.target(inode).ok_or(Errno::EIO)?;
                symlinkat(OsStr::from_bytes(target), work, path)
            }
            Kind::File => mknodat(work, path, SFlag::S_IFREG, private, 0),
            Kind::Fifo => mknodat(work, path, SFlag::S_IFIFO, private, 0),
            Kind::Socket => mknodat(work, path, SFlag::S_IFSOCK, private, 0),
        };
        self.upper.create(folder, name, make, |fd| self.fill(inode, fd, empty))
    }

    /// Gives a fresh copy its content and metadata.
    fn fill(&self, inode: u64, fd: BorrowedFd<'_>, empty: bool) -> nix::Result<()> {
        let node = self.tree.node(inode).ok_or(Errno::EIO)?;
        if node.kind == Kind::File && !empty && node.size > 0 {
            let mut from = self.tree.open(inode).map_err(errno)?;
            let mut to = self.upper.open(fd, OFlag::O_WRONLY)?;
            io::copy(&mut from, &mut to).map_err(errno)?;
        }
        if self.owners == Owners::Real {
            upper::set_owner(fd, Some(node.uid), Some(node.gid))?;
        }
        if node.kind != Kind::Symlink {
            self.upper.set_mode(fd, node.permissions.into())?;
            let mut result = Ok(());
            self.tree.xattrs(inode, &mut |name, value| {
                result = upper::set_attribute(fd, name, value, 0);
                // trusted.* is not for user namespaces; overlayfs leaves it behind, too.
                if name.starts_with(b"trusted.") {
                    result = Ok(());
                }
                result.is_ok()
            });
            result?;
        }
        let modified = TimeSpec::new(node.modified, node.modified_nanoseconds.into());
        upper::set_both_times(fd, &modified, &modified)
    }

    /// Makes something new under a name that nothing has, and gives its number. Its group is the folder's if that is
    /// set-gid (inode(7)).
    pub(super) fn create(
        &mut self,
        folder: u64,
        name: &[u8],
        (mode, umask): (u32, u32),
        owner: (u32, u32),
        make: impl FnOnce(BorrowedFd<'_>, &OsStr) -> nix::Result<()>,
    ) -> nix::Result<u64> {
        let above = self.copy_up(folder, false)?;
        let located = self.locate(folder)?;
        let parent = upper::status(above.as_fd())?;
        let (inherits, is_new_folder) =
            (parent.st_mode & libc::S_ISGID != 0, mode & libc::S_IFMT == libc::S_IFDIR);
        let group = if inherits { parent.st_gid } else { owner.1 };
        let mode = if inherits && is_new_folder { mode | libc::S_ISGID } else { mode };
        match self.upper.child(above.as_fd(), name)? {
            Child::There(..) => return Err(Errno::EEXIST),
            // A folder cannot take the place of a whiteout by renaming; anything else can.
            Child::Whiteout if is_new_folder => upper::remove(above.as_fd(), name, false)?,
            _ => {}
        }
        let hides = self.lower_entry(&located, name).is_some();
        let is_link = mode & libc::S_IFMT == libc::S_IFLNK;
        let default = if is_link { None } else { upper::attribute(above.as_fd(), acl::DEFAULT)? };
        let list = default.as_deref().and_then(Acl::decode);
        let (mode, access) = list.map_or((mode & !umask, None), |list| list.for_new_file(mode));
        let ready = |fd: BorrowedFd<'_>| {
            if self.owners == Owners::Real {
                upper::set_owner(fd, Some(owner.0), Some(group))?;
            }
            if let Some(access) = &access {
                upper::set_attribute(fd, acl::ACCESS, &access.encode(), 0)?;
            }
            if let Some(default) = default.as_deref().filter(|_| is_new_folder) {
                upper::set_attribute(fd, acl::DEFAULT, default, 0)?;
            }
            if !is_link {
                self.upper.set_mode(fd, mode)?;
            }
            if is_new_folder && hides { upper::make_opaque(fd) } else { Ok(()) }
        };
        let fd = self.upper.create(above.as_fd(), name, make, ready)?;
        let status = upper::status(fd.as_fd())?;
        self.know(&located, name, fd, &status).map(|found| found.id)
    }

    /// Gives a node another name.
    pub(super) fn link(&mut self, id: u64, folder: u64, name: &[u8]) -> nix::Result<()> {
        let fd = self.copy_up(id, false)?;
        let above = self.copy_up(folder, false)?;
        if let Child::There(..) = self.upper.child(above.as_fd(), name)? {
            return Err(Errno::EEXIST);
        }
        self.upper.link(fd.as_fd(), above.as_fd(), name)
    }

    /// Remembers that a node of the tree has no name any more, so that what is still open of it is
    /// not copied up to where it was.
    fn make_nameless(&mut self, id: u64) {
        if let Some(known) = self.nodes.get_mut(&id) {
            known.nameless = true;
        }
    }

    /// Removes a name: of a folder if `folder_wanted`, else of anything else.
    pub(super) fn remove(&mut self, folder: u64, name: &[u8], folder_wanted: bool) -> nix::Result<()> {
        let found = self.find(folder, name)?.ok_or(Errno::ENOENT)?;
        match (found.is_folder, folder_wanted) {
            (true, false) => return Err(Errno::EISDIR),
            (false, true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        if found.is_folder {
            self.check_empty(found.id)?;
        }
        let located = self.locate(folder)?;
        let hides = self.lower_entry(&located, name).is_some();
        let above = self.copy_up(folder, false)?;
        if found.in_upper && (found.is_folder || !hides) {
            self.remove_upper(&above, name, &found)?;
        }
        if hides {
            self.upper.white_out(above.as_fd(), name)?;
        }
        self.make_nameless(found.id);
        Ok(())
    }

    /// Removes what the upper folder has, with the whiteouts in it.
    fn remove_upper(&self, above: &OwnedFd, name: &[u8], found: &Found) -> nix::Result<()> {
        if found.is_folder
            && let Some(fd) = self.locate(found.id)?.upper
        {
            for (name, _) in self.upper.names(fd.as_fd())?.iter().filter(|(_, status)| status.is_none()) {
                upper::remove(fd.as_fd(), name, false)?;
            }
        }
        upper::remove(above.as_fd(), name, found.is_folder)
    }

    /// ENOTEMPTY for a folder that shows something.
    fn check_empty(&self, id: u64) -> nix::Result<()> {
        if self.list(id)?.is_empty() { Ok(()) } else { Err(Errno::ENOTEMPTY) }
    }

    /// Moves a name, replacing what is there. A folder that the tree has a part in stays where it is:
    /// EXDEV, upon which programs copy (as with overlayfs without `redirect_dir`).
    pub(super) fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8])) -> nix::Result<()> {
        let found = self.find(from.0, from.1)?.ok_or(Errno::ENOENT)?;
        if found.is_folder && self.locate(found.id)?.lower.is_some() {
            return Err(Errno::EXDEV);
        }
        let replaced = self.find(to.0, to.1)?;
        if let Some(replaced) = &replaced {
            match (found.is_folder, replaced.is_folder) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) => self.check_empty(replaced.id)?,
                (false, false) if replaced.id == found.id => return Ok(()), // rename(2): two names of one file
                _ => {}
            }
        }
        let moved = self.copy_up(found.id, false)?;
        let (source, target) = (self.copy_up(from.0, false)?, self.copy_up(to.0, false)?);
        let hides_source = self.lower_entry(&self.locate(from.0)?, from.1).is_some();
        let target_is_merged = self.locate(to.0)?.lower.is_some();
        if found.is_folder {
            match &replaced {
                Some(replaced) if replaced.in_upper => self.remove_upper(&target, to.1, replaced)?,
                _ => {
                    if let Child::Whiteout = self.upper.child(target.as_fd(), to.1)? {
                        upper::remove(target.as_fd(), to.1, false)?;
                    }
                }
            }
            if target_is_merged {
                upper::make_opaque(moved.as_fd())?;
            }
        }
        upper::rename((source.as_fd(), from.1), (target.as_fd(), to.1))?;
        if hides_source {
            self.upper.white_out(source.as_fd(), from.1)?;
        }
        if let Some(replaced) = replaced {
            self.make_nameless(replaced.id);
        }
        Ok(())
    }

    /// Exchanges two names. Folders that the tree has a part in stay where they are, as in
    /// [`rename`](Layers::rename).
    pub(super) fn exchange(&mut self, a: (u64, &[u8]), b: (u64, &[u8])) -> nix::Result<()> {
        let mut moved = Vec::new();
        for (folder, name) in [a, b] {
            let found = self.find(folder, name)?.ok_or(Errno::ENOENT)?;
            if found.is_folder && self.locate(found.id)?.lower.is_some() {
                return Err(Errno::EXDEV);
            }
            moved.push((self.copy_up(found.id, false)?, self.copy_up(folder, false)?, found.is_folder));
        }
        for ((node, _, is_folder), target) in moved.iter().zip([b.0, a.0]) {
            if *is_folder && self.locate(target)?.lower.is_some() {
                upper::make_opaque(node.as_fd())?;
            }
        }
        upper::exchange((moved[0].1.as_fd(), a.1), (moved[1].1.as_fd(), b.1))
    }

    /// What a folder shows: number, file type bits, name. A number here is a hint only.
    pub(super) fn list(&self, id: u64) -> nix::Result<Vec<(u64, u32, Vec<u8>)>> {
        let located = self.locate(id)?;
        let above = match &located.upper {
            Some(fd) => self.upper.names(fd.as_fd())?,
            None => Default::default(),
        };
        let mut list = Vec::new();
        for (name, status) in &above {
            if let Some(status) = status {
                let number = self.by_upper.get(&status.st_ino).copied();
                list.push((number.unwrap_or(status.st_ino), upper::kind(status), name.clone()));
            }
        }
        let hidden: HashSet<&[u8]> = above.keys().map(Vec::as_slice).collect();
        for number in located.lower.and_then(|lower| self.tree.entries(lower)).into_iter().flatten() {
            let entry = self.tree.entry(number).ok_or(Errno::EIO)?;
            let node = self.tree.node(entry.inode).ok_or(Errno::EIO)?;
            if !hidden.contains(entry.name) {
                list.push((u64::from(number) + FIRST_ENTRY, node.kind.bits(), entry.name.to_vec()));
            }
        }
        Ok(list)
    }

    /// Creates an empty regular file: for `make` of [`create`](Layers::create).
    pub(super) fn make_file(work: BorrowedFd<'_>, path: &OsStr) -> nix::Result<()> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        openat(work, path, flags, Mode::from_bits_truncate(0o600)).map(drop)
    }
}

/// Puts both times back.
fn restore_times(fd: BorrowedFd<'_>, status: &FileStat) -> nix::Result<()> {
    let access = TimeSpec::new(status.st_atime, status.st_atime_nsec);
    upper::set_both_times(fd, &access, &TimeSpec::new(status.st_mtime, status.st_mtime_nsec))
}

/// The error number of an I/O error.
pub(super) fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
