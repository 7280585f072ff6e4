//! Stage 1: conflicts decided as dpkg does, and the database that `dpkg --unpack` leaves.
//!
//! The comparison with dpkg's own unpacking, entry by entry, is in `tests/unpack_oracle.rs`.

use crate::common::{
    account::Account,
    archive::Archive,
    fixture::Miniature,
    tier::{Tier, needs},
};

/// An archive without the base, and the image `tiny` without essential packages.
fn composed(text: &str, packages: &[&str]) -> Miniature {
    let tiny = Miniature::of(Account::Subordinate, Archive::without_base(text), packages);
    let manifest = tiny.fixture.read("treestrap.toml").replace("arch =", "essential = false\narch =");
    tiny.fixture.write("treestrap.toml", &manifest);
    tiny.fixture.treestrap(&["lock"]).ok();
    tiny.fixture.treestrap(&["fetch"]).ok();
    tiny
}

const CONFLICT: &str = r#"
Package: first
file ./usr/bin/tool = first
file ./usr/share/first = first

Package: second
file ./usr/bin/tool = second
"#;

#[test]
fn a_file_of_two_packages_is_an_error_that_names_both() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree);
    let tiny = composed(CONFLICT, &["first", "second"]);
    tiny.fixture.treestrap(&["compose"]).exits(1).says(&["first", "second", "usr/bin/tool"]);
    assert_eq!(tiny.fixture.rev("deb/images/tiny/unpacked"), None);
    // a folder here and a file there
    let text = "Package: first\nfolder ./usr/share/thing\nfile ./usr/share/thing/x = x\n\n\
                Package: second\nfile ./usr/share/thing = file\n";
    let tiny = composed(text, &["first", "second"]);
    tiny.fixture.treestrap(&["compose"]).exits(1).says(&["second", "usr/share/thing"]);
}

#[test]
fn replaces_decides_whose_file_it_is() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree);
    for (field, wins) in
        [("Replaces: first", true), ("Replaces: first (<< 2)", true), ("Replaces: first (<< 1)", false)]
    {
        let text = CONFLICT.replace("Package: second", &format!("Package: second\n{field}"));
        let tiny = composed(&text, &["first", "second"]);
        let outcome = tiny.fixture.treestrap(&["compose"]);
        assert_eq!(outcome.status.success(), wins, "{field}: {outcome}");
        if wins {
            let cat = |path: &str| {
                let repo = tiny.fixture.repo();
                let repo = repo.to_str().expect("UTF-8");
                crate::common::fixture::ostree(&["cat", "--repo", repo, "deb/images/tiny/unpacked", path])
                    .ok()
                    .stdout
            };
            assert_eq!(cat("/usr/bin/tool"), "second\n", "{field}");
            let list = cat("/var/lib/dpkg/info/first.list");
            assert!(!list.contains("/usr/bin/tool"), "the file is no longer first's: {list}");
            assert!(list.contains("/usr/share/first"), "{list}");
            assert!(cat("/var/lib/dpkg/info/second.list").contains("/usr/bin/tool"));
        }
    }
}

#[test]
fn an_identical_folder_is_shared_and_an_unsolvable_request_explained() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree);
    let text = "Package: first\nfile ./usr/share/doc/first/copyright = free\n\n\
                Package: second\nfile ./usr/share/doc/second/copyright = free\n\n\
                Package: broken\nDepends: missing (>= 3)\n\nPackage: top\nDepends: broken\n";
    let tiny = composed(text, &["first", "second"]);
    tiny.fixture.treestrap(&["compose"]).ok();
    let listing = tiny.fixture.listing("deb/images/tiny/unpacked");
    for name in ["first", "second"] {
        assert!(
            listing.iter().any(|line| line.ends_with(&format!("/usr/share/doc/{name}/copyright"))),
            "{listing:#?}"
        );
    }
    tiny.images(&[("tiny", &["top"])]);
    // a chain that a person can follow: what was asked, through what, to what is not there
    tiny.fixture.treestrap(&["lock", "--update"]).exits(1).says(&["top", "broken", "missing (>= 3)"]);
    tiny.images(&[("tiny", &["no-such-package"])]);
    tiny.fixture.treestrap(&["lock", "--update"]).exits(1).says(&["no-such-package"]);
}

#[test]
fn composing_twice_gives_the_same_commit() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree);
    let text = "Package: first\nfile ./usr/bin/first 4755 0:42 = first\nconffile ./etc/first = x\nlink ./usr/bin/hard -> ./usr/bin/first\n";
    let one = composed(text, &["first"]);
    let two = composed(text, &["first"]);
    for tiny in [&one, &two] {
        tiny.fixture.treestrap(&["compose"]).ok();
        tiny.fixture.fsck();
    }
    assert_eq!(one.fixture.rev("deb/images/tiny/unpacked"), two.fixture.rev("deb/images/tiny/unpacked"));
    let listing = one.fixture.listing("deb/images/tiny/unpacked");
    let entry = |path: &str| {
        let line = listing.iter().find(|line| line.ends_with(path));
        line.unwrap_or_else(|| panic!("no {path} in {listing:#?}"))
            .split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
    };
    assert_eq!(entry(" /usr/bin/first"), ["-04755", "0", "42"]);
    assert_eq!(entry(" /usr/bin/hard"), ["-04755", "0", "42"]);
}
