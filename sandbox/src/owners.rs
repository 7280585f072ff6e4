//! Recorded owners: in tier single every file belongs to the one mapped user, and whose it is for the
//! image is written beside it.
//!
//! A file or folder carries the record as an extended attribute of its own. So it follows the file
//! through renames, hard links and copy-up, and is gone with it, without anybody's help. Where there can
//! be none (xattr(7): symbolic links, sockets, pipes, devices; a tmpfs before Linux 6.6), the
//! supervisor remembers it: see [`crate::supervisor`]. Without a record a file is root's.

use std::ffi::CStr;

use serde::{Deserialize, Serialize};

/// The attribute. Its value is `UID:GID`, in decimal. Visible inside, where who changes it changes what
/// a chown would have.
pub(crate) const RECORD: &CStr = c"user.sandbox.owner";

/// A file's user and group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// The user.
    pub(crate) uid: u32,
    /// The group.
    pub(crate) gid: u32,
}

impl Owner {
    /// root:root, which needs no record.
    pub(crate) const ROOT: Owner = Owner { uid: 0, gid: 0 };

    /// The attribute's value.
    pub(crate) fn encode(self) -> Vec<u8> {
        format!("{}:{}", self.uid, self.gid).into_bytes()
    }

    /// Reads a value; what is none is no record.
    pub(crate) fn decode(value: &[u8]) -> Option<Owner> {
        let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
        Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    }
}

/// In a kept session's folder, what the supervisor remembered: a JSON list of [`Remembered`].
pub(crate) const FILE: &str = "owners";

/// Paths, without a leading slash, of what cannot carry a record, and whose it is.
pub(crate) type Links = Vec<(Vec<u8>, Owner)>;

/// The owner of a file that cannot carry a record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// Where it is, without a leading slash.
    #[serde(with = "crate::bytes")]
    pub(crate) path: Vec<u8>,
    /// Whose it is.
    pub(crate) owner: Owner,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_can_be_read_back() {
        let owner = Owner { uid: 33, gid: 65534 };
        assert_eq!(owner.encode(), b"33:65534");
        assert_eq!(Owner::decode(&owner.encode()), Some(owner));
        for garbage in [&b""[..], b"33", b"33:", b"a:b", b"33:-1", b"\xff:1", b"33:4294967296"] {
            assert_eq!(Owner::decode(garbage), None);
        }
    }
}
