//! What names an architecture has: Debian's, the folders', the loader's, the kernel's.

use crate::{ARCHITECTURES, Endian, program::Identity};

/// An architecture as its programs and their libraries know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Debian's name.
    pub debian: &'static str,
    /// The folder name of Multi-Arch (`dpkg-architecture -qDEB_HOST_MULTIARCH`).
    pub triplet: &'static str,
    /// The dynamic loader's path as programs have it (`PT_INTERP`), without the leading slash.
    pub loader: &'static str,
    /// What its ELF files say of themselves.
    pub identity: Identity,
    /// `uname -m` on the device, and so what uname(2) has to answer in twins.
    pub uname: &'static str,
}

/// Where programs of an architecture have their loader, as listed on the glibc wiki's ABIList.
const LOADERS: &[(&str, &str)] = &[
    ("amd64", "lib64/ld-linux-x86-64.so.2"),
    ("arm64", "lib/ld-linux-aarch64.so.1"),
    ("armhf", "lib/ld-linux-armhf.so.3"),
    ("armel", "lib/ld-linux.so.3"),
    ("i386", "lib/ld-linux.so.2"),
    ("riscv64", "lib/ld-linux-riscv64-lp64d.so.1"),
    ("ppc64el", "lib64/ld64.so.2"),
    ("s390x", "lib/ld64.so.1"),
    ("mips64el", "lib64/ld.so.1"),
    ("loong64", "lib64/ld-linux-loongarch-lp64d.so.1"),
];

impl Machine {
    /// The architecture of this Debian name; none of those whose loader isn't in the table.
    pub fn of(debian: &str) -> Option<Machine> {
        let architecture = ARCHITECTURES.iter().find(|architecture| architecture.name == debian)?;
        let (_, loader) = LOADERS.iter().find(|(name, _)| *name == debian)?;
        let identity = Identity {
            wide: architecture.bits == 64,
            big_endian: architecture.endian == Endian::Big,
            machine: architecture.elf_machine,
        };
        let (triplet, uname) = (architecture.triplet, architecture.machine);
        Some(Machine { debian: architecture.name, triplet, loader, identity, uname })
    }

    /// A path with this architecture's names in it replaced by placeholders, so that paths of two
    /// architectures' packages can be compared.
    pub fn neutral(&self, path: &str) -> String {
        // The loader's package has a link at the ABI's path, which not all architectures share.
        if path == self.loader || path.strip_prefix("usr/") == Some(self.loader) {
            return "{loader}".to_owned();
        }
        path.replace(self.triplet, "{triplet}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_two_architectures_compare() {
        let (armhf, amd64) = (Machine::of("armhf").expect("known"), Machine::of("amd64").expect("known"));
        for (foreign, native) in [
            ("usr/lib/arm-linux-gnueabihf/libz.so.1", "usr/lib/x86_64-linux-gnu/libz.so.1"),
            (
                "usr/lib/python3.11/lib-dynload/_bz2.cpython-311-arm-linux-gnueabihf.so",
                "usr/lib/python3.11/lib-dynload/_bz2.cpython-311-x86_64-linux-gnu.so",
            ),
            ("usr/lib/ld-linux-armhf.so.3", "usr/lib64/ld-linux-x86-64.so.2"),
            ("usr/bin/env", "usr/bin/env"),
        ] {
            assert_eq!(armhf.neutral(foreign), amd64.neutral(native));
        }
        assert_ne!(armhf.neutral("usr/lib/x86_64-linux-gnu"), amd64.neutral("usr/lib/x86_64-linux-gnu"));
    }
}
