//! What both file systems answer alike: stat fields, and the two-step protocol of xattr sizes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, ReplyXattr};

use super::{
    Owners,
    tree::{Kind, Node},
};

/// How long the kernel may keep names and attributes: for ever, in effect. Every change there is
/// goes through the kernel's own caches.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Extended attributes that overlayfs in a user namespace takes for its own (`-o userxattr`).
pub(super) const OVERLAY_PREFIX: &[u8] = b"user.overlay.";

/// The seconds and nanoseconds of an inode as a time; what does not fit is the epoch.
pub(super) fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let whole = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    whole.and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}

/// The protocol's word for a kind.
pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Folder => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
    }
}

/// The stat fields of a node.
pub(super) fn attributes(inode: u64, node: &Node, owners: Owners) -> FileAttr {
    let modified = time(node.modified, node.modified_nanoseconds);
    let (uid, gid) = match owners {
        Owners::Real => (node.uid, node.gid),
        Owners::Root => (0, 0),
    };
    FileAttr {
        ino: INodeNo(inode),
        size: node.size,
        // st_blocks counts 512 bytes; a file system of 4 KiB blocks is what du(1) expects to see.
        blocks: if node.kind == Kind::File { node.size.div_ceil(4096).saturating_mul(8) } else { 0 },
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: modified,
        kind: file_type(node.kind),
        perm: node.permissions,
        nlink: node.links,
        uid,
        gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Answers getxattr(2) or listxattr(2): size 0 asks how much room the answer needs.
pub(super) fn reply_with_room(reply: ReplyXattr, asked: u32, answer: &[u8]) {
    match u32::try_from(answer.len()) {
        Ok(length) if asked == 0 => reply.size(length),
        Ok(length) if length <= asked => reply.data(answer),
        _ => reply.error(Errno::ERANGE),
    }
}

/// The name under which a tree's own attribute is shown to overlayfs above. One that overlayfs
/// would take for itself is escaped, which it undoes (Linux ≥ 6.7;
/// Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts").
pub(super) fn shown_name(name: &[u8]) -> Vec<u8> {
    match name.strip_prefix(OVERLAY_PREFIX) {
        Some(rest) => [OVERLAY_PREFIX, b"overlay.", rest].concat(),
        None => name.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_and_beyond_reason() {
        assert_eq!(time(0, 5), UNIX_EPOCH + Duration::from_nanos(5));
        // One and a half seconds before the epoch is second −2 and half of the next.
        assert_eq!(time(-2, 500_000_000), UNIX_EPOCH - Duration::from_millis(1500));
        for seconds in [i64::MIN, i64::MAX] {
            let _ = time(seconds, u32::MAX);
        }
    }

    #[test]
    fn overlay_attributes_of_the_tree_are_escaped() {
        for (name, shown) in [
            (b"user.overlay.opaque".as_slice(), b"user.overlay.overlay.opaque".as_slice()),
            (b"user.overlay.overlay.opaque", b"user.overlay.overlay.overlay.opaque"),
            (b"security.capability", b"security.capability"),
        ] {
            assert_eq!(shown_name(name), shown);
        }
    }
}
