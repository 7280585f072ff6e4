//! Extended attributes: xattr(7).

use std::{
    ffi::{CStr, CString},
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::errno::Errno;

use super::check;

/// What has attributes.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// An open file or folder (not `O_PATH`).
    Open(BorrowedFd<'a>),
    /// A path whose last part is not followed.
    Path(&'a CStr),
    /// A path whose last part is followed.
    Followed(&'a CStr),
    /// What an `O_PATH` descriptor refers to, which must not be a symbolic link.
    Descriptor(BorrowedFd<'a>),
}

impl Place<'_> {
    /// The name by which /proc leads to a descriptor's file: the attribute calls refuse `O_PATH`.
    fn name(fd: BorrowedFd<'_>) -> CString {
        CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("digits have no NUL")
    }
}

/// Calls with an ever larger buffer until the answer fits: it may grow between two calls.
fn read_all(mut call: impl FnMut(&mut [u8]) -> nix::Result<usize>) -> nix::Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // 64 KiB is the kernel's limit for both a value and a list.
            Err(Errno::ERANGE) if buffer.len() < 1 << 16 => buffer.resize(buffer.len() * 4, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// The names of all attributes; empty where the file system has none.
pub(crate) fn names(place: Place<'_>) -> nix::Result<Vec<CString>> {
    let list = read_all(|buffer| {
        let (start, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the buffer is as large as said; the path is NUL-terminated.
        let length = unsafe {
            match place {
                Place::Open(fd) => libc::flistxattr(fd.as_raw_fd(), start, size),
                Place::Path(path) => libc::llistxattr(path.as_ptr(), start, size),
                Place::Followed(path) => libc::listxattr(path.as_ptr(), start, size),
                Place::Descriptor(fd) => libc::listxattr(Place::name(fd).as_ptr(), start, size),
            }
        };
        check(length as libc::c_long).map(|length| length as usize)
    });
    let list = match list {
        Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
        list => list?,
    };
    let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}

/// The value of one attribute; none if it is not there.
pub(crate) fn get(place: Place<'_>, name: &CStr) -> nix::Result<Option<Vec<u8>>> {
    let value = read_all(|buffer| {
        let (start, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the buffer is as large as said; path and name are NUL-terminated.
        let length = unsafe {
            match place {
                Place::Open(fd) => libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), start, size),
                Place::Path(path) => libc::lgetxattr(path.as_ptr(), name.as_ptr(), start, size),
                Place::Followed(path) => libc::getxattr(path.as_ptr(), name.as_ptr(), start, size),
                Place::Descriptor(fd) => libc::getxattr(Place::name(fd).as_ptr(), name.as_ptr(), start, size),
            }
        };
        check(length as libc::c_long).map(|length| length as usize)
    });
    match value {
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        value => value.map(Some),
    }
}

/// Sets one attribute.
pub(crate) fn set(place: Place<'_>, name: &CStr, value: &[u8]) -> nix::Result<()> {
    let (start, size) = (value.as_ptr().cast(), value.len());
    // SAFETY: the value is as large as said; path and name are NUL-terminated.
    let result = unsafe {
        match place {
            Place::Open(fd) => libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), start, size, 0),
            Place::Path(path) => libc::lsetxattr(path.as_ptr(), name.as_ptr(), start, size, 0),
            Place::Followed(path) => libc::setxattr(path.as_ptr(), name.as_ptr(), start, size, 0),
            Place::Descriptor(fd) => libc::setxattr(Place::name(fd).as_ptr(), name.as_ptr(), start, size, 0),
        }
    };
    check(result.into()).map(drop)
}

/// Removes one attribute from what a path leads to, if it is there.
pub(crate) fn remove(path: &CStr, name: &CStr) -> nix::Result<()> {
    // SAFETY: both strings are NUL-terminated.
    match check(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }.into()) {
        Err(Errno::ENODATA) => Ok(()),
        result => result.map(drop),
    }
}
