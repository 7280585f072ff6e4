//! `configure --rootfs DIR`: stage 2 of a folder that another tool left.
//!
//! The work is done beside the folder and moved into it at the end: what a killed run had begun to move,
//! the next one ends.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, StatVfsMountFlags, flock, statvfs};
use sandbox::Missing;

use super::{Session, StageTwo, acceleration, replace_file, stage_two::preseed_text, tools};
use crate::{
    Context, Error, Result,
    artefacts::{
        Begin, Composed, HeldFile, IdentityPolicy, Image, Lockfile, PackageState, Preseed, Repository,
    },
    configure::{self, Acceleration, AccelerationWish, Base, Emulator, Folder, InPlace, Requirements},
    digest::Sha256,
    export::{self, Override},
    report::Stage,
    rootfs::{self, Rootfs},
    store::Store,
    twins::Member,
};

/// A folder to finish.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The folder.
    pub folder: PathBuf,
    /// Debian's name of its architecture; none: what its packages say.
    pub architecture: Option<String>,
    /// A tar or a file of fakeroot(1) with the owners that the folder has not.
    pub owners: Option<PathBuf>,
    /// Answers to packages' questions, beside those that the folder has.
    pub preseed: Option<Preseed>,
    /// What becomes of what identifies a device.
    pub identity: IdentityPolicy,
    /// Whether the folder is changed even where a script fails.
    pub in_place_now: bool,
    /// A tar of the finished folder, with real owners; `-` is standard output.
    pub output_tar: Option<PathBuf>,
    /// What is known of the folder beside what is in it.
    pub known: Known,
}

/// What who made a folder knows of it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Where its packages come from; none: from this machine's own apt sources that serve its suites.
    pub repositories: Vec<Repository>,
    /// Files that get their places only when a preinst has run.
    pub held: Vec<HeldFile>,
    /// Whether no preinst is run.
    pub omit_preinst: bool,
    /// Debs in the folder, whole paths inside it: dpkg unpacks them, and nothing is configured.
    pub unpack: Vec<String>,
}

/// Finishes a folder; gives how many packages were configured.
///
/// # Errors
/// As `configure`; the folder is not changed then, unless it was asked for.
pub fn configure_rootfs(session: &Session<'_>, target: &Target, options: &StageTwo) -> Result<usize> {
    finish_folder(session, target, options).map(|(count, _)| count)
}

/// The same; gives also what of owners the folder cannot have.
pub(super) fn finish_folder(
    session: &Session<'_>,
    target: &Target,
    options: &StageTwo,
) -> Result<(usize, HashMap<Vec<u8>, Override>)> {
    let folder = fs::canonicalize(&target.folder)
        .with_context(|| format!("finding the folder {}", target.folder.display()))?;
    let name = name(&folder);
    let _lock = lock(&folder)?;
    check_writable(&folder)?;
    let work = Work::of(session, &folder)?;
    work.sweep(session, &name);
    let result = finish_and_write(session, target, options, &folder, &name, &work);
    work.remove(session, &name);
    result
}

/// All that is done while the work folder is there.
fn finish_and_write(
    session: &Session<'_>,
    target: &Target,
    options: &StageTwo,
    folder: &Path,
    name: &str,
    work: &Work,
) -> Result<(usize, HashMap<Vec<u8>, Override>)> {
    let mut overrides = work.finish_moves(session, folder, name)?;
    let requirements = Requirements::new(options)?;
    let read = rootfs::Options {
        architecture: target.architecture.clone(),
        owners: target.owners.clone(),
        tier: requirements.tier(),
    };
    let mut rootfs = rootfs::read(folder, &read).with_context(|| folder.display().to_string())?;
    if let Some(warning) = rootfs.unknown_owners() {
        session.reporter.warn(name, warning);
    }
    if !target.known.unpack.is_empty() {
        rootfs.begin = Begin::Unpack(target.known.unpack.clone());
    }
    for package in rootfs.packages.iter_mut().filter(|_| target.known.omit_preinst) {
        if package.state == PackageState::Unpacked {
            package.state = PackageState::Prepared;
        }
    }
    let count = match rootfs.is_finished() {
        true => {
            session.reporter.note(name, "all of its packages are configured: nothing to do");
            0
        }
        false => {
            let finished = finish(session, target, name, &requirements, &rootfs, work)?;
            overrides.extend(owners_not_on_disk(session, name, finished.moved.not_on_disk));
            rootfs.unfinished()
        }
    };
    for (path, metadata, (major, minor)) in rootfs.devices() {
        let device = Some((metadata.mode, major, minor));
        overrides.insert(path.to_vec(), Override { uid: metadata.uid, gid: metadata.gid, device });
    }
    if let Some(tar) = &target.output_tar {
        write_tar(session, name, &rootfs, requirements.tier(), &overrides, tar)?;
    }
    Ok((count, overrides))
}

/// Runs stage 2 of a folder that was read.
fn finish(
    session: &Session<'_>,
    target: &Target,
    name: &str,
    requirements: &Requirements,
    rootfs: &Rootfs,
    work: &Work,
) -> Result<InPlace> {
    let image = image(session, target, name, rootfs);
    let mut preseed = rootfs.preseeds.clone();
    preseed.extend(preseed_text(target.preseed.as_ref())?.unwrap_or_default());
    let composed = Composed { held: target.known.held.clone(), ..composed(name, rootfs) };
    let (emulator, acceleration) = programs(session, &image, &composed, requirements, rootfs)?;
    let base = Base::new(&work.folder, &rootfs.listing, rootfs.folder.clone())?;
    let total = composed.packages.len() as u64;
    let finished = session.stage(name, Stage::Configure, Some(total), "packages", || {
        let inputs = configure::Inputs {
            composed: &composed,
            begin: &rootfs.begin,
            base: &base,
            emulator: emulator.as_ref(),
            acceleration: acceleration.as_ref(),
            preseed: (!preseed.is_empty()).then_some(preseed.as_slice()),
            identity: target.identity,
            requirements,
            logs: session.logs(),
            kept: work.folder.join("kept"),
            look: "the folder is as it was; --in-place-now leaves in it what was done until the failure"
                .to_owned(),
            trial: None,
            debug: session.debug,
        };
        let folder =
            Folder { path: &rootfs.folder, edits: rootfs.edits(), even_if_failed: target.in_place_now };
        let finished = configure::configure_in_place(&inputs, folder, session.reporter, session.stop)?;
        let count = if finished.packages.is_empty() { rootfs.unfinished() } else { finished.packages.len() };
        let summary = super::stage_two::summary(count, &finished.slowest, finished.accelerated.as_ref());
        Ok((finished, summary))
    });
    for (what, result) in [
        ("what was tried", configure::forget_kept(&work.folder.join("kept"))),
        ("the work folder", base.remove()),
        ("the work folder of native programs", acceleration.map_or(Ok(()), Acceleration::remove)),
    ] {
        if let Err(error) = result {
            session.reporter.warn(name, format!("{what} could not be removed: {error}"));
        }
    }
    finished
}

/// The emulator and the native programs of a foreign folder; both are got from the archive.
fn programs(
    session: &Session<'_>,
    image: &Image,
    composed: &Composed,
    requirements: &Requirements,
    rootfs: &Rootfs,
) -> Result<(Option<Emulator>, Option<Acceleration>)> {
    let store = Store::open_or_create(&session.repo)?;
    let lockfile = Lockfile { packages: rootfs.locked.clone(), request: None };
    if let Some(parent) = image.lock.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    if !image.request.repositories.is_empty() {
        super::pool::fetch_emulator(session, image, &lockfile)?;
    }
    let emulator = tools::emulator(session, Some(image), &rootfs.architecture, &store)?;
    let wish = requirements.acceleration();
    if emulator.is_none() || wish == AccelerationWish::Off {
        return Ok((emulator, None));
    }
    let members = members(session, image, rootfs);
    let members = || members.clone();
    if !image.request.repositories.is_empty() {
        acceleration::fetch_for(session, image, members)?;
    }
    let acceleration = acceleration::prepare(session, image, composed, emulator.as_ref(), wish, members)?;
    Ok((emulator, acceleration))
}

/// The folder's packages as twins take them: by what is unpacked, or from the debs that wait for
/// debootstrap's second stage, which are ingested.
fn members(session: &Session<'_>, image: &Image, rootfs: &Rootfs) -> Result<Vec<Member>> {
    if rootfs.begin != Begin::SecondStage {
        let inventories = rootfs.inventories()?.into_iter();
        return inventories.map(|(package, inventory)| Member::unpacked(package, inventory)).collect();
    }
    let archives = rootfs.folder.join("var/cache/apt/archives");
    let mut image = image.clone();
    image.request.repositories = vec![Repository {
        name: "archives".to_owned(),
        uris: vec![format!("file:{}", archives.display())],
        suites: vec!["./".to_owned()],
        components: Vec::new(),
        signed_by: Vec::new(),
        check_valid_until: false,
        trusted: true, // the digests are those of the files themselves
    }];
    let lockfile = Lockfile { packages: rootfs.locked.clone(), request: None };
    super::pool::fetch_locked(session, &[(&image, &lockfile)])?;
    acceleration::ingested(session, &rootfs.locked)
}

/// The folder as an image, for finding its tools: from the host's own apt sources that serve its suites.
/// Folders with the same packages share the lock.
fn image(session: &Session<'_>, target: &Target, name: &str, rootfs: &Rootfs) -> Image {
    let ids: Vec<String> = rootfs.locked.iter().map(|package| package.id()).collect();
    let key = Sha256::of((rootfs.suites.join(" ") + "\n" + &ids.join("\n")).as_bytes()).to_string();
    let repositories = match (target.known.repositories.as_slice(), rootfs.suites.is_empty()) {
        (known @ [_, ..], _) => known.to_vec(),
        ([], true) => Vec::new(),
        ([], false) => vec![Repository {
            name: "host".to_owned(),
            uris: Vec::new(),
            suites: rootfs.suites.clone(),
            components: vec!["main".to_owned()],
            signed_by: Vec::new(),
            check_valid_until: true,
            trusted: false,
        }],
    };
    Image {
        lock: session.cache.join("rootfs").join(format!("{}.lock", &key[..16])),
        preseed: target.preseed.clone(),
        identity: target.identity,
        ..Image::of_repositories(name, &rootfs.architecture, repositories)
    }
}

fn composed(name: &str, rootfs: &Rootfs) -> Composed {
    Composed {
        image: name.to_owned(),
        architecture: rootfs.architecture.clone(),
        commit: Sha256::of(rootfs.listing.as_bytes()),
        packages: rootfs.packages.clone(),
        held: Vec::new(),
        below: None,
    }
}

/// What the folder could not take, which a tar of it is to have; says so.
pub(super) fn owners_not_on_disk(
    session: &Session<'_>,
    name: &str,
    not_on_disk: Vec<sandbox::NotOnDisk>,
) -> HashMap<Vec<u8>, Override> {
    let mut overrides = HashMap::new();
    for missing in not_on_disk {
        let path = String::from_utf8_lossy(&missing.path).into_owned();
        let what = match missing.what {
            Missing::Owner { uid, gid } => {
                overrides.insert(missing.path, Override { uid, gid, device: None });
                format!("the owner {uid}:{gid}")
            }
            Missing::Attribute { name, .. } => format!("the attribute {}", String::from_utf8_lossy(&name)),
        };
        session.reporter.warn(name, format!("/{path} in the folder lacks {what}: {}", missing.why));
    }
    overrides
}

fn write_tar(
    session: &Session<'_>,
    name: &str,
    rootfs: &Rootfs,
    tier: Option<sandbox::Tier>,
    overrides: &HashMap<Vec<u8>, Override>,
    path: &Path,
) -> Result<()> {
    session.stage(name, Stage::Export, None, "bytes", || {
        let write =
            |out: &mut dyn Write| export::folder_tar(&rootfs.folder, tier, rootfs.newest(), overrides, out);
        let mut sockets = Vec::new();
        match path.as_os_str() == "-" {
            true => {
                let writer = std::io::stdout().lock();
                sockets = write(&mut super::Stoppable { session, writer })?;
            }
            false => replace_file(path, |file| {
                let stoppable = super::Stoppable { session, writer: file };
                let mut buffered = std::io::BufWriter::with_capacity(1 << 20, stoppable);
                sockets = write(&mut buffered)?;
                Ok(buffered.flush()?)
            })?,
        }
        for socket in sockets {
            let socket = String::from_utf8_lossy(&socket).into_owned();
            session.reporter.warn(name, format!("/{socket} is a socket, which a tar cannot hold: left out"));
        }
        Ok(((), path.display().to_string()))
    })
}

/// A name for messages and logs.
fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

/// What would be found when all else is done.
fn check_writable(folder: &Path) -> Result<()> {
    let status = statvfs(folder).map_err(std::io::Error::from);
    let status = status.with_context(|| format!("looking at {}", folder.display()))?;
    match status.f_flag.contains(StatVfsMountFlags::RDONLY) {
        false => Ok(()),
        true => Err(Error::input(format!("{} is mounted read-only", folder.display())).hint(
            "mount -o remount,rw it, or finish a copy (cp -a), with --owners TAR if its owners matter",
        )),
    }
}

/// So that nobody else finishes the folder at the same time.
fn lock(folder: &Path) -> Result<fs::File> {
    let opened = fs::File::open(folder).with_context(|| format!("opening {}", folder.display()))?;
    flock(&opened, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Error::input(format!("{}: another treestrap is at work on this folder", folder.display()))
    })?;
    Ok(opened)
}

/// Where the changes are made.
struct Work {
    folder: PathBuf,
}

impl Work {
    /// Beside the folder, so that what changed can be moved; or with the repository, where the user cannot
    /// write there or another file system is mounted at the folder: then it is copied.
    fn of(session: &Session<'_>, folder: &Path) -> Result<Work> {
        use std::os::unix::fs::MetadataExt;
        if let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) {
            let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
            let beside = parent.join(format!(".{}.treestrap", name.to_string_lossy()));
            if device(parent) == device(folder) && fs::create_dir_all(&beside).is_ok() {
                return Ok(Work { folder: beside });
            }
        }
        let folder = session.work();
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(Work { folder })
    }

    fn sweep(&self, session: &Session<'_>, name: &str) {
        if let Err(error) = sandbox::sweep(&self.folder) {
            session.reporter.warn(name, format!("what a killed run left could not be removed: {error}"));
        }
    }

    /// Ends what killed runs had begun to move into the folder.
    fn finish_moves(
        &self,
        session: &Session<'_>,
        folder: &Path,
        name: &str,
    ) -> Result<HashMap<Vec<u8>, Override>> {
        let mut overrides = HashMap::new();
        for unfinished in sandbox::unfinished_moves(&self.folder)? {
            if unfinished.target == folder && unfinished.is_gone {
                let message = "an earlier run ended while it changed a folder of this name, which is gone: \
                               what it had is removed";
                session.reporter.note(name, message);
                sandbox::remove_kept(&unfinished.folder)?;
            } else if unfinished.target == folder {
                session.reporter.note(name, "an earlier run ended while it changed the folder: going on");
                let mut finished = sandbox::finish_move(&unfinished.folder)?;
                let moved = std::mem::take(&mut finished.moved.not_on_disk);
                overrides.extend(owners_not_on_disk(session, name, moved));
                finished.close()?;
            }
        }
        Ok(overrides)
    }

    /// Removes the folder, unless others use it, too.
    fn remove(self, session: &Session<'_>, name: &str) {
        self.sweep(session, name);
        if self.folder != session.work() {
            // Nobody else makes anything there: they would have to lock the folder that is finished. A move
            // that has not ended stays, and so does what it is in.
            let _ = sandbox::remove_work(&self.folder); // an empty folder left behind is no failure
        }
    }
}
