//! Processes: fork, exec, wait, descriptors and signal dispositions.

use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::errno::Errno;

use super::check;

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(i32),
}

/// fork(2). Only for the single-threaded helper (see [`crate::init`]), and for a process that has looked
/// that it has one thread: with others the child could meet a lock that nobody will ever open.
pub(crate) fn fork() -> nix::Result<Fork> {
    // SAFETY: the process has one thread (the helper from its start in init() on), so the child's memory
    // is consistent and it may do whatever the parent may.
    match check(unsafe { libc::fork() }.into())? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// setdomainname(2), for this process's UTS namespace.
pub(crate) fn set_domain_name(name: &str) -> nix::Result<()> {
    // SAFETY: the pointer and the length are a string's.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// The soft limit of file locks (RLIMIT_LOCKS) of another process; prlimit(2).
pub(crate) fn get_lock_limit(process: nix::unistd::Pid) -> nix::Result<u64> {
    lock_limit(process, None).map(|limit| limit.rlim_cur)
}

/// Sets it; the hard limit stays.
pub(crate) fn set_lock_limit(process: nix::unistd::Pid, soft: u64) -> nix::Result<()> {
    let hard = lock_limit(process, None)?.rlim_max;
    lock_limit(process, Some(libc::rlimit64 { rlim_cur: soft, rlim_max: hard })).map(drop)
}

fn lock_limit(process: nix::unistd::Pid, new: Option<libc::rlimit64>) -> nix::Result<libc::rlimit64> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: both pointers are to live structures of the right type, or null.
    check(unsafe { libc::prlimit64(process.as_raw(), libc::RLIMIT_LOCKS, new, &mut old) }.into())?;
    Ok(old)
}

/// execve(2); returns only on failure.
pub(crate) fn execute(program: &CString, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: all strings are NUL-terminated, both arrays end in a null pointer, and all of them
    // live until the call returns.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Errno::last()
}

/// How a child ended or paused, as wait4(2) has it.
pub(crate) struct Waited {
    /// Which child.
    pub(crate) pid: i32,
    /// What happened to it.
    pub(crate) event: WaitEvent,
    /// What it and the children it waited for used.
    pub(crate) usage: libc::rusage,
}

/// What happened to a child.
pub(crate) enum WaitEvent {
    /// It ended with this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// A signal stopped it.
    Stopped,
}

/// wait4(2) for any child, stopped ones too. `block`: wait until there is one. None: no child has
/// changed (or there is no child at all).
pub(crate) fn wait_any(block: bool) -> nix::Result<Option<Waited>> {
    let options = libc::WUNTRACED | libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        let mut status = 0;
        // SAFETY: rusage is plain numbers, for which zero is valid.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live local variables of the right type.
        let pid = unsafe { libc::wait4(-1, &mut status, options, &mut usage) };
        let event = match check(pid.into()) {
            Ok(0) | Err(Errno::ECHILD) => return Ok(None),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
            Ok(_) if libc::WIFEXITED(status) => WaitEvent::Exited(libc::WEXITSTATUS(status)),
            Ok(_) if libc::WIFSIGNALED(status) => WaitEvent::Signalled(libc::WTERMSIG(status)),
            Ok(_) if libc::WIFSTOPPED(status) => WaitEvent::Stopped,
            Ok(_) => continue,
        };
        return Ok(Some(Waited { pid, event, usage }));
    }
}

/// Sets the disposition of a signal to "ignore" or "default".
fn set_disposition(signal: i32, disposition: libc::sighandler_t) {
    // SAFETY: neither SIG_IGN nor SIG_DFL runs code of ours; an invalid number gives an error that
    // does not matter.
    unsafe { libc::signal(signal, disposition) };
}

/// Ignores these signals.
pub(crate) fn ignore_signals(signals: &[i32]) {
    signals.iter().for_each(|&signal| set_disposition(signal, libc::SIG_IGN));
}

/// Ignores a signal while `action` runs.
pub(crate) fn while_ignoring(signal: i32, action: impl FnOnce()) {
    // SAFETY: SIG_IGN runs no code of ours.
    let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
    action();
    if before != libc::SIG_ERR {
        // SAFETY: puts back what was there a moment ago.
        unsafe { libc::signal(signal, before) };
    }
}

/// All signals as a new program expects them: default disposition, none blocked.
pub(crate) fn reset_signals() {
    (1..=libc::SIGRTMAX()).for_each(|signal| set_disposition(signal, libc::SIG_DFL));
    // Cannot fail: the operation and the set are valid.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Makes `target` refer to what `source` refers to, open across exec.
pub(crate) fn duplicate_onto(source: BorrowedFd<'_>, target: RawFd) -> nix::Result<()> {
    if source.as_raw_fd() == target {
        // dup2 of a descriptor onto itself keeps FD_CLOEXEC.
        // SAFETY: changes a flag of a descriptor that is open, as it is borrowed.
        return check(unsafe { libc::fcntl(target, libc::F_SETFD, 0) }.into()).map(drop);
    }
    // SAFETY: the caller is about to exec and has moved every descriptor it still needs above all
    // targets, so no Rust object owns `target`.
    check(unsafe { libc::dup2(source.as_raw_fd(), target) }.into()).map(drop)
}

/// A duplicate of `source` whose number is at least `lowest`, closed on exec.
pub(crate) fn duplicate_above(source: BorrowedFd<'_>, lowest: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC makes a new descriptor, which nothing else owns.
    let fd = check(unsafe { libc::fcntl(source.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) }.into())?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Marks all descriptors from 3 on as to be closed on exec, but for `keep`. (close_range(2),
/// Linux ≥ 5.11 for the flag.)
pub(crate) fn close_on_exec_except(keep: &[RawFd]) -> nix::Result<()> {
    // SAFETY: changes flags only.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })?;
    for &fd in keep {
        // SAFETY: changes a flag of one descriptor.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into())?;
    }
    Ok(())
}

/// Gives a forked child the descriptors of a helper that was executed: its control socket, and nothing to
/// write to.
pub(crate) fn become_helper(control: BorrowedFd<'_>) -> nix::Result<()> {
    let null = nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_RDWR, nix::sys::stat::Mode::empty())?;
    for (source, target) in [(control, 0), (null.as_fd(), 1), (null.as_fd(), 2)] {
        // SAFETY: this process never uses std's standard streams, which alone own these numbers.
        check(unsafe { libc::dup2(source.as_raw_fd(), target) }.into())?;
    }
    Ok(())
}

/// Takes over descriptor 0, as which a helper is given its control socket.
pub(crate) fn take_standard_input() -> OwnedFd {
    // SAFETY: called once, at the very start of the helper, before anything reads standard input;
    // the helper never uses std::io::stdin.
    unsafe { OwnedFd::from_raw_fd(0) }
}

/// Opens /dev/null in place of `descriptor`, whose number (0) then is nobody's and stays so.
pub(crate) fn point_at_null(descriptor: OwnedFd) -> nix::Result<()> {
    let null = nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_RDWR, nix::sys::stat::Mode::empty())?;
    // SAFETY: `descriptor` is ours, and is forgotten in the same breath.
    check(unsafe { libc::dup2(null.as_raw_fd(), descriptor.as_raw_fd()) }.into())?;
    std::mem::forget(descriptor);
    Ok(())
}

/// Closes all descriptors from 3 on but `keep`: whatever the program that started this one left
/// open. (close_range(2), Linux ≥ 5.9.)
pub(crate) fn close_all_from_3_except(keep: &impl AsRawFd) -> nix::Result<()> {
    let keep = keep.as_raw_fd() as libc::c_uint;
    let close = |first: libc::c_uint, last: libc::c_uint| {
        if first > last {
            return Ok(0);
        }
        // SAFETY: called once, at the very start of the helper, when no Rust object owns any
        // descriptor but `keep` and those below 3.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
    };
    close(3, keep.saturating_sub(1))?;
    close(keep + 1, libc::c_uint::MAX).map(drop)
}

/// Closes a descriptor in a forked child that will never run the destructor of its owner.
pub(crate) fn close_now(descriptor: &(impl std::os::fd::AsFd + ?Sized)) {
    // SAFETY: the owner is a copy that the fork made; this process only leaves it through exec or
    // _exit (see exit_now), and never uses it again.
    unsafe { libc::close(descriptor.as_fd().as_raw_fd()) };
}

/// Ends the process without running anything more of it.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit always is safe; destructors of a forked child would act on what belongs to the
    // parent.
    unsafe { libc::_exit(status) }
}
