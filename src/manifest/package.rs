//! Entries of `packages`: `name`, `name:arch`, `name=version`, `name/suite` and `name-`.

use super::did_you_mean;
use crate::{
    artefacts::{Constraint, PackageRequest},
    debian::architecture::KNOWN,
};

/// What the kernel (`uname -m`) and others call an architecture, and Debian's name of it.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("aarch64", "arm64"),
    ("arm", "armhf"),
    ("armv6l", "armel"),
    ("armv7", "armhf"),
    ("armv7l", "armhf"),
    ("i686", "i386"),
    ("loongarch64", "loong64"),
    ("ppc64le", "ppc64el"),
    ("riscv", "riscv64"),
    ("x86", "i386"),
    ("x86-64", "amd64"),
    ("x86_64", "amd64"),
];

/// Why an entry is refused, and the way out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) what: String,
    pub(super) hint: String,
}

fn problem<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, Problem> {
    Err(Problem { what: what.into(), hint: hint.into() })
}

/// Whether Debian has an architecture of this name; the error is a hint.
pub(super) fn check_architecture(name: &str) -> Result<(), String> {
    if KNOWN.contains(&name) {
        return Ok(());
    }
    match OTHER_NAMES.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)) {
        Some((_, debian)) => Err(format!("Debian calls it {debian:?}")),
        None => Err(did_you_mean(name, KNOWN, "architectures")),
    }
}

/// Parses one entry.
pub(super) fn parse(entry: &str) -> Result<PackageRequest, Problem> {
    let (name, constraint) = match entry.find(['=', '/']) {
        Some(at) => {
            let (name, value) = (&entry[..at], &entry[at + 1..]);
            let constraint = match &entry[at..=at] {
                "=" => Constraint::Version(version(value)?),
                _ => Constraint::Suite(suite(value)?),
            };
            (name, constraint)
        }
        // Policy 5.6.1 would let a name end in a dash; none does, and apt reads it in this way too.
        None => match entry.strip_suffix('-') {
            Some(name) => (name, Constraint::Absent),
            None => (entry, Constraint::Any),
        },
    };
    check_qualified_name(name)?;
    Ok(PackageRequest { name: name.to_owned(), constraint })
}

/// Checks `name` or `name:arch`.
fn check_qualified_name(qualified: &str) -> Result<(), Problem> {
    let (name, architecture) = match qualified.split_once(':') {
        Some((name, architecture)) => (name, Some(architecture)),
        None => (qualified, None),
    };
    if let Err(hint) = architecture.map_or(Ok(()), check_architecture) {
        let architecture = architecture.unwrap_or_default();
        return problem(format!("{architecture:?} is no architecture of Debian"), hint);
    }
    if is_name(name) {
        return Ok(());
    }
    if name.contains(['*', '?', '^', '~']) {
        return problem("patterns are not known here", "name each package");
    }
    if is_name(&name.to_ascii_lowercase()) {
        let hint = format!("did you mean {:?}?", name.to_ascii_lowercase());
        return problem(format!("{name:?} has capital letters, which no package's name has"), hint);
    }
    problem(
        format!("{name:?} cannot be the name of a package"),
        "a name has two characters or more: lower-case letters, digits, '+', '-' and '.'",
    )
}

/// Policy 5.6.1: two characters or more, the first a letter or a digit.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    name.len() >= 2 && name.chars().all(inner) && !name.starts_with(['+', '-', '.'])
}

/// The characters of a version (policy 5.6.12); its order is the resolver's business.
fn version(version: &str) -> Result<String, Problem> {
    let known = |c: char| c.is_ascii_alphanumeric() || ".+~:-".contains(c);
    if version.starts_with(|c: char| c.is_ascii_alphanumeric()) && version.chars().all(known) {
        return Ok(version.to_owned());
    }
    problem(
        format!("{version:?} cannot be a version"),
        "write it as `apt-cache policy` does, such as \"name=1:2.36-9+deb12u10\"",
    )
}

fn suite(suite: &str) -> Result<String, Problem> {
    let known = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
    if suite.starts_with(|c: char| c.is_ascii_alphanumeric()) && suite.chars().all(known) {
        return Ok(suite.to_owned());
    }
    problem(format!("{suite:?} cannot be a suite"), "such as \"name/bookworm-backports\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        use Constraint::{Absent, Any, Suite, Version};
        for (entry, name, constraint) in [
            ("nginx", "nginx", Any),
            ("g++", "g++", Any),
            ("libstdc++6:i386", "libstdc++6:i386", Any),
            ("systemd-sysv-", "systemd-sysv", Absent),
            ("libc6:i386-", "libc6:i386", Absent),
            ("nginx=1.22.1-9+deb12u1", "nginx", Version("1.22.1-9+deb12u1".into())),
            ("login:armhf=1:4.13+dfsg1-1+b1", "login:armhf", Version("1:4.13+dfsg1-1+b1".into())),
            ("tool=2.0~rc1", "tool", Version("2.0~rc1".into())),
            ("nginx/bookworm-backports", "nginx", Suite("bookworm-backports".into())),
            ("bash/stable/updates", "bash", Suite("stable/updates".into())),
        ] {
            assert_eq!(parse(entry), Ok(PackageRequest { name: name.into(), constraint }), "{entry}");
        }
    }

    #[test]
    fn refused_entries() {
        let name = |name: &str| format!("{name:?} cannot be the name of a package");
        for (entry, what) in [
            ("", name("")),
            ("-", name("")),
            ("a", name("a")),
            ("-nginx", name("-nginx")),
            ("nginx ssh", name("nginx ssh")),
            ("nginx,ssh", name("nginx,ssh")),
            ("naïve", name("naïve")),
            ("Nginx", "\"Nginx\" has capital letters, which no package's name has".into()),
            ("nginx=", "\"\" cannot be a version".into()),
            ("nginx==1", "\"=1\" cannot be a version".into()),
            ("nginx=1 2", "\"1 2\" cannot be a version".into()),
            ("nginx=1/bookworm", "\"1/bookworm\" cannot be a version".into()),
            ("nginx/", "\"\" cannot be a suite".into()),
            ("libc6:armfh", "\"armfh\" is no architecture of Debian".into()),
            ("libc6:", "\"\" is no architecture of Debian".into()),
            ("php*", "patterns are not known here".into()),
        ] {
            assert_eq!(parse(entry).map_err(|problem| problem.what), Err(what), "{entry}");
        }
    }

    #[test]
    fn architectures_by_other_names() {
        for (name, hint) in [
            ("x86_64", "Debian calls it \"amd64\""),
            ("AArch64", "Debian calls it \"arm64\""),
            ("armfh", "did you mean \"armhf\"?"),
            ("amd46", "did you mean \"amd64\"?"),
        ] {
            assert_eq!(check_architecture(name), Err(hint.to_owned()), "{name}");
        }
        assert_eq!(check_architecture("armhf"), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(entry in ".*") {
            if let Ok(request) = parse(&entry) {
                proptest::prop_assert!(entry.starts_with(&request.name));
            }
        }
    }
}
