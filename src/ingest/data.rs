//! The data member of a deb: its tar becomes a tree, file by file.
//!
//! dpkg is the model for what is there and in which order (`tar_extractor` in tarfn.c, `tarobject` in
//! archives.c): symbolic links come after everything else, a folder that comes again is passed over.
//! It is not the model for what is trusted: paths that lead out of the package's own tree, through
//! its own links, or to another meaning of the same name are refused.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    io::{self, Read},
};

use md5::Digest;
use tar::EntryType;

use crate::{
    artefacts::Metadata,
    debian::changelog::Changelog,
    digest::Sha256,
    error::{Context, Error, Result},
    store::{Folder, Node, Store, Transaction},
};

/// A tar may hold this much whatever the deb's size …
const SIZE_ALLOWANCE: u64 = 1 << 30;
/// … and this many times the deb's size. The densest packages in Debian reach a factor of 50; a
/// bomb reaches 7000 with xz.
const SIZE_FACTOR: u64 = 200;

/// PATH_MAX and NAME_MAX of Linux (limits.h).
const PATH_LIMIT: usize = 4096;
const NAME_LIMIT: usize = 255;

/// A data member.
pub(super) struct Data {
    /// The tree.
    pub(super) root: Folder,
    /// The text of dpkg's `.list` file.
    pub(super) list: String,
    /// The text of a `.md5sums` file as dpkg makes it; empty unless asked for.
    pub(super) md5sums: String,
    /// Symbolic links: path and target.
    pub(super) symlinks: Vec<(String, String)>,
    /// Groups of hard links.
    pub(super) hard_links: Vec<Vec<String>>,
    /// The date of its changelog's newest entry, in seconds since 1970; 0 without one.
    pub(super) newest: u64,
    /// Bytes in files.
    pub(super) bytes: u64,
}

/// What is looked for on the way.
pub(super) struct Wanted {
    /// Whether a `.md5sums` text is made.
    pub(super) md5sums: bool,
    /// The package's changelog.
    pub(super) changelog: Changelog,
}

/// What the reader knows of a path that is no folder.
enum Leaf {
    File { checksum: Sha256, md5: Option<String>, group: Option<usize> },
    Symlink,
}

struct Reader<'a> {
    store: &'a Store,
    transaction: &'a mut Transaction,
    wanted: Wanted,
    /// The most bytes that may come out of the member.
    limit: u64,
    data: Data,
    leaves: HashMap<String, Leaf>,
    /// Folders that the tar implied and may yet list.
    implied: HashSet<String>,
    /// Lines of `.list` for symbolic links, which dpkg creates last.
    last_lines: String,
}

impl Data {
    /// Of a tree of which nothing is known yet.
    pub(super) fn empty(root: Folder) -> Data {
        Data {
            root,
            list: String::new(),
            md5sums: String::new(),
            symlinks: Vec::new(),
            hard_links: Vec::new(),
            newest: 0,
            bytes: 0,
        }
    }

    /// Reads the member's tar and writes its objects.
    pub(super) fn read(
        member: &mut impl Read,
        store: &Store,
        transaction: &mut Transaction,
        deb_size: u64,
        wanted: Wanted,
    ) -> Result<Data> {
        let limit = SIZE_ALLOWANCE.saturating_add(deb_size.saturating_mul(SIZE_FACTOR));
        let root = Folder::empty(transaction.write_folder_metadata(&Metadata::FOLDER)?);
        let data = Data::empty(root);
        let mut reader = Reader {
            store,
            transaction,
            wanted,
            limit,
            data,
            leaves: HashMap::new(),
            implied: HashSet::from([String::new()]),
            last_lines: String::new(),
        };
        let mut archive = tar::Archive::new(member.take(limit));
        for entry in archive.entries().context("data member")? {
            reader.entry(&mut entry.context("data member")?)?;
        }
        if archive.into_inner().limit() == 0 {
            let message = format!("data member: more than {limit} bytes come out of {deb_size}");
            return Err(Error::input(message));
        }
        reader.data.list.push_str(&reader.last_lines);
        reader.data.newest = reader.wanted.changelog.date();
        Ok(reader.data)
    }
}

impl Reader<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<()> {
        let raw = entry.path_bytes().into_owned();
        let shown = || String::from_utf8_lossy(&raw).into_owned();
        if raw.starts_with(b"/") {
            return Err(Error::input(format!("an absolute path: {:?}", shown())));
        }
        let path = normal_path(&raw)?;
        let kind = entry.header().entry_type();
        // Before ustar a folder was a file whose name ends in a slash.
        let folder = kind.is_dir() || (kind == EntryType::Regular && raw.ends_with(b"/"));
        if path.is_empty() && !folder {
            return Err(Error::input(format!("not a path: {:?}", shown())));
        }
        let metadata = entry_metadata(entry).with_context(shown)?;
        if folder {
            return self.folder(path, &metadata);
        }
        if self.leaves.contains_key(&path) || self.data.root.find(self.store, &path)?.is_some() {
            return Err(Error::input(format!("{path} is in the tar twice")));
        }
        match kind {
            EntryType::Regular | EntryType::GNUSparse => self.file(path, &metadata, entry),
            EntryType::Link | EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                if kind == EntryType::Link {
                    self.hard_link(path, &target)
                } else {
                    self.symlink(path, &metadata, &target)
                }
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                Err(Error::input(format!("{path} is a device or a fifo, which OSTree cannot hold")))
            }
            other => {
                Err(Error::input(format!("{path} is of the tar type {:?}", char::from(other.as_byte()))))
            }
        }
    }

    fn folder(&mut self, path: String, metadata: &Metadata) -> Result<()> {
        self.line(if path.is_empty() { "." } else { &path }, false);
        let checksum = self.transaction.write_folder_metadata(metadata)?;
        let known = self.data.root.folder(self.store, &path)?.is_some();
        // A folder that comes again keeps what it has first, as dpkg does.
        if known && !self.implied.remove(&path) {
            return Ok(());
        }
        self.parent_of(&path)?;
        match self.data.root.make_folder(self.store, &path, checksum)? {
            Some(folder) => folder.metadata = checksum,
            None => return Err(Error::input(format!("{path} is in the tar twice"))),
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        path: String,
        metadata: &Metadata,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<()> {
        let size = entry.size();
        // Before anything of a bomb is written.
        self.data.bytes = self.data.bytes.saturating_add(size);
        if self.data.bytes > self.limit {
            return Err(Error::input(format!("{path}: {size} bytes, more than can come out of such a deb")));
        }
        let mut content = Watched {
            reader: entry,
            hasher: self.wanted.md5sums.then(md5::Md5::new),
            copy: self.wanted.changelog.wants(&path, size).then(Vec::new),
        };
        let checksum =
            self.transaction.write_file(metadata, &mut content, size).with_context(|| path.clone())?;
        if let Some(copy) = content.copy {
            self.wanted.changelog.file(&path, &copy);
        }
        let md5 = content.hasher.map(digits);
        if let Some(md5) = &md5 {
            let _ = writeln!(self.data.md5sums, "{md5}  {path}");
        }
        self.leaf(path, checksum, Leaf::File { checksum, md5, group: None })
    }

    fn hard_link(&mut self, path: String, target: &[u8]) -> Result<()> {
        let target = normal_path(target).with_context(|| path.clone())?;
        let Some(Leaf::File { checksum, md5, group }) = self.leaves.get_mut(&target) else {
            let message = format!("{path} is a hard link to {target}, which is no file before it in the tar");
            return Err(Error::input(message));
        };
        let checksum = *checksum;
        let index = *group.get_or_insert_with(|| {
            self.data.hard_links.push(vec![target.clone()]);
            self.data.hard_links.len() - 1
        });
        self.data.hard_links[index].push(path.clone());
        let md5 = md5.clone();
        if let Some(md5) = &md5 {
            let _ = writeln!(self.data.md5sums, "{md5}  {path}");
        }
        self.leaf(path, checksum, Leaf::File { checksum, md5, group: Some(index) })
    }

    fn symlink(&mut self, path: String, metadata: &Metadata, target: &[u8]) -> Result<()> {
        let checksum = self.transaction.write_symlink(metadata, target).with_context(|| path.clone())?;
        let text = String::from_utf8(target.to_vec()).map_err(Error::input)?;
        self.data.symlinks.push((path.clone(), text));
        self.leaf(path, checksum, Leaf::Symlink)
    }

    fn leaf(&mut self, path: String, checksum: Sha256, leaf: Leaf) -> Result<()> {
        self.line(&path, matches!(leaf, Leaf::Symlink));
        let store = self.store;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let node = Node::Object { checksum, mark: 0 };
        self.parent_of(&path)?;
        let folder =
            self.data.root.folder(store, parent)?.ok_or_else(|| Error::bug("a folder made just now"))?;
        folder.entries(store)?.insert(name.to_owned(), node);
        self.leaves.insert(path, leaf);
        Ok(())
    }

    /// Makes the folders above a path, unless something else is in the way.
    fn parent_of(&mut self, path: &str) -> Result<()> {
        for (end, _) in path.match_indices('/') {
            let above = &path[..end];
            match self.leaves.get(above) {
                None => {}
                Some(Leaf::Symlink) => {
                    return Err(Error::input(format!("{path} leads through the symbolic link {above}")));
                }
                Some(Leaf::File { .. }) => {
                    return Err(Error::input(format!("{path} is below the file {above}")));
                }
            }
            if self.data.root.folder(self.store, above)?.is_none() {
                let metadata = self.transaction.write_folder_metadata(&Metadata::FOLDER)?;
                self.data.root.make_folder(self.store, above, metadata)?;
                self.implied.insert(above.to_owned());
            }
        }
        Ok(())
    }

    fn line(&mut self, path: &str, last: bool) {
        let list = if last { &mut self.last_lines } else { &mut self.data.list };
        list.push('/');
        list.push_str(path);
        list.push('\n');
    }
}

/// A path of a tar as artefacts have it: without `./`, doubled or trailing slashes; empty for the
/// root.
///
/// # Errors
/// `Kind::Input` for `..`, for what a dpkg list or an OSTree tree cannot hold (newlines, NUL, what is
/// not UTF-8), and for what no file system could.
pub(super) fn normal_path(raw: &[u8]) -> Result<String> {
    let bad = |why: &str| Error::input(format!("a path {why}: {:?}", String::from_utf8_lossy(raw)));
    let text = std::str::from_utf8(raw).map_err(|_| bad("that is not UTF-8"))?;
    if text.contains(['\n', '\0']) {
        return Err(bad("with a newline or a NUL"));
    }
    let mut path = String::with_capacity(text.len());
    for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            return Err(bad("with '..'"));
        }
        if part.len() > NAME_LIMIT {
            return Err(bad("with too long a name"));
        }
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(part);
    }
    if path.len() >= PATH_LIMIT {
        return Err(bad("that is too long"));
    }
    Ok(path)
}

/// Owner, mode and attributes of a tar entry; the mode's type bits say file, folder or link.
pub(super) fn entry_metadata<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Metadata> {
    let number = |value: io::Result<u64>, what: &str| -> Result<u32> {
        let value = value.with_context(|| format!("tar header: {what}"))?;
        u32::try_from(value).map_err(|_| Error::input(format!("tar header: {what} {value} is out of range")))
    };
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Directory => 0o040_000,
        EntryType::Symlink => 0o120_000,
        _ => 0o100_000,
    };
    let mode = header.mode().context("tar header: mode")? & 0o7777;
    let mode = if kind == 0o120_000 { 0o777 } else { mode };
    let (uid, gid) = (number(header.uid(), "uid")?, number(header.gid(), "gid")?);
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions().context("pax header")? {
        for extension in extensions {
            let extension = extension.context("pax header")?;
            if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") {
                xattrs.push((name.to_vec(), extension.value_bytes().to_vec()));
            }
        }
        xattrs.sort();
        xattrs.dedup_by(|a, b| a.0 == b.0);
    }
    Ok(Metadata { uid, gid, mode: kind | mode, xattrs })
}

/// A digest as md5sum(1) writes it.
pub(super) fn digits(hasher: md5::Md5) -> String {
    hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Hashes and copies what is read, where that is wanted.
struct Watched<'a, R> {
    reader: &'a mut R,
    hasher: Option<md5::Md5>,
    copy: Option<Vec<u8>>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        if let Some(copy) = &mut self.copy {
            copy.extend_from_slice(&buffer[..count]);
        }
        Ok(count)
    }
}
