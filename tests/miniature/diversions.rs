//! Paths that only a preinst's diversion lets two packages have, against dpkg itself: it installs the same
//! packages, with their scripts, one after the other, in both orders.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::{
    account::Account,
    base,
    fixture::{Miniature, finish},
    package::{Deb, Package},
    tier::{Tier, needs},
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

/// What the images have of the base: what is essential, and what that needs.
const ESSENTIAL: &[&str] = &[
    "base-files",
    "base-passwd",
    "coreutils",
    "dash",
    "diffutils",
    "dpkg",
    "grep",
    "libc-bin",
    "libc6",
    "sed",
    "tar",
];

/// A root in which dpkg has installed the base and then these debs, one by one; or what it says.
fn theirs(debs: &[Deb]) -> Result<tempfile::TempDir, String> {
    let root = tempfile::tempdir().expect("a temporary folder");
    let store = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir_all(root.path().join("var/lib/dpkg")).expect("a folder");
    fs::write(root.path().join("var/lib/dpkg/status"), "").expect("a file");
    let file = |deb: &Deb| {
        let path = store.path().join(deb.file_name());
        fs::write(&path, &deb.bytes).expect("a deb");
        path
    };
    let dpkg = |arguments: &[&str], debs: &[PathBuf]| {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", root.path().display()));
        command.args(["--force-unsafe-io", "--force-confold", "--log=/dev/null"]);
        command.args(arguments).args(debs).env("LC_ALL", "C.UTF-8");
        finish(command)
    };
    // In the order of stage 2: all of the base is unpacked before its scripts run.
    let needed = base::debs().iter().filter(|deb| ESSENTIAL.contains(&deb.field("Package")));
    let (first, last): (Vec<&Deb>, Vec<&Deb>) =
        needed.partition(|deb| !deb.field("Package").starts_with("base-"));
    for debs in [first, last] {
        let files: Vec<PathBuf> = debs.into_iter().map(file).collect();
        dpkg(&["--unpack", "--force-depends"], &files).ok();
    }
    dpkg(&["--configure", "-a"], &[]).ok();
    for deb in debs {
        let outcome = dpkg(&["--unpack"], &[file(deb)]);
        if !outcome.status.success() {
            return Err(outcome.stderr);
        }
    }
    dpkg(&["--configure", "-a"], &[]).ok();
    Ok(root)
}

/// Every path with type, mode, owner and content.
fn entries(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, folder: &Path, out: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            let content = match metadata.file_type() {
                kind if kind.is_symlink() => fs::read_link(&path).expect("a link").display().to_string(),
                kind if kind.is_dir() => String::new(),
                _ => String::from_utf8_lossy(&fs::read(&path).expect("a file")).into_owned(),
            };
            let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.permissions().mode());
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            out.insert(name, format!("{mode:o} {uid}:{gid} {content}"));
            if metadata.is_dir() {
                walk(root, &path, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut out);
    // Of a run of dpkg or of ldconfig, and not of the system.
    let volatile = [
        "dev/null",
        "var/lib/dpkg/status-old",
        "var/lib/dpkg/diversions-old",
        "var/cache/ldconfig",
        "var/log/dpkg.log",
    ];
    out.retain(|path, _| !volatile.iter().any(|start| path.starts_with(start)));
    out
}

/// The image as root has it in a folder.
fn ours(tiny: &Miniature) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    let words = ["export", "tiny", "--dir", out.to_str().expect("UTF-8")];
    tiny.fixture.treestrap(&words).ok();
    folder
}

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

fn compare(name: &str, dpkg: &BTreeMap<String, String>, other: &BTreeMap<String, String>) {
    let paths = dpkg.keys().chain(other.keys().filter(|path| !dpkg.contains_key(*path)));
    let differences: Vec<String> = paths
        .filter(|path| dpkg.get(*path) != other.get(*path))
        .map(|path| {
            let shown = |entries: &BTreeMap<String, String>| {
                entries.get(path).map(|line| line.chars().take(2000).collect::<String>())
            };
            format!("{path}: dpkg {:?}, other {:?}", shown(dpkg), shown(other))
        })
        .collect();
    assert!(differences.is_empty(), "{name}:\n{}", differences.join("\n"));
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
