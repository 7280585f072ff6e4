//! A tree as a tar file: the same tree gives the same bytes.

use std::io::{self, Write};

use tar::EntryType;

use super::{
    HardLinks, names,
    tar_writer::{Dialect, Entry, Owners, TarWriter},
};
use crate::{
    digest::Sha256,
    error::{Context, Result},
    store::{Content, Folder, Node, Store},
};

/// Writes the tree of a commit.
///
/// # Errors
/// If an object is missing; what the writer reports.
pub fn tar(store: &Store, commit: Sha256, out: &mut dyn Write) -> Result<()> {
    let mut root = store.root(commit)?;
    let owners = Owners {
        users: names(store, &mut root, "etc/passwd")?,
        groups: names(store, &mut root, "etc/group")?,
    };
    let links = HardLinks::of(store, commit)?;
    let mut writer = Writer { store, out: TarWriter::new(out, owners, Dialect::Pax), links };
    writer.folder(&mut root, "")?;
    writer.out.finish()
}

struct Writer<'a> {
    store: &'a Store,
    out: TarWriter<'a>,
    links: HardLinks,
}

impl Writer<'_> {
    fn folder(&mut self, folder: &mut Folder, path: &str) -> Result<()> {
        let metadata = self.store.folder_metadata(folder.metadata)?;
        self.out.entry(&Entry::new(EntryType::Directory, path, &metadata), &mut io::empty())?;
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
            let metadata = self.store.object_metadata(checksum)?;
            let link =
                Entry { link: Some(target.as_bytes()), ..Entry::new(EntryType::Link, path, &metadata) };
            return self.out.entry(&link, &mut io::empty());
        }
        let (metadata, content) = self.store.object(checksum)?;
        match content {
            Content::Symlink(target) => {
                let entry = Entry::new(EntryType::Symlink, path, &metadata);
                self.out.entry(&Entry { link: Some(&target), ..entry }, &mut io::empty())
            }
            Content::File(mut file) => {
                let entry = Entry { size: file.size, ..Entry::new(EntryType::Regular, path, &metadata) };
                self.out.entry(&entry, &mut file)
            }
        }
    }
}
