//! The process that answers system calls of those inside, which the filter hands over to it
//! (seccomp_unotify(2)).
//!
//! It is a child of the monitor, outside of the sandbox's pid namespace: nobody inside can see, signal
//! or trace it. It is root of the same user namespace, which lets it read and write the memory of
//! whoever asks and nobody else's: a process of the host is not in that namespace.
//!
//! In every tier it answers uname(2) and lists folders in order ([`folders`]), if the plan wants that, and
//! opens files without O_SYNC ([`synced`]).
//! In tier single it also answers what has to
//! do with users and groups: to the kernel there is one user, and who a process says it is
//! ([`identity`]), whose a file is ([`records`], [`files`], [`stat`]) are kept here. What that cannot
//! give is what the kernel checks: a process that became another user may still do whatever root may
//! inside. /proc/PID/status, SO_PEERCRED and AT_UID show the one user.
//!
//! For programs of the host ([`crate::host`]) all that holds below one folder alone; outside of it files are
//! as the kernel has them, and nobody can be given one.
//!
//! **No answer goes astray.** A call is known by a number that is never used again. The memory is
//! opened by the thread's number, and then the kernel is asked whether the call still waits: if so, the
//! thread is alive and the number its own, so what was opened is its memory, whatever happens
//! afterwards. What was read counts only after the same question. A killed caller needs no answer.
//!
//! **Nobody waits for ever.** When the supervisor ends, waiting calls fail with ENOSYS, and pid 1, which
//! sees its socket close, ends with everything inside. It ends itself with its monitor
//! (PR_SET_PDEATHSIG), or when pid 1 does.

mod attributes;
mod caller;
mod files;
mod folders;
mod identity;
mod programs;
mod records;
mod rules;
mod stat;
mod synced;
mod uname;
mod writers;

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use caps::{CapSet, Capability};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::{prctl, resource, signal::Signal, stat::Mode},
};
use serde::{Deserialize, Serialize};

pub(crate) use rules::{
    FOLDERS, NAMES, OPENS, OPENS_IN_SINGLE, SINGLE, SINGLE_IS_KNOWN, STARTS, SYNCED_OPENS, UNAME,
    WRITTEN_OPENS,
};
pub(crate) use uname::NO_DOMAIN;

use crate::{
    enforced::Tier,
    error::{Doing, Error, Result, Step},
    kernel::kernel_is_at_least,
    owners::{self, Links, Owner, Remembered},
    plan::Plan,
    protocol::{Channel, Start},
    seccomp::{self, Wanted},
    sys::{
        notify::{self, Notification},
        process::{self, Fork},
    },
};
use caller::{Caller, Surroundings};
use programs::Programs;
use writers::Writers;

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
    Uname(uname::Utsname),
    /// getdents(2), with the structure that it fills in.
    List(folders::Structure),
    /// prctl(2), as far as it is about capabilities that outlive a change of user.
    Keep,
    /// A call on credentials.
    Identity(identity::Act, identity::Width),
    /// chown(2) and its kin.
    Chown(files::Target, identity::Width),
    /// A call that may make a file.
    Make(files::Make),
    /// stat(2) and its kin.
    Stat(stat::Stat),
    /// A call on extended attributes.
    Attribute(attributes::Verb, files::Target),
    /// execve(2), execveat(2).
    Execute(files::Target),
    /// A call that gives a file a name: which arguments are the folder that its path starts from, if there
    /// is one, and the path.
    Name(Option<usize>, usize),
}

/// What pid 1 sends, once: with it come its mount namespace and the descriptor at which calls wait.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Watch {
    /// Whether there is one. The filter may have been refused.
    pub(crate) calls: bool,
}

/// What the monitor asks when nothing runs inside any more: the owners that are not recorded with the
/// files themselves.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OwnersElsewhere {
    /// Those files and their owners.
    pub(crate) owners: Vec<Remembered>,
}

/// What the filter has to hand over for this plan.
pub(crate) fn wanted(plan: &Plan, tier: Tier) -> Wanted {
    Wanted {
        no_sync: plan.no_sync,
        // SECCOMP_ADDFD_FLAG_SEND.
        no_synced_opens: plan.no_sync && kernel_is_at_least(5, 14),
        uname: plan.uname.is_some(),
        // pidfd_getfd(2).
        sorted_folders: plan.sorted_folders && kernel_is_at_least(5, 6),
        single: tier == Tier::Single,
        writers: plan.writers.is_some(),
        programs: plan.programs.is_some(),
        allows_all: false,
    }
}

/// A running supervisor, as the monitor sees it.
pub(crate) struct Supervisor {
    /// Its process.
    pub(crate) pid: i32,
    /// Closed by either side when it ends.
    pub(crate) control: Channel,
}

/// Starts the supervisor as a child of this process; pid 1 gets the socket that comes with it. None: no
/// supervisor is needed. `links`: owners of what can carry no record in a stored tree. `others`: what the
/// fork inherits and a supervisor must not keep open.
pub(crate) fn start(
    start: &Start,
    links: Links,
    others: &[BorrowedFd<'_>],
) -> Result<Option<(Supervisor, Channel)>> {
    if wanted(&start.plan, start.tier).calls().is_empty() {
        return Ok(None);
    }
    let (ours, for_child) = Channel::pair()?;
    let (control, for_monitor) = Channel::pair()?;
    match process::fork().doing("starting the supervisor").map_err(|error| error.at(Step::Seccomp))? {
        Fork::Parent(pid) => Ok(Some((Supervisor { pid, control: for_monitor }, for_child))),
        Fork::Child => {
            drop((for_child, for_monitor));
            others.iter().for_each(process::close_now);
            let ended = run(start, links, ours, control);
            process::exit_now(i32::from(ended.is_err()))
        }
    }
}

fn run(start: &Start, links: Links, mut socket: Channel, mut control: Channel) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).doing("tying the supervisor to the monitor")?;
    let _ = prctl::set_name(c"sandbox-calls");
    // Each remembered link is an open descriptor.
    let (_, most) = resource::getrlimit(resource::Resource::RLIMIT_NOFILE).doing("reading limits")?;
    resource::setrlimit(resource::Resource::RLIMIT_NOFILE, most, most).doing("setting limits")?;
    let links = links_with_owners(start, links)?;
    let writers = start.plan.writers.as_ref().map(Writers::open).transpose()?;
    let programs = start.plan.programs.as_ref().map(Programs::open).transpose()?;
    let (proc, own_descriptors) = Surroundings::open_proc().doing("opening /proc")?;
    let Some((Watch { calls: true }, descriptors)) = socket.receive()? else { return Ok(()) };
    let mut descriptors = descriptors.into_iter();
    let (Some(mounts), Some(listener)) = (descriptors.next(), descriptors.next()) else {
        return Err(Error::bug("the descriptor for system calls is missing"));
    };
    // From here on nothing of the host has a path.
    setns(mounts, CloneFlags::CLONE_NEWNS).doing("joining the sandbox's mounts")?;
    let tree = start.on_host.as_ref().map(|on_host| on_host.folder.as_path());
    let surroundings =
        Surroundings::inside(proc, own_descriptors, tree).doing("joining the sandbox's mounts")?;
    reduce_capabilities()?;
    notify::wake_in_place(listener.as_fd());
    let wanted = wanted(&start.plan, start.tier);
    let mut serving = Serving {
        start,
        wanted,
        calls: wanted.calls().into_iter().collect(),
        listener,
        surroundings,
        identities: identity::Identities::new(),
        records: records::Records::default(),
        folders: folders::Folders::new().doing("looking at /proc")?,
        writers,
        programs,
    };
    serving.remember(&links)?;
    serving.serve(&socket, &control)?;
    // The records are asked for when pid 1 is gone.
    let top = tree.unwrap_or(Path::new("/"));
    let owners = OwnersElsewhere { owners: serving.records.remembered(top) };
    drop(serving);
    control.send(&owners, &[])?;
    let _ = control.receive::<()>();
    Ok(())
}

/// The owners of what cannot carry a record: the base's links, or all that a session remembered from
/// which this one goes on.
fn links_with_owners(start: &Start, stored: Links) -> Result<Links> {
    if start.tier != Tier::Single {
        return Ok(Vec::new());
    }
    if start.on_host.is_some() {
        return Ok(stored);
    }
    let kept = start.folder.join(owners::FILE);
    if kept.exists() {
        // All of them: the base's too, as far as they are still there and still somebody's.
        let text = std::fs::read(&kept).doing_to("reading", &kept)?;
        let kept: Vec<Remembered> = serde_json::from_slice(&text).map_err(Error::bug)?;
        return Ok(kept.into_iter().map(|file| (file.path, file.owner)).collect());
    }
    Ok(stored)
}

/// What is left: what those inside can have, to do for them what they asked for, and what it takes to
/// read and write their memory.
fn reduce_capabilities() -> Result<()> {
    let kept = crate::capabilities::KEPT.iter().map(|(capability, _)| *capability);
    let kept: caps::CapsHashSet = kept.chain([Capability::CAP_SYS_PTRACE]).collect();
    let now = caps::read(None, CapSet::Permitted).map_err(|error| Error::machine(error.to_string()))?;
    let kept = now.intersection(&kept).copied().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(|error| Error::machine(error.to_string()))?;
    }
    Ok(())
}

/// How a call ends.
pub(crate) enum Answer {
    /// It returns this.
    Value(i64),
    /// It returns the number that this descriptor gets, perhaps closed on exec.
    Descriptor(OwnedFd, bool),
    /// The kernel carries it out.
    GoOn,
    /// It has its answer already.
    Given,
}

struct Serving<'a> {
    start: &'a Start,
    wanted: Wanted,
    calls: HashMap<(Abi, u32), Call>,
    listener: OwnedFd,
    surroundings: Surroundings,
    identities: identity::Identities,
    records: records::Records,
    folders: folders::Folders,
    writers: Option<Writers>,
    programs: Option<Programs>,
}

impl Serving<'_> {
    /// Finds files by path and remembers their owners. Another layer or a mount may hide one, or a session
    /// before this one have replaced it by what carries its own record.
    fn remember(&mut self, links: &[(Vec<u8>, Owner)]) -> Result<()> {
        for (path, owner) in links {
            let path = std::ffi::CString::new([b"/", path.as_slice()].concat()).map_err(Error::bug)?;
            let flags = caller::NAME | OFlag::O_NOFOLLOW;
            let Ok(file) = nix::fcntl::open(path.as_c_str(), flags, Mode::empty()) else { continue };
            let stat = nix::sys::stat::fstat(&file).doing("looking at a file of the base")?;
            if !records::may_have_attributes(&stat) {
                self.records.set_of_base(file, &stat, *owner);
            }
        }
        Ok(())
    }

    /// Answers calls until pid 1 is gone.
    fn serve(&mut self, socket: &Channel, control: &Channel) -> Result<()> {
        loop {
            let ends = self.programs.as_ref().map(Programs::ends);
            let descriptors = [self.listener.as_fd(), socket.as_fd(), control.as_fd()];
            let mut events: Vec<PollFd<'_>> = descriptors
                .into_iter()
                .chain(ends)
                .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
                .collect();
            match poll(&mut events, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.doing("waiting for system calls")?,
            };
            let found = |event: &PollFd<'_>| event.revents().unwrap_or(PollFlags::POLLHUP);
            let (call, end, asked) = (found(&events[0]), found(&events[1]), found(&events[2]));
            let have_ended = events.get(3).is_some_and(|event| !found(event).is_empty());
            if let (Some(programs), true) = (&mut self.programs, have_ended) {
                programs.collect();
            }
            let over = PollFlags::POLLHUP | PollFlags::POLLERR;
            if !end.is_empty() || !asked.is_empty() || call.intersects(over) {
                return Ok(());
            }
            if call.is_empty() {
                continue;
            }
            let Some(notification) =
                notify::receive(self.listener.as_fd()).doing("receiving a system call")?
            else {
                continue;
            };
            let id = notification.id;
            let answer = self.answer(notification);
            let listener = self.listener.as_fd();
            match answer {
                Ok(Answer::Given) => Ok(()),
                Ok(Answer::GoOn) => notify::let_go_on(listener, id),
                Ok(Answer::Value(value)) => notify::answer(listener, id, Ok(value)),
                Ok(Answer::Descriptor(file, close_on_exec)) => {
                    match notify::answer_with(listener, id, file.as_fd(), close_on_exec) {
                        Err(errno) => notify::answer(listener, id, Err(errno)), // EMFILE, say
                        Ok(()) => Ok(()),
                    }
                }
                Err(errno) => notify::answer(listener, id, Err(errno)),
            }
            .doing("answering a system call")?;
        }
    }

    fn answer(&mut self, notification: Notification) -> nix::Result<Answer> {
        let abi = seccomp::abi(notification.architecture, notification.number).ok_or(Errno::ENOSYS)?;
        let call = *self.calls.get(&(abi, notification.number)).ok_or(Errno::ENOSYS)?;
        let (start, listener) = (self.start, self.listener.as_fd());
        let caller = Caller { listener, notification, surroundings: &self.surroundings };
        if let (Some(programs), Call::Execute(target)) = (&mut self.programs, call) {
            programs.note(target, &caller);
        }
        if let Some(writers) = &mut self.writers {
            writers.note(call, &caller);
        }
        let no_sync = self.wanted.no_synced_opens;
        let mut files =
            files::Files { identities: &mut self.identities, records: &mut self.records, no_sync };
        match call {
            Call::Uname(kind) => {
                let uname = start.plan.uname.as_ref().ok_or(Errno::ENOSYS)?;
                caller.write(caller.argument(0), &kind.encode(uname, &start.plan.hostname))?;
                Ok(Answer::Value(0))
            }
            Call::List(structure) => self.folders.list(structure, abi, &caller),
            Call::Keep => files.identities.keep(&caller).map(|()| Answer::GoOn),
            Call::Identity(act, width) => files.identities.act(act, width, &caller).map(Answer::Value),
            Call::Chown(target, width) => files.chown(target, width, &caller),
            Call::Make(make) => {
                let made = if self.wanted.single { files.make(make, &caller)? } else { Answer::GoOn };
                match made {
                    Answer::GoOn if no_sync => synced::open(make, abi, start.tier, &caller),
                    other => Ok(other),
                }
            }
            Call::Stat(stat) => stat::answer(stat, files.records, &caller),
            Call::Attribute(verb, target) => {
                attributes::answer(verb, target, files.identities, files.records, &caller)
            }
            Call::Execute(target) if self.wanted.single => files.execute(target, &caller),
            Call::Execute(_) => Ok(Answer::GoOn),
            Call::Name(..) => Ok(Answer::GoOn),
        }
    }
}
