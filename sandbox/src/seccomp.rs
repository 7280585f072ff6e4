//! The system call filter: what costs nothing inside, and what is denied, each with its reason.
//!
//! The filter sees every ABI that the host's kernel runs: on x86-64 also x32 and i386, on arm64 also
//! 32-bit ARM. A foreign program's calls arrive as qemu's own, in the host's ABI. It is a fence behind
//! others (namespaces, capabilities, permissions), and the only one for what those let through.
//!
//! overlayfs hands O_SYNC and O_DSYNC on to the file below even when it is mounted `volatile` (Linux
//! 6.18), and a filter cannot take a flag away: the supervisor opens such a file without it. fcntl(2)
//! cannot set them (F_SETFL ignores both), and pwritev2(2) is told that the kernel has none. What is left
//! waits for the disk as it asks to: `chattr +S`, and syncs among the requests of io_submit(2).

use std::os::fd::OwnedFd;

use crate::{
    supervisor::{
        Abi, Call, FOLDERS, NAMES, OPENS, OPENS_IN_SINGLE, SINGLE, STARTS, SYNCED_OPENS, UNAME, WRITTEN_OPENS,
    },
    sys,
};

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The supervisor answers it.
    Ask(Call),
    /// It returns 0 and does nothing.
    Nothing,
    /// It fails with this error.
    Fail(i32),
}

/// At which arguments a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// At any.
    Always,
    /// The low 32 bits of this argument have one of these bits. (The kernel looks at no others of
    /// them: CVE-2017-5226's fix failed over that, CVE-2019-10063.)
    Bits(usize, u32),
    /// The low 32 bits of this argument are one of these.
    OneOf(usize, &'static [u32]),
    /// The low 32 bits of this argument are not this.
    Not(usize, u32),
}

/// A system call by its number in each ABI; none where it does not exist.
pub(crate) struct Rule {
    /// x86-64 on x86-64, the generic table on arm64 and others.
    pub(crate) native: libc::c_long,
    #[cfg_attr(not(any(test, target_arch = "x86_64")), allow(dead_code))]
    pub(crate) i386: Option<u32>,
    #[cfg_attr(not(any(test, target_arch = "aarch64")), allow(dead_code))]
    pub(crate) arm: Option<u32>,
    pub(crate) when: When,
    pub(crate) action: Action,
    /// For people.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) reason: &'static str,
}

pub(crate) const fn rule(
    native: libc::c_long,
    i386: u32,
    arm: u32,
    when: When,
    action: Action,
    reason: &'static str,
) -> Rule {
    Rule { native, i386: Some(i386), arm: Some(arm), when, action, reason }
}

/// A call whose number is the same in every ABI: all from 424 (Linux 5.1) on.
pub(crate) const fn new_rule(native: libc::c_long, action: Action, reason: &'static str) -> Rule {
    Rule { native, i386: Some(native as u32), arm: Some(native as u32), when: When::Always, action, reason }
}

use Action::{Ask, Fail, Nothing};
use When::{Always, Bits, Not, OneOf};

const DENY: Action = Fail(libc::EPERM);
/// For calls that programs know to do without.
const ABSENT: Action = Fail(libc::ENOSYS);

const NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;
/// unshare(2) alone has this one.
const CLONE_NEWTIME: u32 = 0x80;
/// clone(2) takes its flags first, but for s390x (CONFIG_CLONE_BACKWARDS2).
const CLONE_FLAGS: usize = if cfg!(target_arch = "s390x") { 1 } else { 0 };
/// `TIOCSTI`, `TIOCLINUX` (asm-generic/ioctls.h; the same on x86 and arm).
const TYPING: &[u32] = &[0x5412, 0x541c];

/// What returns at once: the upper layer is thrown away on failure, and made durable by the caller
/// on success.
const SYNCS: &[Rule] = &[
    rule(libc::SYS_fsync, 118, 118, Always, Nothing, "dpkg and databases sync each file"),
    rule(libc::SYS_fdatasync, 148, 148, Always, Nothing, "the same"),
    rule(libc::SYS_sync, 36, 36, Always, Nothing, "would write out the whole host"),
    rule(libc::SYS_syncfs, 344, 373, Always, Nothing, "would write out the host's file system"),
    rule(SYNC_FILE_RANGE, 314, 341, Always, Nothing, "dpkg starts writing early with it"),
    // Only with MS_SYNC: libunwind asks msync(MS_ASYNC) whether an address is mapped.
    rule(libc::SYS_msync, 144, 144, Bits(2, libc::MS_SYNC as u32), Nothing, "databases on shared maps"),
    // As every kernel before 4.7: who has these flags has something for where they are not known. (x32
    // has another number, 547, and another place for them; there it waits.)
    rule(libc::SYS_pwritev2, 379, 393, Bits(5, RWF_SYNCS), Fail(libc::EOPNOTSUPP), "a sync by another name"),
];
/// RWF_DSYNC and RWF_SYNC (linux/fs.h).
const RWF_SYNCS: u32 = 0x2 | 0x4;

#[cfg(not(target_arch = "powerpc64"))]
const SYNC_FILE_RANGE: libc::c_long = libc::SYS_sync_file_range;
#[cfg(target_arch = "powerpc64")]
const SYNC_FILE_RANGE: libc::c_long = libc::SYS_sync_file_range2;

/// What no package script needs.
const DENIED: &[Rule] = &[
    rule(libc::SYS_mount, 21, 21, Always, DENY, "mounts are the plan's"),
    rule(libc::SYS_umount2, 52, 52, Always, DENY, "the same"),
    rule(libc::SYS_pivot_root, 217, 218, Always, DENY, "the same"),
    new_rule(SYS_OPEN_TREE, DENY, "the same, new interface"),
    new_rule(SYS_OPEN_TREE + 1, DENY, "move_mount"),
    new_rule(SYS_OPEN_TREE + 2, DENY, "fsopen"),
    new_rule(SYS_OPEN_TREE + 3, DENY, "fsconfig"),
    new_rule(SYS_OPEN_TREE + 4, DENY, "fsmount"),
    new_rule(SYS_OPEN_TREE + 5, DENY, "fspick"),
    new_rule(SYS_MOUNT_SETATTR, DENY, "mount_setattr"),
    rule(
        libc::SYS_unshare,
        310,
        337,
        Bits(0, NAMESPACES | CLONE_NEWTIME),
        DENY,
        "a new user namespace has all capabilities",
    ),
    rule(libc::SYS_clone, 120, 120, Bits(CLONE_FLAGS, NAMESPACES), DENY, "the same"),
    // Its flags are in memory, where a filter cannot look. The C library falls back to clone(2).
    new_rule(SYS_CLONE3, ABSENT, "the same"),
    rule(libc::SYS_setns, 346, 375, Always, DENY, "other namespaces are none of its business"),
    rule(libc::SYS_ioctl, 54, 54, OneOf(1, TYPING), DENY, "types into the caller's terminal"),
    rule(libc::SYS_keyctl, 288, 311, Always, ABSENT, "keyrings are the caller's; not namespaced"),
    rule(libc::SYS_add_key, 286, 309, Always, ABSENT, "the same"),
    rule(libc::SYS_request_key, 287, 310, Always, ABSENT, "the same, and runs a host program"),
    rule(libc::SYS_bpf, 357, 386, Always, DENY, "programs in the host's kernel"),
    rule(libc::SYS_perf_event_open, 336, 364, Always, DENY, "sees the host; a large surface"),
    rule(libc::SYS_userfaultfd, 374, 388, Always, DENY, "makes races in the kernel winnable"),
    new_rule(SYS_IO_URING_SETUP, ABSENT, "does calls that no filter sees, fsync too"),
    new_rule(SYS_IO_URING_SETUP + 1, ABSENT, "io_uring_enter"),
    new_rule(SYS_IO_URING_SETUP + 2, ABSENT, "io_uring_register"),
    rule(libc::SYS_open_by_handle_at, 342, 371, Always, DENY, "reaches files outside of the root"),
    rule(libc::SYS_kexec_load, 283, 347, Always, DENY, "starts another kernel"),
    rule(libc::SYS_init_module, 128, 128, Always, DENY, "changes the host's kernel"),
    rule(libc::SYS_finit_module, 350, 379, Always, DENY, "the same"),
    rule(libc::SYS_delete_module, 129, 129, Always, DENY, "the same"),
    rule(libc::SYS_reboot, 88, 88, Always, DENY, "kills pid 1"),
    rule(libc::SYS_swapon, 87, 87, Always, DENY, "the host's memory"),
    rule(libc::SYS_swapoff, 115, 115, Always, DENY, "the same"),
    rule(libc::SYS_acct, 51, 51, Always, DENY, "writes a log of the host's processes"),
    rule(libc::SYS_quotactl, 131, 131, Always, DENY, "the host's file systems"),
    rule(libc::SYS_syslog, 103, 103, Always, DENY, "the host's kernel log"),
    rule(libc::SYS_vhangup, 111, 111, Always, DENY, "hangs the caller's terminal up"),
    rule(libc::SYS_settimeofday, 79, 79, Always, DENY, "the host's clock"),
    rule(libc::SYS_clock_settime, 264, 262, Always, DENY, "the same"),
    Rule {
        i386: Some(404),
        arm: Some(404),
        ..rule(-1, 0, 0, Always, DENY, "clock_settime64, of 32-bit ABIs")
    },
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    Rule { i386: None, ..rule(libc::SYS_kexec_file_load, 0, 401, Always, DENY, "starts another kernel") },
];

// The same in every ABI, and not in every release of every C library.
const SYS_IO_URING_SETUP: libc::c_long = 425;
const SYS_OPEN_TREE: libc::c_long = 428;
const SYS_CLONE3: libc::c_long = 435;
const SYS_MOUNT_SETATTR: libc::c_long = 442;

/// x32 calls are x86-64's with this bit, but for some that have numbers of their own.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
fn x32(rule: &Rule) -> Option<u32> {
    let number = match rule.native {
        libc::SYS_ioctl => 514,
        libc::SYS_kexec_load => 528,
        libc::SYS_execve => 520,
        libc::SYS_execveat => 545,
        native => u32::try_from(native).ok()?,
    };
    Some(X32_BIT | number)
}

// linux/audit.h: the ELF machine number, with bits for 64-bit and little-endian.
const AUDIT_64: u32 = 0x8000_0000;
const AUDIT_LE: u32 = 0x4000_0000;

/// The native ABI's mark.
const AUDIT_NATIVE: u32 = if cfg!(target_arch = "x86_64") {
    62 | AUDIT_64 | AUDIT_LE
} else if cfg!(target_arch = "aarch64") {
    183 | AUDIT_64 | AUDIT_LE
} else if cfg!(target_arch = "riscv64") {
    243 | AUDIT_64 | AUDIT_LE
} else if cfg!(target_arch = "powerpc64") {
    21 | AUDIT_64 | AUDIT_LE
} else if cfg!(target_arch = "s390x") {
    22 | AUDIT_64
} else if cfg!(target_arch = "loongarch64") {
    258 | AUDIT_64 | AUDIT_LE
} else {
    panic!("the filter has no table for this architecture")
};
#[cfg(target_arch = "x86_64")]
const AUDIT_I386: u32 = 3 | AUDIT_LE;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARM: u32 = 40 | AUDIT_LE;

// struct seccomp_data: nr, arch, instruction pointer (8 bytes), six arguments of 8 bytes.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn low_half_of_argument(index: usize) -> u32 {
    16 + 8 * index as u32 + if cfg!(target_endian = "big") { 4 } else { 0 }
}

// Classic BPF (linux/bpf_common.h), as much of it as is needed.
const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

type Program = Vec<libc::sock_filter>;

fn instruction(code: u32, k: u32, if_true: u8, if_false: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: if_true, jf: if_false, k }
}

fn give(action: Option<Action>) -> libc::sock_filter {
    let value = match action {
        None => libc::SECCOMP_RET_ALLOW,
        Some(Nothing) => libc::SECCOMP_RET_ERRNO,
        Some(Ask(_)) => libc::SECCOMP_RET_USER_NOTIF,
        Some(Fail(errno)) => libc::SECCOMP_RET_ERRNO | errno as u32,
    };
    instruction(RETURN, value, 0, 0)
}

/// Compares the call's number with each rule's. Expects the number in the accumulator.
fn rules(rules: &[&Rule], number: impl Fn(&Rule) -> Option<u32>) -> Program {
    let mut program = Program::new();
    for rule in rules {
        let Some(number) = number(rule) else { continue };
        let mut body = match rule.when {
            Always => vec![],
            Bits(argument, bits) => vec![
                instruction(LOAD, low_half_of_argument(argument), 0, 0),
                instruction(IF_ANY_BIT, bits, 1, 0),
                give(None),
            ],
            OneOf(argument, values) => {
                let mut body = vec![instruction(LOAD, low_half_of_argument(argument), 0, 0)];
                for (index, &value) in values.iter().enumerate() {
                    // Past the comparisons that follow, and the "allow" behind them.
                    let past = (values.len() - index) as u8;
                    body.push(instruction(IF_EQUAL, value, past, 0));
                }
                body.push(give(None));
                body
            }
            Not(argument, value) => vec![
                instruction(LOAD, low_half_of_argument(argument), 0, 0),
                instruction(IF_EQUAL, value, 0, 1),
                give(None),
            ],
        };
        body.push(give(Some(rule.action)));
        program.push(instruction(IF_EQUAL, number, 0, body.len() as u8));
        program.append(&mut body);
    }
    program.push(give(None));
    program
}

/// What a filter is to do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// fsync and its kin return at once.
    pub(crate) no_sync: bool,
    /// The supervisor opens files without O_SYNC for those who ask for it.
    pub(crate) no_synced_opens: bool,
    /// The supervisor answers uname(2).
    pub(crate) uname: bool,
    /// It lists folders in order.
    pub(crate) sorted_folders: bool,
    /// It answers for users, groups and owners: tier single.
    pub(crate) single: bool,
    /// It notes who writes which file.
    pub(crate) writers: bool,
    /// It notes which programs run when.
    pub(crate) programs: bool,
    /// Nothing is denied: for programs of the host.
    pub(crate) allows_all: bool,
}

impl Wanted {
    /// The rules that hand calls to the supervisor.
    fn asked(self) -> impl Iterator<Item = &'static Rule> {
        let single = if self.single { SINGLE } else { &[] };
        let opens: &[Rule] = match (self.single, self.no_synced_opens) {
            _ if self.writers => &WRITTEN_OPENS,
            (true, true) => &OPENS,
            (true, false) => &OPENS_IN_SINGLE,
            (false, true) => &SYNCED_OPENS,
            (false, false) => &[],
        };
        let names = if self.writers { NAMES } else { &[] };
        let starts = if self.programs && !self.single { STARTS } else { &[] };
        let folders = if self.sorted_folders { FOLDERS } else { &[] };
        opens
            .iter()
            .chain(folders)
            .chain(single)
            .chain(if self.uname { UNAME } else { &[] })
            .chain(names)
            .chain(starts)
    }

    /// Which call a number is in an ABI, of those that the supervisor gets.
    pub(crate) fn calls(self) -> Vec<((Abi, u32), Call)> {
        let mut calls = Vec::new();
        for rule in self.asked() {
            let Ask(call) = rule.action else { continue };
            let native = u32::try_from(rule.native).ok();
            #[cfg(target_arch = "x86_64")]
            let numbers = [(Abi::Native, native), (Abi::X32, x32(rule)), (Abi::I386, rule.i386)];
            #[cfg(target_arch = "aarch64")]
            let numbers = [(Abi::Native, native), (Abi::Arm, rule.arm)];
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            let numbers = [(Abi::Native, native)];
            calls.extend(numbers.iter().filter_map(|&(abi, number)| Some(((abi, number?), call))));
        }
        calls
    }
}

/// The ABI of a call, by the mark that the kernel gives it and its number.
pub(crate) fn abi(architecture: u32, number: u32) -> Option<Abi> {
    match architecture {
        #[cfg(target_arch = "x86_64")]
        AUDIT_NATIVE if number & X32_BIT != 0 => Some(Abi::X32),
        AUDIT_NATIVE => Some(Abi::Native),
        #[cfg(target_arch = "x86_64")]
        AUDIT_I386 => Some(Abi::I386),
        #[cfg(target_arch = "aarch64")]
        AUDIT_ARM => Some(Abi::Arm),
        _ => None,
    }
}

/// The program: by ABI, then by number. Where a call always has the same outcome, Linux ≥ 5.11
/// remembers that by number and does not run the program at all.
fn program(wanted: Wanted) -> Program {
    let syncs = if wanted.no_sync { SYNCS } else { &[] };
    let denied = if wanted.allows_all { &[] } else { DENIED };
    let all: Vec<&Rule> = wanted.asked().chain(denied).chain(syncs).collect();
    let native = rules(&all, |rule| u32::try_from(rule.native).ok());
    let mut abis: Vec<(u32, Program)> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let mut both =
            vec![instruction(IF_AT_LEAST, X32_BIT, 0, 1), instruction(JUMP, native.len() as u32, 0, 0)];
        both.extend(native);
        both.extend(rules(&all, x32));
        abis.push((AUDIT_NATIVE, both));
        abis.push((AUDIT_I386, rules(&all, |rule| rule.i386)));
    }
    #[cfg(target_arch = "aarch64")]
    {
        abis.push((AUDIT_NATIVE, native));
        abis.push((AUDIT_ARM, rules(&all, |rule| rule.arm)));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    abis.push((AUDIT_NATIVE, native));

    let mut program = vec![instruction(LOAD, ARCHITECTURE, 0, 0)];
    for (architecture, body) in abis {
        // A jump of its own, since a conditional one reaches only 255 instructions far.
        program.push(instruction(IF_EQUAL, architecture, 1, 0));
        program.push(instruction(JUMP, body.len() as u32 + 1, 0, 0));
        program.push(instruction(LOAD, NUMBER, 0, 0));
        program.extend(body);
    }
    program.push(give(Some(ABSENT))); // an ABI that the tables do not know
    program
}

/// Puts the filter in force for this process and all that it starts. Where the supervisor is to
/// answer calls, it gives the descriptor at which they wait; without anyone there, they hang.
pub(crate) fn install(wanted: Wanted) -> nix::Result<Option<OwnedFd>> {
    let program = program(wanted);
    if wanted.asked().next().is_some() {
        return sys::seccomp::install_with_listener(&program).map(Some);
    }
    sys::seccomp::install(&program).map(|()| None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter answers: an interpreter for the few instructions it is made of.
    fn answer(program: &Program, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [number.to_ne_bytes(), architecture.to_ne_bytes(), [0; 4], [0; 4]].concat();
        data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let now = program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { now.jt } else { now.jf });
            match u32::from(now.code) {
                LOAD => {
                    let from = now.k as usize;
                    accumulator = u32::from_ne_bytes(data[from..from + 4].try_into().expect("four bytes"));
                }
                JUMP => at += now.k as usize,
                IF_EQUAL => at += jump(accumulator == now.k),
                IF_AT_LEAST => at += jump(accumulator >= now.k),
                IF_ANY_BIT => at += jump(accumulator & now.k != 0),
                RETURN => return now.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const ZERO: u32 = libc::SECCOMP_RET_ERRNO;
    const EPERM: u32 = ZERO | libc::EPERM as u32;
    const ENOSYS: u32 = ZERO | libc::ENOSYS as u32;
    const UNSUPPORTED: u32 = ZERO | libc::EOPNOTSUPP as u32;
    const ASKED: u32 = libc::SECCOMP_RET_USER_NOTIF;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn starts_are_asked_about_unless_they_are_known() {
        let program = program(Wanted { programs: true, ..Wanted::default() });
        let unnoted = u64::from(crate::plan::UNNOTED);
        for (architecture, number) in [(0xc000_003e, 59), (0xc000_003e, 0x4000_0000 | 520), (0x4000_0003, 11)]
        {
            assert_eq!(answer(&program, architecture, number, [0; 6]), ASKED);
            assert_eq!(answer(&program, architecture, number, [0, 0, 0, unnoted, 0, 0]), ALLOW);
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_abi_of_x86() {
        // Numbers as literals: from the kernel's arch/x86/entry/syscalls tables.
        let (x86_64, x32, i386) = (0xc000_003e, 0x4000_0000, 0x4000_0003);
        let wanted = Wanted {
            no_sync: true,
            no_synced_opens: true,
            uname: true,
            sorted_folders: true,
            ..Wanted::default()
        };
        let program = program(wanted);
        let clone_thread = 0x3d_0f00;
        for (architecture, number, arguments, expected, what) in [
            (x86_64, 74, [0; 6], ZERO, "fsync"),
            (x86_64, x32 | 74, [0; 6], ZERO, "x32 fsync"),
            (i386, 118, [0; 6], ZERO, "i386 fsync"),
            (i386, 74, [0; 6], ALLOW, "i386 sethostname, whose number is x86-64's fsync"),
            (x86_64, 0, [0; 6], ALLOW, "read"),
            (x86_64, 26, [0, 0, 4, 0, 0, 0], ZERO, "msync MS_SYNC"),
            (x86_64, 26, [0, 0, 1, 0, 0, 0], ALLOW, "msync MS_ASYNC"),
            (x86_64, 16, [0, 0x5412, 0, 0, 0, 0], EPERM, "TIOCSTI"),
            (x86_64, 16, [0, 0xffff_ffff_0000_5412, 0, 0, 0, 0], EPERM, "TIOCSTI with high bits"),
            (x86_64, 16, [0, 0x541c, 0, 0, 0, 0], EPERM, "TIOCLINUX"),
            (x86_64, 16, [0, 0x5413, 0, 0, 0, 0], ALLOW, "TIOCGWINSZ"),
            (x86_64, x32 | 514, [0, 0x5412, 0, 0, 0, 0], EPERM, "x32 TIOCSTI"),
            (i386, 54, [0, 0x5412, 0, 0, 0, 0], EPERM, "i386 TIOCSTI"),
            (x86_64, 56, [clone_thread, 0, 0, 0, 0, 0], ALLOW, "clone of a thread"),
            (x86_64, 56, [0x1000_0011, 0, 0, 0, 0, 0], EPERM, "clone with CLONE_NEWUSER"),
            (i386, 120, [0x1000_0011, 0, 0, 0, 0, 0], EPERM, "i386 clone with CLONE_NEWUSER"),
            (x86_64, 272, [0x0002_0000, 0, 0, 0, 0, 0], EPERM, "unshare CLONE_NEWNS"),
            (x86_64, 272, [0x200, 0, 0, 0, 0, 0], ALLOW, "unshare CLONE_FS"),
            (x86_64, 435, [0; 6], ENOSYS, "clone3"),
            (i386, 435, [0; 6], ENOSYS, "i386 clone3"),
            (x86_64, 165, [0; 6], EPERM, "mount"),
            (x86_64, 442, [0; 6], EPERM, "mount_setattr"),
            (x86_64, 250, [0; 6], ENOSYS, "keyctl"),
            (i386, 288, [0; 6], ENOSYS, "i386 keyctl"),
            (x86_64, 425, [0; 6], ENOSYS, "io_uring_setup"),
            (x86_64, 320, [0; 6], EPERM, "kexec_file_load"),
            (x86_64, x32 | 528, [0; 6], EPERM, "x32 kexec_load"),
            (x86_64, 404, [0; 6], ALLOW, "no call of x86-64"),
            (x86_64, 63, [0; 6], ASKED, "uname"),
            (x86_64, x32 | 63, [0; 6], ASKED, "x32 uname"),
            (i386, 122, [0; 6], ASKED, "i386 uname, which was newuname"),
            (i386, 109, [0; 6], ASKED, "i386 uname"),
            (i386, 59, [0; 6], ASKED, "i386 olduname"),
            (x86_64, 59, [0; 6], ALLOW, "execve"),
            (x86_64, 122, [0; 6], ALLOW, "setfsuid"),
            (x86_64, 217, [0; 6], ASKED, "getdents64"),
            (x86_64, 78, [0; 6], ASKED, "getdents"),
            (x86_64, x32 | 217, [0; 6], ASKED, "x32 getdents64"),
            (i386, 220, [0; 6], ASKED, "i386 getdents64"),
            (i386, 141, [0; 6], ASKED, "i386 getdents"),
            (i386, 404, [0; 6], EPERM, "clock_settime64"),
            (x86_64, 2, [0, 0x10_1042, 0, 0, 0, 0], ASKED, "open O_SYNC"),
            (x86_64, 2, [0, 0x1041, 0, 0, 0, 0], ASKED, "open O_DSYNC"),
            (x86_64, 2, [0, 0xef_efff, 0x1000, 0, 0, 0], ALLOW, "open with every other flag"),
            (x86_64, 257, [0, 0, 0x10_1001, 0, 0, 0], ASKED, "openat O_SYNC"),
            (x86_64, 257, [0, 0, 0xef_efff, 0, 0, 0], ALLOW, "openat with every other flag"),
            (x86_64, x32 | 257, [0, 0, 0x1001, 0, 0, 0], ASKED, "x32 openat O_DSYNC"),
            (i386, 5, [0, 0x1001, 0, 0, 0, 0], ASKED, "i386 open O_DSYNC"),
            (i386, 295, [0, 0, 0x10_0001, 0, 0, 0], ASKED, "i386 openat __O_SYNC"),
            (x86_64, 437, [0; 6], ASKED, "openat2"),
            (x86_64, 328, [0, 0, 0, 0, 0, 2], UNSUPPORTED, "pwritev2 RWF_DSYNC"),
            (i386, 379, [0, 0, 0, 0, 0, 4], UNSUPPORTED, "i386 pwritev2 RWF_SYNC"),
            (x86_64, 328, [0, 0, 0, 0, 0, 0x18], ALLOW, "pwritev2 with other flags"),
            (0xc000_00b7, 82, [0; 6], ENOSYS, "an ABI that does not belong here"),
        ] {
            assert_eq!(answer(&program, architecture, number, arguments), expected, "{what}");
        }
    }

    fn syncs(no_sync: bool) -> Wanted {
        Wanted { no_sync, ..Wanted::default() }
    }

    #[test]
    fn syncs_are_real_when_asked_for() {
        let fsync = libc::SYS_fsync as u32;
        assert_eq!(answer(&program(syncs(true)), AUDIT_NATIVE, fsync, [0; 6]), ZERO);
        assert_eq!(answer(&program(syncs(false)), AUDIT_NATIVE, fsync, [0; 6]), ALLOW);
        assert_eq!(answer(&program(syncs(false)), AUDIT_NATIVE, libc::SYS_mount as u32, [0; 6]), EPERM);
    }

    #[test]
    fn tables_have_a_reason_a_line_and_no_call_twice() {
        let all: Vec<_> =
            DENIED.iter().chain(SYNCS).chain(UNAME).chain(FOLDERS).chain(SINGLE).chain(&OPENS).collect();
        assert!(all.iter().all(|rule| !rule.reason.is_empty()));
        let numbers: [fn(&&Rule) -> Option<u32>; 3] =
            [|rule| u32::try_from(rule.native).ok(), |rule| rule.i386, |rule| rule.arm];
        for number in numbers {
            let mut numbers: Vec<_> = all.iter().filter_map(number).collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count);
        }
    }
}
