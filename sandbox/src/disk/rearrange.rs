//! Names of a folder that are changed before anything is moved into it: where the tree that the session saw
//! had them otherwise than the folder.
//!
//! Like all of a move, each step can be done again: what a step would change and is as it leaves it
//! already, is left alone.

use std::{
    ffi::OsStr,
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat, renameat},
    sys::{
        stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstat, mkdirat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat},
};
use serde::{Deserialize, Serialize};

use super::{
    FirstIds,
    content::copy,
    remove::remove,
    write::{TEMPORARY, by_name},
};
use crate::{
    error::{Doing, Error, Result},
    sys::{
        view::set_times,
        xattr::{self, Place},
    },
};

/// A step. Paths are without a leading slash, and no link in them is followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rearrange {
    /// What has the first path gets the second; a file there goes away.
    Rename(#[serde(with = "crate::bytes")] Vec<u8>, #[serde(with = "crate::bytes")] Vec<u8>),
    /// A file or a link goes away.
    Remove(#[serde(with = "crate::bytes")] Vec<u8>),
    /// An empty folder goes away.
    RemoveFolder(#[serde(with = "crate::bytes")] Vec<u8>),
    /// A folder of the tree's root is made, mode 0755.
    MakeFolder(#[serde(with = "crate::bytes")] Vec<u8>),
    /// A link of the tree's root is made: its path, and where it leads.
    Link(#[serde(with = "crate::bytes")] Vec<u8>, #[serde(with = "crate::bytes")] Vec<u8>),
    /// A file gets a copy in its place: it has names elsewhere, and owner and mode of those are to stay. The
    /// second ones are its other names in the tree, which become names of the copy.
    Copy(#[serde(with = "crate::bytes")] Vec<u8>, #[serde(with = "crate::bytes")] Vec<Vec<u8>>),
}

/// Does all of it. `without`: attributes that copies do not get. `before` is called before each step.
pub(super) fn carry_out(
    target: &Path,
    first_id: FirstIds,
    steps: &[Rearrange],
    without: &[Vec<u8>],
    before: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = open(target, flags, Mode::empty()).doing_to("opening", target)?;
    for step in steps {
        before()?;
        one(&top, first_id, step, without).map_err(|errno| {
            let path = target.join(OsStr::from_bytes(path(step)));
            Error::system(format_args!("rearranging {}", path.display()), errno)
        })?;
    }
    Ok(())
}

fn path(step: &Rearrange) -> &[u8] {
    match step {
        Rearrange::Rename(path, _)
        | Rearrange::Remove(path)
        | Rearrange::RemoveFolder(path)
        | Rearrange::MakeFolder(path)
        | Rearrange::Link(path, _)
        | Rearrange::Copy(path, _) => path,
    }
}

fn one(top: &OwnedFd, first_id: FirstIds, step: &Rearrange, without: &[Vec<u8>]) -> nix::Result<()> {
    let (folder, name) = match parent(top, path(step)) {
        // It was in a folder that is gone, or is a link by now: the step was done.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) if !is_made(step) => return Ok(()),
        found => found?,
    };
    let own = |name: &OsStr| {
        let (uid, gid) = (Uid::from_raw(first_id.uid), Gid::from_raw(first_id.gid));
        fchownat(&folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
    };
    match step {
        Rearrange::Rename(_, to) => {
            let (to_folder, to_name) = parent(top, to)?;
            // EISDIR: a folder has moved, and a link has its name already.
            done(renameat(&folder, name, &to_folder, to_name), &[Errno::ENOENT, Errno::EISDIR])
        }
        Rearrange::Remove(_) => {
            done(unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir), &[Errno::ENOENT, Errno::EISDIR])
        }
        Rearrange::RemoveFolder(_) => {
            done(unlinkat(&folder, name, UnlinkatFlags::RemoveDir), &[Errno::ENOENT, Errno::ENOTDIR])
        }
        Rearrange::MakeFolder(_) => {
            done(mkdirat(&folder, name, Mode::from_bits_truncate(0o755)), &[Errno::EEXIST])?;
            own(name)?;
            // Less what the caller's umask took away.
            fchmodat(&folder, name, Mode::from_bits_truncate(0o755), FchmodatFlags::FollowSymlink)
        }
        Rearrange::Link(_, target) => {
            let target = OsStr::from_bytes(target);
            match symlinkat(target, &folder, name) {
                Err(Errno::EEXIST) if readlinkat(&folder, name)? == target => {}
                made => made?,
            }
            own(name)
        }
        Rearrange::Copy(_, others) => {
            let Some(copy) = copied(&folder, name, without)? else { return Ok(()) };
            for path in others {
                // What is moved into the folder later may have taken it away, before the last run was killed.
                let gone = [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP, Errno::EISDIR];
                done(parent(top, path).and_then(|(folder, name)| link(&copy, &folder, name)), &gone)?;
            }
            Ok(())
        }
    }
}

/// Gives a file another name; what has that goes away.
fn link(file: &OwnedFd, folder: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    remove(folder, TEMPORARY)?;
    linkat(AT_FDCWD, by_name(file).as_c_str(), folder, TEMPORARY, AtFlags::AT_SYMLINK_FOLLOW)?;
    let linked = renameat(folder, TEMPORARY, folder, name);
    if linked.is_err() {
        remove(folder, TEMPORARY)?;
    }
    linked
}

/// Puts a copy of a file in its place, with all that it has but the attributes of these names. None: it is
/// gone, or another kind of thing by now.
fn copied(folder: &OwnedFd, name: &OsStr, without: &[Vec<u8>]) -> nix::Result<Option<OwnedFd>> {
    let reading = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let from = match openat(folder, name, reading, Mode::empty()) {
        Err(Errno::ENOENT | Errno::ELOOP | Errno::ENXIO) => return Ok(None),
        from => from?,
    };
    let stat = fstat(&from)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Ok(None);
    }
    remove(folder, TEMPORARY)?;
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let made = File::from(openat(folder, TEMPORARY, flags, Mode::from_bits_truncate(0o600))?);
    let from = File::from(from);
    copy(&from, &made).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let (from, made) = (OwnedFd::from(from), OwnedFd::from(made));
    fchown(&made, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(&made, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    for attribute in xattr::names(Place::Open(from.as_fd()))? {
        let is_unwanted = without.iter().any(|name| name == attribute.to_bytes());
        if !is_unwanted && let Some(value) = xattr::get(Place::Open(from.as_fd()), &attribute)? {
            xattr::set(Place::Open(made.as_fd()), &attribute, &value)?;
        }
    }
    let time = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    set_times(made.as_fd(), &time, &time)?;
    renameat(folder, TEMPORARY, folder, name)?;
    Ok(Some(made))
}

/// Whether a step makes something: then its parent has to be there.
fn is_made(step: &Rearrange) -> bool {
    matches!(step, Rearrange::MakeFolder(_) | Rearrange::Link(..))
}

/// The folder that a path is in, and its name there.
fn parent<'a>(top: &OwnedFd, path: &'a [u8]) -> nix::Result<(OwnedFd, &'a OsStr)> {
    let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b"."[..], path),
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok((openat2(top, OsStr::from_bytes(parent), how)?, OsStr::from_bytes(name)))
}

/// Errors that say that a step was done before.
fn done(result: nix::Result<()>, before: &[Errno]) -> nix::Result<()> {
    match result {
        Err(errno) if before.contains(&errno) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use super::*;

    #[test]
    fn a_killed_one_begins_again_and_ends_the_same() {
        let steps = [
            Rearrange::Remove(b"proc".to_vec()),
            Rearrange::MakeFolder(b"proc".to_vec()),
            Rearrange::Rename(b"bin/a".to_vec(), b"usr/bin/a".to_vec()),
            Rearrange::Rename(b"bin/c".to_vec(), b"usr/bin/c".to_vec()),
            Rearrange::Remove(b"bin/b".to_vec()),
            Rearrange::RemoveFolder(b"bin".to_vec()),
            Rearrange::Link(b"bin".to_vec(), b"usr/bin".to_vec()),
            Rearrange::Rename(b"sbin".to_vec(), b"usr/sbin".to_vec()),
            Rearrange::Link(b"sbin".to_vec(), b"usr/sbin".to_vec()),
            Rearrange::Copy(b"usr/bin/d".to_vec(), vec![b"usr/sbin/d".to_vec()]),
            Rearrange::Copy(b"usr/gone".to_vec(), Vec::new()),
        ];
        let without = [b"user.elsewhere".to_vec()];
        for kill_at in 0..=steps.len() {
            let folder = tempfile::tempdir().expect("a folder");
            let target = folder.path();
            for path in ["bin", "sbin/x", "usr/bin"] {
                fs::create_dir_all(target.join(path)).expect("made");
            }
            for path in ["bin/a", "bin/b", "bin/c", "usr/bin/a", "usr/bin/b"] {
                fs::write(target.join(path), path).expect("written");
            }
            std::os::unix::fs::symlink("/proc", target.join("proc")).expect("linked");
            let elsewhere =
                tempfile::tempdir_in(folder.path().parent().expect("a parent")).expect("a folder");
            let shared = elsewhere.path().join("d");
            fs::write(&shared, "d").expect("written");
            fs::set_permissions(&shared, PermissionsExt::from_mode(0o640)).expect("set");
            let place = crate::bytes::c_string(&shared).expect("a path");
            for name in [c"user.elsewhere", c"user.own"] {
                xattr::set(Place::Path(&place), name, b"1").expect("the file system has attributes");
            }
            for path in ["usr/bin/d", "sbin/d"] {
                fs::hard_link(&shared, target.join(path)).expect("linked");
            }
            let root = fs::metadata(target).expect("a folder");
            let first_id = FirstIds { uid: root.uid(), gid: root.gid() };
            let mut left = kill_at;
            let mut kill = || {
                left = left.checked_sub(1).ok_or_else(|| Error::bug("killed"))?;
                Ok(())
            };
            assert_eq!(
                carry_out(target, first_id, &steps, &without, &mut kill).is_err(),
                kill_at < steps.len()
            );
            carry_out(target, first_id, &steps, &without, &mut || Ok(())).expect("the second time");
            for (path, content) in [("bin/a", "bin/a"), ("bin/b", "usr/bin/b"), ("usr/bin/c", "bin/c")] {
                assert_eq!(fs::read_to_string(target.join(path)).expect("read"), content, "{kill_at}");
            }
            assert_eq!(fs::read_link(target.join("bin")).expect("a link"), Path::new("usr/bin"));
            let [first, other] = ["usr/bin/d", "usr/sbin/d"].map(|path| target.join(path));
            let [copy, second] = [&first, &other].map(|path| fs::metadata(path).expect("a file"));
            let (old, place) = (fs::metadata(&shared).expect("a file"), crate::bytes::c_string(&first));
            assert_eq!((copy.ino(), copy.nlink(), copy.mode()), (second.ino(), 2, old.mode()));
            assert_eq!((old.nlink(), old.modified().ok()), (1, copy.modified().ok()));
            assert_eq!(fs::read_to_string(&first).expect("read"), "d");
            let names = xattr::names(Place::Path(&place.expect("a path"))).expect("attributes");
            assert_eq!(names, [c"user.own".to_owned()]);
            assert!(target.join("usr/sbin/x").is_dir() && !target.join("proc").is_symlink());
        }
    }

    #[test]
    fn nothing_is_done_elsewhere() {
        let (folder, other) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        fs::write(other.path().join("x"), "x").expect("written");
        std::os::unix::fs::symlink(other.path(), folder.path().join("out")).expect("linked");
        let root = fs::metadata(folder.path()).expect("a folder");
        let first_id = FirstIds { uid: root.uid(), gid: root.gid() };
        for step in [Rearrange::Remove(b"out/x".to_vec()), Rearrange::Remove(b"../x".to_vec())] {
            let _ = carry_out(folder.path(), first_id, &[step], &[], &mut || Ok(()));
        }
        let step = Rearrange::MakeFolder(b"out/new".to_vec());
        assert!(carry_out(folder.path(), first_id, &[step], &[], &mut || Ok(())).is_err());
        let names: Vec<_> = fs::read_dir(other.path()).expect("read").collect();
        assert_eq!(names.len(), 1);
    }
}
