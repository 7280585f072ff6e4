//! Removing what killed sessions left, and kept ones that nobody needs any more.

use std::path::{Path, absolute};

use crate::{
    error::{Doing, Result},
    helper::Helper,
    plan::Work,
    protocol::ToMonitor,
    work::WorkFolder,
};

/// Removes the folders of killed sessions below `work` (a [`Work::Below`]); gives how many there
/// were. Only a session whose caller and monitor were both killed leaves one. Running sessions,
/// those of other programs too, are left alone.
pub fn sweep(work: &Path) -> Result<usize> {
    let work = absolute(work).doing_to("finding", work)?;
    let dead = WorkFolder::dead(&work)?;
    if !dead.is_empty() {
        remove(&dead)?;
    }
    Ok(dead.len())
}

/// Removes a folder that [`Session::keep`](crate::Session::keep) made; its files belong to ids that
/// the caller cannot remove by itself.
pub fn remove_kept(folder: &Path) -> Result<()> {
    let folder = absolute(folder).doing_to("finding", folder)?;
    remove(&[WorkFolder::open(&Work::Kept(folder))?])
}

/// Removes a folder tree with files of mapped ids, such as a layer that fix-ups were applied to.
pub fn remove_tree(folder: &Path) -> Result<()> {
    let folder = absolute(folder).doing_to("finding", folder)?;
    remove_paths(vec![folder])
}

/// A folder for layers that belong to the caller's run, such as a checkout. It lies among the
/// folders of sessions and is locked as they are: when its owner was killed, [`sweep`] finds it.
pub struct LayerFolder {
    folder: WorkFolder,
    removed: bool,
}

impl LayerFolder {
    /// Makes one below `work`, which is made if missing.
    pub fn make(work: &Path) -> Result<Self> {
        let work = absolute(work).doing_to("finding", work)?;
        Ok(LayerFolder { folder: WorkFolder::open(&Work::Below(work))?, removed: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    /// Removes it with all that is in it. Dropping it does the same but cannot tell what went wrong.
    pub fn remove(mut self) -> Result<()> {
        self.removed = true;
        remove_layers(&self.folder)
    }
}

impl Drop for LayerFolder {
    fn drop(&mut self) {
        if !self.removed {
            let _ = remove_layers(&self.folder);
        }
    }
}

/// Starting a helper costs more than most removals: it is asked only for files of mapped ids, which
/// fix-ups made.
fn remove_layers(folder: &WorkFolder) -> Result<()> {
    match std::fs::remove_dir_all(&folder.path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => remove_tree(&folder.path),
        result => result.doing_to("removing", &folder.path),
    }
}

fn remove(folders: &[WorkFolder]) -> Result<()> {
    remove_paths(folders.iter().map(|folder| folder.path.clone()).collect())
}

fn remove_paths(folders: Vec<std::path::PathBuf>) -> Result<()> {
    let mut helper = Helper::start()?;
    helper.ask_done(&ToMonitor::Remove(folders))?;
    helper.ask_done(&ToMonitor::Close)
}
