//! What a sandbox changed: the upper layer of an overlay as a stream of typed changes; and any other
//! folder in the same way.
//!
//! Read from outside, by the monitor, when nothing runs inside any more. Every file is opened
//! relative to its folder and no link is followed, so a hostile layer leads nowhere else.
//!
//! In a folder that is no layer nothing is a mark: a character device 0:0 is one.
//!
//! overlayfs's own marks (the kernel's Documentation/filesystems/overlayfs.rst): a removed name is a
//! character device 0:0, or an empty file with `user.overlay.whiteout` in a folder marked
//! `user.overlay.opaque=x` (Linux ≥ 6.7); a folder marked `user.overlay.opaque=y` hides what is below.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, OsStr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat},
    sys::stat::{FileStat, Mode, fstat, fstatat},
};
use serde::{Deserialize, Serialize};

use crate::{
    acl::{self, Acl},
    bytes::{below, escape},
    disk::PlainFolder,
    error::{Doing, Error, Result},
    owners::{Owner, RECORD},
    protocol::{Channel, FromMonitor, ToMonitor},
    sys::{
        socket::MOST_DESCRIPTORS,
        xattr::{self, Place},
    },
};

/// One change. A folder comes before what is in it; names of a folder are sorted by their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The path, without a leading slash; empty for the root folder, which always comes first.
    #[serde(with = "crate::bytes")]
    pub path: Vec<u8>,
    /// What is there now.
    pub now: Entry,
}

/// What is at a changed path now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// Nothing. The base may have had nothing there either.
    Removed,
    /// A folder; perhaps listed just because something below it changed.
    Folder {
        /// Its metadata.
        metadata: Metadata,
        /// Whether what the base has below it is gone.
        opaque: bool,
    },
    /// A file. Its content comes beside the change.
    File {
        /// Its metadata.
        metadata: Metadata,
        /// Bytes, holes included (which read as zeros).
        size: u64,
        /// Changes with the same number are hard links of one file; none where it has one name.
        hard_link: Option<u64>,
    },
    /// A symbolic link.
    Symlink {
        /// Its metadata.
        metadata: Metadata,
        /// Where it leads.
        #[serde(with = "crate::bytes")]
        target: Vec<u8>,
    },
    /// A socket, pipe or device: see the mode.
    Special {
        /// Its metadata.
        metadata: Metadata,
        /// Of a device, the major and the minor number; else zeros.
        device: (u32, u32),
    },
}

/// Owner, mode, attributes, time: as seen inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Extended attributes, sorted by name, without overlayfs's own. `security.capability` is in
    /// version 2, as outside of any user namespace. An attribute that a base layer's file carries for
    /// other purposes (`user.ostreemeta` in a hard-link checkout) is copied up with it and shows here.
    #[serde(with = "crate::bytes")]
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Time of the last change of content: seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
}

const OVERLAY: &[u8] = b"user.overlay.";
const CAPABILITY: &[u8] = b"security.capability";

/// Changes in one message; each may bring a descriptor.
const BATCH: usize = MOST_DESCRIPTORS / 2;

/// Sends all changes in batches, each when the caller asks for it, and returns when it has the last
/// or wants no more.
///
/// `recorded`: in tier single, the owners that files do not carry with them.
pub(crate) fn send_changes(
    upper: &Path,
    recorded: Option<HashMap<Vec<u8>, Owner>>,
    control: &mut Channel,
) -> Result<()> {
    send(upper, Source::Upper(recorded), control).map(drop)
}

/// The same for all that is in a folder that is no layer; gives what was learnt of it.
pub(crate) fn send_folder(folder: &Path, control: &mut Channel) -> Result<PlainFolder> {
    match send(folder, Source::Plain(PlainFolder::new()?), control)? {
        Source::Plain(plain) => Ok(plain),
        Source::Upper(_) => Err(Error::bug("a folder became a layer")),
    }
}

fn send(top: &Path, source: Source, control: &mut Channel) -> Result<Source> {
    let mut batches = Batches { control, changes: Vec::new(), contents: Vec::new() };
    let mut walk = Walk { top, source, taker: &mut batches, links: HashMap::new(), path: Vec::new() };
    let walked = walk.all();
    let source = walk.source;
    match walked.and_then(|()| batches.flush(true)) {
        Err(Stop::Failed(error)) => Err(error),
        Ok(()) | Err(Stop::Enough) => Ok(source),
    }
}

/// Gives all changes of an upper layer to `each`, here.
pub(crate) fn each_change(
    upper: &Path,
    recorded: Option<HashMap<Vec<u8>, Owner>>,
    each: &mut dyn FnMut(Change, Option<OwnedFd>) -> Result<()>,
) -> Result<()> {
    let mut each = Each(each);
    let source = Source::Upper(recorded);
    let mut walk = Walk { top: upper, source, taker: &mut each, links: HashMap::new(), path: Vec::new() };
    match walk.all() {
        Err(Stop::Failed(error)) => Err(error),
        Ok(()) | Err(Stop::Enough) => Ok(()),
    }
}

/// Who gets the changes.
trait Taker {
    /// The next one, with the content of a file.
    fn take(&mut self, change: Change, content: Option<OwnedFd>) -> std::result::Result<(), Stop>;

    /// Whose a file is in the parent user namespace.
    fn owner_outside(&mut self, file: &OwnedFd) -> Result<Owner>;
}

/// The caller, in another process.
struct Batches<'a> {
    control: &'a mut Channel,
    changes: Vec<Change>,
    contents: Vec<OwnedFd>,
}

impl Batches<'_> {
    fn flush(&mut self, last: bool) -> std::result::Result<(), Stop> {
        let changes = std::mem::take(&mut self.changes);
        let contents = std::mem::take(&mut self.contents);
        let contents: Vec<_> = contents.iter().map(AsFd::as_fd).collect();
        self.control.send(&FromMonitor::Changes { changes, last }, &contents)?;
        match self.control.receive()? {
            Some((ToMonitor::Next, _)) => Ok(()),
            _ => Err(Stop::Enough),
        }
    }
}

impl Taker for Batches<'_> {
    fn take(&mut self, change: Change, content: Option<OwnedFd>) -> std::result::Result<(), Stop> {
        self.changes.push(change);
        self.contents.extend(content);
        if self.changes.len() == BATCH { self.flush(false) } else { Ok(()) }
    }

    fn owner_outside(&mut self, file: &OwnedFd) -> Result<Owner> {
        self.control.send(&FromMonitor::WhoseIsThis, &[file.as_fd()])?;
        match self.control.receive()? {
            Some((ToMonitor::ItIs(owner), _)) => Ok(owner),
            _ => Err(Error::bug("nobody says whose a file is")),
        }
    }
}

/// Somebody in this process.
struct Each<'a>(&'a mut dyn FnMut(Change, Option<OwnedFd>) -> Result<()>);

impl Taker for Each<'_> {
    fn take(&mut self, change: Change, content: Option<OwnedFd>) -> std::result::Result<(), Stop> {
        (self.0)(change, content).map_err(Stop::Failed)
    }

    fn owner_outside(&mut self, _: &OwnedFd) -> Result<Owner> {
        Err(Error::bug("a layer's owners are known"))
    }
}

/// What is read.
enum Source {
    /// An upper layer, with the owners that its files do not carry with them; none: the kernel knows all.
    Upper(Option<HashMap<Vec<u8>, Owner>>),
    /// Any other folder.
    Plain(PlainFolder),
}

/// Why a walk ended early.
enum Stop {
    Enough,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

struct Walk<'a> {
    top: &'a Path,
    source: Source,
    taker: &'a mut dyn Taker,
    /// Inode → number of its group of hard links.
    links: HashMap<(u64, u64), u64>,
    /// Where the walk is.
    path: Vec<u8>,
}

impl Walk<'_> {
    fn doing(&self, action: &str) -> String {
        let what = if matches!(self.source, Source::Upper(_)) { "the upper layer " } else { "" };
        format!("{action} {} in {what}{}", escape(&self.path), self.top.display())
    }

    /// All that there is.
    fn all(&mut self) -> std::result::Result<(), Stop> {
        // What comes before the last part of a plain folder's path the caller has chosen, links included.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let is_layer = matches!(self.source, Source::Upper(_));
        let flags = if is_layer { flags | OFlag::O_NOFOLLOW } else { flags };
        let folder = open(self.top, flags, Mode::empty()).doing_to("opening", self.top)?;
        let stat = fstat(&folder).doing_to("reading", self.top)?;
        self.check_owner(&folder, &stat)?;
        if let Source::Plain(plain) = &mut self.source {
            plain.begin(&stat);
        }
        self.folder(folder, &stat)
    }

    /// Refuses a file whose owner has no number in this namespace, or one below the tree's first.
    fn check_owner(&mut self, file: &OwnedFd, stat: &FileStat) -> Result<()> {
        let Source::Plain(plain) = &self.source else { return Ok(()) };
        let asks = plain.may_be_unmapped(stat);
        let outside = asks.then(|| self.taker.owner_outside(file)).transpose()?;
        plain.check(stat, outside, &below(self.top, &self.path))
    }

    /// What is at a name. None: the root of another file system, which has been noted.
    fn look_at(&mut self, folder: &OwnedFd, name: &CStr) -> Result<Option<FileStat>> {
        let Source::Plain(plain) = &mut self.source else {
            let stat = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).doing(self.doing("looking at"))?;
            return Ok(Some(stat));
        };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_BENEATH);
        match openat2(folder, name, how) {
            Err(Errno::EXDEV) => {
                plain.mounts.push(self.path.clone());
                Ok(None)
            }
            file => {
                let file = file.doing(self.doing("opening"))?;
                let stat = fstat(&file).doing(self.doing("looking at"))?;
                self.check_owner(&file, &stat)?;
                Ok(Some(stat))
            }
        }
    }

    /// A folder and what is in it. Depth is bounded by descriptors, which is deeper than PATH_MAX
    /// lets programs go in one step.
    fn folder(&mut self, folder: OwnedFd, stat: &FileStat) -> std::result::Result<(), Stop> {
        let (xattrs, own) = self.attributes(Place::Open(folder.as_fd()))?;
        // Of a plain folder nothing is overlayfs's own.
        let mark = own.iter().find(|(name, _)| name == b"opaque").map(|(_, value)| value.as_slice());
        let has_marked_whiteouts = mark == Some(b"x");
        let metadata = self.metadata(stat, xattrs);
        self.emit(Entry::Folder { metadata, opaque: mark == Some(b"y") }, None)?;
        let mut names = Vec::new();
        let listing =
            openat(&folder, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let mut listing = listing.and_then(Dir::from_fd).doing(self.doing("listing"))?;
        for entry in listing.iter() {
            let name = entry.doing(self.doing("listing"))?.file_name().to_owned();
            if name.as_bytes() != b"." && name.as_bytes() != b".." {
                names.push(name);
            }
        }
        drop(listing);
        names.sort();
        for name in names {
            let length = self.path.len();
            if length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.as_bytes());
            self.entry(&folder, &name, has_marked_whiteouts)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        folder: &OwnedFd,
        name: &CStr,
        marked_whiteouts: bool,
    ) -> std::result::Result<(), Stop> {
        let Some(stat) = self.look_at(folder, name)? else { return Ok(()) };
        let open_it = |flags| {
            openat(
                folder,
                name,
                OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | flags,
                Mode::empty(),
            )
        };
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                let opened = open_it(OFlag::O_RDONLY | OFlag::O_DIRECTORY).doing(self.doing("opening"))?;
                self.folder(opened, &stat)
            }
            libc::S_IFREG => {
                let file = open_it(OFlag::O_RDONLY).doing(self.doing("opening"))?;
                let (xattrs, own) = self.attributes(Place::Open(file.as_fd()))?;
                let has = |wanted: &[u8]| own.iter().any(|(name, _)| name == wanted);
                if marked_whiteouts && stat.st_size == 0 && has(b"whiteout") {
                    return self.emit(Entry::Removed, None);
                }
                if has(b"metacopy") {
                    return Err(Error::machine(self.doing("the content is in another layer, for")).into());
                }
                let hard_link = self.hard_link(&stat);
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let metadata = self.metadata(&stat, xattrs);
                self.emit(Entry::File { metadata, size, hard_link }, Some(file))
            }
            libc::S_IFLNK => {
                let target = readlinkat(folder, name).doing(self.doing("reading the link"))?.into_vec();
                let xattrs = self.attributes_of_name(folder, name)?;
                let metadata = self.metadata(&stat, xattrs);
                self.emit(Entry::Symlink { metadata, target }, None)
            }
            libc::S_IFCHR if stat.st_rdev == 0 && matches!(self.source, Source::Upper(_)) => {
                self.emit(Entry::Removed, None)
            }
            _ => {
                let xattrs = self.attributes_of_name(folder, name)?;
                let metadata = self.metadata(&stat, xattrs);
                let device = (libc::major(stat.st_rdev), libc::minor(stat.st_rdev));
                self.emit(Entry::Special { metadata, device }, None)
            }
        }
    }

    /// The group of a file's hard links, numbered as they are met.
    fn hard_link(&mut self, stat: &FileStat) -> Option<u64> {
        let next = self.links.len() as u64;
        (stat.st_nlink > 1).then(|| *self.links.entry((stat.st_dev, stat.st_ino)).or_insert(next))
    }

    /// Attributes of what cannot be opened: by the folder's name in /proc, as no call takes a folder
    /// and a name before Linux 6.13.
    fn attributes_of_name(&self, folder: &OwnedFd, name: &CStr) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
        let path = path.join(OsStr::from_bytes(name.to_bytes())).into_os_string().into_vec();
        let path = CString::new(path).map_err(Error::bug)?;
        self.attributes(Place::Path(&path)).map(|(xattrs, _)| xattrs)
    }

    /// An entry's attributes, and apart from them overlayfs's own without their prefix.
    #[allow(clippy::type_complexity)] // two lists of the same plain pairs
    fn attributes(&self, place: Place<'_>) -> Result<(Vec<(Vec<u8>, Vec<u8>)>, Vec<(Vec<u8>, Vec<u8>)>)> {
        let (mut theirs, mut own) = (Vec::new(), Vec::new());
        let is_layer = matches!(self.source, Source::Upper(_));
        for name in xattr::names(place).doing(self.doing("listing attributes of"))? {
            let Some(value) = xattr::get(place, &name).doing(self.doing("reading attributes of"))? else {
                continue;
            };
            let name = name.into_bytes();
            match name.strip_prefix(OVERLAY).filter(|_| is_layer) {
                // What a program inside set under overlayfs's prefix is stored with the prefix twice.
                Some(inner) if inner.starts_with(b"overlay.") => {
                    theirs.push(([b"user.", inner].concat(), value));
                }
                Some(inner) => own.push((inner.to_vec(), value)),
                None if name == CAPABILITY => theirs.push((name, capability_version_2(value))),
                // SELinux and its kin label by the host's policy, which says nothing of the image.
                None if name.starts_with(b"security.") || name.starts_with(b"trusted.") => {}
                None => theirs.push((name, value)),
            }
        }
        theirs.sort();
        Ok((theirs, own))
    }

    fn metadata(&mut self, stat: &FileStat, mut xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Metadata {
        let mut owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        match &mut self.source {
            Source::Upper(None) => {}
            Source::Upper(Some(elsewhere)) => {
                let carried = take_records(&mut xattrs, stat.st_mode);
                owner = carried.or_else(|| elsewhere.get(&self.path).copied()).unwrap_or(Owner::ROOT);
            }
            Source::Plain(plain) => {
                plain.show_ids(&mut owner, &mut xattrs);
                plain.recorded |= xattrs.iter().any(|(name, _)| name.starts_with(acl::OURS));
                owner = take_records(&mut xattrs, stat.st_mode).unwrap_or(owner);
            }
        }
        Metadata {
            uid: owner.uid,
            gid: owner.gid,
            mode: stat.st_mode,
            xattrs,
            modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        }
    }

    fn emit(&mut self, now: Entry, content: Option<OwnedFd>) -> std::result::Result<(), Stop> {
        self.taker.take(Change { path: self.path.clone(), now }, content)
    }
}

/// Turns the records of tier single into what they stand for; gives the owner, if there is a record of
/// it.
pub(crate) fn take_records(xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>, mode: u32) -> Option<Owner> {
    let carried = xattrs.iter().position(|(name, _)| name == RECORD.to_bytes());
    let carried = carried.and_then(|at| Owner::decode(&xattrs.remove(at).1));
    for (name, value) in xattrs.iter_mut() {
        let Some(list) = acl::name_of(name) else { continue };
        let is_access = list == acl::ACCESS;
        if let Some(acl) = Acl::decode(value).filter(|_| is_access) {
            *value = acl.with_mode(mode).encode();
        }
        *name = list.to_vec();
    }
    xattrs.sort();
    carried
}

/// A file capability as it is outside of any user namespace: version 3 (`vfs_ns_cap_data` in
/// linux/capability.h) is version 2 with the root's id behind it. The kernel converts by itself when
/// the reader is that root, as the monitor is; other values stay as they are.
pub(crate) fn capability_version_2(value: Vec<u8>) -> Vec<u8> {
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    const FLAGS: u32 = 0x00ff_ffff;
    let Some(magic) = value.first_chunk().map(|magic| u32::from_le_bytes(*magic)) else { return value };
    if value.len() != 24 || magic & !FLAGS != REVISION_3 {
        return value;
    }
    let magic = (REVISION_2 | magic & FLAGS).to_le_bytes();
    [&magic, &value[4..20]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_lose_their_namespace() {
        let body: Vec<u8> = (1..=16).collect();
        let version_2 = [&[1, 0, 0, 2], body.as_slice()].concat();
        let version_3 = [&[1, 0, 0, 3], body.as_slice(), &100_000u32.to_le_bytes()].concat();
        assert_eq!(capability_version_2(version_3), version_2);
        for unchanged in [version_2, vec![], vec![1], vec![0, 0, 0, 3], vec![9; 24]] {
            assert_eq!(capability_version_2(unchanged.clone()), unchanged);
        }
    }
}
