//! A section of packages and their repository.

use super::ini::Entry;
use crate::manifest::repository;

/// One section, put together from all files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Its name in lower case.
    pub name: String,
    /// Where it begins first: `FILE:LINE`.
    pub place: String,
    /// `packages`, as they are asked of apt but for architecture and suite.
    pub packages: Vec<String>,
    /// `architecture`: that of the packages, where it is not the image's own.
    pub architecture: Option<String>,
    /// `source`: the repository; a section may have none, and its packages come from the others'.
    pub source: Option<Source>,
    /// `suite`, without further words, which multistrap makes components of.
    pub suite: Option<String>,
    /// `components`; `main` where nothing is said, nothing for a flat repository.
    pub components: Vec<String>,
    /// `keyring`: the package with the repository's keys.
    pub keyring: Option<String>,
    /// `omitdebsrc`: whether the image's sources have no line for source packages.
    pub omit_deb_src: bool,
    /// `reinstall`.
    pub reinstall: Vec<String>,
    /// `additional`.
    pub additional: Vec<String>,
    /// Where the keys are that only count once: key, `FILE:LINE`.
    pub(super) places: Vec<(&'static str, String)>,
}

impl Section {
    /// Whether packages can be got from it: it has a repository and says which part of it.
    pub fn is_repository(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.flat.is_some() || self.suite.is_some())
    }

    /// The suite as apt has it: for a flat repository, its path.
    pub fn suite_or_path(&self) -> Option<&str> {
        let flat = self.source.as_ref().and_then(|source| source.flat.as_deref());
        flat.or(self.suite.as_deref())
    }
}

/// What `source` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The repository's URI.
    pub uri: String,
    /// The path of a flat repository, with a slash at its end.
    pub flat: Option<String>,
    /// What stands before it in brackets: names and values (sources.list(5)).
    pub options: Vec<(String, String)>,
}

impl Source {
    /// Parses the value; the error says what is wrong with it.
    pub(super) fn parse(value: &str) -> Result<Self, String> {
        let mut rest = value.trim();
        let mut options = Vec::new();
        while let Some(inner) = rest.strip_prefix('[') {
            let (words, after) = inner.split_once(']').ok_or("there is no ] after [")?;
            for word in words.split_whitespace() {
                let (name, value) = word.split_once('=').ok_or(format!("the option {word:?} has no ="))?;
                options.push((name.to_ascii_lowercase(), value.to_owned()));
            }
            rest = after.trim_start();
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        let (uri, flat) = match words.as_slice() {
            [] => return Err("it has no URI".to_owned()),
            [uri] => (*uri, None),
            // As multistrap tells one: the path of a flat repository ends in a slash.
            [uri, path] if path.ends_with('/') => (*uri, Some((*path).to_owned())),
            [_, second, ..] => {
                return Err(format!("{second:?} is neither part of the URI nor a flat repository's path"));
            }
        };
        if !repository::is_uri(uri) {
            return Err(format!(
                "{uri:?} is not a URI of a repository: http, https, file and copy are known"
            ));
        }
        Ok(Source { uri: uri.to_owned(), flat, options })
    }

    /// The last value of an option.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// As multistrap shows it.
    pub fn text(&self) -> String {
        let options = self.options.iter().map(|(name, value)| format!("{name}={value}"));
        let options = options.collect::<Vec<_>>().join(" ");
        let options = if options.is_empty() { options } else { format!("[{options}] ") };
        let flat = self.flat.as_ref().map(|path| format!(" {path}")).unwrap_or_default();
        format!("{options}{}{flat}", self.uri)
    }
}

/// A switch: `true` in any case is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Switch {
    pub(super) on: bool,
    /// What multistrap makes of the same text, where that differs.
    pub(super) elsewhere: Option<bool>,
}

impl Switch {
    /// `exact`: whether multistrap takes nothing but the very letters `true`, for this key. `default`: what
    /// an empty value means.
    pub(super) fn parse(entry: &Entry, exact: bool, default: bool) -> Self {
        let value = entry.value();
        let on = if value.is_empty() { default } else { value.eq_ignore_ascii_case("true") };
        let there = match exact {
            true => entry.raw == "true",
            false => entry.raw.eq_ignore_ascii_case("true"),
        };
        Switch { on, elsewhere: (there != on).then_some(there) }
    }

    /// Whether the value is one of the two that there are.
    pub(super) fn is_word(entry: &Entry) -> bool {
        ["", "true", "false"].iter().any(|word| entry.value().eq_ignore_ascii_case(word))
    }
}
