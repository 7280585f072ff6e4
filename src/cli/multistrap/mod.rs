//! `treestrap multistrap`: multistrap(1)'s own command line. A program of the name `multistrap` that is
//! treestrap (a link to it) has this verb's options.

mod summary;

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{ArgAction, Args};

use super::{configure::Identity, outcome::Outcome, program::Program, stage_two::StageTwoArguments};
use crate::{
    Error, Result,
    manifest::multistrap::{Configuration, Files, SHORTCUT_FOLDERS},
    pipeline::multistrap::{self, Order, Scripts},
    report::Reporter,
};

/// Make the folder or tarball of a multistrap configuration, configured, without root
///
/// Takes multistrap's own options and configuration files, and leaves what multistrap leaves, with all
/// packages configured, whatever their architecture: docs/from-multistrap.md says what is different. What
/// was downloaded stays in $XDG_CACHE_HOME/treestrap/repo, unless there is a manifest or --repo names another.
///
/// Examples:
///   treestrap multistrap -f board.conf
///   treestrap multistrap --arch armhf --dir rootfs --lock board.lock -f board.conf
#[derive(Args, Debug)]
#[command(verbatim_doc_comment, disable_version_flag = true)]
pub(super) struct Arguments {
    /// The configuration file
    #[arg(short = 'f', long, value_name = "FILE", required_unless_present = "shortcut")]
    file: Option<PathBuf>,
    /// The configuration file NAME.conf in /usr/share/multistrap or /etc/multistrap.d
    #[arg(short = 's', long, value_name = "NAME")]
    shortcut: Option<String>,
    /// The architecture, instead of the configuration's
    #[arg(short = 'a', long, value_name = "ARCH")]
    arch: Option<String>,
    /// The folder to make, instead of the configuration's
    #[arg(short = 'd', long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave neither packages nor indexes in the folder (cleanup=true)
    #[arg(long)]
    tidy_up: bool,
    /// Check no signature of any repository (noauth=true)
    #[arg(long)]
    no_auth: bool,
    /// Put the packages and their sources into this folder, which must be there (retainsources=DIR)
    #[arg(long, value_name = "DIR")]
    source_dir: Option<PathBuf>,
    /// Say what the configuration and the files that it includes come to, and do nothing
    #[arg(long, alias = "dry-run")]
    simulate: bool,
    /// Use the packages of this lock; where it is not there, make it
    ///
    /// Without it the newest versions are taken each time, as multistrap does.
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// What becomes of what identifies a device: machine id, host keys
    ///
    /// `first-boot` removes it and lets the device make it, `remove` only removes it, `keep` leaves what
    /// package scripts made, as multistrap does.
    #[arg(long, value_name = "POLICY", default_value = "first-boot")]
    identity: Identity,
    /// As --help: multistrap's name of it
    #[arg(short = '?', action = ArgAction::HelpShort)]
    question: Option<bool>,
    /// As --help, as with multistrap
    #[arg(long, action = ArgAction::HelpLong)]
    version: Option<bool>,
    #[command(flatten)]
    pub(in crate::cli) stage_two: StageTwoArguments,
}

/// The arguments as they are to be parsed: with the verb where the program's name is it.
pub(super) fn with_verb(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let name = arguments.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name == "multistrap") {
        arguments[0] = "treestrap".into();
        arguments.insert(1, "multistrap".into());
    }
    arguments
}

/// The host's files.
struct Host;

impl Files for Host {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn is_file(&self, path: &Path) -> bool {
        path.is_file()
    }
}

impl Arguments {
    /// The configuration file: a shortcut's goes before that of `-f`.
    fn path(&self) -> Result<PathBuf> {
        let shortcut = self.shortcut.as_ref().and_then(|name| {
            let mut paths =
                SHORTCUT_FOLDERS.iter().rev().map(|folder| Path::new(folder).join(format!("{name}.conf")));
            paths.find(|path| path.is_file())
        });
        shortcut.or_else(|| self.file.clone()).ok_or_else(|| {
            let name = self.shortcut.as_deref().unwrap_or_default();
            let message = format!("no folder of shortcuts has {name}.conf ({})", SHORTCUT_FOLDERS.join(", "));
            Error::input(message).hint("name the file itself: -f FILE")
        })
    }

    /// The configuration, and what of it the command line overrides.
    fn configuration(&self) -> Result<Configuration> {
        let mut configuration = Configuration::read(&self.path()?, &Host)?;
        if let Some(architecture) = &self.arch {
            configuration.set_architecture(architecture)?;
        } else if configuration.target_architecture().is_empty() {
            configuration.set_architecture(multistrap::host_architecture()?)?;
        }
        if let Some(folder) = &self.dir {
            configuration.directory = Some(folder.clone());
        }
        configuration.cleanup |= self.tidy_up;
        configuration.no_auth |= self.no_auth;
        Ok(configuration)
    }
}

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let configuration = arguments.configuration()?;
    let scripts = Scripts::find(&configuration, arguments.source_dir.as_deref());
    let reporter: &dyn Reporter = program.output;
    for warning in configuration.warnings.iter().chain(&scripts.warnings) {
        reporter.warn("", warning);
    }
    if arguments.simulate {
        let (text, complete) = summary::summary(&configuration, &scripts);
        program.output.outcome(&Outcome::Simulated { text })?;
        return Ok(if complete { 0 } else { 1 });
    }
    let session = program.session_without_manifest()?;
    let order = Order {
        configuration: &configuration,
        scripts: &scripts,
        lock: arguments.lock.as_deref(),
        stdout_is_data: program.global.json,
        identity: arguments.identity.policy(),
        stage_two: arguments.stage_two.options(),
    };
    let made = multistrap::make(&session, &order)?;
    let path = made.path.display().to_string();
    program.output.outcome(&Outcome::Exported { image: &made.image, path })?;
    for failure in &made.failures {
        program.output.error(&made.image, &Error::input(failure));
    }
    Ok(if made.failures.is_empty() { 0 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_called_multistrap_has_its_options() {
        let parsed = |words: &[&str]| {
            let words = with_verb(words.iter().map(OsString::from));
            words.into_iter().map(|word| word.into_string().expect("UTF-8")).collect::<Vec<_>>().join(" ")
        };
        for (given, expected) in [
            (&["multistrap", "-f", "x"][..], "treestrap multistrap -f x"),
            (&["/usr/lib/treestrap/multistrap", "--help"], "treestrap multistrap --help"),
            (&["/multistrap/treestrap", "build"], "/multistrap/treestrap build"),
            (&["treestrap", "multistrap"], "treestrap multistrap"),
            (&[], ""),
        ] {
            assert_eq!(parsed(given), expected);
        }
    }
}
