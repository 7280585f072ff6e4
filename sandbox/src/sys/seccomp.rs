//! Installing a filter for system calls.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::check;

/// Puts `program` in force for this process and all that it starts, for good. Needs CAP_SYS_ADMIN
/// in the user namespace; no_new_privs is left alone, as set-id programs must work inside.
pub(crate) fn install(program: &[libc::sock_filter]) -> nix::Result<()> {
    set_filter(program, 0).map(drop)
}

/// The same, and gives the descriptor at which calls wait for which the program says
/// `SECCOMP_RET_USER_NOTIF`. EBUSY: a filter that is in force already has one.
pub(crate) fn install_with_listener(program: &[libc::sock_filter]) -> nix::Result<OwnedFd> {
    // With the second flag (Linux ≥ 5.19) only a fatal signal interrupts a call that is being
    // answered: one that is answered twice, after a signal handler, may have been carried out twice.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = match set_filter(program, flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::EINVAL) => set_filter(program, flags)?,
        other => other?,
    };
    // SAFETY: the kernel has just made this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn set_filter(program: &[libc::sock_filter], flags: libc::c_ulong) -> nix::Result<libc::c_long> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        filter: program.as_ptr().cast_mut(), // the kernel only reads it
    };
    // SAFETY: the structure describes a slice that lives through the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program) })
}
