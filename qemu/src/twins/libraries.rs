//! Whether the dynamic loader would find every library of a twin, and which ones it would find.
//!
//! The rules are those of ld.so(8) as glibc has them: DT_RPATH of the object and of those that
//! loaded it, DT_RUNPATH of the object, then the built-in folders. /etc/ld.so.cache is the image's
//! and lists the image's libraries, which the loader passes over for their machine.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Machine,
    inventory::{Entry, Inventory, Object},
};
use crate::program::Identity;

/// Files of many packages, by path.
#[derive(Debug, Default)]
pub struct Tree<'a> {
    entries: BTreeMap<&'a str, (&'a str, &'a Entry)>,
}

/// A file that was found: its final path, after links, and the package that has it.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Where it is, links resolved.
    pub path: &'a str,
    /// Whose it is.
    pub package: &'a str,
    /// What it is.
    pub object: &'a Object,
}

impl<'a> Tree<'a> {
    /// The files of all these packages (name, files). Of two with the same path the first counts.
    pub fn new(packages: impl IntoIterator<Item = (&'a str, &'a Inventory)>) -> Self {
        let mut entries = BTreeMap::new();
        for (name, inventory) in packages {
            for (path, entry) in &inventory.entries {
                entries.entry(path.as_str()).or_insert((name, entry));
            }
        }
        Tree { entries }
    }

    /// Whether there is anything but a folder.
    pub fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// The ELF file at a path, links followed inside the tree. Links of folders are not: packages
    /// may not rely on them (Debian policy 10.5).
    pub fn object(&self, path: &str) -> Option<Found<'a>> {
        let mut path = path.to_owned();
        // Linux follows at most 40 links (path_resolution(7)).
        for _ in 0..40 {
            let (key, (package, entry)) = self.entries.get_key_value(path.as_str())?;
            match entry {
                Entry::Object(object) => return Some(Found { path: key, package, object }),
                Entry::Link(target) => path = join(&path, target),
                Entry::Data => return None,
            }
        }
        None
    }
}

/// A link's target as a path of the tree: aliases of a merged /usr resolved, `.` and `..` too.
pub fn join(link: &str, target: &str) -> String {
    let base =
        if target.starts_with('/') { "" } else { link.rsplit_once('/').map_or("", |(folder, _)| folder) };
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    merge_usr(&parts.join("/"))
}

/// A path after the aliases of a merged /usr: `bin/sh` is `usr/bin/sh`.
pub fn merge_usr(path: &str) -> String {
    let first = path.split('/').next().unwrap_or(path);
    let alias = matches!(first, "bin" | "sbin") || first.starts_with("lib") && first.len() <= 6;
    if alias { format!("usr/{path}") } else { path.to_owned() }
}

/// What a twin needs so that it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// The packages whose libraries it uses.
    pub packages: BTreeSet<String>,
    /// Links that the host's library folder needs (name → path in the tree): libraries in folders
    /// that the image has, too, and those to which update-alternatives(1) makes the link.
    pub links: BTreeMap<String, String>,
}

impl Closure {
    /// Adds what another object needs.
    pub fn add(&mut self, other: Closure) {
        self.packages.extend(other.packages);
        self.links.extend(other.links);
    }
}

/// Why a twin would not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// No such library in the tree, which this object needs.
    Library {
        /// As in `DT_NEEDED`.
        name: String,
        /// Which object needs it.
        by: String,
    },
    /// It's in a folder of its own, where the image has a file that the host's loader takes for an
    /// error instead of passing it over.
    InTheWay(String),
}

/// Resolves libraries in a tree of the host's packages, as seen in a view whose own packages are
/// for `image`.
#[derive(Debug)]
pub struct Resolver<'a> {
    tree: &'a Tree<'a>,
    host: &'a Machine,
    /// What the files are for that are in the tree's place; none where the tree itself is there.
    image: Option<Identity>,
}

impl<'a> Resolver<'a> {
    /// A resolver for twins from `tree`, which are seen in an image for `image`.
    pub fn away(tree: &'a Tree<'a>, host: &'a Machine, image: Identity) -> Self {
        Resolver { tree, host, image: Some(image) }
    }

    /// A resolver for programs that are where their libraries expect them.
    pub fn at_home(tree: &'a Tree<'a>, host: &'a Machine) -> Self {
        Resolver { tree, host, image: None }
    }

    /// Everything that the program at `path` of the tree needs.
    pub fn closure(&self, path: &str, program: &Object) -> Result<Closure, Missing> {
        let mut result = Closure::default();
        let mut seen = BTreeSet::new();
        let mut queue = vec![(path.to_owned(), program, program.rpath.clone())];
        while let Some((path, object, inherited)) = queue.pop() {
            for name in &object.needed {
                if self.is_loader(name) || !seen.insert(name.clone()) {
                    continue;
                }
                let found = self.find(name, &path, object, &inherited, &mut result.links)?;
                result.packages.insert(found.package.to_owned());
                let rpath = inherited.iter().chain(&found.object.rpath).cloned().collect();
                queue.push((found.path.to_owned(), found.object, rpath));
            }
        }
        Ok(result)
    }

    fn is_loader(&self, name: &str) -> bool {
        self.host.loader.rsplit('/').next() == Some(name)
    }

    fn find(
        &self,
        name: &str,
        by: &str,
        object: &Object,
        inherited: &[String],
        links: &mut BTreeMap<String, String>,
    ) -> Result<Found<'a>, Missing> {
        let triplet_folder = format!("usr/lib/{}", self.host.triplet);
        let missing = || Missing::Library { name: name.to_owned(), by: by.to_owned() };
        let own_folder = by.rsplit_once('/').map_or("", |(folder, _)| folder);
        for folder in inherited.iter().chain(&object.rpath).chain(&object.runpath) {
            let (folder, relative) = expand(folder, own_folder);
            let path = format!("{folder}/{name}");
            let Some(found) =
                self.tree.object(&path).filter(|found| found.object.identity() == self.host.identity)
            else {
                continue;
            };
            // $ORIGIN is where the twin is, and the host's triplet folder is the tree's own.
            let own =
                relative || folder == triplet_folder || folder.starts_with(&format!("{triplet_folder}/"));
            let Some(image) = self.image.filter(|_| !own) else {
                return Ok(found);
            };
            // Elsewhere the loader comes upon the image's file. Where it passes that over, it goes
            // on to the triplet folder, in which the tree has a link.
            if !self.host.identity.loader_passes_over(image) {
                return Err(Missing::InTheWay(path));
            }
            let unlike = |other: &String| *other != path;
            if self.tree.has(&format!("{triplet_folder}/{name}")) || links.get(name).is_some_and(unlike) {
                return Err(Missing::InTheWay(path));
            }
            links.insert(name.to_owned(), path);
            return Ok(found);
        }
        if let Some(found) = self.tree.object(&format!("{triplet_folder}/{name}")) {
            return if found.object.identity() == self.host.identity { Ok(found) } else { Err(missing()) };
        }
        let (path, found) = self.alternative(&triplet_folder, name).ok_or_else(missing)?;
        if self.image.is_some() {
            links.insert(name.to_owned(), path);
        }
        Ok(found)
    }

    /// A library that packages have in folders of its own, so that one of them is chosen by
    /// update-alternatives(1) when it is configured (`blas/libblas.so.3`). Of several none is taken:
    /// which one the image chooses isn't known.
    fn alternative(&self, triplet_folder: &str, name: &str) -> Option<(String, Found<'a>)> {
        let below = format!("{triplet_folder}/");
        let end = format!("/{name}");
        let is_one = |path: &str| {
            path.strip_prefix(&below).and_then(|rest| rest.strip_suffix(&end)).is_some_and(|folder| {
                // Folders of modules have no libraries that others need.
                !folder.is_empty() && !folder.contains('/')
            })
        };
        let mut found =
            self.tree.entries.range(below.as_str()..).take_while(|(path, _)| path.starts_with(&below));
        let mut found = found.by_ref().filter(|(path, _)| is_one(path));
        let (path, None) = (found.next()?.0, found.next()) else { return None };
        let object = self.tree.object(path).filter(|found| found.object.identity() == self.host.identity)?;
        Some(((*path).to_owned(), object))
    }
}

/// A folder of a search path as a path of the tree, and whether it was given by `$ORIGIN`.
fn expand(folder: &str, own_folder: &str) -> (String, bool) {
    for origin in ["$ORIGIN", "${ORIGIN}"] {
        if let Some(rest) = folder.strip_prefix(origin) {
            return (join(&format!("{own_folder}/x"), rest.trim_start_matches('/')), true);
        }
    }
    (join("", folder), false)
}
