//! deb822(5) stanzas: `Field: value` lines, continuation lines, blank lines between stanzas.
//!
//! Two readers: [`stanzas`] cuts a Packages file into slices without copying and [`fields`] looks
//! into one, for the 60,000 stanzas of an index of which 200 are wanted; [`parse`] makes owned
//! [`Stanza`]s and says where a file is malformed.

use std::fmt::Write;

use memchr::{memchr, memmem};
use serde::{Deserialize, Serialize};

/// One stanza, its fields in the file's order. A value is as written after the colon, without the
/// surrounding white space of its first line; continuation lines keep their leading space and are
/// apart by `\n`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stanza {
    /// Field names, as spelt, with their values.
    pub fields: Vec<(String, String)>,
}

impl Stanza {
    /// The value of a field; names ignore case (policy 5.1).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Sets a field: in its place if it is there, else as the last.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.fields.iter_mut().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value,
            None => self.fields.push((name.to_owned(), value)),
        }
    }

    /// Removes a field, giving its value.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let at = self.fields.iter().position(|(n, _)| n.eq_ignore_ascii_case(name))?;
        Some(self.fields.remove(at).1)
    }
}

/// Cuts `data` into stanzas: slices without the blank lines between them. Lines of only spaces and
/// tabs count as blank (apt and dpkg read them so).
pub fn stanzas(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    let blank_lines = memmem::Finder::new(b"\n\n");
    std::iter::from_fn(move || {
        let first = rest.iter().position(|b| !b" \t\r\n".contains(b))?;
        // Indented text at the start belongs to no field: it is left to who reads the stanza.
        rest = &rest[first..];
        let end = blank_lines.find(rest).unwrap_or(rest.len());
        let (end, next) = blank_with_spaces(&rest[..end]).unwrap_or((end, end));
        let stanza = &rest[..end];
        rest = &rest[next..];
        Some(stanza)
    })
}

/// Finds the first line of only spaces, tabs and carriage returns: where the stanza before it ends
/// and where the next line starts.
fn blank_with_spaces(stanza: &[u8]) -> Option<(usize, usize)> {
    let indented = |b: u8| matches!(b, b' ' | b'\t' | b'\r');
    let mut from = 0;
    while let Some(newline) = memchr(b'\n', &stanza[from..]) {
        let line = from + newline + 1;
        if stanza.get(line).copied().is_some_and(indented) {
            let length = stanza[line..].iter().position(|&b| !indented(b));
            match length {
                None => return Some((line - 1, stanza.len())),
                Some(length) if stanza[line + length] == b'\n' => return Some((line - 1, line + length)),
                Some(_) => {}
            }
        }
        from = line;
    }
    None
}

/// The fields of one stanza: names and values, trimmed of surrounding white space; continuation
/// lines are part of the value. Lines that are no field are passed over.
pub fn fields(stanza: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = stanza;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let mut end = memchr(b'\n', rest).unwrap_or(rest.len());
            while rest.get(end + 1).is_some_and(|b| matches!(b, b' ' | b'\t')) {
                end += 1 + memchr(b'\n', &rest[end + 1..]).unwrap_or(rest.len() - end - 1);
            }
            let field = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            if field.first().is_some_and(|b| matches!(b, b'#' | b' ' | b'\t')) {
                continue;
            }
            if let Some(colon) = memchr(b':', field) {
                return Some((field[..colon].trim_ascii_end(), field[colon + 1..].trim_ascii()));
            }
        }
        None
    })
}

/// The value of one field of a stanza; names ignore case.
pub fn field<'a>(stanza: &'a [u8], name: &str) -> Option<&'a [u8]> {
    fields(stanza).find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
}

/// Where and why a text is not deb822.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

/// Parses a text into owned stanzas, each with the number of its first line. Lines that start with
/// `#` are comments. A line that is neither a field nor a continuation, a field without a name and
/// a field given twice are errors.
pub fn parse(text: &str) -> Result<Vec<(usize, Stanza)>, ParseError> {
    let mut result: Vec<(usize, Stanza)> = Vec::new();
    let mut open = false;
    for (number, line) in (1..).zip(text.split('\n')) {
        let fail = |message: String| ParseError { line: number, message };
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.starts_with('#') {
            continue;
        }
        if line.trim_matches([' ', '\t']).is_empty() {
            open = false;
            continue;
        }
        if !open && !line.starts_with([' ', '\t']) {
            result.push((number, Stanza::default()));
            open = true;
        }
        let stanza = match result.last_mut() {
            Some((_, stanza)) if open => stanza,
            _ => return Err(fail("a continuation line that continues no field".to_owned())),
        };
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim_end());
            }
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err(fail(format!("{:?} is not a field (no colon)", shorten(line))));
        };
        let name = name.trim_end();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) || name.starts_with('-') {
            return Err(fail(format!("{:?} is not a field's name", shorten(name))));
        }
        if stanza.get(name).is_some() {
            return Err(fail(format!("the field {name} is given twice")));
        }
        stanza.fields.push((name.to_owned(), value.trim().to_owned()));
    }
    Ok(result)
}

/// The start of a text, for messages.
fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Prints stanzas, a blank line after each, as Packages files have it.
pub fn print<'a>(stanzas: impl IntoIterator<Item = &'a Stanza>) -> String {
    let mut text = String::new();
    for stanza in stanzas {
        for (name, value) in &stanza.fields {
            let space = if value.is_empty() || value.starts_with('\n') { "" } else { " " };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name}:{space}{value}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const TWO: &str = "Package: a\nDescription: one\n two\n .\n three\nEmpty:\n\n\n \t\nPackage:b\n";

    #[test]
    fn both_readers_agree() {
        let owned: Vec<Stanza> = parse(TWO).expect("well-formed").into_iter().map(|(_, s)| s).collect();
        let borrowed: Vec<Stanza> = stanzas(TWO.as_bytes())
            .map(|stanza| Stanza {
                fields: fields(stanza)
                    .map(|(n, v)| {
                        (String::from_utf8_lossy(n).into_owned(), String::from_utf8_lossy(v).into_owned())
                    })
                    .collect(),
            })
            .collect();
        assert_eq!(owned, borrowed);
        assert_eq!(owned[0].get("description"), Some("one\n two\n .\n three"));
        assert_eq!(owned[0].get("Empty"), Some(""));
        assert_eq!(owned[1].get("Package"), Some("b"));
        assert_eq!(print(&owned), "Package: a\nDescription: one\n two\n .\n three\nEmpty:\n\nPackage: b\n\n");
        assert_eq!(parse(TWO).expect("well-formed")[1].0, 10);
    }

    #[test]
    fn what_is_malformed_names_its_line() {
        for (text, line) in [
            ("Package: a\nnonsense\n", 2),
            (" continuation\n", 1),
            ("Package: a\n\n continuation\n", 3),
            ("A: 1\nB: 2\na: 3\n", 3),
            (": value\n", 1),
            ("a b: value\n", 1),
        ] {
            assert_eq!(parse(text).map_err(|e| e.line), Err(line), "{text:?}");
        }
    }

    #[test]
    fn a_blank_line_may_hold_white_space() {
        let texts = ["A: 1\n\nB: 2\n", "A: 1\n \nB: 2\n", "A: 1\r\n\r\nB: 2\r\n", "\n\nA: 1\n\t \n\nB: 2"];
        for text in texts {
            let found: Vec<_> = stanzas(text.as_bytes()).map(|s| (field(s, "a"), field(s, "b"))).collect();
            assert_eq!(found, [(Some(&b"1"[..]), None), (None, Some(&b"2"[..]))], "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(data: Vec<u8>, lines in "[A-C:# \t\r\n-]{0,60}") {
            for data in [&data, lines.as_bytes()] {
                for stanza in stanzas(data) {
                    prop_assert!(!stanza.is_empty());
                    fields(stanza).for_each(drop);
                }
            }
            let _ = parse(&lines);
            let _ = parse(&String::from_utf8_lossy(&data));
        }

        #[test]
        fn printed_stanzas_read_back(fields in prop::collection::btree_map("[A-Z][A-Za-z0-9-]{0,8}", "[a-z]([ -~]{0,12}[a-z])?(\n [a-z][ -~]{0,9}[a-z]){0,3}", 1..5)) {
            // Names that differ in case alone are one (policy 5.1), and twice one is an error.
            let fields: BTreeMap<_, _> =
                fields.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), (name, value))).collect();
            let stanza = Stanza { fields: fields.into_values().collect() };
            let read: Vec<_> = parse(&print([&stanza, &stanza])).expect("well-formed").into_iter().map(|(_, s)| s).collect();
            prop_assert_eq!(read, vec![stanza.clone(), stanza]);
        }
    }
}
