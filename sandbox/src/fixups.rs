//! Owners, modes and extended attributes that a checkout cannot show: applied to a layer's own files
//! as root of the user namespace.
//!
//! A path is resolved below the layer's folder without following links, and a file with hard links
//! that the list does not name is refused: in a hard-link checkout it would be the repository's
//! object.

use std::{
    collections::HashMap,
    ffi::CString,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat},
    unistd::{Gid, Uid, fchownat},
};

use crate::{
    Kind,
    acl::{self, Acl},
    bytes::escape,
    enforced::Tier,
    error::{Doing, Error, Result},
    owners::{Owner, RECORD},
    plan::{Fixup, Fixups},
    sys::xattr::{self, Place},
};

/// A path as system calls take it.
pub(crate) fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::plan(format_args!("the path {} has a NUL in it", path.display())))
}

/// Applies all of them. In tier single owners are recorded, as far as a file can carry a record.
pub(crate) fn apply(fixups: &Fixups, tier: Tier) -> Result<()> {
    let layer = open(&fixups.layer, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .doing_to("opening layer", &fixups.layer)?;
    let find = |fixup: &Fixup| -> Result<(OwnedFd, FileStat)> {
        let doing = || format!("fix-up of {} in {}", escape(&fixup.path), fixups.layer.display());
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        // RESOLVE_NO_SYMLINKS lets O_PATH | O_NOFOLLOW open a link itself, as the last part.
        let path: &[u8] = if fixup.path.is_empty() { b"." } else { &fixup.path };
        let file = openat2(&layer, path, how).doing(doing()).map_err(|error| error.of_kind(Kind::Plan))?;
        let stat = fstat(&file).doing(doing())?;
        Ok((file, stat))
    };
    // Descriptors would run out for a large list: look first, open again to change.
    let mut names = HashMap::new();
    for fixup in &fixups.entries {
        let (_, stat) = find(fixup)?;
        *names.entry((stat.st_dev, stat.st_ino)).or_insert(0) += 1;
    }
    for fixup in &fixups.entries {
        let (file, stat) = find(fixup)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFDIR && stat.st_nlink > names[&(stat.st_dev, stat.st_ino)] {
            return Err(Error::plan(format_args!(
                "fix-up of {} in {}: the file has other hard links and might be a repository's object; it has to be a copy",
                escape(&fixup.path),
                fixups.layer.display()
            )));
        }
        set(&file, kind == SFlag::S_IFLNK, fixup, tier).doing(format_args!(
            "fix-up of {} in {}",
            escape(&fixup.path),
            fixups.layer.display()
        ))?;
    }
    Ok(())
}

/// Owner first: a change of owner clears set-id bits and capabilities.
fn set(file: &OwnedFd, is_link: bool, fixup: &Fixup, tier: Tier) -> nix::Result<()> {
    let owner = Owner { uid: fixup.uid, gid: fixup.gid };
    match tier {
        Tier::Full => {
            let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
            fchownat(file.as_fd(), "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
        }
        Tier::Single if is_link || owner == Owner::ROOT => {}
        Tier::Single => xattr::set(Place::Descriptor(file.as_fd()), RECORD, &owner.encode())?,
    }
    // An O_PATH descriptor takes neither fchmod nor fsetxattr; its name in /proc does, and leads to
    // the open file itself, whatever it is.
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    if is_link {
        return if fixup.xattrs.is_empty() { Ok(()) } else { Err(Errno::EOPNOTSUPP) };
    }
    let mode = Mode::from_bits_truncate(fixup.mode & 0o7777);
    fchmodat(nix::fcntl::AT_FDCWD, name.as_str(), mode, FchmodatFlags::FollowSymlink)?;
    for (attribute, value) in &fixup.xattrs {
        let attribute = CString::new(attribute.as_slice()).map_err(|_| Errno::EINVAL)?;
        let foreign = |acl: &Acl| acl.named().any(|id| id != 0);
        let attribute = match acl::record_of(attribute.to_bytes()) {
            Some(record) if tier == Tier::Single && Acl::decode(value).as_ref().is_some_and(foreign) => {
                record
            }
            _ => attribute.as_c_str(),
        };
        xattr::set(Place::Descriptor(file.as_fd()), attribute, value)?;
    }
    Ok(())
}
