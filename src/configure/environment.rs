//! What scripts find: the view of the tree, the emulator, the environment variables.

use std::path::{Path, PathBuf};

use sandbox::{
    Binfmt, Layer, Plan, Stored, Work,
    view::{Listing, ROOT},
};

use crate::{Context, Result};

/// Variables of every command. Locale and time zone are fixed so that no output depends on the
/// caller's.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("TERM", "dumb"),
    // Debian's scripts are written for it; C.UTF-8 is in libc-bin, so every image has it.
    ("LC_ALL", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    // systemctl(1): enable and preset work, starting is left out.
    ("SYSTEMD_OFFLINE", "1"),
    // python(1): the order of sets, and with it byte code, is the same every time.
    ("PYTHONHASHSEED", "0"),
    // perlrun(1): so is the order of hashes, in which scripts write lists (updmap's ls-R).
    ("PERL_HASH_SEED", "0"),
    ("PERL_PERTURB_KEYS", "0"),
    // TeX: the date inside formats is SOURCE_DATE_EPOCH's, too (texlive's texmf.cnf).
    ("FORCE_SOURCE_DATE", "1"),
];

/// A composed or configured tree for a sandbox to look at: a listing of it, whose contents are the
/// repository's objects, in a folder of its own that is removed with this value.
pub struct Base {
    folder: sandbox::LayerFolder,
    objects: PathBuf,
    merged_usr: bool,
}

impl Base {
    /// Makes a folder below `work` and writes the listing of a tree to it; its content paths are
    /// relative to `objects`.
    pub fn new(work: &Path, listing: &Listing, objects: PathBuf) -> Result<Base> {
        let folder = sandbox::LayerFolder::make(work).context("making a work folder")?;
        let sbin = listing.find(ROOT, b"sbin").and_then(|entry| listing.entry(entry));
        let merged_usr = sbin.is_some_and(|sbin| listing.target(sbin.inode).is_some());
        let base = Base { folder, objects, merged_usr };
        let path = base.listing();
        std::fs::write(&path, listing.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
        Ok(base)
    }

    /// Removes it all; dropping it does too, but cannot say what went wrong.
    pub fn remove(self) -> Result<()> {
        self.folder.remove().context("removing a work folder")
    }

    /// The folder that holds what belongs to this run.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn listing(&self) -> PathBuf {
        self.folder.path().join("listing")
    }

    /// The tree as a layer.
    fn layer(&self) -> Layer {
        Layer::Stored(Stored { listing: self.listing(), contents: self.objects.clone() })
    }

    /// Whether `/sbin` and its like are links into `/usr`.
    pub(super) fn is_merged_usr(&self) -> bool {
        self.merged_usr
    }

    /// The folder below which sessions have theirs.
    fn work(&self) -> PathBuf {
        self.folder.path().parent().unwrap_or(self.folder.path()).to_owned()
    }
}

/// What runs a foreign image's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emulator {
    /// The name of the binfmt_misc entry.
    pub name: String,
    /// The line for binfmt_misc, with [`sandbox::INTERPRETER`] in the interpreter's place.
    pub line: String,
    /// The static program.
    pub program: PathBuf,
    /// Its version.
    pub version: String,
    /// Whether it can be told `argv[0]` by the kernel, as the dispatcher of twins needs.
    pub preserves_argv0: bool,
}

/// Where changes go.
pub enum Changes {
    /// To a new upper layer.
    New,
    /// To the one that a failed run left here.
    Kept(PathBuf),
}

/// What the kernel says of itself to an image's programs, native and emulated: the image's machine,
/// and nothing of the host.
pub(super) fn uname(architecture: &str) -> Option<sandbox::Uname> {
    qemu::find(architecture).map(|architecture| sandbox::Uname::of_machine(architecture.machine))
}

/// The sandbox plan for a tree.
pub fn plan(base: &Base, interposed: Option<PathBuf>, emulator: Option<&Emulator>, changes: Changes) -> Plan {
    let mut plan = Plan::new(interposed.into_iter().collect(), base.work());
    plan.layers.push(base.layer());
    if let Changes::Kept(folder) = changes {
        plan.work = Work::Kept(folder);
    }
    // What scripts write into a configuration file must not depend on the machine.
    plan.hostname = "localhost".to_owned();
    // Scripts and programs write lists in the order in which they find things.
    plan.sorted_folders = true;
    plan.environment =
        ENVIRONMENT.iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect();
    plan.binfmt = emulator
        .into_iter()
        .map(|emulator| Binfmt {
            name: emulator.name.clone(),
            line: emulator.line.clone(),
            interpreter: emulator.program.clone(),
        })
        .collect();
    plan
}
