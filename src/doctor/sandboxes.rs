//! What the sandbox crate finds out about this machine.

use std::path::Path;

use sandbox::Severity;

use super::{Finding, State, folders};

/// Whether scripts can run, for a repository here.
pub(super) fn examine(repo: &Path) -> Vec<Finding> {
    // Tried where the sandbox's folders will be: the file system there has to take them.
    let existing = folders::existing(repo);
    let findings = match tempfile::Builder::new().prefix(".treestrap-doctor-").tempdir_in(existing) {
        Ok(folder) => sandbox::diagnose(folder.path()),
        // That the folder cannot be written to is another check's finding.
        Err(_) => Vec::new(),
    };
    findings
        .into_iter()
        .map(|finding| Finding {
            check: "sandbox",
            state: match finding.severity {
                Severity::Fine => State::Ok,
                Severity::Degraded => State::Degraded,
                Severity::Fatal => State::Missing,
            },
            message: format!("{}: {}", finding.subject, finding.message),
            remedy: finding.remedy,
        })
        .collect()
}
