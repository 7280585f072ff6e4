//! In which order the images of one build are made, and what each of them waits for. It knows no image:
//! they are numbers here, and time is what it is told.
//!
//! An image is composed once its packages are there, and configured once what it needs on this machine is there,
//! the image that it continues from is done, and no other one of the same packages and settings is being made.
//! Which comes first is the order in which they were named; nobody waits while there is room for somebody else.

use crate::digest::Sha256;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Compose an image; then [`Schedule::composed`] or [`Schedule::done`].
    Compose(usize),
    /// Configure an image; then [`Schedule::done`].
    Configure(usize),
    /// Give the first image up: it continues from the second one, which failed.
    GiveUp(usize, usize),
    /// Wait until something has changed.
    Wait,
    /// All are done.
    End,
}

/// What an image waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// An image of the same packages and settings.
    Same(usize),
    /// The image that it continues from.
    Base(usize),
    /// What it needs on this machine.
    Tools,
    /// Room beside others.
    Room,
}

/// An image's wait that is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Wait {
    pub(super) image: usize,
    pub(super) why: Why,
    pub(super) begun: f64,
    pub(super) ended: f64,
}

/// How an image enters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    /// The image that it continues from, if that is made, too.
    pub(super) base: Option<usize>,
    /// Whether it needs something on this machine that may have to be fetched.
    pub(super) needs_tools: bool,
    /// What determines it, if it is composed.
    pub(super) composed: Option<Sha256>,
    /// Whether it is made, if there is nothing to do.
    pub(super) done: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Begun,
    Composing,
    Composed(Sha256),
    Configuring(Sha256),
    Done { is_made: bool },
}

struct Place {
    state: State,
    entry: Entry,
    /// What it waits for, and since when.
    waits: Option<(Why, f64)>,
}

/// See the module.
pub(super) struct Schedule {
    images: Vec<Place>,
    /// How many are configured at a time.
    most: usize,
    has_packages: bool,
    has_tools: bool,
    waits: Vec<Wait>,
}

impl Schedule {
    /// Of these images, of which `most` are configured at a time.
    pub(super) fn new(entries: Vec<Entry>, most: usize) -> Self {
        let state = |entry: &Entry| match (entry.done, entry.composed) {
            (Some(is_made), _) => State::Done { is_made },
            (_, Some(digest)) => State::Composed(digest),
            _ => State::Begun,
        };
        let place = |entry: Entry| Place { state: state(&entry), entry, waits: None };
        let images = entries.into_iter().map(place).collect();
        Schedule { images, most: most.max(1), has_packages: false, has_tools: false, waits: Vec::new() }
    }

    /// The images' packages are there.
    pub(super) fn packages_are_there(&mut self) {
        self.has_packages = true;
    }

    /// All that is needed on this machine is there, as far as it can be had.
    pub(super) fn tools_are_there(&mut self) {
        (self.has_packages, self.has_tools) = (true, true);
    }

    /// An image is composed, and determined by what has this digest.
    pub(super) fn composed(&mut self, image: usize, digest: Sha256) {
        self.images[image].state = State::Composed(digest);
    }

    /// An image is made, or cannot be.
    pub(super) fn done(&mut self, image: usize, is_made: bool) {
        self.images[image].state = State::Done { is_made };
    }

    /// Whether an image is neither made nor given up.
    pub(super) fn is_open(&self, image: usize) -> bool {
        !matches!(self.images[image].state, State::Done { .. })
    }

    /// What a thread does next. All images are looked at, so that it is known of each what it waits for, and since when.
    pub(super) fn next(&mut self, now: f64) -> Step {
        if let Some((image, base)) = self.hopeless() {
            self.done(image, false);
            self.end_wait(image, now);
            return Step::GiveUp(image, base);
        }
        let (mut compose, mut step) = (None, None);
        for image in 0..self.images.len() {
            let Place { state, entry, .. } = self.images[image];
            if !matches!(state, State::Begun | State::Composed(_)) {
                continue;
            }
            let base = entry.base.map(|base| (base, self.images[base].state));
            match (state, base) {
                (State::Composed(_), Some((base, state))) if !matches!(state, State::Done { .. }) => {
                    self.wait(image, Why::Base(base), now);
                }
                (State::Composed(digest), _) => match self.obstacle(image, digest) {
                    Some(why) => self.wait(image, why, now),
                    None if step.is_none() => {
                        self.images[image].state = State::Configuring(digest);
                        self.end_wait(image, now);
                        step = Some(Step::Configure(image));
                    }
                    None => {}
                },
                _ if self.has_packages => compose = compose.or(Some(image)),
                _ => {}
            }
        }
        if let Some(step) = step {
            return step;
        }
        if let Some(image) = compose {
            self.images[image].state = State::Composing;
            self.end_wait(image, now);
            return Step::Compose(image);
        }
        let all_done = (0..self.images.len()).all(|image| !self.is_open(image));
        if all_done { Step::End } else { Step::Wait }
    }

    /// An image that is not begun, and the one that it continues from, which could not be made.
    fn hopeless(&self) -> Option<(usize, usize)> {
        (0..self.images.len()).find_map(|image| {
            let Place { state, entry, .. } = self.images[image];
            let base =
                entry.base.filter(|&base| self.images[base].state == State::Done { is_made: false })?;
            matches!(state, State::Begun | State::Composed(_)).then_some((image, base))
        })
    }

    /// The waits that are over, since this was asked last.
    pub(super) fn take_waits(&mut self) -> Vec<Wait> {
        std::mem::take(&mut self.waits)
    }

    /// Why a composed image is not configured now.
    fn obstacle(&self, image: usize, digest: Sha256) -> Option<Why> {
        let states = || self.images.iter().map(|place| place.state);
        let configuring = states().filter(|state| matches!(state, State::Configuring(_))).count();
        let same = states().position(|state| state == State::Configuring(digest));
        match same {
            Some(same) => Some(Why::Same(same)),
            None if self.images[image].entry.needs_tools && !self.has_tools => Some(Why::Tools),
            None => (configuring >= self.most).then_some(Why::Room),
        }
    }

    fn wait(&mut self, image: usize, why: Why, now: f64) {
        if self.images[image].waits.is_none_or(|(known, _)| known != why) {
            self.end_wait(image, now);
            self.images[image].waits = Some((why, now));
        }
    }

    fn end_wait(&mut self, image: usize, now: f64) {
        if let Some((why, begun)) = self.images[image].waits.take() {
            self.waits.push(Wait { image, why, begun, ended: now });
        }
    }
}

/// Memory that stage 2 of one image may take. Measured: 58 MiB at most for an image of 188 packages (the `Pss` of
/// all processes, see proc_pid_smaps(5); 26 of it are one script's). Bigger images have hungrier scripts: four times
/// as much.
const NEED: u64 = 256 << 20;

/// How many images are configured at a time: as many as there are processors, and as there is memory for;
/// `limit` is what scripts may take at most, if that is limited.
pub(super) fn at_a_time(processors: usize, available: Option<u64>, limit: Option<u64>) -> usize {
    let need = limit.map_or(NEED, |limit| limit.min(NEED)).max(1);
    let room =
        available.map_or(usize::MAX, |available| usize::try_from(available / need).unwrap_or(usize::MAX));
    processors.min(room).max(1)
}

/// Bytes that can be had without swapping (`MemAvailable` in proc_meminfo(5)).
pub(super) fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Sha256 = Sha256([1; 32]);
    const B: Sha256 = Sha256([2; 32]);

    fn schedule(entries: &[Entry], most: usize) -> Schedule {
        Schedule::new(entries.to_vec(), most)
    }

    #[test]
    fn nothing_is_composed_before_its_packages_and_all_is_before_the_tools() {
        let foreign = Entry { needs_tools: true, ..Entry::default() };
        let mut schedule = schedule(&[foreign, Entry::default(), foreign], 2);
        assert_eq!(schedule.next(0.0), Step::Wait);
        schedule.packages_are_there();
        assert_eq!(schedule.next(1.0), Step::Compose(0));
        assert_eq!(schedule.next(1.0), Step::Compose(1));
        schedule.composed(0, A);
        assert_eq!(schedule.next(2.0), Step::Compose(2));
        schedule.composed(1, B);
        // A native image passes by a foreign one, whose tools are still under way.
        assert_eq!(schedule.next(3.0), Step::Configure(1));
        schedule.done(1, true);
        schedule.done(2, false);
        assert_eq!(schedule.next(4.0), Step::Wait);
        schedule.tools_are_there();
        assert_eq!(schedule.next(5.0), Step::Configure(0));
        assert_eq!(schedule.take_waits(), [Wait { image: 0, why: Why::Tools, begun: 2.0, ended: 5.0 }]);
        schedule.done(0, true);
        assert_eq!(schedule.next(6.0), Step::End);
    }

    #[test]
    fn of_two_that_are_the_same_one_waits_and_others_pass_by() {
        let composed = |digest| Entry { composed: Some(digest), ..Entry::default() };
        let mut schedule = schedule(&[composed(A), composed(A), composed(B)], 2);
        assert_eq!(schedule.next(0.0), Step::Configure(0));
        assert_eq!(schedule.next(1.0), Step::Configure(2));
        assert_eq!(schedule.next(2.0), Step::Wait);
        schedule.done(0, true);
        assert_eq!(schedule.next(3.0), Step::Configure(1));
        let wait = Wait { image: 1, why: Why::Same(0), begun: 0.0, ended: 3.0 };
        assert_eq!(schedule.take_waits(), [wait], "since the other one began, whoever passed by");
        assert_eq!(schedule.next(3.0), Step::Wait);
        schedule.done(1, true);
        schedule.done(2, true);
        assert_eq!(schedule.next(4.0), Step::End);
    }

    #[test]
    fn no_more_than_there_is_room_for() {
        let composed = |digest| Entry { composed: Some(digest), ..Entry::default() };
        let mut schedule = schedule(&[composed(A), composed(B)], 1);
        assert_eq!(schedule.next(0.0), Step::Configure(0));
        assert_eq!(schedule.next(0.0), Step::Wait);
        schedule.done(0, true);
        assert_eq!(schedule.next(2.0), Step::Configure(1));
        assert_eq!(schedule.take_waits(), [Wait { image: 1, why: Why::Room, begun: 0.0, ended: 2.0 }]);
    }

    #[test]
    fn an_image_comes_after_what_it_continues_from() {
        let on = |base| Entry { base: Some(base), ..Entry::default() };
        let mut schedule = schedule(&[on(1), Entry::default(), on(0)], 4);
        schedule.tools_are_there();
        // Stage 1 has all packages at once, whatever they continue from.
        for (image, digest) in [(0, B), (1, A), (2, Sha256([3; 32]))] {
            assert_eq!(schedule.next(0.0), Step::Compose(image));
            schedule.composed(image, digest);
            if image == 1 {
                assert_eq!(schedule.next(0.0), Step::Configure(1));
            }
        }
        assert_eq!(schedule.next(0.0), Step::Wait);
        schedule.done(1, true);
        assert_eq!(schedule.next(7.0), Step::Configure(0));
        assert_eq!(schedule.take_waits(), [Wait { image: 0, why: Why::Base(1), begun: 0.0, ended: 7.0 }]);
        schedule.done(0, false);
        assert_eq!(schedule.next(8.0), Step::GiveUp(2, 0));
        assert_eq!(schedule.next(8.0), Step::End);
    }

    #[test]
    fn giving_one_up_keeps_nobody_from_being_made() {
        let composed = |digest| Entry { composed: Some(digest), ..Entry::default() };
        let variant = Entry { base: Some(0), ..composed(Sha256([3; 32])) };
        let mut schedule = schedule(&[composed(A), composed(B), variant], 1);
        schedule.tools_are_there();
        assert_eq!(schedule.next(0.0), Step::Configure(0));
        schedule.done(0, false);
        assert_eq!(schedule.next(1.0), Step::GiveUp(2, 0));
        assert_eq!(schedule.next(1.0), Step::Configure(1));
        schedule.done(1, true);
        assert_eq!(schedule.next(2.0), Step::End);
        let failed = Entry { done: Some(false), ..Entry::default() };
        assert_eq!(super::Schedule::new(vec![failed, variant], 1).next(0.0), Step::GiveUp(1, 0));
    }

    #[test]
    fn what_is_done_before_is_not_done_again() {
        let done = Entry { done: Some(true), ..Entry::default() };
        assert_eq!(schedule(&[done, done], 1).next(0.0), Step::End);
        assert_eq!(schedule(&[], 1).next(0.0), Step::End);
    }

    #[test]
    fn memory_and_processors_bound_what_is_made_at_a_time() {
        for (processors, available, limit, expected) in [
            (8, None, None, 8),
            (8, Some(64 << 30), None, 8),
            (8, Some(1 << 30), None, 4),
            (8, Some(100 << 20), None, 1),
            (8, Some(1 << 30), Some(128 << 20), 8),
            (8, Some(1 << 30), Some(64 << 30), 4),
            (0, Some(0), Some(0), 1),
        ] {
            assert_eq!(
                at_a_time(processors, available, limit),
                expected,
                "{processors} {available:?} {limit:?}"
            );
        }
        let meminfo = "MemTotal:       16 kB\nMemFree:  1 kB\nMemAvailable:    4 kB\n";
        assert_eq!(available_memory(meminfo), Some(4096));
        assert_eq!(available_memory("MemTotal: 16 kB\n"), None);
    }
}
