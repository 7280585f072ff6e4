//! Trees as folders of the host, outside of any sandbox: what is there with its owners, and writing
//! there with owners.
//!
//! All of it is done by a monitor, as root of a user namespace like that of a sandbox: alone it reads and
//! writes files of subordinate owners. Where only one id is mapped (tier single), an owner is an attribute
//! of the file, as in a sandbox: see `owners`.
//!
//! ```text
//! plain.rs      what a folder that is no layer says of its owners;  capture.rs reads it
//! write.rs      writing entries with their owners;  content.rs copies contents
//! fill.rs       a stored tree, written out
//! moves.rs      what a session changed goes into the folder that its base was
//! rearrange.rs  names that are changed before
//! remove.rs     removing, by descriptors
//! ```

mod content;
mod fill;
mod moves;
mod plain;
mod rearrange;
mod remove;
mod write;

use std::{
    fs::File,
    path::{Path, PathBuf, absolute},
};

use serde::{Deserialize, Serialize};

pub(crate) use fill::fill;
pub use moves::Given;
pub(crate) use moves::{ORDER, Order, REPLACED, begin as begin_move, conclude, go_on as go_on_moving};
pub(crate) use plain::{Learnt, PlainFolder};
pub use rearrange::Rearrange;
pub(crate) use remove::remove_contents as empty;

use crate::{
    capture::Change,
    enforced::Tier,
    error::{Doing, Error, Kind, Result},
    helper::{Helper, unexpected},
    plan::Stored,
    protocol::{FromMonitor, ToMonitor},
    work::WorkFolder,
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

/// Writes a stored tree to a folder of the host, which is made if missing; files are copies. What is there
/// stays, unless the tree has the same name: then it is replaced, and a folder gets the tree's metadata and
/// keeps its entries.
///
/// # Errors
/// [`Kind::Folder`]: one of the two has a folder where the other has none; the message names both. What was
/// written before stays.
pub fn check_out(stored: &Stored, target: &Path, tier: Option<Tier>) -> Result<Moved> {
    fill::make(target)?;
    let target = absolute_folder(target)?;
    let absolute = |path: &Path| absolute(path).doing_to("finding", path);
    let stored = Stored { listing: absolute(&stored.listing)?, contents: absolute(&stored.contents)? };
    let mut helper = Helper::start(tier)?;
    let moved =
        match helper.ask(&ToMonitor::CheckOut(stored, Target { path: target, tier: helper.tier }), &[])?.0 {
            FromMonitor::Moved(moved) => moved,
            other => return Err(unexpected(&other)),
        };
    helper.ask_done(&ToMonitor::Close)?;
    Ok(moved)
}

/// Where a tree is written to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    #[serde(with = "crate::bytes")]
    pub(crate) path: PathBuf,
    pub(crate) tier: Tier,
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

/// What is done otherwise than the session left it, when its changes are moved: paths are without a
/// leading slash, numbers the tree's.
#[derive(Debug, Default)]
pub struct Edits {
    /// Names of the target that are changed first, so that it is the tree that the session saw.
    pub rearrange: Vec<Rearrange>,
    /// The numbers that the tree's root has on disk, as [`read_folder`] found them.
    pub first_id: FirstIds,
    /// Changes that are dropped, with all that is below them: what the target has there stays.
    pub leave: Vec<Vec<u8>>,
    /// Changed files that get another content, read from its start on, and keep all else. Other names
    /// of the same file get it, too.
    pub replace: Vec<(Vec<u8>, File)>,
    /// Owners of what did not change and has not got them on disk. What did change is left alone.
    pub give: Vec<Given>,
    /// Attributes that nothing gets that is written: what somebody else noted about a file that it was
    /// copied from.
    pub without: Vec<Vec<u8>>,
}

/// What was written into a folder of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// How owners are there.
    pub tier: Tier,
    /// The numbers of the tree's root.
    pub first_id: FirstIds,
    /// What is not there, sorted by path: who makes a tar of the folder has to add it. In tier single
    /// also the owners of links and special files that did not change, as far as the session knew them.
    pub not_on_disk: Vec<NotOnDisk>,
}

/// Something of an entry that the disk did not take.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NotOnDisk {
    /// The entry, without a leading slash.
    #[serde(with = "crate::bytes")]
    pub path: Vec<u8>,
    /// What of it.
    pub what: Missing,
    /// Why, in words.
    pub why: String,
}

/// What an entry has not got on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// Its owner.
    Owner {
        /// The user, as the tree has it.
        uid: u32,
        /// The group, likewise.
        gid: u32,
    },
    /// An extended attribute.
    Attribute {
        /// Its name.
        #[serde(with = "crate::bytes")]
        name: Vec<u8>,
        /// Its value.
        #[serde(with = "crate::bytes")]
        value: Vec<u8>,
    },
}

/// Why a link has no owner in tier single.
pub(crate) const NO_RECORD: &str = "only files and folders can carry a record";

/// A move that was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfinishedMove {
    /// Where the changes belong.
    pub target: PathBuf,
    /// Whether that folder is gone, though another one may have its name.
    pub is_gone: bool,
    /// The session's folder: for [`finish_move`]; or, if what is left to move is not wanted,
    /// [`remove_kept`](crate::remove_kept).
    pub folder: PathBuf,
}

/// The moves that were killed, of sessions below `work`: no sweep removes their folders. One that is
/// going on is not among them.
pub fn unfinished_moves(work: &Path) -> Result<Vec<UnfinishedMove>> {
    let work = absolute(work).doing_to("finding", work)?;
    let mut unfinished = Vec::new();
    for entry in std::fs::read_dir(&work).into_iter().flatten() {
        let folder = entry.doing_to("reading", &work)?.path();
        if folder.join(ORDER).exists()
            && let Some(_lock) = WorkFolder::lock_to_finish(&folder)?
            && let Some(order) = Order::read(&folder)?
        {
            let is_gone = !order.is_for(&order.target)?;
            unfinished.push(UnfinishedMove { target: order.target, is_gone, folder });
        }
    }
    unfinished.sort_by(|one, other| one.folder.cmp(&other.folder));
    Ok(unfinished)
}

/// A move that was killed and now is done.
pub struct FinishedMove {
    helper: Helper,
    _lock: File,
    /// What became of it.
    pub moved: Moved,
}

impl FinishedMove {
    /// Removes the session's folder. Without this the move counts as unfinished.
    pub fn close(mut self) -> Result<()> {
        self.helper.ask_done(&ToMonitor::Conclude)?;
        self.helper.ask_done(&ToMonitor::Close)
    }
}

/// Does what is left of a move that was killed. To be [closed](FinishedMove::close) when the caller has what
/// it says.
///
/// # Errors
/// [`Kind::Folder`]: there is no such move in `folder`, or its target is another folder by now.
pub fn finish_move(folder: &Path) -> Result<FinishedMove> {
    let folder = absolute(folder).doing_to("finding", folder)?;
    let nothing = || Error::folder(format_args!("no move was begun from {}", folder.display()));
    let lock = WorkFolder::lock_to_finish(&folder)?.ok_or_else(nothing)?;
    let order = Order::read(&folder)?.ok_or_else(nothing)?;
    let mut helper = Helper::start(Some(order.tier))?;
    match helper.ask(&ToMonitor::FinishMove(folder), &[])?.0 {
        FromMonitor::Moved(moved) => Ok(FinishedMove { helper, _lock: lock, moved }),
        other => Err(unexpected(&other)),
    }
}

/// Puts an order together; contents that replace others go to the session's folder.
pub(crate) fn order(folder: &Path, target: &Path, tier: Tier, edits: &Edits) -> Result<Order> {
    let target = absolute_folder(target)?;
    let contents = folder.join(REPLACED);
    if !edits.replace.is_empty() {
        std::fs::create_dir_all(&contents).doing_to("making", &contents)?;
    }
    for (number, (_, file)) in edits.replace.iter().enumerate() {
        let place = contents.join(number.to_string());
        let copy = File::create(&place).and_then(|to| content::copy(file, &to));
        copy.doing_to("writing", &place)?;
    }
    Order::new(&target, tier, edits)
}

/// The helper works in another folder.
pub(crate) fn absolute_folder(folder: &Path) -> Result<PathBuf> {
    let path = absolute(folder).doing_to("finding", folder)?;
    let metadata = std::fs::metadata(&path).doing_to("looking at", &path);
    match metadata.map_err(|error| error.of_kind(Kind::Folder))? {
        metadata if metadata.is_dir() => Ok(path),
        _ => Err(Error::folder(format_args!("{} is not a folder", path.display()))),
    }
}
