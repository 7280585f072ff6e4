//! Tier single, by the only oracle there is: tier full. The same script has to see the same and to
//! leave the same in both.

use sandbox::{Change, Entry, Metadata, Mount, Plan, Session, Source, Tier};

use crate::support::{Given, Test, Tree, changes, output_of, script, stored_with};

pub(crate) const TESTS: &[Test] = &[
    ("single::is_said", &["userns"], is_said),
    ("single::owners", &["userns"], owners),
    ("single::set_id_bits", &["userns"], set_id_bits),
    ("single::identities", &["userns", "python"], identities),
    ("single::new_files", &["userns", "python"], new_files),
    ("single::records_follow_files", &["userns"], records_follow_files),
    ("single::copies", &["userns"], copies),
    ("single::access_control_lists", &["userns", "python"], access_control_lists),
    ("single::paths", &["userns", "python"], paths),
    ("single::the_supervisor_leads_nowhere", &["userns", "python"], the_supervisor_leads_nowhere),
    ("single::set_id_programs", &["userns"], set_id_programs),
    ("single::capabilities_of_files", &["userns"], capabilities_of_files),
    ("single::memory_file_systems", &["userns"], memory_file_systems),
    ("single::programs_of_debian", &["userns"], programs_of_debian),
];

/// A tree with owners of every kind in its base.
fn tree() -> Tree {
    let tree = Tree::new();
    tree.write("etc/owned", "www-data's\n");
    tree.write("etc/set-id", "a game\n");
    for (link, target) in [("etc/link", "owned"), ("etc/dangling", "nowhere")] {
        std::os::unix::fs::symlink(target, tree.base().join(link)).expect("linked");
    }
    for folder in ["var/mail", "run/postgres", "var/www"] {
        std::fs::create_dir_all(tree.base().join(folder)).expect("made");
    }
    tree
}

fn plan(tree: &Tree, tier: Tier) -> Plan {
    let given = |path, uid, gid, mode| Given { path, uid, gid, mode };
    let owners = [
        given("etc/owned", 33, 33, 0o640),
        given("etc/set-id", 33, 60, 0o6755),
        given("etc/link", 33, 33, 0o777),
        given("etc/dangling", 5, 0, 0o777),
        given("var/mail", 0, 8, 0o2775),
        given("var/www", 33, 33, 0o755),
        given("run/postgres", 33, 5, 0o2775),
    ];
    let mut plan = tree.plan();
    for pam in ["etc/pam.d", "etc/security"] {
        let source = std::path::PathBuf::from("/").join(pam);
        plan.mounts.push(Mount { target: pam.into(), source: Source::ReadOnly(source) });
    }
    plan.tier = Some(tier);
    plan.layers = vec![stored_with(&tree.base(), &owners)]; // only a stored tree can have owners
    plan
}

/// A change without what differs from run to run.
pub(crate) fn comparable(change: Change) -> Change {
    let without_time = |metadata: Metadata| Metadata { modified: (0, 0), ..metadata };
    let now = match change.now {
        Entry::Removed => Entry::Removed,
        Entry::Folder { metadata, opaque } => Entry::Folder { metadata: without_time(metadata), opaque },
        Entry::File { metadata, size, hard_link } => {
            Entry::File { metadata: without_time(metadata), size, hard_link }
        }
        Entry::Symlink { metadata, target } => Entry::Symlink { metadata: without_time(metadata), target },
        Entry::Special { metadata, device } => Entry::Special { metadata: without_time(metadata), device },
    };
    Change { path: change.path, now }
}

/// Runs a script in both tiers; gives what it said and left. Both must be the same.
fn both(text: &str) -> (String, Vec<Change>) {
    let [full, single] = [Tier::Full, Tier::Single].map(|tier| {
        let tree = tree();
        let mut session = Session::start(&plan(&tree, tier)).expect("a session");
        assert_eq!(session.enforced().tier, tier);
        let (status, said) = output_of(&mut session, script(text));
        assert!(status.success(), "tier {}: {status:?}: {said}", tier.name());
        let left = changes(&mut session).into_iter();
        (said, left.map(|(change, content)| (comparable(change), content)).collect::<Vec<_>>())
    });
    for (single_line, full_line) in single.0.lines().zip(full.0.lines()) {
        assert_eq!(single_line, full_line, "what a script sees in tier single, and in tier full: {}", full.0);
    }
    assert_eq!(single.0.len(), full.0.len(), "{} -- {}", single.0, full.0);
    for (single, full) in single.1.iter().zip(&full.1) {
        assert_eq!(single, full, "{}", String::from_utf8_lossy(&single.0.path));
    }
    assert_eq!(single.1.len(), full.1.len());
    (full.0, full.1.into_iter().map(|(change, _)| change).collect())
}

/// The same for a Python program.
fn both_python(text: &str) -> String {
    both(&format!("python3 - <<'END'\nimport ctypes, os, socket, stat, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n{text}\nEND")).0
}

fn is_said() {
    let tree = Tree::new();
    let session = Session::start(&Plan { tier: Some(Tier::Single), ..tree.plan() }).expect("a session");
    let enforced = session.enforced();
    assert_eq!(enforced.tier, Tier::Single);
    assert_eq!((enforced.mapping.uids.len(), enforced.mapping.uids[0].count), (1, 1));
    assert!(enforced.inside.seccomp && enforced.inside.volatile, "{enforced:?}");
}

fn owners() {
    let (said, left) = both(
        "cd /etc; show() { stat -c '%u:%g %a %F %n' \"$@\"; }
         show owned set-id link dangling old passwd /var/mail /var/www /run/postgres; stat -Lc '%u:%g' link
         chown 5:60 old; chown 33 passwd; chgrp 33 group; show old passwd group
         chown -h 60:60 link; chown 5 link; show link owned; chown -h 0:0 dangling; show dangling
         chown 0:0 set-id; show set-id
         mkdir d; touch d/f; ln -s f d/l; mkfifo d/p; chown -R 33:33 d; show d d/f d/l d/p
         chown --from=33 60 d/f; show d/f; chown --reference=owned d/f; show d/f
         chown 70000 old 2>/dev/null || echo refused; ls -lnd --time-style=+x * d/* | tr -s ' ' | cut -d' ' -f1-4; ls -l --time-style=+x owned; find . -user 33 -o -gid 60 | sort
         test -O old || echo not mine; test -O group && echo mine; [ -G group ] || echo not of my group
         chown 1:1 /dev/null 2>/dev/null || echo a device is not ours
         chown 33 nothing 2>/dev/null || echo nothing there",
    );
    assert!(
        said.contains(
            "33:33 640 regular file owned\n33:60 6755 regular file set-id\n33:33 777 symbolic link link"
        ),
        "{said}"
    );
    assert!(
        left.iter().any(|change| matches!(&change.now, Entry::File { metadata, .. } if metadata.uid == 33))
    );
}

fn set_id_bits() {
    let (said, _) = both(
        "cd /etc; show() { stat -c '%u:%g %a %n' \"$@\"; }
         for mode in 4755 2755 2745 6711 1755 0 4000; do touch f$mode; chmod $mode f$mode; mkdir dir$mode; chmod $mode dir$mode; done
         chown 33:33 f[0-9]*; show f4755 f2745 f6711; chown 33:33 dir*; show dir*
         chmod 4755 f4755; chmod g+s f2755; show f4755 f2755; chown 0:0 f4755; show f4755
         chmod 2755 f2755; chown :5 f2755; show f2755; chmod 4755 f6711; echo x >> f6711; show f6711
         echo y > f0; cat f0; ls dir0; touch dir0/x; rm dir0/x; chmod 4711 f0; cp -p f0 copy; show copy",
    );
    assert!(said.contains("33:33 755 f4755\n33:33 2745 f2745\n33:33 711 f6711\n"), "{said}");
}

fn identities() {
    let text = both_python(
        r#"
def ids(): return os.getresuid() + os.getresgid() + (os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups())
def child(action):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            print(ids()); action(); print(ids())
        except OSError as error: print(error.errno, ids())
        sys.stdout.flush(); os._exit(0)
    os.waitpid(pid, 0)
def become():
    os.setgroups([60, 5, 33]); os.setgid(33); os.setuid(33)
def refused(call, *arguments):
    try: print(call.__name__, call(*arguments))
    except OSError as error: print(call.__name__, error.errno)
def dropped():
    become(); print(ids())
    for id in 0, 33, 5: refused(os.setuid, id); refused(os.setgid, id); refused(os.seteuid, id)
    refused(os.setgroups, [1]); refused(os.setresuid, -1, 0, -1); refused(os.setreuid, 33, -1)
    refused(os.chown, "/etc/old", 33, 33); refused(os.chown, "/etc/owned", 33, 60); refused(os.chown, "/etc/owned", 0, -1)
    reader, writer = os.pipe()
    os.set_inheritable(writer, True); pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            os.setsid(); print(ids()); sys.stdout.flush(); os.execlp("sh", "sh", "-c", "id -u; id -ru; id -G; sh -c 'id -un' & wait")
        os._exit(0)
    os.waitpid(pid, 0); os.close(writer); os.read(reader, 1)  # until the orphan has ended
def saved():
    os.seteuid(33); print(ids()); os.seteuid(0); print(ids()); os.setresuid(33, 33, 0); print(ids()); os.setuid(0); print(ids())
    os.setreuid(0, 33); print(ids()); refused(os.setreuid, 33, 0); os.setegid(5)
def file_system():
    print(libc.setfsuid(33), libc.setfsuid(-1), libc.setfsgid(33), libc.setfsgid(-1)); os.seteuid(33)
    print(libc.setfsuid(5), libc.setfsuid(-1), libc.setfsuid(0), libc.setfsuid(-1))
def threads():
    import threading
    become(); print(ids()); seen = []
    thread = threading.Thread(target=lambda: seen.append(ids())); thread.start(); thread.join(); print(seen)
def bad():
    for id in 65536, 1 << 31: refused(os.setuid, id); refused(os.setgroups, [id])
    print(libc.syscall(115, 1, None), libc.syscall(116, 65537, None), libc.syscall(118, 1, 2, 3), ctypes.get_errno())
    os.setgroups([1, 2, 3]); print(libc.syscall(115, 2, None), libc.getgroups(0, None))
for action in become, dropped, saved, file_system, threads, bad: print(action.__name__); child(action)
print(ids())"#,
    );
    assert!(text.contains("(33, 33, 33, 33, 33, 33, 33, 33, 33, 33, [5, 33, 60])"), "{text}");
}

fn new_files() {
    let (said, left) = both(
        r#"cd /var; umask 027; show() { stat -c '%u:%g %a %F %n' "$@"; }
         touch mail/a; mkdir mail/b; mkdir mail/b/c; ln -s x mail/b/l; touch mail/b/c/d; show mail/a mail/b mail/b/l mail/b/c mail/b/c/d
         chmod 777 /var /etc; cd /var/www; as() { setpriv --reuid 33 --regid 33 --init-groups "$@"; }
         as sh -ec 'umask 0026; id -un; touch a; echo b > b; mkdir -p d/e/f; ln -s a l; mkdir /var/new /etc/new/; : > /var/x; : > ../y; ln a hard; cp -p b bb; (umask 0; mkdir z; : >> a)
             mktemp -u >/dev/null; echo over > b; ln -sf b l; touch d/e/f/g; mv d/e/f/g d/g; chmod 4750 a; chgrp 33 a; mkdir x.d && rmdir x.d && touch x.d; install -m 600 b i'
         show . a b d d/e/f d/g l hard /var/new /etc/new /var/x /var/y z bb x.d i
         python3 - <<'END'
import ctypes, os, tempfile
libc = ctypes.CDLL(None)
os.setegid(5); os.seteuid(33)
os.chdir("/var/www/d")
with tempfile.TemporaryFile(dir="/var/www") as f: print(os.fstat(f.fileno()).st_uid, os.fstat(f.fileno()).st_gid)
folder = os.open("/var/www", os.O_RDONLY)
f = os.open("relative", os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o4751, dir_fd=folder); os.write(f, b"text"); print(oct(os.fstat(f).st_mode), os.fstat(f).st_uid, os.get_inheritable(f))
try: os.open("relative", os.O_CREAT | os.O_EXCL, dir_fd=folder)
except FileExistsError: print("exists")
try: os.open("none/relative", os.O_CREAT)
except FileNotFoundError: print("missing")
for path in "here", "../there", "./e/../f.x", "//var/www/s":
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)); print(path, os.stat(path).st_uid, os.stat(path).st_gid)
try:
    f = os.open("/var/www", os.O_TMPFILE | os.O_RDWR); print(libc.linkat(-100, f"/proc/self/fd/{f}".encode(), -100, b"/var/www/linked", 0x400)); print(os.stat("/var/www/linked").st_uid)
except OSError as error: print(error.errno)  # FUSE has none
os.mkdir("/proc/self/cwd/by-proc"); os.close(os.open(f"/dev/fd/{folder}/by-fd", os.O_CREAT | os.O_WRONLY)); print(os.stat("by-proc").st_uid, os.stat("/var/www/by-fd").st_gid)
os.seteuid(0); os.setegid(0); os.mkdir("roots")
END
         find /var /etc -printf '%U:%G %m %y %p\n' | sort -k4"#,
    );
    assert!(said.contains("0:8 640 regular empty file mail/a\n0:8 2750 directory mail/b\n"), "{said}");
    assert!(left.len() > 30);
}

fn records_follow_files() {
    both(
        "cd /etc; show() { stat -c '%u:%g %a %h %n' \"$@\"; }
         mv owned moved; show moved; ln moved again; show again; chown 5:5 again; show moved; rm moved; show again
         touch owned; show owned; rm owned; mkdir owned; show owned; rmdir owned
         mv link link2; show link2; ln -s y own; chown -h 5:5 own; ln -P own link3; show link3; rm own; ln -s x own; show own link3
         ln -s x l; chown -h 33:33 l; rm l; for i in 1 2 3 4 5 6 7 8; do ln -s x n$i; done; show n*
         touch t; chown 33 t; rm t; for i in 1 2 3 4 5 6 7 8; do touch u$i; done; show u*
         mkdir tree; touch tree/f; ln -s f tree/l; chown -hR 33:60 tree; mv tree tree2; show tree2 tree2/f tree2/l
         echo more >> set-id; show set-id; cp set-id plain; show plain; truncate -s 0 dangling 2>/dev/null; show nowhere
         mv /var/www /var/web 2>/dev/null || { cp -a /var/www /var/web; rm -r /var/www; }; show /var/web",
    );
}

fn copies() {
    both(
        "cd /var; show() { (cd $1; find . -printf '%U:%G %m %y %l %p\\n' | sort -k4); }
         mkdir -p src/a/b; echo 1 > src/a/f; ln -s f src/a/l; ln src/a/f src/hard; mkfifo src/p; chown -hR 33:60 src; chown 5 src/a; chmod 4755 src/hard; chmod 1777 src/a/b; chmod 0 src/p
         cp -a src cp; show cp; cp -r src plain; show plain; cp --preserve=ownership src/a/f one; stat -c '%u:%g %a' one
         tar -C src -cf t.tar .; mkdir tar; tar -C tar -xpf t.tar; show tar; tar -tvf t.tar --numeric-owner --sort=name | tr -s ' ' | cut -d' ' -f1,2,6-
         mkdir as; chown 33:33 as; setpriv --reuid 33 --regid 33 --clear-groups tar -C as -xf t.tar; show as
         install -o 33 -g 60 -m 4750 one two; install -d -o 5 -g 5 -m 2755 deep/er; stat -c '%u:%g %a %n' two deep deep/er
         install -o www-data -g tty one three; stat -c '%U:%G' three; rm t.tar",
    );
}

/// The size that listxattr(2) says in advance counts attributes of overlayfs' own: only the least is known.
fn access_control_lists() {
    let text = both_python(
        r#"
import struct
def acl(*entries): return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
N = 0xffffffff
def do(call, *arguments, **named):
    try: print(call.__name__, call(*arguments, **named))
    except OSError as error: print(call.__name__, error.errno)
os.chdir("/var"); os.umask(0o27)
A, D = "system.posix_acl_access", "system.posix_acl_default"
adm = acl((1, 7, N), (4, 5, N), (8, 5, 4), (16, 5, N), (32, 0, N))
plain = acl((1, 6, N), (4, 4, N), (32, 4, N)); roots = acl((1, 7, N), (2, 7, 0), (4, 5, N), (16, 7, N), (32, 0, N))
os.mkdir("journal", 0o755); open("file", "w"); os.chmod("journal", 0o2755)
def show(path): print(path, oct(os.lstat(path).st_mode), sorted(os.listxattr(path)), [os.getxattr(path, name).hex() for name in sorted(os.listxattr(path))])
for path in "journal", "file":
    do(os.getxattr, path, A); do(os.setxattr, path, A, adm); show(path); do(os.setxattr, path, D, adm); show(path)
os.chmod("file", 0o4640); show("file"); os.chown("file", 33, 33); show("file")
os.mkdir("journal/sub"); show("journal/sub"); os.close(os.open("journal/new", os.O_CREAT, 0o666)); show("journal/new"); open("journal/sub/x", "w"); show("journal/sub/x"); os.symlink("x", "journal/l"); print(os.lstat("journal/l").st_mode)
for value in plain, roots, b"garbage", b"", adm[:-8], acl((1, 7, N), (4, 5, N), (8, 5, 4), (32, 0, N)):
    do(os.setxattr, "file", A, value); show("file"); do(os.setxattr, "file", A, adm)
do(os.removexattr, "file", A); show("file"); do(os.removexattr, "file", A); do(os.removexattr, "journal", D); show("journal")
print(libc.getxattr(b"journal", A.encode(), None, 0), libc.getxattr(b"journal", A.encode(), ctypes.create_string_buffer(8), 8), libc.listxattr(b"journal", ctypes.create_string_buffer(3), 3))
os.setxattr("file", "user.own", b"x"); show("file"); f = os.open("journal", os.O_RDONLY); print(os.listxattr(f)); os.setxattr(f, A, roots); show("journal"); os.removexattr(f, A); show("journal")
os.setxattr("journal", A, adm); os.setresuid(33, 33, 33); do(os.setxattr, "journal", A, adm); do(os.removexattr, "journal", A)"#,
    );
    assert!(
        text.contains("journal 0o42750 ['system.posix_acl_access', 'system.posix_acl_default']"),
        "{text}"
    );
    both(
        "cd /var; mkdir -m 2755 a; setfacl -m g:www-data:rx a && setfacl -d -m u:www-data:rwx a && touch a/f && mkdir a/d && getfacl -R a && cp -a a b && getfacl -R b || true",
    );
}

/// The same file by every name and every call.
fn paths() {
    let text = both_python(
        r#"
os.chdir("/etc"); f = os.open("old", os.O_RDONLY); d = os.open("/etc", os.O_RDONLY); n = os.open("link", os.O_PATH | os.O_NOFOLLOW)
def owner(): s = os.stat("/etc/old"); return s.st_uid, s.st_gid
def check(what, call):
    os.chown("/etc/old", 0, 0)
    try: call()
    except OSError as error: print(what, error.errno, end=" ")
    print(what, owner())
os.symlink("/etc/old", "/etc/absolute"); os.symlink("../etc/old", "/var/relative")
for number, path in enumerate(["/etc/old", "old", "./old", "../etc/old", "/proc/self/cwd/old", f"/proc/self/fd/{f}", f"/dev/fd/{f}", f"/proc/self/fd/{d}/old",
        f"/proc/{os.getpid()}/fd/{f}", "/proc/thread-self/cwd/old", "/etc/absolute", "/var/relative", "/etc/../../../etc/old", "/proc/self/root/etc/old", "old/", "", "/etc/old/x", "x" * 300, "/" + "y/" * 2100]):
    check(path[:20].replace(str(os.getpid()), "PID"), lambda: os.chown(path, number + 1, number + 2))
check("fchown", lambda: os.fchown(f, 33, 34)); check("dir_fd", lambda: os.chown("old", 5, 6, dir_fd=d))
check("closed", lambda: os.fchown(99, 1, 1)); check("not a folder", lambda: os.chown("x", 1, 1, dir_fd=f))
AT_EMPTY_PATH = 0x1000
check("empty", lambda: print(libc.fchownat(f, b"", 7, 7, AT_EMPTY_PATH))); check("none", lambda: print(libc.fchownat(f, b"", 7, 7, 0), ctypes.get_errno()))
print(libc.fchownat(n, b"", 9, 9, AT_EMPTY_PATH), os.lstat("link").st_uid, os.stat("link").st_uid)
check("bad address", lambda: print(libc.chown(ctypes.c_void_p(8), 1, 1), ctypes.get_errno()))
print(os.fstat(f).st_uid, os.stat(f).st_gid, os.stat("old", dir_fd=d).st_mode, os.lstat("/etc/absolute").st_uid)
s = ctypes.create_string_buffer(256)
os.chown("/etc/old", 33, 34)
print(libc.syscall(332, f, b"", AT_EMPTY_PATH, 0x7ff, s), int.from_bytes(s.raw[20:24], "little"), int.from_bytes(s.raw[24:28], "little"), oct(int.from_bytes(s.raw[28:30], "little")))
print(libc.syscall(332, -100, b"/etc/link", 0x100, 0x7ff, s), int.from_bytes(s.raw[20:24], "little"), int.from_bytes(s.raw[40:48], "little"))
print(libc.syscall(332, -100, b"/etc/old", 0, 0x7ff, ctypes.c_void_p(8)), ctypes.get_errno())
os.unlink("old"); print(os.fstat(f).st_uid, os.fstat(f).st_nlink); os.fchown(f, 60, 60); print(os.fstat(f).st_uid)
r, w = os.pipe(); print(os.fstat(r).st_uid, stat.S_ISFIFO(os.fstat(r).st_mode)); os.fchown(r, 33, 33)
os.makedirs("/jail/etc"); os.chmod("/jail/etc", 0o777); open("/jail/etc/x", "w"); os.symlink("/etc/x", "/jail/link"); open("/etc/x", "w")
if os.fork() == 0:
    os.chroot("/jail"); os.chdir("/")
    os.chown("/etc/x", 33, 33); os.chown("../../etc/x", -1, 34); os.lchown("/link", 5, 5); print(os.stat("/link").st_uid, os.lstat("link").st_uid); open("/etc/new", "w")
    os.setuid(33); os.mkdir("/etc/d", 0o755); print(os.stat("/etc/d").st_uid); sys.stdout.flush(); os._exit(0)
os.wait(); print(os.stat("/etc/x").st_uid, os.stat("/jail/etc/x").st_uid, os.stat("/jail/etc/d").st_uid)"#,
    );
    assert!(text.contains("0 33 34 0o100644"), "{text}");
}

/// The supervisor makes files and changes them for others; no path, and no path that changes while it is
/// looked up, has it do that outside.
fn the_supervisor_leads_nowhere() {
    [Tier::Full, Tier::Single].into_iter().for_each(leads_nowhere);
}

fn leads_nowhere(tier: Tier) {
    let tree = tree();
    let secret = tree.path().join("secret");
    std::fs::create_dir(&secret).expect("made");
    std::fs::write(secret.join("file"), "the host's\n").expect("written");
    std::fs::set_permissions(secret.join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .expect("set");
    let mut session = Session::start(&plan(&tree, tier)).expect("a session");
    let text = format!(
        r#"
import os, threading
secret = "{}"
def attempt(call, *arguments):
    try: call(*arguments)
    except OSError: pass
os.makedirs("/var/race/x"); os.chmod("/var/race", 0o777); os.chdir("/var/race")
up = "/.." * 12
doors = ["", up, "/proc/self" + up, "/proc/self/root" + up, "/proc/self/cwd" + up, "/proc/thread-self/fd/0" + up, "/dev/fd/0" + up, "/proc/1/root", "/proc/1/cwd" + up, "/dev/stdin" + up]
def everything(base):
    attempt(os.mkdir, base + "/made"); attempt(os.symlink, "x", base + "/linked"); attempt(lambda: os.close(os.open(base + "/new", os.O_CREAT | os.O_WRONLY, 0o666)))
    attempt(lambda: os.close(os.open(base + "/synced", os.O_CREAT | os.O_WRONLY | os.O_SYNC, 0o666))); attempt(lambda: os.close(os.open(base + "/file", os.O_WRONLY | os.O_TRUNC | os.O_SYNC)))
    attempt(lambda: print("read", os.read(os.open(base + "/file", os.O_RDONLY | os.O_SYNC), 99)))
    attempt(os.chown, base + "/file", 33, 33); attempt(os.lchown, base + "/file", 0, 0); attempt(os.mkfifo, base + "/pipe")
    attempt(os.setxattr, base + "/file", "system.posix_acl_access", bytes.fromhex("0200000001000700ffffffff04000500ffffffff080005000400000010000500ffffffff20000500ffffffff"))
root = os.fork() == 0
if not root: os.wait(); os.setegid(33); os.seteuid(33)
for door in doors: everything(door + secret)
stop = False
def flip():
    number = 0
    while not stop:
        number += 1; name = f"next{{root}}"
        attempt(os.symlink, doors[number % len(doors)] + secret if number % 2 else "/var/race/x", name); attempt(os.rename, name, f"door{{root}}")
thread = threading.Thread(target=flip); thread.start()
for _ in range(100): everything(f"/var/race/door{{root}}"); everything(f"door{{root}}/../door{{root}}")
stop = True; thread.join()
if root: os._exit(0)"#,
        secret.display()
    );
    let (status, said) = output_of(&mut session, script(&format!("python3 - <<'END'\n{text}\nEND")));
    assert!(status.success() && !said.contains("the host's"), "{said}");
    drop(session);
    assert_eq!(std::fs::read(secret.join("file")).expect("read"), b"the host's\n");
    let names: Vec<_> =
        std::fs::read_dir(&secret).expect("read").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["file"], "nothing was made there");
    let status = std::fs::metadata(secret.join("file")).expect("there");
    assert_eq!(
        std::os::unix::fs::MetadataExt::mode(&status),
        0o104755,
        "no owner was changed, which clears bits"
    );
}

fn set_id_programs() {
    both(
        "cp /usr/bin/id /var/id; as() { setpriv --reuid 33 --regid 33 --clear-groups \"$@\"; }
         chown 5:60 /var/id; chmod 755 /var/id; as /var/id; chmod 6755 /var/id; as /var/id; /var/id; chmod 2755 /var/id; as /var/id; /var/id; chmod 2745 /var/id; as /var/id
         chown 0:0 /var/id; chmod 4755 /var/id; as /var/id -u; as sh -c 'exec /var/id -u'; as --no-new-privs /var/id -u; cd /var; as ./id -un; as env PATH=/nothing:/var id -u
         printf '#!/bin/sh\\nid -u\\n' > /var/script; chmod 4755 /var/script; as /var/script
         cp /usr/bin/touch /var/touch; chown 5:60 /var/touch; chmod 6755 /var/touch; mkdir -m 777 /var/open; as /var/touch /var/open/as; /var/touch /var/open/root; stat -c '%u:%g %n' /var/open/*
         chmod 644 /var/id; as /var/id -u 2>/dev/null || id -u",
    );
}

fn capabilities_of_files() {
    let (_, left) = both(
        "cd /etc; touch c; python3 -c 'import os, struct
value = struct.pack(\"<5I\", 0x2000001, 1 << 13, 0, 0, 0)
os.setxattr(\"c\", \"security.capability\", value); print(os.getxattr(\"c\", \"security.capability\") == value)
os.setxattr(\"old\", \"security.capability\", value); os.chown(\"old\", 33, 33)
try: os.getxattr(\"old\", \"security.capability\")
except OSError as error: print(error.errno)
os.setxattr(\"old\", \"security.capability\", value); os.setxattr(\"old\", \"user.own\", b\"1\")'",
    );
    let changed = left.iter().find(|change| change.path == b"etc/old").expect("changed");
    let Entry::File { metadata, .. } = &changed.now else { panic!("{changed:?}") };
    let names: Vec<_> = metadata.xattrs.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
    assert_eq!((metadata.uid, names), (33, vec!["security.capability".into(), "user.own".into()]));
}

fn memory_file_systems() {
    both(
        "cd /tmp; touch a; mkdir d; ln -s a l; chown -h 33:60 a d l; stat -c '%u:%g %n' a d l . /run /run/postgres
         cd /run; setpriv --reuid 33 --regid 33 --clear-groups touch postgres/x; stat -c '%u:%g' postgres/x; mv /tmp/a /etc/a; mv /tmp/l /etc/l; stat -c '%u:%g' /etc/a /etc/l
         touch /dev/x; chown 33 /dev/x; stat -c '%u:%g' /dev/x; touch /dev/shm/x; chown 5:5 /dev/shm/x; stat -c '%u:%g' /dev/shm/x",
    );
}

/// What maintainer scripts call.
fn programs_of_debian() {
    let (said, _) = both(
        "cd /var; printf 'root:*::0:99999:7:::\\n' > /etc/shadow; chown 0:42 /etc/shadow; chmod 640 /etc/shadow; printf 'root:*::\\n' > /etc/gshadow; echo 'root:x:0:' >> /etc/group
         has() { command -v $1 >/dev/null; }; export SOURCE_DATE_EPOCH=0
         has useradd && { groupadd -g 500 people && useradd -u 501 -g people -m -d /home/eve eve; chown eve: /home/eve; stat -c '%U:%G %a' /home/eve /etc/shadow /etc/passwd; }
         has su && su eve -s /bin/sh -c 'id; umask 077; mkdir -p ~/.config; echo x > ~/.config/y; ls -lnd ~/.config ~/.config/y' | sed 's/[A-Z][a-z][a-z] .*[0-9] //'
         has runuser && runuser -u eve -- sh -c 'touch /home/eve/z; id -un'
         has setpriv && setpriv --reuid=eve --regid=500 --init-groups id -G
         has chpasswd && echo 'eve:x' | chpasswd -e; has usermod && usermod -a -G www-data eve && id eve
         has systemd-sysusers && { printf 'u tester 700 \"A tester\" /var/lib/tester\\n' | systemd-sysusers - && getent passwd tester; }
         has systemd-tmpfiles && { printf 'd /var/lib/tester 2750 eve people -\\nf /var/lib/tester/f 0640 www-data tty - text\\nL /var/lib/tester/l - eve - - f\\nz /etc/old 0600 eve people - -\\n' | systemd-tmpfiles --create -; stat -c '%u:%g %a %n' /var/lib/tester /var/lib/tester/* /etc/old; }
         has logger; find /etc /home /var ! -newermt 1990-01-01 -printf '%U:%G %m %y %p\\n' | grep -v -e '-$' | sort -k4",
    );
    assert!(said.contains("uid=501(eve) gid=500(people)"), "{said}");
}
