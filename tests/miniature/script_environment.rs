//! What a maintainer script finds, and which scripts run with what: arguments, variables, triggers,
//! Pre-Depends, circles of dependencies, against dpkg itself.

use std::collections::BTreeMap;

use crate::{
    common::{
        account::Account,
        fixture::Miniature,
        package::{Deb, Package},
        tier::{Tier, needs},
    },
    dpkg::{compare, entries, installed, ours, theirs},
};

const WITNESS: &str = r#"
Package: witness
Version: 2:1.0~rc1-3
script preinst
    {
        echo "arguments: $# $*"
        echo "folder: $(pwd -P)"
        echo "umask: $(umask)"
        env
    } >/var/lib/witness.preinst
script postinst
    {
        echo "arguments: $# $*"
        echo "folder: $(pwd -P)"
        echo "umask: $(umask)"
        env
    } >/var/lib/witness.postinst
"#;

/// Variables that need not be the same, and why.
const OTHERS: &[(&str, &str)] = &[
    ("PATH", "the caller's with dpkg, fixed here"),
    ("HOME", "the caller's with dpkg, fixed here"),
    ("TERM", "the caller's with dpkg, fixed here"),
    ("LC_ALL", "the caller's with dpkg, fixed here"),
    ("_", "the shell's"),
    ("PWD", "the shell's"),
    ("OLDPWD", "the shell's"),
    ("SHLVL", "the shell's"),
    ("DEBIAN_FRONTEND", "nobody answers"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "nobody answers"),
    ("DEBCONF_PACKAGE", "of a preinst debconf guesses it from dpkg's temporary folder"),
    ("SYSTEMD_OFFLINE", "no service manager runs"),
    ("PYTHONHASHSEED", "reproducible output"),
    ("PERL_HASH_SEED", "reproducible output"),
    ("PERL_PERTURB_KEYS", "reproducible output"),
    ("FORCE_SOURCE_DATE", "reproducible output"),
    ("SOURCE_DATE_EPOCH", "reproducible output"),
    ("DPKG_FORCE", "the options that dpkg was started with; only dpkg's own tools ask"),
];

fn lines(found: &BTreeMap<String, String>, script: &str) -> Vec<String> {
    let path = format!("var/lib/witness.{script}");
    let text = found.get(&path).unwrap_or_else(|| panic!("no {path}"));
    let (_, text) = text.split_once("arguments: ").expect("the first line");
    let is_compared = |line: &&str| {
        let name = line.split('=').next().unwrap_or_default();
        !OTHERS.iter().any(|(other, _)| *other == name)
    };
    let mut lines: Vec<String> = text.lines().filter(is_compared).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn scripts_find_what_dpkg_gives_them() {
    needs!(Tier::As(Account::Root), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let debs: Vec<Deb> = Package::parse_all(WITNESS).iter().map(Package::build).collect();
    let expected = entries(theirs(&debs).expect("dpkg installs it").path());
    let tiny = Miniature::new(Account::Root, WITNESS, &["witness"]);
    tiny.fixture.treestrap(&["build"]).ok();
    let found = entries(&ours(&tiny).path().join("out"));
    for script in ["preinst", "postinst"] {
        let (mut expected, found) = (lines(&expected, script), lines(&found, script));
        if script == "preinst" {
            // The version of the image's package dpkg, which is no real one here.
            expected.retain(|line| !line.starts_with("DPKG_RUNNING_VERSION="));
            expected.push("DPKG_RUNNING_VERSION=1.0".to_owned());
            expected.sort();
        }
        let name = format!("DPKG_MAINTSCRIPT_NAME={script}");
        assert!(expected.contains(&name), "{expected:#?}");
        assert_eq!(found, expected, "{script}");
    }
}

/// Groups of packages that dpkg can install one after the other. Every script notes its call.
const GROUPS: &[&str] = &[
    "
Package: keeper
script postinst
    echo \"keeper postinst $1\" >>/var/lib/calls
control triggers
    interest regenerate
    interest-noawait /usr/share/things
    interest-noawait later.8+x
",
    "
Package: filer
file ./usr/share/things/one = one
control triggers
    activate-await regenerate
",
    "
Package: provider
Provides: virtual (= 2)
script postinst
    echo \"provider postinst $1\" >>/var/lib/calls
",
    "
Package: needer
Pre-Depends: missing | virtual (>= 1.5), filer
Depends: keeper
script preinst
    grep -q \"^provider postinst configure\" /var/lib/calls
    [ \"$(dpkg-query -W -f '${db:Status-Status}' filer)\" != unpacked ]
    echo \"needer preinst $1\" >>/var/lib/calls
    dpkg-trigger regenerate
    dpkg-trigger --no-await later.8+x
script postinst
    echo \"needer postinst $1\" >>/var/lib/calls
    dpkg-trigger --await regenerate
",
    "
Package: circle-one
Depends: circle-two
script postinst
    [ \"$(dpkg-query -W -f '${db:Status-Status}' circle-two)\" = installed ]
    echo \"circle-one postinst $1\" >>/var/lib/calls

Package: circle-two
Depends: circle-three

Package: circle-three
Depends: circle-one
script preinst
    echo \"circle-three preinst $1\" >>/var/lib/calls
script postinst
    [ \"$(dpkg-query -W -f '${db:Status-Status}' circle-one)\" = installed ]
    echo \"circle-three postinst $1\" >>/var/lib/calls
",
];

#[test]
fn triggers_pre_depends_and_circles_come_out_as_with_dpkg() {
    needs!(Tier::As(Account::Root), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let build = |text: &&str| -> Vec<Deb> { Package::parse_all(text).iter().map(Package::build).collect() };
    let groups: Vec<Vec<Deb>> = GROUPS.iter().map(build).collect();
    let slices: Vec<&[Deb]> = groups.iter().map(Vec::as_slice).collect();
    let mut expected = entries(installed(&slices, "--install").expect("dpkg installs them").path());
    let packages: Vec<&str> = groups.iter().flatten().map(|deb| deb.field("Package")).collect();
    let tiny = Miniature::new(Account::Root, &GROUPS.concat(), &packages);
    tiny.fixture.treestrap(&["build"]).ok();
    let mut found = entries(&ours(&tiny).path().join("out"));
    // Where dpkg is called once, triggers are processed once; what was called is the same.
    let calls = |entries: &mut BTreeMap<String, String>| {
        let text = entries.remove("var/lib/calls").expect("the calls");
        let (_, text) = text.split_once(" 0:0 ").expect("root's file");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.dedup();
        lines
    };
    assert_eq!(calls(&mut found), calls(&mut expected));
    compare("triggers", &expected, &found);
}
