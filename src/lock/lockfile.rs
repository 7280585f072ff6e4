//! Lock files: a Debian Packages index, one stanza a package, sorted by name, version and
//! architecture.
//!
//! A lock that apt2ostree wrote reads as it is. treestrap adds fields of its own, which other
//! readers pass over:
//!
//! | field | where | meaning |
//! |---|---|---|
//! | `Treestrap-Request` | first stanza | the digest of the request that it answers |
//! | `Treestrap-Packages` | first stanza | how many packages there are, so that a cut file shows |
//! | `Treestrap-Repository` | each | the manifest's name of the repository |
//! | `Treestrap-Suite` | each | the suite there |
//! | `Treestrap-Reason` | each | why it is in: `requested`, `essential`, `depends of X`, … |
//! | `Treestrap-Layer` | each that is not in layer 0 | when it is installed ([`Layer`](crate::artefacts::Layer)) |
//! | `Treestrap-From` | each that a base brings | the image that this one continues from |

use std::path::Path;

use crate::{
    Error, Result,
    artefacts::{LAYER, LockedPackage, Lockfile},
    debian::{
        architecture,
        deb822::{self, Stanza},
        version,
    },
    digest::Sha256,
};

/// The field with the request's digest.
pub const REQUEST: &str = "Treestrap-Request";
/// The field with the number of packages.
pub const PACKAGES: &str = "Treestrap-Packages";
/// The field with the repository's name.
pub const REPOSITORY: &str = "Treestrap-Repository";
/// The field with the suite.
pub const SUITE: &str = "Treestrap-Suite";
/// The field with the reason.
pub const REASON: &str = "Treestrap-Reason";

/// Parses a lock; `path` is for messages alone. A package without a `Size` (apt2ostree writes
/// none) has the size 0, which no deb has.
pub fn parse(text: &str, path: &Path) -> Result<Lockfile> {
    let fail = |line: usize, message: String| {
        Error::input(format_args!("{}:{line}: {message}", path.display()))
            .hint("restore the lock from version control, or make a new one: treestrap lock --update")
    };
    let lines = text.lines().count();
    if text.trim().is_empty() {
        return Err(fail(1, "the lock is empty".to_owned()));
    }
    if !text.ends_with('\n') {
        return Err(fail(lines, "the lock ends within a line: it is cut off".to_owned()));
    }
    let stanzas = deb822::parse(text).map_err(|error| fail(error.line, error.message))?;
    if stanzas.is_empty() {
        return Err(fail(1, "the lock has no package".to_owned())); // but perhaps comments
    }
    let mut packages = Vec::with_capacity(stanzas.len());
    let (mut request, mut count) = (None, None);
    for (at, (line, mut stanza)) in stanzas.into_iter().enumerate() {
        let package = stanza.get("Package").unwrap_or("a stanza without a Package field").to_owned();
        let fail = |message: String| fail(line, format!("{package}: {message}"));
        if at == 0 {
            if let Some(digest) = stanza.remove(REQUEST) {
                request = Some(digest.parse().map_err(|error| fail(format!("{REQUEST}: {error}")))?);
            }
            if let Some(number) = stanza.remove(PACKAGES) {
                let number: usize = number.parse().map_err(|error| fail(format!("{PACKAGES}: {error}")))?;
                count = Some(number);
            }
        }
        packages.push(locked_package(stanza).map_err(fail)?);
    }
    if let Some(count) = count.filter(|&count| count != packages.len()) {
        let message = format!("{} of its {count} packages are there: it is cut off", packages.len());
        return Err(fail(lines, message));
    }
    sort(&mut packages);
    for pair in packages.windows(2) {
        if pair[0].name == pair[1].name && pair[0].architecture == pair[1].architecture {
            let message =
                format!("{}: it is there twice: {} and {}", pair[0].name, pair[0].id(), pair[1].id());
            return Err(fail(1, message));
        }
    }
    Ok(Lockfile { packages, request })
}

fn locked_package(stanza: Stanza) -> Result<LockedPackage, String> {
    let field = |name: &str| -> Result<String, String> {
        match stanza.get(name) {
            Some(value) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(format!("it has no {name}")),
        }
    };
    let name = field("Package")?;
    if !is_package_name(&name) {
        return Err(format!("{name:?} is no package name"));
    }
    let number = field("Version")?;
    if !version::is_valid(&number) {
        return Err(format!("{number:?} is no version"));
    }
    let arch = field("Architecture")?;
    if arch != "all" && !architecture::is_valid(&arch) {
        return Err(format!("{arch:?} is no architecture"));
    }
    let filename = field("Filename")?;
    if !is_safe_path(&filename) {
        return Err(format!("the Filename {filename:?} leads out of the repository"));
    }
    let size = match stanza.get("Size") {
        None => 0,
        Some(text) => match text.parse() {
            Ok(size) if size > 0 => size,
            _ => return Err(format!("the Size {text:?} is not a number of bytes")),
        },
    };
    let sha256: Sha256 = field("SHA256")?.parse().map_err(|error| format!("SHA256: {error}"))?;
    if let Some(number) = stanza.get(LAYER)
        && number.parse::<u32>().is_err()
    {
        return Err(format!("{LAYER}: {number:?} is no number"));
    }
    let repository = stanza.get(REPOSITORY).map(str::to_owned);
    Ok(LockedPackage {
        name,
        version: number,
        architecture: arch,
        filename,
        size,
        sha256,
        repository,
        stanza,
    })
}

/// Makes the entry of a package from its stanza of an index, with treestrap's own fields.
pub fn entry(stanza: &[u8], repository: &str, suite: &str) -> Result<LockedPackage> {
    let mut owned = Stanza::default();
    for (name, value) in deb822::fields(stanza) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        // A Packages file has no say in treestrap's own fields.
        if !name.to_ascii_lowercase().starts_with(b"treestrap-") && owned.get(&text(name)).is_none() {
            owned.fields.push((text(name), text(value)));
        }
    }
    owned.set(REPOSITORY, repository);
    owned.set(SUITE, suite);
    let name = owned.get("Package").unwrap_or("a stanza without a Package field").to_owned();
    locked_package(owned)
        .map_err(|message| Error::input(format_args!("{name}: {message}")))
        .map_err(|error| error.context(format_args!("Packages of {suite} in repository {repository:?}")))
}

/// Prints a lock: always the same bytes for the same lock.
pub fn print(lockfile: &Lockfile) -> String {
    let mut packages = lockfile.packages.clone();
    sort(&mut packages);
    let count = packages.len();
    if let (Some(first), Some(request)) = (packages.first_mut(), lockfile.request) {
        first.stanza.set(REQUEST, request.to_string());
        first.stanza.set(PACKAGES, count.to_string());
    }
    deb822::print(packages.iter().map(|package| &package.stanza))
}

/// Puts packages in a lock's order.
pub fn sort(packages: &mut [LockedPackage]) {
    packages.sort_by(|a, b| {
        a.name
            .cmp(&b.name)
            .then_with(|| version::compare(&a.version, &b.version))
            .then_with(|| a.architecture.cmp(&b.architecture))
    });
}

/// Policy 5.6.1, which also keeps names safe in paths and refs; old packages have names of one
/// letter.
fn is_package_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
}

/// Whether a path stays below the folder that it is relative to, whatever it is appended to: a
/// URI or a folder.
fn is_safe_path(path: &str) -> bool {
    // Flat repositories write `./name.deb`.
    let path = path.strip_prefix("./").unwrap_or(path);
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.contains(|c: char| c.is_control() || c.is_whitespace() || "\\?#".contains(c))
        && !path.contains("://")
        && !path.to_ascii_lowercase().contains("%2e%2e")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As apt2ostree writes it: no Size, fields in its own order.
    const FOREIGN: &str = "\
Package: adduser
Architecture: all
Version: 3.113+nmu3ubuntu4
Replaces: manpages-it (<< 0.3.4-2), manpages-pl (<= 20051117-1)
Depends: perl-base (>= 5.6.0), passwd (>= 1:4.1.5.1-1.1ubuntu6), debconf | debconf-2.0
Filename: pool/main/a/adduser/adduser_3.113+nmu3ubuntu4_all.deb
MD5sum: 36f79d952ced9bde3359b63cf9cf44fb
SHA1: 6a5b8f58e33d5c9a25f79c6da80a64bf104e6268
SHA256: ca6c86cb229082cc22874ed320eac8d128cc91f086fe5687946e7d05758516a3
Multi-Arch: foreign

Package: base-files
Architecture: amd64
Version: 9.4ubuntu4.11
Filename: pool/main/b/base-files/base-files_9.4ubuntu4.11_amd64.deb
SHA256: 464ce0515a6bd99ff3b862c5a772e51d912863db854bad074bd479815c9b50f8

";

    fn read(text: &str) -> Result<Lockfile> {
        parse(text, Path::new("image.lock"))
    }

    #[test]
    fn a_lock_of_another_tool_reads_and_prints_as_it_is() {
        let lock = read(FOREIGN).expect("well-formed");
        assert_eq!(lock.request, None);
        let ids: Vec<String> = lock.packages.iter().map(LockedPackage::id).collect();
        assert_eq!(ids, ["adduser_3.113+nmu3ubuntu4_all", "base-files_9.4ubuntu4.11_amd64"]);
        assert_eq!(lock.packages[0].size, 0);
        assert_eq!(lock.packages[0].repository, None);
        assert_eq!(print(&lock), FOREIGN);
    }

    #[test]
    fn our_own_fields_come_back() {
        let mut lock = read(FOREIGN).expect("well-formed");
        lock.request = Some(Sha256::of(b"request"));
        lock.packages.reverse();
        let text = print(&lock);
        assert!(text.starts_with("Package: adduser\n"), "{text}");
        assert_eq!(text.matches(REQUEST).count(), 1);
        lock.packages.reverse();
        assert_eq!(read(&text).expect("well-formed"), lock);
        assert_eq!(print(&read(&text).expect("well-formed")), text);
    }

    #[test]
    fn bad_locks_name_file_line_and_package() {
        let sha256 = "SHA256: ca6c86cb229082cc22874ed320eac8d128cc91f086fe5687946e7d05758516a3\n";
        let with = |from: &str, to: &str| FOREIGN.replacen(from, to, 1);
        let own = {
            let mut lock = read(FOREIGN).expect("well-formed");
            lock.request = Some(Sha256::of(b"request"));
            print(&lock)
        };
        let cut = &own[..own.find("\n\n").expect("two stanzas") + 2];
        for (text, expected) in [
            (with(sha256, ""), "image.lock:1: adduser: it has no SHA256"),
            (with("758516a3", "7585"), "image.lock:1: adduser: SHA256:"),
            (with("base-files\n", "adduser\n").replace("amd64\n", "all\n"), "adduser: it is there twice"),
            (
                with("Filename: pool/main/b", "Filename: ../b"),
                "image.lock:12: base-files: the Filename \"../b/base-files",
            ),
            (with("Filename: pool", "Filename: /pool"), "leads out of the repository"),
            (with("Filename: pool", "Filename: pool/./x"), "leads out of the repository"),
            (with("Package: base-files", "Package: ../b"), "\"../b\" is no package name"),
            (with("9.4ubuntu4.11\n", "9.4/../x\n"), "is no version"),
            (with("Architecture: amd64", "Architecture: ../x"), "is no architecture"),
            (with("SHA1:", "Size: many\nSHA1:"), "the Size \"many\""),
            (FOREIGN[..FOREIGN.len() - 8].to_owned(), "cut off"),
            (cut.to_owned(), "1 of its 2 packages are there"),
            (String::new(), "image.lock:1: the lock is empty"),
            ("# a comment\n".to_owned(), "image.lock:1: the lock has no package"),
            ("PK\u{3}\u{4}garbage\n".to_owned(), "image.lock:1: "),
        ] {
            let error = read(&text).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error} / {expected}");
            assert_eq!(error.kind(), crate::error::Kind::Input);
            assert!(error.get_hint().is_some());
        }
    }

    #[test]
    fn an_index_cannot_speak_for_treestrap() {
        let stanza = b"Package: a\nVersion: 1\nArchitecture: all\nFilename: pool/a.deb\nSize: 5\n\
            Treestrap-Repository: other\nSHA256: ca6c86cb229082cc22874ed320eac8d128cc91f086fe5687946e7d05758516a3";
        let package = entry(stanza, "debian", "bookworm").expect("well-formed");
        assert_eq!(package.repository.as_deref(), Some("debian"));
        assert_eq!(package.stanza.get(SUITE), Some("bookworm"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([A-Z][a-z]{0,3}:? ?[a-z0-9:. /-]{0,9}\n?){0,9}", any: String) {
            let _ = read(&text);
            let _ = read(&any);
        }

        #[test]
        fn no_change_of_a_byte_panics(at in 0..FOREIGN.len(), byte in 0u8..128) {
            let mut text = FOREIGN.as_bytes().to_vec();
            text[at] = byte;
            if let Ok(lock) = read(&String::from_utf8_lossy(&text)) {
                prop_assert_eq!(&read(&print(&lock)).expect("what was printed reads"), &lock);
            }
        }
    }
}
