//! `build`: all stages of several images, doing only what is missing.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    thread,
};

use super::{
    Session, StageTwo, acceleration, compose_locked, indexes::Indexes, layers::Unfinished, locks, pool,
    stage_two, tools,
};
use crate::{
    Error, Result,
    artefacts::{Committed, Image, Lockfile},
    configure::{AccelerationWish, Requirements},
    store::Store,
};

/// What `--require` calls it that images have one version of what they share.
const VERSIONS: &str = "versions";

/// All of it, doing only what is missing; one result an image, in their order.
///
/// A lock that is there is used as it is, and compared with those of the other images of `manifest`. What
/// several images need is downloaded once, before any of them is composed; then as many images as there are
/// processors are made at a time.
pub fn build(
    session: &Session<'_>,
    images: &[Image],
    manifest: &[Image],
    options: &StageTwo,
) -> Vec<Result<Committed>> {
    // What cannot be given to any image is said at once, and once.
    let refused = |error: Error| {
        let same = Error::new(error.kind(), "not begun");
        let mut errors = std::iter::once(error).chain(std::iter::repeat_with(move || same.clone()));
        images.iter().filter_map(|_| errors.next()).map(Err).collect()
    };
    let (agreement, options) = &without_agreement(options);
    if let Err(error) = Requirements::new(options).and_then(|_| session.check_stop()) {
        return refused(error);
    }
    let locked = locks::for_build(session, images, manifest);
    let ready: Vec<(&Image, &Lockfile)> = images
        .iter()
        .zip(&locked)
        .filter_map(|(image, lockfile)| lockfile.as_ref().ok().map(|lockfile| (image, lockfile)))
        .collect();
    if let Err(error) = locks::agree(session, &ready, manifest, *agreement) {
        return refused(error);
    }
    let fetched = pool::fetch_locked(session, &ready);
    let mut results: Vec<Option<Result<Committed>>> = locked.iter().map(|_| None).collect();
    let mut queue = VecDeque::new();
    for (position, lockfile) in locked.into_iter().enumerate() {
        match lockfile {
            Ok(lockfile) => queue.push_back((position, lockfile)),
            Err(error) => results[position] = Some(Err(error)),
        }
    }
    if let Err(error) = fetched {
        // One download for all: its error is said once, and stops the images that wanted it.
        let mut error = Some(error);
        queue.retain(|(position, lockfile)| {
            let is_there = pool::ingested(session, lockfile).is_ok();
            if !is_there {
                let stopped = || Error::input("its packages could not be fetched");
                results[*position] = Some(Err(error.take().unwrap_or_else(stopped)));
            }
            is_there
        });
    }
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(queue.len());
    let (queue, done) = (Mutex::new(queue), Mutex::new(results));
    let shared =
        Shared { indexes: Indexes::new(session), tools: Mutex::default(), unfinished: Unfinished::default() };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((position, lockfile)) = next else { return };
                    let result = build_one(session, &images[position], &lockfile, options, &shared);
                    done.lock().unwrap_or_else(PoisonError::into_inner)[position] = Some(result);
                }
            });
        }
    });
    let results = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    results
        .into_iter()
        .map(|result| result.unwrap_or_else(|| Err(Error::bug("an image was forgotten"))))
        .collect()
}

/// What images that are made at the same time wait for.
struct Shared<'a> {
    indexes: Indexes<'a>,
    /// What one image needs on this machine, others do: the second finds what the first has fetched.
    tools: Mutex<()>,
    /// Trees that somebody makes.
    unfinished: Unfinished,
}

/// Whether images must agree (`--require versions`, or `all`), and what is left to ask of the sandbox.
fn without_agreement(options: &StageTwo) -> (bool, StageTwo) {
    let mut options = options.clone();
    let agreement = options.require.iter().any(|what| what == VERSIONS || what == "all");
    options.require.retain(|what| what != VERSIONS);
    (agreement, options)
}

fn build_one(
    session: &Session<'_>,
    image: &Image,
    lockfile: &Lockfile,
    options: &StageTwo,
    shared: &Shared<'_>,
) -> Result<Committed> {
    session.check_stop()?;
    let composed = compose_locked(session, image, lockfile)?;
    let store = Store::open(&session.repo)?;
    let digest = stage_two::digest(image, stage_two::source(&store, composed.commit)?)?;
    let tree = shared.unfinished.tree(digest);
    let _alone = tree.lock().unwrap_or_else(PoisonError::into_inner);
    // What a finished image was made with is not known to meet a requirement: make it again.
    if options.require.is_empty()
        && let Some(committed) = stage_two::remembered(session, &store, image, &composed)?
    {
        return Ok(committed);
    }
    let alone = shared.tools.lock().unwrap_or_else(PoisonError::into_inner);
    tools::fetch(session, &shared.indexes, image, lockfile)?;
    if Requirements::new(options)?.acceleration() != AccelerationWish::Off {
        acceleration::fetch(session, image, lockfile)?;
    }
    drop(alone);
    stage_two::configure_composed(session, image, options, &composed, &shared.unfinished)
}
