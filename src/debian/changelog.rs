//! debian/changelog (Debian Policy 4.4), of which one thing is wanted: when its newest entry was made. It
//! says when a package was made; the times of its files do not, since OSTree keeps none, and a package
//! that is already unpacked must say the same as its deb.

use std::io::{BufRead, BufReader, Read};

use super::date;

/// Lines longer than this are no changelog's.
const LONGEST_LINE: u64 = 1 << 20;

/// When the newest entry, which is the first, was finished, in seconds since 1970: from its line
/// ` -- maintainer <address>  date`. None if the text is no changelog.
pub fn newest(text: &mut dyn Read) -> Option<u64> {
    let mut text = BufReader::new(text);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut text).take(LONGEST_LINE).read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let Some(trailer) = line.strip_prefix(b" -- ") else { continue };
        let trailer = String::from_utf8_lossy(trailer);
        let (_, date) = trailer.rsplit_once("> ")?;
        return date::parse(date).and_then(|seconds| u64::try_from(seconds).ok());
    }
}

/// No changelog has more bytes, packed.
const SIZE_LIMIT: u64 = 16 << 20;

/// Nor does its newest entry end behind this much text.
const TEXT_LIMIT: u64 = 256 << 20;

/// Looks for the changelog among a package's files.
pub struct Changelog {
    /// Where it can be, the best first.
    paths: [String; 5],
    /// The best that was found: its place among `paths`, and the date.
    found: Option<(usize, u64)>,
}

impl Changelog {
    /// Of the package `name`. A rebuild for one architecture has an entry of its own, in a file of its
    /// own; else the file's name says whether there is an upstream (Policy 12.7, dh_installchangelogs(1)).
    pub fn of(name: &str, architecture: &str) -> Self {
        let file = |file: String| format!("usr/share/doc/{name}/{file}");
        let paths = [
            file(format!("changelog.Debian.{architecture}.gz")),
            file("changelog.Debian.gz".to_owned()),
            file("changelog.Debian".to_owned()),
            file("changelog.gz".to_owned()),
            file("changelog".to_owned()),
        ];
        Changelog { paths, found: None }
    }

    /// Where it can be, the best first: paths without a leading slash.
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// Whether a file of so many bytes is to be shown to [`Changelog::file`].
    pub fn wants(&self, path: &str, size: u64) -> bool {
        size <= SIZE_LIMIT && self.paths.iter().any(|wanted| wanted == path)
    }

    /// Takes a file's content.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        let Some(rank) = self.paths.iter().position(|wanted| wanted == path) else { return };
        if self.found.is_some_and(|(best, _)| best < rank) {
            return;
        }
        let date = match path.ends_with(".gz") {
            true => newest(&mut flate2::read::MultiGzDecoder::new(content).take(TEXT_LIMIT)),
            false => newest(&mut &*content),
        };
        if let Some(date) = date {
            self.found = Some((rank, date));
        }
    }

    /// The date of its newest entry, in seconds since 1970; 0 if there is none.
    pub fn date(&self) -> u64 {
        self.found.map_or(0, |(_, date)| date)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_trailer_counts() {
        let entry = |version: &str, date: &str| {
            format!("demo ({version}) unstable; urgency=medium\n\n  * A change.\n -- not one\n\n -- A. Person <a@example.org>  {date}\n\n")
                .replace(" -- not one", "    -- not one")
        };
        let two =
            entry("2", "Mon, 12 Jun 2023 10:00:00 +0200") + &entry("1", "Sun, 01 Jan 2023 00:00:00 +0000");
        for (text, expected) in [
            (two.as_str(), Some(1_686_556_800)),
            (&entry("1", "yesterday"), None),
            ("demo (1) unstable; urgency=low\n\n  * No end.\n", None),
            (" -- nobody\n", None),
            ("", None),
        ] {
            assert_eq!(newest(&mut text.as_bytes()), expected, "{text}");
        }
        let mut garbage: &[u8] = b"\xff\xfe -- \xff> \n -- \xff>  \xff\n";
        assert_eq!(newest(&mut garbage), None);
    }
}
