//! What stage 2 leaves behind that is not the image's: per-device identity, logs of the build,
//! caches that hold inode numbers. Such changes are dropped or emptied before the commit, so that
//! one lock gives one checksum and no two devices share a key.

use crate::artefacts::{TreeChange, TreeEntry};

/// What happens to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The commit does not have it, and no trace that it was ever there.
    Drop,
    /// The commit has it, empty.
    Empty,
}

/// Path pattern (`*` matches within one name), rule and reason.
const RULES: &[(&str, Rule, &str)] = &[
    ("etc/machine-id", Rule::Empty, "identity: machine-id(5) has an empty one filled at first boot"),
    ("var/lib/dbus/machine-id", Rule::Drop, "identity: dbus-uuidgen --ensure makes it anew"),
    ("etc/ssh/ssh_host_*_key", Rule::Drop, "identity: every device needs keys of its own (ssh-keygen -A)"),
    ("etc/ssh/ssh_host_*_key.pub", Rule::Drop, "identity: goes with the private key"),
    ("var/lib/systemd/random-seed", Rule::Drop, "identity: a seed must not be shared"),
    ("var/lib/urandom/random-seed", Rule::Drop, "identity: a seed must not be shared"),
    ("var/lib/systemd/credential.secret", Rule::Drop, "identity: systemd-creds(1) makes it anew"),
    ("var/log/dpkg.log", Rule::Drop, "log of the build, with times"),
    ("var/log/alternatives.log", Rule::Drop, "log of the build, with times"),
    ("var/log/fontconfig.log", Rule::Drop, "log of the build, with times"),
    ("var/log/bootstrap.log", Rule::Drop, "log of the build, with times"),
    ("var/cache/ldconfig/aux-cache", Rule::Drop, "holds inode numbers and times; ldconfig(8) makes it anew"),
    // mandb(8) writes it with gdbm, whose padding holds whatever was in memory: no two runs through an
    // emulator are equal. man-db.timer makes it anew; only apropos(1) waits for that.
    ("var/cache/man/index.db", Rule::Drop, "differs from run to run; made anew by man-db.timer"),
    ("var/cache/man/*/index.db", Rule::Drop, "differs from run to run; made anew by man-db.timer"),
    ("var/cache/debconf/*-old", Rule::Drop, "debconf's backup of a database that never was in use"),
    ("var/lib/dpkg/*-old", Rule::Drop, "dpkg's backup of a database that never was in use"),
    ("var/lib/dpkg/lock", Rule::Drop, "a lock of no content; dpkg makes it anew"),
    ("var/lib/dpkg/lock-frontend", Rule::Drop, "a lock of no content; apt makes it anew"),
    ("var/lib/dpkg/triggers/Lock", Rule::Drop, "a lock of no content; dpkg makes it anew"),
    ("etc/.pwd.lock", Rule::Drop, "a lock of no content (lckpwdf(3)); made anew"),
];

/// The rule for a path, with its reason.
pub(super) fn rule(path: &[u8]) -> Option<(Rule, &'static str)> {
    RULES
        .iter()
        .find(|(pattern, ..)| matches(pattern.as_bytes(), path))
        .map(|&(_, rule, reason)| (rule, reason))
}

/// Whether a removal stays in the commit although a rule is about the path: the composed tree
/// may have shipped the file itself, and then dropping the change would bring it back.
pub(super) fn keeps(change: &TreeChange) -> bool {
    change.now == TreeEntry::Absent || rule(&change.path).is_none_or(|(rule, _)| rule != Rule::Drop)
}

/// Glob match in which `*` stands for any bytes but `/`; one star a pattern is all we need.
fn matches(pattern: &[u8], path: &[u8]) -> bool {
    match pattern.iter().position(|&byte| byte == b'*') {
        None => pattern == path,
        Some(star) => {
            let (head, tail) = (&pattern[..star], &pattern[star + 1..]);
            path.len() >= head.len() + tail.len()
                && path.starts_with(head)
                && path.ends_with(tail)
                && !path[head.len()..path.len() - tail.len()].contains(&b'/')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_reach_what_they_name_and_no_more() {
        let table: &[(&str, Option<Rule>)] = &[
            ("etc/machine-id", Some(Rule::Empty)),
            ("etc/ssh/ssh_host_ed25519_key", Some(Rule::Drop)),
            ("etc/ssh/ssh_host_ed25519_key.pub", Some(Rule::Drop)),
            ("etc/ssh/sshd_config", None),
            ("etc/ssh/old/ssh_host_x_key", None),
            ("var/lib/dpkg/status-old", Some(Rule::Drop)),
            ("var/lib/dpkg/status", None),
            ("var/cache/man/de/index.db", Some(Rule::Drop)),
            ("var/cache/man/CACHEDIR.TAG", None),
            ("var/lib/dpkg/info/x-old", None),
        ];
        for (path, expected) in table {
            assert_eq!(rule(path.as_bytes()).map(|(rule, _)| rule), *expected, "{path}");
        }
    }
}
