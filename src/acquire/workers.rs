//! Threads that work through a list and stop together.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    time::Duration,
};

use super::Acquire;
use crate::error::{Error, Kind, Result};

/// Runs `worker` on `threads` threads; each takes indexes below `count` from the function that it is
/// given until there are no more. On the first error, and when the user wants to stop, `acquire` is
/// cancelled, and no further index is given out. Returns the first error that is a cause rather than a
/// consequence.
pub fn parallel<W>(acquire: &Acquire<'_>, threads: usize, count: usize, worker: W) -> Result<()>
where
    W: Fn(&dyn Fn() -> Option<usize>) -> Result<()> + Sync,
{
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let errors: Mutex<Vec<Error>> = Mutex::new(Vec::new());
    let take = || {
        if stopped.load(Ordering::Relaxed) || acquire.is_stopped() {
            return None;
        }
        Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < count)
    };
    std::thread::scope(|scope| {
        let (done, finished) = channel::<()>();
        for _ in 0..threads.clamp(1, count.max(1)) {
            let done = done.clone();
            let (take, stopped, errors, worker) = (&take, &stopped, &errors, &worker);
            scope.spawn(move || {
                let _done = done; // hangs up when the thread ends, even by a panic
                if let Err(error) = worker(take) {
                    errors.lock().unwrap_or_else(PoisonError::into_inner).push(error);
                    stopped.store(true, Ordering::Relaxed);
                    acquire.cancel();
                }
            });
        }
        drop(done);
        // Nothing is ever sent: this waits for the hang-up, and looks for Ctrl-C meanwhile.
        while let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(Duration::from_millis(100)) {
            if acquire.is_stopped() {
                acquire.cancel();
            }
        }
    });
    let errors = errors.into_inner().unwrap_or_else(PoisonError::into_inner);
    let was_stopped = acquire.is_stopped();
    let mut errors = errors.into_iter();
    let first = errors.next();
    match first {
        Some(first) if first.kind() == Kind::Interrupted => {
            Err(errors.find(|error| error.kind() != Kind::Interrupted).unwrap_or(first))
        }
        Some(first) => Err(first),
        None if was_stopped => Err(Error::new(Kind::Interrupted, "interrupted")),
        None => Ok(()),
    }
}
