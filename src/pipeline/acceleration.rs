//! Native twins for foreign images: their packages are fetched like the image's own, what they make
//! is stored, and stage 2 gets it to mount (docs/acceleration.md).
//!
//! Whatever is missing costs time and no more: without twins, qemu runs every program. So what goes
//! wrong here is a note, unless `--accelerate require` says otherwise.

use std::collections::BTreeSet;

use qemu::twins::{Policy, Rule};

use super::{
    Session, pool,
    tools::{Foreign, is_emulator},
    twin_trees,
};
use crate::{
    Error, Result,
    artefacts::{Composed, Image, LockedPackage, Lockfile},
    commit,
    configure::{Acceleration, AccelerationWish, Emulator},
    digest::Sha256,
    error::Kind,
    ingest::Ingester,
    store::Store,
    twins::{self, Inventories, Machines, Member, Twins},
};

/// Downloads the packages of the twins of a tree with these packages.
pub(super) fn fetch_for(
    session: &Session<'_>,
    image: &Image,
    members: impl FnOnce() -> Result<Vec<Member>>,
) -> Result<()> {
    let fetched = wanted(session, image, members).and_then(|packages| {
        let natives = Lockfile { packages, request: None };
        pool::fetch_locked(session, &[(image, &natives)])
    });
    tolerate_missing(session, &image.request.image, fetched)
}

/// Reports that native programs could not be got: all programs run in qemu then.
pub(super) fn tolerate_missing(session: &Session<'_>, image: &str, result: Result<()>) -> Result<()> {
    match result {
        Err(error) if matches!(error.kind(), Kind::Input | Kind::Machine) => {
            let message = format!("native programs could not be got from the archive: {error}");
            session.reporter.warn(image, message);
            Ok(())
        }
        result => result,
    }
}

/// The packages for this machine that the twins of these packages are made of. Those must be in the repository,
/// and the image's tools be locked.
pub(super) fn wanted(
    session: &Session<'_>,
    image: &Image,
    members: impl FnOnce() -> Result<Vec<Member>>,
) -> Result<Vec<LockedPackage>> {
    let Some((foreign, machines, tools)) = machines(session, image)? else { return Ok(Vec::new()) };
    let store = Store::open(&session.repo)?;
    let wanted = twins::wanted(&Inventories::new(&store), &members()?, &machines, &policy(image))?;
    Ok(natives(tools, &foreign).filter(|package| wanted.contains(&package.name)).collect())
}

/// Those of them that are known before the image's packages are there: the table has them.
pub(super) fn surely_wanted(session: &Session<'_>, image: &Image) -> Result<Vec<LockedPackage>> {
    let Some((foreign, _, tools)) = machines(session, image)? else { return Ok(Vec::new()) };
    let policy = policy(image);
    Ok(natives(tools, &foreign).filter(|package| policy.package(&package.name).is_some()).collect())
}

/// For a foreign image that can have twins: the two architectures, and its tools.
fn machines(session: &Session<'_>, image: &Image) -> Result<Option<(Foreign, Machines, Lockfile)>> {
    let Some(foreign) = Foreign::new(session, &image.request.architecture)? else { return Ok(None) };
    let Some(machines) = Machines::of(foreign.target.name, foreign.host.name) else { return Ok(None) };
    Ok(foreign.tools(image)?.map(|tools| (foreign, machines, tools)))
}

/// The packages of native programs in a lock of tools.
fn natives(tools: Lockfile, foreign: &Foreign) -> impl Iterator<Item = LockedPackage> {
    let host = foreign.host.name;
    tools.packages.into_iter().filter(move |package| package.architecture == host && !is_emulator(package))
}

/// The image's twins; none where it is not a foreign one, or `wish` is not to have any.
///
/// # Errors
/// `Kind::Machine` if they are required and cannot be had.
pub(super) fn prepare(
    session: &Session<'_>,
    image: &Image,
    composed: &Composed,
    emulator: Option<&Emulator>,
    wish: AccelerationWish,
    members: impl FnOnce() -> Result<Vec<Member>>,
) -> Result<Option<Acceleration>> {
    let Some(emulator) = emulator.filter(|_| wish != AccelerationWish::Off) else { return Ok(None) };
    let made = make(session, image, composed, members).and_then(|twins| mount(session, twins, emulator));
    tolerate(session, &image.request.image, made, wish)
}

/// The twins with which a configured image was made, for `run`.
///
/// # Errors
/// As [`prepare`].
pub(super) fn found(
    session: &Session<'_>,
    image: &str,
    commit: Sha256,
    emulator: Option<&Emulator>,
    wish: AccelerationWish,
) -> Result<Option<Acceleration>> {
    let Some(emulator) = emulator.filter(|_| wish != AccelerationWish::Off) else { return Ok(None) };
    let store = Store::open(&session.repo)?;
    let twins = match commit::accelerated(&store, commit)? {
        Some(accelerated) => twins::load(&store, accelerated.twins)?,
        None => None,
    };
    let made = twins
        .ok_or_else(|| Error::machine("it was not made with native programs"))
        .and_then(|twins| mount(session, twins, emulator));
    match made {
        Err(error) if wish == AccelerationWish::Auto => {
            session.reporter.detail(image, format!("all programs run in qemu: {error}"));
            Ok(None)
        }
        made => tolerate(session, image, made, wish),
    }
}

fn tolerate(
    session: &Session<'_>,
    image: &str,
    made: Result<Acceleration>,
    wish: AccelerationWish,
) -> Result<Option<Acceleration>> {
    match made {
        Ok(acceleration) => Ok(Some(acceleration)),
        Err(error) if wish == AccelerationWish::Require => {
            let error = Error::machine(format!("--accelerate require: {error}"));
            Err(error.hint(format!("treestrap fetch {image}    gets the packages; or --accelerate auto")))
        }
        Err(error) if matches!(error.kind(), Kind::Input | Kind::Machine) => {
            session.reporter.note(image, format!("all programs run in qemu: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn make(
    session: &Session<'_>,
    image: &Image,
    composed: &Composed,
    members: impl FnOnce() -> Result<Vec<Member>>,
) -> Result<Twins> {
    let foreign = Foreign::new(session, &composed.architecture)?;
    let foreign = foreign.ok_or_else(|| Error::bug("an emulator for what runs natively"))?;
    let machines = Machines::of(foreign.target.name, foreign.host.name).ok_or_else(|| {
        let (target, host) = (foreign.target.name, foreign.host.name);
        Error::machine(format!("programs for {target} have no twins on {host}"))
    })?;
    if let Some(package) = composed.packages.iter().find(|package| package.architecture == foreign.host.name)
    {
        return Err(Error::machine(format!(
            "{} is a package of this machine's architecture, whose modules twins would hide",
            package.qualified_name
        )));
    }
    let tools = foreign.tools(image)?;
    let tools = tools.ok_or_else(|| Error::input("there is no lock of tools"))?;
    let members = members()?;
    let ingester = Ingester::new(&session.repo)?;
    let mut natives = Vec::new();
    for package in tools.packages.iter().filter(|package| package.architecture == foreign.host.name) {
        if let Some(ingested) = ingester.lookup(package)? {
            natives.push(Member::new(package, ingested));
        }
    }
    if natives.is_empty() {
        return Err(Error::input("no package for this machine is in the repository"));
    }
    let store = Store::open(&session.repo)?;
    twins::prepare(&store, &Inventories::new(&store), (&members, &natives), &machines, &policy(image))
}

/// The packages of a composed image.
pub(super) fn composed(session: &Session<'_>, image: &Image, composed: &Composed) -> Result<Vec<Member>> {
    ingested(session, &locked(image, composed)?)
}

/// The lock's entries of what was composed: the lock may have changed since.
pub(super) fn locked(image: &Image, composed: &Composed) -> Result<Vec<LockedPackage>> {
    let lockfile = super::locks::read(&image.lock)?;
    let key = |name: &str, version: &str, architecture: &str| format!("{name}_{version}_{architecture}");
    let composed: BTreeSet<String> = composed
        .packages
        .iter()
        .map(|package| key(&package.name, &package.version, &package.architecture))
        .collect();
    let locked: Vec<LockedPackage> =
        lockfile.packages.into_iter().filter(|package| composed.contains(&package.id())).collect();
    match locked.len() == composed.len() {
        true => Ok(locked),
        false => Err(Error::input("the lock has changed since the image was composed")),
    }
}

/// Packages of the repository.
pub(super) fn ingested(session: &Session<'_>, packages: &[LockedPackage]) -> Result<Vec<Member>> {
    let ingester = Ingester::new(&session.repo)?;
    packages
        .iter()
        .map(|package| {
            let ingested = ingester.lookup(package)?;
            let ingested = ingested.ok_or_else(|| {
                Error::input(format!("{} is not in the repository", package.id())).hint("treestrap fetch")
            })?;
            Ok(Member::new(package, ingested))
        })
        .collect()
}

/// Checks the tree out where nobody has, and puts the dispatcher in front of the emulator.
fn mount(session: &Session<'_>, twins: Twins, emulator: &Emulator) -> Result<Acceleration> {
    let store = Store::open(&session.repo)?;
    let tree = twin_trees::of_commit(session, &store, twins.commit)?;
    Acceleration::new(twins.plan, twins.commit, tree, &session.work(), emulator)
}

/// The built-in tables and what the manifest adds to them.
fn policy(image: &Image) -> Policy {
    // The sandbox answers uname(2) for the image's machine, whoever asks (configure::environment).
    let mut policy = Policy { uname_is_answered: true, ..Policy::default() };
    let rules = |patterns: &[String], reason: &str| -> Vec<Rule> {
        let rule = |pattern: &String| Rule { pattern: pattern.clone(), reason: reason.to_owned() };
        patterns.iter().map(rule).collect()
    };
    policy.packages.extend(rules(&image.accelerate, "the manifest says so"));
    policy.emulated.splice(0..0, rules(&image.emulate, "the manifest says so"));
    policy
}
