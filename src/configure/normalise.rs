//! What stage 2 leaves behind that is not the image's: logs of the build, caches that hold inode
//! numbers, times of the build inside files. Such changes are dropped or rewritten before the commit, so
//! that one lock gives one checksum. What identifies a device is in [`identity`].

pub(super) mod rewrite;

use std::{
    fs::File,
    io::{Read, Seek, Write},
};

use super::identity;
use crate::{Context, Result, artefacts::IdentityPolicy};

/// What happens to a change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// The commit does not have it, and no trace that it was ever there.
    Drop,
    /// The commit has it, empty.
    Empty,
    /// The commit has it with what differs from build to build replaced; a time by this one
    /// (`SOURCE_DATE_EPOCH`, in seconds). None where the content is not what the rule knows: then it stays as it is.
    Rewrite(fn(&[u8], u64) -> Option<Vec<u8>>),
}

/// Larger files, in bytes, are not rewritten: none of those in the table comes near.
const LARGEST: u64 = 16 << 20;

/// Path pattern (`*` matches within one name), rule and reason.
const RULES: &[(&str, Rule, &str)] = &[
    ("var/log/dpkg.log", Rule::Drop, "log of the build, with times"),
    ("var/log/alternatives.log", Rule::Drop, "log of the build, with times"),
    ("var/log/fontconfig.log", Rule::Drop, "log of the build, with times"),
    ("var/log/bootstrap.log", Rule::Drop, "log of the build, with times"),
    ("var/lib/texmf/web2c/*.log", Rule::Drop, "log of the build, with times"),
    ("var/lib/texmf/web2c/*/*.log", Rule::Drop, "log of the build, with times"),
    ("usr/share/emacs/site-lisp/elpa/*/Install.log.gz", Rule::Drop, "log of the build, with times"),
    (
        "etc/ssl/certs/java/cacerts",
        Rule::Rewrite(rewrite::java_keystore),
        "says when each certificate came in",
    ),
    ("var/lib/doc-base/info/files.yml", Rule::Rewrite(rewrite::doc_base), "says when each file came in"),
    ("usr/share/info/dir.old", Rule::Drop, "update-info-dir's backup of a directory that never was in use"),
    ("etc/aliases.db", Rule::Rewrite(rewrite::berkeley_database), "has a random name and the time"),
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
];

/// The rule for a path.
fn rule(policy: IdentityPolicy, path: &[u8]) -> Option<Rule> {
    let build =
        || RULES.iter().find(|(pattern, ..)| matches(pattern.as_bytes(), path)).map(|&(_, rule, _)| rule);
    identity::rule(policy, path).or_else(build)
}

/// What the commit has in the place of a changed file's content (open at its start), and its size in
/// bytes; none: that content. `newest` is the time that stands for the build's, in seconds since 1970.
pub(super) fn content(
    policy: IdentityPolicy,
    path: &[u8],
    content: &mut File,
    size: u64,
    newest: u64,
) -> Result<Option<(File, u64)>> {
    match rule(policy, path) {
        Some(Rule::Empty) => Ok(Some((File::open("/dev/null").context("opening /dev/null")?, 0))),
        Some(Rule::Rewrite(rewrite)) if size <= LARGEST => {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).context("reading it to take times out")?;
            let Some(bytes) = rewrite(&bytes, newest) else {
                content.rewind().context("going back to its start")?;
                return Ok(None);
            };
            let mut file = tempfile::tempfile().context("making a temporary file")?;
            file.write_all(&bytes).and_then(|()| file.rewind()).context("writing a temporary file")?;
            Ok(Some((file, bytes.len() as u64)))
        }
        Some(Rule::Drop | Rule::Rewrite(_)) | None => Ok(None),
    }
}

/// Whether something new at a path is in the commit. That something was removed is, in any case: the
/// composed tree may have shipped the file itself, and then dropping the change would bring it back.
pub(super) fn keeps(policy: IdentityPolicy, path: &[u8]) -> bool {
    !matches!(rule(policy, path), Some(Rule::Drop))
}

/// Links whose name follows from the content of what they lead to (openssl-rehash(1ssl)).
const NAMED_BY_CONTENT: &[u8] = b"etc/ssl/certs/*.0";

/// Whether a link leads to what the commit does not have, and its name is of no use once that is made
/// anew. Other links stay: dovecot's, say, are to whatever certificate is there.
pub(super) fn leads_to_dropped(policy: IdentityPolicy, path: &[u8], target: &[u8]) -> bool {
    if !matches(NAMED_BY_CONTENT, path) {
        return false;
    }
    let parent = path.iter().rposition(|&byte| byte == b'/').map_or(&b""[..], |slash| &path[..slash]);
    let from = if target.starts_with(b"/") { &b""[..] } else { parent };
    let mut names = Vec::new();
    for name in from.split(|&byte| byte == b'/').chain(target.split(|&byte| byte == b'/')) {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            _ => names.push(name),
        }
    }
    matches!(rule(policy, &names.join(&b'/')), Some(Rule::Drop))
}

/// Glob match in which `*` stands for any bytes but `/`.
pub(super) fn matches(pattern: &[u8], path: &[u8]) -> bool {
    let Some(star) = pattern.iter().position(|&byte| byte == b'*') else { return pattern == path };
    let (head, tail) = (&pattern[..star], &pattern[star + 1..]);
    let Some(rest) = path.strip_prefix(head) else { return false };
    let name = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
    (0..=name).any(|end| matches(tail, &rest[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_reach_what_they_name_and_no_more() {
        let table: &[(&str, &str)] = &[
            ("etc/machine-id", "empty"),
            ("var/lib/dpkg/status-old", "drop"),
            ("var/lib/dpkg/status", "none"),
            ("var/cache/man/de/index.db", "drop"),
            ("var/cache/man/CACHEDIR.TAG", "none"),
            ("var/lib/dpkg/info/x-old", "none"),
            ("var/lib/texmf/web2c/updmap.log", "drop"),
            ("var/lib/texmf/web2c/luatex/luatex.log", "drop"),
            ("var/lib/texmf/web2c/luatex/luatex.fmt", "none"),
            ("var/lib/texmf/web2c/a/b/luatex.log", "none"),
            ("etc/ssl/certs/java/cacerts", "rewrite"),
        ];
        for (path, expected) in table {
            let name = match rule(IdentityPolicy::Remove, path.as_bytes()) {
                None => "none",
                Some(Rule::Drop) => "drop",
                Some(Rule::Empty) => "empty",
                Some(Rule::Rewrite(_)) => "rewrite",
            };
            assert_eq!(name, *expected, "{path}");
        }
    }

    #[test]
    fn links_named_by_what_is_dropped_go_with_it() {
        for (path, target, expected) in [
            ("etc/ssl/certs/ce275665.0", "ssl-cert-snakeoil.pem", true),
            ("etc/ssl/certs/ce275665.0", "/etc/ssl/certs/ssl-cert-snakeoil.pem", true),
            ("etc/ssl/certs/ce275665.0", ".././certs//ssl-cert-snakeoil.pem", true),
            ("etc/ssl/certs/ca.0", "ca.pem", false),
            ("etc/ssl/certs/machine.0", "/etc/machine-id", false), // is emptied, not dropped
            ("etc/dovecot/private/dovecot.pem", "/etc/ssl/certs/ssl-cert-snakeoil.pem", false),
        ] {
            let leads = |policy| leads_to_dropped(policy, path.as_bytes(), target.as_bytes());
            assert_eq!(leads(IdentityPolicy::Remove), expected, "{path} {target}");
            assert!(!leads(IdentityPolicy::Keep), "{path} {target}");
        }
    }

    #[test]
    fn stars_stand_for_parts_of_one_name() {
        for (pattern, path, expected) in [
            ("a/*.log", "a/b.log", true),
            ("a/*.log", "a/b/c.log", false),
            ("a/*/*.log", "a/b/c.log", true),
            ("a/*/*.log", "a/c.log", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), path.as_bytes()), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn contents() {
        let file = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().expect("a temporary file");
            file.write_all(bytes).and_then(|()| file.rewind()).expect("writing it");
            file
        };
        for (path, bytes, expected) in [
            ("etc/machine-id", "0123", ""),
            ("etc/hostname", "CT: 5", "CT: 5"),
            ("etc/iscsi/initiatorname.iscsi", "# one\nInitiatorName=iqn.x:1\n", "# one\nGenerateName=yes\n"),
            ("var/lib/doc-base/info/files.yml", "---\n/x:\n  CT: 5\n", "---\n/x:\n  CT: 77\n"),
            ("etc/aliases.db", "no database", "no database"),
        ] {
            let (mut before, size) = (file(bytes.as_bytes()), bytes.len() as u64);
            let replaced = content(IdentityPolicy::Remove, path.as_bytes(), &mut before, size, 77);
            let (mut now, size) = replaced.expect("a content").unwrap_or((before, size));
            let mut text = String::new();
            now.read_to_string(&mut text).expect("reading it");
            assert_eq!((text.as_str(), size), (expected, expected.len() as u64), "{path}");
        }
    }
}
