//! Which programs were started when, and for how long they ran, if the plan asks for it: a line of JSON
//! ([`Program`]) for each when it has ended, or was replaced by the next one of its process.
//!
//! Seen are the programs' starts (execve(2)), which wait until they are noted, and the ends of their processes
//! (pidfd_open(2)). A program that is still running when the sandbox ends, ends with it.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Write,
    mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    fcntl::AtFlags,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        stat::Mode,
    },
    time::{ClockId, clock_gettime},
    unistd::{AccessFlags, access},
};

use super::{
    caller::{Caller, NAME},
    files::Target,
};
use crate::{
    error::{Doing, Result},
    plan::{self, Program, UNNOTED},
    sys::folders::open_process,
};

/// So many paths are remembered, of the most that a system has some thousand.
const MOST_KNOWN: usize = 8192;

/// The log.
pub(super) struct Programs {
    file: File,
    /// By the number of their process.
    running: HashMap<i32, Running>,
    /// Ready when one of those processes has ended; its events have their numbers.
    ends: Epoll,
    /// Absolute paths that were found to be there: a program waits while its start is noted.
    known: HashSet<Vec<u8>>,
}

struct Running {
    /// Ready when the process has ended.
    _process: OwnedFd,
    path: Vec<u8>,
    since: f64,
}

impl Programs {
    /// Opens the log, which the caller of the sandbox has made.
    pub(super) fn open(wanted: &plan::Programs) -> Result<Self> {
        let file = File::options().append(true).open(&wanted.log).doing_to("opening", &wanted.log)?;
        let ends = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing("making an epoll descriptor")?;
        let (running, known) = (HashMap::new(), HashSet::new());
        Ok(Programs { file, running, ends, known })
    }

    /// Notes a start that is yet to be carried out. What cannot be found out is not noted, nor is a file that has
    /// never been there: shells try one folder after the other.
    pub(super) fn note(&mut self, target: Target, caller: &Caller<'_>) {
        if target == Target::Path && caller.argument(3) as u32 == UNNOTED {
            return; // tier single is asked all the same
        }
        let Some(path) = self.path(target, caller) else { return };
        let (pid, since) = (caller.thread().as_raw(), now());
        if let Some(running) = self.running.get_mut(&pid) {
            // The same process: the end of an earlier one with this number was collected long ago.
            let ended = mem::replace(&mut running.path, path);
            let begun = mem::replace(&mut running.since, since);
            self.write(pid, ended, begun, since);
            return;
        }
        let Ok(process) = open_process(caller.thread()) else { return };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, u64::from(pid.unsigned_abs()));
        if self.ends.add(&process, event).is_ok() {
            self.running.insert(pid, Running { _process: process, path, since });
        }
    }

    /// Ready when [`Programs::collect`] has something to do.
    pub(super) fn ends(&self) -> BorrowedFd<'_> {
        self.ends.0.as_fd()
    }

    /// Notes which processes have ended.
    pub(super) fn collect(&mut self) {
        let mut events = [EpollEvent::empty(); 16];
        loop {
            let count = self.ends.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
            for event in &events[..count] {
                if let Ok(pid) = i32::try_from(event.data()) {
                    self.end(pid);
                }
            }
            if count < events.len() {
                return;
            }
        }
    }

    fn end(&mut self, pid: i32) {
        // With its descriptor goes its place among the events.
        if let Some(Running { path, since, .. }) = self.running.remove(&pid) {
            self.write(pid, path, since, now());
        }
    }

    fn write(&mut self, pid: i32, path: Vec<u8>, begun: f64, ended: f64) {
        let program = Program { path, process: pid.unsigned_abs(), begun, ended };
        if let Ok(mut line) = serde_json::to_vec(&program) {
            line.push(b'\n');
            let _ = self.file.write_all(&line);
        }
    }

    /// The program as it is started, and where it is.
    fn path(&mut self, target: Target, caller: &Caller<'_>) -> Option<Vec<u8>> {
        let (folder, index) = match target {
            Target::At(flags) if caller.int(flags) & AtFlags::AT_EMPTY_PATH.bits() != 0 => {
                let file = caller.descriptor(caller.int(0)).ok()?;
                return caller.surroundings.path_of(&file).ok();
            }
            Target::At(_) => (caller.int(0), 1),
            _ => (libc::AT_FDCWD, 0),
        };
        let path = caller.path(index).ok()?;
        if self.known.contains(&path) {
            return Some(path);
        }
        // Absolute paths nearly always are the same for all.
        if path.first() == Some(&b'/') && access(path.as_slice(), AccessFlags::F_OK).is_ok() {
            if self.known.len() < MOST_KNOWN {
                self.known.insert(path.clone());
            }
            return Some(path);
        }
        caller.open(folder, &path, NAME, Mode::empty()).ok()?;
        Some(path)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let left: Vec<i32> = self.running.keys().copied().collect();
        left.into_iter().for_each(|pid| self.end(pid));
    }
}

/// Seconds of CLOCK_MONOTONIC.
fn now() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or((0, 0), |time| (time.tv_sec(), time.tv_nsec()));
    time.0 as f64 + time.1 as f64 / 1e9
}
