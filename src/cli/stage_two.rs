//! The options of stage 2, for `configure`, `build` and `run`.

use clap::{Args, ValueEnum};

use crate::pipeline::StageTwo;

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
    /// is told by every run (-v tells all of it).
    #[arg(long, value_name = "WHAT")]
    require: Vec<String>,
}

// Values that are hidden belong to the command line's contract and are parsed; the pipeline says
// that it cannot give them yet.

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
    /// As the pipeline takes them.
    pub(super) fn options(&self) -> StageTwo {
        StageTwo {
            tier: chosen(&self.tier),
            view: chosen(&self.view),
            accelerate: chosen(&self.accelerate),
            require: self.require.clone(),
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
}
