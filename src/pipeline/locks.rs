//! `lock`: images' locks, made, kept or checked, and compared with each other.
//!
//! Images that take the same packages from the same repositories are resolved at the same time over one reading of the
//! indexes. What comes out does not depend on which is done first: all see the locks as they were, and an image
//! that turns out to differ from an earlier one is resolved once more, with that one before its eyes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    LockMode, Locked, Session,
    indexes::{Indexes, Key, by_key},
    ninja::write_if_changed,
    said_once, tools,
};
use crate::{
    Context, Error, Result,
    artefacts::{Image, Lockfile, Request},
    lock::{
        self,
        agreement::{self, Comparison, Member},
        lockfile,
    },
    report::{Stage, clock},
};

/// How to make images agree, or let them differ.
const WAY_OUT: &str = "treestrap lock --update    moves all images to the newest versions; what one is to have in another, its \
                       `packages` ask for: \"NAME=VERSION\"";

/// What `lock` did.
#[derive(Debug)]
pub struct Locks {
    /// One result an image, in their order.
    pub images: Vec<Result<Locked>>,
    /// Whether they agree with each other and with the manifest's other images; of `LockMode::Check` alone, the
    /// other modes warn.
    pub agreement: Result<()>,
}

/// Resolves images and writes their locks. `manifest` are all images that there are, these among them.
pub fn lock(session: &Session<'_>, images: &[Image], manifest: &[Image], mode: LockMode) -> Locks {
    let results = lock_images(session, images, manifest, mode);
    let locked: BTreeMap<&str, &Lockfile> = images
        .iter()
        .zip(&results)
        .filter_map(|(image, result)| Some((image.request.image.as_str(), &result.as_ref().ok()?.lockfile)))
        .collect();
    let comparison = compare(session, &locked, manifest);
    let agreement = match mode {
        LockMode::Check => refuse(&comparison, "lock --check"),
        LockMode::Keep | LockMode::Update => {
            warn(session, &comparison);
            Ok(())
        }
    };
    note_architectures(session, &comparison);
    Locks { images: results, agreement }
}

fn lock_images(
    session: &Session<'_>,
    images: &[Image],
    manifest: &[Image],
    mode: LockMode,
) -> Vec<Result<Locked>> {
    let indexes = Indexes::new(session);
    let mut run = Run::new(session, images, manifest, mode);
    // What images continue from comes first.
    for depth in 0..=run.depth() {
        let begun = run.begin(depth);
        run.resolve(&indexes, &begun, depth == run.depth());
        run.todo.extend(begun);
    }
    run.todo.sort_unstable();
    run.write(&indexes);
    run.finish()
}

/// The locks of images that are to be built; makes those that there are not, and says so.
pub(super) fn for_build(
    session: &Session<'_>,
    images: &[Image],
    manifest: &[Image],
) -> Vec<Result<Lockfile>> {
    let mut locks: Vec<Result<Option<Lockfile>>> =
        images.iter().map(|image| read_if_there(&image.lock)).collect();
    let missing: Vec<usize> = (0..images.len()).filter(|&at| matches!(locks[at], Ok(None))).collect();
    if !missing.is_empty() {
        let wanted: Vec<Image> = missing.iter().map(|&at| images[at].clone()).collect();
        let made = lock_images(session, &wanted, manifest, LockMode::Keep);
        for (&at, result) in missing.iter().zip(made) {
            locks[at] = result.map(|locked| {
                let made = format!("there was no lock: made {}", locked.path.display());
                session.reporter.note(&images[at].request.image, made);
                Some(locked.lockfile)
            });
        }
    }
    let found = |lock: Result<Option<Lockfile>>| lock?.ok_or_else(|| Error::bug("a lock was forgotten"));
    locks.into_iter().map(found).collect()
}

/// Compares the locks of images with each other and with those of the manifest's other images; warns, or fails if
/// `required`.
pub(super) fn agree(
    session: &Session<'_>,
    images: &[(&Image, &Lockfile)],
    manifest: &[Image],
    required: bool,
) -> Result<()> {
    let locked = images.iter().map(|(image, lockfile)| (image.request.image.as_str(), *lockfile)).collect();
    let comparison = compare(session, &locked, manifest);
    if required {
        return refuse(&comparison, "--require versions");
    }
    warn(session, &comparison);
    Ok(())
}

/// Compares these locks with each other and with the manifest's others, as far as there are any.
fn compare(session: &Session<'_>, locked: &BTreeMap<&str, &Lockfile>, manifest: &[Image]) -> Comparison {
    let others: Vec<(&Request, Lockfile)> = manifest
        .iter()
        .filter(|image| !locked.contains_key(image.request.image.as_str()))
        .filter_map(|image| match read_if_there(&image.lock) {
            Ok(lockfile) => Some((&image.request, lockfile?)),
            Err(error) => {
                session
                    .reporter
                    .detail(&image.request.image, format!("its lock is compared with none: {error}"));
                None
            }
        })
        .collect();
    let of = |request: &Request| others.iter().find(|(other, _)| other.image == request.image);
    let members: Vec<(bool, Member<'_>)> = manifest
        .iter()
        .filter_map(|image| {
            let request = &image.request;
            let own = locked.get(request.image.as_str()).copied();
            let lockfile = own.or_else(|| of(request).map(|(_, lockfile)| lockfile))?;
            Some((own.is_some(), Member { request, lockfile }))
        })
        .collect();
    let all: Vec<Member<'_>> = members.iter().map(|(_, member)| *member).collect();
    agreement::compare(&all, |at| members[at].0)
}

/// What is wrong, in one sentence.
fn summary(comparison: &Comparison) -> String {
    let count = match comparison.disagreements.len() {
        1 => "1 package".to_owned(),
        count => format!("{count} packages"),
    };
    format!("images that take packages from the same repositories have several versions of {count}")
}

fn warn(session: &Session<'_>, comparison: &Comparison) {
    if comparison.disagreements.is_empty() {
        return;
    }
    for line in comparison.lines() {
        session.reporter.warn("", line);
    }
    session
        .reporter
        .warn("", format!("{}; to make them agree: treestrap lock --update", summary(comparison)));
}

fn refuse(comparison: &Comparison, by: &str) -> Result<()> {
    match comparison.disagreements.is_empty() {
        true => Ok(()),
        false => Err(Error::input(format!(
            "{by}: {}:\n  {}",
            summary(comparison),
            comparison.lines().join("\n  ")
        ))
        .hint(WAY_OUT)),
    }
}

/// Images of several architectures may differ: an archive has new versions of one before those of another.
fn note_architectures(session: &Session<'_>, comparison: &Comparison) {
    if let Some(first) = comparison.other_architectures.first() {
        let message = match comparison.other_architectures.len() {
            1 => format!("of another source version for another architecture: {first}"),
            count => {
                format!(
                    "{count} packages are of other source versions for other architectures, such as {first}"
                )
            }
        };
        session.reporter.note("", message);
    }
}

/// One image of a run.
struct Work<'a> {
    image: &'a Image,
    /// Whether it is to be locked; else it is there to be agreed with.
    named: bool,
    /// How many images it continues from, one after the other.
    depth: usize,
    previous: Option<Lockfile>,
    /// What it came to; none yet, or never of one that is not named.
    result: Option<Result<Locked>>,
}

/// The locking of several images.
struct Run<'a> {
    session: &'a Session<'a>,
    mode: LockMode,
    begun: f64,
    /// All images of the manifest, in its order.
    works: Vec<Work<'a>>,
    /// The images to be locked, in the caller's order: places among `works`.
    order: Vec<usize>,
    /// Those of them that are resolved, in the manifest's order.
    todo: Vec<usize>,
}

impl<'a> Run<'a> {
    fn new(session: &'a Session<'a>, images: &'a [Image], manifest: &'a [Image], mode: LockMode) -> Self {
        let name = |image: &Image| image.request.image.clone();
        let is_new = |image: &&Image| manifest.iter().all(|known| name(known) != name(image));
        let works: Vec<Work<'a>> = manifest
            .iter()
            .chain(images.iter().filter(is_new))
            .map(|image| {
                let mut named = images.iter().any(|other| name(other) == name(image));
                // One that others continue from is made for them where there is no lock of it.
                let is_base =
                    || images.iter().any(|other| other.bases().any(|base| name(base) == name(image)));
                named |= mode != LockMode::Check && !image.lock.exists() && is_base();
                let (previous, result) = match read_if_there(&image.lock) {
                    Ok(previous) => (previous, None),
                    Err(error) => (None, named.then_some(Err(error))),
                };
                Work { image, named, depth: image.bases().count(), previous, result }
            })
            .collect();
        let place = |image: &Image| works.iter().position(|work| name(work.image) == name(image));
        let order = images.iter().filter_map(place).collect();
        Run { session, mode, begun: clock(), works, order, todo: Vec::new() }
    }

    /// How many images one of them continues from at the most.
    fn depth(&self) -> usize {
        self.works.iter().filter(|work| work.named).map(|work| work.depth).max().unwrap_or_default()
    }

    /// The lock of the image that one continues from.
    fn base(&self, image: &Image) -> Result<Option<Lockfile>> {
        let Some(base) = &image.base else { return Ok(None) };
        let name = &base.request.image;
        let work = self.works.iter().find(|work| work.image.request.image == *name);
        let about = || format!("image {name:?}, from which it continues");
        let lockfile = match work.map(|work| (&work.result, &work.previous)) {
            Some((Some(Ok(locked)), _)) => Some(locked.lockfile.clone()),
            Some((Some(Err(error)), _)) => return Err(error.clone().context(about())),
            Some((None, Some(previous))) => Some(previous.clone()),
            _ => read_if_there(&base.lock).with_context(about)?,
        };
        let missing = || {
            Error::input(format!("image {name:?}, from which it continues, has no lock"))
                .hint(format!("treestrap lock {name}"))
        };
        lockfile.map(Some).ok_or_else(missing)
    }

    /// Sees what is to be resolved, of the images that continue from so many others.
    fn begin(&mut self, depth: usize) -> Vec<usize> {
        let mut begun = Vec::new();
        for at in 0..self.works.len() {
            let work = &self.works[at];
            if !work.named || work.depth != depth || work.result.is_some() {
                continue;
            }
            let base = match self.base(work.image) {
                Ok(base) => base,
                Err(error) => {
                    self.works[at].result = Some(Err(error));
                    continue;
                }
            };
            let check_base = |lockfile: &Lockfile| match (&work.image.request.from, &base) {
                (Some(name), Some(base)) => lock::check_base(lockfile, (name, base)),
                _ => Ok(()),
            };
            let request = &work.image.request;
            let path = &work.image.lock;
            let unchanged = |previous: &Lockfile| {
                Ok(Locked { lockfile: previous.clone(), path: path.clone(), written: false })
            };
            let result = match (&work.previous, self.mode) {
                (None, LockMode::Check) => Some(Err(missing(path))),
                (Some(previous), LockMode::Check) => {
                    let checked = lock::check(request, previous).and_then(|()| check_base(previous));
                    let checked = checked.with_context(|| path.display().to_string());
                    Some(checked.and_then(|()| unchanged(previous)))
                }
                (Some(previous), LockMode::Keep)
                    if previous.request == Some(lock::digest(request)) && check_base(previous).is_ok() =>
                {
                    Some(unchanged(previous))
                }
                _ => {
                    self.session.started(&request.image, Stage::Lock, None, "indexes");
                    begun.push(at);
                    None
                }
            };
            self.works[at].result = result;
        }
        begun
    }

    /// Resolves images, all of one set of indexes at a time. `last`: whether no others come.
    fn resolve(&mut self, indexes: &Indexes<'_>, todo: &[usize], last: bool) {
        let groups = by_key(todo.iter().map(|&at| {
            let request = &self.works[at].image.request;
            (Key { repositories: request.repositories.clone(), architectures: architectures(request) }, at)
        }));
        let tools = tools::keys(self.session, groups.iter().map(|(key, _)| key));
        let about = match todo {
            [one] => self.works[*one].image.request.image.clone(),
            several => format!("{} images", several.len()),
        };
        let (shared, begun) = (todo.len() > 1, clock());
        if shared {
            self.session.started(&about, Stage::Lock, None, "indexes");
        }
        std::thread::scope(|scope| {
            // The tools' indexes come from the same archives: get both at the same time. What goes wrong is
            // said when they are needed.
            scope.spawn(|| tools.iter().for_each(|key| drop(indexes.get(&about, key))));
            for (key, members) in &groups {
                self.resolve_group(indexes, &about, key, members);
                if last && !tools.contains(key) {
                    indexes.forget(key);
                }
            }
        });
        if shared {
            let summary = match groups.len() {
                1 => "resolved over one reading of the indexes".to_owned(),
                count => format!("resolved over {count} sets of indexes"),
            };
            let _: Result<()> = self.session.ended(&about, Stage::Lock, (begun, clock()), Ok(((), summary)));
        }
    }

    /// Resolves images of one set of indexes.
    fn resolve_group(&mut self, indexes: &Indexes<'_>, about: &str, key: &Key, members: &[usize]) {
        let session = self.session;
        let architecture = self.works[members[0]].image.request.architecture.as_str();
        let indexes = match session.check_stop().and_then(|()| indexes.get(about, key)) {
            Ok(indexes) => indexes,
            Err(error) => return self.fail(members, error),
        };
        let offer = session.step(about, "parse", architecture, || lock::Offer::new(architecture, &indexes));
        let offer = match offer {
            Ok(offer) => offer,
            Err(error) => return self.fail(members, error),
        };
        let mut solved = super::in_parallel(members.len(), |position| {
            let at = members[position];
            let neighbours = match self.mode {
                LockMode::Update => Vec::new(),
                LockMode::Keep | LockMode::Check => self.neighbours(at),
            };
            self.solve(&offer, at, &neighbours)
        });
        self.reconcile(&offer, members, &mut solved);
        for (&at, result) in members.iter().zip(solved) {
            let work = &mut self.works[at];
            let path = work.image.lock.clone();
            work.result = Some(result.map(|lockfile| Locked { lockfile, path, written: false }));
        }
    }

    fn solve(&self, offer: &lock::Offer<'_>, at: usize, neighbours: &[Member<'_>]) -> Result<Lockfile> {
        self.session.check_stop()?;
        let work = &self.works[at];
        let request = &work.image.request;
        let previous = work.previous.as_ref().filter(|_| self.mode != LockMode::Update);
        let base = self.base(work.image)?;
        let base = request.from.as_deref().zip(base.as_ref());
        self.session.step(&request.image, "solve", &request.image, || {
            lock::resolve_layers(offer, request, previous, neighbours, base)
        })
    }

    /// The other images with their locks, in the manifest's order: what they came to in this run, in groups
    /// before this one, else what was there.
    fn neighbours(&self, at: usize) -> Vec<Member<'_>> {
        let others = self.works.iter().enumerate().filter(|(other, _)| *other != at);
        others
            .filter_map(|(_, work)| {
                let done = work.result.as_ref().and_then(|result| result.as_ref().ok());
                let lockfile = done.map(|locked| &locked.lockfile).or(work.previous.as_ref())?;
                Some(Member { request: &work.image.request, lockfile })
            })
            .collect()
    }

    /// Resolves once more what differs from another image: two may come to different versions where the
    /// candidates do not do. First those that differ from earlier ones; then those that can have what a later one must
    /// have.
    fn reconcile(&self, offer: &lock::Offer<'_>, members: &[usize], solved: &mut Vec<Result<Lockfile>>) {
        let differences = |solved: &[Result<Lockfile>]| {
            agreement::compare(&self.done(members, solved), |_| true).disagreements.len()
        };
        for with_later in [false, true] {
            let before = differences(solved);
            if before == 0 {
                return;
            }
            let mut better = solved.clone();
            for position in 0..members.len() {
                let others = (0..members.len())
                    .filter(|&other| other < position || with_later && other > position)
                    .filter(|&other| self.differ(members, &better, position, other))
                    .collect::<Vec<_>>();
                if others.is_empty() {
                    continue;
                }
                let mut neighbours: Vec<Member<'_>> = others
                    .iter()
                    .flat_map(|&other| self.done(&members[other..=other], &better[other..=other]))
                    .collect();
                if self.mode != LockMode::Update {
                    neighbours.extend(self.neighbours(members[position]));
                }
                if let Ok(lockfile) = self.solve(offer, members[position], &neighbours) {
                    better[position] = Ok(lockfile);
                }
            }
            if differences(&better) < before {
                *solved = better;
            }
        }
    }

    /// Whether one image differs from another in what its own lock did not have: that stays.
    fn differ(&self, members: &[usize], solved: &[Result<Lockfile>], one: usize, other: usize) -> bool {
        let pair: Vec<Member<'_>> =
            [one, other].into_iter().flat_map(|at| self.done(&members[at..=at], &solved[at..=at])).collect();
        let kept = self.works[members[one]].previous.as_ref().filter(|_| self.mode != LockMode::Update);
        let kept: BTreeSet<&str> =
            kept.iter().flat_map(|lock| &lock.packages).map(|package| package.name.as_str()).collect();
        let disagreements = agreement::compare(&pair, |_| true).disagreements;
        disagreements.iter().any(|differs| !kept.contains(differs.package.as_str()))
    }

    /// Those that have a solution, with it.
    fn done<'s>(&'s self, members: &[usize], solved: &'s [Result<Lockfile>]) -> Vec<Member<'s>> {
        let solved = members.iter().zip(solved);
        solved
            .filter_map(|(&at, result)| {
                let request = &self.works[at].image.request;
                Some(Member { request, lockfile: result.as_ref().ok()? })
            })
            .collect()
    }

    /// What is wrong is said once, of the first image.
    fn fail(&mut self, members: &[usize], error: Error) {
        for (&at, error) in members.iter().zip(said_once(error, "its indexes could not be had either")) {
            self.works[at].result = Some(Err(error));
        }
    }

    /// Writes the locks, and those of tools.
    fn write(&mut self, indexes: &Indexes<'_>) {
        for &at in &self.todo {
            let work = &mut self.works[at];
            if let Some(Ok(locked)) = &mut work.result
                && let Err(error) = write_one(locked, work.previous.take())
            {
                work.result = Some(Err(error));
            }
        }
        let written: Vec<(&Image, &Lockfile)> = self
            .todo
            .iter()
            .filter_map(|&at| {
                let work = &self.works[at];
                Some((work.image, &work.result.as_ref()?.as_ref().ok()?.lockfile))
            })
            .collect();
        let pinned = tools::lock(self.session, indexes, &written, self.mode == LockMode::Update);
        let names: Vec<String> = written.iter().map(|(image, _)| image.request.image.clone()).collect();
        for (name, pinned) in names.iter().zip(pinned) {
            let work = self.works.iter_mut().find(|work| work.image.request.image == *name);
            if let (Some(work), Err(error)) = (work, pinned) {
                work.result = Some(Err(error));
            }
        }
    }

    /// Tells of the stages, and gives the results in the caller's order.
    fn finish(mut self) -> Vec<Result<Locked>> {
        let mut results: BTreeMap<usize, Result<Locked>> = BTreeMap::new();
        let ended = clock(); // they came about together
        for (at, work) in self.works.iter_mut().enumerate().filter(|(_, work)| work.named) {
            let result = work.result.take().unwrap_or_else(|| Err(Error::bug("an image was forgotten")));
            let result = match self.todo.contains(&at) {
                true => self.session.ended(
                    &work.image.request.image,
                    Stage::Lock,
                    (self.begun, ended),
                    result.map(|locked| {
                        let summary = size(&locked.lockfile);
                        (locked, summary)
                    }),
                ),
                false => result,
            };
            // One that was made for others is nobody's result.
            if let Ok(Locked { path, written: true, .. }) = &result
                && !self.order.contains(&at)
            {
                let made = format!("there was no lock: made {}", path.display());
                self.session.reporter.note(&work.image.request.image, made);
            }
            results.insert(at, result);
        }
        let taken = self.order.iter().map(|at| results.remove(at));
        taken.map(|result| result.unwrap_or_else(|| Err(Error::bug("an image was forgotten")))).collect()
    }
}

/// Writes what was resolved, unless it is there.
fn write_one(locked: &mut Locked, previous: Option<Lockfile>) -> Result<()> {
    match previous {
        // One that another tool made stays as it is, while it has the same packages.
        Some(previous) if previous.request.is_none() && same_packages(&previous, &locked.lockfile) => {
            locked.lockfile = previous;
        }
        _ => locked.written = write(&locked.path, &locked.lockfile)?,
    }
    Ok(())
}

/// How many packages a lock has, and how many of them come when the others are finished.
fn size(lockfile: &Lockfile) -> String {
    let top = lockfile.packages.iter().map(|package| package.layer().number).max().unwrap_or_default();
    let added = lockfile.packages.iter().filter(|package| package.layer().number == top).count();
    match top {
        0 => format!("{} packages", lockfile.packages.len()),
        _ => format!("{} packages, {added} of them in a layer of their own", lockfile.packages.len()),
    }
}

/// Why a package is in an image's lock: a chain from a requested package, one line a step.
pub fn why(_session: &Session<'_>, image: &Image, package: &str) -> Result<Vec<String>> {
    let lockfile = read(&image.lock)?;
    lock::why(&image.request, &lockfile, package).with_context(|| image.lock.display().to_string())
}

/// Reads a lock that has to be there.
pub(super) fn read(path: &Path) -> Result<Lockfile> {
    read_if_there(path)?.ok_or_else(|| missing(path))
}

/// Reads a lock, if there is one.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Lockfile>> {
    match std::fs::read_to_string(path) {
        Ok(text) => lockfile::parse(&text, path).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

fn missing(path: &Path) -> Error {
    let image = path.file_stem().unwrap_or_default().to_string_lossy();
    Error::input(format!("{}: there is no such lock", path.display())).hint(format!("treestrap lock {image}"))
}

fn same_packages(a: &Lockfile, b: &Lockfile) -> bool {
    let debs = |lockfile: &Lockfile| {
        let debs = lockfile.packages.iter().map(|package| (package.id(), package.sha256));
        debs.collect::<BTreeSet<_>>()
    };
    debs(a) == debs(b)
}

/// The image's own architecture, then those that requested packages name (`libc6:i386`).
fn architectures(request: &Request) -> Vec<String> {
    let mut architectures = vec![request.architecture.clone()];
    for package in &request.packages {
        if let Some((_, architecture)) = package.name.split_once(':')
            && !matches!(architecture, "any" | "all" | "native")
            && !architectures.iter().any(|known| known == architecture)
        {
            architectures.push(architecture.to_owned());
        }
    }
    architectures
}

/// Writes a lock unless it is there already, byte for byte; gives whether it was written.
pub(super) fn write(path: &Path, lockfile: &Lockfile) -> Result<bool> {
    write_if_changed(path, &lockfile::print(lockfile))
}
