//! Has the loader of twins not ask the processor about its caches, once a start and dozens of times.
//!
//! glibc's loader wants to know them for the thresholds of memcpy(3), and for sysconf(3). It asks for each size with
//! cpuid instructions, of which every one leaves a virtual machine: where many a CI runner is, they
//! take a third of a small program's start. (glibc 2.34 to 2.40 ask an Intel processor 45 times, older
//! releases have this in the C library or another file, those from 2.41 on remember what they were told. An
//! AMD processor is asked each time by all of them.) Nothing but sysconf(3) tells of the answer.
//!
//! The functions are `handle_intel`, `handle_amd` and `handle_zhaoxin` of sysdeps/x86/dl-cacheinfo.h: each takes the
//! name of a size, one of `_SC_LEVEL1_ICACHE_SIZE` and those that follow. So they are found by who calls them:
//! nothing else in a loader is called with one number of that row after the other. In their place is a table
//! with the sizes of a common processor. Where the loader looks different, it is left as it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::program::{Elf, LOAD};

/// `_SC_LEVEL1_ICACHE_SIZE` (bits/confname.h).
const FIRST: u32 = 185;
/// What the functions are asked for: of the first level's instructions and data, the second to the fourth level
/// the size in bytes, the associativity, and the size of a line in bytes.
const SIZES: [u32; 15] = [32 << 10, 8, 64, 32 << 10, 8, 64, 1 << 20, 16, 64, 8 << 20, 16, 64, 0, 0, 0];

/// What the functions are replaced by, before the table. They give a `long` in rax, have a number in edi, and
/// use other registers besides; the compiler relies on which (GCC's -fipa-ra), so no more are changed than cpuid does.
const CODE: [u8; 25] = [
    0x8d, 0x87, 0x47, 0xff, 0xff, 0xff, // lea -185(%rdi), %eax
    0x83, 0xf8, 0x0e, // cmp $14, %eax
    0x77, 0x0b, // ja 1f
    0x48, 0x8d, 0x15, 0x07, 0x00, 0x00, 0x00, // lea table(%rip), %rdx
    0x8b, 0x04, 0x82, // mov (%rdx, %rax, 4), %eax
    0xc3, // ret
    0x31, 0xc0, // 1: xor %eax, %eax
    0xc3, // ret
];
/// cpuid.
const ASKS: [u8; 2] = [0x0f, 0xa2];
/// So many names must a function be called with; glibc's are with 10 to 12.
const NAMES: usize = 8;
/// Between the name and the call are no more than this many bytes of other instructions.
const BETWEEN: usize = 24;

/// Changes a loader for amd64, where it has such functions; tells how many.
pub fn remember(loader: &mut [u8]) -> usize {
    let Ok(elf) = Elf::parse(loader) else { return 0 };
    let code: Vec<(usize, usize)> = elf
        .segments
        .iter()
        .filter(|segment| segment.kind == LOAD && segment.executable)
        .filter_map(|segment| Some((segment.offset, segment.offset.checked_add(segment.file_size)?)))
        .filter_map(|(from, to)| Some((usize::try_from(from).ok()?, usize::try_from(to).ok()?)))
        .filter(|(_, to)| *to <= loader.len())
        .collect();
    let mut changed = 0;
    for (from, to) in code {
        let code = &mut loader[from..to];
        for start in functions(code) {
            code[start..][..CODE.len()].copy_from_slice(&CODE);
            for (place, size) in code[start + CODE.len()..].chunks_exact_mut(4).zip(SIZES) {
                place.copy_from_slice(&size.to_le_bytes());
            }
            changed += 1;
        }
    }
    changed
}

/// Where those functions begin.
fn functions(code: &[u8]) -> Vec<usize> {
    let mut called: BTreeMap<usize, BTreeSet<u8>> = BTreeMap::new();
    for (at, instruction) in code.windows(5).enumerate() {
        // mov $NAME, %edi
        let [0xbf, name, 0, 0, 0] = *instruction else { continue };
        if !(FIRST..FIRST + SIZES.len() as u32).contains(&u32::from(name)) {
            continue;
        }
        if let Some(start) = call(code, at + instruction.len()) {
            called.entry(start).or_default().insert(name);
        }
    }
    called.retain(|_, names| names.len() >= NAMES);
    let starts: Vec<usize> = called.into_keys().collect();
    let length = CODE.len() + 4 * SIZES.len();
    let is_one = |&start: &usize| {
        let body = code.get(start..start + length);
        body.is_some_and(|body| body.windows(ASKS.len()).any(|bytes| bytes == ASKS))
            && !starts.iter().any(|other| (start + 1..start + length).contains(other))
    };
    starts.iter().copied().filter(is_one).collect()
}

/// Where the next call leads.
fn call(code: &[u8], from: usize) -> Option<usize> {
    let at = from + code.get(from..)?.iter().take(BETWEEN).position(|byte| *byte == 0xe8)?;
    let distance = i32::from_le_bytes(*code.get(at + 1..)?.first_chunk()?);
    let start = (at + 5).checked_add_signed(distance as isize)?;
    (start < code.len()).then_some(start)
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;
    use crate::twins::tests::install;

    /// getconf(1) tells what the loader was told.
    #[test]
    fn the_loader_has_the_sizes_of_the_table() {
        let path = "/lib64/ld-linux-x86-64.so.2";
        let Ok(mut loader) = fs::read(path) else {
            eprintln!("skipped: there is no {path}");
            return;
        };
        let before = loader.clone();
        if remember(&mut loader) == 0 {
            assert!(loader == before);
            eprintln!("skipped: the loader of this machine's glibc does not ask for caches by name");
            return;
        }
        assert!(loader.len() == before.len() && loader != before);
        let changed = std::env::temp_dir().join(format!("treestrap-ld.so-{}", std::process::id()));
        install(&changed, &loader);
        let asked = |name: &str| {
            let output = Command::new(&changed).args(["/usr/bin/getconf", name]).output().expect("it starts");
            assert!(output.status.success(), "{name}: {output:?}");
            // Nothing is said of what is not known.
            String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().unwrap_or(0)
        };
        let levels = ["LEVEL1_ICACHE", "LEVEL1_DCACHE", "LEVEL2_CACHE", "LEVEL3_CACHE", "LEVEL4_CACHE"];
        let names =
            levels.iter().flat_map(|level| ["SIZE", "ASSOC", "LINESIZE"].map(|of| format!("{level}_{of}")));
        for (name, size) in names.zip(SIZES) {
            // Newer releases of glibc do not ask for all of them.
            assert!([size, 0].contains(&asked(&name)), "{name}");
        }
        assert_eq!(asked("LEVEL1_DCACHE_SIZE"), 32 << 10);
        assert_eq!(asked("LEVEL3_CACHE_SIZE"), 8 << 20);
        fs::remove_file(&changed).expect("it's the test's own");
        let again = loader.clone();
        assert!(remember(&mut loader) == 0 && loader == again, "they ask no longer");
    }

    /// A file of one segment of code with a function that is called with so many names.
    fn program(names: u8, body: &[u8]) -> Vec<u8> {
        let mut code = Vec::new();
        for name in 0..names {
            code.extend([0xbf, 185 + name, 0, 0, 0, 0x49, 0x89, 0xc4, 0xe8]); // mov, mov, call
            code.extend((1000 - code.len() as i32 - 4).to_le_bytes());
        }
        code.resize(1000, 0x90);
        code.extend(body);
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        file[18] = 62; // e_machine
        file[32] = 64; // e_phoff
        file[54] = 56; // e_phentsize
        file[56] = 1; // e_phnum
        file.extend([1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, read and execute
        let size = 64 + 56 + code.len() as u64;
        for word in [0, 0, 0, size, size, 4096] {
            file.extend(u64::to_le_bytes(word));
        }
        file.extend(code);
        file
    }

    #[test]
    fn nothing_else_is_taken_for_such_a_function() {
        let mut asks = [0x90; 100];
        asks[20..22].copy_from_slice(&ASKS);
        for (names, body, expected) in [
            (15, &asks[..], 1),
            (8, &asks[..], 1),
            (7, &asks[..], 0),
            (15, &[0x90; 100][..], 0),
            (15, &asks[..80], 0),
            (0, &asks[..], 0),
        ] {
            let before = program(names, body);
            let mut after = before.clone();
            assert_eq!(remember(&mut after), expected, "{names} names, {} bytes", body.len());
            let differing = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            assert!(differing <= CODE.len() + 4 * SIZES.len() && (differing > 0) == (expected > 0));
        }
    }
}
