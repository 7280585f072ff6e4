//! Tests of ingest, on debs made here byte by byte, so that they can be wrong in every way.

use std::{io::Write, path::PathBuf, process::Command};

use tar::{EntryType, Header};

use super::*;
use crate::debian::deb822::Stanza;

/// One entry of a tar.
#[derive(Clone)]
struct Entry {
    kind: EntryType,
    name: String,
    link: String,
    mode: u32,
    owner: (u64, u64),
    content: Vec<u8>,
}

fn entry(kind: EntryType, name: &str) -> Entry {
    let (name, link) = (name.to_owned(), String::new());
    Entry { kind, name, link, mode: 0o755, owner: (0, 0), content: Vec::new() }
}

fn folder(name: &str) -> Entry {
    entry(EntryType::Directory, name)
}

fn file(name: &str, content: &str) -> Entry {
    Entry { mode: 0o644, content: content.into(), ..entry(EntryType::Regular, name) }
}

fn link(kind: EntryType, name: &str, target: &str) -> Entry {
    Entry { link: target.to_owned(), mode: 0o777, ..entry(kind, name) }
}

fn symlink(name: &str, target: &str) -> Entry {
    link(EntryType::Symlink, name, target)
}

fn hard_link(name: &str, target: &str) -> Entry {
    link(EntryType::Link, name, target)
}

/// A tar in GNU's format, whose names nobody checks.
fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        for (kind, text) in [(EntryType::GNULongName, &entry.name), (EntryType::GNULongLink, &entry.link)] {
            if text.len() > 100 {
                let long = [text.as_bytes(), &[0]].concat();
                raw_entry(&mut out, kind, "././@LongLink", "", &entry.clone(), &long);
            }
        }
        raw_entry(&mut out, entry.kind, &entry.name, &entry.link, entry, &entry.content);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn raw_entry(out: &mut Vec<u8>, kind: EntryType, name: &str, link: &str, entry: &Entry, content: &[u8]) {
    let mut header = Header::new_gnu();
    let put = |field: &mut [u8], text: &str| {
        let length = text.len().min(field.len());
        field[..length].copy_from_slice(&text.as_bytes()[..length]);
    };
    put(&mut header.as_old_mut().name, name);
    put(&mut header.as_old_mut().linkname, link);
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(entry.owner.0);
    header.set_gid(entry.owner.1);
    header.set_size(content.len() as u64);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn ar_of(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, content) in members {
        writeln!(out, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, "100644", content.len())
            .expect("memory");
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(2), b'\n');
    }
    out
}

const CONTROL: &str = "Package: tiny\nVersion: 1:2.0-1\nArchitecture: amd64\nMaintainer: A <a@example.org>\n\
                       Multi-Arch: same\nDescription: a test\n";

/// A deb of these control files and data entries.
fn deb(control: &[Entry], data: &[Entry]) -> Vec<u8> {
    let data = liblzma::encode_all(tar_of(data).as_slice(), 0).expect("xz");
    ar_of(&[
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", tar_of(&[&[folder("./")], control].concat())),
        ("data.tar.xz", data),
    ])
}

fn simple(data: &[Entry]) -> Vec<u8> {
    deb(&[file("./control", CONTROL)], data)
}

fn locked(deb: &[u8]) -> LockedPackage {
    LockedPackage {
        name: "tiny".to_owned(),
        version: "1:2.0-1".to_owned(),
        architecture: "amd64".to_owned(),
        filename: "pool/tiny.deb".to_owned(),
        size: deb.len() as u64,
        sha256: Sha256::of(deb),
        repository: None,
        stanza: Stanza::default(),
    }
}

struct Place {
    _folder: tempfile::TempDir,
    repository: PathBuf,
    ingester: Ingester,
}

fn place() -> Place {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let repository = folder.path().join("repo");
    let ingester = Ingester::new(&repository).expect("a repository");
    Place { _folder: folder, repository, ingester }
}

impl Place {
    fn ostree(&self, arguments: &[&str]) -> String {
        let output = Command::new("ostree")
            .arg(format!("--repo={}", self.repository.display()))
            .args(arguments)
            .output()
            .expect("the ostree program");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Ingests a deb that must be good; gives its ref.
    fn take(&mut self, deb: &[u8]) -> String {
        let package = locked(deb);
        let taken = self.ingester.ingest(&package, &mut &*deb).expect("a good deb");
        self.ingester.flush().expect("flushing");
        assert_eq!(self.ingester.lookup(&package).expect("looking"), Some(taken));
        pool_reference(package.sha256)
    }
}

#[test]
fn the_best_changelog_says_when_a_package_was_made() {
    let entry = |name: &str, date: &str, is_packed: bool| {
        let text = format!("tiny (1) unstable; urgency=low\n\n  * It.\n\n -- A <a@example.org>  {date}\n");
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(text.as_bytes()).expect("in memory");
        let content = if is_packed { packed.finish().expect("in memory") } else { text.into_bytes() };
        Entry { content, ..file(&format!("./usr/share/doc/{name}"), "") }
    };
    let own = entry("tiny/changelog.Debian.gz", "Thu, 01 Jan 1970 01:00:20 +0100", true);
    let rebuild = entry("tiny/changelog.Debian.amd64.gz", "Thu, 01 Jan 1970 00:00:30 +0000", true);
    let upstream = file("./usr/share/doc/tiny/changelog.gz", "no gzip");
    let native = entry("tiny/changelog", "Thu, 01 Jan 1970 00:00:40 +0000", false);
    let other = entry("other/changelog.Debian.gz", "Thu, 01 Jan 1970 00:00:50 +0000", true);
    let far = file("./usr/share/doc/tiny/README", " -- A <a@example.org>  Thu, 01 Jan 1970 00:00:60 +0000\n");
    for (expected, files) in [
        (20, vec![own.clone(), upstream.clone(), native.clone(), other.clone()]),
        (30, vec![rebuild, own]),
        (40, vec![upstream.clone(), native]),
        (0, vec![upstream, other, far]),
    ] {
        let mut place = place();
        let reference = place.take(&simple(&files));
        let store = Store::open(&place.repository).expect("a repository");
        let commit = store.require(&reference).expect("a ref");
        let record = store.package_record(commit).expect("a record").expect("of our format");
        assert_eq!(record.newest, expected);
    }
}

#[test]
fn a_deb_becomes_three_trees() {
    let long = format!("./usr/share/{}/{}", "a".repeat(90), "b".repeat(90));
    let control = [
        file("./control", CONTROL),
        file("./conffiles", "/etc/tiny.conf\n"),
        Entry { mode: 0o775, ..file("./postinst", "#!/bin/sh\n") },
        file("./triggers", "interest-noawait /usr/share/tiny\n"),
        file("./.hidden", ""),
    ];
    let data = [
        folder("./"),
        symlink("./lib", "usr/lib"),
        folder("./usr/"),
        folder("./usr/share/"),
        Entry { mode: 0o2775, owner: (0, 50), ..folder("./usr/share/staff/") },
        folder("./usr/"),
        Entry { mode: 0o4755, owner: (1, 3_000_000), ..file("./usr/share/setuid", "s") },
        hard_link("./usr/share/hard", "./usr/share/setuid"),
        hard_link("./usr/share/harder", "./usr/share/hard"),
        symlink("./usr/share/link", &format!("../{}", "t".repeat(120))),
        folder("./etc"),
        file("./etc/tiny.conf", "x"),
        folder(long.rsplit_once('/').expect("a path").0),
        file(&long, "long"),
    ];
    let mut place = place();
    let reference = place.take(&deb(&control, &data));
    place.ostree(&["fsck"]);
    let listing = place.ostree(&["ls", "-R", &reference]);
    for line in [
        "d00755 0 0      0 /data",
        "l00777 0 0      0 /data/lib -> usr/lib",
        "d02775 0 50      0 /data/usr/share/staff",
        "-04755 1 3000000      1 /data/usr/share/setuid",
        "-04755 1 3000000      1 /data/usr/share/harder",
        &format!("/data/usr/share/link -> ../{}", "t".repeat(120)),
        &format!("/data{}", &long[1..]),
        "/info/tiny:amd64.list",
        "/info/tiny:amd64.md5sums",
        "-00755 0 0     10 /info/tiny:amd64.postinst",
        "-00775 0 0     10 /control/postinst",
        "/control/.hidden",
    ] {
        assert!(listing.contains(line), "{line:?} is not in\n{listing}");
    }
    assert!(!listing.contains("tiny:amd64..hidden") && !listing.contains("tiny:amd64.control"), "{listing}");
    let list = place.ostree(&["cat", &reference, "/info/tiny:amd64.list"]);
    let expected = format!(
        "/.\n/usr\n/usr/share\n/usr/share/staff\n/usr\n/usr/share/setuid\n/usr/share/hard\n\
         /usr/share/harder\n/etc\n/etc/tiny.conf\n{}\n{}\n/lib\n/usr/share/link\n",
        &long[1..].rsplit_once('/').expect("a path").0,
        &long[1..]
    );
    assert_eq!(list, expected, "dpkg lists symbolic links last");
    let sums = place.ostree(&["cat", &reference, "/info/tiny:amd64.md5sums"]);
    let s = "03c7c0ace395d80182db07ae2c30f034";
    assert!(sums.starts_with(&format!("{s}  usr/share/setuid\n{s}  usr/share/hard\n")), "{sums}");
    let store = Store::open(&place.repository).expect("the repository");
    let commit = store.require(&reference).expect("a commit");
    let record = store.package_record(commit).expect("a record").expect("of our format");
    assert_eq!(record.hard_links, [["usr/share/setuid", "usr/share/hard", "usr/share/harder"]]);
    assert_eq!(record.symlinks[0], ("lib".to_owned(), "usr/lib".to_owned()));
    assert_eq!(record.conffiles[0].path, "etc/tiny.conf");
    assert_eq!((record.scripts, record.list), (vec!["postinst".to_owned()], list));
}

#[test]
fn the_same_deb_is_the_same_commit_everywhere() {
    let deb = simple(&[folder("./"), file("./a", "a"), Entry { owner: (5, 6), ..file("./b", "b") }]);
    let commit = |mut place: Place| {
        let reference = place.take(&deb);
        place.ostree(&["rev-parse", &reference])
    };
    assert_eq!(commit(place()), commit(place()));
}

/// Debs that dpkg, or anyone who cares, would not unpack; and a word that the refusal must have.
fn evil() -> Vec<(Vec<u8>, &'static str)> {
    let data = |entries: &[Entry]| simple(&[&[folder("./")], entries].concat());
    let control = |entries: &[Entry]| deb(entries, &[folder("./")]);
    let stanza = |from: &str, to: &str| control(&[file("./control", &CONTROL.replace(from, to))]);
    let mut lying = tar_of(&[file("./a", "content")]);
    lying.truncate(512);
    vec![
        (data(&[file("./../a", "x")]), "'..'"),
        (data(&[file("./usr/../../a", "x")]), "'..'"),
        (data(&[file("/etc/passwd", "x")]), "absolute"),
        (data(&[symlink("./a", "/etc"), file("./a/passwd", "x")]), "through the symbolic link a"),
        (data(&[folder("./a/"), symlink("./a/b", ".."), folder("./a/b/c")]), "through the symbolic link a/b"),
        (data(&[file("./a", "x"), file("./a/b", "x")]), "below the file a"),
        (data(&[file("./a", "x"), folder("./a/")]), "twice"),
        (data(&[folder("./a/"), symlink("./a", "b")]), "twice"),
        (data(&[file("./a", "x"), file("./a", "y")]), "twice"),
        (data(&[file("./a", "x"), file(".//./a", "y")]), "twice"),
        (data(&[symlink("./a", "x"), symlink("./a", "x")]), "twice"),
        (data(&[hard_link("./a", "./etc/passwd")]), "no file before it"),
        (data(&[hard_link("./a", "../../etc/passwd")]), "'..'"),
        (data(&[symlink("./l", "x"), hard_link("./a", "./l")]), "no file before it"),
        (data(&[entry(EntryType::Char, "./dev/null")]), "device"),
        (data(&[entry(EntryType::Block, "./dev/sda")]), "device"),
        (data(&[entry(EntryType::Fifo, "./run/pipe")]), "fifo"),
        (data(&[entry(EntryType::new(b'9'), "./a")]), "tar type '9'"),
        (data(&[file("./a\nb", "x")]), "newline"),
        (data(&[file(&format!("./{}", "n".repeat(256)), "x")]), "too long a name"),
        (data(&[symlink("./a", "")]), "not UTF-8"),
        (data(&[Entry { owner: (1 << 32, 0), ..file("./a", "x") }]), "out of range"),
        (control(&[]), "no control file"),
        (control(&[file("./control", CONTROL), file("./control", CONTROL)]), "twice"),
        (control(&[file("./control", CONTROL), folder("./sub/")]), "not a file"),
        (control(&[file("./control", CONTROL), file("./sub/x", "")]), "not a file"),
        (control(&[symlink("./control", "/etc/passwd")]), "not a file"),
        (control(&[file("./control", CONTROL), file("./conffiles", "/etc/a")]), "newline"),
        (control(&[file("./control", "not a stanza\n")]), "control file"),
        (control(&[file("./control", &format!("{CONTROL}\n{CONTROL}"))]), "2 stanzas"),
        (stanza("Package: tiny", "Package: other"), "the deb's Package is \"other\""),
        (stanza("2.0-1", "2.0-2"), "the deb's Version is"),
        (stanza("amd64", "armhf"), "the deb's Architecture is"),
        (stanza("Version: 1:2.0-1\n", ""), "no field Version"),
        (stanza("Package: tiny", "Package: ../tiny"), "Package is"),
        (
            ar_of(&[
                ("debian-binary", b"2.0\n".to_vec()),
                ("control.tar", tar_of(&[folder("./"), file("./control", CONTROL)])),
                ("data.tar", lying),
            ]),
            "fewer than its 7 bytes",
        ),
    ]
}

#[test]
fn what_is_refused_leaves_nothing() {
    let mut place = place();
    for (deb, message) in evil() {
        let package = locked(&deb);
        let error = place.ingester.ingest(&package, &mut deb.as_slice()).expect_err(message);
        let text = error.to_string();
        assert!(text.contains(message) && text.contains("tiny_1:2.0-1_amd64"), "{text:?}: {message:?}");
        assert_eq!(error.kind(), Kind::Input, "{text}");
        assert_eq!(place.ingester.lookup(&package).expect("looking"), None);
    }
    // A good one goes through in the same batch, and is all that is there.
    let reference = place.take(&simple(&[folder("./"), file("./a", "a")]));
    assert_eq!(place.ostree(&["refs"]).trim(), reference);
    place.ostree(&["fsck"]);
}

#[test]
fn a_deb_that_the_lock_does_not_name() {
    let mut place = place();
    let deb = simple(&[folder("./"), file("./a", "a")]);
    let mut damaged = deb.clone();
    let middle = damaged.len() - 40;
    damaged[middle] ^= 1;
    let longer = [deb.as_slice(), b"\n"].concat();
    for (body, message) in [
        (damaged.as_slice(), "the deb's SHA-256 is"),
        (&deb[..deb.len() - 8], "fewer than the"),
        (&longer, "more than the"),
        (b"", "fewer than the"),
    ] {
        let error = place.ingester.ingest(&locked(&deb), &mut &*body).expect_err(message);
        assert!(error.to_string().contains(message), "{error}");
    }
    // A lock that lies about a deb that is there.
    place.take(&deb);
    let other = LockedPackage { version: "3".to_owned(), ..locked(&deb) };
    assert!(place.ingester.lookup(&other).expect_err("a lie").to_string().contains("Version"));
}

#[test]
fn an_interrupted_download_is_no_fault_of_the_package() {
    struct Cut<'a>(&'a [u8]);
    impl Read for Cut<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(Error::new(Kind::Interrupted, "stopped").into()),
                count => Ok(count),
            }
        }
    }
    let mut place = place();
    let deb = simple(&[folder("./"), file("./a", &"a".repeat(100_000))]);
    for end in [0, 4, 70, 200, deb.len() / 2, deb.len() - 1] {
        let error = place.ingester.ingest(&locked(&deb), &mut Cut(&deb[..end])).expect_err("cut");
        assert_eq!(error.kind(), Kind::Interrupted, "cut at {end}: {error}");
    }
}

#[test]
fn a_bomb_is_not_swallowed() {
    // A header that claims 3 GiB is enough: nothing of them is written.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("zstd");
    let mut header = Header::new_gnu();
    let size = 3u64 << 30;
    header.set_path("./zeros").expect("a path");
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_cksum();
    encoder.write_all(header.as_bytes()).expect("zstd");
    io::copy(&mut io::repeat(0).take(1 << 20), &mut encoder).expect("zstd");
    let deb = ar_of(&[
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", tar_of(&[folder("./"), file("./control", CONTROL)])),
        ("data.tar.zst", encoder.finish().expect("zstd")),
    ]);
    let mut place = place();
    let error = place.ingester.ingest(&locked(&deb), &mut deb.as_slice()).expect_err("a bomb");
    assert!(error.to_string().contains("zeros"), "{error}");
    assert_eq!(place.ostree(&["refs"]), "");
}
