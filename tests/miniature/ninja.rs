//! `treestrap ninja`, with ninja itself as the oracle: which edges run after which change.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::common::{
    account::Account,
    archive::Archive,
    fixture::{Fixture, Miniature, Outcome},
    server::Server,
    tier::{Tier, needs},
};

const PACKAGES: &str = r#"
Package: greeter
Version: 1.0
Depends: greetings, debconf
file ./usr/bin/greet = #!/bin/sh

Package: debconf
file ./usr/bin/debconf-set-selections
    #!/bin/sh
    cat >/var/lib/answers

Package: greetings
Version: 1.0
file ./usr/share/greetings/hello = hello, world

Package: farewells
Version: 2.0
file ./usr/share/farewells/bye = bye
"#;

/// What ninja ran, sorted (edges of two images run side by side), and its output.
fn ninja(fixture: &Fixture, arguments: &[&str]) -> (Vec<String>, Outcome) {
    let words = [&["NINJA_STATUS=edge: ", "ninja", "-j2"], arguments].concat();
    let outcome = fixture.run("env", &words).ok();
    let edges = outcome.stdout.lines().filter_map(|line| line.strip_prefix("edge: "));
    let mut edges: Vec<String> = edges.map(str::to_owned).collect();
    edges.sort();
    (edges, outcome)
}

/// Asserts that ninja runs these edges, and that nothing is left to do after that.
#[track_caller]
fn runs(fixture: &Fixture, after: &str, expected: &[&str]) {
    let (edges, outcome) = ninja(fixture, &["-d", "explain"]);
    assert_eq!(edges, expected, "after {after}: {outcome}");
    let (edges, outcome) = ninja(fixture, &["-d", "explain"]);
    assert!(edges.is_empty() && outcome.stdout.contains("no work to do"), "after {after}, again: {outcome}");
}

/// Sets a file's times to now, as `touch` and editors do.
fn touch(fixture: &Fixture, name: &str) {
    // ninja sees changes of times alone; a tick of the file system's clock must have passed.
    crate::common::fixture::pause();
    fixture.run("touch", &[name]).ok();
}

fn replace(fixture: &Fixture, name: &str, from: &str, to: &str) {
    let text = fixture.read(name);
    assert!(text.contains(from), "{from:?} is not in {name}: {text}");
    crate::common::fixture::pause();
    fixture.write(name, &text.replacen(from, to, 1));
}

/// The time of change and the inode of an image's ref: another where it was written again.
fn written(fixture: &Fixture, image: &str, stage: &str) -> (i64, i64, u64) {
    let path = fixture.repo().join(format!("refs/heads/deb/images/{image}/{stage}"));
    let metadata = fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (metadata.mtime(), metadata.mtime_nsec(), metadata.ino())
}

#[test]
fn what_runs_is_what_changed() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay, Tier::Ninja);
    let mut tiny = Miniature::new(Account::Subordinate, PACKAGES, &["greeter"]);
    tiny.images(&[("tiny", &["greeter"]), ("other", &["farewells"])]);
    let fixture = &tiny.fixture;
    fixture.treestrap(&["ninja"]).ok().says(&["build.ninja written"]);
    let stages =
        |image: &str| ["compose", "configure", "fetch", "lock"].map(|stage| format!("{stage} {image}"));
    let mut all: Vec<String> = ["tiny", "other"].iter().flat_map(|image| stages(image)).collect();
    all.sort();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    runs(fixture, "nothing was there", &all);
    fixture.fsck();
    let both = |stage| (written(fixture, "tiny", stage), written(fixture, "other", stage));
    let before = (both("unpacked"), both("configured"));
    let built = fixture.rev("deb/images/tiny/configured");

    touch(fixture, "tiny.lock");
    runs(fixture, "a lock was touched", &["fetch tiny"]);
    replace(fixture, "tiny.lock", "Treestrap-Reason: ", "Treestrap-Reason: said otherwise, ");
    runs(fixture, "what a lock says to people", &["fetch tiny"]);
    touch(fixture, "treestrap.toml");
    runs(fixture, "the manifest was touched", &["treestrap ninja: build.ninja"]);
    assert_eq!(before, (both("unpacked"), both("configured")), "no ref was written again");

    let line = "[images.other]\nidentity = \"keep\"\n";
    replace(fixture, "treestrap.toml", "[images.other]\n", line);
    runs(fixture, "a key of one image", &["configure other", "treestrap ninja: build.ninja"]);
    let line = "[images.tiny]\npreseed = \"answers\"\n";
    fixture.write("answers", "greeter greeter/name string me\n");
    replace(fixture, "treestrap.toml", "[images.tiny]\n", line);
    runs(fixture, "a file of answers", &["configure tiny", "treestrap ninja: build.ninja"]);
    touch(fixture, "answers");
    let configured = written(fixture, "tiny", "configured");
    runs(fixture, "the same answers, touched", &["configure tiny"]);
    assert_eq!(configured, written(fixture, "tiny", "configured"), "they are the same");

    // A ref that is gone is made again from what is there: the same, and stage 2 is not run for it.
    let reference = fixture.repo().join("refs/heads/deb/images/tiny/unpacked");
    fs::remove_file(&reference).expect("a ref");
    runs(fixture, "an unpacked ref was removed", &["compose tiny", "configure tiny"]);
    assert_eq!(configured, written(fixture, "tiny", "configured"), "it was finished");
    fs::remove_file(fixture.repo().join("refs/heads/deb/images/tiny/configured")).expect("a ref");
    runs(fixture, "a configured ref was removed", &["configure tiny"]);
    assert_ne!(built, fixture.rev("deb/images/tiny/configured"), "it has answers now");
    let built = fixture.rev("deb/images/tiny/configured");

    // One package of one lock moves.
    tiny.update(|archive| {
        let newer = PACKAGES.replace("Package: greetings\nVersion: 1.0", "Package: greetings\nVersion: 1.1");
        archive.suite().debs = Archive::with_base(&newer).suites.remove(0).debs;
    });
    let fixture = &tiny.fixture;
    let (edges, _) = ninja(fixture, &["update-lock-tiny"]);
    assert_eq!(edges, ["lock --update tiny"]);
    assert!(fixture.read("tiny.lock").contains("Package: greetings\nVersion: 1.1"));
    runs(fixture, "one package of a lock moved", &["compose tiny", "configure tiny", "fetch tiny"]);
    assert_ne!(built, fixture.rev("deb/images/tiny/configured"));

    // ninja removes what it made but for locks, which are for version control.
    let (locks, commits) = (fixture.read("tiny.lock"), fixture.rev("deb/images/tiny/configured"));
    fixture.run("ninja", &["-t", "clean"]).ok();
    assert_eq!(fixture.rev("deb/images/tiny/configured"), None);
    assert_eq!(fixture.read("tiny.lock"), locks);
    let made = all.iter().copied().filter(|edge| !edge.starts_with("lock ")).collect::<Vec<_>>();
    runs(fixture, "all was cleaned away", &made);
    assert_eq!(fixture.rev("deb/images/tiny/configured"), commits);
    fixture.assert_nothing_left();
}

#[test]
fn other_rules_build_on_images_and_names_may_be_odd() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay, Tier::Ninja);
    let archive = Archive::with_base(PACKAGES);
    let server = Server::new(archive.publish());
    let fixture = Fixture::new(Account::Subordinate);
    fixture.trust(&archive);
    let folder = "it's 1: $os";
    fixture.run("mkdir", &[folder]).ok();
    let manifest = format!("{folder}/treestrap.toml");
    fixture.write(&manifest, &fixture.manifest(&server.uri(), &[("tiny", &["greeter"])]));
    let part = format!("{folder}/part.ninja");
    let write = ["--manifest", &manifest, "ninja", "--fragment", "--tar", "out $x", "-o", &part];
    fixture.treestrap(&write).ok();
    let escaped = "it's$ 1$:$ $$os";
    fixture.write(
        "build.ninja",
        &format!(
            "rule count\n  command = wc -c < $in > $out && echo counted >> log\n\
             rule nothing\n  command = touch $out\n  generator = 1\n\
             build size: count out$ $$x/tiny.tar\n\
             build build.ninja: nothing {escaped}/part.ninja\n\
             subninja {escaped}/part.ninja\ndefault size\n"
        ),
    );
    let stages =
        ["compose tiny", "configure tiny", "export tiny to 'out $x/tiny.tar'", "fetch tiny", "lock tiny"];
    let (edges, _) = ninja(&fixture, &[]);
    let run: Vec<&str> = edges.iter().map(String::as_str).filter(|edge| !edge.starts_with("wc ")).collect();
    assert_eq!(run, stages);
    let size: u64 = fixture.read("size").trim().parse().expect("a number");
    assert_eq!(size, fs::metadata(fixture.path("out $x/tiny.tar")).expect("a tar file").len());
    assert!(Path::new(&fixture.path(&format!("{folder}/.treestrap/repo"))).is_dir());
    touch(&fixture, &format!("{folder}/tiny.lock"));
    let (edges, _) = ninja(&fixture, &[]);
    assert_eq!(edges, ["fetch tiny"], "the rest stops at restat");
    // What is named in a fragment is beside its manifest; the part is written again as asked for.
    let (edges, _) = ninja(&fixture, &[&format!("{folder}/image-tiny")]);
    assert!(edges.is_empty(), "{edges:?}");
    replace(&fixture, &manifest, "[images.tiny]\n", "[images.tiny]\nidentity = \"keep\"\n");
    let (edges, outcome) = ninja(&fixture, &[]);
    let part_again = "treestrap ninja: 'it'\\''s 1: $os/part.ninja'";
    for edge in ["configure tiny", part_again] {
        assert!(edges.iter().any(|run| run == edge), "{edge:?} of {outcome}");
    }
    // The image says what it was made with, so it is another one; and what is made of it is made again.
    assert_eq!(fixture.read("log"), "counted\ncounted\n");
}
