//! Calls on files: who owns what, and whose new files are.
//!
//! The kernel does as much as it can: it looks paths up, checks whether the caller may, clears set-id
//! bits, makes the file. Only owners are noted here. Where nothing is to be noted, the kernel carries
//! the call out by itself, with its own errors.

use std::{
    ffi::{CString, OsStr},
    os::fd::{AsFd, OwnedFd},
    os::unix::ffi::OsStrExt,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::{
        stat::{FileStat, Mode, SFlag, fstat, mkdirat, mknodat, umask},
        statvfs::{FsFlags, fstatvfs},
    },
    unistd::{Gid, Uid, fchownat, symlinkat},
};

use super::{
    Answer, attributes,
    caller::{Caller, NAME},
    identity::{Credentials, Identities, LAST_ID, SAME, Width},
    records::Records,
    synced,
};
use crate::owners::Owner;

/// Which file a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A path is the first argument; a link in its last part is followed.
    Path,
    /// The same, and it is not.
    Link,
    /// A folder's descriptor, a path, and somewhere flags.
    At(usize),
    /// A descriptor.
    Open,
}

impl Target {
    /// The file, as a name for it.
    pub(super) fn open(self, caller: &Caller<'_>) -> nix::Result<OwnedFd> {
        let open = |folder, path: &[u8], link| {
            let link = if link { OFlag::O_NOFOLLOW } else { OFlag::empty() };
            caller.open(folder, path, NAME | link, Mode::empty())
        };
        match self {
            Target::Open => caller.descriptor(caller.int(0)),
            Target::Path => open(libc::AT_FDCWD, &caller.path(0)?, false),
            Target::Link => open(libc::AT_FDCWD, &caller.path(0)?, true),
            Target::At(flags) => {
                let flags = caller.int(flags);
                // A null pointer stands for an empty path since Linux 6.11.
                let path = if caller.argument(1) == 0 { Vec::new() } else { caller.path(1)? };
                if path.is_empty() {
                    return if flags & libc::AT_EMPTY_PATH != 0 {
                        caller.base(caller.int(0))
                    } else {
                        Err(Errno::ENOENT)
                    };
                }
                open(caller.int(0), &path, flags & libc::AT_SYMLINK_NOFOLLOW != 0)
            }
        }
    }

    /// Where the arguments go on behind those that name the file.
    fn next(self) -> usize {
        if matches!(self, Target::At(_)) { 2 } else { 1 }
    }
}

/// The flags of an open that may make a file. (O_TMPFILE has O_DIRECTORY in it.)
pub(super) const MAKES: i32 = libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY;

/// A call that makes a file, by where its path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// open(2): path, flags, mode.
    Open,
    /// openat(2).
    OpenAt,
    /// openat2(2).
    OpenAt2,
    /// creat(2).
    Creat,
    /// mkdir(2).
    Folder,
    /// mkdirat(2).
    FolderAt,
    /// symlink(2).
    Link,
    /// symlinkat(2).
    LinkAt,
    /// mknod(2).
    Node,
    /// mknodat(2).
    NodeAt,
}

impl Make {
    /// Which arguments are the folder that the path starts from, if there is one, and the path.
    pub(super) fn path(self) -> (Option<usize>, usize) {
        match self {
            Make::Open | Make::Creat | Make::Folder | Make::Node => (None, 0),
            Make::OpenAt | Make::OpenAt2 | Make::FolderAt | Make::NodeAt => (Some(0), 1),
            Make::Link => (None, 1),
            Make::LinkAt => (Some(1), 2),
        }
    }

    fn is_link(self) -> bool {
        matches!(self, Make::Link | Make::LinkAt)
    }

    /// The flags of an open and the mode, as far as there are any. None: nothing is made, or a device,
    /// which nobody may make in a user namespace, or the path is to be looked up in a way of its own.
    fn flags_and_mode(self, path: usize, caller: &Caller<'_>) -> nix::Result<Option<(OFlag, u32)>> {
        let (flags, mode) = match self {
            Make::Open | Make::OpenAt | Make::OpenAt2 => match self.how(caller)? {
                Some(how) if how.flags & MAKES != 0 && how.resolve == 0 => (how.flags, how.mode),
                _ => return Ok(None),
            },
            Make::Creat => (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, caller.argument(1) as u32),
            Make::Folder | Make::FolderAt => (0, caller.argument(path + 1) as u32),
            Make::Link | Make::LinkAt => (0, 0),
            Make::Node | Make::NodeAt => {
                let mode = caller.argument(path + 1) as u32;
                if matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK) {
                    return Ok(None);
                }
                (0, mode)
            }
        };
        Ok(Some((OFlag::from_bits_retain(flags), mode)))
    }

    /// What an open(2) or one of its kin asks for; none if it is no such call, or an error.
    pub(super) fn how(self, caller: &Caller<'_>) -> nix::Result<Option<How>> {
        let (_, path) = self.path();
        match self {
            Make::Open | Make::OpenAt => Ok(Some(How {
                flags: caller.int(path + 1),
                mode: caller.argument(path + 2) as u32,
                resolve: 0,
            })),
            Make::OpenAt2 => {
                let size = caller.argument(3);
                if !(24..=4096).contains(&size) {
                    return Ok(None);
                }
                let bytes = caller.read(caller.argument(2), 24)?;
                let field = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
                let (Ok(flags), Ok(mode)) = (u32::try_from(field(0)), u32::try_from(field(8))) else {
                    return Ok(None);
                };
                Ok(Some(How { flags: flags as i32, mode, resolve: field(16) }))
            }
            _ => Ok(None),
        }
    }
}

/// The arguments of an open that say how: openat2(2), `struct open_how`.
pub(super) struct How {
    pub(super) flags: i32,
    pub(super) mode: u32,
    pub(super) resolve: u64,
}

/// What the calls of this module work on.
pub(super) struct Files<'a> {
    pub(super) identities: &'a mut Identities,
    pub(super) records: &'a mut Records,
    /// New files are opened without O_SYNC.
    pub(super) no_sync: bool,
}

impl Files<'_> {
    /// chown(2) and its kin.
    pub(super) fn chown(&mut self, target: Target, width: Width, caller: &Caller<'_>) -> nix::Result<Answer> {
        let uid = width.id(caller.argument(target.next()));
        let gid = width.id(caller.argument(target.next() + 1));
        let Ok(file) = target.open(caller) else { return Ok(Answer::GoOn) };
        if !caller.surroundings.holds(&file)? {
            // The kernel says "no such user", and to the caller's user it would say "not you".
            let gives_away = [uid, gid].into_iter().any(|id| id != 0 && id != SAME);
            return if gives_away { Err(Errno::EPERM) } else { Ok(Answer::GoOn) };
        }
        if [uid, gid].into_iter().any(|id| id > LAST_ID && id != SAME) {
            return Err(Errno::EINVAL);
        }
        let stat = fstat(&file)?;
        let before = self.records.of(&file, &stat).unwrap_or(Owner::ROOT);
        if !may_chown(self.identities.of(caller)?, before, uid, gid) {
            return Err(Errno::EPERM);
        }
        // To whom it belongs already: clears set-id bits and capabilities, sets the time, copies the
        // file up, or fails, as a chown does.
        let root = |id: u32| (id != SAME).then_some(0);
        let (real_uid, real_gid) = (root(uid).map(Uid::from_raw), root(gid).map(Gid::from_raw));
        caller.still_waits()?;
        fchownat(file.as_fd(), "", real_uid, real_gid, AtFlags::AT_EMPTY_PATH)?;
        let owner = Owner {
            uid: if uid == SAME { before.uid } else { uid },
            gid: if gid == SAME { before.gid } else { gid },
        };
        if owner != before {
            // Not the status from before: copying up may have changed the number.
            let stat = fstat(&file)?;
            self.records.set(file, &stat, owner)?;
        }
        Ok(Answer::Value(0))
    }

    /// A call that makes a file: made here, when it would be another's than root's.
    pub(super) fn make(&mut self, make: Make, caller: &Caller<'_>) -> nix::Result<Answer> {
        let (folder, path_at) = make.path();
        let Some((flags, mode)) = make.flags_and_mode(path_at, caller)? else { return Ok(Answer::GoOn) };
        let mut path = caller.path(path_at)?;
        if matches!(make, Make::Folder | Make::FolderAt) {
            while path.len() > 1 && path.last() == Some(&b'/') {
                path.pop(); // as mkdir(2) may have it
            }
        }
        let unnamed = flags.contains(OFlag::O_TMPFILE);
        let (parent, name) = if unnamed { (path.as_slice(), &b"."[..]) } else { split(&path) };
        let folder = folder.map_or(libc::AT_FDCWD, |index| caller.int(index));
        let parent = match parent {
            b"" => caller.base(folder),
            parent => caller.open(folder, parent, NAME | OFlag::O_DIRECTORY, Mode::empty()),
        };
        // What the kernel refuses it refuses better.
        let (Ok(parent), false) = (parent, name.is_empty() || name == b"..") else { return Ok(Answer::GoOn) };
        if !caller.surroundings.holds(&parent)? {
            return Ok(Answer::GoOn);
        }
        let owner = self.owner_of_new(&parent, caller)?;
        let listed = !make.is_link() && attributes::has_default(&parent);
        if owner == Owner::ROOT && !listed {
            return Ok(Answer::GoOn);
        }
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        let mode = Mode::from_bits_truncate(mode);
        let link = if make.is_link() { caller.path(0)? } else { Vec::new() };
        // A list takes the place of the mask: umask(2).
        let mask = if listed { Mode::empty() } else { caller.status()?.umask()? };
        caller.still_waits()?;
        let mask = umask(mask);
        let made = match make {
            Make::Folder | Make::FolderAt => mkdirat(&parent, name.as_c_str(), mode).map(|()| None),
            Make::Link | Make::LinkAt => {
                symlinkat(OsStr::from_bytes(&link), &parent, name.as_c_str()).map(|()| None)
            }
            Make::Node | Make::NodeAt => {
                let kind = SFlag::from_bits_truncate(caller.argument(path_at + 1) as u32);
                mknodat(&parent, name.as_c_str(), kind & SFlag::S_IFMT, mode, 0).map(|()| None)
            }
            Make::Open | Make::OpenAt | Make::OpenAt2 | Make::Creat => {
                // Only what is not there yet is made here: what is there may be a pipe, and opening it
                // take for ever.
                let exclusive = if unnamed { OFlag::empty() } else { OFlag::O_EXCL };
                let synced = if self.no_sync { synced::SYNCED } else { OFlag::empty() };
                let flags = (flags | exclusive | OFlag::O_CLOEXEC).difference(synced);
                openat(&parent, name.as_c_str(), flags, mode).map(Some)
            }
        };
        umask(mask);
        let inherit = |file: &OwnedFd| if listed { attributes::inherit(&parent, file, mode) } else { Ok(()) };
        match made {
            Ok(Some(file)) => {
                inherit(&file)?;
                self.note(file.try_clone().map_err(|_| Errno::EMFILE)?, owner)?;
                Ok(Answer::Descriptor(file, flags.contains(OFlag::O_CLOEXEC)))
            }
            Ok(None) => {
                let file = openat(&parent, name.as_c_str(), NAME | OFlag::O_NOFOLLOW, Mode::empty())?;
                inherit(&file)?;
                self.note(file, owner)?;
                Ok(Answer::Value(0))
            }
            Err(Errno::EEXIST) => Ok(Answer::GoOn),
            Err(errno) => Err(errno),
        }
    }

    fn note(&mut self, file: OwnedFd, owner: Owner) -> nix::Result<()> {
        let stat = fstat(&file)?;
        self.records.set(file, &stat, owner)
    }

    /// Whose a new file in a folder is: the maker's, but in a set-group-id folder of the folder's group.
    fn owner_of_new(&mut self, parent: &OwnedFd, caller: &Caller<'_>) -> nix::Result<Owner> {
        let credentials = self.identities.of(caller)?;
        let mut owner = Owner { uid: credentials.user.file_system, gid: credentials.group.file_system };
        let stat = fstat(parent)?;
        if stat.st_mode & libc::S_ISGID != 0 {
            owner.gid = self.records.of(parent, &stat).unwrap_or(Owner::ROOT).gid;
        }
        Ok(owner)
    }

    /// execve(2) and execveat(2): the kernel does it; what a set-id program changes is noted before,
    /// since afterwards nobody asks. Should the call fail after all this, the caller keeps what it would
    /// have had.
    pub(super) fn execute(&mut self, target: Target, caller: &Caller<'_>) -> nix::Result<Answer> {
        let Ok(file) = target.open(caller) else { return Ok(Answer::GoOn) };
        let stat = fstat(&file)?;
        if !caller.surroundings.holds(&file)? {
            return Ok(Answer::GoOn);
        }
        let before = self.identities.of(caller)?.clone();
        let (set_user, set_group) = self.set_ids(&file, &stat, &before, caller)?;
        let after = before.after_exec(set_user, set_group);
        if after != before && stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_mode & 0o111 != 0 {
            self.identities.set(caller, after)?;
        }
        Ok(Answer::GoOn)
    }

    /// The ids that a program gives whoever starts it (execve(2), "Effect on process attributes").
    fn set_ids(
        &mut self,
        file: &OwnedFd,
        stat: &FileStat,
        credentials: &Credentials,
        caller: &Caller<'_>,
    ) -> nix::Result<(Option<u32>, Option<u32>)> {
        let set_user = stat.st_mode & libc::S_ISUID != 0;
        let both = libc::S_ISGID | libc::S_IXGRP;
        let set_group = stat.st_mode & both == both;
        if !set_user && !set_group || stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Ok((None, None));
        }
        let owner = match self.records.of(file, stat) {
            Some(owner) => owner,
            None if stat.st_uid == 0 => Owner::ROOT,
            None => return Ok((None, None)), // the host's, and mounted so that no set-id bit counts
        };
        let changes = (set_user && credentials.user.effective != owner.uid)
            || (set_group && credentials.group.effective != owner.gid);
        if !changes
            || fstatvfs(file)?.flags().contains(FsFlags::ST_NOSUID)
            || caller.status()?.field("NoNewPrivs")? != "0"
            || is_script(file)?
        {
            return Ok((None, None));
        }
        Ok((set_user.then_some(owner.uid), set_group.then_some(owner.gid)))
    }
}

/// Whether the kernel would let these credentials do it (chown(2), EPERM): root may all, an owner may
/// give a file to another of its own groups.
fn may_chown(credentials: &Credentials, owner: Owner, uid: u32, gid: u32) -> bool {
    let own = credentials.user.file_system;
    own == 0
        || (uid == SAME || (uid == owner.uid && uid == own))
            && (gid == SAME || (owner.uid == own && (gid == owner.gid || credentials.is_in(gid))))
}

/// On a script set-id bits do nothing.
fn is_script(file: &OwnedFd) -> nix::Result<bool> {
    let name = super::caller::own_name(file);
    let open = nix::fcntl::open(name.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut start = [0; 2];
    let read = nix::unistd::read(&open, &mut start)?;
    Ok(&start[..read] == b"#!")
}

/// A path as the folder of its last part, empty for the folder that the path starts from, and that part.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        None => (b"", path),
        Some(slash) => (&path[..slash.max(1)], &path[slash + 1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::identity::Ids;

    #[test]
    fn parents() {
        for (path, parent, name) in [
            ("a", "", "a"),
            ("/a", "/", "a"),
            ("a/b", "a", "b"),
            ("/a/b", "/a", "b"),
            ("../a", "..", "a"),
            ("a//b", "a/", "b"),
            ("a/", "a", ""),
            ("/", "/", ""),
        ] {
            assert_eq!(split(path.as_bytes()), (parent.as_bytes(), name.as_bytes()), "{path}");
        }
    }

    #[test]
    fn who_may_give_what_away() {
        let www = Ids { real: 33, effective: 33, saved: 33, file_system: 33 };
        let www = Credentials { user: www, group: www, groups: vec![4, 33], ..Credentials::default() };
        let own = Owner { uid: 33, gid: 33 };
        for (owner, uid, gid, expected) in [
            (own, SAME, SAME, true),
            (own, 33, SAME, true),
            (own, 33, 4, true),
            (own, SAME, 33, true),
            (own, 0, SAME, false),
            (own, SAME, 5, false),
            (Owner::ROOT, 33, SAME, false),
            (Owner::ROOT, SAME, 33, false),
            (Owner::ROOT, SAME, SAME, true),
        ] {
            assert_eq!(may_chown(&www, owner, uid, gid), expected, "{owner:?} to {uid}:{gid}");
            assert!(may_chown(&Credentials::default(), owner, uid, gid));
        }
    }
}
