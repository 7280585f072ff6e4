//! Locks of several images side by side.

use proptest::prelude::*;

use super::*;
use crate::{
    artefacts::{Image, PackageRequest, Pin, Repository},
    debian::deb822::Stanza,
    digest::Sha256,
};

/// A package written as `name version [architecture]; Field: value; …`.
fn package(text: &str) -> LockedPackage {
    let mut parts = text.split(';').map(str::trim);
    let words: Vec<&str> = parts.next().expect("a part").split_whitespace().collect();
    let mut stanza = Stanza::default();
    for field in parts {
        let (name, value) = field.split_once(": ").expect("a field");
        stanza.set(name, value);
    }
    LockedPackage {
        name: words[0].to_owned(),
        version: words[1].to_owned(),
        architecture: words.get(2).copied().unwrap_or("armhf").to_owned(),
        filename: "pool/x.deb".to_owned(),
        size: 1,
        sha256: Sha256::of(text.as_bytes()),
        repository: None,
        stanza,
    }
}

fn repository(name: &str, uris: &[&str], suites: &[&str], components: &[&str]) -> Repository {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Repository {
        name: name.to_owned(),
        uris: texts(uris),
        suites: texts(suites),
        components: texts(components),
        signed_by: Vec::new(),
        check_valid_until: true,
        trusted: false,
    }
}

/// An image: its name with the packages of its request that have a constraint, and its lock, a line a package.
fn image(head: &str, lock: &str) -> (Request, Lockfile) {
    let mut words = head.split_whitespace();
    let name = words.next().expect("a name");
    let repositories = vec![repository("debian", &[], &["bookworm"], &["main"])];
    let mut request = Image::of_repositories(name, "armhf", repositories).request;
    for word in words {
        let (name, constraint) = match word.split_once('=') {
            Some((name, version)) => (name, Constraint::Version(version.to_owned())),
            None => match word.split_once('/') {
                Some((name, suite)) => (name, Constraint::Suite(suite.to_owned())),
                None => (word, Constraint::Any),
            },
        };
        request.packages.push(PackageRequest { name: name.to_owned(), constraint });
    }
    let packages = lock.lines().map(str::trim).filter(|line| !line.is_empty()).map(package).collect();
    (request, Lockfile { packages, request: None })
}

fn members(images: &[(Request, Lockfile)]) -> Vec<Member<'_>> {
    images.iter().map(|(request, lockfile)| Member { request, lockfile }).collect()
}

fn lines(images: &[(Request, Lockfile)]) -> String {
    compare(&members(images), |_| true).lines().join("\n")
}

#[test]
fn a_shared_package_has_one_version() {
    let images = [
        image("a", "libc 1\nbash 1\nonly 3"),
        image("b", "libc 1\nbash 2"),
        image("c", "libc 1\nbash 2"),
        image("d", "libc 2 all"),
    ];
    assert_eq!(lines(&images), "bash (armhf) is 1 in a, and 2 in b, c", "libc of all is another package");
    assert_eq!(lines(&images[1..]), "");
    // Of pairs only those that somebody asks for.
    let one = |which: usize| compare(&members(&images), |at| at == which).lines().join("\n");
    assert_eq!(one(3), "");
    assert_eq!(one(2), "bash (armhf) is 1 in a, and 2 in c");
}

#[test]
fn of_many_the_number_is_told() {
    let many = |version: u32| (0..20).map(|n| format!("p{n:02} {version}\n")).collect::<String>();
    let mut images: Vec<_> = (0..5).map(|n| image(&format!("i{n}"), &many(1))).collect();
    images.push(image("other", &many(2)));
    let lines = compare(&members(&images), |_| true).lines();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[0], "p00 (armhf) is 1 in i0, i1, i2 and 2 more, and 2 in other");
    assert_eq!(lines[5], "and 15 more");
}

#[test]
fn what_a_request_asks_for_may_differ_and_what_follows_from_it() {
    let new = "libc 2\nnginx 2; Depends: nginx-common (= 2), libc (>= 1)\nnginx-common 2\nbash 2";
    let old = "libc 1\nnginx 1; Depends: nginx-common (= 1), libc (>= 1)\nnginx-common 1\nbash 2";
    for (request, lock, expected) in [
        // Its own, and what only it can be beside; libc could be the other one.
        ("b nginx=1", old, "libc (armhf) is 2 in a, and 1 in b"),
        ("b nginx/bookworm", old, "libc (armhf) is 2 in a, and 1 in b"),
        ("b nginx:armhf=1 libc=1", old, ""),
        (
            "b nginx:arm64=1 libc=1",
            old,
            "nginx (armhf) is 2 in a, and 1 in b\nnginx-common (armhf) is 2 in a, and 1 in b",
        ),
        // The other way round: what depends on a version that was asked for.
        ("b nginx-common=1 libc=1", old, ""),
        // Needed newer than others have it, and by what follows.
        ("b tool/backports", "tool 3; Depends: lib (>= 3)\nlib 3; Pre-Depends: libc (>= 3)\nlibc 3", ""),
        (
            "b tool/backports",
            "tool 3; Depends: lib (>= 2)\nlib 3\nlibc 2",
            "lib (armhf) is 2 in a, and 3 in b",
        ),
        ("b tool=3", "tool 3; Breaks: lib (<< 3)\nlib 3\nlibc 2", ""),
        ("b tool=3", "tool 3; Breaks: lib (<< 2)\nlib 3\nlibc 2", "lib (armhf) is 2 in a, and 3 in b"),
        // Wanted, but of no special version.
        ("b tool lib", "tool 3; Depends: lib (>= 3)\nlib 3", "lib (armhf) is 2 in a, and 3 in b"),
    ] {
        let images = [image("a", &format!("{new}\nlib 2")), image(request, lock)];
        assert_eq!(lines(&images), expected, "{request}: {lock}");
        let turned = [images[1].clone(), images[0].clone()];
        assert_eq!(lines(&turned).is_empty(), expected.is_empty(), "{request}: {lock}");
    }
}

#[test]
fn images_of_other_repositories_or_pins_are_not_compared() {
    let base = image("a", "libc 1").0;
    let with = |change: &dyn Fn(&mut Request)| {
        let mut request = base.clone();
        change(&mut request);
        request
    };
    let more = repository("more", &[], &["bookworm"], &["main"]);
    let pin = Pin { package: "libc".to_owned(), pin: "version 1".to_owned(), priority: 1001 };
    for (request, same) in [
        (with(&|r| r.image = "b".to_owned()), true),
        (with(&|r| r.recommends = true), true),
        (with(&|r| r.repositories[0].signed_by.push("key".to_owned())), true),
        (with(&|r| r.repositories[0].check_valid_until = false), true),
        (with(&|r| r.repositories[0].name = "d".to_owned()), false),
        (with(&|r| r.repositories[0].uris.push("http://mirror.example".to_owned())), false),
        (with(&|r| r.repositories[0].suites.push("bookworm-updates".to_owned())), false),
        (with(&|r| r.repositories[0].components.push("contrib".to_owned())), false),
        (with(&|r| r.repositories.push(more.clone())), false),
        (with(&|r| r.pins.push(pin.clone())), false),
    ] {
        assert_eq!(comparable(&base, &request), same, "{request:?}");
        assert_eq!(comparable(&request, &base), same, "{request:?}");
        let images = [image("a", "libc 1"), (request, image("b", "libc 2").1)];
        assert_eq!(lines(&images).is_empty(), !same);
    }
}

#[test]
fn architectures_are_compared_by_sources() {
    let mut arm64 = image(
        "b",
        "libc 2 arm64; Source: glibc (1)\nbash 2 arm64\nzlib 1+b1 arm64; Source: zlib (1)\ndata 2 all",
    );
    arm64.0.architecture = "arm64".to_owned();
    let images = [image("a", "libc 1\nbash 1\nzlib 1\ndata 1 all"), arm64];
    let comparison = compare(&members(&images), |_| true);
    assert_eq!(comparison.lines(), ["data (all) is 1 in a, and 2 in b"]);
    let others: Vec<String> = comparison.other_architectures.iter().map(ToString::to_string).collect();
    assert_eq!(others, ["bash is 1 in a, and 2 in b"]);
}

/// Locks of a few packages in a few versions, some asked for.
fn images() -> impl Strategy<Value = Vec<(Request, Lockfile)>> {
    let lock = proptest::collection::vec((0_u8..3, 0_u8..3, proptest::option::of(0_u8..6)), 6);
    let image =
        (lock, proptest::option::of(0_usize..6), any::<bool>()).prop_map(|(lock, asked, backports)| {
            let mut text = String::new();
            for (name, (version, needs, dependency)) in lock.iter().enumerate() {
                text += &format!("p{name} {version}");
                if let Some(dependency) = dependency.filter(|&dependency| usize::from(dependency) != name) {
                    text += &format!("; Depends: p{dependency} (>= {needs})");
                }
                text.push('\n');
            }
            let head = asked.map_or("x".to_owned(), |asked| format!("x p{asked}={}", lock[asked].0));
            let (mut request, lockfile) = self::image(&head, &text);
            if backports {
                request.repositories[0].suites.push("backports".to_owned());
            }
            (request, lockfile)
        });
    proptest::collection::vec(image, 1..5).prop_map(|mut images| {
        images.iter_mut().enumerate().for_each(|(at, (request, _))| request.image = format!("i{at}"));
        images
    })
}

proptest! {
    /// Nothing is told that is not so, and nothing is left out that has no reason.
    #[test]
    fn what_is_told_is_what_differs(images in images()) {
        let comparison = compare(&members(&images), |_| true);
        for name in (0..6).map(|name| format!("p{name}")) {
            let version = |(_, lock): &(Request, Lockfile)| {
                lock.packages.iter().find(|p| p.name == name).expect("all have it").version.clone()
            };
            let told = comparison.disagreements.iter().find(|told| told.package == name);
            for (version_told, holders) in told.iter().flat_map(|told| &told.versions) {
                for holder in holders {
                    let image = images.iter().find(|(r, _)| r.image == *holder).expect("an image");
                    prop_assert_eq!(&version(image), version_told);
                }
            }
            if let Some(told) = told {
                prop_assert!(told.versions.len() > 1, "{told}");
            }
            let free = |(request, _): &(Request, Lockfile)| {
                request.packages.iter().all(|wanted| wanted.constraint == Constraint::Any)
            };
            for (a, b) in images.iter().zip(images.iter().skip(1)) {
                if free(a) && free(b) && comparable(&a.0, &b.0) && version(a) != version(b) {
                    let told = told.map(ToString::to_string).unwrap_or_default();
                    prop_assert!(told.contains(&a.0.image) && told.contains(&b.0.image), "{told}");
                }
            }
        }
    }

    /// Who is first does not matter.
    #[test]
    fn the_order_of_images_does_not_decide(images in images()) {
        let names = |images: &[(Request, Lockfile)]| -> Vec<String> {
            let comparison = compare(&members(images), |_| true);
            comparison.disagreements.into_iter().map(|told| told.package).collect()
        };
        let turned: Vec<_> = images.iter().rev().cloned().collect();
        prop_assert_eq!(names(&images), names(&turned));
    }

    /// Copies agree.
    #[test]
    fn equal_locks_agree(images in images()) {
        let copies: Vec<_> = images.iter().map(|(request, _)| (request.clone(), images[0].1.clone())).collect();
        prop_assert_eq!(compare(&members(&copies), |_| true), Comparison::default());
    }

    #[test]
    fn no_relation_panics(text in ".*") {
        let mut images = [image("a x=1", "x 1\ny 1"), image("b", "x 2\ny 2")];
        images[0].1.packages[0].stanza.set("Depends", text.clone());
        images[1].1.packages[1].stanza.set("Breaks", text);
        let _ = compare(&members(&images), |_| true);
    }
}
