//! What a folder that is no layer says of owners: which numbers are the tree's, and which are nobody's.

use std::{fs, path::Path};

use nix::{
    sys::stat::FileStat,
    unistd::{Uid, User},
};
use serde::{Deserialize, Serialize};

use super::FirstIds;
use crate::{
    acl::{self, Acl},
    bytes::escape,
    enforced::IdRange,
    error::{Error, Result},
    owners::Owner,
    userns::{ENOUGH, Ids, current_map, owner_of_range},
};

/// What is learnt while a folder is read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Learnt {
    pub(crate) first_id: FirstIds,
    pub(crate) recorded: bool,
}

/// A folder that is being read.
pub(crate) struct PlainFolder {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
    /// What the kernel shows for an id that is not mapped.
    overflow: Owner,
    first: FirstIds,
    /// Whether a record was found.
    pub(crate) recorded: bool,
    /// Paths where something else is mounted.
    pub(crate) mounts: Vec<Vec<u8>>,
}

impl PlainFolder {
    pub(crate) fn new() -> Result<Self> {
        Ok(PlainFolder {
            uids: current_map(Ids::Users)?,
            gids: current_map(Ids::Groups)?,
            overflow: Owner { uid: overflow("overflowuid"), gid: overflow("overflowgid") },
            first: FirstIds::default(),
            recorded: false,
            mounts: Vec::new(),
        })
    }

    /// Takes the numbers of the topmost folder for the tree's root.
    pub(crate) fn begin(&mut self, top: &FileStat) {
        if top.st_uid != 0 {
            self.first = FirstIds { uid: top.st_uid, gid: top.st_gid };
        }
    }

    /// Whether the numbers may stand for one that is not mapped: they may be somebody's all the same.
    pub(crate) fn may_be_unmapped(&self, stat: &FileStat) -> bool {
        stat.st_uid == self.overflow.uid || stat.st_gid == self.overflow.gid
    }

    /// Refuses a file that is nobody's of the tree. `outside`: its owner as the parent namespace has it,
    /// where that had to be asked.
    pub(crate) fn check(&self, stat: &FileStat, outside: Option<Owner>, path: &Path) -> Result<()> {
        if let Some(Owner { uid, gid }) = outside {
            let has = |ranges: &[IdRange], id: u32| {
                ranges.iter().any(|range| id.checked_sub(range.outside).is_some_and(|n| n < range.count))
            };
            if !has(&self.uids, uid) || !has(&self.gids, gid) {
                return Err(Error::folder(format_args!(
                    "{} belongs to user {uid} and group {gid} of this machine, and not both have a number in \
                     this user namespace",
                    path.display()
                ))
                .with_hint(self.who_can(uid, gid)));
            }
        }
        if stat.st_uid < self.first.uid || stat.st_gid < self.first.gid {
            let FirstIds { uid, gid } = self.first;
            return Err(Error::folder(format_args!(
                "{} belongs to {}:{}, and the tree's root is {uid}:{gid}, whose the topmost folder is: there \
                 is no number for it in the tree",
                path.display(),
                stat.st_uid,
                stat.st_gid
            ))
            .with_hint("give the topmost folder to the tree's root (chown)"));
        }
        Ok(())
    }

    /// Who has numbers for both: their account, the one with their range, or root, if it is not root who asks.
    fn who_can(&self, uid: u32, gid: u32) -> String {
        let is_root = self.uids.iter().any(|range| (range.inside, range.outside) == (0, 0));
        let name = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        let account = name.filter(|_| uid != 0).or_else(|| owner_of_range(Ids::Users, uid));
        let root = (!is_root && uid < ENOUGH && gid < ENOUGH).then(|| "root".to_owned());
        match [account, root].into_iter().flatten().collect::<Vec<_>>() {
            accounts if accounts.is_empty() => {
                "give the files to somebody who has a number: sudo chown -R".to_owned()
            }
            accounts => format!("run the same command as {}", accounts.join(" or ")),
        }
    }

    /// Turns the namespace's numbers into the tree's.
    pub(crate) fn show_ids(&self, owner: &mut Owner, xattrs: &mut [(Vec<u8>, Vec<u8>)]) {
        let FirstIds { uid, gid } = self.first;
        if self.first.is_none() {
            return;
        }
        *owner = Owner { uid: owner.uid.saturating_sub(uid), gid: owner.gid.saturating_sub(gid) };
        for (name, value) in xattrs {
            if (name == acl::ACCESS || name == acl::DEFAULT)
                && let Some(acl) = Acl::decode(value)
            {
                *value = acl.with_ids(|id| id.saturating_sub(uid), |id| id.saturating_sub(gid)).encode();
            }
        }
    }

    /// What was learnt; an error if the list is not complete.
    pub(crate) fn learnt(&self, folder: &Path) -> Result<Learnt> {
        if !self.mounts.is_empty() {
            let paths: Vec<_> = self.mounts.iter().map(|path| escape(path)).collect();
            let unmount: Vec<_> = paths.iter().map(|path| folder.join(path).display().to_string()).collect();
            return Err(Error::folder(format_args!(
                "other file systems are mounted below {}: {}",
                folder.display(),
                paths.join(", ")
            ))
            .with_hint(format_args!("sudo umount -R {}", unmount.join(" "))));
        }
        Ok(Learnt { first_id: self.first, recorded: self.recorded })
    }
}

/// The kernel's number for those that are not mapped (proc_sys_kernel(5)).
fn overflow(name: &str) -> u32 {
    const DEFAULT: u32 = 65534;
    let text = fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).unwrap_or_default();
    text.trim().parse().unwrap_or(DEFAULT)
}
