//! Tests of commit.

use serde_json::json;

use super::*;
use crate::artefacts::{Layer, PackageState, UnpackedPackage};

fn plain(mode: u32) -> Metadata {
    Metadata { uid: 0, gid: 0, mode, xattrs: Vec::new() }
}

/// A repository with a composed image: files of two names, a folder, a link.
fn composed() -> (tempfile::TempDir, Store, Composed) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open_or_create(&folder.path().join("repo")).expect("a repository");
    let mut transaction = store.transaction().expect("a transaction");
    let metadata = transaction.write_folder_metadata(&plain(0o755)).expect("a dirmeta");
    let mut root = Folder::empty(metadata);
    let file = |transaction: &mut Transaction, content: &str| {
        let checksum = transaction.write_object(&plain(0o100_644), content.as_bytes()).expect("an object");
        Node::Object { checksum, mark: 0 }
    };
    for (parent, name) in [("etc", "a"), ("etc", "b"), ("etc", "c"), ("usr/share/doc", "x"), ("opt/old", "y")]
    {
        let content = if parent == "etc" { "linked" } else { name };
        let node = file(&mut transaction, content);
        let parent = root.make_folder(&store, parent, metadata).expect("a tree").expect("a folder");
        parent.entries(&store).expect("entries").insert(name.to_owned(), node);
    }
    let mut values =
        [(HARD_LINKS_KEY, r#"[["etc/a","etc/b","etc/c"],["etc/a","usr/share/doc/x"]]"#.to_owned())];
    let commit = transaction.write_commit(&root, "composed", &mut values).expect("a commit");
    transaction.set_reference("deb/images/image/unpacked", commit);
    transaction.commit().expect("committing");
    let package = UnpackedPackage {
        name: "a".to_owned(),
        qualified_name: "a".to_owned(),
        info_name: "a".to_owned(),
        version: "1".to_owned(),
        architecture: "armhf".to_owned(),
        control: String::new(),
        scripts: Vec::new(),
        diverts: false,
        newest: 0,
        layer: Layer::default(),
        state: PackageState::Unpacked,
    };
    let (image, architecture) = ("image".to_owned(), "armhf".to_owned());
    let composed =
        Composed { image, architecture, commit, packages: vec![package], held: Vec::new(), below: None };
    (folder, store, composed)
}

fn configured(changes: Vec<TreeChange>) -> Configured {
    Configured {
        image: "image".to_owned(),
        changes,
        enforced: json!({ "tier": "full" }),
        accelerated: None,
        packages: vec![("a".to_owned(), 0.5)],
        slowest: Vec::new(),
    }
}

fn change(path: &str, now: TreeEntry) -> TreeChange {
    TreeChange { path: path.as_bytes().to_vec(), now }
}

fn ostree(store: &Store, arguments: &[&str]) -> String {
    let output = std::process::Command::new("ostree")
        .arg(format!("--repo={}", store.path().display()))
        .args(arguments)
        .output()
        .expect("the ostree program");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn changes_of_every_kind() {
    let (_folder, store, composed) = composed();
    let mut adopter = Adopter::new(store.path()).expect("the repository");
    let setuid = Metadata {
        uid: 4,
        gid: 5,
        mode: 0o4755,
        xattrs: vec![
            (b"user.overlay.origin".to_vec(), b"x".to_vec()),
            (b"user.ostreemeta".to_vec(), b"x".to_vec()),
            (b"security.capability".to_vec(), b"c".to_vec()),
        ],
    };
    let new = adopter.adopt_file(&setuid, &mut b"new".as_slice(), 3).expect("adopting");
    let link = adopter.adopt_symlink(&plain(0o777), b"../target").expect("adopting");
    let object = |checksum, hard_link| TreeEntry::Object { checksum, hard_link };
    let folder = |mode, opaque| TreeEntry::Folder { metadata: plain(mode), opaque };
    let changes = vec![
        change("", folder(0o700, false)),
        change("etc/b", TreeEntry::Absent),
        change("opt", folder(0o755, true)),
        change("opt/new", object(new, Some(7))),
        change("opt/newer", object(new, Some(7))),
        change("opt/alone", object(new, Some(8))),
        change("usr/share/doc", folder(0o2775, false)),
        change("usr/share/doc/x", object(link, None)),
        change("var", folder(0o755, false)),
        change("var/lib", folder(0o711, false)),
    ];
    let extra = BTreeMap::from([("treestrap.preseed".to_owned(), json!("none"))]);
    let committed = adopter.commit(&composed, &configured(changes), &extra, None).expect("a commit");
    ostree(&store, &["fsck"]);
    let reference = "deb/images/image/configured";
    assert_eq!(store.resolve(reference).expect("resolving"), Some(committed.commit));
    let listing = ostree(&store, &["ls", "-R", reference]);
    let expected = "d00700 0 0      0 /\n\
                    d00755 0 0      0 /etc\n-00644 0 0      6 /etc/a\n-00644 0 0      6 /etc/c\n\
                    d00755 0 0      0 /opt\n-04755 4 5      3 /opt/alone\n-04755 4 5      3 /opt/new\n\
                    -04755 4 5      3 /opt/newer\n\
                    d00755 0 0      0 /usr\nd00755 0 0      0 /usr/share\nd02775 0 0      0 /usr/share/doc\n\
                    l00777 0 0      0 /usr/share/doc/x -> ../target\n\
                    d00755 0 0      0 /var\nd00711 0 0      0 /var/lib\n";
    assert_eq!(listing, expected);
    assert_eq!(
        store.hard_links(committed.commit).expect("links"),
        [vec!["etc/a".to_owned(), "etc/c".to_owned()], vec!["opt/new".to_owned(), "opt/newer".to_owned()]]
    );
    assert_eq!(store.list_packages(committed.commit).expect("packages"), composed.packages);
    let record = store.image_record(committed.commit).expect("a record").expect("of our format");
    assert_eq!((record.architecture.as_str(), record.source), ("armhf", composed.commit));
    let attributes = ostree(&store, &["ls", "-X", reference, "/opt/new"]);
    assert!(attributes.contains("security.capability"), "{attributes}");
    assert!(!attributes.contains("overlay") && !attributes.contains("ostreemeta"), "{attributes}");
    let beside = ostree(&store, &["show", "--print-detached-metadata-key=treestrap.enforced", reference]);
    assert!(beside.contains("full"), "{beside}");
}

#[test]
fn what_the_sandbox_enforced_does_not_change_the_checksum() {
    let (_folder, store, composed) = composed();
    let one = configured(vec![change("etc/b", TreeEntry::Absent)]);
    let two = Configured { enforced: json!({ "tier": "single" }), packages: Vec::new(), ..one.clone() };
    let extra = BTreeMap::new();
    let a = commit(&store, &composed, &one, &extra).expect("a commit");
    assert_eq!(commit(&store, &composed, &two, &extra).expect("a commit"), a);
    let other = BTreeMap::from([("treestrap.preseed".to_owned(), json!("x"))]);
    assert_ne!(commit(&store, &composed, &one, &other).expect("a commit"), a, "other inputs, another commit");
}

#[test]
fn what_cannot_be_is_an_error_that_names_the_path() {
    let (_folder, store, composed) = composed();
    let absent = |path: &[u8]| TreeChange { path: path.to_vec(), now: TreeEntry::Absent };
    for (changes, message) in [
        (vec![absent(b"etc/\xff")], "UTF-8"),
        (vec![absent(b"nowhere/x")], "/nowhere/x"),
        (vec![absent(b"")], "root"),
    ] {
        let error = commit(&store, &composed, &configured(changes), &BTreeMap::new()).expect_err(message);
        assert!(error.to_string().contains(message), "{error}");
    }
    assert_eq!(store.resolve("deb/images/image/configured").expect("resolving"), None);
}
