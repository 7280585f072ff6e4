//! Installing a filter for system calls.

use super::check;

/// Puts `program` in force for this process and all that it starts, for good. Needs CAP_SYS_ADMIN
/// in the user namespace; no_new_privs is left alone, as set-id programs must work inside.
pub(crate) fn install(program: &[libc::sock_filter]) -> nix::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| nix::errno::Errno::E2BIG)?,
        filter: program.as_ptr().cast_mut(), // the kernel only reads it
    };
    // SAFETY: the structure describes a slice that lives through the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) }).map(drop)
}
