//! Builds a [`Listing`] from what a caller knows of its tree, in any order that has folders before
//! what is in them.

use std::{collections::HashMap, ops::Range};

use super::{
    listing::{EntryRecord, Listing, NO_ENTRY, Record, Span, assemble},
    tree::{Kind, Node, ROOT},
};
use crate::error::{Error, Result};

/// Owner, mode, time and extended attributes of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Permission bits, set-id and sticky included; the file type bits are ignored.
    pub mode: u32,
    /// Modification time: seconds since the epoch. 0 for all of an OSTree commit.
    pub modified: i64,
    /// … and nanoseconds.
    pub modified_nanoseconds: u32,
    /// Extended attributes: names and values, in any order. A file capability in version 2, which
    /// the kernel takes as the mounting namespace's.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Gathers nodes and names.
#[derive(Debug)]
pub struct ListingBuilder {
    nodes: Vec<Record>,
    entries: Vec<EntryRecord>,
    strings: Vec<u8>,
    /// Most nodes of a tree share a handful of xattr lists.
    xattrs: HashMap<Vec<u8>, Span>,
}

impl ListingBuilder {
    /// A tree of a root folder alone, inode [`ROOT`].
    pub fn new(root: &Metadata) -> Result<Self> {
        let mut builder = ListingBuilder {
            nodes: Vec::new(),
            entries: Vec::new(),
            strings: Vec::new(),
            xattrs: HashMap::new(),
        };
        builder.node(Kind::Folder, root, 0, Span::default())?;
        Ok(builder)
    }

    /// Adds a folder and gives its inode number.
    pub fn folder(&mut self, folder: u64, name: &[u8], metadata: &Metadata) -> Result<u64> {
        self.add(folder, name, Kind::Folder, metadata, 0, Span::default())
    }

    /// Adds a regular file of `size` bytes, whose content is found by `content`: a path relative to
    /// the folder of contents, such as `ab/cdef….file`.
    pub fn file(
        &mut self,
        folder: u64,
        name: &[u8],
        metadata: &Metadata,
        size: u64,
        content: &[u8],
    ) -> Result<u64> {
        let content = self.string(content)?;
        self.add(folder, name, Kind::File, metadata, size, content)
    }

    /// Adds a symbolic link. Its mode is 0777, as every file system shows it (symlink(7)).
    pub fn symlink(&mut self, folder: u64, name: &[u8], metadata: &Metadata, target: &[u8]) -> Result<u64> {
        let content = self.string(target)?;
        let metadata = Metadata { mode: 0o777, ..metadata.clone() };
        self.add(folder, name, Kind::Symlink, &metadata, target.len() as u64, content)
    }

    /// Adds a named pipe or a socket.
    pub fn special(&mut self, folder: u64, name: &[u8], kind: Kind, metadata: &Metadata) -> Result<u64> {
        match kind {
            Kind::Fifo | Kind::Socket => self.add(folder, name, kind, metadata, 0, Span::default()),
            _ => Err(Error::bug("only pipes and sockets are special nodes of a listing")),
        }
    }

    /// Adds another name of something that is no folder.
    pub fn link(&mut self, folder: u64, name: &[u8], inode: u64) -> Result<()> {
        if self.record(inode)?.node.kind == Kind::Folder {
            return Err(Error::plan("a folder cannot have a second name"));
        }
        self.name(folder, name, inode)
    }

    fn add(
        &mut self,
        folder: u64,
        name: &[u8],
        kind: Kind,
        metadata: &Metadata,
        size: u64,
        content: Span,
    ) -> Result<u64> {
        let inode = self.node(kind, metadata, size, content)?;
        self.name(folder, name, inode)?;
        Ok(inode)
    }

    fn node(&mut self, kind: Kind, metadata: &Metadata, size: u64, content: Span) -> Result<u64> {
        let xattrs = self.xattrs(&metadata.xattrs)?;
        let node = Node {
            kind,
            permissions: (metadata.mode & 0o7777) as u16,
            uid: metadata.uid,
            gid: metadata.gid,
            links: if kind == Kind::Folder { 2 } else { 0 },
            size,
            modified: metadata.modified,
            modified_nanoseconds: metadata.modified_nanoseconds,
        };
        self.nodes.push(Record { node, content, xattrs, entry: NO_ENTRY });
        Ok(self.nodes.len() as u64)
    }

    fn record(&self, inode: u64) -> Result<&Record> {
        let index = usize::try_from(inode).ok().and_then(|inode| inode.checked_sub(1));
        let record = index.and_then(|index| self.nodes.get(index));
        record.ok_or_else(|| Error::bug("no such inode in the listing"))
    }

    fn name(&mut self, folder: u64, name: &[u8], inode: u64) -> Result<()> {
        let shown = || crate::view::printable(name);
        if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(Error::plan(format_args!("{:?} cannot be a file name", shown())));
        }
        if name.len() > libc::NAME_MAX as usize {
            return Err(Error::plan(format_args!("the file name {:?} is longer than 255 bytes", shown())));
        }
        if self.record(folder)?.node.kind != Kind::Folder {
            return Err(Error::plan(format_args!("{:?} would be in something that is no folder", shown())));
        }
        let name = self.string(name)?;
        let narrow = |number: u64| u32::try_from(number).map_err(|_| too_large());
        let entry = EntryRecord { name, inode: narrow(inode)?, folder: narrow(folder)? };
        self.entries.push(entry);
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) -> Result<Span> {
        let start = u32::try_from(self.strings.len()).map_err(|_| too_large())?;
        let length = u32::try_from(bytes.len()).map_err(|_| too_large())?;
        self.strings.extend_from_slice(bytes);
        Ok(Span { start, length })
    }

    fn xattrs(&mut self, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<Span> {
        if xattrs.is_empty() {
            return Ok(Span::default());
        }
        let mut sorted: Vec<_> = xattrs.iter().collect();
        sorted.sort();
        let mut list = Vec::new();
        for (name, value) in sorted {
            list.extend_from_slice(&u16::try_from(name.len()).map_err(|_| too_large())?.to_le_bytes());
            list.extend_from_slice(&u32::try_from(value.len()).map_err(|_| too_large())?.to_le_bytes());
            list.extend_from_slice(name);
            list.extend_from_slice(value);
        }
        if let Some(&span) = self.xattrs.get(&list) {
            return Ok(span);
        }
        let span = self.string(&list)?;
        self.xattrs.insert(list, span);
        Ok(span)
    }

    /// Sorts the names, counts the links and puts it all together. Two entries of one name in one
    /// folder are an error.
    pub fn finish(mut self) -> Result<Listing> {
        let strings = &self.strings;
        let text = |span: Span| &strings[span.start as usize..][..span.length as usize];
        self.entries.sort_by(|a, b| (a.folder, text(a.name)).cmp(&(b.folder, text(b.name))));
        for pair in self.entries.windows(2) {
            if pair[0].folder == pair[1].folder && text(pair[0].name) == text(pair[1].name) {
                let name = crate::view::printable(text(pair[0].name));
                return Err(Error::plan(format_args!("a folder has the name {name:?} twice")));
            }
        }
        for (number, entry) in (0..).zip(&self.entries) {
            // The functions above have put only existing inodes into entries.
            let named = &mut self.nodes[entry.inode as usize - 1];
            if named.entry == NO_ENTRY {
                named.entry = number;
            }
            if named.node.kind == Kind::Folder {
                self.nodes[entry.folder as usize - 1].node.links += 1;
            } else {
                named.node.links += 1;
            }
        }
        for Range { start, end } in runs(&self.entries) {
            let span = Span { start: start as u32, length: (end - start) as u32 };
            self.nodes[self.entries[start].folder as usize - 1].content = span;
        }
        debug_assert_eq!(self.nodes[ROOT as usize - 1].entry, NO_ENTRY);
        assemble(&self.nodes, &self.entries, &self.strings)
    }
}

/// The runs of entries of one folder each.
fn runs(entries: &[EntryRecord]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    entries.chunk_by(|a, b| a.folder == b.folder).map(move |run| {
        let range = start..start + run.len();
        start = range.end;
        range
    })
}

fn too_large() -> Error {
    Error::plan("the tree is too large: its names and attributes exceed 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_names_are_refused() {
        let mut builder = ListingBuilder::new(&Metadata::default()).unwrap();
        let file = builder.file(ROOT, b"file", &Metadata::default(), 0, b"").unwrap();
        let long = [b'x'; 256];
        for name in [b"".as_slice(), b".", b"..", b"a/b", b"a\0", &long] {
            assert!(builder.folder(ROOT, name, &Metadata::default()).is_err(), "{name:?}");
        }
        assert!(builder.folder(file, b"in-a-file", &Metadata::default()).is_err());
        assert!(builder.folder(99, b"nowhere", &Metadata::default()).is_err());
        assert!(builder.link(ROOT, b"again", ROOT).is_err());
    }

    #[test]
    fn a_name_twice_is_refused() {
        let mut builder = ListingBuilder::new(&Metadata::default()).unwrap();
        let first = builder.folder(ROOT, b"a", &Metadata::default()).unwrap();
        builder.folder(first, b"b", &Metadata::default()).unwrap();
        builder.folder(ROOT, b"b", &Metadata::default()).unwrap();
        builder.folder(ROOT, b"a", &Metadata::default()).unwrap();
        assert!(builder.finish().unwrap_err().to_string().contains("\"a\" twice"));
    }
}
