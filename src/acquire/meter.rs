//! How many bytes have come, over all threads of a stage, told to a reporter now and then.

use std::{
    io::{self, Read},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::report::{Event, Reporter, Stage};

/// Progress is reported each time so many bytes more have come.
const STEP: u64 = 512 << 10;

/// Counts the bytes of one stage of one image.
pub struct Meter<'a> {
    reporter: &'a dyn Reporter,
    image: &'a str,
    stage: Stage,
    total: AtomicU64,
    done: AtomicU64,
    reported: AtomicU64,
}

impl<'a> Meter<'a> {
    /// Begins to count, and says how much there is to come.
    pub fn start(reporter: &'a dyn Reporter, image: &'a str, stage: Stage, total: u64) -> Self {
        let (total, done, reported) = (AtomicU64::new(total), AtomicU64::new(0), AtomicU64::new(0));
        let meter = Meter { reporter, image, stage, total, done, reported };
        meter.grow(0);
        meter
    }

    /// Says that there is more to come than was known.
    pub fn grow(&self, bytes: u64) {
        let total = Some(self.total.fetch_add(bytes, Ordering::Relaxed) + bytes);
        let (image, stage, unit) = (self.image.to_owned(), self.stage, "bytes");
        self.reporter.event(Event::Started { image, stage, total, unit });
    }

    /// Takes back bytes that turned out to be wrong.
    pub fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Reports that `item` is done.
    pub fn item_done(&self, item: &str) {
        self.reported.store(self.done.load(Ordering::Relaxed), Ordering::Relaxed);
        self.report(item);
    }

    /// A reader that counts what is read of `item`; `counted` is raised as well, for
    /// [`Meter::take_back`].
    pub fn count<'b, R: Read>(&'b self, item: &'b str, counted: &'b mut u64, reader: R) -> Metered<'b, R> {
        Metered { meter: self, item, counted, reader }
    }

    fn add(&self, bytes: u64, item: &str) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let reported = self.reported.load(Ordering::Relaxed);
        let due = done >= reported.saturating_add(STEP);
        // Whoever loses the race leaves the report to the other thread.
        if due && self.reported.compare_exchange(reported, done, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.report(item);
        }
    }

    fn report(&self, item: &str) {
        self.reporter.event(Event::Progress {
            image: self.image.to_owned(),
            stage: self.stage,
            done: self.done.load(Ordering::Relaxed),
            item: item.to_owned(),
        });
    }
}

/// See [`Meter::count`].
pub struct Metered<'a, R> {
    meter: &'a Meter<'a>,
    item: &'a str,
    counted: &'a mut u64,
    reader: R,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        *self.counted += count as u64;
        self.meter.add(count as u64, self.item);
        Ok(count)
    }
}
