//! Trees as folders of the host, outside of any sandbox: what is there with its owners, and writing
//! there with owners.
//!
//! All of it is done by a monitor, as root of a user namespace like that of a sandbox: alone it reads and
//! writes files of subordinate owners. Where only one id is mapped (tier single), an owner is an attribute
//! of the file, as in a sandbox: see `owners`.
//!
//! ```text
//! plain.rs      what a folder that is no layer says of its owners;  capture.rs reads it
//! remove.rs     removing, by descriptors
//! ```

mod plain;
mod remove;

use std::{
    fs::File,
    path::{Path, absolute},
};

use serde::{Deserialize, Serialize};

pub(crate) use plain::{Learnt, PlainFolder};
pub(crate) use remove::remove_contents as empty;

use crate::{
    capture::Change,
    enforced::Tier,
    error::{Doing, Error, Kind, Result},
    helper::{Helper, unexpected},
    protocol::{FromMonitor, ToMonitor},
};

/// Which numbers of the user namespace the root of a tree on disk has. A folder that `mmdebstrap
/// --mode=unshare` made belongs to subordinate ids, root included, who are from 1 on where a sandbox has
/// the caller as 0. All of the tree's numbers are then shown less these, and written with them added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstIds {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl FirstIds {
    /// Whether the tree's numbers are the namespace's.
    pub fn is_none(self) -> bool {
        self == FirstIds::default()
    }
}

/// What [`read_folder`] learnt of the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderRead {
    /// How ids were mapped: work on the folder goes on in this tier.
    pub tier: Tier,
    /// The numbers of the tree's root.
    pub first_id: FirstIds,
    /// Whether any file carries a record, of its owner or of an access control list, as tier single
    /// leaves them.
    pub recorded: bool,
}

/// Lists all that is in a folder of the host, as a sandbox of this tier (none: the best there is) would
/// see it: the folder itself first, with the empty path, folders before what is in them, names sorted by
/// their bytes, hard links by group, files with their contents. Owners are the tree's ([`FirstIds`]);
/// recorded ones count in both tiers. The first error that `each` gives ends the list.
///
/// # Errors
/// [`Kind::Folder`]: a file's owner has no number in the namespace; another file system is mounted below
/// the folder; it is no folder. They name what it is, and the way out.
pub fn read_folder<E: From<Error>>(
    folder: &Path,
    tier: Option<Tier>,
    each: &mut dyn FnMut(Change, Option<File>) -> std::result::Result<(), E>,
) -> std::result::Result<FolderRead, E> {
    let folder = absolute_folder(folder)?;
    let mut helper = Helper::start(tier)?;
    let answer = helper.receive_changes(&ToMonitor::Read(folder), each)?;
    let FromMonitor::Read(Learnt { first_id, recorded }) = answer else {
        return Err(unexpected(&answer).into());
    };
    helper.ask_done(&ToMonitor::Close)?;
    Ok(FolderRead { tier: helper.tier, first_id, recorded })
}

/// Removes all that is in a folder of the host, the folder itself not. The caller alone cannot where
/// files belong to subordinate ids.
///
/// # Errors
/// [`Kind::Folder`]: something is mounted below it; it is no folder.
pub fn remove_contents(folder: &Path) -> Result<()> {
    let folder = absolute_folder(folder)?;
    let mut helper = Helper::start(None)?;
    helper.ask_done(&ToMonitor::Empty(folder))?;
    helper.ask_done(&ToMonitor::Close)
}

/// The helper works in another folder.
fn absolute_folder(folder: &Path) -> Result<std::path::PathBuf> {
    let path = absolute(folder).doing_to("finding", folder)?;
    let metadata = std::fs::metadata(&path).doing_to("looking at", &path);
    match metadata.map_err(|error| error.of_kind(Kind::Folder))? {
        metadata if metadata.is_dir() => Ok(path),
        _ => Err(Error::folder(format_args!("{} is not a folder", path.display()))),
    }
}
