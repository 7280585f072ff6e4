//! What this machine can do, what is missing, and the command that mends it.
//!
//! Checks look and try in temporary files; they change nothing. Each gives findings of its own and
//! depends on no other. What a run enforced is not their business: every run reports that itself.

mod archives;
mod emulators;
mod folders;
mod sandboxes;

use std::path::PathBuf;

use serde::Serialize;

use crate::manifest::Manifest;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is as it should be.
    Ok,
    /// Images can be made, but slower, or not all of them.
    Degraded,
    /// No image can be made.
    Missing,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a few words; stable, for programs.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// What was found, and why it matters.
    pub message: String,
    /// The command, or the edit, that mends it.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Finding { check, state: State::Ok, message: message.into(), remedy: None }
    }

    fn degraded(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { check, state: State::Degraded, message: message.into(), remedy: Some(remedy.into()) }
    }

    fn missing(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { check, state: State::Missing, message: message.into(), remedy: Some(remedy.into()) }
    }
}

/// What is to be examined.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The repository, which need not exist yet.
    pub repo: PathBuf,
    /// The folder of indexes, which need not exist yet.
    pub cache: PathBuf,
    /// The folder of logs, which need not exist yet.
    pub state: PathBuf,
    /// The manifest, where there is one: then only what it needs is asked for.
    pub manifest: Option<Manifest>,
}

/// All findings.
pub fn examine(subject: &Subject) -> Vec<Finding> {
    let mut findings = folders::repository(&subject.repo);
    findings.extend(folders::writable("cache", &subject.cache, "XDG_CACHE_HOME"));
    findings.extend(folders::writable("logs", &subject.state, "XDG_STATE_HOME"));
    findings.extend(sandboxes::examine(&subject.repo));
    findings.extend(emulators::examine(subject.manifest.as_ref(), &subject.cache));
    findings.extend(archives::examine(subject.manifest.as_ref(), &archives::Host::read()));
    findings
}
