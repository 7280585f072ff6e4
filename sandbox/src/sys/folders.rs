//! Folders: their entries as the kernel gives them, and other processes' descriptions of open files.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::{errno::Errno, unistd::Pid};

use super::check;

/// getdents64(2): the next entries of an open folder, as `struct linux_dirent64`; gives how many bytes
/// they are. 0: there are no more.
pub(crate) fn read_entries(folder: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: the pointer and the length are the buffer's.
    let read = check(unsafe {
        libc::syscall(libc::SYS_getdents64, folder.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    })?;
    usize::try_from(read).map_err(|_| Errno::EIO)
}

/// pidfd_open(2) for a single thread. EINVAL: Linux < 6.9, which has it for processes alone.
pub(crate) fn open_thread(thread: Pid) -> nix::Result<OwnedFd> {
    const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
    open_pid(thread, PIDFD_THREAD)
}

/// The same for a process, whose first thread it then is. (Linux ≥ 5.3.)
pub(crate) fn open_process(process: Pid) -> nix::Result<OwnedFd> {
    open_pid(process, 0)
}

fn open_pid(pid: Pid, flags: libc::c_int) -> nix::Result<OwnedFd> {
    // SAFETY: takes numbers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), flags) })?;
    // SAFETY: the kernel has just made this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// pidfd_getfd(2): a duplicate of another's descriptor, with one position for both. (Linux ≥ 5.6.)
pub(crate) fn duplicate_of(owner: &impl AsFd, number: i32) -> nix::Result<OwnedFd> {
    let owner = owner.as_fd().as_raw_fd();
    // SAFETY: takes numbers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, owner, number, 0) })?;
    // SAFETY: the kernel has just made this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Whether two threads have the same table of descriptors; kcmp(2), which not every kernel has.
pub(crate) fn share_descriptors(one: Pid, other: Pid) -> nix::Result<bool> {
    const KCMP_FILES: libc::c_int = 2;
    // SAFETY: takes numbers.
    let order =
        check(unsafe { libc::syscall(libc::SYS_kcmp, one.as_raw(), other.as_raw(), KCMP_FILES, 0, 0) })?;
    Ok(order == 0)
}
