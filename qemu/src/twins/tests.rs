//! Planning, on packages made up for it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::*;
use crate::program::Identity;

/// Writes a program that can be started at once: by a process of its own, since nobody may start what another has open
/// to write.
pub(super) fn install(path: &Path, content: &[u8]) {
    let written = PathBuf::from(format!("{}.new", path.display()));
    fs::write(&written, content).expect("written");
    let status = Command::new("install").args(["-m", "755"]).args([&*written, path]).status();
    assert!(status.expect("it starts").success());
    fs::remove_file(&written).expect("it's the test's own");
}

fn object(machine: &Machine, name: &str) -> Object {
    let Identity { wide, big_endian, machine: number } = machine.identity;
    let key = name.bytes().fold(u64::from(number), |sum, byte| sum.wrapping_mul(257) + u64::from(byte));
    Object {
        wide,
        big_endian,
        machine: number,
        executable: true,
        key,
        size: 1000,
        has_build_id: true,
        interpreter: Some(format!("/{}", machine.loader)),
        needed: vec![],
        rpath: vec![],
        runpath: vec![],
    }
}

fn library(machine: &Machine, name: &str) -> Object {
    Object { executable: false, interpreter: None, ..object(machine, name) }
}

/// A small distribution for a machine: name, files. `T` in a path stands for the triplet.
fn distribution(machine: &Machine) -> Vec<(&'static str, Inventory)> {
    let needs = |object: Object, needed: &[&str]| Object {
        needed: needed.iter().map(|name| (*name).to_owned()).collect(),
        ..object
    };
    let files = |files: &[(&str, Entry)]| Inventory {
        entries: files
            .iter()
            .map(|(path, entry)| (path.replace('T', machine.triplet), entry.clone()))
            .collect(),
    };
    let elf = |object: Object| Entry::Object(Box::new(object));
    let link = |target: &str| Entry::Link(target.to_owned());
    let libc = needs(library(machine, "libc"), &[machine.loader.rsplit('/').next().expect("a name")]);
    let manual = Object {
        runpath: vec!["/usr/lib/man-db".into()],
        ..needs(object(machine, "manual"), &["libmanual.so", "libc.so.6"])
    };
    vec![
        (
            "libc6",
            files(&[
                ("usr/lib/T/libc.so.6", elf(libc)),
                ("usr/lib/T/loader", elf(library(machine, "loader"))),
                (&libraries::merge_usr(machine.loader), link(&format!("/lib/{}/loader", machine.triplet))),
            ]),
        ),
        ("libgcc-s1", files(&[("usr/lib/T/libgcc_s.so.1", elf(library(machine, "gcc")))])),
        (
            "coreutils",
            files(&[
                ("usr/bin/rm", elf(needs(object(machine, "rm"), &["libc.so.6"]))),
                ("usr/bin/uname", elf(needs(object(machine, "uname"), &["libc.so.6"]))),
                ("usr/bin/stdbuf", elf(needs(object(machine, "stdbuf"), &["libc.so.6"]))),
                ("usr/libexec/coreutils/libstdbuf.so", elf(library(machine, "libstdbuf"))),
                ("usr/share/doc/coreutils/copyright", Entry::Data),
            ]),
        ),
        (
            "man-db",
            files(&[
                ("usr/bin/man", elf(manual)),
                ("usr/lib/man-db/libmanual-2.so", elf(needs(library(machine, "libmanual"), &["libc.so.6"]))),
                ("usr/lib/man-db/libmanual.so", link("libmanual-2.so")),
            ]),
        ),
        (
            "libc-bin",
            files(&[
                ("usr/bin/getent", elf(needs(object(machine, "getent"), &["libc.so.6"]))),
                ("usr/lib/locale/C.utf8/LC_NAME", Entry::Data),
            ]),
        ),
        ("libz1", files(&[("usr/lib/T/libz.so.1", elf(needs(library(machine, "libz"), &["libc.so.6"])))])),
        (
            "python3.11-minimal",
            files(&[(
                "usr/bin/python3.11",
                elf(needs(object(machine, "python"), &["libz.so.1", "libc.so.6"])),
            )]),
        ),
        (
            "libpython3.11-stdlib",
            files(&[(
                "usr/lib/python3.11/lib-dynload/_bz2.cpython-311-T.so",
                elf(needs(library(machine, "_bz2"), &["libbz2.so.1"])),
            )]),
        ),
        ("libbz2", files(&[("usr/lib/T/libbz2.so.1", elf(library(machine, "bz2")))])),
        ("nginx", files(&[("usr/sbin/nginx", elf(needs(object(machine, "nginx"), &["libz.so.1"])))])),
    ]
}

fn packages<'a>(distribution: &'a [(&'static str, Inventory)]) -> Vec<Package<'a>> {
    let package =
        |(name, inventory): &'a (&'static str, Inventory)| Package { name, source_version: "1", inventory };
    distribution.iter().map(package).collect()
}

fn machine(name: &str) -> Machine {
    Machine::of(name).expect("a known architecture")
}

/// All programs can be rewritten.
fn none_is_refused(_: &str, _: &str) -> Option<String> {
    None
}

/// What has a twin, and why the rest has none, after `change` of both distributions.
fn outcome(
    image: &str,
    change: impl FnOnce(&mut Vec<(&'static str, Inventory)>, &mut Vec<(&'static str, Inventory)>),
) -> (Vec<String>, Vec<String>, Plan) {
    let (image, host) = (&machine(image), &machine("amd64"));
    let (mut foreign, mut native) = (distribution(image), distribution(host));
    change(&mut foreign, &mut native);
    let native = packages(&native);
    let plan = plan(&packages(&foreign), &native, (image, host), &Policy::default(), none_is_refused);
    let twins = plan.programs.iter().map(|program| program.path.clone()).collect();
    let rest =
        plan.emulated.iter().map(|other| format!("{}: {}", other.program.path, other.reason)).collect();
    (twins, rest, plan)
}

#[test]
fn what_can_have_a_twin_has_one_and_the_rest_a_reason() {
    let (twins, rest, plan) = outcome("armhf", |_, _| {});
    assert_eq!(twins, ["usr/bin/rm", "usr/bin/man", "usr/bin/getent", "usr/bin/python3.11"]);
    assert_eq!(
        rest,
        [
            "usr/bin/stdbuf: its package has a plug-in that could only be the image's: /usr/libexec/coreutils/libstdbuf.so",
            "usr/bin/uname: it reports the machine (uname(2))",
            "usr/sbin/nginx: its package is not in the table of those that scripts start",
        ]
    );
    let links: Vec<_> = plan.links.iter().map(|(path, target)| format!("{path} -> {target}")).collect();
    assert_eq!(
        links,
        [
            "ld.so -> usr/lib/x86_64-linux-gnu/loader",
            "usr/lib/x86_64-linux-gnu/libmanual.so -> /.treestrap/twins/usr/lib/man-db/libmanual.so",
        ]
    );
    let module = "usr/lib/python3.11/lib-dynload/_bz2.cpython-311-x86_64-linux-gnu.so";
    let mounts: Vec<_> = plan.mounts.iter().map(|mount| mount.target.as_str()).collect();
    assert_eq!(mounts, [".treestrap/lib", module]);
    // The module's library is in, too; nginx isn't.
    let packages: Vec<_> = plan.packages.iter().map(String::as_str).collect();
    let expected =
        "coreutils libbz2 libc-bin libc6 libgcc-s1 libpython3.11-stdlib libz1 man-db python3.11-minimal";
    assert_eq!(packages.join(" "), expected);
    assert_eq!(plan.twins[0].path, b"/.treestrap/twins/usr/bin/rm");
}

type Distribution = Vec<(&'static str, Inventory)>;

fn inventory<'a>(of: &'a mut Distribution, name: &str) -> &'a mut Inventory {
    of.iter_mut().find(|(other, _)| *other == name).map(|(_, inventory)| inventory).expect("the package")
}

fn edit(of: &mut Distribution, package: &str, path: &str, change: impl FnOnce(&mut Object)) {
    match inventory(of, package).entries.get_mut(path) {
        Some(Entry::Object(object)) => change(object),
        other => panic!("{path} is {other:?}"),
    }
}

/// Each spoils one thing, for one program.
#[test]
fn every_doubt_leaves_the_program_to_qemu() {
    type Change = fn(&mut Distribution, &mut Distribution);
    let cases: &[(&str, Change)] = &[
        ("usr/bin/rm: its package was not to be had for this machine", |_, native| {
            native.retain(|(name, _)| *name != "coreutils");
        }),
        ("usr/bin/rm: the package for this machine does not have it", |_, native| {
            edit(native, "coreutils", "usr/bin/rm", |object| object.machine = 7);
        }),
        ("usr/bin/rm: it has no build id in its first page to know it by", |foreign, _| {
            edit(foreign, "coreutils", "usr/bin/rm", |object| object.has_build_id = false);
        }),
        ("usr/bin/rm: only one of the two packages has usr/bin/more", |_, native| {
            inventory(native, "coreutils").entries.insert("usr/bin/more".into(), Entry::Data);
        }),
        ("usr/bin/rm: //usr/bin/rm would not find libnew.so", |_, native| {
            edit(native, "coreutils", "usr/bin/rm", |object| object.needed.push("libnew.so".into()));
        }),
        ("usr/bin/rm: another program looks the same", |foreign, _| {
            let mut key = 0;
            edit(foreign, "nginx", "usr/sbin/nginx", |object| key = object.key);
            edit(foreign, "coreutils", "usr/bin/rm", |object| object.key = key);
        }),
        ("usr/bin/python3.11: /usr/bin/python3.11 would not find libz.so.1", |_, native| {
            native.retain(|(name, _)| *name != "libz1");
        }),
        (
            "usr/bin/python3.11: modules of libpython3.11-stdlib were not to be had for this machine",
            |_, native| {
                native.retain(|(name, _)| *name != "libpython3.11-stdlib");
            },
        ),
        (
            "usr/bin/python3.11: modules of libpython3.11-stdlib were not to be had for this machine",
            |_, native| {
                native.retain(|(name, _)| *name != "libbz2");
            },
        ),
    ];
    for (expected, change) in cases {
        let (twins, rest, _) = outcome("armhf", change);
        let expected = expected.replace("//", "/");
        assert!(rest.contains(&expected), "{expected}: {rest:#?}");
        let program = expected.split(':').next().expect("a path");
        assert!(!twins.iter().any(|twin| twin == program), "{program} has a twin as well");
    }
}

/// A library to which a script makes the link, as libblas.so.3 has several: it is found if there is
/// only one.
#[test]
fn a_library_that_is_an_alternative_has_a_link() {
    let folder = "usr/lib/x86_64-linux-gnu";
    let module = "usr/lib/python3.11/lib-dynload/_bz2.cpython-311-x86_64-linux-gnu.so";
    for (folders, has_twin) in [(&["blas"][..], true), (&["blas", "openblas"], false)] {
        let (twins, _, plan) = outcome("armhf", |_, native| {
            edit(native, "libpython3.11-stdlib", module, |object| object.needed.push("libblas.so.3".into()));
            for name in folders {
                let object = library(&machine("amd64"), name);
                let entries = &mut inventory(native, "libz1").entries;
                entries.insert(format!("{folder}/{name}/libblas.so.3"), Entry::Object(Box::new(object)));
            }
        });
        assert_eq!(twins.iter().any(|twin| twin == "usr/bin/python3.11"), has_twin, "{folders:?}");
        let link = plan.links.get(&format!("{folder}/libblas.so.3")).map(String::as_str);
        let target = format!("{TREE}/{folder}/blas/libblas.so.3");
        assert_eq!(link, has_twin.then_some(target.as_str()));
    }
}

#[test]
fn scripts_stand_before_programs_where_what_they_need_has_twins() {
    let program = |machine: &Machine, name: &str| {
        Entry::Object(Box::new(Object { needed: vec!["libc.so.6".into()], ..object(machine, name) }))
    };
    for (flock, expected) in [(true, &["usr/bin/mandb", keys::PROGRAM][..]), (false, &[keys::PROGRAM][..])] {
        let (_, _, plan) = outcome("armhf", |foreign, native| {
            for (distribution, machine) in [(foreign, machine("armhf")), (native, machine("amd64"))] {
                let mut add = |package: &'static str, path: &str| {
                    let entries = [(path.to_owned(), program(&machine, path))].into();
                    distribution.push((package, Inventory { entries }));
                };
                add("dash", "usr/bin/dash");
                add("hostname", "usr/bin/cat");
                if flock {
                    add("util-linux", "usr/bin/flock");
                }
                add("file", "usr/bin/mandb");
                add("openssh-client", "usr/bin/ssh-keygen");
            }
        });
        let path = match flock {
            true => "scripts/mandb",
            false => "usr/bin/mandb",
        };
        let path = format!("{TREE}/{path}").into_bytes();
        assert_eq!(plan.twins.iter().filter(|twin| twin.path == path).count(), 1, "flock: {flock}");
        assert!(plan.scripts.iter().eq(expected), "{:?}", plan.scripts);
    }
}

#[test]
fn another_version_is_no_twin() {
    let (image, host) = (&machine("arm64"), &machine("amd64"));
    let (foreign, native) = (distribution(image), distribution(host));
    let mut native = packages(&native);
    native.iter_mut().for_each(|package| package.source_version = "2");
    let plan = plan(&packages(&foreign), &native, (image, host), &Policy::default(), none_is_refused);
    assert!(plan.twins.is_empty());
    assert_eq!(plan.emulated[0].reason, Reason::OtherVersion("2".into()));
}

#[test]
fn a_private_library_of_another_byte_order_is_in_the_way() {
    let (twins, rest, plan) = outcome("s390x", |_, _| {});
    assert_eq!(twins, ["usr/bin/rm", "usr/bin/getent", "usr/bin/python3.11"]);
    assert!(
        rest.contains(
            &"usr/bin/man: the image's own /usr/lib/man-db/libmanual.so would be in the way".to_owned()
        ),
        "{rest:?}"
    );
    assert_eq!(plan.links.len(), 1);
    let locale = Mount { target: "usr/lib/locale/C.UTF-8".into(), source: "usr/lib/locale/C.utf8".into() };
    assert!(plan.mounts.contains(&locale));
    let tree = libraries::Tree::new([]);
    let host = machine("amd64");
    let resolver = libraries::Resolver::away(&tree, &host, machine("s390x").identity);
    let missing =
        resolver.closure("usr/bin/x", &Object { needed: vec!["a.so".into()], ..object(&host, "x") });
    assert_eq!(missing, Err(libraries::Missing::Library { name: "a.so".into(), by: "usr/bin/x".into() }));
}

#[test]
fn an_image_says_which_packages_are_wanted() {
    let armhf = &machine("armhf");
    let image = distribution(armhf);
    let wanted = wanted(&packages(&image), armhf, &Policy::default());
    let list: Vec<_> = wanted.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    assert_eq!(
        list,
        [
            "coreutils: rm, mv, chmod, chown, mkdir, ln, readlink, install, …: most of all starts",
            "libbz2: libraries of libpython3.11-stdlib",
            "libc-bin: getent, locale, localedef (locale-gen), iconv",
            "libc6: libraries of python3.11-minimal",
            "libgcc-s1: modules that libc6 loads",
            "libpython3.11-stdlib: modules that python3.11-minimal loads",
            "libz1: libraries of python3.11-minimal",
            "man-db: mandb, whose index.db no commit has; man and manpath",
            "python3.11-minimal: py3compile, py3clean",
        ]
    );
}

/// numpy's modules need libblas.so.3, which is a link of update-alternatives.
#[test]
fn a_library_that_is_an_alternative_is_found_where_there_is_one() {
    let with_blas = |of: &mut Distribution, machine: &Machine, folders: &[&'static str]| {
        let module = Object { needed: vec!["libblas.so.3".into()], ..library(machine, "module") };
        let path = format!("usr/lib/python3/dist-packages/numpy/core.cpython-311-{}.so", machine.triplet);
        let file = |path: String, object| Inventory {
            entries: [(path, Entry::Object(Box::new(object)))].into_iter().collect(),
        };
        of.push(("python3-numpy", file(path, module)));
        for folder in folders {
            let path = format!("usr/lib/{}/{folder}/libblas.so.3", machine.triplet);
            of.push((folder, file(path, library(machine, folder))));
        }
    };
    let (armhf, amd64) = (machine("armhf"), machine("amd64"));
    let outcome = |folders: &[&'static str]| {
        outcome("armhf", |foreign, native| {
            with_blas(foreign, &armhf, folders);
            with_blas(native, &amd64, folders);
        })
    };
    let (twins, _, plan) = outcome(&["blas"]);
    assert!(twins.contains(&"usr/bin/python3.11".to_owned()));
    assert!(plan.packages.contains("blas"));
    let link = plan.links.get("usr/lib/x86_64-linux-gnu/libblas.so.3").map(String::as_str);
    assert_eq!(link, Some("/.treestrap/twins/usr/lib/x86_64-linux-gnu/blas/libblas.so.3"));
    let mut image = distribution(&armhf);
    with_blas(&mut image, &armhf, &["blas"]);
    let wanted = wanted(&packages(&image), &armhf, &Policy::default());
    assert_eq!(wanted.get("blas").map(String::as_str), Some("libraries of python3-numpy"));

    let (twins, rest, _) = outcome(&["blas", "openblas"]);
    assert!(!twins.contains(&"usr/bin/python3.11".to_owned()));
    let reason = "usr/bin/python3.11: modules of python3-numpy were not to be had for this machine";
    assert!(rest.contains(&reason.to_owned()), "{rest:#?}");
}
