//! The keys that vouch for a configuration's repositories.
//!
//! multistrap downloads the packages that `keyring` names with this machine's own apt, and trusts the files
//! in their `usr/share/keyrings` for all repositories. So does this: from this machine's apt sources, whose
//! signatures are checked by the keys that it has. Where that cannot be (offline, no apt sources), the files
//! of the same package as it is installed on this machine do.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use super::super::{Session, indexes, pool};
use crate::{
    Context, Error, Result,
    acquire::Acquire,
    artefacts::{Image, LockedPackage, Lockfile},
    digest::Sha256,
    ingest::Ingester,
    lock::{self, sources},
    store::{Content, Folder, Node, Store},
};

/// Where keyring packages have their files.
const FOLDER: &str = "usr/share/keyrings";

/// The keyring files of these packages.
pub(super) fn obtain(session: &Session<'_>, names: &BTreeSet<String>) -> Result<Vec<String>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let downloaded = download(session, names);
    let files = match downloaded {
        Ok(files) => files,
        Err(error) => {
            let installed: Vec<PathBuf> =
                names.iter().flat_map(|name| installed(Path::new("/"), name)).collect();
            if installed.is_empty() {
                return Err(error
                    .context("getting the keyrings from this machine's own apt sources")
                    .hint("install the packages that keyring= names on this machine, or correct the line"));
            }
            let message = format!(
                "the keyrings that are installed on this machine are used: none could be downloaded: {error}"
            );
            session.reporter.note("", message);
            installed
        }
    };
    let text = |path: PathBuf| path.to_str().map(str::to_owned).ok_or(path);
    files
        .into_iter()
        .map(|path| text(path).map_err(|path| Error::input(format!("{}: not UTF-8", path.display()))))
        .collect()
}

fn download(session: &Session<'_>, names: &BTreeSet<String>) -> Result<Vec<PathBuf>> {
    let host =
        qemu::host().ok_or_else(|| Error::machine("this machine's architecture is none of Debian's"))?;
    let repositories = sources::host_repositories(Path::new("/"))?;
    let image = Image::of_repositories("keyrings", host.name, repositories);
    let acquire = Acquire::new(session.offline, session.stop);
    let indexes = indexes::obtain(session, &image.request, &[host.name.to_owned()], &acquire)?;
    let mut packages = Vec::new();
    for name in names {
        packages.push(
            lock::candidate(host.name, name, &indexes)?
                .ok_or_else(|| Error::input(format!("this machine's apt sources have no package {name}")))?,
        );
    }
    let lockfile = Lockfile { packages, request: None };
    pool::fetch_locked(session, &[(&image, &lockfile)])?;
    let mut files = Vec::new();
    for package in &lockfile.packages {
        let folder = session.cache.join("keyrings").join(package.sha256.to_string());
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        for (name, content) in of_package(session, package)? {
            // What is no longer trusted is in the package as well.
            if !name.contains("removed") {
                let path = folder.join(name);
                super::super::replace_file(&path, |file| Ok(std::io::Write::write_all(file, &content)?))?;
                files.push(path);
            }
        }
    }
    match files.is_empty() {
        true => Err(Error::input(format!("the keyring packages have no files in {FOLDER}"))),
        false => Ok(files),
    }
}

/// The keyring files of a package that is in the repository: names and contents.
pub(super) fn of_package(session: &Session<'_>, package: &LockedPackage) -> Result<Vec<(String, Vec<u8>)>> {
    let ingested = Ingester::new(&session.repo)?.lookup(package)?;
    let ingested = ingested.ok_or_else(|| Error::bug(format!("{} was not fetched", package.id())))?;
    let store = Store::open(&session.repo)?;
    let mut root = store.root(ingested.commit)?;
    let names: Vec<String> = match root.folder(&store, &format!("data/{FOLDER}"))? {
        Some(folder) => folder.entries(&store)?.keys().cloned().collect(),
        None => Vec::new(),
    };
    let mut files = Vec::new();
    for name in names {
        if let Some(content) = read(&store, &mut root, &name)? {
            files.push((name, content));
        }
    }
    Ok(files)
}

/// A file of the folder, or one that a link in it names there.
fn read(store: &Store, root: &mut Folder, name: &str) -> Result<Option<Vec<u8>>> {
    let mut name = name.to_owned();
    for _ in 0..2 {
        let Some(checksum) = object(store, root, &name)? else { return Ok(None) };
        match store.object(checksum)?.1 {
            Content::File(mut file) => {
                let mut content = Vec::new();
                file.read_to_end(&mut content)?;
                return Ok(Some(content));
            }
            Content::Symlink(target) => name = String::from_utf8_lossy(&target).into_owned(),
        }
    }
    Ok(None)
}

fn object(store: &Store, root: &mut Folder, name: &str) -> Result<Option<Sha256>> {
    if name.contains('/') {
        return Ok(None);
    }
    Ok(match root.find(store, &format!("data/{FOLDER}/{name}"))? {
        Some(Node::Object { checksum, .. }) => Some(*checksum),
        _ => None,
    })
}

/// The keyring files of a package as it is installed on this machine, by dpkg's list of it.
fn installed(root: &Path, name: &str) -> Vec<PathBuf> {
    let list = root.join(format!("var/lib/dpkg/info/{name}.list"));
    let text = fs::read_to_string(list).unwrap_or_default();
    let prefix = format!("/{FOLDER}/");
    let lines = text.lines().filter(|line| line.starts_with(&prefix) && !line.contains("removed"));
    lines.map(|line| root.join(&line[1..])).filter(|path| path.is_file()).collect()
}
