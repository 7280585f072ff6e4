//! A tree as a folder: with real owners where root exports, without them and saying so elsewhere.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid, XattrFlags, chownat, lsetxattr, utimensat},
    io::Errno,
};

use super::HardLinks;
use crate::{
    artefacts::Metadata,
    digest::Sha256,
    error::{Context, Error, Kind, Result},
    report::Reporter,
    store::{Content, Folder, Node, Store},
};

/// Writes the tree of a commit into a folder that is new or empty. It is filled beside its place and
/// then moved there in one step.
///
/// Where the user may not give files away, everything belongs to the user, nothing is setuid or
/// setgid, and `reporter` is told so.
///
/// # Errors
/// `Kind::Input` if the folder has something in it; `Kind::Interrupted` once `stop` is set; what the
/// file system reports. Nothing is left of an unfinished folder.
pub fn folder(
    store: &Store,
    commit: Sha256,
    folder: &Path,
    reporter: &dyn Reporter,
    stop: &AtomicBool,
) -> Result<()> {
    let naming = || format!("exporting to {}", folder.display());
    match fs::read_dir(folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Error::input(format!("{} is not empty", folder.display()))
                    .hint("name a folder that does not exist yet"));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(naming),
    }
    let absolute = std::path::absolute(folder).with_context(naming)?;
    let parent = absolute.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).with_context(naming)?;
    let beside = tempfile::Builder::new().prefix(".treestrap-").tempdir_in(parent).with_context(naming)?;
    let mut root = store.root(commit)?;
    let mut writer = Writer {
        store,
        base: beside.path().to_owned(),
        links: HardLinks::of(store, commit)?,
        stop,
        owners: true,
        attributes: true,
    };
    let written = writer
        .folder(&mut root, beside.path(), "")
        // Renaming onto an empty folder replaces it (rename(2)).
        .and_then(|()| fs::rename(beside.path(), &absolute).with_context(naming));
    if let Err(error) = written {
        make_removable(beside.path());
        return Err(error);
    }
    let _ = beside.keep();
    if !writer.owners {
        let message = "owners and setuid bits are not kept: only root may give files away";
        reporter.note(&folder.display().to_string(), message);
    }
    if !writer.attributes {
        let message = "some extended attributes (file capabilities) are not kept: only root may set them";
        reporter.note(&folder.display().to_string(), message);
    }
    Ok(())
}

/// Makes folders that belong to the user writable, so that they can be emptied: an image may have
/// some that are not. What fails here shows when they are removed.
fn make_removable(folder: &Path) {
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_removable(&entry.path());
        }
    }
}

struct Writer<'a> {
    store: &'a Store,
    base: PathBuf,
    links: HardLinks,
    stop: &'a AtomicBool,
    /// Whether files can be given away; false from the first refusal on.
    owners: bool,
    /// Whether every attribute could be set.
    attributes: bool,
}

impl Writer<'_> {
    fn folder(&mut self, folder: &mut Folder, on_disk: &Path, path: &str) -> Result<()> {
        for (name, node) in folder.entries(self.store)? {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Interrupted, "interrupted"));
            }
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            let on_disk = on_disk.join(name);
            match node {
                Node::Folder(child) => {
                    fs::create_dir(&on_disk).with_context(|| format!("creating {}", on_disk.display()))?;
                    self.folder(child, &on_disk, &path)?;
                }
                Node::Object { checksum, .. } => self.object(*checksum, &on_disk, &path)?,
            }
        }
        // After its entries: a folder may be read-only, and has its time last.
        let metadata = self.store.folder_metadata(folder.metadata)?;
        self.finish(on_disk, &metadata, false)
    }

    fn object(&mut self, checksum: Sha256, on_disk: &Path, path: &str) -> Result<()> {
        let creating = || format!("creating {}", on_disk.display());
        if let Some(target) = self.links.target(path, checksum) {
            return fs::hard_link(self.base.join(target), on_disk).with_context(creating);
        }
        let (metadata, content) = self.store.object(checksum)?;
        match content {
            Content::Symlink(target) => {
                symlink(std::ffi::OsStr::from_bytes(&target), on_disk).with_context(creating)?;
                self.finish(on_disk, &metadata, true)
            }
            Content::File(_) => {
                let object = self.store.object_path(checksum);
                let mut from =
                    File::open(&object).with_context(|| format!("opening {}", object.display()))?;
                let mut to = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(on_disk)
                    .with_context(creating)?;
                io::copy(&mut from, &mut to).with_context(|| format!("writing {}", on_disk.display()))?;
                self.finish(on_disk, &metadata, false)
            }
        }
    }

    /// Owner, mode, attributes and time, in the order in which they do not undo each other: chown(2)
    /// clears setuid bits and file capabilities.
    fn finish(&mut self, on_disk: &Path, metadata: &Metadata, link: bool) -> Result<()> {
        let setting = || format!("setting owner, mode and times of {}", on_disk.display());
        if self.owners {
            let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
            match chownat(CWD, on_disk, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) => {}
                // EINVAL: an owner that the user namespace does not have.
                Err(Errno::PERM | Errno::INVAL) => self.owners = false,
                Err(error) => return Err(io::Error::from(error)).with_context(setting),
            }
        }
        if !link {
            let kept = if self.owners { 0o7777 } else { 0o1777 };
            fs::set_permissions(on_disk, Permissions::from_mode(metadata.mode & kept))
                .with_context(setting)?;
        }
        for (name, value) in &metadata.xattrs {
            match lsetxattr(on_disk, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::NOTSUP | Errno::ACCESS) => self.attributes = false,
                Err(error) => return Err(io::Error::from(error)).with_context(setting),
            }
        }
        let epoch = Timespec { tv_sec: 0, tv_nsec: 0 };
        let epoch = Timestamps { last_access: epoch, last_modification: epoch };
        utimensat(CWD, on_disk, &epoch, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io::Error::from)
            .with_context(setting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_folders_become_removable_and_links_are_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (outside, inner) = (folder.path().join("outside"), folder.path().join("image/a/b"));
        fs::create_dir(&outside).expect("a folder");
        fs::create_dir_all(&inner).expect("a folder");
        symlink(&outside, inner.join("link")).expect("a link");
        for path in [outside.as_path(), &inner, inner.parent().expect("a")] {
            fs::set_permissions(path, Permissions::from_mode(0o555)).expect("a mode");
        }
        make_removable(&folder.path().join("image"));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&inner), mode(&outside)), (0o700, 0o555));
        fs::remove_dir_all(folder.path().join("image")).expect("removed");
    }
}
