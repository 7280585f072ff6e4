//! Tests of the repository, with the ostree program as an independent reader.

use std::{fs, os::unix::fs::MetadataExt, process::Command};

use super::*;
use crate::error::Kind;

/// Owner and mode of a root-owned thing.
pub(crate) fn plain(mode: u32) -> Metadata {
    Metadata { uid: 0, gid: 0, mode, xattrs: Vec::new() }
}

/// A repository in a folder that goes away.
pub(crate) fn repository() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open_or_create(&folder.path().join("deep/repo")).expect("a repository");
    (folder, store)
}

/// A tree of files: path, metadata, content (a link's target for a link).
pub(crate) fn tree(store: &Store, transaction: &mut Transaction, files: &[(&str, Metadata, &str)]) -> Folder {
    let folder = transaction.write_folder_metadata(&plain(0o755)).expect("a dirmeta");
    let mut root = Folder::empty(folder);
    for (path, metadata, content) in files {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if metadata.mode & object::S_IFMT == object::S_IFDIR {
            let own = transaction.write_folder_metadata(metadata).expect("a dirmeta");
            root.make_folder(store, path, folder).expect("a tree").expect("a folder").metadata = own;
            continue;
        }
        let checksum = transaction.write_object(metadata, content.as_bytes()).expect("an object");
        let parent = root.make_folder(store, parent, folder).expect("a tree").expect("a folder");
        parent
            .entries(store)
            .expect("entries")
            .insert((*name).to_owned(), Node::Object { checksum, mark: 0 });
    }
    root
}

/// A commit of such a tree.
pub(crate) fn commit(store: &Store, files: &[(&str, Metadata, &str)]) -> Sha256 {
    let mut transaction = store.transaction().expect("a transaction");
    let root = tree(store, &mut transaction, files);
    let commit = transaction.write_commit(&root, "a test", &mut []).expect("a commit");
    transaction.set_reference("test", commit);
    transaction.commit().expect("committing");
    commit
}

/// What the ostree program says.
pub(crate) fn ostree(store: &Store, arguments: &[&str]) -> String {
    let output = Command::new("ostree")
        .arg(format!("--repo={}", store.path().display()))
        .args(arguments)
        .output()
        .expect("the ostree program");
    assert!(output.status.success(), "ostree {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

const LARGE: usize = 3 << 20;

#[test]
fn what_is_written_is_what_ostree_reads() {
    let (_folder, store) = repository();
    let large = "x".repeat(LARGE);
    let capability = vec![(b"user.b".to_vec(), b"2".to_vec()), (b"user.a".to_vec(), vec![0, 255])];
    let files = [
        ("usr/bin/tool", plain(0o100_755), "content"),
        ("usr/bin/setuid", Metadata { uid: 1, gid: 42, mode: 0o104_755, xattrs: Vec::new() }, ""),
        ("usr/bin/attributes", Metadata { xattrs: capability, ..plain(0o100_644) }, "a"),
        ("usr/lib/large", plain(0o100_640), &large),
        ("lib", plain(0o120_777), "usr/lib"),
        ("var/private", Metadata { uid: 7, gid: 8, mode: 0o042_770, xattrs: Vec::new() }, ""),
    ];
    let first = commit(&store, &files);
    assert_eq!(commit(&store, &files), first, "the same tree is the same commit");
    ostree(&store, &["fsck"]);
    let listing = ostree(&store, &["ls", "-R", "test"]);
    for line in [
        "-00755 0 0      7 /usr/bin/tool",
        "-04755 1 42      0 /usr/bin/setuid",
        "l00777 0 0      0 /lib -> usr/lib",
        "d02770 7 8      0 /var/private",
        &format!("-00640 0 0 {LARGE} /usr/lib/large"),
    ] {
        assert!(listing.contains(line), "{line:?} is not in\n{listing}");
    }
    let attributes = ostree(&store, &["ls", "-X", "test", "/usr/bin/attributes"]);
    let (a, b) = (attributes.find("user.a"), attributes.find("user.b"));
    assert!(a.is_some() && a < b, "attributes are sorted: {attributes}");

    let mut root = store.root(first).expect("the root");
    let Some(Node::Object { checksum, .. }) = root.find(&store, "usr/bin/attributes").expect("a tree") else {
        panic!("no file");
    };
    let metadata = store.object_metadata(*checksum).expect("metadata");
    assert_eq!(metadata.xattrs[0], (b"user.a".to_vec(), vec![0, 255]));
}

#[test]
fn a_file_from_memory_is_the_object_that_libostree_makes() {
    let (_folder, store) = repository();
    let attributes =
        vec![(b"user.b".to_vec(), b"2".to_vec()), (b"security.capability".to_vec(), vec![1, 255])];
    let transaction = store.transaction().expect("a transaction");
    for (metadata, size) in [
        (plain(0o100_644), 0),
        (plain(0o100_755), 1),
        (Metadata { uid: 1000, gid: 42, mode: 0o106_755, xattrs: attributes }, 70_001),
        (plain(0o100_600), 4 << 20),
    ] {
        let content: Vec<u8> = (0..size).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
        let xattrs = object::xattrs_variant(&metadata.xattrs);
        let Metadata { uid, gid, mode, .. } = metadata;
        let theirs = transaction
            .repository()
            .write_regfile_inline(None, uid, gid, mode, Some(&xattrs), &content, gio::Cancellable::NONE)
            .expect("written by libostree");
        let mut ours = store.reopen().expect("a second handle").transaction().expect("a transaction");
        let ours = ours.write_file(&metadata, &mut content.as_slice(), u64::from(size)).expect("written");
        assert_eq!(ours.to_string(), theirs.as_str(), "{metadata:?} {size}");
    }
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let (_folder, store) = repository();
    let mut transaction = store.transaction().expect("a transaction");
    let root = tree(&store, &mut transaction, &[("a", plain(0o100_644), "a")]);
    let lost = transaction.write_commit(&root, "lost", &mut []).expect("a commit");
    transaction.set_reference("test", lost);
    drop(transaction);
    assert_eq!(store.resolve("test").expect("resolving"), None);
    assert!(!store.has_commit(lost).expect("looking"));
    assert_eq!(ostree(&store, &["refs"]), "");
    // Two at once, of the same content: neither minds the other.
    let other = store.reopen().expect("a second handle");
    let (mut one, mut two) = (store.transaction().expect("one"), other.transaction().expect("two"));
    let files = [("a", plain(0o100_644), "shared")];
    let (root_one, root_two) = (tree(&store, &mut one, &files), tree(&other, &mut two, &files));
    let a = one.write_commit(&root_one, "", &mut []).expect("a commit");
    let b = two.write_commit(&root_two, "", &mut []).expect("a commit");
    one.set_reference("one", a);
    two.set_reference("two", b);
    one.commit().expect("one");
    two.commit().expect("two");
    assert_eq!(store.references("").expect("refs"), [("one".to_owned(), a), ("two".to_owned(), a)]);
    ostree(&store, &["fsck"]);
}

#[test]
fn refs_are_as_libostree_makes_them() {
    let (_folder, store) = repository();
    let commit = commit(&store, &[("a", plain(0o100_644), "a")]);
    ostree(&store, &["refs", &commit.to_string(), "--create=theirs/of/three"]);
    let mut transaction = store.transaction().expect("a transaction");
    transaction.set_reference("ours/of/three", commit);
    transaction.commit().expect("committing");
    let file = |reference: &str| {
        let path = store.path().join("refs/heads").join(reference);
        let mode = path.metadata().expect("a ref").mode();
        (mode, fs::read(path).expect("a ref"))
    };
    assert_eq!(file("ours/of/three"), file("theirs/of/three"));
    let refs = || {
        let mut refs: Vec<String> = ostree(&store, &["refs"]).lines().map(str::to_owned).collect();
        refs.sort();
        refs
    };
    assert_eq!(refs(), ["ours/of/three", "test", "theirs/of/three"]);

    // One that cannot get its name.
    let mut transaction = store.transaction().expect("a transaction");
    transaction.remove_reference("theirs/of/three");
    transaction.set_reference("ours/of", commit);
    let error = transaction.commit().expect_err("a folder is in the way").to_string();
    assert!(error.contains("moving the ref ours/of"), "{error}");
    // The last word counts.
    let mut transaction = store.transaction().expect("a transaction");
    transaction.remove_reference("test");
    transaction.set_reference("test", commit);
    transaction.commit().expect("committing");
    store.remove_references(&["theirs/of/three".into(), "nothing".into()]).expect("removed");
    let left = fs::read_dir(store.path().join("tmp")).expect("a folder");
    let left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("staging-")), "{left:?}");
    assert_eq!(refs(), ["ours/of/three", "test"]);
}

#[test]
fn content_of_the_wrong_size_is_refused() {
    let (_folder, store) = repository();
    let mut transaction = store.transaction().expect("a transaction");
    for size in [1, 3, 2 << 20] {
        let error = transaction.write_file(&plain(0o644), &mut b"ab".as_slice(), size).expect_err("refused");
        assert_eq!(error.kind(), Kind::Input, "{error}");
    }
    let mut endless = std::io::repeat(b'x');
    assert!(transaction.write_file(&plain(0o644), &mut endless, 2 << 20).is_err());
    assert!(transaction.write_symlink(&plain(0o777), b"\xff").is_err(), "not UTF-8");
}

#[test]
fn a_folder_that_is_no_repository_of_ours() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = Store::open(folder.path()).map(|_| ()).expect_err("empty");
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    let archive = folder.path().join("archive");
    let status = Command::new("ostree")
        .args(["init", "--mode=archive", "--repo"])
        .arg(&archive)
        .status()
        .expect("the ostree program");
    assert!(status.success());
    let error = Store::open_or_create(&archive).map(|_| ()).expect_err("another mode");
    assert!(error.get_hint().is_some_and(|hint| hint.contains("--repo")), "{error:?}");
}

#[test]
fn a_half_made_repository_is_made_whole() {
    let (folder, store) = repository();
    // as a process finds it while another makes it, or where that one was killed
    for missing in ["objects", "refs/heads", "refs", "tmp"] {
        let missing = store.path().join(missing);
        fs::remove_dir_all(&missing).expect("a folder of the repository");
        fs::remove_dir_all(store.path().join("objects")).ok();
        Store::open_or_create(store.path()).expect("a repository");
        assert!(missing.is_dir(), "{} is made again", missing.display());
    }
    drop(folder);
}

#[test]
fn a_walk_tells_all_metadata() {
    let (_folder, store) = repository();
    let attributes = vec![(b"security.capability".to_vec(), vec![1; 20])];
    let files = [
        ("bin/capable", Metadata { xattrs: attributes, ..plain(0o100_755) }, "capable"),
        ("bin/setuid", plain(0o104_755), "setuid"),
        ("etc/link", Metadata { uid: 5, ..plain(0o120_777) }, "shadow"),
        ("etc/shadow", Metadata { gid: 42, ..plain(0o100_640) }, "secret"),
        ("usr/a", plain(0o100_644), "one file"),
        ("usr/b", plain(0o100_644), "one file"),
        ("usr/same", plain(0o100_644), "one file"),
        ("var", Metadata { uid: 3, gid: 4, ..plain(0o041_777) }, ""),
    ];
    let mut transaction = store.transaction().expect("a transaction");
    let root = tree(&store, &mut transaction, &files);
    let links = records::to_json(&[["usr/a", "usr/b"]]).expect("JSON");
    let mut values = [(records::HARD_LINKS_KEY, links)];
    let commit = transaction.write_commit(&root, "a test", &mut values).expect("a commit");
    transaction.commit().expect("committing");
    let mut seen = Vec::new();
    store
        .walk(commit, &mut |Visit { path, what }| {
            seen.push(match what {
                Visited::Folder(metadata) => {
                    format!("{path}/ {} {} {:o}", metadata.uid, metadata.gid, metadata.mode)
                }
                Visited::File { metadata, size, object, has_links } => {
                    let object = store.objects().join(object);
                    let text = fs::read_to_string(&object).expect("the object");
                    assert_eq!(text.len() as u64, size);
                    assert_eq!(has_links, path == "usr/a");
                    let Metadata { uid, gid, mode, xattrs } = metadata;
                    format!("{path}={text} {uid} {gid} {mode:o} {}", xattrs.len())
                }
                Visited::Symlink { metadata, target } => {
                    format!("{path}>{} {} {:o}", String::from_utf8_lossy(target), metadata.uid, metadata.mode)
                }
                Visited::HardLink { first } => format!("{path} is {first}"),
            });
            Ok(())
        })
        .expect("a walk");
    assert_eq!(
        seen,
        [
            "/ 0 0 40755",
            "bin/ 0 0 40755",
            "bin/capable=capable 0 0 100755 1",
            "bin/setuid=setuid 0 0 104755 0",
            "etc/ 0 0 40755",
            "etc/link>shadow 5 120777",
            "etc/shadow=secret 0 42 100640 0",
            "usr/ 0 0 40755",
            "usr/a=one file 0 0 100644 0",
            "usr/b is usr/a",
            "usr/same=one file 0 0 100644 0",
            "var/ 3 4 41777",
        ]
    );
}

#[test]
fn a_checkout_is_of_links() {
    let (folder, store) = repository();
    let files = [
        ("bin/again", plain(0o100_755), "program"),
        ("bin/program", plain(0o100_755), "program"),
        ("bin/setuid", plain(0o104_755), "setuid"),
        ("lib/link", plain(0o120_777), "../bin/program"),
    ];
    let commit = commit(&store, &files);
    let out = folder.path().join("out");
    fs::create_dir(&out).expect("a folder");
    store.checkout(commit, &out).expect("a checkout");
    let status = |path: &str| fs::symlink_metadata(out.join(path)).expect(path);
    assert_eq!(status("bin/program").ino(), status("bin/again").ino());
    assert_eq!(status("bin/program").nlink(), 3, "the object, and two links");
    assert_eq!(status("bin/setuid").mode(), 0o100_755);
    assert_eq!(fs::read(out.join("lib/link")).expect("followed"), b"program");
}

#[test]
fn differences_between_trees() {
    let (_folder, store) = repository();
    let same = ("usr/share/same", plain(0o100_644), "same");
    let a = commit(
        &store,
        &[
            same.clone(),
            ("etc/gone", plain(0o100_644), "x"),
            ("etc/mode", plain(0o100_644), "x"),
            ("opt/folder/file", plain(0o100_644), "x"),
            ("srv", plain(0o040_755), ""),
        ],
    );
    let b = commit(
        &store,
        &[
            same,
            ("etc/mode", plain(0o100_600), "x"),
            ("etc/new/file", plain(0o100_644), "x"),
            ("opt/folder", plain(0o100_644), "a file now"),
            ("srv", plain(0o040_700), ""),
        ],
    );
    let found = store.diff(a, b).expect("a comparison");
    let found: Vec<(&str, Change)> = found
        .iter()
        .map(|difference| (std::str::from_utf8(&difference.path).expect("UTF-8"), difference.change))
        .collect();
    assert_eq!(
        found,
        [
            ("etc/gone", Change::Removed),
            ("etc/mode", Change::Changed),
            ("etc/new", Change::Added),
            ("etc/new/file", Change::Added),
            ("opt/folder", Change::Replaced),
            ("opt/folder/file", Change::Removed),
            ("srv", Change::Changed),
        ]
    );
    assert_eq!(store.diff(a, a).expect("a comparison"), []);
}

#[test]
fn commits_say_what_they_are() {
    let (_folder, store) = repository();
    let mut transaction = store.transaction().expect("a transaction");
    let root = tree(&store, &mut transaction, &[]);
    let mut values = [
        (records::HARD_LINKS_KEY, r#"[["a","b"]]"#.to_owned()),
        (records::FORMAT_KEY, (records::FORMAT + 1).to_string()),
    ];
    let commit = transaction.write_commit(&root, "", &mut values).expect("a commit");
    transaction.write_beside_commit(commit, &mut [("beside", "1".to_owned())]).expect("detached metadata");
    transaction.set_reference("test", commit);
    transaction.commit().expect("committing");
    assert_eq!(store.hard_links(commit).expect("links"), [["a", "b"]]);
    assert_eq!(store.package_record(commit).expect("a commit"), None, "a newer format is not ours");
    assert!(store.list_packages(commit).is_err());
    assert_eq!(store.commit_value::<u32>(commit, "no such key").expect("a commit"), None);
    assert_eq!(ostree(&store, &["show", "--print-detached-metadata-key=beside", "test"]).trim(), "'1'");
    ostree(&store, &["fsck"]);
}
