//! Configurations as multistrap reads them. What it makes of the same texts was found out by running it
//! with `--simulate`.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::{Configuration, Files, Source};
use crate::{
    Result,
    artefacts::{Constraint, Pin, Request},
    error::Kind,
};

/// Files by their names.
struct Texts(BTreeMap<PathBuf, Vec<u8>>);

impl Files for Texts {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn is_file(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }
}

/// Reads the first of these files.
fn read(files: &[(&str, &str)]) -> Result<Configuration> {
    let texts = files.iter().map(|(name, text)| (PathBuf::from(name), text.as_bytes().to_vec()));
    Configuration::read(Path::new(files[0].0), &Texts(texts.collect()))
}

fn good(files: &[(&str, &str)]) -> Configuration {
    read(files).unwrap_or_else(|error| panic!("{files:?}: {error}"))
}

fn request(configuration: &Configuration) -> Request {
    configuration.request("image", configuration.target_architecture(), &[], &[]).expect("a request")
}

/// The packages as apt is asked for them.
fn packages(request: &Request) -> Vec<String> {
    let text = |wanted: &crate::artefacts::PackageRequest| match &wanted.constraint {
        Constraint::Any => wanted.name.clone(),
        Constraint::Version(version) => format!("{}={version}", wanted.name),
        Constraint::Suite(suite) => format!("{}/{suite}", wanted.name),
        Constraint::Absent => format!("{}-", wanted.name),
    };
    request.packages.iter().map(text).collect()
}

#[test]
fn every_key_is_taken() {
    let base = "[General]\narch=amd64\nhookdir=more\n";
    let configuration =
        good(&[("conf/board.conf", include_str!("every-key.conf")), ("conf/base.conf", base)]);
    assert_eq!(configuration.warnings, [] as [&str; 0]);
    assert_eq!(configuration.included, [Path::new("conf/base.conf")]);
    assert_eq!(configuration.target_architecture(), "armhf");
    assert_eq!(configuration.directory.as_deref(), Some(Path::new("/srv/board")));
    assert_eq!(configuration.tarball.as_deref(), Some(Path::new("board.tgz")));
    assert_eq!(configuration.multiarch, ["armhf", "arm64"]);
    assert_eq!(configuration.bootstrap, ["debian", "flat", "foreign"]);
    assert_eq!(configuration.apt_sources, ["debian"]);
    assert_eq!(configuration.default_release.as_deref(), Some("bookworm"));
    let on = [
        configuration.unpack,
        configuration.no_auth,
        configuration.cleanup,
        configuration.explicit_suite,
        configuration.recommends,
        configuration.add_important,
        configuration.omit_preinst,
        configuration.ignore_native,
        configuration.mark_auto,
    ];
    assert!(on.iter().all(|on| *on), "{on:?}");
    assert!(!configuration.omit_required);
    let named = |files: &[super::Named]| {
        files.iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(named(&configuration.preferences), "pins");
    assert_eq!(named(&configuration.setup_script), "setup.sh");
    assert_eq!(named(&configuration.config_script), "config.sh");
    assert_eq!(named(&configuration.hook_folders), "hooks more");
    assert_eq!(named(&configuration.seeds), "seed1 seed2");
    assert_eq!(named(&configuration.retain_sources), "/srv/sources");
    assert_eq!(configuration.seeds[0].place, "conf/board.conf:26: debconfseed");
    assert_eq!(
        (&configuration.reinstall, &configuration.additional),
        (&vec!["bash".to_owned()], &vec!["exim4-daemon-light".to_owned()])
    );

    let request = request(&configuration);
    let expected = [
        "adduser/bookworm",
        "debian-archive-keyring",
        "libc6:arm64/bookworm-updates",
        "nginx/bookworm",
        "openssh-server/bookworm",
        "tool=1.2",
    ];
    assert_eq!(packages(&request), expected);
    let shown: Vec<String> = request
        .repositories
        .iter()
        .map(|r| {
            format!(
                "{} {} {} {} {}",
                r.name,
                r.uris[0],
                r.suites[0],
                r.components.join("+"),
                r.check_valid_until
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "debian http://mirror.example/debian bookworm main+contrib true",
            "flat copy:///srv/flat ./  true",
            "foreign https://mirror.example/debian bookworm-updates main false",
        ]
    );
    assert!(request.repositories.iter().all(|repository| repository.trusted), "noauth is for all");
    assert!(request.recommends && !request.essential);
    assert_eq!(request.priority, ["required", "important"]);
    let pin = Pin { package: "*".into(), pin: "release bookworm".into(), priority: 990 };
    assert_eq!(request.pins, [pin]);
    assert_eq!(configuration.architectures("armhf"), ["armhf", "arm64"]);
}

const SECTION: &str = "[D]\npackages=aa\nsource=http://mirror.example/debian\nsuite=sid\n";

#[test]
fn what_the_files_of_a_cascade_say_adds_up_or_the_first_wins() {
    let configuration = good(&[
        (
            "a.conf",
            &format!(
                "[General]\narch=armhf\ninclude=b.conf\nbootstrap=D\nconfigscript=\nnoauth=false\n{SECTION}"
            ),
        ),
        (
            "b.conf",
            "[general]\narch=amd64\ndirectory=/b\ninclude=c.conf\nbootstrap=E\nnoauth=true\nconfigscript=b.sh\n[E]\npackages=ee\n",
        ),
        (
            "c.conf",
            "[General]\ndirectory=/c\naptdefaultrelease=sid\nunpack=false\n[F]\nadditional=x\nreinstall=y\n",
        ),
    ]);
    assert_eq!(configuration.included, [Path::new("b.conf"), Path::new("c.conf")]);
    assert_eq!(configuration.target_architecture(), "armhf");
    assert_eq!(configuration.directory.as_deref(), Some(Path::new("/b")));
    assert_eq!(configuration.bootstrap, ["d", "e"]);
    assert!(configuration.no_auth && !configuration.unpack);
    assert_eq!(configuration.default_release.as_deref(), Some("sid"));
    assert_eq!(configuration.config_script.len(), 1);
    // Whatever section has them, and whether it is used.
    assert_eq!((configuration.additional.len(), configuration.reinstall.len()), (1, 1));
    assert_eq!(packages(&request(&configuration)), ["aa", "ee"]);
}

#[test]
fn a_section_of_two_files_counts_as_with_multistrap_and_is_told() {
    let configuration = good(&[
        (
            "a.conf",
            &format!("[General]\ninclude=b.conf\nbootstrap=d\n{SECTION}components=main\nkeyring=one\n"),
        ),
        (
            "b.conf",
            "[General]\n[d]\npackages=b\npackages=c\nsource=http://other.example\nsuite=x\ncomponents=contrib\nkeyring=two\n",
        ),
    ]);
    let section = &configuration.sections["d"];
    assert_eq!(section.packages, ["b", "c"]);
    assert_eq!(section.source.as_ref().map(Source::text).as_deref(), Some("http://other.example"));
    assert_eq!((section.suite.as_deref(), section.keyring.as_deref()), (Some("sid"), Some("one")));
    assert_eq!(section.components, ["main"]);
    assert_eq!(configuration.warnings.len(), 5, "{:#?}", configuration.warnings);
    assert!(
        configuration.warnings[0].starts_with("a.conf:5: packages of [d] is in b.conf:3, too"),
        "{:?}",
        configuration.warnings
    );
    assert!(
        configuration.warnings[2].starts_with("b.conf:6: suite of [d] is in a.conf:7, too"),
        "{:?}",
        configuration.warnings
    );
}

#[test]
fn includes_are_found_beside_and_circles_are_not_followed() {
    let main = "[General]\ninclude=sub/b.conf\nbootstrap=x\n[x]\npackages=p\n";
    let found = good(&[
        ("top/a.conf", main),
        ("top/sub/b.conf", "[General]\ninclude=c.conf d.conf\n"),
        ("top/sub/c.conf", "[General]\ninclude=d.conf\n"),
        ("top/d.conf", "[General]\n"),
    ]);
    let paths: Vec<String> = found.included.iter().map(|path| path.display().to_string()).collect();
    assert_eq!(
        paths,
        ["top/sub/b.conf", "top/sub/c.conf", "top/d.conf"],
        "one that two include is read once"
    );
    for (files, message) in [
        (vec![("a", "[General]\ninclude=a\n")], "a:2: a includes itself"),
        (
            vec![("a", "[General]\ninclude=./b\n"), ("./b", "[General]\ninclude=a\n")],
            "b:2: a includes itself",
        ),
        (vec![("a", "[General]\ninclude=z\n")], "a:2: there is no file \"z\""),
        (vec![("a", "[General]\narch\n")], "a:2: neither"),
    ] {
        let error = read(&files).expect_err(message);
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!((error.kind(), error.get_hint().is_some()), (Kind::Input, true));
    }
}

#[test]
fn switches() {
    // key, value, on, whether multistrap reads it otherwise
    for (key, value, on, differs) in [
        ("noauth", "true", true, false),
        ("noauth", "True", true, true),
        ("noauth", "true ", true, true),
        ("noauth", "false", false, false),
        ("noauth", "", false, false),
        ("noauth", "yes", false, false),
        ("markauto", "TRUE", true, false),
        ("unpack", "true", true, false),
        ("unpack", "True", true, true),
        ("unpack", "", true, true),
        ("unpack", "no", false, false),
        ("forceunpack", "True", true, false),
        ("forceunpack", "", true, true),
    ] {
        let text = format!("[General]\n{key}={value}\nbootstrap=d\n{SECTION}");
        let configuration = good(&[("a", &text)]);
        let found = match key {
            "noauth" => configuration.no_auth,
            "markauto" => configuration.mark_auto,
            _ => configuration.unpack,
        };
        assert_eq!(found, on, "{key}={value}");
        let told = configuration.warnings.iter().any(|warning| warning.contains("multistrap reads"));
        assert_eq!(told, differs, "{key}={value}: {:?}", configuration.warnings);
        let odd = configuration.warnings.iter().any(|warning| warning.contains("neither true nor false"));
        assert_eq!(odd, ["yes", "no"].contains(&value), "{key}={value}");
    }
}

#[test]
fn warnings_have_file_and_line() {
    let text = format!("[General]\nArch=armhf\nbootstrap=D gone\nfoo=1\n{SECTION}\n[Other]\npackages=x\n");
    let configuration = good(&[("a.conf", &text)]);
    for (warning, expected) in configuration.warnings.iter().zip([
        "a.conf:2: [general] has no key \"Arch\": ignored, as by multistrap; did you mean \"arch\"?",
        "a.conf:4: [general] has no key \"foo\"",
        "a.conf: bootstrap names [gone], which is not there",
        "a.conf:10: neither bootstrap nor aptsources names [other]",
    ]) {
        assert!(warning.starts_with(expected), "{warning}");
    }
    assert_eq!(configuration.warnings.len(), 4);
    assert_eq!(packages(&request(&configuration)), ["aa"]);
}

#[test]
fn what_cannot_be() {
    let section = |line: &str| format!("[General]\nbootstrap=D\n{SECTION}{line}\n");
    for (text, message) in [
        ("[General]\narch=armfh\n".to_owned(), "\"armfh\" is no architecture of Debian"),
        ("[General]\nmultiarch=x y\n".to_owned(), "\"x\" is no architecture"),
        ("[General]\nomitrequired=true\naddimportant=true\n".to_owned(), "are both true"),
        ("[General]\narch=i386\narch=i386\n".to_owned(), "a:3: arch is there already, in line 2"),
        ("[a/b]\n".to_owned(), "a:1: \"a/b\" cannot name a section"),
        (section("suite=x"), "a:7: suite is there already, in line 6"),
        (section("architecture=armel"), "a:3: [d] wants packages of armel, which multiarch does not have"),
        (
            section("[E]\nsource=ftp://mirror.example"),
            "a:8: source=ftp://mirror.example: \"ftp://mirror.example\" is not a URI",
        ),
        (section("[E]\nsource=http://mirror.example sid main"), "\"sid\" is neither part of the URI"),
        (section("[E]\nsource=[trusted=yes"), "there is no ] after ["),
    ] {
        let error = read(&[("a", &text)]).expect_err(message);
        assert!(error.to_string().contains(message), "{message}: {error}");
    }
    let configuration = good(&[("a", &section("packages=Nginx"))]);
    let error = configuration.request("i", "armhf", &[], &[]).expect_err("no name").to_string();
    assert!(error.contains("packages of [d]: \"Nginx\""), "{error}");
}

#[test]
fn sources() {
    for (value, uri, flat, options) in [
        ("http://mirror.example/debian", "http://mirror.example/debian", None, ""),
        ("http://ports.example/", "http://ports.example/", None, ""),
        ("[trusted=yes] copy:/srv/a ./", "copy:/srv/a", Some("./"), "trusted=yes"),
        ("[a=b c=d][e=f] file:///srv/a x/y/", "file:///srv/a", Some("x/y/"), "a=b c=d e=f"),
    ] {
        let source = Source::parse(value).expect(value);
        assert_eq!((source.uri.as_str(), source.flat.as_deref()), (uri, flat), "{value}");
        let found: Vec<String> =
            source.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(found.join(" "), options, "{value}");
    }
}

#[test]
fn repositories_of_one_suite_are_one_and_words_after_a_suite_are_components() {
    let configuration = good(&[(
        "a",
        "[General]\nbootstrap=b a c\n\
         [a]\nsource=http://mirror.example/debian\nsuite=sid universe\npackages=xx\n\
         [b]\nsource=http://mirror.example/debian/\nsuite=sid\ncomponents=contrib main\npackages=yy\n\
         [c]\npackages=zz xx\n",
    )]);
    let request = request(&configuration);
    assert_eq!(packages(&request), ["xx", "yy", "zz"]);
    let [repository] = request.repositories.as_slice() else { panic!("{:?}", request.repositories) };
    assert_eq!((repository.name.as_str(), &repository.suites), ("a", &vec!["sid".to_owned()]));
    assert_eq!(repository.components, ["universe", "main", "contrib"]);
}

#[test]
fn suites_without_a_source_are_this_machine_s() {
    let text =
        "[General]\nbootstrap=a b\n[a]\nsuite=sid\ncomponents=contrib\n[b]\npackages=bb\n[c]\nsuite=x\n";
    let configuration = good(&[("a", text)]);
    assert!(request(&configuration).repositories.is_empty());
    let found = configuration.repositories_of_this_machine();
    let [repository] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((repository.suites.as_slice(), repository.uris.len()), (&["sid".to_owned()][..], 0));
    assert_eq!(repository.components, ["contrib"]);
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\[(General|d)\\]\n|[a-z]{2,9}=[ -~]{0,12}\n){0,12}", any: String) {
        for text in [&text, &any] {
            if let Ok(configuration) = read(&[("a", text)]) {
                let _ = configuration.request("i", "armhf", &[], &[]);
                let _ = configuration.additional_packages();
            }
        }
    }
}
