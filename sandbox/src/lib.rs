//! Runs commands in a rootless copy-on-write view of a tree, and says what they changed.
//!
//! ```text
//! caller (any program)        monitor (re-executed)            pid 1 and commands
//! Session ── control socket ─▶ user namespace, host's mounts
//!    │                         makes layers, lists changes,
//!    │                         removes folders  ── forks ────▶ own pid, mount, net, ipc, uts,
//!    └────────── command socket ─────────────────────────────▶ cgroup namespaces; overlay as root
//! ```
//!
//! A [`Plan`] is data; [`Session::start`] makes it real and [`Session::enforced`] says what became of
//! it. The crate knows nothing of packages, repositories or emulators.
//!
//! | module | what |
//! |---|---|
//! | `plan`, `enforced`, `error` | what is asked, what is given, what went wrong: plain data |
//! | `session`, `commands`, `helper`, `sweep`, `terminal` | the caller's side |
//! | `diagnose` | what this machine can do, and how to mend what it cannot |
//! | `userns` | ranges of ids and their maps |
//! | `work` | the session's folder on disk: layout, lock, how the dead are found |
//! | `monitor`, `capture`, `cgroup` | outside, as the namespace's root |
//! | `supervisor`, `owners`, `acl`, `recorded` | outside, answering system calls of those inside; records of owners |
//! | `disk` | trees as folders of the host, outside of any sandbox: read, written, moved into |
//! | `host` | programs of the host on such a folder, in a user namespace |
//! | `server` | outside, beside the monitor: serves FUSE as long as the sandbox lives |
//! | `child`, `stack`, `root`, `binfmt`, `execute` | inside, as pid 1 |
//! | [`view`] | trees that are no folders: FUSE file systems, hard-link checkouts |
//! | `capabilities`, `seccomp` | what commands may do: tables |
//! | `protocol`, `bytes` | messages between the three |
//! | `kernel` | its version |
//! | `sys` | all unsafe code |
//!
//! # Example
//!
//! ```no_run
//! fn main() -> sandbox::Result<()> {
//!     sandbox::init(); // first of all: this program is also the helper
//!     let plan = sandbox::Plan::new(vec!["checkout".into()], "work");
//!     let mut session = sandbox::Session::start(&plan)?;
//!     let status = session.run(&sandbox::Command::new(["dpkg", "--configure", "-a"]))?;
//!     assert!(status.success());
//!     session.changes::<sandbox::Error>(&mut |change, content| {
//!         println!("{change:?} {}", content.is_some());
//!         Ok(())
//!     })?;
//!     session.close()
//! }
//! ```

mod acl;
mod binfmt;
mod bytes;
mod capabilities;
mod capture;
mod cgroup;
mod child;
mod commands;
mod diagnose;
mod disk;
mod enforced;
mod error;
mod execute;
mod helper;
mod host;
mod kernel;
mod monitor;
mod owners;
mod plan;
mod protocol;
mod recorded;
mod root;
mod seccomp;
mod server;
mod session;
mod stack;
mod supervisor;
mod sweep;
mod sys;
mod terminal;
mod userns;
pub mod view;
mod work;

pub use capture::{Change, Entry, Metadata};
pub use diagnose::{Finding, Severity, diagnose, probe};
pub use disk::{
    Edits, FinishedMove, FirstIds, FolderRead, Given, Missing, Moved, NotOnDisk, Rearrange, UnfinishedMove,
    check_out, finish_move, read_folder, remove_contents, unfinished_moves,
};
pub use enforced::{Enforced, IdRange, Inside, Mapper, Mapping, MemoryLimit, Tier, View};
pub use error::{Error, Kind, Result, Step};
pub use helper::{init, prepare, use_helper};
pub use host::{RanOnHost, run_on_host};
pub use plan::{
    Binfmt, Conditions, INTERPRETER, Layer, Limits, Mount, Plan, Program, Programs, Source, Stored, UNNOTED,
    Uname, Work, Writer, Writers,
};
pub use session::{Command, Outcome, Session, Status, Stdio};
pub use sweep::{LayerFolder, remove_kept, remove_work, sweep};
