//! Starting one command inside: its session, descriptors, folder, limits, and exec.

use std::{
    ffi::{CString, OsStr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    },
    unistd::{Pid, chdir, chroot, fchdir, setpgid, setsid, tcsetpgrp},
};

use crate::{
    Kind,
    bytes::escape,
    enforced::MemoryLimit,
    error::{Doing, Error, Result},
    plan::Plan,
    protocol::{Channel, FromChild, Run},
    sys::process::{self, Fork},
};

/// Starts it; gives its process id once the program runs, or why it could not be started.
pub(crate) fn start(
    run: &Run,
    plan: &Plan,
    memory: Option<MemoryLimit>,
    root: &OwnedFd,
    descriptors: &[OwnedFd],
) -> Result<i32> {
    if descriptors.len() != run.descriptors.len() {
        return Err(Error::bug("descriptors got lost on the way"));
    }
    // Both ends are closed on exec, so the reader sees either an error or the end.
    let (mut reader, mut writer) = Channel::pair()?;
    match process::fork().doing("starting a process")? {
        Fork::Parent(pid) => {
            drop(writer);
            match reader.receive()? {
                None => Ok(pid),
                Some((FromChild::Failed(error), _)) => Err(error),
                Some((other, _)) => Err(crate::helper::unexpected(&other)),
            }
        }
        Fork::Child => {
            let Err(error) = become_command(run, plan, memory, root, descriptors);
            let _ = writer.send(&FromChild::Failed(error), &[]);
            process::exit_now(127)
        }
    }
}

/// Becomes the command. The child of a single-threaded process may do anything here.
fn become_command(
    run: &Run,
    plan: &Plan,
    memory: Option<MemoryLimit>,
    root: &OwnedFd,
    descriptors: &[OwnedFd],
) -> Result<std::convert::Infallible> {
    fchdir(root).and_then(|()| chroot(".")).doing("changing to the root")?;
    let terminal = descriptors.first().filter(|_| run.terminal);
    match terminal {
        Some(terminal) => {
            // A job of its own in the caller's session, so that Ctrl-C, Ctrl-Z and a shell's own
            // job control work on the caller's terminal.
            setpgid(Pid::from_raw(0), Pid::from_raw(0)).doing("making a process group")?;
            give_foreground(terminal, nix::unistd::getpid().as_raw());
        }
        // No terminal at all: nothing inside can type into it or be stopped by it.
        None => drop(setsid().doing("making a session")?),
    }
    let limit = |resource, value: u64| setrlimit(resource, value, value).doing("setting a resource limit");
    // An ordinary user's hard limit cannot be raised.
    let (_, most) = getrlimit(Resource::RLIMIT_NPROC).doing("reading a resource limit")?;
    limit(Resource::RLIMIT_NPROC, plan.limits.processes.min(most))?;
    limit(Resource::RLIMIT_CORE, 0)?; // no core dump ends up in an image
    if let Some(MemoryLimit::EachProcess(most)) = memory {
        limit(Resource::RLIMIT_DATA, most)?;
    }
    let folder = if run.folder.is_empty() { b"/" } else { run.folder.as_slice() };
    chdir(OsStr::from_bytes(folder))
        .doing(format_args!("changing to the folder {}", escape(folder)))
        .map_err(|error| error.of_kind(Kind::Command))?;
    place(run, descriptors)?;
    process::reset_signals();
    Err(execute(run))
}

/// Gives the foreground of a terminal to a process group of its session. Failure is no harm: the
/// command is stopped when it reads, as any background job.
pub(crate) fn give_foreground(terminal: &OwnedFd, group: i32) {
    let mut output_stop = SigSet::empty();
    output_stop.add(Signal::SIGTTOU);
    let mut before = SigSet::empty();
    // Who is not in the foreground himself may do this only while SIGTTOU is blocked: tcsetpgrp(3).
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&output_stop), Some(&mut before));
    let _ = tcsetpgrp(terminal, Pid::from_raw(group));
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
}

/// Moves the descriptors to their numbers; all others are closed on exec.
fn place(run: &Run, descriptors: &[OwnedFd]) -> Result<()> {
    const DOING: &str = "placing descriptors";
    let above = run.descriptors.iter().copied().max().unwrap_or(2).max(2) + 1;
    // A target may be the number that another source has now: first move all out of the way.
    let mut moved = Vec::new();
    for descriptor in descriptors {
        moved.push(process::duplicate_above(descriptor.as_fd(), above).doing(DOING)?);
    }
    process::close_on_exec_except(&[]).doing(DOING)?;
    for (descriptor, &target) in moved.iter().zip(&run.descriptors) {
        process::duplicate_onto(descriptor.as_fd(), target).doing(DOING)?;
    }
    for number in (0..3).filter(|number| !run.descriptors.contains(number)) {
        let null =
            nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty());
        let null = null.doing("opening /dev/null")?;
        let null = process::duplicate_above(null.as_fd(), above).doing(DOING)?;
        debug_assert!(null.as_raw_fd() >= above);
        process::duplicate_onto(null.as_fd(), number).doing(DOING)?;
    }
    Ok(())
}

/// Looks the program up as execvp(3) does and executes it; returns why that failed. Unlike execvp it
/// hands nothing to a shell: a file without `#!` is an error.
fn execute(run: &Run) -> Error {
    let Some(name) = run.arguments.first().filter(|name| !name.is_empty()) else {
        return Error::new(Kind::Command, "the command is empty");
    };
    let strings = |list: &[Vec<u8>]| -> std::result::Result<Vec<CString>, _> {
        list.iter().map(|bytes| CString::new(bytes.as_slice())).collect()
    };
    let (Ok(arguments), Ok(environment)) = (strings(&run.arguments), strings(&run.environment)) else {
        return Error::new(Kind::Command, "an argument or a variable has a NUL byte in it");
    };
    let path =
        run.environment.iter().find_map(|variable| variable.strip_prefix(b"PATH=")).unwrap_or_default();
    let candidates: Vec<Vec<u8>> = if name.contains(&b'/') {
        vec![name.clone()]
    } else {
        path.split(|&byte| byte == b':').map(|folder| [folder, b"/", name].concat()).collect()
    };
    let mut errno = Errno::ENOENT;
    for candidate in candidates {
        let Ok(candidate) = CString::new(candidate) else { continue };
        match process::execute(&candidate, &arguments, &environment) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // Perhaps a later folder has one that may be executed.
            Errno::EACCES => errno = Errno::EACCES,
            other => {
                errno = other;
                break;
            }
        }
    }
    let error = Error::system(format_args!("starting {}", escape(name)), errno).of_kind(Kind::Command);
    match errno {
        Errno::ENOEXEC => error.with_hint(
            "a binary of another architecture needs an interpreter (qemu-user); a script needs a first line with #!",
        ),
        Errno::ENOENT if name.contains(&b'/') => {
            error.with_hint("the file, its `#!` interpreter or its dynamic loader is not in the image")
        }
        _ => error,
    }
}
