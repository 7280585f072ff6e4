//! The system calls that the dispatcher makes, without a C library: there is none yet.
//!
//! Every call returns what the kernel returns: a value, or a negated errno.
#![allow(unsafe_code)]

use core::ffi::c_char;

/// System call numbers; they differ between machines (`asm/unistd.h`).
#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const WRITE: usize = 1;
    pub(super) const CLOSE: usize = 3;
    pub(super) const IOCTL: usize = 16;
    pub(super) const PREAD64: usize = 17;
    pub(super) const GETPID: usize = 39;
    pub(super) const CLONE: usize = 56;
    pub(super) const EXECVE: usize = 59;
    pub(super) const WAIT4: usize = 61;
    pub(super) const FCNTL: usize = 72;
    pub(super) const CHDIR: usize = 80;
    pub(super) const SETSID: usize = 112;
    pub(super) const PRCTL: usize = 157;
    pub(super) const CLOCK_GETTIME: usize = 228;
    pub(super) const EXIT_GROUP: usize = 231;
    pub(super) const OPENAT: usize = 257;
    pub(super) const PPOLL: usize = 271;
    pub(super) const STATX: usize = 332;
    pub(super) const PIDFD_OPEN: usize = 434;
    pub(super) const CLOSE_RANGE: usize = 436;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const FCNTL: usize = 25;
    pub(super) const IOCTL: usize = 29;
    pub(super) const CHDIR: usize = 49;
    pub(super) const OPENAT: usize = 56;
    pub(super) const CLOSE: usize = 57;
    pub(super) const WRITE: usize = 64;
    pub(super) const PREAD64: usize = 67;
    pub(super) const PPOLL: usize = 73;
    pub(super) const EXIT_GROUP: usize = 94;
    pub(super) const CLOCK_GETTIME: usize = 113;
    pub(super) const SETSID: usize = 157;
    pub(super) const PRCTL: usize = 167;
    pub(super) const GETPID: usize = 172;
    pub(super) const CLONE: usize = 220;
    pub(super) const EXECVE: usize = 221;
    pub(super) const WAIT4: usize = 260;
    pub(super) const STATX: usize = 291;
    pub(super) const PIDFD_OPEN: usize = 434;
    pub(super) const CLOSE_RANGE: usize = 436;
}

/// One system call.
///
/// # Safety
/// The arguments are what the call asks for: pointers among them are valid for what it does.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, a: [usize; 5]) -> isize {
    let result;
    // SAFETY: the kernel's calling convention; it changes nothing but rax, rcx, r11 and what the
    // pointers lead to, for which the caller answers.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") number => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// One system call.
///
/// # Safety
/// The arguments are what the call asks for: pointers among them are valid for what it does.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, a: [usize; 5]) -> isize {
    let result;
    // SAFETY: the kernel's calling convention; it changes nothing but x0 and what the pointers
    // lead to, for which the caller answers.
    unsafe {
        core::arch::asm!("svc 0", in("x8") number, inlateout("x0") a[0] => result,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], options(nostack));
    }
    result
}

/// pread(2) at the file's beginning: how many bytes it read.
pub fn read_start(descriptor: usize, buffer: &mut [u8]) -> isize {
    // SAFETY: the pointer and the length are those of a slice that may be written.
    unsafe { call(number::PREAD64, [descriptor, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0]) }
}

/// The size of an open file. By statx(2), whose result looks alike on every machine.
pub fn size(descriptor: usize) -> Option<u64> {
    const AT_EMPTY_PATH: usize = 0x1000;
    const STATX_SIZE: usize = 0x200;
    // struct statx has 256 bytes (include/uapi/linux/stat.h), the size the sixth word.
    let mut result = [0u64; 32];
    let arguments =
        [descriptor, c"".as_ptr() as usize, AT_EMPTY_PATH, STATX_SIZE, result.as_mut_ptr() as usize];
    // SAFETY: the path is a string, the result as large as the kernel's structure.
    let status = unsafe { call(number::STATX, arguments) };
    if status == 0 { result.get(5).copied() } else { None }
}

/// Sets a descriptor's flags (`FD_CLOEXEC` or none).
pub fn set_close_on_exec(descriptor: usize, close: bool) {
    const F_SETFD: usize = 2;
    // SAFETY: no pointers.
    unsafe { call(number::FCNTL, [descriptor, F_SETFD, usize::from(close), 0, 0]) };
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0u64; 2];
    // SAFETY: struct timespec is two words of eight bytes on these machines.
    unsafe { call(number::CLOCK_GETTIME, [CLOCK_MONOTONIC, time.as_mut_ptr() as usize, 0, 0, 0]) };
    let [seconds, nanoseconds] = time;
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds)
}

/// This process, in its pid namespace.
pub fn process() -> u32 {
    // SAFETY: no pointers.
    unsafe { call(number::GETPID, [0; 5]) as u32 }
}

/// Opens a file that is there, to append to it.
pub fn open_to_append(path: &[u8]) -> Option<usize> {
    const AT_FDCWD: usize = -100isize as usize;
    const O_WRONLY: usize = 1;
    const O_APPEND: usize = 0o2000;
    const O_CLOEXEC: usize = 0o2000000;
    if path.last() != Some(&0) {
        return None;
    }
    // SAFETY: the path ends in NUL.
    let descriptor = unsafe {
        call(number::OPENAT, [AT_FDCWD, path.as_ptr() as usize, O_WRONLY | O_APPEND | O_CLOEXEC, 0, 0])
    };
    usize::try_from(descriptor).ok()
}

/// write(2), once. A failure goes unheard: nobody could be told.
pub fn write(descriptor: usize, bytes: &[u8]) {
    // SAFETY: pointer and length are those of a slice.
    unsafe { call(number::WRITE, [descriptor, bytes.as_ptr() as usize, bytes.len(), 0, 0]) };
}

/// Appends to a file that is there: whether it is.
pub fn append(path: &[u8], bytes: &[u8]) -> bool {
    let descriptor = open_to_append(path);
    if let Some(descriptor) = descriptor {
        write(descriptor, bytes);
        // SAFETY: the descriptor is ours.
        unsafe { call(number::CLOSE, [descriptor, 0, 0, 0, 0]) };
    }
    descriptor.is_some()
}

/// A fourth argument of execve(2), at which the kernel does not look: to a sandbox that notes which programs start,
/// it says that this one was noted, as the program in whose place it runs.
pub const UNNOTED: usize = 0x7473_6e6e;

/// execve(2), unnoted: returns only when it failed, with the errno.
///
/// # Safety
/// `argv` and `envp` are arrays of strings, each with a null pointer at its end.
pub unsafe fn execute(path: &[u8], argv: *const *const c_char, envp: *const *const c_char) -> u32 {
    if path.last() != Some(&0) {
        return 22; // EINVAL
    }
    // SAFETY: the path ends in NUL; the caller answers for the arrays.
    let arguments = [path.as_ptr() as usize, argv as usize, envp as usize, UNNOTED, 0];
    let result = unsafe { call(number::EXECVE, arguments) };
    result.unsigned_abs() as u32
}

/// Which of two processes this is.
pub enum Fork {
    /// The new one.
    Child,
    /// The old one; the new one's pid.
    Parent(usize),
    /// There is no new one.
    None,
}

/// Makes a copy of this process, at whose end nobody gets a signal.
pub fn fork() -> Fork {
    // SAFETY: no flags, no pointers: the copy has memory of its own, with the same stack. The two
    // machines have the last two arguments in different order, and all are zero.
    match unsafe { call(number::CLONE, [0; 5]) } {
        0 => Fork::Child,
        process => usize::try_from(process).map_or(Fork::None, Fork::Parent),
    }
}

/// Waits for a copy that [`fork`] has made, so that nothing is left of it.
pub fn collect(process: usize) {
    const WALL: usize = 0x4000_0000; // __WALL: also without an exit signal (wait(2))
    // SAFETY: no status and no usage are asked for. No handler is there yet that could interrupt it.
    unsafe { call(number::WAIT4, [process, 0, WALL, 0, 0]) };
}

/// Closes all descriptors: whether it did. (close_range(2), Linux 5.9)
pub fn close_all() -> bool {
    // SAFETY: no pointers; nothing here owns a descriptor.
    unsafe { call(number::CLOSE_RANGE, [0, u32::MAX as usize, 0, 0, 0]) == 0 }
}

/// A descriptor of a process. (pidfd_open(2), Linux 5.3)
pub fn open_process(process: u32) -> Option<usize> {
    // SAFETY: no pointers.
    usize::try_from(unsafe { call(number::PIDFD_OPEN, [process as usize, 0, 0, 0, 0]) }).ok()
}

/// Takes this process out of its session, its folder, and out of what ps(1) and pgrep(1) could
/// mistake for the program that it's a copy of.
///
/// # Safety
/// `argv` is an array of strings in memory that may be written, with a null pointer at its end.
pub unsafe fn disappear(name: &core::ffi::CStr, argv: *const *const c_char) {
    const PR_SET_NAME: usize = 15;
    // SAFETY: name and folder are strings; the caller answers for argv.
    unsafe {
        call(number::SETSID, [0; 5]);
        call(number::CHDIR, [c"/".as_ptr() as usize, 0, 0, 0, 0]);
        let mut argument = argv;
        while !(*argument).is_null() {
            let mut byte = (*argument).cast_mut();
            while *byte != 0 {
                *byte = 0;
                byte = byte.add(1);
            }
            argument = argument.add(1);
        }
        call(number::PRCTL, [PR_SET_NAME, name.as_ptr() as usize, 0, 0, 0]);
    }
}

/// How a process ended.
pub struct Ended {
    /// When: nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// The wait status, or `u32::MAX` where the kernel does not tell.
    pub code: u32,
}

/// Waits until the process has ended, and then for at most `collection` nanoseconds until its
/// parent has collected its status, since only then the kernel tells others.
pub fn wait_for(process: usize, collection: u64) -> Ended {
    const POLLIN: u64 = 1;
    const EINTR: isize = -4;
    let wait = |events: u64, time: Option<u64>| {
        let limit = time.map(|time| [time / 1_000_000_000, time % 1_000_000_000]);
        // struct pollfd: descriptor u32, events u16, returned events u16; both machines are little-endian.
        let mut poll = process as u64 | events << 32;
        loop {
            let limit = limit.as_ref().map_or(0, |limit| limit.as_ptr() as usize);
            // SAFETY: one struct pollfd, a struct timespec or null, no mask.
            let result = unsafe { call(number::PPOLL, [&raw mut poll as usize, 1, limit, 0, 0]) };
            if result != EINTR {
                break;
            }
        }
    };
    wait(POLLIN, None);
    let time = now();
    let mut code = exit_code(process);
    if code == Err(true) {
        // Without events it's POLLHUP that is waited for: the process has been collected (Linux 6.9).
        wait(0, Some(collection));
        code = exit_code(process);
    }
    Ended { time, code: code.unwrap_or(u32::MAX) }
}

/// The wait status of a process that has been collected; else whether it may be told later.
fn exit_code(process: usize) -> Result<u32, bool> {
    const ENOTTY: isize = -25;
    const PIDFD_INFO_EXIT: u64 = 1 << 3; // Linux 6.15
    // _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info), of which Linux 6.13 had 64 bytes
    // (include/uapi/linux/pidfd.h): a mask, and the exit code at the end.
    const PIDFD_GET_INFO: usize = 0xc040_ff0b;
    let mut information = [PIDFD_INFO_EXIT, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the structure is as large as the request says.
    let result =
        unsafe { call(number::IOCTL, [process, PIDFD_GET_INFO, information.as_mut_ptr() as usize, 0, 0]) };
    let [mask, .., last] = information;
    match result {
        0 if mask & PIDFD_INFO_EXIT != 0 => Ok((last >> 32) as u32),
        ENOTTY => Err(false),
        _ => Err(true),
    }
}

/// Ends this process.
pub fn exit() -> ! {
    loop {
        // SAFETY: it does not return.
        unsafe { call(number::EXIT_GROUP, [0; 5]) };
    }
}
