//! Paths that only a preinst's diversion lets two packages have, against dpkg itself: it installs the same
//! packages, with their scripts, one after the other, in both orders.

use crate::{
    common::{
        account::Account,
        fixture::Miniature,
        package::{Deb, Package},
        tier::{Tier, needs},
    },
    dpkg::{compare, entries, ours, theirs},
};

/// Two packages that want the same things, and how the second one's preinst lets them.
struct Case {
    name: &'static str,
    text: &'static str,
    /// Whether it comes out the same whichever package dpkg takes first.
    any_order: bool,
}

/// dpkg may take the first package first.
const CASES: &[Case] = &[
    Case {
        name: "files, links and a name without a rival",
        any_order: true,
        text: "
Package: system
file ./usr/sbin/halt 4755 0:8 = system
file ./usr/sbin/reboot = system
link ./usr/sbin/reboot2 -> ./usr/sbin/reboot
symlink ./usr/sbin/poweroff -> halt

Package: guard
folder ./usr/lib/guard
file ./usr/lib/guard/ask 755 = ask
file ./usr/sbin/halt 2755 0:42 = guard
symlink ./usr/sbin/reboot -> ../lib/guard/ask
file ./usr/sbin/poweroff 755 = guard
link ./usr/sbin/coldreboot -> ./usr/sbin/poweroff
script preinst
    if [ \"$1\" = install ]; then
        for name in halt reboot poweroff coldreboot; do
            dpkg-divert --package guard --divert \"/usr/sbin/$name.real\" --rename --add \"/usr/sbin/$name\"
        done
    fi
script postinst
    grep -q guard /usr/sbin/halt
    [ -e /usr/sbin/coldreboot ]
",
    },
    Case {
        name: "the preinst looks whose file it is, moves it itself, and names no package",
        any_order: true,
        text: "
Package: system
file ./usr/sbin/halt = system

Package: guard
file ./usr/sbin/halt = guard
file ./usr/sbin/coldreboot = guard
script preinst
    for name in halt coldreboot; do
        if dpkg-query -S \"/usr/sbin/$name\" >/dev/null 2>&1; then
            mv \"/usr/sbin/$name\" \"/usr/sbin/$name.no-guard\"
        fi
        dpkg-divert --add --no-rename --divert \"/usr/sbin/$name.no-guard\" \"/usr/sbin/$name\"
    done
",
    },
    // If the first were unpacked, but not configured, dpkg would lose the second one's file.
    Case {
        name: "a configuration file",
        any_order: false,
        text: "
Package: guard
conffile ./etc/x.conf = guard
script preinst
    dpkg-divert --package guard --divert /etc/x.conf.system --rename --add /etc/x.conf

Package: system
conffile ./etc/x.conf 640 0:8 = system
",
    },
    Case {
        name: "a configuration file that the other has not",
        any_order: false,
        text: "
Package: guard
file ./etc/x.conf.guard = guard
script preinst
    dpkg-divert --package guard --divert /etc/x.conf.system --rename --add /etc/x.conf
script postinst
    ln -s x.conf.guard /etc/x.conf

Package: system
conffile ./etc/x.conf 640 0:8 = system
",
    },
    Case {
        name: "a file is left where it is, and overwritten",
        any_order: false,
        text: "
Package: system
file ./usr/bin/x = system

Package: guard
file ./usr/bin/x = guard
script preinst
    dpkg-divert --package guard --divert /usr/bin/x.system --no-rename --add /usr/bin/x
",
    },
    Case {
        name: "both talk of diversions, one makes it",
        any_order: true,
        text: "
Package: a-guard
file ./usr/bin/x = guard
script preinst
    dpkg-divert --package a-guard --divert /usr/bin/x.b --rename --add /usr/bin/x

Package: b-system
file ./usr/bin/x = system
script preinst
    if [ \"$1\" = upgrade ]; then
        dpkg-divert --package b-system --remove /usr/bin/x
    fi
",
    },
    Case {
        name: "both talk of diversions, the other makes it",
        any_order: true,
        text: "
Package: b-guard
file ./usr/bin/x = guard
script preinst
    dpkg-divert --package b-guard --divert /usr/bin/x.b --rename --add /usr/bin/x

Package: a-system
file ./usr/bin/x = system
script preinst
    if [ \"$1\" = upgrade ]; then
        dpkg-divert --package a-system --remove /usr/bin/x
    fi
",
    },
    Case {
        name: "nobody else is there",
        any_order: true,
        text: "
Package: guard
file ./usr/sbin/halt = guard
script preinst
    dpkg-divert --package guard --divert /usr/sbin/halt.real --rename --add /usr/sbin/halt
    # an alias of the same folder
    dpkg-divert --package guard --divert /sbin/halt.alias --rename --add /sbin/halt
",
    },
    Case {
        name: "an essential package's shell",
        any_order: false,
        text: "
Package: shell
file ./usr/bin/dash.sh = other
file ./usr/bin/tar 755
    #!/bin/sh
    exec /usr/bin/tar.real \"$@\"
script preinst
    dpkg-divert --package shell --divert /usr/bin/tar.real --rename --add /usr/bin/tar
",
    },
];

/// What both refuse.
const REFUSED: &[(&str, &str, &[&str])] = &[
    (
        "a condition is not met",
        "
Package: system
file ./usr/bin/x = system

Package: guard
file ./usr/bin/x = guard
script preinst
    if [ -e /etc/never ]; then
        dpkg-divert --package guard --divert /usr/bin/x.system --rename --add /usr/bin/x
    fi
",
        &["guard", "system", "/usr/bin/x"],
    ),
    (
        "two divert one path",
        "
Package: system
file ./usr/bin/x = system

Package: guard
file ./usr/bin/x = guard
script preinst
    dpkg-divert --package guard --divert /usr/bin/x.system --rename --add /usr/bin/x

Package: warden
file ./usr/bin/x = warden
script preinst
    dpkg-divert --package warden --divert /usr/bin/x.warden --rename --add /usr/bin/x
",
        &["warden", "pre-installation script", "clashes with", "/usr/bin/x"],
    ),
    (
        "a third package has the path",
        "
Package: system
file ./usr/bin/x = system

Package: third
file ./usr/bin/x = third

Package: guard
file ./usr/bin/x = guard
script preinst
    dpkg-divert --package guard --divert /usr/bin/x.system --rename --add /usr/bin/x
",
        &["third", "system", "/usr/bin/x", "neither replaces"],
    ),
    (
        "it is diverted for somebody else",
        "
Package: system
file ./usr/bin/x = system

Package: guard
file ./usr/bin/x = guard
script preinst
    dpkg-divert --local --divert /usr/bin/x.system --rename --add /usr/bin/x
",
        &["guard", "system", "/usr/bin/x"],
    ),
];

#[test]
fn diverted_files_end_up_where_dpkg_puts_them() {
    needs!(Tier::As(Account::Root), Tier::Ostree, Tier::Userns, Tier::Overlay);
    for (index, Case { name, text, any_order }) in CASES.iter().enumerate() {
        let mut debs: Vec<Deb> = Package::parse_all(text).iter().map(Package::build).collect();
        let packages: Vec<String> = debs.iter().map(|deb| deb.field("Package").to_owned()).collect();
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        let mut expected = theirs(&debs).unwrap_or_else(|said| panic!("{name}: {said}"));
        if *any_order {
            let first = entries(expected.path());
            debs.reverse();
            expected = theirs(&debs).unwrap_or_else(|said| panic!("{name}: {said}"));
            compare(&format!("{name}: dpkg in the other order"), &first, &entries(expected.path()));
        }
        let expected = entries(expected.path());
        let mut commits = Vec::new();
        let others = [&[][..], &["--tier", "single"], &["--view", "checkout"], &["--view", "fuse-cow"]];
        // The first case has all that a view could show differently.
        for options in &others[..if index == 0 { 4 } else { 1 }] {
            let tiny = Miniature::new(Account::Root, text, &packages);
            let words = [&["build", "tiny"], *options].concat();
            commits.push(tiny.fixture.treestrap(&words).ok().stdout);
            if options.is_empty() {
                let folder = ours(&tiny);
                compare(name, &expected, &entries(&folder.path().join("out")));
                tiny.fixture.fsck();
            }
        }
        commits.dedup();
        assert_eq!(commits.len(), 1, "{name}: one commit in every tier and view");
    }
}

#[test]
fn what_no_diversion_solves_is_refused_as_by_dpkg() {
    needs!(Tier::As(Account::Root), Tier::Ostree, Tier::Userns, Tier::Overlay);
    for (name, text, words) in REFUSED {
        let debs: Vec<Deb> = Package::parse_all(text).iter().map(Package::build).collect();
        let Err(said) = theirs(&debs) else { panic!("{name}: dpkg takes it") };
        assert!(said.contains("/usr/bin/x"), "{name}: {said}");
        let packages: Vec<&str> = debs.iter().map(|deb| deb.field("Package")).collect();
        let tiny = Miniature::new(Account::Root, text, &packages);
        tiny.fixture.treestrap(&["build"]).exits(1).says(words);
        assert_eq!(tiny.fixture.rev("deb/images/tiny/configured"), None, "{name}");
    }
}
