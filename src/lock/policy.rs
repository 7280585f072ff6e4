//! Which version of each package is its candidate: apt_preferences(5).
//!
//! An index has priority 500, or 1 if its suite is `NotAutomatic`, or 100 if it is also
//! `ButAutomaticUpgrades`; a pin of all packages changes that. A version has the priority of its
//! own first pin, else the highest of its indexes. The candidate is the newest version of those
//! with the highest priority above zero.

use std::collections::HashMap;

use regex::{Regex, RegexBuilder};

use super::{
    index::Index,
    universe::{Architecture, PackageId, Universe, VersionId},
};
use crate::{Error, Result, artefacts::Pin, debian::deb822};

/// What a pin, a `name/suite` or a `name=version` matches.
#[derive(Debug)]
pub(super) enum Matcher {
    /// A version number: `1.2`, `1.2*`, or a pattern.
    Version(TextMatcher),
    /// A suite: each given property of its Release file (and index) must match.
    Release(Vec<(Property, TextMatcher)>),
    /// The host that an index comes from.
    Origin(TextMatcher),
}

/// A property of a Release file or an index.
#[derive(Clone, Copy, Debug)]
pub(super) enum Property {
    /// `a=`
    Suite,
    /// `n=`
    Codename,
    /// Either, as in `name/suite`.
    SuiteOrCodename,
    /// `v=`
    Version,
    /// `o=`
    Origin,
    /// `l=`
    Label,
    /// `c=`
    Component,
    /// `b=`
    Architecture,
    /// `*`
    Anything,
}

/// A glob (fnmatch(3)) or a `/regular expression/`; letter case is ignored.
#[derive(Debug)]
pub(super) struct TextMatcher(Regex);

impl TextMatcher {
    fn new(pattern: &str) -> Result<Self> {
        let expression = match pattern.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
            Some(expression) => expression.to_owned(),
            None => glob_to_expression(pattern),
        };
        RegexBuilder::new(&expression).case_insensitive(true).build().map(TextMatcher).map_err(|error| {
            Error::input(format_args!("the pattern {pattern:?} is not well-formed"))
                .hint(error.to_string().lines().last().unwrap_or_default())
        })
    }

    fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// The regular expression that means the same as a glob.
fn glob_to_expression(glob: &str) -> String {
    let mut expression = String::from("^(?s:");
    let mut rest = glob.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '\\' => expression.push_str(&regex::escape(&rest.next().unwrap_or('\\').to_string())),
            '[' => match rest.as_str().find(']') {
                // A bracket that is first in the set stands for itself: look for the next one.
                Some(end) => {
                    let skip = if end == 0 { 1 } else { 0 };
                    let end = rest.as_str()[skip..].find(']').map_or(end, |next| next + skip);
                    let set = &rest.as_str()[..end];
                    let (negated, set) = match set.strip_prefix(['!', '^']) {
                        Some(set) => ("^", set),
                        None => ("", set),
                    };
                    let set = set.replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]");
                    expression.push_str(&format!("[{negated}{set}]"));
                    rest = rest.as_str()[end + 1..].chars();
                }
                None => expression.push_str("\\["),
            },
            c => expression.push_str(&regex::escape(&c.to_string())),
        }
    }
    expression.push_str(")$");
    expression
}

impl Matcher {
    /// What matches version numbers: one, or a prefix that ends in `*`, or a pattern.
    pub(super) fn version(pattern: &str) -> Result<Self> {
        TextMatcher::new(pattern).map(Matcher::Version)
    }

    /// What matches suites: a suite or codename, a release's version if it starts with a digit, or
    /// properties (`n=bookworm,c=main`).
    pub(super) fn release(pattern: &str) -> Result<Self> {
        let one = |property, pattern: &str| Ok((property, TextMatcher::new(pattern)?));
        if pattern == "*" {
            return Ok(Matcher::Release(vec![one(Property::Anything, "*")?]));
        }
        if !pattern.contains('=') {
            let version = pattern.starts_with(|c: char| c.is_ascii_digit());
            let property = if version { Property::Version } else { Property::SuiteOrCodename };
            return Ok(Matcher::Release(vec![one(property, pattern)?]));
        }
        let properties = pattern.split(',').map(str::trim).map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let property = match name.to_ascii_lowercase().as_str() {
                "a" => Property::Suite,
                "n" => Property::Codename,
                "v" => Property::Version,
                "o" => Property::Origin,
                "l" => Property::Label,
                "c" => Property::Component,
                "b" => Property::Architecture,
                _ => {
                    return Err(Error::input(format_args!("{part:?} is no property of a release")).hint(
                        "apt_preferences(5) knows a= (suite), n= (codename), v= (version), o= (origin), \
                         l= (label), c= (component) and b= (architecture)",
                    ));
                }
            };
            one(property, value)
        });
        Ok(Matcher::Release(properties.collect::<Result<_>>()?))
    }

    /// What comes after `Pin:`.
    fn pin(text: &str) -> Result<Self> {
        let (kind, data) = text.trim().split_once(char::is_whitespace).unwrap_or((text, ""));
        let data = data.trim();
        match kind.to_ascii_lowercase().as_str() {
            "version" => Matcher::version(data),
            "release" => Matcher::release(data),
            "origin" => TextMatcher::new(data.trim_matches('"')).map(Matcher::Origin),
            _ => Err(Error::input(format_args!("{text:?} is no pin"))
                .hint("write `release n=SUITE`, `version 1.2*` or `origin HOST`")),
        }
    }

    /// Whether an index matches; never by version numbers.
    pub(super) fn matches_index(&self, index: &Index) -> bool {
        let release = &index.release;
        match self {
            Matcher::Version(_) => false,
            Matcher::Origin(host) => host.matches(host_of(&index.uri)),
            Matcher::Release(properties) => properties.iter().all(|(property, pattern)| {
                // A property that the Release file does not have matches nothing.
                let has = |text: &str| !text.is_empty() && pattern.matches(text);
                match property {
                    Property::Suite => has(&release.suite),
                    Property::Codename => has(&release.codename),
                    Property::SuiteOrCodename => has(&release.suite) || has(&release.codename),
                    Property::Version => has(&release.version),
                    Property::Origin => has(&release.origin),
                    Property::Label => has(&release.label),
                    Property::Component => has(&index.component),
                    Property::Architecture => has(&index.architecture),
                    Property::Anything => true,
                }
            }),
        }
    }

    /// Whether a version matches, by its number or by one of its indexes.
    pub(super) fn matches_version(
        &self,
        universe: &Universe<'_>,
        indexes: &[Index],
        version: VersionId,
    ) -> bool {
        let version = universe.version(version);
        match self {
            Matcher::Version(pattern) => pattern.matches(&String::from_utf8_lossy(version.number)),
            _ => version
                .indexes
                .iter()
                .any(|&at| indexes.get(usize::from(at)).is_some_and(|index| self.matches_index(index))),
        }
    }
}

/// The host of a URI; none for local ones.
fn host_of(uri: &str) -> &str {
    let Some((_, rest)) = uri.split_once("://") else { return "" };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The priorities of one set of indexes.
#[derive(Debug)]
pub(super) struct Policy {
    /// Of the indexes, in their order.
    indexes: Vec<i32>,
    /// Of versions that have a pin of their own.
    versions: HashMap<VersionId, i32>,
}

impl Policy {
    /// Applies the pins, of which the first that fits wins.
    pub(super) fn new(universe: &Universe<'_>, indexes: &[Index], pins: &[Pin]) -> Result<Self> {
        let mut priorities: Vec<(i32, bool)> = indexes
            .iter()
            .map(|index| match &index.release {
                release if release.but_automatic_upgrades => (100, false),
                release if release.not_automatic => (1, false),
                _ => (500, false),
            })
            .collect();
        let mut versions = HashMap::new();
        for pin in pins {
            let context = || format!("the pin of {:?}", pin.package);
            let matcher = Matcher::pin(&pin.pin).map_err(|error| error.context(context()))?;
            if pin.priority == 0 || i16::try_from(pin.priority).is_err() {
                let message = format!("{} is no priority", pin.priority);
                return Err(Error::input(message)
                    .context(context())
                    .hint("write 1 to 32767, or less than 0"));
            }
            if pin.package.trim() == "*" {
                if matches!(matcher, Matcher::Version(_)) {
                    return Err(Error::input("a version pins single packages").context(context()));
                }
                for ((priority, fixed), index) in priorities.iter_mut().zip(indexes) {
                    if !*fixed && matcher.matches_index(index) {
                        (*priority, *fixed) = (pin.priority, true);
                    }
                }
                continue;
            }
            for name in pin.package.split_whitespace() {
                let pinned = pinned_versions(universe, name).map_err(|error| error.context(context()))?;
                for version in pinned {
                    if matcher.matches_version(universe, indexes, version) {
                        versions.entry(version).or_insert(pin.priority);
                    }
                }
            }
        }
        Ok(Policy { indexes: priorities.into_iter().map(|(priority, _)| priority).collect(), versions })
    }

    /// A version's priority; below zero it is never chosen.
    fn priority(&self, universe: &Universe<'_>, version: VersionId) -> i32 {
        if let Some(&priority) = self.versions.get(&version) {
            return priority;
        }
        let indexes = universe.version(version).indexes.iter();
        indexes.filter_map(|&at| self.indexes.get(usize::from(at)).copied()).max().unwrap_or(0)
    }

    /// Whether a version may be installed at all.
    pub(super) fn allows(&self, universe: &Universe<'_>, version: VersionId) -> bool {
        self.priority(universe, version) > 0
    }

    /// A package's candidate.
    pub(super) fn candidate(&self, universe: &Universe<'_>, package: PackageId) -> Option<VersionId> {
        let mut best = (0, None);
        for version in universe.versions(package) {
            let priority = self.priority(universe, version);
            if priority > best.0 {
                best = (priority, Some(version));
            }
        }
        best.1
    }
}

/// All versions of the packages that a pin's `Package` word means: a name, a glob or a `/regular expression/`,
/// perhaps with an architecture, without one the native; of sources where it starts with `src:`.
fn pinned_versions(universe: &Universe<'_>, word: &str) -> Result<Vec<VersionId>> {
    let (of_source, word) = match word.strip_prefix("src:") {
        Some(word) => (true, word),
        None => (false, word),
    };
    let (name, architecture) = match word.rsplit_once(':') {
        Some((name, architecture)) if !name.is_empty() => (name, architecture),
        _ => (word, "native"),
    };
    let wanted = |package: &PackageId| match architecture {
        "any" => true,
        "native" => universe.package(*package).architecture == Architecture::NATIVE,
        name => universe.find_architecture(name.as_bytes()) == Some(universe.package(*package).architecture),
    };
    let is_expression = name.len() > 1 && name.starts_with('/') && name.ends_with('/');
    let is_pattern = is_expression || name.contains(['*', '[', '?']);
    let pattern = if is_pattern { Some(TextMatcher::new(name)?) } else { None };
    let fits = |text: &[u8]| match &pattern {
        Some(pattern) => pattern.matches(&String::from_utf8_lossy(text)),
        None => text == name.as_bytes(),
    };
    let versions_of = |package| universe.versions(package);
    if of_source {
        let all = universe.package_ids().filter(wanted).flat_map(versions_of);
        return Ok(all.filter(|&version| fits(source_of(universe, version))).collect());
    }
    if is_pattern {
        let named = universe.package_ids().filter(|&package| fits(universe.name(package)));
        return Ok(named.filter(wanted).flat_map(versions_of).collect());
    }
    let siblings = universe.find_name(name.as_bytes()).into_iter().flat_map(|g| universe.siblings(g));
    Ok(siblings.filter(wanted).flat_map(versions_of).collect())
}

/// The name of the source package that a version was built from.
fn source_of<'a>(universe: &Universe<'a>, version: VersionId) -> &'a [u8] {
    let version = universe.version(version);
    let source = deb822::field(version.stanza, "Source").unwrap_or(universe.name(version.package));
    source.split(u8::is_ascii_whitespace).next().unwrap_or(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_and_expressions() {
        for (pattern, yes, no) in [
            ("linux-*", "linux-image", "xlinux-image"),
            ("lib?", "LIBA", "lib"),
            ("a[bc]d", "acd", "aed"),
            ("a[!bc]d", "aed", "acd"),
            ("a.b", "a.b", "axb"),
            ("/^lib.*-dev$/", "libc6-dev", "libc6-devel"),
            ("/ib/", "liba", "lxb"),
            ("a[", "a[", "a"),
            ("[]]x", "]x", "x"),
            ("1.2*", "1.2-3", "1.1"),
        ] {
            let matcher = TextMatcher::new(pattern).expect("well-formed");
            assert!(matcher.matches(yes), "{pattern} {yes}");
            assert!(!matcher.matches(no), "{pattern} {no}");
        }
        assert!(TextMatcher::new("/(/").is_err());
    }

    #[test]
    fn hosts() {
        for (uri, host) in [
            ("http://mirror.example/debian", "mirror.example"),
            ("https://user:pw@mirror.example:8080/debian", "mirror.example"),
            ("file:/srv/debian", ""),
            ("file:///srv/debian", ""),
        ] {
            assert_eq!(host_of(uri), host, "{uri}");
        }
    }

    #[test]
    fn pins_that_make_no_sense() {
        for bad in ["", "suite bookworm", "release x=1", "release /(/"] {
            assert!(Matcher::pin(bad).is_err(), "{bad}");
        }
    }
}
