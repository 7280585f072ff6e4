//! Runs the scripts of stage 2 in their order, listens to them, and says which one failed how.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, PipeReader, Read, Seek, Write, pipe},
    os::fd::OwnedFd,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, channel, sync_channel},
    },
    time::{Duration, Instant},
};

use qemu::{crash::crashes, starts::Starts, twins::Plan};
use sandbox::{Command, Outcome, Session, Status, Stdio};

use super::{
    Acceleration, Inputs, deferred,
    diversions::{self, Waiting},
    identity,
    journal::Journal,
    order::{self, Step},
    programs::{Times, Window},
    status_fd::{self, Line},
};
use crate::{
    Context, Error, Result,
    artefacts::{Begin, IdentityPolicy, PackageState, UnpackedPackage},
    report::{Event, Reporter, Stage, clock},
};

/// The descriptor on which dpkg says what it does. Scripts inherit it; above what shells use.
const STATUS_FD: i32 = 9;

/// dpkg's option that leaves triggers for a later run.
const NO_TRIGGERS: &str = "--no-triggers";

/// Where the debs of a layer are inside, without a leading slash: a mount, and so no change.
pub(super) const DEBS: &str = ".treestrap/debs";

/// How long output of processes that a script left behind is waited for.
const AFTERMATH: Duration = Duration::from_millis(200);

/// How often a running command is looked after.
const ATTENTION: Duration = Duration::from_millis(100);

/// How long a step of a foreign image may print nothing: then the emulator is taken to hang, which
/// several versions do with programs of many threads. The longest silence that is known to be none is
/// a large initramfs, some minutes.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How long the last lines of a failed script may take through their pipe.
const STRAGGLING: Duration = Duration::from_millis(50);

/// Lines that wait to be read; a program that prints faster waits for its reader.
const BACKLOG: usize = 1024;

/// Longer lines, in bytes, are broken: what a program prints must not fill the memory.
const LONGEST_LINE: u64 = 64 << 10;

/// Options of every dpkg run, a reason each.
const DPKG_OPTIONS: &[&str] = &[
    // A conffile that a script made before: keep it, as nobody is there to ask; where the package
    // has an opinion, take that.
    "--force-confdef",
    "--force-confold",
    // The first failure is the one to look at.
    "--abort-after=1",
];

/// The scripts of one stage 2.
pub(super) struct Scripts<'a> {
    inputs: &'a Inputs<'a>,
    session: &'a mut Session,
    reporter: &'a dyn Reporter,
    stop: &'a AtomicBool,
    journal: Journal,
    seconds: Seconds,
    /// Files that get their places after a preinst.
    waiting: Waiting,
    /// How many steps are done.
    done: usize,
    /// How long the log of program starts was when the current step began.
    log_length: u64,
    /// Whether the current step was given up because nothing happened any more.
    hung: bool,
    /// Whether others have begun with the steps.
    resumed: bool,
}

/// How far the scripts have come: to go on in another sandbox.
pub(super) struct Progress {
    journal: Journal,
    seconds: Seconds,
    waiting: Waiting,
    done: usize,
}

/// Which package is being worked at since when, and how long the others took.
#[derive(Default)]
struct Seconds {
    current: Option<(String, &'static str, f64)>,
    times: Times,
    installed: BTreeSet<String>,
}

impl Seconds {
    fn begin(&mut self, package: &str, what: &'static str) {
        self.end();
        self.current = Some((package.to_owned(), what, clock()));
    }

    fn end(&mut self) {
        let Some((package, what, begun)) = self.current.take() else { return };
        self.times.windows.push(Window { package, what, begun, ended: clock() });
    }
}

/// Watches over a command: whether it is to be given up.
struct Watch {
    begun: Instant,
    /// When it was last heard of, in milliseconds since it was begun.
    heard: AtomicU64,
    /// Set where nothing happens any more.
    hung: AtomicBool,
    /// Set for that reason, or because the user wants to stop: ends the command.
    give_up: AtomicBool,
}

impl Default for Watch {
    fn default() -> Self {
        let (hung, give_up) = (AtomicBool::new(false), AtomicBool::new(false));
        Watch { begun: Instant::now(), heard: AtomicU64::new(0), hung, give_up }
    }
}

impl Watch {
    fn heard(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    /// Until the other end of `over` is dropped. `patience`: how long it may be silent, if there is a
    /// limit.
    /// `is_emulating`: whether there may be a program in the emulator at all.
    fn keep(
        &self,
        stop: &AtomicBool,
        patience: Option<Duration>,
        is_emulating: impl Fn() -> bool,
        over: &Receiver<()>,
    ) {
        while over.recv_timeout(ATTENTION) == Err(RecvTimeoutError::Timeout) {
            let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
            let silent = self.begun.elapsed().saturating_sub(heard);
            if patience.is_some_and(|patience| silent > patience) && is_emulating() {
                self.hung.store(true, Ordering::Relaxed);
                self.give_up.store(true, Ordering::Relaxed);
            }
            if stop.load(Ordering::Relaxed) {
                self.give_up.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// What a program inside says.
enum Said {
    Output(String),
    Status(String),
}

impl<'a> Scripts<'a> {
    pub(super) fn new(
        inputs: &'a Inputs<'a>,
        session: &'a mut Session,
        reporter: &'a dyn Reporter,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let journal = Journal::create(&inputs.logs, &inputs.composed.image)?;
        let waiting = Waiting::new(&inputs.composed.held);
        let progress = Progress { journal, seconds: Seconds::default(), waiting, done: 0 };
        Ok(Scripts { resumed: false, ..Scripts::resume(inputs, session, reporter, stop, progress) })
    }

    /// The scripts from where others stopped, in a new sandbox over what those left.
    pub(super) fn resume(
        inputs: &'a Inputs<'a>,
        session: &'a mut Session,
        reporter: &'a dyn Reporter,
        stop: &'a AtomicBool,
        progress: Progress,
    ) -> Self {
        let Progress { journal, seconds, waiting, done } = progress;
        let (log_length, hung, resumed) = (0, false, true);
        Scripts {
            inputs,
            session,
            reporter,
            stop,
            journal,
            seconds,
            waiting,
            done,
            log_length,
            hung,
            resumed,
        }
    }

    /// All steps that are left.
    pub(super) fn run(&mut self) -> Result<()> {
        let packages = self.inputs.composed.packages.as_slice();
        let continues = matches!(self.inputs.begin, Begin::Layer { .. });
        let result = order::plan(packages, self.inputs.begin).and_then(|steps| {
            if continues {
                self.shell("switching off what the device does", &deferred::off())?;
                self.add_architectures()?;
            }
            for step in steps.iter().skip(self.done) {
                self.log_length = self.inputs.acceleration.map_or(0, Acceleration::log_length);
                self.step(step)?;
                self.done += 1;
            }
            if continues {
                self.shell("switching it on", &deferred::on())?;
            }
            Ok(())
        });
        // Also after a failure: others may go on from what is there.
        let said = self.wait_for_background();
        let result = result.and_then(|()| {
            said?.iter().try_for_each(|line| self.journal.line(line))?;
            self.first_boot()
        });
        self.journal.flush()?;
        result
    }

    /// Why the step that failed may go well in a new process: the emulator has crashed, or hangs, or
    /// perhaps has. In words.
    pub(super) fn emulator_trouble(&self) -> Option<String> {
        self.inputs.emulator?;
        let output = self.journal.tail().join("\n");
        let since = self.log_length;
        let (crashes, plan) = match self.inputs.acceleration {
            Some(acceleration) => (acceleration.crashes(since, &output), acceleration.plan()),
            None => (crashes(&Starts::default(), &output), &Plan::default()),
        };
        if self.hung {
            let running =
                self.inputs.acceleration.and_then(|acceleration| acceleration.longest_running(since));
            let program = running.unwrap_or_else(|| "a program".to_owned());
            return Some(format!(
                "{program} hangs in qemu: nothing has happened for {} s",
                PATIENCE.as_secs()
            ));
        }
        crashes.iter().find(|crash| crash.is_worth_a_retry()).map(|crash| crash.explain(plan))
    }

    /// How far they have come.
    pub(super) fn into_progress(self) -> Progress {
        let Scripts { journal, seconds, waiting, done, .. } = self;
        Progress { journal, seconds, waiting, done }
    }

    /// When each package was worked at.
    pub(super) fn finish(mut self) -> Result<Times> {
        self.journal.flush()?;
        Ok(self.seconds.times)
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let packages = self.inputs.composed.packages.as_slice();
        match step {
            Step::Register => self.register(),
            Step::SecondStage => self.second_stage(),
            Step::Unpack(debs) => self.unpack(debs),
            Step::UnpackPackages(list) => self.unpack_packages(list),
            Step::Preinst(list) => list.iter().try_for_each(|&index| self.preinst(&packages[index])),
            Step::Configure(list) => {
                let names = list.iter().map(|&index| packages[index].qualified_name.as_str());
                self.dpkg("--configure", names)
            }
            Step::Seed => self.seed(),
            Step::ConfigureAll => {
                self.dpkg("--configure", ["-a"].into_iter()).and_then(|()| self.check_all_installed())
            }
        }
    }

    /// Registers interests in triggers, and lets dpkg rename the files of its database that have no
    /// architecture in their names yet, as it does before it writes there (`pkg_infodb_upgrade`).
    fn register(&mut self) -> Result<()> {
        if let Begin::Register(triggers) = self.inputs.begin
            && !triggers.is_empty()
        {
            const WRITE: &str = r#"mkdir -p /var/lib/dpkg/triggers; while [ $# -gt 0 ]; do
                printf %s "$2" >"/var/lib/dpkg/triggers/$1"; shift 2; done"#;
            let mut words = vec!["/bin/sh", "-ec", WRITE, "sh"];
            words.extend(triggers.iter().flat_map(|(file, text)| [file.as_str(), text.as_str()]));
            let heading = "interests in triggers";
            let (status, _) = self.command(heading, Command::new(words), None)?;
            if !status.success() {
                return Err(self.failure("dpkg", heading, &how(status.outcome)));
            }
        }
        let heading = "dpkg --set-selections </dev/null";
        let (status, _) = self.command(heading, Command::new(["dpkg", "--set-selections"]), None)?;
        match status.success() {
            true => Ok(()),
            false => Err(self.failure("dpkg", heading, &how(status.outcome))),
        }
    }

    /// The second stage that debootstrap(8) left, which says little and writes the rest to a log.
    fn second_stage(&mut self) -> Result<()> {
        let heading = "/debootstrap/debootstrap --second-stage";
        // Then it does not try whether it can make devices (its functions, `check_sane_mount`).
        let command = Command::new(["/debootstrap/debootstrap", "--second-stage"]).env("container", "lxc");
        let (status, _) = self.command(heading, command, None)?;
        if status.success() {
            return Ok(());
        }
        let log = "tail -n 30 /debootstrap/debootstrap.log";
        self.command(log, Command::new(["/bin/sh", "-c", log]), None)?;
        Err(self.failure("debootstrap", heading, &how(status.outcome)))
    }

    /// Lets dpkg unpack debs, with all that it does then: scripts, conflicts, diversions.
    fn unpack(&mut self, debs: &[String]) -> Result<()> {
        let mut words = vec!["dpkg"];
        words.extend(DPKG_OPTIONS);
        // They may pre-depend on each other, and wait for each other: what they need in the end is looked
        // at when they are configured.
        words.extend(["--force-depends", "--unpack"]);
        words.extend(debs.iter().map(String::as_str));
        let heading = format!("dpkg --unpack {}", debs.join(" "));
        let (status, _) = self.command(&heading, Command::new(words), None)?;
        match status.success() {
            true => Ok(()),
            false => Err(self.failure("dpkg", &heading, &how(status.outcome))),
        }
    }

    /// Tells dpkg of the architectures that come with this layer, as apt's users do.
    fn add_architectures(&mut self) -> Result<()> {
        let composed = self.inputs.composed;
        let of = |is_wanted: fn(&UnpackedPackage) -> bool| -> BTreeSet<&str> {
            let wanted = composed.packages.iter().filter(|package| is_wanted(package));
            wanted.map(|package| package.architecture.as_str()).collect()
        };
        let known = of(|package| package.state == PackageState::Installed);
        let is_new = |name: &&str| *name != "all" && *name != composed.architecture && !known.contains(name);
        for name in of(|package| package.state == PackageState::Unpacked).into_iter().filter(is_new) {
            let heading = format!("dpkg --add-architecture {name}");
            let (status, _) =
                self.command(&heading, Command::new(["dpkg", "--add-architecture", name]), None)?;
            if !status.success() {
                return Err(self.failure("dpkg", &heading, &how(status.outcome)));
            }
        }
        Ok(())
    }

    /// The packages and how far each is, by dpkg.
    fn states(&mut self) -> Result<Vec<(String, String)>> {
        let query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${binary:Package}\\n"];
        let (status, output) = self.output(Command::new(query))?;
        if !status.success() {
            return Err(self.failure("dpkg", "dpkg-query -W", &how(status.outcome)));
        }
        let pair =
            |line: &String| line.split_once(' ').map(|(state, name)| (name.to_owned(), state.to_owned()));
        Ok(output.iter().filter_map(pair).collect())
    }

    /// Lets dpkg unpack packages of this layer.
    fn unpack_packages(&mut self, list: &[usize]) -> Result<()> {
        let packages = self.inputs.composed.packages.as_slice();
        // What was unpacked before the emulator crashed would be upgraded now, and not installed.
        let states = if self.resumed { self.states()? } else { Vec::new() };
        let is_unpacked =
            |name: &str| states.iter().any(|(known, state)| known == name && state == "unpacked");
        let list: Vec<usize> =
            list.iter().copied().filter(|&index| !is_unpacked(&packages[index].qualified_name)).collect();
        if list.is_empty() {
            return Ok(());
        }
        let debs = list.iter().map(|&index| format!("/{DEBS}/{}", packages[index].deb_name()));
        // Triggers wait until all is configured, as when apt installs something.
        let words: Vec<String> = [NO_TRIGGERS.to_owned()].into_iter().chain(debs).collect();
        self.dpkg("--unpack", words.iter().map(String::as_str))
    }

    /// A preinst script as dpkg runs it for a package that never was installed (deb-preinst(5),
    /// dpkg's src/main/script.c).
    fn preinst(&mut self, package: &UnpackedPackage) -> Result<()> {
        let script = format!("/var/lib/dpkg/info/{}.preinst", package.info_name);
        // dpkg counts the instances that are there by then: one after the other (script.c,
        // `pkgset_installed_instances`).
        let mut instances = self.inputs.composed.packages.iter().filter(|other| other.name == package.name);
        let instance =
            instances.position(|other| other.architecture == package.architecture).unwrap_or(0) + 1;
        let command = Command::new([script.as_str(), "install"])
            .env("DPKG_MAINTSCRIPT_PACKAGE", &package.name)
            .env("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", instance.to_string())
            .env("DPKG_MAINTSCRIPT_ARCH", &package.architecture)
            .env("DPKG_MAINTSCRIPT_NAME", "preinst")
            .env("DPKG_MAINTSCRIPT_DEBUG", "0")
            .env("DPKG_RUNNING_VERSION", self.dpkg_version())
            .env("DPKG_ADMINDIR", "/var/lib/dpkg")
            .env("DPKG_ROOT", "")
            // Whose questions these are, debconf's frontend reads from tmp.ci/control under dpkg.
            .env("DEBCONF_PACKAGE", &package.name);
        self.seconds.begin(&package.qualified_name, "preinst");
        let (status, _) = self.command(&format!("{script} install"), command, None)?;
        self.seconds.end();
        if status.success() {
            return self.lay_down(package);
        }
        Err(self.failure(&package.qualified_name, "pre-installation script", &how(status.outcome)))
    }

    /// Gives the files their places that waited for this package's preinst.
    fn lay_down(&mut self, package: &UnpackedPackage) -> Result<()> {
        if !package.diverts && !self.waiting.wait_for(&package.name) {
            return Ok(());
        }
        let cat = "if [ -e /var/lib/dpkg/diversions ]; then cat /var/lib/dpkg/diversions; fi";
        let (status, lines) = self.output(Command::new(["/bin/sh", "-c", cat]))?;
        if !status.success() {
            return Err(self.failure(&package.qualified_name, "reading diversions", &how(status.outcome)));
        }
        let diversions = diversions::parse(&lines);
        let paths = diversions::paths_of(&package.name, &diversions);
        if !paths.is_empty() {
            let list = format!("/var/lib/dpkg/info/{}.list", package.info_name);
            let mut words = vec!["/bin/sh", "-ec", diversions::MOVE_NEW_CONFFILES, "sh", &list];
            words.extend(paths.iter().map(String::as_str));
            let heading = format!("configuration files that {} diverts", package.qualified_name);
            let (status, _) = self.command(&heading, Command::new(words), None)?;
            if !status.success() {
                return Err(self.failure(&package.qualified_name, &heading, &how(status.outcome)));
            }
        }
        let mut waiting = self.waiting.clone();
        for step in waiting.after(&package.name, &diversions)? {
            let (from, to) = (format!("/{}", step.from), format!("/{}", step.to));
            let heading = format!("mv {from} {to}");
            let (status, _) = self.command(&heading, Command::new(["mv", "-fT", "--", &from, &to]), None)?;
            if !status.success() {
                return Err(self.failure(&package.qualified_name, &heading, &how(status.outcome)));
            }
        }
        self.waiting = waiting;
        Ok(())
    }

    /// The version of the image's dpkg, without an epoch, which scripts compare with.
    fn dpkg_version(&self) -> String {
        let packages = &self.inputs.composed.packages;
        let version = packages.iter().find(|package| package.name == "dpkg").map_or("", |dpkg| &dpkg.version);
        version.split_once(':').map_or(version, |(_, rest)| rest).to_owned()
    }

    fn dpkg<'w>(&mut self, action: &str, what: impl Iterator<Item = &'w str>) -> Result<()> {
        let what: Vec<&str> = what.collect();
        let fd = STATUS_FD.to_string();
        let mut arguments = vec!["dpkg", "--status-fd", &fd];
        arguments.extend(DPKG_OPTIONS);
        arguments.push(action);
        arguments.extend(&what);
        let heading = format!("dpkg {action} {}", what.join(" "));
        let (status, failures) = self.command(&heading, Command::new(arguments.iter().copied()), None)?;
        self.seconds.end();
        if let Some(failure) = failures.into_iter().next() {
            return Err(failure);
        }
        if status.success() {
            return Ok(());
        }
        Err(self.failure("dpkg", &heading, &how(status.outcome)))
    }

    /// Loads the debconf answers of the preseed file.
    fn seed(&mut self) -> Result<()> {
        let Some(text) = self.inputs.preseed else { return Ok(()) };
        let mut file = tempfile::tempfile().context("making a temporary file")?;
        file.write_all(text).and_then(|()| file.rewind()).context("writing a temporary file")?;
        let command = Command::new(["debconf-set-selections"]);
        let (status, _) = self.command("debconf-set-selections", command, Some(file.into()))?;
        if status.success() {
            return Ok(());
        }
        Err(self.failure("debconf", "debconf-set-selections with the preseed file", &how(status.outcome)))
    }

    /// `dpkg --configure -a` is content with packages that it cannot get any further; we are not.
    fn check_all_installed(&mut self) -> Result<()> {
        let states = self.states()?;
        let wanting: Vec<&str> = states
            .iter()
            .filter(|(_, state)| state != "installed")
            .map(|(package, _)| package.as_str())
            .collect();
        if wanting.is_empty() {
            return Ok(());
        }
        let (first, others) = (wanting[0], wanting.len() - 1);
        let what = format!("is not configured, nor are {others} others, and dpkg does not say why");
        Err(failure(&self.journal, first, &what))
    }

    /// Waits for what runs in the background; gives what that has printed. The log, and what is known of a
    /// failure, stay as they are.
    fn wait_for_background(&mut self) -> Result<Vec<String>> {
        let command = self.inputs.acceleration.and_then(Acceleration::wait_for_background);
        let Some(command) = command else { return Ok(Vec::new()) };
        let (status, said) = self.output(Command::new(command))?;
        match status.success() {
            true => Ok(said),
            false => {
                let what = "waiting for what runs in the background";
                Err(self.failure("util-linux", what, &how(status.outcome)))
            }
        }
    }

    /// Lets the device make anew what its image is not to have.
    fn first_boot(&mut self) -> Result<()> {
        if self.inputs.identity != IdentityPolicy::FirstBoot {
            return Ok(());
        }
        let (status, found) = self.output(Command::new(["/bin/sh", "-c", &identity::search()]))?;
        if !status.success() {
            return Err(self.failure("dash", "looking for what identifies a device", &how(status.outcome)));
        }
        let Some(script) = identity::installation(&found) else { return Ok(()) };
        self.shell(&format!("first boot: {}", found.join(", ")), &script)
    }

    /// Runs a script of our own.
    fn shell(&mut self, heading: &str, script: &str) -> Result<()> {
        let (status, _) = self.command(heading, Command::new(["/bin/sh", "-ec", script]), None)?;
        match status.success() {
            true => Ok(()),
            false => Err(self.failure("dash", heading, &how(status.outcome))),
        }
    }

    /// Runs a command, writes what it says to the log, and follows dpkg's status lines.
    fn command(
        &mut self,
        heading: &str,
        command: Command,
        stdin: Option<OwnedFd>,
    ) -> Result<(Status, Vec<Error>)> {
        self.journal.heading(heading)?;
        self.reporter.detail(&self.inputs.composed.image, heading.to_owned());
        let (said, command) = listen(command, stdin, true)?;
        let mut failures = Vec::new();
        let (finished, is_over) = channel();
        let begun = clock();
        let watch = Watch::default();
        let (watched, is_watched) = channel();
        let status = std::thread::scope(|scope| {
            let follower = {
                let (journal, seconds) = (&mut self.journal, &mut self.seconds);
                let follower = Follower {
                    inputs: self.inputs,
                    reporter: self.reporter,
                    watch: &watch,
                    journal,
                    seconds,
                };
                let failures = &mut failures;
                scope.spawn(move || follower.follow(&said, &is_over, failures))
            };
            let patience = self.inputs.emulator.map(|_| PATIENCE);
            let stop = self.stop;
            let watch = &watch;
            let (acceleration, since) = (self.inputs.acceleration, self.log_length);
            let is_emulating =
                move || acceleration.is_none_or(|acceleration| acceleration.longest_running(since).is_some());
            scope.spawn(move || watch.keep(stop, patience, is_emulating, &is_watched));
            let status = self.session.run_unless(&command, &watch.give_up);
            // The last writers on this side: the listeners now see the end of the pipes.
            drop(command);
            drop((finished, watched));
            let followed = follower.join().unwrap_or_else(|_| Err(Error::bug("the listener panicked")));
            Ok::<_, Error>((status.with_context(|| heading.to_owned())?, followed?))
        });
        self.hung = watch.hung.load(Ordering::Relaxed);
        self.seconds.times.commands.push((heading.to_owned(), begun, clock()));
        Ok((status?.0, failures))
    }

    /// Runs a command; gives its lines.
    fn output(&mut self, command: Command) -> Result<(Status, Vec<String>)> {
        let (said, mut command) = listen(command, None, false)?;
        command.stderr = Stdio::Null; // warnings are no packages
        let status = self.session.run_unless(&command, self.stop).context("asking the image")?;
        drop(command);
        let lines = said.iter().filter_map(|said| match said {
            Said::Output(line) => Some(line),
            Said::Status(_) => None,
        });
        Ok((status, lines.collect()))
    }

    fn failure(&self, package: &str, what: &str, how: &str) -> Error {
        failure(&self.journal, package, &format!("{what} {how}"))
    }
}

/// The error of a failed script: package, what happened, the last lines, the log.
fn failure(journal: &Journal, package: &str, what: &str) -> Error {
    let mut message = format!("package {package}: {what}");
    let tail = journal.tail();
    let disk_full = tail.iter().any(|line| line.contains("No space left on device"));
    if !tail.is_empty() {
        message.push_str("\n  its last lines:");
    }
    for line in tail {
        message.push_str("\n  | ");
        message.push_str(&line);
    }
    message.push_str(&format!("\n  the whole log: {}", journal.path().display()));
    if disk_full {
        // Not the package's fault (ENOSPC, as the C library words it in every locale of ours).
        let hint = "free some space (df -h), then run the same command again: what was done before is kept";
        return Error::machine(message).hint(hint);
    }
    Error::input(message)
}

/// `exited with status 3`, `was killed by signal 11 (SIGSEGV)`.
fn how(outcome: Outcome) -> String {
    match outcome {
        Outcome::Exited(127) => {
            "could not start: a program or interpreter that it needs is missing".to_owned()
        }
        Outcome::Exited(status) => format!("exited with status {status}"),
        Outcome::Signalled(signal) => format!("was killed by signal {signal}{}", signal_name(signal)),
    }
}

/// Names of the signals that crashes and limits come with (signal(7); equal on all Linux
/// architectures but MIPS and SPARC, which are no hosts of ours).
fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL; out of memory?)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// Connects a command's output, and dpkg's status lines if wanted, to a channel, which ends when the
/// command is over and the value dropped.
fn listen(mut command: Command, stdin: Option<OwnedFd>, status: bool) -> Result<(Receiver<Said>, Command)> {
    let (sender, receiver) = sync_channel(BACKLOG);
    let (reader, writer) = pipe().context("making a pipe")?;
    spawn_reader(reader, sender.clone(), Said::Output);
    command.stderr = Stdio::Descriptor(writer.try_clone().context("duplicating a pipe")?.into());
    command.stdout = Stdio::Descriptor(writer.into());
    command.stdin = stdin.map_or(Stdio::Null, Stdio::Descriptor);
    if status {
        let (reader, writer) = pipe().context("making a pipe")?;
        spawn_reader(reader, sender, Said::Status);
        command.descriptors.push((writer.into(), STATUS_FD));
    }
    Ok((receiver, command))
}

/// Reads lines on a thread of its own, which ends when the last writer has closed the pipe: at the
/// latest with the sandbox.
fn spawn_reader(reader: PipeReader, sender: SyncSender<Said>, kind: fn(String) -> Said) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if sender.send(kind(String::from_utf8_lossy(&line).into_owned())).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// Follows what a command says while it runs.
struct Follower<'a> {
    inputs: &'a Inputs<'a>,
    reporter: &'a dyn Reporter,
    watch: &'a Watch,
    journal: &'a mut Journal,
    seconds: &'a mut Seconds,
}

impl Follower<'_> {
    /// Until all writers are gone; or, once the command is over, for a moment more: processes that it
    /// left behind may talk for ever.
    fn follow(mut self, said: &Receiver<Said>, over: &Receiver<()>, failures: &mut Vec<Error>) -> Result<()> {
        let mut end: Option<Instant> = None;
        while end.is_none_or(|end| Instant::now() < end) {
            let heard = said.recv_timeout(AFTERMATH);
            if heard.is_ok() {
                self.watch.heard();
            }
            match heard {
                Ok(Said::Output(line)) => self.output(&line)?,
                Ok(Said::Status(line)) => self.status(&line, said, failures)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // The other end of `over` is dropped with the command.
            if end.is_none() && over.try_recv() == Err(TryRecvError::Disconnected) {
                end = Some(Instant::now() + AFTERMATH);
            }
        }
        Ok(())
    }

    /// Whether a package is of a layer below, and has only had its triggers processed.
    fn was_installed(&self, name: &str) -> bool {
        let mut packages = self.inputs.composed.packages.iter();
        packages.any(|package| package.qualified_name == name && package.state == PackageState::Installed)
    }

    /// A line of output. dpkg's own headings tell where a package's begin: they come through the same
    /// pipe as what scripts print, which its status lines do not.
    fn output(&mut self, line: &str) -> Result<()> {
        if line.starts_with("Setting up ") || line.starts_with("Processing triggers for ") {
            self.journal.next_package();
        }
        self.journal.line(line)
    }

    fn status(&mut self, line: &str, said: &Receiver<Said>, failures: &mut Vec<Error>) -> Result<()> {
        match status_fd::parse(line) {
            Some(Line::Processing { package, stage }) => {
                let what = match stage {
                    "trigproc" => "triggers",
                    "install" | "upgrade" => "unpack",
                    _ => "configure",
                };
                self.seconds.begin(package, what);
            }
            Some(Line::Status { package, status: "installed" }) if !self.was_installed(package) => {
                self.seconds.installed.insert(package.to_owned());
                self.reporter.event(Event::Progress {
                    image: self.inputs.composed.image.clone(),
                    stage: Stage::Configure,
                    done: self.seconds.installed.len() as u64,
                    item: package.to_owned(),
                });
            }
            Some(Line::Error { package, message }) => {
                // What the script printed came before, but through another pipe. dpkg ends now
                // (--abort-after=1), so no status line is lost.
                let end = Instant::now() + STRAGGLING;
                while let Ok(Said::Output(line)) =
                    said.recv_timeout(end.saturating_duration_since(Instant::now()))
                {
                    self.output(&line)?;
                }
                failures.push(failure(self.journal, package, message));
            }
            _ => {}
        }
        Ok(())
    }
}
