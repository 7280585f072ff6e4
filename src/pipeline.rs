//! The only file that orders stages: what each verb runs, and what is already there.

use std::{ffi::OsString, path::PathBuf, sync::atomic::AtomicBool};

use crate::{
    Error, Result,
    artefacts::{Committed, Composed, Image, Lockfile},
    report::Reporter,
};

/// Where things are, and what holds for the whole run.
pub struct Session<'a> {
    /// The OSTree repository; created as bare-user where it is missing.
    pub repo: PathBuf,
    /// Indexes: `$XDG_CACHE_HOME/treestrap`.
    pub cache: PathBuf,
    /// Logs: `$XDG_STATE_HOME/treestrap`.
    pub state: PathBuf,
    /// Whether the network may not be used.
    pub offline: bool,
    /// Where debs are kept, if the user asked for it (`--keep-debs`).
    pub keep_debs: Option<PathBuf>,
    /// Whether the plan of every sandbox is reported, as [`Event::Detail`](crate::report::Event)
    /// (`--debug`).
    pub debug: bool,
    /// Who watches.
    pub reporter: &'a dyn Reporter,
    /// Set on Ctrl-C, SIGTERM and SIGHUP: every stage looks at it and ends with
    /// `Kind::Interrupted`.
    pub stop: &'a AtomicBool,
}

/// What `lock` does with a lock that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Keep its versions where the manifest still allows them.
    Keep,
    /// Move to the newest versions (`--update`).
    Update,
    /// Fail if it is not what the manifest asks for (`--check`); writes nothing.
    Check,
}

/// What `lock` did.
#[derive(Clone, Debug)]
pub struct Locked {
    /// The lock.
    pub lockfile: Lockfile,
    /// Where it is.
    pub path: PathBuf,
    /// Whether the file was written; an unchanged lock is not touched.
    pub written: bool,
}

/// Options of stage 2.
#[derive(Clone, Debug, Default)]
pub struct StageTwo {
    /// `--tier`: none is `auto`.
    pub tier: Option<String>,
    /// `--view`: none is `auto`.
    pub view: Option<String>,
    /// `--accelerate`: none is `auto`.
    pub accelerate: Option<String>,
    /// `--require WHAT`: degradations that are errors.
    pub require: Vec<String>,
}

/// What `export` writes.
#[derive(Clone, Debug)]
pub enum ExportTo {
    /// A tar file; `-` is standard output.
    Tar(PathBuf),
    /// A folder.
    Folder(PathBuf),
}

fn unwired<T>() -> Result<T> {
    Err(Error::bug("not wired"))
}

/// Resolves one image and writes its lock.
pub fn lock(_session: &Session<'_>, _image: &Image, _mode: LockMode) -> Result<Locked> {
    unwired()
}

/// Why a package is in an image's lock: a chain from a requested package, one line a step.
pub fn why(_session: &Session<'_>, _image: &Image, _package: &str) -> Result<Vec<String>> {
    unwired()
}

/// Downloads what the locks name and ingests it.
pub fn fetch(_session: &Session<'_>, _images: &[Image]) -> Result<()> {
    unwired()
}

/// Stage 1.
pub fn compose(_session: &Session<'_>, _image: &Image) -> Result<Composed> {
    unwired()
}

/// Stage 2.
pub fn configure(_session: &Session<'_>, _image: &Image, _options: &StageTwo) -> Result<Committed> {
    unwired()
}

/// All of it, doing only what is missing; one result an image, in their order.
pub fn build(_session: &Session<'_>, images: &[Image], _options: &StageTwo) -> Vec<Result<Committed>> {
    images.iter().map(|_| unwired()).collect()
}

/// A command (or a shell, if empty) in a configured image; gives its exit status, 128 + signal
/// where a signal ended it. `failed`: in the state that a failed `configure` left.
pub fn run(
    _session: &Session<'_>,
    _image: &str,
    _command: &[OsString],
    _options: &StageTwo,
    _failed: bool,
) -> Result<u8> {
    unwired()
}

/// Differences between two locks (files), images or commits: packages first, then files; one line
/// each.
pub fn diff(_session: &Session<'_>, _a: &str, _b: &str) -> Result<Vec<String>> {
    unwired()
}

/// Writes an image's configured tree for the outside world.
pub fn export(_session: &Session<'_>, _image: &str, _to: &ExportTo) -> Result<()> {
    unwired()
}
