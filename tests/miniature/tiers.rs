//! One commit in every tier: with a range of ids, without one, where set-id programs do nothing, as root,
//! and in a container that is a user namespace of its own.

use std::process::Command;

use crate::common::{
    account::Account,
    fixture::{Miniature, finish},
    tier::{Tier, needs},
};

/// Owners, modes, links, capabilities, programs that are set-id or run as others, a trigger of a second
/// package on the first one's files.
const VARIED: &str = r#"
Package: varied
Depends: libcap2-bin
file ./usr/bin/varied-su 4755 = su
file ./usr/bin/varied-mail 2755 0:8 = mail
file ./usr/share/varied/one 640 33:33 = linked
link ./usr/share/varied/two -> ./usr/share/varied/one
symlink ./usr/share/varied/link -> ../nowhere
file ./usr/share/varied/ping = ping
folder ./var/spool/varied 2775 33:8
file ./var/spool/varied/shipped 600 33:33 = shipped
script postinst
    set -e
    cd /var/spool/varied
    [ "$(stat -c %u:%g:%a shipped . /usr/bin/varied-mail | tr '\n' ' ')" = "33:33:600 33:8:2775 0:8:2755 " ]
    echo data >data
    mkdir folder
    chown 33 data
    chgrp 0 folder
    ln data data2
    ln -s data link
    chown -h 33:42 link /usr/share/varied/link
    mkdir -m 2750 ../group
    chown 5:60 ../group
    touch ../group/new
    install -o 33 -g 60 -m 4750 /usr/bin/true ../group/true
    tar -cf - . | (mkdir /var/copy && tar -C /var/copy -xpf -)
    cp -a /usr/share/varied /var/copied
    mv /usr/share/varied/one /usr/share/varied/three
    rm -f shipped
    setcap cap_net_raw+ep /usr/share/varied/ping
    chmod 0 data2
    uname -a >kernel
    mkfifo pipe
    rm pipe
    chown 33:33 nothing 2>/dev/null && exit 1
    start-stop-daemon --start --chuid 33:33 --startas /bin/true
    dpkg-statoverride --update --add '#5' '#60' 2710 /var/copied
    test -O /var/copied && exit 1
    id -u
"#;

fn build(account: Account, options: &[&str], around: &[&str]) -> (Miniature, String, String) {
    let tiny = Miniature::new(account, VARIED, &["varied"]);
    tiny.fixture.treestrap(&["lock"]).ok();
    let outcome = match around {
        [] => tiny.fixture.treestrap(&[&["build", "tiny"], options].concat()),
        [program, arguments @ ..] => {
            let treestrap = env!("CARGO_BIN_EXE_treestrap");
            let words = [arguments, &[treestrap, "build", "tiny"], options].concat();
            let mut command: Command = tiny.fixture.command(program);
            command.args(words);
            finish(command)
        }
    }
    .ok();
    (tiny, outcome.stdout, outcome.stderr)
}

#[test]
fn every_tier_makes_the_same_commit() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay, Tier::Capabilities);
    let (full, expected, _) = build(Account::Subordinate, &["--require", "tier=full"], &[]);
    let listing = |tiny: &Miniature| tiny.fixture.listing("deb/images/tiny/configured");
    let expected_listing = listing(&full);
    for line in ["l00777 33 42", "-04750 33 60", "d02750 5 60", "d02710 5 60", "-00000 33 8"] {
        assert!(
            expected_listing.iter().any(|found| words(found).starts_with(line)),
            "{line}: {expected_listing:#?}"
        );
    }
    let (without, no_new_privileges) = (Account::WithoutSubordinate, Account::NoNewPrivileges);
    let mut cases: Vec<(&str, Account, &[&str], &[&str])> = vec![
        ("asked for", Account::Subordinate, &["--tier", "single"], &[]),
        ("a container", Account::Subordinate, &[], &["unshare", "--user", "--map-root-user"]),
    ];
    if Account::Root.missing().is_none() {
        cases.extend([
            ("no range", without, &[][..], &[][..]),
            ("no_new_privs", no_new_privileges, &[], &[]),
            ("root", Account::Root, &[], &[]),
            ("root, one id", Account::Root, &["--tier", "single"], &[]),
        ]);
    }
    for (name, account, options, around) in cases {
        let (tiny, found, said) = build(account, options, around);
        assert_eq!(listing(&tiny), expected_listing, "{name}");
        assert_eq!(found, expected, "{name}");
        let degraded = said.contains("tier single, and not full");
        assert_eq!(degraded, options.is_empty() && account != Account::Root, "{name}: {said}");
        tiny.fixture.fsck();
        tiny.fixture.assert_nothing_left();
    }
}

/// A line of a listing without the spaces that align it.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_failed_run_keeps_its_owners() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let text = "
Package: troubled
script postinst
    ln -s nowhere /var/link
    chown -h 33:42 /var/link
    touch /var/file
    chown 5:60 /var/file
    exit 3
";
    let tiny = Miniature::new(Account::Subordinate, text, &["troubled"]);
    tiny.fixture.treestrap(&["build", "--tier", "single"]).exits(1);
    let look = [
        "run",
        "--tier",
        "single",
        "--failed",
        "tiny",
        "--",
        "stat",
        "-c",
        "%u:%g",
        "/var/link",
        "/var/file",
    ];
    for _ in 0..2 {
        assert_eq!(tiny.fixture.treestrap(&look).ok().stdout, "33:42\n5:60\n");
    }
}
