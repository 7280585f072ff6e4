//! The commit stage: what stage 2 changed, applied to the composed tree, becomes the image at
//! `deb/images/IMAGE/configured`.
//!
//! Changed contents come first, while stage 2's upper layer is walked ([`Adopter`]); then the changes
//! are applied to the folders they are in. What did not change is neither read nor hashed again.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Read,
    path::Path,
};

use crate::{
    artefacts::{Accelerated, Committed, Composed, Configured, Metadata, TreeChange, TreeEntry},
    digest::Sha256,
    error::{Context, Error, Result},
    store::{
        Folder, Node, Store, Transaction,
        records::{
            self, FORMAT, FORMAT_KEY, HARD_LINKS_KEY, IMAGE_KEY, ImageRecord, PACKAGES_KEY,
            configured_reference,
        },
    },
};

/// Beside the commit, where it does not change the checksum: what the sandbox enforced.
const ENFORCED_KEY: &str = "treestrap.enforced";
/// Beside the commit: how a foreign image's programs ran, an [`Accelerated`].
const ACCELERATED_KEY: &str = "treestrap.accelerated";
/// Beside the commit: seconds per package.
const SECONDS_KEY: &str = "treestrap.seconds";

/// Attributes of the workshop, not of the image: overlayfs' own (overlayfs.rst), and libostree's,
/// which a copy made in a hardlink checkout (`cp -a`) brings along.
const FOREIGN_XATTRS: [&[u8]; 3] = [b"user.overlay.", b"trusted.overlay.", b"user.ostreemeta"];

/// Takes changed contents into the repository, then commits.
pub struct Adopter {
    store: Store,
    transaction: Transaction,
}

impl Adopter {
    /// Opens the repository for one image's changes.
    ///
    /// # Errors
    /// If it is not there or cannot be written to.
    pub fn new(repository: &Path) -> Result<Self> {
        Adopter::of(Store::open(repository)?)
    }

    fn of(store: Store) -> Result<Self> {
        let transaction = store.transaction()?;
        Ok(Adopter { store, transaction })
    }

    /// Takes a regular file of `size` bytes. Of the mode, the permission bits count.
    ///
    /// # Errors
    /// What the reader reports; if the content is shorter or longer; `Kind::Machine` for a full disk.
    pub fn adopt_file(&mut self, metadata: &Metadata, content: &mut dyn Read, size: u64) -> Result<Sha256> {
        self.transaction.write_file(&cleaned(metadata), content, size)
    }

    /// Takes a symbolic link.
    ///
    /// # Errors
    /// `Kind::Input` for a target that is not UTF-8; `Kind::Machine` for a full disk.
    pub fn adopt_symlink(&mut self, metadata: &Metadata, target: &[u8]) -> Result<Sha256> {
        self.transaction.write_symlink(&cleaned(metadata), target)
    }

    /// Applies the changes to the tree that stage 2 began with, writes the commit and moves the image's ref, and
    /// `also`, by which it is found again.
    /// `extra` (JSON by key) goes into the commit and so into its checksum; what stage 2 reports of
    /// itself ([`Configured::enforced`], seconds) goes beside it, because the same image must come out
    /// of every kind of sandbox.
    ///
    /// # Errors
    /// `Kind::Input` for a path that OSTree cannot hold; `Kind::Machine` for a full disk and its like.
    pub fn commit(
        mut self,
        composed: &Composed,
        configured: &Configured,
        extra: &BTreeMap<String, serde_json::Value>,
        also: Option<&str>,
    ) -> Result<Committed> {
        let mut root = self.store.root(composed.tree())?;
        for change in &configured.changes {
            self.apply(&mut root, change)
                .with_context(|| format!("/{}", String::from_utf8_lossy(&change.path)))?;
        }
        let hard_links = self.hard_links(&mut root, composed.tree(), &configured.changes)?;
        let image = ImageRecord {
            architecture: composed.architecture.clone(),
            source: composed.commit,
            base: composed.below,
        };
        let mut values = vec![
            (FORMAT_KEY, records::to_json(&FORMAT)?),
            (IMAGE_KEY, records::to_json(&image)?),
            (PACKAGES_KEY, records::to_json(&composed.packages)?),
            (HARD_LINKS_KEY, records::to_json(&hard_links)?),
        ];
        for (key, value) in extra {
            values.push((key, records::to_json(value)?));
        }
        let subject =
            format!("{} packages for {}, configured", composed.packages.len(), composed.architecture);
        let commit = self.transaction.write_commit(&root, &subject, &mut values)?;
        let mut beside = vec![
            (ENFORCED_KEY, records::to_json(&configured.enforced)?),
            (SECONDS_KEY, records::to_json(&configured.packages)?),
        ];
        if let Some(accelerated) = &configured.accelerated {
            beside.push((ACCELERATED_KEY, records::to_json(accelerated)?));
        }
        self.transaction.write_beside_commit(commit, &mut beside)?;
        for reference in [configured_reference(&composed.image).as_str()].into_iter().chain(also) {
            self.transaction.set_reference(reference, commit);
        }
        self.transaction.commit()?;
        Ok(Committed { image: composed.image.clone(), commit })
    }

    fn apply(&mut self, root: &mut Folder, change: &TreeChange) -> Result<()> {
        let store = &self.store;
        let path = std::str::from_utf8(&change.path)
            .map_err(|_| Error::input("a path that is not UTF-8, which OSTree cannot hold"))?;
        if path.is_empty() {
            return match &change.now {
                TreeEntry::Folder { metadata, opaque: false } => {
                    root.metadata = self.transaction.write_folder_metadata(&cleaned(metadata))?;
                    Ok(())
                }
                _ => Err(Error::bug("the root itself was replaced")),
            };
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = root
            .folder(store, parent)?
            .ok_or_else(|| Error::bug("changed, but the folder that it is in is not there"))?;
        let entries = parent.entries(store)?;
        match &change.now {
            TreeEntry::Absent => {
                entries.remove(name);
            }
            TreeEntry::Object { checksum, .. } => {
                entries.insert(name.to_owned(), Node::Object { checksum: *checksum, mark: 0 });
            }
            TreeEntry::Folder { metadata, opaque } => {
                let metadata = self.transaction.write_folder_metadata(&cleaned(metadata))?;
                match entries.get_mut(name) {
                    Some(Node::Folder(folder)) if !opaque => folder.metadata = metadata,
                    _ => {
                        entries.insert(name.to_owned(), Node::Folder(Folder::empty(metadata)));
                    }
                }
            }
        }
        Ok(())
    }

    /// The image's hard links: the composed tree's, as far as nothing happened to them, and those that
    /// stage 2 made.
    fn hard_links(
        &self,
        root: &mut Folder,
        composed: Sha256,
        changes: &[TreeChange],
    ) -> Result<Vec<Vec<String>>> {
        let mut new: HashMap<u64, Vec<String>> = HashMap::new();
        let mut changed: HashSet<&[u8]> = HashSet::new();
        for change in changes {
            changed.insert(&change.path);
            if let TreeEntry::Object { hard_link: Some(number), .. } = change.now {
                new.entry(number).or_default().push(String::from_utf8_lossy(&change.path).into_owned());
            }
        }
        let mut groups: Vec<Vec<String>> = new.into_values().collect();
        for mut group in self.store.hard_links(composed)? {
            let mut there = Vec::new();
            for path in group.drain(..).filter(|path| !changed.contains(path.as_bytes())) {
                if let Some(Node::Object { .. }) = root.find(&self.store, &path)? {
                    there.push(path);
                }
            }
            groups.push(there);
        }
        groups.retain(|group| group.len() > 1);
        groups.iter_mut().for_each(|group| group.sort());
        groups.sort();
        Ok(groups)
    }
}

/// How the programs of a foreign image ran when it was made; none where qemu alone ran them, and for
/// an image that was made elsewhere.
///
/// # Errors
/// If the repository cannot be read.
pub fn accelerated(store: &Store, commit: Sha256) -> Result<Option<Accelerated>> {
    store.value_beside_commit(commit, ACCELERATED_KEY)
}

/// Commits changes whose contents are in the repository already: [`Adopter::commit`] with nothing to
/// adopt.
///
/// # Errors
/// As [`Adopter::commit`].
pub fn commit(
    store: &Store,
    composed: &Composed,
    configured: &Configured,
    extra: &BTreeMap<String, serde_json::Value>,
) -> Result<Committed> {
    Adopter::of(store.reopen()?)?.commit(composed, configured, extra, None)
}

fn cleaned(metadata: &Metadata) -> Metadata {
    let foreign = |name: &[u8]| FOREIGN_XATTRS.iter().any(|prefix| name.starts_with(prefix));
    let xattrs = metadata.xattrs.iter().filter(|(name, _)| !foreign(name)).cloned().collect();
    Metadata { xattrs, ..metadata.clone() }
}

#[cfg(test)]
mod tests;
