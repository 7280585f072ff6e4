//! Files that wait for a preinst: whose file a path is, a diversion decides, and diversions are made by
//! preinst scripts, which compose does not run.
//!
//! dpkg runs a package's preinst before it unpacks the package. What the preinst then finds is what
//! other packages have; what it diverts is theirs; and the package's own files come to the paths that
//! it freed (`tarobject` in dpkg's archives.c). In a composed tree all is unpacked beforehand, so a
//! package whose preinst says `dpkg-divert` has some of its files held: beside their places, by another
//! name, and left out of its `.list`. The configure stage puts them there once the preinst has run, or
//! finds that it diverted nothing and two packages want one path.
//!
//! Held are files that another package has as well, and files that the preinst names: to that script
//! they would look as if they were another package's. Packages that are Essential or of priority required
//! are spared the second, with all that they depend on: no script can run without them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    Package,
    merge::{Merge, mark_of},
};
use crate::{
    artefacts::{HeldFile, NEW_CONFFILE, Rival},
    debian::{deb822, relation},
    digest::Sha256,
    error::{Error, Result},
    store::Node,
};

/// A file that is held.
#[derive(Debug)]
pub(super) struct Holding {
    mark: u32,
    /// How the package spells its path.
    name: String,
    /// Its place in the tree; of a configuration file, that until it is configured.
    place: String,
    held: String,
    conffile: bool,
}

impl Merge<'_> {
    /// Holds a file of the package with a mark; its place is `real`, where it must not be (any more).
    pub(super) fn hold(&mut self, mark: u32, real: &str, checksum: Sha256) -> Result<()> {
        let package = self.package(mark).ok_or_else(|| Error::bug("a file of nobody is held"))?;
        let (name, conffile) = self.spelled(package, real);
        let plain = if conffile { real.strip_suffix(NEW_CONFFILE).unwrap_or(real) } else { real };
        let held = format!("{plain}.{}{NEW_CONFFILE}", package.record.name);
        let (parent, file) = held.rsplit_once('/').unwrap_or(("", &held));
        let Some(folder) = self.merged.root.folder(self.store, parent)? else {
            return Err(Error::bug(format!("/{parent} went away while packages were merged")));
        };
        let old = folder.entries(self.store)?.insert(file.to_owned(), Node::Object { checksum, mark });
        if !old.is_none_or(|old| matches!(old, Node::Object { checksum: old, .. } if old == checksum)) {
            let instances = &package.record.name;
            return Err(Error::input(format!("/{name} differs between the architectures of {instances}")));
        }
        self.holdings.push(Holding { mark, name, place: real.to_owned(), held, conffile });
        Ok(())
    }

    /// How a package spells the path that it has at a place in the tree, and whether that is a
    /// configuration file.
    fn spelled(&self, package: &Package, real: &str) -> (String, bool) {
        let conffiles: HashSet<&str> =
            package.record.conffiles.iter().map(|conffile| conffile.path.as_str()).collect();
        let lines = package.record.list.lines().map(|line| line.trim_start_matches('/'));
        let found = lines.map(|path| (path, conffiles.contains(path))).find(|(path, conffile)| {
            let in_tree = self.real_path(path);
            if *conffile { real.strip_suffix(NEW_CONFFILE) == Some(&in_tree) } else { real == in_tree }
        });
        found.map_or((real.to_owned(), false), |(path, conffile)| (path.to_owned(), conffile))
    }

    /// Holds what preinst scripts name of their own packages, which they would take for another's.
    pub(super) fn hold_what_is_named(&mut self, order: &[usize]) -> Result<()> {
        let base = base(self.packages)?;
        for &index in order {
            let package = &self.packages[index];
            let Some(paths) = package.record.diverts.as_ref().filter(|_| !base.contains(&index)) else {
                continue;
            };
            for path in paths {
                let is_conffile = package.record.conffiles.iter().any(|conffile| conffile.path == *path);
                let real = self.real_path(path) + if is_conffile { NEW_CONFFILE } else { "" };
                // Another package's file may be held already, which needs one to give way to.
                if self.holdings.iter().any(|holding| holding.place == real) {
                    continue;
                }
                let (parent, name) = real.rsplit_once('/').unwrap_or(("", &real));
                let Some(folder) = self.merged.root.folder(self.store, parent)? else { continue };
                let entries = folder.entries(self.store)?;
                if let Some(Node::Object { checksum, mark }) = entries.get(name)
                    && *mark == mark_of(index)
                {
                    let checksum = *checksum;
                    entries.remove(name);
                    self.hold(mark_of(index), &real, checksum)?;
                }
            }
        }
        Ok(())
    }

    /// Where a package's path is in the tree, if it is held.
    pub(super) fn held_at(&self, mark: u32, path: &str) -> Option<String> {
        let holding = self.holdings.iter().find(|holding| holding.mark == mark && holding.name == path)?;
        Some(holding.held.clone())
    }

    /// What the configure stage has to know, and the names that are left out of `.list` files, by mark.
    pub(super) fn finish_holdings(&mut self) -> Result<()> {
        let mut withheld: BTreeMap<u32, HashSet<String>> = BTreeMap::new();
        let mut held = Vec::new();
        for holding in std::mem::take(&mut self.holdings) {
            let package = self.package(holding.mark).ok_or_else(|| Error::bug("a file of nobody is held"))?;
            for (index, instance) in self.packages.iter().enumerate() {
                if instance.record.name == package.record.name {
                    withheld.entry(mark_of(index)).or_default().insert(holding.name.clone());
                }
            }
            let rival = self.rival(&holding)?;
            let Holding { name, place, held: waits, conffile, .. } = holding;
            let path = match place.strip_suffix(NEW_CONFFILE) {
                Some(plain) if conffile => plain.to_owned(),
                _ => place,
            };
            let package = package.record.name.clone();
            held.push(HeldFile { path, package, name, held: waits, conffile, rival });
        }
        held.sort();
        (self.merged.withheld, self.merged.held) = (withheld, held);
        Ok(())
    }

    /// Whose file is at the place of one that is held.
    fn rival(&mut self, holding: &Holding) -> Result<Option<Rival>> {
        let plain = holding.place.strip_suffix(NEW_CONFFILE).filter(|_| holding.conffile);
        let plain = plain.unwrap_or(&holding.place).to_owned();
        for real in [plain.clone(), plain + NEW_CONFFILE] {
            let Some(Node::Object { mark, .. }) = self.merged.root.find(self.store, &real)? else { continue };
            let mark = *mark;
            let Some(package) = self.package(mark) else { continue };
            let (name, conffile) = self.spelled(package, &real);
            let record = &package.record;
            let diverts = record.diverts.is_some();
            return Ok(Some(Rival { package: record.name.clone(), name, conffile, diverts }));
        }
        Ok(None)
    }
}

/// The packages without which no script can run. Of alternatives, all count.
fn base(packages: &[Package]) -> Result<HashSet<usize>> {
    let mut by_name: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (index, package) in packages.iter().enumerate() {
        let mut names = names(package, "Provides")?;
        names.push(package.record.name.clone().into_bytes());
        for name in names {
            by_name.entry(name).or_default().push(index);
        }
    }
    let is_root = |&index: &usize| packages[index].essential || is_required(&packages[index]);
    let mut queue: Vec<usize> = (0..packages.len()).filter(is_root).collect();
    let mut base: HashSet<usize> = queue.iter().copied().collect();
    while let Some(index) = queue.pop() {
        for field in ["Pre-Depends", "Depends"] {
            let wanted = names(&packages[index], field)?;
            let found = wanted.iter().filter_map(|name| by_name.get(name)).flatten().copied();
            queue.extend(found.filter(|&other| base.insert(other)));
        }
    }
    Ok(base)
}

/// The names in a relation field.
fn names(package: &Package, field: &str) -> Result<Vec<Vec<u8>>> {
    let value = deb822::field(package.record.control.as_bytes(), field).unwrap_or_default();
    let name = |relation: std::result::Result<relation::Relation<'_>, _>| match relation {
        Ok(relation) => Ok(relation.name.to_vec()),
        Err(error) => Err(Error::input(format!("{}: {field}: {error}", package.record.name))),
    };
    relation::alternatives(value).map(name).collect()
}

fn is_required(package: &Package) -> bool {
    let priority = deb822::field(package.record.control.as_bytes(), "Priority");
    priority.is_some_and(|priority| priority.eq_ignore_ascii_case(b"required"))
}
