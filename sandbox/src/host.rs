//! Programs of the host on a tree that is a folder of the host, such as a user's own hooks: in a user
//! namespace in which the tree's owners are somebody, and else where they always are.
//!
//! They see the host's files as the calling user sees them, have its network, and are root of the
//! namespace. Beside that they have a mount namespace, so that what they mount is gone when they are, and
//! a pid namespace, so that nothing that they leave behind runs on. This is no fence: it is the caller's
//! own program. In tier full it may give files of the caller to the caller's subordinate ids, wherever
//! they are, as the kernel has it; in tier single owners are recorded below the folder alone, and nothing of
//! the host outside of it can be given to anybody (EPERM).

use std::{
    env, fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use nix::{
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::Signal,
        stat::{Mode, umask},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::{
    child,
    commands::Commands,
    disk::{self, Missing, NotOnDisk},
    enforced::Tier,
    error::{Doing, Error, Result, Step},
    helper::{Helper, unexpected},
    monitor::end_process,
    owners::{Owner, Remembered},
    plan::Plan,
    protocol::{Channel, FromChild, FromMonitor, Start, ToMonitor},
    seccomp::{self, Wanted},
    session::{Command, Status},
    supervisor::{self, OwnersElsewhere, Supervisor},
    sys::process::{self, Fork},
};

/// How a program of the host ended, and what it left.
#[derive(Clone, Debug, PartialEq)]
pub struct RanOnHost {
    /// How it ended.
    pub status: Status,
    /// How it saw owners.
    pub tier: Tier,
    /// In tier single, owners of links and special files below the folder, which cannot carry a record: all
    /// that are not root's, sorted by path.
    pub links: Vec<NotOnDisk>,
}

/// Runs a program of the host (see the module) and waits for its end. `links`: owners that the folder's
/// links cannot carry, as [`Moved::not_on_disk`](crate::Moved::not_on_disk) has them; in tier full the kernel
/// knows them. Paths mean the host's, and the environment is the caller's. The command starts in its own
/// folder, or else in the caller's; its standard input is /dev/null unless it names a descriptor. Where the
/// tree's root has another number ([`FirstIds`](crate::FirstIds)), the program sees the namespace's numbers.
///
/// When `stop` becomes true, all that it started is killed, and the result is an error of the kind
/// [`Kind::Interrupted`](crate::Kind::Interrupted).
pub fn run_on_host(
    folder: &Path,
    tier: Option<Tier>,
    links: &[NotOnDisk],
    command: &Command,
    stop: &AtomicBool,
) -> Result<RanOnHost> {
    let folder = disk::absolute_folder(folder)?;
    let folder = fs::canonicalize(&folder).doing_to("finding", &folder)?;
    let mut plan = Plan::new(Vec::new(), PathBuf::new());
    plan.mounts.clear();
    plan.no_sync = false;
    plan.limits.processes = u64::MAX;
    plan.environment =
        env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    let environment = plan.environment.clone();
    let mut helper = Helper::start_in_own_groups(tier)?;
    let known = links.iter().filter_map(|link| match link.what {
        Missing::Owner { uid, gid } => {
            Some(Remembered { path: link.path.clone(), owner: Owner { uid, gid } })
        }
        Missing::Attribute { .. } => None,
    });
    let on_host = OnHost { folder, links: known.collect(), mask: own_mask() };
    let start =
        Start { plan, tier: helper.tier, folder: PathBuf::new(), swept: Vec::new(), on_host: Some(on_host) };
    let (mut commands, theirs) = Channel::pair()?;
    let theirs = theirs.into_socket();
    match helper.ask(&ToMonitor::StartOnHost(Box::new(start)), &[theirs.as_fd()])?.0 {
        FromMonitor::Started => drop(theirs),
        other => return Err(unexpected(&other)),
    }
    match commands.receive()? {
        Some((FromChild::ReadyOnHost, _)) => {}
        Some((FromChild::Failed(error), _)) => return Err(error),
        Some((other, _)) => return Err(unexpected(&other)),
        None => return Err(Error::bug("the process that starts programs died")),
    }
    let current = env::current_dir().doing("finding the current folder")?.into_os_string().into_vec();
    let status = Commands::on_host(commands, environment, current).run_unless(command, stop)?;
    let links = match helper.ask(&ToMonitor::EndOnHost, &[])?.0 {
        FromMonitor::Links(links) => links,
        other => return Err(unexpected(&other)),
    };
    let tier = helper.tier;
    helper.ask_done(&ToMonitor::Close)?;
    let not_on_disk = |Remembered { path, owner: Owner { uid, gid } }| NotOnDisk {
        path,
        what: Missing::Owner { uid, gid },
        why: disk::NO_RECORD.to_owned(),
    };
    let mut links: Vec<_> = links.into_iter().map(not_on_disk).collect();
    links.sort();
    Ok(RanOnHost { status, tier, links })
}

/// The caller's mask for new files, which can be read without being set.
fn own_mask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}

/// What the monitor is told of a program of the host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OnHost {
    /// Where the tree is, without a link in the path.
    #[serde(with = "crate::bytes")]
    pub(crate) folder: PathBuf,
    /// Owners of what cannot carry a record, by their paths below the folder.
    links: Vec<Remembered>,
    mask: u32,
}

impl OnHost {
    /// The links by their paths on the host, without a leading slash.
    fn links_on_host(&self) -> Vec<(Vec<u8>, Owner)> {
        let path = |link: &Remembered| {
            let path = self.folder.join(std::ffi::OsStr::from_bytes(&link.path)).into_os_string().into_vec();
            path.strip_prefix(b"/").unwrap_or(&path).to_vec()
        };
        self.links.iter().map(|link| (path(link), link.owner)).collect()
    }

    /// What the supervisor remembers, by the paths below the folder.
    fn links_below(&self, owners: Vec<Remembered>) -> Vec<Remembered> {
        let top = self.folder.as_os_str().as_bytes();
        let top = [top.strip_prefix(b"/").unwrap_or(top), b"/"].concat();
        let below = |link: Remembered| {
            let path = link.path.strip_prefix(top.as_slice())?.to_vec();
            Some(Remembered { path, ..link })
        };
        owners.into_iter().filter_map(below).collect()
    }
}

/// A program of the host and what belongs to it, as the monitor has it.
pub(crate) struct Running {
    start: Start,
    child: Pid,
    supervisor: Option<Supervisor>,
    /// Closes when this process ends.
    _lifeline: OwnedFd,
}

impl Running {
    /// Starts pid 1 of the program's namespaces.
    pub(crate) fn start(start: Start, descriptors: Vec<OwnedFd>, control: &Channel) -> Result<Self> {
        let commands = descriptors.into_iter().next();
        let commands = commands.ok_or_else(|| Error::bug("pid 1's socket is missing"))?;
        let (end_of_life, lifeline) = nix::unistd::pipe2(OFlag::O_CLOEXEC).doing("making a pipe")?;
        let on_host = start.on_host.as_ref().ok_or_else(|| Error::bug("there is no folder"))?;
        let others = [control.as_fd(), commands.as_fd(), lifeline.as_fd()];
        let (supervisor, calls) = supervisor::start(&start, on_host.links_on_host(), &others)?.unzip();
        unshare(CloneFlags::CLONE_NEWPID)
            .doing("making a pid namespace")
            .map_err(|error| error.at(Step::Namespaces))?;
        match process::fork().doing("starting pid 1")? {
            Fork::Parent(pid) => {
                Ok(Running { child: Pid::from_raw(pid), supervisor, _lifeline: lifeline, start })
            }
            Fork::Child => {
                process::close_now(control);
                process::close_now(&lifeline);
                be_pid_1(&start, Channel::new(commands), end_of_life, calls)
            }
        }
    }

    /// Kills all that runs; gives the owners of links.
    pub(crate) fn end(self) -> Vec<Remembered> {
        end_process(self.child);
        let Some(mut supervisor) = self.supervisor else { return Vec::new() };
        let answer = supervisor.control.receive::<OwnersElsewhere>();
        end_process(Pid::from_raw(supervisor.pid));
        let owners = answer.ok().flatten().map(|(answer, _)| answer.owners).unwrap_or_default();
        self.start.on_host.map(|on_host| on_host.links_below(owners)).unwrap_or_default()
    }
}

/// Sets the namespaces up and starts commands until the end.
fn be_pid_1(
    start: &Start,
    mut commands: Channel,
    end_of_life: OwnedFd,
    mut supervisor: Option<Channel>,
) -> ! {
    let status = match set_up(start, &mut supervisor) {
        Ok(root) => {
            let served = commands
                .send(&FromChild::ReadyOnHost, &[])
                .and_then(|()| child::serve_on_host(&start.plan, root, commands, end_of_life, supervisor));
            i32::from(served.is_err())
        }
        Err(error) => {
            let _ = commands.send(&FromChild::Failed(error), &[]);
            1
        }
    };
    process::exit_now(status)
}

fn set_up(start: &Start, supervisor: &mut Option<Channel>) -> Result<OwnedFd> {
    const NONE: Option<&str> = None;
    prctl::set_pdeathsig(Signal::SIGKILL).doing("tying pid 1 to the monitor")?;
    let _ = prctl::set_name(c"sandbox-init");
    unshare(CloneFlags::CLONE_NEWNS)
        .doing("making a mount namespace")
        .map_err(|error| error.at(Step::Namespaces))?;
    // What the host mounts later shows here, what is mounted here does not show there.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)
        .doing("making all mounts private")
        .map_err(|error| error.at(Step::Mounts))?;
    // Where that is forbidden, /proc has the host's numbers of processes, which hurts few programs.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let _ = mount(Some("proc"), "/proc", Some("proc"), flags, NONE);
    umask(Mode::from_bits_truncate(start.on_host.as_ref().map_or(0o022, |on_host| on_host.mask)));
    if let Some(supervisor) = supervisor {
        let mounts = fs::File::open("/proc/self/ns/mnt").doing("opening the mount namespace")?;
        let wanted = Wanted { allows_all: true, ..supervisor::wanted(&start.plan, start.tier) };
        let listener = seccomp::install(wanted)
            .doing("installing the system call filter")
            .map_err(|error| error.at(Step::Seccomp))?;
        let listener = listener.ok_or_else(|| Error::bug("the filter asks nobody"))?;
        supervisor.send(&supervisor::Watch { calls: true }, &[mounts.as_fd(), listener.as_fd()])?;
    }
    open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).doing("opening the root")
}
