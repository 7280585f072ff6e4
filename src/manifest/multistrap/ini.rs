//! The lines of a multistrap configuration: sections, keys and values with the numbers of their lines.
//!
//! The syntax is that of Perl's Config::IniFiles(3pm) as multistrap calls it: comments are lines that
//! begin with `#` or `;`, a value goes to the end of its line (there are no comments behind one, no
//! quotes and no continuation lines), `key=<<WORD` has the lines up to one that is WORD as values. What
//! that module takes for an error is one here, and says where. What keys mean is not known here.

/// A section of one file. The same name may come several times: then their keys count together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    /// Its name in lower case: multistrap compares names so.
    pub(super) name: String,
    /// The number of its line.
    pub(super) line: usize,
    /// Its keys in the file's order.
    pub(super) entries: Vec<Entry>,
}

/// A key with one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The key as it is spelt.
    pub(super) key: String,
    /// The value with the white space at its end, which multistrap takes for a part of it.
    pub(super) raw: String,
    /// The number of its line.
    pub(super) line: usize,
}

impl Entry {
    /// The value.
    pub(super) fn value(&self) -> &str {
        self.raw.trim()
    }
}

/// A line that is none of the syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) line: usize,
    pub(super) message: String,
}

/// Parses a file.
pub(super) fn parse(text: &str) -> Result<Vec<Section>, Malformed> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut sections: Vec<Section> = Vec::new();
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        let malformed = |message: String| Malformed { line: number, message };
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = section_name(line) {
            sections.push(Section { name: name.to_lowercase(), line: number, entries: Vec::new() });
            continue;
        }
        let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim_start()))
        else {
            return Err(malformed(format!("neither [SECTION] nor KEY=VALUE: {:?}", line.trim_end())));
        };
        if key.is_empty() {
            return Err(malformed("there is no key before the =".to_owned()));
        }
        let Some(section) = sections.last_mut() else {
            return Err(malformed(format!("the key {key:?} is in no section: [General] comes first")));
        };
        let mut add = |raw: &str, line| {
            section.entries.push(Entry { key: key.to_owned(), raw: raw.to_owned(), line });
        };
        match value.strip_prefix("<<") {
            None => add(value, number),
            Some(end) => loop {
                match lines.next() {
                    Some((_, line)) if line == end => break,
                    Some((number, line)) => add(line, number),
                    None => return Err(malformed(format!("there is no line {end:?} after it"))),
                }
            },
        }
    }
    match sections.is_empty() {
        true => Err(Malformed { line: 1, message: "the file has no section".to_owned() }),
        false => Ok(sections),
    }
}

/// The name in `[NAME]`, which is more than white space.
fn section_name(line: &str) -> Option<&str> {
    let name = line.trim_end().strip_prefix('[')?.strip_suffix(']')?.trim();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `section: key=value@line`, a line each.
    fn shown(text: &str) -> Vec<String> {
        let sections = parse(text).expect("well-formed");
        let show = |section: &Section| {
            let name = section.name.clone();
            let entries = section.entries.iter();
            entries.map(move |e| format!("{name}: {}={}@{}", e.key, e.raw, e.line)).collect::<Vec<_>>()
        };
        sections.iter().flat_map(show).collect()
    }

    #[test]
    fn what_the_perl_module_reads() {
        for (text, expected) in [
            ("[General]\narch=armhf\n", &["general: arch=armhf@2"][..]),
            ("\u{feff}[General]\r\narch = armhf\r\n", &["general: arch=armhf@2"]),
            ("# c\n ; c\n\n  [ Two Words ]  \n\t key \t=  a  b \n", &["two words: key=a  b @5"]),
            ("[a]\nk=v # no comment; nor this\n", &["a: k=v # no comment; nor this@2"]),
            ("[a]\nk=\"a b\"\nk=x=y\n", &["a: k=\"a b\"@2", "a: k=x=y@3"]),
            ("[a]\nKey=\nk l=1\n", &["a: Key=@2", "a: k l=1@3"]),
            ("[a]\nk=<<E\none\n two \nE\nl=1\n", &["a: k=one@3", "a: k= two @4", "a: l=1@6"]),
            ("[a]\nk=1\n[b]\nk=2\n[A]\nk=3", &["a: k=1@2", "b: k=2@4", "a: k=3@6"]),
            ("[a]\n[b=c]\n", &[]),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_it_does_not_read() {
        for (text, line, message) in [
            ("", 1, "no section"),
            ("# nothing\n", 1, "no section"),
            ("arch=armhf\n", 1, "\"arch\" is in no section"),
            ("[a]\nrubbish\n", 2, "neither [SECTION] nor KEY=VALUE: \"rubbish\""),
            ("[a]\n=x\n", 2, "no key"),
            ("[a]\n[]\n", 2, "neither"),
            ("[a]\nk=<<END\nx\n", 2, "no line \"END\""),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.line == line && error.message.contains(message), "{text:?}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\[?[ a-zA-Z]{0,6}[]=<;#]{0,3}[ a-z]{0,4}\r?\n?){0,9}", any: String) {
            let _ = parse(&text);
            let _ = parse(&any);
        }
    }
}
