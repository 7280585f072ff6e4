//! Beginning and end: kept sessions, killed callers, terminals. Nothing may stay behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command as Host, ExitCode, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sandbox::{Command, Entry, Session, Work};

use crate::support::{Test, Tree, changes, now, output, script};

pub(crate) const TESTS: &[Test] = &[
    ("lifecycle::a_daemon_ends_with_the_session", &["userns"], a_daemon_ends_with_the_session),
    ("lifecycle::kept_and_taken_up_again", &["userns"], kept_and_taken_up_again),
    ("lifecycle::a_failed_start_leaves_nothing", &["userns"], a_failed_start_leaves_nothing),
    ("lifecycle::a_killed_caller_leaves_nothing", &["userns"], a_killed_caller_leaves_nothing),
    ("lifecycle::killed_at_any_moment", &["userns"], killed_at_any_moment),
    ("lifecycle::a_killed_monitor_is_swept_up_after", &["userns"], a_killed_monitor_is_swept_up_after),
    ("lifecycle::sweeps_beside_ending_sessions", &["userns"], sweeps_beside_ending_sessions),
    ("lifecycle::two_at_once", &["userns"], two_at_once),
    ("lifecycle::a_shell_on_a_terminal", &["userns"], a_shell_on_a_terminal),
    ("lifecycle::start_is_quick_enough_to_be_said", &["userns"], start_is_quick_enough_to_be_said),
];

/// What this program does when a test starts it again.
pub(crate) fn play(role: &str, arguments: &[String]) -> ExitCode {
    if role == "diagnose" {
        let findings = sandbox::diagnose(Path::new(&arguments[1]));
        println!("{}", serde_json::to_string(&findings).expect("JSON"));
        return ExitCode::SUCCESS;
    }
    if role == "sorted" {
        return crate::folders::say_what_is_enforced(arguments);
    }
    if role == "check-out" {
        return crate::moved::play(arguments);
    }
    if matches!(role, "read-folder" | "empty") {
        return crate::on_disk::play(role, arguments);
    }
    let [base, work, rest @ ..] = arguments else { return ExitCode::FAILURE };
    let plan = crate::support::plan(Path::new(base), Path::new(work));
    let layers = sandbox::LayerFolder::make(Path::new(work)).expect("a folder for layers");
    fs::write(layers.path().join("layer"), "").expect("written");
    let mut session = Session::start(&plan).expect("a session");
    match role {
        // Runs a script to its end, saying which process its monitor is.
        "script" => {
            println!("started");
            let status = session.run(&script(&rest[0])).expect("it runs");
            ExitCode::from(status.code())
        }
        "terminal" => {
            let command = Command::new(rest.iter().map(String::as_str)).env("TERM", "dumb").env("PS1", "$ ");
            let status = session.run(&command).expect("it runs");
            println!("ended with {}", status.code());
            ExitCode::from(status.code())
        }
        _ => ExitCode::FAILURE,
    }
}

fn this_program(role: &str, tree: &Tree) -> Host {
    let mut host = Host::new("/proc/self/exe");
    host.arg(format!("--role={role}")).arg(tree.base()).arg(tree.work());
    host
}

/// Waits until `done`, ten seconds at most: what is killed goes away in its own time.
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}");
        let _ = nix::poll::poll(&mut [], 20u16);
    }
}

/// Processes of this machine with this among their arguments.
fn processes(marker: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("readable").flatten();
    let with_marker = entries.filter(|entry| {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        arguments.split(|&byte| byte == 0).any(|argument| argument == marker.as_bytes())
    });
    with_marker.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// An argument for sleep that no other process has.
fn marker(number: usize) -> String {
    format!("1000.{}{number:03}", std::process::id())
}

fn mounts_of(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    mounts.contains(&path.display().to_string())
}

fn a_daemon_ends_with_the_session() {
    let tree = Tree::new();
    let marker = marker(0);
    for end in 0..3 {
        let mut session = tree.session();
        output(&mut session, &format!("(setsid sleep {marker} >/dev/null 2>&1 &)"));
        // The shell does not wait until its child has become that.
        wait_until("it does not run on", || processes(&marker).len() == 1);
        match end {
            0 => session.close().expect("it closes"),
            1 => drop(changes(&mut session)),
            _ => drop(session),
        }
        assert!(processes(&marker).is_empty(), "and ends here");
    }
}

fn kept_and_taken_up_again() {
    let tree = Tree::new();
    let kept = tree.path().join("deep/kept");
    let mut session = tree.session();
    output(
        &mut session,
        "echo 1 > /etc/new; chown 33:33 /etc/new; rm /etc/old; mkdir -m 000 /etc/closed; chown 33 /etc/closed",
    );
    session.keep(&kept).expect("kept");
    assert!(session.run(&script("true")).is_err() && session.keep(&tree.path().join("twice")).is_err());
    drop(session);
    let mut names: Vec<_> =
        fs::read_dir(&kept).expect("there").flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["lock", "upper"]);
    let mut plan = tree.plan();
    plan.work = Work::Kept(kept.clone());
    for round in 2..4 {
        let mut session = Session::start(&plan).expect("taken up");
        let Err(error) = Session::start(&plan) else { panic!("two at once on one kept session") };
        assert!(error.to_string().contains("in use"), "{error}");
        output(
            &mut session,
            &format!("[ ! -e /etc/old ]; grep -qx {} /etc/new; echo {round} > /etc/new", round - 1),
        );
        let all = changes(&mut session);
        assert!(matches!(now(&all, "etc/new"), Entry::File { metadata, .. } if metadata.uid == 33));
        assert!(matches!(now(&all, "etc/old"), Entry::Removed));
    }
    // A removal that was interrupted can be ended.
    let unlocked = tree.path().join("unlocked");
    fs::create_dir(&unlocked).expect("made");
    fs::rename(kept.join("upper"), unlocked.join("upper")).expect("moved away");
    for kept in [&kept, &unlocked] {
        sandbox::remove_kept(kept).expect("removed");
        assert!(!kept.exists());
    }
    assert_eq!(sandbox::remove_kept(&kept).expect_err("gone already").kind(), sandbox::Kind::Plan);
}

fn a_failed_start_leaves_nothing() {
    let tree = Tree::new();
    let missing = || std::path::PathBuf::from("/no/such");
    let fail = |change: &dyn Fn(&mut sandbox::Plan), part: &str| {
        let mut plan = tree.plan();
        change(&mut plan);
        let Err(error) = Session::start(&plan) else { panic!("it started: {part}") };
        assert!(error.to_string().contains(part), "{error}");
        assert!(tree.sessions().is_empty(), "{part}: {:?}", tree.sessions());
        error
    };
    let kind = |error: sandbox::Error| (error.kind(), error.step());
    let plan_at = |step| (sandbox::Kind::Plan, Some(step));
    use sandbox::{Binfmt, Layer, Mount, Source, Step};
    assert_eq!(
        kind(fail(&|plan| plan.layers = vec![Layer::Folder(missing())], "/no/such")),
        plan_at(Step::WorkFolder)
    );
    assert_eq!(
        kind(fail(&|plan| plan.layers.insert(0, Layer::Folder(missing())), "/no/such")),
        plan_at(Step::Mounts)
    );
    assert_eq!(kind(fail(&|plan| plan.layers.clear(), "at least one layer")), plan_at(Step::WorkFolder));
    for target in [&b"../out"[..], b"/etc", b"", b"a/../b"] {
        let mount = Mount { target: target.to_vec(), source: Source::ReadOnly("/usr".into()) };
        assert_eq!(
            kind(fail(&|plan| plan.mounts.push(mount.clone()), "mount point")),
            plan_at(Step::WorkFolder)
        );
    }
    let mount = Mount { target: b"x".to_vec(), source: Source::ReadOnly(missing()) };
    assert_eq!(kind(fail(&|plan| plan.mounts.push(mount.clone()), "/no/such")), plan_at(Step::Mounts));
    let binfmt = Binfmt { name: "x".into(), line: ":x:E::x::{interpreter}:F".into(), interpreter: missing() };
    assert_eq!(kind(fail(&|plan| plan.binfmt.push(binfmt.clone()), "/no/such")), plan_at(Step::Binfmt));
    let bad = Binfmt { line: "garbage".into(), interpreter: "/bin/true".into(), ..binfmt.clone() };
    assert_eq!(
        fail(&|plan| plan.binfmt.push(bad.clone()), "registering the interpreter for x").step(),
        Some(Step::Binfmt)
    );
}

fn a_killed_caller_leaves_nothing() {
    let tree = Tree::new();
    let marker = marker(1);
    let script = format!(
        "trap '' TERM HUP INT; setsid sleep {marker} & setsid sleep {marker} & touch /etc/x; chown 33 /etc/x; echo up; wait"
    );
    let mut caller =
        this_program("script", &tree).arg(&script).stdout(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(caller.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("read"), "started");
    assert_eq!(lines.next().expect("a line").expect("read"), "up");
    wait_until("they do not run", || processes(&marker).len() == 2);
    assert_eq!(tree.sessions().len(), 2, "the session's and that of the caller's layers");
    caller.kill().expect("killed");
    caller.wait().expect("reaped");
    wait_until("processes are left", || processes(&marker).is_empty());
    wait_until("a folder is left", || tree.sessions().is_empty());
    assert!(!mounts_of(tree.path()));
}

fn killed_at_any_moment() {
    let tree = Tree::new();
    for round in 0..20 {
        let marker = marker(100 + round);
        let mut caller = this_program("script", &tree)
            .arg(format!(
                "for i in 1 2 3 4 5 6 7 8 9; do touch /etc/$i; chown $i /etc/$i; done; sleep {marker}"
            ))
            .stdout(Stdio::null())
            .spawn()
            .expect("started");
        // From before the namespace to well into the command.
        let _ = nix::poll::poll(&mut [], (round * 7) as u16);
        caller.kill().expect("killed");
        caller.wait().expect("reaped");
        wait_until("processes are left", || processes(&marker).is_empty());
        // Before the monitor knows of the folder, it is swept up the next time.
        wait_until("a locked folder is left", || {
            sandbox::sweep(&tree.work()).expect("swept");
            tree.sessions().is_empty()
        });
    }
    assert!(!mounts_of(tree.path()));
}

fn a_killed_monitor_is_swept_up_after() {
    let tree = Tree::new();
    let mut alive = tree.session();
    let marker = marker(2);
    let text = format!("touch /etc/x; chown 33 /etc/x; echo up; sleep {marker}");
    let mut caller = this_program("script", &tree).arg(text).stdout(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(caller.stdout.take().expect("piped")).lines();
    assert!(lines.by_ref().any(|line| line.expect("read") == "up"));
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", caller.id())).expect("readable");
    let monitor = children.trim().parse().expect("one child");
    kill(Pid::from_raw(monitor), Signal::SIGKILL).expect("killed");
    assert!(!caller.wait().expect("it ended").success(), "the caller sees it");
    wait_until("processes are left", || processes(&marker).is_empty());
    assert_eq!(tree.sessions().len(), 2);
    // The lock goes with the last of the monitor's children that inherited it.
    wait_until("it is not swept up", || sandbox::sweep(&tree.work()).expect("swept") == 1);
    assert_eq!(sandbox::sweep(&tree.work()).expect("swept"), 0);
    assert_eq!(output(&mut alive, "echo untouched"), "untouched");
    alive.close().expect("it closes");
    assert_eq!(sandbox::sweep(&tree.path().join("none")).expect("nothing to do"), 0);
}

fn sweeps_beside_ending_sessions() {
    let tree = Tree::new();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sweeps = scope.spawn(|| {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(sandbox::sweep(&tree.work()).expect("swept"), 0);
            }
        });
        let sessions = scope.spawn(|| {
            for _ in 0..10 {
                let mut session = tree.session();
                output(&mut session, "chown 33 /etc/old");
                session.close().expect("it closes");
            }
        });
        let result = sessions.join();
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(result.is_ok() && sweeps.join().is_ok());
    });
    assert!(tree.sessions().is_empty());
}

fn two_at_once() {
    let tree = Tree::new();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let tree = &tree;
            scope.spawn(move || {
                let mut session = tree.session();
                output(
                    &mut session,
                    &format!("echo {number} > /etc/number; sleep 0.2; grep -qx {number} /etc/number"),
                );
                assert!(matches!(now(&changes(&mut session), "etc/number"), Entry::File { size: 2, .. }));
            });
        }
    });
}

/// Drives a terminal: a shell with job control, Ctrl-C, Ctrl-Z, and a program stopped and resumed.
fn a_shell_on_a_terminal() {
    let tree = Tree::new();
    let driver = r#"
import os, pty, re, select, signal, sys, time
def start(*command):
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(sys.argv[1], [sys.argv[1], "--role=terminal", sys.argv[2], sys.argv[3], *command])
    return pid, fd
seen = b""
def expect(fd, text):
    global seen
    end = time.time() + 20
    while not re.search(text.encode(), seen):
        if time.time() > end or not select.select([fd], [], [], 20)[0]:
            sys.exit(f"waiting for {text!r}, saw {seen!r}")
        try: seen += os.read(fd, 4096)
        except OSError: sys.exit(f"the end, waiting for {text!r}, saw {seen!r}")
    seen = seen[re.search(text.encode(), seen).end():]
pid, fd = start("bash", "--norc", "-i")
send = lambda text: os.write(fd, text.encode())
expect(fd, r"\$ $"); send("sleep 500\n"); time.sleep(0.3); send("\x03")
expect(fd, r"\$ $"); send("echo status $?\n"); expect(fd, "status 130")
send("sleep 500\n"); time.sleep(0.3); send("\x1a"); expect(fd, "Stopped")
send("jobs; kill %1; fg; echo 'still here'\n"); expect(fd, "still here\r")
send("echo $(ps -o stat= $$) $(tty); exit 5\n"); expect(fd, "Ss|S"); expect(fd, "ended with 5")
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
if b"no job control" in seen: sys.exit(seen)
# Ctrl-Z on a command that is no shell stops this whole program, as the shell around it expects.
seen = b""
pid, fd = pty.fork()
if pid == 0:
    os.environ["PS1"] = "$ "
    os.execvp("bash", ["bash", "--norc", "-i"])
expect(fd, r"\$ $"); send(f"{sys.argv[1]} --role=terminal {sys.argv[2]} {sys.argv[3]} cat\n"); time.sleep(0.5)
send("one\n"); expect(fd, "one\r\none"); send("\x1a"); expect(fd, "Stopped")
send("echo outside\n"); expect(fd, "[\r\n]outside")
send("fg\n"); time.sleep(0.3); send("two\n"); expect(fd, "two\r\ntwo"); send("\x04"); expect(fd, "ended with 0")
send("exit\n"); os.waitpid(pid, 0)
# A closed terminal ends everything.
pid, fd = start("sleep", "500"); time.sleep(0.5); os.close(fd)
os.waitpid(pid, 0)
"#;
    let program = fs::read_link("/proc/self/exe").expect("a path");
    let output = Host::new("timeout")
        .args(["60", "python3", "-c", driver])
        .arg(program)
        .args([tree.base(), tree.work()])
        .output()
        .expect("python starts");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    wait_until("a folder is left", || tree.sessions().is_empty());
}

/// No time is asserted: the number is for whoever reads the log.
fn start_is_quick_enough_to_be_said() {
    let tree = Tree::new();
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        let mut session = tree.session();
        assert!(session.run(&Command::new(["true"])).expect("it runs").success());
        best = best.min(started.elapsed());
    }
    println!("      from nothing to the end of `true`: {:.1} ms", best.as_secs_f64() * 1e3);
}
