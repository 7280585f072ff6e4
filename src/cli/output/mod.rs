//! Standard output is data, standard error is talk: text with bars on a terminal, plain lines in a
//! log, or JSON.
//!
//! Nothing here panics when a reader has gone: a closed pipe ends the output, not the work.

mod progress;
mod style;
mod trace;

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;

use super::outcome::{Outcome, Text};
use crate::{
    Error, Result,
    artefacts::Accelerated,
    error::Kind,
    report::{Event, FORMAT, Reporter, Span},
};
use progress::{Bars, Lines};
use style::Style;
use trace::Trace;

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// What each stage did, too.
    Normal,
    /// Details, too.
    Verbose,
}

/// How to talk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// `--json`.
    pub(super) json: bool,
    /// `-q`, `-v`.
    pub(super) verbosity: Verbosity,
    /// Whether standard output belongs to the verb's own data, so that events go to standard error.
    pub(super) stdout_is_data: bool,
    /// `--explain-acceleration`: why programs of a foreign image ran in qemu.
    pub(super) explain_acceleration: bool,
}

/// Where events go.
enum Display {
    /// JSON lines.
    Json,
    /// A terminal.
    Bars(Bars),
    /// A log.
    Lines(Mutex<Lines>),
}

/// The program's voice; shared by all threads.
pub(super) struct Output {
    options: Options,
    display: Display,
    style: Style,
    /// Whether the reader of standard output has gone.
    stdout_closed: AtomicBool,
    /// `--trace`.
    trace: Option<Trace>,
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line<T> {
    format: u32,
    #[serde(flatten)]
    content: T,
}

impl Output {
    /// Chooses the display for what standard error is.
    pub(super) fn new(options: Options) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let terminal = io::stderr().is_terminal() && !dumb;
        let display = match options {
            Options { json: true, .. } => Display::Json,
            Options { verbosity: Verbosity::Quiet, .. } => Display::Lines(Mutex::default()),
            _ if terminal => Display::Bars(Bars::new()),
            _ => Display::Lines(Mutex::default()),
        };
        // https://no-color.org: set, and not empty.
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let style = Style::new(terminal && !no_color);
        let stdout_closed = AtomicBool::new(false);
        Output { options, display, style, stdout_closed, trace: None }
    }

    /// Gathers what takes how long, for [`Output::write_trace`].
    pub(super) fn with_trace(mut self, path: Option<&Path>) -> Self {
        self.trace = path.map(Trace::new);
        self
    }

    /// Writes the timeline that was asked for.
    pub(super) fn write_trace(&self) -> Result<()> {
        self.trace.as_ref().map_or(Ok(()), Trace::write)
    }

    /// Shows a result. Fails only where standard output cannot be written for another reason than
    /// a reader that has gone.
    pub(super) fn outcome(&self, outcome: &Outcome<'_>) -> Result<()> {
        match (&self.display, outcome.text()) {
            (Display::Json, _) => self.json(outcome),
            (_, Text::Data(text)) => self.data(format!("{}\n", printable(&text)).as_bytes()),
            (_, Text::Talk(text)) => {
                if self.options.verbosity > Verbosity::Quiet {
                    self.talk(&text);
                }
                Ok(())
            }
        }
    }

    /// Reports the error of an image, or of the whole verb where `image` is empty.
    pub(super) fn error(&self, image: &str, error: &Error) {
        if let Display::Json = self.display {
            // An output that cannot be written cannot tell that either; the exit status does.
            let _ = self.json(&Outcome::error(image, error));
            return;
        }
        if let Display::Bars(bars) = &self.display {
            bars.forget(image);
        }
        let about = if image.is_empty() { String::new() } else { format!("{image}: ") };
        let mut messages = error.messages().iter();
        let first = messages.next().map_or("", String::as_str);
        let mut text = format!("{} {about}{}", self.style.error("error:"), printable(first));
        for message in messages {
            text.push_str(&format!("\n  caused by: {}", indented(&printable(message))));
        }
        let report = concat!("a bug in treestrap ", env!("CARGO_PKG_VERSION"), ": please report it");
        let hint = error.get_hint().or((error.kind() == Kind::Bug).then_some(report));
        if let Some(hint) = hint {
            text.push_str(&format!("\n{} {}", self.style.hint("hint:"), printable(hint)));
        }
        self.write_talk(&text);
    }

    /// Writes `bytes` to standard output as they are.
    pub(super) fn data(&self, bytes: &[u8]) -> Result<()> {
        if self.stdout_closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let write = || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        };
        let result = match &self.display {
            Display::Bars(bars) => bars.suspend(write),
            _ => write(),
        };
        match result {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.stdout_closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(Error::machine(format!("cannot write standard output: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    /// Says `text` on standard error, whatever the verbosity; with `--json` as a note.
    pub(super) fn talk(&self, text: &str) {
        match self.display {
            Display::Json => {
                let _ = self.json(&Event::Note { about: String::new(), message: text.to_owned() });
            }
            _ => self.write_talk(&printable(text)),
        }
    }

    /// Ends all progress bars.
    pub(super) fn close(&self) {
        if let Display::Bars(bars) = &self.display {
            bars.clear();
        }
    }

    /// Writes `text` to standard error, above the bars.
    fn write_talk(&self, text: &str) {
        match &self.display {
            Display::Bars(bars) => bars.suspend(|| complain(text)),
            _ => complain(text),
        }
    }

    fn json(&self, content: &impl Serialize) -> Result<()> {
        let line = Line { format: FORMAT, content };
        let mut text = serde_json::to_string(&line).map_err(|error| Error::bug(format!("JSON: {error}")))?;
        text.push('\n');
        if self.options.stdout_is_data {
            let _ = io::stderr().lock().write_all(text.as_bytes());
            return Ok(());
        }
        self.data(text.as_bytes())
    }

    /// An event as a line of text; none for those that the verbosity leaves out.
    fn line(&self, event: &Event) -> Option<String> {
        let about = |about: &str| if about.is_empty() { String::new() } else { format!("{about}: ") };
        let normal = self.options.verbosity >= Verbosity::Normal;
        match event {
            Event::Warning { about: of, message } => {
                Some(format!("{} {}{}", self.style.warning("warning:"), about(of), printable(message)))
            }
            Event::Note { about: of, message } if normal => {
                Some(format!("{}{}", about(of), printable(message)))
            }
            Event::Finished { image, stage, seconds, summary } if normal => {
                let summary = printable(summary);
                let summary = if summary.is_empty() { "done".into() } else { summary };
                Some(format!("{image}: {}: {summary} ({seconds:.1} s)", stage.name()))
            }
            Event::Accelerated { image, accelerated }
                if self.options.explain_acceleration || self.options.verbosity == Verbosity::Verbose =>
            {
                Some(explanation(image, accelerated, 0.0))
            }
            // Those that were worth a twin.
            Event::Accelerated { image, accelerated }
                if normal && accelerated.programs.iter().any(|program| program.longest > LONG) =>
            {
                Some(explanation(image, accelerated, LONG))
            }
            Event::Enforced { image, summary, .. } if self.options.verbosity == Verbosity::Verbose => {
                Some(format!("{image}: {}", printable(summary)))
            }
            Event::Detail { about: of, message } if self.options.verbosity == Verbosity::Verbose => {
                Some(format!("{}{}", about(of), printable(message)))
            }
            _ => None,
        }
    }
}

impl Reporter for Output {
    fn span(&self, span: Span) {
        if let Some(trace) = &self.trace {
            trace.add(span);
        }
    }

    fn event(&self, event: Event) {
        let progress = match &self.display {
            Display::Json => {
                let wanted = match event {
                    Event::Detail { .. } => self.options.verbosity == Verbosity::Verbose,
                    Event::Accelerated { .. } if self.options.explain_acceleration => true,
                    Event::Warning { .. } => true,
                    _ => self.options.verbosity > Verbosity::Quiet,
                };
                if wanted {
                    let _ = self.json(&event);
                }
                return;
            }
            Display::Bars(bars) => {
                bars.event(&event);
                None
            }
            Display::Lines(lines) if self.options.verbosity > Verbosity::Quiet => {
                // A thread that panicked with the lock held left nothing half done in it.
                lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).event(&event)
            }
            Display::Lines(_) => None,
        };
        if let Some(line) = self.line(&event).or(progress) {
            self.write_talk(&line);
        }
    }
}

/// Writes a line to standard error; there is nowhere to report a failure of that.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Programs that ran longer than this in qemu, in seconds, are named in every summary.
const LONG: f64 = 0.1;

/// What ran where, and why not natively: a line for each program that ran longer than `least` seconds.
fn explanation(image: &str, accelerated: &Accelerated, least: f64) -> String {
    let (native, emulated) = (accelerated.native, accelerated.emulated);
    let mut text = format!("{image}: {native} programs run natively, {emulated} in qemu");
    for program in accelerated.programs.iter().filter(|program| program.longest >= least) {
        let package = program.package.as_deref().unwrap_or("no package");
        let (count, path, reason) = (program.starts, printable(&program.path), printable(&program.reason));
        let seconds = program.seconds;
        text.push_str(&format!("\n  {count} x {path} ({package}), {seconds:.2} s: {reason}"));
    }
    text
}

/// `text` with its control characters escaped, but for new lines and tabs: what packages, scripts
/// and archives say must not drive the terminal.
fn printable(text: &str) -> String {
    let control = |c: char| c.is_control() && c != '\n' && c != '\t';
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if control(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The lines after the first, indented below it.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Stage;

    fn output(verbosity: Verbosity) -> Output {
        Output {
            options: Options { json: false, verbosity, stdout_is_data: false, explain_acceleration: false },
            display: Display::Lines(Mutex::default()),
            style: Style::new(false),
            stdout_closed: AtomicBool::new(false),
            trace: None,
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\r\nc\td\u{9b}é"), "a\\u{1b}[31mb\\r\nc\td\\u{9b}é");
    }

    #[test]
    fn verbosity_decides_what_is_told() {
        let about = || "board".to_owned();
        let events = [
            Event::Warning { about: about(), message: "old key".into() },
            Event::Note { about: about(), message: "view checkout".into() },
            Event::Finished { image: about(), stage: Stage::Lock, seconds: 0.26, summary: String::new() },
            Event::Detail { about: String::new(), message: "cached".into() },
            Event::Started { image: about(), stage: Stage::Fetch, total: None, unit: "bytes" },
        ];
        let told = |verbosity| -> Vec<String> {
            events.iter().filter_map(|event| output(verbosity).line(event)).collect()
        };
        let lines =
            ["warning: board: old key", "board: view checkout", "board: lock: done (0.3 s)", "cached"];
        assert_eq!(told(Verbosity::Quiet), &lines[..1]);
        assert_eq!(told(Verbosity::Normal), &lines[..3]);
        assert_eq!(told(Verbosity::Verbose), &lines[..]);
    }

    #[test]
    fn json_lines_carry_the_format() {
        let event = Event::Progress { image: "b".into(), stage: Stage::Fetch, done: 3, item: "bash".into() };
        let line = serde_json::to_string(&Line { format: FORMAT, content: &event }).expect("JSON");
        assert_eq!(
            line,
            r#"{"format":1,"event":"progress","image":"b","stage":"fetch","done":3,"item":"bash"}"#
        );
    }
}
