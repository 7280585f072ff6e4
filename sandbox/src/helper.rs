//! The caller's side of the monitor process: starting it, mapping its ids, asking it.
//!
//! The caller may have threads (and libraries that have), so it can neither unshare nor fork
//! itself: the program is executed again, and [`init`] takes over there before anything else runs.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use crate::{
    enforced::{Mapping, Tier},
    error::{Doing, Error, Result, Step},
    monitor,
    protocol::{Channel, FromMonitor, ToMonitor},
    supervisor, userns,
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

/// A running monitor with a mapped user namespace.
pub(crate) struct Helper {
    process: Child,
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
        let error = match tier {
            Some(tier) => return Helper::start_in(tier),
            None => match Helper::start_in(Tier::Full) {
                Err(error) if error.step() == Some(Step::Mapping) => error,
                other => return other,
            },
        };
        // Should this fail too, then for the same reason or one that is harder to understand.
        match Helper::start_in(Tier::Single) {
            Ok(mut helper) => {
                helper.degraded = Some(error);
                Ok(helper)
            }
            Err(_) => Err(error),
        }
    }

    fn start_in(tier: Tier) -> Result<Self> {
        if tier == Tier::Single && !supervisor::SINGLE_IS_KNOWN {
            let message = "tier single knows no structures of this architecture";
            return Err(Error::machine(message).at(Step::Mapping));
        }
        let program = PROGRAM.get().ok_or_else(|| {
            Error::bug("sandbox::init() was not called: it has to be the first thing in main()")
        })?;
        let (mut control, theirs) = Channel::pair()?;
        let mut process = Command::new(program)
            .arg0(NAME)
            .stdin(Stdio::from(theirs.into_socket()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .doing_to("starting the sandbox's monitor,", program)?;
        match Helper::map(&mut control, process.id(), tier) {
            Ok(mapping) => Ok(Helper { process, control: Some(control), mapping, tier, degraded: None }),
            Err(error) => {
                drop(control); // the monitor ends when it sees this
                let _ = process.wait();
                Err(error)
            }
        }
    }

    fn map(control: &mut Channel, pid: u32, tier: Tier) -> Result<Mapping> {
        match answer(control)?.0 {
            FromMonitor::Unshared => {}
            other => return Err(unexpected(&other)),
        }
        let mapping = match tier {
            Tier::Full => userns::write_maps(pid)?,
            Tier::Single => userns::write_single_maps(pid)?,
        };
        control.send(&ToMonitor::Mapped(tier), &[])?;
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

    /// Lets the monitor end (if it has not been asked to, it cleans up first) and waits for that.
    pub(crate) fn end(&mut self) {
        self.control = None;
        let _ = self.process.wait();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
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
