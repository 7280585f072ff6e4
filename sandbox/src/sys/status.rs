//! statx(2), as the bytes that the kernel gives: to be handed on to whoever asked.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// The size of `struct statx`, in every ABI.
pub(crate) const SIZE: usize = 256;

/// The status of what a descriptor refers to, with what `flags` and `mask` ask for.
pub(crate) fn statx(file: BorrowedFd<'_>, flags: i32, mask: u32) -> nix::Result<[u8; SIZE]> {
    let mut buffer = [0u8; SIZE];
    // SAFETY: the path is NUL-terminated, and the buffer has the size of the structure, whose fields
    // the kernel writes one by one, wherever it lies.
    check(unsafe {
        libc::syscall(
            libc::SYS_statx,
            file.as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH,
            mask,
            buffer.as_mut_ptr(),
        )
    })?;
    Ok(buffer)
}
