//! An emulator that fails: told from a package's fault, and tried once more.
//!
//! The image is called one of another architecture, but its programs are this machine's own. What
//! stands for qemu so never runs; a script says and does what a crash in qemu looks like.

use std::{fs, process::Command};

use crate::common::{
    account::Account,
    archive::Archive,
    base,
    fixture::{Fixture, Outcome, finish},
    package::Package,
    server::Server,
    tier::{Tier, needs},
};

/// An architecture that no machine of the tests has.
const FOREIGN: &str = "s390x";

/// What qemu 8.2 and later say when they crash themselves.
const CRASH: &str = "qemu-s390x: QEMU internal SIGSEGV {code=MAPERR, addr=0x20}";

/// Builds an image with one package that has this postinst; gives the fixture and what came of it.
fn build(postinst: &str) -> (Fixture, Server, Outcome) {
    let script: String = postinst.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!(
        "Package: frail\nArchitecture: {FOREIGN}\nfile ./usr/share/frail = x\nscript postinst\n{script}"
    );
    let mut archive = Archive::without_base("");
    archive.architecture = FOREIGN.to_owned();
    archive.suite().debs = base::debs_for(FOREIGN);
    archive.add(Package::parse(&text).build());
    let server = Server::new(archive.publish());
    let fixture = Fixture::with_archive(Account::Subordinate, &archive, &server.uri(), &["frail"]);
    let manifest = fixture.read("treestrap.toml");
    let native = format!("arch = {:?}", base::architecture());
    fixture.write("treestrap.toml", &manifest.replace(&native, &format!("arch = {FOREIGN:?}")));
    // A static program that says it is qemu.
    let source = fixture.folder().join("qemu.c");
    let says = r#"#include <stdio.h>
        int main(void) { puts("qemu-s390x version 7.2.22 (none)"); return 0; }"#;
    fs::write(&source, says).expect("a writable folder");
    let mut compiler = Command::new("cc");
    compiler.arg("-static").arg("-o").arg(fixture.folder().join("qemu-s390x-static")).arg(&source);
    finish(compiler).ok();
    let path = format!("PATH={}:/usr/bin:/usr/sbin:/bin:/sbin", fixture.folder().display());
    let program = fixture.program();
    let outcome = fixture.run("env", &[&path, program.to_str().expect("UTF-8"), "build"]);
    (fixture, server, outcome)
}

#[test]
fn a_crash_of_the_emulator_is_tried_once_more() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay, Tier::Binfmt);
    let once = format!(
        "echo tried >>/var/lib/frail\nif [ $(wc -l </var/lib/frail) = 1 ]; then\necho '{CRASH}' >&2\nexit 139\nfi"
    );
    let (fixture, _server, outcome) = build(&once);
    let outcome = outcome.ok();
    assert!(outcome.stderr.contains("QEMU internal SIGSEGV"), "{outcome}");
    assert!(outcome.stderr.contains("once more"), "{outcome}");
    assert_eq!(fixture.cat("tiny", "/var/lib/frail"), "tried\ntried\n");
    fixture.fsck();
    fixture.assert_nothing_left();
}

#[test]
fn a_crash_that_comes_again_is_the_emulators() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay, Tier::Binfmt);
    let always = format!("echo tried >>/var/lib/frail\necho '{CRASH}' >&2\nexit 139");
    let (fixture, _server, outcome) = build(&always);
    outcome.exits(3).says(&["the emulator failed twice", "frail", "run --failed tiny"]);
    assert_eq!(fixture.rev("deb/images/tiny/configured"), None);
    fixture.assert_nothing_left();
}

#[test]
fn a_script_that_fails_is_not_tried_again() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay, Tier::Binfmt);
    let (_fixture, _server, outcome) = build("echo 'qemu: is not to blame'\nexit 3");
    outcome.exits(1).says(&["frail", "exit status 3"]).does_not_say(&["once more"]);
}
