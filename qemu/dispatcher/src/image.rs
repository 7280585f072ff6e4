//! The image's root: the first instruction and what a program without std must bring along.
//!
//! Not a target of this package, since a program without std has no place in a `cargo test`:
//! `../../build.rs` links it with the library to a flat position-independent file.
#![no_std]
#![no_main]
// Else the loops below would be compiled to calls of the functions that they are.
#![no_builtins]

use treestrap_dispatcher as _;

// `rdx` (x0 on aarch64) is a function to be called at exit and has to reach qemu, as has the stack.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".section .text.first, \"ax\"",
    ".globl _start",
    "_start:",
    "push rdx",
    "sub rsp, 8",
    "lea rdi, [rsp + 16]",
    "lea rsi, [rip + _start]",
    "lea rdx, [rip + treestrap_table]",
    "call treestrap_dispatch",
    "add rsp, 8",
    "pop rdx",
    "jmp rax",
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".section .text.first, \"ax\"",
    ".globl _start",
    "_start:",
    "stp x0, x30, [sp, #-16]!",
    "add x0, sp, #16",
    "adr x1, _start",
    "adrp x2, treestrap_table",
    "add x2, x2, :lo12:treestrap_table",
    "bl treestrap_dispatch",
    "mov x16, x0",
    "ldp x0, x30, [sp], #16",
    "br x16",
);

/// Never called: the linker script refuses an image that has a panic in it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// What the compiler takes for granted even without a C library (core's documentation, "How to use
// the core library"). Small and slow is right: the longest run is a page.

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    for offset in 0..length {
        // SAFETY: the caller's promise, as in memset(3).
        unsafe { *to.add(offset) = value as u8 };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    for offset in 0..length {
        // SAFETY: the caller's promise, as in memcpy(3).
        unsafe { *to.add(offset) = *from.add(offset) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller's promise, as in strlen(3).
    while unsafe { *text.add(length) } != 0 {
        length += 1;
    }
    length
}
