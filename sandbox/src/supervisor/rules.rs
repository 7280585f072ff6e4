//! Which system calls the supervisor answers, by their numbers in each ABI.
//!
//! On x86-64 from arch/x86/entry/syscalls of the kernel, on 32-bit ARM from arch/arm/tools/syscall.tbl, on
//! others from asm-generic/unistd.h. The 16-bit calls of i386 and ARM have their own numbers. The filter
//! compares in this order, so frequent calls come first.
//!
//! Left to the kernel, and therefore showing the one mapped user: i386's structures with 16-bit ids
//! (calls 18, 28, 84 and 106 to 108, which no C library has used since Linux 2.4).

use super::{
    Call,
    attributes::Verb,
    files::{MAKES, Make, Target},
    folders::Structure,
    identity::{Act, Who, Width},
    stat::{Layout, Stat},
    uname::Utsname,
    writers::WRITES,
};
use crate::plan::UNNOTED;
use crate::seccomp::{
    Action::{Ask, Fail},
    Rule,
    When::{self, Always, Bits, Not, OneOf},
    new_rule, rule,
};

/// What the supervisor says of the kernel, where the plan wants something said.
pub(crate) const UNAME: &[Rule] = &[
    rule(libc::SYS_uname, 122, 122, Always, Ask(Call::Uname(Utsname::New)), "the image's machine"),
    // Of i386 alone: arm's kernels have these numbers for a personality long gone.
    Rule { arm: None, ..rule(-1, 109, 0, Always, Ask(Call::Uname(Utsname::Old)), "the same") },
    Rule { arm: None, ..rule(-1, 59, 0, Always, Ask(Call::Uname(Utsname::Oldest)), "the same") },
];

/// Listing folders, where the plan wants them in order.
pub(crate) const FOLDERS: &[Rule] = &[
    rule(libc::SYS_getdents64, 220, 217, Always, Ask(Call::List(Structure::New)), "in order"),
    rule(GETDENTS, 141, 141, Always, Ask(Call::List(Structure::Old)), "the same"),
];

/// Not on the newer architectures.
const GETDENTS: libc::c_long =
    if cfg!(any(target_arch = "powerpc64", target_arch = "s390x")) { 141 } else { x86_64(78) };

/// Starts of programs, where the plan wants them noted. (execve(2) has three arguments.)
pub(crate) const STARTS: &[Rule] = &[
    rule(libc::SYS_execve, 11, 11, Not(3, UNNOTED), Ask(Call::Execute(Target::Path)), "noted"),
    rule(libc::SYS_execveat, 358, 387, Always, Ask(Call::Execute(Target::At(4))), "the same"),
];

/// What it answers in tier single.
pub(crate) const SINGLE: &[Rule] = &[
    status(STAT_AT, None, None, Target::At(3), 2, Layout::Native),
    status(FSTAT, None, None, Target::Open, 1, Layout::Native),
    status(libc::SYS_statx, Some(383), Some(397), Target::At(2), 4, Layout::Statx),
    status(x86_64(4), None, None, Target::Path, 1, Layout::Native),
    status(x86_64(6), None, None, Target::Link, 1, Layout::Native),
    status(-1, Some(300), None, Target::At(3), 2, Layout::I386),
    status(-1, None, Some(327), Target::At(3), 2, Layout::Arm),
    status(-1, Some(195), None, Target::Path, 1, Layout::I386),
    status(-1, None, Some(195), Target::Path, 1, Layout::Arm),
    status(-1, Some(196), None, Target::Link, 1, Layout::I386),
    status(-1, None, Some(196), Target::Link, 1, Layout::Arm),
    status(-1, Some(197), None, Target::Open, 1, Layout::I386),
    status(-1, None, Some(197), Target::Open, 1, Layout::Arm),
    make(x86_64(85), 8, 8, Always, Make::Creat),
    make(x86_64(83), 39, 39, Always, Make::Folder),
    make(libc::SYS_mkdirat, 296, 323, Always, Make::FolderAt),
    make(x86_64(88), 83, 83, Always, Make::Link),
    make(libc::SYS_symlinkat, 304, 331, Always, Make::LinkAt),
    make(x86_64(133), 14, 14, Always, Make::Node),
    make(libc::SYS_mknodat, 297, 324, Always, Make::NodeAt),
    rule(libc::SYS_execve, 11, 11, Always, Ask(Call::Execute(Target::Path)), "set-id programs"),
    rule(libc::SYS_execveat, 358, 387, Always, Ask(Call::Execute(Target::At(4))), "the same"),
    attribute(libc::SYS_getxattr, 229, 229, Verb::Get, Target::Path),
    attribute(libc::SYS_lgetxattr, 230, 230, Verb::Get, Target::Link),
    attribute(libc::SYS_fgetxattr, 231, 231, Verb::Get, Target::Open),
    attribute(libc::SYS_listxattr, 232, 232, Verb::List, Target::Path),
    attribute(libc::SYS_llistxattr, 233, 233, Verb::List, Target::Link),
    attribute(libc::SYS_flistxattr, 234, 234, Verb::List, Target::Open),
    attribute(libc::SYS_setxattr, 226, 226, Verb::Set, Target::Path),
    attribute(libc::SYS_lsetxattr, 227, 227, Verb::Set, Target::Link),
    attribute(libc::SYS_fsetxattr, 228, 228, Verb::Set, Target::Open),
    attribute(libc::SYS_removexattr, 235, 235, Verb::Remove, Target::Path),
    attribute(libc::SYS_lremovexattr, 236, 236, Verb::Remove, Target::Link),
    attribute(libc::SYS_fremovexattr, 237, 237, Verb::Remove, Target::Open),
    // The same with a folder's descriptor (Linux 6.13); programs know to do without.
    new_rule(463, Fail(libc::ENOSYS), "setxattrat"),
    new_rule(464, Fail(libc::ENOSYS), "getxattrat"),
    new_rule(465, Fail(libc::ENOSYS), "listxattrat"),
    new_rule(466, Fail(libc::ENOSYS), "removexattrat"),
    identity(libc::SYS_getuid, 199, Act::Real(Who::User)),
    identity(libc::SYS_geteuid, 201, Act::Effective(Who::User)),
    identity(libc::SYS_getgid, 200, Act::Real(Who::Group)),
    identity(libc::SYS_getegid, 202, Act::Effective(Who::Group)),
    identity(libc::SYS_getresuid, 209, Act::GetAll(Who::User)),
    identity(libc::SYS_getresgid, 211, Act::GetAll(Who::Group)),
    identity(libc::SYS_getgroups, 205, Act::GetGroups),
    identity(libc::SYS_setuid, 213, Act::Set(Who::User)),
    identity(libc::SYS_setgid, 214, Act::Set(Who::Group)),
    identity(libc::SYS_setreuid, 203, Act::SetTwo(Who::User)),
    identity(libc::SYS_setregid, 204, Act::SetTwo(Who::Group)),
    identity(libc::SYS_setresuid, 208, Act::SetAll(Who::User)),
    identity(libc::SYS_setresgid, 210, Act::SetAll(Who::Group)),
    identity(libc::SYS_setfsuid, 215, Act::SetFileSystem(Who::User)),
    identity(libc::SYS_setfsgid, 216, Act::SetFileSystem(Who::Group)),
    identity(libc::SYS_setgroups, 206, Act::SetGroups),
    rule(libc::SYS_prctl, 172, 172, OneOf(0, KEEP), Ask(Call::Keep), "setpriv changes groups after the user"),
    short(24, Act::Real(Who::User)),
    short(49, Act::Effective(Who::User)),
    short(47, Act::Real(Who::Group)),
    short(50, Act::Effective(Who::Group)),
    short(165, Act::GetAll(Who::User)),
    short(171, Act::GetAll(Who::Group)),
    short(80, Act::GetGroups),
    short(23, Act::Set(Who::User)),
    short(46, Act::Set(Who::Group)),
    short(70, Act::SetTwo(Who::User)),
    short(71, Act::SetTwo(Who::Group)),
    short(164, Act::SetAll(Who::User)),
    short(170, Act::SetAll(Who::Group)),
    short(138, Act::SetFileSystem(Who::User)),
    short(139, Act::SetFileSystem(Who::Group)),
    short(81, Act::SetGroups),
    chown(libc::SYS_fchownat, 298, 325, Target::At(4), Width::Full),
    chown(x86_64(92), 212, 212, Target::Path, Width::Full),
    chown(x86_64(94), 198, 198, Target::Link, Width::Full),
    chown(libc::SYS_fchown, 207, 207, Target::Open, Width::Full),
    chown(-1, 182, 182, Target::Path, Width::Short),
    chown(-1, 16, 16, Target::Link, Width::Short),
    chown(-1, 95, 95, Target::Open, Width::Short),
];

/// The options of prctl(2) with which capabilities outlive a change of user.
const KEEP: &[u32] = &[libc::PR_SET_KEEPCAPS as u32, libc::PR_SET_SECUREBITS as u32];

/// A call that newer architectures no longer have.
const fn x86_64(number: libc::c_long) -> libc::c_long {
    if cfg!(target_arch = "x86_64") { number } else { -1 }
}

/// newfstatat and fstat; libc has no name for them where they came late.
const STAT_AT: libc::c_long = if cfg!(target_arch = "x86_64") { 262 } else { 79 };
const FSTAT: libc::c_long = if cfg!(target_arch = "x86_64") { 5 } else { 80 };

/// Whether this machine's structures and numbers are the ones above.
pub(crate) const SINGLE_IS_KNOWN: bool = cfg!(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "loongarch64"
));

/// The flags with which a write waits for the disk. (O_SYNC has O_DSYNC in it.)
const SYNCS: i32 = libc::O_SYNC | libc::O_DSYNC;

/// Opens that the supervisor gets in tier single where syncs are real,
pub(crate) const OPENS_IN_SINGLE: [Rule; 3] = opens(MAKES);
/// in tier full where they are not,
pub(crate) const SYNCED_OPENS: [Rule; 3] = opens(SYNCS);
/// and in tier single where they are not.
pub(crate) const OPENS: [Rule; 3] = opens(MAKES | SYNCS);

/// All that the supervisor gets where it notes who writes.
pub(crate) const WRITTEN_OPENS: [Rule; 3] = opens(MAKES | SYNCS | WRITES);

/// Calls that give files their names, where it notes who writes.
pub(crate) const NAMES: &[Rule] = &[
    name(x86_64(82), 38, 38, None, 1),
    name(RENAME_AT, 302, 329, Some(2), 3),
    name(libc::SYS_renameat2, 353, 382, Some(2), 3),
    name(x86_64(86), 9, 9, None, 1),
    name(libc::SYS_linkat, 303, 330, Some(2), 3),
];

/// Not on the newest architectures.
const RENAME_AT: libc::c_long = if cfg!(target_arch = "x86_64") {
    264
} else if cfg!(target_arch = "aarch64") {
    38
} else {
    -1
};

const fn name(native: libc::c_long, i386: u32, arm: u32, folder: Option<usize>, path: usize) -> Rule {
    rule(native, i386, arm, Always, Ask(Call::Name(folder, path)), "who wrote a file is noted")
}

/// Opens with one of these flags, which have the same bits in every ABI that one kernel has. Those of
/// openat2(2) are in memory, where a filter cannot look.
const fn opens(flags: i32) -> [Rule; 3] {
    let flags = flags as u32;
    [
        make(libc::SYS_openat, 295, 322, Bits(2, flags), Make::OpenAt),
        make(x86_64(2), 5, 5, Bits(1, flags), Make::Open),
        make(libc::SYS_openat2, 437, 437, Always, Make::OpenAt2),
    ]
}

const fn status(
    native: libc::c_long,
    i386: Option<u32>,
    arm: Option<u32>,
    target: Target,
    structure: usize,
    layout: Layout,
) -> Rule {
    let action = Ask(Call::Stat(Stat { target, structure, layout }));
    Rule { i386, arm, ..rule(native, 0, 0, Always, action, "shows owners") }
}

const fn make(native: libc::c_long, i386: u32, arm: u32, when: When, make: Make) -> Rule {
    rule(native, i386, arm, when, Ask(Call::Make(make)), "who makes a file owns it")
}

const fn attribute(native: libc::c_long, i386: u32, arm: u32, verb: Verb, target: Target) -> Rule {
    rule(native, i386, arm, Always, Ask(Call::Attribute(verb, target)), "access control lists")
}

const fn identity(native: libc::c_long, both: u32, act: Act) -> Rule {
    rule(native, both, both, Always, Ask(Call::Identity(act, Width::Full)), "who a process is")
}

const fn short(both: u32, act: Act) -> Rule {
    rule(-1, both, both, Always, Ask(Call::Identity(act, Width::Short)), "the same in 16 bits")
}

const fn chown(native: libc::c_long, i386: u32, arm: u32, target: Target, width: Width) -> Rule {
    rule(native, i386, arm, Always, Ask(Call::Chown(target, width)), "owners are recorded")
}
