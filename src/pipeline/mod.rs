//! The only module that orders stages: what each verb runs, and what is already there.
//!
//! | file | verbs |
//! |---|---|
//! | `locks` | `lock`, `lock --why` |
//! | `pool` | `fetch`: debs into the repository |
//! | `joint` | no verb: what foreign images need on this machine, fetched with their packages |
//! | `stage_two` | `configure`, `run` |
//! | `rootfs` | `configure --rootfs` |
//! | `build` | `build`; `schedule` has the order of images |
//! | `verify` | `verify` |
//! | `multistrap` | `multistrap` |
//! | `comparison` | `diff` |
//! | `import` | `import` |
//! | `ninja` | `ninja`, `fetch --stamp` |
//! | `prune` | `prune` |
//! | `tools` | no verb: qemu-user for foreign images, pinned and fetched like packages |
//! | `acceleration` | no verb: native programs for foreign images |
//! | `indexes` | no verb: archives' indexes, each got once |
//! | `layers` | no verb: images that continue from a finished tree |
//! | `twin_trees` | no verb: trees of native programs, kept |
//! | `listings` | no verb: trees as sandboxes take them, kept |

mod acceleration;
mod build;
mod comparison;
mod dates;
mod import;
mod indexes;
mod joint;
mod layers;
mod listings;
mod locks;
pub mod multistrap;
mod ninja;
mod pool;
mod prune;
mod rootfs;
mod schedule;
mod stage_two;
mod tools;
mod twin_trees;
mod verify;
mod write_back;

use std::{
    fs::File,
    io::Write,
    iter,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    Context, Error, Result,
    artefacts::{Composed, Image, Ingested, Lockfile},
    compose,
    digest::Sha256,
    error::Kind,
    export,
    report::{Event, Reporter, Span, SpanKind, Stage, clock},
    store::{self, Store, records::configured_reference},
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

/// What `export` writes.
#[derive(Clone, Debug)]
pub enum ExportTo {
    /// A tar file; `-` is standard output.
    Tar(PathBuf),
    /// A folder.
    Folder(PathBuf),
}

pub use build::build;
pub use comparison::diff;
pub use import::{Import, Imported, import};
pub use locks::{Locks, lock, why};
pub use ninja::{Ninja, ninja, stamp};
pub use pool::fetch;
pub use prune::{Removed, prune};
pub use rootfs::{Known, Target, configure_rootfs};
pub use stage_two::{configure, prepare_sandbox, run};
pub use verify::{Disparity, Verified, verify};

pub use crate::artefacts::StageTwo;

/// Stage 1.
pub fn compose(session: &Session<'_>, image: &Image) -> Result<Composed> {
    let lockfile = locks::read(&image.lock)?;
    compose_locked(session, image, &lockfile)
}

/// Stage 1, for a lock that was read.
fn compose_locked(session: &Session<'_>, image: &Image, lockfile: &Lockfile) -> Result<Composed> {
    compose_ingested(session, image, &pool::ingested(session, lockfile)?)
}

/// Stage 1, of packages that are in the repository.
fn compose_ingested(session: &Session<'_>, image: &Image, ingested: &Ingested) -> Result<Composed> {
    let request = &image.request;
    session.stage(&request.image, Stage::Compose, Some(ingested.packages.len() as u64), "packages", || {
        let store = Store::open(&session.repo)?;
        let composed = compose::compose(&store, &request.image, &request.architecture, ingested, None)?;
        let summary = format!("{} packages, {}", composed.packages.len(), composed.commit);
        Ok((composed, summary))
    })
}

/// Writes an image's configured tree for the outside world.
pub fn export(session: &Session<'_>, image: &str, to: &ExportTo) -> Result<()> {
    let store = Store::open(&session.repo)?;
    let commit = store.resolve(&configured_reference(image))?.ok_or_else(|| not_built(image))?;
    session.stage(image, Stage::Export, None, "bytes", || {
        match to {
            ExportTo::Tar(path) if path.as_os_str() == "-" => {
                export::tar(&store, commit, &mut Stoppable { session, writer: std::io::stdout().lock() })?;
            }
            ExportTo::Tar(path) => replace_file(path, |file| {
                let stoppable = Stoppable { session, writer: file };
                let mut buffered = std::io::BufWriter::with_capacity(1 << 20, stoppable);
                export::tar(&store, commit, &mut buffered)?;
                Ok(buffered.flush()?)
            })?,
            ExportTo::Folder(path) => export::folder(&store, commit, path, session.reporter, session.stop)?,
        }
        let path = match to {
            ExportTo::Tar(path) | ExportTo::Folder(path) => path,
        };
        Ok(((), path.display().to_string()))
    })
}

/// The error for an image that has no configured commit.
fn not_built(image: &str) -> Error {
    Error::input(format!("{image}: not in the repository")).hint(format!("treestrap build {image}"))
}

/// An image's name as that of a file: that of a second run of one has a slash.
fn file_name(image: &str) -> String {
    image.replace('/', "~")
}

/// An error of several images: it is said once, and the others only say `same`.
fn said_once(error: Error, same: &'static str) -> impl Iterator<Item = Error> {
    let others = Error::new(error.kind(), same);
    iter::once(error).chain(iter::repeat(others))
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The results of `work` for each position, got on as many threads as there are processors.
fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = processors().min(count);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(count));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    if position >= count {
                        return;
                    }
                    let result = work(position);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((position, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|&(position, _)| position);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A writer that fails when the user wants to stop.
struct Stoppable<'a, W> {
    session: &'a Session<'a>,
    writer: W,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.session.check_stop()?;
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

/// Writes a file under another name beside it and renames it, so that nobody sees half of it. What
/// is there and is no file (a device, a pipe) is written to; a link stays one.
fn replace_file(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let path = match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let mut file = File::options().write(true).open(path).with_context(writing)?;
            return write(&mut file).with_context(writing);
        }
        Ok(_) => std::fs::canonicalize(path).with_context(writing)?,
        Err(_) => path.to_owned(),
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".treestrap-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)) // less the umask, as for any file
        .tempfile_in(folder)
        .with_context(writing)?;
    write(file.as_file_mut()).with_context(writing)?;
    file.as_file().sync_all().with_context(writing)?;
    file.persist(&path).map_err(|e| e.error).with_context(writing)?;
    Ok(())
}

impl Session<'_> {
    /// Runs a stage between its `Started` and `Finished` events; `work` gives its result and one
    /// line that says what came out.
    fn stage<T>(
        &self,
        image: &str,
        stage: Stage,
        total: Option<u64>,
        unit: &'static str,
        work: impl FnOnce() -> Result<(T, String)>,
    ) -> Result<T> {
        self.check_stop()?;
        self.started(image, stage, total, unit);
        let begun = clock();
        let outcome = work();
        self.ended(image, stage, (begun, clock()), outcome)
    }

    /// Tells that a stage begins.
    fn started(&self, image: &str, stage: Stage, total: Option<u64>, unit: &'static str) {
        self.reporter.event(Event::Started { image: image.to_owned(), stage, total, unit });
    }

    /// Tells that a stage is over, when it began and when it ended; gives its result without the line that says
    /// what came out.
    fn ended<T>(
        &self,
        image: &str,
        stage: Stage,
        (begun, ended): (f64, f64),
        outcome: Result<(T, String)>,
    ) -> Result<T> {
        let image = image.to_owned();
        let (about, result) = match outcome {
            Ok((result, summary)) => (summary, Ok(result)),
            Err(error) => (error.to_string(), Err(error)),
        };
        let span = Span {
            image: image.clone(),
            kind: SpanKind::Stage,
            name: stage.name().to_owned(),
            about: about.clone(),
            begun,
            ended,
        };
        self.reporter.span(span);
        let result = result?;
        self.reporter.event(Event::Finished { image, stage, seconds: ended - begun, summary: about });
        Ok(result)
    }

    /// Does a part of a stage, for the timeline.
    fn step<T>(&self, image: &str, name: &str, about: &str, work: impl FnOnce() -> T) -> T {
        self.reporter.step(image, name, about, work)
    }

    /// Fails if the user wants to stop.
    fn check_stop(&self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::new(Kind::Interrupted, "interrupted")),
            false => Ok(()),
        }
    }

    /// The folder of sandboxes and checkouts that are in use, on the repository's file system.
    fn work(&self) -> PathBuf {
        self.repo.join(store::PRIVATE_FOLDER).join("work")
    }

    /// What a failed stage 2 of an image left.
    fn kept(&self, image: &str) -> PathBuf {
        self.repo.join(store::PRIVATE_FOLDER).join("failed").join(file_name(image))
    }

    /// The folder of logs: images of several repositories may have one name.
    fn logs(&self) -> PathBuf {
        let repo = Sha256::of(self.repo.as_os_str().as_encoded_bytes()).to_string();
        self.state.join("logs").join(&repo[..16])
    }
}
