//! Runs the body of a test in a user and mount namespace of its own, as an unprivileged user would:
//! with a range of ids where there is one to be had.
//!
//! The test program executes itself again. Run as root, it first becomes a nobody, and that nobody
//! finds a /dev/fuse that it may open, in a mount namespace where nobody else sees it.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
};

/// Set for the test program inside.
const INSIDE: &str = "SANDBOX_VIEW_TEST_INSIDE";

/// Who tests are run as when root starts them, and the first of the ids given to it.
const ACCOUNT: u32 = 54321;
const FIRST_ID: u32 = 300_000;
const IDS: u32 = 65536;

/// Whether the tests run as root.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Says why a test cannot run here; an error if it must.
fn skip(test: &str, reason: &str) {
    let required = std::env::var("TREESTRAP_TESTS_MUST_RUN").unwrap_or_default();
    assert!(!required.split(',').any(|tier| tier == "fuse"), "{test} must run, but: {reason}");
    // Not eprintln!, which the harness swallows when a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

/// How many ids a namespace has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ids {
    Range,
    One,
}

/// Runs `body` inside, as root of a namespace where ids 0 to 65535 are mapped. `test` is the test's
/// own name; `body` gets an empty folder of the host's disk that the namespace's root owns.
pub(crate) fn inside(test: &str, body: impl FnOnce(&Path)) {
    run(test, Ids::Range, body);
}

/// The same in a namespace where id 0 alone is mapped, as in a container without a range.
#[allow(dead_code)] // not every test program has such a test
pub(crate) fn inside_single(test: &str, body: impl FnOnce(&Path)) {
    run(test, Ids::One, body);
}

fn run(test: &str, ids: Ids, body: impl FnOnce(&Path)) {
    if std::env::var(INSIDE).is_ok_and(|name| name == test) {
        let scratch = std::env::current_dir().expect("the scratch folder");
        return body(&scratch);
    }
    let scratch = tempfile::tempdir().expect("a temporary folder");
    if is_root() {
        std::os::unix::fs::chown(scratch.path(), Some(ACCOUNT), Some(ACCOUNT)).expect("chown");
    } else if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return skip(test, &format!("/dev/fuse: {error}"));
    }
    let mut child = command(test, ids, scratch.path()).spawn().expect("starting unshare(1)");
    // A line says that the namespace exists; then its ids are mapped and it goes on.
    let mut ready = [0];
    let unshared = child.stdout.take().expect("a pipe").read(&mut ready).expect("reading") == 1;
    if !unshared {
        let _ = child.wait();
        return skip(test, "no user namespace (unshare --user failed)");
    }
    if let Err(reason) = map_ids(child.id(), ids) {
        let _ = child.kill();
        let _ = child.wait();
        return skip(test, &reason);
    }
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("the test inside waits for this");
    let status = child.wait().expect("waiting");
    remove(scratch, test);
    assert!(status.success(), "{test} failed inside its namespace");
}

/// The chain of programs that ends in this one again; all of them are one process.
fn command(test: &str, ids: Ids, scratch: &Path) -> Command {
    const OWN_DEVICE: &str = r#"
        set -e
        mount -t tmpfs -o mode=755,size=64k tmpfs /mnt
        mknod -m 666 /mnt/fuse c 10 229
        mount --bind /mnt/fuse /dev/fuse
        umount -l /mnt
        exec setpriv --reuid "$1" --regid "$1" --clear-groups -- sh -c "$2" sh "$3" "$4""#;
    const OWN_NAMESPACE: &str = r#"
        exec unshare --user --mount -- sh -c '
            echo; read go || exit 1
            exec setpriv --reuid 0 --regid 0 "$GROUPS_OPTION" -- "$1" --exact "$2" --nocapture >&2' sh "$1" "$2""#;
    let program = std::env::current_exe().expect("this program");
    let mut command;
    if is_root() {
        command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", OWN_DEVICE, "sh"]);
        command.arg(ACCOUNT.to_string()).arg(OWN_NAMESPACE).arg(program).arg(test);
    } else {
        command = Command::new("sh");
        command.args(["-c", OWN_NAMESPACE, "sh"]).arg(program).arg(test);
    }
    // setgroups(2) is denied where one id alone is mapped; user_namespaces(7).
    let groups = if ids == Ids::Range { "--clear-groups" } else { "--keep-groups" };
    command
        .env(INSIDE, test)
        .env("GROUPS_OPTION", groups)
        .current_dir(scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Maps the ids: as root directly; else one by itself, and a range through newuidmap(1), from the
/// first line in /etc/subuid.
fn map_ids(pid: u32, ids: Ids) -> Result<(), String> {
    if ids == Ids::One {
        let (uid, gid) = match is_root() {
            true => (ACCOUNT, ACCOUNT),
            false => (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()),
        };
        let files = [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {uid} 1")),
            ("gid_map", format!("0 {gid} 1")),
        ];
        for (file, text) in files {
            fs::write(format!("/proc/{pid}/{file}"), text).map_err(|error| format!("{file}: {error}"))?;
        }
        return Ok(());
    }
    if is_root() {
        for (file, own) in [("uid_map", ACCOUNT), ("gid_map", ACCOUNT)] {
            let map = format!("0 {own} 1\n1 {FIRST_ID} {}\n", IDS - 1);
            fs::write(format!("/proc/{pid}/{file}"), map).map_err(|error| format!("{file}: {error}"))?;
        }
        return Ok(());
    }
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().ok_or("no such account")?;
    for (tool, table, own) in [
        ("newuidmap", "/etc/subuid", user.uid.as_raw()),
        ("newgidmap", "/etc/subgid", nix::unistd::getgid().as_raw()),
    ] {
        let lines = fs::read_to_string(table).map_err(|error| format!("{table}: {error}"))?;
        let line = lines.lines().find(|line| line.split(':').next() == Some(&user.name));
        let first = line.and_then(|line| line.split(':').nth(1)).ok_or(format!("no line in {table}"))?;
        let count = (IDS - 1).to_string();
        let status = Command::new(tool)
            .args([&pid.to_string(), "0", &own.to_string(), "1", "1", first, &count])
            .status()
            .map_err(|error| format!("{tool}: {error}"))?;
        if !status.success() {
            return Err(format!("{tool} failed"));
        }
    }
    Ok(())
}

/// Removes the folder, whose files may belong to ids that only a namespace (or root) has.
fn remove(scratch: tempfile::TempDir, test: &str) {
    if !is_root() {
        let emptied = Command::new("unshare")
            .args(["--user", "--map-root-user", "--map-auto", "--", "find", "-mindepth", "1", "-delete"])
            .current_dir(scratch.path())
            .status();
        if !emptied.is_ok_and(|status| status.success()) {
            eprintln!("{test}: leaves {}", scratch.keep().display());
            return;
        }
    }
    scratch.close().expect("removing the temporary folder");
}
