//! Debian's architectures, and which of them a host's CPU runs by itself.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, Stdio},
};

use crate::{Error, binfmt};

/// The order of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Endian {
    /// Least significant first.
    Little,
    /// Most significant first.
    Big,
}

/// An architecture of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Architecture {
    /// Debian's name, as in `dpkg --print-architecture`.
    pub name: &'static str,
    /// qemu's name of it, as in `qemu-NAME`; none where qemu-user has no such target.
    pub qemu: Option<&'static str>,
    /// What `uname -m` says on the device.
    pub machine: &'static str,
    /// The multiarch triplet: `usr/lib/TRIPLET`.
    pub triplet: &'static str,
    /// 32 or 64.
    pub bits: u8,
    /// The order of bytes.
    pub endian: Endian,
    /// `e_machine` of its ELF files (elf.h).
    pub elf_machine: u16,
}

const fn architecture(
    name: &'static str,
    qemu: &'static str,
    machine: &'static str,
    triplet: &'static str,
    bits: u8,
    endian: Endian,
    elf_machine: u16,
) -> Architecture {
    Architecture { name, qemu: Some(qemu), machine, triplet, bits, endian, elf_machine }
}

use Endian::{Big, Little};

/// All of them: those of releases from bullseye on, then the ports. Names, triplets and sizes as in
/// dpkg's cputable and tupletable; `uname -m` as the kernel's `UTS_MACHINE`.
#[rustfmt::skip]
pub const ARCHITECTURES: &[Architecture] = &[
    architecture("amd64",    "x86_64",      "x86_64",      "x86_64-linux-gnu",        64, Little, 62),
    architecture("i386",     "i386",        "i686",        "i386-linux-gnu",          32, Little, 3),
    architecture("arm64",    "aarch64",     "aarch64",     "aarch64-linux-gnu",       64, Little, 183),
    architecture("armhf",    "arm",         "armv7l",      "arm-linux-gnueabihf",     32, Little, 40),
    architecture("armel",    "arm",         "armv7l",      "arm-linux-gnueabi",       32, Little, 40),
    architecture("riscv64",  "riscv64",     "riscv64",     "riscv64-linux-gnu",       64, Little, 243),
    architecture("ppc64el",  "ppc64le",     "ppc64le",     "powerpc64le-linux-gnu",   64, Little, 21),
    architecture("s390x",    "s390x",       "s390x",       "s390x-linux-gnu",         64, Big,    22),
    architecture("loong64",  "loongarch64", "loongarch64", "loongarch64-linux-gnu",   64, Little, 258),
    architecture("mips64el", "mips64el",    "mips64",      "mips64el-linux-gnuabi64", 64, Little, 8),
    architecture("mipsel",   "mipsel",      "mips",        "mipsel-linux-gnu",        32, Little, 8),
    architecture("alpha",    "alpha",       "alpha",       "alpha-linux-gnu",         64, Little, 0x9026),
    architecture("hppa",     "hppa",        "parisc",      "hppa-linux-gnu",          32, Big,    15),
    architecture("m68k",     "m68k",        "m68k",        "m68k-linux-gnu",          32, Big,    4),
    architecture("powerpc",  "ppc",         "ppc",         "powerpc-linux-gnu",       32, Big,    20),
    architecture("ppc64",    "ppc64",       "ppc64",       "powerpc64-linux-gnu",     64, Big,    21),
    architecture("sh4",      "sh4",         "sh4",         "sh4-linux-gnu",           32, Little, 42),
    architecture("sparc64",  "sparc64",     "sparc64",     "sparc64-linux-gnu",       64, Big,    43),
    Architecture {
        qemu: None,
        ..architecture("x32", "",           "x86_64",      "x86_64-linux-gnux32",     32, Little, 62)
    },
];

/// The architecture that Debian calls `name`.
pub fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.name == name)
}

/// The architecture that this program was built for; none where Debian has no such port.
pub fn host() -> Option<&'static Architecture> {
    let little = cfg!(target_endian = "little");
    let name = match std::env::consts::ARCH {
        "x86_64" if cfg!(target_pointer_width = "32") => "x32",
        "x86_64" => "amd64",
        "x86" => "i386",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "powerpc64" if little => "ppc64el",
        "powerpc64" => "ppc64",
        "powerpc" => "powerpc",
        "loongarch64" => "loong64",
        "mips64" if little => "mips64el",
        "mips" if little => "mipsel",
        other => other, // riscv64, s390x, sparc64, m68k: the same name
    };
    find(name)
}

/// Who runs an architecture's programs on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// The CPU.
    Native,
    /// The CPU, if it still can and the kernel lets it.
    Perhaps,
    /// An emulator.
    Emulated,
}

/// Who runs `target`'s programs on `host`, as far as the names tell.
pub fn execution(host: &Architecture, target: &Architecture) -> Execution {
    match (host.name, target.name) {
        (host, target) if host == target => Execution::Native,
        // The same instructions; one has its floating point in software.
        ("armhf", "armel") => Execution::Native,
        // 64-bit kernels may leave their 32-bit side out (CONFIG_IA32_EMULATION, CONFIG_X86_X32_ABI,
        // CONFIG_COMPAT), and newer 64-bit ARM cores have none.
        ("amd64", "i386" | "x32") | ("arm64", "armhf" | "armel") => Execution::Perhaps,
        _ => Execution::Emulated,
    }
}

/// Whether `host`'s CPU runs `target`'s programs; where the names do not tell, by running one. For
/// that a file of a hundred bytes is written below `scratch`, which must not be mounted `noexec`.
pub fn runs_natively(host: &Architecture, target: &Architecture, scratch: &Path) -> Result<bool, Error> {
    match execution(host, target) {
        Execution::Native => Ok(true),
        Execution::Emulated => Ok(false),
        Execution::Perhaps => {
            // With a handler of the host's the program would run either way.
            let handled = target.qemu.is_some_and(|name| {
                fs::read_to_string(format!("/proc/sys/fs/binfmt_misc/qemu-{name}"))
                    .is_ok_and(|status| status.starts_with("enabled"))
            });
            if handled { Ok(false) } else { try_program(target, scratch) }
        }
    }
}

/// The exit status of the probing program: one that a shell or a loader would not give.
const PROBE_STATUS: u8 = 93;

/// A program that does nothing but `exit(93)`, in an architecture's machine code.
fn probe(target: &Architecture) -> Option<Vec<u8>> {
    let code: &[u8] = match target.name {
        // mov $93, %ebx; mov $1 (__NR_exit of i386), %eax; int $0x80
        "i386" => &[0xbb, PROBE_STATUS, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xcd, 0x80],
        // mov $93, %edi; mov $0x4000003c (x32 bit + __NR_exit), %eax; syscall
        "x32" => &[0xbf, PROBE_STATUS, 0, 0, 0, 0xb8, 0x3c, 0, 0, 0x40, 0x0f, 0x05],
        // mov r0, #93; mov r7, #1 (__NR_exit); svc 0
        "armhf" | "armel" => &[PROBE_STATUS, 0, 0xa0, 0xe3, 1, 0x70, 0xa0, 0xe3, 0, 0, 0, 0xef],
        _ => return None,
    };
    // Elf32_Ehdr and one Elf32_Phdr, little-endian (elf(5)).
    const BASE: u32 = 0x10000;
    const HEADERS: u32 = 52 + 32;
    let size = HEADERS + code.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let words =
        |file: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    half(&mut file, 2); // ET_EXEC
    half(&mut file, target.elf_machine);
    let flags = if target.elf_machine == 40 { 0x0500_0000 } else { 0 }; // EF_ARM_EABI_VER5
    words(&mut file, &[1, BASE + HEADERS, 52, 0, flags]); // version, entry, phoff, shoff, flags
    [52, 32, 1, 0, 0, 0].into_iter().for_each(|value| half(&mut file, value)); // sizes and counts
    words(&mut file, &[1, 0, BASE, BASE, size, size, 5, 0x1000]); // PT_LOAD, readable and executable
    file.extend(code);
    Some(file)
}

fn try_program(target: &Architecture, scratch: &Path) -> Result<bool, Error> {
    let Some(program) = probe(target) else { return Ok(false) };
    let path = scratch.join(format!("probe-{}-{}", target.name, std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(&path)
        .map_err(Error::io("making", &path))?;
    let result = file.write_all(&program).map_err(Error::io("writing", &path));
    drop(file); // or it could not be executed (ETXTBSY)
    let result = result.and_then(|()| start(&path));
    fs::remove_file(&path).map_err(Error::io("removing", &path))?;
    result
}

fn start(path: &Path) -> Result<bool, Error> {
    loop {
        let started =
            Command::new(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        return match started {
            Ok(status) => Ok(status.code() == Some(PROBE_STATUS.into())),
            // ENOEXEC has no ErrorKind of its own.
            Err(error) if error.raw_os_error() == Some(8) => Ok(false),
            // Another thread forked while the file was open for writing; its exec closes it.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => continue,
            Err(error) => Err(Error::io("starting", path)(error)),
        };
    }
}

impl Architecture {
    /// Whether a file that starts with `header` (20 bytes are enough) is a program of it, as the
    /// kernel decides with the registration.
    pub fn recognises(&self, header: &[u8]) -> bool {
        let (magic, mask) = binfmt::pattern(self);
        header.len() >= magic.len()
            && magic.iter().zip(&mask).zip(header).all(|((magic, mask), byte)| byte & mask == magic & mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_dpkg() {
        // dpkg knows them all by itself; without it there is nothing to compare with.
        let Ok(output) = Command::new("dpkg-architecture").arg("-L").output() else { return };
        let known = String::from_utf8_lossy(&output.stdout);
        for architecture in ARCHITECTURES {
            if !known.lines().any(|line| line == architecture.name) {
                assert_eq!(architecture.name, "loong64", "younger than bookworm's dpkg");
                continue;
            }
            let query = |variable: &str| {
                let output = Command::new("dpkg-architecture")
                    .args(["-a", architecture.name, "-q", variable])
                    .stderr(Stdio::null())
                    .output()
                    .expect("it started a moment ago");
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            };
            let endian = if architecture.endian == Big { "big" } else { "little" };
            assert_eq!(query("DEB_HOST_MULTIARCH"), architecture.triplet, "{architecture:?}");
            assert_eq!(query("DEB_HOST_ARCH_BITS"), architecture.bits.to_string(), "{architecture:?}");
            assert_eq!(query("DEB_HOST_ARCH_ENDIAN"), endian, "{architecture:?}");
        }
    }

    #[test]
    fn the_host_is_what_dpkg_says() {
        let host = host().expect("a port of Debian");
        if let Ok(output) = Command::new("dpkg").arg("--print-architecture").output() {
            assert_eq!(host.name, String::from_utf8_lossy(&output.stdout).trim());
        }
    }

    #[test]
    fn who_runs_what() {
        let execution =
            |host, target| super::execution(find(host).expect("known"), find(target).expect("known"));
        for (host, target, expected) in [
            ("amd64", "amd64", Execution::Native),
            ("amd64", "i386", Execution::Perhaps),
            ("amd64", "armhf", Execution::Emulated),
            ("arm64", "armhf", Execution::Perhaps),
            ("arm64", "amd64", Execution::Emulated),
            ("i386", "amd64", Execution::Emulated),
            ("ppc64el", "ppc64", Execution::Emulated),
        ] {
            assert_eq!(execution(host, target), expected, "{target} on {host}");
        }
    }

    #[test]
    fn what_might_run_is_run() {
        let host = host().expect("a port of Debian");
        for target in ARCHITECTURES {
            let scratch = std::env::temp_dir();
            let native = runs_natively(host, target, &scratch).expect("tried");
            if execution(host, target) != Execution::Perhaps {
                assert_eq!(native, host == target, "{target:?}");
            }
            let config = Command::new("zcat").arg("/proc/config.gz").output().map(|output| output.stdout);
            let config = String::from_utf8_lossy(&config.unwrap_or_default()).into_owned();
            let option = match (host.name, target.name) {
                ("amd64", "i386") => "CONFIG_IA32_EMULATION=y",
                ("amd64", "x32") => "CONFIG_X86_X32_ABI=y",
                _ => continue,
            };
            if !config.is_empty() {
                assert_eq!(
                    native,
                    config.contains(option),
                    "{} by the kernel's own configuration",
                    target.name
                );
            }
        }
    }
}
