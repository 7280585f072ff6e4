//! What names an architecture has: Debian's, the folders', the loader's, the kernel's.

use serde::{Deserialize, Serialize};

use crate::program::Identity;

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
    /// `uname -m` on the device. For equality with emulation it's what qemu-user answers for its
    /// default processor, too (`cpu_to_uname_machine` in qemu's linux-user/uname.c).
    pub uname: &'static str,
}

const fn identity(wide: bool, big_endian: bool, machine: u16) -> Identity {
    Identity { wide, big_endian, machine }
}

/// The architectures. Loader paths are from the ABI's list on the glibc wiki; ELF machine numbers
/// from `include/uapi/linux/elf-em.h`.
const MACHINES: &[Machine] = &[
    Machine {
        debian: "amd64",
        triplet: "x86_64-linux-gnu",
        loader: "lib64/ld-linux-x86-64.so.2",
        identity: identity(true, false, 62),
        uname: "x86_64",
    },
    Machine {
        debian: "arm64",
        triplet: "aarch64-linux-gnu",
        loader: "lib/ld-linux-aarch64.so.1",
        identity: identity(true, false, 183),
        uname: "aarch64",
    },
    Machine {
        debian: "armhf",
        triplet: "arm-linux-gnueabihf",
        loader: "lib/ld-linux-armhf.so.3",
        identity: identity(false, false, 40),
        uname: "armv7l",
    },
    Machine {
        debian: "armel",
        triplet: "arm-linux-gnueabi",
        loader: "lib/ld-linux.so.3",
        identity: identity(false, false, 40),
        uname: "armv7l",
    },
    Machine {
        debian: "i386",
        triplet: "i386-linux-gnu",
        loader: "lib/ld-linux.so.2",
        identity: identity(false, false, 3),
        uname: "i686",
    },
    Machine {
        debian: "riscv64",
        triplet: "riscv64-linux-gnu",
        loader: "lib/ld-linux-riscv64-lp64d.so.1",
        identity: identity(true, false, 243),
        uname: "riscv64",
    },
    Machine {
        debian: "ppc64el",
        triplet: "powerpc64le-linux-gnu",
        loader: "lib64/ld64.so.2",
        identity: identity(true, false, 21),
        uname: "ppc64le",
    },
    Machine {
        debian: "s390x",
        triplet: "s390x-linux-gnu",
        loader: "lib/ld64.so.1",
        identity: identity(true, true, 22),
        uname: "s390x",
    },
    Machine {
        debian: "mips64el",
        triplet: "mips64el-linux-gnuabi64",
        loader: "lib64/ld.so.1",
        identity: identity(true, false, 8),
        uname: "mips64",
    },
    Machine {
        debian: "loong64",
        triplet: "loongarch64-linux-gnu",
        loader: "lib64/ld-linux-loongarch-lp64d.so.1",
        identity: identity(true, false, 258),
        uname: "loongarch64",
    },
];

impl Machine {
    /// The architecture of this Debian name.
    pub fn of(debian: &str) -> Option<&'static Machine> {
        MACHINES.iter().find(|machine| machine.debian == debian)
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

/// How uname(2) is to be answered in processes that are twins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uname {
    /// `utsname.machine`.
    pub machine: String,
}

impl From<&Machine> for Uname {
    fn from(machine: &Machine) -> Self {
        Uname { machine: machine.uname.to_owned() }
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

    #[test]
    fn the_table_agrees_with_dpkg() {
        let Ok(output) = std::process::Command::new("dpkg-architecture").arg("--version").output() else {
            eprintln!("skipped: dpkg-architecture (package dpkg-dev) is not installed");
            return;
        };
        assert!(output.status.success());
        for machine in MACHINES {
            let output = std::process::Command::new("dpkg-architecture")
                .args(["-f", "-a", machine.debian, "-qDEB_HOST_MULTIARCH"])
                .output()
                .expect("dpkg-architecture");
            // An old dpkg need not know the newest ports.
            if output.status.success() {
                assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), machine.triplet);
            }
        }
    }
}
