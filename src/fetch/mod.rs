//! The fetch stage: gets the debs that a lock names and gives each, verified while it streams, to a
//! sink that unpacks it into the store. No deb is kept unless that was asked for.
//!
//! The stage knows nothing of stores: `pipeline.rs` makes a [`DebSink`] of the ingest stage.

mod queue;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use self::queue::{Queue, Step};

use crate::{
    acquire::{ANY, Acquire, Meter, Undelivered, Wanted, parallel, uri},
    artefacts::LockedPackage,
    error::{Context, Error, Kind, Result},
    report::{Event, Reporter, Span, SpanKind, Stage, clock},
};

/// What takes the debs, on one thread.
pub trait DebSink {
    /// Takes one deb. A read fails as soon as it is certain that this is not the deb of the lock, and
    /// the deb's last bytes come only after its digest was found right; so nothing may be made
    /// reachable before `body` was read to its end. After an error, from here or of the network, it
    /// may be called again for the same package, with a fresh stream.
    fn deb(&mut self, package: &LockedPackage, body: &mut dyn Read) -> Result<()>;

    /// Makes all that it was given durable. Called when the thread has no more for it for the time being, also
    /// where that is because another failed: a sink that should lose less when the run is killed does so by itself.
    fn finish(&mut self) -> Result<()>;
}

/// What is got together with the packages that are asked for, by the same threads, and may be missing.
pub trait Extras: Sync {
    /// What is wanted in any case, the most urgent first. It is begun when the last of the packages is under
    /// way.
    ///
    /// # Errors
    /// What ends everything.
    fn early(&self) -> Result<Vec<LockedPackage>> {
        Ok(Vec::new())
    }

    /// All packages are durable: what is wanted, now that they can be looked into? What it names that was
    /// among the early ones is got once. Called once, while those are under way.
    ///
    /// # Errors
    /// What ends everything.
    fn late(&self) -> Result<Vec<LockedPackage>> {
        Ok(Vec::new())
    }

    /// Whether it is still wanted, now that its turn has come.
    fn is_wanted(&self, _package: &LockedPackage) -> bool {
        true
    }

    /// It, or what was got before it, could not be had.
    ///
    /// # Errors
    /// If that is to end everything.
    fn failed(&self, package: &LockedPackage, error: Error) -> Result<()>;
}

/// Nothing but the packages.
struct Nothing;

impl Extras for Nothing {
    fn failed(&self, _: &LockedPackage, error: Error) -> Result<()> {
        Err(error)
    }
}

/// How debs are got.
pub struct Fetch<'a> {
    /// The image that they are for, in events.
    pub image: &'a str,
    /// The manifest's repositories in its order: name, and URIs in the order in which they are tried.
    pub repositories: &'a [(String, Vec<String>)],
    /// How many threads download and unpack; see [`threads`].
    pub jobs: usize,
    /// Where debs are kept; one that is there already is used.
    pub keep_debs: Option<&'a Path>,
    /// The way to the archives.
    pub acquire: &'a Acquire<'a>,
    /// Who watches.
    pub reporter: &'a dyn Reporter,
    /// Makes the sink of one thread, on that thread.
    pub make_sink: &'a (dyn Fn() -> Result<Box<dyn DebSink + 'a>> + Sync),
}

/// How many threads keep this machine busy: unpacking is bound by the processor, and while one
/// thread waits for the network another can unpack. More would only hold more memory.
pub fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get());
    (cores * 2).clamp(4, 16)
}

impl Fetch<'_> {
    /// Gets all of `packages`. The first failure ends the others soon, and names its package.
    pub fn run(&self, packages: &[&LockedPackage]) -> Result<()> {
        self.run_with(packages, &Nothing)
    }

    /// The same, and `extras` besides. As long as one of the packages is not under way, no extra one is begun.
    pub fn run_with(&self, packages: &[&LockedPackage], extras: &dyn Extras) -> Result<()> {
        let begun = clock();
        let mut queue = Queue::new(packages, extras.early()?);
        if queue.is_empty() {
            // Nothing is reported of a stage that has nothing to do.
            queue = Queue::known(extras.late()?);
            if queue.is_empty() {
                return Ok(());
            }
        }
        if let Some(folder) = self.keep_debs {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("making the folder {}", folder.display()))?;
        }
        let run = Run {
            fetch: self,
            extras,
            acquire: self.acquire.renewed(),
            meter: Meter::start(self.reporter, self.image, Stage::Fetch, queue.bytes()),
            served: Mutex::default(),
            queue,
        };
        parallel(&run.acquire, self.jobs, usize::MAX, |take| run.work(take))?;
        let ended = clock();
        let (image, summary) = (self.image.to_owned(), run.queue.summary());
        self.reporter.span(Span {
            image: image.clone(),
            kind: SpanKind::Stage,
            name: Stage::Fetch.name().to_owned(),
            about: summary.clone(),
            begun,
            ended,
        });
        let (stage, seconds) = (Stage::Fetch, ended - begun);
        self.reporter.event(Event::Finished { image, stage, seconds, summary });
        Ok(())
    }
}

/// One run: what its threads share.
struct Run<'r, 'a> {
    fetch: &'r Fetch<'a>,
    extras: &'r dyn Extras,
    acquire: Acquire<'a>,
    meter: Meter<'r>,
    /// Which URI last served a part of a repository's pool: repositories whose suites are on several
    /// hosts (security updates) need not be asked for each package in vain.
    served: Mutex<HashMap<(Option<String>, String), String>>,
    queue: Queue<'r>,
}

/// The sink of one thread.
#[derive(Default)]
struct Held<'a> {
    sink: Option<Box<dyn DebSink + 'a>>,
    /// Whether it has had nothing since it was finished last.
    is_finished: bool,
}

impl Held<'_> {
    fn finish(&mut self) -> Result<()> {
        match &mut self.sink {
            Some(sink) if !self.is_finished => {
                self.is_finished = true;
                sink.finish()
            }
            _ => Ok(()),
        }
    }
}

impl<'a> Run<'_, 'a> {
    /// What one thread does. `take` gives something until all is to stop.
    fn work(&self, take: &dyn Fn() -> Option<usize>) -> Result<()> {
        let mut held = Held::default();
        let mut owes = false;
        loop {
            let step = match take() {
                Some(_) => self.queue.next(owes, &|| self.acquire.is_stopped()),
                None => Step::End,
            };
            match step {
                Step::Package(package) => {
                    owes = true;
                    self.get(package, &mut held)?;
                }
                Step::Settle => {
                    held.finish()?;
                    owes = false;
                    self.queue.settled();
                }
                Step::Ask => {
                    let late = self.extras.late()?;
                    self.meter.grow(self.queue.add(late));
                }
                Step::Extra(package) if !self.extras.is_wanted(&package) => {}
                Step::Extra(package) => match self.get(&package, &mut held) {
                    Ok(()) => self.queue.had(*package),
                    Err(error) => self.extras.failed(&package, error)?,
                },
                Step::End => {
                    return match (held.finish(), self.queue.last_extra()) {
                        // What is lost of extra packages is lost as they can be.
                        (Err(error), Some(package)) if !owes => self.extras.failed(&package, error),
                        (finished, _) => finished,
                    };
                }
            }
        }
    }

    /// Gets one package into the thread's sink. If that fails, what came before is kept for the next run.
    fn get(&self, package: &LockedPackage, held: &mut Held<'a>) -> Result<()> {
        let sink = match &mut held.sink {
            Some(sink) => sink,
            none => none.insert((self.fetch.make_sink)()?),
        };
        held.is_finished = false;
        match self.one(package, &mut **sink) {
            Ok(()) => Ok(()),
            Err(Undelivered::Consumer(error)) => {
                if error.kind() == Kind::Input {
                    held.finish()?; // this package is at fault; those before it are all right
                }
                let named = error.to_string().contains(&package.id());
                Err(if named { error } else { error.context(format!("package {}", package.id())) })
            }
            Err(Undelivered::Failure(failure)) => {
                held.finish()?; // the sink is all right
                Err(failure.into())
            }
        }
    }

    /// Gets one package into the sink, and says how long that took.
    fn one(&self, package: &LockedPackage, sink: &mut dyn DebSink) -> Result<(), Undelivered> {
        let begun = clock();
        let done = self.deliver(package, sink);
        self.fetch.reporter.span(Span {
            image: self.fetch.image.to_owned(),
            kind: SpanKind::Download,
            name: package.name.clone(),
            about: format!("{}, {} bytes", package.id(), package.size),
            begun,
            ended: clock(),
        });
        done
    }

    /// Gets one package into the sink, and into the folder of debs.
    fn deliver(&self, package: &LockedPackage, sink: &mut dyn DebSink) -> Result<(), Undelivered> {
        let kept = self.fetch.keep_debs.map(|folder| kept_path(folder, package)).transpose();
        let kept = kept.map_err(Undelivered::Consumer)?;
        let bases = self.bases(package);
        let mut uris: Vec<String> = bases.iter().map(|base| uri::join(base, &package.filename)).collect();
        if let Some(path) = kept.as_ref().filter(|path| path.is_file()) {
            uris.insert(0, uri::of_file(path));
        }
        let from_archive = uris.len() - bases.len();
        if package.repository.is_none() {
            uris.extend(bases.iter().map(|base| uri::join(base, &aptly_path(package))));
        }
        if uris.is_empty() {
            let message = "its lock names no repository, and the manifest has none";
            return Err(Undelivered::Consumer(
                Error::input(message).hint("add a [repos.NAME] to the manifest"),
            ));
        }
        let wanted = Wanted {
            what: format!("the package {}", package.id()),
            repository: package.repository.clone().unwrap_or_else(|| ANY.to_owned()),
            uris,
            size: package.known_size(),
            sha256: Some(package.sha256),
            limit: package.most_bytes(),
        };
        let id = package.id();
        let mut counted = 0;
        let mut temporary = None;
        let mut served = None;
        self.acquire.deliver(&wanted, &mut |stream| {
            // What an earlier stream brought was wrong: it does not count.
            self.meter.take_back(std::mem::take(&mut counted));
            temporary = None;
            let mut file = match &kept {
                Some(path) if !uri::is_same_file(&stream.uri(), path) => Some(new_file(path)?),
                _ => None,
            };
            let uri = stream.uri();
            let stream = self.meter.count(&id, &mut counted, stream);
            let mut body = Copying { stream, copy: file.as_mut() };
            sink.deb(package, &mut body)?;
            io::copy(&mut body, &mut io::sink())?;
            served = Some(uri);
            temporary = file;
            Ok(())
        })?;
        if let (Some(file), Some(path)) = (temporary, &kept) {
            let kept = file.persist(path).map_err(|error| error.error);
            let kept = kept.with_context(|| format!("keeping {}", path.display()));
            kept.map_err(Undelivered::Consumer)?;
        }
        if let Some(served) = served {
            let base = wanted.uris[from_archive..].iter().position(|uri| uri::shown(uri) == served);
            if let Some(base) = base.and_then(|index| bases.get(index)) {
                self.served().insert(part(package), base.clone());
            }
        }
        self.meter.item_done(&id);
        Ok(())
    }

    /// The archives' URIs to try, the likeliest first.
    fn bases(&self, package: &LockedPackage) -> Vec<String> {
        let repositories = self.fetch.repositories;
        let own = package.repository.as_ref();
        let named = repositories.iter().find(|(name, _)| Some(name) == own);
        // A lock of another tool names no repository. The digest says whether it is the right one.
        let mut bases: Vec<String> = match named {
            Some((_, uris)) => uris.clone(),
            None => repositories.iter().flat_map(|(_, uris)| uris.clone()).collect(),
        };
        if let Some(likely) = self.served().get(&part(package)) {
            bases.sort_by_key(|base| base != likely);
        }
        bases
    }

    fn served(&self) -> std::sync::MutexGuard<'_, HashMap<(Option<String>, String), String>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a pool that a package is in: Debian's security archive has `pool/updates`.
fn part(package: &LockedPackage) -> (Option<String>, String) {
    let words: Vec<&str> = package.filename.trim_start_matches("./").split('/').take(2).collect();
    (package.repository.clone(), words.join("/"))
}

/// Where the deb is in aptly's own pool: apt2ostree, which makes locks that name no repository, looks for it
/// there, too (`download_deb` in its apt.py).
fn aptly_path(package: &LockedPackage) -> String {
    let digits = package.sha256.to_string();
    let file = package.filename.rsplit('/').next().unwrap_or_default();
    format!("{}/{}/{}_{file}", &digits[..2], &digits[2..4], &digits[4..])
}

/// Where a deb is kept: under the last part of its name in the archive.
fn kept_path(folder: &Path, package: &LockedPackage) -> Result<PathBuf> {
    match package.filename.rsplit('/').next() {
        Some(name) if !["", ".", ".."].contains(&name) => Ok(folder.join(name)),
        _ => Err(Error::input(format!("its Filename names no file: {:?}", package.filename))
            .hint("make the lock again: treestrap lock --update")),
    }
}

fn new_file(path: &Path) -> Result<tempfile::NamedTempFile> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // As a deb from any mirror: readable by all that the umask lets.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let file = builder.prefix(".treestrap-").permissions(permissions).tempfile_in(folder);
    file.with_context(|| format!("making a file in {}", folder.display()))
}

/// A deb on its way to the sink, copied to the folder of debs.
struct Copying<'a, R> {
    stream: R,
    copy: Option<&'a mut tempfile::NamedTempFile>,
}

impl<R: Read> Read for Copying<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        if let Some(file) = &mut self.copy {
            let written = file.write_all(&buffer[..count]);
            written.with_context(|| format!("writing {}", file.path().display())).map_err(|error| {
                // Whatever it is, it is not the archive's fault.
                let machine = Error::new(Kind::Machine, &error);
                error.get_hint().map(str::to_owned).into_iter().fold(machine, Error::hint)
            })?;
        }
        Ok(count)
    }
}
