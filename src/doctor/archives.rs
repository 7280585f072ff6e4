//! Where packages come from, and who vouches for them: the host's apt sources and keyrings, as far
//! as the manifest leaves them to the host.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Finding, State};
use crate::{
    artefacts::{Preseed, Repository},
    manifest::Manifest,
};

/// Debian's keyrings: that of the package debian-archive-keyring (under its old and new name), and
/// those that apt trusts for every source (apt-secure(8)).
const KEYRINGS: &[&str] =
    &["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];
const TRUSTED: &[&str] = &["/etc/apt/trusted.gpg", "/etc/apt/trusted.gpg.d"];

/// Where apt keeps its sources (sources.list(5)).
const SOURCES: &[&str] = &["/etc/apt/sources.list", "/etc/apt/sources.list.d"];

/// What the host has.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Files with binary package sources.
    sources: Vec<PathBuf>,
    /// Keyrings.
    keyrings: Vec<PathBuf>,
}

impl Host {
    /// Looks at the host's usual places.
    pub(super) fn read() -> Self {
        let sources = files(SOURCES, &["list", "sources"]);
        let mut keyrings: Vec<PathBuf> =
            KEYRINGS.iter().map(PathBuf::from).filter(|path| path.is_file()).collect();
        keyrings.extend(files(TRUSTED, &["gpg", "asc"]));
        Host { sources: sources.into_iter().filter(|path| has_binary_source(path)).collect(), keyrings }
    }
}

/// Files among `places`, and those in folders among them that have one of the `extensions`.
fn files(places: &[&str], extensions: &[&str]) -> Vec<PathBuf> {
    let wanted =
        |path: &PathBuf| path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted));
    let mut found = Vec::new();
    for place in places.iter().map(Path::new) {
        if place.is_file() {
            found.push(place.to_owned());
        } else if let Ok(entries) = fs::read_dir(place) {
            let mut files: Vec<PathBuf> =
                entries.flatten().map(|entry| entry.path()).filter(wanted).collect();
            files.sort();
            found.extend(files);
        }
    }
    found
}

/// Whether a file of apt's has a source of binary packages, in one of the two formats. Which suites
/// it serves is found out when they are asked for.
fn has_binary_source(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().any(|line| match line.split_once(':') {
        Some((field, types)) if field.eq_ignore_ascii_case("types") => {
            types.split_whitespace().any(|t| t == "deb")
        }
        _ => line.split_whitespace().next() == Some("deb"),
    })
}

/// The findings. Without a manifest, of what a manifest usually leaves to the host.
pub(super) fn examine(manifest: Option<&Manifest>, host: &Host) -> Vec<Finding> {
    let Some(manifest) = manifest else {
        return vec![sources(host, State::Degraded), keyring(host, State::Degraded)];
    };
    let mut repositories: Vec<&Repository> = Vec::new();
    for repository in manifest.images.iter().flat_map(|image| &image.request.repositories) {
        if !repositories.contains(&repository) {
            repositories.push(repository);
        }
    }
    let mut findings = Vec::new();
    if repositories.iter().any(|repository| repository.uris.is_empty()) {
        findings.push(sources(host, State::Missing));
    }
    if repositories.iter().any(|repository| repository.signed_by.is_empty() && !repository.trusted) {
        findings.push(keyring(host, State::Missing));
    }
    findings.extend(repositories.iter().flat_map(|repository| own_keyrings(repository)));
    findings.extend(manifest.images.iter().filter_map(|image| {
        let Some(Preseed::File(preseed)) = &image.preseed else { return None };
        if preseed.is_file() {
            return None;
        }
        let message = format!("{}, the preseed of {}, is no file", preseed.display(), image.request.image);
        Some(Finding::missing("preseed", message, "correct `preseed` in the manifest"))
    }));
    findings
}

fn sources(host: &Host, otherwise: State) -> Finding {
    const CHECK: &str = "apt-sources";
    if let Some(first) = host.sources.first() {
        let more = host.sources.len() - 1;
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        return Finding::ok(CHECK, format!("{}{more}", first.display()));
    }
    let message = "the host has no apt sources: each repository of the manifest must name its own";
    let remedy = "add to each [repos.NAME]: uris = [\"http://mirror.example/debian\"]";
    Finding { state: otherwise, ..Finding::missing(CHECK, message, remedy) }
}

fn keyring(host: &Host, otherwise: State) -> Finding {
    const CHECK: &str = "keyring";
    if let Some(first) = host.keyrings.first() {
        return Finding::ok(CHECK, first.display().to_string());
    }
    let message = "the host has no archive keyring: no signature can be checked against it";
    let remedy = "apt-get install debian-archive-keyring; or name a keyring with signed-by in the manifest";
    Finding { state: otherwise, ..Finding::missing(CHECK, message, remedy) }
}

/// Keyring files that a repository names and that are not there.
fn own_keyrings(repository: &Repository) -> Vec<Finding> {
    let files = repository.signed_by.iter().filter(|key| !key.starts_with("-----BEGIN"));
    let missing = files.filter(|file| !Path::new(file).is_file());
    missing
        .map(|file| {
            let message = format!("{file}, a keyring of [repos.{}], is no file", repository.name);
            Finding::missing("keyring", message, format!("correct signed-by of [repos.{}]", repository.name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(repository: &str, image: &str) -> Manifest {
        let text = format!(
            "[repos.d]\nsuites = [\"sid\"]\n{repository}\n\
             [images.i]\narch = \"armhf\"\npackages = [\"bash\"]\n{image}\n"
        );
        Manifest::parse(Path::new("/nowhere/treestrap.toml"), &text).expect("a good manifest")
    }

    #[test]
    fn only_what_the_manifest_needs_is_asked_for() {
        use State::{Degraded, Missing, Ok};
        let none = Host::default();
        let debian = Host { sources: vec!["/s".into(), "/t".into()], keyrings: vec!["/k".into()] };
        let own = "uris = [\"file:///srv\"]\ntrusted = true";
        let key = "uris = [\"file:///srv\"]\nsigned-by = \"k.asc\"";
        for (repository, image, host, expected) in [
            ("", "", &debian, vec![("apt-sources", Ok), ("keyring", Ok)]),
            ("", "", &none, vec![("apt-sources", Missing), ("keyring", Missing)]),
            (own, "", &none, vec![]),
            (key, "", &none, vec![("keyring", Missing)]),
            (own, "preseed = \"debconf.txt\"", &none, vec![("preseed", Missing)]),
        ] {
            let findings = examine(Some(&manifest(repository, image)), host);
            let found: Vec<_> = findings.iter().map(|finding| (finding.check, finding.state)).collect();
            assert_eq!(found, expected, "{repository} {image}");
            assert!(findings.iter().all(|f| f.remedy.is_some() == (f.state != Ok)), "{findings:?}");
        }
        let states: Vec<State> = examine(None, &none).iter().map(|finding| finding.state).collect();
        assert_eq!(states, [Degraded, Degraded]);
        assert_eq!(examine(None, &debian)[0].message, "/s and 1 more");
    }

    #[test]
    fn both_formats_of_sources() {
        let folder = tempfile::tempdir().expect("a folder");
        for (text, expected) in [
            ("# nothing\ndeb-src http://mirror.example/debian sid main\n", false),
            ("deb [arch=armhf] http://mirror.example/debian sid main\n", true),
            ("  deb\thttp://mirror.example/debian sid main\n", true),
            ("Types: deb-src\nURIs: http://mirror.example/debian\n", false),
            ("types: deb-src deb\nURIs: http://mirror.example/debian\n", true),
            ("", false),
        ] {
            let path = folder.path().join("test.list");
            fs::write(&path, text).expect("written");
            assert_eq!(has_binary_source(&path), expected, "{text}");
        }
        assert!(!has_binary_source(&folder.path().join("none")));
    }
}
