//! A tree as a tar file: the same tree gives the same bytes.
//!
//! ustar headers, with pax records (pax(1)) where ustar has no room; extended attributes as
//! `SCHILY.xattr.NAME`, which GNU tar, libarchive and bsdtar read. Paths begin with `./`, entries are
//! sorted, times are 0, owners have the names that the image's own passwd and group files give them.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
};

use tar::{EntryType, Header};

use super::{HardLinks, names};
use crate::{
    artefacts::Metadata,
    digest::Sha256,
    error::{Context, Error, Result},
    store::{Content, Folder, Node, Store},
};

/// The largest number in the seven octal digits of a ustar uid or gid field.
const USTAR_ID_MAX: u32 = 0o7_777_777;
/// The largest number in the eleven octal digits of a ustar size field.
const USTAR_SIZE_MAX: u64 = 0o77_777_777_777;
/// The longest name in a ustar header without its prefix field, which is not used here.
const USTAR_NAME_MAX: usize = 100;
/// The longest user or group name in a ustar header, with its NUL.
const USTAR_OWNER_MAX: usize = 31;

/// Writes the tree of a commit.
///
/// # Errors
/// If an object is missing; what the writer reports.
pub fn tar(store: &Store, commit: Sha256, out: &mut dyn Write) -> Result<()> {
    let mut root = store.root(commit)?;
    let users = names(store, &mut root, "etc/passwd")?;
    let groups = names(store, &mut root, "etc/group")?;
    let links = HardLinks::of(store, commit)?;
    let mut writer = Writer { store, out: tar::Builder::new(out), users, groups, links };
    writer.folder(&mut root, "")?;
    writer.out.into_inner().and_then(Write::flush).context("writing the tar")
}

struct Writer<'a> {
    store: &'a Store,
    out: tar::Builder<&'a mut dyn Write>,
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
    links: HardLinks,
}

impl Writer<'_> {
    fn folder(&mut self, folder: &mut Folder, path: &str) -> Result<()> {
        let metadata = self.store.folder_metadata(folder.metadata)?;
        self.entry(EntryType::Directory, path, &metadata, None, 0, &mut io::empty())?;
        for (name, node) in folder.entries(self.store)? {
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            match node {
                Node::Folder(child) => self.folder(child, &path)?,
                Node::Object { checksum, .. } => {
                    self.object(*checksum, &path).with_context(|| format!("/{path}"))?;
                }
            }
        }
        Ok(())
    }

    fn object(&mut self, checksum: Sha256, path: &str) -> Result<()> {
        if let Some(target) = self.links.target(path, checksum) {
            let target = format!("./{target}");
            let metadata = self.store.object_metadata(checksum)?;
            return self.entry(
                EntryType::Link,
                path,
                &metadata,
                Some(target.as_bytes()),
                0,
                &mut io::empty(),
            );
        }
        let (metadata, content) = self.store.object(checksum)?;
        match content {
            Content::Symlink(target) => {
                self.entry(EntryType::Symlink, path, &metadata, Some(&target), 0, &mut io::empty())
            }
            Content::File(mut file) => {
                let size = file.size;
                self.entry(EntryType::Regular, path, &metadata, None, size, &mut file)
            }
        }
    }

    fn entry(
        &mut self,
        kind: EntryType,
        path: &str,
        metadata: &Metadata,
        link: Option<&[u8]>,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<()> {
        let mut header = Header::new_ustar();
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        header.set_entry_type(kind);
        header.set_mode(metadata.mode & 0o7777);
        header.set_mtime(0);
        let slash = if kind == EntryType::Directory && !path.is_empty() { "/" } else { "" };
        let name = format!("./{path}{slash}").into_bytes();
        text_field(&mut header.as_old_mut().name, "path", &name, &mut records);
        if let Some(link) = link {
            text_field(&mut header.as_old_mut().linkname, "linkpath", link, &mut records);
        }
        let mut number = |key: &str, value: u64, most: u64| {
            if value > most {
                records.push((key.to_owned(), value.to_string().into_bytes()));
            }
            value.min(most)
        };
        header.set_uid(number("uid", metadata.uid.into(), USTAR_ID_MAX.into()));
        header.set_gid(number("gid", metadata.gid.into(), USTAR_ID_MAX.into()));
        header.set_size(number("size", size, USTAR_SIZE_MAX));
        let owner = |names: &HashMap<u32, String>, id: u32| {
            names.get(&id).filter(|name| name.len() <= USTAR_OWNER_MAX).cloned().unwrap_or_default()
        };
        header.set_username(&owner(&self.users, metadata.uid)).context("user name")?;
        header.set_groupname(&owner(&self.groups, metadata.gid)).context("group name")?;
        if kind != EntryType::Link {
            for (name, value) in &metadata.xattrs {
                let name = std::str::from_utf8(name).ok().filter(|name| !name.contains('='));
                let name = name.ok_or_else(|| Error::input("an attribute whose name tar cannot hold"))?;
                records.push((format!("SCHILY.xattr.{name}"), value.clone()));
            }
        }
        header.set_cksum();
        if !records.is_empty() {
            let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            self.out.append_pax_extensions(records).context("writing the tar")?;
        }
        self.out.append(&header, content).context("writing the tar")
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
