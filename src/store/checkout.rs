//! A tree on the disk whose files are hard links to objects: a lower layer for overlayfs.
//!
//! A hard link shows its object's inode: owned by the user (root, inside the namespace), with the
//! mode that bare-user gave it, and without the file's own attributes. Whatever that would show
//! wrongly is made a copy, and what only a namespace's root can give it (owner, setuid, attributes)
//! is handed back as a [`Fixup`].

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt, symlink},
    },
    path::Path,
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::{
    Folder, Node, Store,
    object::{S_IFLNK, S_IFMT},
};
use crate::{
    artefacts::Metadata,
    digest::Sha256,
    error::{Context, Result},
};

/// Metadata that a path of a checkout should have and that its owner outside cannot give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixup {
    /// The path below the checkout; empty: its root.
    pub path: Vec<u8>,
    /// What the image has there, with the file's type in the mode.
    pub metadata: Metadata,
}

/// What a folder of a checkout shows without a fixup.
const PLAIN_FOLDER_MODE: u32 = 0o755;

const EPOCH: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: 0 },
    last_modification: Timespec { tv_sec: 0, tv_nsec: 0 },
};

/// The mode that a bare-user repository gives the inode of an object
/// (`create_regular_tmpfile_linkable_with_content` and `commit_loose_regfile_object` in
/// ostree-repo-commit.c).
fn inode_mode(mode: u32) -> u32 {
    (mode & 0o775) | 0o400
}

impl Store {
    /// Fills `folder`, which must be empty, with the tree of a commit. Every mtime is 0. The fixups
    /// come with folders before what is in them.
    ///
    /// # Errors
    /// If an object is missing; if the folder cannot be written to.
    pub fn checkout_links(&self, commit: Sha256, folder: &Path) -> Result<Vec<Fixup>> {
        let mut root = self.root(commit)?;
        let mut checkout = Checkout { store: self, fixups: Vec::new() };
        checkout.folder(&mut root, folder, &mut Vec::new())?;
        Ok(checkout.fixups)
    }
}

struct Checkout<'a> {
    store: &'a Store,
    fixups: Vec<Fixup>,
}

impl Checkout<'_> {
    fn folder(&mut self, folder: &mut Folder, on_disk: &Path, path: &mut Vec<u8>) -> Result<()> {
        let metadata = self.store.folder_metadata(folder.metadata)?;
        // As it must be for the filling, whatever the umask; the real mode is the fixup's.
        fs::set_permissions(on_disk, Permissions::from_mode(PLAIN_FOLDER_MODE))
            .with_context(|| format!("setting the mode of {}", on_disk.display()))?;
        let plain = metadata.uid == 0 && metadata.gid == 0 && metadata.xattrs.is_empty();
        if !plain || metadata.mode & 0o7777 != PLAIN_FOLDER_MODE {
            self.fixups.push(Fixup { path: path.clone(), metadata });
        }
        for (name, node) in folder.entries(self.store)? {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            let on_disk = on_disk.join(name);
            match node {
                Node::Folder(child) => {
                    fs::create_dir(&on_disk).with_context(|| format!("creating {}", on_disk.display()))?;
                    self.folder(child, &on_disk, path)?;
                }
                Node::Object { checksum, .. } => self.object(*checksum, &on_disk, path)?,
            }
            path.truncate(length);
        }
        utimensat(CWD, on_disk, &EPOCH, AtFlags::empty())
            .map_err(io::Error::from)
            .with_context(|| format!("setting the time of {}", on_disk.display()))
    }

    fn object(&mut self, checksum: Sha256, on_disk: &Path, path: &[u8]) -> Result<()> {
        let object = self.store.object_path(checksum);
        let metadata = self.store.object_metadata(checksum)?;
        let context = || format!("creating {}", on_disk.display());
        let plain = metadata.uid == 0 && metadata.gid == 0 && metadata.xattrs.is_empty();
        if metadata.mode & S_IFMT == S_IFLNK {
            let target = self.store.link_target(checksum)?;
            symlink(std::ffi::OsStr::from_bytes(&target), on_disk).with_context(context)?;
            utimensat(CWD, on_disk, &EPOCH, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(io::Error::from)
                .with_context(|| format!("setting the time of {}", on_disk.display()))?;
            if !plain {
                self.fixups.push(Fixup { path: path.to_vec(), metadata });
            }
            return Ok(());
        }
        let mode = metadata.mode & 0o7777;
        if !plain || inode_mode(mode) != mode {
            copy(&object, on_disk, 0o600)?;
            self.fixups.push(Fixup { path: path.to_vec(), metadata });
            return Ok(());
        }
        match fs::hard_link(&object, on_disk) {
            Ok(()) => Ok(()),
            // Another file system; too many links; fs.protected_hardlinks and an object of another
            // user's. The copy shows the same, and costs its bytes.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::TooManyLinks)
                    || error.kind() == io::ErrorKind::PermissionDenied =>
            {
                copy(&object, on_disk, mode)
            }
            Err(error) => Err(error).with_context(context),
        }
    }
}

/// A copy of an object: by reflink where the file system can. `fs::copy` would bring the object's
/// mode along.
fn copy(object: &Path, on_disk: &Path, mode: u32) -> Result<()> {
    let mut from = File::open(object).with_context(|| format!("opening {}", object.display()))?;
    let mut to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(on_disk)
        .with_context(|| format!("creating {}", on_disk.display()))?;
    io::copy(&mut from, &mut to)
        .and_then(|_| to.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| rustix::fs::futimens(&to, &EPOCH).map_err(io::Error::from))
        .with_context(|| format!("writing {}", on_disk.display()))
}
