//! Ctrl-C, SIGTERM and SIGHUP: the first asks every stage to end, the second ends at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{exit_status, output::Output};
use crate::{Context, Error, Result, error::Kind};

/// Set when a signal came.
static STOP: AtomicBool = AtomicBool::new(false);

/// Takes the signals over; gives the flag that stages look at.
pub(super) fn install(output: &Arc<Output>) -> Result<&'static AtomicBool> {
    let output = Arc::clone(output);
    let handler = move || {
        if STOP.swap(true, Ordering::SeqCst) {
            // What runs in a sandbox dies with its parent, and objects are durable before a ref
            // moves: nothing that a later run must be told of is left.
            #[expect(
                clippy::disallowed_methods,
                reason = "the user asked twice: no destructor may delay it"
            )]
            std::process::exit(exit_status(Kind::Interrupted).into());
        }
        output.talk("stopping, and cleaning up; a second Ctrl-C ends at once");
    };
    let installed = ctrlc::set_handler(handler).map_err(Error::machine);
    installed.context("cannot install the signal handler")?;
    Ok(&STOP)
}
