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
    pub(super) const PREAD64: usize = 17;
    pub(super) const GETPID: usize = 39;
    pub(super) const EXECVE: usize = 59;
    pub(super) const FCNTL: usize = 72;
    pub(super) const CLOCK_GETTIME: usize = 228;
    pub(super) const OPENAT: usize = 257;
    pub(super) const STATX: usize = 332;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const FCNTL: usize = 25;
    pub(super) const OPENAT: usize = 56;
    pub(super) const CLOSE: usize = 57;
    pub(super) const WRITE: usize = 64;
    pub(super) const PREAD64: usize = 67;
    pub(super) const CLOCK_GETTIME: usize = 113;
    pub(super) const GETPID: usize = 172;
    pub(super) const EXECVE: usize = 221;
    pub(super) const STATX: usize = 291;
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

/// Appends to a file that is there. A failure goes unheard: nobody could be told.
pub fn append(path: &[u8], bytes: &[u8]) {
    const AT_FDCWD: usize = -100isize as usize;
    const O_WRONLY: usize = 1;
    const O_APPEND: usize = 0o2000;
    const O_CLOEXEC: usize = 0o2000000;
    if path.last() != Some(&0) {
        return;
    }
    // SAFETY: the path ends in NUL.
    let descriptor = unsafe {
        call(number::OPENAT, [AT_FDCWD, path.as_ptr() as usize, O_WRONLY | O_APPEND | O_CLOEXEC, 0, 0])
    };
    if descriptor >= 0 {
        // SAFETY: pointer and length are those of a slice; the descriptor is ours.
        unsafe {
            call(number::WRITE, [descriptor as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0]);
            call(number::CLOSE, [descriptor as usize, 0, 0, 0, 0]);
        }
    }
}

/// execve(2): returns only when it failed, with the errno.
///
/// # Safety
/// `argv` and `envp` are arrays of strings, each with a null pointer at its end.
pub unsafe fn execute(path: &[u8], argv: *const *const c_char, envp: *const *const c_char) -> u32 {
    if path.last() != Some(&0) {
        return 22; // EINVAL
    }
    // SAFETY: the path ends in NUL; the caller answers for the arrays.
    let result =
        unsafe { call(number::EXECVE, [path.as_ptr() as usize, argv as usize, envp as usize, 0, 0]) };
    result.unsigned_abs() as u32
}
