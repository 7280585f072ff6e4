//! Twins of a real program: this machine's `true`, with another machine's number in its header as the
//! foreign one. `tests/archive.rs` runs what comes out.

use std::{fs, path::Path};

use qemu::{
    program::Elf,
    twins::{Emulated, folder},
};

use super::*;
use crate::{
    artefacts::Metadata,
    store::{
        Folder, Node, PRIVATE_FOLDER,
        records::{PACKAGE_KEY, PackageRecord},
    },
};

const PROGRAM: Metadata = Metadata { uid: 0, gid: 0, mode: 0o100_755, xattrs: Vec::new() };

/// A repository with packages.
struct Place {
    _folder: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open_or_create(&folder.path().join("repo")).expect("a repository");
        Place { _folder: folder, store }
    }

    /// Writes a package with these files.
    fn package(&self, name: &str, architecture: &str, files: &[(&str, &[u8])]) -> Member {
        let mut transaction = self.store.transaction().expect("a transaction");
        let metadata = transaction.write_folder_metadata(&Metadata::FOLDER).expect("a dirmeta");
        let mut root = Folder::empty(metadata);
        for (path, content) in files {
            let path = format!("data/{path}");
            let (parent, name) = path.rsplit_once('/').expect("a path");
            let parent = root.make_folder(&self.store, parent, metadata).expect("a tree").expect("a folder");
            let checksum = transaction.write_object(&PROGRAM, content).expect("an object");
            let node = Node::Object { checksum, mark: 0 };
            parent.entries(&self.store).expect("entries").insert(name.to_owned(), node);
        }
        let deb = Sha256::of(format!("{name}:{architecture}").as_bytes());
        let record = PackageRecord {
            name: name.to_owned(),
            version: "1".to_owned(),
            architecture: architecture.to_owned(),
            deb,
            info_name: name.to_owned(),
            control: String::new(),
            conffiles: Vec::new(),
            triggers: String::new(),
            scripts: Vec::new(),
            diverts: None,
            list: String::new(),
            made_md5sums: None,
            symlinks: Vec::new(),
            hard_links: Vec::new(),
            newest: 0,
            bytes: 0,
        };
        let mut values = [
            (FORMAT_KEY, records::to_json(&FORMAT).expect("JSON")),
            (PACKAGE_KEY, records::to_json(&record).expect("JSON")),
        ];
        let commit = transaction.write_commit(&root, name, &mut values).expect("a commit");
        transaction.commit().expect("committing");
        let (name, architecture) = (name.to_owned(), architecture.to_owned());
        let contents = Contents::Commit(commit);
        Member { name, architecture, source_version: "1".to_owned(), digest: deb, contents }
    }

    /// A file of a commit's tree.
    fn read(&self, commit: Sha256, path: &str) -> Option<Vec<u8>> {
        let mut root = self.store.root(commit).expect("a commit");
        match root.find(&self.store, path).expect("a tree") {
            Some(Node::Object { checksum, .. }) => {
                Some(fs::read(self.store.object_path(*checksum)).expect("an object"))
            }
            _ => None,
        }
    }
}

/// The host's architecture and another one, and the host's `true` with its loader and C library.
fn machines() -> Machines {
    let host = qemu::host().expect("an architecture of Debian").name;
    Machines::of(if host == "armhf" { "arm64" } else { "armhf" }, host).expect("known loaders")
}

fn host_file(path: &str) -> Vec<u8> {
    fs::read(Path::new("/").join(path)).unwrap_or_else(|error| panic!("/{path}: {error}"))
}

#[test]
fn twins_are_made_once_and_found_again() {
    let place = Place::new();
    let machines = machines();
    let program = host_file("usr/bin/true");
    let mut foreign = program.clone();
    foreign[18..20].copy_from_slice(&machines.image.identity.machine.to_le_bytes()); // e_machine
    let library = format!("usr/lib/{}/libc.so.6", machines.host.triplet);

    let image = [
        place.package("coreutils", machines.image.debian, &[("bin/true", &foreign), ("etc/true.conf", b"x")]),
        place.package("leaf", machines.image.debian, &[("usr/bin/leaf", &foreign[..foreign.len() - 1])]),
        place.package("data", "all", &[("usr/share/data", b"data")]),
    ];
    let native = [
        place.package("coreutils", machines.host.debian, &[("bin/true", &program), ("etc/true.conf", b"x")]),
        place.package(
            "libc6",
            machines.host.debian,
            &[(machines.host.loader, &host_file(machines.host.loader)), (&library, &host_file(&library))],
        ),
    ];
    let policy = Policy::default();
    let prepare = |image: &[Member], policy: &Policy| {
        super::prepare(&place.store, &Inventories::new(&place.store), (image, &native), &machines, policy)
            .expect("twins")
    };
    let wanted = wanted(&Inventories::new(&place.store), &image, &machines, &policy);
    assert_eq!(wanted.expect("a list"), ["coreutils"]);

    let twins = prepare(&image, &policy);
    let paths: Vec<_> =
        twins.plan.twins.iter().map(|twin| String::from_utf8_lossy(&twin.path).into_owned()).collect();
    assert_eq!(paths, ["/.treestrap/twins/usr/bin/true"]);
    let emulated: Vec<_> =
        twins.plan.emulated.iter().map(|Emulated { program, .. }| program.path.as_str()).collect();
    assert_eq!(emulated, ["usr/bin/leaf"]);

    // The tree: the program with the tree's own loader, its library, the loader; nothing of /etc.
    let twin = place.read(twins.commit, "usr/bin/true").expect("the twin");
    let elf = Elf::parse(&twin).expect("an ELF file");
    assert_eq!(elf.interpreter().expect("a loader"), Some(&b"/.treestrap/twins/ld.so"[..]));
    let is_in = |content: &[u8], name: &str| content.windows(name.len()).any(|part| part == name.as_bytes());
    let names = [format!("/lib/{}/", machines.host.triplet), folder::FOLDER.to_owned()];
    let named = names.each_ref().map(|name| is_in(&host_file(&library), name));
    assert_eq!(named, [true, false], "where it has its modules is built into the C library");
    let content = place.read(twins.commit, &library).expect("the library");
    assert_eq!(names.each_ref().map(|name| is_in(&content, name)), [false, true]);
    assert!(place.read(twins.commit, "ld.so").is_some());
    assert_eq!(place.read(twins.commit, "etc/true.conf"), None);

    // Found again, without looking at any package; also for an image that differs in data alone.
    fs::remove_dir_all(place.store.path().join(PRIVATE_FOLDER)).expect("inventories");
    assert_eq!(prepare(&image[..2], &policy).commit, twins.commit);
    assert!(!place.store.path().join(PRIVATE_FOLDER).exists());
    assert_eq!(
        load(&place.store, twins.commit).expect("it is there").expect("twins").plan.twins,
        twins.plan.twins
    );

    // Another policy is another plan.
    let rule = qemu::twins::Rule { pattern: "usr/bin/true".into(), reason: "a test".into() };
    let none = Policy { emulated: vec![rule], ..policy.clone() };
    assert!(prepare(&image, &none).plan.twins.is_empty());

    // What packages give to trees is kept beside them, and makes the same tree again.
    let references = || place.store.references(REFERENCES.trim_end_matches('/')).expect("references");
    let (parts, trees): (Vec<_>, Vec<_>) =
        references().into_iter().partition(|(name, _)| part_of(name).is_some());
    let of: Vec<_> = parts.iter().filter_map(|(name, _)| part_of(name)).collect();
    assert_eq!((of.len(), trees.len()), (native.len(), 2));
    assert!(native.iter().all(|member| of.contains(&member.digest)));
    let of_other_rules = format!("{REFERENCES}amd64/armhf/parts-0.0.0/{}", native[0].digest);
    assert_eq!(part_of(&of_other_rules), None);
    let names: Vec<String> = trees.into_iter().map(|(name, _)| name).collect();
    place.store.remove_references(&names).expect("removed");
    assert_eq!(prepare(&image, &policy).commit, twins.commit);
    assert!(references().iter().filter(|(name, _)| part_of(name).is_some()).eq(&parts));
}

#[test]
fn what_cannot_be_rewritten_stays_as_it_is_and_has_no_twin() {
    let place = Place::new();
    let machines = machines();
    let program = host_file("usr/bin/true"); // in which no architecture is named
    let mut foreign = program.clone();
    foreign[18..20].copy_from_slice(&machines.image.identity.machine.to_le_bytes()); // e_machine
    let library = format!("usr/lib/{}/libc.so.6", machines.host.triplet);
    let files = [("usr/bin/dpkg-split", &program[..]), ("usr/bin/other", &program[..program.len() - 1])];
    let image = [place.package(
        "dpkg",
        machines.image.debian,
        &[("usr/bin/dpkg-split", &foreign), ("usr/bin/other", &foreign[..foreign.len() - 1])],
    )];
    let native = [
        place.package("dpkg", machines.host.debian, &files),
        place.package("libc6", machines.host.debian, &[(&library, &host_file(&library))]),
    ];
    let policy = Policy::default();
    for _ in ["made", "found"] {
        let inventories = Inventories::new(&place.store);
        let twins = super::prepare(&place.store, &inventories, (&image, &native), &machines, &policy);
        let Twins { plan, commit } = twins.expect("twins");
        let emulated = |other: &Emulated| format!("{}: {}", other.program.path, other.reason);
        let emulated: Vec<_> = plan.emulated.iter().map(emulated).collect();
        let why = format!("the constant {} is in it 0 times, not once", machines.host.debian);
        let expected = format!("usr/bin/dpkg-split: no twin could be made: it knows its architecture: {why}");
        assert_eq!(emulated, [expected]);
        assert_eq!(place.read(commit, "usr/bin/dpkg-split"), Some(program.clone()));
        assert_ne!(place.read(commit, "usr/bin/other").expect("a twin"), files[1].1);
        // The plan is made anew, of what the parts say.
        let trees = place.store.references(REFERENCES.trim_end_matches('/')).expect("references");
        let trees: Vec<String> =
            trees.into_iter().map(|(name, _)| name).filter(|name| part_of(name).is_none()).collect();
        assert_eq!(trees.len(), 1);
        place.store.remove_references(&trees).expect("removed");
    }
}
