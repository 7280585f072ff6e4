//! What the stages hand to each other: owned, serialisable values.
//!
//! A stage takes the value of the stage before it and gives its own; nothing else passes
//! between them. Paths inside an image are bytes without a leading slash (`usr/bin/env`); the
//! root is the empty path.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{debian::deb822::Stanza, digest::Sha256};

/// Which packages an image wants, and from where: the manifest's images, normalised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The image's name, also that of its lock (`NAME.lock`) and refs (`deb/images/NAME/…`).
    pub image: String,
    /// Debian's name of the image's architecture, such as `armhf`.
    pub architecture: String,
    /// The image that it continues from. Left out of what it is serialised as where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The repositories, in the manifest's order.
    pub repositories: Vec<Repository>,
    /// The requested packages, in the manifest's order.
    pub packages: Vec<PackageRequest>,
    /// Whether what packages depend on is installed too. Left out of what it is serialised as where it is,
    /// as it nearly always is: the digests of older requests stay.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub dependencies: bool,
    /// Whether Recommends are installed too.
    pub recommends: bool,
    /// Whether all packages marked `Essential: yes` are installed.
    pub essential: bool,
    /// Priorities all of whose packages are installed (`required`, `important`).
    pub priority: Vec<String>,
    /// Version pins, in the manifest's order.
    pub pins: Vec<Pin>,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// One image of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What it wants.
    pub request: Request,
    /// Its lock, `IMAGE.lock` beside the manifest.
    pub lock: PathBuf,
    /// Answers to packages' questions.
    pub preseed: Option<Preseed>,
    /// Packages beside the built-in table whose programs run natively where the image is a foreign
    /// one; `*` stands for any characters. They change how long stage 2 takes, not what it makes.
    pub accelerate: Vec<String>,
    /// Programs (paths without a leading slash) that never run natively, in the same notation.
    pub emulate: Vec<String>,
    /// What becomes of what identifies a device.
    pub identity: IdentityPolicy,
    /// The image that it continues from.
    pub base: Option<Box<Image>>,
}

impl Image {
    /// One that asks for no package and has no lock: to get packages from these repositories.
    pub fn of_repositories(name: &str, architecture: &str, repositories: Vec<Repository>) -> Self {
        Image {
            request: Request {
                image: name.to_owned(),
                architecture: architecture.to_owned(),
                from: None,
                repositories,
                packages: Vec::new(),
                recommends: false,
                dependencies: true,
                essential: false,
                priority: Vec::new(),
                pins: Vec::new(),
            },
            lock: PathBuf::new(),
            preseed: None,
            accelerate: Vec::new(),
            emulate: Vec::new(),
            identity: IdentityPolicy::default(),
            base: None,
        }
    }

    /// The images that it continues from, the nearest first.
    pub fn bases(&self) -> impl Iterator<Item = &Image> {
        std::iter::successors(self.base.as_deref(), |image| image.base.as_deref())
    }
}

/// Answers for debconf, in the format of debconf-set-selections(1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preseed {
    /// A file of them.
    File(PathBuf),
    /// Lines of them.
    Lines(Vec<String>),
}

/// What becomes of what identifies one device: machine id, private keys, random seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityPolicy {
    /// The image does not have it; the device makes it when it starts for the first time.
    #[default]
    FirstBoot,
    /// The image does not have it, nor anything to make it but what its packages bring.
    Remove,
    /// The image has what package scripts made: it does not come out the same twice.
    Keep,
}

/// One repository of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// The manifest's name of it.
    pub name: String,
    /// Where it is: `http`, `https`, `file` or `copy` URIs, tried in turn. Empty: the host's own
    /// apt sources that serve the suites.
    pub uris: Vec<String>,
    /// The suites, such as `bookworm`; a name that ends in `/` is a flat repository's path.
    pub suites: Vec<String>,
    /// The components, such as `main`.
    pub components: Vec<String>,
    /// Keyring files (binary or armoured), or an armoured key itself. Empty: the host's archive
    /// keyring.
    pub signed_by: Vec<String>,
    /// Whether an expired Release file is refused.
    pub check_valid_until: bool,
    /// Whether the repository is used without any signature. Loud, and never the default.
    pub trusted: bool,
}

/// One entry of an image's `packages`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRequest {
    /// The package's name, perhaps of a virtual package; may carry an architecture (`libc6:i386`).
    pub name: String,
    /// Which of its versions.
    pub constraint: Constraint,
}

/// Which version of a requested package is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Constraint {
    /// The candidate.
    Any,
    /// `name=version`.
    Version(String),
    /// `name/suite`: the version of that suite or codename.
    Suite(String),
    /// `name-`: it must not be installed.
    Absent,
}

/// One pin, with the meaning of apt_preferences(5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Names, globs or `/regex/`, as after `Package:`; several apart by spaces.
    pub package: String,
    /// As after `Pin:`, such as `release n=bookworm-backports`, `version 1.2*` or
    /// `origin mirror.example`.
    pub pin: String,
    /// As after `Pin-Priority:`.
    pub priority: i32,
}

/// What an image is made of: one stanza a package, sorted by name, version and architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lockfile {
    /// The packages.
    pub packages: Vec<LockedPackage>,
    /// The digest of the [`Request`] it answers; none in a lock that another tool made.
    pub request: Option<Sha256>,
}

/// One package of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedPackage {
    /// The package's name.
    pub name: String,
    /// Its version, as in the stanza.
    pub version: String,
    /// Its architecture, `all` included.
    pub architecture: String,
    /// Where the deb is below a repository's URI.
    pub filename: String,
    /// The deb's size in bytes; 0 if the lock does not say (apt2ostree's do not).
    pub size: u64,
    /// The deb's SHA-256.
    pub sha256: Sha256,
    /// Which repository of the manifest it came from; none in a lock that another tool made.
    pub repository: Option<String>,
    /// The whole stanza, treestrap's own fields among it.
    pub stanza: Stanza,
}

impl LockedPackage {
    /// More than any deb has: for those whose size the lock does not say.
    const LARGEST: u64 = 8 << 30;

    /// The deb's size in bytes, if the lock says it.
    pub fn known_size(&self) -> Option<u64> {
        (self.size != 0).then_some(self.size)
    }

    /// The most bytes that the deb may have.
    pub fn most_bytes(&self) -> u64 {
        self.known_size().unwrap_or(Self::LARGEST)
    }

    /// The version of the source package (deb-control(5), `Source`): a rebuild of one architecture
    /// (`+b1`) has the same.
    pub fn source_version(&self) -> &str {
        let source = self.stanza.get("Source").and_then(|source| source.split_once('('));
        source.map_or(&self.version, |(_, version)| version.trim_end().trim_end_matches(')'))
    }

    /// `name_version_architecture`, as people and logs write a package.
    pub fn id(&self) -> String {
        format!("{}_{}_{}", self.name, self.version, self.architecture)
    }

    /// When it is installed.
    pub fn layer(&self) -> Layer {
        let number = self.stanza.get(LAYER).and_then(|number| number.parse().ok()).unwrap_or_default();
        Layer { number, from: self.stanza.get(FROM).map(str::to_owned) }
    }

    /// Sets when it is installed.
    pub fn set_layer(&mut self, layer: &Layer) {
        self.stanza.remove(LAYER);
        self.stanza.remove(FROM);
        if layer.number > 0 {
            self.stanza.set(LAYER, layer.number.to_string());
        }
        if let Some(from) = &layer.from {
            self.stanza.set(FROM, from.as_str());
        }
    }
}

/// A lock's field with [`Layer::number`]; 0 is left out.
pub const LAYER: &str = "Treestrap-Layer";
/// A lock's field with [`Layer::from`].
pub const FROM: &str = "Treestrap-From";

/// When a package is installed: those of a layer are unpacked and configured when those of all lower
/// layers are. An image of one layer has everything unpacked before any script runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Layer {
    /// Counted from 0.
    pub number: u32,
    /// The name of the image that brings it, where that is one that this image continues from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl Layer {
    /// Whether it is what all packages of an image of one layer are in: it is left out of serialised values.
    pub fn is_lowest(&self) -> bool {
        *self == Layer::default()
    }
}

/// Packages that are in the store, in the lock's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingested {
    /// The packages.
    pub packages: Vec<IngestedPackage>,
}

/// One deb in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestedPackage {
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, `all` included.
    pub architecture: String,
    /// The deb's SHA-256.
    pub deb: Sha256,
    /// The commit at `deb/pool/…`, whose tree has the folders `data`, `control` and `info`.
    pub commit: Sha256,
    /// When it is installed.
    #[serde(default, skip_serializing_if = "Layer::is_lowest")]
    pub layer: Layer,
}

/// An unpacked tree: what `dpkg --unpack` of all packages, of whatever layer, leaves in an empty root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composed {
    /// The image's name.
    pub image: String,
    /// The image's architecture.
    pub architecture: String,
    /// The commit at `deb/images/IMAGE/unpacked`.
    pub commit: Sha256,
    /// Its packages, in the lock's order, with what stage 2 needs to know of them.
    pub packages: Vec<UnpackedPackage>,
    /// Files that are not at their places yet; sorted.
    pub held: Vec<HeldFile>,
    /// The finished tree of all layers but the topmost, from which stage 2 continues; none: it begins
    /// with this one.
    pub below: Option<Sha256>,
}

impl Composed {
    /// The tree that stage 2 begins with.
    pub fn tree(&self) -> Sha256 {
        self.below.unwrap_or(self.commit)
    }

    /// The same where all layers but the topmost are finished in the commit `below`.
    pub fn continuing(&self, below: Sha256) -> Composed {
        let top = self.packages.iter().map(|package| package.layer.number).max().unwrap_or_default();
        let mut composed = Composed { held: Vec::new(), below: Some(below), ..self.clone() };
        for package in composed.packages.iter_mut().filter(|package| package.layer.number < top) {
            package.state = PackageState::Installed;
        }
        composed
    }
}

/// dpkg's suffix of a configuration file until its package is configured.
pub const NEW_CONFFILE: &str = ".dpkg-new";

/// A file of an unpacked tree that gets its place only when a preinst has run: one that says
/// `dpkg-divert`, and so may decide whose file is at that place. dpkg runs a preinst before it unpacks
/// the package, and until then has none of the package's files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldFile {
    /// Where it belongs: a path with no links above it.
    pub path: String,
    /// The name of the package it is of.
    pub package: String,
    /// How the package spells the path.
    pub name: String,
    /// Where it waits: beside its place, with dpkg's suffix of what is not installed yet.
    pub held: String,
    /// Whether it is a configuration file, whose place is `PATH.dpkg-new` until it is configured.
    pub conffile: bool,
    /// What is at the path meanwhile. None: nothing is, and the file goes there in any case.
    pub rival: Option<Rival>,
}

/// Another package's file, at a place that only a diversion lets two packages have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rival {
    /// The name of the package.
    pub package: String,
    /// How it spells the path.
    pub name: String,
    /// Whether it is a configuration file there.
    pub conffile: bool,
    /// Whether its preinst, too, says `dpkg-divert`.
    pub diverts: bool,
}

/// What stage 2 needs to know of an unpacked package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackedPackage {
    /// The package's name.
    pub name: String,
    /// `name`, or `name:architecture` where dpkg says so (`Multi-Arch: same`, or foreign).
    pub qualified_name: String,
    /// What its files in `var/lib/dpkg/info` begin with: the name, with the architecture only if it
    /// is `Multi-Arch: same`.
    #[serde(default)]
    pub info_name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// The control stanza, as text.
    pub control: String,
    /// Which maintainer scripts it has: `preinst`, `postinst`, `config`, ….
    pub scripts: Vec<String>,
    /// Whether its preinst says `dpkg-divert`.
    #[serde(default)]
    pub diverts: bool,
    /// The date of its changelog's newest entry, in seconds since 1970; 0 without one.
    pub newest: u64,
    /// When it is installed.
    #[serde(default, skip_serializing_if = "Layer::is_lowest")]
    pub layer: Layer,
    /// How far it is; that of a composed tree's is always the same.
    #[serde(skip)]
    pub state: PackageState,
}

impl UnpackedPackage {
    /// The name of a deb of it.
    pub fn deb_name(&self) -> String {
        format!("{}_{}.deb", self.name, self.architecture)
    }
}

/// How far a package of an unpacked tree is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PackageState {
    /// Its files are there, and none of its scripts has run.
    #[default]
    Unpacked,
    /// dpkg unpacked it, so its preinst has run; what is left is to configure it.
    Prepared,
    /// It is configured.
    Installed,
}

/// What stage 2 does before it configures packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// Nothing: stage 1 left it all.
    #[default]
    Composed,
    /// These interests in triggers are registered, files and texts, which who unpacked the packages did
    /// not.
    Register(Vec<(String, String)>),
    /// debootstrap's second stage runs, which does all that there is to be done.
    SecondStage,
    /// dpkg unpacks these debs of the tree, whole paths, over what is there, and nothing is configured.
    Unpack(Vec<String>),
    /// dpkg unpacks the packages that are not installed yet, and configures them.
    Layer {
        /// A folder of this machine with their debs, by [`UnpackedPackage::deb_name`].
        debs: PathBuf,
        /// Whether the answers to packages' questions are others than those of the layers below.
        seed: bool,
    },
}

/// Options of stage 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageTwo {
    /// `--tier`: none is `auto`.
    pub tier: Option<String>,
    /// `--view`: none is `auto`.
    pub view: Option<String>,
    /// `--accelerate`: none is `auto`.
    pub accelerate: Option<String>,
    /// `--require WHAT`: degradations that are errors.
    pub require: Vec<String>,
    /// `--limit`: what scripts may use up.
    pub limits: Limits,
}

/// What scripts may use up; none: what the sandbox has by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads at one time.
    pub processes: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Wall time of one command.
    pub time: Option<Duration>,
}

/// What stage 2 changed, with contents in the store already, and how it went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configured {
    /// The image's name.
    pub image: String,
    /// The changes against the composed tree, parents before children.
    pub changes: Vec<TreeChange>,
    /// What was asked of the sandbox and what was given, for the commit's metadata.
    pub enforced: serde_json::Value,
    /// How the programs of a foreign image ran; none where qemu alone ran them, or they are native.
    pub accelerated: Option<Accelerated>,
    /// Seconds per package, in the order in which they were configured.
    pub packages: Vec<(String, f64)>,
    /// The packages that took longest, the slowest first.
    #[serde(default)]
    pub slowest: Vec<SlowPackage>,
}

/// A package that took long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlowPackage {
    /// Its name.
    pub package: String,
    /// Seconds in all.
    pub seconds: f64,
    /// What its scripts ran, by name, with the seconds that each took without what it waited for.
    pub ran: Vec<(String, f64)>,
}

/// How the programs of a foreign image ran in stage 2: in the place of some of them, their twins, the
/// same programs for this machine (docs/acceleration.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accelerated {
    /// The commit of the tree of twins.
    pub twins: Sha256,
    /// How many programs were started natively.
    pub native: u64,
    /// How many were started in qemu.
    pub emulated: u64,
    /// Which those were, those that took most time first.
    pub programs: Vec<EmulatedProgram>,
}

/// A program that qemu ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmulatedProgram {
    /// The path as it was started by.
    pub path: String,
    /// The package that shipped it, if one did.
    pub package: Option<String>,
    /// Why it did not run natively.
    pub reason: String,
    /// Whether it should have, and could not be started.
    pub fallback: bool,
    /// How often it was started.
    pub starts: u64,
    /// Seconds on the clock that its starts took together, as far as their end is known.
    pub seconds: f64,
    /// Seconds of the longest of them.
    pub longest: f64,
}

/// One difference between the composed tree and the configured one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeChange {
    /// The path.
    pub path: Vec<u8>,
    /// What is there now.
    pub now: TreeEntry,
}

/// What is at a changed path now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TreeEntry {
    /// Nothing: it was removed, with all below it.
    Absent,
    /// A folder with this metadata. `opaque`: what the composed tree has below it is gone.
    Folder {
        /// Owner, mode and extended attributes.
        metadata: Metadata,
        /// Whether nothing of the composed tree shows through.
        opaque: bool,
    },
    /// A file or a symbolic link whose object is in the store.
    Object {
        /// The content object's checksum, which covers owner, mode and extended attributes.
        checksum: Sha256,
        /// Paths with the same number are hard links of one file; none where it has one name.
        hard_link: Option<u64>,
    },
}

/// Owner, mode and extended attributes, as they are in the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Extended attributes, sorted by name; names without a trailing NUL.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    /// Of folders that are ours, or that a deb's tar forgot to list: root's, mode 0755.
    pub const FOLDER: Metadata = Metadata { uid: 0, gid: 0, mode: 0o040_755, xattrs: Vec::new() };
}

/// A finished image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The image's name.
    pub image: String,
    /// The commit at `deb/images/IMAGE/configured`.
    pub commit: Sha256,
}
