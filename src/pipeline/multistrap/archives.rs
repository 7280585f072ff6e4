//! The packages themselves, where they are to be kept: in apt's cache in the folder, or beside their sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::Path,
};

use super::{apt, folder::Root};
use crate::{
    Context, Error, Result,
    acquire::{Acquire, Wanted, uri},
    artefacts::{Image, LockedPackage, Lockfile, Repository},
    debian::{deb822, version},
    digest::Sha256,
    error::Kind,
    fetch::DebSink,
    lock::{index::Index, indexes},
    pipeline::{Session, pool, replace_file},
};

/// Gets the packages of a lock into the repository; with `keep`, their debs stay in apt's cache in that
/// folder as well, under apt's names. No deb is downloaded twice.
pub(super) fn fetch(
    session: &Session<'_>,
    image: &Image,
    lockfile: &Lockfile,
    keep: Option<&Root>,
) -> Result<()> {
    let Some(root) = keep else { return pool::fetch_locked(session, &[(image, lockfile)]) };
    root.make_folder(&format!("{}/partial", apt::ARCHIVES))?;
    let debs = root.path().join(apt::ARCHIVES);
    let keeping = Session {
        repo: session.repo.clone(),
        cache: session.cache.clone(),
        state: session.state.clone(),
        keep_debs: Some(debs.clone()),
        ..*session
    };
    pool::fetch_locked(&keeping, &[(image, lockfile)])?;
    // What the repository had already was not downloaded now.
    let is_missing = |package: &&LockedPackage| {
        ![name_in_archive(package).to_owned(), apt::archive_name(package)]
            .iter()
            .any(|name| debs.join(name).is_file())
    };
    let missing: Vec<&LockedPackage> = lockfile.packages.iter().filter(is_missing).collect();
    if !missing.is_empty() {
        let acquire = Acquire::new(session.offline, session.stop);
        let repositories = pool::repositories(image.request.repositories.iter())?;
        let make_sink = || Ok(Box::new(Nothing) as Box<dyn DebSink>);
        pool::run(&keeping, &image.request.image, &repositories, &acquire, (&missing, None), &make_sink)?;
    }
    for package in &lockfile.packages {
        let (from, to) = (debs.join(name_in_archive(package)), debs.join(apt::archive_name(package)));
        if from != to && from.is_file() {
            fs::rename(&from, &to).with_context(|| format!("renaming {}", from.display()))?;
        }
    }
    Ok(())
}

/// Moves the debs of apt's cache in the folder to another folder.
pub(super) fn move_debs(root: &Root, to: &Path) -> Result<()> {
    for name in root.files(apt::ARCHIVES)?.iter().filter(|name| name.ends_with(".deb")) {
        let from = format!("{}/{name}", apt::ARCHIVES);
        let content = root.read(&from)?.unwrap_or_default();
        replace_file(&to.join(name), |file| Ok(std::io::Write::write_all(file, &content)?))?;
        root.remove(&from)?;
    }
    Ok(())
}

/// A source package: name and version.
type Source = (String, String);

/// Gets the source packages of all packages of a lock into a folder, from these repositories. A file that
/// is there with the right content is not got again. Gives a sentence for each that could not be got.
pub(super) fn get_sources(
    session: &Session<'_>,
    image: &Image,
    repositories: Vec<Repository>,
    lockfile: &Lockfile,
    folder: &Path,
) -> Result<Vec<String>> {
    let mut request = image.request.clone();
    request.repositories = repositories;
    let acquire = Acquire::new(session.offline, session.stop);
    let surroundings = indexes::Surroundings {
        root: Path::new("/"),
        cache: &session.cache,
        acquire: &acquire,
        reporter: session.reporter,
    };
    let indexes = indexes::obtain_sources(&request, &surroundings)?;
    let located = pool::repositories(request.repositories.iter())?;
    let wanted: BTreeSet<Source> = lockfile.packages.iter().map(source_of).collect();
    let mut found = find_sources(&wanted, &indexes);
    let mut missing = Vec::new();
    for source in &wanted {
        session.check_stop()?;
        let (name, version) = source;
        let Some((at, stanza)) = found.remove(source).or_else(|| newest(name, &indexes)) else {
            missing.push(format!("no repository with deb-src has the source package {name} {version}"));
            continue;
        };
        let has = deb822::field(stanza, "Version").map(String::from_utf8_lossy).unwrap_or_default();
        if has != version.as_str() {
            missing.push(format!("the source package {name} {version} is gone: {has} is retained"));
        }
        let repository = &indexes[at].repository;
        let uris = located.iter().find(|(name, _)| name == repository).map(|(_, uris)| uris.as_slice());
        match get_source(&acquire, uris.unwrap_or_default(), repository, stanza, folder) {
            Err(error) if error.kind() == Kind::Input => {
                missing.push(format!("the source package {name} {has} is not retained: {error}"));
            }
            result => result?,
        }
    }
    let count = wanted.len() - missing.len();
    let message = format!("{count} of {} source packages are in {}", wanted.len(), folder.display());
    session.reporter.note(&request.image, message);
    Ok(missing)
}

/// The source package that a package was built from.
fn source_of(package: &LockedPackage) -> Source {
    let source = package.stanza.get("Source").unwrap_or(&package.name);
    let name = source.split(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
    (name.to_owned(), package.source_version().to_owned())
}

/// The stanzas of these source packages, each with the place of its index.
fn find_sources<'i>(wanted: &BTreeSet<Source>, indexes: &'i [Index]) -> BTreeMap<Source, (usize, &'i [u8])> {
    let mut found = BTreeMap::new();
    for (at, stanza) in all_stanzas(indexes) {
        let text =
            |name| deb822::field(stanza, name).map(|value| String::from_utf8_lossy(value).into_owned());
        if let (Some(name), Some(version)) = (text("Package"), text("Version")) {
            let source = (name, version);
            if wanted.contains(&source) {
                found.entry(source).or_insert((at, stanza));
            }
        }
    }
    found
}

/// The newest version of a source package.
fn newest<'i>(name: &str, indexes: &'i [Index]) -> Option<(usize, &'i [u8])> {
    let number =
        |stanza| String::from_utf8_lossy(deb822::field(stanza, "Version").unwrap_or_default()).into_owned();
    let named = all_stanzas(indexes)
        .filter(|(_, stanza)| deb822::field(stanza, "Package").is_some_and(|value| value == name.as_bytes()));
    named.max_by(|(_, a), (_, b)| version::compare(&number(a), &number(b)))
}

fn all_stanzas(indexes: &[Index]) -> impl Iterator<Item = (usize, &[u8])> {
    indexes
        .iter()
        .enumerate()
        .flat_map(|(at, index)| deb822::stanzas(&index.packages).map(move |stanza| (at, stanza)))
}

/// Gets the files of one source package (its stanza's `Checksums-Sha256`).
fn get_source(
    acquire: &Acquire<'_>,
    uris: &[String],
    repository: &str,
    stanza: &[u8],
    folder: &Path,
) -> Result<()> {
    let text = |name| String::from_utf8_lossy(deb822::field(stanza, name).unwrap_or_default()).into_owned();
    let directory = text("Directory");
    for line in text("Checksums-Sha256").lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[digest, size, name] = words.as_slice() else {
            return Err(Error::input(format!("Checksums-Sha256 has the line {line:?}")));
        };
        let digest: Sha256 = digest.parse().map_err(|error| Error::input(format!("{name}: {error}")))?;
        let size: u64 = size.parse().map_err(|_| Error::input(format!("{name}: its size is {size:?}")))?;
        if name.contains('/') || name.starts_with('.') || directory.split('/').any(|part| part == "..") {
            return Err(Error::input(format!("{directory}/{name} leads out of the archive")));
        }
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|content| Sha256::of(&content) == digest) {
            continue;
        }
        let wanted = Wanted {
            what: format!("the file {name}"),
            repository: repository.to_owned(),
            uris: uris.iter().map(|base| uri::join(base, &format!("{directory}/{name}"))).collect(),
            size: Some(size),
            sha256: Some(digest),
            limit: size,
        };
        acquire.deliver(&wanted, &mut |stream| {
            replace_file(&path, |file| {
                std::io::copy(stream, file)?;
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// What the archive calls a package's file.
fn name_in_archive(package: &LockedPackage) -> &str {
    package.filename.rsplit('/').next().unwrap_or_default()
}

/// Wants nothing of a deb: it is kept, and that is all.
struct Nothing;

impl DebSink for Nothing {
    fn deb(&mut self, _: &LockedPackage, _: &mut dyn Read) -> Result<()> {
        Ok(()) // what is left of the stream is read, checked and kept all the same
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{debian::release::Release, lock::lockfile};

    fn index(packages: &str) -> Index {
        Index {
            repository: "d".into(),
            uri: "http://mirror.example".into(),
            suite: "sid".into(),
            component: "main".into(),
            architecture: "source".into(),
            release: Arc::new(Release::default()),
            packages: Arc::new(packages.as_bytes().to_vec()),
        }
    }

    #[test]
    fn source_packages_are_found_by_name_and_version() {
        let stanza = |fields: &str| {
            let text = format!(
                "Package: libx1\nVersion: 2:1.0-1+b2\nArchitecture: armhf\nFilename: pool/libx1.deb\nSize: 1\n\
                 SHA256: {}\n{fields}",
                Sha256([7; 32])
            );
            lockfile::entry(text.as_bytes(), "d", "sid").expect("well-formed")
        };
        for (fields, name, version) in [
            ("", "libx1", "2:1.0-1+b2"),
            ("Source: x\n", "x", "2:1.0-1+b2"),
            ("Source: x (2:1.0-1)\n", "x", "2:1.0-1"),
        ] {
            assert_eq!(source_of(&stanza(fields)), (name.to_owned(), version.to_owned()), "{fields}");
        }
        let indexes = [
            index("Package: x\nVersion: 2:1.0-1\nDirectory: one\n\nPackage: y\nVersion: 1\n"),
            index("Package: x\nVersion: 2:1.0-2\nDirectory: two\n"),
        ];
        let wanted =
            BTreeSet::from([("x".to_owned(), "2:1.0-1".to_owned()), ("z".to_owned(), "1".to_owned())]);
        let found = find_sources(&wanted, &indexes);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&("x".to_owned(), "2:1.0-1".to_owned())].0, 0);
        let (at, stanza) = newest("x", &indexes).expect("there");
        assert_eq!((at, deb822::field(stanza, "Directory")), (1, Some(&b"two"[..])));
        assert!(newest("z", &indexes).is_none());
    }

    #[test]
    fn what_a_source_package_says_leads_nowhere_else() {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let acquire = Acquire::for_tests(true, &stop);
        let (archive, to) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        fs::create_dir(archive.path().join("x")).expect("a folder");
        fs::write(archive.path().join("x/x.dsc"), "text").expect("written");
        let uris = [format!("file:{}", archive.path().display())];
        let get = |directory: &str, digest: Sha256, name: &str| {
            let text = format!("Package: x\nDirectory: {directory}\nChecksums-Sha256:\n {digest} 4 {name}\n");
            get_source(&acquire, &uris, "d", text.as_bytes(), to.path())
        };
        get("x", Sha256::of(b"text"), "x.dsc").expect("got");
        assert_eq!(fs::read(to.path().join("x.dsc")).expect("there"), b"text");
        fs::remove_file(archive.path().join("x/x.dsc")).expect("removed");
        get("x", Sha256::of(b"text"), "x.dsc").expect("it is there already");
        for (directory, name) in [("x", "../y"), ("..", "y"), ("x", ".y"), ("x", "y")] {
            let error = get(directory, Sha256([0; 32]), name).expect_err("refused");
            assert_eq!(error.kind(), Kind::Input, "{error}");
        }
        assert_eq!(fs::read_dir(to.path()).expect("listed").count(), 1);
    }
}
