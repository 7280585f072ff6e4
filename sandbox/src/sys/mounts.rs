//! The new mount interface: attributes of a mount, and a mount that is attached nowhere.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use super::check;

/// Adds attributes (`MOUNT_ATTR_…`) to the mount that `root` is the root of. Unlike a remount it
/// keeps the flags that the mount has, some of which a user namespace may not drop. (Linux ≥ 5.12.)
pub(crate) fn add_attributes(root: BorrowedFd<'_>, attributes: u64, recursive: bool) -> nix::Result<()> {
    let change = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated, and the structure lives through the call and is as large
    // as said.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            root.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(&change),
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Mounts a file system of the type `name`, without options, attached nowhere: it can be reached
/// through the descriptor alone, and is gone when that is closed. (Linux ≥ 5.2.)
pub(crate) fn mount_detached(name: &CStr) -> nix::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    let owned = |number: libc::c_long| {
        // SAFETY: fsopen and fsmount have just made this descriptor; nothing else owns it.
        unsafe { OwnedFd::from_raw_fd(number as RawFd) }
    };
    // SAFETY: the name is NUL-terminated.
    let context = owned(check(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) })?);
    let none = ptr::null::<libc::c_char>();
    // SAFETY: FSCONFIG_CMD_CREATE takes neither key nor value.
    check(unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0)
    })?;
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    // SAFETY: takes numbers only.
    let mount = unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes as libc::c_uint)
    };
    check(mount).map(owned)
}
