//! Debs that no archive should have: refused by name, with nothing of them in the store.

use crate::common::{
    account::Account,
    archive::Archive,
    fixture::Miniature,
    package::{Compression, Deb, Package},
    tarball::{Kind, Member, ar, tar},
    tier::{Tier, needs},
};

/// A deb of the package `evil`, described by these lines.
fn described(lines: &str) -> Deb {
    Package::parse(&format!("Package: evil\n{lines}")).build()
}

/// A deb of the package `evil`, whose data tar is changed by `tamper`.
fn tampered(tamper: impl FnOnce(&mut Vec<u8>)) -> Deb {
    Package::parse("Package: evil\nfile ./usr/share/evil = evil\n").build_with(tamper)
}

/// A deb whose ar members are these.
fn assembled(members: &[(&str, &[u8])]) -> Deb {
    let mut deb = described("");
    deb.bytes = ar(members).into();
    deb
}

/// The ar members of a sound deb: control and data.
fn parts() -> (Vec<u8>, Vec<u8>) {
    let control =
        b"Package: evil\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@mirror.example>\nDescription: x\n";
    let member = Member { data: control.to_vec(), ..Member::new(Kind::File, "./control", 0o644) };
    let gzip = |members: &[Member]| Compression::Gzip.compress(&tar(members));
    (gzip(&[member]), gzip(&[Member::new(Kind::Folder, "./", 0o755)]))
}

/// Offset of the size field of a tar header, in octal (tar(5)).
const TAR_SIZE: usize = 124;

/// Sets the size that a header claims, and its checksum.
fn claim(tar: &mut [u8], header: usize, size: u64) {
    tar[header + TAR_SIZE..header + TAR_SIZE + 12].copy_from_slice(format!("{size:011o}\0").as_bytes());
    let checksum = header + 148..header + 156;
    tar[checksum.clone()].fill(b' ');
    let sum: u32 = tar[header..header + 512].iter().map(|byte| u32::from(*byte)).sum();
    tar[checksum].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Offset of the header of `./usr/share/evil`, behind the folders before it.
fn evil_header(tar: &[u8]) -> usize {
    let found = tar.chunks(512).position(|block| block.starts_with(b"./usr/share/evil\0"));
    found.expect("the member") * 512
}

fn cases() -> Vec<(&'static str, Deb)> {
    let (control, data) = parts();
    let lie = |field: &str, value: &str| {
        let mut deb = described("file ./usr/share/evil = evil\n");
        deb.lies.push((field.to_owned(), value.to_owned()));
        deb
    };
    let size = |difference: i64| {
        let deb = described("file ./usr/share/evil = evil\n");
        lie("Size", &(deb.bytes.len() as i64 + difference).to_string())
    };
    vec![
        ("leaves the root by ..", described("bare\nfile ./../../etc/evil = x\n")),
        ("has .. inside", described("bare\nfile ./usr/../etc/evil = x\n")),
        ("has an absolute path", described("bare\nfile /etc/evil = x\n")),
        (
            "writes through its own symlink",
            described("symlink ./usr/share/evil -> /etc\nfile ./usr/share/evil/passwd = x\n"),
        ),
        ("writes through its own file", described("bare\nfile ./usr = x\nfile ./usr/evil = x\n")),
        ("links to what it does not have", described("link ./usr/bin/evil -> ./etc/shadow\n")),
        ("links out of the root", described("link ./usr/bin/evil -> ../../etc/shadow\n")),
        ("has a character device", described("character-device ./dev/evil\n")),
        ("has a block device", described("block-device ./dev/evil\n")),
        ("has a member twice", described("file ./usr/share/evil = 1\nfile ./usr/share/evil = 2\n")),
        (
            "has a member twice, spelt differently",
            described("bare\nfile ./usr/evil = 1\nfile usr/evil = 2\n"),
        ),
        (
            "claims a larger member than there is",
            tampered(|tar| {
                let header = evil_header(tar);
                claim(tar, header, 1 << 30);
            }),
        ),
        (
            "ends inside a member",
            tampered(|tar| {
                let header = evil_header(tar);
                tar.truncate(header + 512 + 2);
            }),
        ),
        ("ends inside a header", tampered(|tar| tar.truncate(700))),
        (
            "has a header with a wrong checksum",
            tampered(|tar| {
                let header = evil_header(tar);
                tar[header] = b'X';
            }),
        ),
        ("is no ar archive", {
            let mut deb = described("");
            deb.bytes = b"not a deb".as_slice().into();
            deb
        }),
        ("has no control", assembled(&[("debian-binary", b"2.0\n"), ("data.tar.gz", &data)])),
        ("has no data", assembled(&[("debian-binary", b"2.0\n"), ("control.tar.gz", &control)])),
        (
            "is of a later format",
            assembled(&[("debian-binary", b"3.0\n"), ("control.tar.gz", &control), ("data.tar.gz", &data)]),
        ),
        (
            "is not compressed as it says",
            assembled(&[("debian-binary", b"2.0\n"), ("control.tar.gz", &control), ("data.tar.xz", &data)]),
        ),
        (
            "is cut in its compressed data",
            assembled(&[
                ("debian-binary", b"2.0\n"),
                ("control.tar.gz", &control),
                ("data.tar.gz", &data[..data.len() - 12]),
            ]),
        ),
        ("is larger than the index says", size(-1)),
        ("is smaller than the index says", size(1)),
        ("is another one than the index says", lie("SHA256", &"0".repeat(64))),
    ]
}

#[test]
fn a_bad_deb_is_refused_by_name_and_leaves_nothing() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree);
    for (name, deb) in cases() {
        let mut archive = Archive::without_base("Package: good\nfile ./usr/share/good = good\n");
        archive.add(deb);
        let tiny = Miniature::of(Account::Subordinate, archive, &["good", "evil"]);
        tiny.fixture.treestrap(&["lock"]).ok();
        let outcome = tiny.fixture.treestrap(&["fetch"]);
        assert_eq!(outcome.status.code(), Some(1), "a deb that {name}: {outcome}");
        assert!(outcome.stderr.contains("evil"), "a deb that {name} is not named: {outcome}");
        // the repository is sound, and no ref leads to anything of it
        tiny.fixture.fsck();
        let refs = tiny.fixture.refs();
        assert!(
            refs.len() <= 1 && !refs.iter().any(|name| name.contains("images/")),
            "a deb that {name}: {refs:?}"
        );
        let refused = tiny.fixture.treestrap(&["--offline", "compose"]);
        assert_eq!(refused.status.code(), Some(1), "a deb that {name} is composed: {refused}");
    }
}

#[test]
fn every_compression_of_debs_is_read() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree);
    let mut text = String::new();
    for compression in ["none", "gz", "xz", "zst"] {
        text += &format!(
            "Package: with-{compression}\ncompress {compression}\nfile ./usr/share/{compression} = {compression}\n\n"
        );
    }
    let packages = ["with-none", "with-gz", "with-xz", "with-zst"];
    let tiny = Miniature::of(Account::Subordinate, Archive::without_base(&text), &packages);
    tiny.fixture.write(
        "treestrap.toml",
        &tiny.fixture.read("treestrap.toml").replace("arch =", "essential = false\narch ="),
    );
    for verb in ["lock", "fetch", "compose"] {
        tiny.fixture.treestrap(&[verb]).ok();
    }
    let listing = tiny.fixture.listing("deb/images/tiny/unpacked");
    for compression in ["none", "gz", "xz", "zst"] {
        let path = format!("/usr/share/{compression}");
        assert!(listing.iter().any(|line| line.ends_with(&path)), "{compression}: {listing:#?}");
    }
    tiny.fixture.fsck();
}
