//! Removing what is in a folder, by descriptors: no link is followed, and nothing that is mounted
//! below is entered.

use std::{ffi::CStr, os::fd::OwnedFd, path::Path};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, unlinkat},
};

use crate::error::{Doing, Error, Result};

/// Opens a folder below another one, in the same file system and at no link's end.
pub(super) fn open_folder(folder: &OwnedFd, name: &CStr) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_BENEATH);
    openat2(folder, name, how)
}

/// The names in a folder, sorted by their bytes.
pub(super) fn names(folder: &OwnedFd) -> nix::Result<Vec<std::ffi::CString>> {
    let again = openat(folder, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(again)?.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes what has this name, with all that is in it; no error where there is nothing. EXDEV or EBUSY:
/// something is mounted there.
pub(super) fn remove(folder: &OwnedFd, name: &CStr) -> nix::Result<()> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        // unlink(2): EISDIR on Linux, EPERM by POSIX.
        Err(Errno::EISDIR | Errno::EPERM) => {
            let inner = match open_folder(folder, name) {
                Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(Errno::EPERM), // a file that is immutable
                inner => inner?,
            };
            for name in names(&inner)? {
                remove(&inner, &name)?;
            }
            unlinkat(folder, name, UnlinkatFlags::RemoveDir)
        }
        other => other,
    }
}

/// Removes all that is in a folder of the host.
pub(crate) fn remove_contents(folder: &Path) -> Result<()> {
    let opened = open(folder, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .doing_to("opening", folder)?;
    for name in names(&opened).doing_to("reading", folder)? {
        let path = folder.join(std::ffi::OsStr::new(&*name.to_string_lossy()));
        match remove(&opened, &name) {
            Err(Errno::EXDEV | Errno::EBUSY) => {
                return Err(Error::folder(format_args!(
                    "{} cannot be removed: something is mounted there, or below",
                    path.display()
                ))
                .with_hint(format_args!("sudo umount -R {}", path.display())));
            }
            removed => removed.doing_to("removing", &path)?,
        }
    }
    Ok(())
}
