//! fetch against a server that misbehaves, with a sink that only remembers.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

use super::*;
use crate::{
    acquire::test_server::{Fault, Reply, Request, Server},
    debian::deb822::Stanza,
    digest::Sha256,
};

static NEVER: AtomicBool = AtomicBool::new(false);

/// Debs by package name: sizes differ, and each is its own.
fn debs(count: usize) -> BTreeMap<String, Vec<u8>> {
    let content = |index: usize| {
        let byte = move |at: usize| (at.wrapping_mul(2_654_435_761).wrapping_add(index * 97) >> 7) as u8;
        (0..20_000 + 31_000 * index).map(byte).collect()
    };
    (0..count).map(|index| (format!("package{index}"), content(index))).collect()
}

fn locked(name: &str, deb: &[u8], repository: Option<&str>) -> LockedPackage {
    LockedPackage {
        name: name.into(),
        version: "1:2~3".into(),
        architecture: "armhf".into(),
        filename: format!("pool/main/p/{name}_2%3a3+b1_armhf.deb"),
        size: deb.len() as u64,
        sha256: Sha256::of(deb),
        repository: repository.map(str::to_owned),
        stanza: Stanza::default(),
    }
}

/// The name of the package that a request is for.
fn package_of(request: &Request) -> String {
    let file = request.path.rsplit('/').next().unwrap();
    assert!(file.ends_with("_2%253a3%2Bb1_armhf.deb"), "{file} is not quoted");
    file.split('_').next().unwrap().to_owned()
}

#[derive(Default)]
struct Seen {
    /// What each package's last stream was, if it was read to its end.
    debs: BTreeMap<String, Vec<u8>>,
    order: Vec<String>,
    sinks: usize,
    finished: usize,
}

/// Remembers, and does what the test wants for packages of this name.
struct Sink {
    seen: Arc<Mutex<Seen>>,
    mischief: Option<(&'static str, Mischief)>,
}

#[derive(Clone, Copy)]
enum Mischief {
    /// Is content after the first bytes.
    ReadsLittle,
    /// Finds the deb malformed.
    Refuses,
    /// Has no room.
    Full,
}

impl DebSink for Sink {
    fn deb(&mut self, package: &LockedPackage, body: &mut dyn Read) -> Result<()> {
        let mut bytes = Vec::new();
        match self.mischief {
            Some((name, mischief)) if name == package.name => {
                body.take(1000).read_to_end(&mut bytes)?;
                return match mischief {
                    Mischief::ReadsLittle => Ok(()),
                    Mischief::Refuses => Err(Error::input("bad ar header")),
                    Mischief::Full => Err(Error::machine("no space left")),
                };
            }
            _ => body.read_to_end(&mut bytes)?,
        };
        let mut seen = self.seen.lock().unwrap();
        seen.order.push(package.name.clone());
        seen.debs.insert(package.name.clone(), bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.seen.lock().unwrap().finished += 1;
        Ok(())
    }
}

#[derive(Default)]
struct Events(Mutex<Vec<Event>>);

impl Reporter for Events {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

struct Case {
    repositories: Vec<(String, Vec<String>)>,
    jobs: usize,
    keep_debs: Option<PathBuf>,
    mischief: Option<(&'static str, Mischief)>,
    offline: bool,
}

impl Case {
    fn new(servers: &[&Server]) -> Case {
        let uris = servers.iter().map(|server| server.uri("debian")).collect();
        let repositories = vec![("debian".to_owned(), uris)];
        Case { repositories, jobs: 3, keep_debs: None, mischief: None, offline: false }
    }

    fn run(&self, packages: &[LockedPackage]) -> (Result<()>, Seen, Vec<Event>) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (result, events) = self.fetch_with(packages, &Nothing, &seen);
        let seen = Arc::try_unwrap(seen).ok().unwrap().into_inner().unwrap();
        (result, seen, events)
    }

    fn fetch_with(
        &self,
        packages: &[LockedPackage],
        extras: &dyn Extras,
        seen: &Arc<Mutex<Seen>>,
    ) -> (Result<()>, Vec<Event>) {
        let events = Events::default();
        let acquire = Acquire::for_tests(self.offline, &NEVER);
        let fetch = Fetch {
            image: "test",
            repositories: &self.repositories,
            jobs: self.jobs,
            keep_debs: self.keep_debs.as_deref(),
            acquire: &acquire,
            reporter: &events,
            make_sink: &|| {
                seen.lock().unwrap().sinks += 1;
                Ok(Box::new(Sink { seen: seen.clone(), mischief: self.mischief }))
            },
        };
        let result = fetch.run_with(&packages.iter().collect::<Vec<_>>(), extras);
        (result, events.0.into_inner().unwrap())
    }
}

/// A lock of these debs, and a server that has them; `fault` changes a reply.
fn archive(
    count: usize,
    fault: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> (BTreeMap<String, Vec<u8>>, Vec<LockedPackage>, Server) {
    let debs = debs(count);
    let packages = debs.iter().map(|(name, deb)| locked(name, deb, Some("debian"))).collect();
    let served = debs.clone();
    let server = Server::start(move |request| {
        let deb = &served[&package_of(request)];
        fault(request, Reply::file(request, deb))
    });
    (debs, packages, server)
}

#[test]
fn every_deb_arrives_whatever_happens_on_the_way() {
    let (debs, packages, server) = archive(12, |request, reply| {
        let index: usize = package_of(request).trim_start_matches("package").parse().unwrap();
        match (request.earlier, index % 4) {
            (0, 0) => reply.fault(Fault::Cut(9_000)),
            (0, 1) => Reply::status(503),
            (0, 2) => reply.fault(Fault::Stall(15_000)),
            _ => reply,
        }
    });
    let (result, seen, events) = Case::new(&[&server]).run(&packages);
    result.unwrap();
    assert!(seen.debs == debs);
    assert_eq!((seen.sinks, seen.finished), (3, 3));
    let total: u64 = packages.iter().map(|package| package.size).sum();
    let started =
        events.iter().any(|event| matches!(event, Event::Started { total: Some(t), .. } if *t == total));
    let last = events.iter().rev().find_map(|event| match event {
        Event::Progress { done, .. } => Some(*done),
        _ => None,
    });
    assert_eq!((started, last), (true, Some(total)));
}

#[test]
fn the_biggest_is_first() {
    let (_, packages, server) = archive(4, |_, reply| reply);
    let (result, seen, _) = Case { jobs: 1, ..Case::new(&[&server]) }.run(&packages);
    result.unwrap();
    assert_eq!(seen.order, ["package3", "package2", "package1", "package0"]);
}

#[test]
fn wrong_content_is_a_failure_though_the_sink_is_content() {
    let (_, packages, server) = archive(3, |request, mut reply| {
        if package_of(request) == "package1" {
            *reply.body.last_mut().unwrap() ^= 1;
        }
        reply
    });
    for mischief in [Mischief::ReadsLittle, Mischief::Refuses] {
        let case = Case { mischief: Some(("package1", mischief)), ..Case::new(&[&server]) };
        let (result, seen, _) = case.run(&packages);
        let error = result.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("the package package1_1:2~3_armhf of repository debian"), "{text}");
        assert!(text.contains("wrong content"), "{text}");
        assert!(!seen.debs.contains_key("package1"));
    }
}

#[test]
fn what_the_sink_refuses_is_named() {
    let (_, packages, server) = archive(3, |_, reply| reply);
    for (mischief, kind, message) in [
        (Mischief::Refuses, Kind::Input, "package package1_1:2~3_armhf: bad ar header"),
        (Mischief::Full, Kind::Machine, "package package1_1:2~3_armhf: no space left"),
    ] {
        let case = Case { mischief: Some(("package1", mischief)), ..Case::new(&[&server]) };
        let error = case.run(&packages).0.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.kind()), (message, kind));
    }
}

#[test]
fn another_mirror_and_another_repository() {
    let (debs, mut packages, good) = archive(4, |_, reply| reply);
    let lying = Server::start(|_| Reply::whole(b"<html></html>"));
    let (result, seen, _) = Case::new(&[&lying, &good]).run(&packages);
    result.unwrap();
    assert!(seen.debs == debs);

    // A lock of another tool: repositories are tried in order, and the one that has it is asked
    // first from then on.
    let empty = Server::start(|_| Reply::status(404));
    packages.iter_mut().for_each(|package| package.repository = None);
    let repositories = [("first", &empty), ("second", &good)];
    let repositories =
        repositories.map(|(name, server)| (name.to_owned(), vec![server.uri("debian")])).into();
    let case = Case { repositories, jobs: 1, ..Case::new(&[]) };
    let (result, seen, _) = case.run(&packages);
    result.unwrap();
    assert!(seen.debs == debs);
    assert_eq!(empty.log().len(), 1);
}

#[test]
fn a_pool_of_aptly_will_do_for_a_lock_that_names_no_repository() {
    let debs = debs(1);
    let (name, deb) = debs.iter().next().unwrap();
    let digits = Sha256::of(deb).to_string();
    let path =
        format!("/debian/{}/{}/{}_{name}_2%253a3%2Bb1_armhf.deb", &digits[..2], &digits[2..4], &digits[4..]);
    let (served, content) = (path.clone(), deb.clone());
    let server = Server::start(move |request| match request.path == served {
        true => Reply::file(request, &content),
        false => Reply::status(404),
    });
    let (result, seen, _) = Case::new(&[&server]).run(&[locked(name, deb, None)]);
    result.unwrap();
    assert!(seen.debs == debs);
    let (result, ..) = Case::new(&[&server]).run(&[locked(name, deb, Some("debian"))]);
    let error = result.expect_err("the archive does not have it");
    assert!(error.get_hint().unwrap().contains("`uris` of [repos.debian]"), "{error:?}");
    let (result, ..) = Case::new(&[&server]).run(&[locked("other", b"other", None)]);
    let error = result.expect_err("nobody has it");
    assert!(error.get_hint().unwrap().contains("`uris` of the manifest's repositories"), "{error:?}");
}

#[test]
fn one_that_is_gone_ends_the_others() {
    let (_, packages, server) = archive(40, |request, reply| match package_of(request).as_str() {
        "package38" => Reply::status(404),
        // Long enough to be under way when the other fails.
        _ => reply.fault(Fault::Stall(15_000)),
    });
    let (result, seen, _) = Case::new(&[&server]).run(&packages);
    let error = result.unwrap_err();
    assert!(error.to_string().contains("the package package38_"), "{error}");
    assert!(error.get_hint().unwrap().contains("treestrap lock --update"));
    assert!(server.log().len() <= 6, "{}", server.log().len());
    assert_eq!((seen.debs.len(), seen.finished), (0, seen.sinks));
}

#[test]
fn debs_are_kept_and_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("debs");
    let (debs, packages, server) = archive(3, |request, reply| match request.earlier {
        0 => reply.fault(Fault::Cut(5_000)),
        _ => reply,
    });
    let case = Case { keep_debs: Some(kept.clone()), ..Case::new(&[&server]) };
    case.run(&packages).0.unwrap();
    let read = |name: &str| std::fs::read(kept.join(format!("{name}_2%3a3+b1_armhf.deb"))).unwrap();
    for (name, deb) in &debs {
        assert!(read(name) == *deb);
    }
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 3);
    // One is damaged: it alone is got again, and mended.
    let damaged = kept.join("package1_2%3a3+b1_armhf.deb");
    std::fs::write(&damaged, vec![0; debs["package1"].len()]).unwrap();
    let before = server.log().len();
    let (result, seen, _) = case.run(&packages);
    result.unwrap();
    assert!(seen.debs == debs && read("package1") == debs["package1"]);
    assert_eq!(server.log().len(), before + 1);
    // Now nothing needs the network.
    let (result, seen, _) = Case { offline: true, ..case }.run(&packages);
    result.unwrap();
    assert!(seen.debs == debs);
    let error = Case { offline: true, ..Case::new(&[&server]) }.run(&packages).0.unwrap_err();
    assert!(error.to_string().contains("not tried, because of --offline"), "{error}");
}

#[test]
fn a_wrong_deb_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut packages, server) = archive(1, |_, mut reply| {
        reply.body[0] ^= 1;
        reply
    });
    let case = Case { keep_debs: Some(folder.path().into()), ..Case::new(&[&server]) };
    assert!(case.run(&packages).0.is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    packages[0].filename = "pool/..".into();
    assert!(case.run(&packages).0.unwrap_err().to_string().contains("names no file"));
}

/// Extra packages, and what became of them.
struct More {
    early: Vec<LockedPackage>,
    late: Vec<LockedPackage>,
    seen: Arc<Mutex<Seen>>,
    durable: Mutex<Option<usize>>,
    failed: Mutex<Vec<String>>,
}

impl Extras for More {
    fn early(&self) -> Result<Vec<LockedPackage>> {
        Ok(self.early.clone())
    }

    fn late(&self) -> Result<Vec<LockedPackage>> {
        *self.durable.lock().unwrap() = Some(self.seen.lock().unwrap().finished);
        Ok(self.late.clone())
    }

    fn is_wanted(&self, _: &LockedPackage) -> bool {
        self.failed.lock().unwrap().is_empty()
    }

    fn failed(&self, package: &LockedPackage, error: Error) -> Result<()> {
        assert!(error.to_string().contains(&package.id()), "{error}");
        self.failed.lock().unwrap().push(package.name.clone());
        Ok(())
    }
}

#[test]
fn extra_packages_come_too_and_one_that_is_missing_stops_nothing_else() {
    for missing in [None, Some("package3")] {
        let (debs, packages, server) = archive(6, move |request, reply| {
            if Some(package_of(request).as_str()) == missing { Reply::status(404) } else { reply }
        });
        let case = Case { jobs: 1, ..Case::new(&[&server]) };
        let seen = Arc::new(Mutex::new(Seen::default()));
        let more = More {
            early: packages[3..5].to_vec(),
            late: packages[4..].to_vec(),
            seen: seen.clone(),
            durable: Mutex::default(),
            failed: Mutex::default(),
        };
        let result = case.fetch_with(&packages[..3], &more, &seen).0;
        result.unwrap();
        assert_eq!(*more.durable.lock().unwrap(), Some(1), "asked once the packages are durable");
        let seen = seen.lock().unwrap();
        let (order, failed): (&[&str], &[&str]) = match missing {
            None => (&["package2", "package1", "package0", "package3", "package4", "package5"], &[]),
            Some(missing) => (&["package2", "package1", "package0"], &[missing]),
        };
        assert_eq!(seen.order, order);
        assert_eq!(*more.failed.lock().unwrap(), failed);
        assert!(seen.debs.iter().all(|(name, deb)| debs[name] == *deb));
    }
}

#[test]
fn a_package_that_is_missing_stops_the_extra_ones() {
    let (_, packages, server) =
        archive(
            3,
            |request, reply| {
                if package_of(request) == "package0" { Reply::status(404) } else { reply }
            },
        );
    let seen = Arc::new(Mutex::new(Seen::default()));
    let more = More {
        early: packages[1..].to_vec(),
        late: Vec::new(),
        seen: seen.clone(),
        durable: Mutex::default(),
        failed: Mutex::default(),
    };
    let case = Case { jobs: 1, ..Case::new(&[&server]) };
    let error = case.fetch_with(&packages[..1], &more, &seen).0.unwrap_err();
    assert!(error.to_string().contains("package0"), "{error}");
    assert!(seen.lock().unwrap().debs.is_empty());
    assert!(more.durable.lock().unwrap().is_none() && more.failed.lock().unwrap().is_empty());
}

#[test]
fn a_stage_without_anything_to_do_says_nothing() {
    let (_, _, server) = archive(1, |_, reply| reply);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let more = More {
        early: Vec::new(),
        late: Vec::new(),
        seen: seen.clone(),
        durable: Mutex::default(),
        failed: Mutex::default(),
    };
    let (result, events) = Case::new(&[&server]).fetch_with(&[], &more, &seen);
    result.unwrap();
    assert!(events.is_empty());
    assert!(more.durable.lock().unwrap().is_some(), "and yet has looked");
}
