//! Decides, when the kernel starts a foreign program, whether its native twin runs instead of qemu.
//!
//! This code is put in front of qemu-user's own entry point (`qemu::interpreter` does that), so
//! one static program in memory is the interpreter that binfmt_misc knows:
//!
//! ```text
//! execve(foreign program) ─▶ kernel ─▶ entry point ─▶ dispatch ─┬─ execve(twin)
//!                                                               └─ jump to qemu's entry point
//! ```
//!
//! A program without a twin so costs a handful of system calls more than qemu alone, and qemu
//! starts exactly as the kernel prepared it: with the descriptor of the program, with set-id
//! credentials, in any chroot, without a path that leads to it.
//!
//! The foreign program is recognised by what it is, not by its path: its size and a hash of its
//! first page, which holds the linker's build id. So links, alternatives, diversions, relative
//! paths, descriptors and deleted files need no thought, and a file that a script has replaced is
//! no longer recognised.
//!
//! - [`table`]: which programs have a twin; written by the parent, read here.
//! - [`record`]: what is noted of every start; written here, read by the parent.
//! - [`start`]: the decision, on the process's initial stack.
//! - [`watch`]: noting when a program has ended that qemu runs.
//! - [`system`]: the system calls.
//!
//! It's not the place for policy: why a program has a twin is known to `qemu::twins`.
//!
//! Nothing here may panic, have mutable data or need relocation: the linker script
//! (`image.ld`) refuses an image with any of it.
#![no_std]

pub mod record;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod start;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod system;
pub mod table;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod watch;
