//! What the dispatcher has noted: how many programs ran as twins, which ones in qemu, why, and how
//! long.

use std::{collections::BTreeMap, time::Duration};

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
    /// When each of these was: the time of CLOCK_MONOTONIC, and the program's path.
    pub emulated_at: Vec<(Duration, String)>,
    /// How long qemu ran each of them, as far as they have ended.
    pub spent: BTreeMap<Start, Spent>,
    /// Programs that qemu ran and that a signal ended, in the order of their ends. Before Linux 6.15
    /// the kernel does not tell.
    pub killed: Vec<Killed>,
    /// Programs that qemu runs still, or whose end nobody could note, in the order of their starts.
    pub running: Vec<Running>,
    /// How many bytes at the log's end are no record: somebody else has written to it.
    pub unread: usize,
}

/// How long qemu ran a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Starts whose end is known.
    pub ended: u64,
    /// The time of all of these, on the clock, from the start to the end or to the next execve(2). The
    /// time that a program waited for others is in it.
    pub total: Duration,
    /// The time of the longest.
    pub longest: Duration,
}

/// A program that qemu ran and that a signal ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Killed {
    /// The program.
    pub start: Start,
    /// Its process, in the sandbox's pid namespace.
    pub pid: u32,
    /// The signal (signal(7); the host's numbers).
    pub signal: u32,
    /// How long it had run.
    pub after: Duration,
}

/// A program that qemu runs still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The program.
    pub start: Start,
    /// Its process, in the sandbox's pid namespace.
    pub pid: u32,
    /// When it was started: the time of CLOCK_MONOTONIC.
    pub since: Duration,
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
        // What qemu is running in each process.
        let mut running: BTreeMap<u32, Running> = BTreeMap::new();
        let mut rest = log;
        while let Some(record) = Record::read(&mut rest) {
            let now = Duration::from_nanos(record.time);
            // Whatever the record says, the process is not running any more what it was.
            if let Some(before) = running.remove(&record.pid) {
                let signal = record.detail & 0x7f; // WTERMSIG
                let killed = record.kind == Kind::Ended && record.detail != u32::MAX && signal != 0;
                result.end(before, now, killed.then_some(signal));
            }
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
            result.emulated_at.push((now, path.clone()));
            let start = Start { path, program, why };
            *result.emulated.entry(start.clone()).or_default() += 1;
            running.insert(record.pid, Running { start, pid: record.pid, since: now });
        }
        result.running = running.into_values().collect();
        result.running.sort_by_key(|running| running.since);
        result.unread = rest.len();
        result
    }

    fn end(&mut self, program: Running, now: Duration, signal: Option<u32>) {
        let Running { start, pid, since } = program;
        let after = now.saturating_sub(since);
        let spent = self.spent.entry(start.clone()).or_default();
        spent.ended += 1;
        spent.total = spent.total.saturating_add(after);
        spent.longest = spent.longest.max(after);
        self.killed.extend(signal.map(|signal| Killed { start, pid, signal, after }));
    }

    /// The programs of which one start took longer than this in qemu, those with the most time first.
    pub fn longer_than(&self, limit: Duration) -> Vec<(&Start, Spent)> {
        let long = self.spent.iter().filter(|(_, spent)| spent.longest > limit);
        let mut long: Vec<_> = long.map(|(start, spent)| (start, *spent)).collect();
        long.sort_by_key(|(_, spent)| std::cmp::Reverse(spent.total));
        long
    }

    /// How long qemu ran programs, as far as they have ended.
    pub fn spent(&self) -> Duration {
        self.spent.values().map(|spent| spent.total).fold(Duration::ZERO, Duration::saturating_add)
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
        (self.package(plan).map(str::to_owned), reason)
    }

    /// The package that has shipped the program, if one of the plan's has.
    pub fn package<'a>(&self, plan: &'a Plan) -> Option<&'a str> {
        let emulated = plan.emulated.iter().map(|other| &other.program);
        let mut programs = emulated.chain(&plan.programs);
        programs.find(|other| other.fingerprint == self.program).map(|program| program.package.as_str())
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
        let mut note = |kind, detail, pid, time, key, path: &str| {
            let record = Record { kind, detail, pid, key, size: 9, time, path: path.as_bytes() };
            log.extend_from_slice(record.write(&mut [0; LONGEST]));
        };
        note(Kind::Twin, 0, 1, 1, 1, "/bin/sh");
        note(Kind::Twin, 0, 2, 2, 1, "/bin/sh");
        note(Kind::Twin, 0, 3, 3, 2, "/usr/bin/lost");
        note(Kind::Fallback, 2, 3, 4, 2, "/usr/bin/lost");
        note(Kind::Emulated, 0, 4, 5, 3, "/usr/bin/ss");
        note(Kind::Ended, u32::MAX, 4, 15, 3, "/usr/bin/ss");
        note(Kind::Emulated, 0, 5, 20, 3, "/usr/bin/ss");
        note(Kind::Ended, 3 << 8, 5, 50, 3, "/usr/bin/ss");
        // It starts another program in its place, then a twin, whose end is nobody's affair.
        note(Kind::Emulated, 0, 6, 60, 4, "./made-here");
        note(Kind::Emulated, 0, 6, 64, 3, "/usr/bin/ss");
        note(Kind::Twin, 0, 6, 65, 1, "/bin/sh");
        note(Kind::Ended, 11, 6, 90, 4, "./made-here");
        note(Kind::Ended, 11, 6, 90, 3, "/usr/bin/ss");
        // A core was dumped (bit 7).
        note(Kind::Emulated, 0, 7, 100, 5, "/usr/bin/weak");
        note(Kind::Ended, 0x8b, 7, 107, 5, "/usr/bin/weak");
        log.extend_from_slice(b"forged");
        let starts = Starts::read(&log);
        assert_eq!((starts.twins, starts.emulated(), starts.unread), (3, 6, 6));
        let nanoseconds = Duration::from_nanos;
        let long: Vec<_> = starts
            .longer_than(nanoseconds(5))
            .into_iter()
            .map(|(start, spent)| (start.path.as_str(), spent.ended, spent.total, spent.longest))
            .collect();
        let expected = [
            ("/usr/bin/ss", 3, nanoseconds(41), nanoseconds(30)),
            ("/usr/bin/weak", 1, nanoseconds(7), nanoseconds(7)),
        ];
        assert_eq!(long, expected);
        assert_eq!(starts.spent(), nanoseconds(52));
        let killed: Vec<_> =
            starts.killed.iter().map(|it| (it.start.path.as_str(), it.pid, it.signal, it.after)).collect();
        assert_eq!(killed, [("/usr/bin/weak", 7, 11, nanoseconds(7))]);
        let running: Vec<_> = starts.running.iter().map(|it| (it.start.path.as_str(), it.pid)).collect();
        assert_eq!(running, [("/usr/bin/lost", 3)]);

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
                "3 /usr/bin/ss iproute2: its package is not in the table of those that scripts start",
                "1 /usr/bin/weak : no package of the image has shipped this file",
            ]
        );
    }
}
