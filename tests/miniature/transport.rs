//! Mirrors that stutter, break off, lie or are gone: carried on where that is possible, and
//! otherwise an error that names the package and the mirror.

use std::{fmt::Write as _, net::TcpListener, time::Duration};

use crate::common::{
    account::Account,
    archive::Archive,
    fixture::{Fixture, Miniature},
    package::{Compression, Package},
    server::{Fault, Server},
    tarball::{Kind, Member},
    tier::{Tier, needs},
};

/// Packages without the base: fetching needs no more.
const HELLO: &str = "Package: hello\nfile ./usr/share/hello = hello\n";

/// A package of about a megabyte that does not compress.
fn large() -> Package {
    let mut package = Package::named("large");
    package.compression = Compression::None;
    // a fixed sequence (an xorshift generator), so that every run downloads the same
    let mut state = 0x2545_f491_u32;
    let data = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    let data = data.take(1 << 20).collect();
    package.members.push(Member { data, ..Member::new(Kind::File, "./usr/share/large", 0o644) });
    package
}

fn locked() -> Miniature {
    let mut archive = Archive::without_base(HELLO);
    archive.add(large().build());
    let tiny = Miniature::of(Account::Subordinate, archive, &["hello", "large"]);
    tiny.fixture.treestrap(&["lock"]).ok();
    tiny.server.take_requests();
    tiny
}

#[test]
fn passing_faults_are_ridden_out() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree);
    let faults = [
        ("busy", Fault::Status(503)),
        ("breaks off at once", Fault::Disconnect(0)),
        ("breaks off in the middle", Fault::Disconnect(400_000)),
        ("slow", Fault::Slow(Duration::from_millis(5))),
    ];
    for (name, fault) in faults {
        let tiny = locked();
        tiny.server.fault("/large_", fault.clone(), 1);
        let outcome = tiny.fixture.treestrap(&["fetch"]);
        assert!(outcome.status.success(), "{name}: {outcome}");
        tiny.fixture.fsck();
        let requests: Vec<_> = tiny
            .server
            .take_requests()
            .into_iter()
            .filter(|request| request.path.contains("/large_"))
            .collect();
        let expected = if matches!(fault, Fault::Slow(_)) { 1 } else { 2 };
        assert_eq!(requests.len(), expected, "{name}: {requests:?}");
        if matches!(fault, Fault::Disconnect(400_000)) {
            assert!(
                requests[1].headers.contains_key("range"),
                "what came is not asked for again: {requests:?}"
            );
        }
        tiny.fixture.treestrap(&["--offline", "fetch"]).ok();
    }
}

#[test]
fn lasting_faults_name_the_package_and_the_mirror_and_a_later_run_goes_on() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree);
    let faults = [
        ("gone from the pool", Fault::Status(404)),
        ("forbidden", Fault::Status(403)),
        ("other content", Fault::Wrong),
        ("shorter content", Fault::Instead(b"short".to_vec())),
    ];
    for (name, fault) in faults {
        let tiny = locked();
        tiny.server.fault("/large_", fault, usize::MAX);
        let outcome = tiny.fixture.treestrap(&["fetch"]);
        assert_eq!(outcome.status.code(), Some(1), "{name}: {outcome}");
        for text in ["large", "127.0.0.1"] {
            assert!(outcome.stderr.contains(text), "{name}: {text:?} expected: {outcome}");
        }
        tiny.fixture.fsck();
        assert!(
            tiny.fixture.refs().len() <= 1,
            "{name}: hello alone may be there: {:?}",
            tiny.fixture.refs()
        );
        tiny.server.mend();
        tiny.fixture.treestrap(&["fetch"]).ok();
        tiny.fixture.fsck();
    }
}

/// An address where nothing listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback interface");
    format!("http://{}/archive", listener.local_addr().expect("a bound socket"))
}

/// A fixture whose manifest has these mirrors, in this order.
fn mirrors(archive: &Archive, uris: &[&str]) -> Fixture {
    let fixture = Fixture::with_archive(Account::Subordinate, archive, uris[0], &["hello"]);
    let mut list = String::new();
    uris.iter().for_each(|uri| write!(list, "{uri:?}, ").expect("memory"));
    let manifest = fixture.read("treestrap.toml").replace(&format!("[{:?}]", uris[0]), &format!("[{list}]"));
    fixture.write("treestrap.toml", &manifest);
    fixture
}

#[test]
fn the_next_mirror_takes_over() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree);
    let archive = Archive::without_base(HELLO);
    let server = Server::new(archive.publish());
    let empty = Server::new(Default::default());
    let corrupt = Server::new(archive.publish());
    corrupt.fault(".deb", Fault::Wrong, usize::MAX);
    for other in [nobody(), empty.uri(), corrupt.uri()] {
        let fixture = mirrors(&archive, &[&other, &server.uri()]);
        fixture.treestrap(&["lock"]).ok();
        fixture.treestrap(&["fetch"]).ok();
        fixture.fsck();
    }
    assert!(!corrupt.take_requests().is_empty(), "the first mirror is tried first");
}

#[test]
fn a_vanished_mirror_is_named() {
    needs!(Tier::As(Account::Subordinate));
    let archive = Archive::without_base(HELLO);
    let gone = nobody();
    let fixture = Fixture::with_archive(Account::Subordinate, &archive, &gone, &["hello"]);
    let address = gone.trim_start_matches("http://").trim_end_matches("/archive");
    let outcome = fixture.treestrap(&["lock"]).says(&["mini", address]);
    assert!(matches!(outcome.status.code(), Some(1 | 3)), "{outcome}");

    // between lock and fetch
    let tiny = locked();
    drop(tiny.server);
    let outcome = tiny.fixture.treestrap(&["fetch"]).says(&["127.0.0.1"]);
    assert!(matches!(outcome.status.code(), Some(1 | 3)), "{outcome}");
}

#[test]
fn an_archive_on_disk_is_read_where_it_is() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree);
    for scheme in ["file:", "file://", "copy:"] {
        let archive = Archive::without_base(HELLO);
        let fixture = Fixture::new(Account::Subordinate);
        fixture.trust(&archive);
        let uri = fixture.write_archive(&archive.publish()).replace("file:", scheme);
        fixture.write("treestrap.toml", &fixture.manifest(&uri, &[("tiny", &["hello"])]));
        fixture.treestrap(&["lock"]).ok();
        fixture.treestrap(&["fetch"]).ok();
        fixture.fsck();
    }
}
