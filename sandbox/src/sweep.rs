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

fn remove(folders: &[WorkFolder]) -> Result<()> {
    remove_paths(folders.iter().map(|folder| folder.path.clone()).collect())
}

fn remove_paths(folders: Vec<std::path::PathBuf>) -> Result<()> {
    let mut helper = Helper::start()?;
    helper.ask_done(&ToMonitor::Remove(folders))?;
    helper.ask_done(&ToMonitor::Close)
}
