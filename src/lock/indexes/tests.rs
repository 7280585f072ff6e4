//! Indexes from made-up archives, with all that can be wrong with them, and from the real one.

use std::{
    collections::BTreeMap,
    sync::atomic::AtomicBool,
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    acquire::test_server::{Reply, Server},
    lock::{
        signature::{About, KeySource, Keyring, verify_inline},
        test_archive::{Key, Signing, TestSuite, date, detached, gpgv, inline, may_run, no_gpgv},
    },
    report::Event,
};

static NEVER: AtomicBool = AtomicBool::new(false);

const INDEXES: [(&str, &str, &str); 4] = [
    ("main", "armhf", "Package: a\nArchitecture: armhf\n"),
    ("main", "amd64", "Package: a\nArchitecture: amd64\n"),
    ("main", "all", "Package: b\nArchitecture: all\n"),
    ("contrib", "armhf", "Package: c\nArchitecture: armhf\n"),
];

fn fields(more: &str) -> String {
    let today = date(-60);
    format!(
        "Origin: Debian\nSuite: stable\nCodename: bookworm\nDate: {today}\nAcquire-By-Hash: yes\n\
         Architectures: all amd64 armhf\nComponents: main contrib\n{more}"
    )
}

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// An archive on a server, its keyring, and a host with an empty cache.
struct Archive {
    key: Key,
    files: Files,
    server: Server,
    host: tempfile::TempDir,
    events: Events,
}

#[derive(Default)]
struct Events(Mutex<Vec<String>>);

impl Reporter for Events {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().extend(match event {
            Event::Warning { about, message } | Event::Note { about, message } => {
                Some(format!("{about}: {message}"))
            }
            Event::Started { total: Some(total), .. } => Some(format!("total {total}")),
            Event::Progress { done, .. } => Some(format!("done {done}")),
            _ => None,
        });
    }
}

impl Archive {
    /// An archive with one suite, bookworm.
    fn new(fields: &str) -> Archive {
        let archive = Archive::empty();
        archive.publish(fields);
        archive
    }

    fn empty() -> Archive {
        let files: Files = Arc::default();
        let served = files.clone();
        let server = Server::start(move |request| match served.lock().unwrap().get(&request.path) {
            Some(content) => Reply::file(request, content),
            None => Reply::status(404),
        });
        let (key, host) = (Key::new("archive"), tempfile::tempdir().unwrap());
        Archive { key, files, server, host, events: Events::default() }
    }

    fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        self.files.lock().unwrap().insert(format!("/debian/{path}"), content.into());
    }

    fn remove(&self, path: &str) {
        self.files.lock().unwrap().retain(|name, _| !name.ends_with(path));
    }

    fn publish(&self, fields: &str) {
        let (suite, release) = TestSuite::new(fields, &INDEXES);
        for (path, content) in &suite.files {
            self.put(&format!("dists/bookworm/{path}"), content.clone());
            let folder = path.rsplit_once('/').unwrap().0;
            self.put(
                &format!("dists/bookworm/{folder}/by-hash/SHA256/{}", Sha256::of(content)),
                content.clone(),
            );
        }
        self.put("dists/bookworm/InRelease", inline(&release, &[&self.key], &Signing::default()));
    }

    fn repository(&self) -> Repository {
        Repository {
            name: "debian".into(),
            uris: vec![self.server.uri("debian")],
            suites: vec!["bookworm".into()],
            components: vec!["main".into(), "contrib".into()],
            signed_by: vec![self.key.armoured()],
            check_valid_until: true,
            trusted: false,
        }
    }

    fn obtain(&self, repository: Repository, architectures: &[&str], offline: bool) -> Result<Vec<Index>> {
        let request = Request {
            image: "test".into(),
            from: None,
            architecture: architectures[0].into(),
            repositories: vec![repository],
            packages: Vec::new(),
            recommends: false,
            dependencies: true,
            essential: true,
            priority: Vec::new(),
            pins: Vec::new(),
        };
        let architectures: Vec<String> = architectures.iter().map(|name| (*name).to_owned()).collect();
        let acquire = Acquire::for_tests(offline, &NEVER);
        let cache = self.host.path().join("cache");
        let surroundings =
            Surroundings { root: self.host.path(), cache: &cache, acquire: &acquire, reporter: &self.events };
        obtain(&request, &architectures, &surroundings)
    }

    fn armhf(&self) -> Result<Vec<Index>> {
        self.obtain(self.repository(), &["armhf"], false)
    }

    /// The paths asked for since the last call.
    fn asked(&self, before: usize) -> Vec<String> {
        self.server.log()[before..]
            .iter()
            .map(|request| request.path.replace("/debian/dists/bookworm/", ""))
            .collect()
    }
}

fn summary(indexes: &[Index]) -> Vec<(&str, &str, &str)> {
    let text = |index: &'_ Index| std::str::from_utf8(&index.packages).unwrap().to_owned();
    let known =
        |index: &Index| INDEXES.into_iter().find(|(.., packages)| *packages == text(index)).unwrap().2;
    indexes
        .iter()
        .map(|index| (index.component.as_str(), index.architecture.as_str(), known(index)))
        .collect()
}

#[test]
fn indexes_are_got_once() {
    let archive = Archive::new(&fields(""));
    let indexes = archive.armhf().unwrap();
    let expected = [INDEXES[0], INDEXES[2], INDEXES[3]];
    assert_eq!(summary(&indexes), expected);
    let first = &indexes[0];
    assert_eq!((first.repository.as_str(), first.suite.as_str()), ("debian", "bookworm"));
    assert_eq!(
        (first.uri.clone(), first.release.codename.as_str()),
        (archive.server.uri("debian"), "bookworm")
    );
    let asked = archive.asked(0);
    assert_eq!(asked[0], "InRelease");
    let events = std::mem::take(&mut *archive.events.0.lock().unwrap());
    let total = events[0].strip_prefix("total ").unwrap();
    assert_eq!(*events.last().unwrap(), format!("done {total}"));
    assert!(asked[1..].iter().all(|path| path.contains("/by-hash/SHA256/")) && asked.len() == 4, "{asked:?}");

    // Again: the archive is asked for its InRelease file alone, for it may have moved on.
    assert_eq!(summary(&archive.armhf().unwrap()), expected);
    assert_eq!(archive.asked(4), ["InRelease"]);
    assert_eq!(*archive.events.0.lock().unwrap(), ["total 0"]);
    // Offline nothing is asked for; the signature is still checked.
    assert_eq!(summary(&archive.obtain(archive.repository(), &["armhf"], true).unwrap()), expected);
    let stranger = Repository { signed_by: vec![Key::new("stranger").armoured()], ..archive.repository() };
    let error = archive.obtain(stranger, &["armhf"], true).unwrap_err().to_string();
    assert!(error.contains("is not trusted"), "{error}");
    let main = Repository { components: vec!["main".into()], ..archive.repository() };
    let error = archive.obtain(main, &["amd64"], true).unwrap_err();
    assert!(error.to_string().contains("the index dists/bookworm/main/binary-amd64/Packages.xz"), "{error}");
    assert!(error.get_hint().unwrap().contains("without --offline"));
    assert_eq!(archive.asked(5), [""; 0]);
    // A cached index that was cut short is got anew.
    let folder = archive.host.path().join("cache/indexes");
    for entry in std::fs::read_dir(folder).unwrap() {
        std::fs::write(entry.unwrap().path(), "Package").unwrap();
    }
    assert_eq!(summary(&archive.armhf().unwrap()), expected);
}

#[test]
fn several_architectures_and_all_in_them() {
    let archive = Archive::new(&fields("No-Support-for-Architecture-all: Packages\n"));
    let repository = Repository { components: vec!["main".into()], ..archive.repository() };
    let indexes = archive.obtain(repository, &["armhf", "amd64"], false).unwrap();
    assert_eq!(summary(&indexes), [INDEXES[0], INDEXES[1]]);
}

#[test]
fn packings_that_are_not_there() {
    let archive = Archive::new(&fields(""));
    let by_hash: Vec<String> =
        archive.files.lock().unwrap().keys().filter(|path| path.contains("by-hash")).cloned().collect();
    by_hash.iter().for_each(|path| archive.remove(path));
    archive.remove("main/binary-armhf/Packages.xz");
    assert_eq!(archive.armhf().unwrap().len(), 3);
    assert!(archive.asked(0).contains(&"main/binary-armhf/Packages.gz".to_owned()));
}

#[test]
fn every_packing() {
    let packages = INDEXES[0].2.as_bytes();
    let digest = (Sha256::of(packages), packages.len() as u64);
    let mut bzip2 = Vec::new();
    bzip2::read::BzEncoder::new(packages, bzip2::Compression::fast()).read_to_end(&mut bzip2).unwrap();
    let mut xz = Vec::new();
    liblzma::read::XzEncoder::new(packages, 1).read_to_end(&mut xz).unwrap();
    let mut gz = Vec::new();
    flate2::read::GzEncoder::new(packages, flate2::Compression::fast()).read_to_end(&mut gz).unwrap();
    let zst = zstd::encode_all(packages, 1).unwrap();
    for (extension, packed) in
        [(".xz", xz), (".gz", gz), (".bz2", bzip2), (".zst", zst), ("", packages.to_vec())]
    {
        let unpacked = |plain| unpack(&mut packed.as_slice(), extension, plain, "x");
        assert_eq!(unpacked(Some(digest)).unwrap(), packages, "{extension}");
        assert_eq!(unpacked(None).unwrap(), packages, "{extension}");
        for (plain, message) in [
            ((Sha256::of(b""), digest.1), "content is not what it should be"),
            ((digest.0, digest.1 - 1), "or more"),
            ((digest.0, digest.1 + 1), "or more"),
        ] {
            let error = unpacked(Some(plain)).unwrap_err().to_string();
            assert!(error.contains(message), "{extension}: {error}");
        }
        if !extension.is_empty() {
            let cut = unpack(&mut &packed[..packed.len() - 4], extension, Some(digest), "the index");
            // Some formats say all there is before their end; the digest of the packed file decides.
            assert!(cut.is_err() || cut.is_ok_and(|bytes| bytes == packages), "{extension}");
        }
    }
}

#[test]
fn what_is_refused_and_why() {
    type Prepare = fn(&Archive, &mut Repository);
    let table: Vec<(&str, Prepare, &str, &str)> = vec![
        (
            "no suite",
            |a, _| a.remove("InRelease"),
            "dists/bookworm/InRelease of repository debian",
            "has the suite bookworm",
        ),
        (
            "an index changed",
            |a, _| {
                let mut files = a.files.lock().unwrap();
                files
                    .values_mut()
                    .filter(|content| content.starts_with(b"\xfd7zXZ"))
                    .for_each(|c| c[20] ^= 1);
            },
            "wrong content: its SHA-256 is",
            "being updated",
        ),
        (
            "an index gone",
            |a, _| a.files.lock().unwrap().retain(|p, _| p.ends_with("InRelease")),
            "/Packages of repository debian",
            "being updated",
        ),
        (
            "a component",
            |_, r| r.components.push("non-free".into()),
            "has no component non-free; it has: contrib, main",
            "`components`",
        ),
        (
            "a suite",
            |a, _| a.publish(&fields("").replace("bookworm", "trixie").replace("stable", "testing")),
            "serves suite \"testing\", codename \"trixie\", where bookworm",
            "`suites`",
        ),
        (
            "expired",
            |a, _| a.publish(&fields(&format!("Valid-Until: {}\n", date(-50_000)))),
            "expired on ",
            "check-valid-until = false in [repos.debian]",
        ),
        (
            "of the future",
            |a, _| a.publish(&fields("").replace(&date(-60), &date(50_000))),
            "which is still to come",
            "clock",
        ),
        (
            "no date",
            |a, _| a.publish(&fields("").replace("Date:", "Day:")),
            "has no date",
            "check-valid-until",
        ),
        (
            "unsigned",
            |a, _| a.put("dists/bookworm/InRelease", fields("")),
            "InRelease of repository debian: it is not signed",
            "",
        ),
        (
            "another key",
            |a, r| {
                r.signed_by = vec![Key::new("other").armoured(), format!("{}/none", a.host.path().display())]
            },
            "/none",
            "signed-by",
        ),
        (
            "no key",
            |_, r| r.signed_by.clear(),
            "no trusted key for http://127.0.0.1",
            "debian-archive-keyring",
        ),
        (
            "no Release file",
            |a, _| {
                let nothing = inline("Suite: stable\nCodename: bookworm", &[&a.key], &Signing::default());
                a.put("dists/bookworm/InRelease", nothing);
            },
            "it has no SHA256 field",
            "broken",
        ),
    ];
    for (name, prepare, message, hint) in table {
        let archive = Archive::new(&fields(""));
        let mut repository = archive.repository();
        prepare(&archive, &mut repository);
        let error = archive.obtain(repository, &["armhf"], false).unwrap_err();
        assert!(error.to_string().contains(message), "{name}: {error}");
        assert!(error.get_hint().unwrap_or_default().contains(hint), "{name}: {error:?}");
        assert_eq!(error.kind(), crate::error::Kind::Input, "{name}");
    }
    let archive = Archive::new(&fields(""));
    let error = archive.obtain(archive.repository(), &["armel"], false).unwrap_err();
    let message = "suite bookworm has no component main for armel; it has it for: all, amd64, armhf";
    assert!(error.to_string().contains(message), "{error}");
}

#[test]
fn what_a_suite_lists_may_be_empty() {
    let archive = Archive::new(&fields(""));
    // As apt: contrib has nothing for amd64, but amd64 is an architecture of the suite.
    let indexes = archive.obtain(archive.repository(), &["amd64"], false).unwrap();
    assert_eq!(summary(&indexes), [INDEXES[1], INDEXES[2]]);
    // binary-all counts only where `all` is listed.
    let archive = Archive::new(&fields("").replace("all amd64", "amd64"));
    assert_eq!(summary(&archive.armhf().unwrap()), [INDEXES[0], INDEXES[3]]);
}

#[test]
fn expired_is_fine_where_it_is_not_looked_at() {
    let archive = Archive::new(&fields(&format!("Valid-Until: {}\n", date(-50_000))));
    let repository = Repository { check_valid_until: false, ..archive.repository() };
    assert_eq!(archive.obtain(repository, &["armhf"], false).unwrap().len(), 3);
}

#[test]
fn what_is_not_used_is_forgotten() {
    let archive = Archive::new(&fields(""));
    archive.armhf().unwrap();
    let folder = archive.host.path().join("cache/indexes");
    let age = |path: &Path, days: u64| {
        let file = std::fs::File::options().append(true).create(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(86_400 * days)).unwrap();
    };
    let names = || -> Vec<PathBuf> {
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let used = names();
    used.iter().for_each(|path| age(path, 29));
    age(&folder.join(".tmp-of-a-killed-run"), 31);
    age(&folder.join("recent"), 2);
    // Using them makes them young again; then a new index is written, which is when others go.
    archive.armhf().unwrap();
    let main = Repository { components: vec!["main".into()], ..archive.repository() };
    age(&folder.join("old"), 31);
    archive.obtain(main, &["amd64"], false).unwrap();
    let left = names();
    assert!(used.iter().all(|path| left.contains(path)) && left.contains(&folder.join("recent")), "{left:?}");
    assert_eq!(left.len(), used.len() + 2, "{left:?}");
}

#[test]
fn no_way_back() {
    let archive = Archive::new(&fields(""));
    archive.armhf().unwrap();
    archive.publish(&fields("").replace(&date(-60), &date(-90_000)));
    let error = archive.armhf().unwrap_err();
    assert!(error.to_string().contains("older than the one of"), "{error}");
    let command = error.get_hint().unwrap().split("rm ").nth(1).unwrap().to_owned();
    std::fs::remove_file(command).unwrap();
    archive.armhf().unwrap();
}

#[test]
fn a_second_mirror_where_the_first_is_bad() {
    let good = Archive::new(&fields(""));
    let stale = Archive::new(&fields(&format!("Valid-Until: {}\n", date(-50_000))));
    let mut repository = good.repository();
    repository.signed_by.push(stale.key.armoured());
    repository.uris =
        vec!["http://127.0.0.1:1/debian".into(), stale.server.uri("debian"), good.server.uri("debian")];
    let indexes = good.obtain(repository.clone(), &["armhf"], false).unwrap();
    assert_eq!(indexes[0].uri, good.server.uri("debian"));
    // The index itself may come from any.
    repository.uris = vec![good.server.uri("debian"), stale.server.uri("debian")];
    good.remove("Packages.xz");
    good.files.lock().unwrap().retain(|path, _| path.ends_with("InRelease"));
    let fresh = Archive { host: tempfile::tempdir().unwrap(), ..good };
    assert_eq!(fresh.obtain(repository.clone(), &["armhf"], false).unwrap().len(), 3);
    // All are bad: each is told.
    repository.uris = vec![stale.server.uri("debian"), stale.server.uri("elsewhere")];
    let text = fresh.obtain(repository, &["armhf"], false).unwrap_err().to_string();
    assert!(
        text.contains("expired on") && text.contains("/elsewhere/dists/bookworm/InRelease: there is no such"),
        "{text}"
    );
}

#[test]
fn a_detached_signature() {
    let archive = Archive::empty();
    let (suite, release) = TestSuite::new(&fields("").replace("Acquire-By-Hash: yes\n", ""), &INDEXES);
    for (path, content) in &suite.files {
        archive.put(&format!("dists/bookworm/{path}"), content.clone());
    }
    archive.put("dists/bookworm/Release", release.clone());
    let error = archive.armhf().unwrap_err();
    assert!(error.to_string().contains("it has no signature"), "{error}");
    let signature =
        |time| detached(release.as_bytes(), &[&archive.key], &Signing { time, ..Signing::default() });
    archive.put("dists/bookworm/Release.gpg", signature(SystemTime::now() - Duration::from_secs(9)));
    assert_eq!(archive.armhf().unwrap().len(), 3);
    assert_eq!(archive.obtain(archive.repository(), &["armhf"], true).unwrap().len(), 3);
    archive.put("dists/bookworm/Release", release.replace("Debian", "Nobody"));
    assert!(archive.armhf().unwrap_err().to_string().contains("was changed after it was signed"));
}

#[test]
fn trusted_without_a_signature_is_loud() {
    let archive = Archive::empty();
    let (suite, release) = TestSuite::new(&fields(""), &INDEXES);
    for (path, content) in &suite.files {
        archive.put(&format!("dists/bookworm/{path}"), content.clone());
    }
    archive.put("dists/bookworm/Release", release);
    let repository = Repository { trusted: true, signed_by: Vec::new(), ..archive.repository() };
    assert_eq!(archive.obtain(repository, &["armhf"], false).unwrap().len(), 3);
    let warnings = archive.events.0.lock().unwrap().clone();
    assert!(warnings[0].contains("WITHOUT checking any signature"), "{warnings:?}");
}

#[test]
fn a_flat_repository_of_local_files() {
    let archive = Archive::empty();
    let folder = archive.host.path().join("flat repository/sub");
    std::fs::create_dir_all(&folder).unwrap();
    let packages = "Package: a\n";
    let digest = Sha256::of(packages.as_bytes());
    let release = format!("Date: {}\nSHA256:\n {digest} {} Packages\n", date(-60), packages.len());
    std::fs::write(folder.join("Packages"), packages).unwrap();
    std::fs::write(folder.join("InRelease"), inline(&release, &[&archive.key], &Signing::default())).unwrap();
    let base = uri::of_file(folder.parent().unwrap());
    for (uri, suite) in [(base.clone(), "sub/"), (format!("{base}/sub"), "./")] {
        let mut repository =
            Repository { uris: vec![uri], suites: vec![suite.into()], ..archive.repository() };
        repository.components.clear();
        // Files need no network.
        let indexes = archive.obtain(repository, &["armhf"], true).unwrap();
        assert_eq!((indexes.len(), indexes[0].packages.as_slice()), (1, packages.as_bytes()));
        assert_eq!(indexes[0].component, "");
    }
}

#[test]
fn the_hosts_own_sources() {
    let archive = Archive::new(&fields(""));
    let third = Archive::new(&fields("").replace("Origin: Debian", "Origin: Third Debian"));
    let host = archive.host.path();
    std::fs::create_dir_all(host.join("etc/apt/sources.list.d")).unwrap();
    std::fs::create_dir_all(host.join("keys")).unwrap();
    std::fs::write(host.join("etc/os-release"), "ID=debian\n").unwrap();
    std::fs::write(host.join("keys/archive.gpg"), archive.key.public()).unwrap();
    std::fs::write(host.join("keys/third.asc"), third.key.armoured()).unwrap();
    // The third party's file is read first.
    let list = format!("deb [signed-by=/keys/third.asc] {} bookworm main\n", third.server.uri("debian"));
    std::fs::write(host.join("etc/apt/sources.list"), list).unwrap();
    let stanza = format!(
        "Types: deb\nURIs: {}\nSuites: bookworm\nComponents: main\nSigned-By: /keys/archive.gpg\n",
        archive.server.uri("debian")
    );
    std::fs::write(host.join("etc/apt/sources.list.d/debian.sources"), stanza).unwrap();
    let own = Repository { uris: Vec::new(), signed_by: Vec::new(), ..archive.repository() };
    let indexes = archive.obtain(own.clone(), &["armhf"], false).unwrap();
    assert_eq!(indexes[0].uri, archive.server.uri("debian"));
    // This machine's apt minds expired files; told not to, it is only noted.
    archive.publish(&fields(&format!("Valid-Until: {}\n", date(-50_000))));
    let error = archive.obtain(own.clone(), &["armhf"], false).unwrap_err();
    assert!(error.to_string().contains("expired on"), "{error}");
    std::fs::write(host.join("etc/apt/apt.conf"), "Acquire::Check-Valid-Until \"false\";").unwrap();
    archive.obtain(own.clone(), &["armhf"], false).unwrap();
    let noted =
        archive.events.0.lock().unwrap().iter().any(|event| event.contains("apt is told not to mind"));
    assert!(noted);
    // A suite that nobody names: the third party is never taken for it, though it has it.
    third
        .publish(&fields("").replace("Origin: Debian", "Origin: Third Debian").replace("bookworm", "trixie"));
    let moved: Vec<_> = third.files.lock().unwrap().clone().into_iter().collect();
    for (path, content) in moved {
        third.put(path.replace("bookworm", "trixie").trim_start_matches("/debian/"), content);
    }
    let error =
        archive.obtain(Repository { suites: vec!["trixie".into()], ..own }, &["armhf"], false).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("belongs to \"Third Debian\", not to this machine's distribution (debian)"),
        "{error}"
    );
}

/// A repository that the host's own sources serve; what is expired there is the mirror's affair.
fn real(suites: &[&str]) -> Repository {
    Repository {
        name: "debian".into(),
        uris: Vec::new(),
        suites: suites.iter().map(|suite| (*suite).to_owned()).collect(),
        components: vec!["main".into()],
        signed_by: Vec::new(),
        check_valid_until: false,
        trusted: false,
    }
}

/// Why the real archive cannot be had here, if it cannot: no Debian sources, no network.
fn no_archive() -> Option<String> {
    let suites = sources::locate(&real(&["bookworm"]), Path::new("/"));
    let place = match suites {
        Ok(suites) => suites[0].places[0].clone(),
        Err(error) => return Some(error.to_string()),
    };
    let wanted = Wanted {
        what: "InRelease".into(),
        repository: "debian".into(),
        uris: vec![uri::join(&place.uri, "dists/bookworm/InRelease")],
        size: None,
        sha256: None,
        limit: 1 << 20,
    };
    Acquire::new(false, &NEVER).get(&wanted).err().map(|error| error.to_string())
}

fn obtain_real(suites: &[&str], architectures: &[&str], cache: &Path) -> Result<Vec<Index>> {
    let request = Request {
        image: "real".into(),
        from: None,
        architecture: architectures[0].into(),
        repositories: vec![real(suites)],
        packages: Vec::new(),
        recommends: false,
        dependencies: true,
        essential: true,
        priority: Vec::new(),
        pins: Vec::new(),
    };
    let architectures: Vec<String> = architectures.iter().map(|name| (*name).to_owned()).collect();
    let acquire = Acquire::new(false, &NEVER);
    let events = Events::default();
    let surroundings = Surroundings { root: Path::new("/"), cache, acquire: &acquire, reporter: &events };
    obtain(&request, &architectures, &surroundings)
}

/// The suites that the real archive may have; one that it does not have is left out.
const SUITES: [&str; 14] = [
    "bullseye",
    "bullseye-security",
    "bullseye-updates",
    "bullseye-backports",
    "bookworm",
    "bookworm-security",
    "bookworm-updates",
    "bookworm-backports",
    "trixie",
    "trixie-security",
    "trixie-updates",
    "forky",
    "sid",
    "experimental",
];

/// gpgv and we agree on the InRelease files of the real archive, whole and tampered with.
#[test]
fn gpgv_agrees_on_the_real_archive() {
    if !may_run("gpgv", no_gpgv()) || !may_run("archive", no_archive()) {
        return;
    }
    let mut compared = Vec::new();
    let acquire = Acquire::new(false, &NEVER);
    for suite in SUITES {
        let located = sources::locate(&real(&[suite]), Path::new("/"));
        let Some(place) = located.ok().and_then(|suites| suites[0].places.first().cloned()) else { continue };
        let uri = uri::join(&place.uri, &format!("dists/{suite}/InRelease"));
        let wanted = Wanted {
            what: "InRelease".into(),
            repository: "debian".into(),
            uris: vec![uri.clone()],
            size: None,
            sha256: None,
            limit: 1 << 20,
        };
        let Ok(bytes) = acquire.get(&wanted) else { continue };
        let keyring = Keyring::load(&place.keys).unwrap();
        let about = About { uri: &uri, repository: "debian" };
        let ours = |bytes: &[u8]| verify_inline(bytes, &keyring, &[], about);
        let text = ours(&bytes).unwrap();
        assert_eq!(gpgv(&bytes, &keyring), Some(text.clone().into_bytes()), "{suite}");
        assert!(Release::parse(&text).unwrap().files.len() > 10, "{suite}");
        let mut tampered = bytes.clone();
        tampered[bytes.len() / 2] ^= 1;
        let error = ours(&tampered).unwrap_err().to_string();
        assert!(error.contains("was changed after it was signed"), "{suite}: {error}");
        assert_eq!(gpgv(&tampered, &keyring), None, "{suite}");
        let stranger = Keyring::load(&[KeySource::Armoured(Key::new("stranger").armoured())]).unwrap();
        let error = verify_inline(&bytes, &stranger, &[], about).unwrap_err().to_string();
        assert!(error.contains("none of its signatures is by a trusted key"), "{suite}: {error}");
        compared.push(suite);
    }
    assert!(compared.len() >= 2, "{compared:?}");
    eprintln!("compared with gpgv: {}", compared.join(" "));
}

#[test]
fn small_indexes_of_the_real_archive() {
    if !may_run("archive", no_archive()) {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let mut good = 0;
    for suite in ["bookworm-updates", "trixie-updates", "bookworm-security", "trixie-security"] {
        let indexes = match obtain_real(&[suite], &["armhf", "amd64"], cache.path()) {
            Ok(indexes) => indexes,
            // Mirrors and caches in front of them do this, and apt refuses it as well.
            Err(error) if error.get_hint().is_some_and(|hint| hint.contains("being updated")) => {
                eprintln!("{suite}: {error}");
                continue;
            }
            Err(error) => panic!("{suite}: {error}"),
        };
        assert_eq!(indexes.len(), 2);
        for index in &indexes {
            let release = &index.release;
            assert_eq!((release.origin.as_str(), release.codename.as_str()), ("Debian", suite));
            let text = std::str::from_utf8(&index.packages).unwrap();
            assert!(text.is_empty() || text.starts_with("Package: "), "{suite}");
        }
        good += 1;
    }
    assert!(good > 0, "the archive has no suite whose indexes belong to its Release file");
}

/// Everything that the real archive has: `cargo test --lib -- --ignored the_whole`.
#[test]
#[ignore = "downloads several hundred megabytes"]
fn the_whole_real_archive() {
    assert_eq!(no_archive(), None);
    let cache = tempfile::tempdir().unwrap();
    for suite in SUITES {
        for architecture in
            ["amd64", "arm64", "armel", "armhf", "i386", "mips64el", "ppc64el", "riscv64", "s390x"]
        {
            let begun = std::time::Instant::now();
            let packages = |indexes: Vec<Index>| {
                let count =
                    |index: &Index| memchr::memmem::find_iter(&index.packages, b"\nPackage: ").count() + 1;
                indexes.iter().map(count).sum::<usize>()
            };
            match obtain_real(&[suite], &[architecture], cache.path()) {
                Ok(indexes) => {
                    eprintln!("{suite} {architecture}: {} packages {:?}", packages(indexes), begun.elapsed())
                }
                Err(error) => eprintln!("{suite} {architecture}: {error}"),
            }
        }
    }
}
