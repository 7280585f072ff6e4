//! The syntax of the command line, and the one source of help, man pages and completions.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};

use super::{
    build, compose, configure, diff, export, fetch, generate, import, init, lock, multistrap, ninja,
    output::{self, Verbosity},
    prune, run, verify,
};
use crate::manifest;

/// Configured Debian root file systems as OSTree commits, without root, for any architecture
///
/// treestrap turns the package lists of a manifest (treestrap.toml) into configured OSTree
/// commits. Packages are chosen as apt does and pinned in a lock, composed into a tree without
/// reading their files, configured by their own scripts in a sandbox, foreign architectures
/// included, and committed.
#[derive(Debug, Parser)]
#[command(
    name = "treestrap",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
    disable_help_subcommand = true,
    after_long_help = AFTER_HELP
)]
pub(super) struct Arguments {
    /// What may stand before or after any verb.
    #[command(flatten)]
    pub(super) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(super) verb: Verb,
}

const AFTER_HELP: &str = "\
Examples:
  treestrap init board              write a starter manifest with the image `board`
  treestrap build                   make every image of the manifest
  treestrap run board -- uname -m   run a command in an image

Files:
  treestrap.toml            the manifest
  IMAGE.lock                beside it: the packages of an image, to be kept in version control
  .treestrap/repo           beside it: the OSTree repository; the finished image is the ref
                            deb/images/IMAGE/configured
  $XDG_CACHE_HOME/treestrap (~/.cache/treestrap)        indexes of archives
  $XDG_STATE_HOME/treestrap (~/.local/state/treestrap)  logs

Exit status:
  0 done; 1 the input or the packages are at fault; 2 usage; 3 this machine cannot do it (see
  `treestrap doctor`); 70 a bug in treestrap; 130 stopped by a signal. `run` gives the exit
  status of its command.

Environment:
  NO_COLOR turns colours off. http_proxy, https_proxy and no_proxy are honoured.";

/// What may stand before or after any verb.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// The manifest
    #[arg(long, global = true, value_name = "FILE", default_value = manifest::FILE_NAME)]
    pub(super) manifest: PathBuf,
    /// The OSTree repository [default: .treestrap/repo beside the manifest]
    ///
    /// Made in mode bare-user where it is missing.
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) repo: Option<PathBuf>,
    /// Use no network: everything must be here already
    #[arg(long, global = true)]
    pub(super) offline: bool,
    /// Write what happens, results and errors as JSON, a line each
    ///
    /// Each line is an object with the fields "format" (1; raised when a field changes its meaning
    /// or goes away) and "event": started, progress, finished, accelerated, warning, note, detail; locked,
    /// composed, committed, configured, verified, disparity, removed, pruned, why, difference, exported,
    /// imported, written, finding; error. They go to standard output; with `run` and `export --tar -`, whose
    /// standard output is data of their own, to standard error. Wrong usage is still reported as text.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Tell nothing but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Tell more
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,
    /// Show the plan of each sandbox: mounts, mapping, filter, command (and all that -v tells)
    #[arg(long, global = true, conflicts_with = "quiet")]
    pub(super) debug: bool,
}

/// What to do. The help text of a verb is that of its arguments.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    Init(init::Arguments),
    Lock(lock::Arguments),
    Fetch(fetch::Arguments),
    Compose(compose::Arguments),
    Configure(configure::Arguments),
    Build(build::Arguments),
    Run(run::Arguments),
    Verify(verify::Arguments),
    Diff(diff::Arguments),
    Prune(prune::Arguments),
    Export(export::Arguments),
    Multistrap(multistrap::Arguments),
    Import(import::Arguments),
    Ninja(ninja::Arguments),
    /// Say what this machine can do, what is missing, and the command that mends it
    ///
    /// Exit status 0 if images can be built here, 3 if not. With --json each finding is an event
    /// of its own.
    ///
    /// Example:
    ///   treestrap doctor
    #[command(verbatim_doc_comment)]
    Doctor,
    #[command(hide = true)]
    Completions(generate::CompletionsArguments),
    #[command(hide = true)]
    Man(generate::ManArguments),
}

impl Arguments {
    /// How to talk.
    pub(super) fn output_options(&self) -> output::Options {
        let verbosity = match &self.global {
            Global { quiet: true, .. } => Verbosity::Quiet,
            Global { verbose: true, .. } | Global { debug: true, .. } => Verbosity::Verbose,
            _ => Verbosity::Normal,
        };
        let stdout_is_data = match &self.verb {
            Verb::Run(_) | Verb::Completions(_) => true,
            Verb::Export(arguments) => arguments.to_stdout(),
            Verb::Configure(arguments) => arguments.to_stdout(),
            _ => false,
        };
        let explain_acceleration = match &self.verb {
            Verb::Configure(arguments) => arguments.explain_acceleration(),
            _ => false,
        };
        output::Options { json: self.global.json, verbosity, stdout_is_data, explain_acceleration }
    }

    /// Where a timeline is to be written.
    pub(super) fn trace(&self) -> Option<&Path> {
        match &self.verb {
            Verb::Lock(arguments) => arguments.trace(),
            Verb::Build(arguments) => arguments.stage_two.trace(),
            Verb::Configure(arguments) => arguments.stage_two.trace(),
            Verb::Run(arguments) => arguments.stage_two.trace(),
            Verb::Verify(arguments) => arguments.stage_two.trace(),
            Verb::Multistrap(arguments) => arguments.stage_two.trace(),
            _ => None,
        }
    }
}

/// The definition itself.
pub(super) fn command() -> clap::Command {
    Arguments::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        command().debug_assert();
    }

    /// Calls `check` with every command and its path.
    fn each(command: &clap::Command, path: &str, check: &mut dyn FnMut(&str, &clap::Command)) {
        check(path, command);
        for verb in command.get_subcommands() {
            each(verb, &format!("{path} {}", verb.get_name()), check);
        }
    }

    #[test]
    fn everything_has_a_help_text_and_every_verb_an_example() {
        each(&command(), "treestrap", &mut |path, command| {
            assert!(command.get_about().is_some(), "{path} says nothing");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} {} says nothing", argument.get_id());
            }
            let long = command.clone().render_long_help().to_string();
            assert!(long.contains("Example"), "{path} has no example:\n{long}");
        });
    }

    #[test]
    fn global_options_stand_before_or_after_the_verb() {
        for line in [
            "treestrap --manifest m --repo r --offline --json -v build --tier full image",
            "treestrap build image --tier=full --manifest m --repo r --offline --json -v",
        ] {
            let arguments = Arguments::try_parse_from(line.split(' ')).expect(line);
            let global = &arguments.global;
            assert_eq!((global.manifest.to_str(), global.repo.as_deref()), (Some("m"), Some("r".as_ref())));
            assert!(global.offline && global.json && global.verbose, "{line}");
            assert!(matches!(&arguments.verb, Verb::Build(build) if build.images == ["image"]), "{line}");
        }
    }
}
