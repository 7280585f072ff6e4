//! Getting the indexes of a request: Release files verified and fresh, Packages files by hash.
//!
//! What comes out was verified all the way: the Release file by a signature ([`super::signature`]),
//! the Packages files by the size and SHA-256 that the Release file states, packed and unpacked.
//!
//! The cache, below the folder that is given:
//! ```text
//! releases/DIGEST/InRelease          as it was signed; verified anew each time it is read
//! releases/DIGEST/Release{,.gpg}     the same for archives without InRelease
//! releases/DIGEST/newest             the newest Date that was accepted, in seconds
//! indexes/DIGEST                     a Packages file, unpacked, under its own SHA-256; removed when
//!                                    it was not used for 30 days
//! ```
//! The DIGEST of a release is that of its URI and suite. Files are written under another name and
//! renamed, so several runs can share a cache.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    index::Index,
    releases::{Fetched, obtain_release},
    sources::{self, Suite},
};
use crate::{
    acquire::{Acquire, Failure, Meter, Undelivered, Wanted, parallel, uri},
    artefacts::{Repository, Request},
    debian::release::Release,
    digest::Sha256,
    error::{Context, Error, Kind, Result},
    report::{Reporter, Stage},
};

/// Downloads at once: they wait for the network more than they work.
const CONNECTIONS: usize = 8;

/// Packings of an index, the best first; an archive has some of them.
const PACKINGS: [&str; 5] = [".xz", ".zst", ".gz", ".bz2", ""];

/// An index whose unpacked size no Release file states is at most so big.
const UNSTATED_LIMIT: u64 = 1 << 30;

/// An index that was not used for so long is removed from the cache.
const UNUSED: Duration = Duration::from_secs(30 * 86_400);

/// What `obtain` works with, besides the request.
pub struct Surroundings<'a> {
    /// The host's root folder, `/` but in tests: its apt sources and keyrings are read.
    pub root: &'a Path,
    /// Where verified files are kept between runs.
    pub cache: &'a Path,
    /// The way to the archives.
    pub acquire: &'a Acquire<'a>,
    /// Who watches.
    pub reporter: &'a dyn Reporter,
}

/// The indexes of all of a request's repositories and suites, for these architectures (the image's
/// and perhaps others), in the manifest's order.
pub fn obtain(
    request: &Request,
    architectures: &[String],
    surroundings: &Surroundings<'_>,
) -> Result<Vec<Index>> {
    obtain_listed(request, Some(architectures), surroundings)
}

/// The indexes of source packages of all of a request's repositories and suites that have some.
pub fn obtain_sources(request: &Request, surroundings: &Surroundings<'_>) -> Result<Vec<Index>> {
    obtain_listed(request, None, surroundings)
}

/// Gets the indexes for these architectures; none: of source packages.
fn obtain_listed(
    request: &Request,
    architectures: Option<&[String]>,
    surroundings: &Surroundings<'_>,
) -> Result<Vec<Index>> {
    let acquire = &surroundings.acquire.renewed();
    let mut suites: Vec<(&Repository, Suite)> = Vec::new();
    for repository in &request.repositories {
        let located = sources::locate(repository, surroundings.root)?;
        suites.extend(located.into_iter().map(|suite| (repository, suite)));
    }
    let releases = in_parallel(acquire, suites.len(), |position| {
        let (repository, suite) = &suites[position];
        let about = format!("{} {}", repository.name, suite.name);
        surroundings.reporter.step(&request.image, "release", &about, || {
            obtain_release(repository, suite, acquire, surroundings)
        })
    })?;

    let mut wanted: Vec<WantedIndex<'_>> = Vec::new();
    for ((repository, suite), fetched) in suites.iter().zip(&releases) {
        wanted.extend(match architectures {
            Some(architectures) => list_indexes(repository, suite, fetched, architectures)?,
            None => list_sources(repository, suite, fetched),
        });
    }
    let missing = wanted.iter().filter(|wanted| !wanted.is_cached(surroundings.cache));
    let total: u64 = missing.map(WantedIndex::packed_size).sum();
    let meter = Meter::start(surroundings.reporter, &request.image, Stage::Lock, total);
    in_parallel(acquire, wanted.len(), |position| {
        let wanted = &wanted[position];
        let name = if wanted.is_cached(surroundings.cache) { "read index" } else { "download index" };
        let packages = surroundings
            .reporter
            .step(&request.image, name, &wanted.title(), || wanted.obtain(acquire, surroundings, &meter))?;
        Ok(Index {
            repository: wanted.repository.name.clone(),
            uri: uri::shown(&wanted.fetched.uri),
            suite: wanted.suite.name.clone(),
            component: wanted.component.clone(),
            architecture: wanted.architecture.clone(),
            release: wanted.fetched.release.clone(),
            packages,
        })
    })
}

/// The results of `work` for each position, got on several threads.
fn in_parallel<T: Send>(
    acquire: &Acquire<'_>,
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let results: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    parallel(acquire, CONNECTIONS, count, |take| {
        while let Some(position) = take() {
            let result = work(position)?;
            *results[position].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
        Ok(())
    })?;
    let results = results.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
    results.collect::<Option<Vec<T>>>().ok_or_else(|| Error::bug("an index was neither got nor reported"))
}

/// One Packages file that is to be got.
struct WantedIndex<'a> {
    repository: &'a Repository,
    suite: &'a Suite,
    fetched: &'a Fetched,
    component: String,
    architecture: String,
    /// Its path below the suite's folder, unpacked.
    path: String,
}

/// Which Packages files a suite must have; an error names what it offers instead.
fn list_indexes<'a>(
    repository: &'a Repository,
    suite: &'a Suite,
    fetched: &'a Fetched,
    architectures: &[String],
) -> Result<Vec<WantedIndex<'a>>> {
    let release = &*fetched.release;
    let index = |component: &str, architecture: &str, path: String| WantedIndex {
        repository,
        suite,
        fetched,
        component: component.to_owned(),
        architecture: architecture.to_owned(),
        path,
    };
    if suite.name.ends_with('/') {
        let names = ["Packages", "./Packages"];
        let path = names.into_iter().find(|path| packings(release, path).next().is_some());
        let path = path.ok_or_else(|| {
            let name = &repository.name;
            Error::input(format!("repository {name}: its flat suite {} has no Packages file", suite.name))
        })?;
        // One file has all architectures; the resolver looks at the stanzas.
        let architecture = architectures.first().map_or("all", String::as_str);
        return Ok(vec![index("", architecture, path.to_owned())]);
    }
    let name = &repository.name;
    let refuse = |message: String, edit: String| {
        let message = format!("repository {name}: suite {} has no component {message}", suite.name);
        Err(Error::input(message).hint(format!("correct {edit}, or take a suite that has it")))
    };
    let mut wanted: Vec<WantedIndex<'_>> = Vec::new();
    for component in &repository.components {
        let has = architectures_of(release, component);
        if has.is_empty() {
            let offered = listed(components_of(release));
            return refuse(
                format!("{component}; it has: {offered}"),
                format!("`components` of [repos.{name}]"),
            );
        }
        let folder = |architecture: &str| format!("{component}/binary-{architecture}/Packages");
        for architecture in architectures.iter().filter(|architecture| *architecture != "all") {
            if !has.contains(architecture.as_str()) {
                // An architecture that the suite has, but no packages of it: as good as an empty index.
                if release.architectures.contains(architecture) {
                    continue;
                }
                let edit = format!("`arch` of the image, or `components` of [repos.{name}]");
                return refuse(
                    format!("{component} for {architecture}; it has it for: {}", listed(has)),
                    edit,
                );
            }
            wanted.push(index(component, architecture, folder(architecture)));
        }
        // As apt decides: Debian's suites list `all`, and say that binary-ARCH holds those packages too;
        // its security suites have binary-all and do not list it, which means the same.
        let listed =
            release.architectures.is_empty() || release.architectures.iter().any(|name| name == "all");
        let path = folder("all");
        if listed && !release.no_support_for_architecture_all && packings(release, &path).next().is_some() {
            wanted.push(index(component, "all", path));
        }
    }
    Ok(wanted)
}

/// Which Sources files a suite has.
fn list_sources<'a>(
    repository: &'a Repository,
    suite: &'a Suite,
    fetched: &'a Fetched,
) -> Vec<WantedIndex<'a>> {
    let paths: Vec<(&str, String)> = match suite.name.ends_with('/') {
        true => ["Sources", "./Sources"].map(|path| ("", path.to_owned())).to_vec(),
        false => repository.components.iter().map(|c| (c.as_str(), format!("{c}/source/Sources"))).collect(),
    };
    let is_there = |(_, path): &(&str, String)| packings(&fetched.release, path).next().is_some();
    let index = |(component, path): (&str, String)| WantedIndex {
        repository,
        suite,
        fetched,
        component: component.to_owned(),
        architecture: "source".to_owned(),
        path,
    };
    paths.into_iter().filter(is_there).map(index).collect()
}

/// The parts of the paths of all Packages files: component and architecture.
fn index_paths(release: &Release) -> impl Iterator<Item = (&str, &str)> {
    release.files.keys().filter_map(|path| {
        let (folder, file) = path.rsplit_once('/')?;
        let is_index = file.strip_prefix("Packages").is_some_and(|packing| PACKINGS.contains(&packing));
        let (component, architecture) = folder.rsplit_once("/binary-")?;
        // The installer's packages are in a part of a component, which nobody asks for by mistake.
        (is_index && !component.ends_with("debian-installer")).then_some((component, architecture))
    })
}

/// For which architectures a suite has a component.
fn architectures_of<'a>(release: &'a Release, component: &str) -> BTreeSet<&'a str> {
    let has = |(its, architecture): (&'a str, &'a str)| (its == component).then_some(architecture);
    index_paths(release).filter_map(has).collect()
}

/// The components of a suite that have packages.
fn components_of(release: &Release) -> BTreeSet<&str> {
    index_paths(release).map(|(component, _)| component).collect()
}

fn listed(names: BTreeSet<&str>) -> String {
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.into_iter().collect::<Vec<_>>().join(", "),
    }
}

/// The packed forms of an index that a Release file lists, the best first: extension, digest, size.
fn packings<'a>(
    release: &'a Release,
    path: &'a str,
) -> impl Iterator<Item = (&'static str, Sha256, u64)> + 'a {
    PACKINGS.into_iter().filter_map(move |extension| {
        let (digest, size) = release.files.get(&format!("{path}{extension}"))?;
        Some((extension, *digest, *size))
    })
}

impl WantedIndex<'_> {
    fn title(&self) -> String {
        let (suite, component, architecture) = (&self.suite.name, &self.component, &self.architecture);
        match component.is_empty() {
            true => format!("{} {suite}", self.repository.name),
            false => format!("{} {suite}/{component} {architecture}", self.repository.name),
        }
    }

    /// Its digest and size unpacked, if the Release file states them.
    fn plain(&self) -> Option<(Sha256, u64)> {
        self.fetched.release.files.get(&self.path).copied()
    }

    /// The size of what is downloaded, as a rule.
    fn packed_size(&self) -> u64 {
        packings(&self.fetched.release, &self.path).next().map_or(0, |(_, _, size)| size)
    }

    /// Where it is in the cache. Without a digest of the unpacked file, that of the packed one names it.
    fn cached_path(&self, cache: &Path) -> PathBuf {
        let name = match (self.plain(), packings(&self.fetched.release, &self.path).next()) {
            (Some((digest, _)), _) => digest.to_string(),
            (None, Some((_, digest, _))) => format!("{digest}-unpacked"),
            (None, None) => "none".to_owned(), // `list_indexes` lists only what has a packing
        };
        cache.join("indexes").join(name)
    }

    fn is_cached(&self, cache: &Path) -> bool {
        let size = self.plain().map(|(_, size)| size);
        let found = std::fs::metadata(self.cached_path(cache));
        found.is_ok_and(|found| size.is_none_or(|size| size == found.len()))
    }

    /// The index, from the cache or the archive.
    fn obtain(
        &self,
        acquire: &Acquire<'_>,
        surroundings: &Surroundings<'_>,
        meter: &Meter<'_>,
    ) -> Result<Arc<Vec<u8>>> {
        let release = &self.fetched.release;
        let (plain, title) = (self.plain(), self.title());
        let cached = self.cached_path(surroundings.cache);
        if let Some(packages) = read_cached(&cached, plain.map(|(_, size)| size))? {
            surroundings.reporter.detail(&self.repository.name, format!("{title}: cached"));
            return Ok(packages);
        }
        let mut counted = 0;
        let mut last = Error::bug("no packing was tried");
        for (extension, digest, size) in packings(release, &self.path) {
            let wanted = self.wanted(extension, digest, size);
            let unpacked = acquire.deliver(&wanted, &mut |stream| {
                meter.take_back(std::mem::take(&mut counted));
                unpack(&mut meter.count(&title, &mut counted, stream), extension, plain, &wanted.what)
            });
            match unpacked {
                Ok(bytes) => {
                    write_cached(&cached, &bytes)?;
                    forget_unused(&surroundings.cache.join("indexes"));
                    meter.item_done(&title);
                    let message = format!("{title}: {size} bytes from {}", uri::shown(&self.fetched.uri));
                    surroundings.reporter.detail(&self.repository.name, message);
                    return Ok(Arc::new(bytes));
                }
                // Release files list packings that the archive does not keep: try the next.
                Err(Undelivered::Failure(failure)) if failure.is_absent() => {
                    last = self.out_of_step(&failure)
                }
                Err(Undelivered::Failure(failure)) if failure.is_wrong_content() => {
                    return Err(self.out_of_step(&failure));
                }
                Err(other) => return Err(Error::from(other)),
            }
        }
        Err(last)
    }

    /// The error for a mirror whose Release file and indexes do not belong together.
    fn out_of_step(&self, failure: &Failure) -> Error {
        Error::input(failure).hint(format!(
            "the mirror is being updated, or incomplete: try again in some minutes, or name another in `uris` of \
             [repos.{}]",
            self.repository.name
        ))
    }

    /// What is to be got: by hash first, since that name never gets another content, from where the
    /// Release file came from first.
    fn wanted(&self, extension: &str, digest: Sha256, size: u64) -> Wanted {
        let path = format!("{}{}{extension}", self.fetched.folder, self.path);
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut uris: Vec<String> = Vec::new();
        let others = self.suite.places.iter().map(|place| &place.uri);
        for base in std::iter::once(&self.fetched.uri).chain(others) {
            let by_hash = format!("{folder}/by-hash/SHA256/{digest}");
            let forms = self.fetched.release.acquire_by_hash.then_some(&by_hash).into_iter().chain([&path]);
            for form in forms {
                let uri = uri::join(base, form);
                if !uris.contains(&uri) {
                    uris.push(uri);
                }
            }
        }
        Wanted {
            what: format!("the index {path}"),
            repository: self.repository.name.clone(),
            uris,
            size: Some(size),
            sha256: Some(digest),
            limit: size,
        }
    }
}

/// Unpacks a stream, up to the size that it must have, and compares its digest.
fn unpack(
    stream: &mut dyn Read,
    extension: &str,
    plain: Option<(Sha256, u64)>,
    what: &str,
) -> Result<Vec<u8>> {
    let limit = plain.map_or(UNSTATED_LIMIT, |(_, size)| size);
    let mut bytes = Vec::with_capacity(plain.map_or(0, |(_, size)| size.min(1 << 28)) as usize);
    let mut reader: Box<dyn Read + '_> = match extension {
        ".xz" => {
            // Both forms have a digest, which is compared: xz's own checksum would tell nothing more.
            let flags = liblzma::stream::CONCATENATED | liblzma::stream::IGNORE_CHECK;
            let decoder = liblzma::stream::Stream::new_stream_decoder(u64::MAX, flags).map_err(Error::bug)?;
            Box::new(liblzma::read::XzDecoder::new_stream(stream, decoder))
        }
        ".zst" => Box::new(zstd::stream::read::Decoder::new(stream)?),
        ".gz" => Box::new(flate2::read::MultiGzDecoder::new(stream)),
        ".bz2" => Box::new(bzip2::read::MultiBzDecoder::new(stream)),
        _ => Box::new(stream),
    };
    (&mut reader).take(limit + 1).read_to_end(&mut bytes).with_context(|| format!("unpacking {what}"))?;
    let wrong = match plain {
        Some((_, size)) if bytes.len() as u64 != size => {
            Some(format!("it unpacks to {} bytes or more, not {size}", bytes.len()))
        }
        Some((digest, _)) if Sha256::of(&bytes) != digest => {
            Some("its unpacked content is not what it should be".into())
        }
        None if bytes.len() as u64 > limit => Some(format!("it unpacks to more than {limit} bytes")),
        _ => None,
    };
    match wrong {
        None => Ok(bytes),
        Some(reason) => Err(Error::input(format!("{what}: {reason}")).hint(
            "the archive's Release file contradicts itself: tell its maintainers, or name another mirror",
        )),
    }
}

/// A cached index of this length, if it is there.
///
/// Its digest was compared when it was written, and the file was on the disk before it got its name;
/// it is ours alone, as the program itself is. Hashing 50 MB again at each run would cost more than
/// resolving does, so only the length is looked at.
fn read_cached(path: &Path, size: Option<u64>) -> Result<Option<Arc<Vec<u8>>>> {
    let Ok(mut file) = std::fs::File::open(path) else { return Ok(None) };
    let found = file.metadata().with_context(|| format!("reading {}", path.display()))?.len();
    if size.is_some_and(|size| size != found) {
        return Ok(None);
    }
    touch(&file);
    // Into memory that nothing was written to before, of just this size: an index is big.
    let mut bytes = Vec::with_capacity(found as usize);
    file.read_to_end(&mut bytes).with_context(|| format!("reading {}", path.display()))?;
    match bytes.len() as u64 == found {
        true => Ok(Some(Arc::new(bytes))),
        false => Ok(None), // somebody cut it meanwhile
    }
}

/// Marks a cached index as used, at most once a day; where that may not be done, it is merely
/// forgotten sooner.
fn touch(file: &std::fs::File) {
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    let used_lately =
        modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < Duration::from_secs(86_400)));
    if !used_lately {
        file.set_modified(SystemTime::now()).ok();
    }
}

/// Removes indexes that were not used for long, and what killed runs left: each update of an archive
/// brings new ones, of some 50 MB.
fn forget_unused(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > UNUSED)) {
            std::fs::remove_file(entry.path()).ok(); // another run may have done it
        }
    }
}

/// Writes a file of the cache: whole, on the disk, and only then under its name.
pub(super) fn write_cached(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().ok_or_else(|| Error::bug("a cached file without a folder"))?;
    let write = || -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_data()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display())).map_err(|error| match error.kind() {
        Kind::Machine => error.hint("set XDG_CACHE_HOME to a folder that you may write to"),
        _ => error,
    })
}

/// Seconds since the epoch.
pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs() as i64)
}

/// The InRelease file of a suite that was got last, as it was signed; none where the archive has none.
pub fn signed_release(cache: &Path, uri: &str, suite: &str) -> Option<Vec<u8>> {
    std::fs::read(release_folder(cache, uri, suite).join("InRelease")).ok()
}

/// The folder of the cache that belongs to one release.
pub(super) fn release_folder(cache: &Path, uri: &str, suite: &str) -> PathBuf {
    let key = format!("{}\n{suite}", uri::shown(uri).trim_end_matches('/'));
    cache.join("releases").join(Sha256::of(key.as_bytes()).to_string())
}

#[cfg(test)]
mod tests;
