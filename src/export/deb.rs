//! A package of the repository as a deb again, for a dpkg that is to unpack it: with the control files and
//! the tree of the deb that was ingested, in that one's order, uncompressed and of time 0.
//!
//! It is deb(5) as dpkg reads it since 1.17.6 (an uncompressed control member), and no more: the bytes are
//! not those of the archive's deb, nor is its digest.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Seek, SeekFrom, Write},
};

use tar::EntryType;

use super::tar_writer::{Dialect, Entry, Owners, TarWriter};
use crate::{
    digest::Sha256,
    error::{Context, Error, Result},
    store::{Content, Folder, Node, Store},
};

/// The size of an ar member's header (ar(5)).
const HEADER_SIZE: u64 = 60;

/// Writes a deb of the package's commit at `deb/pool/…`.
///
/// # Errors
/// `Kind::Input` if the commit is of another format than ours; if an object is missing; what the file
/// reports.
pub fn deb(store: &Store, commit: Sha256, out: &mut File) -> Result<()> {
    let record = store.package_record(commit)?;
    let record = record.ok_or_else(|| Error::input("another version of treestrap ingested it"))?;
    let mut root = store.root(commit)?;
    out.write_all(b"!<arch>\n")?;
    member(out, "debian-binary", |out| Ok(out.write_all(b"2.0\n")?))?;
    member(out, "control.tar", |out| {
        let mut control = folder(store, &mut root, "control")?;
        let names: Vec<String> = control.entries(store)?.keys().cloned().collect();
        write_tar(store, &mut control, names.iter().map(String::as_str), &[], out)
    })?;
    member(out, "data.tar", |out| {
        let mut data = folder(store, &mut root, "data")?;
        // dpkg writes its own list in the order of the tar.
        let paths = record.list.lines().map(|line| line.trim_start_matches('/')).filter(|path| *path != ".");
        write_tar(store, &mut data, paths, &record.hard_links, out)
    })
}

fn folder(store: &Store, root: &mut Folder, name: &str) -> Result<Folder> {
    match root.folder(store, name)? {
        Some(folder) => Ok(folder.clone()),
        None => Err(Error::input(format!("its commit has no folder {name}"))),
    }
}

/// Writes a member of an ar archive. Its size is known when it is written.
fn member(out: &mut File, name: &str, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let begin = out.stream_position()?;
    out.seek(SeekFrom::Current(HEADER_SIZE as i64))?;
    write(out)?;
    let size = out.stream_position()? - begin - HEADER_SIZE;
    if size % 2 == 1 {
        out.write_all(b"\n")?;
    }
    let end = out.stream_position()?;
    out.seek(SeekFrom::Start(begin))?;
    // name, time, uid, gid, mode, size
    writeln!(out, "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`", 0, 0, 0, 100_644)?;
    out.seek(SeekFrom::Start(end))?;
    Ok(())
}

/// Writes the root and these paths of a tree.
fn write_tar<'p>(
    store: &Store,
    root: &mut Folder,
    paths: impl Iterator<Item = &'p str>,
    hard_links: &[Vec<String>],
    out: &mut File,
) -> Result<()> {
    let groups = hard_links.iter().enumerate();
    let groups: HashMap<&str, usize> =
        groups.flat_map(|(number, group)| group.iter().map(move |path| (path.as_str(), number))).collect();
    let mut firsts: HashMap<usize, &str> = HashMap::new();
    let mut buffered = io::BufWriter::with_capacity(1 << 20, out);
    let mut writer = TarWriter::new(&mut buffered, Owners::default(), Dialect::Gnu);
    let metadata = store.folder_metadata(root.metadata)?;
    writer.entry(&Entry::new(EntryType::Directory, "", &metadata), &mut io::empty())?;
    for path in paths {
        let group = groups.get(path).copied();
        let first = group.and_then(|group| firsts.get(&group).copied());
        match root.find(store, path)? {
            None => return Err(Error::input(format!("its tree has no {path}, which its list has"))),
            Some(Node::Folder(folder)) => {
                let metadata = store.folder_metadata(folder.metadata)?;
                writer.entry(&Entry::new(EntryType::Directory, path, &metadata), &mut io::empty())
            }
            Some(Node::Object { checksum, .. }) => {
                if let Some(group) = group {
                    firsts.entry(group).or_insert(path);
                }
                object(store, &mut writer, path, *checksum, first)
            }
        }
        .with_context(|| format!("/{path}"))?;
    }
    writer.finish()?;
    Ok(buffered.flush()?)
}

/// Writes a file, a symbolic link, or a hard link to `first`.
fn object(
    store: &Store,
    writer: &mut TarWriter<'_>,
    path: &str,
    checksum: Sha256,
    first: Option<&str>,
) -> Result<()> {
    let (metadata, content) = store.object(checksum)?;
    let entry = |kind| Entry::new(kind, path, &metadata);
    match (first, content) {
        (Some(first), _) => {
            writer.entry(&Entry { link: Some(first.as_bytes()), ..entry(EntryType::Link) }, &mut io::empty())
        }
        (None, Content::Symlink(target)) => {
            writer.entry(&Entry { link: Some(&target), ..entry(EntryType::Symlink) }, &mut io::empty())
        }
        (None, Content::File(mut file)) => {
            writer.entry(&Entry { size: file.size, ..entry(EntryType::Regular) }, &mut file)
        }
    }
}
