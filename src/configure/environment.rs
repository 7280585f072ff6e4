//! What scripts find: the view of the tree, the emulator, the environment variables.

use std::path::{Path, PathBuf};

use sandbox::{Binfmt, Fixup, Fixups, Plan, Work};

use crate::{Context, Result, artefacts::Metadata};

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

/// A composed or configured tree on disk, for a sandbox to look at: hard links to the repository's
/// objects, in a folder of its own that is removed with this value.
pub struct Base {
    folder: sandbox::LayerFolder,
    fixups: Vec<Fixup>,
}

impl Base {
    /// Makes an empty folder below `work` and has `checkout` fill it, which gives what hard links
    /// cannot show.
    pub fn new(
        work: &Path,
        checkout: impl FnOnce(&Path) -> Result<Vec<(Vec<u8>, Metadata)>>,
    ) -> Result<Base> {
        let folder = sandbox::LayerFolder::make(work).context("making a work folder")?;
        let tree = folder.path().join("tree");
        std::fs::create_dir(&tree).with_context(|| format!("creating {}", tree.display()))?;
        let fixups = checkout(&tree)?
            .into_iter()
            .map(|(path, metadata)| Fixup {
                path,
                uid: metadata.uid,
                gid: metadata.gid,
                mode: metadata.mode & 0o7777,
                xattrs: metadata.xattrs,
            })
            .collect();
        Ok(Base { folder, fixups })
    }

    /// Removes it all; dropping it does too, but cannot say what went wrong.
    pub fn remove(self) -> Result<()> {
        self.folder.remove().context("removing a work folder")
    }

    /// The folder that holds the tree and what else belongs to this run.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The tree.
    pub fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    /// Whether `/sbin` and its like are links into `/usr`.
    pub(super) fn is_merged_usr(&self) -> bool {
        self.tree().join("sbin").is_symlink()
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
    let layers = interposed.into_iter().chain([base.tree()]).collect();
    let mut plan = Plan::new(layers, base.work());
    if let Changes::Kept(folder) = changes {
        plan.work = Work::Kept(folder);
    }
    plan.fixups = Some(Fixups { layer: base.tree(), entries: base.fixups.clone() });
    // What scripts write into a configuration file must not depend on the machine.
    plan.hostname = "localhost".to_owned();
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
