//! The program that binfmt_misc starts for foreign binaries: qemu-user with the dispatcher in
//! front of its entry point.
//!
//! The dispatcher (crate `treestrap-dispatcher`) and the table of twins are appended to qemu's
//! file as one more segment, and the entry point leads there. No room is left in a linked file
//! for another program header, so that of a note is taken over: nobody reads notes at run time.
//!
//! ```text
//! before                            after
//! ELF header   entry ──┐            ELF header   entry ───────────────┐
//! LOAD … LOAD          │            LOAD … LOAD                       │
//! NOTE                 │            LOAD  read, execute ──────┐       │
//! code, data ◀─────────┘            code, data ◀───────────┐  │       │
//!                                   dispatcher ── no twin ─┘ ◀┘ ◀─────┘
//!                                   table of twins
//! ```
//!
//! That keeps the kernel's promises to an interpreter that `exec`ing qemu from a program of our
//! own would lose: the open descriptor of the program (also of one that may be executed but not
//! read), set-id credentials and file capabilities, and that it needs no path, in no chroot.

use serde::{Deserialize, Serialize};
pub use treestrap_dispatcher::system::UNNOTED;
use treestrap_dispatcher::table::{self, Fingerprint};

use crate::program::{self, Elf, ElfError};

/// The dispatcher's code, made by the build script; empty for hosts that have none.
static DISPATCHER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dispatcher.image"));

/// No page is larger on the supported hosts (arm64 has 64 KiB at most), so a segment with this
/// alignment can be mapped on all of them.
const ALIGNMENT: u64 = 0x1_0000;

/// Why an interpreter could not be made. The image can still be built with qemu alone.
#[derive(Debug, thiserror::Error)]
pub enum InterpreterError {
    /// The dispatcher's few machine instructions are not written for this host.
    #[error("there is no dispatcher for hosts of this architecture")]
    NoDispatcher,
    /// qemu's file is no ELF file.
    #[error("qemu-user: {0}")]
    Elf(#[from] ElfError),
    /// qemu's file needs a loader and libraries, which the image does not have.
    #[error("qemu-user is dynamically linked; a static one is needed")]
    NotStatic,
    /// qemu's file has no place for another segment.
    #[error("qemu-user has no program header to spare: {0}")]
    NoRoom(&'static str),
    /// Paths and entries do not fit the table's 32-bit offsets, or a path has a NUL in it.
    #[error("the table of twins cannot be written: {0}")]
    Table(&'static str),
}

/// A foreign program, and the path at which its twin is inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Twin {
    /// How the foreign program is recognised.
    #[serde(with = "as_pair")]
    pub program: Fingerprint,
    /// The twin's absolute path inside the sandbox.
    pub path: Vec<u8>,
}

/// The interpreter: the content of qemu's static program, the dispatcher, and what it has to know.
///
/// It has to be registered with the flags `POCF`. `log` is the absolute path inside the sandbox of
/// a file that everybody there may append to; where it is missing, nothing is noted.
pub fn interpreter(qemu: &[u8], twins: &[Twin], log: &[u8]) -> Result<Vec<u8>, InterpreterError> {
    if DISPATCHER.is_empty() {
        return Err(InterpreterError::NoDispatcher);
    }
    inject(qemu, DISPATCHER, |continue_at| write_table(twins, log, continue_at))
}

/// Appends `code` and the table behind it to the program, and has it start there. The table is
/// given the entry point's distance from the code.
fn inject(
    program: &[u8],
    code: &[u8],
    table: impl FnOnce(i64) -> Result<Vec<u8>, InterpreterError>,
) -> Result<Vec<u8>, InterpreterError> {
    const PROGRAM_HEADER: u64 = 56; // sizeof(Elf64_Phdr)
    const READ_AND_EXECUTE: u32 = 5; // PF_R | PF_X
    let parsed = Elf::parse(program)?;
    if parsed.interpreter()?.is_some() {
        return Err(InterpreterError::NotStatic);
    }
    if !parsed.identity.wide || parsed.identity.big_endian {
        return Err(InterpreterError::NoDispatcher);
    }
    let loads = || parsed.segments.iter().enumerate().filter(|(_, segment)| segment.kind == program::LOAD);
    // Segments must be in the order of their addresses (elf(5)), and ours has the highest one.
    let last = loads().map(|(index, _)| index).max().ok_or(InterpreterError::NoRoom("it has no segments"))?;
    let spare = (last + 1..parsed.segments.len())
        .find(|index| parsed.segments[*index].kind == program::NOTE)
        .ok_or(InterpreterError::NoRoom("there is no note behind the last segment"))?;
    let align = |value: u64| value.checked_next_multiple_of(ALIGNMENT).ok_or(ElfError::Damaged("segments"));
    let end = loads().map(|(_, segment)| segment.address.saturating_add(segment.memory_size)).max();
    let address = align(end.unwrap_or_default())?;
    let offset = align(program.len() as u64)?;

    let mut added = code.to_vec();
    added.extend(table(parsed.entry.wrapping_sub(address).cast_signed())?);
    let mut result = program.to_vec();
    let mut put = |at: u64, bytes: &[u8]| -> Result<(), ElfError> {
        let start = usize::try_from(at).map_err(|_| ElfError::Damaged("program headers"))?;
        let place = start.checked_add(bytes.len()).and_then(|end| result.get_mut(start..end));
        place.ok_or(ElfError::Damaged("program headers"))?.copy_from_slice(bytes);
        Ok(())
    };
    let header = parsed.segments_offset + PROGRAM_HEADER * spare as u64;
    put(header, &program::LOAD.to_le_bytes())?;
    put(header + 4, &READ_AND_EXECUTE.to_le_bytes())?;
    let size = added.len() as u64;
    for (index, word) in [offset, address, address, size, size, ALIGNMENT].into_iter().enumerate() {
        put(header + 8 * (index as u64 + 1), &word.to_le_bytes())?;
    }
    put(24, &address.to_le_bytes())?; // e_entry
    result.resize(offset as usize, 0);
    result.extend(added);
    Ok(result)
}

/// The table as `treestrap_dispatcher::table` describes it.
fn write_table(twins: &[Twin], log: &[u8], continue_at: i64) -> Result<Vec<u8>, InterpreterError> {
    let mut sorted: Vec<&Twin> = twins.iter().collect();
    sorted.sort();
    sorted.dedup();
    if sorted.windows(2).any(|pair| pair[0].program == pair[1].program) {
        return Err(InterpreterError::Table("a program has two twins"));
    }
    let mut paths = Vec::new();
    let start = table::HEADER + table::ENTRY * sorted.len();
    let mut add = |path: &[u8]| {
        let offset = start + paths.len();
        if path.contains(&0) {
            return Err(InterpreterError::Table("a path has a NUL in it"));
        }
        paths.extend_from_slice(path);
        paths.push(0);
        u32::try_from(offset).map_err(|_| InterpreterError::Table("it is too large"))
    };
    let log = add(log)?;
    let mut entries = Vec::new();
    for twin in &sorted {
        entries.extend(twin.program.key.to_ne_bytes());
        entries.extend(twin.program.size.to_ne_bytes());
        entries.extend(add(&twin.path)?.to_ne_bytes());
        entries.extend([0; 4]);
    }
    let length =
        u32::try_from(start + paths.len()).map_err(|_| InterpreterError::Table("it is too large"))?;
    let mut result = Vec::with_capacity(length as usize);
    result.extend(table::MAGIC.to_ne_bytes());
    result.extend(continue_at.to_ne_bytes());
    for number in [length, sorted.len() as u32, log, 0] {
        result.extend(number.to_ne_bytes());
    }
    result.extend(entries);
    result.extend(paths);
    Ok(result)
}

/// A fingerprint as key and size: the dispatcher's crate has no dependencies.
pub(crate) mod as_pair {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use treestrap_dispatcher::table::Fingerprint;

    pub(crate) fn serialize<S: Serializer>(value: &Fingerprint, to: S) -> Result<S::Ok, S::Error> {
        (value.key, value.size).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Fingerprint, D::Error> {
        let (key, size) = Deserialize::deserialize(from)?;
        Ok(Fingerprint { key, size })
    }
}

#[cfg(test)]
mod tests {
    use treestrap_dispatcher::table::Table;

    use super::*;

    fn twin(key: u64, size: u64, path: &str) -> Twin {
        Twin { program: Fingerprint { key, size }, path: path.into() }
    }

    #[test]
    fn what_the_table_is_given_is_found_in_it() {
        for count in [0u64, 1, 2, 3, 10, 1000] {
            let twins: Vec<_> = (0..count)
                .map(|n| twin(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n, &format!("/t/{n}")))
                .collect();
            let bytes = write_table(&twins, b"/log", -5).expect("a table");
            let table = Table::new(&bytes).expect("the reader takes it");
            assert_eq!((table.continue_at(), table.log()), (-5, Some(&b"/log\0"[..])));
            for twin in &twins {
                let path = table.twin(twin.program).expect("every twin is found");
                assert_eq!(path.strip_suffix(b"\0"), Some(&twin.path[..]));
                let other = Fingerprint { size: twin.program.size + count, ..twin.program };
                assert_eq!(table.twin(other), None);
            }
        }
    }

    #[test]
    fn a_table_that_would_lie_is_refused() {
        let message = |twins: &[Twin]| write_table(twins, b"/log", 0).err().map(|error| error.to_string());
        assert_eq!(message(&[twin(1, 1, "/a"), twin(1, 1, "/a")]), None);
        let two = message(&[twin(1, 1, "/a"), twin(1, 1, "/b")]);
        assert_eq!(two.as_deref(), Some("the table of twins cannot be written: a program has two twins"));
        let nul = message(&[twin(1, 1, "/a\0b")]);
        assert_eq!(nul.as_deref(), Some("the table of twins cannot be written: a path has a NUL in it"));
    }

    /// A 64-bit program with these segment kinds, of 0x1000 bytes at 0x400000 each.
    fn program(kinds: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 0x200];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[24..32].copy_from_slice(&0x40_0123u64.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = kinds.len() as u8;
        for (index, kind) in kinds.iter().enumerate() {
            let at = 64 + 56 * index;
            bytes[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            bytes[at + 16..at + 24].copy_from_slice(&0x40_0000u64.to_le_bytes());
            bytes[at + 32] = 8;
            bytes[at + 40..at + 48].copy_from_slice(&0x1000u64.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn the_last_note_becomes_a_segment_above_all_others() {
        let program = program(&[program::NOTE, program::LOAD, program::NOTE]);
        let result = inject(&program, b"code", |distance| Ok(distance.to_le_bytes().to_vec())).expect("room");
        let parsed = Elf::parse(&result).expect("still an ELF file");
        assert_eq!(parsed.entry, 0x41_0000);
        assert_eq!(parsed.segments[0].kind, program::NOTE);
        let added = parsed.segments[2];
        assert_eq!(
            (added.kind, added.address, added.offset, added.memory_size),
            (program::LOAD, 0x41_0000, 0x1_0000, 12)
        );
        let expected = [&b"code"[..], &(0x40_0123i64 - 0x41_0000).to_le_bytes()].concat();
        assert_eq!(result[0x1_0000..], expected);
    }

    #[test]
    fn a_program_that_cannot_take_it_is_refused() {
        let message =
            |bytes: &[u8]| inject(bytes, b"", |_| Ok(Vec::new())).err().map(|error| error.to_string());
        let no_note = "qemu-user has no program header to spare: there is no note behind the last segment";
        assert_eq!(message(&program(&[program::NOTE, program::LOAD])).as_deref(), Some(no_note));
        let loader = "qemu-user is dynamically linked; a static one is needed";
        assert_eq!(
            message(&program(&[program::LOAD, program::INTERPRETER, program::NOTE])).as_deref(),
            Some(loader)
        );
        assert_eq!(message(b"#!/bin/sh\n").as_deref(), Some("qemu-user: not an ELF file"));
    }
}
