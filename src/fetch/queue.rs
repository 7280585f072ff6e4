//! What the threads of a fetch take next: packages that are asked for, then others that may be missing, some
//! of which are known only when the first are durable.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{artefacts::LockedPackage, digest::Sha256};

/// What a thread does next.
pub(super) enum Step<'p> {
    /// Get a package.
    Package(&'p LockedPackage),
    /// Make durable what it has: there is no package left that it could take. [`Queue::settled`] follows.
    Settle,
    /// All packages are durable: find out what else is wanted, for [`Queue::add`].
    Ask,
    /// Get a package that may be missing.
    Extra(Box<LockedPackage>),
    /// Make durable what it has, and end.
    End,
}

/// See [`Step`].
pub(super) struct Queue<'p> {
    state: Mutex<State<'p>>,
    changed: Condvar,
}

#[derive(Default)]
struct State<'p> {
    packages: VecDeque<&'p LockedPackage>,
    extras: VecDeque<LockedPackage>,
    /// All extra ones that were ever in it.
    known: BTreeSet<Sha256>,
    /// How many threads have packages that are not durable.
    owing: usize,
    late: Late,
    /// How many packages there were, and their bytes.
    count: usize,
    bytes: u64,
    /// The same of extra ones that were had.
    extra_count: usize,
    extra_bytes: u64,
    last_extra: Option<LockedPackage>,
}

/// Whether all extra packages are known.
#[derive(Default, PartialEq)]
enum Late {
    #[default]
    Unknown,
    Asked,
    Known,
}

impl<'p> Queue<'p> {
    /// Packages, and extra ones in this order.
    pub(super) fn new(packages: &[&'p LockedPackage], extras: Vec<LockedPackage>) -> Self {
        // The biggest first: a big one that comes last would leave all threads but one idle.
        let mut packages = packages.to_vec();
        packages.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id().cmp(&b.id())));
        let (count, bytes) = (packages.len(), packages.iter().map(|package| package.size).sum());
        let known = extras.iter().map(|package| package.sha256).collect();
        let (packages, extras) = (packages.into(), extras.into());
        let state = State { packages, extras, known, count, bytes, ..State::default() };
        Queue { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Extra packages alone, all of which are known.
    pub(super) fn known(extras: Vec<LockedPackage>) -> Self {
        let queue = Queue::new(&[], extras);
        queue.state().late = Late::Known;
        queue
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.packages.is_empty() && state.extras.is_empty()
    }

    /// The bytes of all that is in it.
    pub(super) fn bytes(&self) -> u64 {
        let state = self.state();
        state.bytes + state.extras.iter().map(|package| package.size).sum::<u64>()
    }

    /// What a thread does next that `owes` packages. Waits until there is something; not when it is to stop.
    pub(super) fn next(&self, owes: bool, is_stopped: &dyn Fn() -> bool) -> Step<'p> {
        // What stops a fetch sets a flag and cannot wake a condition variable: look at it this often.
        const GLANCE: Duration = Duration::from_millis(50);
        let mut state = self.state();
        loop {
            if let Some(package) = state.packages.pop_front() {
                state.owing += usize::from(!owes);
                return Step::Package(package);
            }
            if owes {
                return Step::Settle;
            }
            if state.owing == 0 && state.late == Late::Unknown {
                state.late = Late::Asked;
                return Step::Ask;
            }
            if let Some(package) = state.extras.pop_front() {
                return Step::Extra(Box::new(package));
            }
            if state.late == Late::Known || is_stopped() {
                return Step::End;
            }
            state = self.changed.wait_timeout(state, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What a thread had is durable.
    pub(super) fn settled(&self) {
        self.state().owing -= 1;
        self.changed.notify_all();
    }

    /// What else is wanted; there will be no more. Gives the bytes of what was not in it before.
    pub(super) fn add(&self, mut extras: Vec<LockedPackage>) -> u64 {
        let mut state = self.state();
        extras.retain(|package| state.known.insert(package.sha256));
        let bytes = extras.iter().map(|package| package.size).sum();
        state.extras.extend(extras);
        state.late = Late::Known;
        drop(state);
        self.changed.notify_all();
        bytes
    }

    /// An extra package has come.
    pub(super) fn had(&self, package: LockedPackage) {
        let mut state = self.state();
        state.extra_count += 1;
        state.extra_bytes += package.size;
        state.last_extra = Some(package);
    }

    /// The last extra package that has come.
    pub(super) fn last_extra(&self) -> Option<LockedPackage> {
        self.state().last_extra.clone()
    }

    /// What was had, in one line.
    pub(super) fn summary(&self) -> String {
        let state = self.state();
        let text = |count, bytes: u64| format!("{count} packages, {:.1} MB", bytes as f64 / 1e6);
        match (state.count, state.extra_count) {
            (count, 0) => text(count, state.bytes),
            (0, count) => format!("for this machine: {}", text(count, state.extra_bytes)),
            (count, extra) => {
                format!("{}; for this machine: {}", text(count, state.bytes), text(extra, state.extra_bytes))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<'p>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::deb822::Stanza;

    fn package(name: &str, size: u64) -> LockedPackage {
        LockedPackage {
            name: name.into(),
            version: "1".into(),
            architecture: "all".into(),
            filename: format!("{name}.deb"),
            size,
            sha256: Sha256::of(name.as_bytes()),
            repository: None,
            stanza: Stanza::default(),
        }
    }

    fn name(step: Step<'_>) -> String {
        match step {
            Step::Package(package) => package.name.clone(),
            Step::Settle => "settle".to_owned(),
            Step::Ask => "ask".to_owned(),
            Step::Extra(package) => format!("extra {}", package.name),
            Step::End => "end".to_owned(),
        }
    }

    #[test]
    fn extra_ones_come_after_the_last_package_and_late_ones_once_all_are_durable() {
        let packages = [package("small", 1), package("large", 9)];
        let early = vec![package("first", 1), package("second", 5)];
        let queue = Queue::new(&packages.iter().collect::<Vec<_>>(), early);
        assert_eq!(queue.bytes(), 16);
        let never = || false;
        // Two threads: one takes both packages, the other one has nothing to settle.
        assert_eq!(name(queue.next(false, &never)), "large");
        assert_eq!(name(queue.next(true, &never)), "small");
        assert_eq!(name(queue.next(false, &never)), "extra first");
        assert_eq!(name(queue.next(true, &never)), "settle");
        assert_eq!(name(queue.next(false, &never)), "extra second", "nobody is asked before that is done");
        assert_eq!(name(queue.next(false, &|| true)), "end", "a thread that is to stop waits for nothing");
        queue.settled();
        assert_eq!(name(queue.next(false, &never)), "ask");
        assert_eq!(queue.add(vec![package("second", 5), package("third", 3)]), 3);
        assert_eq!(name(queue.next(false, &never)), "extra third", "what was early is not got twice");
        assert_eq!(name(queue.next(false, &never)), "end");
    }

    #[test]
    fn a_thread_waits_while_it_is_not_known_whether_there_is_more() {
        let packages = [package("one", 1)];
        let queue = Queue::new(&packages.iter().collect::<Vec<_>>(), Vec::new());
        assert_eq!(name(queue.next(false, &|| false)), "one");
        std::thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            let queue = &queue;
            scope.spawn(move || tell.send(name(queue.next(false, &|| false))));
            assert_eq!(name(queue.next(true, &|| false)), "settle");
            told.recv_timeout(Duration::from_millis(20)).expect_err("it waits");
            queue.settled();
            assert_eq!(told.recv().expect("no panic"), "ask");
        });
    }
}
