//! A folder of the host as a tar file, with the owners that it has in a sandbox: the kernel's, or those
//! that are recorded with its files.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    path::Path,
};

use sandbox::{Change, Entry as Found, Tier};
use tar::EntryType;

use super::{
    names_in,
    tar_writer::{Dialect, Entry, Owners, TarWriter},
};
use crate::{
    artefacts::Metadata,
    error::{Context, Error, Result},
};

/// What is known of a file that its folder cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// A device in the place of an empty file: its mode, major and minor number.
    pub device: Option<(u32, u32, u32)>,
}

/// Writes a folder. Times after `newest` (in seconds since 1970) are written as that, so that the tar of
/// one tree is the same whenever it was made. `overrides`: by path, what the folder cannot have. Gives the
/// paths of sockets, which a tar cannot have.
///
/// # Errors
/// As `sandbox::read_folder`; what the writer reports.
pub fn folder_tar(
    folder: &Path,
    tier: Option<Tier>,
    newest: u64,
    overrides: &HashMap<Vec<u8>, Override>,
    out: &mut dyn Write,
) -> Result<Vec<Vec<u8>>> {
    let names = |path: &str| std::fs::read(folder.join(path)).map(|text| names_in(&text)).unwrap_or_default();
    let owners = Owners { users: names("etc/passwd"), groups: names("etc/group") };
    let mut writer = Writer {
        newest,
        overrides,
        out: TarWriter::new(out, owners, Dialect::Pax),
        links: HashMap::new(),
        sockets: Vec::new(),
    };
    sandbox::read_folder::<Error>(folder, tier, &mut |change, content| {
        let path = String::from_utf8_lossy(&change.path).into_owned();
        writer.entry(change, content).with_context(|| format!("/{path}"))
    })?;
    writer.out.finish()?;
    Ok(writer.sockets)
}

struct Writer<'a> {
    newest: u64,
    overrides: &'a HashMap<Vec<u8>, Override>,
    out: TarWriter<'a>,
    /// Groups of hard links → their first paths.
    links: HashMap<u64, Vec<u8>>,
    sockets: Vec<Vec<u8>>,
}

impl Writer<'_> {
    fn entry(&mut self, change: Change, content: Option<File>) -> Result<()> {
        let Change { path, now } = change;
        let known = self.overrides.get(&path);
        let (kind, found, link, size, device) = match now {
            Found::Removed => return Ok(()),
            Found::Folder { metadata, .. } => (EntryType::Directory, metadata, None, 0, None),
            Found::Symlink { metadata, target } => (EntryType::Symlink, metadata, Some(target), 0, None),
            Found::File { metadata, size, hard_link } => {
                match hard_link.map(|group| (group, self.links.get(&group))) {
                    Some((_, Some(first))) => (EntryType::Link, metadata, Some(first.clone()), 0, None),
                    group => {
                        if let Some((group, None)) = group {
                            self.links.insert(group, path.clone());
                        }
                        (EntryType::Regular, metadata, None, size, None)
                    }
                }
            }
            Found::Special { metadata, device } => match metadata.mode & 0o170_000 {
                0o010_000 => (EntryType::Fifo, metadata, None, 0, None),
                0o020_000 => (EntryType::Char, metadata, None, 0, Some(device)),
                0o060_000 => (EntryType::Block, metadata, None, 0, Some(device)),
                _ => {
                    self.sockets.push(path);
                    return Ok(());
                }
            },
        };
        let (kind, mode, size, device) = match known.and_then(|known| known.device) {
            Some((mode, major, minor)) => {
                let is_block = mode & 0o170_000 == 0o060_000;
                (if is_block { EntryType::Block } else { EntryType::Char }, mode, 0, Some((major, minor)))
            }
            None => (kind, found.mode, size, device),
        };
        let (uid, gid) = known.map_or((found.uid, found.gid), |known| (known.uid, known.gid));
        let mut xattrs = found.xattrs;
        // Of a file that is an object of a user's repository, too: what OSTree knows of it, not what it has.
        xattrs.retain(|(name, _)| name != b"user.ostreemeta");
        let metadata = Metadata { uid, gid, mode, xattrs };
        let modified = u64::try_from(found.modified.0).unwrap_or(0).min(self.newest);
        let entry =
            Entry { kind, path: &path, metadata: &metadata, modified, link: link.as_deref(), size, device };
        match content.filter(|_| kind == EntryType::Regular) {
            Some(mut content) => self.out.entry(&entry, &mut content),
            None => self.out.entry(&entry, &mut io::empty()),
        }
    }
}
