//! Who uses a repository: a lock that every process holds which has opened it, until it ends, so that
//! what a run has found between two of its stages is not removed under it.
//!
//! libostree has a lock of its own, which covers a transaction, or a removal, and nothing in between.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::PRIVATE_FOLDER;
use crate::error::{Context, Result};

/// The lock's name beside what we keep.
const NAME: &str = "in-use";

/// The locks that this process holds. Two of one file would be two holders, who wait for each other.
static HELD: Mutex<BTreeMap<PathBuf, File>> = Mutex::new(BTreeMap::new());

/// Notes that this process uses a repository. Waits for one that removes what nobody uses. A repository
/// that cannot be written to cannot be removed from either, by this user.
pub(super) fn note(repository: &Path) -> Result<()> {
    let path = path(repository);
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if held.contains_key(&path) {
        return Ok(());
    }
    let opened = fs::create_dir_all(repository.join(PRIVATE_FOLDER))
        .and_then(|()| File::options().read(true).append(true).create(true).open(&path));
    let Ok(file) = opened else { return Ok(()) };
    let locking = || format!("locking {}", path.display());
    flock(&file, FlockOperation::LockShared).map_err(std::io::Error::from).with_context(locking)?;
    held.insert(path, file);
    Ok(())
}

/// Makes this process the only one that uses a repository, if it is; others wait from now on.
pub(super) fn alone(repository: &Path) -> Result<bool> {
    let path = path(repository);
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(file) = held.get(&path) else { return Ok(true) };
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN) => {
            // The attempt has given up what was held.
            let _ = flock(file, FlockOperation::LockShared);
            Ok(false)
        }
        Err(errno) => Err(std::io::Error::from(errno)).with_context(|| format!("locking {}", path.display())),
    }
}

fn path(repository: &Path) -> PathBuf {
    repository.join(PRIVATE_FOLDER).join(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_used_is_nobodys_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        note(folder.path()).expect("noted");
        note(folder.path()).expect("noted once more");
        let other = File::open(path(folder.path())).expect("the lock");
        flock(&other, FlockOperation::LockShared).expect("another user");
        assert!(!alone(folder.path()).expect("asked"));
        flock(&other, FlockOperation::Unlock).expect("gone");
        assert!(alone(folder.path()).expect("asked"));
        assert!(flock(&other, FlockOperation::NonBlockingLockShared).is_err(), "others wait");
    }
}
