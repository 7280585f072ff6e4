//! `lock`: an image's lock, made, kept or checked.

use std::{collections::BTreeSet, path::Path};

use super::{LockMode, Locked, Session, ninja::write_if_changed, tools};
use crate::{
    Context, Error, Result,
    acquire::Acquire,
    artefacts::{Image, Lockfile, Request},
    lock::{self, index::Index, indexes, lockfile},
    report::Stage,
};

/// Resolves one image and writes its lock.
pub fn lock(session: &Session<'_>, image: &Image, mode: LockMode) -> Result<Locked> {
    let request = &image.request;
    let previous = match read_if_there(&image.lock)? {
        Some(previous) => Some(previous),
        None if mode == LockMode::Check => return Err(missing(&image.lock)),
        None => None,
    };
    let unchanged = |lockfile| Ok(Locked { lockfile, path: image.lock.clone(), written: false });
    match previous {
        Some(previous) if mode == LockMode::Check => {
            lock::check(request, &previous).with_context(|| image.lock.display().to_string())?;
            unchanged(previous)
        }
        Some(previous) if mode == LockMode::Keep && previous.request == Some(lock::digest(request)) => {
            unchanged(previous)
        }
        previous => session.stage(&request.image, Stage::Lock, None, "indexes", || {
            let locked = resolve(session, image, previous, mode == LockMode::Update)?;
            let summary = format!("{} packages", locked.lockfile.packages.len());
            Ok((locked, summary))
        }),
    }
}

/// Why a package is in an image's lock: a chain from a requested package, one line a step.
pub fn why(_session: &Session<'_>, image: &Image, package: &str) -> Result<Vec<String>> {
    let lockfile = read(&image.lock)?;
    lock::why(&image.request, &lockfile, package).with_context(|| image.lock.display().to_string())
}

/// Reads a lock that has to be there.
pub(super) fn read(path: &Path) -> Result<Lockfile> {
    read_if_there(path)?.ok_or_else(|| missing(path))
}

/// Reads a lock, if there is one.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Lockfile>> {
    match std::fs::read_to_string(path) {
        Ok(text) => lockfile::parse(&text, path).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

fn missing(path: &Path) -> Error {
    let image = path.file_stem().unwrap_or_default().to_string_lossy();
    Error::input(format!("{}: there is no such lock", path.display())).hint(format!("treestrap lock {image}"))
}

fn resolve(session: &Session<'_>, image: &Image, previous: Option<Lockfile>, update: bool) -> Result<Locked> {
    let request = &image.request;
    let acquire = Acquire::new(session.offline, session.stop);
    // The tools' index comes from the same archives: get both at the same time.
    let (indexes, tools) = std::thread::scope(|scope| {
        let tools = scope.spawn(|| tools::Indexes::obtain(session, image, &acquire));
        let indexes = obtain(session, request, &architectures(request), &acquire);
        (indexes, tools.join().unwrap_or_else(|_| Err(Error::bug("the search for tools panicked"))))
    });
    let lockfile = lock::resolve(request, &indexes?, previous.as_ref().filter(|_| !update))?;
    let (lockfile, written) = match previous {
        // One that another tool made stays as it is, while it has the same packages.
        Some(previous) if previous.request.is_none() && same_packages(&previous, &lockfile) => {
            (previous, false)
        }
        _ => {
            let written = write(&image.lock, &lockfile)?;
            (lockfile, written)
        }
    };
    let pinned = tools.and_then(|tools| tools.map_or(Ok(()), |tools| tools.lock(image, &lockfile, update)));
    tools::tolerate(session, &request.image, pinned)?;
    Ok(Locked { lockfile, path: image.lock.clone(), written })
}

fn same_packages(a: &Lockfile, b: &Lockfile) -> bool {
    let debs = |lockfile: &Lockfile| {
        let debs = lockfile.packages.iter().map(|package| (package.id(), package.sha256));
        debs.collect::<BTreeSet<_>>()
    };
    debs(a) == debs(b)
}

/// Gets the indexes of these architectures.
pub(super) fn obtain(
    session: &Session<'_>,
    request: &Request,
    architectures: &[String],
    acquire: &Acquire<'_>,
) -> Result<Vec<Index>> {
    let cache = session.cache.as_path();
    let surroundings =
        indexes::Surroundings { root: Path::new("/"), cache, acquire, reporter: session.reporter };
    indexes::obtain(request, architectures, &surroundings)
}

/// The image's own architecture, then those that requested packages name (`libc6:i386`).
fn architectures(request: &Request) -> Vec<String> {
    let mut architectures = vec![request.architecture.clone()];
    for package in &request.packages {
        if let Some((_, architecture)) = package.name.split_once(':')
            && !matches!(architecture, "any" | "all" | "native")
            && !architectures.iter().any(|known| known == architecture)
        {
            architectures.push(architecture.to_owned());
        }
    }
    architectures
}

/// Writes a lock unless it is there already, byte for byte; gives whether it was written.
pub(super) fn write(path: &Path, lockfile: &Lockfile) -> Result<bool> {
    write_if_changed(path, &lockfile::print(lockfile))
}
