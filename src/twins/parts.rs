//! The tree of twins: the programs and libraries of packages for this machine, merged, with some of
//! the files rewritten, some links added, and scripts before some programs. A few hundred files
//! are written; all others are the packages' own objects.
//!
//! What a package gives to a tree follows from the package and the two architectures. So it is made once, and kept as a
//! commit beside the trees: another image needs nothing but merging.
//!
//! ```text
//! deb/twins/HOST/ARCHITECTURE/parts-RULES/DEB
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs, mem,
};

use qemu::twins::{self, Plan, libraries::merge_usr, rewrite, scripts};

use super::{
    Contents, FORMAT, FORMAT_KEY, Machines, Member, REFERENCES, RULES, inventory::files, on_threads,
};
use crate::{
    Context, Error, Result,
    artefacts::Metadata,
    digest::Sha256,
    store::{Folder, Node, Store, Transaction, records},
};

/// The metadata of a part's commit that has what could not be rewritten: paths, and why.
const REFUSED_KEY: &str = "treestrap.refused";

/// What is taken of a package: where programs, libraries and their modules are. All else the
/// programs find in the image.
const FOLDERS: &[&str] = &["usr/bin/", "usr/sbin/", "usr/lib/", "usr/libexec/", "usr/lib64/"];

/// A file that was rewritten: everybody's, and set-id no longer. Credentials are the foreign program's.
const PROGRAM: Metadata = Metadata { uid: 0, gid: 0, mode: 0o100_755, xattrs: Vec::new() };

/// The last part but one of a part's ref.
fn folder_of_references() -> String {
    format!("parts-{RULES}.{}.{FORMAT}", twins::RULES)
}

/// The ref of a deb's part in trees for these architectures.
pub fn part(host: &str, image: &str, deb: Sha256) -> String {
    format!("{REFERENCES}{host}/{image}/{}/{deb}", folder_of_references())
}

/// Of which deb a part is, by its ref; none where it is no part, or one that other rules made.
pub fn part_of(reference: &str) -> Option<Sha256> {
    let (folder, deb) = reference.strip_prefix(REFERENCES)?.rsplit_once('/')?;
    let (_, folder) = folder.rsplit_once('/')?;
    (folder == folder_of_references()).then(|| deb.parse().ok())?
}

/// The parts of the packages for this machine, by the packages' names.
pub(super) struct Parts<'a> {
    store: &'a Store,
    parts: BTreeMap<&'a str, Part>,
}

struct Part {
    root: Folder,
    refused: BTreeMap<String, String>,
}

/// A part that is not stored yet.
struct Draft<'a> {
    member: &'a Member,
    /// By merged path: the package's own object, or another content.
    files: Vec<(String, Result<Vec<u8>, Sha256>)>,
    refused: BTreeMap<String, String>,
}

impl<'a> Parts<'a> {
    /// Of all these packages. What is missing is made in the transaction.
    pub(super) fn of(
        store: &'a Store,
        transaction: &mut Transaction,
        members: &'a [Member],
        machines: &Machines,
    ) -> Result<Self> {
        let reference = |member: &Member| part(machines.host.debian, machines.image.debian, member.digest);
        let mut parts = BTreeMap::new();
        let mut missing = Vec::new();
        for member in members {
            match stored(store, &reference(member))? {
                Some(part) => drop(parts.insert(member.name.as_str(), part)),
                None => missing.push(member),
            }
        }
        let draft = |store: &Store, member: &&'a Member| {
            draft(store, member, machines).with_context(|| member.name.clone())
        };
        on_threads(store, &missing, draft, |Draft { member, files, refused }| {
            let metadata = transaction.write_folder_metadata(&Metadata::FOLDER)?;
            let mut root = Folder::empty(metadata);
            for (path, content) in files {
                let checksum = match content {
                    Ok(content) => transaction.write_object(&PROGRAM, &content)?,
                    Err(own) => own,
                };
                add(store, &mut root, &path, checksum)?;
            }
            let subject = format!("{} in a tree of twins", member.name);
            let mut values =
                [(FORMAT_KEY, records::to_json(&FORMAT)?), (REFUSED_KEY, records::to_json(&refused)?)];
            let commit = transaction.write_commit(&root, &subject, &mut values)?;
            transaction.set_reference(&reference(member), commit);
            parts.insert(member.name.as_str(), Part { root, refused });
            Ok(())
        })?;
        Ok(Parts { store, parts })
    }

    /// Why a file of a package could not be rewritten, where it could not.
    pub(super) fn refused(&self, package: &str, path: &str) -> Option<String> {
        self.parts.get(package)?.refused.get(path).cloned()
    }

    /// The tree that a plan wants.
    pub(super) fn tree(mut self, transaction: &mut Transaction, plan: &Plan) -> Result<Folder> {
        let mut root = Folder::empty(transaction.write_folder_metadata(&Metadata::FOLDER)?);
        for (path, target) in &plan.links {
            let link = transaction.write_symlink(&Metadata::default(), target.as_bytes())?;
            add(self.store, &mut root, path, link)?;
        }
        for path in &plan.scripts {
            let script =
                scripts::script(path).ok_or_else(|| Error::bug("a plan of a script that is none"))?;
            let script = transaction.write_object(&PROGRAM, script.as_bytes())?;
            add(self.store, &mut root, &scripts::place(path), script)?;
        }
        for name in &plan.packages {
            if let Some(part) = self.parts.remove(name.as_str()) {
                merge(self.store, &mut root, part.root)?;
            }
        }
        Ok(root)
    }
}

fn stored(store: &Store, reference: &str) -> Result<Option<Part>> {
    let Some(commit) = store.resolve(reference)? else { return Ok(None) };
    if !store.has_commit(commit)? {
        return Ok(None);
    }
    let refused = store.commit_value(commit, REFUSED_KEY)?;
    refused.map(|refused| Ok(Part { root: store.root(commit)?, refused })).transpose()
}

/// What a package gives to trees.
fn draft<'a>(store: &Store, member: &'a Member, machines: &Machines) -> Result<Draft<'a>> {
    let Contents::Commit(commit) = member.contents else {
        return Err(Error::bug("it is not in the repository"));
    };
    let record = store.package_record(commit)?.ok_or_else(|| Error::bug("it has no record"))?;
    let links: BTreeSet<String> = record.symlinks.iter().map(|(path, _)| merge_usr(path)).collect();
    let mut draft = Draft { member, files: Vec::new(), refused: BTreeMap::new() };
    for (path, own) in files(store, commit, FOLDERS)? {
        let mut taken = Err(own);
        if !links.contains(&path) {
            let object = store.object_path(own);
            let content = fs::read(&object).with_context(|| format!("reading {}", object.display()))?;
            match rewrite(&path, &content, (&machines.image, &machines.host)) {
                Ok(rewritten) if rewritten != content => taken = Ok(rewritten),
                Ok(_) => {}
                Err(why) => drop(draft.refused.insert(path.clone(), why.to_string())),
            }
        }
        draft.files.push((path, taken));
    }
    Ok(draft)
}

/// Adds a file where there is none, with the folders that it is in.
fn add(store: &Store, root: &mut Folder, path: &str, checksum: Sha256) -> Result<()> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let metadata = root.metadata;
    let parent = root.make_folder(store, parent, metadata)?;
    let parent = parent.ok_or_else(|| Error::bug(format!("{path} is below a file")))?;
    parent.entries(store)?.entry(name.to_owned()).or_insert(Node::Object { checksum, mark: 0 });
    Ok(())
}

/// Adds what is not there. What is there stays.
fn merge(store: &Store, into: &mut Folder, mut from: Folder) -> Result<()> {
    let own = into.entries(store)?;
    for (name, node) in mem::take(from.entries(store)?) {
        match (own.entry(name), node) {
            (Entry::Vacant(place), node) => drop(place.insert(node)),
            (Entry::Occupied(mut place), Node::Folder(folder)) => {
                if let Node::Folder(own) = place.get_mut() {
                    merge(store, own, folder)?;
                }
            }
            (Entry::Occupied(_), Node::Object { .. }) => {}
        }
    }
    Ok(())
}
