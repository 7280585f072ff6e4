//! Packages unpacked into the folder, the user's scripts on it, and stage 2.

use std::{fs, io::Write, path::Path};

use sandbox::{Stored, Tier};

use super::{
    conffiles,
    folder::{FILE_MODE, Root},
};
use crate::{
    Context, Result,
    artefacts::{HeldFile, Image, Lockfile},
    pipeline::{Known, Session, StageTwo, Target, compose_locked, configure_rootfs, listings},
    report::Stage,
    store::Store,
};

/// Unpacks the packages of a lock into the folder. Gives the files that wait for a preinst.
pub(super) fn unpack(
    session: &Session<'_>,
    image: &Image,
    lockfile: &Lockfile,
    root: &Root,
    tier: Option<Tier>,
) -> Result<Vec<HeldFile>> {
    let composed = compose_locked(session, image, lockfile)?;
    session.stage(&image.request.image, Stage::Export, None, "bytes", || {
        let store = Store::open(&session.repo)?;
        let conffiles::InPlace { names, status } = conffiles::in_place(&store, &composed)?;
        let newest = composed.packages.iter().map(|package| package.newest).max().unwrap_or(0);
        let rename = |path: &str| names.get(path).map(String::as_str);
        let modified = i64::try_from(newest).unwrap_or(0);
        let listing = listings::make(&store, composed.commit, modified, &rename)?;
        let work = session.work();
        fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
        let mut file = tempfile::NamedTempFile::new_in(&work).context("making a temporary file")?;
        file.write_all(listing.as_bytes()).context("writing a temporary file")?;
        let stored = Stored { listing: file.path().to_owned(), contents: store.objects() };
        let written = sandbox::check_out(&stored, root.path(), tier)
            .with_context(|| format!("unpacking into {}", root.path().display()))?;
        for missing in &written.not_on_disk {
            let path = String::from_utf8_lossy(&missing.path);
            session.reporter.detail(&image.request.image, format!("/{path}: {}", missing.why));
        }
        root.write("var/lib/dpkg/status", FILE_MODE, &status)?;
        Ok((composed.held, root.path().display().to_string()))
    })
}

/// Runs a script of the user's; gives its exit status as a shell has it.
pub(super) fn run_script(
    session: &Session<'_>,
    root: &Root,
    tier: Option<Tier>,
    script: &Path,
    arguments: &[&str],
) -> Result<u8> {
    let _ = (session, tier);
    let mut folder = root.path().as_os_str().to_owned();
    folder.push("/"); // as multistrap gives it
    let status = std::process::Command::new(script).arg(folder).args(arguments).status().context("script")?;
    Ok(status.code().unwrap_or(255) as u8)
}

/// Runs the scripts of the packages that are not configured yet.
pub(super) fn configure(session: &Session<'_>, root: &Root, known: Known, options: &StageTwo) -> Result<()> {
    let target = Target { folder: root.path().to_owned(), known, ..Target::default() };
    configure_rootfs(session, &target, options).map(|_| ())
}
