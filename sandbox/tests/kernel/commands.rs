//! Commands: status, output, descriptors, environment, limits, terminals.

use std::{
    io::{Read, Write},
    sync::atomic::AtomicBool,
    time::Duration,
};

use sandbox::{Command, Kind, MemoryLimit, Outcome, Session};

use crate::support::{Test, Tree, output, output_of, script};

pub(crate) const TESTS: &[Test] = &[
    ("commands::one_after_the_other", &["userns"], one_after_the_other),
    ("commands::what_is_enforced_is_said", &["userns"], what_is_enforced_is_said),
    ("commands::statuses", &["userns"], statuses),
    ("commands::what_cannot_start", &["userns"], what_cannot_start),
    ("commands::big_output", &["userns"], big_output),
    ("commands::no_descriptor_leaks", &["userns"], no_descriptor_leaks),
    ("commands::descriptors_are_placed", &["userns"], descriptors_are_placed),
    ("commands::environment_and_folder", &["userns"], environment_and_folder),
    ("commands::interrupted", &["userns"], interrupted),
    ("commands::time_limit", &["userns"], time_limit),
    ("commands::memory_limit", &["userns", "python"], memory_limit),
    ("commands::fork_bomb", &["userns", "process-limit"], fork_bomb),
    ("commands::owners_are_real", &["userns"], owners_are_real),
];

fn one_after_the_other() {
    let tree = Tree::new();
    let mut session = tree.session();
    assert_eq!(output(&mut session, "id -u; hostname; echo $$ > /etc/first"), "0\nsandbox");
    assert_eq!(output(&mut session, "cat /etc/old; test -s /etc/first && echo there"), "old\nthere");
    session.close().expect("it closes");
}

fn what_is_enforced_is_said() {
    let tree = Tree::new();
    let session = tree.session();
    let enforced = session.enforced();
    assert!(enforced.inside.volatile && enforced.inside.seccomp && enforced.inside.no_sync, "{enforced:?}");
    assert!(enforced.inside.no_nested_namespaces, "{enforced:?}");
    let count = |ranges: &[sandbox::IdRange]| ranges.iter().map(|range| range.count).sum::<u32>();
    assert_eq!((count(&enforced.mapping.uids), count(&enforced.mapping.gids)), (65536, 65536));
    let limited = crate::support::process_limit_holds();
    assert_eq!(enforced.inside.processes, limited.then_some(4096));
    assert_eq!(enforced.inside.degraded.len(), usize::from(!limited), "{enforced:?}");
    let json = serde_json::to_string(enforced).expect("JSON");
    assert_eq!(&serde_json::from_str::<sandbox::Enforced>(&json).expect("and back"), enforced);
}

fn statuses() {
    let tree = Tree::new();
    let mut session = tree.session();
    for (text, outcome, code) in [
        ("true", Outcome::Exited(0), 0),
        ("exit 7", Outcome::Exited(7), 7),
        ("exit 255", Outcome::Exited(255), 255),
        ("kill -SEGV $$", Outcome::Signalled(11), 139),
        ("kill -KILL $$", Outcome::Signalled(9), 137),
        // Ignored by the helper, and not to be inherited.
        ("kill -INT $$", Outcome::Signalled(2), 130),
        ("kill -PIPE $$", Outcome::Signalled(13), 141),
    ] {
        let status = session.run(&script(text)).expect("it runs");
        assert_eq!((status.outcome, status.code()), (outcome, code), "{text}");
    }
    let busy = session.run(&script("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")).expect("it runs");
    assert!(
        busy.user_seconds > 0.0 && busy.wall_seconds >= busy.user_seconds * 0.5 && busy.peak_memory > 1 << 19,
        "{busy:?}"
    );
}

fn what_cannot_start() {
    let tree = Tree::new();
    tree.write("etc/text", "no program\n");
    let mut session = tree.session();
    output(
        &mut session,
        "chmod +x /etc/text; mkdir /etc/folder; printf '#!/no/such\\n' > /etc/script; chmod +x /etc/script",
    );
    for (program, part) in [
        ("no-such-program", "No such file"),
        ("/no/such/program", "No such file"),
        ("/etc/text", "Exec format error"),
        ("/etc/old", "Permission denied"),
        ("/etc/folder", "Permission denied"),
        ("/etc/script", "No such file"),
        ("", "the command is empty"),
    ] {
        let error = session.run(&Command::new([program])).expect_err(program);
        assert_eq!(error.kind(), Kind::Command, "{program}: {error}");
        assert!(error.to_string().contains(part), "{program}: {error}");
    }
    let mut elsewhere = script("true");
    elsewhere.folder = b"no/such".to_vec();
    assert_eq!(session.run(&elsewhere).expect_err("no such folder").kind(), Kind::Command);
    assert!(session.run(&script("true")).expect("the session lives on").success());
}

fn big_output() {
    let tree = Tree::new();
    let mut session = tree.session();
    let text = output(&mut session, "seq 1 500000");
    assert_eq!((text.lines().count(), text.lines().last()), (500_000, Some("500000")));
}

fn no_descriptor_leaks() {
    let tree = Tree::new();
    // One that a careless parent left open for all its children.
    let careless = std::fs::File::open("/etc/hostname").expect("opened");
    nix::fcntl::fcntl(&careless, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("set");
    let mut session = tree.session();
    for _ in 0..3 {
        // ls itself has the folder open, as one more.
        assert_eq!(output(&mut session, "ls /proc/self/fd"), "0\n1\n2\n3");
    }
    let own = || std::fs::read_dir("/proc/self/fd").expect("read").count();
    let before = own();
    for _ in 0..20 {
        session.run(&script("true")).expect("it runs");
    }
    drop(tree.session());
    assert_eq!(own(), before, "of the caller");
}

fn descriptors_are_placed() {
    let tree = Tree::new();
    let mut session = tree.session();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let (input, mut feed) = std::io::pipe().expect("a pipe");
    let mut command = script("cat <&7 >&9; [ ! -e /proc/self/fd/8 ]");
    command.descriptors = vec![(input.into(), 7), (writer.into(), 9)];
    feed.write_all(b"through 7 and 9").expect("written");
    drop(feed);
    assert!(session.run(&command).expect("it runs").success());
    drop(command);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read");
    assert_eq!(text, "through 7 and 9");
}

fn environment_and_folder() {
    let tree = Tree::new();
    let mut session = tree.session();
    let mut command = Command::new(["env"]).env("HOME", "/elsewhere").env("ODD", b"\xff");
    command.folder = b"etc".to_vec();
    let (_, text) = output_of(&mut session, command);
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["HOME=/elsewhere", "ODD=\u{fffd}", path]);
    let mut command = script("pwd; umask; ulimit -c");
    command.folder = b"/var/lib".to_vec();
    assert_eq!(output_of(&mut session, command).1, "/var/lib\n0022\n0");
}

fn interrupted() {
    let tree = Tree::new();
    let mut session = tree.session();
    let stop = AtomicBool::new(false);
    let error = std::thread::scope(|scope| {
        let stopper = scope.spawn(|| {
            // Some time into the command.
            let _ = nix::poll::poll(&mut [], 300u16);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let result =
            session.run_unless(&script("trap '' TERM INT; sleep 1000 & setsid sleep 1000 & wait"), &stop);
        stopper.join().expect("it ended");
        result.expect_err("it was stopped")
    });
    assert_eq!(error.kind(), Kind::Interrupted);
    assert_eq!(output(&mut session, "pgrep sleep || echo none"), "none");
}

fn time_limit() {
    let tree = Tree::new();
    let mut plan = tree.plan();
    plan.limits.time = Some(Duration::from_millis(200));
    let mut session = Session::start(&plan).expect("a session");
    let error = session.run(&script("sleep 1000")).expect_err("too long");
    assert_eq!(error.kind(), Kind::TimeLimit, "{error}");
    assert!(session.run(&script("true")).expect("it runs").success());
}

fn memory_limit() {
    let tree = Tree::new();
    let mut plan = tree.plan();
    let limit = 192 << 20;
    plan.limits.memory = Some(limit);
    let mut session = Session::start(&plan).expect("a session");
    let inside = &session.enforced().inside;
    match inside.memory {
        Some(MemoryLimit::Together(most)) => assert_eq!(most, limit),
        Some(MemoryLimit::EachProcess(most)) => {
            assert_eq!(most, limit);
            let said =
                inside.degraded.iter().any(|degraded| degraded.starts_with("memory is limited for each"));
            assert!(said, "{inside:?}");
        }
        None => panic!("no limit: {inside:?}"),
    }
    let take = |mebibytes| script(&format!("python3 -c 'bytearray({mebibytes} << 20)' 2>/dev/null"));
    assert!(session.run(&take(16)).expect("it runs").success());
    assert!(!session.run(&take(512)).expect("it runs").success());
    drop(session);
    assert_eq!(tree.session().enforced().inside.memory, None);
}

fn fork_bomb() {
    let tree = Tree::new();
    let mut plan = tree.plan();
    plan.limits.processes = 50;
    let mut session = Session::start(&plan).expect("a session");
    let (_, text) = output_of(
        &mut session,
        script("i=0; while [ $i -lt 100 ]; do sleep 1000 >/dev/null 2>&1 & i=$((i+1)); done"),
    );
    assert!(text.contains("Cannot fork") || text.contains("Resource temporarily unavailable"), "{text}");
    drop(session);
    if !crate::support::pid_namespaces_have_limits() {
        return; // each user has a limit of its own then
    }
    let mut session = Session::start(&plan).expect("another");
    let text = output(
        &mut session,
        r#"python3 - <<'END'
import os, signal
children = []
try:
    for user in range(1000, 1100):
        child = os.fork()
        if child == 0:
            os.setresuid(user, user, user)
            signal.pause()
        children.append(child)
except OSError as e: print(e.strerror)
print(len(children) < 50)
for child in children: os.kill(child, 9)
END"#,
    );
    assert_eq!(
        text,
        "Resource temporarily unavailable
True",
        "other users are no way out"
    );
}

fn owners_are_real() {
    let tree = Tree::new();
    let mut session = tree.session();
    let text = output(
        &mut session,
        "chown 33:5 /etc/old; chmod 4755 /etc/old; stat -c '%u:%g %a' /etc/old
         install -o www-data -g tty -m 2750 -d /var/www; stat -c '%U:%G %a' /var/www
         chown 65534:65533 /etc/passwd; stat -c '%u:%g' /etc/passwd
         setpriv --reuid 33 --regid 33 --clear-groups sh -c 'id -u; touch /etc/x 2>&1 || true; cat /proc/1/environ 2>&1 || true'",
    );
    assert_eq!(
        text,
        "33:5 4755\nwww-data:tty 2750\n65534:65533\n33\ntouch: cannot touch '/etc/x': Permission denied\n\
         cat: /proc/1/environ: Permission denied"
    );
}
