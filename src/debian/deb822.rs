//! deb822(5) stanzas: `Field: value` lines, continuation lines, blank lines between stanzas.

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
}
