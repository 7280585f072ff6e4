//! What a new file gets from the default access control list of its folder: acl(5), "Object creation
//! and default ACLs". The kernel leaves it to a FUSE file system.
//!
//! Lists are attribute values: version 2 as u32, then entries of tag u16, permissions u16, id u32, all
//! little-endian (linux/posix_acl_xattr.h).

use std::ffi::CStr;

/// A folder's default list.
pub(super) const DEFAULT: &CStr = c"system.posix_acl_default";
/// The list that permissions are checked with.
pub(super) const ACCESS: &CStr = c"system.posix_acl_access";

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;

const USER_OBJECT: u16 = 0x01;
const GROUP_OBJECT: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What a new file has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Created {
    /// Its mode; bits that a list says nothing of as they were asked for.
    pub(super) mode: u32,
    /// Its access list; none where the mode says it all.
    pub(super) access: Option<Vec<u8>>,
}

/// Applies a folder's default list to the mode that a program asks for: it takes the umask's place,
/// and no class gets more than was asked (posix_acl_create_masq() in the kernel's fs/posix_acl.c).
/// None for a value that is no such list.
pub(super) fn create(default: &[u8], mode: u32) -> Option<Created> {
    let (version, entries) = default.split_first_chunk::<HEADER>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % ENTRY != 0 {
        return None;
    }
    let field = |entry: &[u8], at: usize| Some(u16::from_le_bytes([*entry.get(at)?, *entry.get(at + 1)?]));
    let has_mask = entries.chunks(ENTRY).any(|entry| field(entry, 0) == Some(MASK));
    let mut access = default.to_vec();
    let mut bits = 0;
    for entry in access[HEADER..].chunks_mut(ENTRY) {
        let (tag, permissions) = (field(entry, 0)?, field(entry, 2)?);
        let shift = match tag {
            USER_OBJECT => 6,
            MASK => 3,
            GROUP_OBJECT if !has_mask => 3,
            OTHER => 0,
            _ => continue,
        };
        let allowed = permissions & ((mode >> shift) & 7) as u16;
        entry[2..4].copy_from_slice(&allowed.to_le_bytes());
        bits |= u32::from(allowed & 7) << shift;
    }
    // Owner, group and others alone: that is what a mode is.
    let is_plain = access[HEADER..].len() == 3 * ENTRY;
    Some(Created { mode: mode & !0o777 | bits, access: (!is_plain).then_some(access) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entry = |&(tag, permissions, id): &(u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        [VERSION.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
    }

    #[test]
    fn no_class_gets_more_than_was_asked() {
        let none = u32::MAX;
        let named = |user, person, group, mask, other| {
            list(&[
                (USER_OBJECT, user, none),
                (0x02, person, 33),
                (GROUP_OBJECT, group, none),
                (MASK, mask, none),
                (OTHER, other, none),
            ])
        };
        for (default, asked, mode, access) in [
            (named(7, 7, 5, 7, 5), 0o666, 0o664, Some(named(6, 7, 5, 6, 4))),
            (named(6, 4, 4, 4, 0), 0o2777, 0o2640, Some(named(6, 4, 4, 4, 0))),
            (named(7, 7, 7, 7, 7), 0, 0, Some(named(0, 7, 7, 0, 0))),
            (list(&[(USER_OBJECT, 7, none), (GROUP_OBJECT, 5, none), (OTHER, 0, none)]), 0o666, 0o640, None),
        ] {
            assert_eq!(create(&default, asked), Some(Created { mode, access }), "{asked:o}");
        }
    }

    #[test]
    fn garbage_is_no_list() {
        for garbage in [&b""[..], b"\x02\0\0", b"\x01\0\0\0", b"\x02\0\0\0\x01\0\x07"] {
            assert_eq!(create(garbage, 0o644), None, "{garbage:?}");
        }
        assert!(create(&list(&[]), 0o644).is_some_and(|created| created.mode == 0));
    }
}
