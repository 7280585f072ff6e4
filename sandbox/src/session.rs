//! The caller's side of a sandbox: start it, run commands in it, ask what they changed.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd, RawFd},
    path::{Path, PathBuf, absolute},
    sync::atomic::AtomicBool,
};

use serde::{Deserialize, Serialize};

use crate::{
    capture::Change,
    commands::Commands,
    disk::{self, Edits, Moved},
    enforced::Enforced,
    error::{Doing, Error, Kind, Result},
    helper::{Helper, unexpected},
    plan::{Layer, Plan, Source, Stored, Work},
    protocol::{Channel, FromChild, FromMonitor, Start, ToMonitor},
    sweep,
    work::{self, WorkFolder},
};

/// A command to run inside.
#[derive(Debug)]
pub struct Command {
    /// The program, looked up in the `PATH` of its environment unless it has a slash, and its
    /// arguments.
    pub arguments: Vec<Vec<u8>>,
    /// `NAME=value`: over and above the plan's, and instead of those with the same name.
    pub environment: Vec<Vec<u8>>,
    /// The folder it starts in; `/` if empty.
    pub folder: Vec<u8>,
    /// Descriptor 0. Inherited from a terminal whose foreground the caller has, it makes the command
    /// interactive: it gets the foreground, Ctrl-C and Ctrl-Z are its own, a shell has job control.
    pub stdin: Stdio,
    /// Descriptor 1.
    pub stdout: Stdio,
    /// Descriptor 2.
    pub stderr: Stdio,
    /// More descriptors, with the numbers they get.
    pub descriptors: Vec<(OwnedFd, RawFd)>,
}

/// What a standard descriptor of a command is.
#[derive(Debug)]
pub enum Stdio {
    /// The caller's own.
    Inherit,
    /// The sandbox's /dev/null.
    Null,
    /// This.
    Descriptor(OwnedFd),
}

impl Command {
    /// A command that inherits the three standard descriptors.
    pub fn new<T: Into<Vec<u8>>>(arguments: impl IntoIterator<Item = T>) -> Self {
        Command {
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            folder: Vec::new(),
            stdin: Stdio::Inherit,
            stdout: Stdio::Inherit,
            stderr: Stdio::Inherit,
            descriptors: Vec::new(),
        }
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.environment.push([name.as_bytes(), b"=", value.as_ref()].concat());
        self
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// With this exit status.
    Exited(u8),
    /// By this signal.
    Signalled(i32),
}

/// How a command ended and what it used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// How it ended.
    pub outcome: Outcome,
    /// Time on the clock, in seconds.
    pub wall_seconds: f64,
    /// Processor time in programs, of it and the children it waited for, in seconds.
    pub user_seconds: f64,
    /// Processor time in the kernel, in seconds.
    pub system_seconds: f64,
    /// The largest resident size of one of its processes, in bytes.
    pub peak_memory: u64,
}

impl Status {
    /// Whether it ended with exit status 0.
    pub fn success(&self) -> bool {
        self.outcome == Outcome::Exited(0)
    }

    /// The exit status as a shell has it: 128 and more for a signal.
    pub fn code(&self) -> u8 {
        match self.outcome {
            Outcome::Exited(status) => status,
            Outcome::Signalled(signal) => u8::try_from(signal).unwrap_or(127).saturating_add(128),
        }
    }
}

/// A running sandbox. Dropping it ends everything inside and removes its folder, as [`close`] does;
/// so does the death of the calling process, even by kill -9.
///
/// [`close`]: Session::close
pub struct Session {
    helper: Helper,
    commands: Commands,
    enforced: Enforced,
    folder: PathBuf,
    /// Whether what changed has been moved.
    moved: bool,
}

impl Session {
    /// Starts a sandbox. [`init`](crate::init) must have been called.
    pub fn start(plan: &Plan) -> Result<Session> {
        let plan = with_absolute_paths(plan)?;
        let folder = WorkFolder::open(&plan.work)?;
        match Session::start_in(plan, &folder) {
            Ok(session) => Ok(session),
            Err(error) => {
                // The monitor may not have come so far as to clean up; then only the lock is there.
                if folder.is_new {
                    let _ = work::remove(&folder.path);
                }
                Err(error)
            }
        }
    }

    fn start_in(plan: Plan, folder: &WorkFolder) -> Result<Session> {
        let mut helper = Helper::start(plan.tier)?;
        let (mut commands, theirs) = Channel::pair()?;
        let theirs = theirs.into_socket();
        let start = Start {
            plan,
            tier: helper.tier,
            folder: folder.path.clone(),
            swept: sweep::folders(),
            on_host: None,
        };
        let question = ToMonitor::Start(Box::new(start));
        match helper.ask(&question, &[theirs.as_fd(), folder.lock.as_fd()])?.0 {
            FromMonitor::Started => drop(theirs),
            other => return Err(unexpected(&other)),
        }
        let ToMonitor::Start(start) = question else { return Err(Error::bug("a message changed its kind")) };
        let mut inside = match commands.receive()? {
            Some((FromChild::Ready(inside), _)) => inside,
            Some((FromChild::Failed(error), _)) => return Err(error),
            Some((other, _)) => return Err(unexpected(&other)),
            None => return Err(Error::bug("pid 1 of the sandbox died while it was set up")),
        };
        if let Some(why) = &helper.degraded {
            inside.degraded.push(format!("tier single, and not full: {why}"));
        }
        let Start { plan, folder, .. } = *start;
        let (tier, mapping) = (helper.tier, helper.mapping.clone());
        let enforced = Enforced { tier, asked_view: plan.view, mapping, inside };
        let commands = Commands::new(commands, plan.environment, plan.limits.time);
        Ok(Session { helper, commands, enforced, folder, moved: false })
    }

    /// What it really has.
    pub fn enforced(&self) -> &Enforced {
        &self.enforced
    }

    /// Runs a command and waits for its end. Processes that it leaves behind run on, until the next
    /// [`changes`](Session::changes), [`keep`](Session::keep) or [`close`](Session::close).
    pub fn run(&mut self, command: &Command) -> Result<Status> {
        self.run_unless(command, &AtomicBool::new(false))
    }

    /// The same, but when `stop` becomes true, everything inside is killed and the result is an error
    /// of the kind [`Kind::Interrupted`]. The session stays usable: to keep, or to look at.
    pub fn run_unless(&mut self, command: &Command, stop: &AtomicBool) -> Result<Status> {
        self.commands.run_unless(command, stop)
    }

    /// Ends everything inside and lists what changed against the layers: folders before what is in
    /// them, names sorted by their bytes. A file comes with its content, open for reading at its
    /// start. No command can run afterwards. The first error that `each` gives ends the list.
    pub fn changes<E: From<Error>>(
        &mut self,
        each: &mut dyn FnMut(Change, Option<File>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.commands.over = Some("the changes were listed");
        match self.helper.receive_changes(&ToMonitor::Changes, each)? {
            FromMonitor::Done => Ok(()),
            other => Err(unexpected(&other).into()),
        }
    }

    /// Ends everything inside and moves the upper layer to `folder`, which must not exist and must be
    /// on the same file system. A plan with [`Work::Kept`] goes on from it;
    /// [`remove_kept`](crate::remove_kept) removes it.
    pub fn keep(&mut self, folder: &Path) -> Result<()> {
        self.commands.over = Some("the session was kept");
        let folder = absolute(folder).doing_to("finding", folder)?;
        self.helper.ask_done(&ToMonitor::Keep(folder.clone()))?;
        self.folder = folder;
        Ok(())
    }

    /// Ends everything inside and moves what changed into `target`, the folder of the host that the
    /// lowest layer was made of. Files become further names of what is in the upper layer where both are
    /// in one file system, and are copied else; what is there at a changed name goes away. When the
    /// session is [closed](Session::close) then, its folder is removed, a kept one, too.
    ///
    /// Owners are the kernel's in tier full, and records in tier single: [`Moved::not_on_disk`] has what could
    /// not be so. Once the first change is moved, all of them will be: when this is killed, or fails, the
    /// folder stays, [`unfinished_moves`](crate::unfinished_moves) finds it and
    /// [`finish_move`](crate::finish_move) does the rest.
    pub fn move_into(&mut self, target: &Path, edits: &Edits) -> Result<Moved> {
        self.commands.over = Some("the changes were moved");
        let order = disk::order(&self.folder, target, self.enforced.tier, edits)?;
        match self.helper.ask(&ToMonitor::Move(Box::new(order)), &[])?.0 {
            FromMonitor::Moved(moved) => {
                self.moved = true;
                Ok(moved)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Where its upper layer and its lock are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends everything inside and removes its folder, unless it was kept. Dropping does the same (but for
    /// the folder whose changes were moved) and cannot tell what went wrong.
    pub fn close(mut self) -> Result<()> {
        let concluded = if self.moved { self.helper.ask_done(&ToMonitor::Conclude) } else { Ok(()) };
        let result = concluded.and(self.helper.ask_done(&ToMonitor::Close));
        self.helper.end();
        result
    }
}

/// The helper works in another folder.
fn with_absolute_paths(plan: &Plan) -> Result<Plan> {
    let mut plan = plan.clone();
    let layers = plan.layers.iter_mut().flat_map(|layer| match layer {
        Layer::Folder(path) => vec![path],
        Layer::Stored(Stored { listing, contents }) => vec![listing, contents],
    });
    let sources = plan.mounts.iter_mut().filter_map(|mount| match &mut mount.source {
        Source::ReadOnly(path) | Source::Writable(path) => Some(path),
        Source::Memory { .. } => None,
    });
    let (Work::Below(work) | Work::Kept(work)) = &mut plan.work;
    let interpreters = plan.binfmt.iter_mut().map(|binfmt| &mut binfmt.interpreter);
    for path in layers.chain(sources).chain([work]).chain(interpreters) {
        *path = absolute(&path).doing_to("finding", path).map_err(|error| error.of_kind(Kind::Plan))?;
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_a_shell_s() {
        let status = |outcome| Status {
            outcome,
            wall_seconds: 0.0,
            user_seconds: 0.0,
            system_seconds: 0.0,
            peak_memory: 0,
        };
        assert_eq!(status(Outcome::Exited(3)).code(), 3);
        assert_eq!(status(Outcome::Signalled(9)).code(), 137);
        assert!(status(Outcome::Exited(0)).success() && !status(Outcome::Signalled(15)).success());
    }
}
