//! Has the disk take what is unpacked while more is being unpacked: unpacking keeps the processors busy and the disk
//! idle, and when it is over all would wait for the disk.

use std::{
    path::Path,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use crate::{Result, store};

/// How long what was written stays in memory. Folders are written each time; so not at once.
const PAUSE: Duration = Duration::from_millis(500);
/// So many bytes of packages must have come in the meantime: where the network is slow, nobody will have to wait.
const LEAST: u64 = 4 << 20;

/// Does some work that unpacks packages into a repository, and counts their bytes.
pub(super) fn while_writing_back(
    repository: &Path,
    unpacked: &AtomicU64,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (is_done, done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let mut written = 0;
            while done.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                let now = unpacked.load(Ordering::Relaxed);
                if now - written >= LEAST {
                    store::write_back(repository)?;
                    written = now;
                }
            }
            Ok(())
        });
        let worked = work();
        drop(is_done);
        let written = writer.join().map_err(|_| crate::Error::bug("a thread panicked"))?;
        worked.and(written)
    })
}
