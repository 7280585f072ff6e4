//! One suite's Release file: got, verified, and neither stale, nor older than one seen before, nor
//! that of another suite.

use std::{path::Path, sync::Arc};

use super::{
    dates::{day, moment},
    indexes::{Surroundings, now, release_folder, write_cached},
    signature::{About, Keyring, verify_detached, verify_inline},
    sources::{Place, Suite},
};
use crate::{
    acquire::{Acquire, Undelivered, Wanted, uri},
    artefacts::Repository,
    debian::release::Release,
    error::{Error, Kind, Result},
};

/// The biggest Release file that is read: Debian's have 200 kB.
const LIMIT: u64 = 32 << 20;

/// How far ahead of this machine's clock a Release file's `Date` may be: clocks differ.
const FUTURE: i64 = 3600;

/// A verified Release file.
pub(super) struct Fetched {
    /// The URI of the archive that it came from, which may hold credentials.
    pub(super) uri: String,
    /// The suite's folder below that, with a slash at its end, or nothing.
    pub(super) folder: String,
    pub(super) release: Arc<Release>,
}

/// The Release file of a suite, from the first place that has a good one. Offline: the one that was
/// got last.
pub(super) fn obtain_release(
    repository: &Repository,
    suite: &Suite,
    acquire: &Acquire<'_>,
    surroundings: &Surroundings<'_>,
) -> Result<Fetched> {
    let mut errors: Vec<Error> = Vec::new();
    for place in &suite.places {
        let attempt = Attempt { repository, suite: &suite.name, place, acquire, surroundings };
        match attempt.obtain() {
            Ok(fetched) => return Ok(fetched),
            Err(error) if error.kind() != Kind::Input => return Err(error),
            Err(error) => errors.push(error),
        }
    }
    // The first says most: the places are in order of likelihood. The others are told as well.
    let mut errors = errors.into_iter();
    let first = errors.next().unwrap_or_else(|| Error::bug("a suite without a place"));
    let mut others: Vec<String> = errors.map(|error| error.to_string()).collect();
    others.retain(|other| *other != first.to_string());
    others.dedup();
    Err(match others.is_empty() {
        true => first,
        false => {
            let hint = first.get_hint().map(str::to_owned);
            let error = Error::input(format!("{first}; then: {}", others.join("; then: ")));
            hint.into_iter().fold(error, Error::hint)
        }
    })
}

/// One suite at one place.
struct Attempt<'a> {
    repository: &'a Repository,
    suite: &'a str,
    place: &'a Place,
    acquire: &'a Acquire<'a>,
    surroundings: &'a Surroundings<'a>,
}

/// What was got, as it was signed.
enum Signed {
    Inline(Vec<u8>),
    Detached { release: Vec<u8>, signature: Vec<u8> },
}

impl Attempt<'_> {
    fn obtain(&self) -> Result<Fetched> {
        let keyring = self.keyring()?;
        let cache = release_folder(self.surroundings.cache, &self.place.uri, self.suite);
        let from_network = uri::is_remote(&self.place.uri);
        let signed = match self.acquire.is_offline() && from_network {
            true => self.read_cached(&cache)?,
            false => self.download()?,
        };
        let release = self.verify(&signed, keyring.as_ref())?;
        self.check_suite(&release)?;
        // What is cached was fresh when it was got, and --offline asks for just that.
        if !(self.acquire.is_offline() && from_network) {
            self.check_dates(&release)?;
            self.check_order(&release, &cache)?;
            self.write_cached(&signed, &release, &cache)?;
        }
        Ok(Fetched { uri: self.place.uri.clone(), folder: self.folder(), release: Arc::new(release) })
    }

    /// The trusted keys; `None` if the repository is used without a signature.
    fn keyring(&self) -> Result<Option<Keyring>> {
        if self.place.trusted {
            let message = format!(
                "{} is used WITHOUT checking any signature: anyone on the way can put packages into the image",
                uri::shown(&self.place.uri)
            );
            self.surroundings.reporter.warn(&self.repository.name, message);
            return Ok(None);
        }
        let mut keyring = Keyring::load(&self.place.keys)?;
        if !self.place.fingerprints.is_empty() {
            keyring.restrict(&self.place.fingerprints);
        }
        if keyring.is_empty() {
            let name = &self.repository.name;
            let places: Vec<String> = self.place.keys.iter().map(ToString::to_string).collect();
            return Err(Error::input(format!(
                "repository {name}: no trusted key for {} (looked in {})",
                uri::shown(&self.place.uri),
                places.join(", ")
            ))
            .hint(format!(
                "install the package debian-archive-keyring, or name the archive's keyring: signed-by = \"…\" in \
                 [repos.{name}]"
            )));
        }
        Ok(Some(keyring))
    }

    /// The suite's folder below the archive's URI (sources.list(5): a name that ends in a slash is a
    /// path, any other is below `dists`).
    fn folder(&self) -> String {
        match self.suite.strip_suffix('/') {
            Some("." | "") => String::new(),
            Some(path) => format!("{}/", path.trim_start_matches('/')),
            None => format!("dists/{}/", self.suite),
        }
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, Undelivered> {
        let wanted = Wanted {
            what: format!("{}{name}", self.folder()),
            repository: self.repository.name.clone(),
            uris: vec![uri::join(&self.place.uri, &format!("{}{name}", self.folder()))],
            size: None,
            sha256: None,
            limit: LIMIT,
        };
        self.acquire.deliver(&wanted, &mut |stream| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(stream, &mut bytes)?;
            Ok(bytes)
        })
    }

    /// InRelease, or Release and Release.gpg where an archive has no InRelease.
    fn download(&self) -> Result<Signed> {
        let absent = match self.get("InRelease") {
            Ok(bytes) => return Ok(Signed::Inline(bytes)),
            Err(Undelivered::Failure(failure)) if failure.is_absent() => failure,
            Err(other) => return Err(other.into()),
        };
        let release = match self.get("Release") {
            Ok(bytes) => bytes,
            Err(Undelivered::Failure(failure)) if failure.is_absent() => {
                return Err(Error::input(&absent).hint(format!(
                    "check that {} has the suite {}, or correct `suites` or `uris` of [repos.{}]",
                    uri::shown(&self.place.uri),
                    self.suite,
                    self.repository.name
                )));
            }
            Err(other) => return Err(other.into()),
        };
        let signature = match self.get("Release.gpg") {
            Ok(bytes) => bytes,
            // Unsigned: whether that will do is decided where signatures are checked.
            Err(Undelivered::Failure(failure)) if failure.is_absent() => Vec::new(),
            Err(other) => return Err(other.into()),
        };
        Ok(Signed::Detached { release, signature })
    }

    /// The signed text, parsed.
    fn verify(&self, signed: &Signed, keyring: Option<&Keyring>) -> Result<Release> {
        let name = match signed {
            Signed::Inline(_) => "InRelease",
            Signed::Detached { .. } => "Release",
        };
        let uri = uri::shown(&uri::join(&self.place.uri, &format!("{}{name}", self.folder())));
        let about = About { uri: &uri, repository: &self.repository.name };
        let text = match (signed, keyring) {
            (Signed::Inline(bytes), Some(keyring)) => {
                verify_inline(bytes, keyring, keyring.sources(), about)?
            }
            (Signed::Detached { release, signature }, Some(keyring)) => {
                verify_detached(release.clone(), signature, keyring, keyring.sources(), about)?
            }
            (Signed::Inline(bytes), None) => super::signature::unverified(bytes, about)?,
            (Signed::Detached { release, .. }, None) => String::from_utf8_lossy(release).into_owned(),
        };
        Release::parse(&text).map_err(|error| {
            Error::input(format!("{uri} of repository {}: {error}", self.repository.name))
                .hint("the archive is broken: tell its maintainers, or name another mirror")
        })
    }

    /// Refuses the Release file of another suite, which a mirror could pass off for this one.
    fn check_suite(&self, release: &Release) -> Result<()> {
        let name = &self.repository.name;
        let uri = uri::shown(&self.place.uri);
        if !self.suite.ends_with('/') {
            let asked = self.suite.trim_end_matches("/updates");
            let names = [release.suite.as_str(), release.codename.as_str()];
            let is_it = |name: &str| name == self.suite || name.trim_end_matches("/updates") == asked;
            if names.iter().any(|name| !name.is_empty()) && !names.into_iter().any(is_it) {
                return Err(Error::input(format!(
                    "repository {name}: {uri} serves suite {:?}, codename {:?}, where {} was asked for",
                    release.suite, release.codename, self.suite
                ))
                .hint(format!("correct `suites` of [repos.{name}], or name another mirror in `uris`")));
            }
        }
        let origins = &self.place.origins;
        // "Debian", and "Debian Backports".
        let word = release.origin.split(' ').next().unwrap_or_default();
        if !origins.is_empty() && !origins.iter().any(|origin| origin.eq_ignore_ascii_case(word)) {
            return Err(Error::input(format!(
                "repository {name}: {uri} belongs to {:?}, not to this machine's distribution ({})",
                release.origin,
                origins.join(", ")
            ))
            .hint(format!("name the archive in [repos.{name}]: uris = [\"http://mirror.example/debian\"]")));
        }
        Ok(())
    }

    /// Refuses what has expired or is of the future, unless the manifest says not to look.
    fn check_dates(&self, release: &Release) -> Result<()> {
        if !self.place.check_valid_until {
            self.note_expired(release);
            return Ok(());
        }
        let name = &self.repository.name;
        let about = format!(
            "repository {name}: the Release file of {} at {}",
            self.suite,
            uri::shown(&self.place.uri)
        );
        let now = now();
        match (release.date, release.valid_until) {
            (Some(date), _) if date > now + FUTURE => {
                Err(Error::input(format!("{about} is of {}, which is still to come", moment(date)))
                    .hint("check the clock of this machine: date"))
            }
            (_, Some(end)) if end < now => Err(Error::input(format!(
                "{about} expired on {}",
                day(end)
            ))
            .hint(format!(
                "the mirror is out of date, or this machine's clock is wrong; for an archive that no longer moves: \
                 check-valid-until = false in [repos.{name}]"
            ))),
            (None, None) if !self.place.trusted => Err(Error::input(format!("{about} has no date"))
                .hint(format!("for an archive without dates: check-valid-until = false in [repos.{name}]"))),
            _ => Ok(()),
        }
    }

    /// Says what is let pass, where it was the host's apt that said so and not the manifest.
    fn note_expired(&self, release: &Release) {
        let end = release.valid_until.filter(|end| *end < now());
        if let Some(end) = end.filter(|_| self.repository.check_valid_until) {
            let uri = uri::shown(&self.place.uri);
            let message = format!(
                "the Release file of {} at {uri} expired on {}; it is used since this machine's apt is told not to mind",
                self.suite,
                day(end)
            );
            self.surroundings.reporter.note(&self.repository.name, message);
        }
    }

    /// Refuses a Release file that is older than one that was accepted before: somebody may want
    /// known holes to stay open.
    fn check_order(&self, release: &Release, cache: &Path) -> Result<()> {
        let path = cache.join("newest");
        let newest: Option<i64> =
            std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        match (newest, release.date) {
            (Some(newest), date) if date.is_none_or(|date| date < newest) => Err(Error::input(format!(
                "repository {}: the Release file of {} at {} is of {}, older than the one of {} that was seen before",
                self.repository.name,
                self.suite,
                uri::shown(&self.place.uri),
                date.map_or("no date".to_owned(), moment),
                moment(newest)
            ))
            .hint(format!(
                "the mirror lags behind: try again later, or name another in `uris`; if the archive was moved back on \
                 purpose: rm {}",
                path.display()
            ))),
            _ => Ok(()),
        }
    }

    fn write_cached(&self, signed: &Signed, release: &Release, cache: &Path) -> Result<()> {
        match signed {
            Signed::Inline(bytes) => write_cached(&cache.join("InRelease"), bytes)?,
            Signed::Detached { release, signature } => {
                std::fs::remove_file(cache.join("InRelease")).ok(); // what it has now is this
                write_cached(&cache.join("Release"), release)?;
                write_cached(&cache.join("Release.gpg"), signature)?;
            }
        }
        match release.date {
            Some(date) => write_cached(&cache.join("newest"), format!("{date}\n").as_bytes()),
            None => Ok(()),
        }
    }

    fn read_cached(&self, cache: &Path) -> Result<Signed> {
        let read = |name: &str| std::fs::read(cache.join(name)).ok();
        if let Some(bytes) = read("InRelease") {
            return Ok(Signed::Inline(bytes));
        }
        if let (Some(release), Some(signature)) = (read("Release"), read("Release.gpg")) {
            return Ok(Signed::Detached { release, signature });
        }
        Err(Error::input(format!(
            "repository {}: the Release file of {} at {} is not in the cache, and --offline forbids to get it",
            self.repository.name,
            self.suite,
            uri::shown(&self.place.uri)
        ))
        .hint("run the same command once without --offline"))
    }
}
