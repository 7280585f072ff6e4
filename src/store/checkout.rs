//! A tree on the disk whose files are hard links to objects: for what belongs to this machine and is
//! only read and executed, such as the native programs of a foreign image. It shows no owners, set-id
//! bits and attributes: those are an image's, and an image is seen through a sandbox's view.

use std::{ffi::OsStr, fs, io, os::unix::ffi::OsStrExt, os::unix::fs::symlink, path::Path};

use super::{
    Folder, Node, Store,
    object::{S_IFLNK, S_IFMT},
};
use crate::{
    digest::Sha256,
    error::{Context, Result},
};

impl Store {
    /// Fills `folder`, which must be empty, with the tree of a commit.
    ///
    /// # Errors
    /// If an object is missing; if the folder cannot be written to.
    pub fn checkout(&self, commit: Sha256, folder: &Path) -> Result<()> {
        self.checkout_folder(&mut self.root(commit)?, folder)
    }

    fn checkout_folder(&self, folder: &mut Folder, on_disk: &Path) -> Result<()> {
        for (name, node) in folder.entries(self)? {
            let on_disk = on_disk.join(name);
            match node {
                Node::Folder(child) => {
                    fs::create_dir(&on_disk).with_context(|| format!("creating {}", on_disk.display()))?;
                    self.checkout_folder(child, &on_disk)?;
                }
                Node::Object { checksum, .. } => self
                    .checkout_object(*checksum, &on_disk)
                    .with_context(|| format!("creating {}", on_disk.display()))?,
            }
        }
        Ok(())
    }

    fn checkout_object(&self, checksum: Sha256, on_disk: &Path) -> Result<()> {
        if self.object_metadata(checksum)?.mode & S_IFMT == S_IFLNK {
            let target = self.link_target(checksum)?;
            return Ok(symlink(OsStr::from_bytes(&target), on_disk)?);
        }
        let object = self.object_path(checksum);
        match fs::hard_link(&object, on_disk) {
            // Another file system; too many links; fs.protected_hardlinks and an object of another
            // user's. A copy is as good, and costs its bytes.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::CrossesDevices
                        | io::ErrorKind::TooManyLinks
                        | io::ErrorKind::PermissionDenied
                ) =>
            {
                Ok(fs::copy(&object, on_disk).map(drop)?)
            }
            linked => Ok(linked?),
        }
    }
}
