//! `build`: all stages of several images, doing only what is missing.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::{
    Session, StageTwo, compose_locked, in_parallel,
    layers::Unfinished,
    listings, locks, pool, processors, said_once,
    schedule::{Entry, Schedule, Step, Wait, Why, at_a_time, available_memory},
    stage_two,
    tools::Foreign,
};
use crate::{
    Error, Result,
    artefacts::{Committed, Composed, Image, Lockfile},
    configure::{AccelerationWish, Requirements},
    digest::Sha256,
    lock,
    report::{Span, SpanKind, clock},
    store::Store,
};

/// What `--require` calls it that images have one version of what they share.
const VERSIONS: &str = "versions";

/// All of it, doing only what is missing; one result an image, in their order.
///
/// A lock that is there is used as it is, and compared with those of the other images of `manifest`. What images
/// need is downloaded once, for all of them, while those are composed whose packages have come; then as many are
/// configured at a time as there are processors and memory for.
pub fn build(
    session: &Session<'_>,
    images: &[Image],
    manifest: &[Image],
    options: &StageTwo,
) -> Vec<Result<Committed>> {
    // What cannot be given to any image is said at once, and once.
    let refused = |error| said_once(error, "not begun").take(images.len()).map(Err).collect();
    let (agreement, options) = &without_agreement(options);
    let requirements = session.check_stop().and_then(|()| Requirements::new(options));
    let native = match requirements {
        Ok(requirements) => requirements.acceleration() != AccelerationWish::Off,
        Err(error) => return refused(error),
    };
    let locked = locks::for_build(session, images, manifest);
    let ready: Vec<(&Image, &Lockfile)> =
        images.iter().zip(&locked).filter_map(|(image, lock)| Some((image, lock.as_ref().ok()?))).collect();
    if let Err(error) = locks::agree(session, &ready, manifest, *agreement) {
        return refused(error);
    }
    let places: Vec<Mutex<Place>> = locked.into_iter().map(|lock| Mutex::new(Place::new(lock))).collect();
    let schedule = Mutex::new(Schedule::new(vec![Entry::default(); images.len()], 1));
    let (changed, unfinished) = (Condvar::new(), Unfinished::default());
    let mut build = Build { session, images, options, places, schedule, changed, unfinished };
    build.look();
    build.schedule = Mutex::new(build.schedule_of_all());
    build.make(native);
    let places =
        build.places.into_iter().map(|place| place.into_inner().unwrap_or_else(PoisonError::into_inner));
    places.map(|place| place.result.unwrap_or_else(|| Err(Error::bug("an image was forgotten")))).collect()
}

/// How far an image is.
#[derive(Default)]
struct Place {
    lockfile: Option<Lockfile>,
    composed: Option<(Composed, Sha256)>,
    result: Option<Result<Committed>>,
}

impl Place {
    fn new(locked: Result<Lockfile>) -> Self {
        match locked {
            Ok(lockfile) => Place { lockfile: Some(lockfile), ..Place::default() },
            Err(error) => Place { result: Some(Err(error)), ..Place::default() },
        }
    }
}

struct Build<'a> {
    session: &'a Session<'a>,
    images: &'a [Image],
    options: &'a StageTwo,
    places: Vec<Mutex<Place>>,
    schedule: Mutex<Schedule>,
    changed: Condvar,
    /// Layers that somebody makes.
    unfinished: Unfinished,
}

/// Whether images must agree (`--require versions`, or `all`), and what is left to ask of the sandbox.
fn without_agreement(options: &StageTwo) -> (bool, StageTwo) {
    let mut options = options.clone();
    let agreement = options.require.iter().any(|what| what == VERSIONS || what == "all");
    options.require.retain(|what| what != VERSIONS);
    (agreement, options)
}

impl Build<'_> {
    /// Composes what has its packages, so that what is finished needs nothing else.
    fn look(&self) {
        let is_there = |image: &usize| {
            let place = self.place(*image);
            place.lockfile.as_ref().is_some_and(|lockfile| pool::ingested(self.session, lockfile).is_ok())
        };
        let there: Vec<usize> = (0..self.images.len()).filter(is_there).collect();
        in_parallel(there.len(), |position| self.compose(there[position]));
    }

    /// The image that another one continues from, where it is to be made, too, as its lock has it: after
    /// that there is less to do.
    fn base(&self, image: usize) -> Option<usize> {
        let own = self.place(image).lockfile.clone()?;
        self.images[image].bases().map(|base| &base.request.image).find_map(|base| {
            let at = self.images.iter().position(|other| other.request.image == *base)?;
            let place = self.place(at);
            lock::check_base(&own, (base, place.lockfile.as_ref()?)).is_ok().then_some(at)
        })
    }

    fn schedule_of_all(&self) -> Schedule {
        let entry = |image: usize| {
            let base = self.base(image);
            let place = self.place(image);
            let foreign = Foreign::new(self.session, &self.images[image].request.architecture);
            Entry {
                base,
                needs_tools: foreign.map_or(true, |foreign| foreign.is_some()),
                composed: place.composed.as_ref().map(|(_, digest)| *digest),
                done: place.result.as_ref().map(Result::is_ok),
            }
        };
        let entries: Vec<Entry> = (0..self.images.len()).map(entry).collect();
        let open = entries.iter().filter(|entry| entry.done.is_none()).count();
        let available = std::fs::read_to_string("/proc/meminfo").ok();
        let available = available.and_then(|text| available_memory(&text));
        let wished = processors().min(open);
        let most = at_a_time(wished, available, self.options.limits.memory);
        if most < wished {
            let message = format!(
                "{most} of {open} images at a time: {} MiB of memory are available",
                available.unwrap_or(0) >> 20
            );
            self.session.reporter.note("", message);
        }
        Schedule::new(entries, most)
    }

    /// Fetches for all images that are not done, and makes them meanwhile.
    fn make(&self, native: bool) {
        let open: Vec<usize> =
            (0..self.images.len()).filter(|&image| self.schedule().is_open(image)).collect();
        if open.is_empty() {
            return;
        }
        thread::scope(|scope| {
            scope.spawn(|| self.fetch(&open, native));
            for _ in 0..processors().min(open.len()) {
                scope.spawn(|| self.work());
            }
        });
    }

    fn fetch(&self, open: &[usize], native: bool) {
        // However it ends, nobody waits for it any longer.
        struct End<'b, 'a>(&'b Build<'a>);
        impl Drop for End<'_, '_> {
            fn drop(&mut self) {
                self.0.change(Schedule::tools_are_there);
            }
        }
        let _end = End(self);
        let lockfiles: Vec<Option<Lockfile>> =
            open.iter().map(|&image| self.place(image).lockfile.clone()).collect();
        let pairs: Vec<(&Image, &Lockfile)> = open
            .iter()
            .zip(&lockfiles)
            .filter_map(|(&image, lockfile)| Some((&self.images[image], lockfile.as_ref()?)))
            .collect();
        let ready = || self.change(Schedule::packages_are_there);
        if let Err(error) = pool::fetch_all(self.session, &pairs, native, &ready) {
            // One download for all: its error is said once, and stops the images that wanted it.
            let mut error = Some(error);
            for (&image, lockfile) in open.iter().zip(&lockfiles) {
                let is_there = lockfile.as_ref().is_some_and(|it| pool::ingested(self.session, it).is_ok());
                if !is_there {
                    let stopped = || Error::input("its packages could not be fetched");
                    self.finish(image, Err(error.take().unwrap_or_else(stopped)));
                }
            }
            if let Some(error) = error {
                self.session.reporter.warn("", format!("what images need on this machine: {error}"));
            }
        }
    }

    /// What one thread does.
    fn work(&self) {
        loop {
            let (step, waits) = self.next();
            waits.iter().for_each(|wait| self.report(wait));
            let _given_up = GivenUp(self, step);
            match step {
                Step::Compose(image) => self.compose(image),
                Step::Configure(image) => {
                    let result = self.configure(image);
                    self.finish(image, result);
                }
                Step::GiveUp(image, base) => {
                    let base = &self.images[base].request.image;
                    let message = format!("it continues from image {base}, which was not made");
                    self.finish(image, Err(Error::input(message)));
                }
                Step::Wait => {}
                Step::End => return,
            }
        }
    }

    /// The next step that is one.
    fn next(&self) -> (Step, Vec<Wait>) {
        let mut schedule = self.schedule();
        loop {
            match schedule.next(clock()) {
                Step::Wait => {
                    schedule = self.changed.wait(schedule).unwrap_or_else(PoisonError::into_inner);
                }
                step => return (step, schedule.take_waits()),
            }
        }
    }

    /// Stage 1 of an image; it is done if it was finished before.
    fn compose(&self, image: usize) {
        match self.try_compose(image) {
            Ok(None) => {}
            Ok(Some(committed)) => self.finish(image, Ok(committed)),
            Err(error) => self.finish(image, Err(error)),
        }
    }

    fn try_compose(&self, index: usize) -> Result<Option<Committed>> {
        let (session, image) = (self.session, &self.images[index]);
        session.check_stop()?;
        let lockfile = self.place(index).lockfile.clone();
        let lockfile = lockfile.ok_or_else(|| Error::bug("an image without a lock"))?;
        let composed = compose_locked(session, image, &lockfile)?;
        let store = Store::open(&session.repo)?;
        // What a finished image was made with is not known to meet a requirement: make it again.
        if self.options.require.is_empty()
            && let Some(committed) = stage_two::remembered(session, &store, image, &composed)?
        {
            return Ok(Some(committed));
        }
        // Kept for the sandbox, which needs it when the rest is there; one that continues from another needs
        // that one's.
        if composed.packages.iter().all(|package| package.layer.number == 0) {
            listings::of_commit(session, &image.request.image, &store, composed.commit)?;
        }
        let digest = stage_two::digest(image, stage_two::source(&store, composed.commit)?)?;
        self.place(index).composed = Some((composed, digest));
        self.change(|schedule| schedule.composed(index, digest));
        Ok(None)
    }

    fn configure(&self, index: usize) -> Result<Committed> {
        let (session, image) = (self.session, &self.images[index]);
        session.check_stop()?;
        let composed = self.place(index).composed.take();
        let (composed, _) = composed.ok_or_else(|| Error::bug("an image that was not composed"))?;
        // One of the same packages and settings may have been made meanwhile.
        if self.options.require.is_empty() {
            let store = Store::open(&session.repo)?;
            if let Some(committed) = stage_two::remembered(session, &store, image, &composed)? {
                return Ok(committed);
            }
        }
        stage_two::configure_composed(session, image, self.options, &composed, &self.unfinished)
    }

    fn finish(&self, image: usize, result: Result<Committed>) {
        let is_made = result.is_ok();
        self.place(image).result = Some(result);
        self.change(|schedule| schedule.done(image, is_made));
    }

    /// Says who waited for what, if it was for long.
    fn report(&self, wait: &Wait) {
        const LONG: f64 = 0.1;
        if wait.ended - wait.begun < LONG {
            return;
        }
        let name = |image: usize| &self.images[image].request.image;
        let about = match wait.why {
            Why::Same(other) => {
                format!("waited for image {}: both are of the same packages and settings", name(other))
            }
            Why::Base(base) => format!("waited for image {}: it continues from that", name(base)),
            Why::Tools => "waited for what it needs on this machine".to_owned(),
            Why::Room => "waited for others: no more are made at a time".to_owned(),
        };
        self.session.reporter.detail(name(wait.image), format!("{about} ({:.1} s)", wait.ended - wait.begun));
        self.session.reporter.span(Span {
            image: name(wait.image).clone(),
            kind: SpanKind::Wait,
            name: "wait".to_owned(),
            about,
            begun: wait.begun,
            ended: wait.ended,
        });
    }

    /// Changes the schedule, and lets everybody look at it.
    fn change(&self, change: impl FnOnce(&mut Schedule)) {
        change(&mut self.schedule());
        self.changed.notify_all();
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.lock(&self.schedule)
    }

    fn place(&self, image: usize) -> MutexGuard<'_, Place> {
        self.lock(&self.places[image])
    }

    fn lock<'m, T>(&self, mutex: &'m Mutex<T>) -> MutexGuard<'m, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step that panics leaves nobody waiting for its image.
struct GivenUp<'b, 'a>(&'b Build<'a>, Step);

impl Drop for GivenUp<'_, '_> {
    fn drop(&mut self) {
        if let (true, Step::Compose(image) | Step::Configure(image)) = (thread::panicking(), self.1) {
            self.0.finish(image, Err(Error::bug("making the image panicked")));
        }
    }
}
