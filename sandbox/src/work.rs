//! The folder of a session: its name, its lock, and how the folder of a killed one is found.
//!
//! ```text
//! BELOW/.lock           held while a session's folder is made, or looked for
//! BELOW/session-PID-N/  mode 0700: nobody else reaches set-id files in it
//!   lock                locked as long as the session or its monitor lives
//!   upper/  work/       overlayfs's
//!   skeleton/           the lowest layer: mount points that no other layer has
//!   root/               where the view is mounted, in the sandbox's mount namespace only
//! ```
//! A kept folder has `lock` and `upper` alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
};

use crate::{
    error::{Doing, Error, Result, Step},
    plan::Work,
};

const PREFIX: &str = "session-";

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

/// Opens a lock file and locks it; `wait`: until that is possible. None: someone else has it.
/// (Open file description locks: fcntl(2), Linux ≥ 3.15.)
fn lock(path: &Path, wait: bool) -> Result<Option<File>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.doing_to("opening", path)?;
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
        let _making = lock(&below.join(".lock"), true)?;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = below.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                // A number of a pid namespace may come again: a killed session's, in a container.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.doing_to("making", &path)?,
            }
            let lock = lock(&path.join("lock"), false)?;
            let lock = lock.ok_or_else(|| Error::bug("a new lock is held by somebody else"))?;
            return Ok(WorkFolder { path, lock, is_new: true });
        }
    }

    fn reopen(kept: &Path) -> Result<Self> {
        let upper = kept.join("upper");
        if !upper.is_dir() {
            return Err(Error::plan(format_args!(
                "{} is not a kept session: no folder {}",
                kept.display(),
                upper.display()
            )));
        }
        let lock = lock(&kept.join("lock"), false)?;
        let lock = lock
            .ok_or_else(|| Error::machine(format_args!("{} is in use by another session", kept.display())))?;
        Ok(WorkFolder { path: kept.to_owned(), lock, is_new: false })
    }

    /// The folders below `below` whose sessions are dead, locked so that nobody else removes them.
    pub(crate) fn dead(below: &Path) -> Result<Vec<WorkFolder>> {
        if !below.is_dir() {
            return Ok(Vec::new());
        }
        let _looking = lock(&below.join(".lock"), true)?;
        let mut dead = Vec::new();
        for entry in fs::read_dir(below).doing_to("reading", below)? {
            let entry = entry.doing_to("reading", below)?;
            let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
            if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                match lock(&path.join("lock"), false) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_are_found() {
        let below = tempfile::tempdir().expect("a folder");
        let alive = WorkFolder::open(&Work::Below(below.path().into())).expect("made");
        let gone = WorkFolder::open(&Work::Below(below.path().into())).expect("made").path;
        fs::create_dir(below.path().join("session-x")).expect("killed before it was locked");
        fs::create_dir(below.path().join("precious")).expect("not ours");
        let paths = |dead: &[WorkFolder]| {
            let mut paths: Vec<_> = dead.iter().map(|folder| folder.path.clone()).collect();
            paths.sort();
            paths
        };
        let dead = WorkFolder::dead(below.path()).expect("looked");
        assert_eq!(paths(&dead), [gone, below.path().join("session-x")]);
        assert!(
            WorkFolder::dead(below.path()).expect("looked").is_empty(),
            "a second sweep has nothing to do"
        );
        drop(alive);
    }

    #[test]
    fn a_kept_folder_has_one_user() {
        let kept = tempfile::tempdir().expect("a folder");
        let work = Work::Kept(kept.path().into());
        let Err(error) = WorkFolder::open(&work) else { panic!("no upper layer there") };
        assert_eq!(error.kind(), crate::Kind::Plan);
        fs::create_dir(kept.path().join("upper")).expect("made");
        let first = WorkFolder::open(&work).expect("opened");
        assert!(WorkFolder::open(&work).is_err(), "in use");
        drop(first);
        assert!(WorkFolder::open(&work).is_ok());
    }
}
