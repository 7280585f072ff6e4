//! Release files: what a suite is, and the hashes of its indexes.

use std::collections::BTreeMap;

use super::date;
use crate::digest::Sha256;

/// A parsed Release file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// `Origin`, such as `Debian`.
    pub origin: String,
    /// `Label`.
    pub label: String,
    /// `Suite`, such as `stable`.
    pub suite: String,
    /// `Codename`, such as `trixie`.
    pub codename: String,
    /// `Version`, such as `13.1`.
    pub version: String,
    /// `NotAutomatic: yes` (priority 1 unless pinned).
    pub not_automatic: bool,
    /// `ButAutomaticUpgrades: yes` (priority 100).
    pub but_automatic_upgrades: bool,
    /// `Date`, in seconds since the epoch.
    pub date: Option<i64>,
    /// `Valid-Until`, in seconds since the epoch.
    pub valid_until: Option<i64>,
    /// `Acquire-By-Hash: yes`.
    pub acquire_by_hash: bool,
    /// `Architectures`.
    pub architectures: Vec<String>,
    /// `Components`.
    pub components: Vec<String>,
    /// `No-Support-for-Architecture-all: Packages`: binary-ARCH indexes hold `all` packages too.
    pub no_support_for_architecture_all: bool,
    /// The files of the `SHA256` field: path → digest and size in bytes.
    pub files: BTreeMap<String, (Sha256, u64)>,
}

/// Why a text is no Release file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// A line is neither a field, nor a continuation, nor a comment.
    #[error("line {0}: neither `Field: value` nor a continuation line")]
    Line(usize),
    /// Text after the first stanza.
    #[error("line {0}: text after the end of the stanza")]
    Trailing(usize),
    /// A field stands twice.
    #[error("line {line}: the field {field} stands twice")]
    Twice {
        /// The second one's line.
        line: usize,
        /// The field's name.
        field: String,
    },
    /// A line of the `SHA256` field is not `digest size path`.
    #[error("line {0}: not `SHA-256 digest, size, path`")]
    File(usize),
    /// `Date` or `Valid-Until` is no date.
    #[error("the field {field} is no date: {value:?}")]
    Date {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// There is no `SHA256` field: nothing could be verified.
    #[error("it has no SHA256 field (MD5 and SHA-1 are not trusted)")]
    NoSha256,
}

impl Release {
    /// Parses a Release file's text, the signed text of an InRelease file.
    /// Format: <https://wiki.debian.org/DebianRepository/Format>.
    pub fn parse(text: &str) -> Result<Release, ReleaseError> {
        let mut release = Release::default();
        let mut seen: Vec<String> = Vec::new();
        let mut field = String::new();
        let mut ended = false;
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_end())) {
            if line.is_empty() {
                ended |= !seen.is_empty();
                continue;
            }
            if line.starts_with('#') {
                continue;
            }
            if ended {
                return Err(ReleaseError::Trailing(number));
            }
            if line.starts_with([' ', '\t']) {
                if field.is_empty() {
                    return Err(ReleaseError::Line(number));
                }
                if field == "sha256" {
                    release.file(line).ok_or(ReleaseError::File(number))?;
                }
                continue;
            }
            let (name, value) = line.split_once(':').ok_or(ReleaseError::Line(number))?;
            field = name.to_ascii_lowercase();
            if seen.contains(&field) {
                return Err(ReleaseError::Twice { line: number, field: name.to_owned() });
            }
            seen.push(field.clone());
            release.field(&field, value.trim())?;
        }
        match seen.iter().any(|name| name == "sha256") {
            true => Ok(release),
            false => Err(ReleaseError::NoSha256),
        }
    }

    /// Takes the first line of a field.
    fn field(&mut self, name: &str, value: &str) -> Result<(), ReleaseError> {
        let words = || value.split_whitespace().map(str::to_owned).collect();
        let date = |field| {
            let invalid = || ReleaseError::Date { field, value: value.to_owned() };
            parse_date(value).map(Some).ok_or_else(invalid)
        };
        match name {
            "origin" => self.origin = value.to_owned(),
            "label" => self.label = value.to_owned(),
            "suite" => self.suite = value.to_owned(),
            "codename" => self.codename = value.to_owned(),
            "version" => self.version = value.to_owned(),
            "notautomatic" => self.not_automatic = is_yes(value),
            "butautomaticupgrades" => self.but_automatic_upgrades = is_yes(value),
            "date" => self.date = date("Date")?,
            "valid-until" => self.valid_until = date("Valid-Until")?,
            "acquire-by-hash" => self.acquire_by_hash = is_yes(value),
            "architectures" => self.architectures = words(),
            "components" => self.components = words(),
            "no-support-for-architecture-all" => {
                self.no_support_for_architecture_all =
                    value.split_whitespace().any(|word| word == "Packages");
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes a line of the `SHA256` field.
    fn file(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_whitespace();
        let (digest, size, path) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() {
            return None;
        }
        self.files.insert(path.to_owned(), (digest.parse().ok()?, size.parse().ok()?));
        Some(())
    }
}

/// A boolean, as apt reads it (`StringToBool`).
fn is_yes(value: &str) -> bool {
    ["yes", "true", "1", "with", "on", "enable"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

/// Only universal time may stand in a Release file (the format's definition), by any of its names.
fn parse_date(text: &str) -> Option<i64> {
    let zone = text.split_whitespace().next_back()?;
    let is_universal = ["UTC", "GMT", "Z", "+0000", "-0000"].contains(&zone);
    date::parse(text).filter(|_| is_universal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn sample() -> String {
        format!(
            "Origin: Debian\nLabel: Debian\nSuite: stable-updates\nVersion: 12-updates\n\
             Codename: bookworm-updates\nDate: Sat, 08 Jun 2024 09:11:42 UTC\n\
             Valid-Until: Sat, 15 Jun 2024 09:11:42 UTC\nNotAutomatic: yes\nButAutomaticUpgrades: yes\n\
             Acquire-By-Hash: yes\nNo-Support-for-Architecture-all: Packages\n\
             Architectures: all amd64 armhf\nComponents: main contrib\nDescription: Debian 12\n more\n\
             MD5Sum:\n d41d8cd98f00b204e9800998ecf8427e 0 main/binary-all/Packages\n\
             SHA256:\n {DIGEST}        0 main/binary-all/Packages\n {DIGEST} 14 main/binary-all/Packages.xz\n"
        )
    }

    #[test]
    fn a_release_file() {
        let release = Release::parse(&sample()).unwrap();
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let digest: Sha256 = DIGEST.parse().unwrap();
        let expected = Release {
            origin: "Debian".into(),
            label: "Debian".into(),
            suite: "stable-updates".into(),
            codename: "bookworm-updates".into(),
            version: "12-updates".into(),
            not_automatic: true,
            but_automatic_upgrades: true,
            date: Some(1_717_837_902),
            valid_until: Some(1_718_442_702),
            acquire_by_hash: true,
            architectures: words("all amd64 armhf"),
            components: words("main contrib"),
            no_support_for_architecture_all: true,
            files: [("", 0), (".xz", 14)]
                .map(|(extension, size)| (format!("main/binary-all/Packages{extension}"), (digest, size)))
                .into(),
        };
        assert_eq!(release, expected);
    }

    #[test]
    fn what_is_none_is_refused() {
        let with = |from: &str, to: &str| Release::parse(&sample().replace(from, to));
        for (from, to, error) in [
            ("Label: Debian", "Label Debian", ReleaseError::Line(2)),
            ("Label: Debian", "Origin: Other", ReleaseError::Twice { line: 2, field: "Origin".into() }),
            (" 14 main", " many main", ReleaseError::File(20)),
            ("SHA256:", "SHA1:", ReleaseError::NoSha256),
            ("Description", "\nDescription", ReleaseError::Trailing(15)),
        ] {
            assert_eq!(with(from, to), Err(error), "{from} → {to}");
        }
        let date = with("Date: Sat, 08 Jun 2024 09:11:42 UTC", "Date: yesterday").unwrap_err();
        assert_eq!(date.to_string(), "the field Date is no date: \"yesterday\"");
        assert_eq!(Release::parse(" continuation"), Err(ReleaseError::Line(1)));
    }

    #[test]
    fn dates_are_of_universal_time() {
        assert_eq!(parse_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(parse_date("Thu, 29 Feb 2024 23:59:59 +0100"), None);
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_is_no_panic(text in "(\\PC|\n|:| ){0,200}") {
            let _ = Release::parse(&text);
            let _ = parse_date(&text);
        }
    }
}
