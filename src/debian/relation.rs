//! Relations between packages: `Depends`, `Provides` and their kin (policy 7.1, deb-control(5)).
//!
//! Zero-copy: [`alternatives`] walks a field's bytes. A group of alternatives (`a | b`) comes as
//! consecutive relations of which all but the last have [`Relation::or_next`].

use std::{cmp::Ordering, fmt};

use super::version;

/// How a relation compares versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`, and the legacy `<`, which dpkg reads so
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`, and the legacy `>`
    LaterOrEqual,
    /// `>>`
    Later,
    /// Any but this one: not written in fields; the siblings of a `Multi-Arch: same` package
    NotEqual,
}

impl Operator {
    /// Whether a version that stands to the relation's in `order` satisfies it.
    pub fn accepts(self, order: Ordering) -> bool {
        match self {
            Operator::Earlier => order.is_lt(),
            Operator::EarlierOrEqual => order.is_le(),
            Operator::Equal => order.is_eq(),
            Operator::LaterOrEqual => order.is_ge(),
            Operator::Later => order.is_gt(),
            Operator::NotEqual => order.is_ne(),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operator::Earlier => "<<",
            Operator::EarlierOrEqual => "<=",
            Operator::Equal => "=",
            Operator::LaterOrEqual => ">=",
            Operator::Later => ">>",
            Operator::NotEqual => "!=",
        })
    }
}

/// A wanted or an unwanted set of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constraint<'a> {
    /// How to compare.
    pub operator: Operator,
    /// With what.
    pub version: &'a [u8],
}

impl Constraint<'_> {
    /// Whether `version` is in the set.
    pub fn accepts(&self, version: &[u8]) -> bool {
        self.operator.accepts(version::compare_bytes(version, self.version))
    }
}

/// One package of a relation field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The package's name, without its qualifier.
    pub name: &'a [u8],
    /// What follows the name's colon: `any`, `native` or an architecture.
    pub qualifier: Option<&'a [u8]>,
    /// Which of its versions; none: all.
    pub constraint: Option<Constraint<'a>>,
    /// Whether the next relation is an alternative to this one.
    pub or_next: bool,
}

impl fmt::Display for Relation<'_> {
    /// As in a field, without what follows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.name))?;
        if let Some(qualifier) = self.qualifier {
            write!(f, ":{}", String::from_utf8_lossy(qualifier))?;
        }
        if let Some(Constraint { operator, version }) = self.constraint {
            write!(f, " ({operator} {})", String::from_utf8_lossy(version))?;
        }
        Ok(())
    }
}

/// A field is not a list of relations; holds where it stops making sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a package relation: {0:?}")]
pub struct NotARelation(pub String);

/// The relations of a field, in its order. After an error the iterator ends.
pub fn alternatives(field: &[u8]) -> impl Iterator<Item = Result<Relation<'_>, NotARelation>> {
    let mut rest = field.trim_ascii();
    std::iter::from_fn(move || {
        // An empty element (a comma too many) says nothing: dpkg tolerates it at the end.
        while let Some(after) = rest.strip_prefix(b",") {
            rest = after.trim_ascii_start();
        }
        if rest.is_empty() {
            return None;
        }
        match relation(rest) {
            Some((relation, after)) => {
                rest = after;
                Some(Ok(relation))
            }
            None => {
                let shown = String::from_utf8_lossy(&rest[..rest.len().min(60)]).into_owned();
                rest = &[];
                Some(Err(NotARelation(shown)))
            }
        }
    })
}

/// One relation and the rest of the field after its separator.
fn relation(text: &[u8]) -> Option<(Relation<'_>, &[u8])> {
    let is_end = |b: &u8| b.is_ascii_whitespace() || b"(),|[]<>".contains(b);
    let end = text.iter().position(is_end).unwrap_or(text.len());
    let (full_name, rest) = text.split_at(end);
    let (name, qualifier) = match memchr::memrchr(b':', full_name) {
        Some(colon) => (&full_name[..colon], Some(&full_name[colon + 1..])),
        None => (full_name, None),
    };
    if name.is_empty() || qualifier.is_some_and(<[u8]>::is_empty) {
        return None;
    }
    let mut rest = rest.trim_ascii_start();
    let mut constraint = None;
    if let Some(inside) = rest.strip_prefix(b"(") {
        let close = memchr::memchr(b')', inside)?;
        constraint = Some(parse_constraint(inside[..close].trim_ascii())?);
        rest = inside[close + 1..].trim_ascii_start();
    }
    // Architecture lists and build profiles belong into source packages; binary indexes should
    // have none, and those that slip through bind nobody (dpkg-deb drops them as well).
    for (open, close) in [(b'[', b']'), (b'<', b'>')] {
        while rest.first() == Some(&open) {
            let end = memchr::memchr(close, rest)?;
            rest = rest[end + 1..].trim_ascii_start();
        }
    }
    let or_next = rest.first() == Some(&b'|');
    match rest.first() {
        None => {}
        Some(b'|' | b',') => rest = rest[1..].trim_ascii_start(),
        Some(_) => return None,
    }
    if or_next && matches!(rest.first(), None | Some(b',' | b'|')) {
        return None;
    }
    Some((Relation { name, qualifier, constraint, or_next }, rest))
}

/// What stands inside the parentheses.
fn parse_constraint(text: &[u8]) -> Option<Constraint<'_>> {
    let (operator, rest) = match text {
        [b'<', b'<', rest @ ..] => (Operator::Earlier, rest),
        [b'<', b'=', rest @ ..] | [b'<', rest @ ..] => (Operator::EarlierOrEqual, rest),
        [b'>', b'>', rest @ ..] => (Operator::Later, rest),
        [b'>', b'=', rest @ ..] | [b'>', rest @ ..] => (Operator::LaterOrEqual, rest),
        [b'=', rest @ ..] => (Operator::Equal, rest),
        // Old packages have `(1.0)`; dpkg and apt read it as equal.
        rest => (Operator::Equal, rest),
    };
    let version = rest.trim_ascii();
    (!version.is_empty()).then_some(Constraint { operator, version })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(field: &str) -> Result<String, NotARelation> {
        let mut text = String::new();
        for relation in alternatives(field.as_bytes()) {
            let relation = relation?;
            text += &relation.to_string();
            text += if relation.or_next { " | " } else { ", " };
        }
        Ok(text)
    }

    #[test]
    fn fields_as_they_are_written() {
        for (field, expected) in [
            ("", ""),
            ("a", "a, "),
            ("a,b", "a, b, "),
            ("a, b | c (>= 1:2.0-1~), d", "a, b | c (>= 1:2.0-1~), d, "),
            ("libc6:any (>=2.3)", "libc6:any (>= 2.3), "),
            ("a (<1), b (>1), c (<<1), d (>>1), e(= 1)", "a (<= 1), b (>= 1), c (<< 1), d (>> 1), e (= 1), "),
            ("a [amd64 !i386] <!nocheck> | b", "a | b, "),
            ("python3:amd64", "python3:amd64, "),
            ("a\n , b\n | c", "a, b | c, "),
            ("a (1.0)", "a (= 1.0), "),
            ("a, ", "a, "),
        ] {
            assert_eq!(shown(field).as_deref(), Ok(expected), "{field}");
        }
    }

    #[test]
    fn what_is_no_relation() {
        for field in
            ["a b", "a (", "a (>= )", "(>= 1)", "a |", "a | , b", ":any", "a:", "a )", "| a", "a (>= 1"]
        {
            assert!(shown(field).is_err(), "{field}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(data: Vec<u8>, text in "[ab:,|()<>=\\[\\] 1]{0,30}") {
            alternatives(&data).for_each(drop);
            alternatives(text.as_bytes()).for_each(drop);
        }

        #[test]
        fn what_is_shown_reads_back(text in "[ab:,|()<>=\\[\\] 1]{0,30}") {
            if let Ok(shown_once) = shown(&text) {
                prop_assert_eq!(shown(&shown_once), Ok(shown_once));
            }
        }
    }
}
