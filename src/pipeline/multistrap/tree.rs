//! Packages unpacked into the folder, the user's scripts on it, and stage 2.

use std::{collections::BTreeMap, path::Path};

use sandbox::Tier;

use super::folder::{FILE_MODE, Root};
use crate::{
    Context, Error, Result,
    artefacts::{Image, Lockfile},
    compose::{self, MergedUsr},
    export,
    pipeline::{Session, StageTwo, compose_locked, pool},
    report::Stage,
    store::Store,
};

/// dpkg's database in the folder.
const STATUS: &str = "var/lib/dpkg/status";
const TRIGGERS: &str = "var/lib/dpkg/triggers";

/// Unpacks the packages of a lock into the folder.
pub(super) fn unpack(
    session: &Session<'_>,
    image: &Image,
    lockfile: &Lockfile,
    root: &Root,
    tier: Option<Tier>,
) -> Result<()> {
    let composed = compose_locked(session, image, lockfile)?;
    check_out(session, image, composed.commit, root, tier)
}

/// Unpacks more packages into a folder that has some already: their entries of dpkg's database come to
/// those that are there.
pub(super) fn unpack_more(
    session: &Session<'_>,
    image: &Image,
    lockfile: &Lockfile,
    root: &Root,
    tier: Option<Tier>,
) -> Result<()> {
    let ingested = pool::ingested(session, lockfile)?;
    let store = Store::open(&session.repo)?;
    let name = format!("{}.additional", image.request.image);
    // As the packages that are there have it.
    let merged = if root.is_link("bin")? { MergedUsr::Yes } else { MergedUsr::No };
    let composed = compose::compose(&store, &name, &image.request.architecture, &ingested, Some(merged))?;
    let status = root.read(STATUS)?.unwrap_or_default();
    let mut triggers: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for name in root.files(TRIGGERS)? {
        triggers.insert(name.clone(), root.read(&format!("{TRIGGERS}/{name}"))?.unwrap_or_default());
    }
    check_out(session, image, composed.commit, root, tier)?;
    let more = root.read(STATUS)?.unwrap_or_default();
    root.write(STATUS, FILE_MODE, &[status.trim_ascii_end(), b"\n\n", &more].concat())?;
    for (name, before) in triggers.into_iter().filter(|(name, _)| name != "Lock") {
        let path = format!("{TRIGGERS}/{name}");
        let after = root.read(&path)?.unwrap_or_default();
        let known: Vec<&[u8]> = before.split(|byte| *byte == b'\n').collect();
        let mut lines: Vec<&[u8]> = known.clone();
        lines.extend(after.split(|byte| *byte == b'\n').filter(|line| !known.contains(line)));
        lines.retain(|line| !line.is_empty());
        let text = lines.iter().flat_map(|line| [line, &b"\n"[..]]).collect::<Vec<_>>().concat();
        root.write(&path, FILE_MODE, &text)?;
    }
    Ok(())
}

/// Writes a commit's tree into the folder, with its owners.
fn check_out(
    session: &Session<'_>,
    image: &Image,
    commit: crate::digest::Sha256,
    root: &Root,
    _tier: Option<Tier>,
) -> Result<()> {
    let store = Store::open(&session.repo)?;
    session.stage(&image.request.image, Stage::Export, None, "bytes", || {
        let beside = tempfile::tempdir().context("a folder")?;
        let to = beside.path().join("x");
        export::folder(&store, commit, &to, session.reporter, session.stop)?;
        let done = std::process::Command::new("cp").arg("-a").arg(to.join(".")).arg(root.path()).status();
        if !done.context("cp")?.success() {
            return Err(Error::bug("cp"));
        }
        Ok(((), root.path().display().to_string()))
    })
}

/// Runs a script of the user's; gives its exit status as a shell has it.
pub(super) fn run_script(
    _session: &Session<'_>,
    root: &Root,
    _tier: Option<Tier>,
    script: &Path,
    arguments: &[&str],
) -> Result<u8> {
    let mut folder = root.path().as_os_str().to_owned();
    folder.push("/"); // as multistrap gives it
    let status = std::process::Command::new(script).arg(folder).args(arguments).status().context("script")?;
    Ok(status.code().unwrap_or(255) as u8)
}

/// Runs the scripts of the packages that are not configured yet.
pub(super) fn configure(
    _session: &Session<'_>,
    _image: &Image,
    _root: &Root,
    _options: &StageTwo,
) -> Result<()> {
    Ok(())
}
