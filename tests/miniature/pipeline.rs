//! manifest → lock → build → run, as the accounts that can: what is made, what is made again
//! (nothing), and what is shared.

use std::{fs, os::unix::fs::MetadataExt as _};

use crate::common::{
    account::Account,
    base,
    fixture::{Fixture, Miniature},
    tier::{Tier, needs},
};

const GREETER: &str = r#"
Package: greeter
Version: 1.0-1
Depends: greetings (>= 1)
file ./usr/bin/greet
    #!/bin/sh
    cat /usr/share/greetings/hello
script postinst
    mkdir -p /var/lib/greeter
    id -u >/var/lib/greeter/uid
    chown 33:8 /var/lib/greeter

Package: greetings
Version: 1.2
file ./usr/share/greetings/hello = hello, world

Package: farewells
Version: 2.0
Depends: greetings
file ./usr/share/greetings/bye = bye
"#;

fn lock_of(fixture: &Fixture, image: &str) -> Vec<(String, String)> {
    let text = fixture.read(&format!("{image}.lock"));
    let field = |stanza: &str, name: &str| {
        let line = stanza.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {stanza:?}")).to_owned()
    };
    let stanzas = text.split("\n\n").map(str::trim).filter(|stanza| stanza.contains("Package: "));
    stanzas.map(|stanza| (field(stanza, "Package"), field(stanza, "Version"))).collect()
}

#[test]
fn an_image_is_locked_built_and_run_the_same_way_by_every_account() {
    needs!(Tier::Ostree, Tier::Userns, Tier::Overlay);
    // one archive for all: keys and dates differ between archives, packages do not
    let archive = crate::common::archive::Archive::with_base(GREETER);
    let server = crate::common::server::Server::new(archive.publish());
    let mut results = Vec::new();
    for account in [Account::Subordinate, Account::Root] {
        needs!(Tier::As(account));
        let fixture = Fixture::with_archive(account, &archive, &server.uri(), &["greeter"]);
        fixture.treestrap(&["lock"]).ok();
        let locked = lock_of(&fixture, "tiny");
        assert!(locked.contains(&("greetings".into(), "1.2".into())), "{locked:?}");
        assert!(locked.contains(&("dash".into(), "1.0".into())), "essential packages are in: {locked:?}");
        assert!(!locked.iter().any(|(name, _)| name == "farewells"), "{locked:?}");
        let mut sorted = locked.clone();
        sorted.sort();
        assert_eq!(locked, sorted, "a lock is sorted by package");

        let built = fixture.treestrap(&["build"]).ok();
        let checksum = fixture.rev("deb/images/tiny/configured").expect("a configured image");
        assert_eq!(built.stdout, format!("tiny {checksum}\n"), "stdout is IMAGE CHECKSUM alone: {built}");
        fixture.fsck();

        // what dpkg says of it, from inside, and that all of it is configured
        let query =
            ["run", "tiny", "--", "dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Abbrev}\n"];
        let installed = fixture.treestrap(&query).ok().stdout;
        let expected: String =
            locked.iter().map(|(name, version)| format!("{name} {version} ii \n")).collect();
        let mut installed: Vec<&str> = installed.lines().collect();
        installed.sort_unstable();
        assert_eq!(installed.join("\n") + "\n", expected);
        assert_eq!(fixture.treestrap(&["run", "tiny", "--", "greet"]).ok().stdout, "hello, world\n");

        // scripts are root in there, and their changes have the owners that they gave
        assert_eq!(fixture.cat("tiny", "/var/lib/greeter/uid"), "0\n");
        let listing = fixture.listing("deb/images/tiny/configured");
        assert!(
            listing
                .iter()
                .any(|line| { line.split_whitespace().eq(["d00755", "33", "8", "0", "/var/lib/greeter"]) }),
            "{listing:#?}"
        );
        fixture.assert_nothing_left();
        let unpacked = fixture.rev("deb/images/tiny/unpacked").expect("an unpacked image");
        results.push((fixture.read("tiny.lock"), unpacked, checksum));
    }
    // invariant 1: one lock, one checksum; here for two accounts in two repositories
    assert_eq!(results[0], results[1]);
}

#[test]
fn a_lock_that_says_the_same_is_not_touched() {
    needs!(Tier::As(Account::Subordinate));
    let mut tiny = Miniature::new(Account::Subordinate, GREETER, &["greeter"]);
    tiny.fixture.treestrap(&["lock"]).ok();
    let lock = tiny.fixture.path("tiny.lock");
    let before = (fs::read(&lock).expect("a lock"), fs::metadata(&lock).expect("a lock").mtime_nsec());
    let ino = fs::metadata(&lock).expect("a lock").ino();
    for arguments in [&["lock"][..], &["lock", "--update"], &["lock", "--check"], &["build"]] {
        tiny.fixture.treestrap(arguments).ok();
        let after = (fs::read(&lock).expect("a lock"), fs::metadata(&lock).expect("a lock").mtime_nsec());
        assert!(after == before, "{arguments:?} touched the lock");
        assert_eq!(fs::metadata(&lock).expect("a lock").ino(), ino, "{arguments:?} replaced the lock");
    }

    // a new version in the archive: the lock stays until it is asked to move
    tiny.update(|archive| {
        archive.add(crate::common::package::Package::parse("Package: greetings\nVersion: 1.3\n").build());
    });
    tiny.fixture.treestrap(&["lock"]).ok();
    assert!(fs::read(&lock).expect("a lock") == before.0, "lock without --update moved to a new version");
    tiny.fixture.treestrap(&["lock", "--check"]).ok();
    tiny.fixture.treestrap(&["lock", "--update"]).ok();
    assert!(lock_of(&tiny.fixture, "tiny").contains(&("greetings".into(), "1.3".into())));

    // and a manifest that asks for something else is noticed
    tiny.images(&[("tiny", &["greeter", "farewells"])]);
    tiny.fixture.treestrap(&["lock", "--check"]).exits(1).says(&["tiny"]);
    assert!(
        !lock_of(&tiny.fixture, "tiny").iter().any(|(name, _)| name == "farewells"),
        "--check writes nothing"
    );
}

#[test]
fn a_second_build_does_nothing_and_offline_is_enough_for_it() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, GREETER, &["greeter"]);
    let first = tiny.fixture.treestrap(&["build"]).ok();
    assert!(!tiny.server.take_requests().is_empty());
    let objects = tiny.fixture.objects();
    let second = tiny.fixture.treestrap(&["build"]).ok();
    assert_eq!(first.stdout, second.stdout);
    let asked = tiny.server.take_requests();
    assert!(asked.is_empty(), "nothing is asked of the archive: {asked:?}");
    assert_eq!(tiny.fixture.objects(), objects, "no object is added");
    let third = tiny.fixture.treestrap(&["--offline", "build"]).ok();
    assert_eq!(first.stdout, third.stdout);
}

#[test]
fn what_is_fetched_is_built_offline_and_other_things_are_an_error() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, GREETER, &["greeter"]);
    tiny.fixture.treestrap(&["lock"]).ok();
    tiny.fixture.treestrap(&["--offline", "fetch"]).exits(1).says(&["--offline"]);
    tiny.fixture.treestrap(&["fetch"]).ok();
    let debs = tiny.server.take_deb_requests();
    assert_eq!(debs.len(), lock_of(&tiny.fixture, "tiny").len(), "each deb once: {debs:?}");
    tiny.fixture.treestrap(&["--offline", "build"]).ok();
    let asked = tiny.server.take_requests();
    assert!(asked.is_empty(), "{asked:?}");
    tiny.fixture.fsck();
}

#[test]
fn images_share_what_is_in_the_store() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, GREETER, &["greeter"]);
    tiny.fixture.treestrap(&["build"]).ok();
    tiny.server.take_requests();
    tiny.images(&[("tiny", &["greeter"]), ("other", &["farewells"])]);
    let built = tiny.fixture.treestrap(&["build"]).ok();
    let names: Vec<&str> = built.stdout.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["tiny", "other"], "a line an image, in the manifest's order: {built}");
    let debs = tiny.server.take_deb_requests();
    assert_eq!(debs, ["/archive/pool/main/f/farewells/farewells_2.0_all.deb"], "only what is new is fetched");
    tiny.fixture.fsck();
}

#[test]
fn debs_are_kept_only_if_asked() {
    needs!(Tier::As(Account::Subordinate));
    let tiny = Miniature::new(Account::Subordinate, GREETER, &["greeter"]);
    tiny.fixture.treestrap(&["lock"]).ok();
    let debs = tiny.fixture.path("debs");
    tiny.fixture.treestrap(&["fetch", "--keep-debs", debs.to_str().expect("UTF-8")]).ok();
    let mut kept = Vec::new();
    let mut folders = vec![debs];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() { folders.push(entry) } else { kept.push(entry) }
        }
    }
    for deb in &tiny.archive.suites[0].debs {
        let wanted = lock_of(&tiny.fixture, "tiny").iter().any(|(name, _)| name == deb.field("Package"));
        let found = kept.iter().filter(|path| fs::read(path).expect("a file") == *deb.bytes).count();
        assert_eq!(found, usize::from(wanted), "{} in {kept:?}", deb.file_name());
    }

    let without = Miniature::new(Account::Subordinate, GREETER, &["greeter"]);
    without.fixture.treestrap(&["lock"]).ok();
    without.fixture.treestrap(&["fetch"]).ok();
    let found = without.fixture.run("find", &["..", "-name", "*.deb"]).ok();
    assert_eq!(found.stdout, "", "no deb is stored unless asked");
}

#[test]
fn two_builds_at_once_on_one_repository_are_safe() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, GREETER, &["greeter"]);
    tiny.images(&[("one", &["greeter"]), ("two", &["farewells", "greeter"])]);
    tiny.fixture.treestrap(&["lock"]).ok();
    // the same image twice and another beside it, in a repository that does not exist yet
    let runs: Vec<_> =
        ["one", "one", "two"].map(|image| tiny.fixture.start(&["build", image])).into_iter().collect();
    let outcomes: Vec<_> = runs.into_iter().map(|run| crate::common::fixture::wait(run).ok()).collect();
    assert_eq!(outcomes[0].stdout, outcomes[1].stdout);
    for (image, outcome) in [("one", &outcomes[0]), ("two", &outcomes[2])] {
        let checksum = tiny.fixture.rev(&format!("deb/images/{image}/configured")).expect("a ref");
        assert_eq!(outcome.stdout, format!("{image} {checksum}\n"));
    }
    tiny.fixture.fsck();
    tiny.fixture.assert_nothing_left();
}

#[test]
fn another_repository_and_a_file_archive_give_the_same_image() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, GREETER, &["greeter"]);
    let over_http = tiny.fixture.treestrap(&["build"]).ok().stdout;
    let uri = tiny.fixture.write_archive(&tiny.archive.publish());
    let manifest = tiny.fixture.manifest(&uri, &[("tiny", &["greeter"])]);
    tiny.fixture.write("treestrap.toml", &manifest);
    fs::remove_file(tiny.fixture.path("tiny.lock")).expect("a lock");
    tiny.server.take_requests();
    let outcome = tiny.fixture.treestrap(&["build", "--repo", "elsewhere"]).ok();
    assert_eq!(outcome.stdout, over_http);
    assert!(tiny.server.take_requests().is_empty());
    assert!(tiny.fixture.path("elsewhere/objects").is_dir(), "the repository is where it was asked to be");
}

#[test]
fn run_passes_everything_through_and_keeps_nothing() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, GREETER, &["greeter"]);
    tiny.fixture.treestrap(&["build"]).ok();
    let before = tiny.fixture.rev("deb/images/tiny/configured");
    let script = |text: &str| tiny.fixture.treestrap(&["run", "tiny", "--", "sh", "-c", text]);
    for code in [0, 1, 7, 255] {
        script(&format!("exit {code}")).exits(code);
    }
    script("kill -9 $$").ended_by(9);
    let output = script("echo to stdout; echo to stderr >&2").ok().says(&["to stderr"]);
    assert_eq!(output.stdout, "to stdout\n");
    script("no-such-program").exits(127);
    script("echo changed >/etc/changed; rm -r /usr/share; test -e /etc/changed").ok();
    script("test -e /etc/changed").exits(1);
    script("test -d /usr/share").ok();
    assert_eq!(tiny.fixture.rev("deb/images/tiny/configured"), before);
    let uname = script("uname -m; echo $$; id -u; dpkg --print-architecture").ok().stdout;
    assert!(uname.ends_with(&format!("\n0\n{}\n", base::architecture())), "{uname}");
    tiny.fixture.fsck();
    tiny.fixture.assert_nothing_left();
    tiny.fixture.treestrap(&["run", "nosuch", "--", "true"]).exits(1).says(&["nosuch"]);
}
