//! Removing what killed sessions left, and kept ones that nobody needs any more.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf, absolute},
    sync::{Mutex, PoisonError},
};

use crate::{
    error::{Doing, Result},
    helper::Helper,
    plan::Work,
    protocol::ToMonitor,
    work::{self, WorkFolder},
};

/// Removes a folder below which sessions had theirs, if none has any more. Only for who knows that nobody
/// begins one meanwhile. Gives whether it is gone.
pub fn remove_work(below: &Path) -> Result<bool> {
    let entries = std::fs::read_dir(below).doing_to("reading", below)?;
    for entry in entries {
        if entry.doing_to("reading", below)?.file_name() != work::ALL_LOCK {
            return Ok(false);
        }
    }
    std::fs::remove_dir_all(below).doing_to("removing", below)?;
    Ok(true)
}

/// Removes the folders of killed sessions below `work` (a [`Work::Below`]); gives how many there
/// were. Only a session whose caller and monitor were both killed leaves one, or a caller that was killed
/// before its session ran. Running sessions, those of other programs too, are left alone.
pub fn sweep(work: &Path) -> Result<usize> {
    let work = absolute(work).doing_to("finding", work)?;
    let dead = WorkFolder::dead(&work)?; // and their locks, until they are removed
    if !dead.is_empty() {
        remove_paths(dead.iter().map(|folder| folder.path.clone()).collect())?;
    }
    Ok(dead.len())
}

/// Removes a folder that [`Session::keep`](crate::Session::keep) made; its files belong to ids that
/// the caller cannot remove by itself. After an interrupted removal it removes the rest.
pub fn remove_kept(folder: &Path) -> Result<()> {
    let folder = absolute(folder).doing_to("finding", folder)?;
    let _lock = WorkFolder::lock_to_remove(&folder)?;
    remove_paths(vec![folder])
}

/// Where this process has made folders for layers.
static FOLDERS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Where a monitor looks for what its caller left, when that was killed.
pub(crate) fn folders() -> Vec<PathBuf> {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// A folder for layers that belong to the caller's run, such as a checkout. It lies among the
/// folders of sessions and is locked as they are: when its owner was killed, the monitor of a running
/// session removes it, or else [`sweep`] finds it.
pub struct LayerFolder {
    folder: WorkFolder,
    removed: bool,
}

impl LayerFolder {
    /// Makes one below `work`, which is made if missing.
    pub fn make(work: &Path) -> Result<Self> {
        let work = absolute(work).doing_to("finding", work)?;
        let folder = WorkFolder::open(&Work::Below(work.clone()))?;
        FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).insert(work);
        Ok(LayerFolder { folder, removed: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    /// Removes it with all that is in it. Dropping it does the same but cannot tell what went wrong.
    pub fn remove(mut self) -> Result<()> {
        self.removed = true;
        let path = &self.folder.path;
        work::remove(path).doing_to("removing", path)
    }
}

impl Drop for LayerFolder {
    fn drop(&mut self) {
        if !self.removed {
            let _ = work::remove(&self.folder.path);
        }
    }
}

fn remove_paths(folders: Vec<PathBuf>) -> Result<()> {
    let mut helper = Helper::start(None)?;
    helper.ask_done(&ToMonitor::Remove(folders))?;
    helper.ask_done(&ToMonitor::Close)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    /// A sweep that meets a folder while its owner removes it neither takes it for a dead one's nor
    /// gets in the owner's way.
    #[test]
    fn owners_and_sweeps_do_not_meet() {
        let below = tempfile::tempdir().expect("a folder");
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let owners = [0, 1].map(|_| {
                scope.spawn(|| {
                    for round in 0..300 {
                        let folder = LayerFolder::make(below.path()).expect("made");
                        for file in 0..round % 5 {
                            fs::write(folder.path().join(file.to_string()), "").expect("written");
                        }
                        folder.remove().unwrap_or_else(|error| panic!("round {round}: {error}"));
                    }
                })
            });
            let sweeps = [0, 1].map(|_| {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        assert_eq!(sweep(below.path()).expect("swept"), 0, "all owners live");
                    }
                })
            });
            let results = owners.map(|owner| owner.join());
            ended.store(true, Ordering::Relaxed);
            let sweeps = sweeps.map(|sweep| sweep.join());
            assert!(results.iter().chain(&sweeps).all(|result| result.is_ok()));
        });
        let left: Vec<_> = fs::read_dir(below.path()).expect("read").flatten().collect();
        assert_eq!(left.iter().map(|entry| entry.file_name()).collect::<Vec<_>>(), [".lock"]);
    }
}
