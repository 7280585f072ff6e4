//! debian/changelog (Debian Policy 4.4), of which one thing is wanted: when its newest entry was made.

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
