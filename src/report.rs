//! What the library tells whoever watches: events, never text on a terminal.
//!
//! `cli/output.rs` shows them as progress bars, plain lines or JSON. The JSON form is versioned:
//! see [`FORMAT`].

use serde::Serialize;

use crate::artefacts::Accelerated;

/// The version of the JSON events; raised when a field changes its meaning or goes away.
pub const FORMAT: u32 = 1;

/// A stage of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Choosing versions, writing the lock.
    Lock,
    /// Downloading and ingesting debs.
    Fetch,
    /// Merging the unpacked tree.
    Compose,
    /// Running maintainer scripts.
    Configure,
    /// Writing the configured commit.
    Commit,
    /// Writing files for the outside world.
    Export,
}

impl Stage {
    /// The stage's name, as in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Lock => "lock",
            Stage::Fetch => "fetch",
            Stage::Compose => "compose",
            Stage::Configure => "configure",
            Stage::Commit => "commit",
            Stage::Export => "export",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A stage begins; `total` counts `unit`s where that is known beforehand.
    Started {
        /// Which image.
        image: String,
        /// Which stage.
        stage: Stage,
        /// How much work there is, in `unit`.
        total: Option<u64>,
        /// What is counted: "bytes", "packages".
        unit: &'static str,
    },
    /// A stage came further.
    Progress {
        /// Which image.
        image: String,
        /// Which stage.
        stage: Stage,
        /// How much is done, of `Started::total`.
        done: u64,
        /// What is being worked at: a package, a file.
        item: String,
    },
    /// A stage is done.
    Finished {
        /// Which image.
        image: String,
        /// Which stage.
        stage: Stage,
        /// Wall time in seconds.
        seconds: f64,
        /// One line: what came out.
        summary: String,
    },
    /// How the programs of a foreign image ran in stage 2.
    Accelerated {
        /// Which image.
        image: String,
        /// What ran natively, what in qemu and why.
        #[serde(flatten)]
        accelerated: Accelerated,
    },
    /// Something that the user should know and may ignore.
    Warning {
        /// The image or file it is about; may be empty.
        about: String,
        /// One sentence.
        message: String,
    },
    /// Something that was given instead of what was asked, or found out about the machine
    /// (invariant 5: nothing degrades in silence).
    Note {
        /// The image it is about; may be empty.
        about: String,
        /// One sentence.
        message: String,
    },
    /// What was asked of the sandbox and what it has; always in `--json`, with `-v` in text.
    Enforced {
        /// Which image.
        image: String,
        /// The value that is kept beside the commit (`treestrap.enforced`).
        enforced: serde_json::Value,
        /// The same in one line.
        summary: String,
    },
    /// Detail for `-v`.
    Detail {
        /// The image it is about; may be empty.
        about: String,
        /// One line.
        message: String,
    },
}

/// Something that took time.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Which image; may be empty.
    pub image: String,
    /// What it is.
    pub kind: SpanKind,
    /// Its name: of a stage, a package, a program.
    pub name: String,
    /// What else there is to say; may be empty.
    pub about: String,
    /// When it began, by [`clock`].
    pub begun: f64,
    /// When it ended.
    pub ended: f64,
}

/// What a [`Span`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpanKind {
    /// A stage of the pipeline.
    Stage,
    /// A part of a stage: getting an index, reading it, choosing versions.
    Step,
    /// The download and unpacking of one deb.
    Download,
    /// A package while stage 2 works at it.
    Package,
    /// A program that a package's script started.
    Program,
    /// An image that waits for another one, or for what it needs.
    Wait,
}

/// Seconds of CLOCK_MONOTONIC (clock_gettime(2)), which is the same for all processes of a machine.
pub fn clock() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Receives events; called from several threads.
pub trait Reporter: Send + Sync {
    /// Takes one event. It must not block for long.
    fn event(&self, event: Event);

    /// Takes something that took time, when it is over.
    fn span(&self, _span: Span) {}
}

impl dyn Reporter + '_ {
    /// Reports a warning.
    pub fn warn(&self, about: &str, message: impl Into<String>) {
        self.event(Event::Warning { about: about.to_owned(), message: message.into() });
    }

    /// Reports what was given instead of what was asked, or found out.
    pub fn note(&self, about: &str, message: impl Into<String>) {
        self.event(Event::Note { about: about.to_owned(), message: message.into() });
    }

    /// Does a part of a stage, and tells how long it took.
    pub fn step<T>(&self, image: &str, name: &str, about: &str, work: impl FnOnce() -> T) -> T {
        let begun = clock();
        let result = work();
        let (image, name, about) = (image.to_owned(), name.to_owned(), about.to_owned());
        self.span(Span { image, kind: SpanKind::Step, name, about, begun, ended: clock() });
        result
    }

    /// Reports detail for `-v`.
    pub fn detail(&self, about: &str, message: impl Into<String>) {
        self.event(Event::Detail { about: about.to_owned(), message: message.into() });
    }
}

/// A reporter for tests and for callers that do not care.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn event(&self, _: Event) {}
}
