//! The caller's terminal while a command inside has its foreground.

use std::os::fd::BorrowedFd;

use nix::{
    sys::{
        signal::{SigSet, SigmaskHow, Signal, killpg, raise},
        termios::{SetArg, Termios, tcgetattr, tcsetattr},
    },
    unistd::{getpgrp, tcsetpgrp},
};

use crate::sys::process::while_ignoring;

/// Gives the terminal back as it was when dropped: a killed editor leaves it raw and in the
/// foreground of a group that is no more.
pub(crate) struct Foreground<'a> {
    terminal: BorrowedFd<'a>,
    settings: Termios,
}

impl<'a> Foreground<'a> {
    /// None: not a terminal.
    pub(crate) fn remember(terminal: BorrowedFd<'a>) -> Option<Self> {
        let settings = tcgetattr(terminal).ok()?;
        Some(Foreground { terminal, settings })
    }

    /// Ctrl-Z has stopped the command: gives the terminal back, stops this program too, as the shell
    /// that started it expects, and returns when that shell makes it go on.
    pub(crate) fn pause_with_the_command(&mut self) {
        let during = tcgetattr(self.terminal);
        self.take_back();
        // First the rest of this program's job (`program | pager`), then itself: here it stops until
        // SIGCONT. Raised for this thread it takes effect before the call returns. In a session
        // without a shell, where nobody could make it go on, the kernel does not stop it at all.
        while_ignoring(libc::SIGTSTP, || {
            let _ = killpg(getpgrp(), Signal::SIGTSTP);
        });
        let _ = raise(Signal::SIGTSTP);
        if let (Ok(during), Ok(now)) = (during, tcgetattr(self.terminal)) {
            self.settings = now;
            with_output_stop_blocked(|| {
                let _ = tcsetattr(self.terminal, SetArg::TCSADRAIN, &during);
            });
        }
    }

    fn take_back(&self) {
        with_output_stop_blocked(|| {
            let _ = tcsetpgrp(self.terminal, getpgrp());
            let _ = tcsetattr(self.terminal, SetArg::TCSADRAIN, &self.settings);
        });
    }
}

impl Drop for Foreground<'_> {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// From the background the terminal can be changed only while SIGTTOU is blocked: tcsetpgrp(3).
fn with_output_stop_blocked(action: impl FnOnce()) {
    let mut output_stop = SigSet::empty();
    output_stop.add(Signal::SIGTTOU);
    let before = output_stop.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    action();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
}
