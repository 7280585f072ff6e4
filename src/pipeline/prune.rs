//! `prune`: removes from a repository what none of its images needs any more.
//!
//! | what | stays |
//! |---|---|
//! | images | with what they continue from, those of the manifest; others too, imported ones among them, unless they are not wanted; not what earlier locks gave |
//! | debs | those that a lock of the manifest names, and those of images that stay |
//! | qemu-user, native programs | those that a lock of tools pins, or with which an image that stays was made |
//! | other refs than treestrap's | all |
//! | caches beside the objects | those of what stays |
//!
//! Everything that goes can be had again by `build`, as long as the archive has the debs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{Session, listings, locks, tools, twin_trees};
use crate::{
    Context, Result,
    artefacts::{Image, Lockfile},
    commit,
    digest::Sha256,
    store::{
        Pruned, Store,
        records::{MEMORY, pool_reference},
    },
    twins,
};

/// What `prune` removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Refs, sorted.
    pub references: Vec<String>,
    /// Objects and bytes.
    pub objects: Pruned,
}

/// Removes what is not needed; says what it was. `images`: those of the manifest. `only_these`: whether
/// other images go. `dry_run`: nothing is removed.
pub fn prune(session: &Session<'_>, images: &[Image], only_these: bool, dry_run: bool) -> Result<Removed> {
    let store = Store::open(&session.repo)?;
    // Also for a dry run: what a running build has made may have no ref yet.
    store.use_alone()?;
    let all: BTreeMap<String, Sha256> = store.references("")?.into_iter().collect();
    let kept = Kept::of(session, &store, images, only_these, &all)?;
    let references: Vec<String> = all.keys().filter(|name| !kept.keeps(name)).cloned().collect();
    if dry_run {
        let commits = all.iter().filter(|(name, _)| kept.keeps(name)).map(|(_, commit)| *commit).collect();
        return Ok(Removed { references, objects: store.unreachable(&commits)? });
    }
    if let Err(error) = sandbox::sweep(&session.work()) {
        session.reporter.warn("", format!("what a killed run left could not be removed: {error}"));
    }
    store.remove_references(&references)?;
    let objects = store.prune()?;
    listings::remove_orphans(session, |commit| store.has_commit(commit))?;
    twin_trees::remove_orphans(session, &store)?;
    twins::Inventories::new(&store)
        .remove_orphans(|deb| Ok(store.resolve(&pool_reference(deb))?.is_some()))?;
    remove_failed(session, &kept)?;
    Ok(Removed { references, objects })
}

/// The refs that stay.
struct Kept {
    references: BTreeSet<String>,
    /// The images whose refs stay; none: all.
    images: Option<BTreeSet<String>>,
}

impl Kept {
    fn of(
        session: &Session<'_>,
        store: &Store,
        images: &[Image],
        only_these: bool,
        all: &BTreeMap<String, Sha256>,
    ) -> Result<Kept> {
        let names = images.iter().map(|image| image.request.image.clone()).collect();
        let mut kept = Kept { references: BTreeSet::new(), images: only_these.then_some(names) };
        let failed = kept.failed(session)?;
        for image in images {
            if let Some(lockfile) = locks::read_if_there(&image.lock)? {
                kept.keep_debs(&lockfile);
            }
            if let Some((lockfile, emulator)) = tools::locked(session, image)? {
                kept.keep_debs(&lockfile);
                kept.references.extend(emulator);
            }
        }
        kept.references
            .extend(all.iter().filter(|(_, commit)| failed.contains(commit)).map(|(name, _)| name.clone()));
        kept.keep_made_with(store, all, failed)?;
        Ok(kept)
    }

    /// The trees over which failed runs of images that stay are kept.
    fn failed(&self, session: &Session<'_>) -> Result<BTreeSet<Sha256>> {
        let mut commits = BTreeSet::new();
        for entry in fs::read_dir(session.kept("")).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            if let Some(image) = name.strip_suffix(".commit").filter(|image| self.keeps_failed(image)) {
                let text =
                    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                commits.extend(text.trim().parse::<Sha256>().ok().filter(|_| !image.is_empty()));
            }
        }
        Ok(commits)
    }

    /// Whether what a failed run left stays, by its name: `IMAGE`, or `IMAGE~layer-N`.
    fn keeps_failed(&self, name: &str) -> bool {
        let image = name.split_once('~').map_or(name, |(image, _)| image);
        self.images.as_ref().is_none_or(|images| images.contains(image))
    }

    fn keep_debs(&mut self, lockfile: &Lockfile) {
        self.references.extend(lockfile.packages.iter().map(|package| pool_reference(package.sha256)));
    }

    /// What the images that stay were made of and with. A commit does not name its debs: they are found by
    /// name, version and architecture.
    fn keep_made_with(
        &mut self,
        store: &Store,
        all: &BTreeMap<String, Sha256>,
        failed: BTreeSet<Sha256>,
    ) -> Result<()> {
        let mut packages = BTreeSet::new();
        let mut made_with = BTreeSet::new();
        for (name, &commit) in all.iter().filter(|(name, _)| name.starts_with(IMAGES) && self.keeps(name)) {
            let listed = store.list_packages(commit).with_context(|| name.clone())?;
            packages.extend(
                listed.into_iter().map(|package| (package.name, package.version, package.architecture)),
            );
            made_with.extend(commit::accelerated(store, commit)?.map(|accelerated| accelerated.twins));
        }
        let mut images: BTreeSet<Sha256> = BTreeSet::new();
        let roots = all.iter().filter(|(name, _)| name.starts_with(IMAGES) && self.keeps(name));
        for commit in roots.map(|(_, &commit)| commit).chain(failed) {
            // With what they continue from.
            let mut next = Some(commit);
            while let Some(commit) = next.filter(|&commit| images.insert(commit)) {
                next = match store.has_commit(commit)? {
                    true => store.image_record(commit)?.and_then(|record| record.base),
                    false => None,
                };
            }
        }
        for (name, &commit) in all {
            let is_needed = if name.starts_with(MEMORY) {
                images.contains(&commit)
            } else if name.starts_with(POOL) {
                let record = store.package_record(commit)?;
                record.is_some_and(|record| {
                    packages.contains(&(record.name, record.version, record.architecture))
                })
            } else {
                name.starts_with(twins::REFERENCES) && made_with.contains(&commit)
            };
            if is_needed {
                self.references.insert(name.clone());
            }
        }
        Ok(())
    }

    fn keeps(&self, name: &str) -> bool {
        if !name.starts_with(OURS) || self.references.contains(name) {
            return true;
        }
        if name.starts_with(IMPORTED) {
            return self.images.is_none();
        }
        if let Some(deb) = twins::part_of(name) {
            return self.references.contains(&pool_reference(deb));
        }
        let Some(rest) = name.strip_prefix(IMAGES) else { return false };
        // What `verify` left belongs to its image. Layers that nobody is making now are made anew.
        if rest.contains("/layer-") {
            return false;
        }
        let image = rest.split_once('/').map_or(rest, |(image, _)| image);
        self.images.as_ref().is_none_or(|images| images.contains(image))
    }
}

/// The refs that treestrap writes, and those of images and of debs among them.
const OURS: &str = "deb/";
const IMAGES: &str = "deb/images/";
const POOL: &str = "deb/pool/";
/// Images that other systems made: they are of no manifest.
const IMPORTED: &str = "deb/imported/";

/// Removes what failed runs of images left that do not stay.
fn remove_failed(session: &Session<'_>, kept: &Kept) -> Result<()> {
    let folder = session.kept("");
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !kept.keeps_failed(&entry.file_name().to_string_lossy()) {
            crate::configure::forget_kept(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_package_gives_to_twins_stays_with_its_deb() {
        let [kept, gone] = [&b"kept"[..], b"gone"].map(Sha256::of);
        let references = BTreeSet::from([pool_reference(kept)]);
        let kept_refs = Kept { references, images: None };
        for (deb, stays) in [(kept, true), (gone, false)] {
            assert_eq!(kept_refs.keeps(&twins::part("amd64", "armhf", deb)), stays);
        }
        let other_rules = format!("{}amd64/armhf/parts-0.0.0/{kept}", twins::REFERENCES);
        assert!(!kept_refs.keeps(&other_rules), "nobody looks for it any more");
    }
}
