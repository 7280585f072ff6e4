//! What uname(2) fills in, in all its forms.

use crate::plan::Uname;

/// The structure that a uname(2) fills (uapi/linux/utsname.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Utsname {
    /// Six names of 64 bytes and a NUL: every ABI's today.
    New,
    /// Five, without the domain: i386's call 109.
    Old,
    /// Five of 8 bytes and a NUL: i386's call 59.
    Oldest,
}

/// As the kernel says it where none was set; and none can be inside.
pub(crate) const NO_DOMAIN: &str = "(none)";

impl Utsname {
    /// The structure. A name that is too long is cut off, as the kernel does.
    pub(super) fn encode(self, uname: &Uname, hostname: &str) -> Vec<u8> {
        let names = ["Linux", hostname, &uname.release, &uname.version, &uname.machine, NO_DOMAIN];
        let (count, length) = match self {
            Utsname::New => (6, 64),
            Utsname::Old => (5, 64),
            Utsname::Oldest => (5, 8),
        };
        let mut structure = Vec::with_capacity(count * (length + 1));
        for name in &names[..count] {
            let name = &name.as_bytes()[..name.len().min(length)];
            structure.extend_from_slice(name);
            structure.resize(structure.len() + length + 1 - name.len(), 0);
        }
        structure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures() {
        let uname =
            Uname { machine: "armv7l".into(), release: "5.11.0-something".into(), version: "#1".into() };
        let new = Utsname::New.encode(&uname, "localhost");
        assert_eq!(new.len(), 390);
        let fields: Vec<_> = new.chunks(65).map(|field| field.split(|&byte| byte == 0).next()).collect();
        let expected = ["Linux", "localhost", "5.11.0-something", "#1", "armv7l", "(none)"];
        assert_eq!(fields, expected.map(|name| Some(name.as_bytes())));
        assert_eq!(Utsname::Old.encode(&uname, "localhost"), new[..325]);
        let oldest = Utsname::Oldest.encode(&uname, "localhost");
        assert_eq!(oldest.len(), 45);
        assert_eq!(&oldest[9..27], b"localhos\x005.11.0-s\0");
    }
}
