//! Whether a signal that ended an emulated program was the program's own fault or the emulator's.
//!
//! qemu runs a program inside itself, so both end as one process. What is left are the signal
//! ([`Starts::killed`]) and the lines that qemu writes to standard error (linux-user/signal.c,
//! linux-user/elfload.c and tcg/ in qemu's source, 5.2 to 11.1):
//!
//! | line | since | whose fault |
//! |---|---|---|
//! | `QEMU internal SIGSEGV {code=…}` | 8.2 | qemu's |
//! | `ERROR:…/tcg/…: assertion failed`, `Assertion … failed`, `tcg fatal error`, `qemu: fatal:` | ever | qemu's |
//! | `Unable to find a guest_base …`, `Allocating guest commpage: …` | ever | qemu's: it found no room |
//! | `qemu: uncaught target signal 6 (Aborted)` | ever | the program's: qemu's own abort(3) writes no such line |
//! | `qemu: uncaught target signal …`, another one | ever | either's |
//! | none | | either's |
//!
//! The last two cannot be told apart. Up to 8.1 qemu takes a fault in its own code for one of the
//! program. Later ones do not, but an instruction that is emulated wrongly, or not at all, ends the
//! program just as a fault of its own does. A signal sent by kill(2) looks like the program's own.
//! For some architectures (riscv64, sparc64, hppa) qemu writes no line in any case, and scripts send
//! standard error to /dev/null.

use std::time::Duration;

use crate::{
    starts::{Start, Starts},
    twins::Plan,
};

/// Whose fault a crash was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// qemu says so itself.
    Emulator,
    /// It cannot be told. Programs of a release have run on real machines, so qemu is more likely.
    Unclear,
    /// The program has ended itself, by abort(3).
    Program,
}

/// An emulated program, or qemu itself, that a signal has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Whose fault it was.
    pub fault: Fault,
    /// The signal, with the host's number; none where qemu gave up by itself, or where the kernel
    /// does not tell (before Linux 6.15) and neither does qemu.
    pub signal: Option<u32>,
    /// The program; none where the kernel does not tell.
    pub program: Option<Start>,
    /// How long it had run; known with the program.
    pub after: Option<Duration>,
    /// What qemu said.
    pub said: Option<String>,
}

impl Crash {
    /// Whether the same may go well in a new process.
    pub fn is_worth_a_retry(&self) -> bool {
        self.fault != Fault::Program
    }

    /// It in words. `plan` is the one that the table of twins was made of; without acceleration, an
    /// empty one.
    pub fn explain(&self, plan: &Plan) -> String {
        let signal = self.signal.map_or_else(String::new, |signal| {
            format!(" ({})", name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned))
        });
        let program = match &self.program {
            None => "a program".to_owned(),
            Some(start) => match start.package(plan) {
                Some(package) => format!("{} of package {package}", start.path),
                None => start.path.clone(),
            },
        };
        let after =
            self.after.map_or_else(String::new, |after| format!(" after {:.1} s", after.as_secs_f64()));
        let said = self.said.as_ref().map_or_else(String::new, |said| format!(": {said}"));
        match self.fault {
            Fault::Emulator => format!("qemu crashed{signal} running {program}{after}{said}"),
            Fault::Unclear => {
                format!("{program} crashed in qemu{signal}{after}, by qemu's fault or its own{said}")
            }
            Fault::Program => format!("{program} aborted itself{after}, in qemu{said}"),
        }
    }
}

/// What crashed, in the order in which it ended; then what qemu said of crashes that nobody else
/// knows of. `output` is what the programs have written, or the end of it.
pub fn crashes(starts: &Starts, output: &str) -> Vec<Crash> {
    let mut said: Vec<(Said, &str)> =
        output.lines().filter_map(|line| Some((Said::of(line)?, line.trim()))).collect();
    let mut result = Vec::new();
    for killed in starts.killed.iter().filter(|killed| name(killed.signal).is_some()) {
        let words = said.iter().position(|(said, _)| said.signal() == Some(killed.signal));
        let words = words.map(|index| said.remove(index));
        result.push(Crash {
            fault: words.map_or(Fault::Unclear, |(said, _)| said.fault()),
            signal: Some(killed.signal),
            program: Some(killed.start.clone()),
            after: Some(killed.after),
            said: words.map(|(_, line)| line.to_owned()),
        });
    }
    result.extend(said.into_iter().map(|(said, line)| Crash {
        fault: said.fault(),
        signal: said.signal(),
        program: None,
        after: None,
        said: Some(line.to_owned()),
    }));
    result
}

/// The signals that a fault sends, as strsignal(3) names them. Others, such as SIGTERM and SIGPIPE,
/// are no crash. The numbers are those of x86 and ARM (signal(7)).
const SIGNALS: &[(u32, &str, &str)] = &[
    (4, "SIGILL", "Illegal instruction"),
    (5, "SIGTRAP", "Trace/breakpoint trap"),
    (6, "SIGABRT", "Aborted"),
    (7, "SIGBUS", "Bus error"),
    (8, "SIGFPE", "Floating point exception"),
    (11, "SIGSEGV", "Segmentation fault"),
    (31, "SIGSYS", "Bad system call"),
];
const SIGABRT: u32 = 6;

/// The name of a signal that a fault sends; none of others.
pub fn name(signal: u32) -> Option<&'static str> {
    SIGNALS.iter().find(|(number, ..)| *number == signal).map(|(_, name, _)| *name)
}

/// What a line of qemu's says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// A fault in its own code.
    Internal(u32),
    /// Something that it holds for impossible; it calls abort(3).
    Impossible,
    /// It could not even start; it exits.
    NoRoom,
    /// The program got this signal (the host's number) and had no handler for it.
    Uncaught(u32),
}

/// Where qemu's source is that runs programs. A program's own assertion is of other files.
const SOURCES: &[&str] = &["accel/", "tcg/", "linux-user/", "target/", "util/", "include/", "cpu"];

impl Said {
    fn of(line: &str) -> Option<Said> {
        let line = line.trim();
        if let Some((_, rest)) = line.split_once("QEMU internal SIG") {
            let (_, name, _) = SIGNALS.iter().find(|(_, name, _)| rest.starts_with(&name[3..]))?;
            return SIGNALS
                .iter()
                .find(|(_, other, _)| other == name)
                .map(|(number, ..)| Said::Internal(*number));
        }
        if let Some(rest) = line.strip_prefix("qemu: uncaught target signal ") {
            // The number is the program's, which some machines count differently; the name is not.
            let (number, rest) = rest.split_once(" (")?;
            let named = SIGNALS.iter().find(|(.., words)| rest.starts_with(words));
            return named.map(|(number, ..)| *number).or(number.parse().ok()).map(Said::Uncaught);
        }
        let fatal = line.starts_with("qemu: fatal: ")
            || line.starts_with("qemu: unhandled CPU exception ")
            || line.ends_with(": tcg fatal error");
        let glib = line.strip_prefix("ERROR:").is_some_and(is_source);
        let assertion = line.starts_with("qemu-")
            && line.contains(": Assertion `")
            && line.split_once(": ").is_some_and(|(_, rest)| is_source(rest));
        if fatal || glib || assertion {
            return Some(Said::Impossible);
        }
        let no_room = [
            "Unable to find a guest_base to satisfy all guest address mapping requirements",
            "bytes of virtual address space",
            "Could not allocate dynamic translator buffer",
        ];
        let no_room = line.starts_with("Allocating guest commpage")
            || line.contains("qemu") && no_room.iter().any(|words| line.contains(words));
        no_room.then_some(Said::NoRoom)
    }

    fn signal(self) -> Option<u32> {
        match self {
            Said::Internal(signal) | Said::Uncaught(signal) => Some(signal),
            Said::Impossible => Some(SIGABRT),
            Said::NoRoom => None,
        }
    }

    fn fault(self) -> Fault {
        match self {
            Said::Internal(_) | Said::Impossible | Said::NoRoom => Fault::Emulator,
            Said::Uncaught(SIGABRT) => Fault::Program,
            Said::Uncaught(_) => Fault::Unclear,
        }
    }
}

/// Whether a path is one of qemu's source, as the compiler saw it from a build folder.
fn is_source(path: &str) -> bool {
    let mut path = path;
    while let Some(rest) = path.strip_prefix("../") {
        path = rest;
    }
    // glib's own name for the program comes first in newer ones: ERROR:qemu:path.
    let path = path.strip_prefix("./").unwrap_or(path);
    SOURCES.iter().any(|folder| path.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use treestrap_dispatcher::table::Fingerprint;

    use super::*;
    use crate::starts::{Killed, Why};

    #[test]
    fn what_qemu_says() {
        for (line, expected) in [
            // As qemu 5.2, 7.2 and 10.0 write them, and as reports of users have them.
            ("qemu-x86_64: QEMU internal SIGSEGV {code=MAPERR, addr=0x20}", Some(Said::Internal(11))),
            ("QEMU internal SIGILL {code=ILLOPC, addr=0x7f}", Some(Said::Internal(4))),
            ("qemu: uncaught target signal 11 (Segmentation fault) - core dumped", Some(Said::Uncaught(11))),
            ("qemu: uncaught target signal 6 (Aborted) - core dumped", Some(Said::Uncaught(6))),
            ("qemu: uncaught target signal 10 (Bus error) - core dumped", Some(Said::Uncaught(7))),
            (
                "ERROR:../accel/tcg/cpu-exec.c:928:cpu_exec_loop: assertion failed: (cpu == current_cpu)",
                Some(Said::Impossible),
            ),
            ("Bail out! ERROR:../accel/tcg/cpu-exec.c:928:cpu_exec_loop: assertion failed", None),
            (
                "qemu-arm-static: ../../linux-user/elfload.c:2323: probe_guest_base: Assertion `have_guest_base' failed.",
                Some(Said::Impossible),
            ),
            ("../../tcg/tcg.c:3312: tcg fatal error", Some(Said::Impossible)),
            ("qemu: fatal: cp15 insn ee1d1f70", Some(Said::Impossible)),
            ("qemu: unhandled CPU exception 0x10005 - aborting", Some(Said::Impossible)),
            ("Allocating guest commpage: Cannot allocate memory", Some(Said::NoRoom)),
            (
                "qemu-arm-static: Unable to reserve 0xffff0000 bytes of virtual address space at 0x1000 (Success)",
                Some(Said::NoRoom),
            ),
            // Programs may assert, too, and talk of qemu.
            ("ERROR:gtk/gtkmain.c:12:gtk_init: assertion failed: (display)", None),
            ("prog: ../target.c:1: main: Assertion `x' failed.", None),
            ("Segmentation fault", None),
            ("Setting up qemu-user (1:10.0.13) ...", None),
        ] {
            assert_eq!(Said::of(line), expected, "{line}");
        }
    }

    #[test]
    fn lines_and_ends_are_brought_together() {
        let killed = |path: &str, signal| Killed {
            start: Start { path: path.into(), program: Fingerprint { key: 0, size: 0 }, why: Why::NoTwin },
            pid: 1,
            signal,
            after: Duration::from_millis(3),
        };
        let starts = Starts {
            killed: vec![
                killed("/bin/a", 11),
                killed("/bin/b", 15),
                killed("/bin/c", 6),
                killed("/bin/d", 4),
            ],
            ..Starts::default()
        };
        let output = "Setting up a (1) ...\n\
            qemu: uncaught target signal 6 (Aborted) - core dumped\n\
            qemu-arm: QEMU internal SIGSEGV {code=MAPERR, addr=0x20}\n\
            Segmentation fault\n\
            qemu: uncaught target signal 11 (Segmentation fault) - core dumped\n";
        let found: Vec<_> = crashes(&starts, output)
            .into_iter()
            .map(|crash| (crash.program.map(|start| start.path), crash.signal, crash.fault))
            .collect();
        let path = |path: &str| Some(path.to_owned());
        assert_eq!(
            found,
            [
                (path("/bin/a"), Some(11), Fault::Emulator),
                (path("/bin/c"), Some(6), Fault::Program),
                (path("/bin/d"), Some(4), Fault::Unclear),
                (None, Some(11), Fault::Unclear),
            ]
        );
        assert_eq!(crashes(&Starts::default(), "all is well\n"), []);
        let words: Vec<_> =
            crashes(&starts, output).iter().map(|crash| crash.explain(&Plan::default())).collect();
        assert_eq!(
            words,
            [
                "qemu crashed (SIGSEGV) running /bin/a after 0.0 s: \
                 qemu-arm: QEMU internal SIGSEGV {code=MAPERR, addr=0x20}",
                "/bin/c aborted itself after 0.0 s, in qemu: \
                 qemu: uncaught target signal 6 (Aborted) - core dumped",
                "/bin/d crashed in qemu (SIGILL) after 0.0 s, by qemu's fault or its own",
                "a program crashed in qemu (SIGSEGV), by qemu's fault or its own: \
                 qemu: uncaught target signal 11 (Segmentation fault) - core dumped",
            ]
        );
    }
}
