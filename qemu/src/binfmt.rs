//! Lines for binfmt_misc: the kernel's Documentation/admin-guide/binfmt-misc.rst.

use std::fmt::Write;

use crate::{Architecture, Endian, Version};

/// Stands for the interpreter's path in [`Registration::line`]. What opens it may have no path.
pub const INTERPRETER: &str = "{interpreter}";

/// A handler for an architecture's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The name of the table's entry.
    pub name: String,
    /// The line, with [`INTERPRETER`] for the interpreter. Less than the kernel's 1920 bytes.
    pub line: String,
}

/// What the first bytes of a program are, and which bits of them count.
///
/// The identification (16 bytes), `e_type` and `e_machine`. The OS ABI and its version are left open
/// (Linux programs say 0 or 3, ARM ones 97, MIPS ones have versions up to 5), as is whether it is
/// ET_EXEC (2) or, position independent, ET_DYN (3).
pub(crate) fn pattern(architecture: &Architecture) -> (Vec<u8>, Vec<u8>) {
    let class = if architecture.bits == 64 { 2 } else { 1 };
    let half = |value: u16| match architecture.endian {
        Endian::Little => value.to_le_bytes(),
        Endian::Big => value.to_be_bytes(),
    };
    let data = if architecture.endian == Endian::Big { 2 } else { 1 };
    let mut magic = vec![0x7f, b'E', b'L', b'F', class, data, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    magic.extend(half(2));
    magic.extend(half(architecture.elf_machine));
    let mut mask = vec![0xff; 16];
    mask[7..9].fill(0);
    mask.extend(half(0xfffe));
    mask.extend([0xff, 0xff]);
    (magic, mask)
}

/// The line for `architecture`, run by a qemu-user of `version`.
///
/// Its flags:
/// - `F`: the interpreter is opened now. Its path need not exist in the root where programs run, nor
///   anywhere.
/// - `O`: it is handed the program open, so that it runs what it may execute and not read
///   (`-rwx--x--x`), and what has no path (a deleted file, execveat(2)).
/// - `C`: credentials are the program's, so that set-id programs and file capabilities work as on the
///   device. It would be a risk on a host, whose root such a program becomes; in a user namespace it
///   becomes only that namespace's root. (Debian's own package did the same up to bullseye.)
/// - `P`: it is told `argv[0]`, by which multi-call programs and login shells know what they are.
///   qemu understands it from 6.0 on, by `AT_FLAGS` (Linux ≥ 5.12). An older one would take it for
///   the first argument; Debian's 5.2 knows it only under a path that ends in `-binfmt-P`, and an
///   interpreter opened by `F` may have none.
pub(crate) fn registration(architecture: &Architecture, version: &Version) -> Registration {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
            text
        })
    };
    let (magic, mask) = pattern(architecture);
    let flags = if version.knows_preserved_argv0() { "POCF" } else { "OCF" };
    let name = format!("qemu-{}", architecture.name);
    let line = format!(":{name}:M::{}:{}:{INTERPRETER}:{flags}", hex(&magic), hex(&mask));
    Registration { name, line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ARCHITECTURES, find};

    /// The magics of Debian trixie's qemu-user (usr/share/qemu/binfmt.d), the independent source.
    const DEBIANS: &[(&str, &str)] = &[
        ("armhf", "7f454c4601010100000000000000000002002800"),
        ("armel", "7f454c4601010100000000000000000002002800"),
        ("arm64", "7f454c460201010000000000000000000200b700"),
        ("riscv64", "7f454c460201010000000000000000000200f300"),
        ("ppc64el", "7f454c4602010100000000000000000002001500"),
        ("s390x", "7f454c4602020100000000000000000000020016"),
        ("mips64el", "7f454c4602010100000000000000000002000800"),
        ("mipsel", "7f454c4601010100000000000000000002000800"),
        ("loong64", "7f454c4602010100000000000000000002000201"),
        ("i386", "7f454c4601010100000000000000000002000300"),
        ("amd64", "7f454c4602010100000000000000000002003e00"),
        ("alpha", "7f454c4602010100000000000000000002002690"),
        ("hppa", "7f454c460102010000000000000000000002000f"),
        ("m68k", "7f454c4601020100000000000000000000020004"),
        ("powerpc", "7f454c4601020100000000000000000000020014"),
        ("ppc64", "7f454c4602020100000000000000000000020015"),
        ("sh4", "7f454c4601010100000000000000000002002a00"),
        ("sparc64", "7f454c460202010000000000000000000002002b"),
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
    }

    #[test]
    fn each_recognises_its_own_programs_only() {
        assert_eq!(DEBIANS.len() + 1, ARCHITECTURES.len(), "all but x32");
        for (name, magic) in DEBIANS {
            let header = bytes(magic);
            for architecture in ARCHITECTURES.iter().filter(|architecture| architecture.qemu.is_some()) {
                let same = magic
                    == &DEBIANS.iter().find(|(other, _)| *other == architecture.name).expect("listed").1;
                assert_eq!(architecture.recognises(&header), same, "{} of {name}", architecture.name);
            }
        }
    }

    #[test]
    fn variants_of_a_header() {
        let armhf = find("armhf").expect("known");
        let mut header = bytes(DEBIANS[0].1);
        for (at, value, recognised) in [
            (16, 3, true),
            (7, 3, true),
            (7, 97, true),
            (8, 1, true),
            (16, 1, false),
            (16, 4, false),
            (4, 2, false),
            (5, 2, false),
            (12, 1, false),
        ] {
            let before = std::mem::replace(&mut header[at], value);
            assert_eq!(armhf.recognises(&header), recognised, "byte {at} = {value}");
            header[at] = before;
        }
        assert!(!armhf.recognises(&header[..19]));
    }

    #[test]
    fn lines() {
        let line = |name, version: &str| {
            registration(find(name).expect("known"), &version.parse().expect("a version")).line
        };
        assert_eq!(
            line("s390x", "7.2.22"),
            r":qemu-s390x:M::\x7f\x45\x4c\x46\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16:\xff\xff\xff\xff\xff\xff\xff\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff:{interpreter}:POCF"
        );
        assert!(line("armhf", "6.0.0").ends_with(":POCF"));
        assert!(line("armhf", "5.2.0").ends_with(":OCF"));
    }
}
