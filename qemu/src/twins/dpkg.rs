//! dpkg's programs know the architecture that they were built for: as a constant string, which
//! has to be the image's in a twin of them.
//!
//! `ARCHITECTURE` of dpkg's build is the name of its static "native" architecture
//! (lib/dpkg/arch.c in dpkg's source): what `dpkg --print-architecture` prints, and what
//! `Architecture: all` means in dependencies. Nothing else in these programs depends on it.
//!
//! The compiler leaves one pointer to one string. A name that is no longer is put in the string's
//! place; a longer one goes into the unused end of the page behind the read-only data, and the
//! pointer is made to lead there.

use crate::program::{Elf, ElfError, LOAD};

/// The programs that have the constant.
pub const PROGRAMS: &[&str] = &[
    "usr/bin/dpkg",
    "usr/bin/dpkg-deb",
    "usr/bin/dpkg-divert",
    "usr/bin/dpkg-query",
    "usr/bin/dpkg-split",
    "usr/bin/dpkg-trigger",
];

/// Why a program of dpkg stays emulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPatched {
    /// It's no ELF file.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The name isn't there exactly once.
    #[error("the constant {name} is in it {count} times, not once")]
    Occurrences {
        /// The host's architecture.
        name: String,
        /// How often it was found.
        count: usize,
    },
    /// The image's name is longer than the host's, and the string can't be moved.
    #[error("{image} is longer than {host}, and {why}")]
    TooLong {
        /// The image's architecture.
        image: String,
        /// The host's.
        host: String,
        /// Why the string can't be moved.
        why: &'static str,
    },
}

/// The program for `image`, made of the one for `host` (Debian's names of architectures).
pub fn patch(program: &[u8], host: &str, image: &str) -> Result<Vec<u8>, NotPatched> {
    let elf = Elf::parse(program)?;
    let constant = [b"\0", host.as_bytes(), b"\0"].concat();
    let mut found = program.windows(constant.len()).enumerate().filter(|(_, window)| *window == constant);
    let (first, others) = (found.next(), found.count());
    let Some((before, _)) = first.filter(|_| others == 0) else {
        let count = first.map_or(0, |_| 1 + others);
        return Err(NotPatched::Occurrences { name: host.to_owned(), count });
    };
    let mut result = program.to_vec();
    if image.len() <= host.len() {
        let place = &mut result[before + 1..][..host.len()];
        place.fill(0);
        place[..image.len()].copy_from_slice(image.as_bytes());
        return Ok(result);
    }
    let too_long = |why| NotPatched::TooLong { image: image.to_owned(), host: host.to_owned(), why };
    move_string(&mut result, &elf, before as u64 + 1, image).map_err(too_long)?;
    Ok(result)
}

/// Puts `text` into the unused end of a page and has the only pointer to the string at `offset`
/// lead there.
fn move_string(bytes: &mut [u8], elf: &Elf<'_>, offset: u64, text: &str) -> Result<(), &'static str> {
    const X86_64: u16 = 62;
    const PAGE: u64 = 4096;
    if elf.identity.machine != X86_64 {
        return Err("whether code refers to it is known for amd64 alone");
    }
    let old = elf.address_of(offset).ok_or("it is not mapped")?;
    if code_refers_to(bytes, elf, old) {
        return Err("code refers to it directly");
    }
    let index = elf
        .segments
        .iter()
        .position(|segment| segment.kind == LOAD && offset.wrapping_sub(segment.offset) < segment.file_size)
        .ok_or("it is not mapped")?;
    let segment = elf.segments[index];
    let no_room = "there is no room behind the read-only data";
    let end = segment.offset.checked_add(segment.file_size).ok_or(no_room)?;
    let end_address = segment.address.checked_add(segment.file_size).ok_or(no_room)?;
    let room = PAGE - 1 - end_address.wrapping_sub(1) % PAGE;
    let gap = bytes.get_mut(end as usize..).and_then(|rest| rest.get_mut(..text.len() + 2));
    let gap = gap.filter(|gap| room >= gap.len() as u64 && gap.iter().all(|byte| *byte == 0));
    let gap = gap.ok_or(no_room)?;
    if segment.memory_size != segment.file_size {
        return Err("it is not in read-only data");
    }
    gap[1..=text.len()].copy_from_slice(text.as_bytes());
    let grown = (segment.file_size + text.len() as u64 + 2).to_le_bytes();
    let header = (elf.segments_offset as usize) + 56 * index; // sizeof(Elf64_Phdr)
    for field in [32, 40] {
        bytes[header + field..header + field + 8].copy_from_slice(&grown); // p_filesz, p_memsz
    }
    // The pointer itself, and the relocation that fills it (R_X86_64_RELATIVE's addend).
    let new = end_address.wrapping_add(1);
    let mut pointers = 0;
    for word in bytes.as_chunks_mut::<8>().0.iter_mut().filter(|word| **word == old.to_le_bytes()) {
        *word = new.to_le_bytes();
        pointers += 1;
    }
    if (1..=2).contains(&pointers) { Ok(()) } else { Err("it is not known where its address is kept") }
}

/// Whether an instruction has the distance to `address` in it: amd64's code refers to constants
/// relative to the next instruction, which begins up to four bytes after the distance. Before it is
/// a byte that says so: ModRM with mode 0 and register or memory 5 (Intel's manual, volume 2, 2.2.1.6).
fn code_refers_to(bytes: &[u8], elf: &Elf<'_>, address: u64) -> bool {
    elf.segments.iter().filter(|segment| segment.kind == LOAD && segment.executable).any(|segment| {
        let end = segment.offset.saturating_add(segment.file_size) as usize;
        let code = bytes.get(segment.offset as usize..end).unwrap_or_default();
        code.windows(5).enumerate().any(|(index, window)| {
            let (mode, distance) = (window[0], &window[1..]);
            let distance = distance.first_chunk().map_or(0, |chunk| i64::from(i32::from_le_bytes(*chunk)));
            let next = segment.address.wrapping_add(index as u64 + 5).wrapping_add_signed(distance);
            mode & 0xc7 == 5 && (0..=4).any(|immediate| next.wrapping_add(immediate) == address)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_that_is_there_once_is_replaced() {
        let program = b"\x7fELF\x02\x01............\x3e\0".iter().copied().chain([0; 60]);
        let program: Vec<u8> = program.chain(*b"1.2 (amd64)\0amd64\0all\0").collect();
        let end = |image| patch(&program, "amd64", image).map(|bytes| bytes[80..].to_vec());
        assert_eq!(end("armhf"), Ok(b"1.2 (amd64)\0armhf\0all\0".to_vec()));
        assert_eq!(end("i386"), Ok(b"1.2 (amd64)\0i386\0\0all\0".to_vec()));
        let error = |program: &[u8], host| patch(program, host, "i386").map_err(|error| error.to_string());
        assert_eq!(error(&program, "arm64"), Err("the constant arm64 is in it 0 times, not once".into()));
        let twice = [&program[..], b"amd64\0"].concat();
        assert_eq!(error(&twice, "amd64"), Err("the constant amd64 is in it 2 times, not once".into()));
        assert_eq!(error(b"#!/bin/sh", "amd64"), Err("not an ELF file".into()));
    }

    /// dpkg itself is the oracle, where it's the host's.
    #[test]
    fn dpkg_says_what_it_is_made_to() {
        if cfg!(not(target_arch = "x86_64")) || !std::path::Path::new("/usr/bin/dpkg").exists() {
            eprintln!("skipped: this host has no dpkg for amd64");
            return;
        }
        let folder = std::env::temp_dir().join(format!("treestrap-dpkg-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder of the test's own");
        for (image, path) in ["armhf", "i386", "riscv64", "ppc64el", "mips64el", "a-very-long-architecture"]
            .iter()
            .flat_map(|image| PROGRAMS.iter().map(move |path| (*image, *path)))
        {
            let path = format!("/{path}");
            let program = std::fs::read(&path).expect("dpkg's");
            let copy = folder.join("copy");
            std::fs::copy(&path, &copy).expect("a copy with its mode");
            std::fs::write(&copy, patch(&program, "amd64", image).expect(image)).expect("the patched one");
            let said = |option| {
                let output = std::process::Command::new(&copy).arg(option).output().expect("it starts");
                assert!(output.status.success(), "{path} {option} for {image}: {output:?}");
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            };
            assert!(said("--version").contains("Debian"), "{path} for {image}");
            if path == "/usr/bin/dpkg" {
                assert_eq!(said("--print-architecture"), image);
            }
        }
        std::fs::remove_dir_all(&folder).expect("it's the test's own");
    }
}
