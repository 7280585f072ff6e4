//! The resolver on miniature archives. What apt itself chooses is asked in tests/apt_oracle.rs.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Offer, Tools, agreement::Member, check, digest, index::Index, lockfile, resolve, why};
use crate::{
    artefacts::{Constraint, Lockfile, PackageRequest, Pin, Repository, Request},
    debian::release::Release,
    error::Kind,
};

/// An index of packages written as `name version [architecture]; Field: value; …`, a line each.
fn index(suite: &str, architecture: &str, packages: &str) -> Index {
    let mut text = String::new();
    for line in packages.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut parts = line.split(';').map(str::trim);
        let words: Vec<&str> = parts.next().expect("a part").split_whitespace().collect();
        let (name, version) = (words[0], words[1]);
        let arch = words.get(2).copied().unwrap_or(architecture);
        text += &format!(
            "Package: {name}\nVersion: {version}\nArchitecture: {arch}\n\
             Filename: pool/{name}_{version}_{arch}.deb\nSize: 100\nSHA256: {}\n",
            crate::digest::Sha256::of(line.as_bytes())
        );
        for field in parts {
            text += &format!("{field}\n");
        }
        text += "\n";
    }
    Index {
        repository: "debian".to_owned(),
        uri: "http://mirror.example/debian".to_owned(),
        suite: suite.to_owned(),
        component: "main".to_owned(),
        architecture: architecture.to_owned(),
        release: Arc::new(Release {
            suite: if suite == "bookworm" { "stable".to_owned() } else { suite.to_owned() },
            codename: suite.to_owned(),
            origin: "Debian".to_owned(),
            not_automatic: suite.ends_with("-backports"),
            but_automatic_upgrades: suite.ends_with("-backports"),
            ..Release::default()
        }),
        packages: Arc::new(text.into_bytes()),
    }
}

/// A request written as on apt's command line.
fn request(packages: &str) -> Request {
    let package = |word: &str| {
        let (name, constraint) = if let Some((name, version)) = word.split_once('=') {
            (name, Constraint::Version(version.to_owned()))
        } else if let Some((name, suite)) = word.split_once('/') {
            (name, Constraint::Suite(suite.to_owned()))
        } else if let Some(name) = word.strip_suffix('-') {
            (name, Constraint::Absent)
        } else {
            (word, Constraint::Any)
        };
        PackageRequest { name: name.to_owned(), constraint }
    };
    Request {
        image: "test".to_owned(),
        from: None,
        architecture: "amd64".to_owned(),
        repositories: vec![Repository {
            name: "debian".to_owned(),
            uris: Vec::new(),
            suites: vec!["bookworm".to_owned(), "bookworm-backports".to_owned()],
            components: vec!["main".to_owned()],
            signed_by: Vec::new(),
            check_valid_until: true,
            trusted: false,
        }],
        packages: packages.split_whitespace().map(package).collect(),
        recommends: false,
        dependencies: true,
        essential: true,
        priority: Vec::new(),
        pins: Vec::new(),
    }
}

/// What is chosen: `name=version` apart by spaces; or the error's text with its hint.
fn shown(result: crate::Result<Lockfile>) -> String {
    match result {
        Ok(lock) => {
            let shown = |package: &crate::artefacts::LockedPackage| {
                let foreign = !matches!(package.architecture.as_str(), "amd64" | "all");
                let architecture = if foreign { format!(":{}", package.architecture) } else { String::new() };
                format!("{}{architecture}={}", package.name, package.version)
            };
            lock.packages.iter().map(shown).collect::<Vec<_>>().join(" ")
        }
        Err(error) => {
            assert_eq!(error.kind(), Kind::Input, "{error}");
            format!("{error} [{}]", error.get_hint().unwrap_or_default())
        }
    }
}

fn choose(packages: &str, indexes: &[Index]) -> String {
    shown(resolve(&request(packages), indexes, None))
}

#[test]
fn choices() {
    let bookworm = index(
        "bookworm",
        "amd64",
        "base 1; Essential: yes; Pre-Depends: libc (>= 1)
         libc 2; Multi-Arch: same
         a 1; Depends: b | c
         b 1
         c 1
         d 1; Depends: mta
         mail1 1; Provides: mta; Priority: optional
         mail2 1; Provides: mta; Priority: important
         e 1; Depends: v (>= 2)
         oldv 1; Provides: v
         newv 1; Provides: v (= 2.5)
         f 1; Depends: b; Conflicts: c
         g 1; Recommends: c, nowhere
         h 1; Depends: nowhere | c
         i 1; Depends: missing
         j 1; Depends: k (>= 2)
         k 1
         l 1; Depends: m; Conflicts: n
         m 1; Depends: n
         n 1
         only 1; Provides: virtual
         versions 1
         protected 1; Protected: yes
         important 1; Important: yes; Priority: required
         all 1 all; Depends: b:any
         b2 1; Multi-Arch: allowed
         any 1; Depends: b2:any
         legacy 1; Depends: libc (> 2), b (< 1)
         loop1 1; Depends: loop2
         loop2 1; Depends: loop1
         self 1; Provides: selfish; Conflicts: selfish",
    );
    let backports = index("bookworm-backports", "amd64", "versions 2\nb 2\nk 2; Depends: b (>= 2)");
    let indexes = [bookworm, backports];
    for (packages, expected) in [
        ("", "base=1 libc=2"),
        ("a", "a=1 b=1 base=1 libc=2"),
        ("a b-", "a=1 base=1 c=1 libc=2"),
        ("d", "base=1 d=1 libc=2 mail2=1"),
        ("d mail1", "base=1 d=1 libc=2 mail1=1"),
        ("e", "base=1 e=1 libc=2 newv=1"),
        ("f", "b=1 base=1 f=1 libc=2"),
        ("g", "base=1 g=1 libc=2"),
        ("h", "base=1 c=1 h=1 libc=2"),
        ("virtual", "base=1 libc=2 only=1"),
        ("versions", "base=1 libc=2 versions=1"),
        ("versions/bookworm-backports", "base=1 libc=2 versions=2"),
        ("versions/stable", "base=1 libc=2 versions=1"),
        ("versions=2", "base=1 libc=2 versions=2"),
        ("versions=2*", "base=1 libc=2 versions=2"),
        ("k/bookworm-backports", "b=2 base=1 k=2 libc=2"),
        ("any", "any=1 b2=1 base=1 libc=2"),
        ("legacy", "b=1 base=1 legacy=1 libc=2"),
        ("loop1", "base=1 libc=2 loop1=1 loop2=1"),
        ("self", "base=1 libc=2 self=1"),
        ("base- libc", "libc=2"),
        ("b c a f-", "a=1 b=1 base=1 c=1 libc=2"),
        // apt gives up: only a version that is not the candidate will do
        ("j", "b=2 base=1 j=1 k=2 libc=2"),
    ] {
        assert_eq!(choose(packages, &indexes), expected, "{packages}");
    }
    for (packages, parts) in [
        (
            "i",
            &["image \"test\" (amd64)", "i is requested", "i 1 depends on missing", "no index has missing"][..],
        ),
        ("f c", &["f 1 conflicts with c: c 1"]),
        ("l", &["l is requested", "l 1 depends on m", "m 1 depends on n", "l 1 conflicts with n: n 1"]),
        ("a b- c-", &["a 1 depends on b | c", "b is to be absent, as requested"]),
        (
            "d mail1- mail2-",
            &[
                "d 1 depends on mta",
                "mta is provided by mail1 (to be absent, as requested), mail2 (to be absent, as requested) alone",
            ],
        ),
        ("mta", &["mta is a virtual package with several providers", "name one of them: mail1, mail2"]),
        ("version", &["no index has a package named \"version\"", "did you mean versions"]),
        ("nowhere", &["no index has a package named \"nowhere\""]),
        ("b=3", &["no index has version \"3\" of b", "there is 2 (bookworm-backports), 1 (bookworm)"]),
        ("b/sid", &["no version of b is in suite \"sid\""]),
        ("b:i386", &["no index has a package named \"b:i386\"", "there is b, but not of i386"]),
        ("zzzzzz yyyyyy", &["\"zzzzzz\"", "\"yyyyyy\"", "check the spelling"]),
        ("base-", &["the request asks for no package at all"]),
        ("all", &["all 1 depends on b:any", "no index has b:any, and nothing provides it as wanted"]),
    ] {
        let text = choose(packages, &indexes);
        for part in parts {
            assert!(text.contains(part), "{packages}: {part:?} is not in\n{text}");
        }
    }
}

#[test]
fn recommends_priorities_and_no_essential_set() {
    let indexes = [index(
        "bookworm",
        "amd64",
        "base 1; Essential: yes
         a 1; Recommends: b, c
         b 1; Conflicts: d
         c 1; Suggests: e
         d 1
         e 1; Priority: required
         f 1; Priority: important",
    )];
    let mut asked = request("a");
    asked.recommends = true;
    assert_eq!(shown(resolve(&asked, &indexes, None)), "a=1 b=1 base=1 c=1");
    asked.packages = request("d a").packages;
    assert_eq!(shown(resolve(&asked, &indexes, None)), "a=1 base=1 c=1 d=1");
    asked.priority = vec!["required".to_owned()];
    asked.packages = request("a b- c-").packages;
    assert_eq!(shown(resolve(&asked, &indexes, None)), "a=1 base=1 e=1");
    asked.essential = false;
    asked.priority = vec!["required".to_owned(), "important".to_owned()];
    assert_eq!(shown(resolve(&asked, &indexes, None)), "a=1 e=1 f=1");
}

#[test]
fn pins() {
    let indexes = [
        index("bookworm", "amd64", "a 1\nb 1; Depends: a\nlinux-image 5"),
        index(
            "bookworm-backports",
            "amd64",
            "a 2; Source: shared\nb 2; Depends: a; Source: shared (2.1)\nlinux-image 6",
        ),
    ];
    for (package, pin, priority, expected) in [
        ("*", "release n=bookworm-backports", 500, "a=2 b=2"),
        ("a", "release a=bookworm-backports", 990, "a=2 b=1"),
        ("a", "version 2*", 1001, "a=2 b=1"),
        ("/^[ab]$/", "release a=stable", -1, "a=2 b=2"),
        ("linux-* a", "origin mirror.example", 1001, "a=2 b=1"),
        ("a", "release o=Debian,c=contrib", 990, "a=1 b=1"),
        ("a:i386", "version 2", 990, "a=1 b=1"),
        ("src:shared", "release a=bookworm-backports", 990, "a=2 b=2"),
        ("src:a", "release a=bookworm-backports", 990, "a=1 b=1"),
    ] {
        let mut asked = request("b");
        asked.essential = false;
        asked.pins = vec![Pin { package: package.to_owned(), pin: pin.to_owned(), priority }];
        assert_eq!(shown(resolve(&asked, &indexes, None)), expected, "{package} {pin} {priority}");
    }
    let mut asked = request("b");
    asked.pins = vec![Pin { package: "b".to_owned(), pin: "release a=*".to_owned(), priority: -1 }];
    let text = shown(resolve(&asked, &indexes, None));
    assert!(text.contains("no version of b is a candidate"), "{text}");
    asked.pins[0].priority = 0;
    assert!(shown(resolve(&asked, &indexes, None)).contains("0 is no priority"));
}

#[test]
fn other_architectures() {
    let amd64 = index(
        "bookworm",
        "amd64",
        "libc 2; Multi-Arch: same
         tool 1; Multi-Arch: foreign
         plain 1
         interpreter 1; Multi-Arch: allowed
         data 1 all; Multi-Arch: foreign
         useful 1; Depends: libc, tool",
    );
    let i386 = index(
        "bookworm",
        "i386",
        "libc 2; Multi-Arch: same
         old 1; Depends: libc, tool, data
         script 1; Depends: interpreter:any
         strict 1; Depends: interpreter
         plain 1
         needsplain 1; Depends: plain",
    );
    let indexes = [amd64, i386];
    for (packages, expected) in [
        ("libc:i386 libc", "libc=2 libc:i386=2"),
        ("old:i386", "data=1 libc:i386=2 old:i386=1 tool=1"),
        ("script:i386", "interpreter=1 script:i386=1"),
        ("useful old:i386", "data=1 libc=2 libc:i386=2 old:i386=1 tool=1 useful=1"),
        ("plain:i386", "plain:i386=1"),
        ("needsplain", "needsplain:i386=1 plain:i386=1"),
        ("old", "data=1 libc:i386=2 old:i386=1 tool=1"),
    ] {
        assert_eq!(choose(packages, &indexes), expected, "{packages}");
    }
    for packages in ["plain plain:i386", "plain needsplain:i386", "strict:i386"] {
        assert!(choose(packages, &indexes).contains("has no solution"), "{packages}");
    }
    // Siblings of Multi-Arch: same must be of one version.
    let newer = index("bookworm", "i386", "libc 3; Multi-Arch: same");
    let text = choose("libc libc:i386", &[indexes[0].clone(), newer]);
    assert!(text.contains("breaks libc"), "{text}");
}

#[test]
fn a_lock_keeps_its_versions() {
    let old = [index("bookworm", "amd64", "a 1; Depends: b | c\nb 1\nc 1\nd 1\nneeds 1; Depends: b (>= 2)")];
    let new = [index("bookworm", "amd64", "a 2; Depends: b | c\nb 2\nc 2\nd 2\nneeds 2; Depends: b (>= 2)")];
    let first = resolve(&request("a b- c"), &old, None).expect("solvable");
    assert_eq!(shown(Ok(first.clone())), "a=1 c=1");
    // The same request needs no index at all.
    assert_eq!(resolve(&request("a b- c"), &[], Some(&first)).expect("kept"), first);
    for (packages, expected) in [
        // What is new comes in its newest version, and the provider of before stays.
        ("a d", "a=1 c=1 d=2"),
        // A version that was asked for wins.
        ("a=2 c", "a=2 c=1"),
        ("a c-", "a=1 b=2"),
    ] {
        assert_eq!(shown(resolve(&request(packages), &new, Some(&first))), expected, "{packages}");
        let updated = shown(resolve(&request(packages), &new, None));
        assert!(!updated.contains("=1"), "{updated}");
    }
    // What cannot be kept moves, and nothing else.
    let second = resolve(&request("a b d"), &old, None).expect("solvable");
    let text = shown(resolve(&request("a b d needs"), &new, Some(&second)));
    assert_eq!(text, "a=1 b=2 d=1 needs=2");
    // A kept package that no index has any more keeps its repository and file.
    let kept = resolve(&request("a d"), &new, Some(&first)).expect("solvable");
    assert_eq!(kept.packages[0].filename, "pool/a_1_amd64.deb");
    assert_eq!(kept.packages[0].repository.as_deref(), Some("debian"));
    // Where the manifest has dropped the repository, it cannot be kept.
    let mut moved = request("a d");
    moved.repositories[0].name = "other".to_owned();
    assert_eq!(shown(resolve(&moved, &new, Some(&first))), "a=2 b=2 d=2");
}

#[test]
fn what_a_lock_says_of_itself() {
    let indexes = [index(
        "bookworm",
        "amd64",
        "base 1; Essential: yes; Pre-Depends: libc
         libc 2
         a 1; Depends: b | x
         b 1; Recommends: c
         c 1; Depends: mta
         mail 1; Provides: mta",
    )];
    let mut asked = request("a");
    asked.recommends = true;
    let lock = resolve(&asked, &indexes, None).expect("solvable");
    let reasons: Vec<String> = lock
        .packages
        .iter()
        .map(|p| format!("{}: {}", p.name, p.stanza.get(lockfile::REASON).unwrap_or_default()))
        .collect();
    assert_eq!(
        reasons,
        [
            "a: requested",
            "b: depends of a",
            "base: essential",
            "c: recommends of b",
            "libc: depends of base",
            "mail: depends of c"
        ]
    );
    assert_eq!(
        why(&asked, &lock, "mail").expect("it is there"),
        [
            "a is requested",
            "a 1 depends on b | x, here b 1",
            "b 1 recommends c",
            "c 1 depends on mta, here mail 1"
        ]
    );
    assert_eq!(why(&asked, &lock, "mta").expect("it is there").len(), 4);
    assert!(
        why(&asked, &lock, "x").expect_err("it is not there").to_string().contains("x is not in the lock")
    );

    check(&asked, &lock).expect("it is what was asked for");
    let text = lockfile::print(&lock);
    assert_eq!(lockfile::parse(&text, "test.lock".as_ref()).expect("it reads back"), lock);

    let problem = |asked: &Request, lock: &Lockfile| check(asked, lock).expect_err("a problem").to_string();
    let foreign = Lockfile { request: None, ..lock.clone() };
    check(&asked, &foreign).expect("its content is what was asked for");
    let other = Request { recommends: false, ..asked.clone() };
    assert!(problem(&other, &lock).contains("made for another request"));
    check(&other, &foreign).expect("recommended packages may be there");
    let mut incomplete = foreign.clone();
    incomplete.packages.retain(|package| package.name != "libc");
    assert!(problem(&asked, &incomplete).contains("base pre-depends on libc, which is not in it"));
    assert!(problem(&request("b c"), &foreign).contains("nothing asks for a"));
    let mut silent = foreign.clone();
    silent.packages.iter_mut().for_each(|package| drop(package.stanza.remove("Essential")));
    check(&request("b c"), &silent).expect("whether a is Essential is not known");
    assert!(problem(&request("a d"), &silent).contains("d is not in it"));
    assert!(problem(&request("a d"), &foreign).contains("d is not in it"));
    assert!(problem(&request("a b-"), &foreign).contains("b is in it, and must be absent"));
    assert!(problem(&request("a=2"), &foreign).contains("a is 1 in it, asked for is 2"));
    let armhf = Request { architecture: "armhf".to_owned(), ..asked };
    assert!(problem(&armhf, &foreign).contains("a is of amd64, the image of armhf"));
}

#[test]
fn without_dependencies_the_request_is_the_whole_choice() {
    let text = "a 1; Depends: b, missing\nb 1\nbase 1; Essential: yes; Pre-Depends: libc\nlibc 1; Conflicts: d\nd 1\n\
                real 2; Provides: virtual";
    let indexes = [index("bookworm", "amd64", text)];
    let alone =
        |packages: &str, essential: bool| Request { dependencies: false, essential, ..request(packages) };
    for (packages, essential, expected) in [
        ("a", false, "a=1"),
        ("b a", true, "a=1 b=1 base=1"),
        ("a=1 virtual real", false, "a=1 real=2"),
        ("libc d", false, "d=1 libc=1"),
    ] {
        let asked = alone(packages, essential);
        let lock = resolve(&asked, &indexes, None).expect("nothing is in the way");
        assert_eq!(shown(Ok(lock.clone())), expected);
        if !packages.contains("libc") {
            check(&asked, &lock).expect("it is what was asked for");
        }
        let problem = check(&Request { dependencies: true, ..asked }, &lock).expect_err("another request");
        assert!(problem.to_string().contains("another request"), "{problem}");
    }
    let nowhere = resolve(&alone("nowhere", false), &indexes, None);
    assert!(shown(nowhere).contains("nowhere"));
}

#[test]
fn the_digest_is_of_what_decides() {
    let asked = request("a");
    let mut same = asked.clone();
    same.image = "other".to_owned();
    same.repositories[0].uris.push("http://mirror.example/debian".to_owned());
    same.repositories[0].signed_by.push("key".to_owned());
    assert_eq!(digest(&asked), digest(&same));
    // A key that came later: locks that were made before it are still of their requests.
    let json = serde_json::to_string(&asked).expect("JSON");
    assert!(!json.contains("dependencies"), "{json}");
    assert_eq!(serde_json::from_str::<Request>(&json).expect("the same"), asked);
    let mut others = vec![request("b"), request("a="), request("a-")];
    others.extend([
        Request { recommends: true, ..asked.clone() },
        Request { essential: false, ..asked.clone() },
        Request { dependencies: false, ..asked.clone() },
        Request { architecture: "armhf".to_owned(), ..asked.clone() },
        Request { priority: vec!["required".to_owned()], ..asked.clone() },
    ]);
    let mut suites = asked.clone();
    suites.repositories[0].suites.pop();
    others.push(suites);
    for other in others {
        assert_ne!(digest(&asked), digest(&other), "{other:?}");
    }
}

/// The choice of an image called `test`, beside others: their packages, and what they have.
fn beside(
    packages: &str,
    indexes: &[Index],
    previous: Option<&Lockfile>,
    others: &[(&str, &Lockfile)],
) -> String {
    let requests: Vec<Request> = others.iter().map(|(packages, _)| request(packages)).collect();
    let others = requests.iter().zip(others).map(|(request, (_, lockfile))| Member { request, lockfile });
    let neighbours: Vec<Member<'_>> = others.collect();
    let offer = Offer::new("amd64", indexes).expect("well-formed");
    shown(offer.resolve(&request(packages), previous, &neighbours))
}

#[test]
fn other_images_versions_come_first() {
    let old = "a 1; Depends: lib (>= 1)\nlib 1\nb 1; Depends: lib (>= 1)\nc 1; Depends: lib (= 1)\ngone 1";
    let new =
        "a 2; Depends: lib (>= 1)\nlib 2\nb 2; Depends: lib (>= 2)\nc 2; Depends: lib (= 2)\ngone 2\nd 2";
    let first = [index("bookworm", "amd64", old)];
    let text = format!("{}{new}", old.replace("gone 1", ""));
    let both = [index("bookworm", "amd64", &text)];
    let lock = |packages: &str| resolve(&request(packages), &first, None).expect("it is there");
    let (a, c, gone) = (lock("a"), lock("c=1"), lock("gone"));
    let day_two = resolve(&request("b"), &both, None).expect("it is there");
    assert_eq!(shown(Ok(day_two.clone())), "b=2 lib=2");
    for (packages, previous, others, expected) in [
        ("a", None, &[][..], "a=2 lib=2"),
        // As they have it, and the rest as always.
        ("a d", None, &[("a", &a)][..], "a=1 d=2 lib=1"),
        // Its own lock goes before; the first of the others before the second.
        ("a b", Some(&day_two), &[("a", &a)][..], "a=1 b=2 lib=2"),
        ("lib", None, &[("a", &a), ("b", &day_two)][..], "lib=1"),
        ("lib", None, &[("b", &day_two), ("a", &a)][..], "lib=2"),
        // Where that cannot be, it is not.
        ("b", None, &[("a", &a)][..], "b=2 lib=2"),
        ("a=2 lib", None, &[("a", &a)][..], "a=2 lib=1"),
        ("gone", None, &[("gone", &gone)][..], "gone=2"),
        // What a request of another image says counts there alone, and what follows from it.
        ("c lib", None, &[("c=1", &c)][..], "c=2 lib=2"),
        ("c lib", None, &[("c", &c)][..], "c=1 lib=1"),
    ] {
        assert_eq!(beside(packages, &both, previous, others), expected, "{packages}");
    }
    // Other pins, other repositories: nobody to go by.
    let offer = Offer::new("amd64", &both).expect("well-formed");
    let pin = Pin { package: "zzz".to_owned(), pin: "version 1".to_owned(), priority: 500 };
    let mut repositories = request("a").repositories;
    repositories[0].suites.pop();
    for other in
        [Request { pins: vec![pin.clone()], ..request("a") }, Request { repositories, ..request("a") }]
    {
        let neighbour = Member { request: &other, lockfile: &a };
        assert_eq!(shown(offer.resolve(&request("a"), None, &[neighbour])), "a=2 lib=2", "{other:?}");
    }
    // A pin that forbids it does, and one image of another architecture has the same version.
    let forbidden = Pin { package: "lib".to_owned(), pin: "version 1".to_owned(), priority: -1 };
    let asked = Request { pins: vec![forbidden], ..request("a") };
    let neighbour = Member { request: &asked, lockfile: &a };
    assert_eq!(shown(offer.resolve(&asked, None, &[neighbour])), "a=1 lib=2");
    let mut foreign = a.clone();
    foreign.packages.iter_mut().for_each(|package| package.architecture = "armhf".to_owned());
    let other = Request { architecture: "armhf".to_owned(), ..request("a") };
    let neighbour = Member { request: &other, lockfile: &foreign };
    assert_eq!(shown(offer.resolve(&request("a"), None, &[neighbour])), "a=1 lib=1");
}

#[test]
fn one_reading_does_for_images_whose_locks_have_what_is_gone() {
    let old = [index("bookworm", "amd64", "a 1; Depends: b\nb 1\nc 1")];
    let new = [index("bookworm", "amd64", "a 2; Depends: b\nb 2\nc 1")];
    let offer = Offer::new("amd64", &new).expect("well-formed");
    let lock = resolve(&request("a"), &old, None).expect("it is there");
    for _ in 0..2 {
        assert_eq!(shown(offer.resolve(&request("a c"), Some(&lock), &[])), "a=1 b=1 c=1");
        assert_eq!(shown(offer.resolve(&request("a c"), None, &[])), "a=2 b=2 c=1");
    }
}

#[test]
fn tools() {
    let indexes = [index("trixie", "amd64", "qemu-user 10; Depends: glib\nglib 1")];
    let names = ["qemu-user-static", "qemu-user"].into();
    let tools = Tools::new("amd64", &names, &indexes).expect("well-formed");
    let lock = tools.resolve(&["qemu-user-static", "qemu-user"], &[]).expect("it is there");
    assert_eq!(shown(Ok(lock)), "qemu-user=10");
    assert!(shown(tools.resolve(&["qemu-user-static"], &[])).contains("no index for amd64 has"));
}

#[test]
fn a_bad_index_is_named() {
    let mut bad = index("bookworm", "amd64", "a 1; Depends: b (");
    let text = choose("a", &[bad.clone()]);
    assert!(
        text.contains("repository \"debian\": Packages of bookworm/main amd64: a: not a package"),
        "{text}"
    );
    bad.packages = b"Package: a\nVersion: 1\n".to_vec().into();
    assert!(choose("a", &[bad]).contains("no Architecture field"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever apt's way leads to is a solution, or the complete search says that there is none.
    #[test]
    fn what_is_chosen_is_complete(
        relations in prop::collection::vec((0..4usize, 0..8usize, 0..8usize, any::<bool>()), 1..30),
        wanted in prop::collection::vec(0..8usize, 1..4),
        recommends: bool,
    ) {
        let mut packages: Vec<[Vec<String>; 4]> = (0..8).map(|_| Default::default()).collect();
        for (kind, from, to, alternative) in relations {
            let other = if alternative && kind != 1 { format!(" | p{}", (to + 3) % 8) } else { String::new() };
            packages[from][kind].push(format!("p{to}{}", if kind == 3 { String::new() } else { other }));
        }
        let lines: Vec<String> = packages
            .iter()
            .enumerate()
            .map(|(number, lists)| {
                let mut line = format!("p{number} 1");
                for (name, list) in ["Depends", "Conflicts", "Recommends", "Provides"].into_iter().zip(lists) {
                    if !list.is_empty() {
                        line += &format!("; {name}: {}", list.join(", "));
                    }
                }
                line
            })
            .collect();
        let indexes = [index("bookworm", "amd64", &lines.join("\n"))];
        let names: Vec<String> = wanted.iter().map(|number| format!("p{number}")).collect();
        let asked = Request { recommends, ..request(&names.join(" ")) };
        match resolve(&asked, &indexes, None) {
            Ok(lock) => check(&asked, &lock).map_err(|e| TestCaseError::fail(e.to_string()))?,
            Err(error) => prop_assert_eq!(error.kind(), Kind::Input, "{}", error),
        }
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, text in "((Package|Version|Depends|Provides): ?[a-z0-9:|(), ]{0,9}\n?){0,9}") {
        for data in [bytes, text.into_bytes()] {
            let mut index = index("bookworm", "amd64", "");
            index.packages = data.into();
            let _ = resolve(&request("a"), &[index], None);
        }
    }
}
