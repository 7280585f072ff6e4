//! Several images of a manifest: one version of what they share, and indexes that are read once for all.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::common::{
    account::Account,
    fixture::{Fixture, Miniature},
    package::Package,
    tier::{Tier, needs},
};

const PACKAGES: &str = r#"
Package: alpha
Depends: shared
file ./usr/share/alpha = alpha

Package: beta
Depends: shared
file ./usr/share/beta = beta

Package: shared
Version: 1
file ./usr/share/shared = 1
"#;

const NEWER: &str = "Package: shared\nVersion: 2\nfile ./usr/share/shared = 2\n";

const DIFFERS: &str = "is 1 in one, and 2 in two";

/// The version that an image's lock has of `shared`.
fn shared(fixture: &Fixture, image: &str) -> String {
    let lock = fixture.read(&format!("{image}.lock"));
    let stanza = lock.split("\n\n").find(|stanza| stanza.contains("Package: shared\n")).expect("it is in");
    let version = stanza.lines().find_map(|line| line.strip_prefix("Version: "));
    version.expect("a stanza has a version").to_owned()
}

/// The images `one` and `two`, of which the first is locked before the archive has version 2 of what they share.
/// The archive keeps version 1 if `keep`.
fn two_days(text: &str, keep: bool) -> Miniature {
    let mut tiny = Miniature::new(Account::Subordinate, text, &[]);
    tiny.images(&[("one", &["alpha"]), ("two", &["beta"])]);
    tiny.fixture.treestrap(&["lock", "one"]).ok();
    tiny.update(|archive| {
        if !keep {
            archive.suite().debs.retain(|deb| deb.field("Package") != "shared");
        }
        archive.add(Package::parse(NEWER).build());
    });
    tiny
}

#[test]
fn images_that_are_locked_on_different_days_agree() {
    needs!(Tier::As(Account::Subordinate));
    let tiny = two_days(PACKAGES, true);
    let fixture = &tiny.fixture;
    // As much as to say: without the other image it would be the newest.
    std::fs::rename(fixture.path("one.lock"), fixture.path("away")).expect("it is there");
    fixture.treestrap(&["lock", "two"]).ok();
    assert_eq!(shared(fixture, "two"), "2");
    std::fs::rename(fixture.path("away"), fixture.path("one.lock")).expect("it is there");
    std::fs::remove_file(fixture.path("two.lock")).expect("it is there");

    fixture.treestrap(&["lock"]).ok().does_not_say(&["several versions"]);
    assert_eq!((shared(fixture, "one"), shared(fixture, "two")), ("1".to_owned(), "1".to_owned()));
    fixture.treestrap(&["lock", "--check"]).ok();
    // One alone moves, and is told that it is alone; all move together.
    fixture.treestrap(&["lock", "--update", "two"]).ok().says(&[DIFFERS, "treestrap lock --update"]);
    fixture.treestrap(&["lock", "--update"]).ok().does_not_say(&["several versions"]);
    assert_eq!((shared(fixture, "one"), shared(fixture, "two")), ("2".to_owned(), "2".to_owned()));
    fixture.treestrap(&["lock", "--check"]).ok();
}

#[test]
fn images_that_differ_are_told_of_and_refused_where_that_is_asked_for() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = two_days(PACKAGES, false);
    let fixture = &tiny.fixture;
    let text = [&format!("shared (all) {DIFFERS}") as &str, "treestrap lock --update"];
    fixture.treestrap(&["lock"]).ok().says(&text);
    assert_eq!((shared(fixture, "one"), shared(fixture, "two")), ("1".to_owned(), "2".to_owned()));
    fixture.treestrap(&["lock", "--check"]).exits(1).says(&text);
    fixture.treestrap(&["lock", "--check", "one"]).exits(1).says(&text);
    let json = fixture.treestrap(&["--json", "lock", "--check"]).exits(1).stdout;
    let events: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = events.last().expect("an event");
    assert_eq!((&last["event"], &last["status"]), (&"error".into(), &1.into()), "{json}");
    assert_eq!(events.iter().filter(|event| event["event"] == "locked").count(), 2, "{json}");

    tiny.server.take_requests();
    for what in ["versions", "all"] {
        let refused = fixture.treestrap(&["build", "--require", what]).exits(1).says(&text);
        assert_eq!(refused.stdout, "", "nothing is built: {refused}");
    }
    assert!(tiny.server.take_requests().is_empty(), "nothing is fetched");
    assert!(!fixture.repo().exists(), "nothing is made");
    // What one image needs is there; it is built, and the difference told of.
    let built = fixture.treestrap(&["build", "two"]).ok().says(&text);
    assert!(built.stdout.starts_with("two "), "{built}");
    // It is a promise of `build` alone: others do not take it for something that they keep.
    fixture.treestrap(&["configure", "--require", "versions", "two"]).exits(3).says(&["build"]);
    fixture.treestrap(&["lock", "--update"]).ok();
    fixture.treestrap(&["lock", "--check"]).ok();
    let built = fixture.treestrap(&["build", "--require", "versions"]).ok();
    built.does_not_say(&["several versions"]);
    // What is built already needs no second time to be known to agree.
    let again = fixture.treestrap(&["build", "--require", "versions"]).ok();
    assert!(!again.stderr.contains("configure: "), "{again}");
}

#[test]
fn a_version_that_is_asked_for_may_differ() {
    needs!(Tier::As(Account::Subordinate));
    let tiny = two_days(PACKAGES, false);
    let fixture = &tiny.fixture;
    for packages in [&["beta", "shared=2"][..], &["beta", "shared/mini"]] {
        tiny.images(&[("one", &["alpha"]), ("two", packages)]);
        fixture.treestrap(&["lock"]).ok().does_not_say(&["several versions"]);
        assert_eq!((shared(fixture, "one"), shared(fixture, "two")), ("1".to_owned(), "2".to_owned()));
        fixture.treestrap(&["lock", "--check"]).ok();
    }
    // A pin of one image alone: the two are not compared.
    tiny.images(&[("one", &["alpha"]), ("two", &["beta"])]);
    fixture.treestrap(&["lock", "--check"]).exits(1);
    let pin = "\n[[images.two.pins]]\npackage = \"shared\"\npin = \"version 2\"\npriority = 990\n";
    fixture.write("treestrap.toml", &(fixture.read("treestrap.toml") + pin));
    fixture.treestrap(&["lock"]).ok().does_not_say(&["several versions"]);
    fixture.treestrap(&["lock", "--check"]).ok();
}

/// Where apt's way gives up, and a search finds an older version, the images that could do with the newest have that
/// older one, too.
#[test]
fn images_go_by_the_one_that_cannot_have_the_newest() {
    needs!(Tier::As(Account::Subordinate));
    let old = "\nPackage: old\nDepends: shared (<< 2)\nfile ./usr/share/old = old\n";
    let text = format!("{PACKAGES}{old}\n{NEWER}");
    let names = ["one", "two", "three"];
    for which in 0..names.len() {
        let tiny = Miniature::new(Account::Subordinate, &text, &[]);
        let packages = [0, 1, 2].map(|at| [if at == which { "old" } else { "alpha" }]);
        let images: Vec<(&str, &[&str])> =
            names.iter().zip(&packages).map(|(name, packages)| (*name, packages.as_slice())).collect();
        tiny.images(&images);
        for arguments in [&["lock"][..], &["lock", "--update"]] {
            tiny.fixture.treestrap(arguments).ok().does_not_say(&["several versions"]);
            assert_eq!(names.map(|name| shared(&tiny.fixture, name)), ["1", "1", "1"], "{which}");
        }
        tiny.fixture.treestrap(&["lock", "--check"]).ok();
        // What one alone would have.
        tiny.images(&[("one", &["alpha"])]);
        tiny.fixture.treestrap(&["lock", "--update"]).ok();
        assert_eq!(shared(&tiny.fixture, "one"), "2");
    }
}

/// The number of spans of each name in a timeline.
fn spans(fixture: &Fixture, name: &str) -> BTreeMap<String, usize> {
    let trace: serde_json::Value = serde_json::from_str(&fixture.read(name)).expect("JSON");
    let mut spans = BTreeMap::new();
    for event in trace["traceEvents"].as_array().expect("a list").iter().filter(|event| event["ph"] == "X") {
        *spans.entry(event["name"].as_str().expect("a name").to_owned()).or_default() += 1;
    }
    spans
}

#[test]
fn twenty_images_read_each_index_once() {
    needs!(Tier::As(Account::Subordinate));
    let mut text = PACKAGES.to_owned();
    let names: Vec<String> = (0..20).map(|number| format!("image-{number:02}")).collect();
    for name in &names {
        write!(text, "\nPackage: {name}\nDepends: shared\nfile ./usr/share/{name} = x\n").expect("memory");
    }
    let tiny = Miniature::new(Account::Subordinate, &text, &[]);
    let fixture = &tiny.fixture;
    let packages: Vec<[&str; 2]> = names.iter().map(|name| ["alpha", name.as_str()]).collect();
    let images: Vec<(&str, &[&str])> =
        names.iter().zip(&packages).map(|(name, packages)| (name.as_str(), packages.as_slice())).collect();
    tiny.images(&images);
    let asked = |part: &str| {
        let requests = tiny.server.take_requests();
        let of = |name: &str| requests.iter().filter(|request| request.path.contains(name)).count();
        (of("InRelease"), of("main/binary-"), part.to_owned())
    };
    let said = fixture.treestrap(&["lock", "--trace", "trace"]).ok();
    assert_eq!(asked("the first time"), (1, 1, "the first time".to_owned()));
    let found = spans(fixture, "trace");
    for (name, count) in [("release", 1), ("download index", 1), ("parse", 1), ("solve", 20), ("lock", 21)] {
        assert_eq!(found.get(name), Some(&count), "{name}: {found:?}");
    }
    // Whatever was done first, it is told in the manifest's order.
    for kind in [": lock: ", " written"] {
        let lines = said.stderr.lines().filter(|line| line.starts_with("image-") && line.contains(kind));
        let order: Vec<&str> = lines.filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
        assert_eq!(order, names, "{kind}: {said}");
    }
    let locks: Vec<String> = names.iter().map(|name| fixture.read(&format!("{name}.lock"))).collect();

    // The same once more, and one by one: each image comes to the same.
    fixture.treestrap(&["lock", "--update", "--trace", "trace"]).ok();
    assert_eq!(asked("cached"), (1, 0, "cached".to_owned()));
    assert_eq!(spans(fixture, "trace").get("read index"), Some(&1));
    for (name, lock) in names.iter().zip(&locks).take(3) {
        fixture.treestrap(&["lock", "--update", name]).ok();
        assert_eq!(fixture.read(&format!("{name}.lock")), *lock);
    }
    // `build` makes the locks that are missing in the same way.
    for name in &names {
        std::fs::remove_file(fixture.path(&format!("{name}.lock"))).expect("it is there");
    }
    tiny.server.take_requests();
    tiny.server.fault(".deb", crate::common::server::Fault::Status(404), usize::MAX);
    fixture.treestrap(&["build"]).exits(1).says(&["there was no lock: made"]);
    assert_eq!(asked("build").0, 1);
    assert!(names.iter().zip(&locks).all(|(name, lock)| fixture.read(&format!("{name}.lock")) == *lock));
}
