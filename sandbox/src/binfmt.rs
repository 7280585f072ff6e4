//! Interpreters for foreign binaries, in a binfmt_misc that belongs to the sandbox's user namespace.
//!
//! The file system is mounted attached to nothing: the registrations hold for the namespace as long
//! as pid 1 holds the mount, and no program inside can see or change them. To maintainer scripts it
//! looks like any chroot without binfmt_misc. (Namespaced since Linux 6.7.)

use std::{
    fs::File,
    io::Seek,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, SealFlag, fcntl, openat},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::Mode,
    },
};

use crate::{
    Kind,
    error::{Doing, Error, Result},
    plan::{Binfmt, INTERPRETER},
    sys::mounts::mount_detached,
};

/// Registers all of them; they hold until the mount that comes back is closed.
pub(crate) fn register(entries: &[Binfmt]) -> Result<Option<OwnedFd>> {
    if entries.is_empty() {
        return Ok(None);
    }
    let table = mount_detached(c"binfmt_misc").doing("mounting a private binfmt_misc").map_err(|error| {
        error.with_hint(
            "foreign architectures need Linux 6.7 or newer with CONFIG_BINFMT_MISC (modprobe binfmt_misc)",
        )
    })?;
    for entry in entries {
        let interpreter = copy_to_memory(&entry.interpreter)?;
        let line = entry.line.replace(INTERPRETER, &format!("/proc/self/fd/{}", interpreter.as_raw_fd()));
        // One write(2) is one registration.
        openat(&table, "register", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
            .and_then(|register| nix::unistd::write(&register, line.as_bytes()))
            .doing(format_args!("registering the interpreter for {}", entry.name))?;
    }
    Ok(Some(table))
}

/// A copy that no file system has and nothing can change: through /proc/PID/exe of a running
/// interpreter a process inside can reach the file, which otherwise would be the user's own
/// (compare CVE-2019-5736).
fn copy_to_memory(interpreter: &Path) -> Result<File> {
    let mut source = File::open(interpreter)
        .doing_to("opening the interpreter", interpreter)
        .map_err(|error| error.of_kind(Kind::Plan))?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // MFD_EXEC (Linux ≥ 6.3) is needed where vm.memfd_noexec is 1, and unknown before.
    let executable = MFdFlags::from_bits_retain(libc::MFD_EXEC);
    let memory = match memfd_create("interpreter", flags | executable) {
        Err(Errno::EINVAL) => memfd_create("interpreter", flags),
        other => other,
    };
    let mut memory = File::from(memory.doing("making a memory file")?);
    let copied = std::io::copy(&mut source, &mut memory).doing_to("copying to memory", interpreter)?;
    if copied == 0 {
        return Err(Error::plan(format_args!("the interpreter {} is empty", interpreter.display())));
    }
    memory.rewind().doing_to("copying to memory", interpreter)?;
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).doing_to("sealing the copy of", interpreter)?;
    Ok(memory)
}
