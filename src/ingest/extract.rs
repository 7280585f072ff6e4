//! One file of a deb: a tool that treestrap runs itself, such as qemu-user, from a package of which
//! nothing else is wanted.

use std::io::{self, Read};

use crate::{
    artefacts::{LockedPackage, Metadata},
    debian::deb::Deb,
    digest::Sha256,
    error::{Context, Error, Result},
    store::{
        Folder, Node, Store,
        records::{self, FORMAT, FORMAT_KEY},
    },
};

const PROGRAM: Metadata = Metadata { uid: 0, gid: 0, mode: 0o100_755, xattrs: Vec::new() };

/// Reads a deb to its end and puts the first file of it that is one of `paths` (no leading slash) under
/// `reference`, a commit with this one file. What follows the file in the deb is read but not
/// unpacked. `body` must fail at its end if it was not the deb that the lock names.
///
/// # Errors
/// `Kind::Input`, naming the package, if the deb is corrupt or has none of the paths.
pub fn extract(
    store: &Store,
    package: &LockedPackage,
    body: &mut dyn Read,
    paths: &[String],
    reference: &str,
) -> Result<()> {
    let mut transaction = store.transaction()?;
    let mut found: Option<(String, Sha256)> = None;
    {
        let mut deb = Deb::new(&mut *body).with_context(|| package.id())?.of_known_digest();
        let mut control = deb.control()?;
        io::copy(&mut control, &mut io::sink()).with_context(|| package.id())?;
        control.finish().with_context(|| package.id())?;
        let mut archive = tar::Archive::new(deb.data()?);
        for entry in archive.entries().with_context(|| package.id())? {
            let mut entry = entry.with_context(|| package.id())?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            if entry.header().entry_type().is_file() && paths.contains(&name) {
                let size = entry.size();
                let checksum =
                    transaction.write_file(&PROGRAM, &mut entry, size).with_context(|| package.id())?;
                let name = name.rsplit('/').next().unwrap_or_default().to_owned();
                found = Some((name, checksum));
                break;
            }
        }
    }
    io::copy(body, &mut io::sink()).with_context(|| package.id())?;
    let (name, checksum) =
        found.ok_or_else(|| Error::input(format!("{}: it has no {}", package.id(), paths.join(" or "))))?;
    let mut root = Folder::empty(transaction.write_folder_metadata(&Metadata::FOLDER)?);
    root.entries(store)?.insert(name, Node::Object { checksum, mark: 0 });
    let mut values = [(FORMAT_KEY, records::to_json(&FORMAT)?)];
    let commit = transaction.write_commit(&root, &package.id(), &mut values)?;
    transaction.set_reference(reference, commit);
    transaction.commit()
}

/// The file that [`extract`] put under `reference`, as an object on disk; none if it did not yet.
///
/// # Errors
/// If the repository cannot be read.
pub fn extracted(store: &Store, reference: &str) -> Result<Option<std::path::PathBuf>> {
    let Some(commit) = store.resolve(reference)? else { return Ok(None) };
    let mut root = store.root(commit)?;
    let object = root.entries(store)?.values().find_map(|node| match node {
        Node::Object { checksum, .. } => Some(*checksum),
        Node::Folder(_) => None,
    });
    Ok(object.map(|checksum| store.object_path(checksum)))
}
