//! What a package contains, as far as twins are concerned. It's a function of the package alone,
//! so it can be kept beside it.

use std::{collections::BTreeMap, io};

use serde::{Deserialize, Serialize};
use treestrap_dispatcher::table::{Fingerprint, PREFIX};

use crate::program::{Elf, Identity};

/// A package, its version, and what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Package<'a> {
    /// The package's name.
    pub name: &'a str,
    /// The version of its source (deb-control(5), `Source`; else its own), so that a rebuild for
    /// one architecture makes no difference.
    pub source_version: &'a str,
    /// Its files.
    pub inventory: &'a Inventory,
}

/// A package's files by path, without a leading slash, after the aliases of a merged /usr
/// (`usr/bin/sh`, not `bin/sh`). Names that are not UTF-8 are left out: no program has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Everything but folders.
    pub entries: BTreeMap<String, Entry>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// A symbolic link and its target.
    Link(String),
    /// An ELF file.
    Object(Box<Object>),
    /// Any other file: scripts, data.
    Data,
}

/// An ELF file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// The words of its machine: 64 bits or 32.
    pub wide: bool,
    /// Its byte order.
    pub big_endian: bool,
    /// `e_machine`.
    pub machine: u16,
    /// Whether it may be executed.
    pub executable: bool,
    /// The key of its fingerprint.
    pub key: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Whether the fingerprint covers a build id, and so tells it from all others.
    pub has_build_id: bool,
    /// The loader that it asks for; none for static programs and most libraries.
    pub interpreter: Option<String>,
    /// The libraries that it needs.
    pub needed: Vec<String>,
    /// Where it wants them looked for: `DT_RPATH`, which its own libraries inherit.
    pub rpath: Vec<String>,
    /// The same: `DT_RUNPATH`, for it alone.
    pub runpath: Vec<String>,
}

impl Object {
    /// Reads a file's whole content; none where it's no ELF file or a damaged one.
    pub fn read(content: &[u8], executable: bool) -> Option<Object> {
        let elf = Elf::parse(content).ok()?;
        let dynamic = elf.dynamic().ok()?;
        let size = content.len() as u64;
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let list = |list: &[Vec<u8>]| list.iter().map(text).collect();
        Some(Object {
            wide: elf.identity.wide,
            big_endian: elf.identity.big_endian,
            machine: elf.identity.machine,
            executable,
            key: Fingerprint::of(content, size).key,
            size,
            has_build_id: elf.build_id().is_some_and(|(id, end)| id.len() >= 8 && end <= PREFIX as u64),
            interpreter: elf.interpreter().ok()?.map(|path| text(&path.to_vec())),
            needed: list(&dynamic.needed),
            rpath: list(&dynamic.rpath),
            runpath: list(&dynamic.runpath),
        })
    }

    /// What it's for.
    pub fn identity(&self) -> Identity {
        Identity { wide: self.wide, big_endian: self.big_endian, machine: self.machine }
    }

    /// How the dispatcher recognises it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { key: self.key, size: self.size }
    }

    /// Whether it's there to be started: libraries may be executable, too.
    pub fn is_program(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.executable && (self.interpreter.is_some() || self.needed.is_empty()) && !name.contains(".so")
    }
}

impl Inventory {
    /// Adds a regular file. `read` is called for files that may be ELF files: executable ones,
    /// and those that are named like libraries.
    pub fn add_file(
        &mut self,
        path: &str,
        executable: bool,
        read: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let object = if executable || name.ends_with(".so") || name.contains(".so.") {
            Object::read(&read()?, executable)
        } else {
            None
        };
        let entry = object.map_or(Entry::Data, |object| Entry::Object(Box::new(object)));
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, path: &str, target: &str) {
        self.entries.insert(path.to_owned(), Entry::Link(target.to_owned()));
    }

    /// Its ELF files with their paths.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &Object)> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::Object(object) => Some((path.as_str(), &**object)),
            _ => None,
        })
    }

    /// Its programs with their paths.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Object)> {
        self.objects().filter(|(path, object)| object.is_program(path))
    }
}
