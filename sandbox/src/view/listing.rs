//! A whole tree's metadata as one flat run of bytes: built once for a commit, handed to another
//! process through a descriptor, and used in place, without unpacking.
//!
//! ```text
//! header   "sbxtree1", then counts as u32: nodes, entries, bytes of strings; u32 flags
//! nodes    NODE_SIZE bytes each, by inode number from 1 on
//! entries  ENTRY_SIZE bytes each, by folder, sorted by name within
//! strings  names, link targets, content paths and xattr lists, referred to by offset and length
//! ```
//!
//! Integers are little-endian. [`Listing::from_bytes`] checks every reference once; the accessors
//! still never index without a check. Whoever keeps the bytes for later has to expect that a later version
//! of this crate refuses them: then the digit in the header is another one.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    ops::Range,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::tree::{Entry, Kind, Node, ROOT};
use crate::error::{Doing, Error, Result};

/// Starts every listing; the digit is the format's version.
const MAGIC: &[u8; 8] = b"sbxtree1";
const HEADER_SIZE: usize = 24;

/// mode, uid, gid, links, size (u64), modified (i64), nanoseconds, content offset and length,
/// xattr offset and length, first entry that names it.
const NODE_SIZE: usize = 56;

/// name offset, name length, inode, folder.
const ENTRY_SIZE: usize = 16;

/// A node has an access control list.
const FLAG_ACCESS_LISTS: u32 = 1;

/// Instead of an entry number, for the root.
pub(super) const NO_ENTRY: u32 = u32::MAX;

/// Offset and length in the strings; for a folder, first entry and count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) length: u32,
}

impl Span {
    fn end(self) -> Option<u32> {
        self.start.checked_add(self.length)
    }
}

/// A node as it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) node: Node,
    pub(super) content: Span,
    pub(super) xattrs: Span,
    pub(super) entry: u32,
}

/// An entry as it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryRecord {
    pub(super) name: Span,
    pub(super) inode: u32,
    pub(super) folder: u32,
}

/// The metadata of a tree. Made by [`ListingBuilder`](super::ListingBuilder).
#[derive(Clone, Debug)]
pub struct Listing {
    bytes: Arc<Vec<u8>>,
    nodes: u32,
    entries: u32,
    flags: u32,
    entries_at: usize,
    strings_at: usize,
}

/// Reads integers one after the other; out of range reads as none.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*first))
    }

    fn u64(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*first))
    }

    fn span(&mut self) -> Option<Span> {
        Some(Span { start: self.u32()?, length: self.u32()? })
    }
}

/// Puts the parts together. The caller (the builder) has made them consistent; they are checked all
/// the same.
pub(super) fn assemble(nodes: &[Record], entries: &[EntryRecord], strings: &[u8]) -> Result<Listing> {
    let size = HEADER_SIZE + nodes.len() * NODE_SIZE + entries.len() * ENTRY_SIZE + strings.len();
    let mut bytes = Vec::with_capacity(size);
    let count = |length: usize| u32::try_from(length).map_err(|_| Error::plan("the tree is too large"));
    let has_access_lists = nodes.iter().any(|record| {
        let list = strings.get(record.xattrs.start as usize..).unwrap_or_default();
        let mut found = false;
        each_xattr(&list[..list.len().min(record.xattrs.length as usize)], &mut |name, _| {
            found |= name.starts_with(b"system.posix_acl_");
            !found
        });
        found
    });
    bytes.extend_from_slice(MAGIC);
    for number in [
        count(nodes.len())?,
        count(entries.len())?,
        count(strings.len())?,
        if has_access_lists { FLAG_ACCESS_LISTS } else { 0 },
    ] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for Record { node, content, xattrs, entry } in nodes {
        for number in [node.kind.bits() | u32::from(node.permissions), node.uid, node.gid, node.links] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&node.size.to_le_bytes());
        bytes.extend_from_slice(&node.modified.to_le_bytes());
        let rest =
            [node.modified_nanoseconds, content.start, content.length, xattrs.start, xattrs.length, *entry];
        rest.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    }
    for EntryRecord { name, inode, folder } in entries {
        let numbers = [name.start, name.length, *inode, *folder];
        numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    }
    bytes.extend_from_slice(strings);
    Listing::from_bytes(bytes)
}

/// Walks an xattr list: name length u16, value length u32, name, value. False where it is broken.
fn each_xattr(mut list: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> bool {
    while !list.is_empty() {
        let Some((name_length, rest)) = list.split_first_chunk::<2>() else { return false };
        let Some((value_length, rest)) = rest.split_first_chunk::<4>() else { return false };
        let name_length = usize::from(u16::from_le_bytes(*name_length));
        let Some((name, rest)) = rest.split_at_checked(name_length) else { return false };
        let value_length = u32::from_le_bytes(*value_length) as usize;
        let Some((value, rest)) = rest.split_at_checked(value_length) else { return false };
        if !each(name, value) {
            return true;
        }
        list = rest;
    }
    true
}

impl Listing {
    /// Takes bytes that [`as_bytes`](Listing::as_bytes) gave, and checks them.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Listing> {
        Listing::parse(bytes).ok_or_else(|| Error::bug("the listing of the tree is damaged"))
    }

    fn parse(bytes: Vec<u8>) -> Option<Listing> {
        let mut header = Cursor(bytes.strip_prefix(MAGIC)?);
        let (nodes, entries, strings, flags) = (header.u32()?, header.u32()?, header.u32()?, header.u32()?);
        let entries_at = (nodes as usize).checked_mul(NODE_SIZE)?.checked_add(HEADER_SIZE)?;
        let strings_at = (entries as usize).checked_mul(ENTRY_SIZE)?.checked_add(entries_at)?;
        if bytes.len() != strings_at.checked_add(strings as usize)? {
            return None;
        }
        let listing = Listing { bytes: Arc::new(bytes), nodes, entries, flags, entries_at, strings_at };
        (1..=u64::from(nodes)).all(|inode| listing.node_is_sound(inode).is_some()).then_some(())?;
        (0..entries).all(|number| listing.entry_is_sound(number).is_some()).then_some(())?;
        (listing.record(ROOT)?.node.kind == Kind::Folder).then_some(listing)
    }

    /// Whether all that a node refers to exists.
    fn node_is_sound(&self, inode: u64) -> Option<()> {
        let record = self.record(inode)?;
        match record.node.kind {
            Kind::Folder => (record.content.end()? <= self.entries).then_some(())?,
            _ => drop(self.string(record.content)?),
        }
        let named = record.entry < self.entries || (inode == ROOT && record.entry == NO_ENTRY);
        let xattrs = self.string(record.xattrs)?;
        (named && each_xattr(xattrs, &mut |_, _| true)).then_some(())
    }

    /// Whether an entry lies in the folder it names, in order, and what it refers to exists. With
    /// "every folder's entries name that folder" there can be no loop: a folder has one name.
    fn entry_is_sound(&self, number: u32) -> Option<()> {
        let entry = self.entry(number)?;
        let range = self.entries(entry.folder)?;
        let before = number.checked_sub(1).filter(|before| range.contains(before));
        let sorted = before.is_none_or(|before| self.entry(before).is_some_and(|e| e.name < entry.name));
        let usable = !matches!(entry.name, b"" | b"." | b"..")
            && !entry.name.iter().any(|byte| matches!(byte, 0 | b'/'));
        let record = self.record(entry.inode)?;
        let one_name = record.node.kind != Kind::Folder || record.entry == number;
        (range.contains(&number) && sorted && usable && one_name).then_some(())
    }

    /// Reads a listing from a descriptor, from its start on.
    pub fn from_file(file: OwnedFd) -> Result<Listing> {
        let mut file = File::from(file);
        let mut bytes = Vec::new();
        let size = file.metadata().doing("looking at the listing of the tree")?.len();
        bytes.reserve(usize::try_from(size).unwrap_or(0));
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).doing("reading the listing of the tree")?;
        Listing::from_bytes(bytes)
    }

    /// Reads a file with the bytes of a listing.
    pub fn read(path: &Path) -> Result<Listing> {
        let file = File::open(path).doing_to("opening the listing of a tree,", path)?;
        Listing::from_file(file.into())
    }

    /// The bytes, for another process.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes as a file in memory, to be passed to another process (it is closed on exec unless
    /// told otherwise) and read there with [`from_file`](Listing::from_file).
    pub fn to_memory_file(&self) -> Result<OwnedFd> {
        let name = c"tree-listing";
        let file = memfd_create(name, MFdFlags::MFD_CLOEXEC).doing("making a file in memory")?;
        let mut file = File::from(file);
        file.write_all(&self.bytes).doing("writing the listing of the tree to memory")?;
        Ok(file.into())
    }

    fn record(&self, inode: u64) -> Option<Record> {
        if inode == 0 || inode > u64::from(self.nodes) {
            return None;
        }
        let at = HEADER_SIZE + (inode as usize - 1) * NODE_SIZE;
        let mut cursor = Cursor(self.bytes.get(at..at + NODE_SIZE)?);
        let mode = cursor.u32()?;
        let (uid, gid, links) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let (size, modified) = (cursor.u64()?, cursor.u64()? as i64);
        let node = Node {
            kind: Kind::of_mode(mode)?,
            permissions: (mode & 0o7777) as u16,
            uid,
            gid,
            links,
            size,
            modified,
            modified_nanoseconds: cursor.u32()?,
        };
        Some(Record { node, content: cursor.span()?, xattrs: cursor.span()?, entry: cursor.u32()? })
    }

    fn string(&self, span: Span) -> Option<&[u8]> {
        let start = self.strings_at.checked_add(span.start as usize)?;
        self.bytes.get(start..start.checked_add(span.length as usize)?)
    }

    /// How many inodes there are.
    pub fn node_count(&self) -> u64 {
        self.nodes.into()
    }

    /// How many names there are.
    pub fn entry_count(&self) -> u32 {
        self.entries
    }

    /// See [`Tree::node`](super::Tree::node).
    pub fn node(&self, inode: u64) -> Option<Node> {
        self.record(inode).map(|record| record.node)
    }

    /// See [`Tree::entries`](super::Tree::entries).
    pub fn entries(&self, folder: u64) -> Option<Range<u32>> {
        let record = self.record(folder).filter(|record| record.node.kind == Kind::Folder)?;
        Some(record.content.start..record.content.end()?)
    }

    /// See [`Tree::entry`](super::Tree::entry).
    pub fn entry(&self, number: u32) -> Option<Entry<'_>> {
        if number >= self.entries {
            return None;
        }
        let at = self.entries_at + number as usize * ENTRY_SIZE;
        let mut cursor = Cursor(self.bytes.get(at..at + ENTRY_SIZE)?);
        let name = self.string(cursor.span()?)?;
        Some(Entry { name, inode: cursor.u32()?.into(), folder: cursor.u32()?.into() })
    }

    /// See [`Tree::find`](super::Tree::find).
    pub fn find(&self, folder: u64, name: &[u8]) -> Option<u32> {
        let Range { mut start, mut end } = self.entries(folder)?;
        while start < end {
            let middle = start + (end - start) / 2;
            match self.entry(middle)?.name.cmp(name) {
                std::cmp::Ordering::Less => start = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => end = middle,
            }
        }
        None
    }

    /// See [`Tree::entry_of`](super::Tree::entry_of).
    pub fn entry_of(&self, inode: u64) -> Option<u32> {
        self.record(inode).map(|record| record.entry).filter(|&entry| entry != NO_ENTRY)
    }

    /// The target of a symbolic link.
    pub fn target(&self, inode: u64) -> Option<&[u8]> {
        let record = self.record(inode).filter(|record| record.node.kind == Kind::Symlink)?;
        self.string(record.content)
    }

    /// The path of a file's content, as the builder was given it.
    pub fn content_path(&self, inode: u64) -> Option<&[u8]> {
        let record = self.record(inode).filter(|record| record.node.kind == Kind::File)?;
        self.string(record.content)
    }

    /// See [`Tree::xattrs`](super::Tree::xattrs).
    pub fn xattrs(&self, inode: u64, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        if let Some(list) = self.record(inode).and_then(|record| self.string(record.xattrs)) {
            each_xattr(list, each);
        }
    }

    /// Whether any node has a POSIX access control list.
    pub fn has_access_lists(&self) -> bool {
        self.flags & FLAG_ACCESS_LISTS != 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ListingBuilder, Metadata};
    use super::*;

    fn listing() -> Listing {
        let folder = Metadata { mode: 0o755, ..Metadata::default() };
        let mut builder = ListingBuilder::new(&folder).unwrap();
        let usr = builder.folder(ROOT, b"usr", &folder).unwrap();
        let shadow = Metadata { mode: 0o4640, gid: 42, ..Metadata::default() };
        let file = builder.file(usr, b"z\xff", &shadow, 7, b"ab/cdef.file").unwrap();
        builder.link(usr, b"a", file).unwrap();
        let labelled = Metadata {
            mode: 0o777,
            xattrs: vec![(b"user.b".to_vec(), vec![]), (b"user.a".to_vec(), vec![0, 255])],
            ..Metadata::default()
        };
        builder.symlink(ROOT, b"bin", &labelled, b"usr/bin").unwrap();
        builder.finish().unwrap()
    }

    #[test]
    fn what_was_built_is_found() {
        let built = listing();
        let listing = Listing::from_file(built.to_memory_file().unwrap()).unwrap();
        assert_eq!((listing.node_count(), listing.entry_count()), (4, 4));
        let usr = listing.entry(listing.find(ROOT, b"usr").unwrap()).unwrap();
        let names: Vec<_> =
            listing.entries(usr.inode).unwrap().map(|n| listing.entry(n).unwrap().name).collect();
        assert_eq!(names, [b"a".as_slice(), b"z\xff"]);
        let file = listing.entry(listing.find(usr.inode, b"z\xff").unwrap()).unwrap();
        assert_eq!(listing.find(usr.inode, b"b"), None);
        let node = listing.node(file.inode).unwrap();
        assert_eq!((node.links, node.permissions, node.gid, node.size), (2, 0o4640, 42, 7));
        assert_eq!(listing.content_path(file.inode), Some(b"ab/cdef.file".as_slice()));
        assert_eq!(listing.node(ROOT).unwrap().links, 3);
        let link = listing.entry(listing.find(ROOT, b"bin").unwrap()).unwrap().inode;
        assert_eq!(listing.target(link), Some(b"usr/bin".as_slice()));
        assert_eq!(listing.node(link).unwrap().size, 7);
        let mut xattrs = Vec::new();
        listing.xattrs(link, &mut |name, value| {
            xattrs.push((name.to_vec(), value.to_vec()));
            true
        });
        assert_eq!(xattrs, [(b"user.a".to_vec(), vec![0, 255]), (b"user.b".to_vec(), vec![])]);
        assert!(!listing.has_access_lists());
    }

    #[test]
    fn what_does_not_exist_gives_none() {
        let listing = listing();
        for inode in [0, 5, u64::MAX] {
            assert_eq!(listing.node(inode), None);
            assert_eq!(listing.entries(inode), None);
            assert_eq!(listing.find(inode, b"a"), None);
        }
        assert_eq!(listing.entry(4), None);
        assert_eq!(listing.entry_of(ROOT), None);
        assert_eq!(listing.target(ROOT), None);
    }

    /// Foreign bytes may be refused or accepted, but whatever is accepted can be walked without a
    /// panic.
    #[test]
    fn damaged_bytes_never_panic() {
        let sound = listing().as_bytes().to_vec();
        for length in 0..sound.len() {
            assert!(Listing::from_bytes(sound[..length].to_vec()).is_err(), "cut to {length}");
        }
        for at in 0..sound.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] = value;
                let Ok(listing) = Listing::from_bytes(bytes) else { continue };
                for inode in 0..=listing.node_count() + 1 {
                    let entries = listing.entries(inode).into_iter().flatten();
                    let _ = entries.filter_map(|number| listing.entry(number)).count();
                    listing.xattrs(inode, &mut |_, _| true);
                    let _ = (listing.target(inode), listing.content_path(inode), listing.entry_of(inode));
                }
            }
        }
    }
}
