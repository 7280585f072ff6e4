//! `treestrap doctor`: what this machine can do.

use super::{folders, outcome::Outcome, program::Program};
use crate::{
    Result,
    doctor::{self, State, Subject},
};

/// Exit status where no image can be made here (contract).
const CANNOT: u8 = 3;

pub(super) fn run(program: &Program<'_>) -> Result<u8> {
    // A manifest with a mistake says nothing about the machine: both are told.
    let manifest = program.global.manifest.exists().then(|| program.manifest()).transpose();
    let subject = Subject {
        repo: program.repo()?,
        cache: folders::cache()?,
        state: folders::state()?,
        manifest: manifest.as_ref().ok().cloned().flatten(),
    };
    let findings = doctor::examine(&subject);
    for finding in &findings {
        program.output.outcome(&Outcome::Finding(finding))?;
    }
    if findings.iter().any(|finding| finding.state == State::Missing) {
        if let Err(error) = &manifest {
            program.output.error("", error);
        }
        return Ok(CANNOT);
    }
    manifest.map(|_| 0)
}
