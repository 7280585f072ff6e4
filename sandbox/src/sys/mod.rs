//! System calls that nix has no safe form of: all unsafe code of the workspace, and nothing else.
//!
//! Each function is a thin, safe wrapper of one call. Policy (what is mounted, what is denied) is
//! elsewhere.
#![allow(unsafe_code)]

pub(crate) mod folders;
pub(crate) mod mounts;
pub(crate) mod network;
pub(crate) mod notify;
pub(crate) mod process;
pub(crate) mod seccomp;
pub(crate) mod socket;
pub(crate) mod status;
pub(crate) mod view;
pub(crate) mod xattr;

use nix::errno::Errno;

/// The result of a raw system call: -1 means errno.
fn check(result: libc::c_long) -> nix::Result<libc::c_long> {
    if result == -1 { Err(Errno::last()) } else { Ok(result) }
}
