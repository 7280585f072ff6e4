//! Archives' indexes, each set of them got once, however many images ask for it.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::Session;
use crate::{
    Result,
    acquire::Acquire,
    artefacts::{Image, Repository, Request},
    lock::{index::Index, indexes},
};

/// A set of indexes, once it is there. Who finds it locked waits for who gets it.
type Slot = Arc<Mutex<Option<Arc<Vec<Index>>>>>;

/// What a set is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) repositories: Vec<Repository>,
    pub(super) architectures: Vec<String>,
}

/// What belongs to each set, in the order in which the sets come first.
pub(super) fn by_key<T>(members: impl Iterator<Item = (Key, T)>) -> Vec<(Key, Vec<T>)> {
    let mut groups: Vec<(Key, Vec<T>)> = Vec::new();
    for (key, member) in members {
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, members)) => members.push(member),
            None => groups.push((key, vec![member])),
        }
    }
    groups
}

/// The sets that were got in this run.
pub(super) struct Indexes<'a> {
    session: &'a Session<'a>,
    acquire: Acquire<'a>,
    sets: Mutex<Vec<(Key, Slot)>>,
}

impl<'a> Indexes<'a> {
    /// None yet.
    pub(super) fn new(session: &'a Session<'a>) -> Self {
        Indexes { session, acquire: Acquire::new(session.offline, session.stop), sets: Mutex::default() }
    }

    /// A set of indexes, in the manifest's order; progress is told of `about`.
    pub(super) fn get(&self, about: &str, key: &Key) -> Result<Arc<Vec<Index>>> {
        let slot = {
            let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            match sets.iter().find(|(known, _)| known == key) {
                Some((_, slot)) => Arc::clone(slot),
                None => {
                    sets.push((key.clone(), Slot::default()));
                    Arc::clone(&sets[sets.len() - 1].1)
                }
            }
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(indexes) = &*slot {
            return Ok(Arc::clone(indexes));
        }
        let architecture = key.architectures.first().map_or("", String::as_str);
        let request = Image::of_repositories(about, architecture, key.repositories.clone()).request;
        let indexes = Arc::new(obtain(self.session, &request, &key.architectures, &self.acquire)?);
        Ok(Arc::clone(slot.insert(indexes)))
    }

    /// Gives the memory of a set free when nobody uses it any more: indexes are big.
    pub(super) fn forget(&self, key: &Key) {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| known != key);
    }
}

/// Gets the indexes of these architectures.
pub(super) fn obtain(
    session: &Session<'_>,
    request: &Request,
    architectures: &[String],
    acquire: &Acquire<'_>,
) -> Result<Vec<Index>> {
    let cache = session.cache.as_path();
    let surroundings =
        indexes::Surroundings { root: Path::new("/"), cache, acquire, reporter: session.reporter };
    indexes::obtain(request, architectures, &surroundings)
}
