//! Versions of qemu-user of which it's known that programs crash in them, by the reports of those
//! whom it has happened to. A version that is not in the table isn't known to be good.

use crate::{Architecture, Version};

/// Versions with a known fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct KnownBad {
    /// The first version that has it.
    pub from: Version,
    /// The first one that doesn't.
    pub before: Version,
    /// The architecture (Debian's name) whose programs it concerns; none: all.
    pub architecture: Option<&'static str>,
    /// Whether it concerns builds that are linked to a fixed address (`ET_EXEC`), or those that are
    /// not; none: all.
    pub fixed_address: Option<bool>,
    /// What happens.
    pub what: &'static str,
    /// Where it's reported.
    pub link: &'static str,
}

const fn version(major: u32, minor: u32, micro: u32) -> Version {
    Version { major, minor, micro }
}

const FIRST: Version = version(0, 0, 0);
const NEVER: Version = version(u32::MAX, 0, 0);

/// The table. Ranges are those of the reports and of the changelogs that close them.
const TABLE: &[KnownBad] = &[
    KnownBad {
        from: FIRST,
        before: version(5, 0, 0),
        architecture: Some("arm64"),
        fixed_address: None,
        what: "ldconfig of Debian 11 and later, and other static programs, end with a segmentation fault",
        link: "https://bugs.launchpad.net/qemu/+bug/1749393",
    },
    KnownBad {
        from: version(5, 2, 0),
        before: version(6, 0, 0),
        architecture: Some("arm64"),
        fixed_address: Some(true),
        what: "programs end with a segmentation fault where the guest's memory cannot be had",
        link: "https://bugs.debian.org/988174",
    },
    KnownBad {
        from: version(5, 2, 0),
        before: version(6, 0, 0),
        architecture: Some("armhf"),
        fixed_address: Some(false),
        what: "a position-independent build cannot always reserve the guest's address space",
        link: "https://github.com/balena-io/qemu/issues/21",
    },
    KnownBad {
        from: version(8, 0, 0),
        before: version(8, 1, 0),
        architecture: Some("armel"),
        fixed_address: None,
        what: "the page of kernel helpers cannot always be mapped, and programs do not start",
        link: "https://bugs.debian.org/1041471",
    },
    KnownBad {
        from: FIRST,
        before: NEVER,
        architecture: None,
        fixed_address: Some(true),
        what: "it's linked to a fixed address that emulated programs may need, and then crashes at random \
            (Debian's 7.2 before 1:7.2+dfsg-7+deb12u9)",
        link: "https://bugs.debian.org/1053101",
    },
];

/// What is known of this version's emulation of the architecture. `fixed_address` is whether the
/// program is linked to a fixed address.
pub fn known_bad(
    version: Version,
    architecture: &Architecture,
    fixed_address: bool,
) -> impl Iterator<Item = &'static KnownBad> {
    TABLE.iter().filter(move |bad| {
        (bad.from..bad.before).contains(&version)
            && bad.architecture.is_none_or(|name| name == architecture.name)
            && bad.fixed_address.is_none_or(|fixed| fixed == fixed_address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find;

    #[test]
    fn what_is_known_of_releases() {
        for (text, architecture, fixed_address, expected) in [
            // Debian 11, Debian 12 as released and now, Debian 13.
            ("5.2.0", "arm64", true, &["988174", "1053101"][..]),
            ("5.2.0", "riscv64", true, &["1053101"]),
            ("7.2.7", "armhf", true, &["1053101"]),
            ("7.2.22", "armhf", false, &[]),
            ("5.2.0", "armhf", false, &["21"]),
            ("8.0.2", "armel", false, &["1041471"]),
            ("10.0.13", "armel", false, &[]),
            // Ubuntu 20.04.
            ("4.2.1", "arm64", false, &["1749393"]),
        ] {
            let version = text.parse().expect("a version");
            let architecture = find(architecture).expect("known");
            let links: Vec<_> = known_bad(version, architecture, fixed_address)
                .map(|bad| bad.link.rsplit('/').next().expect("a number"))
                .collect();
            assert_eq!(links, expected, "{text} {}", architecture.name);
        }
    }
}
