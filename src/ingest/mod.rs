//! The ingest stage: a deb, while it streams by, becomes a commit at `deb/pool/…`.
//!
//! ```text
//! data/      the file tree, with the owners, modes, links and attributes that its tar has
//! control/   the files of its control member, as they are
//! info/      what dpkg will have of it in var/lib/dpkg/info: PACKAGE[:ARCH].list, .md5sums, scripts, …
//! ```
//!
//! The commit's metadata has a [`PackageRecord`] with all that compose needs, so that compose opens
//! no file. A deb that is not what the lock names, or that dpkg would not unpack as it stands, is
//! refused: nothing of it gets a ref. The deb itself is never stored.

mod adopt;
mod control;
mod data;
mod extract;

use std::{
    io::{self, Read},
    path::Path,
};

use sha2::Digest;

pub use self::{
    adopt::{Adopted, UnpackedDeb},
    extract::{Program, extract, extracted},
};
use self::{
    control::Control,
    data::{Data, Wanted},
};
use crate::{
    artefacts::{IngestedPackage, LockedPackage, Metadata},
    debian::{changelog::Changelog, deb::Deb},
    digest::Sha256,
    error::{Context, Error, Kind, Result},
    store::{
        Folder, Node, Store, Transaction,
        records::{self, FORMAT, FORMAT_KEY, PACKAGE_KEY, PackageRecord, pool_reference},
    },
};

/// A batch is made durable once it has this many debs or [`BATCH_BYTES`] of files: making one
/// durable waits for the disk twice (syncfs(2)), as long as ingesting several small debs takes.
/// A killed run loses at most a batch for every thread.
const BATCH_DEBS: usize = 128;
/// As [`BATCH_DEBS`], in bytes.
const BATCH_BYTES: u64 = 512 << 20;

/// Ingests debs into one repository. One a thread.
pub struct Ingester {
    store: Store,
    batch: Option<Transaction>,
    debs: usize,
    bytes: u64,
    /// Whether the digests are those of an archive, and not of the debs as they were found.
    has_digests: bool,
}

impl Ingester {
    /// Opens the repository; creates it where it is missing.
    ///
    /// # Errors
    /// As [`Store::open_or_create`].
    pub fn new(repository: &Path) -> Result<Self> {
        let store = Store::open_or_create(repository)?;
        Ok(Ingester { store, batch: None, debs: 0, bytes: 0, has_digests: false })
    }

    /// For debs whose digests an archive states: those say enough, and checksums inside the debs are not
    /// compared besides.
    #[must_use]
    pub fn of_archive(self, has_digests: bool) -> Self {
        Ingester { has_digests, ..self }
    }

    /// The repository.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The package, if it is in the repository (and durable) already.
    ///
    /// # Errors
    /// If the repository cannot be read; `Kind::Input` if the deb that the lock names is another
    /// package.
    pub fn lookup(&self, package: &LockedPackage) -> Result<Option<IngestedPackage>> {
        let Some(commit) = self.store.resolve(&pool_reference(package.sha256))? else { return Ok(None) };
        let Some(record) = self.store.package_record(commit)? else { return Ok(None) };
        check_identity(package, &record.name, &record.version, &record.architecture)
            .with_context(|| package.id())?;
        Ok(Some(ingested(package, commit)))
    }

    /// Reads a deb to its end and writes its trees. They are durable, and have their ref, only after
    /// [`Ingester::finish`] or [`Ingester::flush`].
    ///
    /// # Errors
    /// `Kind::Input`, naming the package, if the deb is not what the lock names, is corrupt, or has
    /// what dpkg would not unpack; `Kind::Machine` for a full disk; what `body` reports.
    pub fn ingest(&mut self, package: &LockedPackage, body: &mut dyn Read) -> Result<IngestedPackage> {
        let mut body =
            Measured { reader: body, hasher: sha2::Sha256::new(), count: 0, limit: package.most_bytes() };
        let written = self.write(package, &mut body);
        let result = match written {
            Ok(result) => body.check(package).map(|()| result),
            // Of a damaged download, the damage is worth reporting, not what it led to.
            Err(error) if error.kind() == Kind::Input => match io::copy(&mut body, &mut io::sink()) {
                Ok(_) => Err(body.check(package).err().unwrap_or(error)),
                Err(_) => Err(error),
            },
            Err(error) => Err(error),
        };
        let (commit, bytes) = result.with_context(|| package.id())?;
        self.finished(package.sha256, commit, bytes)?;
        Ok(ingested(package, commit))
    }

    /// Gives a deb's commit its ref, and flushes a full batch.
    fn finished(&mut self, deb: Sha256, commit: Sha256, bytes: u64) -> Result<()> {
        let batch = self.batch.as_mut().ok_or_else(|| Error::bug("ingest lost its transaction"))?;
        batch.set_reference(&pool_reference(deb), commit);
        self.debs += 1;
        self.bytes += bytes;
        if self.debs >= BATCH_DEBS || self.bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Makes what was ingested so far durable.
    ///
    /// # Errors
    /// `Kind::Machine` for a full disk and its like; then none of the batch has a ref.
    pub fn flush(&mut self) -> Result<()> {
        (self.debs, self.bytes) = (0, 0);
        match self.batch.take() {
            Some(batch) => batch.commit().context("making the ingested packages durable"),
            None => Ok(()),
        }
    }

    /// Makes everything durable. What is not finished is lost.
    ///
    /// # Errors
    /// As [`Ingester::flush`].
    pub fn finish(mut self) -> Result<()> {
        self.flush()
    }

    /// Writes the commit; gives it with the size of the files in it.
    fn write(&mut self, package: &LockedPackage, body: &mut impl Read) -> Result<(Sha256, u64)> {
        if self.batch.is_none() {
            self.batch = Some(self.store.transaction()?);
        }
        let batch = self.batch.as_mut().ok_or_else(|| Error::bug("a transaction that was just begun"))?;
        let mut deb = Deb::new(body)?;
        if self.has_digests {
            deb = deb.of_known_digest();
        }
        let mut member = deb.control()?;
        let control = Control::read(&mut member)?;
        member.finish()?;
        check_identity(package, &control.name, &control.version, &control.architecture)?;

        let mut member = deb.data()?;
        let wanted = Wanted {
            md5sums: !control.has("md5sums"),
            changelog: Changelog::of(&control.name, &control.architecture),
        };
        let data = Data::read(&mut member, &self.store, batch, package.most_bytes(), wanted)?;
        member.finish()?;
        deb.finish()?;
        self.write_commit(package.sha256, &control, data)
    }

    /// Writes the commit of a deb whose tree is in the transaction; gives it with the size of the files
    /// in it.
    fn write_commit(&mut self, deb: Sha256, control: &Control, data: Data) -> Result<(Sha256, u64)> {
        let batch = self.batch.as_mut().ok_or_else(|| Error::bug("ingest lost its transaction"))?;
        let info = info_files(control, &data);
        let record = record(deb, control, &data);
        let folder = batch.write_folder_metadata(&Metadata::FOLDER)?;
        let mut root = Folder::empty(folder);
        let store = &self.store;
        for (name, files) in [("control", control.files.as_slice()), ("info", info.as_slice())] {
            let mut child = Folder::empty(folder);
            for (name, metadata, content) in files {
                let checksum = batch.write_object(metadata, content)?;
                child.entries(store)?.insert(name.clone(), Node::Object { checksum, mark: 0 });
            }
            root.entries(store)?.insert(name.to_owned(), Node::Folder(child));
        }
        root.entries(store)?.insert("data".to_owned(), Node::Folder(data.root));
        let mut values =
            [(FORMAT_KEY, records::to_json(&FORMAT)?), (PACKAGE_KEY, records::to_json(&record)?)];
        let id = format!("{}_{}_{}", control.name, control.version, control.architecture);
        let commit = batch.write_commit(&root, &id, &mut values)?;
        Ok((commit, data.bytes))
    }
}

fn ingested(package: &LockedPackage, commit: Sha256) -> IngestedPackage {
    IngestedPackage {
        name: package.name.clone(),
        version: package.version.clone(),
        architecture: package.architecture.clone(),
        deb: package.sha256,
        commit,
        layer: package.layer(),
    }
}

/// Whether the deb is the package that the lock says it is.
fn check_identity(package: &LockedPackage, name: &str, version: &str, architecture: &str) -> Result<()> {
    for (field, locked, found) in [
        ("Package", package.name.as_str(), name),
        ("Version", &package.version, version),
        ("Architecture", &package.architecture, architecture),
    ] {
        if locked != found {
            return Err(Error::input(format!("the deb's {field} is {found:?}, the lock has {locked:?}")));
        }
    }
    Ok(())
}

type InfoFile = (String, Metadata, Vec<u8>);

/// What dpkg puts into its info folder: all control files but `control` and those with a dot in
/// front, `list` as it unpacked, and `md5sums` where the package brings none
/// (`pkg_infodb_update` and `write_filehash_except` in dpkg's unpack.c and filesdb-hash.c).
fn info_files(control: &Control, data: &Data) -> Vec<InfoFile> {
    let own = Metadata { uid: 0, gid: 0, mode: 0o100_644, xattrs: Vec::new() };
    let name = |kind: &str| format!("{}.{kind}", control.info_name);
    let mut files = vec![(name("list"), own.clone(), data.list.clone().into_bytes())];
    if !control.has("md5sums") {
        files.push((name("md5sums"), own.clone(), data.md5sums.clone().into_bytes()));
    }
    for (kind, metadata, content) in &control.files {
        if kind.starts_with('.') || kind == "control" || kind == "list" {
            continue;
        }
        // dpkg-deb extracts control files with dpkg's umask of 022, as whoever runs it.
        let mode = 0o100_000 | (metadata.mode & 0o755);
        files.push((name(kind), Metadata { mode, ..own.clone() }, content.clone()));
    }
    files
}

fn record(deb: Sha256, control: &Control, data: &Data) -> PackageRecord {
    PackageRecord {
        name: control.name.clone(),
        version: control.version.clone(),
        architecture: control.architecture.clone(),
        deb,
        info_name: control.info_name.clone(),
        control: control.stanza.clone(),
        conffiles: control.conffiles.clone(),
        triggers: control.triggers.clone(),
        scripts: control.scripts(),
        diverts: control.diverts(&data.list),
        list: data.list.clone(),
        made_md5sums: (!control.has("md5sums")).then(|| data.md5sums.clone()),
        symlinks: data.symlinks.clone(),
        hard_links: data.hard_links.clone(),
        newest: data.newest,
        bytes: data.bytes,
    }
}

/// Hashes and counts what is read, and ends after one byte too many.
struct Measured<'a> {
    reader: &'a mut dyn Read,
    hasher: sha2::Sha256,
    count: u64,
    limit: u64,
}

impl Read for Measured<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte past the limit tells a deb that is too long; more of it is of no interest.
        let left = self.limit.saturating_add(1).saturating_sub(self.count);
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.reader.read(&mut buffer[..most])?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        Ok(count)
    }
}

impl Measured<'_> {
    /// Whether all that was read is the deb that the lock names.
    fn check(&self, package: &LockedPackage) -> Result<()> {
        if self.count != self.limit && package.known_size().is_some() {
            let more = if self.count > self.limit { "more" } else { "fewer" };
            return Err(Error::input(format!(
                "the deb has {more} than the {} bytes of the lock",
                self.limit
            )));
        }
        let digest = Sha256(self.hasher.clone().finalize().into());
        if digest != package.sha256 {
            let message = format!("the deb's SHA-256 is {digest}, the lock has {}", package.sha256);
            return Err(Error::input(message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
