//! Tests of export, with GNU tar as an independent reader.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    sync::{Mutex, atomic::AtomicBool},
};

use super::*;
use crate::{
    artefacts::Metadata,
    report::{Event, Reporter, Silent},
    store::{Folder, records::HARD_LINKS_KEY},
};

fn plain(mode: u32) -> Metadata {
    Metadata { uid: 0, gid: 0, mode, xattrs: Vec::new() }
}

/// A small image with one of everything.
fn image() -> (tempfile::TempDir, Store, Sha256, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open_or_create(&folder.path().join("repo")).expect("a repository");
    let mut transaction = store.transaction().expect("a transaction");
    let long = format!("usr/share/{}/{}", "ä".repeat(60), "b".repeat(120));
    let attributes = vec![(b"user.note".to_vec(), b"with = and\nnewline".to_vec())];
    let files = [
        (
            "etc/passwd",
            plain(0o100_644),
            "root:x:0:0::/:/bin/sh\ndaemon:x:3000000:1::/:/bin/sh\nlate:x:0:0\n",
        ),
        ("etc/group", plain(0o100_644), "root:x:0:\nshadow:x:42:\n"),
        ("etc/shadow", Metadata { gid: 42, ..plain(0o100_640) }, "secret"),
        ("usr/bin/setuid", Metadata { uid: 3_000_000, ..plain(0o104_755) }, "s"),
        ("usr/bin/same", Metadata { uid: 3_000_000, ..plain(0o104_755) }, "s"),
        ("usr/bin/note", Metadata { xattrs: attributes, ..plain(0o100_755) }, "n"),
        ("usr/bin/link", plain(0o120_777), "note"),
        (&long, plain(0o100_600), "long"),
    ];
    let metadata = transaction.write_folder_metadata(&plain(0o755)).expect("a dirmeta");
    let sticky = transaction.write_folder_metadata(&plain(0o1777)).expect("a dirmeta");
    let mut root = Folder::empty(metadata);
    for (path, file, content) in &files {
        let checksum = transaction.write_object(file, content.as_bytes()).expect("an object");
        let (parent, name) = path.rsplit_once('/').expect("a path");
        let parent = root.make_folder(&store, parent, metadata).expect("a tree").expect("a folder");
        parent.entries(&store).expect("entries").insert(name.to_owned(), Node::Object { checksum, mark: 0 });
    }
    root.make_folder(&store, "tmp", sticky).expect("a tree");
    let links = r#"[["usr/bin/same","usr/bin/setuid"],["etc/passwd","etc/group"]]"#;
    let commit = transaction
        .write_commit(&root, "image", &mut [(HARD_LINKS_KEY, links.to_owned())])
        .expect("a commit");
    transaction.commit().expect("committing");
    (folder, store, commit, long)
}

fn listing(archive: &Path, arguments: &[&str]) -> String {
    let output =
        Command::new("tar").arg("-tvf").arg(archive).args(arguments).env("TZ", "UTC").output().expect("tar");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn a_tar_is_what_gnu_tar_reads() {
    let (folder, store, commit, long) = image();
    let (mut one, mut two) = (Vec::new(), Vec::new());
    tar(&store, commit, &mut one).expect("a tar");
    tar(&store.reopen().expect("again"), commit, &mut two).expect("a tar");
    assert!(one == two, "the same tree gives the same bytes");
    let archive = folder.path().join("image.tar");
    fs::write(&archive, &one).expect("a file");
    let text = listing(&archive, &["--quoting-style=literal"]);
    let squeezed: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "drwxr-xr-x root/root 0 1970-01-01 00:00 ./",
        "-rw-r----- root/shadow 6 1970-01-01 00:00 ./etc/shadow",
        "lrwxrwxrwx root/root 0 1970-01-01 00:00 ./usr/bin/link -> note",
        "-rwsr-xr-x daemon/root 1 1970-01-01 00:00 ./usr/bin/same",
        "hrwsr-xr-x daemon/root 0 1970-01-01 00:00 ./usr/bin/setuid link to ./usr/bin/same",
        "drwxrwxrwt root/root 0 1970-01-01 00:00 ./tmp/",
        &format!("-rw------- root/root 4 1970-01-01 00:00 ./{long}"),
        // The commit calls these two hard links of one file, wrongly: they stay two.
        "-rw-r--r-- root/root 23 1970-01-01 00:00 ./etc/group",
    ] {
        assert!(squeezed.iter().any(|found| found == line), "{line:?} is not in\n{text}");
    }
    let numeric = listing(&archive, &["--numeric-owner"]);
    assert!(numeric.contains("3000000/0"), "{numeric}");
    let attributes = listing(&archive, &["--xattrs", "-v"]);
    assert!(attributes.contains("18 user.note"), "its size and name: {attributes}");
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Reporter for Notes {
    fn event(&self, event: Event) {
        if let Event::Note { message, .. } = event {
            self.0.lock().expect("no panic").push(message);
        }
    }
}

#[test]
fn a_folder_is_new_or_empty_and_complete() {
    let (folder, store, commit, long) = image();
    let out = folder.path().join("new/image");
    let notes = Notes::default();
    super::folder(&store, commit, &out, &notes, &AtomicBool::new(false)).expect("a folder");
    let inode = |path: &str| fs::symlink_metadata(out.join(path)).expect(path);
    assert_eq!(inode("usr/bin/setuid").ino(), inode("usr/bin/same").ino());
    assert_ne!(inode("etc/passwd").ino(), inode("etc/group").ino());
    assert_eq!(fs::read_to_string(out.join(&long)).expect("a file"), "long");
    assert_eq!(fs::read_link(out.join("usr/bin/link")).expect("a link"), Path::new("note"));
    for path in ["", "etc", "etc/shadow", "usr/bin/link"] {
        assert_eq!(inode(path).mtime(), 0, "{path:?}");
    }
    let notes = notes.0.into_inner().expect("no panic");
    let setuid = inode("usr/bin/setuid");
    if setuid.uid() == 3_000_000 {
        assert_eq!(setuid.permissions().mode() & 0o7777, 0o4755);
        assert_eq!(inode("etc/shadow").gid(), 42);
        assert!(!notes.iter().any(|note| note.contains("owners")), "{notes:?}");
    } else {
        assert_eq!(setuid.permissions().mode() & 0o7777, 0o755, "not setuid for someone else");
        assert!(notes.iter().any(|note| note.contains("owners")), "{notes:?}");
    }
    assert_eq!(inode("tmp").permissions().mode() & 0o7777, 0o1777);
    // Once more: it is not empty now, and stays as it is.
    let error = super::folder(&store, commit, &out, &Silent, &AtomicBool::new(false)).expect_err("not empty");
    assert!(error.to_string().contains("not empty"), "{error}");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    super::folder(&store, commit, &empty, &Silent, &AtomicBool::new(false)).expect("an empty folder will do");
    // Nothing is left beside them.
    assert_eq!(names(folder.path()), ["empty", "new", "repo"]);
    assert_eq!(names(&folder.path().join("new")), ["image"]);
}

/// What is in a folder, sorted.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn nothing_is_left_of_an_unfinished_folder() {
    let (folder, store, commit, _) = image();
    let out = folder.path().join("image");
    fs::create_dir(&out).expect("a folder");
    let error = super::folder(&store, commit, &out, &Silent, &AtomicBool::new(true)).expect_err("stopped");
    assert_eq!(error.kind(), crate::error::Kind::Interrupted);
    assert_eq!(names(folder.path()), ["image", "repo"]);
    assert_eq!(names(&out), Vec::<String>::new());
}
