//! The command line: the only module that prints, and the one that knows exit statuses.
//!
//! A verb is one thin file: arguments → options → one call of [`crate::pipeline`]. What they share:
//! `arguments` (the whole syntax, from which help, man pages and completions are made), `program`
//! (manifest, session, images), `output` (text, progress, JSON), `signals`, `folders`.

mod arguments;
mod build;
mod compose;
mod configure;
mod diff;
mod doctor;
mod export;
mod fetch;
mod folders;
mod generate;
mod import;
mod init;
mod lock;
mod multistrap;
mod ninja;
mod outcome;
mod output;
mod program;
mod prune;
mod run;
mod signals;
mod stage_two;
mod verify;

use std::{panic, process::ExitCode, sync::Arc};

use clap::{FromArgMatches, error::ErrorKind};

use crate::error::{Kind, Result};
use arguments::{Arguments, Verb};
use output::Output;
use program::Program;

/// Exit status of a bug of ours: EX_SOFTWARE of sysexits.h.
const BUG: u8 = 70;

/// Runs the program: exit status 0 done; 1 the input or the packages are at fault; 2 usage; 3 this
/// machine cannot do it; 70 a bug of ours; 130 stopped by a signal. `run` gives its command's.
pub fn main() -> ExitCode {
    install_panic_hook();
    ExitCode::from(guarded(start))
}

/// The exit status of `start`; that of a bug where it panics, which the hook has told.
fn guarded(start: impl FnOnce() -> u8 + panic::UnwindSafe) -> u8 {
    panic::catch_unwind(start).unwrap_or(BUG)
}

/// Parses the arguments and runs the verb.
fn start() -> u8 {
    let words = multistrap::with_verb(std::env::args_os());
    let matches = arguments::command().try_get_matches_from(words);
    let arguments = matches.and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    if matches!(arguments.verb, Verb::Configure(_) | Verb::Run(_)) {
        crate::pipeline::prepare_sandbox(); // before there are threads
    }
    let output = Arc::new(Output::new(arguments.output_options()).with_trace(arguments.trace()));
    let result = signals::install(&output).and_then(|stop| {
        let program = Program { global: &arguments.global, output: &output, stop };
        verb(&program, &arguments.verb)
    });
    output.close();
    // Also of a run that failed: then it says where the time went. The first error counts.
    let traced = output.write_trace();
    let result = result.and_then(|status| traced.map(|()| status));
    result.unwrap_or_else(|error| {
        output.error("", &error);
        exit_status(error.kind())
    })
}

/// Shows help, the version, or what is wrong with the arguments.
fn usage(error: &clap::Error) -> u8 {
    // A closed pipe behind `treestrap --help | head` is no error.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
        _ => 2,
    }
}

/// Runs one verb; gives the exit status.
fn verb(program: &Program<'_>, verb: &Verb) -> Result<u8> {
    match verb {
        Verb::Init(arguments) => init::run(program, arguments),
        Verb::Lock(arguments) => lock::run(program, arguments),
        Verb::Fetch(arguments) => fetch::run(program, arguments),
        Verb::Compose(arguments) => compose::run(program, arguments),
        Verb::Configure(arguments) => configure::run(program, arguments),
        Verb::Build(arguments) => build::run(program, arguments),
        Verb::Run(arguments) => run::run(program, arguments),
        Verb::Verify(arguments) => verify::run(program, arguments),
        Verb::Prune(arguments) => prune::run(program, arguments),
        Verb::Diff(arguments) => diff::run(program, arguments),
        Verb::Export(arguments) => export::run(program, arguments),
        Verb::Multistrap(arguments) => multistrap::run(program, arguments),
        Verb::Import(arguments) => import::run(program, arguments),
        Verb::Ninja(arguments) => ninja::run(program, arguments),
        Verb::Doctor => doctor::run(program),
        Verb::Completions(arguments) => generate::completions(program, arguments),
        Verb::Man(arguments) => generate::man(program, arguments),
    }
}

/// The exit status of an error.
fn exit_status(kind: Kind) -> u8 {
    match kind {
        Kind::Input => 1,
        Kind::Machine => 3,
        Kind::Bug => BUG,
        Kind::Interrupted => 130,
    }
}

/// The exit status of several errors: that of the worst.
fn worst(kinds: impl IntoIterator<Item = Kind>) -> u8 {
    let rank = |kind: &Kind| match kind {
        Kind::Input => 0,
        Kind::Machine => 1,
        Kind::Interrupted => 2,
        Kind::Bug => 3,
    };
    kinds.into_iter().max_by_key(rank).map_or(0, exit_status)
}

/// A panic is a bug of ours, and says so; the backtrace is there if `RUST_BACKTRACE` asks for it.
fn install_panic_hook() {
    panic::set_hook(Box::new(|information| {
        let payload = information.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let place = information.location().map(|place| format!(" at {place}")).unwrap_or_default();
        let thread = std::thread::current();
        let version = env!("CARGO_PKG_VERSION");
        let backtrace = std::backtrace::Backtrace::capture();
        output::complain(&format!(
            "\nerror: a bug in treestrap {version}: thread {:?} panicked{place}: {message}\n\
             hint: please report it, with this message and the command that you ran; \
             RUST_BACKTRACE=1 shows where it comes from",
            thread.name().unwrap_or("without a name"),
        ));
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            output::complain(&backtrace.to_string());
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_bug_of_ours() {
        assert_eq!(guarded(|| 1), 1);
        assert_eq!(guarded(|| panic!("on purpose")), BUG);
    }

    #[test]
    fn the_worst_error_decides() {
        use Kind::{Bug, Input, Interrupted, Machine};
        for (kinds, status) in [
            (vec![], 0),
            (vec![Input], 1),
            (vec![Machine, Input], 3),
            (vec![Input, Interrupted, Machine], 130),
            (vec![Interrupted, Bug, Input], 70),
        ] {
            assert_eq!(worst(kinds.clone()), status, "{kinds:?}");
        }
    }
}
