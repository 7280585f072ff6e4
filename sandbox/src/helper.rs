//! The caller's side of the monitor process: starting it, mapping its ids, asking it.
//!
//! The caller may have threads (and libraries that have), so it can neither unshare nor fork
//! itself: the program is executed again, and [`init`] takes over there before anything else runs. A
//! program that knows in time that it will need a sandbox can have it forked off while it still has one
//! thread: [`prepare`].

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

use nix::{
    sys::{stat::fstat, wait::waitpid},
    unistd::Pid,
};

use crate::{
    capture::{Change, Entry},
    enforced::{Mapping, Tier},
    error::{Doing, Error, Result, Step},
    monitor,
    owners::Owner,
    protocol::{Channel, FromMonitor, ToMonitor},
    supervisor,
    sys::process::{self, Fork},
    userns,
};

/// argv[0] of the re-executed program. No path ends in it, so nobody starts it by mistake.
const NAME: &str = "treestrap-sandbox";

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Must be the first thing that `main` does: in the re-executed helper it takes over and never
/// returns; in the program itself it returns at once and makes [`Session::start`] possible.
///
/// [`Session::start`]: crate::Session::start
pub fn init() {
    if std::env::args_os().next().is_some_and(|name| name == NAME) {
        monitor::run();
    }
    let _ = PROGRAM.set(PathBuf::from("/proc/self/exe"));
}

/// Lets another program be the helper, one whose `main` calls [`init`]: for test programs, whose
/// `main` is not their own. Without effect after [`init`].
pub fn use_helper(program: PathBuf) {
    let _ = PROGRAM.set(program);
}

/// What [`prepare`] started, for the first session.
static PREPARED: Mutex<Option<(Process, Channel)>> = Mutex::new(None);

/// Starts the monitor of the first session, in good time. Only worth it where a session will follow: what
/// is saved is executing a large program and loading its libraries. Does nothing where this process has
/// several threads already, or cannot fork; then a session starts as it does without.
pub fn prepare() {
    let has_one_thread = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if !has_one_thread {
        return;
    }
    let Ok((control, theirs)) = Channel::pair() else { return };
    match process::fork() {
        Ok(Fork::Parent(pid)) => {
            let prepared = Some((Process::Forked(Pid::from_raw(pid)), control));
            *PREPARED.lock().unwrap_or_else(PoisonError::into_inner) = prepared;
        }
        Ok(Fork::Child) => {
            let theirs = theirs.into_socket();
            if process::become_helper(theirs.as_fd()).is_err() {
                process::exit_now(1);
            }
            monitor::run()
        }
        Err(_) => {}
    }
}

/// The monitor's process.
enum Process {
    Executed(Child),
    Forked(Pid),
}

impl Process {
    fn id(&self) -> u32 {
        match self {
            Process::Executed(child) => child.id(),
            Process::Forked(pid) => pid.as_raw().unsigned_abs(),
        }
    }

    fn wait(&mut self) {
        match self {
            Process::Executed(child) => drop(child.wait()),
            Process::Forked(pid) => while waitpid(*pid, None) == Err(nix::errno::Errno::EINTR) {},
        }
    }
}

/// A running monitor with a mapped user namespace.
pub(crate) struct Helper {
    process: Process,
    control: Option<Channel>,
    pub(crate) mapping: Mapping,
    /// How ids are mapped.
    pub(crate) tier: Tier,
    /// Why the tier is not a better one, if one was tried.
    pub(crate) degraded: Option<Error>,
}

impl Helper {
    /// Starts one in this tier; or else in the best that can be had.
    pub(crate) fn start(tier: Option<Tier>) -> Result<Self> {
        Helper::start_with(tier, false)
    }

    /// The same, with the caller's groups, for what runs on the host's files.
    pub(crate) fn start_in_own_groups(tier: Option<Tier>) -> Result<Self> {
        Helper::start_with(tier, true)
    }

    fn start_with(tier: Option<Tier>, keep_groups: bool) -> Result<Self> {
        let error = match tier {
            Some(tier) => return Helper::start_in(tier, keep_groups),
            None => match Helper::start_in(Tier::Full, keep_groups) {
                Err(error) if error.step() == Some(Step::Mapping) => error,
                other => return other,
            },
        };
        // Should this fail too, then for the same reason or one that is harder to understand.
        match Helper::start_in(Tier::Single, keep_groups) {
            Ok(mut helper) => {
                helper.degraded = Some(error);
                Ok(helper)
            }
            Err(_) => Err(error),
        }
    }

    fn start_in(tier: Tier, keep_groups: bool) -> Result<Self> {
        if tier == Tier::Single && !supervisor::SINGLE_IS_KNOWN {
            let message = "tier single knows no structures of this architecture";
            return Err(Error::machine(message).at(Step::Mapping));
        }
        let program = PROGRAM.get().ok_or_else(|| {
            Error::bug("sandbox::init() was not called: it has to be the first thing in main()")
        })?;
        let prepared = PREPARED.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (mut process, mut control) = match prepared {
            Some(prepared) => prepared,
            None => {
                let (control, theirs) = Channel::pair()?;
                let child = Command::new(program)
                    .arg0(NAME)
                    .stdin(Stdio::from(theirs.into_socket()))
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .doing_to("starting the sandbox's monitor,", program)?;
                (Process::Executed(child), control)
            }
        };
        match Helper::map(&mut control, process.id(), tier, keep_groups) {
            Ok(mapping) => Ok(Helper { process, control: Some(control), mapping, tier, degraded: None }),
            Err(error) => {
                drop(control); // the monitor ends when it sees this
                process.wait();
                Err(error)
            }
        }
    }

    fn map(control: &mut Channel, pid: u32, tier: Tier, keep_groups: bool) -> Result<Mapping> {
        match answer(control)?.0 {
            FromMonitor::Unshared => {}
            other => return Err(unexpected(&other)),
        }
        let mapping = match tier {
            Tier::Full => userns::write_maps(pid)?,
            Tier::Single => userns::write_single_maps(pid)?,
        };
        control.send(&ToMonitor::Mapped { tier, keep_groups }, &[])?;
        Ok(mapping)
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(
        &mut self,
        question: &ToMonitor,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(FromMonitor, Vec<OwnedFd>)> {
        let control = self.control.as_mut().ok_or_else(|| Error::bug("the session is closed"))?;
        // A send fails when the monitor has died; then the answer says so better.
        match (control.send(question, descriptors), answer(control)) {
            (_, Ok(answer)) => Ok(answer),
            (sent, Err(error)) => sent.and(Err(error)),
        }
    }

    /// Asks for something whose answer is just that it is done.
    pub(crate) fn ask_done(&mut self, question: &ToMonitor) -> Result<()> {
        match self.ask(question, &[])?.0 {
            FromMonitor::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for something whose answer is a list of changes; gives the answer behind them. The first error
    /// that `each` gives ends the list.
    pub(crate) fn receive_changes<E: From<Error>>(
        &mut self,
        question: &ToMonitor,
        each: &mut dyn FnMut(Change, Option<File>) -> std::result::Result<(), E>,
    ) -> std::result::Result<FromMonitor, E> {
        let mut answer = self.ask(question, &[])?;
        loop {
            let (changes, last, contents) = match answer {
                (FromMonitor::Changes { changes, last }, contents) => (changes, last, contents),
                (FromMonitor::WhoseIsThis, files) => {
                    let file = files.first().ok_or_else(|| Error::bug("a file got lost on the way"))?;
                    let stat = fstat(file).doing("looking at a file")?;
                    let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
                    answer = self.ask(&ToMonitor::ItIs(owner), &[])?;
                    continue;
                }
                (other, _) => return Err(unexpected(&other).into()),
            };
            let mut contents = contents.into_iter().map(File::from);
            for change in changes {
                let content = match change.now {
                    Entry::File { .. } => {
                        Some(contents.next().ok_or_else(|| Error::bug("a file came without content"))?)
                    }
                    _ => None,
                };
                if let Err(error) = each(change, content) {
                    self.ask(&ToMonitor::Enough, &[])?;
                    return Err(error);
                }
            }
            answer = self.ask(&ToMonitor::Next, &[])?;
            if last {
                return Ok(answer.0);
            }
        }
    }

    /// Lets the monitor end (if it has not been asked to, it cleans up first) and waits for that.
    pub(crate) fn end(&mut self) {
        self.control = None;
        self.process.wait();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(control) = &mut self.control {
            // Or it would take this process for killed.
            let _ = control.send(&ToMonitor::Close, &[]);
        }
        self.end();
    }
}

fn answer(control: &mut Channel) -> Result<(FromMonitor, Vec<OwnedFd>)> {
    match control.receive()? {
        Some((FromMonitor::Failed(error), _)) => Err(error),
        Some(answer) => Ok(answer),
        None => Err(Error::bug("the sandbox's monitor died")),
    }
}

/// The helper said something else than what the protocol has at this point.
pub(crate) fn unexpected(answer: &impl std::fmt::Debug) -> Error {
    Error::bug(format_args!("the sandbox answered {answer:?} where that makes no sense"))
}
