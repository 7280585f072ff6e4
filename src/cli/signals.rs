//! Ctrl-C, SIGTERM and SIGHUP: the first asks every stage to end, the second ends at once.

use std::{
    ffi::c_int,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::{exit_status, output::Output};
use crate::{Context, Result, error::Kind};

/// Set when a signal came.
static STOP: AtomicBool = AtomicBool::new(false);

/// Takes the signals over; gives the flag that stages look at.
pub(super) fn install(output: &Arc<Output>) -> Result<&'static AtomicBool> {
    let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_in(ignored, *signal));
    let mut signals = Signals::new(wanted).context("cannot install the signal handler")?;
    let output = Arc::clone(output);
    let wait = move || {
        for _ in signals.forever() {
            if STOP.swap(true, Ordering::SeqCst) {
                // What runs in a sandbox dies with its parent, and objects are durable before a
                // ref moves: nothing that a later run must be told of is left.
                #[expect(clippy::disallowed_methods, reason = "asked twice: no destructor may delay it")]
                std::process::exit(exit_status(Kind::Interrupted).into());
            }
            output.talk("stopping, and cleaning up; a second Ctrl-C ends at once");
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).context("cannot wait for signals")?;
    Ok(&STOP)
}

/// The signals that were ignored when the program started, as the mask in `/proc/self/status`
/// (proc(5)). They stay so: that is how nohup(1) and a shell's background jobs ask for it.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn is_in(mask: u64, signal: c_int) -> bool {
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals() {
        let mask = ignored("Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001003\nSigCgt:\t0\n");
        let found: Vec<bool> = [SIGHUP, SIGINT, SIGTERM].iter().map(|signal| is_in(mask, *signal)).collect();
        assert_eq!(found, [true, true, false]);
        assert_eq!(ignored(""), 0);
    }
}
