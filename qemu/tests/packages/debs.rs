//! Debian packages: what they contain, and unpacking them.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use qemu::twins::{Inventory, Package, libraries::merge_usr};

/// A package.
pub(crate) struct Deb {
    pub(crate) name: String,
    pub(crate) source_version: String,
    pub(crate) inventory: Inventory,
    pub(crate) path: PathBuf,
}

/// Reads a package. Files that may be executed are read whole.
fn read(path: &Path) -> Deb {
    let output =
        Command::new("dpkg-deb").args(["-f"]).arg(path).args(["Package", "Version", "Source"]).output();
    let text = String::from_utf8(output.expect("dpkg-deb").stdout).expect("UTF-8");
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    // Source: name (version), where it is not the package's own; a rebuild adds +bN to that.
    let version = field("Version").expect("a version");
    let source = field("Source").and_then(|source| source.split_once(" (")?.1.strip_suffix(')'));
    let rebuilt = version.rsplit_once("+b").filter(|(_, number)| number.bytes().all(|b| b.is_ascii_digit()));
    let source_version = source.or(rebuilt.map(|(version, _)| version)).unwrap_or(version).to_owned();

    let mut child = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(path).stdout(Stdio::piped()).spawn();
    let child = child.as_mut().expect("dpkg-deb");
    let mut archive = tar::Archive::new(child.stdout.take().expect("piped"));
    let mut inventory = Inventory::default();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("a member");
        let member = entry.path().expect("a path").to_string_lossy().trim_start_matches("./").to_owned();
        let member = merge_usr(&member);
        let target = entry.link_name().ok().flatten().map(|target| target.to_string_lossy().into_owned());
        match (entry.header().entry_type(), target) {
            (tar::EntryType::Symlink, Some(target)) => inventory.add_link(&member, &target),
            (tar::EntryType::Link, Some(target)) => {
                let target = merge_usr(target.trim_start_matches("./"));
                if let Some(same) = inventory.entries.get(&target).cloned() {
                    inventory.entries.insert(member, same);
                }
            }
            (tar::EntryType::Regular, _) => {
                let executable = entry.header().mode().expect("a mode") & 0o111 != 0;
                let content = || {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content).map(|_| content)
                };
                inventory.add_file(&member, executable, content).expect("readable");
            }
            _ => {}
        }
    }
    drop(archive);
    child.wait().expect("dpkg-deb");
    Deb {
        name: field("Package").expect("a name").to_owned(),
        source_version,
        inventory,
        path: path.to_owned(),
    }
}

/// All packages of a folder.
pub(crate) fn read_all(folder: &Path) -> Vec<Deb> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder.join("debs"))
        .expect("the packages")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// What planning takes.
pub(crate) fn packages(debs: &[Deb]) -> Vec<Package<'_>> {
    debs.iter()
        .map(|deb| Package {
            name: &deb.name,
            source_version: &deb.source_version,
            inventory: &deb.inventory,
        })
        .collect()
}

/// The content of programs of packages. It keeps the files of the last package, since programs are
/// asked for by package.
pub(crate) struct Contents<'a> {
    debs: &'a [Deb],
    last: &'a str,
    files: BTreeMap<String, Vec<u8>>,
}

impl<'a> Contents<'a> {
    pub(crate) fn new(debs: &'a [Deb]) -> Self {
        Contents { debs, last: "", files: BTreeMap::new() }
    }

    pub(crate) fn read(&mut self, package: &str, path: &str) -> std::io::Result<Vec<u8>> {
        if self.last != package {
            let deb = self.debs.iter().find(|deb| deb.name == package).expect("a package of the plan");
            self.files = files(&deb.path)?;
            self.last = &deb.name;
        }
        Ok(self.files.get(path).unwrap_or_else(|| panic!("{package} has no {path}")).clone())
    }
}

/// All regular files of a package, hard links too.
fn files(path: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut child =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(path).stdout(Stdio::piped()).spawn()?;
    let mut archive = tar::Archive::new(child.stdout.take().expect("piped"));
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let merged = |path: &Path| merge_usr(path.to_string_lossy().trim_start_matches("./"));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let member = merged(&entry.path()?);
        match entry.header().entry_type() {
            tar::EntryType::Link => {
                let target = merged(&entry.link_name()?.expect("a link's target"));
                files.extend(files.get(&target).cloned().map(|content| (member, content)));
            }
            tar::EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                files.insert(member, content);
            }
            _ => {}
        }
    }
    drop(archive);
    child.wait()?;
    Ok(files)
}
