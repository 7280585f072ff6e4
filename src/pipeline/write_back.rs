//! Has the disk take what is unpacked while more is being unpacked: unpacking keeps the processors busy and the disk
//! idle, and when it is over all would wait for the disk.

use std::{
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use crate::store;

/// How long what was written stays in memory. A folder's blocks are written each time; so not at once.
const PAUSE: Duration = Duration::from_millis(500);

/// Does some work that fills a repository.
pub(super) fn while_writing_back<T>(repository: &Path, work: impl FnOnce() -> T) -> T {
    let (is_done, done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while done.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                store::write_back(repository);
            }
        });
        let result = work();
        drop(is_done);
        result
    })
}
