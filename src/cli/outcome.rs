//! What verbs give back: one value, shown as text or as a line of JSON.

use serde::Serialize;

use crate::{
    Error,
    digest::Sha256,
    doctor::{Finding, State},
    error::Kind,
    pipeline::Imported,
};

/// A result of a verb. With [`Event`](crate::report::Event), the whole of `--json`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Outcome<'a> {
    /// `lock` resolved an image.
    Locked { image: &'a str, path: String, packages: usize, written: bool },
    /// `compose` made the unpacked tree.
    Composed { image: &'a str, commit: Sha256 },
    /// `configure` or `build` finished an image.
    Committed { image: &'a str, commit: Sha256 },
    /// `configure --rootfs` finished a folder.
    Configured { folder: String, packages: usize },
    /// `verify` made the same image again.
    Verified { image: &'a str, commit: Sha256 },
    /// A path of an image that `verify` found to come out otherwise.
    Disparity { image: &'a str, sign: char, path: &'a str, writers: &'a [String] },
    /// `lock --why`: a step a line.
    Why { image: &'a str, package: &'a str, chain: Vec<String> },
    /// One line of `diff`.
    Difference { text: String },
    /// `prune` removes a ref.
    Removed { reference: &'a str, dry_run: bool },
    /// What `prune` removed in all.
    Pruned { references: usize, objects: u64, bytes: u64, dry_run: bool },
    /// `export` wrote an image.
    Exported { image: &'a str, path: String },
    /// `import` took packages.
    Imported(Imported),
    /// `multistrap --simulate`: what a configuration comes to.
    Simulated { text: String },
    /// `init`, `man`, `ninja` wrote a file.
    Written { path: String },
    /// `doctor` looked at something.
    Finding(&'a Finding),
    /// A verb, or one image of it, failed.
    Error { image: &'a str, kind: &'static str, status: u8, messages: &'a [String], hint: Option<&'a str> },
}

/// An outcome as text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// For standard output.
    Data(String),
    /// For standard error.
    Talk(String),
}

impl<'a> Outcome<'a> {
    /// An error as an outcome.
    pub(super) fn error(image: &'a str, error: &'a Error) -> Self {
        let kind = match error.kind() {
            Kind::Input => "input",
            Kind::Machine => "machine",
            Kind::Bug => "bug",
            Kind::Interrupted => "interrupted",
        };
        let status = super::exit_status(error.kind());
        Outcome::Error { image, kind, status, messages: error.messages(), hint: error.get_hint() }
    }

    /// What people and scripts read without `--json`.
    pub(super) fn text(&self) -> Text {
        match self {
            Outcome::Composed { image, commit }
            | Outcome::Committed { image, commit }
            | Outcome::Verified { image, commit } => Text::Data(format!("{image} {commit}")),
            Outcome::Disparity { sign, path, writers, .. } => {
                // The last ones are most likely to have made what is there; --json has all.
                const MOST: usize = 3;
                let (earlier, last) = writers.split_at(writers.len().saturating_sub(MOST));
                let mut lines = vec![format!("{sign} /{path}")];
                if !earlier.is_empty() {
                    lines.push(format!("    written {} times before, and then", earlier.len()));
                }
                lines.extend(last.iter().map(|writer| format!("    written by {writer}")));
                Text::Data(lines.join("\n"))
            }
            Outcome::Why { chain, .. } => Text::Data(chain.join("\n")),
            Outcome::Removed { reference, .. } => Text::Data(format!("- {reference}")),
            Outcome::Pruned { references, objects, bytes, dry_run } => {
                let what = if *dry_run { "would be removed" } else { "removed" };
                let megabytes = *bytes as f64 / 1e6;
                Text::Talk(format!("{references} refs and {objects} objects {what}, {megabytes:.1} MB"))
            }
            Outcome::Difference { text } | Outcome::Simulated { text } => Text::Data(text.clone()),
            Outcome::Locked { image, path, packages, written } => {
                let what = if *written { "written" } else { "unchanged" };
                Text::Talk(format!("{image}: {packages} packages; {path} {what}"))
            }
            Outcome::Finding(finding) => Text::Data(finding_text(finding)),
            Outcome::Configured { folder, packages } => {
                Text::Talk(format!("{folder}: {packages} packages configured"))
            }
            Outcome::Exported { image, path } => Text::Talk(format!("{image}: written to {path}")),
            Outcome::Imported(imported) => Text::Talk(imported_text(imported)),
            Outcome::Written { path } => Text::Talk(format!("{path} written")),
            Outcome::Error { messages, hint, .. } => {
                let mut lines = vec![messages.join(": ")];
                lines.extend(hint.map(|hint| format!("hint: {hint}")));
                Text::Talk(lines.join("\n"))
            }
        }
    }
}

/// What was taken, and what was not, in one line.
fn imported_text(imported: &Imported) -> String {
    let mut text = format!("{} packages taken", imported.taken);
    for (count, what) in [
        (imported.present, "were there already"),
        (imported.unclear, "are left to be fetched"),
        (imported.refused, "damaged or foreign"),
        (imported.images, "refs of images taken"),
    ] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

/// A finding, with the remedy on a line of its own, to be copied.
fn finding_text(finding: &Finding) -> String {
    let state = match finding.state {
        State::Ok => "ok      ",
        State::Degraded => "degraded",
        State::Missing => "MISSING ",
    };
    let remedy = finding.remedy.as_ref().map(|remedy| format!("\n          {remedy}")).unwrap_or_default();
    format!("{state}  {}: {}{remedy}", finding.check, finding.message)
}
