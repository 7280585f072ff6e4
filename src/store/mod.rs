//! The OSTree repository: the only user of libostree.
//!
//! What is in it, and who writes it:
//!
//! ```text
//! refs/heads/deb/pool/XX/YYYY…            one commit a deb, by the deb's SHA-256     ingest
//! refs/heads/deb/images/IMAGE/unpacked    what `dpkg --unpack` would leave           compose
//! refs/heads/deb/images/IMAGE/configured  the finished image                         commit
//! refs/heads/deb/memory/DIGEST            a finished tree, by what determined it     pipeline
//! refs/heads/deb/imported/IMAGE/STAGE     what another system made                    import
//! refs/heads/deb/tools/HOST/qemu-NAME/DEB one program of a deb, by its SHA-256       ingest
//! refs/heads/deb/twins/HOST/ARCH/KEY      programs that run in place of foreign ones twins
//! refs/heads/deb/twins/HOST/ARCH/parts-RULES/DEB  what a package gives to them       twins
//! extensions/treestrap/                   what we keep beside the objects
//! ```
//!
//! The repository is bare-user: content objects belong to the user who runs treestrap, and their
//! real owner, mode and extended attributes are in the attribute `user.ostreemeta`. A [`Store`] is
//! for one thread (GObject is not `Sync`): every thread opens its own, and libostree's own lock
//! keeps threads and processes apart. Objects are written in a [`Transaction`]: nothing becomes
//! visible before it is on the disk.

mod checkout;
mod diff;
mod foreign;
mod in_use;
mod object;
mod prune;
pub mod records;
mod transaction;
mod tree;
mod walk;

use std::path::{Path, PathBuf};

use ostree::{
    ObjectType, RepoMode, gio,
    glib::{self, Variant, VariantTy},
};
use serde::de::DeserializeOwned;

pub use self::{
    diff::{Change, Difference},
    foreign::{Foreign, ForeignObject, ForeignReference},
    object::{Content, FileReader},
    prune::Pruned,
    transaction::Transaction,
    tree::{Folder, Node},
    walk::{Visit, Visited},
};
use crate::{
    artefacts::Metadata,
    digest::Sha256,
    error::{Context, Error, Result},
};

/// The GVariant type of a commit object (`ostree_repo_write_commit` in ostree-core.h).
const COMMIT_TYPE: &str = "(a{sv}aya(say)sstayay)";

/// Below a repository, where we keep what is no object. libostree leaves `extensions/` to others.
pub const PRIVATE_FOLDER: &str = "extensions/treestrap";

/// An open repository. Cheap to open; one a thread.
pub struct Store {
    repo: ostree::Repo,
    path: PathBuf,
}

impl Store {
    /// Opens a repository that is there.
    ///
    /// # Errors
    /// If it is not there, not a bare-user repository, or not readable.
    pub fn open(path: &Path) -> Result<Store> {
        let store = Store::open_any(path)?;
        if store.repo.mode() != RepoMode::BareUser {
            let message =
                format!("{} is an OSTree repository of another mode than bare-user", path.display());
            return Err(
                Error::input(message).hint("name another folder with --repo: it is created as needed")
            );
        }
        in_use::note(path)?;
        Ok(store)
    }

    /// Opens a repository of any mode.
    fn open_any(path: &Path) -> Result<Store> {
        let repo = ostree::Repo::new_for_path(path);
        repo.open(gio::Cancellable::NONE)
            .map_err(|error| foreign(error, path))
            .with_context(|| format!("opening the repository {}", path.display()))?;
        Ok(Store { repo, path: path.to_owned() })
    }

    /// Opens a repository, after creating it (and the folders above it) where it is missing.
    ///
    /// # Errors
    /// As [`Store::open`]; if it cannot be created.
    pub fn open_or_create(path: &Path) -> Result<Store> {
        // What libostree makes last: a repository without it is half made, by a run that is under way
        // or by one that was killed.
        if !path.join("objects").exists() {
            let creating = || format!("creating the repository {}", path.display());
            std::fs::create_dir_all(path).with_context(creating)?;
            let text = path.to_str().ok_or_else(|| {
                Error::input(format!("the repository's path {} is not UTF-8", path.display()))
            })?;
            // Harmless where another process does the same at the same time: libostree leaves what
            // is there alone, and makes what is missing.
            ostree::Repo::create_at(ostree::AT_FDCWD, text, RepoMode::BareUser, None, gio::Cancellable::NONE)
                .map_err(|error| foreign(error, path))
                .with_context(creating)?;
        }
        Store::open(path)
    }

    /// A second handle on the same repository, for another thread.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn reopen(&self) -> Result<Store> {
        Store::open(&self.path)
    }

    /// Where the repository is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a transaction.
    ///
    /// # Errors
    /// `Kind::Machine` if the repository cannot be written to.
    pub fn transaction(&self) -> Result<Transaction> {
        Transaction::begin(self.repo.clone(), self.path.clone())
    }

    /// The commit that a ref names, if there is such a ref.
    ///
    /// # Errors
    /// If the repository cannot be read.
    pub fn resolve(&self, reference: &str) -> Result<Option<Sha256>> {
        match self.repo.resolve_rev(reference, true) {
            Ok(None) => Ok(None),
            Ok(Some(checksum)) => Ok(Some(parse_checksum(&checksum)?)),
            Err(error) => Err(self.foreign(error).context(format!("resolving {reference}"))),
        }
    }

    /// Sets a ref.
    ///
    /// # Errors
    /// If the repository cannot be written to.
    pub fn set_reference(&self, reference: &str, commit: Sha256) -> Result<()> {
        let mut transaction = self.transaction()?;
        transaction.set_reference(reference, commit);
        transaction.commit()
    }

    /// Removes refs, as far as they are there.
    ///
    /// # Errors
    /// If the repository cannot be written to.
    pub fn remove_references(&self, references: &[String]) -> Result<()> {
        let mut transaction = self.transaction()?;
        for reference in references {
            if self.resolve(reference)?.is_some() {
                transaction.remove_reference(reference);
            }
        }
        transaction.commit()
    }

    /// As [`Store::resolve`], with an error for a ref that is not there.
    ///
    /// # Errors
    /// `Kind::Input` if there is no such ref.
    pub fn require(&self, reference: &str) -> Result<Sha256> {
        self.resolve(reference)?
            .ok_or_else(|| Error::input(format!("{} has no ref {reference}", self.path.display())))
    }

    /// The refs below a prefix (whole components of a name; empty: all) with their commits, sorted.
    ///
    /// # Errors
    /// If the repository cannot be read.
    pub fn references(&self, prefix: &str) -> Result<Vec<(String, Sha256)>> {
        use ostree::RepoListRefsExtFlags as Flags;
        let refs = self
            .repo
            .list_refs_ext((!prefix.is_empty()).then_some(prefix), Flags::NONE, gio::Cancellable::NONE)
            .map_err(|error| self.foreign(error))?;
        let mut result =
            refs.into_iter().map(|(name, commit)| Ok((name, commit.parse()?))).collect::<Result<Vec<_>, _>>();
        if let Ok(result) = &mut result {
            result.sort();
        }
        result.map_err(|error: crate::digest::NotADigest| Error::bug(error))
    }

    /// Whether a commit object is in the repository.
    ///
    /// # Errors
    /// If the repository cannot be read.
    pub fn has_commit(&self, commit: Sha256) -> Result<bool> {
        self.repo
            .has_object(ObjectType::Commit, &commit.to_string(), gio::Cancellable::NONE)
            .map_err(|error| self.foreign(error))
    }

    /// The root folder of a commit; nothing below it is read yet.
    ///
    /// # Errors
    /// If there is no such commit.
    pub fn root(&self, commit: Sha256) -> Result<Folder> {
        let variant = self.load(ObjectType::Commit, commit)?;
        Ok(Folder::stored(checksum_of(&variant.child_value(6))?, checksum_of(&variant.child_value(7))?))
    }

    /// What a commit says under a key of treestrap's own; none if it has no such key.
    ///
    /// # Errors
    /// If there is no such commit, or the value is not what it should be.
    pub fn commit_value<T: DeserializeOwned>(&self, commit: Sha256, key: &str) -> Result<Option<T>> {
        value_of(&self.load(ObjectType::Commit, commit)?.child_value(0), commit, key)
    }

    /// As [`Store::commit_value`], if the commit's [`records::FORMAT_KEY`] is ours; else none.
    ///
    /// # Errors
    /// As [`Store::commit_value`].
    fn own_commit_value<T: DeserializeOwned>(&self, commit: Sha256, key: &str) -> Result<Option<T>> {
        let values = self.load(ObjectType::Commit, commit)?.child_value(0);
        match value_of::<u32>(&values, commit, records::FORMAT_KEY)? {
            Some(records::FORMAT) => value_of(&values, commit, key),
            _ => Ok(None),
        }
    }

    /// What stands under a key beside a commit ([`Transaction::write_beside_commit`]); none if there
    /// is no such key.
    ///
    /// # Errors
    /// If the repository cannot be read, or the value is not what it should be.
    pub fn value_beside_commit<T: DeserializeOwned>(&self, commit: Sha256, key: &str) -> Result<Option<T>> {
        let beside = self.repo.read_commit_detached_metadata(&commit.to_string(), gio::Cancellable::NONE);
        match beside.map_err(|error| self.foreign(error))? {
            Some(values) => value_of(&values, commit, key),
            None => Ok(None),
        }
    }

    /// A folder's owner, mode and extended attributes.
    ///
    /// # Errors
    /// If there is no such dirmeta object.
    pub fn folder_metadata(&self, dirmeta: Sha256) -> Result<Metadata> {
        let variant = self.load(ObjectType::DirMeta, dirmeta)?;
        object::parse_metadata(&variant).ok_or_else(|| corrupt("dirmeta", dirmeta))
    }

    fn load(&self, kind: ObjectType, checksum: Sha256) -> Result<Variant> {
        self.repo.load_variant(kind, &checksum.to_string()).map_err(|error| self.foreign(error))
    }

    fn foreign(&self, error: glib::Error) -> Error {
        foreign(error, &self.path)
    }
}

/// Writes to the disk what is in memory of a repository, and of what else is in its file system.
///
/// # Errors
/// What could not be written; transactions that are open are told of that when they are committed, too.
pub fn write_back(repository: &Path) -> Result<()> {
    let written = std::fs::File::open(repository).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
    written.with_context(|| format!("writing to the repository {}", repository.display()))
}

/// A value of a commit's metadata, or of what stands beside it.
fn value_of<T: DeserializeOwned>(values: &Variant, checksum: Sha256, key: &str) -> Result<Option<T>> {
    for entry in values.iter() {
        if entry.child_value(0).str() != Some(key) {
            continue;
        }
        let Some(value) = entry.child_value(1).as_variant() else { continue };
        return serde_json::from_str(value.str().unwrap_or_default())
            .map(Some)
            .map_err(|error| Error::input(format!("commit {checksum}: {key}: {error}")));
    }
    Ok(None)
}

/// One of our errors for one of libostree's.
fn foreign(error: glib::Error, path: &Path) -> Error {
    use gio::IOErrorEnum as E;
    let message = error.message();
    // libostree keeps a reserve (min-free-space-percent, 3 % by default) and says so in words only.
    if error.matches(E::NoSpace) || message.contains("min-free-space") {
        return Error::machine(format!("{}: {message}", path.display()))
            .hint("free some space (df -h), then run the same command again: what was done is kept");
    }
    if error.matches(E::PermissionDenied) || error.matches(E::ReadOnly) || message.contains("Read-only") {
        return Error::machine(format!("{}: {message}", path.display()))
            .hint("name a repository that you may write to with --repo");
    }
    Error::input(message)
}

fn corrupt(kind: &str, checksum: Sha256) -> Error {
    Error::input(format!("the {kind} object {checksum} is corrupt")).hint("run: ostree fsck --repo=REPO")
}

fn parse_checksum(text: &str) -> Result<Sha256> {
    text.parse().map_err(Error::bug)
}

fn checksum_of(variant: &Variant) -> Result<Sha256> {
    let bytes = variant.fixed_array::<u8>().map_err(Error::input)?;
    bytes.try_into().map(Sha256).map_err(|_| Error::input("an object's checksum is not of 32 bytes"))
}

fn checksum_variant(checksum: Sha256) -> Variant {
    Variant::array_from_fixed_array(&checksum.0)
}

fn variant_type(text: &'static str) -> &'static VariantTy {
    VariantTy::new(text).expect("a constant that is a GVariant type")
}

#[cfg(test)]
pub(crate) mod tests;
