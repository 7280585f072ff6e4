//! Pid 1 of the sandbox: sets it up from inside, starts commands, reaps everything.
//!
//! It ends, and with it every process of its namespace, when the caller's socket or the monitor's
//! life line closes. It cannot be traced or read from inside: it is not dumpable, and nothing inside
//! has CAP_SYS_PTRACE.

use std::os::fd::{AsFd, OwnedFd};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        stat::Mode,
    },
    unistd::{Pid, chdir, chroot, sethostname},
};

use crate::{
    binfmt, capabilities,
    enforced::{Inside, MemoryLimit, Tier},
    error::{Doing, Error, Result, Step},
    execute,
    kernel::kernel_is_at_least,
    plan::Plan,
    protocol::{Channel, FromChild, Start, ToChild},
    root::View,
    seccomp::{self, Wanted},
    session::{Outcome, Status},
    stack::{Prepared, needs_server},
    supervisor,
    sys::{
        network,
        process::{self, WaitEvent, Waited},
    },
};

/// Sets the sandbox up and serves until the end.
pub(crate) fn run(
    start: &Start,
    mut prepared: Prepared,
    mut commands: Channel,
    end_of_life: OwnedFd,
    mut supervisor: Option<Channel>,
) -> ! {
    let plan = &start.plan;
    let status = match set_up(start, &mut prepared, &mut supervisor) {
        Ok((inside, root, held)) => {
            let view = prepared.server;
            let memory = inside.memory;
            let served = commands.send(&FromChild::Ready(inside), &[]).and_then(|()| {
                Server { plan, root, commands, end_of_life, supervisor, view, memory, running: None }.serve()
            });
            drop(held);
            i32::from(served.is_err())
        }
        Err(error) => {
            let _ = commands.send(&FromChild::Failed(error), &[]);
            1
        }
    };
    process::exit_now(status)
}

/// Everything between the fork and the first command. Gives what it came to, the root of commands, and
/// what has to stay open.
fn set_up(
    start: &Start,
    prepared: &mut Prepared,
    supervisor: &mut Option<Channel>,
) -> Result<(Inside, OwnedFd, Option<OwnedFd>)> {
    let Start { plan, folder, tier, .. } = start;
    prctl::set_pdeathsig(Signal::SIGKILL).doing("tying pid 1 to the monitor")?;
    let _ = prctl::set_name(c"sandbox-init");
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .doing("making namespaces")
    .map_err(|error| error.at(Step::Namespaces))?;
    let (view, stack) = View::mount(plan, folder, prepared).map_err(|error| error.at(Step::Mounts))?;
    let mut degraded = stack.passed_over;
    if !needs_server(stack.view) {
        prepared.server = None;
    }
    prepared.listing = None;
    if plan.no_sync && !stack.volatile {
        degraded.push("overlayfs does not know `volatile` here: it syncs when it is unmounted".into());
    }
    view.mount_proc().map_err(|error| error.at(Step::Proc))?;
    view.mount_dev(*tier).map_err(|error| error.at(Step::Devices))?;
    view.mount_sys().map_err(|error| error.at(Step::Mounts))?;
    for mount in &plan.mounts {
        view.mount_planned(mount).map_err(|error| error.at(Step::Mounts))?;
    }
    let table = binfmt::register(&plan.binfmt).map_err(|error| error.at(Step::Binfmt))?;
    // A new user namespace would give all capabilities in it, and with them more of the kernel.
    let no_nested_namespaces = std::fs::write("/proc/sys/user/max_user_namespaces", "0").is_ok();
    if !no_nested_namespaces {
        degraded.push(
            "user.max_user_namespaces cannot be set inside: the filter alone forbids namespaces".into(),
        );
    }
    if let Some(most) = plan.conditions.processors {
        use_processors(most).doing("choosing processors")?;
    }
    let processes = limit_processes(plan).then_some(plan.limits.processes);
    if processes.is_none() {
        degraded.push(
            "the process limit does not hold for the host's root (kernel.pid_max of a namespace needs Linux 6.14)"
                .into(),
        );
    }
    view.mask_proc().map_err(|error| error.at(Step::Proc))?;
    if let Some(uname) = &plan.uname {
        view.show_kernel(uname, folder).map_err(|error| error.at(Step::Proc))?;
    }
    view.become_root().map_err(|error| error.at(Step::Mounts))?;
    network::bring_loopback_up()
        .doing("bringing the loopback interface up")
        .map_err(|e| e.at(Step::Network))?;
    sethostname(&plan.hostname).doing("setting the host name").map_err(|error| error.at(Step::Namespaces))?;
    process::set_domain_name(supervisor::NO_DOMAIN)
        .doing("setting the domain name")
        .map_err(|error| error.at(Step::Namespaces))?;
    let capabilities = capabilities::reduce().map_err(|error| error.at(Step::Privileges))?;
    prctl::set_dumpable(false).doing("hiding pid 1").map_err(|error| error.at(Step::Privileges))?;
    let memory = plan.limits.memory.map(|most| {
        if prepared.no_group.is_empty() {
            return MemoryLimit::Together(most);
        }
        degraded.push(format!(
            "memory is limited for each process by itself: {} (`systemd-run --user --scope` gives a place for \
             a control group)",
            prepared.no_group
        ));
        MemoryLimit::EachProcess(most)
    });
    let in_force = filter_system_calls(plan, *tier, supervisor, &mut degraded)?;
    let inside = Inside {
        view: stack.view,
        volatile: stack.volatile,
        seccomp: in_force.is_some(),
        no_sync: in_force.is_some_and(|filter| filter.no_sync && filter.no_synced_opens),
        uname: in_force.is_some_and(|filter| filter.uname),
        sorted_folders: in_force.is_some_and(|filter| filter.sorted_folders),
        capabilities,
        binfmt: plan.binfmt.iter().map(|entry| entry.name.clone()).collect(),
        no_nested_namespaces,
        processes,
        memory,
        time: plan.limits.time,
        degraded,
    };
    let root = step_aside().doing("leaving the root").map_err(|error| error.at(Step::Mounts))?;
    Ok((inside, root, table))
}

/// Starts programs of the host until the end: see [`crate::host`].
pub(crate) fn serve_on_host(
    plan: &Plan,
    root: OwnedFd,
    commands: Channel,
    end_of_life: OwnedFd,
    supervisor: Option<Channel>,
) -> Result<()> {
    Server { plan, root, commands, end_of_life, supervisor, view: None, memory: None, running: None }.serve()
}

/// Has pid 1 another root than its commands, which so find themselves in a chroot, as they are used to
/// when an image is made: ischroot(1) and its kin compare the two, and scripts that take a machine for
/// running restart its init. Gives the root of commands.
fn step_aside() -> nix::Result<OwnedFd> {
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    chroot("/sys")?; // a mount of its own, and empty
    chdir("/")?;
    Ok(root)
}

/// The filter holds for pid 1 and all that it starts; it must come last. Gives what it does, if there
/// is one.
fn filter_system_calls(
    plan: &Plan,
    tier: Tier,
    supervisor: &mut Option<Channel>,
    degraded: &mut Vec<String>,
) -> Result<Option<Wanted>> {
    let mounts = std::fs::File::open("/proc/self/ns/mnt").doing("opening the mount namespace")?;
    let mut wanted = supervisor::wanted(plan, tier);
    if plan.no_sync && !wanted.no_synced_opens {
        degraded.push("files opened with O_SYNC wait for the disk (Linux 5.14 lets them not)".into());
    }
    const UNSORTED: &str = "folders list their names in the order of the file system";
    if plan.sorted_folders && !wanted.sorted_folders {
        degraded.push(format!("{UNSORTED} (Linux 5.6 lets them be sorted)"));
    }
    let mut installed = seccomp::install(wanted);
    if let Err(errno @ (Errno::EBUSY | Errno::EINVAL)) = installed
        && tier == Tier::Full
    {
        // Somebody around us answers calls already, and the kernel allows one. (EINVAL: Linux < 5.0.)
        let lost = [
            (&mut wanted.uname, "the kernel's name inside is the host's"),
            (&mut wanted.sorted_folders, UNSORTED),
            (&mut wanted.no_synced_opens, "files opened with O_SYNC wait for the disk"),
        ];
        for (wanted, lost) in lost.into_iter().filter(|(wanted, _)| **wanted) {
            degraded.push(format!("{lost}: {}", errno.desc()));
            *wanted = false;
        }
        installed = seccomp::install(wanted);
    }
    match (installed, supervisor.as_mut()) {
        (Ok(Some(listener)), Some(channel)) => {
            channel.send(&supervisor::Watch { calls: true }, &[mounts.as_fd(), listener.as_fd()])?;
            Ok(Some(wanted))
        }
        (Ok(None), channel) => {
            if let Some(channel) = channel {
                channel.send(&supervisor::Watch { calls: false }, &[])?;
            }
            *supervisor = None; // nothing to answer: it ends
            Ok(Some(wanted))
        }
        (Ok(Some(_)), None) => Err(Error::bug("nobody is there to answer system calls")),
        // The kernel has no filters, or a runtime around us forbids them.
        (Err(errno @ (Errno::ENOSYS | Errno::EINVAL | Errno::EPERM | Errno::EACCES)), _)
            if tier == Tier::Full =>
        {
            degraded.push(format!("no system call filter: {}", errno.desc()));
            Ok(None)
        }
        (Err(errno), _) => Err(Error::system("installing the system call filter", errno).at(Step::Seccomp)),
    }
}

/// Limits the processes and threads of the whole namespace; gives whether any limit holds. Before Linux
/// 6.14, which gave pid namespaces a pid_max of their own, there is only RLIMIT_NPROC, one for each
/// user inside: see [`execute`].
fn limit_processes(plan: &Plan) -> bool {
    // Numbers below 300 are not given again when all are used up (RESERVED_PIDS in kernel/pid.c), and
    // less than 301 cannot be set. They are skipped from the start where the kernel knows how to.
    const RESERVED: u64 = 300;
    let last = plan.conditions.last_process.map_or(RESERVED, |last| u64::from(last).max(RESERVED));
    let _ = std::fs::write("/proc/sys/kernel/ns_last_pid", last.to_string());
    let highest = plan.limits.processes.saturating_add(last).max(last + 1);
    // An older kernel has only the host's, which the host's root could write from here: only then the
    // version is looked at, since trying would do the harm.
    let holds_anyway = process_limit_holds();
    let may_try = holds_anyway || kernel_is_at_least(6, 14);
    may_try && std::fs::write("/proc/sys/kernel/pid_max", highest.to_string()).is_ok() || holds_anyway
}

/// Leaves only the first of the processors that this process may use to it and to all that it starts.
fn use_processors(most: usize) -> nix::Result<()> {
    let this = Pid::from_raw(0);
    let (allowed, mut chosen) = (sched_getaffinity(this)?, CpuSet::new());
    let is_allowed = |&number: &usize| allowed.is_set(number).unwrap_or(false);
    for number in (0..CpuSet::count()).filter(is_allowed).take(most.max(1)) {
        chosen.set(number)?;
    }
    sched_setaffinity(this, &chosen)
}

/// Whether RLIMIT_NPROC counts: the kernel never applies it to the first user namespace's root
/// (copy_process() in kernel/fork.c), whom pid 1 is when root itself called.
fn process_limit_holds() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut fields = map.split_ascii_whitespace();
    !(fields.next() == Some("0") && fields.next() == Some("0"))
}

struct Server<'a> {
    plan: &'a Plan,
    /// The root of commands.
    root: OwnedFd,
    commands: Channel,
    end_of_life: OwnedFd,
    /// Closes when the supervisor ends.
    supervisor: Option<Channel>,
    /// Who serves the view, if anybody does.
    view: Option<Channel>,
    memory: Option<MemoryLimit>,
    /// The command that the caller waits for.
    running: Option<Running>,
}

struct Running {
    pid: i32,
    started: std::time::Instant,
    /// Its terminal, if it has the foreground of one.
    terminal: Option<OwnedFd>,
}

impl Server<'_> {
    fn serve(&mut self) -> Result<()> {
        let mut child_signal = SigSet::empty();
        child_signal.add(Signal::SIGCHLD);
        child_signal.thread_block().doing("blocking SIGCHLD")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let children = SignalFd::with_flags(&child_signal, flags).doing("making a signal descriptor")?;
        loop {
            // Where nobody answers calls, or serves a view, the life line stands in, which is there in any
            // case.
            let supervisor = self.supervisor.as_ref().map_or(self.end_of_life.as_fd(), AsFd::as_fd);
            let view = self.view.as_ref().map_or(self.end_of_life.as_fd(), AsFd::as_fd);
            let mut events = [
                PollFd::new(self.commands.as_fd(), PollFlags::POLLIN),
                PollFd::new(children.as_fd(), PollFlags::POLLIN),
                PollFd::new(view, PollFlags::POLLIN),
                PollFd::new(self.end_of_life.as_fd(), PollFlags::POLLIN),
                PollFd::new(supervisor, PollFlags::POLLIN),
            ];
            match poll(&mut events, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.doing("waiting")?,
            };
            let [command, child, view_died, end, unanswered] =
                events.map(|event| event.any().unwrap_or(true));
            if end || unanswered {
                return Ok(());
            }
            if view_died {
                let error = Error::bug("the process that serves the view died");
                return self.commands.send(&FromChild::Failed(error), &[]);
            }
            if child {
                while let Ok(Some(_)) = children.read_signal() {}
                self.reap()?;
            }
            if command {
                let Some((message, descriptors)) = self.commands.receive()? else { return Ok(()) };
                self.handle(message, descriptors)?;
            }
        }
    }

    fn handle(&mut self, message: ToChild, descriptors: Vec<OwnedFd>) -> Result<()> {
        match message {
            ToChild::Run(run) => match execute::start(&run, self.plan, self.memory, &self.root, &descriptors)
            {
                Ok(pid) => {
                    let terminal = run.terminal.then(|| descriptors.into_iter().next()).flatten();
                    self.running = Some(Running { pid, started: std::time::Instant::now(), terminal });
                    Ok(())
                }
                Err(error) => self.commands.send(&FromChild::Failed(error), &[]),
            },
            ToChild::Continue => {
                if let Some(running) = &self.running {
                    if let Some(terminal) = &running.terminal {
                        execute::give_foreground(terminal, running.pid);
                    }
                    let _ = nix::sys::signal::killpg(Pid::from_raw(running.pid), Signal::SIGCONT);
                }
                Ok(())
            }
            ToChild::EndAll => {
                loop {
                    // From pid 1: every process of the namespace but itself.
                    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
                    match process::wait_any(true).doing("reaping")? {
                        Some(waited) => self.ended(&waited)?,
                        None => break,
                    }
                }
                self.commands.send(&FromChild::Quiet, &[])
            }
        }
    }

    /// Reaps whatever has ended, orphans too.
    fn reap(&mut self) -> Result<()> {
        while let Some(waited) = process::wait_any(false).doing("reaping")? {
            self.ended(&waited)?;
        }
        Ok(())
    }

    /// Tells the caller what happened to its command; about other children nobody asks.
    fn ended(&mut self, waited: &Waited) -> Result<()> {
        let Some(running) = self.running.as_ref().filter(|running| running.pid == waited.pid) else {
            return Ok(());
        };
        let outcome = match waited.event {
            WaitEvent::Exited(status) => Outcome::Exited(status as u8),
            WaitEvent::Signalled(signal) => Outcome::Signalled(signal),
            // Without a terminal nobody is there to make it go on: it is the caller's own doing.
            WaitEvent::Stopped if running.terminal.is_none() => return Ok(()),
            WaitEvent::Stopped => return self.commands.send(&FromChild::Paused, &[]),
        };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        let status = Status {
            outcome,
            wall_seconds: running.started.elapsed().as_secs_f64(),
            user_seconds: seconds(waited.usage.ru_utime),
            system_seconds: seconds(waited.usage.ru_stime),
            peak_memory: u64::try_from(waited.usage.ru_maxrss).unwrap_or(0) * 1024,
        };
        self.running = None;
        self.commands.send(&FromChild::Ended(status), &[])
    }
}
