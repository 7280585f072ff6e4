//! A package's stanza in dpkg's status file, as dpkg writes it after `--unpack`.
//!
//! dpkg does not copy the control file: it parses what it knows, prints that in an order of its
//! own, and what it does not know after that (`fieldinfos` in dpkg's parse.c, dump.c).

use std::{collections::HashSet, fmt::Write};

use super::Package;
use crate::{
    debian::relation,
    error::{Error, Result},
};

/// How a field is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// As it is; not at all if it is empty.
    Text,
    /// `yes`, or not at all.
    Flag,
    /// A version.
    Version,
    /// A list of relations.
    Relations,
    /// `install ok unpacked`.
    Status,
    /// The package's configuration files.
    Conffiles,
    /// Not at all: it is of the available file, of a later state, or obsolete.
    Nothing,
}

/// dpkg's fields, in its order.
const FIELDS: [(&str, Kind); 37] = [
    ("Package", Kind::Text),
    ("Essential", Kind::Flag),
    ("Protected", Kind::Flag),
    ("Status", Kind::Status),
    ("Priority", Kind::Text),
    ("Section", Kind::Text),
    ("Installed-Size", Kind::Text),
    ("Origin", Kind::Text),
    ("Maintainer", Kind::Text),
    ("Bugs", Kind::Text),
    ("Architecture", Kind::Text),
    ("Multi-Arch", Kind::Text),
    ("Source", Kind::Text),
    ("Version", Kind::Version),
    ("Config-Version", Kind::Nothing),
    ("Replaces", Kind::Relations),
    ("Provides", Kind::Relations),
    ("Depends", Kind::Relations),
    ("Pre-Depends", Kind::Relations),
    ("Recommends", Kind::Relations),
    ("Suggests", Kind::Relations),
    ("Breaks", Kind::Relations),
    ("Conflicts", Kind::Relations),
    ("Enhances", Kind::Relations),
    ("Conffiles", Kind::Conffiles),
    ("Filename", Kind::Nothing),
    ("Size", Kind::Nothing),
    ("MD5sum", Kind::Nothing),
    ("Description", Kind::Text),
    ("Triggers-Pending", Kind::Nothing),
    ("Triggers-Awaited", Kind::Nothing),
    ("Recommended", Kind::Nothing),
    ("Optional", Kind::Nothing),
    ("Class", Kind::Nothing),
    ("Revision", Kind::Nothing),
    ("Package-Revision", Kind::Nothing),
    ("Package_Revision", Kind::Nothing),
];

/// The stanza of an unpacked package, without the blank line after it. `obsolete`: those of its
/// configuration files that another package has taken over.
///
/// # Errors
/// `Kind::Input` if a relation field cannot be parsed.
pub fn stanza(package: &Package, obsolete: Option<&HashSet<String>>) -> Result<String> {
    let fields = fields(&package.record.control);
    let get = |name: &str| {
        fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| *value)
    };
    let mut text = String::with_capacity(package.record.control.len() + 128);
    for (name, kind) in FIELDS {
        let value = get(name);
        match kind {
            Kind::Text if value.is_empty() || (name == "Multi-Arch" && value.eq_ignore_ascii_case("no")) => {}
            Kind::Text => line(&mut text, name, value),
            Kind::Flag if value.eq_ignore_ascii_case("yes") => line(&mut text, name, "yes"),
            Kind::Version => line(&mut text, name, &version(value)),
            Kind::Relations if !value.is_empty() => line(&mut text, name, &relations(name, value)?),
            Kind::Status => line(&mut text, name, "install ok unpacked"),
            Kind::Conffiles => conffiles(&mut text, package, obsolete),
            Kind::Flag | Kind::Relations | Kind::Nothing => {}
        }
    }
    let known = |name: &str| FIELDS.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    for (name, value) in fields.iter().filter(|(name, _)| !known(name)) {
        line(&mut text, name, value);
    }
    Ok(text)
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name}: {value}");
}

fn conffiles(text: &mut String, package: &Package, obsolete: Option<&HashSet<String>>) {
    if package.record.conffiles.is_empty() {
        return;
    }
    text.push_str("Conffiles:\n");
    for conffile in &package.record.conffiles {
        let _ = write!(text, " /{} newconffile", conffile.path);
        if obsolete.is_some_and(|paths| paths.contains(&conffile.path)) {
            text.push_str(" obsolete");
        }
        if conffile.remove_on_upgrade {
            text.push_str(" remove-on-upgrade");
        }
        text.push('\n');
    }
}

/// The fields of a control file as dpkg takes them: values keep what is inside them, continuation
/// lines and trailing blanks of inner lines too.
fn fields(control: &str) -> Vec<(&str, &str)> {
    let mut fields = Vec::new();
    let mut rest = control.trim_start_matches('\n');
    while let Some((name, after)) = rest.split_once(':') {
        let mut end = 0;
        loop {
            end += after[end..].find('\n').unwrap_or(after.len() - end);
            match &after.as_bytes()[end..] {
                [b'\n', b' ' | b'\t', ..] => end += 1,
                _ => break,
            }
        }
        fields.push((name.trim_end(), after[..end].trim_start_matches([' ', '\t']).trim_end()));
        rest = after[end..].trim_start_matches('\n');
    }
    fields
}

/// A version as dpkg prints it: an epoch of 0 is left out, unless a colon follows
/// (`varbufversion` with `vdew_nonambig`).
fn version(text: &str) -> String {
    match text.split_once(':') {
        Some((epoch, rest)) if !rest.contains(':') && epoch.bytes().all(|b| b == b'0') => rest.to_owned(),
        _ => text.to_owned(),
    }
}

/// A relation field as dpkg prints it.
fn relations(field: &str, value: &str) -> Result<String> {
    let mut text = String::with_capacity(value.len());
    let mut separator = "";
    for relation in relation::alternatives(value.as_bytes()) {
        let relation = relation.map_err(|error| Error::input(format!("{field}: {error}")))?;
        text.push_str(separator);
        let shown = relation.to_string();
        match shown.rsplit_once(' ') {
            // The version is the last word, before the closing parenthesis.
            Some((start, last)) if last.ends_with(')') => {
                let _ = write!(text, "{start} {})", version(&last[..last.len() - 1]));
            }
            _ => text.push_str(&shown),
        }
        separator = if relation.or_next { " | " } else { ", " };
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_lines() {
        let control = "Package: a\nDescription:  short\n long \n  more\n .\n end\nX: \n y\nEmpty:\nLast: z";
        let expected = vec![
            ("Package", "a"),
            ("Description", "short\n long \n  more\n .\n end"),
            ("X", "\n y"),
            ("Empty", ""),
            ("Last", "z"),
        ];
        assert_eq!(fields(control), expected);
    }

    #[test]
    fn versions_and_relations() {
        for (value, expected) in [
            ("a,b|c", "a, b | c"),
            ("a (>=0:1-1) ,\n b (= 1:2)", "a (>= 1-1), b (= 1:2)"),
            ("libc6:any (<< 2)", "libc6:any (<< 2)"),
        ] {
            assert_eq!(relations("Depends", value).expect(value), expected);
        }
        assert_eq!(version("0:1:2-3"), "0:1:2-3");
    }
}
