//! Content objects: files and symbolic links with their metadata, and how bare-user keeps them.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use ostree::glib::{Variant, variant::ToVariant};

use super::{Store, corrupt, variant_type};
use crate::{
    artefacts::Metadata,
    digest::Sha256,
    error::{Context, Error, Result},
};

/// The type bits of `st_mode` (inode(7)).
pub(crate) const S_IFMT: u32 = 0o170_000;
/// A regular file.
pub(crate) const S_IFREG: u32 = 0o100_000;
/// A symbolic link.
pub(crate) const S_IFLNK: u32 = 0o120_000;
/// A folder.
pub(crate) const S_IFDIR: u32 = 0o040_000;

/// The attribute in which bare-user repositories keep owner, mode and attributes of an object.
const METADATA_ATTRIBUTE: &str = "user.ostreemeta";

/// The GVariant type of dirmeta objects, and of [`METADATA_ATTRIBUTE`]: uid, gid and mode in
/// big-endian order, attributes with NUL-terminated names.
const METADATA_TYPE: &str = "(uuua(ayay))";

/// What a content object is.
pub enum Content {
    /// A regular file; its bytes, and their count.
    File(FileReader),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
}

/// Reads an object's bytes.
pub struct FileReader {
    file: File,
    /// How many bytes there are.
    pub size: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Store {
    /// Where a content object is. It must not be written to.
    pub fn object_path(&self, checksum: Sha256) -> PathBuf {
        self.objects().join(Store::object_name(checksum))
    }

    /// A content object's path below [`Store::objects`].
    pub(super) fn object_name(checksum: Sha256) -> String {
        let name = checksum.to_string();
        format!("{}/{}.file", &name[..2], &name[2..])
    }

    /// A content object's metadata and size, without opening it.
    ///
    /// # Errors
    /// If there is no such object.
    pub(super) fn object_status(&self, checksum: Sha256) -> Result<(Metadata, u64)> {
        let path = self.object_path(checksum);
        let status =
            std::fs::symlink_metadata(&path).with_context(|| format!("looking at {}", path.display()))?;
        Ok((self.metadata_of(checksum, &path)?, status.len()))
    }

    /// A content object's metadata, without its bytes.
    ///
    /// # Errors
    /// If there is no such object.
    pub fn object_metadata(&self, checksum: Sha256) -> Result<Metadata> {
        self.metadata_of(checksum, &self.object_path(checksum))
    }

    fn metadata_of(&self, checksum: Sha256, path: &Path) -> Result<Metadata> {
        let mut buffer = [0; 512];
        let value = match rustix::fs::getxattr(path, METADATA_ATTRIBUTE, &mut buffer) {
            // Three numbers and an empty list, which takes no room (GVariant's specification, 2.5.2).
            Ok(12) => {
                let number = |at: usize| {
                    u32::from_be_bytes([buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]])
                };
                return Ok(Metadata { uid: number(0), gid: number(4), mode: number(8), xattrs: Vec::new() });
            }
            Ok(length) => buffer[..length].to_vec(),
            Err(rustix::io::Errno::RANGE) => {
                // The most that Linux allows for a value (XATTR_SIZE_MAX, xattr(7)).
                let mut large = vec![0; 65536];
                let length = rustix::fs::getxattr(path, METADATA_ATTRIBUTE, &mut large)
                    .map_err(io::Error::from)
                    .with_context(|| format!("reading {METADATA_ATTRIBUTE} of {}", path.display()))?;
                large.truncate(length);
                large
            }
            Err(error) => {
                return Err(io::Error::from(error))
                    .with_context(|| format!("reading {METADATA_ATTRIBUTE} of {}", path.display()));
            }
        };
        parse_metadata(&Variant::from_data_with_type(value, variant_type(METADATA_TYPE)))
            .ok_or_else(|| corrupt("file", checksum))
    }

    /// The target of an object that is a symbolic link: bare-user keeps it as a file's content, with
    /// a NUL at its end.
    pub(super) fn link_target(&self, checksum: Sha256) -> Result<Vec<u8>> {
        let path = self.object_path(checksum);
        let mut target = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        if target.last() == Some(&0) {
            target.pop();
        }
        Ok(target)
    }

    /// A content object: its metadata and its bytes.
    ///
    /// # Errors
    /// If there is no such object.
    pub fn object(&self, checksum: Sha256) -> Result<(Metadata, Content)> {
        let metadata = self.object_metadata(checksum)?;
        let path = self.object_path(checksum);
        let opening = || format!("opening {}", path.display());
        if metadata.mode & S_IFMT == S_IFLNK {
            return Ok((metadata, Content::Symlink(self.link_target(checksum)?)));
        }
        let file = File::open(&path).with_context(opening)?;
        let size = rustix::fs::fstat(file.as_fd()).map_err(io::Error::from).with_context(opening)?.st_size;
        let size = u64::try_from(size).map_err(|_| corrupt("file", checksum))?;
        Ok((metadata, Content::File(FileReader { file, size })))
    }
}

/// Metadata as libostree takes it for dirmeta objects.
pub(super) fn metadata_variant(metadata: &Metadata) -> Variant {
    Variant::tuple_from_iter([
        metadata.uid.to_be().to_variant(),
        metadata.gid.to_be().to_variant(),
        metadata.mode.to_be().to_variant(),
        xattrs_variant(&metadata.xattrs),
    ])
}

/// What stands before a file's header in a content stream: its length in big-endian order, and zeros up to
/// the alignment of a GVariant (`_ostree_write_variant_with_size` in ostree-core.c).
pub(super) const HEADER_PREFIX: usize = 8;

/// The header of a regular file in a content stream, which its checksum covers (`OSTREE_FILE_HEADER_GVARIANT_FORMAT`
/// in ostree-core-private.h): uid, gid, mode and device in big-endian order, no link's target, attributes.
pub(super) fn file_header(metadata: &Metadata) -> Variant {
    Variant::tuple_from_iter([
        metadata.uid.to_be().to_variant(),
        metadata.gid.to_be().to_variant(),
        metadata.mode.to_be().to_variant(),
        0u32.to_variant(),
        "".to_variant(),
        xattrs_variant(&metadata.xattrs),
    ])
}

/// Extended attributes as libostree takes them. They are sorted here: libostree itself does so
/// only from 2024.10 on, and an object's checksum must not depend on that.
pub(super) fn xattrs_variant(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Variant {
    let mut sorted: Vec<_> = xattrs.iter().collect();
    sorted.sort();
    let pairs = sorted.into_iter().map(|(name, value)| {
        let name: Vec<u8> = name.iter().copied().chain([0]).collect();
        Variant::tuple_from_iter([
            Variant::array_from_fixed_array::<u8>(&name),
            Variant::array_from_fixed_array::<u8>(value),
        ])
    });
    Variant::array_from_iter_with_type(variant_type("(ayay)"), pairs)
}

pub(super) fn parse_metadata(variant: &Variant) -> Option<Metadata> {
    let number = |index| variant.child_value(index).get::<u32>().map(u32::from_be);
    let mut xattrs = Vec::new();
    for pair in variant.child_value(3).iter() {
        let (name, value) = (pair.child_value(0), pair.child_value(1));
        let name = name.fixed_array::<u8>().ok()?;
        let name = name.strip_suffix(&[0]).unwrap_or(name);
        xattrs.push((name.to_vec(), value.fixed_array::<u8>().ok()?.to_vec()));
    }
    Some(Metadata { uid: number(0)?, gid: number(1)?, mode: number(2)?, xattrs })
}

/// The target of a link as the text that libostree wants.
pub(super) fn link_text(target: &[u8]) -> Result<&str> {
    match std::str::from_utf8(target) {
        Ok(text) if !text.is_empty() && !text.contains('\0') => Ok(text),
        _ => Err(Error::input(format!(
            "a symbolic link's target is not UTF-8: {:?}",
            String::from_utf8_lossy(target)
        ))),
    }
}
