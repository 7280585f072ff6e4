//! `build`: all stages of several images, doing only what is missing.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    thread,
};

use super::{
    LockMode, Session, StageTwo, acceleration, compose_locked, layers::Unfinished, locks, pool, stage_two,
    tools,
};
use crate::{
    Error, Result,
    artefacts::{Committed, Image, Lockfile},
    configure::{AccelerationWish, Requirements},
    store::Store,
};

/// All of it, doing only what is missing; one result an image, in their order.
///
/// A lock that is there is used as it is. What several images need is downloaded once, before any
/// of them is composed; then as many images as there are processors are made at a time.
pub fn build(session: &Session<'_>, images: &[Image], options: &StageTwo) -> Vec<Result<Committed>> {
    if let Err(error) = Requirements::new(options) {
        // What cannot be given to any image is said at once, and once.
        let mut error = Some(error);
        let same = || Error::machine("not begun");
        return images.iter().map(|_| Err(error.take().unwrap_or_else(same))).collect();
    }
    let locked: Vec<Result<Lockfile>> = images.iter().map(|image| lock_of(session, image)).collect();
    let ready: Vec<(&Image, &Lockfile)> = images
        .iter()
        .zip(&locked)
        .filter_map(|(image, lockfile)| lockfile.as_ref().ok().map(|lockfile| (image, lockfile)))
        .collect();
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
    let shared = Shared::default();
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
#[derive(Default)]
struct Shared {
    /// What one image needs on this machine, others do: the second finds what the first has fetched.
    tools: Mutex<()>,
    /// Trees that somebody makes.
    unfinished: Unfinished,
}

/// The image's lock; makes one, and says so, where there is none.
fn lock_of(session: &Session<'_>, image: &Image) -> Result<Lockfile> {
    session.check_stop()?;
    if let Some(lockfile) = locks::read_if_there(&image.lock)? {
        return Ok(lockfile);
    }
    let locked = locks::lock(session, image, LockMode::Keep)?;
    let made = format!("there was no lock: made {}", locked.path.display());
    session.reporter.note(&image.request.image, made);
    Ok(locked.lockfile)
}

fn build_one(
    session: &Session<'_>,
    image: &Image,
    lockfile: &Lockfile,
    options: &StageTwo,
    shared: &Shared,
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
    tools::fetch(session, image, lockfile)?;
    if Requirements::new(options)?.acceleration() != AccelerationWish::Off {
        acceleration::fetch(session, image, lockfile)?;
    }
    drop(alone);
    stage_two::configure_composed(session, image, options, &composed, &shared.unfinished)
}
