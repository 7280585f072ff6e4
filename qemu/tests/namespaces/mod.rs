//! What tests need that start programs through a binfmt_misc of their own.

use std::process::Command;

/// A skip is a failure where the environment says so (`TREESTRAP_TESTS_MUST_RUN=binfmt,…`).
pub(crate) fn skip(reason: &str) {
    let must_run = std::env::var("TREESTRAP_TESTS_MUST_RUN").unwrap_or_default();
    assert!(!must_run.split(',').any(|tier| tier == "all" || tier == "binfmt"), "{reason}");
    eprintln!("skipped: {reason}");
}

/// `unshare` with as many users as this account may map; none where namespaces cannot be had.
pub(crate) fn unshare() -> Option<(Command, &'static str)> {
    let many = ["--map-root-user", "--map-auto"];
    for (options, mapped) in [(&many[..], "many"), (&many[..1], "one")] {
        let mut command = Command::new("unshare");
        command.args(["--user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]).args(options);
        command.env("MAPPED", mapped);
        let mut probe = Command::new("unshare");
        probe.args(command.get_args()).args([
            "mount",
            "-t",
            "binfmt_misc",
            "none",
            "/proc/sys/fs/binfmt_misc",
        ]);
        if probe.output().is_ok_and(|output| output.status.success()) {
            return Some((command, mapped));
        }
    }
    None
}
