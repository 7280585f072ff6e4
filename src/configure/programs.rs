//! Which programs stage 2 ran when, by the sandbox's log of them: for the timeline, and to say what the slowest
//! packages ran.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use qemu::twins::background;
use sandbox::{Plan, Program};

use crate::{
    Context, Result,
    artefacts::SlowPackage,
    report::{Reporter, Span, SpanKind},
};

/// How many packages are named.
const SLOWEST: usize = 5;
/// How many programs of each.
const PROGRAMS: usize = 3;

/// A package while it was worked at: its name, what was done, and from when to when by
/// [`crate::report::clock`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    pub(super) package: String,
    pub(super) what: &'static str,
    pub(super) begun: f64,
    pub(super) ended: f64,
}

/// When what was worked at, and which commands were run for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    pub(super) windows: Vec<Window>,
    /// The sandbox does not note the program that a command begins with: what stage 2 called it, and when.
    pub(super) commands: Vec<(String, f64, f64)>,
}

/// The log in a folder.
pub(super) struct Log(PathBuf);

impl Log {
    /// Lets a sandbox write it to this folder.
    pub(super) fn make(folder: &Path, plan: &mut Plan) -> Result<Log> {
        let path = folder.join("programs.log");
        File::create(&path).with_context(|| format!("making {}", path.display()))?;
        plan.programs = Some(sandbox::Programs { log: path.clone() });
        Ok(Log(path))
    }

    /// Tells a reporter of packages and programs; gives the slowest packages. A log that cannot be read costs
    /// what is told, and no more.
    pub(super) fn report(
        &self,
        image: &str,
        times: &Times,
        how: &How,
        reporter: &dyn Reporter,
    ) -> Vec<SlowPackage> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let noted = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let command = |(heading, begun, ended): &(String, f64, f64)| Program {
            path: heading.split(' ').next().unwrap_or_default().into(),
            process: 0,
            begun: *begun,
            ended: *ended,
        };
        let programs: Vec<Program> = times.commands.iter().map(command).chain(noted).collect();
        let windows = &times.windows;
        let runs = runs(programs, how);
        let span = |kind, name: &str, about: &str, begun, ended| Span {
            image: image.to_owned(),
            kind,
            name: name.to_owned(),
            about: about.to_owned(),
            begun,
            ended,
        };
        for Window { package, what, begun, ended } in windows {
            reporter.span(span(SpanKind::Package, package, what, *begun, *ended));
        }
        for run in &runs {
            reporter.span(span(SpanKind::Program, &run.path, run.how, run.begun, run.ended));
        }
        slowest(windows, &runs)
    }
}

/// How an image's programs run on this machine.
pub(super) enum How {
    /// By themselves.
    AsTheyAre,
    /// In the emulator.
    Emulated,
    /// As their twins; but for those that were started in the emulator then: seconds of CLOCK_MONOTONIC, and the
    /// path.
    Twins(Vec<(f64, String)>),
}

const IN_QEMU: &str = "in qemu";
const IN_BACKGROUND: &str = "natively, in the background";

impl How {
    fn otherwise(&self) -> &'static str {
        match self {
            How::AsTheyAre => "",
            How::Emulated => IN_QEMU,
            How::Twins(_) => "natively, by its twin",
        }
    }
}

/// A program that ran.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    path: String,
    /// Where it ran, if not as it is.
    how: &'static str,
    begun: f64,
    ended: f64,
    /// Seconds in which no program ran that was started meanwhile and ended before it.
    own: f64,
}

/// Programs in the order of their starts.
fn runs(mut programs: Vec<Program>, how: &How) -> Vec<Run> {
    programs.sort_by(|a, b| a.begun.total_cmp(&b.begun).then(b.ended.total_cmp(&a.ended)));
    let run = |program: Program| {
        let path = String::from_utf8_lossy(&program.path).into_owned();
        let how = if background::runs(&path) { IN_BACKGROUND } else { how.otherwise() };
        Run { path, how, begun: program.begun, ended: program.ended, own: 0.0 }
    };
    let mut runs: Vec<Run> = programs.into_iter().map(run).collect();
    if let How::Twins(emulated) = how {
        for (time, path) in emulated {
            // The dispatcher knows a script's interpreter, what was noted is the script; so the last start counts
            // if none is of this path.
            let is_running =
                |run: &&mut Run| run.how != IN_BACKGROUND && run.begun <= *time && *time <= run.ended;
            let started = runs.iter_mut().filter(is_running);
            if let Some(run) = started
                .max_by(|a, b| (a.path == *path).cmp(&(b.path == *path)).then(a.begun.total_cmp(&b.begun)))
            {
                run.how = IN_QEMU;
            }
        }
    }
    let mut open: Vec<usize> = Vec::new();
    for index in 0..runs.len() {
        let (begun, ended) = (runs[index].begun, runs[index].ended);
        runs[index].own = ended - begun;
        if runs[index].how == IN_BACKGROUND {
            continue; // it takes nobody's time
        }
        open.retain(|&holder| runs[holder].ended > begun);
        if let Some(&holder) = open.iter().rev().find(|&&holder| runs[holder].ended >= ended) {
            runs[holder].own = (runs[holder].own - (ended - begun)).max(0.0);
        }
        open.push(index);
    }
    runs
}

/// How long each package took in all, in the order in which they were first worked at.
pub(super) fn seconds(windows: &[Window]) -> Vec<(String, f64)> {
    let mut seconds: Vec<(String, f64)> = Vec::new();
    for Window { package, begun, ended, .. } in windows {
        match seconds.iter_mut().find(|(name, _)| name == package) {
            Some((_, spent)) => *spent += ended - begun,
            None => seconds.push((package.clone(), ended - begun)),
        }
    }
    seconds
}

/// The packages that took longest, with the programs that took most of that.
fn slowest(windows: &[Window], runs: &[Run]) -> Vec<SlowPackage> {
    let mut packages = seconds(windows);
    packages.sort_by(|a, b| b.1.total_cmp(&a.1));
    packages.truncate(SLOWEST);
    let describe = |(package, seconds): (String, f64)| {
        let mut ran: BTreeMap<&str, f64> = BTreeMap::new();
        for window in windows.iter().filter(|window| window.package == package) {
            let within = |run: &&Run| window.begun <= run.begun && run.begun < window.ended;
            for run in runs.iter().filter(within).filter(|run| run.how != IN_BACKGROUND) {
                let name = run.path.rsplit('/').next().unwrap_or(&run.path);
                *ran.entry(name).or_default() += run.own;
            }
        }
        let mut ran: Vec<(String, f64)> =
            ran.into_iter().map(|(name, seconds)| (name.to_owned(), seconds)).collect();
        ran.sort_by(|a, b| b.1.total_cmp(&a.1));
        ran.truncate(PROGRAMS);
        SlowPackage { package, seconds, ran }
    };
    packages.into_iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(process: u32, path: &str, begun: f64, ended: f64) -> Program {
        Program { path: path.into(), process, begun, ended }
    }

    #[test]
    fn what_a_package_ran_is_told_without_what_waited_for_it() {
        let programs = vec![
            program(2, "/usr/bin/mandb", 1.5, 3.5),
            program(6, "/.treestrap/twins/usr/bin/mandb", 1.2, 3.9),
            program(1, "/var/lib/dpkg/info/man-db.postinst", 1.0, 4.0),
            program(3, "/usr/bin/true", 5.0, 5.1),
            program(4, "/bin/sh", 6.0, 6.5),
            program(5, "/usr/bin/ss", 6.1, 6.15),
        ];
        let window = |package: &str, begun, ended| Window { package: package.into(), what: "", begun, ended };
        let windows = [window("man-db", 0.9, 4.1), window("small", 4.9, 5.2), window("small", 5.9, 6.6)];
        let runs =
            runs(programs, &How::Twins(vec![(6.11, "/usr/bin/ss".into()), (5.01, "/bin/python".into())]));
        let emulated: Vec<&str> =
            runs.iter().filter(|run| run.how == IN_QEMU).map(|run| run.path.as_str()).collect();
        assert_eq!(emulated, ["/usr/bin/true", "/usr/bin/ss"], "a script is what its interpreter is");
        let told = slowest(&windows, &runs);
        let names = |slow: &SlowPackage| slow.ran.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(told.len(), 2);
        assert_eq!(
            (told[0].package.as_str(), names(&told[0])),
            ("man-db", vec!["mandb".into(), "man-db.postinst".into()])
        );
        assert!((told[0].seconds - 3.2).abs() < 1e-9 && (told[0].ran[1].1 - 1.0).abs() < 1e-9);
        assert_eq!(names(&told[1]), ["sh", "true", "ss"]);
    }
}
