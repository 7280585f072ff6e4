//! Which packages a configuration comes to: what multistrap asks of apt, in two rounds.
//!
//! The first round is `apt-get install` of all packages of priority required (or important, too), of the
//! sections' packages and of the keyrings', sorted by name. The second one, `additional`, comes when the
//! first is installed: nothing of it changes.

use std::path::Path;

use super::super::{Session, indexes, locks};
use crate::{
    Error, Result,
    acquire::Acquire,
    artefacts::{Constraint, LockedPackage, Lockfile, PackageRequest, Request},
    debian::release::Release,
    digest::Sha256,
    lock::{self, index::Index},
    manifest::multistrap::{Configuration, command_line},
    report::Stage,
};

/// The lock's field of packages of the second round.
const ROUND: &str = "Treestrap-Round";

/// Whether a package is one of the second round.
pub(super) fn is_additional(package: &LockedPackage) -> bool {
    package.stanza.get(ROUND) == Some("2")
}

/// The digest of what of a configuration decides the choice.
fn digest(configuration: &Configuration, request: &Request) -> Result<Sha256> {
    let values = (lock::digest(request), &configuration.multiarch, &configuration.additional);
    Ok(Sha256::of(serde_json::to_string(&values).map_err(Error::bug)?.as_bytes()))
}

/// The lock at `path`, if `keep` and it is there; else a new one, which is written there.
///
/// # Errors
/// As those of [`locks::lock`]; and if `aptdefaultrelease` names what no repository is.
pub(super) fn lockfile(
    session: &Session<'_>,
    configuration: &Configuration,
    request: &Request,
    path: &Path,
    keep: bool,
) -> Result<Lockfile> {
    let digest = digest(configuration, request)?;
    if keep && let Some(lockfile) = locks::read_if_there(path)? {
        if lockfile.request != Some(digest) {
            let message = format!("{} answers another configuration; it is used as it is", path.display());
            session.reporter.warn(&request.image, message);
        }
        return Ok(lockfile);
    }
    session.stage(&request.image, Stage::Lock, None, "indexes", || {
        let acquire = Acquire::new(session.offline, session.stop);
        let architectures = configuration.architectures(&request.architecture);
        let indexes = indexes::obtain(session, request, &architectures, &acquire)?;
        check_default_release(configuration, &indexes)?;
        let mut lockfile = choose(configuration, request, &indexes)?;
        lockfile.request = Some(digest);
        locks::write(path, &lockfile)?;
        let summary = format!("{} packages", lockfile.packages.len());
        Ok((lockfile, summary))
    })
}

fn choose(configuration: &Configuration, request: &Request, indexes: &[Index]) -> Result<Lockfile> {
    let any = |name: String| PackageRequest { name, constraint: Constraint::Any };
    let mut request = request.clone();
    let mut wanted: Vec<PackageRequest> =
        lock::of_priority(&request.priority, indexes).into_iter().map(any).collect();
    wanted.append(&mut request.packages);
    request.packages = command_line(wanted);
    request.priority.clear();
    let first = lock::resolve(&request, indexes, None)?;
    if configuration.additional.is_empty() {
        return Ok(first);
    }
    // What is installed stays: it is asked for again, in the versions that it has.
    let additional = configuration.additional_packages()?;
    let installed = first.packages.iter().map(|package| {
        let foreign = package.architecture != "all" && package.architecture != request.architecture;
        any(if foreign { format!("{}:{}", package.name, package.architecture) } else { package.name.clone() })
    });
    request.packages = command_line(installed.chain(additional).collect());
    let mut second = lock::resolve(&request, indexes, Some(&first))
        .map_err(|error| error.context("the second round, additional="))?;
    for package in &mut second.packages {
        match first.packages.iter().find(|known| known.id() == package.id()) {
            Some(known) => *package = known.clone(),
            None => package.stanza.set(ROUND, "2"),
        }
    }
    Ok(second)
}

/// apt refuses a default release that none of its sources is.
fn check_default_release(configuration: &Configuration, indexes: &[Index]) -> Result<()> {
    let Some(name) = &configuration.default_release else { return Ok(()) };
    // Expressions are left to the policy.
    let is_plain = !name.contains(['*', '?', '[', '=', '/', ',']);
    let is_it = |release: &Release| {
        [&release.suite, &release.codename, &release.version]
            .iter()
            .any(|value| value.eq_ignore_ascii_case(name))
    };
    if !is_plain || indexes.iter().any(|index| is_it(&index.release)) {
        return Ok(());
    }
    let path = configuration.path.display();
    Err(Error::input(format!("{path}: aptdefaultrelease={name} is the suite of no repository"))
        .hint("name the suite or the codename of a section that bootstrap names"))
}
