//! A few files kept open between two requests. The kernel opens files by itself here (see
//! [`readonly`](super::readonly)), so that reads and writes come with an inode number alone; a long
//! file would else be opened for each of its pieces.

use std::{
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many. Each request but the first of a file profits, so a few more than there are programs
/// working at once are enough.
const COUNT: usize = 64;

/// A file with its key.
type Slot = Mutex<Option<(u64, Arc<File>)>>;

/// Open files by a key of the file system's own.
pub(super) struct KeptFiles([Slot; COUNT]);

impl KeptFiles {
    pub(super) fn new() -> Self {
        KeptFiles(std::array::from_fn(|_| Slot::default()))
    }

    /// A poisoned lock would mean that copying a pointer panicked; what it guards is sound anyway.
    fn slot(&self, key: u64) -> MutexGuard<'_, Option<(u64, Arc<File>)>> {
        self.0[(key % COUNT as u64) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of this key, opened if it is not there.
    pub(super) fn get<E>(&self, key: u64, open: impl FnOnce() -> Result<File, E>) -> Result<Arc<File>, E> {
        if let Some((known, file)) = &*self.slot(key)
            && *known == key
        {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(open()?);
        *self.slot(key) = Some((key, Arc::clone(&file)));
        Ok(file)
    }

    /// Closes the file of this key, whose space is free then if it has been removed.
    pub(super) fn close(&self, key: u64) {
        let mut slot = self.slot(key);
        if slot.as_ref().is_some_and(|(known, _)| *known == key) {
            *slot = None;
        }
    }
}

/// Fills as much of `buffer` as the file has from `offset` on; how much that is.
pub(super) fn read_fully(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    use std::os::unix::fs::FileExt;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
