//! Notes when a program that qemu runs has ended: the dispatcher itself is gone by then.
//!
//! A small process of its own waits for it. The program must not be able to tell, and nothing that
//! waits for the program may wait for the watcher:
//!
//! ```text
//! dispatcher ─ clone, no exit signal ─▶ helper ─ clone ─▶ watcher: waits, notes, ends
//!     │ wait4(__WALL) ◀──────────────────┘ ends at once: the watcher becomes pid 1's child
//!     └─▶ qemu
//! ```
//!
//! - The program has no child more than before: not for wait4(-1), not in /proc, and no SIGCHLD was
//!   sent, which would stay pending where the caller blocks it.
//! - The helper has closed all descriptors before the program starts, so a pipe's reader sees its end
//!   when the program closes it, and the program's own descriptors keep their numbers.
//! - The watcher is in a session of its own, out of reach of kill(0, …), of a terminal and of job
//!   control, in the root folder, and without arguments for `pgrep -f` to match.
//! - It ends with the program, or with pid 1 of the namespace. It's never waited for.
//!
//! What remains is a process more of the program's user, which is there for a moment after the program.
//!
//! Where a process more cannot be had (RLIMIT_NPROC, a limit on pids), there is no note, and qemu
//! runs the program as ever.
#![allow(unsafe_code)]

use core::ffi::c_char;

use crate::{
    record::{Kind, LONGEST, Record},
    system::{self, Fork},
};

/// How long the watcher waits for somebody to collect the program's exit status, which is when the
/// kernel lets others know it: a caller that waits takes no time at all, and one that does not wait
/// may never.
const COLLECTION: u64 = 1_000_000_000; // nanoseconds

/// Has a watcher append a record to `log` when this process ends. The record is that of the start.
///
/// # Safety
/// `argv` is the process's array of arguments, as the kernel has put it on the stack.
pub unsafe fn watch(log: &[u8], start: &Record<'_>, argv: *const *const c_char) {
    let program = start.pid;
    match system::fork() {
        Fork::Parent(helper) => system::collect(helper),
        Fork::None => {}
        Fork::Child => {
            // The dispatcher waits for this helper: it is alive, and the number its own.
            if system::close_all()
                && let Some(process) = system::open_process(program)
                && let Some(log) = system::open_to_append(log)
                && let Fork::Child = system::fork()
            {
                // SAFETY: the caller's promise; the memory is this process's own copy.
                unsafe { system::disappear(c"treestrap-watch", argv) };
                let status = system::wait_for(process, COLLECTION);
                let record = Record { kind: Kind::Ended, detail: status.code, time: status.time, ..*start };
                system::write(log, record.write(&mut [0; LONGEST]));
            }
            system::exit()
        }
    }
}
