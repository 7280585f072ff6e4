//! The tree of twins: the programs and libraries of packages for this machine, merged, with some of
//! the programs rewritten and some links added. A few hundred files are written; all others are the
//! packages' own objects.

use std::{collections::BTreeMap, fs};

use qemu::twins::{Plan, rewrite};

use super::{Contents, Machines, Member, inventory::files};
use crate::{
    Context, Error, Result,
    artefacts::Metadata,
    digest::Sha256,
    store::{Folder, Node, Store, Transaction},
};

/// What is taken of a package: where programs, libraries and their modules are. All else the
/// programs find in the image.
const FOLDERS: &[&str] = &["usr/bin", "usr/sbin", "usr/lib", "usr/libexec", "usr/lib64"];

/// A program of the tree: everybody's, and set-id no longer. Credentials are the foreign program's.
const PROGRAM: Metadata = Metadata { uid: 0, gid: 0, mode: 0o100_755, xattrs: Vec::new() };

/// The packages for this machine.
pub(super) struct Natives<'a> {
    store: &'a Store,
    /// The files of each package: merged paths and what is there.
    packages: BTreeMap<String, BTreeMap<String, Sha256>>,
}

impl<'a> Natives<'a> {
    pub(super) fn new(store: &'a Store, members: &[Member]) -> Result<Self> {
        let mut packages = BTreeMap::new();
        for member in members {
            let Contents::Commit(commit) = member.contents else {
                return Err(Error::bug(format!("{} is not in the repository", member.name)));
            };
            packages.insert(member.name.clone(), files(store, commit)?);
        }
        Ok(Natives { store, packages })
    }

    /// A program's content.
    pub(super) fn read(&self, package: &str, path: &str) -> Result<Vec<u8>> {
        let object = self.packages.get(package).and_then(|files| files.get(path));
        self.content(*object.ok_or_else(|| Error::bug(format!("{package} has no {path}")))?)
    }

    fn content(&self, checksum: Sha256) -> Result<Vec<u8>> {
        let object = self.store.object_path(checksum);
        fs::read(&object).with_context(|| format!("reading {}", object.display()))
    }

    /// Writes the tree.
    pub(super) fn tree(
        &self,
        transaction: &mut Transaction,
        plan: &Plan,
        machines: &Machines,
    ) -> Result<Folder> {
        let folder = transaction.write_folder_metadata(&Metadata::FOLDER)?;
        let mut root = Folder::empty(folder);
        let mut add = |path: &str, checksum: Sha256| -> Result<()> {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let parent = root.make_folder(self.store, parent, folder)?;
            let parent = parent.ok_or_else(|| Error::bug(format!("{path} is below a file")))?;
            parent.entries(self.store)?.entry(name.to_owned()).or_insert(Node::Object { checksum, mark: 0 });
            Ok(())
        };
        for (path, target) in &plan.links {
            add(path, transaction.write_symlink(&Metadata::default(), target.as_bytes())?)?;
        }
        for name in &plan.packages {
            let Some(files) = self.packages.get(name) else { continue };
            for (path, checksum) in files {
                let wanted = FOLDERS
                    .iter()
                    .any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')));
                if !wanted {
                    continue;
                }
                let mut checksum = *checksum;
                if plan.rewritten.contains(path) {
                    let program = rewrite(path, &self.content(checksum)?, (&machines.image, &machines.host))
                        .map_err(|error| Error::bug(format!("{path} was found fit to rewrite: {error}")))?;
                    checksum = transaction.write_object(&PROGRAM, &program)?;
                }
                add(path, checksum)?;
            }
        }
        Ok(root)
    }
}
