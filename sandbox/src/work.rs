//! The folder of a session: its name, its lock, and how the folder of a killed one is found.
//!
//! ```text
//! BELOW/.lock           held while a session's folder is made, or looked for
//! BELOW/session-PID-N/  mode 0700: nobody else reaches set-id files in it
//!   lock                locked as long as the session or its monitor lives
//!   upper/  work/       overlayfs's
//!   skeleton/           the lowest layer: mount points that no other layer has
//!   view/  root/        where FUSE and the view are mounted, in the sandbox's mount namespace only
//!   tree/               a stored tree as hard links, in the view `checkout`
//! ```
//! While its changes are moved elsewhere it also has `move` and `replaced/`: see [`crate::disk`].
//! A kept folder has `lock` and `upper` alone; of tier single also `owners`: see [`crate::owners`].
//!
//! Whoever removes a folder holds its lock until the end and removes `lock` last ([`remove`]). So a
//! folder without one is empty: either it was never locked, or it goes away just now. Anybody may
//! help with that by an rmdir; nobody may make a new lock there, on which the other's rmdir would fail.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
};

use crate::{
    disk::ORDER,
    error::{Doing, Error, Result, Step},
    plan::Work,
};

const PREFIX: &str = "session-";
const LOCK: &str = "lock";
/// Locked while a folder is made or looked for.
pub(crate) const ALL_LOCK: &str = ".lock";

/// A locked session folder. The lock belongs to the open file: it holds until the last process that
/// has it open is gone, however that ends.
pub(crate) struct WorkFolder {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The open lock.
    pub(crate) lock: File,
    /// Whether it was made just now.
    pub(crate) is_new: bool,
}

/// Opens a lock file, made if missing, and locks it; `wait`: until that is possible. None: someone
/// else has it.
fn lock(path: &Path, wait: bool) -> Result<Option<File>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    lock_file(file.doing_to("opening", path)?, path, wait)
}

/// A lock file that was looked for, not made.
enum Found {
    Ours(File),
    InUse,
    Missing,
}

fn lock_existing(path: &Path) -> Result<Found> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        file => file.doing_to("opening", path)?,
    };
    let Some(file) = lock_file(file, path, false)? else { return Ok(Found::InUse) };
    // Its owner may have removed it between the two calls.
    let links = file.metadata().doing_to("reading", path)?.nlink();
    Ok(if links == 0 { Found::Missing } else { Found::Ours(file) })
}

/// Open file description locks: fcntl(2), Linux ≥ 3.15.
fn lock_file(file: File, path: &Path, wait: bool) -> Result<Option<File>> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    loop {
        let how = if wait { FcntlArg::F_OFD_SETLKW(&whole) } else { FcntlArg::F_OFD_SETLK(&whole) };
        match fcntl(&file, how) {
            Ok(_) => return Ok(Some(file)),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
            Err(errno) => return Err(errno).doing_to("locking", path),
        }
    }
}

impl WorkFolder {
    /// Makes or opens the folder that the plan names.
    pub(crate) fn open(work: &Work) -> Result<Self> {
        match work {
            Work::Below(below) => WorkFolder::make(below),
            Work::Kept(kept) => WorkFolder::reopen(kept),
        }
        .map_err(|error| error.at(Step::WorkFolder))
    }

    fn make(below: &Path) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        DirBuilder::new().recursive(true).mode(0o700).create(below).doing_to("making", below)?;
        // No sweep looks at the folder before it is locked.
        let _making = lock(&below.join(ALL_LOCK), true)?;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = below.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                // A number of a pid namespace may come again: a killed session's, in a container.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.doing_to("making", &path)?,
            }
            let lock = lock(&path.join(LOCK), false)?;
            let lock = lock.ok_or_else(|| Error::bug("a new lock is held by somebody else"))?;
            return Ok(WorkFolder { path, lock, is_new: true });
        }
    }

    fn reopen(kept: &Path) -> Result<Self> {
        let (file, upper) = (kept.join(LOCK), kept.join("upper"));
        let lock = match lock_existing(&file)? {
            Found::Ours(lock) => lock,
            Found::InUse => return Err(in_use(kept)),
            Found::Missing => return Err(not_kept(kept, &file)),
        };
        if !upper.is_dir() {
            return Err(not_kept(kept, &upper));
        }
        Ok(WorkFolder { path: kept.to_owned(), lock, is_new: false })
    }

    /// Locks a kept folder in order to remove it, even one whose removal was begun and interrupted.
    /// None: it has no lock, and may be removed. A folder of anything else is refused.
    pub(crate) fn lock_to_remove(kept: &Path) -> Result<Option<File>> {
        let is_empty = || fs::read_dir(kept).is_ok_and(|mut entries| entries.next().is_none());
        let upper = kept.join("upper");
        match lock_existing(&kept.join(LOCK))? {
            Found::Ours(lock) => Ok(Some(lock)),
            Found::InUse => Err(in_use(kept)),
            Found::Missing if upper.is_dir() || is_empty() => Ok(None),
            Found::Missing => Err(not_kept(kept, &upper)),
        }
    }

    /// Locks the folder of a session that was killed while its changes were moved. None: it is alive, or gone.
    pub(crate) fn lock_to_finish(folder: &Path) -> Result<Option<File>> {
        match lock_existing(&folder.join(LOCK))? {
            Found::Ours(lock) => Ok(Some(lock)),
            Found::InUse | Found::Missing => Ok(None),
        }
    }

    /// The folders below `below` whose sessions are dead, locked so that nobody else removes them.
    /// Empty ones without a lock are removed at once: nobody can tell whether their owners live.
    pub(crate) fn dead(below: &Path) -> Result<Vec<WorkFolder>> {
        if !below.is_dir() {
            return Ok(Vec::new());
        }
        let _looking = lock(&below.join(ALL_LOCK), true)?;
        let mut dead = Vec::new();
        for entry in fs::read_dir(below).doing_to("reading", below)? {
            let entry = entry.doing_to("reading", below)?;
            let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
            if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                match take_over(&path) {
                    // What is being moved is nobody's to throw away.
                    Ok(Some(_)) if path.join(ORDER).exists() => {}
                    Ok(Some(lock)) => dead.push(WorkFolder { path, lock, is_new: false }),
                    Ok(None) => {}
                    // It went away meanwhile, or is another user's.
                    Err(error)
                        if [Some(Errno::ENOENT as i32), Some(Errno::EACCES as i32)]
                            .contains(&error.errno()) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(dead)
    }
}

fn in_use(kept: &Path) -> Error {
    Error::machine(format_args!("{} is in use by another session", kept.display()))
}

fn not_kept(kept: &Path, missing: &Path) -> Error {
    Error::plan(format_args!("{} is not a kept session: no {}", kept.display(), missing.display()))
}

/// Locks the folder of a dead session. None: it is alive, or nothing is left of it. `BELOW/.lock` is
/// held, so that no folder is being made.
fn take_over(folder: &Path) -> Result<Option<File>> {
    let file = folder.join(LOCK);
    match lock_existing(&file)? {
        Found::Ours(lock) => Ok(Some(lock)),
        Found::InUse => Ok(None),
        Found::Missing => match fs::remove_dir(folder) {
            // No removal of ours leaves that: somebody took the lock file away.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => lock(&file, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            removed => removed.doing_to("removing", folder).map(|()| None),
        },
    }
}

/// Removes a folder, whose lock the caller or the caller's caller holds if it has one; a folder
/// without is as good. What is gone already is no error.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    let or_gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    // Of a symbolic link, the link goes and not what it leads to.
    if fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_dir()) {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name() != LOCK {
                let path = entry.path();
                let is_folder = entry.file_type()?.is_dir();
                or_gone(if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) })?;
            }
        }
    }
    or_gone(fs::remove_dir_all(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_are_found() {
        let below = tempfile::tempdir().expect("a folder");
        let alive = WorkFolder::open(&Work::Below(below.path().into())).expect("made");
        let gone = WorkFolder::open(&Work::Below(below.path().into())).expect("made").path;
        let empty = below.path().join("session-x");
        fs::create_dir(&empty).expect("killed before it was locked");
        let robbed = below.path().join("session-y");
        fs::create_dir_all(robbed.join("upper")).expect("somebody removed its lock");
        fs::create_dir(below.path().join("precious")).expect("not ours");
        let paths = |dead: &[WorkFolder]| {
            let mut paths: Vec<_> = dead.iter().map(|folder| folder.path.clone()).collect();
            paths.sort();
            paths
        };
        let dead = WorkFolder::dead(below.path()).expect("looked");
        assert_eq!(paths(&dead), [gone, robbed]);
        assert!(!empty.exists());
        assert!(
            WorkFolder::dead(below.path()).expect("looked").is_empty(),
            "a second sweep has nothing to do"
        );
        assert!(alive.path.is_dir() && below.path().join("precious").is_dir());
    }

    #[test]
    fn locks_are_looked_for_and_not_made() {
        let below = tempfile::tempdir().expect("a folder");
        let file = below.path().join(LOCK);
        assert!(matches!(lock_existing(&file), Ok(Found::Missing)));
        let owner = lock(&file, false).expect("opened").expect("locked");
        assert!(matches!(lock_existing(&file), Ok(Found::InUse)));
        drop(owner);
        assert!(matches!(lock_existing(&file), Ok(Found::Ours(_))));
    }

    #[test]
    fn a_removal_ends_with_the_lock_and_follows_no_link() {
        let below = tempfile::tempdir().expect("a folder");
        let (folder, link) = (below.path().join("folder"), below.path().join("link"));
        fs::create_dir_all(folder.join("stuck/in")).expect("made");
        fs::write(folder.join(LOCK), "").expect("made");
        std::os::unix::fs::symlink(&folder, &link).expect("made");
        remove(&link).expect("removed");
        assert!(!link.is_symlink() && folder.join("stuck/in").is_dir());
        remove(&folder).expect("removed");
        assert!(!folder.exists());
        remove(&folder).expect("gone already");
    }

    #[test]
    fn a_begun_removal_can_be_ended() {
        let below = tempfile::tempdir().expect("a folder");
        let kept = below.path().join("kept");
        let is_plan = |result: Result<Option<File>>| result.is_err_and(|e| e.kind() == crate::Kind::Plan);
        assert!(is_plan(WorkFolder::lock_to_remove(&kept)), "not there");
        fs::create_dir(&kept).expect("made");
        assert!(matches!(WorkFolder::lock_to_remove(&kept), Ok(None)), "the lock is gone already");
        fs::write(kept.join("precious"), "").expect("made");
        assert!(is_plan(WorkFolder::lock_to_remove(&kept)), "no folder of ours");
        fs::write(kept.join(LOCK), "").expect("made");
        let removing = WorkFolder::lock_to_remove(&kept).expect("opened");
        assert!(removing.is_some(), "the upper layer is gone already");
        let Err(error) = WorkFolder::lock_to_remove(&kept) else { panic!("two at once") };
        assert_eq!(error.kind(), crate::Kind::Machine);
    }

    #[test]
    fn a_kept_folder_has_one_user() {
        let kept = tempfile::tempdir().expect("a folder");
        let work = Work::Kept(kept.path().into());
        let refused = |missing: &str| {
            let Err(error) = WorkFolder::open(&work) else { panic!("no {missing} there") };
            assert_eq!(error.kind(), crate::Kind::Plan);
            assert!(error.to_string().ends_with(missing), "{error}");
        };
        refused("/lock");
        fs::write(kept.path().join(LOCK), "").expect("made");
        refused("/upper");
        fs::create_dir(kept.path().join("upper")).expect("made");
        let first = WorkFolder::open(&work).expect("opened");
        assert!(WorkFolder::open(&work).is_err(), "in use");
        drop(first);
        assert!(WorkFolder::open(&work).is_ok());
    }
}
