//! Ways out, all of which must be closed: network, host files, other processes, the terminal.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::MetadataExt,
            net::{SocketAddr, UnixListener},
        },
    },
};

use crate::support::{Test, Tree, changes, output, output_of, script};

pub(crate) const TESTS: &[Test] = &[
    ("escape::no_network", &["userns"], no_network),
    ("escape::only_its_own_processes", &["userns"], only_its_own_processes),
    ("escape::only_its_own_files", &["userns"], only_its_own_files),
    ("escape::kernel_settings", &["userns"], kernel_settings),
    ("escape::devices", &["userns"], devices),
    ("escape::denied_calls", &["userns"], denied_calls),
    ("escape::syncs_cost_nothing", &["userns"], syncs_cost_nothing),
    ("escape::calls_of_i386", &["userns", "i386"], calls_of_i386),
    ("escape::no_new_capabilities", &["userns"], no_new_capabilities),
    ("escape::the_caller_s_groups_are_gone", &["userns"], the_caller_s_groups_are_gone),
    ("escape::descriptors_lead_nowhere", &["userns"], descriptors_lead_nowhere),
    ("escape::signals_stay_inside", &["userns"], signals_stay_inside),
    ("escape::links_in_a_kept_layer", &["userns"], links_in_a_kept_layer),
    ("escape::links_that_change", &["userns"], links_that_change),
];

/// A python program that has `call(number, …)` and says `name error` for each call.
fn calls(body: &str) -> String {
    format!(
        r#"python3 - <<'END'
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments])
    print(name, errno.errorcode.get(ctypes.get_errno(), "?") if result == -1 else result)
{body}
END"#
    )
}

fn no_network() {
    let name = format!("treestrap-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("the host listens");
    let tree = Tree::new();
    let mut session = tree.session();
    let text = output(
        &mut session,
        &format!(
            r#"python3 - <<'END'
import socket, errno, threading
try: socket.create_connection(("192.0.2.1", 80), timeout=5); print("connected")
except OSError as e: print(errno.errorcode[e.errno])
try: socket.socket(socket.AF_UNIX).connect("\0{name}"); print("connected")
except OSError as e: print(errno.errorcode[e.errno])
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname()); client.sendall(b"loop"); client.close()
print(server.accept()[0].recv(9).decode())
print([name for _, name in socket.if_nameindex() if name == "lo"])
END"#
        ),
    );
    assert_eq!(text, "ENETUNREACH\nECONNREFUSED\nloop\n['lo']");
}

fn only_its_own_processes() {
    let tree = Tree::new();
    let mut session = tree.session();
    let text = output(
        &mut session,
        &format!(
            "echo /proc/[0-9]* | tr -dc ' ' | wc -c; cat /proc/1/comm
             kill -0 {} 2>&1 || echo no such process
             for f in environ mem maps root/etc fd/0 cwd; do cat /proc/1/$f >/dev/null 2>&1 && echo read $f; done; echo",
            std::process::id()
        ),
    );
    let mut lines = text.lines();
    let processes: usize = lines.next().and_then(|count| count.parse().ok()).expect("a count");
    assert!(processes < 8, "{text}");
    assert_eq!(lines.next(), Some("sandbox-init"), "{text}");
    assert!(text.contains("no such process") && !text.contains("read "), "{text}");
    // PTRACE_ATTACH, PTRACE_SEIZE, process_vm_readv.
    let text = output(
        &mut session,
        &calls(
            "buffer = ctypes.create_string_buffer(8)\niov = (ctypes.c_long * 2)(ctypes.addressof(buffer), 8)\ncall('attach', 101, 16, 1, 0, 0)\ncall('seize', 101, 0x4206, 1, 0, 0)\ncall('read', 310, 1, ctypes.addressof(iov), 1, ctypes.addressof(iov), 1, 0)",
        ),
    );
    assert_eq!(text, "attach EPERM\nseize EPERM\nread EPERM");
    assert!(session.run(&script("kill -9 1; kill -TERM 1; true")).expect("pid 1 is immune").success());
    assert_eq!(output(&mut session, "echo alive"), "alive");
}

fn only_its_own_files() {
    let tree = Tree::new();
    let mut session = tree.session();
    let text = output(&mut session, "ls -A / | tr '\\n' ' '; cat /proc/self/mountinfo");
    let (names, mounts) = text.split_once('\n').map_or((text.as_str(), ""), |pair| pair);
    assert!(names.starts_with("bin dev etc home lib lib64 proc root run sbin sys tmp usr var"), "{text}");
    assert!(!mounts.contains("upper") && !text.contains(&tree.work().display().to_string()), "{text}");
    let (status, text) = output_of(&mut session, script("touch /usr/bin/x; echo > /usr/bin/env"));
    assert!(!status.success() && text.contains("Read-only file system"), "{text}");
    // Out of a chroot, as pivot_root prevents and chroot does not.
    let text = output(
        &mut session,
        "mkdir /jail; python3 -c 'import os
os.chroot(\"/jail\")
for i in range(64): os.chdir(\"..\")
os.chroot(\".\")
print(sorted(os.listdir(\"/\"))[:3])'",
    );
    assert_eq!(text, "['bin', 'dev', 'etc']", "the sandbox's own root is as far as it gets");
    // What ischroot(1) looks at: a root that is not that of pid 1.
    let text = output(&mut session, "cmp -s /proc/1/mountinfo /proc/self/mountinfo || echo chroot");
    assert_eq!(text.trim(), "chroot");
}

fn kernel_settings() {
    let read = || fs::read_to_string("/proc/sys/kernel/core_pattern").expect("readable");
    let before = read();
    let tree = Tree::new();
    let mut session = tree.session();
    let text = output(
        &mut session,
        "for f in sys/kernel/core_pattern sys/kernel/hostname sys/user/max_user_namespaces sys/net/ipv4/ip_forward sysrq-trigger; do
             (echo 1 > /proc/$f) 2>/dev/null && echo wrote $f
         done
         cat /proc/sys/user/max_user_namespaces
         for f in kcore keys kmsg timer_list; do [ ! -e /proc/$f ] || [ -z \"$(timeout 1 head -c1 /proc/$f)\" ] || echo read $f; done
         ls -A /proc/sys/fs/binfmt_misc",
    );
    assert_eq!(text, "0");
    assert_eq!(read(), before);
}

fn devices() {
    let mode = || fs::metadata("/dev/null").expect("there").mode();
    let before = mode();
    let tree = Tree::new();
    let mut session = tree.session();
    let (_, text) = output_of(
        &mut session,
        script(
            "for a in 'chmod 600 /dev/null' 'chown 33 /dev/null' 'rm -f /dev/null' 'mknod /etc/disk b 8 0' 'mknod /dev/memory c 1 1'; do $a && echo did $a; done; echo > /dev/null",
        ),
    );
    assert!(!text.contains("did "), "{text}");
    assert_eq!(mode(), before);
    assert!(
        output(&mut session, "python3 -c 'import pty, os; print(os.ttyname(pty.openpty()[1]))'")
            .starts_with("/dev/pts/")
    );
}

fn denied_calls() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let tree = Tree::new();
    let mut session = tree.session();
    let text = output(
        &mut session,
        &calls(
            "for name, number, *rest in [('mount', 165, 0, 0, 0, 0x1000, 0), ('fsopen', 430, 0, 0), ('unshare-user', 272, 0x10000000),
    ('unshare-mount', 272, 0x20000), ('clone-user', 56, 0x10000011, 0, 0, 0, 0), ('setns', 308, 0, 0), ('clone3', 435, 0, 0),
    ('keyctl', 250, 0, 0), ('bpf', 321, 0, 0, 0), ('io_uring', 425, 1, 0), ('handle', 304, 0, 0, 0),
    ('sti', 16, 0, 0x5412, 0), ('sti-high', 16, 0, 0x7fffffff00005412, 0), ('linux', 16, 0, 0x541c, 0),
    ('module', 313, 0, 0, 0), ('reboot', 169, 0, 0, 0, 0), ('syslog', 103, 2, 0, 0), ('userfaultfd', 323, 0)]: call(name, number, *rest)",
        ),
    );
    for line in text.lines() {
        let (name, error) = line.split_once(' ').expect("two words");
        let expected = if ["clone3", "keyctl", "io_uring"].contains(&name) { "ENOSYS" } else { "EPERM" };
        assert_eq!(error, expected, "{name}");
    }
    assert_eq!(text.lines().count(), 18);
    // What they are for still works.
    assert_eq!(
        output(
            &mut session,
            "python3 -c 'import threading; t = threading.Thread(target=lambda: print(1)); t.start(); t.join()'"
        ),
        "1"
    );
}

/// A sync of a descriptor that is not there succeeds only if nobody looks.
fn syncs_cost_nothing() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let tree = Tree::new();
    let body = "for name, number, *rest in [('fsync', 74, -1), ('fdatasync', 75, -1), ('syncfs', 306, -1), ('sync', 162), ('range', 277, -1, 0, 0, 0), ('msync', 26, 4096, 4096, 4), ('msync-async', 26, 4096, 4096, 1)]: call(name, number, *rest)";
    let text = output(&mut tree.session(), &calls(body));
    assert_eq!(text, "fsync 0\nfdatasync 0\nsyncfs 0\nsync 0\nrange 0\nmsync 0\nmsync-async ENOMEM");
    let mut plan = tree.plan();
    plan.no_sync = false;
    let mut session = sandbox::Session::start(&plan).expect("a session");
    let inside = &session.enforced().inside;
    assert!(!inside.no_sync && !inside.volatile);
    assert!(
        output(&mut session, &calls(body))
            .starts_with("fsync EBADF\nfdatasync EBADF\nsyncfs EBADF\nsync 0\n")
    );
}

/// The same calls through the other table: `fsync(-1)`, then `ioctl(0, TIOCSTI, 0)`, by `int $0x80`.
fn calls_of_i386() {
    let tree = Tree::new();
    let mut session = tree.session();
    let text = output(
        &mut session,
        r#"python3 - <<'END'
import struct, os, subprocess
def program(name, number, *arguments):
    code = b"\xb8" + struct.pack("<I", number)
    for opcode, argument in zip(b"\xbb\xb9\xba", arguments):
        code += bytes([opcode]) + struct.pack("<i", argument)
    code += b"\xcd\x80\xf7\xd8\x89\xc3\xb8\x01\0\0\0\xcd\x80"  # exit(-result)
    size = 84 + len(code)
    elf = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x10054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    elf += struct.pack("<8I", 1, 0, 0x10000, 0x10000, size, size, 5, 4096) + code
    open("/root/" + name, "wb").write(elf)
    os.chmod("/root/" + name, 0o755)
    print(name, subprocess.run(["/root/" + name]).returncode)
program("fsync", 118, -1)
program("sti", 54, 0, 0x5412, 0)
program("keyctl", 288, 0, 0, 0)
program("close", 6, -1)
END"#,
    );
    assert_eq!(text, "fsync 0\nsti 1\nkeyctl 38\nclose 9");
}

fn no_new_capabilities() {
    let tree = Tree::new();
    let mut session = tree.session();
    let text = output(&mut session, "grep -E '^Cap(Inh|Prm|Bnd|Amb)' /proc/self/status");
    let sets: Vec<u64> = text
        .lines()
        .map(|line| u64::from_str_radix(line.split_whitespace().nth(1).expect("a value"), 16).expect("hex"))
        .collect();
    let [inheritable, permitted, bounding, ambient] = sets[..] else { panic!("{text}") };
    assert_eq!((inheritable, ambient), (0, 0));
    assert_eq!(permitted, bounding);
    // SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, SYS_BOOT, SYS_RESOURCE, SYS_TIME, MKNOD.
    for forbidden in [16, 17, 19, 21, 22, 24, 25, 27] {
        assert_eq!(bounding & 1 << forbidden, 0, "capability {forbidden}");
    }
    let kept = &session.enforced().inside.capabilities;
    assert_eq!(bounding.count_ones() as usize, kept.len());
    assert!(kept.contains(&"CAP_CHOWN".to_owned()) && kept.contains(&"CAP_SETUID".to_owned()), "{kept:?}");
}

fn the_caller_s_groups_are_gone() {
    let tree = Tree::new();
    let mut session = tree.session();
    assert_eq!(output(&mut session, "id -G; grep ^Groups /proc/self/status | tr -d '\\t '"), "0\nGroups:");
    assert_eq!(changes(&mut session).len(), 1);
}

/// What a command inherits, and what /proc shows of pid 1, is no way to a file of the host.
fn descriptors_lead_nowhere() {
    let tree = Tree::new();
    let mut session = tree.session();
    let text = output(
        &mut session,
        r#"python3 - <<'END'
import os
# One descriptor is the listing's own.
print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')))
for n in range(3):
    try: os.fchdir(n); print('a folder', n)
    except NotADirectoryError: pass
for place in ('root', 'cwd', 'fd', 'fdinfo', 'map_files', 'exe', 'ns/mnt', 'task/1/root', 'mountinfo', 'mem'):
    for do in (os.listdir, os.stat, lambda p: open(p, 'rb').read(1), lambda p: open(p + '/etc/escaped', 'w')):
        try: do('/proc/1/' + place)
        except OSError: continue
        print(place)
here = {open('/proc/self/mountinfo').read().count(word) for word in ('/dev/vda', '/dev/sda', 'ext4')}
print(sorted(here))
END"#,
    );
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("[0, 1, 2] 4"), "{text}");
    // That pid 1 exists is no secret; its folders can be looked at from outside only.
    let harmless = ["fd", "fdinfo", "map_files", "ns/mnt", "task/1/root", "root", "cwd", "exe", "mem"];
    for line in lines.filter(|line| !line.starts_with('[')) {
        assert!(!line.starts_with("a folder"), "{text}");
        assert!(harmless.contains(&line) || line == "mountinfo", "{text}");
    }
    assert!(!tree.base().join("etc/escaped").exists() && !std::path::Path::new("/etc/escaped").exists());
}

fn signals_stay_inside() {
    let tree = Tree::new();
    let mut outside = std::process::Command::new("sleep").arg("100").spawn().expect("it starts");
    let mut session = tree.session();
    let body = format!(
        "for name, number, *rest in [('kill', 62, {0}, 9), ('tgkill', 234, {0}, {0}, 9), ('pidfd_open', 434, {0}, 0), ('all', 62, -1, 0)]: call(name, number, *rest)",
        outside.id()
    );
    if cfg!(target_arch = "x86_64") {
        let text = output(&mut session, &calls(&body));
        assert!(text.starts_with("kill ESRCH\ntgkill ESRCH\npidfd_open ESRCH\n"), "{text}");
    }
    // Everybody but pid 1, as far as one sees.
    let status = session.run(&script("sleep 100 & python3 -c 'import os; os.kill(-1, 9)'")).expect("it runs");
    assert!(
        matches!(status.outcome, sandbox::Outcome::Exited(0) | sandbox::Outcome::Signalled(9)),
        "{status:?}"
    );
    assert!(outside.try_wait().expect("asked").is_none(), "it lives on");
    assert_eq!(output(&mut session, "echo so does the session"), "so does the session");
    outside.kill().and_then(|()| outside.wait()).expect("ended");
}

/// A layer whose folders were replaced by links to the host's: mounting and removing follow none.
fn links_in_a_kept_layer() {
    let tree = Tree::new();
    let host = tree.path().join("host");
    fs::create_dir_all(host.join("keep")).expect("made");
    let kept = tree.path().join("kept");
    let mut session = tree.session();
    let text = output(
        &mut session,
        &format!(
            "mkdir /root/links; for d in tmp run dev proc sys usr; do ln -s {0} /root/links/$d; done
             rm -rf /home/ada; ln -s {0} /home/ada; ln -s {0}/../../../../../../../{0} /root/up; echo ready",
            host.display()
        ),
    );
    assert_eq!(text, "ready");
    session.keep(&kept).expect("kept");
    drop(session);
    // As if a script had done it from below the mounts.
    for name in ["tmp", "run"] {
        let place = kept.join("upper").join(name);
        let _ = fs::remove_dir_all(&place);
        std::os::unix::fs::symlink(&host, &place).expect("linked");
    }
    let mut plan = tree.plan();
    plan.work = sandbox::Work::Kept(kept.clone());
    // It starts with the links resolved inside, or it does not start at all.
    if let Ok(mut session) = sandbox::Session::start(&plan) {
        output(&mut session, "touch /tmp/x /run/x 2>/dev/null || true; ls /home/ada/ 2>/dev/null || true");
        drop(session);
    }
    sandbox::remove_kept(&kept).expect("removed");
    let left: Vec<_> = fs::read_dir(&host).expect("there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["keep"], "nothing was written or removed there");
}

/// Processes that swap a folder and a link to the host's as fast as they can, while the session ends,
/// lists its changes, and removes its folder.
fn links_that_change() {
    let tree = Tree::new();
    let host = tree.path().join("host");
    fs::create_dir(&host).expect("made");
    fs::write(host.join("secret"), "the host's").expect("written");
    for _ in 0..5 {
        let mut session = tree.session();
        output(
            &mut session,
            &format!(
                r#"mkdir /etc/d; echo mine >/etc/d/secret; ln -s {0} /etc/l
                   for i in 1 2; do setsid python3 -c '
import ctypes
libc = ctypes.CDLL(None)
while True: libc.renameat2(-100, b"/etc/d", -100, b"/etc/l", 2)' >/dev/null 2>&1 & done; sleep 0.1"#,
                host.display()
            ),
        );
        let all = changes(&mut session);
        assert!(!all.iter().any(|(_, content)| content.as_deref() == Some(b"the host's")));
        session.close().expect("it closes");
        assert_eq!(fs::read(host.join("secret")).expect("there"), b"the host's");
    }
}
