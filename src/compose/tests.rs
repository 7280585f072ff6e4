//! Tests of compose on packages written straight into a repository; `tests/unpack_oracle.rs` compares
//! it with dpkg.

use crate::{
    artefacts::{IngestedPackage, Layer, Metadata},
    store::{
        Folder, Node, Transaction,
        records::{Conffile, PACKAGE_KEY},
    },
};

use super::*;

fn plain(mode: u32) -> Metadata {
    Metadata { uid: 0, gid: 0, mode, xattrs: Vec::new() }
}

/// A package that is put together for a test.
struct Fake {
    name: &'static str,
    fields: &'static str,
    /// Path and content; a content of `-> TARGET` makes a link, a path that ends in `/` a folder.
    files: &'static [(&'static str, &'static str)],
    conffiles: &'static [&'static str],
    /// Of a preinst that says `dpkg-divert`: the paths that it names.
    diverts: Option<&'static [&'static str]>,
}

const NOTHING: Fake = Fake { name: "", fields: "", files: &[], conffiles: &[], diverts: None };

struct Place {
    _folder: tempfile::TempDir,
    store: Store,
}

fn place() -> Place {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open_or_create(&folder.path().join("repo")).expect("a repository");
    Place { _folder: folder, store }
}

impl Place {
    fn ingested(&self, packages: &[Fake]) -> Ingested {
        let mut transaction = self.store.transaction().expect("a transaction");
        let packages = packages.iter().map(|package| self.write(&mut transaction, package)).collect();
        transaction.commit().expect("committing");
        Ingested { packages }
    }

    fn write(&self, transaction: &mut Transaction, package: &Fake) -> IngestedPackage {
        let store = &self.store;
        let metadata = transaction.write_folder_metadata(&plain(0o755)).expect("a dirmeta");
        let mut root = Folder::empty(metadata);
        let (mut list, mut symlinks) = ("/.\n".to_owned(), Vec::new());
        for (path, content) in package.files {
            list += &format!("/{}\n", path.trim_end_matches('/'));
            let path = format!("data/{path}");
            let (parent, name) = path.rsplit_once('/').expect("a path");
            let parent = root.make_folder(store, parent, metadata).expect("a tree").expect("a folder");
            if name.is_empty() {
                continue;
            }
            let checksum = match content.strip_prefix("-> ") {
                Some(target) => {
                    symlinks.push((path["data/".len()..].to_owned(), target.to_owned()));
                    transaction.write_symlink(&plain(0o777), target.as_bytes())
                }
                None => transaction.write_object(&plain(0o100_644), content.as_bytes()),
            };
            let node = Node::Object { checksum: checksum.expect("an object"), mark: 0 };
            parent.entries(store).expect("entries").insert(name.to_owned(), node);
        }
        for name in ["data", "info"] {
            root.make_folder(store, name, metadata).expect("a tree");
        }
        let name = package.name.to_owned();
        let control = format!("Package: {name}\nVersion: 1\nArchitecture: all\n{}\n", package.fields);
        let conffile = |path: &&str| Conffile { path: (*path).to_owned(), remove_on_upgrade: false };
        let record = PackageRecord {
            name: name.clone(),
            version: "1".to_owned(),
            architecture: "all".to_owned(),
            deb: Sha256::of(name.as_bytes()),
            info_name: name.clone(),
            control,
            conffiles: package.conffiles.iter().map(conffile).collect(),
            triggers: String::new(),
            scripts: Vec::new(),
            diverts: package.diverts.map(|paths| paths.iter().map(|path| (*path).to_owned()).collect()),
            list,
            made_md5sums: None,
            symlinks,
            hard_links: Vec::new(),
            newest: 0,
            bytes: 0,
        };
        let mut values = [
            (FORMAT_KEY, records::to_json(&FORMAT).expect("JSON")),
            (PACKAGE_KEY, records::to_json(&record).expect("JSON")),
        ];
        let commit = transaction.write_commit(&root, &name, &mut values).expect("a commit");
        let (version, architecture) = ("1".into(), "all".into());
        IngestedPackage { name, version, architecture, deb: record.deb, commit, layer: Layer::default() }
    }

    /// The paths of the composed tree, but for those of dpkg; or the error.
    fn paths(&self, architecture: &str, packages: &[Fake], merged: Option<MergedUsr>) -> Result<Vec<String>> {
        let ingested = self.ingested(packages);
        let composed = compose(&self.store, "image", architecture, &ingested, merged)?;
        let mut root = self.store.root(composed.commit)?;
        let mut paths = Vec::new();
        self.walk(&mut root, "", &mut paths);
        paths.retain(|path| !path.starts_with("var"));
        Ok(paths)
    }

    fn walk(&self, folder: &mut Folder, path: &str, out: &mut Vec<String>) {
        for (name, node) in folder.entries(&self.store).expect("entries") {
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            match node {
                Node::Folder(child) => {
                    out.push(format!("{path}/"));
                    self.walk(child, &path, out);
                }
                Node::Object { .. } => out.push(path),
            }
        }
    }
}

const OLD: Fake =
    Fake { name: "old", files: &[("bin/sh", "sh"), ("lib/x/y", "y"), ("usr/bin/env", "e")], ..NOTHING };
const MERGED: Fake = Fake { name: "usr-is-merged", ..NOTHING };
const BASE: Fake = Fake {
    name: "base-files",
    files: &[("bin", "-> usr/bin"), ("lib", "-> usr/lib"), ("usr/bin/", ""), ("usr/lib/", "")],
    ..NOTHING
};

#[test]
fn aliases_of_every_suite() {
    let links = ["bin", "lib", "sbin"];
    let below_usr =
        ["usr/", "usr/bin/", "usr/bin/env", "usr/bin/sh", "usr/lib/", "usr/lib/x/", "usr/lib/x/y"];
    let merged: Vec<&str> = links.iter().chain(&below_usr).copied().chain(["usr/sbin/"]).collect();
    let unmerged = vec!["bin/", "bin/sh", "lib/", "lib/x/", "lib/x/y", "usr/", "usr/bin/", "usr/bin/env"];
    let shipped: Vec<&str> = links[..2].iter().chain(&below_usr).copied().collect();
    for (packages, choice, expected) in [
        (vec![OLD], None, &unmerged),
        (vec![OLD], Some(MergedUsr::Yes), &merged),
        (vec![OLD, MERGED], None, &merged),
        (vec![OLD, MERGED], Some(MergedUsr::No), &unmerged),
        (vec![OLD, BASE, MERGED], None, &shipped),
        (vec![OLD, BASE], None, &shipped),
    ] {
        let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
        assert_eq!(
            &place().paths("armhf", &packages, choice).expect("a tree"),
            expected,
            "{names:?} {choice:?}"
        );
    }
    let amd64 = place().paths("amd64", &[MERGED], None).expect("a tree");
    assert_eq!(&amd64[..6], ["bin", "lib", "lib32", "lib64", "libx32", "sbin"]);
}

#[test]
fn conflicts_name_both_packages_and_the_path() {
    let fake = |name, files, fields| Fake { name, files, fields, ..NOTHING };
    for (packages, words) in [
        (
            [fake("one", &[("usr/bin/x", "1")], ""), fake("two", &[("usr/bin/x", "2")], "")],
            ["one", "two", "/usr/bin/x", "neither replaces"],
        ),
        (
            [fake("one", &[("bin/x", "1")], ""), fake("two", &[("usr/bin/x", "2")], "")],
            ["one", "two", "/usr/bin/x", "neither replaces"],
        ),
        (
            [fake("one", &[("usr/x/", "")], ""), fake("two", &[("usr/x", "2")], "")],
            ["one", "two", "/usr/x", "a folder there"],
        ),
        (
            [fake("one", &[("usr/x", "1")], ""), fake("two", &[("usr/x/y", "2")], "")],
            ["one", "two", "/usr/x", "no folder there"],
        ),
        (
            [fake("one", &[("bin", "-> elsewhere")], ""), fake("two", &[], "")],
            ["one", "/bin", "which leads into /usr", "merged"],
        ),
        (
            [fake("one", &[("a", "-> b"), ("b", "-> a")], ""), fake("two", &[("a/c", "2")], "")],
            ["one", "two", "/a", "no folder there"],
        ),
    ] {
        let error =
            place().paths("armhf", &packages, Some(MergedUsr::Yes)).expect_err("a conflict").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error:?} should have {words:?}");
    }
}

#[test]
fn a_link_whose_target_comes_later_in_the_same_package() {
    let one = Fake { name: "one", files: &[("usr/a", "-> z")], ..NOTHING };
    let two = Fake { name: "two", files: &[("usr/a/file", "2"), ("usr/z/", "")], ..NOTHING };
    let paths = place().paths("armhf", &[one, two], None).expect("a tree");
    assert_eq!(paths, ["usr/", "usr/a", "usr/z/", "usr/z/file"]);
}

#[test]
fn configuration_files_wait_for_their_package() {
    let one = Fake {
        name: "one",
        files: &[("etc/x", "1"), ("etc/y", "1")],
        conffiles: &["etc/x", "etc/gone"],
        ..NOTHING
    };
    let place = place();
    let paths = place.paths("armhf", &[one], None).expect("a tree");
    assert_eq!(paths, ["etc/", "etc/x.dpkg-new", "etc/y"]);
    let commit = place.store.require("deb/images/image/unpacked").expect("an image");
    let mut root = place.store.root(commit).expect("a tree");
    let Some(Node::Object { checksum, .. }) = root.find(&place.store, "var/lib/dpkg/status").expect("a tree")
    else {
        panic!("no status file");
    };
    let status = std::fs::read_to_string(place.store.object_path(*checksum)).expect("a file");
    let expected = "Package: one\nStatus: install ok unpacked\nArchitecture: all\nVersion: 1\n\
                    Conffiles:\n /etc/x newconffile\n /etc/gone newconffile\n\n";
    assert_eq!(status, expected);
}

#[test]
fn what_is_composed_already_is_left_alone() {
    let place = place();
    let ingested = place.ingested(&[OLD, MERGED]);
    let first = compose(&place.store, "image", "armhf", &ingested, None).expect("a tree");
    assert_eq!(compose(&place.store, "image", "armhf", &ingested, None).expect("a tree"), first);
    assert_eq!(load(&place.store, "image").expect("an image"), Some(first.clone()));
    assert_eq!(load(&place.store, "other").expect("no image"), None);
    // Another image of the same packages is the same commit; other packages are another one.
    let other = compose(&place.store, "other", "armhf", &ingested, None).expect("a tree");
    assert_eq!(other.commit, first.commit);
    let fewer = place.ingested(&[OLD]);
    let second = compose(&place.store, "image", "armhf", &fewer, None).expect("a tree");
    assert_ne!(second.commit, first.commit);
    assert_eq!(place.store.list_packages(second.commit).expect("packages").len(), 1);
    let twice = place.ingested(&[OLD, OLD]);
    let error = compose(&place.store, "image", "armhf", &twice, None).expect_err("twice").to_string();
    assert!(error.contains("old is wanted twice"), "{error}");
}

/// The files that are held, as `PATH PACKAGE HELD RIVAL`.
fn held(place: &Place, packages: &[Fake]) -> Vec<String> {
    let composed = compose(&place.store, "image", "armhf", &place.ingested(packages), None).expect("a tree");
    let again = load(&place.store, "image").expect("an image").expect("it was composed");
    assert_eq!(again, composed);
    let rival = |file: &crate::artefacts::HeldFile| {
        file.rival.as_ref().map_or("-".to_owned(), |rival| format!("{}:{}", rival.package, rival.name))
    };
    let line = |file: &crate::artefacts::HeldFile| {
        format!("{} {} {} {}", file.path, file.package, file.held, rival(file))
    };
    composed.held.iter().map(line).collect()
}

#[test]
fn what_waits_for_a_preinst() {
    let guard = Fake {
        name: "guard",
        files: &[("bin/x", "g"), ("usr/bin/own", "o"), ("usr/bin/other", "o")],
        diverts: Some(&["bin/x", "usr/bin/own"]),
        ..NOTHING
    };
    // Alone, its file in /bin is in a folder of that name.
    let list = "var/lib/dpkg/info/guard.list guard var/lib/dpkg/info/guard.list.dpkg-new -";
    let own = "usr/bin/own guard usr/bin/own.guard.dpkg-new -";
    assert_eq!(held(&place(), &[guard]), ["bin/x guard bin/x.guard.dpkg-new -", own, list]);
    let guard = || Fake {
        name: "guard",
        files: &[("usr/bin/x", "g"), ("usr/bin/own", "o"), ("usr/bin/other", "o")],
        diverts: Some(&["usr/bin/x", "usr/bin/own"]),
        ..NOTHING
    };
    let system = || Fake { files: &[("usr/bin/x", "s")], ..NOTHING };
    let contested = "usr/bin/x guard usr/bin/x.guard.dpkg-new system:usr/bin/x";
    for packages in
        [[guard(), Fake { name: "system", ..system() }], [Fake { name: "system", ..system() }, guard()]]
    {
        assert_eq!(held(&place(), &packages), [own, contested, list]);
    }
    // Without what is Essential, no script can run.
    let essential = Fake { fields: "Essential: yes", ..guard() };
    assert_eq!(held(&place(), &[essential]), [""; 0]);
    let needed = Fake { name: "base", fields: "Priority: required\nDepends: x | guard", ..NOTHING };
    assert_eq!(held(&place(), &[guard(), needed]), [""; 0]);
    // Who replaces the other needs no diversion.
    let system = Fake { name: "system", fields: "Replaces: guard", ..system() };
    assert_eq!(held(&place(), &[guard(), system]), [own, list]);
}
