//! Compose against dpkg itself: the same debs, unpacked by `dpkg --unpack` into an empty root and
//! composed by treestrap, give the same tree, entry by entry and byte by byte.
//!
//! dpkg would run preinst scripts, which compose never does: dpkg gets the debs without theirs. Of
//! what it leaves, only `status-old` is not compared. The tree is read through the ostree program.
//! Owners can be compared by root only, so the tests need root.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use common::{
    account::Account,
    package::Package,
    tarball::ar,
    tier::{Tier, needs},
};
use treestrap::{
    artefacts::{Ingested, LockedPackage},
    compose::{self, MergedUsr},
    debian::deb822,
    digest::Sha256,
    ingest::Ingester,
    store::Store,
};

/// A deb and what its control file says.
struct Deb {
    bytes: Vec<u8>,
    /// Its control member, decompressed.
    control: Vec<u8>,
    package: LockedPackage,
    essential: bool,
}

impl Deb {
    fn read(bytes: Vec<u8>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.deb");
        fs::write(&path, &bytes).expect("a deb");
        let text = run(Command::new("dpkg-deb").arg("--field").arg(&path));
        let text = String::from_utf8(text).expect("UTF-8");
        let control = run(Command::new("dpkg-deb").arg("--ctrl-tarfile").arg(&path));
        let stanza = deb822::parse(&text).expect("a stanza").remove(0).1;
        let field = |name: &str| stanza.get(name).unwrap_or_default().to_owned();
        let package = LockedPackage {
            name: field("Package"),
            version: field("Version"),
            architecture: field("Architecture"),
            filename: String::new(),
            size: bytes.len() as u64,
            sha256: Sha256::of(&bytes),
            repository: None,
            stanza: stanza.clone(),
        };
        Deb { essential: field("Essential") == "yes", bytes, control, package }
    }

    /// The deb without its preinst; the data member stays as it is.
    fn without_preinst(&self) -> Vec<u8> {
        let mut stripped = tar::Builder::new(Vec::new());
        for entry in tar::Archive::new(self.control.as_slice()).entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            if !entry.path_bytes().ends_with(b"/preinst") {
                let header = entry.header().clone();
                stripped.append(&header, &mut entry).expect("memory");
            }
        }
        let stripped = stripped.into_inner().expect("memory");
        let mut members: Vec<(String, &[u8])> = Vec::new();
        let mut rest = &self.bytes[8..];
        while rest.len() >= 60 {
            let field =
                |range: std::ops::Range<usize>| String::from_utf8_lossy(&rest[range]).trim().to_owned();
            let (name, size) = (field(0..16), field(48..58).parse::<usize>().expect("a size"));
            members.push((name, &rest[60..60 + size]));
            rest = rest.get(60 + size + size % 2..).unwrap_or_default();
        }
        let members: Vec<(&str, &[u8])> = members
            .iter()
            .map(|(name, content)| match name.starts_with("control.tar") {
                true => ("control.tar", stripped.as_slice()),
                false => (name.trim_end_matches('/'), *content),
            })
            .collect();
        ar(&members)
    }
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
    output.stdout
}

/// In which order compose unpacks, so that dpkg can be told to.
fn unpack_order(debs: &[Deb]) -> Vec<&Deb> {
    let mut order: Vec<&Deb> = debs.iter().collect();
    order.sort_by_key(|deb| match deb {
        deb if deb.package.name == "base-files" => 0,
        deb if deb.essential => 1,
        _ => 2,
    });
    order
}

/// Unpacks with dpkg; gives what it says if it refuses.
fn dpkg(debs: &[Deb], root: &Path, aliases: &[&str], foreign: &[&str]) -> Result<(), String> {
    let database = root.join("var/lib/dpkg");
    fs::create_dir_all(&database).expect("a root");
    for name in aliases {
        fs::create_dir_all(root.join("usr").join(name)).expect("a folder");
        symlink(format!("usr/{name}"), root.join(name)).expect("a link");
    }
    if !foreign.is_empty() {
        let native = run(Command::new("dpkg").arg("--print-architecture"));
        let native = String::from_utf8(native).expect("UTF-8");
        fs::write(database.join("arch"), format!("{native}{}\n", foreign.join("\n"))).expect("arch");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut paths: Vec<PathBuf> = Vec::new();
    for (number, deb) in unpack_order(debs).into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.deb"));
        fs::write(&path, deb.without_preinst()).expect("a deb");
        paths.push(path);
    }
    // Without a shell inside the root nothing could run; the umask is the one that dpkg is used with.
    let output = Command::new("sh")
        .args(["-c", "umask 022; exec dpkg \"$@\"", "sh"])
        .arg(format!("--root={}", root.display()))
        .args(["--force-architecture", "--force-depends", "--force-script-chrootless", "--no-triggers"])
        .args(["--force-unsafe-io", "--log=/dev/null", "--abort-after=1", "--unpack"])
        .args(&paths)
        .env("LC_ALL", "C")
        .output()
        .expect("dpkg");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Composes and checks out; gives the error if there is one.
fn composed(
    debs: &[Deb],
    architecture: &str,
    folder: &Path,
    merged: Option<MergedUsr>,
) -> Result<PathBuf, String> {
    let repository = folder.join("repo");
    let mut ingester = Ingester::new(&repository).expect("a repository");
    let mut packages = Vec::new();
    for deb in debs {
        packages.push(ingester.ingest(&deb.package, &mut deb.bytes.as_slice()).map_err(|e| e.to_string())?);
    }
    ingester.finish().expect("a repository");
    let store = Store::open(&repository).expect("a repository");
    let ingested = Ingested { packages };
    let composed =
        compose::compose(&store, "image", architecture, &ingested, merged).map_err(|e| e.to_string())?;
    // Again, it is found done; and it can be loaded.
    let again = compose::compose(&store, "image", architecture, &ingested, merged).expect("done before");
    assert_eq!(composed, again);
    assert_eq!(compose::load(&store, "image").expect("an image"), Some(composed));
    let (repo, out) = (format!("--repo={}", repository.display()), folder.join("out"));
    run(Command::new("ostree").args([&repo, "fsck", "--quiet"]));
    run(Command::new("ostree").args([&repo, "checkout", "deb/images/image/unpacked"]).arg(&out));
    Ok(out)
}

/// Every path below a root with all that is compared.
fn entries(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, folder: &Path, out: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            let mode = metadata.permissions().mode();
            let content = match metadata.file_type() {
                kind if kind.is_symlink() => fs::read_link(&path).expect("a link").display().to_string(),
                kind if kind.is_dir() => String::new(),
                _ => Sha256::of(&fs::read(&path).expect("a file")).to_string(),
            };
            let line = format!("{mode:o} {}:{} {content}", metadata.uid(), metadata.gid());
            out.insert(path.strip_prefix(root).expect("below the root").to_owned(), line);
            if metadata.is_dir() {
                walk(root, &path, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut out);
    out
}

/// Compares the trees; panics with what differs.
fn compare(name: &str, dpkg: &Path, ours: &Path, debs: &[Deb]) {
    let (mut dpkg_entries, mut our_entries) = (entries(dpkg), entries(ours));
    dpkg_entries.remove(Path::new("var/lib/dpkg/status-old"));
    let preinst = |path: &Path| path.extension().is_some_and(|extension| extension == "preinst");
    let preinsts = our_entries.keys().filter(|path| preinst(path)).count();
    our_entries.retain(|path, _| !preinst(path));
    let with_preinst = debs.iter().filter(|deb| has_preinst(deb)).count();
    assert_eq!(preinsts, with_preinst, "{name}: preinst scripts");
    let mut differences = Vec::new();
    for (path, line) in &dpkg_entries {
        match our_entries.get(path) {
            Some(ours) if ours == line => {}
            ours => differences.push(format!("/{}: dpkg {line:?}, treestrap {ours:?}", path.display())),
        }
    }
    for path in our_entries.keys().filter(|path| !dpkg_entries.contains_key(*path)) {
        differences.push(format!("/{}: only treestrap has it", path.display()));
    }
    let shown = |file: &str| {
        let read = |root: &Path| fs::read_to_string(root.join(file)).unwrap_or_default();
        format!("--- {file}, dpkg:\n{}--- treestrap:\n{}", read(dpkg), read(ours))
    };
    if !differences.is_empty() {
        let more = if debs.len() < 10 { shown("var/lib/dpkg/status") } else { String::new() };
        panic!("{name}: {} differences:\n{}\n{more}", differences.len(), differences.join("\n"));
    }
}

fn has_preinst(deb: &Deb) -> bool {
    let mut archive = tar::Archive::new(deb.control.as_slice());
    let mut entries = archive.entries().expect("a tar");
    entries.any(|entry| entry.expect("an entry").path_bytes().ends_with(b"/preinst"))
}

fn native() -> String {
    String::from_utf8(run(Command::new("dpkg").arg("--print-architecture"))).expect("UTF-8").trim().to_owned()
}

/// Packages in the language of the harness, and what must come out: the same tree as dpkg's, or a
/// refusal by both. The second package in the text is the one that dpkg unpacks last.
const CASES: &[(&str, Outcome, &str)] = &[
    (
        "plain files, folders that are shared",
        Outcome::Same,
        "
Package: a
folder ./var/lib/a 2750 0:42
file ./usr/bin/a 4755 1:2 = a
link ./usr/bin/b 4755 1:2 -> ./usr/bin/a
symlink ./aaa -> usr/bin
symlink ./usr/share/a -> nowhere

Package: b
file ./usr/share/doc/b = b
folder ./var/lib/a 700 3:4
",
    ),
    (
        "a control file as a person writes it",
        Outcome::Same,
        "
Package: a
Version: 0:1.0-1
X-Zoo: first
Homepage: https://mirror.example/
Priority: optional
Essential: no
Multi-Arch: no
Depends: b(>=0:1.0) ,c:any|d , e (<2)
Pre-Depends: f
Provides: g (=1), h
Tag: x, y
Source: s (1.0)
Section: admin
Installed-Size: 12
Built-Using: z (= 1)
file ./usr/bin/a = a
",
    ),
    (
        "scripts and other control files",
        Outcome::Same,
        "
Package: a
script preinst
    false
script postinst
    true
script config
    true
control templates
    Template: a/b
    Type: note
    Description: x
control shlibs
    liba 1 a
file ./usr/bin/a = a
",
    ),
    (
        "triggers of all kinds",
        Outcome::Same,
        "
Package: a
control triggers
    # a comment
    interest /usr/share/z
    interest-noawait explicit
    interest-await /usr/share/a
    activate other
file ./usr/share/z/file = a

Package: b
Architecture: all
control triggers
    interest explicit
    interest-noawait /usr/share/z
    activate-noawait explicit
file ./usr/share/z/other = b
",
    ),
    (
        "configuration files",
        Outcome::Same,
        "
Package: a
conffile ./etc/a.conf 0640 0:4 = a
conffile ./etc/a.d/b = b
link ./etc/linked 0640 0:4 -> ./etc/a.conf
file ./etc/plain = p
",
    ),
    (
        "a file taken over by the later package",
        Outcome::Same,
        "
Package: a
file ./usr/bin/tool = a
file ./usr/bin/a = a

Package: b
Replaces: a (<< 2)
file ./usr/bin/tool = b
",
    ),
    (
        "a file kept by the earlier package",
        Outcome::Same,
        "
Package: a
Replaces: b
file ./usr/bin/tool = a

Package: b
file ./usr/bin/tool = b
file ./usr/bin/b = b
",
    ),
    (
        "a configuration file taken over",
        Outcome::Same,
        "
Package: a
conffile ./etc/x.conf = a
file ./usr/bin/a = a

Package: b
Replaces: a
conffile ./etc/x.conf = b
",
    ),
    (
        "a configuration file kept",
        Outcome::Same,
        "
Package: a
Replaces: b
conffile ./etc/x.conf = a

Package: b
conffile ./etc/x.conf = b
file ./usr/bin/b = b
",
    ),
    (
        "a configuration file where the other has a plain one",
        Outcome::Refused,
        "
Package: a
file ./etc/x.conf = a

Package: b
conffile ./etc/x.conf = b
",
    ),
    (
        "a plain file where the other has a configuration file",
        Outcome::Refused,
        "
Package: a
conffile ./etc/x.conf = a

Package: b
file ./etc/x.conf = b
",
    ),
    (
        "a configuration file that takes over a plain one",
        Outcome::Same,
        "
Package: a
file ./etc/x.conf = a
file ./usr/bin/a = a

Package: b
Replaces: a
conffile ./etc/x.conf = b
",
    ),
    (
        "a plain file that takes over a configuration file",
        Outcome::Same,
        "
Package: a
conffile ./etc/x.conf = a
file ./usr/bin/a = a

Package: b
Replaces: a
file ./etc/x.conf = b
",
    ),
    (
        "a configuration file kept out by a plain one",
        Outcome::Same,
        "
Package: a
Replaces: b
file ./etc/x.conf = a

Package: b
conffile ./etc/x.conf = b
file ./usr/bin/b = b
",
    ),
    (
        "a plain file kept out by a configuration file",
        Outcome::Same,
        "
Package: a
Replaces: b
conffile ./etc/x.conf = a

Package: b
file ./etc/x.conf = b
file ./usr/bin/b = b
",
    ),
    (
        "a configuration file that is marked for removal, and one that is not shipped",
        Outcome::Same,
        "
Package: a
file ./etc/a.conf = a
control conffiles
    /etc/a.conf
    remove-on-upgrade /etc/old.conf
    /etc/never.conf

Package: b
conffile ./etc/old.conf = b
",
    ),
    (
        "three packages, one file, and who replaces whom",
        Outcome::Same,
        "
Package: a
file ./usr/bin/x = a
file ./usr/bin/a = a

Package: b
Replaces: a
file ./usr/bin/x = b
file ./usr/bin/b = b

Package: c
Replaces: a, b
file ./usr/bin/x = c
",
    ),
    (
        "three packages, and the last one replaces only the first",
        Outcome::Same,
        "
Package: a
file ./usr/bin/x = a
file ./usr/bin/a = a

Package: b
Replaces: a, c
file ./usr/bin/x = b

Package: c
Replaces: a
file ./usr/bin/x = c
file ./usr/bin/c = c
",
    ),
    (
        "a configuration file of three packages",
        Outcome::Same,
        "
Package: a
conffile ./etc/x.conf = a
file ./usr/bin/a = a

Package: b
Replaces: a
conffile ./etc/x.conf = b
file ./usr/bin/b = b

Package: c
Replaces: b, a
conffile ./etc/x.conf = c
",
    ),
    (
        "a link takes over a file, and a file a link",
        Outcome::Same,
        "
Package: a
file ./usr/bin/x = a
symlink ./usr/bin/y -> x
symlink ./usr/bin/z -> dangling
file ./usr/bin/a = a

Package: b
Replaces: a
symlink ./usr/bin/x -> a
file ./usr/bin/y = b
symlink ./usr/bin/z -> other
",
    ),
    (
        "hard links of which some are taken over",
        Outcome::Same,
        "
Package: a
file ./usr/bin/one = a
link ./usr/bin/two -> ./usr/bin/one
link ./usr/bin/three -> ./usr/bin/one
file ./usr/bin/a = a

Package: b
Replaces: a
file ./usr/bin/two = b
link ./usr/bin/four -> ./usr/bin/two
",
    ),
    (
        "a folder that comes twice with other modes and owners",
        Outcome::Same,
        "
Package: a
bare
folder ./ 755
folder ./var 755
folder ./var/x 2750 1:2
file ./var/x/one = one
folder ./var/x 700 3:4
file ./var/x/two = two
folder ./var/y 1777
folder ./var 711
",
    ),
    (
        "triggers with dots, dashes and a plus, and one interest twice",
        Outcome::Same,
        "
Package: a
control triggers
    interest-noawait php8.2-fpm.reload
    interest-noawait libstdc++
    interest /etc/x.d
    interest /etc/x.d
    interest-noawait /usr/lib/a.b/c

Package: b
control triggers
    interest /etc/x.d
    interest-await php8.2-fpm.reload
    activate-await a.b
",
    ),
    (
        "names with spaces, and what is not ASCII",
        Outcome::Same,
        "
Package: a
Maintainer: Ümläut <u@mirror.example>
Description: für alle
file ./usr/share/a/ünïcode = a
",
    ),
    (
        "fields of all kinds, an empty one, and numbers of versions",
        Outcome::Same,
        "
Package: a
Version: 00:1.0
Source: x (0:1.0)
Section: 
Package-Type: deb
Conflicts: x (<< 0:3), y(>2)
Breaks: z:any (= 1)
Enhances: e
Suggests: f | g
Built-Using: h (= 1)
Static-Built-Using: i (= 2)
Protected: yes
Important: yes
Bugs: debbugs://mirror.example
Origin: Nobody
Installed-Size: 012
file ./usr/bin/a = a
",
    ),
    (
        "a folder where the other has a link to one",
        Outcome::Same,
        "
Package: a
folder ./usr/share/doc/real
symlink ./usr/share/doc/b -> real

Package: b
file ./usr/share/doc/b/copyright = b
",
    ),
    (
        "a link where the other has a folder",
        Outcome::Same,
        "
Package: a
file ./usr/share/doc/b/copyright = a

Package: b
symlink ./usr/share/doc/b -> a
",
    ),
    (
        "two links to one folder",
        Outcome::Same,
        "
Package: a
folder ./usr/real
symlink ./usr/link -> real

Package: b
symlink ./usr/link -> ../usr/real
",
    ),
    (
        "the same file twice",
        Outcome::Refused,
        "
Package: a
file ./usr/bin/tool = a

Package: b
file ./usr/bin/tool = a
",
    ),
    (
        "a Replaces for another version",
        Outcome::Refused,
        "
Package: a
file ./usr/bin/tool = a

Package: b
Replaces: a (<< 1.0)
file ./usr/bin/tool = b
",
    ),
    (
        "two links that differ",
        Outcome::Refused,
        "
Package: a
symlink ./usr/link -> x

Package: b
symlink ./usr/link -> y
",
    ),
    (
        "a file where the other has a folder",
        Outcome::Refused,
        "
Package: a
folder ./usr/thing

Package: b
file ./usr/thing = b
",
    ),
    (
        "a folder where the other has a file",
        Outcome::Refused,
        "
Package: a
file ./usr/thing = a

Package: b
folder ./usr/thing
",
    ),
    (
        "a folder where the other has a dangling link",
        Outcome::Refused,
        "
Package: a
symlink ./usr/thing -> nowhere

Package: b
folder ./usr/thing
",
    ),
];

/// What a case must come to, with both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The same tree.
    Same,
    /// An error, ours naming the packages.
    Refused,
}

fn check(name: &str, outcome: Outcome, debs: &[Deb], foreign: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("root");
    let theirs = dpkg(debs, &root, &[], foreign);
    let ours = composed(debs, &native(), folder.path(), None);
    match (outcome, theirs, ours) {
        (Outcome::Same, Ok(()), Ok(out)) => compare(name, &root, &out, debs),
        (Outcome::Refused, Err(_), Err(message)) => {
            for deb in debs {
                assert!(message.contains(&deb.package.name), "{name}: {message:?} names both packages");
            }
        }
        (_, theirs, ours) => panic!("{name}: {outcome:?} expected; dpkg: {theirs:?}; treestrap: {ours:?}"),
    }
}

/// A deb that is made again from what was ingested is unpacked as the original is: the same control files, and
/// the same members in the same order, of which only the times differ.
#[test]
fn a_deb_made_again_is_what_it_was() {
    let texts = [
        "Package: everything\nfile ./usr/bin/x 4755 33:42 = x\nfolder ./var/lib/x 2750 0:42\nsymlink ./usr/bin/a -> x\n\
         link ./usr/bin/y -> ./usr/bin/x\nconffile ./etc/x.conf = 1\nscript postinst\n    echo $1\n\
         control triggers\n    interest /usr/share/y\ncompress xz\n"
            .to_owned(),
        format!(
            "Package: long\nfile ./usr/share/{0}/{0} = long\nlink ./usr/share/{0}/other -> ./usr/share/{0}/{0}\n\
             symlink ./usr/share/link -> {0}/{0}\nfile ./usr/share/\u{e4}\u{f6} = not ASCII\n",
            "a-name-that-is-long".repeat(6)
        ),
        "Package: empty\n".to_owned(),
    ];
    for text in texts {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let original = Deb::read(Package::parse(&text).build().bytes.to_vec());
        let repository = folder.path().join("repo");
        let mut ingester = Ingester::new(&repository).expect("a repository");
        let ingested = ingester.ingest(&original.package, &mut original.bytes.as_slice()).expect("ingested");
        ingester.finish().expect("durable");
        let store = Store::open(&repository).expect("a repository");
        let describe = |name: &str| {
            let path = folder.path().join(name);
            let controls = folder.path().join(format!("{name}.d"));
            run(Command::new("dpkg-deb").arg("--control").arg(&path).arg(&controls));
            let mut all = Vec::new();
            for entry in fs::read_dir(&controls).expect("a folder") {
                let path = entry.expect("an entry").path();
                let mode = fs::metadata(&path).expect("a file").permissions().mode();
                all.extend(format!("{path:?} {mode:o}\n").replace(name, "").into_bytes());
                all.extend(fs::read(&path).expect("a file"));
            }
            let tar = run(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&path));
            let mut members = Vec::new();
            for entry in tar::Archive::new(tar.as_slice()).entries().expect("a tar") {
                let mut entry = entry.expect("an entry");
                let (header, kind) = (entry.header().clone(), entry.header().entry_type());
                // What a hard link says of itself counts for nothing.
                let own = (kind != tar::EntryType::Link).then(|| (header.mode(), header.uid(), header.gid()));
                let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
                let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                let mut member = format!("{path} {kind:?} {own:?} {link:?}\n").into_bytes();
                std::io::copy(&mut entry, &mut member).expect("memory");
                members.push((kind == tar::EntryType::Symlink, member));
            }
            // dpkg makes symbolic links when all else is there.
            members.sort_by_key(|(is_symlink, _)| *is_symlink);
            all.extend(members.into_iter().flat_map(|(_, member)| member));
            String::from_utf8_lossy(&all).into_owned()
        };
        fs::write(folder.path().join("old.deb"), &original.bytes).expect("a deb");
        let mut file = fs::File::create(folder.path().join("new.deb")).expect("a file");
        treestrap::export::deb(&store, ingested.commit, &mut file).expect("a deb");
        assert_eq!(describe("new.deb"), describe("old.deb"), "{text}");
    }
}

#[test]
fn small_packages_come_out_as_dpkg_unpacks_them() {
    needs!(Tier::As(Account::Root), Tier::Apt, Tier::Ostree);
    let mut failed = Vec::new();
    for (name, outcome, text) in CASES {
        let packages = Package::parse_all(text);
        let debs: Vec<Deb> =
            packages.iter().map(|package| Deb::read(package.build().bytes.to_vec())).collect();
        // All that are wrong are worth seeing.
        if std::panic::catch_unwind(|| check(name, *outcome, &debs, &[])).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn packages_of_two_architectures() {
    needs!(Tier::As(Account::Root), Tier::Apt, Tier::Ostree);
    let native = native();
    let foreign = if native == "i386" { "amd64" } else { "i386" };
    let text = |second: &str| {
        format!(
            "Package: shared\nArchitecture: {foreign}\nMulti-Arch: same\nfile ./usr/share/s = s\n\
             file ./usr/lib/{foreign}/s = x\n\n\
             Package: shared\nArchitecture: {native}\nMulti-Arch: same\nfile ./usr/share/s = {second}\n\
             file ./usr/lib/{native}/s = y\ncontrol triggers\n    interest-noawait /usr/lib/x\n\n\
             Package: single\nArchitecture: {foreign}\nfile ./usr/bin/single = x\n"
        )
    };
    for (second, outcome) in [("s", Outcome::Same), ("other", Outcome::Refused)] {
        let packages = Package::parse_all(&text(second));
        let mut debs: Vec<Deb> =
            packages.iter().map(|package| Deb::read(package.build().bytes.to_vec())).collect();
        if outcome == Outcome::Refused {
            debs.pop();
        }
        check(&format!("two architectures, {second}"), outcome, &debs, &[foreign]);
    }
}

/// Downloads packages with all that they depend on, and the essential ones, for an architecture.
fn download(architecture: &str, packages: &[&str]) -> Vec<Deb> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    for name in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(path(name)).expect("a folder");
    }
    fs::write(path("status"), "").expect("a status file");
    let apt = |program: &str| {
        let mut command = Command::new(program);
        let option = |name: &str, value: &str| format!("{name}={value}");
        for option in [
            option("Dir::State::Lists", &path("lists").display().to_string()),
            option("Dir::State::status", &path("status").display().to_string()),
            option("Dir::Cache::Archives", &path("archives").display().to_string()),
            option("Dir::Cache::pkgcache", ""),
            option("Dir::Cache::srcpkgcache", ""),
            option("APT::Architecture", architecture),
            option("APT::Architectures", architecture),
            option("APT::Sandbox::User", "root"),
            option("APT::Install-Recommends", "false"),
            option("Acquire::Languages", "none"),
        ] {
            command.args(["-o", &option]);
        }
        command.env("LC_ALL", "C");
        command
    };
    // A part of the archive may be out of step; what can be downloaded is enough.
    let _ = apt("apt-get").arg("update").output().expect("apt-get");
    let all = String::from_utf8(run(apt("apt-cache").arg("dumpavail"))).expect("UTF-8");
    let essential = deb822::parse(&all).expect("stanzas").into_iter().filter_map(|(_, stanza)| {
        (stanza.get("Essential") == Some("yes")).then(|| stanza.get("Package").unwrap_or_default().to_owned())
    });
    let mut wanted: Vec<String> = essential.chain(packages.iter().map(|name| (*name).to_owned())).collect();
    wanted.sort();
    wanted.dedup();
    run(apt("apt-get").args(["install", "--yes", "--download-only"]).args(&wanted));
    let mut names: Vec<PathBuf> = fs::read_dir(path("archives"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.retain(|name| name.extension().is_some_and(|extension| extension == "deb"));
    names.sort();
    names.iter().map(|name| Deb::read(fs::read(name).expect("a deb"))).collect()
}

/// The aliases that the packages want to be there beforehand, as compose decides it too.
fn aliases(debs: &[Deb], architecture: &str) -> Vec<&'static str> {
    let wanted = debs.iter().any(|deb| matches!(deb.package.name.as_str(), "usr-is-merged" | "usrmerge"));
    let version = debs.iter().find(|deb| deb.package.name == "base-files").map(|deb| &deb.package.version);
    // base-files ships the links from Debian 13 on.
    let ships =
        version.and_then(|version| version.split('.').next()?.parse::<u32>().ok()).is_some_and(|v| v >= 13);
    match (wanted && !ships, architecture) {
        (false, _) => vec![],
        (true, "amd64") => vec!["bin", "lib", "sbin", "lib32", "lib64", "libx32"],
        (true, "i386") => vec!["bin", "lib", "sbin", "lib64", "libx32"],
        (true, _) => vec!["bin", "lib", "sbin"],
    }
}

#[test]
fn real_packages_come_out_as_dpkg_unpacks_them() {
    needs!(Tier::As(Account::Root), Tier::Archive, Tier::Apt, Tier::Ostree);
    let native = native();
    let foreign = if native == "armhf" { "arm64" } else { "armhf" };
    let packages = ["systemd-sysv", "openssh-server", "nginx", "python3", "man-db", "locales", "sudo", "apt"];
    for (architecture, packages) in [(native.as_str(), packages.as_slice()), (foreign, &packages[..2])] {
        let debs = download(architecture, packages);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("root");
        dpkg(&debs, &root, &aliases(&debs, architecture), &[]).expect("dpkg unpacks them");
        let out = composed(&debs, architecture, folder.path(), None).expect("a composed tree");
        compare(architecture, &root, &out, &debs);
        assert!(debs.len() > 50, "{} packages are no test", debs.len());
    }
}
