//! Stage 2 of a tree that is a folder of the host: what it changes is moved into the folder when all has
//! gone well.

use std::{path::Path, sync::atomic::AtomicBool};

use sandbox::{Edits, Moved, Session};

use super::{
    Inputs, Ran,
    changes::{Fate, Sieve},
    report, run_stage_two,
};
use crate::{
    Context, Error, Result,
    artefacts::{Accelerated, SlowPackage},
    report::Reporter,
};

/// A folder, and what is known of it beside its tree.
pub struct Folder<'a> {
    /// The folder.
    pub path: &'a Path,
    /// What is done to it beside what changed.
    pub edits: Edits,
    /// Whether what was done until a failure is moved, too.
    pub even_if_failed: bool,
}

/// A folder that was finished.
#[derive(Clone, Debug)]
pub struct InPlace {
    /// How the programs of a foreign tree ran.
    pub accelerated: Option<Accelerated>,
    /// Seconds per package, in the order in which they were configured.
    pub packages: Vec<(String, f64)>,
    /// The packages that took longest, the slowest first.
    pub slowest: Vec<SlowPackage>,
    /// What of owners and attributes the folder could not take.
    pub moved: Moved,
}

/// Runs stage 2 and moves the changes into the folder.
pub fn configure_in_place(
    inputs: &Inputs<'_>,
    folder: Folder<'_>,
    reporter: &dyn Reporter,
    stop: &AtomicBool,
) -> Result<InPlace> {
    // What is stopped may be moved, and is not done again.
    let whole = !folder.even_if_failed;
    let Ran { session, result, slowest } = run_stage_two(inputs, whole, reporter, stop)?;
    let packages = match result {
        Ok(packages) => packages,
        Err(error) if folder.even_if_failed => {
            // Also of one that was stopped: the signal has done its work.
            move_changes(session, inputs, folder, reporter, &AtomicBool::new(false))
                .context("moving into the folder what was done so far")?;
            return Err(error.hint(
                "the folder has what was done until then: mend it there (var/lib/dpkg/info has the scripts), and run \
                 the same command again",
            ));
        }
        Err(error) => return Err(error.hint(inputs.look.as_str())),
    };
    let accelerated =
        inputs.acceleration.map(|acceleration| report(acceleration, inputs, reporter)).transpose()?;
    let moved = move_changes(session, inputs, folder, reporter, stop)?;
    Ok(InPlace { accelerated, packages, slowest, moved })
}

fn move_changes(
    mut session: Session,
    inputs: &Inputs<'_>,
    folder: Folder<'_>,
    reporter: &dyn Reporter,
    stop: &AtomicBool,
) -> Result<Moved> {
    let mut edits = folder.edits;
    let mut sieve = Sieve::new(inputs, stop);
    session.changes::<Error>(&mut |change, content| {
        let fate = sieve
            .fate(&change, content)
            .with_context(|| format!("moving /{}", String::from_utf8_lossy(&change.path)))?;
        match fate {
            Fate::Left => edits.leave.push(change.path),
            // The package's own, unpacked once more.
            Fate::Interposed if matches!(change.now, sandbox::Entry::File { .. }) => {}
            Fate::Interposed => edits.leave.push(change.path),
            Fate::Taken(_) => {}
            Fate::Replaced(content, _) => edits.replace.push((change.path, content)),
        }
        Ok(())
    })?;
    sieve.report(reporter);
    let moved = session.move_into(folder.path, &edits);
    let moved = moved
        .with_context(|| format!("moving what was changed into {}", folder.path.display()))
        .map_err(|error| error.hint("mend that, and run the same command again: it goes on with the move"))?;
    session.close().context("closing the sandbox")?;
    Ok(moved)
}
