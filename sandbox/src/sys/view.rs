//! What the file systems of [`crate::view`] need of the kernel and nix does not offer.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::sys::time::TimeSpec;

use super::check;

/// fsetxattr(2) with its flags (`XATTR_CREATE`, `XATTR_REPLACE`).
pub(crate) fn set_xattr(file: BorrowedFd<'_>, name: &CStr, value: &[u8], flags: i32) -> nix::Result<()> {
    let (start, size) = (value.as_ptr().cast(), value.len());
    // SAFETY: the value is as large as said, and the name is NUL-terminated.
    check(unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), start, size, flags) }.into()).map(drop)
}

/// fremovexattr(2).
pub(crate) fn remove_xattr(file: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    // SAFETY: the name is NUL-terminated.
    check(unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) }.into()).map(drop)
}

/// utimensat(2) of what an `O_PATH` descriptor refers to, a symbolic link itself included.
/// (`AT_EMPTY_PATH`: Linux ≥ 5.8.)
pub(crate) fn set_times(file: BorrowedFd<'_>, access: &TimeSpec, modification: &TimeSpec) -> nix::Result<()> {
    let times = [*access.as_ref(), *modification.as_ref()];
    // SAFETY: the path is NUL-terminated, and the array has the two elements that the call reads.
    let result =
        unsafe { libc::utimensat(file.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) };
    check(result.into()).map(drop)
}
