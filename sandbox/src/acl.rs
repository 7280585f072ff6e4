//! Access control lists (acl(5)) as the kernel's attributes have them: what a new file gets from its
//! folder's, which the kernel leaves to a FUSE file system; and lists in tier single, where the kernel
//! takes none that names a user or group but the one that is mapped.
//!
//! In tier single such a list is kept in an attribute of another name. What the mode says of it is the kernel's all the
//! same: the owner's, the mask's and everybody's bits are the mode's (acl(5), "Correspondence between ACL
//! entries and file permission bits"), so they are taken from there when the list is looked at.

use std::ffi::CStr;

/// The attributes of the kernel, and those of ours that stand for them.
const NAMES: [(&[u8], &CStr); 2] =
    [(ACCESS, c"user.sandbox.acl.access"), (DEFAULT, c"user.sandbox.acl.default")];

/// The list that permissions are checked with.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// A folder's list for what is made in it.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// What all attributes of ours begin with; no program sees those.
pub(crate) const OURS: &[u8] = b"user.sandbox.";

// linux/posix_acl_xattr.h, linux/posix_acl.h.
const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The attribute that stands for this one of the kernel's, if it is a list.
pub(crate) fn record_of(name: &[u8]) -> Option<&'static CStr> {
    NAMES.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours)
}

/// The kernel's attribute that this one stands for.
pub(crate) fn name_of(record: &[u8]) -> Option<&'static [u8]> {
    NAMES.iter().find(|(_, ours)| ours.to_bytes() == record).map(|(theirs, _)| *theirs)
}

/// Whether a record is a folder's list for new files.
pub(crate) fn is_default(record: &CStr) -> bool {
    record == NAMES[1].1
}

/// An entry: whose, what is allowed, and the user or group it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// A list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Entry>);

impl Acl {
    /// Reads an attribute's value. None: it is none that the kernel would take, or empty.
    pub(crate) fn decode(value: &[u8]) -> Option<Acl> {
        let (version, entries) = value.split_first_chunk()?;
        if u32::from_le_bytes(*version) != VERSION || entries.is_empty() || entries.len() % 8 != 0 {
            return None;
        }
        let entries = entries.chunks_exact(8).map(|bytes| Entry {
            tag: u16::from_le_bytes([bytes[0], bytes[1]]),
            permissions: u16::from_le_bytes([bytes[2], bytes[3]]),
            id: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        });
        let acl = Acl(entries.collect());
        acl.is_valid().then_some(acl)
    }

    /// posix_acl_valid() of the kernel: in order, each of the three once, a mask if anybody is named.
    fn is_valid(&self) -> bool {
        let keys: Vec<_> = self
            .0
            .iter()
            .map(|entry| (entry.tag, if matches!(entry.tag, USER | GROUP) { entry.id } else { 0 }))
            .collect();
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let known = USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER;
        keys.windows(2).all(|pair| pair[0].0 <= pair[1].0)
            && self.0.iter().all(|entry| entry.tag.is_power_of_two() && entry.tag & known != 0)
            && self.0.iter().all(|entry| entry.permissions <= 7)
            && [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1)
            && count(MASK) <= 1
            && (count(USER) + count(GROUP) == 0 || count(MASK) == 1)
    }

    /// An attribute's value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            value.extend_from_slice(&entry.tag.to_le_bytes());
            value.extend_from_slice(&entry.permissions.to_le_bytes());
            value.extend_from_slice(&entry.id.to_le_bytes());
        }
        value
    }

    /// The users and groups that it names.
    pub(crate) fn named(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter(|entry| matches!(entry.tag, USER | GROUP)).map(|entry| entry.id)
    }

    /// The list with other numbers for the users and groups that it names.
    pub(crate) fn with_ids(&self, user: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) -> Acl {
        let entries = self.0.iter().map(|entry| match entry.tag {
            USER => Entry { id: user(entry.id), ..*entry },
            GROUP => Entry { id: group(entry.id), ..*entry },
            _ => *entry,
        });
        Acl(entries.collect())
    }

    /// Which bits of the mode an entry is, by its place; none if it is none.
    fn place_in_mode(&self, entry: &Entry) -> Option<u32> {
        let has_mask = self.0.iter().any(|entry| entry.tag == MASK);
        match entry.tag {
            USER_OBJ => Some(6),
            MASK => Some(3),
            GROUP_OBJ if !has_mask => Some(3),
            OTHER => Some(0),
            _ => None,
        }
    }

    /// The permission bits that a file with this list has.
    pub(crate) fn mode(&self) -> u32 {
        let bits = self
            .0
            .iter()
            .filter_map(|entry| self.place_in_mode(entry).map(|place| u32::from(entry.permissions) << place));
        bits.fold(0, |mode, bits| mode | bits)
    }

    /// What a new file gets whose folder has this default list: its mode, and its list, which is none where
    /// the mode says it all. The list takes the umask's place, and no class gets more than was asked for
    /// (posix_acl_create_masq() in the kernel's fs/posix_acl.c).
    pub(crate) fn for_new_file(&self, mode: u32) -> (u32, Option<Acl>) {
        let acl = self.with_mode(self.mode() & mode);
        let is_plain = acl.0.len() == 3;
        (mode & !0o777 | acl.mode(), (!is_plain).then_some(acl))
    }

    /// The list as it is after the mode was set.
    pub(crate) fn with_mode(&self, mode: u32) -> Acl {
        let entries = self.0.iter().map(|entry| match self.place_in_mode(entry) {
            Some(place) => Entry { permissions: (mode >> place & 7) as u16, ..*entry },
            None => *entry,
        });
        Acl(entries.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `setfacl -m g:4:rx` writes it for a file of mode 0755.
    fn list() -> Vec<u8> {
        let entry = |tag: u16, permissions: u16, id: u32| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let none = u32::MAX;
        [
            vec![2, 0, 0, 0],
            entry(1, 7, none),
            entry(4, 5, none),
            entry(8, 5, 4),
            entry(0x10, 5, none),
            entry(0x20, 5, none),
        ]
        .concat()
    }

    #[test]
    fn lists_and_modes() {
        let acl = Acl::decode(&list()).expect("a list");
        assert_eq!(acl.encode(), list());
        assert_eq!(acl.named().collect::<Vec<_>>(), [4]);
        assert_eq!(acl.mode(), 0o755);
        let changed = acl.with_mode(0o2640);
        assert_eq!(changed.mode(), 0o640, "the mask, not the group, has the middle bits");
        assert_eq!(changed.encode()[12..16], list()[12..16], "the group's own entry stays");
    }

    #[test]
    fn no_class_gets_more_than_was_asked() {
        let none = u32::MAX;
        let list = |entries: &[(u16, u16, u32)]| {
            Acl(entries.iter().map(|&(tag, permissions, id)| Entry { tag, permissions, id }).collect())
        };
        let named = |user, person, group, mask, other| {
            list(&[
                (USER_OBJ, user, none),
                (USER, person, 33),
                (GROUP_OBJ, group, none),
                (MASK, mask, none),
                (OTHER, other, none),
            ])
        };
        let plain = list(&[(USER_OBJ, 7, none), (GROUP_OBJ, 5, none), (OTHER, 0, none)]);
        for (default, asked, mode, access) in [
            (named(7, 7, 5, 7, 5), 0o666, 0o664, Some(named(6, 7, 5, 6, 4))),
            (named(6, 4, 4, 4, 0), 0o2777, 0o2640, Some(named(6, 4, 4, 4, 0))),
            (named(7, 7, 7, 7, 7), 0, 0, Some(named(0, 7, 7, 0, 0))),
            (plain, 0o666, 0o640, None),
        ] {
            assert_eq!(default.for_new_file(asked), (mode, access), "{asked:o}");
        }
    }

    #[test]
    fn what_is_no_list() {
        let list = list();
        for length in (0..list.len()).filter(|length| *length != 28) {
            assert_eq!(Acl::decode(&list[..length]), None, "{length} bytes");
        }
        let mut newer = list.clone();
        newer[0] = 3;
        assert_eq!(Acl::decode(&newer), None);
        let without_mask = [&list[..28], &list[36..]].concat();
        assert_eq!(Acl::decode(&without_mask), None);
        let mut unsorted = list.clone();
        unsorted[4..20].rotate_left(8);
        assert_eq!(Acl::decode(&unsorted), None);
        assert!(record_of(b"system.posix_acl_access").is_some() && record_of(b"user.x").is_none());
        assert_eq!(name_of(b"user.sandbox.acl.default"), Some(&b"system.posix_acl_default"[..]));
    }
}
