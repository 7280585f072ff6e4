//! What packages contain, as far as twins are concerned: read from their trees once, and kept beside
//! the objects, since a package never changes.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use qemu::twins::{Inventory, libraries::merge_usr};

use super::{Contents, Member, on_threads};
use crate::{
    Context, Error, Result,
    digest::Sha256,
    store::{Folder, Node, PRIVATE_FOLDER, Store},
};

/// The folder's name; another one when inventories have other fields.
const FOLDER: &str = "inventories-1";

/// Reads inventories of packages in a repository.
pub struct Inventories<'a> {
    store: &'a Store,
    folder: PathBuf,
}

impl<'a> Inventories<'a> {
    /// Of this repository.
    pub fn new(store: &'a Store) -> Self {
        Inventories { store, folder: store.path().join(PRIVATE_FOLDER).join(FOLDER) }
    }

    /// Removes those of packages that are not there any more, by the digests of their debs.
    ///
    /// # Errors
    /// What `is_there` reports; if a file cannot be removed.
    pub fn remove_orphans(&self, is_there: impl Fn(Sha256) -> Result<bool>) -> Result<()> {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let deb = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if !deb.map_or(Ok(false), &is_there)? {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Of packages that can have programs.
    pub(super) fn of_all(&self, members: &[Member]) -> Result<BTreeMap<Sha256, Inventory>> {
        let members: Vec<&Member> = members.iter().filter(|member| member.has_programs()).collect();
        let mut result = BTreeMap::new();
        // Programs are read whole, and their digests taken: work for all processors.
        let of = |store: &Store, member: &&Member| Ok((member.digest, Inventories::new(store).of(member)?));
        on_threads(self.store, &members, of, |(digest, inventory)| {
            result.insert(digest, inventory);
            Ok(())
        })?;
        Ok(result)
    }

    fn of(&self, member: &Member) -> Result<Inventory> {
        let commit = match &member.contents {
            Contents::Known(inventory) => return Ok(inventory.clone()),
            Contents::Commit(commit) => *commit,
        };
        let path = self.folder.join(member.digest.to_string());
        if let Ok(text) = fs::read(&path)
            && let Ok(inventory) = serde_json::from_slice(&text)
        {
            return Ok(inventory);
        }
        let inventory = self.make(commit).with_context(|| member.name.clone())?;
        self.keep(&path, &inventory)?;
        Ok(inventory)
    }

    /// Keeps an inventory, in one step: others may read at the same time.
    fn keep(&self, path: &Path, inventory: &Inventory) -> Result<()> {
        let writing = || format!("writing {}", path.display());
        fs::create_dir_all(&self.folder).with_context(writing)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).with_context(writing)?;
        let text = serde_json::to_vec(inventory).map_err(Error::bug)?;
        file.write_all(&text).with_context(writing)?;
        file.persist(path).map_err(|error| error.error).with_context(writing)?;
        Ok(())
    }

    fn make(&self, commit: Sha256) -> Result<Inventory> {
        let record = self.store.package_record(commit)?;
        let record = record.ok_or_else(|| Error::bug("it has no record"))?;
        let mut inventory = Inventory::default();
        for (path, target) in &record.symlinks {
            inventory.add_link(&merge_usr(path), target);
        }
        for (path, checksum) in files(self.store, commit, &[""])? {
            if !inventory.entries.contains_key(&path) {
                let object = self.store.object_path(checksum);
                let executable = self.store.object_metadata(checksum)?.mode & 0o111 != 0;
                inventory
                    .add_file(&path, executable, || fs::read(&object))
                    .with_context(|| format!("reading {}", object.display()))?;
            }
        }
        Ok(inventory)
    }
}

/// The files and links of a package's commit whose merged paths begin with one of `beginnings`, by that path.
/// Folders without any are not read.
pub(super) fn files(store: &Store, commit: Sha256, beginnings: &[&str]) -> Result<BTreeMap<String, Sha256>> {
    let mut files = BTreeMap::new();
    if let Some(data) = store.root(commit)?.folder(store, "data")? {
        list(store, data, "", beginnings, &mut files)?;
    }
    Ok(files)
}

fn list(
    store: &Store,
    folder: &mut Folder,
    parent: &str,
    beginnings: &[&str],
    files: &mut BTreeMap<String, Sha256>,
) -> Result<()> {
    let begins = |path: &str| beginnings.iter().any(|beginning| path.starts_with(beginning));
    for (name, node) in folder.entries(store)? {
        let path = merge_usr(&format!("{parent}{name}"));
        match node {
            Node::Folder(child) => {
                let path = path + "/";
                if begins(&path) || beginnings.iter().any(|beginning| beginning.starts_with(&path)) {
                    list(store, child, &path, beginnings, files)?;
                }
            }
            Node::Object { checksum, .. } if begins(&path) => drop(files.insert(path, *checksum)),
            Node::Object { .. } => {}
        }
    }
    Ok(())
}
