//! Calls on extended attributes: access control lists that the kernel takes none of in tier single, and
//! our own attributes, which nobody is to see or copy.

use std::{ffi::CString, os::fd::OwnedFd};

use nix::{
    errno::Errno,
    fcntl::AT_FDCWD,
    sys::stat::{FchmodatFlags, FileStat, Mode, fchmodat, fstat},
};

use super::{
    Answer,
    caller::{Caller, own_name},
    files::Target,
    identity::Identities,
    records::{Records, may_have_attributes},
};
use crate::{
    acl::{self, Acl},
    owners::Owner,
    sys::xattr::{self, Place},
};

/// What is done with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// setxattr(2): file, name, value, size, flags.
    Set,
    /// getxattr(2): file, name, value, size.
    Get,
    /// listxattr(2): file, list, size.
    List,
    /// removexattr(2): file, name.
    Remove,
}

/// XATTR_NAME_MAX.
const LONGEST_NAME: usize = 255;
/// XATTR_SIZE_MAX.
const LONGEST_VALUE: u64 = 65536;

/// Answers what is about a list with foreign names, or hides what is ours; the kernel does the rest.
pub(super) fn answer(
    verb: Verb,
    target: Target,
    identities: &Identities,
    records: &mut Records,
    caller: &Caller<'_>,
) -> nix::Result<Answer> {
    let name = if verb == Verb::List { Vec::new() } else { caller.path(1)? };
    let record = acl::record_of(&name);
    let ours = name.starts_with(acl::OURS);
    if verb != Verb::List && record.is_none() && !ours || name.len() > LONGEST_NAME {
        return Ok(Answer::GoOn);
    }
    if ours {
        return Err(if verb == Verb::Set { Errno::EPERM } else { Errno::ENODATA });
    }
    let Ok(file) = target.open(caller) else { return Ok(Answer::GoOn) };
    let stat = fstat(&file)?;
    if !may_have_attributes(&stat) || !caller.surroundings.holds(&file)? {
        return Ok(Answer::GoOn);
    }
    let place = own_name(&file);
    match (verb, record) {
        (Verb::List, _) => list(&file, caller),
        (Verb::Get, Some(record)) => match xattr::get(Place::Followed(&place), record)? {
            Some(value) => give(&at_present(&value, record, &stat), 2, caller),
            None => Ok(Answer::GoOn),
        },
        (Verb::Remove | Verb::Set, Some(record)) => {
            let user = identities.of(caller)?.user.file_system;
            let owner = records.of(&file, &stat).unwrap_or(Owner::ROOT);
            if user != 0 && user != owner.uid {
                return Err(Errno::EPERM);
            }
            // An empty value stands for no list.
            let removes = verb == Verb::Remove || caller.argument(3) == 0;
            if !removes {
                let Some(acl) = given(caller)? else { return Ok(Answer::GoOn) }; // as the kernel will say
                if acl.named().any(|id| id != 0) {
                    return set(&file, &stat, &name, record, &acl).map(|()| Answer::Value(0));
                }
            }
            let had_one = xattr::get(Place::Followed(&place), record)?.is_some();
            xattr::remove(&place, record)?;
            Ok(if had_one && removes { Answer::Value(0) } else { Answer::GoOn })
        }
        _ => Ok(Answer::GoOn),
    }
}

/// A recorded list, with the mode as it is now.
fn at_present(value: &[u8], record: &std::ffi::CStr, stat: &FileStat) -> Vec<u8> {
    match Acl::decode(value) {
        Some(acl) if !acl::is_default(record) => acl.with_mode(stat.st_mode).encode(),
        _ => value.to_vec(),
    }
}

/// The list that a setxattr(2) brings.
fn given(caller: &Caller<'_>) -> nix::Result<Option<Acl>> {
    let size = caller.argument(3);
    if size > LONGEST_VALUE {
        return Err(Errno::E2BIG);
    }
    Ok(Acl::decode(&caller.read(caller.argument(2), size as usize)?))
}

/// Records a list, and gives the file the mode that belongs to it.
fn set(file: &OwnedFd, stat: &FileStat, name: &[u8], record: &std::ffi::CStr, acl: &Acl) -> nix::Result<()> {
    let place = own_name(file);
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    if acl::is_default(record) && stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
        return Err(Errno::EACCES); // as acl(5)'s kernel side has it
    }
    match xattr::remove(&place, &name) {
        Err(Errno::EOPNOTSUPP) => return Err(Errno::EOPNOTSUPP), // the file system has no lists at all
        other => other?,
    }
    if !acl::is_default(record) {
        let mode = Mode::from_bits_truncate(stat.st_mode & 0o7000 | acl.mode());
        fchmodat(AT_FDCWD, place.as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
    }
    xattr::set(Place::Followed(&place), record, &acl.encode())
}

/// The names without ours, and with those that ours stand for.
fn list(file: &OwnedFd, caller: &Caller<'_>) -> nix::Result<Answer> {
    let names = xattr::names(Place::Followed(&own_name(file)))?;
    if !names.iter().any(|name| name.to_bytes().starts_with(acl::OURS)) {
        return Ok(Answer::GoOn);
    }
    let mut list = Vec::new();
    for name in names {
        let name = match name.to_bytes() {
            ours if ours.starts_with(acl::OURS) => match acl::name_of(ours) {
                Some(name) => name,
                None => continue,
            },
            other => other,
        };
        list.extend_from_slice(name);
        list.push(0);
    }
    give(&list, 1, caller)
}

/// Ends a call that fills a buffer: address and size are arguments.
fn give(bytes: &[u8], address_at: usize, caller: &Caller<'_>) -> nix::Result<Answer> {
    let size = caller.argument(address_at + 1);
    if size != 0 {
        if size < bytes.len() as u64 {
            return Err(Errno::ERANGE);
        }
        caller.write(caller.argument(address_at), bytes)?;
    }
    Ok(Answer::Value(bytes.len() as i64))
}

/// What a new file or folder gets from its folder's recorded list, whose `mode` it was made with.
pub(super) fn inherit(parent: &OwnedFd, made: &OwnedFd, mode: Mode) -> nix::Result<()> {
    let default = acl::record_of(acl::DEFAULT).ok_or(Errno::EINVAL)?;
    let access = acl::record_of(acl::ACCESS).ok_or(Errno::EINVAL)?;
    let Some(value) = xattr::get(Place::Followed(&own_name(parent)), default)? else { return Ok(()) };
    let Some(acl) = Acl::decode(&value) else { return Ok(()) };
    let stat = fstat(made)?;
    if !may_have_attributes(&stat) {
        return Ok(());
    }
    let place = own_name(made);
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        xattr::set(Place::Followed(&place), default, &value)?;
    }
    let (permissions, list) = acl.for_new_file(mode.bits() & 0o777);
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7000 | permissions);
    fchmodat(AT_FDCWD, place.as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
    list.map_or(Ok(()), |list| xattr::set(Place::Followed(&place), access, &list.encode()))
}

/// Whether new files in a folder get a recorded list.
pub(super) fn has_default(parent: &OwnedFd) -> bool {
    let default = acl::record_of(acl::DEFAULT);
    let value = default.map(|record| xattr::get(Place::Followed(&own_name(parent)), record));
    matches!(value, Some(Ok(Some(_))))
}
