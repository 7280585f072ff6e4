//! Native twins in the sandbox: what is mounted for them, which interpreter leads to them, what of it
//! must not reach the commit, and how the programs ran in the end (docs/acceleration.md).

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use qemu::{
    crash::{Crash, crashes},
    interpreter::{UNNOTED, interpreter},
    starts::{Starts, Why},
    twins::{LOG, Plan, TREE, background, keys},
};
use sandbox::{Mount, Source};

use super::environment::Emulator;
use crate::{
    Context, Error, Result,
    artefacts::{Accelerated, EmulatedProgram},
    digest::Sha256,
};

/// Where everything of ours is inside the sandbox.
const FOLDER: &[u8] = b".treestrap";

// Twins start without a note, as each crate has it.
const _: () = assert!(UNNOTED == sandbox::UNNOTED as usize);

/// Twins that are ready to be mounted.
pub struct Acceleration {
    plan: Plan,
    commit: Sha256,
    /// The checked-out tree.
    tree: PathBuf,
    /// The folder of the interpreter, the log, the lock and the mark of keys.
    folder: sandbox::LayerFolder,
}

impl Acceleration {
    /// Of the plan and its tree, a checkout of `commit`; what else is needed is below `work`. `emulator` runs
    /// what has no twin.
    ///
    /// # Errors
    /// `Kind::Machine` if no dispatcher can be put in front of this emulator.
    pub fn new(plan: Plan, commit: Sha256, tree: PathBuf, work: &Path, emulator: &Emulator) -> Result<Self> {
        if !emulator.preserves_argv0 {
            return Err(Error::machine(format!(
                "{}: qemu-user before 6.0 cannot be told argv[0] by the dispatcher",
                emulator.program.display()
            )));
        }
        let folder = sandbox::LayerFolder::make(work).context("making a work folder")?;
        let acceleration = Acceleration { plan, commit, tree, folder };
        let program = &emulator.program;
        let qemu = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
        let bytes = interpreter(&qemu, &acceleration.plan.twins, LOG.as_bytes())
            .map_err(|error| Error::machine(format!("{}: {error}", program.display())))?;
        for (path, content, mode) in [
            (acceleration.interpreter(), &bytes[..], 0o755),
            (acceleration.log(), &[], 0o666),
            (acceleration.lock(), &[], 0o666),
            (acceleration.keys(), &[], 0o444),
        ] {
            fs::write(&path, content)
                .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(acceleration)
    }

    fn interpreter(&self) -> PathBuf {
        self.folder.path().join("interpreter")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("starts")
    }

    fn lock(&self) -> PathBuf {
        self.folder.path().join("background")
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    /// Whether the tree has programs that may run in the background.
    fn has_background(&self) -> bool {
        self.plan.scripts.iter().any(|path| background::has(path))
    }

    /// Lets programs run in the background, where they may. Before the tree is looked at, what
    /// [`Acceleration::wait_for_background`] gives has to have ended.
    pub(super) fn allow_background(&self, plan: &mut sandbox::Plan) {
        if self.has_background() {
            let target = background::LOCK.trim_start_matches('/').as_bytes().to_vec();
            plan.mounts.push(Mount { target, source: Source::Writable(self.lock()) });
        }
    }

    /// A command that ends when nothing runs in the background any more, and prints what that has printed; none:
    /// nothing ever does.
    pub(super) fn wait_for_background(&self) -> Option<[String; 3]> {
        self.has_background().then(background::wait)
    }

    /// Lets [`keys::KEY`] be small, which the commit must not have.
    pub(super) fn allow_small_keys(&self, plan: &mut sandbox::Plan) {
        if self.plan.scripts.contains(keys::PROGRAM) {
            let target = keys::THROWN_AWAY.trim_start_matches('/').as_bytes().to_vec();
            plan.mounts.push(Mount { target, source: Source::ReadOnly(self.keys()) });
        }
    }

    /// Adds the twins to a plan whose emulator is `emulator`.
    pub(super) fn add_to(&self, plan: &mut sandbox::Plan) {
        for binfmt in &mut plan.binfmt {
            binfmt.interpreter = self.interpreter();
        }
        let tree = &self.tree;
        let inside = |path: &str| path.trim_start_matches('/').as_bytes().to_vec();
        plan.mounts.push(Mount { target: inside(TREE), source: Source::ReadOnly(tree.clone()) });
        plan.mounts.push(Mount { target: inside(LOG), source: Source::Writable(self.log()) });
        plan.mounts.extend(self.plan.mounts.iter().map(|mount| Mount {
            target: inside(&mount.target),
            source: Source::ReadOnly(tree.join(&mount.source)),
        }));
    }

    /// Whether a changed path is there only because of what is mounted: a mount point, or byte code
    /// that a native python wrote for a module of its own.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        let is_at = |path: &[u8], place: &[u8]| {
            path.strip_prefix(place).is_some_and(|rest| rest.first().is_none_or(|&byte| byte == b'/'))
        };
        is_at(path, FOLDER)
            || self.plan.mounts.iter().any(|mount| is_at(path, mount.target.as_bytes()))
            || source_of_byte_code(path).is_some_and(|source| {
                self.plan.mounts.iter().any(|mount| mount.target.as_bytes() == source.as_slice())
            })
    }

    /// What the twins were made of.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How long the log of starts is, in bytes.
    pub(super) fn log_length(&self) -> u64 {
        fs::metadata(self.log()).map_or(0, |metadata| metadata.len())
    }

    /// The starts that were noted behind the first `since` bytes of the log.
    fn starts(&self, since: u64) -> Result<Starts> {
        let log = self.log();
        let content = fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
        let since = usize::try_from(since).unwrap_or(usize::MAX).min(content.len());
        Ok(Starts::read(&content[since..]))
    }

    /// Programs that crashed in qemu since then; `output` is what was printed.
    pub(super) fn crashes(&self, since: u64, output: &str) -> Vec<Crash> {
        // Whoever asks has an error already, and a log that cannot be read explains none.
        crashes(&self.starts(since).unwrap_or_default(), output)
    }

    /// The program that qemu has been running for the longest time, of those started since then.
    pub(super) fn longest_running(&self, since: u64) -> Option<String> {
        let starts = self.starts(since).ok()?;
        let program = &starts.running.first()?.start;
        let package = program.package(&self.plan);
        Some(
            package.map_or_else(
                || program.path.clone(),
                |package| format!("{} of package {package}", program.path),
            ),
        )
    }

    /// When which programs were started in qemu: seconds of CLOCK_MONOTONIC, and the path.
    pub(super) fn emulated(&self) -> Vec<(f64, String)> {
        let starts = self.starts(0).unwrap_or_default(); // `report` says what is wrong with the log
        starts.emulated_at.into_iter().map(|(time, path)| (time.as_secs_f64(), path)).collect()
    }

    /// What ran where, from the log.
    pub(super) fn report(&self) -> Result<(Accelerated, Option<String>)> {
        let starts = self.starts(0)?;
        let unread = (starts.unread > 0).then(|| {
            format!("{} bytes of the log of program starts were written by somebody else", starts.unread)
        });
        let mut programs: Vec<EmulatedProgram> = starts
            .emulated
            .iter()
            .map(|(start, &count)| {
                let (package, reason) = start.explain(&self.plan);
                let spent = starts.spent.get(start).copied().unwrap_or_default();
                EmulatedProgram {
                    path: start.path.clone(),
                    package,
                    reason,
                    fallback: matches!(start.why, Why::Failed(_)),
                    starts: count,
                    seconds: spent.total.as_secs_f64(),
                    longest: spent.longest.as_secs_f64(),
                }
            })
            .collect();
        programs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then_with(|| a.path.cmp(&b.path)));
        let (native, emulated) = (starts.twins, starts.emulated());
        Ok((Accelerated { twins: self.commit, native, emulated, programs }, unread))
    }

    /// Removes what is on the disk; dropping it does too, but cannot say what went wrong.
    pub fn remove(self) -> Result<()> {
        self.folder.remove().context("removing a work folder")
    }
}

/// The source of a python module's byte code: `a/b.py` for `a/__pycache__/b.cpython-311.pyc` (PEP 3147).
fn source_of_byte_code(path: &[u8]) -> Option<Vec<u8>> {
    const FOLDER: &[u8] = b"/__pycache__/";
    let at = path.windows(FOLDER.len()).rposition(|window| window == FOLDER)?;
    let (folder, name) = (&path[..at], &path[at + FOLDER.len()..]);
    let module = &name[..name.iter().position(|&byte| byte == b'.')?];
    Some([folder, b"/", module, b".py"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_code_has_a_source() {
        let source = |path: &str| {
            source_of_byte_code(path.as_bytes()).map(|path| String::from_utf8(path).expect("text"))
        };
        assert_eq!(
            source("usr/lib/python3.11/__pycache__/_sysconfigdata__x86.cpython-311.pyc").as_deref(),
            Some("usr/lib/python3.11/_sysconfigdata__x86.py")
        );
        assert_eq!(source("usr/lib/python3.11/a.py"), None);
        assert_eq!(source("usr/__pycache__/noext"), None);
    }
}
