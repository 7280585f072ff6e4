//! System calls that the supervisor answers.

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sandbox::{Conditions, Plan, Program, Programs, Session, Tier, Uname, Writer, Writers};

use crate::support::{Test, Tree, output, output_of, script};

pub(crate) const TESTS: &[Test] = &[
    ("calls::writers_are_noted", &["userns"], writers_are_noted),
    ("calls::programs_are_noted", &["userns"], programs_are_noted),
    ("calls::conditions", &["userns"], conditions),
    ("calls::the_kernels_name", &["userns"], the_kernels_name),
    ("calls::every_abi_of_uname", &["userns", "python"], every_abi_of_uname),
    ("calls::bad_addresses", &["userns", "python"], bad_addresses),
    ("calls::whoever_asks", &["userns", "python"], whoever_asks),
    ("calls::many_threads_at_once", &["userns", "python"], many_threads_at_once),
    ("calls::killed_while_asking", &["userns", "python"], killed_while_asking),
    ("calls::a_dead_supervisor_ends_the_sandbox", &["userns"], a_dead_supervisor_ends_the_sandbox),
];

fn plan(tree: &Tree) -> Plan {
    Plan { uname: Some(Uname::of_machine("armv7l")), hostname: "localhost".into(), ..tree.plan() }
}

fn session(tree: &Tree) -> Session {
    let session = Session::start(&plan(tree)).expect("a session");
    assert!(session.enforced().inside.uname, "{:?}", session.enforced());
    session
}

/// Runs a Python program inside.
pub(crate) fn python(session: &mut Session, text: &str) -> String {
    output(
        session,
        &format!(
            "python3 - <<'END'\nimport ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n{text}\nEND"
        ),
    )
}

fn writers_are_noted() {
    let tree = Tree::new();
    let log = tree.path().join("writers");
    for tier in [Tier::Full, Tier::Single] {
        std::fs::write(&log, "").expect("a file");
        let writers = Some(Writers { log: log.clone(), variable: "WHO".into() });
        let plan = Plan { writers, tier: Some(tier), ..tree.plan() };
        let mut session = Session::start(&plan).expect("a session");
        let text = "cat /etc/old >/dev/null; cd /etc; echo x >a; WHO=me mv a b; ln b c
                    cat b >>d; mkdir -p new; cd new; echo y | tee ../new/e";
        output(&mut session, text);
        session.close().expect("it closes");
        let text = std::fs::read_to_string(&log).expect("the log");
        let lines = text.lines().map(|line| serde_json::from_str::<Writer>(line).expect("JSON"));
        let found: Vec<(String, String, Option<String>)> = lines
            .map(|writer| (String::from_utf8(writer.path).expect("UTF-8"), writer.command, writer.variable))
            .filter(|(path, ..)| path.starts_with("etc/") && path != "etc/new")
            .collect();
        let shell = found[0].1.clone();
        assert!(shell.contains("sh -euc cat /etc/old"), "{shell}");
        let line = |path: &str, command: &str, who: Option<&str>| {
            (path.to_owned(), command.to_owned(), who.map(str::to_owned))
        };
        let expected = [
            line("etc/a", &shell, None),
            line("etc/b", "mv a b", Some("me")),
            line("etc/c", "ln b c", None),
            line("etc/d", &shell, None),
            line("etc/new/e", "tee ../new/e", None),
        ];
        assert_eq!(found, expected, "{tier:?}");
    }
}

fn programs_are_noted() {
    let tree = Tree::new();
    let log = tree.path().join("programs");
    for tier in [Tier::Full, Tier::Single] {
        std::fs::write(&log, "").expect("a file");
        let programs = Some(Programs { log: log.clone() });
        let plan = Plan { programs, tier: Some(tier), ..tree.plan() };
        let mut session = Session::start(&plan).expect("a session");
        // What is not there is no program; what replaces a program ends it; one that outlives its parent does
        // not get lost.
        let text = "/nowhere/program || true
                    sleep 0.2; sh -c 'sleep 0.1; exec cat /etc/old' >/dev/null; (sleep 0.3 &); true";
        output(&mut session, text);
        // One becomes another that stands for it.
        let (call, unnoted) = (libc::SYS_execve, sandbox::UNNOTED);
        let words = r#"($f, $a, $e) = ("/usr/bin/sleep", pack("ppJ", "sleep", "0.2", 0), pack("J", 0))"#;
        output(&mut session, &format!("perl -e '{words}; syscall {call}, $f, $a, $e, {unnoted}'"));
        let text = std::fs::read_to_string(&log).expect("the log");
        assert!(text.contains("/cat\""), "it is read while the sandbox is up: {text}");
        session.close().expect("it closes");
        let text = std::fs::read_to_string(&log).expect("the log");
        let mut found: Vec<Program> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        found.sort_by(|a, b| a.begun.total_cmp(&b.begun));
        let name = |program: &Program| {
            let path = String::from_utf8(program.path.clone()).expect("UTF-8");
            path.rsplit('/').next().unwrap_or_default().to_owned()
        };
        let names: Vec<String> = found.iter().map(name).collect();
        assert_eq!(names, ["sleep", "sh", "sleep", "cat", "sleep", "perl"], "{tier:?}");
        let seconds = |index: usize| found[index].ended - found[index].begun;
        assert!(seconds(0) >= 0.2 && seconds(2) >= 0.1 && seconds(5) >= 0.2, "{found:?}");
        assert!((found[1].ended - found[3].begun).abs() < 0.05, "one becomes the other: {found:?}");
        assert_eq!(found[1].process, found[3].process);
        assert!(found[0].ended <= found[1].begun && found[2].ended <= found[3].begun, "{found:?}");
    }
}

fn conditions() {
    let tree = Tree::new();
    let views = vec![sandbox::View::Checkout, sandbox::View::FuseCow];
    let conditions = Conditions { views, processors: Some(1), last_process: Some(5000) };
    let plan = Plan { view: None, conditions, ..tree.plan() };
    let mut session = Session::start(&plan).expect("a session");
    assert_eq!(session.enforced().inside.view, sandbox::View::Checkout);
    let numbers = output(&mut session, "nproc; echo $$");
    let numbers: Vec<u32> = numbers.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(numbers[0], 1);
    assert!(numbers[1] > 5000, "{numbers:?}");
}

fn the_kernels_name() {
    let tree = Tree::new();
    let mut session = session(&tree);
    assert_eq!(output(&mut session, "uname -a"), "Linux localhost 5.11.0 #1 SMP armv7l GNU/Linux");
    let proc = output(
        &mut session,
        "cd /proc; cat version sys/kernel/ostype sys/kernel/osrelease sys/kernel/version sys/kernel/hostname sys/kernel/domainname
         [ ! -e sys/kernel/arch ] || cat sys/kernel/arch; (echo 1 > /proc/version) 2>/dev/null && echo written; chmod 644 /proc/version 2>/dev/null && echo changed; true",
    );
    let lines: Vec<_> = proc.lines().collect();
    let expected =
        ["Linux version 5.11.0 #1 SMP", "Linux", "5.11.0", "#1 SMP", "localhost", "(none)", "armv7l"];
    assert!(expected.starts_with(&lines) && lines.len() >= 6, "{proc}");
    // Without it, everything is the host's.
    let mut plain = tree.session();
    assert!(!plain.enforced().inside.uname);
    let host = nix::sys::utsname::uname().expect("it answers");
    let host = format!("{} {}", host.release().to_string_lossy(), host.machine().to_string_lossy());
    assert_eq!(output(&mut plain, "uname -rm"), host);
}

/// From one process: `int 0x80` is i386's door and a number with a bit x32's, whatever the program is.
fn every_abi_of_uname() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let tree = Tree::new();
    let text = python(
        &mut session(&tree),
        r#"
import mmap, struct
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
low = libc.mmap(None, 8192, 7, 0x62, -1, 0)  # readable, writable, executable; anonymous, below 4 GiB
def names(address, count, length):
    raw = ctypes.string_at(address, count * length + 1)
    assert raw[count * length] == 0xee, "written too far"
    return " ".join(raw[i * length:(i + 1) * length].split(b"\0")[0].decode() for i in range(count))
def i386(number, count, length):
    ctypes.memset(low + 4096, 0xee, 512)
    code = b"\x53\xb8" + struct.pack("<I", number) + b"\xbb" + struct.pack("<I", low + 4096) + b"\xcd\x80\x5b\xc3"
    ctypes.memmove(low, code, len(code))
    assert ctypes.CFUNCTYPE(ctypes.c_int)(low)() == 0
    return names(low + 4096, count, length)
def native(number):
    ctypes.memset(low + 4096, 0xee, 512)
    assert libc.syscall(number, ctypes.c_void_p(low + 4096)) == 0
    return names(low + 4096, 6, 65)
print(native(63), native(0x40000000 | 63), i386(122, 6, 65), i386(109, 5, 65), i386(59, 5, 9), sep="\n")"#,
    );
    let whole = "Linux localhost 5.11.0 #1 SMP armv7l";
    let expected =
        [&format!("{whole} (none)"), &format!("{whole} (none)"), &format!("{whole} (none)"), whole];
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..4], expected);
    assert_eq!(lines[4], "Linux localhos 5.11.0 #1 SMP armv7l");
}

fn bad_addresses() {
    let tree = Tree::new();
    let text = python(
        &mut session(&tree),
        r#"
for address in 0, 8, 1 << 47, (1 << 64) - 4096, 0xffff800000000000:
    print(libc.syscall(63, ctypes.c_void_p(address)), ctypes.get_errno())"#,
    );
    assert_eq!(text.lines().filter(|line| *line == "-1 14").count(), 5, "EFAULT: {text}");
}

/// Processes that are no longer dumpable, of other users, without capabilities, with no_new_privs.
fn whoever_asks() {
    let tree = Tree::new();
    let mut session = session(&tree);
    for prefix in [
        "setpriv --reuid 33 --regid 33 --clear-groups",
        "setpriv --reuid 33 --clear-groups --no-new-privs --bounding-set -all",
        "setpriv --bounding-set -all --inh-caps -all",
    ] {
        assert_eq!(output(&mut session, &format!("{prefix} uname -m")), "armv7l", "{prefix}");
    }
    let text = output(&mut session, "cp /usr/bin/uname /root/uname; chmod 4711 /root/uname; chown 5:5 /root/uname; chmod 4111 /root/uname; chmod 711 /root
         setpriv --reuid 33 --regid 33 --clear-groups /root/uname -m");
    assert_eq!(text, "armv7l", "a set-id program that may not be read");
    let text = python(
        &mut session,
        "os.setresuid(33, 34, 33); libc.prctl(4, 0); print(os.uname().machine); os.setresuid(34, 34, 34); print(os.uname().machine)",
    );
    assert_eq!(text, "armv7l\narmv7l", "not dumpable");
}

fn many_threads_at_once() {
    let tree = Tree::new();
    let text = python(
        &mut session(&tree),
        r#"
import threading
wrong = []
def ask():
    for _ in range(500):
        if os.uname().machine != "armv7l" or os.uname().nodename != "localhost":
            wrong.append(1)
for _ in range(4): os.fork()  # sixteen
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.stdout.write("wrong\n" if wrong else "right\n"); sys.stdout.flush()
while True:
    try: os.wait()
    except ChildProcessError: break"#,
    );
    assert_eq!(text.lines().filter(|line| *line == "right").count(), 16, "{text}");
}

fn killed_while_asking() {
    let tree = Tree::new();
    let mut session = session(&tree);
    let text = python(
        &mut session,
        r#"
import signal, time
# A signal handler that runs all the time must not break calls either.
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
for round in range(300):
    child = os.fork()
    if child == 0:
        while True:
            if os.uname().machine != "armv7l": os._exit(1)
    end = time.monotonic() + 0.001
    while time.monotonic() < end: os.uname()
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
signal.setitimer(signal.ITIMER_REAL, 0)
print(os.uname().machine)"#,
    );
    assert_eq!(text, "armv7l");
}

fn a_dead_supervisor_ends_the_sandbox() {
    let tree = Tree::new();
    let mut session = session(&tree);
    let own = std::process::id().to_string();
    let supervisor = supervisor_below(&own).expect("there is one");
    let started = Instant::now();
    std::thread::spawn(move || {
        let _ = nix::poll::poll(&mut [], 200u16);
        kill(Pid::from_raw(supervisor), Signal::SIGKILL).expect("it was there");
    });
    let result = session.run(&script("while uname -m >/dev/null; do :; done; sleep 1000"));
    assert!(result.is_err(), "{result:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "it hung");
    drop(session);
    // A new one is not worse for it.
    assert_eq!(output_of(&mut self::session(&tree), script("uname -m")).1, "armv7l");
}

/// The supervisor of a session of the process `parent`: a child of its child.
fn supervisor_below(parent: &str) -> Option<i32> {
    let stat = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent_of = |pid: &str| {
        let stat = stat(pid);
        let rest = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.to_owned();
        Some(rest)
    };
    let entries = std::fs::read_dir("/proc").expect("readable").flatten();
    let processes = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let found = processes.filter(|pid| stat(pid).contains("(sandbox-calls)")).find(|pid| {
        parent_of(pid)
            .and_then(|monitor| parent_of(&monitor))
            .is_some_and(|grandparent| grandparent == parent)
    });
    found?.parse().ok()
}
