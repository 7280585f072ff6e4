//! Whose a file is: asking for and changing the records of [`crate::owners`].

use std::{
    collections::HashMap,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::MetadataExt,
        },
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::readlink,
    sys::stat::{FileStat, fstat},
};

use super::caller::own_name;
use crate::{
    owners::{Owner, RECORD, Remembered},
    sys::xattr::{self, Place},
};

/// The records, as far as they are not with the files themselves.
#[derive(Default)]
pub(super) struct Records {
    /// Files that cannot have attributes. The open descriptor keeps the kernel from forgetting the
    /// file, and so from giving its number to another.
    elsewhere: HashMap<(u64, u64), (Owner, OwnedFd)>,
    /// Those of the base, as long as they have not been copied up: then their number changes
    /// (overlayfs notes the origin of a copy in an attribute, which they cannot have).
    of_base: HashMap<(u64, u64), (Owner, OwnedFd)>,
}

/// The number of a file, among all that are open.
fn key(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Whether a file can have attributes of its own: xattr(7).
pub(super) fn may_have_attributes(stat: &FileStat) -> bool {
    matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR)
}

impl Records {
    /// Whose a file is. None: there is no record, and it is whose the kernel says.
    pub(super) fn of(&mut self, file: &OwnedFd, stat: &FileStat) -> Option<Owner> {
        if stat.st_uid != 0 {
            return None;
        }
        if may_have_attributes(stat)
            && let Ok(Some(value)) = xattr::get(Place::Followed(&own_name(file)), RECORD)
        {
            return Owner::decode(&value);
        }
        let key = key(stat);
        if !self.elsewhere.contains_key(&key) {
            self.find_copied_up();
        }
        let found = self.elsewhere.get(&key).or_else(|| self.of_base.get(&key));
        found.map(|(owner, _)| *owner)
    }

    /// Finds those files of the base that have other numbers by now.
    fn find_copied_up(&mut self) {
        let moved: Vec<_> = self
            .of_base
            .iter()
            .filter_map(|(old, (_, file))| Some((*old, key(&fstat(file).ok()?))))
            .filter(|(old, new)| old != new)
            .collect();
        for (old, new) in moved {
            self.elsewhere.extend(self.of_base.remove(&old).map(|record| (new, record)));
        }
    }

    /// Notes whose a link of the base is.
    pub(super) fn set_of_base(&mut self, file: OwnedFd, stat: &FileStat, owner: Owner) {
        self.of_base.insert(key(stat), (owner, file));
    }

    /// Notes whose a file is from now on.
    pub(super) fn set(&mut self, file: OwnedFd, stat: &FileStat, owner: Owner) -> nix::Result<()> {
        if may_have_attributes(stat) {
            let name = own_name(&file);
            let result = if owner == Owner::ROOT {
                xattr::remove(&name, RECORD)
            } else {
                xattr::set(Place::Followed(&name), RECORD, &owner.encode())
            };
            match result {
                Err(Errno::EOPNOTSUPP) => {}
                other => return other,
            }
        }
        let key = key(stat);
        self.find_copied_up();
        self.of_base.remove(&key);
        if owner == Owner::ROOT {
            self.elsewhere.remove(&key);
        } else {
            self.elsewhere.insert(key, (owner, file));
        }
        Ok(())
    }

    /// Those that are not with the files themselves, by every path below the root (in `top`)
    /// that leads to them.
    pub(super) fn remembered(&self, top: &Path) -> Vec<Remembered> {
        let (mut remembered, mut several) = (Vec::new(), HashMap::new());
        for (key, (owner, file)) in self.elsewhere.iter().chain(&self.of_base) {
            let (Ok(stat), Ok(path)) = (fstat(file), readlink(own_name(file).as_c_str())) else { continue };
            match (stat.st_nlink, path.into_vec().strip_prefix(b"/")) {
                (1, Some(path)) if !path.ends_with(b" (deleted)") => {
                    remembered.push(Remembered { path: path.to_vec(), owner: *owner });
                }
                (0, _) => {} // removed since
                // The kernel knows one name of several, which need not be there any more.
                _ => drop(several.insert(*key, *owner)),
            }
        }
        if !several.is_empty() {
            find(top, &several, &mut remembered);
        }
        remembered
    }
}

/// Looks for files in a folder and below. What cannot be read holds nothing that anybody has changed.
fn find(folder: &Path, wanted: &HashMap<(u64, u64), Owner>, found: &mut Vec<Remembered>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (Ok(metadata), path) = (entry.metadata(), entry.path()) else { continue };
        if let Some(owner) = wanted.get(&(metadata.dev(), metadata.ino())) {
            let path = path.as_os_str().as_bytes();
            found.push(Remembered { path: path.strip_prefix(b"/").unwrap_or(path).to_vec(), owner: *owner });
        } else if metadata.is_dir() && path != Path::new("/proc") {
            find(&path, wanted, found);
        }
    }
}
