//! The little of apt's configuration that says how the host's own sources are to be used.
//!
//! Only what stands in the files is read (apt.conf(5)), not all that the syntax can do: `#include`
//! and `#clear` are passed over.

use std::{collections::BTreeMap, path::Path};

/// Options by their full name in lower case, the last value each: `acquire::check-valid-until`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AptConfiguration {
    options: BTreeMap<String, String>,
}

impl AptConfiguration {
    /// Reads `etc/apt/apt.conf.d/*` and then `etc/apt/apt.conf` below `root`.
    pub(super) fn read(root: &Path) -> Self {
        let mut configuration = AptConfiguration::default();
        let folder = root.join("etc/apt/apt.conf.d");
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        // No extension, or `conf`; of other names apt says so and passes them over.
        names.retain(|name| !name.starts_with('.') && name.rsplit_once('.').is_none_or(|(_, e)| e == "conf"));
        names.sort();
        let paths = names.into_iter().map(|name| folder.join(name)).chain([root.join("etc/apt/apt.conf")]);
        for text in paths.filter_map(|path| std::fs::read(path).ok()) {
            configuration.parse(&String::from_utf8_lossy(&text));
        }
        configuration
    }

    /// The value of an option, given by its full name in any case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.options.get(&name.to_ascii_lowercase()).map(String::as_str)
    }

    fn parse(&mut self, text: &str) {
        let mut scope: Vec<String> = Vec::new();
        let mut words: Vec<String> = Vec::new();
        for token in tokens(text) {
            match token {
                Token::Word(word) => words.push(word),
                Token::Open => scope.push(std::mem::take(&mut words).join(" ")),
                Token::Close => {
                    scope.pop();
                    words.clear();
                }
                Token::End => {
                    if let [name, value] = words.as_slice() {
                        let name =
                            scope.iter().chain([name]).map(String::as_str).collect::<Vec<_>>().join("::");
                        self.options.insert(name.to_ascii_lowercase(), value.clone());
                    }
                    words.clear();
                }
            }
        }
    }
}

enum Token {
    Word(String),
    Open,
    Close,
    End,
}

/// Words (perhaps quoted), braces and semicolons; comments are left out.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip_line = |rest: &'_ str| rest.find('\n').unwrap_or(rest.len());
        rest = match first {
            _ if first.is_whitespace() => &rest[first.len_utf8()..],
            '#' => &rest[skip_line(rest)..],
            '/' if rest.starts_with("//") => &rest[skip_line(rest)..],
            '/' if rest.starts_with("/*") => rest.find("*/").map_or("", |end| &rest[end + 2..]),
            '"' => {
                let (word, after) = rest[1..].split_once('"').unwrap_or((&rest[1..], ""));
                tokens.push(Token::Word(word.to_owned()));
                after
            }
            '{' | '}' | ';' => {
                tokens.push(match first {
                    '{' => Token::Open,
                    '}' => Token::Close,
                    _ => Token::End,
                });
                &rest[1..]
            }
            _ => {
                let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '{' | '}' | ';');
                let end = rest.find(ends).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                &rest[end..]
            }
        };
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("etc/apt/apt.conf.d");
        std::fs::create_dir_all(&folder).unwrap();
        let text = "// a comment; with \"signs\"\nAcquire { Check-Valid-Until \"false\"; /* no { */ http { Proxy \"http://p:1/\"; }; };\n\
                    APT::Default-Release stable;\nAPT { NeverAutoRemove { \"^linux;\"; }; };\n# Acquire::Retries \"9\";\n";
        std::fs::write(folder.join("10first"), text).unwrap();
        std::fs::write(folder.join("20second.conf"), "Acquire::Retries \"3\"; APT::Default-Release \"sid\";")
            .unwrap();
        std::fs::write(folder.join("30off.disabled"), "Acquire::Retries \"4\";").unwrap();
        let configuration = AptConfiguration::read(root.path());
        for (name, value) in [
            ("Acquire::Check-Valid-Until", Some("false")),
            ("acquire::HTTP::proxy", Some("http://p:1/")),
            ("APT::Default-Release", Some("sid")),
            ("Acquire::Retries", Some("3")),
            ("APT::NeverAutoRemove", None),
        ] {
            assert_eq!(configuration.get(name), value, "{name}");
        }
        assert_eq!(AptConfiguration::read(&root.path().join("none")), AptConfiguration::default());
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_is_no_panic(text in "[a{};\"/*# \\n:é]{0,60}") {
            AptConfiguration::default().parse(&text);
        }
    }
}
