//! What leaves the store: owners, modes, links, capabilities and xattrs, by GNU tar and getcap.

use std::{collections::BTreeMap, fs, process::Command};

use crate::common::{
    account::Account,
    fixture::{Miniature, finish},
    tier::{Tier, needs},
};

const VARIED: &str = r#"
Package: varied
Depends: libcap2-bin
file ./usr/bin/varied-su 4755 = su
file ./usr/bin/varied-mail 2755 0:8 = mail
file ./usr/share/varied/one = linked
link ./usr/share/varied/two -> ./usr/share/varied/one
symlink ./usr/share/varied/link -> ../nowhere
folder ./var/spool/varied 1733 33:33
file ./usr/bin/varied-ping = ping
script postinst
    chown 33:42 /usr/share/varied/link -h
    setcap cap_net_raw+ep /usr/bin/varied-ping
    echo data >/var/spool/varied/data
    chmod 600 /var/spool/varied/data
    chown 33:33 /var/spool/varied/data
    ln /var/spool/varied/data /var/spool/varied/data2
"#;

/// `tar -tv`, without dates: path → the rest of the line.
fn tar_listing(tar: &std::path::Path) -> BTreeMap<String, String> {
    let mut command = Command::new("tar");
    command
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .args([
            "--list",
            "--verbose",
            "--verbose",
            "--numeric-owner",
            "--full-time",
            "--xattrs",
            "--xattrs-include=*",
            "--file",
        ])
        .arg(tar);
    let text = finish(command).ok().stdout;
    let mut out = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("x: ") {
            out.entry(last.clone()).and_modify(|entry: &mut String| *entry += &format!(" {}", line.trim()));
            continue;
        }
        let mut words = line.split_whitespace();
        let (mode, owner, size) =
            (words.next().expect("a mode"), words.next().expect("owners"), words.next().expect("a size"));
        let date = format!("{} {}", words.next().expect("a date"), words.next().expect("a time"));
        assert_eq!(date, "1970-01-01 00:00:00", "every mtime is 0: {line}");
        let rest = words.collect::<Vec<_>>().join(" ");
        let (path, target) = match rest.split_once(" -> ").or_else(|| rest.split_once(" link to ")) {
            Some((path, target)) => (path, format!(" {target}")),
            None => (rest.as_str(), String::new()),
        };
        last = format!("/{}", path.trim_start_matches("./").trim_matches('/'));
        out.insert(last.clone(), format!("{mode} {owner} {size}{target}"));
    }
    out
}

#[test]
fn a_tar_has_everything_and_is_the_same_each_time() {
    needs!(Tier::Ostree, Tier::Userns, Tier::Overlay, Tier::Capabilities);
    let archive = crate::common::archive::Archive::with_base(VARIED);
    let server = crate::common::server::Server::new(archive.publish());
    let mut tars = Vec::new();
    for account in [Account::Subordinate, Account::Root] {
        needs!(Tier::As(account));
        let fixture =
            crate::common::fixture::Fixture::with_archive(account, &archive, &server.uri(), &["varied"]);
        fixture.treestrap(&["build"]).ok();
        fixture.treestrap(&["export", "tiny", "--tar", "image.tar"]).ok();
        let piped = fixture.run(
            "sh",
            &[
                "-c",
                "\"$0\" export tiny --tar - | cmp - image.tar",
                fixture.program().to_str().expect("UTF-8"),
            ],
        );
        piped.ok();
        let listing = tar_listing(&fixture.path("image.tar"));
        let entry =
            |path: &str| listing.get(path).unwrap_or_else(|| panic!("no {path} in {listing:#?}")).as_str();
        assert_eq!(entry("/usr/bin/varied-su"), "-rwsr-xr-x 0/0 3");
        assert_eq!(entry("/usr/bin/varied-mail"), "-rwxr-sr-x 0/8 5");
        assert_eq!(entry("/var/spool/varied"), "drwx-wx-wt 33/33 0");
        assert_eq!(entry("/usr/share/varied/link"), "lrwxrwxrwx 33/42 0 ../nowhere");
        assert_eq!(entry("/tmp"), "drwxrwxrwt 0/0 0");
        assert_eq!(entry("/root"), "drwx------ 0/0 0");
        // file capabilities as version 2: 20 bytes; version 3, which names a namespace, has 24
        assert_eq!(entry("/usr/bin/varied-ping"), "-rwxr-xr-x* 0/0 5 x: 20 security.capability");
        for (one, two) in [
            ("/usr/share/varied/one", "/usr/share/varied/two"),
            ("/var/spool/varied/data", "/var/spool/varied/data2"),
        ] {
            let links = [entry(one), entry(two)].iter().filter(|line| line.starts_with('h')).count();
            assert_eq!(links, 1, "{one} and {two} are one file: {} {}", entry(one), entry(two));
        }
        assert!(
            !listing.keys().any(|path| path.starts_with("/dev/") || path.contains(".wh.")),
            "{listing:#?}"
        );
        // as many paths as the commit has
        let paths = fixture.listing("deb/images/tiny/configured").len();
        assert_eq!(listing.len(), paths);
        tars.push(fs::read(fixture.path("image.tar")).expect("a tar"));
    }
    assert!(tars.windows(2).all(|pair| pair[0] == pair[1]), "the tar is the same for every account");
}

#[test]
fn a_folder_that_root_exports_is_a_root_file_system() {
    needs!(Tier::As(Account::Root), Tier::Ostree, Tier::Overlay, Tier::Capabilities);
    let tiny = Miniature::new(Account::Root, VARIED, &["varied"]);
    tiny.fixture.treestrap(&["build"]).ok();
    tiny.fixture.treestrap(&["export", "tiny", "--dir", "root"]).ok();
    tiny.fixture.treestrap(&["export", "tiny", "--tar", "image.tar"]).ok();
    // tar finds no difference between the folder and the tar
    tiny.fixture
        .run("tar", &["--compare", "--numeric-owner", "--file", "image.tar", "--directory", "root"])
        .ok();
    let capabilities = tiny.fixture.run("getcap", &["-r", "root"]).ok().stdout;
    assert_eq!(capabilities, "root/usr/bin/varied-ping cap_net_raw=ep\n");
    tiny.fixture.run("chroot", &["root", "dpkg", "--audit"]).ok();
    // what is there is not overwritten
    tiny.fixture.treestrap(&["export", "tiny", "--dir", "root"]).exits(1).says(&["root"]);
}

#[test]
fn an_ordinary_user_exports_a_folder_with_the_same_contents() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, VARIED, &["varied"]);
    tiny.fixture.treestrap(&["build"]).ok();
    tiny.fixture.treestrap(&["export", "tiny", "--dir", "root"]).ok();
    let count = |command: &str| tiny.fixture.run("sh", &["-c", command]).ok().stdout.lines().count();
    let paths = tiny.fixture.listing("deb/images/tiny/configured").len();
    assert_eq!(count("find root"), paths);
    let data = fs::read_to_string(tiny.fixture.path("root/usr/share/varied/two")).expect("a file");
    assert_eq!(data, "linked\n");
    tiny.fixture.treestrap(&["export", "nosuch", "--tar", "x.tar"]).exits(1).says(&["nosuch"]);
    assert!(!tiny.fixture.path("x.tar").exists());
}
