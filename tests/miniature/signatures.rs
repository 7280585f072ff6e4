//! Archives whose signatures, dates or indexes are not right: exit status 1, a message that names
//! the repository and the file, and no lock.

use std::time::{Duration, SystemTime};

use crate::common::{
    account::Account,
    archive::{Archive, Files, Signed},
    fixture::Miniature,
    key::Key,
    package::{Compression, Package},
    tier::{Tier, needs},
};

const HELLO: &str = "Package: hello\nfile ./usr/share/hello = hello\n";

const DAY: Duration = Duration::from_secs(86400);

/// Replaces the content of all files whose path contains `part`; at least one must change.
fn change(files: &mut Files, part: &str, change: impl Fn(&[u8]) -> Vec<u8>) {
    let mut changed = 0;
    for (_, content) in files.iter_mut().filter(|(path, _)| path.contains(part)) {
        let other = change(content);
        changed += usize::from(other != **content);
        *content = other.into();
    }
    assert!(changed > 0, "nothing changed in {part}");
}

/// The same texts with some words replaced by others.
fn replace(files: &mut Files, part: &str, from: &str, to: &str) {
    change(files, part, |content| String::from_utf8_lossy(content).replace(from, to).into_bytes());
}

/// A mistake: what is done to the archive and to its files, and what the message names.
struct Case {
    name: &'static str,
    archive: fn(&mut Archive),
    files: fn(&mut Files),
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "signed by another key",
        archive: |archive| archive.key = Key::new("Somebody else <else@mirror.example>"),
        files: |_| {},
        says: &["InRelease"],
    },
    Case {
        name: "signed by another key, detached",
        archive: |archive| {
            archive.key = Key::new("Somebody else <else@mirror.example>");
            archive.suite().signed = Signed::Detached;
        },
        files: |_| {},
        says: &["Release"],
    },
    Case {
        name: "expired",
        archive: |archive| {
            archive.suite().date = SystemTime::now() - 9 * DAY;
            archive.suite().valid_until = Some(SystemTime::now() - 2 * DAY);
        },
        files: |_| {},
        says: &["Release", "expired"],
    },
    Case {
        name: "unsigned",
        archive: |archive| archive.suite().signed = Signed::Not,
        files: |_| {},
        says: &["Release"],
    },
    Case {
        name: "a word changed after signing",
        archive: |_| {},
        files: |files| replace(files, "InRelease", "Label: Miniature", "Label: miniature"),
        says: &["InRelease"],
    },
    Case {
        name: "text before the signed text",
        archive: |_| {},
        files: |files| change(files, "InRelease", |content| [b"Origin: Evil\n\n", content].concat()),
        says: &["InRelease"],
    },
    Case {
        name: "no closing of the signature",
        archive: |archive| archive.suite().signed = Signed::Inline,
        files: |files| change(files, "InRelease", |content| content[..content.len() - 60].to_vec()),
        says: &["InRelease"],
    },
    Case {
        name: "the signature of another text",
        archive: |archive| archive.suite().signed = Signed::Detached,
        files: |files| replace(files, "mini/Release", "Label: Miniature", "Label: miniature"),
        says: &["Release"],
    },
    Case {
        name: "a truncated index",
        archive: |_| {},
        files: |files| change(files, "main/binary-", |content| content[..content.len() / 2].to_vec()),
        says: &["Packages"],
    },
    Case {
        name: "an index with other content",
        archive: |_| {},
        files: |files| {
            change(files, "main/binary-", |content| content.iter().map(|byte| byte ^ 1).collect());
        },
        says: &["Packages"],
    },
    Case {
        name: "no index where the Release file names one",
        archive: |_| {},
        files: |files| files.retain(|path, _| !path.contains("main/binary-")),
        says: &["Packages"],
    },
    Case {
        name: "an index that the Release file does not name",
        archive: |archive| archive.suite().indexes.clear(),
        files: |_| {},
        says: &["main"],
    },
];

#[test]
fn what_is_not_signed_and_current_is_refused_by_name() {
    needs!(Tier::As(Account::Subordinate));
    for case in CASES {
        let mut archive = Archive::without_base(HELLO);
        let trusted =
            Archive { key: archive.key, suites: Vec::new(), architecture: archive.architecture.clone() };
        archive.key = trusted.key;
        let tiny = Miniature::of(Account::Subordinate, archive, &["hello"]);
        let mut archive = tiny.archive;
        (case.archive)(&mut archive);
        let mut files = archive.publish();
        (case.files)(&mut files);
        tiny.server.publish(files);
        let outcome = tiny.fixture.treestrap(&["lock"]);
        assert_eq!(outcome.status.code(), Some(1), "{}: {outcome}", case.name);
        // the repository by its name, and the file
        for text in case.says.iter().chain(&["mini"]) {
            assert!(outcome.stderr.contains(text), "{}: {text:?} expected on stderr: {outcome}", case.name);
        }
        assert!(!tiny.fixture.path("tiny.lock").exists(), "{}: a lock was written", case.name);
    }
}

/// One way to change a sound archive.
type Change = fn(&mut Archive);

#[test]
fn every_sound_form_of_an_archive_is_accepted() {
    needs!(Tier::As(Account::Subordinate));
    let changes: &[(&str, Change)] = &[
        ("InRelease alone", |archive| archive.suite().signed = Signed::Inline),
        ("Release.gpg alone", |archive| archive.suite().signed = Signed::Detached),
        ("no Valid-Until", |archive| archive.suite().valid_until = None),
        ("no by-hash", |archive| archive.suite().by_hash = false),
        ("only xz", |archive| archive.suite().indexes = vec![Compression::Xz]),
        ("only gz", |archive| archive.suite().indexes = vec![Compression::Gzip]),
        ("only zst", |archive| archive.suite().indexes = vec![Compression::Zstd]),
        ("uncompressed", |archive| archive.suite().indexes = vec![Compression::None]),
    ];
    let mut locks = Vec::new();
    for (name, change) in changes {
        let mut archive = Archive::without_base(HELLO);
        change(&mut archive);
        let tiny = Miniature::of(Account::Subordinate, archive, &["hello"]);
        let outcome = tiny.fixture.treestrap(&["lock"]);
        assert!(outcome.status.success(), "{name}: {outcome}");
        locks.push(tiny.fixture.read("tiny.lock"));
    }
    assert!(locks[0].contains("Package: hello\n"), "{}", locks[0]);
    assert!(
        locks.iter().all(|lock| *lock == locks[0]),
        "the form of an archive does not show in a lock: {locks:#?}"
    );
}

#[test]
fn an_expired_archive_can_be_allowed() {
    needs!(Tier::As(Account::Subordinate));
    let mut archive = Archive::without_base(HELLO);
    archive.suite().date = SystemTime::now() - 9 * DAY;
    archive.suite().valid_until = Some(SystemTime::now() - 2 * DAY);
    let tiny = Miniature::of(Account::Subordinate, archive, &["hello"]);
    tiny.fixture.treestrap(&["lock"]).exits(1).says(&["check-valid-until"]);
    let manifest = tiny.fixture.read("treestrap.toml");
    let manifest = manifest.replacen("\nsuites", "\ncheck-valid-until = false\nsuites", 1);
    tiny.fixture.write("treestrap.toml", &manifest);
    tiny.fixture.treestrap(&["lock"]).ok();
}

#[test]
fn an_older_archive_than_the_one_seen_before_is_refused() {
    needs!(Tier::As(Account::Subordinate));
    let mut tiny = Miniature::of(Account::Subordinate, Archive::without_base(HELLO), &["hello"]);
    let old = tiny.archive.publish();
    tiny.update(|archive| {
        archive.add(Package::parse("Package: hello\nVersion: 1.1\n").build());
    });
    tiny.fixture.treestrap(&["lock"]).ok();
    let lock = tiny.fixture.read("tiny.lock");
    assert!(lock.contains("Version: 1.1\n"), "{lock}");
    tiny.server.publish(old);
    tiny.fixture.treestrap(&["lock", "--update"]).exits(1).says(&["mini", "Release", "older"]);
    assert_eq!(tiny.fixture.read("tiny.lock"), lock);
}

#[test]
fn a_repository_without_a_trusted_key_is_an_error() {
    needs!(Tier::As(Account::Subordinate));
    let tiny = Miniature::of(Account::Subordinate, Archive::without_base(HELLO), &["hello"]);
    let manifest = tiny.fixture.read("treestrap.toml");
    let without: String =
        manifest.lines().filter(|line| !line.starts_with("signed-by")).collect::<Vec<_>>().join("\n");
    tiny.fixture.write("treestrap.toml", &without);
    // the host's archive keyring is asked instead, and does not know this archive's key
    tiny.fixture.treestrap(&["lock"]).exits(1).says(&["mini"]);
    tiny.fixture.write("treestrap.toml", &manifest.replace("archive.asc", "no-such.asc"));
    tiny.fixture.treestrap(&["lock"]).exits(1).says(&["no-such.asc"]);
}
