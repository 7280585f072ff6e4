//! Writing: objects are staged, and become visible, with the refs that name them, in one step.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use ostree::{
    ObjectType, gio,
    gio::prelude::OutputStreamExtManual,
    glib::{Bytes, Variant, variant::ToVariant},
};

use super::{
    COMMIT_TYPE, Folder, Node, Store, checksum_variant, foreign,
    object::{
        HEADER_PREFIX, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, file_header, link_text, metadata_variant,
        xattrs_variant,
    },
    parse_checksum, variant_type,
};
use crate::{
    artefacts::Metadata,
    digest::Sha256,
    error::{Context, Error, Result},
};

/// Files up to this size are written from memory, in one call; larger ones stream. Every thread that writes
/// has room for one.
const INLINE_LIMIT: u64 = 4 << 20;

/// A transaction: dropped without [`Transaction::commit`], nothing of it is seen. What was staged the next one takes, or
/// removes.
pub struct Transaction {
    repo: ostree::Repo,
    path: PathBuf,
    /// The repository's folder, open since before anything was written: so syncfs(2) tells of every failed write since
    /// then, also of one that another process has been told of.
    folder: File,
    open: bool,
    /// What refs are to name; none: they are to be gone.
    references: BTreeMap<String, Option<Sha256>>,
    /// Written dirmeta objects, by their bytes: a tree has thousands of folders and few kinds.
    dirmetas: HashMap<Vec<u8>, Sha256>,
}

impl Transaction {
    pub(super) fn begin(repo: ostree::Repo, path: PathBuf) -> Result<Self> {
        let writing = || format!("writing to the repository {}", path.display());
        let folder = File::open(&path).with_context(writing)?;
        let prepared = repo.prepare_transaction(gio::Cancellable::NONE);
        prepared.map_err(|error| foreign(error, &path)).with_context(writing)?;
        Ok(Transaction {
            repo,
            path,
            folder,
            open: true,
            references: BTreeMap::new(),
            dirmetas: HashMap::new(),
        })
    }

    /// Makes everything that was written durable, then visible, then moves the refs.
    ///
    /// Contents are durable before objects have names, and those before a ref names them: two syncfs(2). libostree has
    /// one, and an fsync for each of its 256 folders, which takes a multiple of that. Without a ref to move, names become
    /// durable with the next transaction that moves one. With libostree's `core.fsync=false` nothing is.
    ///
    /// # Errors
    /// `Kind::Machine` for a full disk and its like; whatever ref has moved names what is durable.
    pub fn commit(mut self) -> Result<()> {
        self.sync()?;
        let references = std::mem::take(&mut self.references);
        let moves = |(reference, commit): &(String, Option<Sha256>)| !self.is_at(reference, *commit);
        let references: Vec<_> = references.into_iter().filter(moves).collect();
        if references.is_empty() {
            return self.end();
        }
        // libostree's lock, which its binding cannot take but by another transaction: nobody removes an object that has no
        // ref yet. (A transaction takes what a killed one has staged; so it, too, has to end behind a sync.)
        let mut lock = Store::open_any(&self.path)?.transaction()?;
        self.end()?;
        self.sync()?;
        for (reference, commit) in references {
            let commit = commit.map(|commit| commit.to_string());
            let moved =
                self.repo.set_ref_immediate(None, &reference, commit.as_deref(), gio::Cancellable::NONE);
            moved.map_err(|error| self.foreign(error).context(format!("moving the ref {reference}")))?;
        }
        lock.end()
    }

    /// Gives objects their names, and libostree's lock up. Nothing becomes durable.
    fn end(&mut self) -> Result<()> {
        let as_configured = self.repo.is_disable_fsync();
        self.repo.set_disable_fsync(true);
        let ended = self.repo.commit_transaction(gio::Cancellable::NONE);
        self.repo.set_disable_fsync(as_configured);
        ended.map_err(|error| self.foreign(error))?;
        self.open = false; // so that Drop does not abort it
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if self.repo.is_disable_fsync() {
            return Ok(());
        }
        let synced = rustix::fs::syncfs(&self.folder).map_err(std::io::Error::from);
        synced.with_context(|| format!("making durable what is in {}", self.path.display()))
    }

    /// Whether a ref names this already. Then its file is not written again (libostree would): others may go
    /// by its time.
    fn is_at(&self, reference: &str, commit: Option<Sha256>) -> bool {
        let file = self.path.join("refs/heads").join(reference);
        let named = std::fs::read_to_string(file).ok();
        commit.is_some_and(|commit| named.is_some_and(|text| text.trim_end() == commit.to_string()))
    }

    /// Lets a ref name a commit, once the transaction is committed.
    pub fn set_reference(&mut self, reference: &str, commit: Sha256) {
        self.references.insert(reference.to_owned(), Some(commit));
    }

    /// Lets a ref, whether it is there or not, be gone once the transaction is committed.
    pub fn remove_reference(&mut self, reference: &str) {
        self.references.insert(reference.to_owned(), None);
    }

    /// Writes a regular file of exactly `size` bytes.
    ///
    /// # Errors
    /// `Kind::Input` if the content is shorter or longer; `Kind::Machine` for a full disk; what
    /// the reader reports.
    pub fn write_file(&mut self, metadata: &Metadata, content: &mut dyn Read, size: u64) -> Result<Sha256> {
        let mode = S_IFREG | (metadata.mode & !S_IFMT);
        if size <= INLINE_LIMIT {
            return self.write_small_file(&Metadata { mode, ..metadata.clone() }, content, size);
        }
        let xattrs = xattrs_variant(&metadata.xattrs);
        let writer = self
            .repo
            .write_regfile(None, metadata.uid, metadata.gid, mode, size, Some(&xattrs))
            .map_err(|error| self.foreign(error))?;
        let mut buffer = vec![0; 128 << 10];
        let mut written = 0;
        loop {
            let count = match content.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            written += count as u64;
            if count == 0 || written > size {
                break;
            }
            let (_, failure) = writer
                .write_all(&buffer[..count], gio::Cancellable::NONE)
                .map_err(|error| self.foreign(error))?;
            if let Some(error) = failure {
                return Err(self.foreign(error));
            }
        }
        exactly(written, size)?;
        parse_checksum(&writer.finish(gio::Cancellable::NONE).map_err(|error| self.foreign(error))?)
    }

    /// Writes a file from memory. What is hashed is what libostree takes: a header, and the content. It would
    /// hash them itself, with GLib's SHA-256, which knows no processor's instructions for that and would be
    /// a sixth of all that fetching does.
    fn write_small_file(&self, metadata: &Metadata, content: &mut dyn Read, size: u64) -> Result<Sha256> {
        let header = file_header(metadata);
        let header = header.data();
        // One byte more tells a file that is too long, and one that ends is seen without growing.
        let mut bytes = Vec::with_capacity(HEADER_PREFIX + header.len() + size as usize + 1);
        bytes.extend_from_slice(&(header.len() as u32).to_be_bytes());
        bytes.resize(HEADER_PREFIX, 0);
        bytes.extend_from_slice(header);
        let before = bytes.len();
        content.take(size + 1).read_to_end(&mut bytes)?;
        exactly((bytes.len() - before) as u64, size)?;
        let checksum = Sha256::of(&bytes);
        let length = bytes.len() as u64;
        let stream = gio::MemoryInputStream::from_bytes(&Bytes::from_owned(bytes));
        self.repo
            .write_content_trusted(&checksum.to_string(), &stream, length, gio::Cancellable::NONE)
            .map_err(|error| self.foreign(error))?;
        Ok(checksum)
    }

    /// Writes a symbolic link; of `metadata`, the owner and the attributes count.
    ///
    /// # Errors
    /// `Kind::Input` for a target that is not UTF-8; `Kind::Machine` for a full disk.
    pub fn write_symlink(&mut self, metadata: &Metadata, target: &[u8]) -> Result<Sha256> {
        let (uid, gid) = (metadata.uid, metadata.gid);
        let xattrs = xattrs_variant(&metadata.xattrs);
        let checksum = self
            .repo
            .write_symlink(None, uid, gid, Some(&xattrs), link_text(target)?, gio::Cancellable::NONE)
            .map_err(|error| self.foreign(error))?;
        parse_checksum(&checksum)
    }

    /// Writes a file or a link, by the type bits of its mode.
    ///
    /// # Errors
    /// As [`Transaction::write_file`] and [`Transaction::write_symlink`].
    pub fn write_object(&mut self, metadata: &Metadata, content: &[u8]) -> Result<Sha256> {
        match metadata.mode & S_IFMT {
            S_IFLNK => self.write_symlink(metadata, content),
            _ => self.write_file(metadata, &mut &*content, content.len() as u64),
        }
    }

    /// Writes a folder's owner, mode and attributes.
    ///
    /// # Errors
    /// `Kind::Machine` for a full disk.
    pub fn write_folder_metadata(&mut self, metadata: &Metadata) -> Result<Sha256> {
        let folder = Metadata { mode: S_IFDIR | (metadata.mode & !S_IFMT), ..metadata.clone() };
        let variant = metadata_variant(&folder);
        if let Some(&checksum) = self.dirmetas.get(variant.data()) {
            return Ok(checksum);
        }
        let checksum = self.write_metadata(ObjectType::DirMeta, &variant)?;
        self.dirmetas.insert(variant.data().to_vec(), checksum);
        Ok(checksum)
    }

    /// Writes what was loaded of a tree, from the leaves up. Parts that were never loaded are not
    /// touched; parts that did not change are found to be there.
    ///
    /// # Errors
    /// `Kind::Machine` for a full disk.
    pub fn write_tree(&mut self, folder: &Folder) -> Result<Sha256> {
        let entries = match folder.loaded() {
            Ok(entries) => entries,
            Err(stored) => return Ok(stored),
        };
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        for (name, node) in entries {
            match node {
                Node::Object { checksum, .. } => {
                    files.push(Variant::tuple_from_iter([name.to_variant(), checksum_variant(*checksum)]));
                }
                Node::Folder(child) => {
                    let tree = checksum_variant(self.write_tree(child)?);
                    let metadata = checksum_variant(child.metadata);
                    folders.push(Variant::tuple_from_iter([name.to_variant(), tree, metadata]));
                }
            }
        }
        let tree = Variant::tuple_from_iter([
            Variant::array_from_iter_with_type(variant_type("(say)"), files),
            Variant::array_from_iter_with_type(variant_type("(sayay)"), folders),
        ]);
        self.write_metadata(ObjectType::DirTree, &tree)
    }

    /// Writes a commit of a tree: no parent, time 0, and `values` (JSON, by key) as its metadata, so
    /// that the same tree and values give the same checksum everywhere.
    ///
    /// # Errors
    /// `Kind::Machine` for a full disk.
    pub fn write_commit(
        &mut self,
        root: &Folder,
        subject: &str,
        values: &mut [(&str, String)],
    ) -> Result<Sha256> {
        let tree = self.write_tree(root)?;
        let none = Variant::array_from_fixed_array::<u8>(&[]);
        let commit = Variant::tuple_from_iter([
            values_variant(values),
            none,
            Variant::array_from_iter_with_type(variant_type("(say)"), std::iter::empty::<Variant>()),
            subject.to_variant(),
            "".to_variant(),
            0u64.to_variant(),
            checksum_variant(tree),
            checksum_variant(root.metadata),
        ]);
        debug_assert_eq!(commit.type_(), variant_type(COMMIT_TYPE));
        self.write_metadata(ObjectType::Commit, &commit)
    }

    /// Writes values beside a commit of this repository, where they do not count for its checksum
    /// (detached metadata); what was there before is replaced.
    ///
    /// # Errors
    /// `Kind::Machine` for a full disk.
    pub fn write_beside_commit(&mut self, commit: Sha256, values: &mut [(&str, String)]) -> Result<()> {
        self.repo
            .write_commit_detached_metadata(
                &commit.to_string(),
                Some(&values_variant(values)),
                gio::Cancellable::NONE,
            )
            .map_err(|error| self.foreign(error))
    }

    fn write_metadata(&self, kind: ObjectType, variant: &Variant) -> Result<Sha256> {
        let checksum = self
            .repo
            .write_metadata(kind, None, variant, gio::Cancellable::NONE)
            .map_err(|error| self.foreign(error))?;
        parse_checksum(&checksum.to_hex())
    }

    /// libostree's own handle.
    pub(super) fn repository(&self) -> &ostree::Repo {
        &self.repo
    }

    /// Where the repository is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn foreign(&self, error: ostree::glib::Error) -> Error {
        foreign(error, &self.path)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open {
            // What stays behind after a failure here is in tmp/, where libostree removes what is a day old.
            let _ = self.repo.abort_transaction(gio::Cancellable::NONE);
        }
    }
}

/// Values by key, sorted, as commits have them.
fn values_variant(values: &mut [(&str, String)]) -> Variant {
    values.sort();
    let entries = values
        .iter()
        .map(|(key, json)| Variant::from_dict_entry(&key.to_variant(), &json.to_variant().to_variant()));
    Variant::array_from_iter_with_type(variant_type("{sv}"), entries)
}

fn exactly(found: u64, size: u64) -> Result<()> {
    if found == size {
        return Ok(());
    }
    let more = if found > size { "more" } else { "fewer" };
    Err(Error::input(format!("a file has {more} than its {size} bytes")))
}
