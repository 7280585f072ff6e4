//! What is made once is not made again, and what nobody needs goes.

use std::{fs, path::Path};

use crate::common::{
    account::Account,
    fixture::{Miniature, pause, wait},
    tier::{Tier, needs},
};

const PACKAGES: &str = r#"
Package: app
Version: 1
Depends: data
script postinst
    sleep 0.5
    echo configured-app

Package: data
Version: 1
file ./usr/share/data/big = a file of data

Package: other
Version: 1
file ./usr/share/other/only-other = what no other package has
"#;

/// Bytes in a folder's files.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| match entry.metadata().expect("it is there") {
            metadata if metadata.is_dir() => size(&entry.path()),
            metadata => metadata.len(),
        })
        .sum()
}

#[test]
fn images_of_the_same_packages_and_settings_are_configured_once() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, PACKAGES, &["app"]);
    tiny.images(&[("one", &["app"]), ("two", &["app"]), ("three", &["other"])]);
    let built = tiny.fixture.treestrap(&["build", "--trace", "trace.json"]).ok();
    let trace = tiny.fixture.read("trace.json");
    // With one processor one image is made at a time, and nobody waits.
    let several = std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
    let waits = trace.contains("both are of the same packages and settings");
    assert_eq!(waits, several, "who waits is told: {trace}");
    let checksum = |image: &str| tiny.fixture.rev(&format!("deb/images/{image}/configured")).expect("a ref");
    assert_eq!(checksum("one"), checksum("two"));
    let said = built.stderr.matches("nothing is run again").count();
    assert_eq!(said, 1, "two images at once, and one of them is made: {built}");

    // An earlier lock's result is found again, too: the image moves on and back.
    let (lock, before) = (tiny.fixture.read("one.lock"), checksum("one"));
    tiny.images(&[("one", &["app", "other"])]);
    tiny.fixture.treestrap(&["lock", "one"]).ok();
    tiny.fixture.treestrap(&["build", "one"]).ok();
    assert_ne!(checksum("one"), before);
    tiny.images(&[("one", &["app"])]);
    tiny.fixture.write("one.lock", &lock);
    tiny.fixture.treestrap(&["build", "one"]).ok().says(&["nothing is run again"]);
    assert_eq!(checksum("one"), before);
    tiny.fixture.fsck();
}

#[test]
fn prune_removes_what_no_image_needs_and_says_so_before() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, PACKAGES, &["app"]);
    tiny.images(&[("one", &["app"]), ("gone", &["other"])]);
    let built = tiny.fixture.treestrap(&["build"]).ok().stdout;
    tiny.fixture.treestrap(&["prune"]).ok().says(&["0 refs and 0 objects removed"]);

    tiny.images(&[("one", &["app"])]);
    fs::remove_file(tiny.fixture.path("gone.lock")).expect("a lock");
    // Images that the manifest has not may be another manifest's.
    assert_eq!(tiny.fixture.treestrap(&["prune"]).ok().stdout, "");
    assert!(tiny.fixture.rev("deb/images/gone/configured").is_some());

    let repo = tiny.fixture.path(".treestrap/repo");
    let before = (tiny.fixture.objects(), size(&repo.join("objects")));
    let planned = tiny.fixture.treestrap(&["prune", "--only-manifest", "--dry-run"]).ok();
    assert_eq!((tiny.fixture.objects(), size(&repo.join("objects"))), before, "a dry run removes nothing");
    let done = tiny.fixture.treestrap(&["prune", "--only-manifest"]).ok();
    assert_eq!(planned.stdout, done.stdout, "the same refs");
    for reference in ["- deb/images/gone/configured\n", "- deb/images/gone/unpacked\n", "- deb/pool/"] {
        assert!(done.stdout.contains(reference), "{done}");
    }
    let number =
        |text: &str| -> Vec<f64> { text.split([' ', '\n']).filter_map(|word| word.parse().ok()).collect() };
    assert_eq!(number(&planned.stderr), number(&done.stderr), "the same objects and bytes");
    assert!(size(&repo.join("objects")) < before.1);
    tiny.fixture.fsck();
    // What is left is whole: the image is there, and is made from what is there.
    assert!(built.starts_with(&tiny.fixture.treestrap(&["--offline", "build"]).ok().stdout));
    tiny.fixture.treestrap(&["--offline", "compose"]).ok();
    tiny.fixture.treestrap(&["run", "one", "--", "cat", "/usr/share/data/big"]).ok();
}

#[test]
fn prune_waits_for_nobody_and_takes_nothing_from_a_running_build() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let slow = PACKAGES.replace("echo configured-app", "sleep 3");
    let tiny = Miniature::new(Account::Subordinate, &slow, &["app"]);
    tiny.fixture.treestrap(&["fetch"]).exits(1); // there is no lock yet
    tiny.fixture.treestrap(&["lock"]).ok();
    tiny.fixture.treestrap(&["fetch"]).ok();
    let build = tiny.fixture.start(&["build"]);
    while tiny.fixture.rev("deb/images/tiny/unpacked").is_none() {
        pause();
    }
    tiny.fixture.treestrap(&["prune"]).exits(1).says(&["in use by another run"]);
    wait(build).ok();
    tiny.fixture.treestrap(&["prune"]).ok();
    tiny.fixture.fsck();
}
