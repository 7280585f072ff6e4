//! Removing what no ref leads to.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::Path,
};

use ostree::{ObjectName, RepoPruneFlags, gio};

use super::{Store, in_use};
use crate::{
    digest::Sha256,
    error::{Error, Result},
};

/// How much was, or would be, removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Objects.
    pub objects: u64,
    /// Their bytes, as files.
    pub bytes: u64,
}

impl Store {
    /// Makes sure that no other process uses the repository until this one ends.
    ///
    /// # Errors
    /// `Kind::Input` if another one does.
    pub fn use_alone(&self) -> Result<()> {
        match in_use::alone(&self.path)? {
            true => Ok(()),
            false => Err(Error::input(format!("{} is in use by another run", self.path.display()))
                .hint("run it again when that has ended: nothing was removed")),
        }
    }

    /// What [`Store::prune`] would remove if these commits were all that refs lead to.
    ///
    /// # Errors
    /// If the repository cannot be read.
    pub fn unreachable(&self, kept: &BTreeSet<Sha256>) -> Result<Pruned> {
        let mut reachable: HashSet<ObjectName> = HashSet::new();
        for commit in kept {
            let found = self.repo.traverse_commit(&commit.to_string(), 0, gio::Cancellable::NONE);
            reachable.extend(found.map_err(|error| self.foreign(error))?);
        }
        let reachable: HashSet<String> = reachable.iter().map(ToString::to_string).collect();
        let mut pruned = Pruned::default();
        self.each_object(&mut |name, bytes| {
            if !reachable.contains(name) {
                pruned.objects += 1;
                pruned.bytes += bytes;
            }
        })?;
        Ok(pruned)
    }

    /// Calls `each` with the name, as libostree prints it (`CHECKSUM.KIND`), and size of every object.
    fn each_object(&self, each: &mut dyn FnMut(&str, u64)) -> Result<()> {
        let objects = self.path.join("objects");
        for folder in read_folder(&objects)? {
            let Some(prefix) = folder.file_name().to_str().map(str::to_owned) else { continue };
            for object in read_folder(&folder.path())? {
                let Some(rest) = object.file_name().to_str().map(str::to_owned) else { continue };
                let is_object =
                    [".commit", ".dirtree", ".dirmeta", ".file"].iter().any(|end| rest.ends_with(end));
                if is_object {
                    each(&format!("{prefix}{rest}"), object.metadata()?.len());
                }
            }
        }
        Ok(())
    }

    /// Removes all objects that no ref leads to.
    ///
    /// # Errors
    /// If the repository cannot be read, or written to.
    pub fn prune(&self) -> Result<Pruned> {
        let pruned = self.repo.prune(RepoPruneFlags::REFS_ONLY, 0, gio::Cancellable::NONE);
        let (_, objects, bytes) = pruned.map_err(|error| self.foreign(error))?;
        Ok(Pruned { objects: u64::try_from(objects).unwrap_or(0), bytes })
    }
}

/// A folder's entries; none of one that is not there.
fn read_folder(path: &Path) -> Result<Vec<fs::DirEntry>> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(entries.collect::<std::io::Result<_>>()?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::from(error).context(format!("reading {}", path.display()))),
    }
}
