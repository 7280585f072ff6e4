//! A plain folder as a tree, for views of something that is no commit: the folder itself is then
//! the folder of contents.

use std::{
    collections::HashMap,
    ffi::CString,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use super::{
    builder::{ListingBuilder, Metadata},
    listing::Listing,
    tree::{Kind, ROOT},
};
use crate::{
    error::{Doing, Error, Result},
    sys::xattr::{self, Place},
};

/// Lists `folder` with all that is below it, on the same file system or not. Content paths are
/// relative to `folder`; files with several names keep them. A device is an error: no view can show
/// one.
pub fn list_folder(folder: &Path) -> Result<Listing> {
    let mut builder = ListingBuilder::new(&metadata_of(folder)?)?;
    let mut seen = HashMap::new();
    let mut pending = vec![(ROOT, folder.to_owned())];
    while let Some((inode, path)) = pending.pop() {
        for entry in fs::read_dir(&path).doing_to("reading", &path)? {
            let entry = entry.doing_to("reading", &path)?;
            let (path, name) = (entry.path(), entry.file_name());
            let (name, status) = (name.as_bytes(), entry.metadata().doing_to("looking at", &path)?);
            let identity = (status.dev(), status.ino());
            if let Some(&known) = seen.get(&identity) {
                builder.link(inode, name, known)?;
                continue;
            }
            let (metadata, kind) = (metadata_of(&path)?, status.file_type());
            let added = if kind.is_dir() {
                let added = builder.folder(inode, name, &metadata)?;
                pending.push((added, path));
                added
            } else if kind.is_file() {
                let content = path.strip_prefix(folder).unwrap_or(&path).as_os_str().as_bytes();
                builder.file(inode, name, &metadata, status.len(), content)?
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).doing_to("reading the link", &path)?;
                builder.symlink(inode, name, &metadata, target.as_os_str().as_bytes())?
            } else if kind.is_fifo() {
                builder.special(inode, name, Kind::Fifo, &metadata)?
            } else if kind.is_socket() {
                builder.special(inode, name, Kind::Socket, &metadata)?
            } else {
                return Err(Error::plan(format_args!("{} is a device", path.display())));
            };
            if status.nlink() > 1 && !kind.is_dir() {
                seen.insert(identity, added);
            }
        }
    }
    builder.finish()
}

fn metadata_of(path: &Path) -> Result<Metadata> {
    let status = fs::symlink_metadata(path).doing_to("looking at", path)?;
    let place = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::plan(format_args!("{} has a NUL in its name", path.display())))?;
    let place = Place::Path(&place);
    let mut xattrs = Vec::new();
    for name in xattr::names(place).doing_to("listing the attributes of", path)? {
        if let Some(value) = xattr::get(place, &name).doing_to("reading an attribute of", path)? {
            xattrs.push((name.into_bytes(), value));
        }
    }
    Ok(Metadata {
        uid: status.uid(),
        gid: status.gid(),
        mode: status.mode(),
        modified: status.mtime(),
        modified_nanoseconds: status.mtime_nsec() as u32,
        xattrs,
    })
}
