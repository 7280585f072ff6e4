//! `treestrap import apt2ostree`, from repositories that ostree(1) makes with apt2ostree's own
//! commands, of debs that dpkg-deb packs.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::{
    account::Account,
    apt2ostree,
    archive::Archive,
    fixture::{Fixture, Miniature, finish, ostree},
    package::Deb,
    tier::{Tier, needs},
};

/// What a tree could lose: owners, set-id bits, hard links, equal files, links, dates.
fn packages() -> String {
    let page = |letter: &str, length: usize| letter.repeat(length);
    let sum = "e7375833e499638505be5e2583eb317a"; // printf "sum\n" | md5sum
    let (linked, equal) = (page("l", 5000), page("e", 9000));
    format!(
        r#"
Package: hard
file ./usr/bin/first 4755 = {linked}
link ./usr/bin/second -> ./usr/bin/first
link ./usr/lib/third -> ./usr/bin/first
folder ./var/lib/hard 2750 33:8
file ./usr/share/hard/one = {equal}
file ./usr/share/hard/two = {equal}
file ./usr/share/hard/void
file ./usr/share/hard/void2
script postinst
    true

Package: named++
Version: 1.0~rc1+b1
Multi-Arch: same
Architecture: any-of-ours
Depends: hard
symlink ./usr/share/named -> hard/one
file ./usr/share/a-b = after a/
file ./usr/share/a/b = before a-b
file ./usr/share/doc/named++/changelog
    named++ (1.0~rc1+b1) unstable; urgency=medium
     -- A. Person <a@example.org>  Fri, 01 Sep 2023 12:00:00 +0200

Package: summed
file ./usr/share/summed = sum
control md5sums
    {sum}  usr/share/summed

Package: unclear
Installed-Size: 4711
file ./usr/share/unclear/one = {equal}
file ./usr/share/unclear/two = {equal}
"#
    )
    .replace("any-of-ours", crate::common::base::architecture())
}

/// A deb as dpkg-deb packs it, with the Installed-Size that dpkg-gencontrol writes.
fn packed(deb: &Deb, folder: &Path) -> Deb {
    let (unpacked, file) = (folder.join("unpacked"), folder.join("file.deb"));
    let dpkg_deb = |arguments: &[&str]| {
        let mut command = Command::new("dpkg-deb");
        command.args(arguments);
        finish(command).ok();
    };
    let (path, tree) = (file.to_str().expect("UTF-8"), unpacked.to_str().expect("UTF-8"));
    fs::write(&file, &*deb.bytes).expect("a deb");
    dpkg_deb(&["-R", path, tree]);
    let mut control = deb.control.clone();
    if deb.field("Package") == "dpkg" {
        let version = control.iter_mut().find(|(name, _)| name == "Version").expect("a version");
        version.1 = "1.22.0".to_owned();
    }
    if !control.iter().any(|(name, _)| name == "Installed-Size") {
        fs::remove_file(unpacked.join("DEBIAN/control")).expect("a control file");
        control.push(("Installed-Size".to_owned(), kibibytes(&unpacked, &mut BTreeSet::new()).to_string()));
    }
    let text: String = control.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    fs::write(unpacked.join("DEBIAN/control"), text).expect("a control file");
    dpkg_deb(&["-Zgzip", "-b", tree, path]);
    let bytes = fs::read(&file).expect("a deb");
    fs::remove_dir_all(&unpacked).expect("a folder");
    Deb { control, bytes: bytes.into(), lies: deb.lies.clone() }
}

/// As dpkg-gencontrol counts: each inode once, folders as one.
fn kibibytes(path: &Path, seen: &mut BTreeSet<u64>) -> u64 {
    let metadata = fs::symlink_metadata(path).expect("a path");
    if metadata.is_dir() {
        let entries = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
        return 1 + entries.map(|path| kibibytes(&path, seen)).sum::<u64>();
    }
    let is_new = seen.insert(metadata.ino());
    if is_new { metadata.len().div_ceil(1024) } else { 0 }
}

/// Makes the archive's debs those of dpkg-deb.
fn archive() -> Archive {
    let mut archive = Archive::with_base(&packages());
    let folder = tempfile::tempdir().expect("a folder");
    let debs = archive.suite().debs.iter().map(|deb| packed(deb, folder.path())).collect();
    archive.suite().debs = debs;
    archive
}

/// A fixture with the debs of a fetched image in apt2ostree's repository, and with none in ours.
fn tiny() -> Miniature {
    let tiny = Miniature::of(Account::Root, archive(), &["hard", "named++", "summed", "unclear"]);
    let fixture = &tiny.fixture;
    fixture.treestrap(&["lock"]).ok();
    fixture.treestrap(&["fetch", "--keep-debs", "debs", "--repo", "fetched"]).ok();
    apt2ostree::unpack(fixture);
    apt2ostree::combine(fixture);
    tiny.server.take_requests();
    tiny
}

/// The ref in `theirs` of a package's part, as a path.
fn theirs(fixture: &Fixture, package: &str, part: &str) -> PathBuf {
    let list = ostree(&["refs", "--repo", fixture.path("theirs").to_str().expect("UTF-8")]).ok().stdout;
    let is_it = |name: &&str| name.contains(&format!("_{package}_")) && name.ends_with(part);
    fixture.path("theirs/refs/heads").join(list.lines().find(is_it).expect("a ref"))
}

#[test]
fn what_is_imported_is_what_fetching_gives() {
    needs!(Tier::As(Account::Root), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = tiny();
    let fixture = &tiny.fixture;
    let imported =
        fixture.treestrap(&["import", "apt2ostree", "theirs", "--lock", "tiny.lock", "Packages.lock"]);
    let imported = imported.ok();
    let fetched = apt2ostree::pool(&fixture.path("fetched"));
    let ours = apt2ostree::pool(&fixture.repo());
    let left: Vec<&String> = fetched.keys().filter(|name| !ours.contains_key(*name)).collect();
    assert_eq!(left.len(), 1, "{left:?} {imported}");
    for (name, commit) in &ours {
        assert_eq!(fetched.get(name), Some(commit), "{name}: {imported}");
    }
    let imported = imported.says(&[
        "unclear_1.0_all.deb is left to be fetched: whether usr/share/unclear/one and usr/share/unclear/two",
        &format!("{} packages taken, 1 are left to be fetched, 1 refs of images taken", ours.len()),
    ]);
    drop(imported);
    // Linked, not copied: what is not theirs are commits, and files made of control members.
    let objects = fixture.objects();
    let linked =
        objects.iter().filter(|path| fs::metadata(path).is_ok_and(|object| object.nlink() > 1)).count();
    assert!(linked * 2 > objects.len(), "{linked} of {} objects", objects.len());
    fixture.fsck();

    fixture.treestrap(&["build"]).ok();
    let debs = tiny.server.take_deb_requests();
    assert_eq!(debs.len(), 1, "one deb is left to be fetched: {debs:?}");
    assert!(debs[0].ends_with("/unclear_1.0_all.deb"), "{debs:?}");
    let again = fixture.treestrap(&["import", "apt2ostree", "theirs"]).ok();
    again.says(&[&format!("0 packages taken, {} were there already", fetched.len())]);
    // Their image beside ours: the same packages, by what dpkg says there, and other files.
    let reference = "deb/imported/Packages.lock/unpacked";
    assert!(fixture.refs().contains(&reference.to_owned()), "{:?}", fixture.refs());
    let difference = fixture.treestrap(&["diff", reference, "deb/images/tiny/unpacked"]).ok().stdout;
    // apt2ostree has configuration files at their places before they are configured.
    let is_known = |line: &str| line.contains(" /var/lib/dpkg") || line.contains(" /etc/issue");
    assert!(difference.lines().all(is_known), "{difference}");
    assert!(difference.contains("~ /var/lib/dpkg/status\n"), "{difference}");
    fixture
        .treestrap(&["import", "apt2ostree", "theirs", "other.lock"])
        .exits(1)
        .says(&["has no image \"other.lock\""]);
}

#[test]
fn what_is_damaged_or_foreign_is_named_and_left() {
    needs!(Tier::As(Account::Root), Tier::Ostree);
    let tiny = tiny();
    let fixture = &tiny.fixture;
    let repo = fixture.path("theirs");
    let object = |reference: &Path, path: &str| {
        let commit = fs::read_to_string(reference).expect("a ref");
        let list = ["ls", "-C", "--repo", repo.to_str().expect("UTF-8"), commit.trim(), path];
        let line = ostree(&list).ok().stdout;
        let checksum = line.split_whitespace().nth(4).expect("a checksum").to_owned();
        repo.join("objects").join(&checksum[..2]).join(format!("{}.file", &checksum[2..]))
    };
    // An object whose content is another one, a ref that is cut off, one that is gone, one of nobody's.
    fs::write(object(&theirs(fixture, "named__", "/data"), "/usr/share/a-b"), "altered\n")
        .expect("an object");
    fs::write(theirs(fixture, "hard", "/control"), "0123").expect("a ref");
    fs::remove_file(theirs(fixture, "dash", "/data")).expect("a ref");
    fs::write(repo.join("refs/heads/deb/pool/mine"), "").expect("a ref");
    // The tree of one with the control files of another, which has md5sums; and the other way round.
    fs::copy(theirs(fixture, "dpkg", "/data"), theirs(fixture, "summed", "/data")).expect("a ref");
    fs::copy(theirs(fixture, "dpkg", "/control"), theirs(fixture, "unclear", "/control")).expect("a ref");
    let outcome = fixture.treestrap(&["import", "apt2ostree", "theirs"]).exits(1).says(&[
        "named___1.0_rc1_b1_",
        "usr/share/a-b: ",
        "/control: ",
        "hard_1.0_all.deb is damaged, or no package: there is no ref of its control files",
        "dash_1.0_",
        "there is no ref of its tree",
        "deb/pool/mine: apt2ostree writes no such ref",
        "its control files are those of dpkg",
        "summed_1.0_all.deb is left to be fetched: its md5sums are not those of its files: usr/share/summed",
    ]);
    let fetched = apt2ostree::pool(&fixture.path("fetched"));
    let ours = apt2ostree::pool(&fixture.repo());
    assert_eq!(ours.len(), fetched.len() - 5, "{outcome}");
    assert!(ours.iter().all(|(name, commit)| fetched.get(name) == Some(commit)), "{outcome}");
    fixture.fsck();
    // What loses owners is refused as a whole.
    fixture.run("ostree", &["init", "--repo=only", "--mode=bare-user-only"]).ok();
    fixture.treestrap(&["import", "apt2ostree", "only"]).exits(1).says(&["bare-user-only"]);
    fixture.treestrap(&["import", "apt2ostree", "nowhere"]).exits(1).says(&["nowhere"]);
}

/// A lock as apt2ostree has it: some fields of each package, none of treestrap's, no Size.
fn as_theirs(lock: &str) -> String {
    const FIELDS: [&str; 8] =
        ["Package", "Architecture", "Version", "Depends", "Pre-Depends", "Filename", "SHA256", "Multi-Arch"];
    let stanzas = lock.split("\n\n").filter(|stanza| !stanza.trim().is_empty()).map(|stanza| {
        let is_known = |line: &&str| line.split_once(": ").is_some_and(|(name, _)| FIELDS.contains(&name));
        stanza.lines().filter(is_known).map(|line| format!("{line}\n")).collect::<String>() + "\n"
    });
    stanzas.collect()
}

#[test]
fn a_lock_of_apt2ostree_is_used_and_left_as_it_is() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let mut tiny =
        Miniature::new(Account::Subordinate, "Package: hello\nDepends: more\n\nPackage: more\n", &["hello"]);
    tiny.fixture.treestrap(&["build", "--repo", "ours"]).ok();
    let configured = |fixture: &Fixture, repo: &str| {
        let reference = format!("{repo}/refs/heads/deb/images/tiny/configured");
        fs::read_to_string(fixture.path(&reference)).expect("a ref")
    };
    let theirs = as_theirs(&tiny.fixture.read("tiny.lock"));
    assert!(!theirs.contains("Size:") && !theirs.contains("Treestrap-"), "{theirs}");
    tiny.fixture.write("tiny.lock", &theirs);
    // Anything but the same bytes is a change: a blank line more, say, which deb822 passes over.
    let theirs = theirs + "\n";
    tiny.fixture.write("tiny.lock", &theirs);
    for arguments in [&["lock", "--check"][..], &["build"], &["lock"], &["lock", "--update"], &["fetch"]] {
        tiny.fixture.treestrap(arguments).ok();
        assert_eq!(tiny.fixture.read("tiny.lock"), theirs, "{arguments:?} leaves it alone");
    }
    let fixture = &tiny.fixture;
    assert_eq!(configured(fixture, "ours"), configured(fixture, ".treestrap/repo"), "the same image");
    tiny.images(&[("tiny", &["hello", "absent"])]);
    tiny.fixture.treestrap(&["lock", "--check"]).exits(1).says(&["absent is not in it"]);
    tiny.images(&[("tiny", &["hello"])]);
    tiny.update(|archive| {
        let newer = Archive::with_base("Package: hello\nDepends: more\n\nPackage: more\nVersion: 2\n");
        archive.suite().debs = newer.suites.into_iter().flat_map(|suite| suite.debs).collect();
    });
    tiny.fixture.treestrap(&["lock"]).ok();
    assert_eq!(tiny.fixture.read("tiny.lock"), theirs, "its versions are kept");
    tiny.fixture.treestrap(&["lock", "--update"]).ok();
    let updated = tiny.fixture.read("tiny.lock");
    assert!(
        updated.contains("Package: more\nVersion: 2\n") && updated.contains("Treestrap-Request: "),
        "{updated}"
    );
}
