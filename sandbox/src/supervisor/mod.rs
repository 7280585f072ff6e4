//! The process that answers system calls of those inside, which the filter hands over to it
//! (seccomp_unotify(2)).
//!
//! It is a child of the monitor, outside of the sandbox's pid namespace: nobody inside can see, signal
//! or trace it. It is root of the same user namespace, which lets it read and write the memory of
//! whoever asks and nobody else's: a process of the host is not in that namespace.
//!
//! **No answer goes astray.** A call is known by a number that is never used again. The memory is
//! opened by the thread's number, and then the kernel is asked whether the call still waits: if so, the
//! thread is alive and the number its own, so what was opened is its memory, whatever happens
//! afterwards. What was read counts only after the same question. A killed caller needs no answer.
//!
//! **Nobody waits for ever.** When the supervisor ends, waiting calls fail with ENOSYS, and pid 1, which
//! sees its socket close, ends with everything inside. It ends itself with its monitor
//! (PR_SET_PDEATHSIG), or when pid 1 does.

mod memory;
mod uname;

use std::{
    collections::HashMap,
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{prctl, signal::Signal},
};
use serde::{Deserialize, Serialize};

pub(crate) use uname::{NO_DOMAIN, Utsname};

use crate::{
    error::{Doing, Error, Result, Step},
    plan::Plan,
    protocol::Channel,
    seccomp::{self, Wanted},
    sys::{
        notify::{self, Notification},
        process::{self, Fork},
    },
};
use memory::Memory;

/// How a program talks to the kernel. Emulated programs do as their emulator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Abi {
    /// The host's own.
    Native,
    /// On x86-64: its instructions with pointers of 32 bits.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    X32,
    /// On x86-64.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    I386,
    /// On arm64.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
    Arm,
}

/// A call that the supervisor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// uname(2), with the structure that it fills.
    Uname(Utsname),
}

/// What pid 1 sends, once: with it comes the descriptor at which calls wait.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Watch {
    /// Whether there is one. The filter may have been refused.
    pub(crate) calls: bool,
}

/// What the filter has to hand over for this plan.
pub(crate) fn wanted(plan: &Plan) -> Wanted {
    Wanted { no_sync: plan.no_sync, uname: plan.uname.is_some() }
}

/// Starts the supervisor as a child of this process; pid 1 gets the socket that comes back. None: the
/// plan needs no supervisor. `others`: what the fork inherits and a supervisor must not keep open.
pub(crate) fn start(plan: &Plan, others: &[BorrowedFd<'_>]) -> Result<Option<(i32, Channel)>> {
    if wanted(plan).calls().is_empty() {
        return Ok(None);
    }
    let (ours, theirs) = Channel::pair()?;
    match process::fork().doing("starting the supervisor").map_err(|error| error.at(Step::Seccomp))? {
        Fork::Parent(pid) => Ok(Some((pid, theirs))),
        Fork::Child => {
            drop(theirs);
            others.iter().for_each(process::close_now);
            let ended = run(plan, ours);
            process::exit_now(i32::from(ended.is_err()))
        }
    }
}

fn run(plan: &Plan, mut socket: Channel) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).doing("tying the supervisor to the monitor")?;
    let _ = prctl::set_name(c"sandbox-calls");
    let Some((Watch { calls: true }, descriptors)) = socket.receive()? else { return Ok(()) };
    let Some(listener) = descriptors.into_iter().next() else {
        return Err(Error::bug("the descriptor for system calls is missing"));
    };
    notify::wake_in_place(listener.as_fd());
    let calls = wanted(plan).calls().into_iter().collect();
    Supervisor { plan, calls, listener }.serve(&socket)
}

struct Supervisor<'a> {
    plan: &'a Plan,
    calls: HashMap<(Abi, u32), Call>,
    listener: OwnedFd,
}

/// A call that waits.
struct Pending<'a> {
    listener: BorrowedFd<'a>,
    notification: Notification,
}

impl Pending<'_> {
    /// Fails when the caller has been killed: nothing that was read of it may be relied on.
    fn still_waits(&self) -> nix::Result<()> {
        if notify::is_valid(self.listener, self.notification.id) { Ok(()) } else { Err(Errno::ESRCH) }
    }

    /// The caller's memory.
    fn memory(&self) -> nix::Result<Memory> {
        let path = format!("/proc/{}/mem", self.notification.thread);
        let file = File::options().read(true).write(true).open(path);
        // The number may have been somebody else's by now; from here on the file is what it is.
        self.still_waits()?;
        file.map(Memory::new).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// An argument.
    fn argument(&self, index: usize) -> u64 {
        self.notification.arguments[index]
    }
}

impl Supervisor<'_> {
    /// Answers calls until pid 1 is gone.
    fn serve(&mut self, socket: &Channel) -> Result<()> {
        loop {
            let mut events = [
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut events, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.doing("waiting for system calls")?,
            };
            let [call, end] = events.map(|event| event.revents().unwrap_or(PollFlags::POLLHUP));
            if !end.is_empty() || call.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                return Ok(());
            }
            let Some(notification) =
                notify::receive(self.listener.as_fd()).doing("receiving a system call")?
            else {
                continue;
            };
            let result = self.answer(notification);
            notify::answer(self.listener.as_fd(), notification.id, result)
                .doing("answering a system call")?;
        }
    }

    fn answer(&mut self, notification: Notification) -> nix::Result<i64> {
        let abi = seccomp::abi(notification.architecture, notification.number).ok_or(Errno::ENOSYS)?;
        let call = *self.calls.get(&(abi, notification.number)).ok_or(Errno::ENOSYS)?;
        let pending = Pending { listener: self.listener.as_fd(), notification };
        match call {
            Call::Uname(kind) => {
                let uname = self.plan.uname.as_ref().ok_or(Errno::ENOSYS)?;
                let answer = kind.encode(uname, &self.plan.hostname);
                pending.memory()?.write(pending.argument(0), &answer)?;
                Ok(0)
            }
        }
    }
}
