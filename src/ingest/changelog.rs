//! When a package was made, by its own changelog. The times of its files are no measure: OSTree keeps
//! none, and a package that is already unpacked must say the same as its deb.

use std::io::Read;

use crate::debian::changelog;

/// No changelog has more bytes, packed.
const SIZE_LIMIT: u64 = 16 << 20;

/// Nor does its newest entry end behind this much text.
const TEXT_LIMIT: u64 = 256 << 20;

/// Looks for the changelog among a package's files.
pub(super) struct Changelog {
    /// Where it can be, the best first.
    paths: [String; 5],
    /// The best that was found: its place among `paths`, and the date.
    found: Option<(usize, u64)>,
}

impl Changelog {
    /// Of the package `name`. A rebuild for one architecture has an entry of its own, in a file of its
    /// own; else the file's name says whether there is an upstream (Policy 12.7, dh_installchangelogs(1)).
    pub(super) fn of(name: &str, architecture: &str) -> Self {
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

    /// Whether a file of so many bytes is to be shown to [`Changelog::file`].
    pub(super) fn wants(&self, path: &str, size: u64) -> bool {
        size <= SIZE_LIMIT && self.paths.iter().any(|wanted| wanted == path)
    }

    /// Takes a file's content.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        let Some(rank) = self.paths.iter().position(|wanted| wanted == path) else { return };
        if self.found.is_some_and(|(best, _)| best < rank) {
            return;
        }
        let date = match path.ends_with(".gz") {
            true => changelog::newest(&mut flate2::read::MultiGzDecoder::new(content).take(TEXT_LIMIT)),
            false => changelog::newest(&mut &*content),
        };
        if let Some(date) = date {
            self.found = Some((rank, date));
        }
    }

    /// The date of its newest entry, in seconds since 1970; 0 if there is none.
    pub(super) fn date(&self) -> u64 {
        self.found.map_or(0, |(_, date)| date)
    }
}
