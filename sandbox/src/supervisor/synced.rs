//! Files that are opened with O_SYNC or O_DSYNC: the same without, so that a write does not wait for the
//! disk. The flags do not show in fcntl(F_GETFL) then.
//!
//! A child of the supervisor opens the file with the caller's permissions: it takes the caller's user,
//! groups, capabilities and mask for its own, looks the path up from the caller's root and folder, and
//! hands the descriptor over. It is forked for one call, so nothing has to be given back. The supervisor
//! waits for it, which cannot take long: nothing but regular files is opened, and those without blocking.
//!
//! Whatever fails, and whatever is no regular file, the kernel opens as it was asked to, with its own
//! errors. What a caller's own Landlock domain forbids is not looked at: tier full has it as little as
//! the other calls that are answered here.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
};

use caps::{CapSet, CapsHashSet};
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, openat, openat2},
    sys::{
        prctl,
        signal::Signal,
        stat::{Mode, fstat, umask},
        statfs::{PROC_SUPER_MAGIC, TMPFS_MAGIC, fstatfs},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Gid, Pid, Uid, setfsgid, setfsuid, setgroups},
};

use super::{
    Abi, Answer,
    caller::{Caller, NAME, Status, own_link},
    files::{How, Make},
};
use crate::{
    enforced::Tier,
    sys::{
        notify,
        process::{self, Fork},
    },
};

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
        return Ok(Answer::GoOn); // it would be the child's own
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
    let Ok(child) = process::fork() else { return Ok(Answer::GoOn) };
    match child {
        Fork::Child => process::exit_now(i32::from(opening.give(tier, caller).is_err())),
        Fork::Parent(pid) => loop {
            match waitpid(Pid::from_raw(pid), None) {
                Err(Errno::EINTR) => {}
                Ok(WaitStatus::Exited(_, 0)) => return Ok(Answer::Given),
                _ => return Ok(Answer::GoOn),
            }
        },
    }
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
    /// Opens the file as the caller and gives it to the caller: the whole life of the child.
    fn give(&self, tier: Tier, caller: &Caller<'_>) -> nix::Result<()> {
        let status = caller.status()?;
        std::mem::forget(caller.enter_root()?); // the child stays there
        become_like(&status, tier)?;
        // What changes a process's permissions takes this away.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        let file = self.open()?;
        caller.still_waits()?;
        let close_on_exec = self.flags.contains(OFlag::O_CLOEXEC);
        let given = notify::answer_with(caller.listener, caller.notification.id, file.as_fd(), close_on_exec);
        match given {
            // There is a new file already: the kernel would refuse to make it.
            Err(errno) if self.flags.contains(OFlag::O_EXCL) => {
                notify::answer(caller.listener, caller.notification.id, Err(errno))
            }
            given => given,
        }
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

/// Takes what the kernel asks about when a file is opened from a thread's /proc/PID/status, for good.
fn become_like(status: &Status, tier: Tier) -> nix::Result<()> {
    umask(status.umask()?);
    let numbers = |field| -> nix::Result<Vec<u32>> {
        let numbers = status.field(field)?.split_ascii_whitespace();
        numbers.map(|number| number.parse().map_err(|_| Errno::EIO)).collect()
    };
    // Real, effective, saved, and the file system's.
    let (user, group) = (numbers("Uid")?, numbers("Gid")?);
    let (Some(&user), Some(&group)) = (user.get(3), group.get(3)) else { return Err(Errno::EIO) };
    if tier == Tier::Full {
        // In tier single nobody can leave a group.
        let groups: Vec<_> = numbers("Groups")?.into_iter().map(Gid::from_raw).collect();
        setgroups(&groups)?;
    }
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    // The call gives what was before, and no error.
    setfsgid(group);
    setfsuid(user);
    if setfsgid(group) != group || setfsuid(user) != user {
        return Err(Errno::EPERM);
    }
    let effective = u64::from_str_radix(status.field("CapEff")?, 16).map_err(|_| Errno::EIO)?;
    let failed = |_| Errno::EPERM;
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed)?;
    let effective: CapsHashSet =
        permitted.into_iter().filter(|capability| capability.bitmask() & effective != 0).collect();
    caps::set(None, CapSet::Effective, &effective).map_err(failed)
}
