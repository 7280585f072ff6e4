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

/// A program to take out of a deb.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it may be (no leading slash).
    pub paths: Vec<String>,
    /// The ref of a commit with this one file.
    pub reference: String,
}

/// Reads a deb to its end and puts of each program the first file that is one of its paths under its
/// ref. What follows the last of them in the deb is read but not unpacked. `body` must fail at its end if it was
/// not the deb that the lock names.
///
/// # Errors
/// `Kind::Input`, naming the package, if the deb is corrupt or lacks one of the programs.
pub fn extract(
    store: &Store,
    package: &LockedPackage,
    body: &mut dyn Read,
    programs: &[Program],
) -> Result<()> {
    let mut transaction = store.transaction()?;
    let mut found: Vec<Option<(String, Sha256)>> = vec![None; programs.len()];
    {
        let mut deb = Deb::new(&mut *body).with_context(|| package.id())?.of_known_digest();
        let mut control = deb.control()?;
        io::copy(&mut control, &mut io::sink()).with_context(|| package.id())?;
        control.finish().with_context(|| package.id())?;
        let mut archive = tar::Archive::new(deb.data()?);
        for entry in archive.entries().with_context(|| package.id())? {
            let mut entry = entry.with_context(|| package.id())?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            let wanted = programs.iter().position(|program| program.paths.contains(&name));
            if let Some(at) =
                wanted.filter(|&at| found[at].is_none() && entry.header().entry_type().is_file())
            {
                let size = entry.size();
                let checksum =
                    transaction.write_file(&PROGRAM, &mut entry, size).with_context(|| package.id())?;
                let name = name.rsplit('/').next().unwrap_or_default().to_owned();
                found[at] = Some((name, checksum));
                if found.iter().all(Option::is_some) {
                    break;
                }
            }
        }
    }
    io::copy(body, &mut io::sink()).with_context(|| package.id())?;
    for (Program { paths, reference }, found) in programs.iter().zip(found) {
        let missing = || Error::input(format!("{}: it has no {}", package.id(), paths.join(" or ")));
        let (name, checksum) = found.ok_or_else(missing)?;
        let mut root = Folder::empty(transaction.write_folder_metadata(&Metadata::FOLDER)?);
        root.entries(store)?.insert(name, Node::Object { checksum, mark: 0 });
        let mut values = [(FORMAT_KEY, records::to_json(&FORMAT)?)];
        let commit = transaction.write_commit(&root, &package.id(), &mut values)?;
        transaction.set_reference(reference, commit);
    }
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
