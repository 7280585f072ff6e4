//! From a process's first instruction to the twin, or back to qemu.
//!
//! What the kernel leaves on the stack is described in the System V ABI's processor supplements
//! ("Process Initialization"), and for an interpreter of binfmt_misc in the kernel's
//! Documentation/admin-guide/binfmt-misc.rst: with the flags `P` and `O` the arguments are the
//! interpreter's name, the program's path, the program's own arguments from argv[0] on, and the
//! program is open at the descriptor that the auxiliary vector's `AT_EXECFD` gives.
#![allow(unsafe_code)]

use core::ffi::{CStr, c_char};

use crate::{
    record::{Kind, LONGEST, Record},
    system,
    table::{Fingerprint, HEADER, PREFIX, Table},
    watch::watch,
};

/// What the auxiliary vector tells (getauxval(3); `linux/auxvec.h` has the numbers).
#[derive(Default)]
struct Auxiliary {
    program: Option<usize>,
    effective_user: usize,
    secure: bool,
}

/// Where to go on: the address of qemu's entry point. Does not return where a twin was started.
///
/// # Safety
/// `stack` is the stack pointer as the kernel set it for a new process, `image` the first byte of
/// this image in memory and `table` that of the table behind it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn treestrap_dispatch(
    stack: *const usize,
    image: *const u8,
    table: *const u8,
) -> *const u8 {
    // SAFETY: the parent has put a table there, whose header says how long it is.
    let table = unsafe {
        let header = core::slice::from_raw_parts(table, HEADER);
        Table::length(header).and_then(|length| Table::new(core::slice::from_raw_parts(table, length)))
    };
    let Some(table) = table else {
        // Without a table there is no way on either: an illegal address tells more than silence.
        return core::ptr::null();
    };
    // SAFETY: the caller's promise.
    unsafe { dispatch(stack, &table) };
    image.wrapping_offset(table.continue_at())
}

/// Starts the twin if there is one.
///
/// # Safety
/// `stack` is the stack pointer as the kernel set it for a new process.
unsafe fn dispatch(stack: *const usize, table: &Table<'_>) {
    // SAFETY: the kernel puts argc, argv, a null pointer, envp, a null pointer and the auxiliary
    // vector there, in this order; binfmt_misc has put at least two arguments.
    let (argv, envp, path, auxiliary) = unsafe {
        let argc = *stack;
        let argv = stack.add(1).cast::<*const c_char>();
        let envp = argv.add(argc + 1);
        if argc < 2 {
            return;
        }
        (argv.add(2), envp, CStr::from_ptr(*argv.add(1)).to_bytes(), auxiliary(envp))
    };
    let program = auxiliary.program.and_then(|descriptor| Some((descriptor, fingerprint(descriptor)?)));
    let note = |kind, detail| {
        let Fingerprint { key, size } = program.map_or(Fingerprint { key: 0, size: 0 }, |(_, found)| found);
        let record = Record { kind, detail, pid: system::process(), key, size, time: system::now(), path };
        if let Some(log) = table.log()
            && system::append(log, record.write(&mut [0; LONGEST]))
            && kind != Kind::Twin
        {
            // SAFETY: argc is behind the stack pointer, and the interpreter's arguments behind that.
            unsafe { watch(log, &record, stack.add(1).cast()) };
        }
    };
    let twin = program.and_then(|(descriptor, found)| Some((descriptor, table.twin(found)?)));
    let Some((descriptor, twin)) = twin else {
        return note(Kind::Emulated, 0);
    };
    // binfmt_misc's flag `C` gave this process the program's credentials. execve(2) of the twin,
    // whose own set-id bits do not count, keeps the effective user: root stays root with all
    // capabilities (capabilities(7)), another user's file capabilities would be lost.
    if auxiliary.secure && auxiliary.effective_user != 0 {
        return note(Kind::Privileged, 0);
    }
    note(Kind::Twin, 0);
    system::set_close_on_exec(descriptor, true);
    // SAFETY: argv and envp are the kernel's own.
    let errno = unsafe { system::execute(twin, argv, envp) };
    system::set_close_on_exec(descriptor, false);
    note(Kind::Fallback, errno);
}

/// # Safety
/// `envp` is a process's initial environment, with the auxiliary vector behind it.
unsafe fn auxiliary(envp: *const *const c_char) -> Auxiliary {
    const AT_NULL: usize = 0;
    const AT_EXECFD: usize = 2;
    const AT_EUID: usize = 12;
    const AT_SECURE: usize = 23;
    let mut result = Auxiliary::default();
    // SAFETY: both the environment and the vector have an end that is looked for.
    unsafe {
        let mut end = envp;
        while !(*end).is_null() {
            end = end.add(1);
        }
        let mut entry = end.add(1).cast::<[usize; 2]>();
        loop {
            let [kind, value] = *entry;
            match kind {
                AT_NULL => return result,
                AT_EXECFD => result.program = Some(value),
                AT_EUID => result.effective_user = value,
                AT_SECURE => result.secure = value != 0,
                _ => {}
            }
            entry = entry.add(1);
        }
    }
}

fn fingerprint(descriptor: usize) -> Option<Fingerprint> {
    let mut prefix = [0; PREFIX];
    let length = usize::try_from(system::read_start(descriptor, &mut prefix)).ok()?;
    Some(Fingerprint::of(prefix.get(..length)?, system::size(descriptor)?))
}
