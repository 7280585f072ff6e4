//! Packages unpacked into the folder, the user's scripts on it, and stage 2.

use std::{
    collections::HashMap,
    fs,
    io::{BufWriter, Write},
    os::fd::AsFd,
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use sandbox::{Command, Missing, NotOnDisk, Stdio, Stored, Tier};

use super::{
    Order, conffiles,
    folder::{FILE_MODE, Root},
};
use crate::{
    Context, Result,
    artefacts::{HeldFile, Image, Lockfile},
    configure::Requirements,
    export::{self, Override},
    pipeline::{
        Known, Session, Stoppable, Target, compose_locked, listings, replace_file,
        rootfs::{finish_folder, owners_not_on_disk},
    },
    report::Stage,
    store::Store,
};

/// What an unpacked folder has not in it.
pub(super) struct Unpacked {
    /// Files that wait for a preinst.
    pub(super) held: Vec<HeldFile>,
    /// Owners that the folder cannot have.
    pub(super) overrides: HashMap<Vec<u8>, Override>,
    /// When the packages' newest file was changed, in seconds since 1970.
    pub(super) newest: u64,
}

impl Unpacked {
    /// Of a folder in which nothing is unpacked: nothing is known of its times, and they stay.
    pub(super) fn nothing() -> Self {
        Unpacked { held: Vec::new(), overrides: HashMap::new(), newest: u64::MAX }
    }
}

/// Unpacks the packages of a lock into the folder.
pub(super) fn unpack(
    session: &Session<'_>,
    image: &Image,
    lockfile: &Lockfile,
    root: &Root,
    tier: Option<Tier>,
) -> Result<Unpacked> {
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
        root.write("var/lib/dpkg/status", FILE_MODE, &status)?;
        let overrides = owners_not_on_disk(session, &image.request.image, written.not_on_disk);
        Ok((Unpacked { held: composed.held, overrides, newest }, root.path().display().to_string()))
    })
}

/// Runs a script of the user's on the folder; gives its exit status as a shell has it.
pub(super) fn run_script(
    session: &Session<'_>,
    root: &Root,
    order: &Order<'_>,
    unpacked: &mut Unpacked,
    script: &Path,
    arguments: &[&str],
) -> Result<u8> {
    let mut folder = root.path().as_os_str().as_encoded_bytes().to_vec();
    folder.push(b'/'); // as multistrap gives it
    let words = [script.as_os_str().as_encoded_bytes().to_vec(), folder];
    let rest = arguments.iter().map(|word| word.as_bytes().to_vec());
    let mut command = Command::new(words.into_iter().chain(rest));
    command.stdin = Stdio::Null;
    if order.stdout_is_data {
        let stderr = std::io::stderr().as_fd().try_clone_to_owned().context("duplicating standard error")?;
        command.stdout = Stdio::Descriptor(stderr);
    }
    let tier = Requirements::new(&order.stage_two)?.tier();
    let links: Vec<NotOnDisk> =
        unpacked.overrides.iter().filter_map(|(path, o)| not_on_disk(path, o)).collect();
    let ran = sandbox::run_on_host(root.path(), tier, &links, &command, session.stop)?;
    for link in ran.links {
        if let Missing::Owner { uid, gid } = link.what {
            unpacked.overrides.insert(link.path, Override { uid, gid, device: None });
        }
    }
    Ok(ran.status.code())
}

/// An owner that the folder cannot have, as the sandbox takes it.
fn not_on_disk(path: &[u8], known: &Override) -> Option<NotOnDisk> {
    let &Override { uid, gid, device: None } = known else { return None };
    Some(NotOnDisk { path: path.to_vec(), what: Missing::Owner { uid, gid }, why: String::new() })
}

/// Runs the scripts of the packages that are not configured yet; gives what of owners the folder cannot
/// have.
pub(super) fn configure(
    session: &Session<'_>,
    root: &Root,
    order: &Order<'_>,
    known: Known,
) -> Result<HashMap<Vec<u8>, Override>> {
    let target =
        Target { folder: root.path().to_owned(), identity: order.identity, known, ..Target::default() };
    finish_folder(session, &target, &order.stage_two).map(|(_, overrides)| overrides)
}

/// Writes the folder to a gzip tarball, with real owners.
pub(super) fn pack(
    session: &Session<'_>,
    image: &str,
    root: &Root,
    tier: Option<Tier>,
    unpacked: &Unpacked,
    path: &Path,
) -> Result<()> {
    session.stage(image, Stage::Export, None, "bytes", || {
        replace_file(path, |file| {
            let stoppable = Stoppable { session, writer: file };
            let buffered = BufWriter::with_capacity(1 << 20, stoppable);
            let mut packed = GzEncoder::new(buffered, Compression::default());
            let Unpacked { overrides, newest, .. } = unpacked;
            for socket in export::folder_tar(root.path(), tier, *newest, overrides, &mut packed)? {
                let socket = String::from_utf8_lossy(&socket).into_owned();
                session
                    .reporter
                    .warn(image, format!("/{socket} is a socket, which a tar cannot hold: left out"));
            }
            Ok(packed.finish()?.flush()?)
        })?;
        Ok(((), path.display().to_string()))
    })
}
