//! A root file system in a folder, as another tool left it: its tree as a sandbox takes it, and what
//! its dpkg database says. What `compose` gives for an image, this gives for a folder.
//!
//! | tool | what it leaves |
//! |---|---|
//! | `multistrap` | packages unpacked without dpkg: no preinst has run, no trigger is registered |
//! | `dpkg --unpack` below another root | as dpkg leaves them; its log says whose preinst has run |
//! | `debootstrap --foreign` | a second stage of its own, in `/debootstrap`, and the debs for it |
//! | `ostree checkout` of an unpacked tree | owners in attributes, for a user's checkout |
//!
//! [`tree`] has the entries, [`database`] the packages, [`owners`] what of owners is elsewhere, [`usr`]
//! merges `/usr` where packages want that.

mod database;
mod owners;
mod tree;
mod usr;

use std::{
    collections::HashMap,
    ffi::OsStr,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use qemu::twins::{Inventory, libraries::merge_usr};
use sandbox::{Edits, Given, Metadata, Rearrange, Tier, view::Listing};

use crate::{
    Context, Error, Result,
    artefacts::{Begin, LockedPackage, NEW_CONFFILE, PackageState, UnpackedPackage},
    debian::{changelog::Changelog, deb::Deb, deb822},
    digest::Sha256,
};
use tree::{Node, NodeKind, Tree};

/// What the user says of a folder.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Debian's name of its architecture; none: what its packages say.
    pub architecture: Option<String>,
    /// A tar or a file of fakeroot(1) with the owners.
    pub owners: Option<PathBuf>,
    /// How owners are handled; none: in the best way that this machine can.
    pub tier: Option<Tier>,
}

/// A folder that was read.
#[derive(Clone, Debug)]
pub struct Rootfs {
    /// Where it is.
    pub folder: PathBuf,
    /// Debian's name of its architecture.
    pub architecture: String,
    /// Its packages, as far as they are; for one that debootstrap left, those it will install.
    pub packages: Vec<UnpackedPackage>,
    /// The same as a lock has them; digests are those of debs that are there, or nothing.
    pub locked: Vec<LockedPackage>,
    /// The tree as a sandbox takes it; contents are in the folder.
    pub listing: Listing,
    /// What is done before packages are configured.
    pub begin: Begin,
    /// The suites that its apt sources and its release name, for finding native programs.
    pub suites: Vec<String>,
    /// Answers to packages' questions that it has in `/tmp/preseeds`, as multistrap leaves them.
    pub preseeds: Vec<u8>,
    /// How the folder comes to the tree that `listing` shows, where that is another.
    steps: Vec<Rearrange>,
    tree: Tree,
    read: sandbox::FolderRead,
    /// Whether a file says the owners.
    has_owners: bool,
}

/// The second stage that `debootstrap --foreign` leaves.
const SECOND_STAGE: &[u8] = b"debootstrap/debootstrap";
/// Where multistrap puts debconf's answers.
const PRESEEDS: &[u8] = b"tmp/preseeds/";
/// Small files are read whole; none of those in question comes near.
const LARGEST: u64 = 64 << 20;

/// Reads a folder.
///
/// # Errors
/// `Kind::Input` if it is no root file system of Debian, or one that cannot be finished, with the package or
/// the file; `Kind::Machine` if its files' owners are not mapped here.
pub fn read(folder: &Path, options: &Options) -> Result<Rootfs> {
    let (mut tree, mut texts) = (Tree::default(), HashMap::new());
    let read = sandbox::read_folder::<Error>(folder, options.tier, &mut |change, content| {
        if let (Some(content), sandbox::Entry::File { size, .. }) = (content, &change.now)
            && *size <= LARGEST
            && is_text(&change.path)
        {
            let mut text = Vec::new();
            let reading = || format!("reading /{}", String::from_utf8_lossy(&change.path));
            content.take(LARGEST).read_to_end(&mut text).with_context(reading)?;
            texts.insert(change.path.clone(), text);
        }
        tree.add(change);
        Ok(())
    })?;
    let empty = Vec::new();
    let Some(status) = texts.get(database::STATUS) else {
        let message = format!("{} has no var/lib/dpkg/status: nothing is unpacked there", folder.display());
        return Err(Error::input(message));
    };
    owners::apply(&mut tree, folder, options.owners.as_deref())?;
    let stanzas = database::stanzas(status)?;
    let second_stage = stanzas.is_empty() && tree.get(SECOND_STAGE).is_some();
    let (debs, stanzas) = match second_stage {
        true => (debs(folder, texts.get(&b"debootstrap/debpaths"[..]).unwrap_or(&empty))?, Vec::new()),
        false => (Vec::new(), stanzas),
    };
    let controls = debs.iter().map(|deb| &deb.stanza).chain(&stanzas);
    let own = architecture(controls.clone()).ok_or_else(|| nothing_there(folder))?;
    let architecture = match &options.architecture {
        Some(wanted) if !controls.clone().any(|stanza| stanza.get("Architecture") == Some(wanted)) => {
            return Err(Error::input(format!(
                "no package there is of the architecture {wanted}: it is {own}'s"
            )));
        }
        Some(wanted) => wanted.clone(),
        None => own,
    };
    let mut database = database::read(&tree, &texts, &architecture, stanzas)?;
    if second_stage {
        database.packages = debs.iter().map(|deb| database::of_deb(&deb.stanza, &architecture)).collect();
    }
    let locked = match second_stage {
        true => debs,
        false => database.stanzas.iter().map(locked).collect(),
    };
    let begin = match second_stage {
        true => Begin::SecondStage,
        false => Begin::Register(database.triggers.into_iter().collect()),
    };
    if database.packages.is_empty() {
        return Err(nothing_there(folder));
    }
    for package in &mut database.packages {
        package.newest = newest(&tree, folder, package);
    }
    if database.packages.iter().all(|package| package.newest == 0) {
        // Unpacked without documentation.
        let newest = newest_file(&tree);
        database.packages.iter_mut().for_each(|package| package.newest = newest);
    }
    let mut steps = mount_points(&mut tree);
    if usr::is_wanted(&database.packages) {
        steps.extend(usr::merge(&mut tree, |a, b| usr::same_content(folder, a, b))?);
    }
    steps.extend(usr::remove_stray_link(&mut tree));
    Ok(Rootfs {
        folder: folder.to_owned(),
        architecture,
        suites: suites(&texts),
        preseeds: preseeds(&texts),
        packages: database.packages,
        locked,
        listing: tree.listing()?,
        begin,
        steps,
        tree,
        read,
        has_owners: options.owners.is_some(),
    })
}

impl Rootfs {
    /// Whether there is anything to do.
    pub fn is_finished(&self) -> bool {
        matches!(&self.begin, Begin::Register(triggers) if triggers.is_empty()) && self.unfinished() == 0
    }

    /// How many packages are to be configured.
    pub fn unfinished(&self) -> usize {
        self.packages.iter().filter(|package| package.state != PackageState::Installed).count()
    }

    /// What is done to the folder when stage 2 has succeeded, beside what that changed.
    pub fn edits(&self) -> Edits {
        let given = self.tree.0.iter().filter(|(_, node)| node.is_given && node.device.is_none());
        let give = given.map(|(path, node)| Given {
            path: path.clone(),
            uid: node.metadata.uid,
            gid: node.metadata.gid,
            mode: (!matches!(node.kind, NodeKind::Symlink(_))).then_some(node.metadata.mode & 0o7777),
            xattrs: Vec::new(),
        });
        let mut rearrange = self.steps.clone();
        for mut names in owners::shared(&self.tree, &self.folder) {
            let others = names.split_off(1);
            rearrange.extend(names.pop().map(|first| Rearrange::Copy(first, others)));
        }
        Edits {
            first_id: self.read.first_id,
            give: give.collect(),
            rearrange,
            without: vec![owners::OSTREE.to_vec()],
            ..Edits::default()
        }
    }

    /// What is to be said of owners that nothing tells.
    pub fn unknown_owners(&self) -> Option<String> {
        // debootstrap's second stage unpacks everything once more.
        let is_said = self.has_owners || self.read.recorded || self.begin == Begin::SecondStage;
        if is_said || self.is_finished() {
            return None;
        }
        owners::unknown(&self.tree, &self.folder)
    }

    /// Devices that a file of owners has, and the folder has not: path, mode, numbers.
    pub fn devices(&self) -> impl Iterator<Item = (&[u8], &Metadata, (u32, u32))> {
        let devices = self.tree.0.iter().filter_map(|(path, node)| Some((path, node, node.device?)));
        devices.map(|(path, node, numbers)| (path.as_slice(), &node.metadata, numbers))
    }

    /// When the newest package was made, in seconds since 1970.
    pub fn newest(&self) -> u64 {
        self.packages.iter().map(|package| package.newest).max().unwrap_or(0)
    }

    /// What each package has of programs and libraries: nothing of those that are not unpacked yet.
    ///
    /// # Errors
    /// If a file of a package cannot be read.
    pub fn inventories(&self) -> Result<Vec<(&LockedPackage, Inventory)>> {
        let mut inventories = Vec::with_capacity(self.packages.len());
        for (package, locked) in self.packages.iter().zip(&self.locked) {
            let mut inventory = Inventory::default();
            if package.architecture != "all"
                && let Some(list) = database::info(&self.tree, package, "list")
            {
                let path = self.folder.join(&list);
                let list = std::fs::read_to_string(&path).with_context(|| format!("reading /{list}"))?;
                for path in list.lines().map(|line| line.trim_start_matches('/')) {
                    self.add(&mut inventory, path)?;
                }
            }
            inventories.push((locked, inventory));
        }
        Ok(inventories)
    }

    fn add(&self, inventory: &mut Inventory, path: &str) -> Result<()> {
        let merged = merge_usr(path);
        let find = |path: &str| self.tree.get(path.as_bytes());
        // What dpkg has unpacked and not configured has its configuration files beside their places.
        let waiting =
            || find(&format!("{merged}{NEW_CONFFILE}")).or_else(|| find(&format!("{path}{NEW_CONFFILE}")));
        let found = find(&merged).or_else(|| find(path)).or_else(waiting);
        let Some(node) = found else { return Ok(()) };
        match &node.kind {
            NodeKind::Symlink(target) => {
                inventory.add_link(&merged, &String::from_utf8_lossy(target));
                Ok(())
            }
            NodeKind::File { content, .. } => {
                let content = self.folder.join(OsStr::from_bytes(content));
                let is_executable = node.metadata.mode & 0o111 != 0;
                inventory
                    .add_file(&merged, is_executable, || std::fs::read(&content))
                    .with_context(|| format!("reading {}", content.display()))
            }
            NodeKind::Folder | NodeKind::Special => Ok(()),
        }
    }
}

/// Whether a file is read: a database, a list of sources, answers.
fn is_text(path: &[u8]) -> bool {
    let is_source = path.starts_with(b"etc/apt/sources.list");
    let is_release = path == b"etc/os-release" || path == b"usr/lib/os-release";
    database::is_read(path)
        || is_source
        || is_release
        || path == b"debootstrap/debpaths"
        || path == b"debootstrap/suite"
        || path.starts_with(PRESEEDS)
}

fn nothing_there(folder: &Path) -> Error {
    let message = format!("{}: dpkg knows of no package there", folder.display());
    Error::input(message).hint(
        "what mmdebstrap --variant=extract leaves is unpacked, but not recorded: let dpkg --unpack do it, or \
         make the image from a list: treestrap init",
    )
}

/// The architecture of dpkg, or else of most packages: dpkg's own list of them (`var/lib/dpkg/arch`) begins with the
/// build machine's where multistrap wrote it.
fn architecture<'a>(stanzas: impl Iterator<Item = &'a deb822::Stanza>) -> Option<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for stanza in stanzas {
        let architecture = stanza.get("Architecture").filter(|name| *name != "all" && !name.is_empty());
        let Some(architecture) = architecture else { continue };
        if stanza.get("Package") == Some("dpkg") {
            return Some(architecture.to_owned());
        }
        *counts.entry(architecture).or_default() += 1;
    }
    counts.into_iter().max_by_key(|&(name, count)| (count, name)).map(|(name, _)| name.to_owned())
}

/// When a package was made, by its changelog; 0 where the folder has none.
fn newest(tree: &Tree, folder: &Path, package: &UnpackedPackage) -> u64 {
    let mut changelog = Changelog::of(&package.name, &package.architecture);
    for path in changelog.paths().to_vec() {
        if let Some(Node { kind: NodeKind::File { content, size, .. }, .. }) = tree.get(path.as_bytes())
            && changelog.wants(&path, *size)
            // Documentation is for all to read; what is not, says nothing.
            && let Ok(content) = std::fs::read(folder.join(OsStr::from_bytes(content)))
        {
            changelog.file(&path, &content);
        }
    }
    changelog.date()
}

/// When the newest file below /usr was changed, in seconds since 1970: unpacking keeps times, and nothing else is
/// written there yet.
fn newest_file(tree: &Tree) -> u64 {
    let files = tree
        .0
        .iter()
        .filter(|(path, node)| path.starts_with(b"usr/") && matches!(node.kind, NodeKind::File { .. }));
    let newest = files.map(|(_, node)| node.metadata.modified.0).max();
    newest.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0)
}

/// The stanza of a status file as a lock has it.
fn locked(stanza: &deb822::Stanza) -> LockedPackage {
    let get = |field: &str| stanza.get(field).unwrap_or_default().to_owned();
    LockedPackage {
        name: get("Package"),
        version: get("Version"),
        architecture: get("Architecture"),
        filename: String::new(),
        size: 0,
        sha256: Sha256([0; 32]),
        repository: None,
        stanza: stanza.clone(),
    }
}

/// The debs that debootstrap will install, by its list of names and paths.
fn debs(folder: &Path, list: &[u8]) -> Result<Vec<LockedPackage>> {
    let list = String::from_utf8_lossy(list);
    let paths = list.lines().filter_map(|line| line.split_once(' '));
    let debs = paths.map(|(_, path)| {
        let path = folder.join(path.trim().trim_start_matches('/'));
        deb(&path).with_context(|| format!("reading {}", path.display()))
    });
    debs.collect()
}

fn deb(path: &Path) -> Result<LockedPackage> {
    let bytes = std::fs::read(path)?;
    let mut deb = Deb::new(bytes.as_slice())?;
    let mut control = tar::Archive::new(deb.control()?);
    for entry in control.entries()? {
        let mut entry = entry?;
        if entry.path_bytes().rsplit(|&byte| byte == b'/').next() != Some(b"control") {
            continue;
        }
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        let stanzas = deb822::parse(&text).map_err(|error| Error::input(format!("control: {error}")))?;
        let (_, stanza) = stanzas.into_iter().next().ok_or_else(|| Error::input("control is empty"))?;
        let filename = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (size, sha256) = (bytes.len() as u64, Sha256::of(&bytes));
        return Ok(LockedPackage { filename, size, sha256, ..locked(&stanza) });
    }
    Err(Error::input("it has no control file"))
}

/// The folder's release, and the suites of its apt sources: one-line entries and deb822 ones.
fn suites(texts: &HashMap<Vec<u8>, Vec<u8>>) -> Vec<String> {
    let text = |path: &str| texts.get(path.as_bytes()).map(|text| String::from_utf8_lossy(text));
    let release = text("etc/os-release").or_else(|| text("usr/lib/os-release")).unwrap_or_default();
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let mut suites: Vec<String> =
        codename.map(|name| name.trim_matches('"').to_owned()).into_iter().collect();
    suites.extend(text("debootstrap/suite").map(|suite| suite.trim().to_owned()));
    for (path, text) in texts.iter().filter(|(path, _)| path.starts_with(b"etc/apt/")) {
        let text = String::from_utf8_lossy(text);
        for line in text.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words[..] {
                ["Suites:", ref names @ ..] if path.ends_with(b".sources") => {
                    suites.extend(names.iter().map(|name| (*name).to_owned()));
                }
                ["deb", ref rest @ ..] => {
                    let mut rest = rest.iter().skip_while(|word| !word.contains(":/"));
                    suites.extend(rest.nth(1).map(|suite| (*suite).to_owned()));
                }
                _ => {}
            }
        }
    }
    suites.retain(|suite| !suite.is_empty() && !suite.ends_with('/'));
    suites.sort();
    suites.dedup();
    suites
}

fn preseeds(texts: &HashMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let mut files: Vec<_> = texts.iter().filter(|(path, _)| path.starts_with(PRESEEDS)).collect();
    files.sort();
    files.into_iter().flat_map(|(_, text)| [text.as_slice(), b"\n"].concat()).collect()
}

/// Folders that the sandbox mounts over are folders, even where debootstrap made a link of one that leads
/// to itself (`proc -> /proc`, in a container).
fn mount_points(tree: &mut Tree) -> Vec<Rearrange> {
    let mut steps = Vec::new();
    for name in [&b"proc"[..], b"sys", b"dev", b"run", b"tmp"] {
        let own = [b"/", name].concat();
        if let Some(node) = tree.0.get_mut(name).filter(|node| node.kind == NodeKind::Symlink(own.clone())) {
            node.kind = NodeKind::Folder;
            node.metadata.mode = 0o040_755;
            steps.extend([Rearrange::Remove(name.to_vec()), Rearrange::MakeFolder(name.to_vec())]);
        }
    }
    steps
}
