//! As much of an ELF file as is needed: which architecture's it is, and whether it is static.
//! Source: elf(5).

use std::{
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom},
    path::Path,
};

use crate::{Architecture, Error, architecture::ARCHITECTURES};

/// An ELF program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// The first architecture of the table that it is of (armhf for all ARM); none if none.
    pub architecture: Option<&'static Architecture>,
    /// The dynamic loader that it asks for; none in a static (or static-pie) program.
    pub interpreter: Option<Vec<u8>>,
}

impl Elf {
    /// Whether it needs nothing of the root it runs in.
    pub fn is_static(&self) -> bool {
        self.interpreter.is_none()
    }
}

/// Reads the headers of `path`; none if it is no ELF file, or a broken one.
pub fn read_elf(path: &Path) -> Result<Option<Elf>, Error> {
    let mut file = File::open(path).map_err(Error::io("opening", path))?;
    match parse(&mut file) {
        Ok(elf) => Ok(elf),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(Error::io("reading", path)(error)),
    }
}

/// The header is 64 bytes in a 64-bit file, 52 in a 32-bit one.
const HEADER: usize = 64;
const PT_INTERP: u64 = 3;
/// Real files have about a dozen; a loader's path is short. Beyond this a file is broken.
const MOST_SEGMENTS: u64 = 512;
const LONGEST_INTERPRETER: u64 = 4096;

fn parse<R: Read + Seek>(file: &mut R) -> std::io::Result<Option<Elf>> {
    let mut header = [0; HEADER];
    file.read_exact(&mut header)?;
    let (wide, big) = match (&header[..4], header[4], header[5]) {
        (b"\x7fELF", class @ (1 | 2), data @ (1 | 2)) => (class == 2, data == 2),
        _ => return Ok(None),
    };
    let number = |bytes: &[u8]| {
        let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        if big { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
    };
    let architecture = ARCHITECTURES.iter().find(|architecture| architecture.recognises(&header));
    let (offset, entry_size, count) = if wide {
        (number(&header[32..40]), number(&header[54..56]), number(&header[56..58]))
    } else {
        (number(&header[28..32]), number(&header[42..44]), number(&header[44..46]))
    };
    if count > MOST_SEGMENTS || entry_size < if wide { 56 } else { 32 } {
        return Ok((count == 0).then_some(Elf { architecture, interpreter: None }));
    }
    for index in 0..count {
        let Some(at) = offset.checked_add(index * entry_size) else { return Ok(None) };
        file.seek(SeekFrom::Start(at))?;
        let mut segment = [0; 56];
        let segment = &mut segment[..if wide { 56 } else { 32 }];
        file.read_exact(segment)?;
        if number(&segment[..4]) != PT_INTERP {
            continue;
        }
        let (start, length) = if wide {
            (number(&segment[8..16]), number(&segment[32..40]))
        } else {
            (number(&segment[4..8]), number(&segment[16..20]))
        };
        if length > LONGEST_INTERPRETER {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(start))?;
        let mut interpreter = vec![0; length as usize];
        file.read_exact(&mut interpreter)?;
        interpreter.retain(|&byte| byte != 0);
        return Ok(Some(Elf { architecture, interpreter: Some(interpreter) }));
    }
    Ok(Some(Elf { architecture, interpreter: None }))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn this_program() {
        let elf = read_elf(Path::new("/proc/self/exe")).expect("readable").expect("ELF");
        assert_eq!(elf.architecture, crate::host());
        assert!(elf.interpreter.is_some_and(|path| path.starts_with(b"/lib")), "tests are dynamic");
    }

    #[test]
    fn no_foreign_bytes_are_fatal() {
        let whole = std::fs::read("/proc/self/exe").expect("readable");
        let head = &whole[..4096];
        for length in 0..200 {
            let _ = parse(&mut Cursor::new(&head[..length]));
        }
        for at in 0..1024 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = head.to_vec();
                broken[at] = value;
                let _ = parse(&mut Cursor::new(broken));
            }
        }
        assert_eq!(parse(&mut Cursor::new([b'#'; 100])).expect("read"), None);
    }
}
