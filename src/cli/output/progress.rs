//! How far each stage of each image is: bars on a terminal, a line now and then in a log.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::printable;
use crate::report::{Event, Stage};

/// How often a stage may add a line to a log.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// How often bars are redrawn, in hertz.
const REDRAWS: u8 = 10;

type Work = (String, Stage);

/// A bar for each stage that runs.
pub(super) struct Bars {
    screen: MultiProgress,
    bars: Mutex<HashMap<Work, ProgressBar>>,
}

impl Bars {
    pub(super) fn new() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(REDRAWS);
        Bars { screen: MultiProgress::with_draw_target(target), bars: Mutex::default() }
    }

    /// Calls `write` while no bar is on the screen.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.screen.suspend(write)
    }

    pub(super) fn event(&self, event: &Event) {
        match event {
            Event::Started { image, stage, total, unit } => {
                // A stage that says it again has found more to do.
                let bars = self.bars.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if let (Some(bar), Some(total)) = (bars.get(&(image.clone(), *stage)), total) {
                    bar.set_length(*total);
                    bar.set_style(bar_style(Some(*total), unit));
                    return;
                }
                drop(bars);
                let bar = self.screen.add(ProgressBar::new(total.unwrap_or(0)));
                bar.set_style(bar_style(*total, unit));
                bar.set_prefix(format!("{image} {}", stage.name()));
                bar.enable_steady_tick(Duration::from_millis(200));
                self.replace((image.clone(), *stage), Some(bar));
            }
            Event::Progress { image, stage, done, item } => {
                let bars = self.bars.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if let Some(bar) = bars.get(&(image.clone(), *stage)) {
                    bar.set_position(*done);
                    bar.set_message(printable(item));
                }
            }
            Event::Finished { image, stage, .. } => self.replace((image.clone(), *stage), None),
            Event::Accelerated { .. }
            | Event::Enforced { .. }
            | Event::Warning { .. }
            | Event::Note { .. }
            | Event::Detail { .. } => {}
        }
    }

    fn replace(&self, work: Work, bar: Option<ProgressBar>) {
        let mut bars = self.bars.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let old = match bar {
            Some(bar) => bars.insert(work, bar),
            None => bars.remove(&work),
        };
        if let Some(old) = old {
            old.finish_and_clear();
        }
    }

    /// Removes the bars of one image, which failed.
    pub(super) fn forget(&self, image: &str) {
        self.remove(|(of, _)| of == image);
    }

    /// Removes all bars.
    pub(super) fn clear(&self) {
        self.remove(|_| true);
    }

    fn remove(&self, which: impl Fn(&Work) -> bool) {
        let mut bars = self.bars.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        bars.retain(|work, bar| {
            let gone = which(work);
            if gone {
                bar.finish_and_clear();
            }
            !gone
        });
    }
}

fn bar_style(total: Option<u64>, unit: &str) -> ProgressStyle {
    let template = match (total, unit) {
        (None | Some(0), _) => "{prefix} {spinner} {elapsed} {wide_msg}",
        (Some(_), "bytes") => "{prefix} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {wide_msg}",
        (Some(_), _) => "{prefix} [{bar:24}] {pos}/{len} {wide_msg}",
    };
    let style = ProgressStyle::with_template(template).expect("the templates above are well formed");
    style.progress_chars("=> ")
}

/// What a log was told of each stage that runs.
#[derive(Default)]
pub(super) struct Lines {
    running: HashMap<Work, Told>,
}

struct Told {
    total: Option<u64>,
    unit: &'static str,
    last: Instant,
}

impl Lines {
    /// The line that the event is worth, if any.
    pub(super) fn event(&mut self, event: &Event) -> Option<String> {
        self.event_at(event, Instant::now())
    }

    fn event_at(&mut self, event: &Event, now: Instant) -> Option<String> {
        match event {
            Event::Started { image, stage, total, unit } => {
                // A stage that says it again has found more to do.
                let told = self.running.entry((image.clone(), *stage));
                let told = told.or_insert(Told { total: None, unit, last: now });
                (told.total, told.unit) = (*total, unit);
                None
            }
            Event::Progress { image, stage, done, item } => {
                let told = self.running.get_mut(&(image.clone(), *stage))?;
                if now.duration_since(told.last) < BETWEEN_LINES {
                    return None;
                }
                told.last = now;
                let amount = |count: u64| match told.unit {
                    "bytes" => HumanBytes(count).to_string(),
                    _ => count.to_string(),
                };
                let unit = if told.unit == "bytes" { "" } else { told.unit };
                let of = told.total.map(|total| format!(" of {}", amount(total))).unwrap_or_default();
                let line = format!("{image}: {}: {}{of} {unit}", stage.name(), amount(*done));
                let item = if item.is_empty() { String::new() } else { format!(" ({})", printable(item)) };
                Some(format!("{}{item}", line.trim_end()))
            }
            Event::Finished { image, stage, .. } => {
                self.running.remove(&(image.clone(), *stage));
                None
            }
            Event::Accelerated { .. }
            | Event::Enforced { .. }
            | Event::Warning { .. }
            | Event::Note { .. }
            | Event::Detail { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gets_a_line_now_and_then() {
        let start = Instant::now();
        let mut lines = Lines::default();
        let mut at =
            |seconds: u64, event: Event| lines.event_at(&event, start + Duration::from_secs(seconds));
        let image = || "board".to_owned();
        let progress =
            |stage, done, item: &str| Event::Progress { image: image(), stage, done, item: item.into() };

        let total = Some(3 * 1024 * 1024);
        assert_eq!(at(0, Event::Started { image: image(), stage: Stage::Fetch, total, unit: "bytes" }), None);
        assert_eq!(at(9, progress(Stage::Fetch, 1024, "bash")), None);
        let line = "board: fetch: 1.00 MiB of 3.00 MiB (dash)";
        assert_eq!(at(10, progress(Stage::Fetch, 1024 * 1024, "dash")).as_deref(), Some(line));
        assert_eq!(at(19, progress(Stage::Fetch, 1024 * 1024, "dash")), None);

        let started =
            Event::Started { image: image(), stage: Stage::Configure, total: Some(9), unit: "packages" };
        assert_eq!(at(20, started), None);
        let line = "board: configure: 4 of 9 packages";
        assert_eq!(at(30, progress(Stage::Configure, 4, "")).as_deref(), Some(line));
        let summary = String::new();
        at(31, Event::Finished { image: image(), stage: Stage::Configure, seconds: 11.0, summary });
        assert_eq!(at(50, progress(Stage::Configure, 5, "")), None, "a stage that is over");
    }

    #[test]
    fn every_bar_has_a_style() {
        for (total, unit) in
            [(None, "bytes"), (Some(0), "packages"), (Some(7), "bytes"), (Some(7), "packages")]
        {
            bar_style(total, unit);
        }
    }

    #[test]
    fn bars_come_and_go() {
        let bars = Bars::new();
        let started = |image: &str| Event::Started {
            image: image.into(),
            stage: Stage::Lock,
            total: None,
            unit: "packages",
        };
        let count = |bars: &Bars| bars.bars.lock().expect("no poison").len();
        for image in ["a", "b", "c"] {
            bars.event(&started(image));
        }
        let summary = String::new();
        bars.event(&Event::Finished { image: "a".into(), stage: Stage::Lock, seconds: 1.0, summary });
        assert_eq!(count(&bars), 2);
        bars.forget("b");
        assert_eq!(count(&bars), 1);
        bars.clear();
        assert_eq!(count(&bars), 0);
    }
}
