//! Writing entries into a folder of the host, with their owners as far as the disk takes them.
//!
//! Everything is reached by descriptors from the topmost folder, and no link is followed. A file is made
//! under another name and then renamed, so that under its own there is always a whole one. Each step can be
//! done again: who is killed starts from the beginning, and what is there already stays or is replaced by
//! the same.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{CStr, CString, OsStr},
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, renameat},
    sys::{
        stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat, mkdirat, mknodat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat},
};

use super::{
    FirstIds, Missing, NotOnDisk,
    content::copy,
    remove::{names, open_folder, remove},
};
use crate::{
    acl::{self, Acl},
    bytes::below,
    capture::{Change, Entry, Metadata, capability_version_2, take_records},
    enforced::Tier,
    error::{Error, Result},
    owners::{Owner, RECORD},
    recorded::to_records,
    sys::{
        view::set_times,
        xattr::{self, Place},
    },
};

/// Under which name files are made. What a killed run left is replaced by the next one. No tree has it.
pub(super) const TEMPORARY: &CStr = c".sandbox-moving-8c1f";

const CAPABILITY: &[u8] = b"security.capability";
const OVERLAY: &[u8] = b"user.overlay.";

/// What is at a name already, and is in the way of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InTheWay {
    /// It is removed.
    Removed,
    /// It is, unless one of the two is a folder: then that is an error.
    Refused,
}

/// What is to be written, and how.
pub(super) struct How {
    pub(super) tier: Tier,
    pub(super) first_id: FirstIds,
    pub(super) in_the_way: InTheWay,
    /// Files may become further names of what they come from.
    pub(super) may_link: bool,
    /// Paths at which, and below which, everything stays as it is.
    pub(super) leave: BTreeSet<Vec<u8>>,
    /// Attributes that nothing gets that is written.
    pub(super) without: Vec<Vec<u8>>,
}

/// The content of a file.
pub(super) struct Content {
    pub(super) file: OwnedFd,
    /// Whether it is another one than the file with the metadata has.
    pub(super) is_replaced: bool,
}

/// A folder that is being filled.
struct Opened {
    path: Vec<u8>,
    folder: OwnedFd,
    /// Given to it at the end: filling it changes its time.
    metadata: Metadata,
}

/// Takes changes in their order: a folder before what is in it.
pub(super) struct Writing<'a> {
    how: How,
    top: PathBuf,
    /// The folder that is being filled, and those that it is in.
    opened: Vec<Opened>,
    /// The first name of each group of hard links.
    groups: HashMap<u64, Vec<u8>>,
    /// Paths that were taken.
    pub(super) taken: BTreeSet<Vec<u8>>,
    /// What the disk did not take.
    pub(super) not_on_disk: Vec<NotOnDisk>,
    /// Called before each step.
    step: &'a mut dyn FnMut() -> Result<()>,
}

/// Why a step failed, or was never begun.
type Step<T> = std::result::Result<T, Failure>;

enum Failure {
    System(Errno),
    Told(Error),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Failure::System(errno)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Told(error)
    }
}

impl<'a> Writing<'a> {
    pub(super) fn new(top: &Path, how: How, step: &'a mut dyn FnMut() -> Result<()>) -> Self {
        Writing {
            how,
            top: top.to_owned(),
            opened: Vec::new(),
            groups: HashMap::new(),
            taken: BTreeSet::new(),
            not_on_disk: Vec::new(),
            step,
        }
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        below(&self.top, path)
    }

    fn told<T>(&self, action: &str, path: &[u8], result: Step<T>) -> Result<T> {
        result.map_err(|failure| match failure {
            Failure::Told(error) => error,
            Failure::System(errno @ (Errno::EXDEV | Errno::EBUSY)) => {
                let path = self.path(path);
                Error::folder(format_args!(
                    "{action} {}: something is mounted there, or below ({})",
                    path.display(),
                    errno.desc()
                ))
                .with_hint(format_args!("sudo umount -R {}", path.display()))
            }
            Failure::System(errno) => {
                Error::system(format_args!("{action} {}", self.path(path).display()), errno)
            }
        })
    }

    /// Whether a path is to stay as it is.
    pub(super) fn is_left(&self, path: &[u8]) -> bool {
        let mut folder = Some(path);
        while let Some(path) = folder {
            if self.how.leave.contains(path) {
                return true;
            }
            folder = parent(path);
        }
        false
    }

    /// Whether anything below a path is to stay as it is.
    fn has_left_below(&self, path: &[u8]) -> bool {
        let below = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        self.how.leave.range(below.clone()..).next().is_some_and(|left| left.starts_with(&below))
    }

    /// Writes one entry.
    pub(super) fn take(&mut self, change: Change, content: Option<Content>) -> Result<()> {
        let Change { path, now } = change;
        if self.is_left(&path) {
            return Ok(());
        }
        self.close_folders_but_those_of(&path)?;
        let result = self.entry(&path, now, content);
        self.told("writing", &path, result)?;
        self.taken.insert(path);
        Ok(())
    }

    fn entry(&mut self, path: &[u8], now: Entry, content: Option<Content>) -> Step<()> {
        let name = CString::new(base_name(path)).map_err(|_| Errno::EINVAL)?;
        if path.is_empty() {
            let Entry::Folder { metadata, opaque } = now else { return Err(Errno::ENOTDIR.into()) };
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            return self.fill(path, open(&self.top, flags, Mode::empty())?, metadata, opaque);
        }
        match now {
            Entry::Removed => {
                let folder = self.folder_of(path)?;
                self.remove_but_what_is_left(&folder, &name, path)
            }
            Entry::Folder { metadata, opaque } => {
                let folder = self.folder_of(path)?;
                let made = self.make_folder(&folder, &name, path)?;
                self.fill(path, made, metadata, opaque)
            }
            Entry::File { metadata, hard_link, .. } => {
                let content = content.ok_or_else(|| Error::bug("a file came without content"))?;
                self.file(path, &name, &metadata, hard_link, &content)
            }
            Entry::Symlink { metadata, target } => {
                let folder = self.temporary_in(path)?;
                symlinkat(OsStr::from_bytes(&target), &folder, TEMPORARY)?;
                self.finish(&folder, path, &name, &metadata)
            }
            Entry::Special { metadata, device } => {
                let folder = self.temporary_in(path)?;
                let device = nix::sys::stat::makedev(device.0.into(), device.1.into());
                let kind = SFlag::from_bits_truncate(metadata.mode & libc::S_IFMT);
                mknodat(&folder, TEMPORARY, kind, private(), device)?;
                self.finish(&folder, path, &name, &metadata)
            }
        }
    }

    /// The folder that something is in, which is being filled.
    fn folder_of(&mut self, path: &[u8]) -> Step<OwnedFd> {
        let opened = self.opened.last().filter(|opened| parent(path) == Some(&opened.path));
        let opened = opened.ok_or_else(|| Error::bug("an entry came without its folder"))?;
        opened.folder.try_clone().map_err(|_| Errno::EMFILE.into())
    }

    /// The same, where a file is to be made under the temporary name.
    fn temporary_in(&mut self, path: &[u8]) -> Step<OwnedFd> {
        let folder = self.folder_of(path)?;
        (self.step)()?;
        remove(&folder, TEMPORARY)?;
        Ok(folder)
    }

    /// A folder that is there now.
    fn make_folder(&mut self, folder: &OwnedFd, name: &CStr, path: &[u8]) -> Step<OwnedFd> {
        match open_folder(folder, name) {
            Ok(there) => return Ok(there),
            Err(Errno::ENOENT) => {}
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                self.check_kinds(folder, name, path, "a folder")?;
                (self.step)()?;
                unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?;
            }
            Err(errno) => return Err(errno.into()),
        }
        (self.step)()?;
        mkdirat(folder, name, private())?;
        Ok(open_folder(folder, name)?)
    }

    /// Begins to fill a folder. Nobody else gets in before it has its owner and mode.
    fn fill(&mut self, path: &[u8], folder: OwnedFd, metadata: Metadata, opaque: bool) -> Step<()> {
        if opaque {
            for name in names(&folder)? {
                let inner = join(path, name.to_bytes());
                self.remove_but_what_is_left(&folder, &name, &inner)?;
            }
        }
        remove(&folder, TEMPORARY)?;
        self.opened.push(Opened { path: path.to_vec(), folder, metadata });
        Ok(())
    }

    fn remove_but_what_is_left(&mut self, folder: &OwnedFd, name: &CStr, path: &[u8]) -> Step<()> {
        if self.is_left(path) {
            return Ok(());
        }
        if self.has_left_below(path)
            && let Ok(inner) = open_folder(folder, name)
        {
            for name in names(&inner)? {
                self.remove_but_what_is_left(&inner, &name, &join(path, name.to_bytes()))?;
            }
            return match unlinkat(folder, name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOTEMPTY | Errno::ENOENT) => Ok(()),
                Err(errno) => Err(errno.into()),
            };
        }
        (self.step)()?;
        Ok(remove(folder, name)?)
    }

    /// A file: another name of what it comes from, or of its group's first, or a copy.
    fn file(
        &mut self,
        path: &[u8],
        name: &CStr,
        metadata: &Metadata,
        hard_link: Option<u64>,
        content: &Content,
    ) -> Step<()> {
        let overlays = |(name, _): &(Vec<u8>, Vec<u8>)| name.starts_with(OVERLAY);
        if self.how.may_link
            && self.how.first_id.is_none()
            && !content.is_replaced
            && !metadata.xattrs.iter().any(overlays)
            && self.carries_its_owner(metadata, content)?
            && self.link(path, name, content)?
        {
            return Ok(());
        }
        if let Some(first) = hard_link.and_then(|group| self.groups.get(&group)).cloned() {
            let top = &self.opened.first().ok_or_else(|| Error::bug("there is no topmost folder"))?.folder;
            let first = look_up(top, &first)?;
            let folder = self.temporary_in(path)?;
            linkat(AT_FDCWD, by_name(&first).as_c_str(), &folder, TEMPORARY, AtFlags::AT_SYMLINK_FOLLOW)?;
            return self.put_in_place(&folder, path, name);
        }
        let folder = self.temporary_in(path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let made = openat(&folder, TEMPORARY, flags, Mode::from_bits_truncate(0o600))?;
        (self.step)()?;
        let from = content.file.try_clone().map_err(|_| Errno::EMFILE)?;
        copy(&File::from(from), &File::from(made))
            .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        self.finish(&folder, path, name, metadata)?;
        if let Some(group) = hard_link {
            self.groups.insert(group, path.to_vec());
        }
        Ok(())
    }

    /// Whether a file has its owner with it. (A tmpfs before Linux 6.6 takes no record.)
    fn carries_its_owner(&self, metadata: &Metadata, content: &Content) -> Step<bool> {
        let is_root = (metadata.uid, metadata.gid) == (0, 0);
        if self.how.tier == Tier::Full || is_root {
            return Ok(true);
        }
        Ok(xattr::get(Place::Open(content.file.as_fd()), RECORD)?.is_some())
    }

    /// Gives what a file comes from this name, too. False: that cannot be.
    fn link(&mut self, path: &[u8], name: &CStr, content: &Content) -> Step<bool> {
        let folder = self.folder_of(path)?;
        let from = fstat(&content.file)?;
        if fstatat(&folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|there| is_same(&there, &from)) {
            return Ok(true); // before the last run was killed; renaming would do nothing
        }
        let folder = self.temporary_in(path)?;
        let source = by_name(&content.file);
        match linkat(AT_FDCWD, source.as_c_str(), &folder, TEMPORARY, AtFlags::AT_SYMLINK_FOLLOW) {
            Ok(()) => {}
            // Another file system or mount; one without hard links; too many; forbidden.
            Err(
                Errno::EXDEV
                | Errno::EOPNOTSUPP
                | Errno::ENOSYS
                | Errno::EMLINK
                | Errno::EPERM
                | Errno::EACCES,
            ) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        // Of overlayfs's own notes nobody takes care outside of it.
        for attribute in xattr::names(Place::Open(content.file.as_fd()))? {
            let is_record = self.how.tier == Tier::Full && attribute.to_bytes().starts_with(acl::OURS);
            let is_unwanted = self.how.without.iter().any(|name| name == attribute.to_bytes());
            if attribute.to_bytes().starts_with(OVERLAY) || is_record || is_unwanted {
                xattr::remove(&source, &attribute)?;
            }
        }
        self.put_in_place(&folder, path, name)?;
        Ok(true)
    }

    /// Gives what was made its metadata, and its name.
    fn finish(&mut self, folder: &OwnedFd, path: &[u8], name: &CStr, metadata: &Metadata) -> Step<()> {
        let made =
            openat(folder, TEMPORARY, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        self.give(&made, path, metadata, true)?;
        self.put_in_place(folder, path, name)
    }

    fn put_in_place(&mut self, folder: &OwnedFd, path: &[u8], name: &CStr) -> Step<()> {
        (self.step)()?;
        match renameat(folder, TEMPORARY, folder, name) {
            Err(Errno::EISDIR) => {
                let refused = self.check_kinds(folder, name, path, &describe(folder, TEMPORARY)?);
                remove(folder, if refused.is_ok() { name } else { TEMPORARY })?;
                refused?;
                (self.step)()?;
                Ok(renameat(folder, TEMPORARY, folder, name)?)
            }
            renamed => Ok(renamed?),
        }
    }

    /// Refuses a folder in the place of something else, and the other way round, where that is not wanted.
    fn check_kinds(&self, folder: &OwnedFd, name: &CStr, path: &[u8], wanted: &str) -> Step<()> {
        if self.how.in_the_way == InTheWay::Removed {
            return Ok(());
        }
        let there = describe(folder, name)?;
        let path = self.path(path);
        Err(Error::folder(format_args!("{} is {there}, and the tree has {wanted} there", path.display()))
            .with_hint(format_args!("remove or rename {}", path.display()))
            .into())
    }

    /// Gives folders that are full their metadata.
    fn close_folders_but_those_of(&mut self, path: &[u8]) -> Result<()> {
        let is_above = |opened: &Opened| {
            opened.path.is_empty() && !path.is_empty()
                || path.strip_prefix(opened.path.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        while self.opened.last().is_some_and(|opened| !is_above(opened)) {
            self.close_folder()?;
        }
        Ok(())
    }

    fn close_folder(&mut self) -> Result<()> {
        let Some(Opened { path, folder, metadata }) = self.opened.pop() else { return Ok(()) };
        let given =
            (self.step)().map_err(Failure::from).and_then(|()| self.give(&folder, &path, &metadata, true));
        self.told("giving owner, mode and attributes to", &path, given)
    }

    /// Ends it: all folders get their metadata.
    pub(super) fn end(&mut self) -> Result<()> {
        while !self.opened.is_empty() {
            self.close_folder()?;
        }
        Ok(())
    }

    /// Gives something that is there already an owner and a mode; `xattrs` beside those that it has. No
    /// error if it is not there.
    pub(super) fn give_owner(
        &mut self,
        path: &[u8],
        owner: Owner,
        mode: Option<u32>,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<()> {
        let mut given = || -> Step<()> {
            let top = open(&self.top, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            let file = match look_up(&top, path) {
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
                file => file?,
            };
            let stat = fstat(&file)?;
            (self.step)()?;
            let mut xattrs = xattrs.to_vec();
            // What a change of owner takes away, and what was recorded.
            for (name, value) in attributes_at_stake(&file, &stat)? {
                if !xattrs.iter().any(|(given, _)| *given == name) {
                    xattrs.push((name, value));
                }
            }
            let metadata = Metadata {
                uid: owner.uid,
                gid: owner.gid,
                mode: stat.st_mode & libc::S_IFMT | mode.unwrap_or(stat.st_mode) & 0o7777,
                xattrs,
                modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            };
            self.give(&file, path, &metadata, false)
        };
        let given = given();
        self.told("giving an owner to", path, given)
    }

    /// Notes what the disk does not have.
    pub(super) fn note(&mut self, path: &[u8], what: Missing, why: &str) {
        self.not_on_disk.push(NotOnDisk { path: path.to_vec(), what, why: why.to_owned() });
    }

    /// Owner first: a change of owner clears set-id bits and capabilities. Times last. `exactly`: other
    /// attributes than these go away.
    fn give(&mut self, file: &OwnedFd, path: &[u8], metadata: &Metadata, exactly: bool) -> Step<()> {
        let kind = metadata.mode & libc::S_IFMT;
        let owner = Owner { uid: metadata.uid, gid: metadata.gid };
        let may_have_attributes = matches!(kind, libc::S_IFREG | libc::S_IFDIR);
        let missing = Missing::Owner { uid: owner.uid, gid: owner.gid };
        if self.how.tier == Tier::Full {
            let FirstIds { uid, gid } = self.how.first_id;
            let (uid, gid) = (owner.uid.saturating_add(uid), owner.gid.saturating_add(gid));
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            match fchownat(file.as_fd(), "", uid, gid, AtFlags::AT_EMPTY_PATH) {
                Err(errno) if is_refusal(errno) => self.note(path, missing, errno.desc()),
                changed => changed?,
            }
        } else if !may_have_attributes && owner != Owner::ROOT {
            self.note(path, missing, super::NO_RECORD);
        }
        if kind != libc::S_IFLNK {
            let mode = Mode::from_bits_truncate(metadata.mode & 0o7777);
            fchmodat(AT_FDCWD, by_name(file).as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
        if may_have_attributes {
            self.give_attributes(file, path, owner, &metadata.xattrs, exactly)?;
        }
        let (seconds, nanoseconds) = metadata.modified;
        let time = TimeSpec::new(seconds, nanoseconds.into());
        Ok(set_times(file.as_fd(), &time, &time)?)
    }

    fn give_attributes(
        &mut self,
        file: &OwnedFd,
        path: &[u8],
        owner: Owner,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        exactly: bool,
    ) -> Step<()> {
        let is_wanted = |(name, _): &&(Vec<u8>, Vec<u8>)| {
            !name.starts_with(acl::OURS) && !self.how.without.contains(name)
        };
        let mut wanted: Vec<_> = xattrs.iter().filter(is_wanted).cloned().collect();
        match self.how.tier {
            Tier::Full => show_outside(&mut wanted, self.how.first_id),
            Tier::Single => to_records(owner, &mut wanted),
        }
        for name in xattr::names(Place::Descriptor(file.as_fd()))? {
            let bytes = name.to_bytes();
            let is_ours = bytes.starts_with(b"user.") || bytes.starts_with(b"system.") || bytes == CAPABILITY;
            let is_record = name.as_ref() == RECORD
                || bytes.starts_with(acl::OURS) && (exactly || self.how.tier == Tier::Full);
            if (is_ours && exactly || is_record) && !wanted.iter().any(|(name, _)| name == bytes) {
                match xattr::remove(&by_name(file), &name) {
                    Err(Errno::EOPNOTSUPP) => {}
                    removed => removed?,
                }
            }
        }
        for (name, value) in wanted {
            let Ok(c_name) = CString::new(name.as_slice()) else { continue };
            match xattr::set(Place::Descriptor(file.as_fd()), &c_name, &value) {
                Err(errno) if is_refusal(errno) => {
                    let what = match name == RECORD.to_bytes() {
                        true => Missing::Owner { uid: owner.uid, gid: owner.gid },
                        false => {
                            let name = acl::name_of(&name).map_or(name.clone(), <[u8]>::to_vec);
                            Missing::Attribute { name, value }
                        }
                    };
                    self.note(path, what, errno.desc());
                }
                set => set?,
            }
        }
        Ok(())
    }
}

/// A file's capability, and its recorded access control lists as the lists that they are.
fn attributes_at_stake(file: &OwnedFd, stat: &FileStat) -> nix::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    if !matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for name in xattr::names(Place::Descriptor(file.as_fd()))? {
        let is_capability = name.to_bytes() == CAPABILITY;
        if (is_capability || name.to_bytes().starts_with(acl::OURS))
            && let Some(value) = xattr::get(Place::Descriptor(file.as_fd()), &name)?
        {
            let value = if is_capability { capability_version_2(value) } else { value };
            found.push((name.into_bytes(), value));
        }
    }
    take_records(&mut found, stat.st_mode);
    Ok(found)
}

/// Whether an error says that the file system does not do such a thing, or not for us.
fn is_refusal(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EPERM
            | Errno::EACCES
            | Errno::EINVAL
            | Errno::EOPNOTSUPP
            | Errno::EOVERFLOW
            | Errno::E2BIG
            | Errno::ERANGE
    )
}

/// Attributes with the namespace's numbers in the place of the tree's.
fn show_outside(xattrs: &mut [(Vec<u8>, Vec<u8>)], first: FirstIds) {
    if first.is_none() {
        return;
    }
    for (name, value) in xattrs {
        if (name == acl::ACCESS || name == acl::DEFAULT)
            && let Some(acl) = Acl::decode(value)
        {
            let (user, group) =
                (|id: u32| id.saturating_add(first.uid), |id: u32| id.saturating_add(first.gid));
            *value = acl.with_ids(user, group).encode();
        } else if name == CAPABILITY && value.len() == 20 {
            // Version 3 says whose root it counts for: capabilities(7), "Namespaced file capabilities".
            const REVISIONS: u32 = 0xff00_0000;
            const REVISION_3: u32 = 0x0300_0000;
            let magic = value.first_chunk().map_or(0, |magic| u32::from_le_bytes(*magic));
            let magic = (magic & !REVISIONS | REVISION_3).to_le_bytes();
            *value = [&magic, &value[4..], &first.uid.to_le_bytes()].concat();
        }
    }
}

/// What there is, in words.
fn describe(folder: &OwnedFd, name: &CStr) -> nix::Result<String> {
    let stat = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => "a folder".to_owned(),
        libc::S_IFREG => "a file".to_owned(),
        libc::S_IFLNK => {
            format!("a symbolic link to {}", Path::new(&nix::fcntl::readlinkat(folder, name)?).display())
        }
        _ => "a special file".to_owned(),
    })
}

/// A path below a folder; no link is followed, and no mount entered.
fn look_up(top: &OwnedFd, path: &[u8]) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    openat2(top, OsStr::from_bytes(if path.is_empty() { b"." } else { path }), how)
}

/// The name by which /proc leads to a descriptor's file.
pub(super) fn by_name(file: &OwnedFd) -> CString {
    CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("digits have no NUL")
}

fn is_same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// For what has not got its owner yet.
fn private() -> Mode {
    Mode::from_bits_truncate(0o700)
}

/// The folder of a path; none of the topmost.
fn parent(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|&byte| byte == b'/');
    (!path.is_empty()).then(|| &path[..slash.unwrap_or(0)])
}

fn base_name(path: &[u8]) -> &[u8] {
    &path[path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1)..]
}

pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}
