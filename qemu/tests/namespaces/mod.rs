//! What tests need that start programs through a binfmt_misc of their own.

use std::{os::unix::fs::MetadataExt, process::Command};

/// A skip is a failure where the environment says so (`TREESTRAP_TESTS_MUST_RUN=binfmt,…`).
pub(crate) fn skip(reason: &str) {
    let must_run = std::env::var("TREESTRAP_TESTS_MUST_RUN").unwrap_or_default();
    assert!(!must_run.split(',').any(|tier| tier == "all" || tier == "binfmt"), "{reason}");
    eprintln!("skipped: {reason}");
}

/// Runs its arguments in namespaces of their own with all of root's ids, which unshare(1) gives only to
/// those who have a range in /etc/subuid: the map is written from outside.
const AS_ROOT: &str = r#"
folder=$(mktemp -d) && mkfifo "$folder/go" || exit 125
unshare --user --mount --pid --fork --kill-child --mount-proc \
    sh -c 'read _ <"$0/go"; exec "$@"' "$folder" "$@" &
while [ "$(readlink /proc/$!/ns/user)" = "$(readlink /proc/self/ns/user)" ]; do sleep 0.01; done
echo 0 0 65536 >/proc/$!/uid_map; echo 0 0 65536 >/proc/$!/gid_map
echo go >"$folder/go"; wait $!; status=$?
rm -r "$folder"; exit $status
"#;

/// `unshare` with as many users as this account may map; none where namespaces cannot be had.
pub(crate) fn unshare() -> Option<(Command, &'static str)> {
    const PROBE: [&str; 5] = ["mount", "-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"];
    let options = ["--user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--map-root-user"];
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let ways: [(&str, Vec<&str>, &str); 3] = [
        ("sh", vec!["-c", AS_ROOT, "sh"], "many"),
        ("unshare", [&options[..], &["--map-auto"]].concat(), "many"),
        ("unshare", options.to_vec(), "one"),
    ];
    for (program, arguments, mapped) in ways.into_iter().skip(usize::from(!is_root)) {
        let mut command = Command::new(program);
        command.args(&arguments).env("MAPPED", mapped);
        let mut probe = Command::new(program);
        probe.args(&arguments).args(PROBE);
        if probe.output().is_ok_and(|output| output.status.success()) {
            return Some((command, mapped));
        }
    }
    None
}
