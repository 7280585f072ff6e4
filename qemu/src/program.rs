//! Reads of an ELF file what running it needs: machine, segments, loader, libraries, build id.
//!
//! All four kinds (32 and 64 bits, both byte orders). Layouts are those of elf(5) and of
//! `include/uapi/linux/elf.h`. The files come from packages: whatever is in them, the answer is
//! a value or an error, never a panic.

/// Why a file could not be read as an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// It's something else: a script, data.
    #[error("not an ELF file")]
    NotElf,
    /// It says that something is where the file has nothing.
    #[error("damaged ELF file: {0} lie outside of it")]
    Damaged(&'static str),
}

/// Which machines a file is for, as the dynamic loader compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Whether its words have 64 bits (`EI_CLASS`).
    pub wide: bool,
    /// Whether the most significant byte comes first (`EI_DATA`).
    pub big_endian: bool,
    /// The processor (`e_machine`).
    pub machine: u16,
}

impl Identity {
    /// Whether glibc's loader, itself for `self`, silently passes over a library for `other` that
    /// it finds in a search path, and looks on. (`open_verify` in glibc's elf/dl-load.c: another
    /// class or machine is passed over, another byte order is an error.)
    pub fn loader_passes_over(self, other: Identity) -> bool {
        self.wide != other.wide || (self.big_endian == other.big_endian && self.machine != other.machine)
    }
}

/// One program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `p_type`.
    pub kind: u32,
    /// Whether it may be executed (`PF_X`).
    pub executable: bool,
    /// `p_offset`.
    pub offset: u64,
    /// `p_vaddr`.
    pub address: u64,
    /// `p_filesz`.
    pub file_size: u64,
    /// `p_memsz`.
    pub memory_size: u64,
}

/// `PT_LOAD`.
pub const LOAD: u32 = 1;
/// `PT_DYNAMIC`.
pub const DYNAMIC: u32 = 2;
/// `PT_INTERP`.
pub const INTERPRETER: u32 = 3;
/// `PT_NOTE`.
pub const NOTE: u32 = 4;

/// A file's header and segments.
#[derive(Clone, Debug)]
pub struct Elf<'a> {
    bytes: &'a [u8],
    /// What it's for.
    pub identity: Identity,
    /// `e_type`: 2 for a program at a fixed address, 3 for a position-independent one or a library.
    pub kind: u16,
    /// `e_entry`.
    pub entry: u64,
    /// The program headers, in the file's order.
    pub segments: Vec<Segment>,
    /// Where in the file the program headers are.
    pub segments_offset: u64,
}

/// What the dynamic section asks of the loader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// `DT_NEEDED`, in order.
    pub needed: Vec<Vec<u8>>,
    /// `DT_SONAME`.
    pub name: Option<Vec<u8>>,
    /// `DT_RPATH`, split at colons; empty where there is a `DT_RUNPATH`, as the loader has it.
    pub rpath: Vec<Vec<u8>>,
    /// `DT_RUNPATH`, split at colons.
    pub runpath: Vec<Vec<u8>>,
}

impl<'a> Elf<'a> {
    /// Reads the header and the program headers of a file's content. A prefix of the content is
    /// enough where the program headers are in it, as they are in every known linker's output.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        let identification =
            bytes.get(..20).filter(|start| start.starts_with(b"\x7fELF")).ok_or(ElfError::NotElf)?;
        let (wide, big_endian) = match (identification[4], identification[5]) {
            (class @ 1..=2, order @ 1..=2) => (class == 2, order == 2),
            _ => return Err(ElfError::NotElf),
        };
        let reader = Reader { bytes, wide, big_endian };
        let header = || {
            // After e_type, e_machine and e_version come three words; then e_flags.
            let flags = if wide { 48 } else { 36 };
            Some((
                reader.number(16, 2)? as u16,
                reader.number(18, 2)? as u16,
                reader.word(24)?,
                reader.word(if wide { 32 } else { 28 })?,
                reader.number(flags + 6, 2)?,
                reader.number(flags + 8, 2)?,
            ))
        };
        let (kind, machine, entry, segments_offset, size, count) =
            header().ok_or(ElfError::Damaged("parts of the header"))?;
        let segment = |index: u64| {
            let at = segments_offset.checked_add(index.checked_mul(size)?)?;
            let word = |n: u64| reader.word(at.checked_add(if wide { 8 * n } else { 4 * n })?);
            // 32 bits: type offset vaddr paddr filesz memsz flags; 64 bits: flags share the first word.
            Some(Segment {
                kind: reader.number(at, 4)? as u32,
                executable: reader.number(at.checked_add(if wide { 4 } else { 24 })?, 4)? & 1 != 0,
                offset: word(1)?,
                address: word(2)?,
                file_size: word(4)?,
                memory_size: word(5)?,
            })
        };
        let segments =
            (0..count).map(segment).collect::<Option<_>>().ok_or(ElfError::Damaged("program headers"))?;
        let identity = Identity { wide, big_endian, machine };
        Ok(Elf { bytes, identity, kind, entry, segments, segments_offset })
    }

    /// The loader that the kernel starts for it (`PT_INTERP`); none for a static program.
    pub fn interpreter(&self) -> Result<Option<&'a [u8]>, ElfError> {
        let Some(segment) = self.segments.iter().find(|segment| segment.kind == INTERPRETER) else {
            return Ok(None);
        };
        let path = self.content(segment).ok_or(ElfError::Damaged("the loader's name"))?;
        Ok(Some(path.split(|byte| *byte == 0).next().unwrap_or_default()))
    }

    /// What it asks of the loader; empty for a static program.
    pub fn dynamic(&self) -> Result<Dynamic, ElfError> {
        let Some(segment) = self.segments.iter().find(|segment| segment.kind == DYNAMIC) else {
            return Ok(Dynamic::default());
        };
        self.read_dynamic(segment).ok_or(ElfError::Damaged("parts of the dynamic section"))
    }

    fn read_dynamic(&self, segment: &Segment) -> Option<Dynamic> {
        const NULL: u64 = 0;
        const NEEDED: u64 = 1;
        const STRINGS: u64 = 5;
        const SONAME: u64 = 14;
        const RPATH: u64 = 15;
        const RUNPATH: u64 = 29;
        let content = self.content(segment)?;
        let reader = Reader { bytes: content, ..self.reader() };
        let word = if self.identity.wide { 8 } else { 4 };
        let entries: Vec<(u64, u64)> = (0..content.len() as u64 / (2 * word))
            .map_while(|index| Some((reader.word(index * 2 * word)?, reader.word(index * 2 * word + word)?)))
            .take_while(|(tag, _)| *tag != NULL)
            .collect();
        let value = |wanted| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
        let strings = match value(STRINGS) {
            Some(address) => self.offset_of(address)?,
            None => return Some(Dynamic::default()),
        };
        let string = |offset: u64| {
            let rest = self.bytes.get(usize::try_from(strings.checked_add(offset)?).ok()?..)?;
            Some(rest[..rest.iter().position(|byte| *byte == 0)?].to_vec())
        };
        let list = |tag| match value(tag) {
            None => Some(Vec::new()),
            Some(offset) => Some(string(offset)?.split(|byte| *byte == b':').map(<[u8]>::to_vec).collect()),
        };
        let runpath: Vec<_> = list(RUNPATH)?;
        Some(Dynamic {
            needed: entries
                .iter()
                .filter(|(tag, _)| *tag == NEEDED)
                .map(|(_, offset)| string(*offset))
                .collect::<Option<_>>()?,
            name: match value(SONAME) {
                None => None,
                Some(offset) => Some(string(offset)?),
            },
            rpath: if runpath.is_empty() { list(RPATH)? } else { Vec::new() },
            runpath,
        })
    }

    /// The build id that the linker gave it (`NT_GNU_BUILD_ID`), and where in the file it ends.
    pub fn build_id(&self) -> Option<(&'a [u8], u64)> {
        const BUILD_ID: u64 = 3;
        self.segments.iter().filter(|segment| segment.kind == NOTE).find_map(|segment| {
            let content = self.content(segment)?;
            let reader = Reader { bytes: content, ..self.reader() };
            let mut at = 0u64;
            loop {
                let (name, length) = (reader.number(at, 4)?, reader.number(at + 4, 4)?);
                let start = at.checked_add(12)?.checked_add(name.next_multiple_of(4))?;
                let end = start.checked_add(length)?;
                let value = content.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)?;
                let owner = content.get(usize::try_from(at + 12).ok()?..)?;
                if reader.number(at + 8, 4)? == BUILD_ID && owner.starts_with(b"GNU\0") {
                    return Some((value, segment.offset.checked_add(end)?));
                }
                at = end.next_multiple_of(4);
            }
        })
    }

    /// Where in the file the byte is that is mapped to `address`.
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        self.segments.iter().filter(|segment| segment.kind == LOAD).find_map(|segment| {
            let inside = address.checked_sub(segment.address).filter(|inside| *inside < segment.file_size)?;
            segment.offset.checked_add(inside)
        })
    }

    /// To which address the byte at `offset` in the file is mapped.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        self.segments.iter().filter(|segment| segment.kind == LOAD).find_map(|segment| {
            let inside = offset.checked_sub(segment.offset).filter(|inside| *inside < segment.file_size)?;
            segment.address.checked_add(inside)
        })
    }

    fn content(&self, segment: &Segment) -> Option<&'a [u8]> {
        let end = segment.offset.checked_add(segment.file_size)?;
        self.bytes.get(usize::try_from(segment.offset).ok()?..usize::try_from(end).ok()?)
    }

    fn reader(&self) -> Reader<'a> {
        Reader { bytes: self.bytes, wide: self.identity.wide, big_endian: self.identity.big_endian }
    }
}

/// Numbers of a file in its own byte order and word size.
#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    wide: bool,
    big_endian: bool,
}

impl Reader<'_> {
    fn number(&self, offset: u64, size: usize) -> Option<u64> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.bytes.get(start..start.checked_add(size)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
    }

    fn word(&self, offset: u64) -> Option<u64> {
        self.number(offset, if self.wide { 8 } else { 4 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twins::{Machine, Object, rewrite};

    /// Oracle: readelf.
    #[test]
    fn what_readelf_says_of_true() {
        let path = "/bin/true";
        let Ok(output) = std::process::Command::new("readelf").args(["-ldnW", path]).output() else {
            eprintln!("skipped: readelf (package binutils) is not installed");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        let content = std::fs::read(path).expect("it's there");
        let elf = Elf::parse(&content).expect("an ELF file");
        let loader = elf.interpreter().expect("undamaged").expect("dynamic");
        assert!(
            said.contains(&format!("[Requesting program interpreter: {}]", String::from_utf8_lossy(loader)))
        );
        let needed = elf.dynamic().expect("undamaged").needed;
        assert!(!needed.is_empty());
        for library in &needed {
            assert!(
                said.contains(&format!("Shared library: [{}]", String::from_utf8_lossy(library))),
                "{library:?}"
            );
        }
        assert_eq!(said.matches("(NEEDED)").count(), needed.len());
        let (id, _) = elf.build_id().expect("a build id");
        let hexadecimal: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(said.contains(&format!("Build ID: {hexadecimal}")), "{hexadecimal}");
        assert!(said.contains(&format!("Entry point {:#x}", elf.entry)));
    }

    /// Every byte of the headers in turn takes values that hurt; nothing may panic.
    #[test]
    fn damaged_programs_are_errors() {
        let Ok(content) = std::fs::read("/bin/true") else {
            eprintln!("skipped: there is no /bin/true");
            return;
        };
        let (image, host) = (Machine::of("riscv64").expect("known"), Machine::of("amd64").expect("known"));
        for position in 0..1200.min(content.len()) {
            for value in [0, 0x80, 0xff] {
                let mut damaged = content.clone();
                damaged[position] = value;
                let _ = Object::read(&damaged, true);
                let _ = rewrite("usr/bin/dpkg", &damaged, (&image, &host));
                let _ = rewrite(host.loader, &damaged, (&image, &host));
            }
        }
        for length in (0..content.len()).step_by(97) {
            let _ = Object::read(&content[..length], true);
        }
        // The one that a constant is moved in.
        let Ok(content) = std::fs::read("/usr/bin/dpkg-trigger") else {
            return;
        };
        for position in (32..900.min(content.len())).step_by(3) {
            let mut damaged = content.clone();
            damaged[position] = 0xff;
            let _ = rewrite("usr/bin/dpkg-trigger", &damaged, (&image, &host));
        }
    }
}
