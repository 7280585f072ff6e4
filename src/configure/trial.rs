//! A second run of the scripts to see whether they make the same again: in it is otherwise what differs
//! from machine to machine and must not show, and who writes which file is noted.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use sandbox::{Conditions, Kind, Plan, Session, Tier, View, Writer, Writers};

use crate::{Context, Result};

/// Noted beside a program: whose script it belongs to (dpkg(1), "Environment for maintainer scripts").
const VARIABLE: &str = "DPKG_MAINTSCRIPT_PACKAGE";

/// Processes begin with another number than they do otherwise, 301.
const LAST_PROCESS: u32 = 2600;

/// What a second run needs.
pub struct Trial {
    /// Has the log of who writes. It is swept by a later run if this one is killed.
    folder: sandbox::LayerFolder,
}

impl Trial {
    /// Prepares one, with a folder of its own below `work`.
    ///
    /// # Errors
    /// If the folder or the log in it cannot be made.
    pub fn new(work: &Path) -> Result<Self> {
        let folder = sandbox::LayerFolder::make(work).context("making a work folder")?;
        let trial = Trial { folder };
        let log = trial.log();
        std::fs::write(&log, "").with_context(|| format!("writing {}", log.display()))?;
        Ok(trial)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("writers")
    }

    /// Starts the sandbox otherwise than it would be: in what the user did not ask for.
    pub(super) fn start(&self, plan: &mut Plan) -> sandbox::Result<Session> {
        plan.writers = Some(Writers { log: self.log(), variable: VARIABLE.to_owned() });
        let mut views = View::PREFERENCE.to_vec();
        views.reverse();
        plan.conditions = Conditions { views, processors: Some(1), last_process: Some(LAST_PROCESS) };
        let asked = plan.tier;
        plan.tier = asked.or(Some(Tier::Single));
        match Session::start(plan) {
            // Where somebody around us answers system calls, there is no tier single.
            Err(error) if asked.is_none() && error.kind() == Kind::Machine => {
                plan.tier = None;
                Session::start(plan)
            }
            started => started,
        }
    }

    /// Who wrote each file, in the order of time: `PROGRAM (PACKAGE)`.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn writers(&self) -> Result<BTreeMap<Vec<u8>, Vec<String>>> {
        let path = self.log();
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut writers: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
        // A killed supervisor may have left half a line.
        let lines = text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        for Writer { path, command, variable } in lines {
            let command = command.replace('\n', " ");
            let writer = match variable {
                Some(package) => format!("{command} ({package})"),
                None => command,
            };
            let of_file = writers.entry(path).or_default();
            if of_file.last() != Some(&writer) {
                of_file.push(writer);
            }
        }
        Ok(writers)
    }
}
