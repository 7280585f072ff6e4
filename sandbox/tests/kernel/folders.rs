//! Folders whose names come in one order. The oracle is the kernel: in a sandbox that does not sort, the
//! same programs must see the same but for the order.

use std::process::{Command as Host, ExitCode};

use sandbox::{Enforced, Plan, Session, Tier};

use crate::{
    calls::python,
    support::{Test, Tree, output, plan},
};

pub(crate) const TESTS: &[Test] = &[
    ("folders::in_the_order_of_names", &["userns", "python"], in_the_order_of_names),
    ("folders::positions", &["userns", "python"], positions),
    ("folders::errors", &["userns", "python"], errors),
    ("folders::what_comes_and_goes", &["userns", "python"], what_comes_and_goes),
    ("folders::large_ones", &["userns", "python"], large_ones),
    ("folders::every_abi", &["userns", "python"], every_abi),
    ("folders::many_at_once", &["userns", "python"], many_at_once),
    ("folders::left_to_the_kernel", &["userns", "python"], left_to_the_kernel),
    ("folders::nobody_to_sort_them", &["userns", "python"], nobody_to_sort_them),
];

/// What programs here are written with. `getdents` gives entries as (name, type, number, cookie).
const FRAME: &str = r#"
import errno, signal, struct, threading, time
def say(*what): print(*what); sys.stdout.flush()
def raw(f, size=32768, number=217, address=None):
    buffer = ctypes.create_string_buffer(size + 8); buffer[size] = 0xee
    got = libc.syscall(number, f, buffer if address is None else ctypes.c_void_p(address), size)
    assert buffer[size] == b"\xee", "written too far"
    if got < 0: raise OSError(ctypes.get_errno(), "getdents")
    return buffer.raw[:got]
def entries(data):
    at = 0
    while at < len(data):
        inode, cookie, length, kind = struct.unpack_from("=QqHB", data, at)
        yield data[at + 19:at + length].split(b"\0")[0], kind, inode, cookie
        at += length
def getdents(f, size=32768): return list(entries(raw(f, size)))
def rest(f, size=32768):
    all = []
    while True:
        some = getdents(f, size)
        if not some: return all
        all += some
def opened(path): return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
def listed(path, size=32768):
    f = opened(path); all = rest(f, size); os.close(f); return all
def names(all): return [entry[0] for entry in all]
def order(name): return (name not in (b".", b".."), name)
def attempt(what, call, *arguments):
    try: say(what, call(*arguments))
    except OSError as error: say(what, errno.errorcode[error.errno])
def child(action):
    if os.fork() == 0:
        try: action()
        except BaseException as error: say("failed", repr(error))
        sys.stdout.flush(); os._exit(0)
    os.wait()
"#;

fn session(tree: &Tree, tier: Tier, sorted: bool) -> Session {
    let plan = Plan { tier: Some(tier), sorted_folders: sorted, ..tree.plan() };
    let session = Session::start(&plan).expect("a session");
    assert_eq!(session.enforced().inside.sorted_folders, sorted, "{:?}", session.enforced());
    session
}

/// A tree with a folder that is large enough for its names to be in some other order.
fn tree() -> Tree {
    let tree = Tree::new();
    std::fs::create_dir_all(tree.base().join("srv/many")).expect("made");
    for number in (0..120).rev() {
        tree.write(&format!("srv/many/{:03}", number * 7 % 120), "");
    }
    tree
}

/// Runs a program in sandboxes that sort, one of each tier, and says what it said in the first.
fn sorted(text: &str) -> String {
    let said = [Tier::Full, Tier::Single]
        .map(|tier| python(&mut session(&tree(), tier, true), &format!("{FRAME}{text}")));
    assert_eq!(said[0], said[1]);
    said.into_iter().next().expect("two")
}

/// The same, and it must say what it says where nobody sorts.
fn both(text: &str) -> String {
    let real = python(&mut session(&tree(), Tier::Full, false), &format!("{FRAME}{text}"));
    let said = sorted(text);
    assert_eq!(said, real, "the supervisor, and the kernel");
    said
}

fn in_the_order_of_names() {
    // Folders that are merged, of the lower layer alone, of the upper layer alone, in memory, of the host,
    // and one that has nothing.
    let made = r#"
os.chdir("/srv/many"); os.unlink("005"); os.rename("006", "z"); os.mkdir("A"); os.symlink("nowhere", b"\xff\xfe\n"); os.mkdir("/srv/none")
os.mkdir("/srv/new"); os.mkdir("/tmp/new"); os.makedirs("/run/new")
for folder in b"/srv/new", b"/tmp/new", b"/run/new":
    for number in range(300): os.mkfifo(folder + b"/" + (b"%d" % (number * 7919 % 1000)))
    for name in b"x" * 255, b"\x01", b"\xe4", b"a.b", b"a-b", b"a", b".hidden", b"...", b"-", b" ": open(folder + b"/" + name, "w").close()
folders = ["/", "/etc", "/srv", "/srv/many", "/srv/new", "/srv/none", "/var/lib/things", "/tmp", "/tmp/new", "/run", "/run/new", "/dev", "/usr/bin", "/usr/share/doc"]
"#;
    let order = "for folder in folders: all = names(listed(folder)); say(folder, all == sorted(all, key=order), len(all) == len(set(all)))";
    let order = format!("{made}{order}");
    let said = sorted(&order);
    assert!(said.lines().count() == 14 && said.lines().all(|line| line.ends_with("True True")), "{said}");
    let unsorted = python(&mut session(&tree(), Tier::Full, false), &format!("{FRAME}{order}"));
    assert!(unsorted.contains("/tmp/new False") && unsorted.contains("/usr/bin False"), "{unsorted}");
    // The same entries, with types; and the numbers that stat gives, or at least the kernel's listing.
    both(&format!(
        "{made}for folder in folders: say(folder, sorted((name, kind) for name, kind, *_ in listed(folder)))"
    ));
    both(&format!("{made}
for folder in folders:
    for name, kind, inode, _ in sorted(listed(folder)):
        if name not in (b'.', b'..') and os.lstat(os.path.join(folder.encode(), name)).st_ino != inode: say('other number', folder, name)"));
    // Programs: what the shell and others make of it.
    for tier in [Tier::Full, Tier::Single] {
        let tree = tree();
        let mut session = session(&tree, tier, true);
        let text = "cd /srv/many; rm 005; ls -U >/tmp/ls; ls >/tmp/sorted; cmp /tmp/ls /tmp/sorted
                    find . -mindepth 1 -printf '%P\\n' >/tmp/find; cmp /tmp/find /tmp/sorted; wc -l </tmp/find";
        assert_eq!(output(&mut session, text), "119");
    }
}

fn positions() {
    let said = sorted(
        r#"
path = "/srv/many"; whole = listed(path); all = names(whole); assert len(all) == 122
# Cookies grow and fit 32 bits.
cookies = [entry[3] for entry in whole]; assert cookies == sorted(set(cookies)) and 0 < cookies[0] and cookies[-1] < 1 << 31
for size in 24, 25, 64, 1000, 4096: assert names(listed(path, size)) == all, size
# Several opens go on by themselves, duplicates and children together.
one, two = opened(path), opened(path); got = names(getdents(one, 240)); assert got == all[:10]
assert names(rest(two)) == all and names(getdents(two)) == []
copy = os.dup(one); assert names(getdents(copy, 240)) == all[10:20]
again = os.open(f"/proc/self/fd/{one}", os.O_RDONLY); assert names(rest(again)) == all
child(lambda: say("child", names(getdents(one, 240)) == all[20:30]))
assert names(rest(one)) == all[30:] and names(getdents(copy)) == []
# Back to the start, and to where it was.
os.lseek(one, 0, os.SEEK_SET); some = getdents(one, 480); assert os.lseek(one, 0, os.SEEK_CUR) == some[-1][3]
following = names(rest(one)); os.lseek(one, some[-1][3], os.SEEK_SET); assert names(rest(one)) == following == all[20:]
os.lseek(one, some[3][3], os.SEEK_SET); assert names(rest(one)) == all[4:]
for position in (1 << 31) - 1, 1 << 31, 1 << 33, (1 << 62): assert os.lseek(two, position, os.SEEK_SET) == position and names(getdents(two)) == [], position
# The positions of another folder are after the end of this one.
other = opened("/etc"); getdents(other, 24); os.lseek(two, os.lseek(other, 0, os.SEEK_CUR), os.SEEK_SET); assert names(getdents(two)) == []
os.lseek(two, 0, os.SEEK_SET); assert names(rest(two)) == all
# As the C library has it.
class Entry(ctypes.Structure): _fields_ = [("inode", ctypes.c_uint64), ("cookie", ctypes.c_int64), ("length", ctypes.c_uint16), ("kind", ctypes.c_uint8), ("name", ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p; libc.readdir.restype = ctypes.POINTER(Entry); libc.telldir.restype = ctypes.c_long
for function, types in (libc.readdir, []), (libc.rewinddir, []), (libc.telldir, []), (libc.closedir, []), (libc.seekdir, [ctypes.c_long]): function.argtypes = [ctypes.c_void_p] + types
d = libc.opendir(path.encode())
def collect():
    found = []
    while entry := libc.readdir(d): found.append(entry.contents.name)
    return found
places = []
for name in all: places.append(libc.telldir(d)); assert libc.readdir(d).contents.name == name
assert not libc.readdir(d)
for index in 121, 60, 1, 0, 119: libc.seekdir(d, places[index]); assert collect() == all[index:], index
libc.rewinddir(d); assert collect() == all
os.mkdir(path + "/050b"); libc.rewinddir(d); assert collect() == sorted(all + [b"050b"], key=order); libc.closedir(d)
say("right")"#,
    );
    assert_eq!(said, "child True\nright");
}

fn errors() {
    let said = both(
        r#"
import mmap
f = opened("/etc")
for number in 217, 78:
    for size in 0, 8, 23, 24: os.lseek(f, 0, os.SEEK_SET); attempt(size, lambda: len(raw(f, size, number)))
os.mkdir("/srv/long"); open("/srv/long/" + "x" * 255, "w").close(); g = opened("/srv/long"); attempt("too long", rest, g, 272); say(b"x" * 255 in names(rest(g, 280)))
for address in 0, 8, 1 << 47, (1 << 64) - 4096: os.lseek(f, 0, os.SEEK_SET); attempt("address", raw, f, 32768, 217, address)
# At the end of memory it gives what there is room for.
libc.mmap.restype = ctypes.c_void_p; libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
memory = libc.mmap(None, 8192, 3, 0x22, -1, 0); libc.munmap(ctypes.c_void_p(memory + 4096), 4096); g = opened("/srv/many")
def before_the_end(room): os.lseek(g, 0, os.SEEK_SET); return libc.syscall(217, g, ctypes.c_void_p(memory + 4096 - room), 4096)
say(before_the_end(24), before_the_end(20), ctypes.get_errno(), 0 < before_the_end(100) <= 100); say(len(rest(g)) > 110)
for what in -1, 99, 1 << 31: attempt("no descriptor", raw, what)
attempt("a name", raw, os.open("/etc", os.O_PATH)); attempt("a file", raw, os.open("/etc/old", os.O_RDONLY)); attempt("a pipe", raw, os.pipe()[0]); attempt("null", raw, os.open("/dev/null", os.O_RDWR))
for place in "/srv", "/tmp":
    os.makedirs(place + "/gone/x"); f = opened(place + "/gone"); g = opened(place + "/gone"); getdents(g, 24); os.rmdir(place + "/gone/x"); os.rmdir(place + "/gone")
    attempt("gone", raw, f); attempt("gone meanwhile", raw, g)
def without_permission():
    os.chmod("/srv/many", 0o700); f = opened("/srv/many"); os.setgroups([]); os.setresgid(33, 33, 33); os.setresuid(33, 33, 33)
    say(len(rest(f)))
child(without_permission)"#,
    );
    assert!(said.contains("gone ENOENT\ngone meanwhile ENOENT") && said.contains("a name EBADF"), "{said}");
}

fn what_comes_and_goes() {
    let said = sorted(
        r#"
import shutil
def fill(path, count):
    os.makedirs(path, exist_ok=True)
    for number in range(count): os.link("/run/x" if path.startswith("/run") else "/srv/x", f"{path}/{number * 7919 % count:06}")
open("/srv/x", "w").close(); open("/run/x", "w").close()
for place in "/srv/", "/run/":
    # Programs that remove what they are listing, and by the C library's way of reading a piece at a time.
    fill(place + "a/b/c", 5000); fill(place + "a/d", 70); say(os.system(f"rm -r {place}a"), os.path.exists(place + "a"))
    fill(place + "a/b", 2000); say(os.system(f"find {place}a -delete"), os.path.exists(place + "a"))
    fill(place + "a", 1000)
    for size in 40, 120, 1000, 32768:
        fill(place + "s", 200); f = opened(place + "s"); seen = []
        while some := getdents(f, size):
            for name in names(some):
                if name not in (b".", b".."): seen.append(name); os.unlink(os.path.join(place.encode() + b"s", name))
        say(len(seen), len(set(seen)), os.listdir(place + "s"))
    # Names that come, before and behind where the reading is, and others that go.
    f = opened(place + "a"); seen = names(getdents(f, 2400)); 
    for number in range(0, 1000, 2): os.unlink(f"{place}a/{number:06}"); os.symlink("x", f"{place}a/{number:06}.new")
    seen += names(rest(f)); kept = {b"%06d" % number for number in range(1, 1000, 2)}
    say(len(seen) == len(set(seen)), kept <= set(seen)); os.lseek(f, 0, os.SEEK_SET); say(len(rest(f)))
    # One that is renamed while it is read, and one that another takes the place of.
    os.rename(place + "a", place + "b"); os.lseek(f, 0, os.SEEK_SET); getdents(f, 240); fill(place + "a", 10); say(len(rest(f)) + 10); say(len(listed(place + "a"))); shutil.rmtree(place + "a"); shutil.rmtree(place + "b")"#,
    );
    let one = "0 False\n0 False\n200 200 []\n200 200 []\n200 200 []\n200 200 []\nTrue True\n1002\n1004\n12";
    assert_eq!(said, format!("{one}\n{one}"));
}

/// Larger than what is kept: those who have stopped go on after the name at which they did.
fn large_ones() {
    let said = sorted(
        r#"
count = 5000; path = b"/tmp/large"; os.mkdir(path)
wanted = [b"%06d" % number + b"-" * 240 for number in range(count)]
open("/tmp/x", "w").close()
for number in range(count): os.link("/tmp/x", path + b"/" + wanted[number * 7919 % count])
readers = [opened(path) for _ in range(26)]; got = [[] for _ in readers]
finished = opened("/etc"); rest(finished)
turn = 0
while True:
    some = [getdents(reader, 700_000 if index else 300_000) for index, reader in enumerate(readers)]
    for index, part in enumerate(some): got[index] += names(part)
    if turn == 1: os.unlink(path + b"/" + wanted[1]); os.symlink("x", path + b"/" + wanted[1] + b"z"); os.unlink(path + b"/" + got[0][-1])
    turn += 1
    if not any(some): break
say({(len(one), one[2:] == wanted) for one in got})
say(getdents(finished)); say(len(listed(path)))"#,
    );
    assert_eq!(said, "{(5002, True)}\n[]\n5001");
}

/// `int 0x80` is i386's door and a number with a bit x32's, whatever the program is.
fn every_abi() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let said = sorted(
        r#"
libc.mmap.restype = ctypes.c_void_p; libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
low = libc.mmap(None, 1 << 16, 7, 0x62, -1, 0)  # readable, writable, executable; anonymous, below 4 GiB
def i386(number, f, size):
    code = b"\x53" + b"\xb8" + struct.pack("<I", number)
    for register, argument in zip(b"\xbb\xb9\xba", (f, low + 4096, size)): code += bytes([register]) + struct.pack("<i", argument)
    code += b"\xcd\x80\x5b\xc3"
    ctypes.memmove(low, code, len(code)); got = ctypes.CFUNCTYPE(ctypes.c_int)(low)()
    return ctypes.string_at(low + 4096, got) if got >= 0 else got
def old(data, layout):
    width = struct.calcsize(layout); found = []
    while data:
        inode, cookie, length = struct.unpack_from(layout, data)
        assert length % (4 if width == 10 else 8) == 0 and data[length - 1] in (4, 8, 10), data[:length]
        found.append((data[width:length - 1].split(b"\0")[0], data[length - 1], inode, cookie)); data = data[length:]
    return found
os.mkdir("/tmp/x")
for name in b"b", b"a" * 255, b"ccc", b"dddd", b"eeeee": os.symlink("x", b"/tmp/x/" + name)
whole = [entry[:3] for entry in listed("/tmp/x")]
for what, call in ("getdents", lambda f, size: old(raw(f, size, 78), "=QQH")), ("x32", lambda f, size: list(entries(raw(f, size, 0x40000000 | 217)))), ("old x32", lambda f, size: old(raw(f, size, 0x40000000 | 78), "=QQH")), ("i386", lambda f, size: list(entries(i386(220, f, size)))), ("old i386", lambda f, size: old(i386(141, f, size), "=IIH")):
    f = opened("/tmp/x"); found = []
    while some := call(f, 300):
        assert os.lseek(f, 0, os.SEEK_CUR) == some[-1][3]; found += some
    say(what, [entry[:3] for entry in found] == whole)
f = opened("/tmp/x"); say(i386(141, f, 8), i386(220, f, 8), i386(141, 99, 99))"#,
    );
    let expected = "getdents True\nx32 True\nold x32 True\ni386 True\nold i386 True\n-22 -22 -9";
    assert_eq!(said, expected);
}

fn many_at_once() {
    let said = sorted(
        r#"
whole = names(listed("/srv/many")); wrong = []
# Threads with a folder each, and with one for all, of which each gets a part.
def alone():
    for _ in range(20):
        if names(listed("/srv/many", 400)) != whole: wrong.append(1)
shared = opened("/srv/many"); parts = []
def together():
    while some := getdents(shared, 100): parts.extend(names(some))
for work in alone, together:
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
say(wrong, sorted(parts, key=order) == whole)
# A thread with descriptors of its own, which has a way to them since Linux 6.9.
def own():
    assert libc.unshare(0x400) == 0
    f = opened("/srv/many"); say(names(rest(f)) == whole or release < (6, 9)); os.close(f)
release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
thread = threading.Thread(target=own); thread.start(); thread.join()
# Signals whose handlers let calls go on, and callers that are killed.
signal.signal(signal.SIGALRM, lambda *_: None); signal.siginterrupt(signal.SIGALRM, False); signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for _ in range(60):
    killed = os.fork()
    if killed == 0:
        signal.setitimer(signal.ITIMER_REAL, 0)
        while True: rest(shared, 100); os.lseek(shared, 0, os.SEEK_SET)
    for _ in range(5):
        if names(listed("/srv/many", 200)) != whole: wrong.append(2)
    os.kill(killed, signal.SIGKILL); os.waitpid(killed, 0)
signal.setitimer(signal.ITIMER_REAL, 0); os.lseek(shared, 0, os.SEEK_SET); say(wrong, names(rest(shared)) == whole)"#,
    );
    assert_eq!(said, "[] True\nTrue\n[] True");
}

fn left_to_the_kernel() {
    both(
        r#"
f = opened("/proc/self/fd"); say(len(rest(f)))
say(str(os.getpid()) in os.listdir("/proc"), os.listdir("/proc/self/task") == [str(os.getpid())], os.listdir("/proc/self/ns"))
thread = threading.Thread(target=lambda: say(len(os.listdir("/proc/self/task")), len(os.listdir("/proc/thread-self/fd")) > 3)); thread.start(); thread.join()"#,
    );
}

/// What this program does where somebody around it answers system calls.
pub(crate) fn say_what_is_enforced(arguments: &[String]) -> ExitCode {
    let [base, work] = arguments else { return ExitCode::FAILURE };
    let plan = plan(base.as_ref(), work.as_ref());
    let plan = Plan { tier: Some(Tier::Full), sorted_folders: true, ..plan };
    let session = Session::start(&plan).expect("a session");
    println!("{}", serde_json::to_string(session.enforced()).expect("JSON"));
    session.close().expect("it closes");
    ExitCode::SUCCESS
}

/// The kernel allows one supervisor, and somebody else's is there already: that is said.
fn nobody_to_sort_them() {
    const AROUND: &str = r#"
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True); seccomp = {"x86_64": 317, "aarch64": 277}[platform.machine()]
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(allow)))
listener = libc.syscall(seccomp, 1, 8, program); assert listener >= 0, ctypes.get_errno()
os.set_inheritable(listener, True); os.execv(sys.argv[1], sys.argv[1:])"#;
    if !nix::unistd::geteuid().is_root() || !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return; // without no_new_privs, which newuidmap(1) cannot do with, only root may install a filter
    }
    let tree = Tree::new();
    let this = std::env::current_exe().expect("it has a path");
    let mut host = Host::new("python3");
    let host = host.args(["-c", AROUND]).arg(this).arg("--role=sorted").arg(tree.base()).arg(tree.work());
    let said = host.output().expect("python3 starts");
    assert!(said.status.success(), "{said:?}");
    let enforced: Enforced = serde_json::from_slice(&said.stdout).expect("JSON");
    assert!(!enforced.inside.sorted_folders);
    let degraded = &enforced.inside.degraded;
    assert!(
        degraded.iter().any(|line| line.starts_with("folders list their names in the order of")),
        "{degraded:?}"
    );
}
