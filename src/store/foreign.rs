//! Repositories of others: every object of theirs is checked before it counts, and comes into ours by
//! link where that can be (both bare-user, on one file system), else as a copy.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

use ostree::{
    ObjectType, RepoMode, gio,
    gio::prelude::InputStreamExtManual,
    glib::{self, variant::ToVariant},
};

use super::{
    Folder, Node, Store, Transaction, foreign,
    object::{S_IFLNK, S_IFMT, parse_metadata},
};
use crate::{
    artefacts::Metadata,
    digest::Sha256,
    error::{Context, Error, Result},
};

/// A repository that somebody else wrote, opened to be read.
pub struct Foreign {
    store: Store,
    /// Objects that were found sound.
    checked: RefCell<HashSet<(u32, Sha256)>>,
}

/// A file, or a symbolic link whose target is what comes out.
pub struct ForeignObject {
    /// Owner, mode and attributes.
    pub metadata: Metadata,
    /// Bytes in it.
    pub size: u64,
    /// The bytes.
    pub content: Box<dyn Read>,
}

impl ForeignObject {
    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.metadata.mode & S_IFMT == S_IFLNK
    }
}

/// A ref and what it names; or what is wrong with it.
pub type ForeignReference = (String, std::result::Result<Sha256, String>);

impl Foreign {
    /// Opens a repository of any mode that keeps owners and modes.
    ///
    /// # Errors
    /// If it is not there, not readable, or of the mode bare-user-only.
    pub fn open(path: &Path) -> Result<Foreign> {
        let store = Store::open_any(path)?;
        if store.repo.mode() == RepoMode::BareUserOnly {
            let message = format!("{} is of the mode bare-user-only", path.display());
            return Err(
                Error::input(message).hint("it has no owners and no set-id bits: nothing can be taken")
            );
        }
        Ok(Foreign { store, checked: RefCell::default() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// The refs below a prefix, sorted. One that is damaged does not hide the others.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn references(&self, prefix: &str) -> Result<Vec<ForeignReference>> {
        let mut references = Vec::new();
        let heads = self.store.path().join("refs/heads");
        let mut folders: Vec<PathBuf> = vec![heads.join(prefix)];
        while let Some(folder) = folders.pop() {
            let reading = || format!("reading {}", folder.display());
            let entries = match std::fs::read_dir(&folder) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.with_context(reading)?,
            };
            for entry in entries {
                let path = entry.with_context(reading)?.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(&heads).unwrap_or(&path).to_string_lossy().into_owned();
                let commit = std::fs::read_to_string(&path).map_err(|error| error.to_string());
                let commit = commit
                    .and_then(|text| text.trim_end().parse::<Sha256>().map_err(|error| error.to_string()));
                references.push((name, commit));
            }
        }
        references.sort();
        Ok(references)
    }

    /// The root folder of a commit.
    ///
    /// # Errors
    /// `Kind::Input` if the commit is missing or corrupt.
    pub fn root(&self, commit: Sha256) -> Result<Folder> {
        self.check(ObjectType::Commit, commit)?;
        self.store.root(commit)
    }

    /// A folder's entries.
    ///
    /// # Errors
    /// `Kind::Input` if an object is missing or corrupt.
    pub fn entries<'f>(&self, folder: &'f mut Folder) -> Result<&'f mut BTreeMap<String, Node>> {
        if let Some(tree) = folder.stored_tree() {
            self.check(ObjectType::DirTree, tree)?;
        }
        folder.entries(&self.store)
    }

    /// A content object.
    ///
    /// # Errors
    /// `Kind::Input` if it is missing or corrupt.
    pub fn object(&self, checksum: Sha256) -> Result<ForeignObject> {
        self.check(ObjectType::File, checksum)?;
        let (content, information, xattrs) = self
            .store
            .repo
            .load_file(&checksum.to_string(), gio::Cancellable::NONE)
            .map_err(|error| self.error(error))?;
        let number = |name: &str| information.attribute_uint32(name).to_be().to_variant();
        let header = glib::Variant::tuple_from_iter([
            number("unix::uid"),
            number("unix::gid"),
            number("unix::mode"),
            xattrs,
        ]);
        let metadata = parse_metadata(&header).ok_or_else(|| super::corrupt("file", checksum))?;
        if metadata.mode & S_IFMT == S_IFLNK {
            let target = information.symlink_target().unwrap_or_default();
            let target = target.to_str().unwrap_or_default().as_bytes().to_vec();
            let size = target.len() as u64;
            return Ok(ForeignObject { metadata, size, content: Box::new(Cursor::new(target)) });
        }
        let size = u64::try_from(information.size()).map_err(|_| super::corrupt("file", checksum))?;
        let content = content.ok_or_else(|| super::corrupt("file", checksum))?;
        Ok(ForeignObject { metadata, size, content: Box::new(content.into_read()) })
    }

    /// Fails if an object is not what its checksum says.
    fn check(&self, kind: ObjectType, checksum: Sha256) -> Result<()> {
        let key = (glib::translate::IntoGlib::into_glib(kind) as u32, checksum);
        if self.checked.borrow().contains(&key) {
            return Ok(());
        }
        let sound = self.store.repo.fsck_object(kind, &checksum.to_string(), gio::Cancellable::NONE);
        sound.map_err(|error| self.error(error))?;
        self.checked.borrow_mut().insert(key);
        Ok(())
    }

    fn error(&self, error: glib::Error) -> Error {
        foreign(error, self.store.path())
    }
}

impl Transaction {
    /// Takes a folder of another repository with all that is below it.
    ///
    /// # Errors
    /// `Kind::Input` for an object that is missing or corrupt there; `Kind::Machine` for a full disk.
    pub fn import_tree(&mut self, from: &Foreign, folder: &mut Folder) -> Result<()> {
        self.import(from, ObjectType::DirMeta, folder.metadata)?;
        let tree = folder.stored_tree();
        for node in from.entries(folder)?.values_mut() {
            match node {
                Node::Folder(child) => self.import_tree(from, child)?,
                Node::Object { checksum, .. } => self.import(from, ObjectType::File, *checksum)?,
            }
        }
        match tree {
            Some(tree) => self.import(from, ObjectType::DirTree, tree),
            None => Ok(()), // it was looked at before: `write_tree` writes it
        }
    }

    /// Takes a commit of another repository with its tree, as it is.
    ///
    /// # Errors
    /// As [`Transaction::import_tree`].
    pub fn import_commit(&mut self, from: &Foreign, commit: Sha256) -> Result<()> {
        self.import_tree(from, &mut from.root(commit)?)?;
        self.import(from, ObjectType::Commit, commit)
    }

    fn import(&mut self, from: &Foreign, kind: ObjectType, checksum: Sha256) -> Result<()> {
        from.check(kind, checksum)?;
        // It was checked just now, so it may be linked.
        self.repository()
            .import_object_from_with_trust(
                &from.store.repo,
                kind,
                &checksum.to_string(),
                true,
                gio::Cancellable::NONE,
            )
            .map_err(|error| foreign(error, self.path()))
    }
}
