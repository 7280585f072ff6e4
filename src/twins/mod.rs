//! The twins stage: which programs of a foreign image this machine runs itself, and the tree that
//! they are in. docs/acceleration.md has the idea; the crate `qemu` decides, this module gives it the
//! repository's packages and stores what it decides.
//!
//! ```text
//! packages of the image ──inventory──┬─ wanted ─▶ which packages are fetched for this machine
//! packages for this machine ─────────┴─ prepare ─▶ Twins: a plan, and a commit with the tree
//! ```
//!
//! Twins are commits at `deb/twins/HOST/ARCHITECTURE/KEY`, where the key covers all that went into the
//! plan; the plan itself is in the commit's metadata. So it is made once for a lock, and every later
//! stage 2 reads it.

mod inventory;
mod parts;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use qemu::twins::{self, Inventory, Machine, Package, Plan, Policy};

pub use self::{
    inventory::Inventories,
    parts::{part, part_of},
};
use crate::{
    Error, Result,
    artefacts::{IngestedPackage, LockedPackage},
    digest::Sha256,
    store::{
        Store,
        records::{self, FORMAT, FORMAT_KEY},
    },
};

/// The metadata of a tree's commit that has its [`Plan`].
const PLAN_KEY: &str = "treestrap.twins";

/// What the refs of all trees and their parts begin with.
pub const REFERENCES: &str = "deb/twins/";

/// What a plan depends on beside its inputs: the code that makes it, its tree and the tree's parts. Raised when
/// they change what they make of the same packages.
const RULES: u32 = 5;

/// A package and its programs.
#[derive(Clone, Debug)]
pub struct Member {
    name: String,
    architecture: String,
    /// The version of its source package, by which twins are matched.
    source_version: String,
    /// What its programs follow from: the digest of the deb, or of what was found of it.
    digest: Sha256,
    contents: Contents,
}

/// Where a package's programs are.
#[derive(Clone, Debug)]
enum Contents {
    /// In the commit of an ingested package.
    Commit(Sha256),
    /// In a folder, where this was found of them.
    Known(Inventory),
}

impl Member {
    /// A package of a lock, as it is in the repository.
    pub fn new(locked: &LockedPackage, ingested: IngestedPackage) -> Self {
        Member {
            name: ingested.name,
            architecture: ingested.architecture,
            source_version: locked.source_version().to_owned(),
            digest: ingested.deb,
            contents: Contents::Commit(ingested.commit),
        }
    }

    /// A package that is unpacked in a folder, with this in it.
    pub fn unpacked(locked: &LockedPackage, inventory: Inventory) -> Result<Self> {
        let digest = Sha256::of(&serde_json::to_vec(&inventory).map_err(Error::bug)?);
        Ok(Member {
            name: locked.name.clone(),
            architecture: locked.architecture.clone(),
            source_version: locked.source_version().to_owned(),
            digest,
            contents: Contents::Known(inventory),
        })
    }

    /// Whether it can have programs and libraries: what is for all architectures has none that could
    /// have a twin.
    fn has_programs(&self) -> bool {
        self.architecture != "all"
    }
}

/// The twins of an image's programs.
#[derive(Clone, Debug)]
pub struct Twins {
    /// What has a twin, what has none and why, what is mounted where.
    pub plan: Plan,
    /// The commit whose tree is mounted at [`qemu::twins::TREE`].
    pub commit: Sha256,
}

/// The two architectures.
#[derive(Clone, Copy, Debug)]
pub struct Machines {
    /// The image's.
    pub image: Machine,
    /// This machine's.
    pub host: Machine,
}

impl Machines {
    /// By their Debian names; none where the loader of one of them is not known.
    pub fn of(image: &str, host: &str) -> Option<Machines> {
        Some(Machines { image: Machine::of(image)?, host: Machine::of(host)? })
    }

    /// The refs of the trees.
    fn references(&self) -> String {
        format!("{REFERENCES}{}/{}", self.host.debian, self.image.debian)
    }
}

/// The names of those packages of the image that are needed for this machine, too.
///
/// # Errors
/// If the repository cannot be read.
pub fn wanted(
    inventories: &Inventories<'_>,
    image: &[Member],
    machines: &Machines,
    policy: &Policy,
) -> Result<Vec<String>> {
    let contents = inventories.of_all(image)?;
    let wanted = twins::wanted(&packages(image, &contents), &machines.image, policy);
    Ok(wanted.into_keys().collect())
}

/// The twins of an image, with `native` the packages for this machine that are in the repository.
///
/// # Errors
/// If the repository cannot be read or written.
pub fn prepare(
    store: &Store,
    inventories: &Inventories<'_>,
    (image, native): (&[Member], &[Member]),
    machines: &Machines,
    policy: &Policy,
) -> Result<Twins> {
    let reference = format!("{}/{}", machines.references(), key(image, native, policy)?);
    if let Some(twins) = stored(store, &reference)? {
        return Ok(twins);
    }
    let (contents, native_contents) = (inventories.of_all(image)?, inventories.of_all(native)?);
    let mut transaction = store.transaction()?;
    let parts = parts::Parts::of(store, &mut transaction, native, machines)?;
    let plan = twins::plan(
        &packages(image, &contents),
        &packages(native, &native_contents),
        (&machines.image, &machines.host),
        policy,
        |package, path| parts.refused(package, path),
    );
    let root = parts.tree(&mut transaction, &plan)?;
    let mut values = [(FORMAT_KEY, records::to_json(&FORMAT)?), (PLAN_KEY, records::to_json(&plan)?)];
    let subject =
        format!("programs for {} in the place of {}'s", machines.host.debian, machines.image.debian);
    let commit = transaction.write_commit(&root, &subject, &mut values)?;
    transaction.set_reference(&reference, commit);
    transaction.commit()?;
    Ok(Twins { plan, commit })
}

/// The twins of a commit that [`prepare`] made, if it is still there.
///
/// # Errors
/// If the repository cannot be read.
pub fn load(store: &Store, commit: Sha256) -> Result<Option<Twins>> {
    if !store.has_commit(commit)? || store.commit_value(commit, FORMAT_KEY)? != Some(FORMAT) {
        return Ok(None);
    }
    Ok(store.commit_value(commit, PLAN_KEY)?.map(|plan| Twins { plan, commit }))
}

fn stored(store: &Store, reference: &str) -> Result<Option<Twins>> {
    match store.resolve(reference)? {
        Some(commit) => load(store, commit),
        None => Ok(None),
    }
}

/// All that decides the plan. Packages without a program count for nothing, so that images which
/// differ in data alone share their twins.
fn key(image: &[Member], native: &[Member], policy: &Policy) -> Result<Sha256> {
    let debs = |members: &[Member]| -> Vec<Sha256> {
        let mut debs: Vec<Sha256> =
            members.iter().filter(|member| member.has_programs()).map(|member| member.digest).collect();
        debs.sort();
        debs
    };
    let inputs = (RULES, twins::RULES, FORMAT, debs(image), debs(native), policy);
    Ok(Sha256::of(serde_json::to_string(&inputs).map_err(Error::bug)?.as_bytes()))
}

fn packages<'a>(members: &'a [Member], contents: &'a BTreeMap<Sha256, Inventory>) -> Vec<Package<'a>> {
    let package = |member: &'a Member| {
        let inventory = contents.get(&member.digest)?;
        Some(Package { name: &member.name, source_version: &member.source_version, inventory })
    };
    members.iter().filter_map(package).collect()
}

/// Does some work with each of these on as many threads as there are processors, each with a store of its own.
/// What comes of it is taken on this thread, as it comes.
fn on_threads<M: Sync, T: Send>(
    store: &Store,
    of: &[M],
    work: impl Fn(&Store, &M) -> Result<T> + Sync,
    take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let (path, work, next) = (store.path(), &work, &next);
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(of.len());
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(threads);
        let start = |sender: mpsc::SyncSender<T>| {
            scope.spawn(move || -> Result<()> {
                let store = Store::open(path)?;
                while let Some(one) = of.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if sender.send(work(&store, one)?).is_err() {
                        break; // it could not be taken
                    }
                }
                Ok(())
            })
        };
        let threads: Vec<_> = (0..threads).map(|_| start(sender.clone())).collect();
        drop(sender);
        let taken = receiver.into_iter().try_for_each(take);
        for thread in threads {
            thread.join().map_err(|_| Error::bug("a thread panicked"))??;
        }
        taken
    })
}

#[cfg(test)]
mod tests;
