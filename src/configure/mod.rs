//! The configure stage (stage 2): runs the packages' scripts in a sandbox over the composed tree, and
//! says what they changed.
//!
//! Here Debian's rules become a sandbox plan: [`environment`] has the view and what scripts find in
//! it, `order` which script runs when, `run` runs them, `interpose` and `normalise` are tables of
//! what scripts see and the commit does not.

mod acceleration;
mod changes;
mod debconf;
mod deferred;
mod diversions;
pub mod environment;
mod identity;
mod in_place;
mod interpose;
mod journal;
mod normalise;
mod order;
mod programs;
mod requirements;
mod run;
mod status_fd;
mod trial;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use sandbox::Session;

pub use acceleration::Acceleration;
pub use environment::{Base, Changes, Emulator};
pub use in_place::{Folder, InPlace, configure_in_place};
pub use requirements::{AccelerationWish, Requirements};
pub use trial::Trial;

use programs::{How, Log, Times, seconds};

use crate::{
    Context, Error, Result,
    artefacts::{Accelerated, Begin, Composed, Configured, IdentityPolicy, Metadata, SlowPackage},
    digest::Sha256,
    error::Kind,
    report::{Event, Reporter},
};

/// What the result of stage 2 depends on beside its inputs: the rules of this module. Raised when a
/// change of them makes another commit of the same packages.
pub const RULES: u32 = 9;

/// Takes the contents of changed files while the sandbox still has them.
pub trait Adopt {
    /// A file's content, open at its start; gives its object.
    fn file(&mut self, metadata: &Metadata, content: &mut File, size: u64) -> Result<Sha256>;
    /// A symbolic link; gives its object.
    fn symlink(&mut self, metadata: &Metadata, target: &[u8]) -> Result<Sha256>;
}

/// What stage 2 works on.
pub struct Inputs<'a> {
    /// The unpacked tree's packages.
    pub composed: &'a Composed,
    /// What is done before they are configured.
    pub begin: &'a Begin,
    /// The tree itself.
    pub base: &'a Base,
    /// What runs the image's programs, where this machine's processor does not.
    pub emulator: Option<&'a Emulator>,
    /// Twins of the image's programs; none where all run in the emulator, or natively.
    pub acceleration: Option<&'a Acceleration>,
    /// The text of a debconf preseed file.
    pub preseed: Option<&'a [u8]>,
    /// What becomes of what identifies a device.
    pub identity: IdentityPolicy,
    /// What must not degrade.
    pub requirements: &'a Requirements,
    /// The folder of the log.
    pub logs: PathBuf,
    /// Where the upper layer of a failed run is kept, for `treestrap run --failed`; of one that is tried
    /// once more, meanwhile.
    pub kept: PathBuf,
    /// What the user can do to see what a failed run left.
    pub look: String,
    /// Whether it is a second run, to see whether it comes out the same.
    pub trial: Option<&'a Trial>,
    /// Whether the plan is reported.
    pub debug: bool,
}

/// Runs stage 2.
pub fn configure(
    inputs: &Inputs<'_>,
    adopt: &mut dyn Adopt,
    reporter: &dyn Reporter,
    stop: &AtomicBool,
) -> Result<Configured> {
    let Ran { mut session, result, slowest } = run_stage_two(inputs, true, reporter, stop)?;
    let packages = match result {
        Ok(packages) => packages,
        Err(error) if error.kind() == Kind::Input => return Err(keep_failed(&mut session, inputs, error)),
        Err(error) => return Err(error),
    };
    let accelerated =
        inputs.acceleration.map(|acceleration| report(acceleration, inputs, reporter)).transpose()?;
    let changes = changes::adopt(&mut session, adopt, inputs, reporter, stop)?;
    let enforced = enforced(&session, inputs, accelerated.is_some())?;
    session.close().context("closing the sandbox")?;
    Ok(Configured { image: inputs.composed.image.clone(), changes, enforced, accelerated, packages, slowest })
}

/// Packages, and the seconds that each took.
type Seconds = Vec<(String, f64)>;

/// Scripts that were run.
struct Ran {
    /// The sandbox with what they have changed, also where one has failed.
    session: Session,
    /// The seconds of each package, in the order in which they were first worked at.
    result: Result<Seconds>,
    /// The packages that took longest.
    slowest: Vec<SlowPackage>,
}

/// Runs the scripts in a sandbox. `whole`: what a failed or stopped run leaves becomes no image and no folder (`run
/// --failed` may show it), so that some programs may run in the background, and what the result is not to have need not
/// be good.
fn run_stage_two(
    inputs: &Inputs<'_>,
    whole: bool,
    reporter: &dyn Reporter,
    stop: &AtomicBool,
) -> Result<Ran> {
    let image = inputs.composed.image.as_str();
    let merged_usr = inputs.base.is_merged_usr();
    let interposed = interpose::make_layer(inputs.base.folder(), merged_usr)?;
    let mut plan = environment::plan(inputs.base, Some(interposed), inputs.emulator, Changes::New);
    inputs.requirements.add_to(&mut plan);
    plan.uname = environment::uname(&inputs.composed.architecture);
    if let Some(acceleration) = inputs.acceleration {
        acceleration.add_to(&mut plan);
        if whole {
            acceleration.allow_background(&mut plan);
        }
        if whole && inputs.identity != IdentityPolicy::Keep {
            acceleration.allow_small_keys(&mut plan);
        }
    }
    if let Begin::Layer { debs, .. } = inputs.begin {
        let (target, source) = (run::DEBS.into(), sandbox::Source::ReadOnly(debs.clone()));
        plan.mounts.push(sandbox::Mount { target, source });
    }
    // Programs that write dates (the days in /etc/shadow, say) write the same every day.
    // https://reproducible-builds.org/specs/source-date-epoch/
    plan.environment.push(format!("SOURCE_DATE_EPOCH={}", newest(inputs)).into_bytes());
    let log = Log::make(inputs.base.folder(), &mut plan)?;
    if inputs.debug {
        reporter.detail(image, plan.describe());
    }
    let started = Instant::now();
    let session = match inputs.trial {
        Some(trial) => trial.start(&mut plan),
        None => Session::start(&plan),
    };
    let session = session.context("starting the sandbox")?;
    reporter.detail(image, format!("sandbox up in {:.0} ms", started.elapsed().as_secs_f64() * 1e3));
    inputs.requirements.check(session.enforced(), image, reporter)?;
    let (session, result) = run_scripts(session, plan, inputs, reporter, stop)?;
    let none = Times::default();
    let times = result.as_ref().unwrap_or(&none);
    let how = match (inputs.emulator, inputs.acceleration) {
        (None, _) => How::AsTheyAre,
        (Some(_), None) => How::Emulated,
        (Some(_), Some(acceleration)) => How::Twins(acceleration.emulated()),
    };
    let slowest = log.report(image, times, &how, reporter);
    Ok(Ran { session, result: result.map(|times| seconds(&times.windows)), slowest })
}

/// What was asked of the sandbox and what was given.
fn enforced(session: &Session, inputs: &Inputs<'_>, is_accelerated: bool) -> Result<serde_json::Value> {
    let mut enforced = serde_json::to_value(session.enforced())
        .map_err(|e| Error::bug(format!("the enforced sandbox is no JSON: {e}")))?;
    if let Some(emulator) = inputs.emulator {
        enforced["qemu-user"] = emulator.version.as_str().into();
        enforced["accelerated"] = is_accelerated.into();
    }
    Ok(enforced)
}

/// Runs all scripts, once more from the step at which the emulator crashed or hung; gives the session
/// that it ended in, and when each package was worked at.
fn run_scripts(
    mut session: Session,
    mut plan: sandbox::Plan,
    inputs: &Inputs<'_>,
    reporter: &dyn Reporter,
    stop: &AtomicBool,
) -> Result<(Session, Result<Times>)> {
    let image = inputs.composed.image.as_str();
    let mut scripts = run::Scripts::new(inputs, &mut session, reporter, stop)?;
    let Err(mut error) = scripts.run() else {
        let packages = scripts.finish();
        return Ok((session, packages));
    };
    if !stop.load(Ordering::Relaxed)
        && let Some(trouble) = scripts.emulator_trouble()
    {
        reporter.warn(image, format!("{trouble}; the same step is tried once more, in a new sandbox"));
        let progress = scripts.into_progress();
        keep(&mut session, inputs)?;
        session.close().context("closing the sandbox")?;
        plan.work = sandbox::Work::Kept(inputs.kept.clone());
        session = Session::start(&plan).context("starting the sandbox again")?;
        let mut scripts = run::Scripts::resume(inputs, &mut session, reporter, stop, progress);
        match scripts.run() {
            Ok(()) => {
                let packages = scripts.finish();
                return Ok((session, packages));
            }
            Err(again) => error = again,
        }
        if let Some(trouble) = scripts.emulator_trouble() {
            let message = format!("the emulator failed twice: {trouble}\n{error}");
            error = Error::machine(message).hint(format!(
                "treestrap lock --update    gets the archive's newest qemu-user, which may do better; {}",
                inputs.look
            ));
        }
    }
    Ok((session, Err(error)))
}

/// The time that stands for the build's in everything it makes: that of the newest entry of
/// the packages' changelogs, in seconds since 1970.
fn newest(inputs: &Inputs<'_>) -> u64 {
    inputs.composed.packages.iter().map(|package| package.newest).max().unwrap_or(0)
}

/// Says how the programs of a foreign image ran; an error if all were required to run that had a twin.
fn report(acceleration: &Acceleration, inputs: &Inputs<'_>, reporter: &dyn Reporter) -> Result<Accelerated> {
    let image = inputs.composed.image.as_str();
    let (accelerated, problem) = acceleration.report()?;
    if let Some(problem) = problem {
        reporter.warn(image, problem);
    }
    for crash in acceleration.crashes(0, "") {
        reporter.warn(image, format!("{}; its package went on", crash.explain(acceleration.plan())));
    }
    for program in accelerated.programs.iter().filter(|program| program.fallback) {
        let message = format!("{} ran in qemu {} times: {}", program.path, program.starts, program.reason);
        if inputs.requirements.acceleration() == AccelerationWish::Require {
            return Err(Error::machine(format!("--accelerate require: {message}")).hint("--accelerate auto"));
        }
        reporter.warn(image, message);
    }
    reporter.event(Event::Accelerated { image: image.to_owned(), accelerated: accelerated.clone() });
    Ok(accelerated)
}

/// A command to run in a tree whose changes are thrown away.
pub struct Run<'a> {
    /// The program and its arguments.
    pub command: Vec<Vec<u8>>,
    /// The tree's architecture.
    pub architecture: &'a str,
    /// Where its changes go.
    pub changes: Changes,
    /// Twins of the image's programs.
    pub acceleration: Option<&'a Acceleration>,
    /// What must not degrade.
    pub requirements: &'a Requirements,
    /// Whether the plan is reported.
    pub debug: bool,
}

/// Runs a command with the caller's standard descriptors; gives its exit status as a shell does.
pub fn run(
    base: &Base,
    emulator: Option<&Emulator>,
    run: Run<'_>,
    image: &str,
    reporter: &dyn Reporter,
    stop: &AtomicBool,
) -> Result<u8> {
    let interposed = interpose::make_layer(base.folder(), base.is_merged_usr())?;
    let mut plan = environment::plan(base, Some(interposed), emulator, run.changes);
    run.requirements.add_to(&mut plan);
    plan.uname = environment::uname(run.architecture);
    if let Some(acceleration) = run.acceleration {
        acceleration.add_to(&mut plan);
    }
    if run.debug {
        reporter.detail(image, plan.describe());
    }
    let mut session = Session::start(&plan).context("starting the sandbox")?;
    run.requirements.check(session.enforced(), image, reporter)?;
    let mut command = sandbox::Command::new(run.command);
    if let Ok(terminal) = std::env::var("TERM") {
        command = command.env("TERM", terminal);
    }
    let status = session.run_unless(&command, stop)?;
    session.close().context("closing the sandbox")?;
    Ok(status.code())
}

/// Keeps what a failed run left, and says how to look at it.
fn keep_failed(session: &mut Session, inputs: &Inputs<'_>, error: Error) -> Error {
    if inputs.trial.is_some() {
        return error;
    }
    match keep(session, inputs) {
        Ok(()) => error.hint(inputs.look.as_str()),
        Err(kept) => error.hint(format!("its sandbox could not be kept: {kept}")),
    }
}

/// Keeps what was changed so far, unless it's kept already because it was when the session began.
fn keep(session: &mut Session, inputs: &Inputs<'_>) -> Result<()> {
    if session.folder() == inputs.kept {
        return Ok(());
    }
    forget_kept(&inputs.kept)?;
    if let Some(parent) = inputs.kept.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    session.keep(&inputs.kept)?;
    let path = kept_commit(&inputs.kept);
    std::fs::write(&path, inputs.composed.tree().to_string())
        .with_context(|| format!("writing {}", path.display()))
}

/// The file beside a kept layer that names the tree it belongs to, which may have been
/// composed anew since.
pub fn kept_commit(kept: &Path) -> PathBuf {
    let mut path = kept.as_os_str().to_owned();
    path.push(".commit");
    path.into()
}

/// Removes what an earlier failure left.
pub fn forget_kept(kept: &Path) -> Result<()> {
    if kept.exists() {
        sandbox::remove_kept(kept).with_context(|| format!("removing {}", kept.display()))?;
        let path = kept_commit(kept);
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}
