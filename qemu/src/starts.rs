//! What the dispatcher has noted: how many programs ran as twins, which ones in qemu, and why.

use std::collections::BTreeMap;

use treestrap_dispatcher::{
    record::{Kind, Record},
    table::Fingerprint,
};

use crate::twins::Plan;

/// A log, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starts {
    /// Starts of twins that did start.
    pub twins: u64,
    /// Starts in qemu, and how many of each.
    pub emulated: BTreeMap<Start, u64>,
    /// How many bytes at the log's end are no record: somebody else has written to it.
    pub unread: usize,
}

/// A program that qemu ran.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Start {
    /// The path as it was started by.
    pub path: String,
    /// How the program was recognised; zeros where its file could not be read.
    pub program: Fingerprint,
    /// Why it was not a twin.
    pub why: Why,
}

/// Why a start was not a twin's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The table has none for this file.
    NoTwin,
    /// It has credentials that only qemu can keep: set-id other than to root, file capabilities.
    Privileged,
    /// The twin could not be started, with this errno. It is a fault: of the plan, of the mounts,
    /// or of a script that chroots.
    Failed(u32),
}

impl Starts {
    /// Adds up a log.
    pub fn read(log: &[u8]) -> Self {
        let mut result = Starts::default();
        let mut rest = log;
        while let Some(record) = Record::read(&mut rest) {
            let why = match record.kind {
                Kind::Twin => {
                    result.twins += 1;
                    continue;
                }
                Kind::Ended => continue,
                Kind::Emulated => Why::NoTwin,
                Kind::Privileged => Why::Privileged,
                Kind::Fallback => {
                    // Its twin was noted just before.
                    result.twins = result.twins.saturating_sub(1);
                    Why::Failed(record.detail)
                }
            };
            let program = Fingerprint { key: record.key, size: record.size };
            let path = String::from_utf8_lossy(record.path).into_owned();
            *result.emulated.entry(Start { path, program, why }).or_default() += 1;
        }
        result.unread = rest.len();
        result
    }

    /// How many programs qemu ran.
    pub fn emulated(&self) -> u64 {
        self.emulated.values().sum()
    }
}

impl Start {
    /// Whose program it is, and why it ran in qemu, in words. `plan` is the one that the table was
    /// made of.
    pub fn explain(&self, plan: &Plan) -> (Option<String>, String) {
        let known = plan.emulated.iter().find(|other| other.program.fingerprint == self.program);
        let package = known.map(|other| &other.program);
        let package =
            package.or_else(|| plan.programs.iter().find(|other| other.fingerprint == self.program));
        let reason = match (self.why, known) {
            (Why::NoTwin, Some(other)) => other.reason.to_string(),
            (Why::NoTwin, None) => "no package of the image has shipped this file".to_owned(),
            (Why::Privileged, _) => {
                "it has set-id credentials or file capabilities that only qemu can keep".to_owned()
            }
            (Why::Failed(errno), _) => {
                format!("its twin did not start: {}", std::io::Error::from_raw_os_error(errno.cast_signed()))
            }
        };
        (package.map(|program| program.package.clone()), reason)
    }
}

#[cfg(test)]
mod tests {
    use treestrap_dispatcher::record::LONGEST;

    use super::*;
    use crate::twins::{Emulated, Program, Reason};

    #[test]
    fn a_log_is_added_up_and_explained() {
        let mut log = Vec::new();
        let mut note = |kind, detail, key, path: &str| {
            let record = Record { kind, detail, pid: 1, key, size: 9, time: 0, path: path.as_bytes() };
            log.extend_from_slice(record.write(&mut [0; LONGEST]));
        };
        note(Kind::Twin, 0, 1, "/bin/sh");
        note(Kind::Twin, 0, 1, "/bin/sh");
        note(Kind::Twin, 0, 2, "/usr/bin/lost");
        note(Kind::Fallback, 2, 2, "/usr/bin/lost");
        note(Kind::Emulated, 0, 3, "/usr/bin/ss");
        note(Kind::Emulated, 0, 3, "/usr/bin/ss");
        note(Kind::Emulated, 0, 4, "./made-here");
        note(Kind::Ended, 0, 4, "./made-here");
        log.extend_from_slice(b"forged");
        let starts = Starts::read(&log);
        assert_eq!((starts.twins, starts.emulated(), starts.unread), (2, 4, 6));

        let program = |key, package: &str, path: &str| Program {
            fingerprint: Fingerprint { key, size: 9 },
            package: package.into(),
            path: path.into(),
        };
        let plan = Plan {
            programs: vec![program(2, "loser", "usr/bin/lost")],
            emulated: vec![Emulated {
                program: program(3, "iproute2", "usr/bin/ss"),
                reason: Reason::NotInTable,
            }],
            ..Plan::default()
        };
        let line = |(start, count): (&Start, &u64)| {
            let (package, reason) = start.explain(&plan);
            format!("{count} {} {}: {reason}", start.path, package.unwrap_or_default())
        };
        let lines: Vec<_> = starts.emulated.iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "1 ./made-here : no package of the image has shipped this file",
                "1 /usr/bin/lost loser: its twin did not start: No such file or directory (os error 2)",
                "2 /usr/bin/ss iproute2: its package is not in the table of those that scripts start",
            ]
        );
    }
}
