//! Files that are opened with O_SYNC or O_DSYNC: the same without, so that a write does not wait for the
//! disk. The flags do not show in fcntl(F_GETFL) then.
//!
//! The supervisor opens the file with the caller's permissions: for that one call it takes the caller's
//! user, groups, capabilities and mask for its own, and looks the path up from the caller's root and
//! folder. That cannot take long: nothing but regular files is opened, and those without blocking.
//!
//! Whatever fails, and whatever is no regular file, the kernel opens as it was asked to, with its own
//! errors. What a caller's own Landlock domain forbids is not looked at: tier full has it as little as
//! the other calls that are answered here.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
};

use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, openat, openat2},
    sys::{
        prctl,
        signal::Signal,
        stat::{Mode, fstat, umask},
        statfs::{PROC_SUPER_MAGIC, TMPFS_MAGIC, fstatfs},
    },
    unistd::{Gid, Uid, setfsgid, setfsuid, setgroups},
};

use super::{
    Abi, Answer,
    caller::{Caller, NAME, Status, own_link},
    files::{How, Make},
};
use crate::enforced::Tier;

/// What makes writes wait. (O_SYNC has O_DSYNC in it.)
pub(super) const SYNCED: OFlag = OFlag::O_SYNC.union(OFlag::O_DSYNC);
/// Without O_LARGEFILE a 32-bit program opens nothing larger.
const LARGEST_OF_32_BITS: i64 = i32::MAX as i64;

/// Answers an open, if it is one with O_SYNC.
pub(super) fn open(make: Make, abi: Abi, tier: Tier, caller: &Caller<'_>) -> nix::Result<Answer> {
    let Some(how) = make.how(caller)? else { return Ok(Answer::GoOn) };
    let flags = OFlag::from_bits_retain(how.flags);
    if !flags.intersects(SYNCED) || flags.contains(OFlag::O_PATH) {
        return Ok(Answer::GoOn);
    }
    let (folder, path) = make.path();
    let folder = folder.map_or(libc::AT_FDCWD, |index| caller.int(index));
    let Ok(path) = caller.path(path) else { return Ok(Answer::GoOn) };
    if own_link(&path).is_some() {
        return Ok(Answer::GoOn); // it would be the supervisor's own
    }
    let opening = Opening {
        // With restrictions on the lookup an absolute path may start there, too.
        base: match path.first() {
            Some(b'/') if how.resolve == 0 => None,
            _ => match caller.base(folder) {
                Ok(base) => Some(base),
                Err(_) => return Ok(Answer::GoOn),
            },
        },
        name: CString::new(path).map_err(|_| Errno::EINVAL)?,
        is_new_call: make == Make::OpenAt2,
        how,
        flags,
        is_32_bit: matches!(abi, Abi::I386 | Abi::Arm),
    };
    let close_on_exec = flags.contains(OFlag::O_CLOEXEC);
    Ok(opening.as_caller(tier, caller).map_or(Answer::GoOn, |file| Answer::Descriptor(file, close_on_exec)))
}

/// An open to be done in another's place.
struct Opening {
    /// Where the path starts; none: at the caller's root.
    base: Option<OwnedFd>,
    name: CString,
    /// openat2(2), which is stricter with flags.
    is_new_call: bool,
    how: How,
    flags: OFlag,
    is_32_bit: bool,
}

impl Opening {
    /// Opens the file as the caller.
    fn as_caller(&self, tier: Tier, caller: &Caller<'_>) -> nix::Result<OwnedFd> {
        let status = caller.status()?;
        let _root = caller.enter_root()?;
        let _disguise = Disguise::like(&status, tier)?; // given back before the root is
        let file = self.open()?;
        caller.still_waits()?;
        Ok(file)
    }

    fn open(&self) -> nix::Result<OwnedFd> {
        self.look()?;
        // What was looked at may have been replaced since.
        let harmless = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = self.look_up(self.flags.difference(SYNCED) | harmless, self.how.mode)?;
        if fstat(&file)?.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(Errno::EINVAL);
        }
        if !self.flags.contains(OFlag::O_NONBLOCK) {
            let now = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
            fcntl(&file, FcntlArg::F_SETFL(now.difference(OFlag::O_NONBLOCK)))?;
        }
        Ok(file)
    }

    /// Whether there is nothing yet, or a file in which writes can wait for a disk.
    fn look(&self) -> nix::Result<()> {
        let unnamed = self.flags.contains(OFlag::O_TMPFILE);
        let file = match self.look_up(NAME | self.flags.intersection(OFlag::O_NOFOLLOW), 0) {
            Err(Errno::ENOENT) if self.flags.contains(OFlag::O_CREAT) => return Ok(()),
            found => found?,
        };
        let stat = fstat(&file)?;
        let kind = stat.st_mode & libc::S_IFMT;
        if kind != libc::S_IFREG && !(kind == libc::S_IFDIR && unnamed) {
            return Err(Errno::EINVAL); // opening a pipe may take for ever
        }
        if self.is_32_bit && stat.st_size > LARGEST_OF_32_BITS {
            return Err(Errno::EOVERFLOW);
        }
        match fstatfs(&file)?.filesystem_type() {
            PROC_SUPER_MAGIC | TMPFS_MAGIC => Err(Errno::EINVAL),
            _ => Ok(()),
        }
    }

    fn look_up(&self, flags: OFlag, mode: u32) -> nix::Result<OwnedFd> {
        let base = self.base.as_ref().map_or(AT_FDCWD, AsFd::as_fd);
        let mode = Mode::from_bits_retain(mode);
        if self.is_new_call {
            let resolve = ResolveFlag::from_bits_retain(self.how.resolve);
            return openat2(
                base,
                self.name.as_c_str(),
                OpenHow::new().flags(flags).mode(mode).resolve(resolve),
            );
        }
        openat(base, self.name.as_c_str(), flags, mode)
    }
}

/// What the kernel asks about when a file is opened, taken from a thread for as long as this lives.
struct Disguise {
    tier: Tier,
    mask: Mode,
    permitted: CapsHashSet,
}

impl Disguise {
    fn like(status: &Status, tier: Tier) -> nix::Result<Disguise> {
        let numbers = |field| -> nix::Result<Vec<u32>> {
            let numbers = status.field(field)?.split_ascii_whitespace();
            numbers.map(|number| number.parse().map_err(|_| Errno::EIO)).collect()
        };
        // Real, effective, saved, and the file system's.
        let (user, group) = (numbers("Uid")?, numbers("Gid")?);
        let (Some(&user), Some(&group)) = (user.get(3), group.get(3)) else { return Err(Errno::EIO) };
        let groups: Vec<_> = numbers("Groups")?.into_iter().map(Gid::from_raw).collect();
        let effective = u64::from_str_radix(status.field("CapEff")?, 16).map_err(|_| Errno::EIO)?;
        let permitted = caps::read(None, CapSet::Permitted).map_err(|_| Errno::EPERM)?;
        let has = |capability: &Capability| capability.bitmask() & effective != 0;
        let capabilities = permitted.iter().copied().filter(has).collect();
        // From here on there is something to give back.
        let disguise = Disguise { tier, mask: umask(status.umask()?), permitted };
        disguise.put_on(Uid::from_raw(user), Gid::from_raw(group), &groups, &capabilities)?;
        Ok(disguise)
    }

    fn put_on(&self, user: Uid, group: Gid, groups: &[Gid], effective: &CapsHashSet) -> nix::Result<()> {
        if self.tier == Tier::Full {
            setgroups(groups)?; // in tier single nobody can leave a group
        }
        setfsgid(group);
        setfsuid(user);
        // The calls give what was before, and no error.
        if setfsgid(group) != group || setfsuid(user) != user {
            return Err(Errno::EPERM);
        }
        // After the user, with whom the kernel changes some of them.
        caps::set(None, CapSet::Effective, effective).map_err(|_| Errno::EPERM)
    }
}

impl Drop for Disguise {
    fn drop(&mut self) {
        umask(self.mask);
        let back = caps::set(None, CapSet::Effective, &self.permitted).map_err(|_| Errno::EPERM);
        let back = back.and_then(|()| self.put_on(Uid::from_raw(0), Gid::from_raw(0), &[], &self.permitted));
        // Whoever changes what a process may do takes this away, too (prctl(2)).
        if back.and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL)).is_err() {
            // Anything else would answer the next caller with another's permissions.
            crate::sys::process::exit_now(1);
        }
    }
}
