//! The options of stage 2, for `configure`, `build` and `run`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};

use crate::{artefacts::Limits, pipeline::StageTwo};

/// How packages' scripts are run.
#[derive(Args, Debug)]
#[command(next_help_heading = "Options of stage 2")]
pub(super) struct StageTwoArguments {
    /// How the sandbox gets its users: `full` maps a range of subordinate ids, or runs as root; `single`
    /// maps one id and records owners
    ///
    /// The result is the same. `single` is for containers, accounts without a range in /etc/subuid and
    /// no_new_privs; `auto` takes it where `full` is not to be had, and says so.
    #[arg(long, value_name = "TIER", default_value = "auto")]
    tier: Tier,
    /// How the sandbox sees the tree; all give the same image
    ///
    /// `checkout` links its files into a folder below overlayfs; `redirect` and `fuse` serve it
    /// without a checkout, from the repository's own objects (they need /dev/fuse; `redirect` Linux
    /// 6.16); `fuse-cow` does without overlayfs. `auto` takes the first of them that works here.
    #[arg(long, value_name = "VIEW", default_value = "auto")]
    view: View,
    /// Whether programs of a foreign image run natively: `require` fails where they cannot
    ///
    /// In the place of a foreign program its twin is started: the same program of the same version,
    /// from the archive's package for this machine. What has no twin runs in qemu-user. The result is
    /// the same; `off` runs everything in qemu-user.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    accelerate: Accelerate,
    /// Fail where WHAT cannot be enforced, instead of saying so and going on; may be repeated
    ///
    /// WHAT is tier=full, view=VIEW, seccomp, no-sync, or all. What was asked for and what was enforced
    /// is told by every run (-v tells all of it). `build` has versions, too, which is part of all: that images
    /// of the manifest that take packages from the same repositories have one version of what they share.
    #[arg(long, value_name = "WHAT")]
    require: Vec<String>,
    /// Limit what packages' scripts may use up: LIMIT is processes=NUMBER (4096 if nothing is said),
    /// memory=SIZE or time=DURATION; several with commas between
    ///
    /// SIZE is a number of bytes, or of K, M, G: 2G. It is the memory of all processes together where the
    /// sandbox can have a control group of its own (below `systemd-run --user --scope`, for one), else
    /// that of each. DURATION is a number of seconds, or of m, h: 90, 30m. It is the time of one
    /// command: of one script, or of one run of dpkg.
    #[arg(long = "limit", value_name = "LIMIT", value_delimiter = ',', value_parser = limit)]
    limits: Vec<Limit>,
    /// Write a timeline of stages, downloads, packages and programs to this file, for Perfetto or
    /// chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// One limit.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Processes(u64),
    Memory(u64),
    Time(Duration),
}

fn limit(text: &str) -> Result<Limit, String> {
    let (what, value) = text.split_once('=').ok_or("it has no =")?;
    let number = |units: &[(&str, u64)]| {
        let (digits, factor) = units
            .iter()
            .find_map(|&(unit, factor)| Some((value.strip_suffix(unit)?, factor)))
            .unwrap_or((value, 1));
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        number.filter(|&number| number > 0).ok_or_else(|| format!("{value:?} is no number above 0"))
    };
    match what {
        "processes" => number(&[]).map(Limit::Processes),
        "memory" => number(&[("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)]).map(Limit::Memory),
        "time" => number(&[("s", 1), ("m", 60), ("h", 3600)]).map(Duration::from_secs).map(Limit::Time),
        _ => Err("a limit is processes=NUMBER, memory=SIZE or time=DURATION".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tier {
    Auto,
    Full,
    Single,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum View {
    Auto,
    Redirect,
    Fuse,
    Checkout,
    FuseCow,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Accelerate {
    Auto,
    Off,
    Require,
}

impl StageTwoArguments {
    /// Where the timeline is to be written.
    pub(super) fn trace(&self) -> Option<&Path> {
        self.trace.as_deref()
    }

    /// As the pipeline takes them.
    pub(super) fn options(&self) -> StageTwo {
        StageTwo {
            tier: chosen(&self.tier),
            view: chosen(&self.view),
            accelerate: chosen(&self.accelerate),
            require: self.require.clone(),
            limits: self.limits.iter().fold(Limits::default(), |limits, limit| match *limit {
                Limit::Processes(most) => Limits { processes: Some(most), ..limits },
                Limit::Memory(most) => Limits { memory: Some(most), ..limits },
                Limit::Time(most) => Limits { time: Some(most), ..limits },
            }),
        }
    }
}

/// The value's name on the command line; none for `auto`.
fn chosen(value: &impl ValueEnum) -> Option<String> {
    let name = value.to_possible_value()?.get_name().to_owned();
    (name != "auto").then_some(name)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        stage_two: StageTwoArguments,
    }

    fn parse(line: &str) -> StageTwo {
        let arguments = std::iter::once("test").chain(line.split_whitespace());
        Command::try_parse_from(arguments)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .stage_two
            .options()
    }

    #[test]
    fn every_value_of_the_contract_is_parsed() {
        let auto = parse("");
        assert_eq!((auto.tier, auto.view, auto.accelerate, auto.require), (None, None, None, vec![]));
        let some = |value: &str| (value != "auto").then(|| value.to_owned());
        for tier in ["auto", "full", "single"] {
            assert_eq!(parse(&format!("--tier {tier}")).tier, some(tier));
        }
        for view in ["auto", "redirect", "fuse", "checkout", "fuse-cow"] {
            assert_eq!(parse(&format!("--view {view}")).view, some(view));
        }
        for accelerate in ["auto", "off", "require"] {
            assert_eq!(parse(&format!("--accelerate {accelerate}")).accelerate, some(accelerate));
        }
        assert_eq!(parse("--require seccomp --require signatures").require, ["seccomp", "signatures"]);
    }

    #[test]
    fn limits_are_numbers_with_units() {
        let limits = |processes, memory, seconds: Option<u64>| Limits {
            processes,
            memory,
            time: seconds.map(Duration::from_secs),
        };
        for (line, expected) in [
            ("", limits(None, None, None)),
            ("--limit processes=500", limits(Some(500), None, None)),
            ("--limit memory=2G,time=90", limits(None, Some(2 << 30), Some(90))),
            ("--limit memory=100 --limit time=30m,processes=1", limits(Some(1), Some(100), Some(1800))),
            ("--limit memory=3K --limit memory=1M", limits(None, Some(1 << 20), None)),
            ("--limit time=2h", limits(None, None, Some(7200))),
            ("--limit time=5s", limits(None, None, Some(5))),
        ] {
            assert_eq!(parse(line).limits, expected, "{line}");
        }
        for bad in [
            "500",
            "processes=",
            "processes=0",
            "processes=1K",
            "memory=-1",
            "memory=20000000000G",
            "time=1d",
            "disk=1G",
            "",
        ] {
            assert!(Command::try_parse_from(["test", "--limit", bad]).is_err(), "{bad}");
        }
    }
}
