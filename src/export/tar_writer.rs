//! Entries of a tar file: ustar headers, with pax records (pax(1)) or GNU's entries where ustar has no room; extended
//! attributes as `SCHILY.xattr.NAME`, which GNU tar, libarchive and bsdtar read. Paths begin with `./`,
//! owners have the names that the tree's own passwd and group files give them.

use std::{
    collections::HashMap,
    io::{Read, Write},
};

use tar::{EntryType, Header};

use crate::{
    artefacts::Metadata,
    error::{Context, Error, Result},
};

/// The largest number in the seven octal digits of a ustar uid or gid field.
const USTAR_ID_MAX: u32 = 0o7_777_777;
/// The largest number in the eleven octal digits of a ustar size or time field.
const USTAR_SIZE_MAX: u64 = 0o77_777_777_777;
/// The longest name in a ustar header without its prefix field, which is not used here.
const USTAR_NAME_MAX: usize = 100;
/// The longest user or group name in a ustar header, with its NUL.
const USTAR_OWNER_MAX: usize = 31;

/// What is written where ustar has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Records of pax.
    Pax,
    /// GNU's entries for long names, which is what dpkg reads; it refuses records of pax (dpkg's
    /// lib/dpkg/tarfn.c, `tar_extractor`). There is no form for anything else.
    Gnu,
}

/// The names of users and groups, by number.
#[derive(Debug, Default)]
pub(super) struct Owners {
    pub(super) users: HashMap<u32, String>,
    pub(super) groups: HashMap<u32, String>,
}

/// One entry.
pub(super) struct Entry<'a> {
    pub(super) kind: EntryType,
    /// Without a leading slash; empty for the root.
    pub(super) path: &'a [u8],
    pub(super) metadata: &'a Metadata,
    /// Seconds since 1970.
    pub(super) modified: u64,
    /// Where a symbolic link leads; the path that a hard link is of.
    pub(super) link: Option<&'a [u8]>,
    /// Bytes of content.
    pub(super) size: u64,
    /// A device's numbers, major and minor.
    pub(super) device: Option<(u32, u32)>,
}

impl<'a> Entry<'a> {
    /// One of time 0 with nothing else.
    pub(super) fn new(
        kind: EntryType,
        path: &'a (impl AsRef<[u8]> + ?Sized),
        metadata: &'a Metadata,
    ) -> Entry<'a> {
        Entry { kind, path: path.as_ref(), metadata, modified: 0, link: None, size: 0, device: None }
    }
}

/// Writes entries.
pub(super) struct TarWriter<'a> {
    out: tar::Builder<&'a mut dyn Write>,
    owners: Owners,
    dialect: Dialect,
}

impl<'a> TarWriter<'a> {
    pub(super) fn new(out: &'a mut dyn Write, owners: Owners, dialect: Dialect) -> Self {
        TarWriter { out: tar::Builder::new(out), owners, dialect }
    }

    /// Writes the end.
    pub(super) fn finish(self) -> Result<()> {
        self.out.into_inner().and_then(Write::flush).context("writing the tar")
    }

    pub(super) fn entry(&mut self, entry: &Entry<'_>, content: &mut dyn Read) -> Result<()> {
        let mut header = Header::new_ustar();
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        let metadata = entry.metadata;
        header.set_entry_type(entry.kind);
        header.set_mode(metadata.mode & 0o7777);
        let is_folder = entry.kind == EntryType::Directory && !entry.path.is_empty();
        let name = [&b"./"[..], entry.path, if is_folder { b"/" } else { b"" }].concat();
        text_field(&mut header.as_old_mut().name, "path", &name, &mut records);
        if let Some(link) = entry.link {
            let link =
                if entry.kind == EntryType::Link { [&b"./"[..], link].concat() } else { link.to_vec() };
            text_field(&mut header.as_old_mut().linkname, "linkpath", &link, &mut records);
        }
        let mut number = |key: &str, value: u64, most: u64| {
            if value > most {
                records.push((key.to_owned(), value.to_string().into_bytes()));
            }
            value.min(most)
        };
        header.set_uid(number("uid", metadata.uid.into(), USTAR_ID_MAX.into()));
        header.set_gid(number("gid", metadata.gid.into(), USTAR_ID_MAX.into()));
        header.set_size(number("size", entry.size, USTAR_SIZE_MAX));
        header.set_mtime(number("mtime", entry.modified, USTAR_SIZE_MAX));
        let owner = |names: &HashMap<u32, String>, id: u32| {
            names.get(&id).filter(|name| name.len() <= USTAR_OWNER_MAX).cloned().unwrap_or_default()
        };
        header.set_username(&owner(&self.owners.users, metadata.uid)).context("user name")?;
        header.set_groupname(&owner(&self.owners.groups, metadata.gid)).context("group name")?;
        if let Some((major, minor)) = entry.device {
            header.set_device_major(major).context("device number")?;
            header.set_device_minor(minor).context("device number")?;
        }
        if entry.kind != EntryType::Link {
            for (name, value) in &metadata.xattrs {
                let name = std::str::from_utf8(name).ok().filter(|name| !name.contains('='));
                let name = name.ok_or_else(|| Error::input("an attribute whose name tar cannot hold"))?;
                records.push((format!("SCHILY.xattr.{name}"), value.clone()));
            }
        }
        header.set_cksum();
        match self.dialect {
            _ if records.is_empty() => {}
            Dialect::Pax => {
                let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
                self.out.append_pax_extensions(records).context("writing the tar")?;
            }
            Dialect::Gnu => records.iter().try_for_each(|(key, value)| self.gnu_entry(key, value))?,
        }
        self.out.append(&header, content).context("writing the tar")
    }

    /// Writes what a record would have as an entry before the one it belongs to (tar(5), "GNU tar
    /// Archives").
    fn gnu_entry(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let kind = match key {
            "path" => EntryType::GNULongName,
            "linkpath" => EntryType::GNULongLink,
            _ => return Err(Error::input(format!("{key} cannot be in a tar for dpkg"))),
        };
        let value = [value, b"\0"].concat();
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path("././@LongLink").context("a name that is known")?;
        header.set_size(value.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        self.out.append(&header, value.as_slice()).context("writing the tar")
    }
}

/// Puts a path into a header's field; one that is too long or not ASCII goes into a record too, and
/// what fits of it stays in the field for readers without pax.
fn text_field(
    field: &mut [u8; USTAR_NAME_MAX],
    key: &str,
    text: &[u8],
    records: &mut Vec<(String, Vec<u8>)>,
) {
    if text.len() > USTAR_NAME_MAX || !text.is_ascii() {
        records.push((key.to_owned(), text.to_vec()));
    }
    let length = text.len().min(USTAR_NAME_MAX);
    field[..length].copy_from_slice(&text[..length]);
}
