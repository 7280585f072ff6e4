//! The memory of a process that waits for an answer.

use std::{fs::File, os::unix::fs::FileExt};

use nix::errno::Errno;

/// `/proc/PID/mem`, open: the address space that it had then, for good. When that is gone (the process
/// ended, or runs another program now), nothing more can be read or written.
pub(super) struct Memory(File);

impl Memory {
    pub(super) fn new(file: File) -> Self {
        Memory(file)
    }

    /// Writes all of `bytes` at `address`. Where the caller may not write, the kernel writes all the
    /// same, into a copy that is the caller's alone (proc_pid_mem(5)).
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> nix::Result<()> {
        self.0.write_all_at(bytes, address).map_err(|_| Errno::EFAULT)
    }
}
