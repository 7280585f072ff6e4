//! System calls handed over to another process: seccomp_unotify(2).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// A process waits in a system call for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notification {
    /// Names the call; no other has had or will have this number.
    pub(crate) id: u64,
    /// The thread, as this process's pid namespace numbers it.
    pub(crate) thread: u32,
    /// `AUDIT_ARCH_…`: the ABI.
    pub(crate) architecture: u32,
    /// The call's number there.
    pub(crate) number: u32,
    /// Its arguments, as the registers have them.
    pub(crate) arguments: [u64; 6],
}

mod request {
    nix::ioctl_readwrite!(receive, b'!', 0, libc::seccomp_notif);
    nix::ioctl_readwrite!(send, b'!', 1, libc::seccomp_notif_resp);
    nix::ioctl_write_ptr!(is_valid, b'!', 2, u64);
    nix::ioctl_write_ptr!(add_descriptor, b'!', 3, libc::seccomp_notif_addfd);
}

/// Waits for a call. None: there was one, and its process died before it could be looked at.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> nix::Result<Option<Notification>> {
    // SAFETY: plain numbers, for which zero is valid; and the kernel wants zeros.
    let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is of the type that the request's number has the size of.
    match unsafe { request::receive(listener.as_raw_fd(), &mut raw) } {
        Ok(_) => Ok(Some(Notification {
            id: raw.id,
            thread: raw.pid,
            architecture: raw.data.arch,
            number: raw.data.nr as u32,
            arguments: raw.data.args,
        })),
        Err(Errno::ENOENT | Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether the call still waits: its thread has not been killed, and so its number and its memory are
/// still its own.
pub(crate) fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the pointer is to a live local variable.
    unsafe { request::is_valid(listener.as_raw_fd(), &id) }.is_ok()
}

/// Ends the call: with a value, or with an error. Who has been killed meanwhile needs no answer.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, result: nix::Result<i64>) -> nix::Result<()> {
    let (val, error) = match result {
        Ok(value) => (value, 0),
        Err(errno) => (0, -(errno as i32)),
    };
    send(listener, libc::seccomp_notif_resp { id, val, error, flags: 0 })
}

/// Ends the call with a value; gives whether it still waited. If not, a signal came between, and the call
/// may be made again.
pub(crate) fn answer_if_waiting(listener: BorrowedFd<'_>, id: u64, val: i64) -> nix::Result<bool> {
    let mut response = libc::seccomp_notif_resp { id, val, error: 0, flags: 0 };
    // SAFETY: the structure is of the type that the request's number has the size of.
    match unsafe { request::send(listener.as_raw_fd(), &mut response) } {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Lets the kernel carry the call out as if nobody had been asked. The arguments in memory may have
/// changed since they were read, so nothing may rest on them.
pub(crate) fn let_go_on(listener: BorrowedFd<'_>, id: u64) -> nix::Result<()> {
    const CONTINUE: u32 = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    send(listener, libc::seccomp_notif_resp { id, val: 0, error: 0, flags: CONTINUE })
}

/// Gives the caller a descriptor of ours, and ends the call with its number. (Linux ≥ 5.14.)
pub(crate) fn answer_with(
    listener: BorrowedFd<'_>,
    id: u64,
    descriptor: BorrowedFd<'_>,
    close_on_exec: bool,
) -> nix::Result<()> {
    let add = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: descriptor.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: the structure is of the type that the request's number has the size of.
    unsafe { request::add_descriptor(listener.as_raw_fd(), &add) }.map(drop)
}

fn send(listener: BorrowedFd<'_>, mut response: libc::seccomp_notif_resp) -> nix::Result<()> {
    // SAFETY: the structure is of the type that the request's number has the size of.
    match unsafe { request::send(listener.as_raw_fd(), &mut response) } {
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Has both sides run on one processor by turns, which makes an answer come sooner. (Linux ≥ 6.6;
/// without it nothing is lost but time.)
pub(crate) fn wake_in_place(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: libc::c_ulong = 1; // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
    const SET_FLAGS: libc::c_ulong = nix::request_code_write!(b'!', 4, size_of::<u64>());
    // SAFETY: takes a number.
    let _ = unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS as _, SYNC_WAKE_UP) };
}
