//! qemu-user on the host, and in Debian's packages.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
};

use crate::{
    Architecture, Error, binfmt,
    binfmt::Registration,
    known_bad::{KnownBad, known_bad},
    read_elf,
};

/// A version of qemu: its three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Version {
    /// First number: one a year.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub micro: u32,
}

impl Version {
    /// Whether it reads from `AT_FLAGS` that it is told `argv[0]` (linux-user/main.c, from 6.0 on).
    pub fn knows_preserved_argv0(&self) -> bool {
        self.major >= 6
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Not a version of qemu.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a version of qemu")]
pub struct NotAVersion(String);

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(micro)), None) => {
                Ok(Version { major, minor, micro })
            }
            _ => Err(NotAVersion(text.to_owned())),
        }
    }
}

/// A static qemu-user that this machine can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emulator {
    /// The program.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

impl Emulator {
    /// The one at `path`, wherever it comes from; asks it for its version.
    pub fn at(path: &Path) -> Result<Self, Error> {
        let output = Command::new(path)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(Error::io("starting", path))?;
        let said = String::from_utf8_lossy(&output.stdout);
        match parse_version(&said) {
            Some(version) => Ok(Emulator { path: path.to_owned(), version }),
            None => {
                let said = said.lines().next().unwrap_or_default().to_owned();
                Err(Error::NotQemu { path: path.to_owned(), said })
            }
        }
    }

    /// The host's own for `target`, searched in `PATH` and /usr/bin: `qemu-arm-static` (Debian up to
    /// bookworm), or a `qemu-arm` that is static (trixie and later).
    pub fn on_host(target: &Architecture) -> Result<Self, Error> {
        let name = target.qemu.ok_or(Error::NotEmulated(target.name))?;
        let path = env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
        folders.push("/usr/bin".into());
        Emulator::in_folders(&folders, name)
    }

    fn in_folders(folders: &[PathBuf], name: &str) -> Result<Self, Error> {
        let mut rejected = None;
        for program in [format!("qemu-{name}-static"), format!("qemu-{name}")] {
            for path in folders.iter().map(|folder| folder.join(&program)).filter(|path| path.is_file()) {
                match read_elf(&path) {
                    Ok(Some(elf)) if elf.is_static() => return Emulator::at(&path),
                    // A wrapper script, a dynamic one, one that cannot be read: perhaps the next.
                    _ => rejected = rejected.or(Some(path)),
                }
            }
        }
        Err(Error::NoEmulator { program: format!("qemu-{name}"), rejected })
    }

    /// What is known to go wrong in this one with programs for `target`; empty where nothing is.
    pub fn known_bad(&self, target: &Architecture) -> Result<Vec<&'static KnownBad>, Error> {
        let fixed_address = read_elf(&self.path)?.is_some_and(|elf| elf.fixed_address);
        Ok(known_bad(self.version, target, fixed_address).collect())
    }

    /// The line for a binfmt_misc; see [`Registration`].
    pub fn registration(&self, target: &Architecture) -> Registration {
        binfmt::registration(target, &self.version)
    }
}

/// The version in `qemu-arm version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
fn parse_version(said: &str) -> Option<Version> {
    let words = said.lines().next()?.strip_prefix("qemu-")?;
    let (_, version) = words.split_once(" version ")?;
    version.split([' ', '(']).next()?.parse().ok()
}

/// Where Debian's archive has a static qemu-user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackagedEmulator {
    /// The binary package, of the host's architecture.
    pub package: &'static str,
    /// The program's path in it, without a leading slash.
    pub path: String,
}

/// The packages that may have a static qemu for `target`, best first: try the first one that the
/// archive has and whose file is there. Up to bookworm it is `qemu-user-static`; from trixie on
/// `qemu-user` is static, and the other an empty package that depends on it. None: qemu does not
/// emulate it.
pub fn packaged(target: &Architecture, suite: &str) -> Vec<PackagedEmulator> {
    let Some(name) = target.qemu else { return Vec::new() };
    let old = PackagedEmulator { package: "qemu-user-static", path: format!("usr/bin/qemu-{name}-static") };
    let new = PackagedEmulator { package: "qemu-user", path: format!("usr/bin/qemu-{name}") };
    // Suites of before, by codename and its derived ones (bookworm-updates, bullseye-backports).
    let release = suite.split(['-', '/']).next().unwrap_or(suite);
    match release {
        "buster" | "bullseye" | "bookworm" | "oldoldstable" | "oldstable" => vec![old, new],
        _ => vec![new, old],
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::{ARCHITECTURES, find};

    #[test]
    fn versions() {
        let version = |text: &str| parse_version(text).map(|version| version.to_string());
        for (said, expected) in [
            ("qemu-arm version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright", Some("7.2.22")),
            ("qemu-aarch64 version 5.2.0 (Debian 1:5.2+dfsg-11+deb11u3)\n", Some("5.2.0")),
            ("qemu-arm version 10.0.13", Some("10.0.13")),
            ("qemu-arm version 8.2", None),
            ("QEMU emulator version 7.2.22", None),
            ("", None),
        ] {
            assert_eq!(version(said).as_deref(), expected, "{said}");
        }
        let parse = |text: &str| text.parse::<Version>().expect("a version");
        assert!(parse("10.0.0") > parse("9.2.4") && parse("5.2.0") < parse("6.0.0"));
    }

    #[test]
    fn only_a_static_one_will_do() {
        let folder = env::temp_dir().join(format!("emulators-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("made");
        let here = [folder.clone()];
        let missing = Emulator::in_folders(&here, "arm").expect_err("nothing there");
        assert_eq!(missing.to_string(), "no static qemu-arm on this machine");
        fs::copy("/proc/self/exe", folder.join("qemu-arm")).expect("a dynamic program");
        fs::write(folder.join("qemu-s390x-static"), "#!/bin/sh\n").expect("a script");
        for name in ["arm", "s390x"] {
            fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).expect("set");
            let Err(Error::NoEmulator { rejected: Some(path), .. }) = Emulator::in_folders(&here, name)
            else {
                panic!("qemu-{name} is not static")
            };
            assert!(path.starts_with(&folder));
        }
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn what_is_no_qemu_says_so() {
        let Err(Error::NotQemu { said, .. }) = Emulator::at(Path::new("/bin/sh")) else {
            panic!("sh is no qemu")
        };
        assert_eq!(said, "");
        assert!(matches!(Emulator::at(Path::new("/no/such")), Err(Error::Io { .. })));
    }

    #[test]
    fn packages() {
        let first = |suite| packaged(find("arm64").expect("known"), suite).remove(0);
        let old =
            PackagedEmulator { package: "qemu-user-static", path: "usr/bin/qemu-aarch64-static".into() };
        let new = PackagedEmulator { package: "qemu-user", path: "usr/bin/qemu-aarch64".into() };
        for suite in ["bullseye", "bookworm", "bookworm-updates", "bookworm-backports"] {
            assert_eq!(first(suite), old, "{suite}");
        }
        for suite in ["trixie", "trixie-updates", "forky", "sid", "unstable", "stable"] {
            assert_eq!(first(suite), new, "{suite}");
        }
        let none: Vec<_> = ARCHITECTURES.iter().filter(|target| packaged(target, "sid").is_empty()).collect();
        assert_eq!(none.iter().map(|target| target.name).collect::<Vec<_>>(), ["x32"]);
    }
}
