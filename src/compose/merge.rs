//! Which package has its way at a path: dpkg's rules (`tarobject` in dpkg's archives.c), on trees.
//!
//! Packages come one after the other onto a tree. A folder that nobody has yet comes as a whole,
//! unread; only where two packages meet is anything loaded. Links are known from the packages'
//! records, so that paths which lead through a link (`/lib` on a merged system, a documentation folder
//! that another package made a link) end up where dpkg would put them.
//!
//! One rule is stricter than dpkg's: where two packages' paths become one file only because of a
//! link, dpkg does not see it and overwrites the first without a word. Here that is a conflict like
//! any other.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{MergedUsr, Package, held::Holding};
use crate::{
    artefacts::{HeldFile, Metadata, NEW_CONFFILE},
    debian::{relation, version},
    digest::Sha256,
    error::{Context, Error, Result},
    store::{Folder, Node, Store, Transaction},
};

/// How many links are followed on one path (path_resolution(7)).
const LINK_LIMIT: usize = 40;

/// The merged tree.
#[derive(Debug)]
pub struct Merged {
    /// The tree.
    pub root: Folder,
    /// Paths (as the package spells them) that packages lost to others which came later, by mark.
    pub lost: BTreeMap<u32, HashSet<String>>,
    /// Paths that packages never got, because others had and kept them, by mark.
    pub refused: BTreeMap<u32, HashSet<String>>,
    /// Configuration files that are another package's now, by mark.
    pub obsolete: BTreeMap<u32, HashSet<String>>,
    /// Paths that packages have, but not before a preinst has run, by mark.
    pub withheld: BTreeMap<u32, HashSet<String>>,
    /// The files at these paths.
    pub held: Vec<HeldFile>,
    /// Groups of paths that are hard links of one file; sorted.
    pub hard_links: Vec<Vec<String>>,
}

/// The mark of a package's folders and files; 0 is nobody's.
pub(super) fn mark_of(index: usize) -> u32 {
    u32::try_from(index + 1).expect("a set of packages is smaller than 2^32")
}

/// Merges the packages in an order (indexes into `packages`).
///
/// # Errors
/// As [`super::compose`].
pub fn merge(
    store: &Store,
    transaction: &mut Transaction,
    packages: &[Package],
    order: &[usize],
    architecture: &str,
    merged_usr: MergedUsr,
) -> Result<Merged> {
    let folder = Metadata { uid: 0, gid: 0, mode: 0o040_755, xattrs: Vec::new() };
    let root = Folder::empty(transaction.write_folder_metadata(&folder)?);
    let merged = Merged {
        root,
        lost: BTreeMap::new(),
        refused: BTreeMap::new(),
        obsolete: BTreeMap::new(),
        withheld: BTreeMap::new(),
        held: Vec::new(),
        hard_links: Vec::new(),
    };
    let mut merge = Merge { store, packages, merged, links: HashMap::new(), holdings: Vec::new() };
    if merged_usr == MergedUsr::Yes {
        merge.make_aliases(transaction, architecture)?;
    }
    for &index in order {
        merge.add(index).with_context(|| packages[index].record.name.clone())?;
    }
    merge.hold_what_is_named(order)?;
    merge.hard_links(order);
    merge.finish_holdings()?;
    Ok(merge.merged)
}

/// The folders of `/` that are links into `/usr` on a merged system, besides bin, sbin and lib: where
/// libraries of the architecture's sibling ABIs go. debootstrap (setup_merged_usr) and mmdebstrap
/// (hooks/merged-usr) have the same table.
fn library_aliases(architecture: &str) -> &'static [&'static str] {
    match architecture {
        "amd64" | "x32" => &["lib32", "lib64", "libx32"],
        "i386" => &["lib64", "libx32"],
        "mips" | "mipsel" | "ppc64" | "sparc64" => &["lib32", "lib64"],
        "mips64" | "mips64el" | "mips64r6" | "mips64r6el" | "mipsn32" | "mipsn32el" | "mipsn32r6"
        | "mipsn32r6el" => &["lib32", "lib64", "libo32"],
        "loong64" | "powerpc" | "ppc64el" | "sparc" => &["lib64"],
        "s390x" => &["lib32"],
        _ => &[],
    }
}

/// The merging.
pub(super) struct Merge<'a> {
    pub(super) store: &'a Store,
    pub(super) packages: &'a [Package],
    pub(super) merged: Merged,
    /// Links in the tree: real path (no links in it) and target.
    links: HashMap<String, String>,
    /// Files that are not at their places yet.
    pub(super) holdings: Vec<Holding>,
}

/// Whose file is at a path that two packages have.
enum Claim {
    /// That of the package that was there first.
    Incumbent,
    /// That of the package that is added.
    Newcomer,
    /// A preinst decides; the first one's until then.
    HoldNewcomer,
    /// A preinst decides; the other's until then.
    HoldIncumbent,
}

/// One folder of a package and the folder of the tree that it goes into.
struct Step {
    /// The folder of the tree; a real path.
    real: String,
    /// The folder of the package, as the package spells it.
    path: String,
    folder: Folder,
    /// Whether it was put off once, for a link to lead somewhere by then.
    put_off: bool,
}

/// A package while it is added.
struct Adding<'a> {
    mark: u32,
    package: &'a Package,
    /// Its links by their paths in the tree it brings.
    links: HashMap<String, &'a str>,
    /// Configuration files by the names that they have until configured.
    conffiles: HashMap<String, &'a str>,
    /// Paths of links that did not make it into the tree.
    dropped: HashSet<String>,
}

impl<'a> Merge<'a> {
    fn make_aliases(&mut self, transaction: &mut Transaction, architecture: &str) -> Result<()> {
        let folder = self.merged.root.metadata;
        for name in ["bin", "lib", "sbin"].iter().chain(library_aliases(architecture)) {
            let target = format!("usr/{name}");
            self.merged.root.make_folder(self.store, &target, folder)?;
            let checksum = transaction.write_symlink(&Metadata::default(), target.as_bytes())?;
            let node = Node::Object { checksum, mark: 0 };
            self.merged.root.entries(self.store)?.insert((*name).to_owned(), node);
            self.links.insert((*name).to_owned(), target);
        }
        Ok(())
    }

    fn add(&mut self, index: usize) -> Result<()> {
        let package = &self.packages[index];
        let mut commit = package.tree.clone();
        let Some(data) = commit.folder(self.store, "data")? else {
            return Err(Error::input("its commit has no folder data"));
        };
        let mut data = std::mem::replace(data, Folder::empty(data.metadata));
        let mark = mark_of(index);
        data.mark = mark;
        let conffiles = self.rename_conffiles(package, &mut data)?;
        let in_tree = |path: &str| {
            let new = format!("{path}{NEW_CONFFILE}");
            if conffiles.contains_key(&new) { new } else { path.to_owned() }
        };
        let links: HashMap<String, &str> =
            package.record.symlinks.iter().map(|(path, target)| (in_tree(path), target.as_str())).collect();
        let mut adding = Adding { mark, package, links, conffiles, dropped: HashSet::new() };

        let mut steps = vec![Step { real: String::new(), path: String::new(), folder: data, put_off: false }];
        let mut later = Vec::new();
        while let Some(step) = steps.pop().or_else(|| later.pop()) {
            self.step(step, &mut adding, &mut steps, &mut later)?;
        }
        for (path, target) in &adding.links {
            let real = self.real_path(path);
            if !adding.dropped.contains(&real) {
                self.links.insert(real, (*target).to_owned());
            }
        }
        Ok(())
    }

    /// Gives the package's configuration files the names that they have until it is configured;
    /// returns those names with the real ones.
    fn rename_conffiles<'p>(
        &self,
        package: &'p Package,
        data: &mut Folder,
    ) -> Result<HashMap<String, &'p str>> {
        let mut renamed = HashMap::new();
        for conffile in &package.record.conffiles {
            let (parent, name) = conffile.path.rsplit_once('/').unwrap_or(("", &conffile.path));
            let Some(folder) = data.folder(self.store, parent)? else { continue };
            let entries = folder.entries(self.store)?;
            if let Some(node @ Node::Object { .. }) = entries.remove(name) {
                if conffile.remove_on_upgrade {
                    let message = format!("/{} is marked remove-on-upgrade, but shipped", conffile.path);
                    return Err(Error::input(message));
                }
                entries.insert(format!("{name}{NEW_CONFFILE}"), node);
                renamed.insert(format!("{}{NEW_CONFFILE}", conffile.path), conffile.path.as_str());
            }
        }
        Ok(renamed)
    }

    /// Adds one folder of a package; what is below it and has to be looked at becomes new steps.
    fn step(
        &mut self,
        mut step: Step,
        adding: &mut Adding<'_>,
        steps: &mut Vec<Step>,
        later: &mut Vec<Step>,
    ) -> Result<()> {
        let store = self.store;
        for (name, node) in std::mem::take(step.folder.entries(store)?) {
            let (real, path) = (join(&step.real, &name), join(&step.path, &name));
            let Some(folder) = self.merged.root.folder(store, &step.real)? else {
                return Err(Error::bug(format!("/{} went away while packages were merged", step.real)));
            };
            if let Node::Object { checksum, .. } = node
                && let Some(other) = other_kind(folder.entries(store)?, adding, &name, &path)
                && !self.meet_other_kind(adding, (&step.real, &name), &path, checksum, &other)?
            {
                continue;
            }
            let Some(folder) = self.merged.root.folder(store, &step.real)? else { continue };
            let entries = folder.entries(store)?;
            let Some(there) = entries.get(&name) else {
                entries.insert(name, node);
                continue;
            };
            let owner = there.mark();
            match (there, node) {
                (Node::Folder(_), Node::Folder(folder)) => {
                    steps.push(Step { real, path, folder, put_off: false });
                }
                (Node::Object { .. }, Node::Folder(folder)) => match self.folder_behind(&real)? {
                    Some(real) => steps.push(Step { real, path, folder, put_off: false }),
                    None if !step.put_off => {
                        // The link's target may be in what is still to come of this package.
                        let mut wrapper = Folder::empty(folder.metadata);
                        wrapper.entries(store)?.insert(name, Node::Folder(folder));
                        let (real, path) = (step.real.clone(), step.path.clone());
                        later.push(Step { real, path, folder: wrapper, put_off: true });
                    }
                    None => return Err(self.conflict(owner, &path, "which is no folder there")),
                },
                (Node::Folder(_), Node::Object { .. }) => {
                    // dpkg leaves the folder alone if the newcomer is a link.
                    if !adding.links.contains_key(&path) {
                        return Err(self.conflict(owner, &path, "which is a folder there"));
                    }
                    adding.dropped.insert(real);
                }
                (Node::Object { checksum: old, .. }, Node::Object { checksum: new, .. }) => {
                    let old = *old;
                    match self.claim(adding, owner, &real, &path, (old, new))? {
                        claim @ (Claim::Newcomer | Claim::HoldIncumbent) => {
                            if matches!(claim, Claim::HoldIncumbent) {
                                self.hold(owner, &real, old)?;
                            }
                            let node = Node::Object { checksum: new, mark: adding.mark };
                            if let Some(folder) = self.merged.root.folder(store, &step.real)? {
                                folder.entries(store)?.insert(name, node);
                            }
                            self.links.remove(&real);
                        }
                        Claim::Incumbent => {
                            adding.dropped.insert(real);
                        }
                        Claim::HoldNewcomer => {
                            self.hold(adding.mark, &real, new)?;
                            adding.dropped.insert(real);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the package's file or link takes the place of the one that is there.
    fn claim(
        &mut self,
        adding: &Adding<'_>,
        owner: u32,
        real: &str,
        path: &str,
        (old, new): (Sha256, Sha256),
    ) -> Result<Claim> {
        if let (Some(target), Some(there)) = (adding.links.get(path), self.folder_behind(real)?) {
            // Two links to the same folder are one (`linktosameexistingdir`).
            let parent = real.rsplit_once('/').map_or("", |(parent, _)| parent);
            if self.resolve(parent, target).as_deref() == Some(there.as_str()) {
                return Ok(Claim::Incumbent);
            }
        }
        let conffile = adding.conffiles.get(path).copied();
        let listed = conffile.unwrap_or(path);
        let Some(other) = self.package(owner) else {
            return Err(Error::input(format!("it ships /{path}, which leads into /usr on a merged system")));
        };
        let package = adding.package;
        if other.record.name == package.record.name && other.multi_arch_same && package.multi_arch_same {
            if old == new {
                return Ok(Claim::Incumbent);
            }
            let message = format!(
                "/{listed} differs between {} and {}, which share it",
                other.qualified_name, package.qualified_name
            );
            return Err(Error::input(message));
        }
        self.decide(adding, owner, listed, (conffile.is_some(), conffile.is_some()))
    }

    /// Whose a path is that two packages list, by what they say of each other. `conffiles`: whether it is
    /// a configuration file of the one that was there first, and of the one that is added.
    fn decide(
        &mut self,
        adding: &Adding<'_>,
        owner: u32,
        listed: &str,
        conffiles: (bool, bool),
    ) -> Result<Claim> {
        let package = adding.package;
        let other = self.package(owner).ok_or_else(|| Error::bug("a file of nobody was met"))?;
        let listed = listed.to_owned();
        if replaces(package, other)? {
            if conffiles == (true, true) {
                self.merged.obsolete.entry(owner).or_default().insert(listed.clone());
            }
            self.merged.lost.entry(owner).or_default().insert(listed);
            return Ok(Claim::Newcomer);
        }
        if replaces(other, package)? {
            if conffiles.1 {
                self.merged.obsolete.entry(adding.mark).or_default().insert(listed.clone());
            }
            self.merged.refused.entry(adding.mark).or_default().insert(listed);
            return Ok(Claim::Incumbent);
        }
        // Whoever is more likely to divert the other's file is held.
        match (may_divert(package, &listed), may_divert(other, &listed)) {
            (None, None) => Err(self.conflict(owner, &listed, "and neither replaces the other")),
            (newcomer, incumbent) if newcomer >= incumbent => Ok(Claim::HoldNewcomer),
            _ => Ok(Claim::HoldIncumbent),
        }
    }

    /// Decides about a path that is a configuration file of one package and a plain one of another: they
    /// have different names in the tree. Gives whether the newcomer is to be added.
    fn meet_other_kind(
        &mut self,
        adding: &mut Adding<'_>,
        (folder, name): (&str, &str),
        path: &str,
        checksum: Sha256,
        other: &str,
    ) -> Result<bool> {
        let store = self.store;
        let there = join(folder, other);
        let Some(Node::Object { checksum: old, mark }) = self.merged.root.find(store, &there)? else {
            return Ok(true);
        };
        let (old, owner) = (*old, *mark);
        let conffile = adding.conffiles.get(path).copied();
        let listed = conffile.unwrap_or(path);
        let is_other = |package: &Package| {
            let conffiles = || package.record.conffiles.iter().map(|other| self.real_path(&other.path));
            conffile.is_some() || conffiles().any(|other| other == join(folder, name))
        };
        if owner == adding.mark || !self.package(owner).is_some_and(is_other) {
            return Ok(true);
        }
        let claim = self.decide(adding, owner, listed, (conffile.is_none(), conffile.is_some()))?;
        // A plain file goes to its place by way of the name that configuration files have; the other
        // way round, the old file stays until the new one is configured.
        let removed = match claim {
            Claim::Newcomer => conffile.is_none(),
            Claim::HoldIncumbent => true,
            Claim::Incumbent | Claim::HoldNewcomer => false,
        };
        if removed && let Some(folder) = self.merged.root.folder(store, folder)? {
            folder.entries(store)?.remove(other);
        }
        match claim {
            Claim::Newcomer => return Ok(true),
            Claim::HoldIncumbent => {
                self.hold(owner, &there, old)?;
                return Ok(true);
            }
            Claim::HoldNewcomer => self.hold(adding.mark, &join(folder, name), checksum)?,
            Claim::Incumbent => {}
        }
        adding.dropped.insert(join(folder, name));
        Ok(false)
    }

    /// The package with a mark; none for nobody's.
    pub(super) fn package(&self, mark: u32) -> Option<&'a Package> {
        (mark as usize).checked_sub(1).and_then(|index| self.packages.get(index))
    }

    fn conflict(&self, owner: u32, path: &str, why: &str) -> Error {
        let other = self.package(owner).map_or("the merged /usr", |package| package.qualified_name.as_str());
        Error::input(format!("/{path} is also in {other}, {why}"))
    }

    /// The folder that the link at a real path leads to, if it is a link and leads to one.
    fn folder_behind(&mut self, real: &str) -> Result<Option<String>> {
        let Some(target) = self.links.get(real) else { return Ok(None) };
        let parent = real.rsplit_once('/').map_or("", |(parent, _)| parent);
        let Some(resolved) = self.resolve(parent, target) else { return Ok(None) };
        let exists = self.merged.root.folder(self.store, &resolved)?.is_some();
        Ok(exists.then_some(resolved))
    }

    /// Where a link's target leads from a folder (a real path), through links and `..`; none where
    /// links go round in circles. Whether anything is there is another question.
    fn resolve(&self, folder: &str, target: &str) -> Option<String> {
        let mut real = if target.starts_with('/') { String::new() } else { folder.to_owned() };
        let mut rest: Vec<String> = target.rsplit('/').map(str::to_owned).collect();
        let mut followed = 0;
        while let Some(part) = rest.pop() {
            match part.as_str() {
                "" | "." => {}
                ".." => real.truncate(real.rfind('/').unwrap_or(0)),
                name => {
                    let next = join(&real, name);
                    let Some(target) = self.links.get(&next) else {
                        real = next;
                        continue;
                    };
                    followed += 1;
                    if followed > LINK_LIMIT {
                        return None;
                    }
                    if target.starts_with('/') {
                        real.clear();
                    }
                    rest.extend(target.rsplit('/').map(str::to_owned));
                }
            }
        }
        Some(real)
    }

    /// Where a package's path ends up, its last component not followed.
    pub(super) fn real_path(&self, path: &str) -> String {
        match path.rsplit_once('/') {
            None => path.to_owned(),
            Some((parent, name)) => {
                join(&self.resolve("", parent).unwrap_or_else(|| parent.to_owned()), name)
            }
        }
    }

    /// The hard links of all packages, by where they ended up and without what was lost.
    fn hard_links(&mut self, order: &[usize]) {
        let mut groups = Vec::new();
        for &index in order {
            let record = &self.packages[index].record;
            let mark = mark_of(index);
            let gone = |path: &String| {
                let maps = [&self.merged.lost, &self.merged.refused];
                maps.iter().any(|map| map.get(&mark).is_some_and(|paths| paths.contains(path)))
            };
            let is_conffile = |path: &String| record.conffiles.iter().any(|conffile| conffile.path == *path);
            for group in &record.hard_links {
                let mut paths: Vec<String> = group
                    .iter()
                    .filter(|path| !gone(path))
                    .map(|path| {
                        let new = if is_conffile(path) { NEW_CONFFILE } else { "" };
                        self.held_at(mark, path).unwrap_or_else(|| self.real_path(path) + new)
                    })
                    .collect();
                paths.sort();
                groups.extend((paths.len() > 1).then_some(paths));
            }
        }
        groups.sort();
        // Instances of a Multi-Arch: same package bring the same group twice.
        groups.dedup();
        self.merged.hard_links = groups;
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Whether a package's Replaces field covers another package (`does_replace` in dpkg's archives.c):
/// by its real name, of any architecture.
fn replaces(package: &Package, other: &Package) -> Result<bool> {
    for relation in relation::alternatives(package.replaces.as_bytes()) {
        let relation =
            relation.map_err(|error| Error::input(format!("{}: Replaces: {error}", package.record.name)))?;
        if relation.name != other.record.name.as_bytes() {
            continue;
        }
        let covers = |constraint: relation::Constraint<'_>| {
            let wanted = String::from_utf8_lossy(constraint.version);
            constraint.operator.accepts(version::compare(&other.record.version, &wanted))
        };
        if relation.constraint.is_none_or(covers) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The name that a file has in a folder where it is a configuration file, for one that is none, and the
/// other way round; if something has that name.
fn other_kind(
    entries: &BTreeMap<String, Node>,
    adding: &Adding<'_>,
    name: &str,
    path: &str,
) -> Option<String> {
    let other = match adding.conffiles.contains_key(path) {
        true => name.strip_suffix(NEW_CONFFILE)?.to_owned(),
        false => format!("{name}{NEW_CONFFILE}"),
    };
    matches!(entries.get(&other), Some(Node::Object { .. })).then_some(other)
}

/// Whether a package's preinst may divert a path; if so, whether it names the file.
fn may_divert(package: &Package, path: &str) -> Option<bool> {
    let file = |path: &str| path.rsplit('/').next().map(str::to_owned);
    let named = package.record.diverts.as_ref()?;
    Some(named.iter().any(|named| file(named) == file(path)))
}
