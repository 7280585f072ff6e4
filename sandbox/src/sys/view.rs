//! What the file systems of [`crate::view`] need of the kernel and nix does not offer.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::sys::time::TimeSpec;

use super::check;

/// The name by which /proc leads to what an `O_PATH` descriptor refers to.
fn name_of(file: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("digits have no NUL")
}

/// setxattr(2) with its flags (`XATTR_CREATE`, `XATTR_REPLACE`) on what an `O_PATH` descriptor refers
/// to, which must not be a symbolic link.
pub(crate) fn set_xattr(file: BorrowedFd<'_>, name: &CStr, value: &[u8], flags: i32) -> nix::Result<()> {
    let (path, start, size) = (name_of(file), value.as_ptr().cast(), value.len());
    // SAFETY: the value is as large as said; path and name are NUL-terminated.
    check(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), start, size, flags) }.into()).map(drop)
}

/// removexattr(2), likewise.
pub(crate) fn remove_xattr(file: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    let path = name_of(file);
    // SAFETY: path and name are NUL-terminated.
    check(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }.into()).map(drop)
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
