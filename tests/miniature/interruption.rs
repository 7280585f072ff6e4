//! Ctrl-C, SIGTERM, a closed terminal and kill -9, at any moment: nothing is left behind, and the
//! next run goes on.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Child,
    process::Command,
    time::{Duration, Instant},
};

use crate::common::{
    account::Account,
    fixture::{Fixture, Miniature, pause, wait},
    package::Package,
    server::Fault,
    tier::{Tier, needs},
};

/// A package whose script does not end, and can be recognised from outside by its argument.
fn endless(seconds: u32) -> String {
    format!("Package: endless\nscript postinst\n    echo begun >/var/lib/begun\n    sleep {seconds}\n")
}

/// Waits until the host runs `sleep SECONDS`.
pub(crate) fn wait_for_sleep(seconds: u32, child: &mut Child) {
    let limit = Instant::now() + Duration::from_secs(120);
    let needle = format!("sleep\0{seconds}\0");
    loop {
        let running = fs::read_dir("/proc").expect("a mounted /proc").flatten().any(|process| {
            fs::read(process.path().join("cmdline")).is_ok_and(|line| line.ends_with(needle.as_bytes()))
        });
        if running {
            return;
        }
        let ended = child.try_wait().expect("a child of ours");
        assert!(ended.is_none(), "ended before its script did: {ended:?}");
        assert!(Instant::now() < limit, "the script never ran");
        pause();
    }
}

pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status();
    assert!(status.expect("kill").success());
}

/// What is below the work and home folders, without objects, refs and logs: what a run could
/// leave for a later one to be told about.
fn skeleton(fixture: &Fixture) -> BTreeSet<String> {
    fn walk(folder: &Path, prefix: &str, out: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
            let skipped =
                ["/objects/", "/refs/", "/state/", ".commitmeta"].iter().any(|part| path.contains(part));
            // libostree makes a folder per boot for its own staging, and reuses it
            if skipped || path.contains("/tmp/staging-") {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), &path, out);
            }
            out.insert(path);
        }
    }
    let mut out = BTreeSet::new();
    walk(&fixture.folder().join("work"), "work", &mut out);
    walk(&fixture.folder().join("home"), "home", &mut out);
    out
}

#[test]
fn a_signal_in_a_script_takes_everything_down() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    for (name, seconds) in [("INT", 31_001), ("TERM", 31_002), ("HUP", 31_003)] {
        let tiny = Miniature::new(Account::Subordinate, &endless(seconds), &["endless"]);
        let mut child = tiny.fixture.start(&["build"]);
        wait_for_sleep(seconds, &mut child);
        signal(&child, name);
        let outcome = wait(child);
        assert_eq!(outcome.status.code(), Some(130), "SIG{name}: {outcome}");
        assert_eq!(outcome.stdout, "");
        // at once: whoever pressed Ctrl-C has the prompt back, and nothing runs behind it
        assert_eq!(tiny.fixture.left_behind(), Vec::<String>::new(), "SIG{name}");
        assert_eq!(tiny.fixture.rev("deb/images/tiny/configured"), None);
        tiny.fixture.fsck();
    }
}

#[test]
fn kill_in_a_script_leaves_nothing_that_a_later_run_must_be_told_about() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let seconds = 31_004;
    let mut tiny = Miniature::new(Account::Subordinate, &endless(seconds), &["endless"]);
    let mut child = tiny.fixture.start(&["build"]);
    wait_for_sleep(seconds, &mut child);
    signal(&child, "KILL");
    wait(child).ended_by(9);
    tiny.fixture.assert_nothing_left();

    tiny.update(|archive| {
        archive.add(Package::parse("Package: endless\nVersion: 1.1\n").build());
    });
    tiny.fixture.treestrap(&["lock", "--update"]).ok();
    tiny.fixture.treestrap(&["build"]).ok();
    tiny.fixture.fsck();

    // a place where the same was done without any interruption looks the same
    let mut calm = Miniature::new(Account::Subordinate, "Package: endless\n", &["endless"]);
    calm.fixture.treestrap(&["build"]).ok();
    calm.update(|archive| {
        archive.add(Package::parse("Package: endless\nVersion: 1.1\n").build());
    });
    calm.fixture.treestrap(&["lock", "--update"]).ok();
    calm.fixture.treestrap(&["build"]).ok();
    let left: Vec<_> = skeleton(&tiny.fixture).difference(&skeleton(&calm.fixture)).cloned().collect();
    // indexes are cached by their hashes, listings by those of commits; both differ: the archives do
    let is_cache = |path: &String| path.contains("/.cache/") || path.contains("/listings-1/");
    let left: Vec<_> = left.into_iter().filter(|path| !is_cache(path)).collect();
    assert_eq!(left, Vec::<String>::new(), "left by the killed run");
}

#[test]
fn kill_while_fetching_loses_nothing_that_was_done() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny =
        Miniature::new(Account::Subordinate, "Package: last\nfile ./usr/share/last = last\n", &["last"]);
    tiny.fixture.treestrap(&["lock"]).ok();
    tiny.server.take_requests();
    tiny.server.fault("/last_", Fault::Hang, 1);
    for name in ["KILL", "INT"] {
        let child = tiny.fixture.start(&["fetch"]);
        tiny.server.wait_for("/last_", Duration::from_secs(60));
        signal(&child, name);
        let outcome = wait(child);
        assert!(!outcome.status.success(), "{outcome}");
        tiny.fixture.assert_nothing_left();
        tiny.fixture.fsck();
        tiny.server.take_requests();
        tiny.server.fault("/last_", Fault::Hang, 1);
    }
    tiny.server.mend();
    tiny.fixture.treestrap(&["build"]).ok();
    tiny.fixture.fsck();
}

#[test]
fn a_shell_in_the_image_ends_with_its_parent() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, "Package: hello\n", &["hello"]);
    tiny.fixture.treestrap(&["build"]).ok();
    let seconds = 31_005;
    let mut child =
        tiny.fixture.start(&["run", "tiny", "--", "sh", "-c", &format!("sleep {seconds} & sleep {seconds}")]);
    wait_for_sleep(seconds, &mut child);
    signal(&child, "KILL");
    wait(child).ended_by(9);
    tiny.fixture.assert_nothing_left();
    // what a command leaves running ends with it, too
    tiny.fixture.treestrap(&["run", "tiny", "--", "sh", "-c", "sleep 31006 >/dev/null 2>&1 & exit 0"]).ok();
    tiny.fixture.assert_nothing_left();
}
