//! The table of twins: its layout, and looking a program up in it.
//!
//! ```text
//! 0   magic            u64
//! 8   continue_at      i64   qemu's entry point, relative to the image's first byte
//! 16  length           u32   of all of it, in bytes
//! 20  count            u32   of entries
//! 24  log              u32   where the log's path is: an offset from the table's first byte
//! 28  (zero)           u32
//! 32  entries, sorted by key: key u64, size u64, path u32, (zero) u32
//! …   paths, each with a NUL at its end
//! ```
//! Numbers are in the machine's own byte order: who writes it and who reads it is one machine.

/// The first bytes of a table; the last one is the layout's version.
pub const MAGIC: u64 = u64::from_be_bytes(*b"tstwins\x01");
/// The size of what comes before the entries.
pub const HEADER: usize = 32;
/// The size of an entry.
pub const ENTRY: usize = 24;
/// How much of a program its key covers. Programs of Debian have the build id (ld(1),
/// `--build-id`), a hash of their whole content, in the first kilobyte.
pub const PREFIX: usize = 4096;

/// How a program is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint {
    /// A hash of the first [`PREFIX`] bytes.
    pub key: u64,
    /// The size of the whole file in bytes.
    pub size: u64,
}

impl Fingerprint {
    /// Of a file of `size` bytes that begins with `prefix`, which is cut at [`PREFIX`] bytes.
    pub fn of(prefix: &[u8], size: u64) -> Self {
        let prefix = prefix.get(..PREFIX).unwrap_or(prefix);
        Fingerprint { key: hash(prefix), size }
    }
}

/// FNV-1a over words of eight bytes, then over what is left; the high bits are folded down after
/// each word, since a multiplication carries upwards only.
///
/// It tells files of a distribution apart, it doesn't withstand an adversary: whoever can write
/// programs into the image can run what he likes there anyway.
fn hash(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for word in words {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(PRIME);
        hash ^= hash >> 32;
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    }
    hash
}

/// A table that lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    /// The length that a header gives, if it is one.
    pub fn length(header: &[u8]) -> Option<usize> {
        (u64_at(header, 0)? == MAGIC).then_some(u32_at(header, 16)? as usize)
    }

    /// A table of exactly these bytes.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        (Self::length(bytes)? == bytes.len()).then_some(Table(bytes))
    }

    /// Where the interpreter's own entry point is, relative to the image's first byte.
    pub fn continue_at(&self) -> isize {
        u64_at(self.0, 8).map_or(0, |value| value.cast_signed() as isize)
    }

    /// The path of the log, with its NUL.
    pub fn log(&self) -> Option<&'a [u8]> {
        string_at(self.0, u32_at(self.0, 24)?)
    }

    /// The twin's path, with its NUL.
    pub fn twin(&self, program: Fingerprint) -> Option<&'a [u8]> {
        let (mut low, mut high) = (0, u32_at(self.0, 20)? as usize);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = HEADER.checked_add(middle.checked_mul(ENTRY)?)?;
            let found = Fingerprint { key: u64_at(self.0, entry)?, size: u64_at(self.0, entry + 8)? };
            if found == program {
                return string_at(self.0, u32_at(self.0, entry + 16)?);
            }
            if found < program {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        None
    }
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn string_at(bytes: &[u8], offset: u32) -> Option<&[u8]> {
    let rest = bytes.get(offset as usize..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    rest.get(..=end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_prefix_counts_and_none_after_it() {
        let mut file = [7u8; PREFIX + 1];
        let original = Fingerprint::of(&file, 5000);
        for position in [0, 7, 8, 1000, PREFIX - 1] {
            file[position] ^= 0x80;
            assert_ne!(Fingerprint::of(&file, 5000).key, original.key, "byte {position}");
            file[position] ^= 0x80;
        }
        file[PREFIX] = 0;
        assert_eq!(Fingerprint::of(&file, 5000), original);
        assert_ne!(Fingerprint::of(&file, 5001), original);
        assert_ne!(Fingerprint::of(b"abc", 3), Fingerprint::of(b"abd", 3));
    }

    #[test]
    fn garbage_is_no_table() {
        let header = |length: u32, count: u32| {
            let mut bytes = [0u8; HEADER];
            bytes[..8].copy_from_slice(&MAGIC.to_ne_bytes());
            bytes[16..20].copy_from_slice(&length.to_ne_bytes());
            bytes[20..24].copy_from_slice(&count.to_ne_bytes());
            bytes
        };
        assert!(Table::new(b"").is_none());
        assert!(Table::new(&[0; HEADER]).is_none());
        assert!(Table::new(&header(33, 0)).is_none());
        // A count that reaches beyond the end is no reason to read there.
        let bytes = header(HEADER as u32, u32::MAX);
        let table = Table::new(&bytes).expect("the header is right");
        assert_eq!(table.twin(Fingerprint { key: 1, size: 1 }), None);
    }
}
