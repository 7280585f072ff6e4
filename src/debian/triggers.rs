//! Interests of packages in triggers, as dpkg keeps them in `var/lib/dpkg/triggers` (deb-triggers(5);
//! `trk_file_write_change` and `trk_explicit_interest_change` in dpkg's triglib.c).

use std::{collections::BTreeMap, fmt::Write};

/// The files' names and texts: `File` has the interests in paths, the others are named after their
/// trigger. From each package's name (with its architecture if it is `Multi-Arch: same`) and the text
/// of its control file `triggers`, in the order of unpacking.
///
/// # Errors
/// A trigger's name that no file can have, with its package's.
pub fn interests<'a>(
    packages: impl Iterator<Item = (String, &'a str)>,
) -> Result<BTreeMap<String, String>, String> {
    let mut files: BTreeMap<String, Vec<(String, String, bool)>> = BTreeMap::new();
    for (owner, text) in packages {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let (Some(directive), Some(trigger)) = (words.next(), words.next()) else { continue };
            let wait = match directive {
                "interest" | "interest-await" => true,
                "interest-noawait" => false,
                // Nobody is interested yet who is more than unpacked: nothing is recorded.
                _ => continue,
            };
            let file = match trigger.starts_with('/') {
                true => "File",
                false if trigger.contains('/') || trigger.starts_with('.') => {
                    return Err(format!("{owner}: {trigger:?} is no name of a trigger"));
                }
                false => trigger,
            };
            let lines = files.entry(file.to_owned()).or_default();
            match lines.iter_mut().find(|(t, o, _)| t == trigger && *o == owner) {
                Some((.., known)) => *known = wait,
                None => lines.push((trigger.to_owned(), owner.clone(), wait)),
            }
        }
    }
    let print = |(name, lines): (String, Vec<(String, String, bool)>)| {
        let mut text = String::new();
        for (trigger, owner, wait) in lines {
            let trigger = if name == "File" { format!("{trigger} ") } else { String::new() };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{trigger}{owner}{}", if wait { "" } else { "/noawait" });
        }
        (name, text)
    };
    Ok(files.into_iter().map(print).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interests_are_written_as_dpkg_writes_them() {
        let packages = [
            ("libc-bin", "# comment\ninterest-noawait ldconfig\n"),
            ("man-db", "interest-noawait /usr/share/man\ninterest /opt # why\n"),
            ("libx:armhf", "activate-noawait ldconfig\ninterest ldconfig\ninterest-noawait ldconfig\n"),
        ];
        let files = interests(packages.into_iter().map(|(name, text)| (name.to_owned(), text)));
        let expected = [
            ("File", "/usr/share/man man-db/noawait\n/opt man-db\n"),
            ("ldconfig", "libc-bin/noawait\nlibx:armhf/noawait\n"),
        ];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(files, Ok(BTreeMap::from(expected)));
        for bad in ["interest a/b", "interest ../x"] {
            assert!(interests([("x".to_owned(), bad)].into_iter()).is_err(), "{bad}");
        }
    }
}
