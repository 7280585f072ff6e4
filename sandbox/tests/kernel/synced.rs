//! Files opened with O_SYNC, which waits for nothing inside. The oracle is the kernel: where syncs are
//! real, the supervisor has no part in it, and a program must see the same.

use sandbox::{Plan, Session, Tier};

use crate::{
    calls::python,
    support::{Test, Tree, changes},
};

pub(crate) const TESTS: &[Test] = &[
    ("synced::as_the_kernel_opens", &["userns", "python"], as_the_kernel_opens),
    ("synced::with_the_callers_permissions", &["userns", "python"], with_the_callers_permissions),
    ("synced::what_is_no_file", &["userns", "python"], what_is_no_file),
    ("synced::i386", &["userns", "python"], i386),
    ("synced::many_at_once", &["userns", "python"], many_at_once),
    ("synced::other_ways_to_sync", &["userns", "python"], other_ways_to_sync),
];

/// Runs a program where syncs are real and where they cost nothing, in both tiers. What it says must be
/// the same, but for the flag: `flag()` tells it.
fn both(text: &str) -> String {
    const FRAME: &str = r#"
import fcntl, resource, signal, stat, threading, time
S, D, C, W, RW, X = os.O_SYNC, os.O_DSYNC, os.O_CREAT, os.O_WRONLY, os.O_RDWR, os.O_EXCL
def flag(f): print("flag", bool(fcntl.fcntl(f, fcntl.F_GETFL) & S))
def say(*what): print(*what); sys.stdout.flush()
def attempt(what, call, *arguments, **named):
    try: f = call(*arguments, **named)
    except OSError as error: say(what, error.errno); return None
    s = os.fstat(f); say(what, oct(s.st_mode), s.st_uid, s.st_gid, s.st_size, oct(fcntl.fcntl(f, fcntl.F_GETFL) & ~(S | D)))
    return f
def opened(what, *arguments, **named):
    f = attempt(what, os.open, *arguments, **named)
    if f is None: return
    flag(f); os.close(f)
def child(action):
    if os.fork() == 0:
        try: action()
        except BaseException as error: say("failed", error)
        sys.stdout.flush(); os._exit(0)
    os.wait()
os.umask(0o27); os.makedirs("/var/s/d"); os.chdir("/var/s")
"#;
    let mut said = Vec::new();
    for tier in [Tier::Full, Tier::Single] {
        let [real, none] = [false, true].map(|no_sync| {
            let tree = Tree::new();
            let mut session = session(&tree, tier, no_sync);
            let said = python(&mut session, &format!("{FRAME}{text}"));
            let left = changes(&mut session).into_iter();
            let left: Vec<_> =
                left.map(|(change, content)| (crate::single::comparable(change), content)).collect();
            (said, left)
        });
        let (flags, lines): (Vec<_>, Vec<_>) = none.0.lines().partition(|line| line.starts_with("flag "));
        let (real_flags, real_lines): (Vec<_>, Vec<_>) =
            real.0.lines().partition(|line| line.starts_with("flag "));
        assert_eq!(lines, real_lines, "tier {}: what the supervisor opened, and the kernel", tier.name());
        assert_eq!(none.1, real.1);
        assert!(real_flags.iter().all(|flag| *flag == "flag True"), "{real_flags:?}");
        assert!(flags.iter().all(|flag| *flag == "flag False"), "tier {}: {}", tier.name(), none.0);
        said.push(none.0);
    }
    said.swap_remove(0)
}

fn session(tree: &Tree, tier: Tier, no_sync: bool) -> Session {
    let session = Session::start(&Plan { tier: Some(tier), no_sync, ..tree.plan() }).expect("a session");
    assert_eq!(session.enforced().inside.no_sync, no_sync, "{:?}", session.enforced());
    session
}

fn as_the_kernel_opens() {
    let said = both(
        r#"
opened("new", "new", C | W | S, 0o666); opened("dsync", "dsync", C | RW | D, 0o4751); opened("only the high bit", "high", C | W | (S & ~D), 0o600)
f = os.open("new", W | S | os.O_APPEND); os.write(f, b"one"); os.write(f, b"two"); os.close(f); opened("there", "new", os.O_RDONLY | S); opened("truncated", "new", W | S | os.O_TRUNC)
opened("exclusive", "exclusive", C | X | W | S, 0o640); opened("exclusive again", "exclusive", C | X | W | S, 0o640)
opened("missing", "missing", W | S); opened("no folder", "missing/x", C | W | S); opened("a file is no folder", "new/x", C | W | S); opened("slash", "x/", C | W | S)
os.symlink("new", "link"); os.symlink("nowhere", "dangling"); os.symlink("/var/s/loop", "loop")
opened("link", "link", W | S); opened("no link", "link", W | S | os.O_NOFOLLOW); opened("dangling", "dangling", W | S); opened("through a dangling link", "dangling", C | W | S); opened("loop", "loop", C | W | S)
opened("base", "/etc/old", os.O_RDONLY | S); f = os.open("/etc/old", RW | S); os.pwrite(f, b"X", 1); print(open("/etc/old").read(), os.pread(f, 9, 0)); os.close(f)
d = os.open("d", os.O_RDONLY); opened("relative", "x", C | W | S, dir_fd=d); opened("up", "../y", C | W | S, dir_fd=d); opened("no descriptor", "x", W | S, dir_fd=99); opened("absolute", "/var/s/d/x", W | S, dir_fd=99)
os.chmod("d", 0o2770); os.chown("d", 0, 33); opened("set-group-id folder", "d/z", C | W | S, 0o2770)
opened("empty", "", C | W | S); opened("long", "x" * 300, C | W | S); opened("longer", "/" + "y/" * 2100, C | W | S); opened("to write", "d", W | S); opened("is one", "new", os.O_RDONLY | S | os.O_DIRECTORY)
for address in 0, 8, 1 << 47, (1 << 64) - 4096: say("address", libc.open(ctypes.c_void_p(address), C | W | S), ctypes.get_errno())
f = libc.open(b"new", W | S); flag(f); say(os.get_inheritable(f)); os.close(f); f = libc.open(b"new", W | S | os.O_CLOEXEC); say(os.get_inheritable(f)); os.close(f)
opened("unblocking", "new", W | S | os.O_NONBLOCK); opened("not for the time", "new", os.O_RDONLY | S | os.O_NOATIME)
t = attempt("unnamed", os.open, "d", os.O_TMPFILE | RW | S, 0o640)
if t is not None: flag(t); os.write(t, b"text"); say(libc.linkat(-100, f"/proc/self/fd/{t}".encode(), -100, b"named", 0x400)); opened("named", "named", W | S)
t = attempt("a name", os.open, "new", os.O_PATH | S)
say(open(f"/proc/self/fd/{t}").read())
f = attempt("of proc", os.open, "/proc/self/comm", RW | S); say(os.read(f, 20)); f = attempt("of another", os.open, f"/proc/{os.getpid()}/comm", RW | S); say(os.read(f, 20))
f = os.open("new", W); g = os.open(f"/dev/fd/{f}", W | S | os.O_APPEND); os.write(g, b"end"); say(open("new").read())
BENEATH, IN_ROOT, NO_SYMLINKS = 8, 16, 4
def openat2(folder, path, flags, mode=0, resolve=0, size=24):
    how = (ctypes.c_uint64 * 4)(flags, mode, resolve, 0); f = libc.syscall(437, folder, path.encode(), how, size)
    if f < 0: raise OSError(ctypes.get_errno(), path)
    flag(f); return f
for what, arguments in {"2": (-100, "two", C | W | S, 0o644), "2 there": (-100, "two", W | S), "beneath": (d, "../new", W | S, 0, BENEATH), "beneath it": (d, "x", W | S, 0, BENEATH), "beneath root": (d, "/x", W | S, 0, BENEATH),
        "in root": (d, "/../../x", W | S, 0, IN_ROOT), "new in root": (d, "/../in-root", C | W | S, 0o604, IN_ROOT), "no links": (-100, "link", W | S, 0, NO_SYMLINKS), "bad mode": (-100, "two", W | S, 0o7), "bad flags": (-100, "two", W | S | 1 << 40), "bad resolve": (-100, "two", W | S, 0, 1 << 30), "bad size": (-100, "two", W | S, 0, 0, 16), "large": (-100, "two", W | S, 0, 0, 32)}.items():
    attempt(what, openat2, *arguments)
os.makedirs("/jail/etc"); os.symlink("/etc/inside", "/jail/link")
def jailed():
    f = os.open("/var", os.O_RDONLY); os.chroot("/jail"); os.chdir("/")
    opened("inside", "/etc/inside", C | W | S, 0o644); opened("link inside", "/link", W | S); opened("up", "../../../etc/inside", W | S); opened("outside", "/etc/old", W | S); opened("held", "s/new", W | S, dir_fd=f)
child(jailed); say(os.listdir("/jail/etc"))
def few():
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    opened("too many", "new", W | S); opened("too many for a new one", "few", C | X | W | S)
child(few); os.path.exists("few") and os.unlink("few")"#,
    );
    for line in [
        "new 0o100640 0 0 0",
        "exclusive again 17",
        "no link 40",
        "no descriptor 9",
        "beneath 18",
        "in root 0o100750",
        "too many 24",
    ] {
        assert!(said.contains(line), "{line:?} is missing in {said}");
    }
}

fn with_the_callers_permissions() {
    let said = both(
        r#"
for name, owner, mode in ("roots", (0, 0), 0o600), ("www", (33, 33), 0o600), ("groups", (0, 60), 0o060), ("group", (0, 5), 0o060), ("all", (0, 0), 0o666):
    os.close(os.open(name, C | W)); os.chown(name, *owner); os.chmod(name, mode)
os.mkdir("closed", 0o700); os.mkdir("open"); os.chmod("open", 0o777); os.mkdir("sticky"); os.chmod("sticky", 0o1777); os.mkdir("wwws"); os.chown("wwws", 33, 33); os.chmod("wwws", 0o700)
os.chmod(".", 0o755); os.close(os.open("sticky/roots", C | W)); os.chmod("sticky/roots", 0o666); os.close(os.open("closed/x", C | W)); f = os.open("closed", os.O_RDONLY)
def everything(who):
    for name in "roots", "www", "groups", "group", "all", "closed/x", "sticky/roots": opened(f"{who} {name}", name, W | S); opened(f"{who} {name} or new", name, C | W | S)
    for name in "closed", "open", "sticky", "wwws", ".": opened(f"{who} new in {name}", f"{name}/{who}", C | X | W | S, 0o666)
    opened(f"{who} held", "x", W | S, dir_fd=f); opened(f"{who} time", "all", os.O_RDONLY | S | os.O_NOATIME)
def www(): os.setgroups([60]); os.setresgid(33, 33, 33); os.setresuid(33, 33, 33); everything("www")
def alone(): os.setgroups([]); os.setresgid(33, 5, 33); os.setresuid(33, 33, 33); everything("alone")
def effective(): os.seteuid(33); everything("effective"); os.seteuid(0); everything("again")
def files(): libc.setfsuid(33); libc.setfsgid(60); everything("files")
def masked(): os.umask(0o077); everything("masked")
def bounded(): os.execvp("setpriv", ["setpriv", "--bounding-set=-dac_override,-fowner", sys.executable, "-c", source + "\neverything('bounded')"])
def ambient(): os.execvp("setpriv", ["setpriv", "--reuid=33", "--regid=33", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--no-new-privs", sys.executable, "-c", source + "\neverything('ambient')"])
def thread():
    def one(): libc.syscall(122, 33); everything("thread")
    t = threading.Thread(target=one); t.start(); t.join(); everything("main")
import inspect
source = "import ctypes, fcntl, os, sys\nS, D, C, W, RW, X = os.O_SYNC, os.O_DSYNC, os.O_CREAT, os.O_WRONLY, os.O_RDWR, os.O_EXCL\nos.umask(0o27); f = os.open('closed', os.O_RDONLY) if os.geteuid() == 0 else 99\n" + FUNCTIONS
for action in www, alone, effective, files, masked, bounded, ambient, thread: child(action)"#
            .replace(
                "FUNCTIONS",
                r#"'''
def flag(f): print("flag", bool(fcntl.fcntl(f, fcntl.F_GETFL) & S))
def opened(what, *arguments, **named):
    try: f = os.open(*arguments, **named)
    except OSError as error: print(what, error.errno); return
    s = os.fstat(f); print(what, oct(s.st_mode), s.st_uid, s.st_gid); flag(f); os.close(f)
def everything(who):
    for name in "roots", "www", "groups", "group", "all", "closed/x", "sticky/roots": opened(f"{who} {name}", name, W | S); opened(f"{who} {name} or new", name, C | W | S)
    for name in "closed", "open", "sticky", "wwws", ".": opened(f"{who} new in {name}", f"{name}/{who}", C | X | W | S, 0o666)
    opened(f"{who} time", "all", os.O_RDONLY | S | os.O_NOATIME)
'''"#,
            )
            .as_str(),
    );
    // Of tier full; in single permissions are root's for everybody.
    for line in [
        "www roots 13",
        "www www 0o100600 33 33",
        "www groups 0o100060 0 60",
        "www group 13",
        "www closed/x 13",
        "www new in open 0o100640 33 33",
        "alone new in . 13",
        "www held 13",
        "www time 1",
        "alone group 0o100060 0 5",
        "alone groups 13",
        "effective roots 13",
        "again roots 0o100600 0 0",
        "files new in open 0o100640 33 60",
        "masked new in open 0o100600 0 0",
        "bounded www 13",
        "bounded roots 0o100600 0 0",
        "ambient roots 0o100600 0 0",
        "thread roots 13",
        "main roots 0o100600 0 0",
    ] {
        assert!(said.lines().any(|said| said.starts_with(line)), "{line:?} is missing in {said}");
    }
}

/// A pipe whose other end nobody opens keeps only its own caller waiting.
fn what_is_no_file() {
    let said = both(
        r#"
os.mkfifo("pipe"); got = []
waiting = [threading.Thread(target=lambda: got.append(os.read(os.open("pipe", os.O_RDONLY | S), 9))) for _ in range(4)]
for thread in waiting: thread.start()
killed = os.fork()
if killed == 0: os.open("pipe", os.O_RDONLY | S | C)
time.sleep(0.2)
opened("meanwhile", "meanwhile", C | W | S, 0o600); say(got)
os.kill(killed, signal.SIGKILL); say(os.waitpid(killed, 0)[1])
f = attempt("pipe", os.open, "pipe", W | S); say(os.write(f, b"x" * 36))
for thread in waiting: thread.join()
say(len(b"".join(got))); os.close(f)
os.mkfifo("lonely")
try: os.open("lonely", W | S | os.O_NONBLOCK)
except OSError as error: say("nobody reads", error.errno)
for path in "/dev/null", "/dev/zero", "/dev/full", "/dev/urandom": f = os.open(path, RW | S); os.set_blocking(f, True); say(path, os.fstat(f).st_rdev); os.close(f)
try: os.write(os.open("/dev/full", W | S), b"x")
except OSError as error: say(error.errno)
f = attempt("folder", os.open, "d", os.O_RDONLY | S | os.O_DIRECTORY); say(os.listdir(f))
import socket
listening = socket.socket(socket.AF_UNIX); listening.bind("socket")
try: os.open("socket", W | S)
except OSError as error: say("socket", error.errno)
for folder in "/tmp", "/run", "/dev/shm":
    f = attempt(folder, os.open, folder + "/x", C | W | S, 0o666); f = attempt(folder, os.open, folder + "/x", C | W | S)
stop = False
def flip():
    while not stop:
        try: os.unlink("flip")
        except OSError: pass
        try: os.mkfifo("flip"); os.unlink("flip")
        except OSError: pass
        os.close(os.open("flip", C | RW))
thread = threading.Thread(target=flip); thread.start(); errors = set()
for _ in range(200):
    try: os.close(os.open("flip", C | RW | S))
    except OSError as error: errors.add(error.errno)
stop = True; thread.join(); os.unlink("flip"); say(errors <= {2})"#,
    );
    assert!(said.contains("nobody reads 6") && said.contains("socket 6"), "{said}");
}

/// `int 0x80` is i386's door, whatever the program is.
fn i386() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    both(
        r#"
import struct
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
low = libc.mmap(None, 8192, 7, 0x62, -1, 0)  # readable, writable, executable; anonymous, below 4 GiB
def call(number, *arguments):
    code = b"\x53\x56\x57" + b"\xb8" + struct.pack("<I", number)  # push rbx, rsi, rdi; mov eax
    for register, argument in zip(b"\xbb\xb9\xba\xbe", arguments): code += bytes([register]) + struct.pack("<i", argument)
    code += b"\xcd\x80\x5f\x5e\x5b\xc3"
    ctypes.memmove(low, code, len(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(low)()
def path(text): ctypes.memmove(low + 4096, text + b"\0", len(text) + 1); return low + 4096
for number, arguments in (5, ()), (295, (-100,)):
    f = call(number, *arguments, path(b"new%d" % number), C | RW | S, 0o666); flag(f); s = os.fstat(f); say(oct(s.st_mode), os.write(f, b"text"))
    say(call(number, *arguments, path(b"new%d" % number), C | X | W | S, 0o666), call(number, *arguments, path(b"missing"), W | S))
os.truncate("new5", 1 << 31); say(call(5, path(b"new5"), RW | S | os.O_TRUNC), os.stat("new5").st_size); os.truncate("new5", 0)"#,
    );
}

fn many_at_once() {
    let said = both(
        r#"
os.chmod(".", 0o777)
def work(number):
    os.seteuid(number % 3)
    for round in range(25):
        f = os.open(f"file{number}", C | RW | S); os.pwrite(f, b"%d" % round, 0)
        if os.fstat(f).st_uid != number % 3: say("wrong", number)
        os.close(f)
    os._exit(0)
for number in range(8):
    if os.fork() == 0: work(number)
for round in range(20):
    killed = os.fork()
    if killed == 0:
        while True: os.close(os.open("killed", C | W | S))
    time.sleep(0.003); os.kill(killed, signal.SIGKILL); os.waitpid(killed, 0)
for number in range(8): os.wait()
os.close(os.open("killed", C | W | S)); os.truncate("killed", 0); say(sorted(os.listdir(".")))"#,
    );
    assert!(said.starts_with("['d', 'file0'"), "{said}");
}

/// What else waits for the disk: fcntl(2) cannot ask for it, and pwritev2(2) is answered as by a kernel
/// that has no such flags.
fn other_ways_to_sync() {
    const TEXT: &str = r#"
import fcntl
f = os.open("/var/file", os.O_CREAT | os.O_RDWR)
print(fcntl.fcntl(f, fcntl.F_SETFL, os.O_SYNC | os.O_DSYNC | os.O_APPEND), fcntl.fcntl(f, fcntl.F_GETFL) & (os.O_SYNC | os.O_APPEND) == os.O_APPEND)
for flags in 0, os.RWF_DSYNC, os.RWF_SYNC, os.RWF_SYNC | os.RWF_APPEND:
    try: print(os.pwritev(f, [b"some", b"thing"], 0, flags))
    except OSError as error: print(error.errno)"#;
    for tier in [Tier::Full, Tier::Single] {
        for (no_sync, expected) in [(true, "0 True\n9\n95\n95\n95"), (false, "0 True\n9\n9\n9\n9")] {
            let tree = Tree::new();
            assert_eq!(python(&mut session(&tree, tier, no_sync), TEXT), expected);
        }
    }
}
