//! Whose a program on disk is, and whether it is static: the question before it is started.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use crate::{
    Architecture, Error,
    architecture::ARCHITECTURES,
    program::{self, ElfError},
};

/// An ELF program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// The first architecture of the table that it is of (armhf for all ARM); none if none.
    pub architecture: Option<&'static Architecture>,
    /// The dynamic loader that it asks for; none in a static (or static-pie) program.
    pub interpreter: Option<Vec<u8>>,
    /// Whether it only runs at the address it was linked to (`ET_EXEC`).
    pub fixed_address: bool,
}

impl Elf {
    /// Whether it needs nothing of the root it runs in.
    pub fn is_static(&self) -> bool {
        self.interpreter.is_none()
    }
}

/// Headers, and the name of the loader, are at the beginning of what linkers write. Tools that edit
/// programs may put them at the end; then all of the file is read.
const BEGINNING: u64 = 0x1_0000;

/// Reads the headers of `path`; none if it is no ELF file, or a broken one.
pub fn read_elf(path: &Path) -> Result<Option<Elf>, Error> {
    let mut file = File::open(path).map_err(Error::io("opening", path))?;
    let mut read = |limit| {
        let mut content = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        Read::by_ref(&mut file).take(limit).read_to_end(&mut content).map(|_| content)
    };
    let beginning = read(BEGINNING).map_err(Error::io("reading", path))?;
    match parse(&beginning) {
        Err(ElfError::Damaged(_)) if beginning.len() as u64 == BEGINNING => {
            Ok(parse(&read(u64::MAX).map_err(Error::io("reading", path))?).ok())
        }
        result => Ok(result.ok()),
    }
}

fn parse(content: &[u8]) -> Result<Elf, ElfError> {
    const FIXED: u16 = 2; // ET_EXEC
    let elf = program::Elf::parse(content)?;
    Ok(Elf {
        architecture: ARCHITECTURES.iter().find(|architecture| architecture.recognises(content)),
        interpreter: elf.interpreter()?.map(<[u8]>::to_vec),
        fixed_address: elf.kind == FIXED,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program() {
        let elf = read_elf(Path::new("/proc/self/exe")).expect("readable").expect("ELF");
        assert_eq!(elf.architecture, crate::host());
        assert!(elf.interpreter.is_some_and(|path| path.starts_with(b"/lib")), "tests are dynamic");
        assert!(!elf.fixed_address, "and position independent");
        assert_eq!(read_elf(Path::new("/etc/passwd")).expect("readable"), None);
    }

    /// Where the headers are at the end, more than the beginning is read.
    #[test]
    fn headers_may_be_anywhere() {
        let mut content = std::fs::read("/proc/self/exe").expect("readable");
        let elf = program::Elf::parse(&content).expect("ELF");
        let (from, size) = (elf.segments_offset as usize, 56 * elf.segments.len());
        let headers = content[from..from + size].to_vec();
        let end = content.len().max(2 * BEGINNING as usize);
        content.resize(end, 0);
        content.extend(headers);
        content[32..40].copy_from_slice(&(end as u64).to_ne_bytes()); // e_phoff
        let path = std::env::temp_dir().join(format!("headers-{}", std::process::id()));
        std::fs::write(&path, content).expect("written");
        let moved = read_elf(&path).expect("readable");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(moved, read_elf(Path::new("/proc/self/exe")).expect("readable"));
    }
}
