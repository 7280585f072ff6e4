//! Sandboxes on the real kernel: namespaces, overlays, interpreters. Each test starts real ones.
//!
//! Run as an unprivileged user it tests that. Run as root it tests everything twice: as root, and as
//! the account that `TREESTRAP_TEST_USER` names (default: the first one with a subuid range; one is
//! made if there is none). Each time they are run with a folder as the base layer, and then with a
//! stored tree in each view (`TREESTRAP_TEST_VIEW=fuse`: in that one). `TREESTRAP_TESTS_MUST_RUN=userns,
//! overlay,fuse,binfmt` turns a skip into a failure. Arguments: parts of names of the tests to run.
//!
//! What is needed: merged /usr on the host (its programs are the sandbox's), uidmap; for the tests of
//! foreign binaries apt with sources of the real archive.

mod calls;
mod capture;
mod commands;
mod doctor;
mod escape;
mod folders;
mod foreign;
mod host;
mod lifecycle;
mod moved;
mod on_disk;
mod single;
mod support;
mod synced;
mod views;

use std::process::ExitCode;

fn main() -> ExitCode {
    sandbox::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(role) = arguments.first().and_then(|first| first.strip_prefix("--role=")) {
        return lifecycle::play(role, &arguments[1..]);
    }
    support::run(
        &arguments,
        &[
            commands::TESTS,
            calls::TESTS,
            single::TESTS,
            synced::TESTS,
            folders::TESTS,
            capture::TESTS,
            escape::TESTS,
            lifecycle::TESTS,
        ],
        &[doctor::TESTS, views::TESTS, foreign::TESTS, on_disk::TESTS, moved::TESTS, host::TESTS],
    )
}
