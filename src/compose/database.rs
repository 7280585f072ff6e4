//! dpkg's database, `var/lib/dpkg`, as `dpkg --unpack` leaves it.
//!
//! What dpkg makes on demand later (`available`, `diversions`, `statoverride`) is not made here
//! either. Of what it does leave, only `status-old` is left out: it is the status before the last
//! package, which says something about a run of dpkg and nothing about the image.

use std::collections::{BTreeMap, HashSet};

use super::{
    Package,
    merge::{Merged, mark_of},
    status,
};
use crate::{
    artefacts::{HeldFile, Metadata, NEW_CONFFILE},
    debian::triggers,
    error::{Context, Error, Result},
    store::{Folder, Node, Store, Transaction},
};

/// Folders that dpkg makes itself; `alternatives` and `parts` are in the package dpkg.
const FOLDERS: [&str; 3] = ["info", "triggers", "updates"];

/// Adds the database to a merged tree.
pub(super) fn write(
    store: &Store,
    transaction: &mut Transaction,
    packages: &[Package],
    order: &[usize],
    architecture: &str,
    merged: &mut Merged,
) -> Result<()> {
    let folder = transaction.write_folder_metadata(&Metadata::FOLDER)?;
    for name in FOLDERS {
        make_folder(store, &mut merged.root, &format!("var/lib/dpkg/{name}"), folder)?;
    }
    info(store, transaction, packages, merged)?;

    let mut files: BTreeMap<String, (u32, String)> = BTreeMap::new();
    let mut file = |name: &str, mode: u32, text: String| files.insert(name.to_owned(), (mode, text));
    file("status", 0o644, status_file(packages, merged)?);
    file("lock", 0o640, String::new());
    file("lock-frontend", 0o640, String::new());
    file("info/format", 0o644, "1\n".to_owned());
    // dpkg creates the last two when it looks for deferred triggers; the empty queue stays.
    file("triggers/Lock", 0o600, String::new());
    file("triggers/Unincorp", 0o644, String::new());
    for (name, text) in triggers(packages, order)? {
        file(&format!("triggers/{name}"), 0o644, text);
    }
    if let Some(text) = architectures(packages, architecture) {
        file("arch", 0o644, text);
    }
    for (name, (mode, text)) in files {
        let metadata = Metadata { uid: 0, gid: 0, mode: 0o100_000 | mode, xattrs: Vec::new() };
        let checksum = transaction.write_object(&metadata, text.as_bytes())?;
        let path = format!("var/lib/dpkg/{name}");
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let parent = make_folder(store, &mut merged.root, parent, folder)?;
        parent.entries(store)?.insert(name.to_owned(), Node::Object { checksum, mark: 0 });
    }
    Ok(())
}

fn make_folder<'a>(
    store: &Store,
    root: &'a mut Folder,
    path: &str,
    metadata: crate::digest::Sha256,
) -> Result<&'a mut Folder> {
    root.make_folder(store, path, metadata)?
        .ok_or_else(|| Error::input(format!("a package ships something else than a folder at {path}")))
}

/// Every package's files, by their objects; only lists that lost paths to other packages are written
/// anew.
fn info(
    store: &Store,
    transaction: &mut Transaction,
    packages: &[Package],
    merged: &mut Merged,
) -> Result<()> {
    let folder = transaction.write_folder_metadata(&Metadata::FOLDER)?;
    for (index, package) in packages.iter().enumerate() {
        let mut root = package.tree.clone();
        let Some(own) = root.folder(store, "info")? else {
            return Err(Error::input(format!("{}: its commit has no folder info", package.record.name)));
        };
        let mut own = std::mem::take(own.entries(store)?);
        let (lost, refused) = (merged.lost.get(&mark_of(index)), merged.refused.get(&mark_of(index)));
        let mut rewrite = |kind: &str, text: String| -> Result<()> {
            let metadata = Metadata { uid: 0, gid: 0, mode: 0o100_644, xattrs: Vec::new() };
            let checksum = transaction.write_object(&metadata, text.as_bytes())?;
            own.insert(format!("{}.{kind}", package.record.info_name), Node::Object { checksum, mark: 0 });
            Ok(())
        };
        let withheld = merged.withheld.get(&mark_of(index));
        let list = |sets: &[_]| without(&package.record.list, sets, |line| line.trim_start_matches('/'));
        if lost.is_some() || refused.is_some() || withheld.is_some() {
            rewrite("list", list(&[lost, refused, withheld]))?;
        }
        if withheld.is_some() {
            // dpkg-divert asks the lists whose a file is; the whole one comes with the held files.
            rewrite(&format!("list{NEW_CONFFILE}"), list(&[lost, refused]))?;
            let path = format!("var/lib/dpkg/info/{}.list", package.record.info_name);
            merged.held.push(HeldFile {
                held: format!("{path}{NEW_CONFFILE}"),
                name: path.clone(),
                path,
                package: package.record.name.clone(),
                conffile: false,
                rival: None,
            });
        }
        // dpkg makes sums of what it unpacks, and leaves them when another package takes a file over.
        if let (Some(sums), Some(_)) = (&package.record.made_md5sums, refused) {
            rewrite(
                "md5sums",
                without(sums, &[refused], |line| line.split_once("  ").map_or("", |(_, path)| path)),
            )?;
        }
        let all = make_folder(store, &mut merged.root, "var/lib/dpkg/info", folder)?;
        all.entries(store)?.append(&mut own);
    }
    merged.held.sort();
    Ok(())
}

/// A text without the lines whose paths are in a set.
fn without(text: &str, sets: &[Option<&HashSet<String>>], path: impl Fn(&str) -> &str) -> String {
    let is_in = |line: &str| sets.iter().flatten().any(|set| set.contains(path(line)));
    text.lines().filter(|line| !is_in(line)).flat_map(|line| [line, "\n"]).collect()
}

/// The status file: stanzas sorted by name, then architecture (`pkg_sorter_by_nonambig_name_arch`).
fn status_file(packages: &[Package], merged: &Merged) -> Result<String> {
    let mut sorted: Vec<(usize, &Package)> = packages.iter().enumerate().collect();
    sorted.sort_by(|(_, a), (_, b)| {
        (&a.record.name, &a.record.architecture).cmp(&(&b.record.name, &b.record.architecture))
    });
    let mut text = String::new();
    for (index, package) in sorted {
        let stanza = status::stanza(package, merged.obsolete.get(&mark_of(index)))
            .with_context(|| package.record.name.clone())?;
        text.push_str(&stanza);
        text.push('\n');
    }
    Ok(text)
}

/// The interests of all packages, in the order of unpacking.
fn triggers(packages: &[Package], order: &[usize]) -> Result<BTreeMap<String, String>> {
    let texts = order.iter().map(|&index| {
        let package = &packages[index];
        let record = &package.record;
        let owner = match package.multi_arch_same {
            true => format!("{}:{}", record.name, record.architecture),
            false => record.name.clone(),
        };
        (owner, record.triggers.as_str())
    });
    triggers::interests(texts).map_err(Error::input)
}

/// The arch file: only where there is more than one architecture (`dpkg_arch_save_list`).
fn architectures(packages: &[Package], native: &str) -> Option<String> {
    let mut foreign: Vec<&str> = packages
        .iter()
        .map(|package| package.record.architecture.as_str())
        .filter(|architecture| *architecture != "all" && *architecture != native)
        .collect();
    foreign.sort_unstable();
    foreign.dedup();
    if foreign.is_empty() {
        return None;
    }
    Some([native].into_iter().chain(foreign).flat_map(|name| [name, "\n"]).collect())
}
