//! What is known of Debian's architecture names without looking at a machine.
//!
//! Only names: which binaries a name stands for (ELF machine, ABI) is the crate `qemu`'s.

/// The architectures of Debian's archive and of its ports, now or lately (dpkg-architecture -L lists
/// many more, for which nobody builds packages). A new port is added here.
pub const KNOWN: &[&str] = &[
    "alpha",
    "amd64",
    "arm64",
    "armel",
    "armhf",
    "hppa",
    "hurd-amd64",
    "hurd-i386",
    "i386",
    "ia64",
    "kfreebsd-amd64",
    "kfreebsd-i386",
    "loong64",
    "m68k",
    "mips",
    "mips64el",
    "mipsel",
    "powerpc",
    "powerpcspe",
    "ppc64",
    "ppc64el",
    "riscv64",
    "s390x",
    "sh4",
    "sparc64",
    "x32",
];

/// Whether `name` can be the name of an architecture: what dpkg accepts, which is safe in paths
/// and refs. Names of derivatives that are not in [`KNOWN`] can be.
pub fn is_valid(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !matches!(name, "all" | "any" | "native" | "source")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(KNOWN.iter().all(|name| is_valid(name)));
        assert!(KNOWN.is_sorted());
        for bad in ["", "all", "any", "AMD64", "../amd64", "amd64 ", "-arm"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
