//! The process outside the sandbox that watches over it: single-threaded, root of the user
//! namespace, still in the host's mount and pid namespaces.
//!
//! It makes the layers ready, forks pid 1, lists what changed, and removes the work folder, whose
//! files belong to subordinate ids. When its control socket closes, its caller has ended, perhaps by
//! kill -9: then it kills everything inside and cleans up. When it is killed itself, pid 1 dies
//! with it (PR_SET_PDEATHSIG) and takes the pid namespace down; a later [`sweep`] removes the folder.
//!
//! [`sweep`]: crate::sweep

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, Permissions},
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use nix::{
    poll::{PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid},
};

use crate::{
    bytes::{c_string, escape},
    capture,
    cgroup::Group,
    child,
    disk::{self, Moved, Order},
    enforced::Tier,
    error::{Doing, Error, Kind, Result, Step},
    host,
    owners::{self, Links, Owner, Remembered},
    plan::{Layer, Plan, Work},
    protocol::{Channel, FromMonitor, Start, ToMonitor},
    recorded::recorded,
    server,
    stack::{OWNERS, Prepared, candidates, needs_server},
    supervisor::{self, OwnersElsewhere, Supervisor},
    sys::{
        process::{self, Fork},
        xattr::{self, Place},
    },
    view::{Listing, ROOT, give_metadata},
    work::{self, WorkFolder},
};

/// What a terminal or an impatient person sends to the whole process group. The caller decides what
/// they mean; the helper sees its socket close.
const IGNORED: [i32; 9] = [
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGPIPE,
    libc::SIGUSR1,
];

/// Takes the process over. Standard input is the control socket.
pub(crate) fn run() -> ! {
    process::ignore_signals(&IGNORED);
    let status = match prepare() {
        Ok(mut control) => serve(&mut control),
        Err(_) => 1, // without a socket there is nobody to tell
    };
    process::exit_now(status)
}

/// Leaves behind what came with the process: descriptors, the current folder, its name.
fn prepare() -> Result<Channel> {
    let stdin = process::take_standard_input();
    let control = process::duplicate_above(std::os::fd::AsFd::as_fd(&stdin), 3).doing("moving the socket")?;
    process::close_all_from_3_except(&control).doing("closing descriptors")?;
    process::point_at_null(stdin).doing("opening /dev/null")?;
    let _ = nix::sys::prctl::set_name(c"sandbox-monitor");
    nix::unistd::chdir("/").doing("changing to /")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    Ok(Channel::new(control))
}

fn serve(control: &mut Channel) -> i32 {
    let mut monitor = Monitor { session: None, finished: None, on_host: None, closed: false };
    let caller = getppid();
    // On any failure to talk the caller is gone, which is the end in any case.
    let result = monitor.serve(control);
    let session = monitor.session.as_ref();
    let swept = session.filter(|_| !monitor.closed).map(|running| running.start.swept.clone());
    monitor.end();
    sweep_up_after(caller, &swept.unwrap_or_default());
    if let Err(error) = result {
        let _ = control.send(&FromMonitor::Failed(error), &[]);
        return 1;
    }
    0
}

/// Removes the folders for layers of a caller that was killed. Its locks go when the kernel has taken all
/// of it down; then this process is somebody else's child.
fn sweep_up_after(caller: Pid, folders: &[PathBuf]) {
    const PATIENCE: u16 = 2000; // milliseconds
    const MOMENT: u16 = 10;
    for _ in 0..PATIENCE / MOMENT {
        if folders.is_empty() || getppid() != caller {
            break;
        }
        let _ = poll(&mut [], PollTimeout::from(MOMENT));
    }
    for dead in folders.iter().flat_map(|folder| WorkFolder::dead(folder).unwrap_or_default()) {
        let _ = work::remove(&dead.path); // the next sweep finds what is left
    }
}

struct Monitor {
    session: Option<Running>,
    /// The folder of a move that was killed once and now is done.
    finished: Option<PathBuf>,
    /// A program of the host.
    on_host: Option<host::Running>,
    /// Whether the caller ended it, and was not ended itself.
    closed: bool,
}

/// A started sandbox.
struct Running {
    start: Start,
    /// Pid 1 as seen from here; none when it has been ended.
    child: Option<Pid>,
    /// Who answers its system calls, if the plan needs somebody to; likewise.
    supervisor: Option<Supervisor>,
    /// What it knew of owners at the end.
    owners: Option<Vec<Remembered>>,
    /// Who serves views; none when it has been ended, or if no view needs it.
    server: Option<Pid>,
    /// Limits their memory; removed when they have ended.
    group: Option<Group>,
    /// Closes when this process ends.
    _lifeline: OwnedFd,
    _lock: Option<OwnedFd>,
    /// Whether the folder stays when the session ends.
    stays: bool,
    /// Whether all that changed has been moved, and the folder goes when the caller says so.
    moved: bool,
}

impl Monitor {
    fn serve(&mut self, control: &mut Channel) -> Result<()> {
        unshare(CloneFlags::CLONE_NEWUSER)
            .doing("making a user namespace")
            .map_err(|e| e.at(Step::UserNamespace))?;
        control.send(&FromMonitor::Unshared, &[])?;
        match control.receive()? {
            Some((ToMonitor::Mapped { tier, keep_groups }, _)) => {
                become_root(tier == Tier::Full && !keep_groups)?
            }
            _ => return Ok(()),
        }
        while let Some((message, descriptors)) = control.receive()? {
            let closing = matches!(message, ToMonitor::Close);
            self.closed |= closing;
            let answer = match self.handle(message, descriptors, control) {
                Ok(answer) => answer,
                Err(error) => FromMonitor::Failed(error),
            };
            control.send(&answer, &[])?;
            if closing {
                break;
            }
        }
        Ok(())
    }

    fn handle(
        &mut self,
        message: ToMonitor,
        descriptors: Vec<OwnedFd>,
        control: &mut Channel,
    ) -> Result<FromMonitor> {
        match message {
            ToMonitor::Start(start) => {
                self.session = Some(Running::start(*start, descriptors, control)?);
                Ok(FromMonitor::Started)
            }
            ToMonitor::Changes => {
                let session = self.session.as_mut().ok_or_else(|| Error::bug("no session"))?;
                session.end_child()?;
                let recorded = session.owners_elsewhere()?;
                capture::send_changes(&session.start.folder.join("upper"), recorded, control)?;
                Ok(FromMonitor::Done)
            }
            ToMonitor::Read(folder) => {
                let read = capture::send_folder(&folder, control)?;
                read.learnt(&folder).map(FromMonitor::Read)
            }
            ToMonitor::Move(order) => {
                let session = self.session.as_mut().ok_or_else(|| Error::bug("no session"))?;
                session.move_changes(&order).map(FromMonitor::Moved)
            }
            ToMonitor::FinishMove(folder) => {
                let order = Order::read(&folder)?.ok_or_else(|| Error::bug("there is no order"))?;
                let moved = disk::go_on_moving(&folder, &order, &mut || Ok(()))?;
                self.finished = Some(folder);
                Ok(FromMonitor::Moved(moved))
            }
            ToMonitor::CheckOut(stored, target) => {
                disk::fill(&stored, &target.path, target.tier).map(FromMonitor::Moved)
            }
            ToMonitor::Empty(folder) => disk::empty(&folder).map(|()| FromMonitor::Done),
            ToMonitor::Keep(folder) => {
                self.session.as_mut().ok_or_else(|| Error::bug("no session"))?.keep(&folder)?;
                Ok(FromMonitor::Done)
            }
            ToMonitor::Remove(folders) => {
                for folder in folders {
                    remove(&folder)?;
                }
                Ok(FromMonitor::Done)
            }
            ToMonitor::StartOnHost(start) => {
                self.on_host = Some(host::Running::start(*start, descriptors, control)?);
                Ok(FromMonitor::Started)
            }
            ToMonitor::EndOnHost => {
                let running = self.on_host.take().ok_or_else(|| Error::bug("nothing runs on the host"))?;
                Ok(FromMonitor::Links(running.end()))
            }
            ToMonitor::Conclude => {
                let of_session = self.session.as_mut().filter(|session| session.moved);
                let folder = of_session.map(|session| session.start.folder.clone()).or(self.finished.take());
                disk::conclude(&folder.ok_or_else(|| Error::bug("nothing was moved"))?)?;
                Ok(FromMonitor::Done)
            }
            ToMonitor::Close => match self.end() {
                Some(error) => Err(error),
                None => Ok(FromMonitor::Done),
            },
            ToMonitor::Mapped { .. } | ToMonitor::Next | ToMonitor::Enough | ToMonitor::ItIs(_) => {
                Err(Error::bug(format_args!("{message:?} makes no sense here")))
            }
        }
    }

    /// Ends the session, if there is one; gives what could not be cleaned up.
    fn end(&mut self) -> Option<Error> {
        if let Some(running) = self.on_host.take() {
            running.end();
        }
        self.session.take()?.end().err()
    }
}

/// Becomes 0:0 of the namespace, without the caller's other groups: they are not mapped, and would
/// open the host's files to what runs inside. (In tier single the kernel forbids leaving them; there
/// what is outside has no path either. Programs of the host keep them: see [`host`].)
fn become_root(leave_groups: bool) -> Result<()> {
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group)
        .and_then(|()| if leave_groups { setgroups(&[]) } else { Ok(()) })
        .and_then(|()| setresuid(user, user, user))
        .doing("becoming root of the user namespace")
        .map_err(|error| error.at(Step::Mapping))
}

impl Running {
    fn start(start: Start, descriptors: Vec<OwnedFd>, control: &Channel) -> Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let (Some(commands), lock) = (descriptors.next(), descriptors.next()) else {
            return Err(Error::bug("pid 1's socket is missing"));
        };
        let (end_of_life, lifeline) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).doing("making a pipe")?;
        let stays = matches!(start.plan.work, Work::Kept(_));
        // From here on there is something to clean up.
        let mut running = Running {
            start,
            child: None,
            supervisor: None,
            owners: None,
            server: None,
            group: None,
            _lifeline: lifeline,
            _lock: lock,
            stays,
            moved: false,
        };
        match running.go(commands, end_of_life, control) {
            Ok(()) => Ok(running),
            Err(error) => {
                let _ = running.end();
                Err(error)
            }
        }
    }

    fn go(&mut self, commands: OwnedFd, end_of_life: OwnedFd, control: &Channel) -> Result<()> {
        let Start { plan, folder, tier, .. } = &self.start;
        let (listing, links) = stored_listing(plan, *tier).map_err(|error| error.at(Step::WorkFolder))?;
        make_folders(plan, folder, listing.as_ref()).map_err(|error| error.at(Step::WorkFolder))?;
        let others = [control.as_fd(), commands.as_fd(), self._lifeline.as_fd()];
        let (supervisor, calls) = supervisor::start(&self.start, links, &others)?.unzip();
        self.supervisor = supervisor;
        let (group, no_group) = match plan.limits.memory.map(Group::with_memory) {
            None => (None, String::new()),
            Some(Ok(group)) => (Some(group), String::new()),
            Some(Err(why)) => (None, why),
        };
        self.group = group;
        let mut prepared = Prepared { listing, server: None, no_group };
        if candidates(plan)?.into_iter().any(needs_server) {
            let (ours, theirs) = Channel::pair()?;
            match process::fork().doing("starting the view's server")? {
                Fork::Parent(pid) => self.server = Some(Pid::from_raw(pid)),
                Fork::Child => server::run(plan, folder, prepared.listing.as_ref(), theirs),
            }
            prepared.server = Some(ours);
        }
        // The first child from here on is pid 1 of a new namespace; this process stays outside.
        unshare(CloneFlags::CLONE_NEWPID)
            .doing("making a pid namespace")
            .map_err(|e| e.at(Step::Namespaces))?;
        match process::fork().doing("starting pid 1")? {
            Fork::Parent(pid) => {
                self.child = Some(Pid::from_raw(pid));
                // No command runs before this process has answered.
                let added = self.group.as_ref().map_or(Ok(()), |group| group.add(pid));
                added.map_err(|why| Error::machine(why).at(Step::Privileges))
            }
            Fork::Child => {
                // What a fork inherits and pid 1 must not have: the caller's ear and this process's
                // own life line. exit_now() runs no destructors.
                process::close_now(control);
                process::close_now(&self._lifeline);
                child::run(&self.start, prepared, Channel::new(commands), end_of_life, calls)
            }
        }
    }

    /// Kills pid 1, and with it everything in its namespace; returns when all of it is gone. Then
    /// nobody asks the supervisor or looks at the view any more, and they can go.
    fn end_child(&mut self) -> Result<()> {
        if let Some(child) = self.child.take() {
            // The kernel lets pid 1 be reaped after the last process of its namespace.
            end_process(child);
        }
        let supervisor = self.supervisor.take();
        let has_ended = supervisor.is_some();
        if let Some(mut supervisor) = supervisor {
            // It has seen pid 1 end and sends what it knows; nothing, if it has died.
            let owners = supervisor.control.receive::<OwnersElsewhere>();
            self.owners = owners.ok().flatten().map(|(answer, _)| answer.owners);
            end_process(Pid::from_raw(supervisor.pid));
        }
        if let Some(server) = self.server.take() {
            end_process(server);
        }
        self.group = None;
        if has_ended && self.stays {
            self.keep_owners()?;
        }
        Ok(())
    }

    /// Writes what the supervisor remembered beside the upper layer, for the session that goes on from it.
    fn keep_owners(&self) -> Result<()> {
        if self.start.tier == Tier::Full {
            return Ok(());
        }
        let owners = self.owners.as_ref().ok_or_else(|| Error::bug("the sandbox's supervisor died"))?;
        let path = self.start.folder.join(owners::FILE);
        let text = serde_json::to_vec(owners).map_err(Error::bug)?;
        fs::write(&path, text).doing_to("writing", &path)
    }

    /// The owners that files do not carry with them; none where the kernel knows all owners.
    fn owners_elsewhere(&self) -> Result<Option<HashMap<Vec<u8>, Owner>>> {
        if self.start.tier == Tier::Full {
            return Ok(None);
        }
        let owners = self.owners.as_ref().ok_or_else(|| Error::bug("the sandbox's supervisor died"))?;
        Ok(Some(owners.iter().map(|file| (file.path.clone(), file.owner)).collect()))
    }

    fn keep(&mut self, target: &Path) -> Result<()> {
        self.end_child()?;
        if self.stays {
            return Err(Error::plan(format_args!(
                "the session is kept already, in {}",
                self.start.folder.display()
            )));
        }
        self.keep_owners()?;
        let folder = &self.start.folder;
        remove_scratch(folder)?;
        if let Some(parent) = target.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).doing_to("making", parent)?;
        }
        fs::rename(folder, target).doing(format_args!(
            "moving {} to {}",
            folder.display(),
            target.display()
        ))?;
        self.start.folder = target.to_owned();
        self.stays = true;
        Ok(())
    }

    /// Moves what changed to where the order says. Should that fail, or be killed, when it has begun, the
    /// folder stays: see [`disk`].
    fn move_changes(&mut self, order: &Order) -> Result<Moved> {
        self.end_child()?;
        self.keep_owners()?;
        let folder = &self.start.folder;
        let moved = disk::begin_move(folder, order, &mut || Ok(()));
        self.stays |= folder.join(disk::ORDER).exists();
        self.moved = moved.is_ok();
        moved
    }

    fn end(mut self) -> Result<()> {
        let ended = self.end_child();
        if self.stays { remove_scratch(&self.start.folder) } else { remove(&self.start.folder) }.and(ended)
    }
}

/// Kills a child of this process and waits for its end. It's not reaped yet, so the number is its own.
pub(crate) fn end_process(process: Pid) {
    let _ = kill(process, Signal::SIGKILL);
    while waitpid(process, Some(WaitPidFlag::__WALL)) == Err(nix::errno::Errno::EINTR) {}
}

/// Removes what only a running session needs. `work` must go: after a `volatile` mount it holds
/// `work/incompat/volatile`, which forbids every later one.
fn remove_scratch(folder: &Path) -> Result<()> {
    ["work", "skeleton", "root", "view", "tree"].iter().try_for_each(|name| remove(&folder.join(name)))
}

fn remove(folder: &Path) -> Result<()> {
    work::remove(folder).doing_to("removing", folder)
}

/// The metadata of the plan's stored tree, if it has one, and the owners that it does not carry.
fn stored_listing(plan: &Plan, tier: Tier) -> Result<(Option<Listing>, Links)> {
    let Some(stored) = plan.stored()? else { return Ok((None, Vec::new())) };
    let listing = Listing::read(&stored.listing).map_err(|error| error.of_kind(Kind::Plan))?;
    match tier {
        Tier::Full => Ok((Some(listing), Vec::new())),
        Tier::Single => recorded(&listing).map(|(listing, links)| (Some(listing), links)),
    }
}

/// The folders beside the lock: see [`crate::work`].
fn make_folders(plan: &Plan, folder: &Path, listing: Option<&Listing>) -> Result<()> {
    remove_scratch(folder)?; // of a kept session whose monitor was killed
    for name in ["work", "skeleton", "root", "view"] {
        let path = folder.join(name);
        DirBuilder::new().mode(0o755).create(&path).doing_to("making", &path)?;
    }
    let upper = folder.join("upper");
    if !upper.exists() {
        DirBuilder::new().create(&upper).doing_to("making", &upper)?;
        match (plan.layers.last(), listing) {
            (Some(Layer::Folder(lowest)), _) => copy_metadata(lowest, &upper)?,
            (Some(Layer::Stored(_)), Some(listing)) => give_metadata(listing, ROOT, &upper, OWNERS)?,
            _ => return Err(Error::plan("a sandbox needs at least one layer")),
        }
    }
    let targets = plan.mounts.iter().map(|mount| (mount.target.as_slice(), mount.source_is_folder()));
    let always: [(&[u8], bool); 3] = [(b"proc", true), (b"dev", true), (b"sys", true)];
    always
        .into_iter()
        .chain(targets)
        .try_for_each(|(target, is_folder)| make_mount_point(&folder.join("skeleton"), target, is_folder))
}

/// The view's root folder shows the upper layer's metadata: those of the lowest layer, the full tree.
fn copy_metadata(from: &Path, to: &Path) -> Result<()> {
    let metadata = fs::metadata(from).doing_to("reading layer", from).map_err(|e| e.of_kind(Kind::Plan))?;
    chown(to, Some(metadata.uid()), Some(metadata.gid())).doing_to("changing the owner of", to)?;
    fs::set_permissions(to, Permissions::from_mode(metadata.mode() & 0o7777))
        .doing_to("changing the mode of", to)?;
    let (from_name, to_name) = (c_string(from)?, c_string(to)?);
    for name in xattr::names(Place::Path(&from_name)).doing_to("reading attributes of", from)? {
        // `security.*` other than capabilities is the host's business, and not settable here.
        let name_bytes = name.to_bytes();
        if !name_bytes.starts_with(b"user.") || name_bytes.starts_with(b"user.overlay.") {
            continue;
        }
        let value = xattr::get(Place::Path(&from_name), &name).doing_to("reading attributes of", from)?;
        if let Some(value) = value {
            xattr::set(Place::Path(&to_name), &name, &value).doing_to("setting attributes of", to)?;
        }
    }
    Ok(())
}

fn make_mount_point(skeleton: &Path, target: &[u8], is_folder: bool) -> Result<()> {
    let relative = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(target));
    let plain = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !plain || target.is_empty() {
        return Err(Error::plan(format_args!(
            "{:?} cannot be a mount point: it has to be a path below the root, without a leading slash, `.` or `..`",
            escape(target)
        )));
    }
    let path = skeleton.join(relative);
    let folder = if is_folder { Some(path.as_path()) } else { path.parent() };
    if let Some(folder) = folder {
        fs::create_dir_all(folder).doing_to("making", folder)?;
    }
    if !is_folder && !path.exists() {
        fs::write(&path, b"").doing_to("making", &path)?;
    }
    Ok(())
}
