//! TOML with positions: tables whose keys and types are checked, and errors that say where.
//!
//! It knows nothing of what the keys mean. serde could fill structures directly, but its errors
//! know neither the path of a key (`images.embedded.arch`) nor the position of what is missing.

use std::{ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::nearest::did_you_mean;
use crate::{Error, Result};

/// The manifest's text, for positions in errors.
pub(super) struct Document<'a> {
    pub(super) path: &'a Path,
    text: &'a str,
}

impl<'a> Document<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Document { path, text }
    }

    /// Parses the text as TOML.
    pub(super) fn parse(&self) -> Result<DeTable<'a>> {
        let table = DeTable::parse(self.text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            self.error(span, error.message().trim_end().replace('\n', "; "))
        })?;
        Ok(table.into_inner())
    }

    /// The outermost table.
    pub(super) fn root<'d>(&'d self, table: &'d DeTable<'a>, known: &[&str]) -> Result<Section<'d>> {
        Section::new(self, String::new(), 0..0, table, known)
    }

    /// An error at the start of `span`: `FILE:LINE:COLUMN: message`, both counted from 1 and columns
    /// in characters.
    pub(super) fn error(&self, span: Range<usize>, message: impl std::fmt::Display) -> Error {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Error::input(format!("{}:{line}:{column}: {message}", self.path.display()))
    }
}

/// A table whose keys are all known.
pub(super) struct Section<'d> {
    document: &'d Document<'d>,
    /// The keys on the way to it, such as `images.embedded`; empty for the outermost.
    name: String,
    /// Where its name is.
    span: Range<usize>,
    table: &'d DeTable<'d>,
}

impl<'d> Section<'d> {
    /// Takes `table`, and refuses keys that are not among `known`.
    fn new(
        document: &'d Document<'d>,
        name: String,
        span: Range<usize>,
        table: &'d DeTable<'d>,
        known: &[&str],
    ) -> Result<Self> {
        let unknown = |key: &&Spanned<_>| !known.contains(&AsRef::<str>::as_ref(key.get_ref()));
        let section = Section { document, name, span, table };
        if let Some(key) = section.table.keys().filter(unknown).min_by_key(|key| key.span().start) {
            let place = match section.name.as_str() {
                "" => "at the top of the file".to_owned(),
                name => format!("in [{name}]"),
            };
            let message = format!("unknown key {:?} {place}", key.get_ref());
            let hint = did_you_mean(key.get_ref(), known, "known keys here");
            return Err(document.error(key.span(), message).hint(hint));
        }
        Ok(section)
    }

    /// The path of one of its keys.
    pub(super) fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// An error about something in it.
    pub(super) fn error(&self, span: Range<usize>, message: impl std::fmt::Display) -> Error {
        self.document.error(span, message)
    }

    /// An error about it as a whole.
    pub(super) fn incomplete(&self, message: impl std::fmt::Display) -> Error {
        let place = if self.name.is_empty() { String::new() } else { format!("[{}] ", self.name) };
        self.document.error(self.span.clone(), format!("{place}{message}"))
    }

    /// The folder that relative paths start from.
    pub(super) fn folder(&self) -> &'d Path {
        super::Manifest::folder(self.document.path)
    }

    fn wrong_type(&self, path: &str, expected: &str, value: &Spanned<DeValue<'_>>) -> Error {
        let found = type_name(value.get_ref());
        self.error(value.span(), format!("{path} must be {expected}, not {found}"))
    }

    fn text_of(&self, path: &str, value: &Spanned<DeValue<'_>>) -> Result<Spanned<String>> {
        match value.get_ref() {
            DeValue::String(text) => Ok(Spanned::new(value.span(), text.to_string())),
            _ => Err(self.wrong_type(path, "a string", value)),
        }
    }

    /// A key that is a string.
    pub(super) fn text(&self, key: &str) -> Result<Option<Spanned<String>>> {
        self.table.get(key).map(|value| self.text_of(&self.path(key), value)).transpose()
    }

    /// A key that is true or false.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Boolean(boolean) => Ok(Some(*boolean)),
            _ => Err(self.wrong_type(&self.path(key), "true or false", value)),
        }
    }

    /// A key that is a whole number.
    pub(super) fn integer(&self, key: &str) -> Result<Option<Spanned<i64>>> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let DeValue::Integer(digits) = value.get_ref() else {
            return Err(self.wrong_type(&self.path(key), "a whole number", value));
        };
        let number = i64::from_str_radix(digits.as_str(), digits.radix())
            .map_err(|error| self.error(value.span(), format!("{}: {error}", self.path(key))))?;
        Ok(Some(Spanned::new(value.span(), number)))
    }

    /// A key that is a list of strings.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Spanned<Vec<Spanned<String>>>>> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let path = self.path(key);
        match value.get_ref() {
            DeValue::Array(items) => {
                let texts = items.iter().map(|item| self.text_of(&format!("each of {path}"), item));
                Ok(Some(Spanned::new(value.span(), texts.collect::<Result<_>>()?)))
            }
            DeValue::String(text) => {
                let error = self.wrong_type(&path, "a list of strings", value);
                Err(error.hint(format!("put it in brackets: {key} = [{text:?}]")))
            }
            _ => Err(self.wrong_type(&path, "a list of strings", value)),
        }
    }

    /// Whether a key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether a key is there and a string.
    pub(super) fn is_text(&self, key: &str) -> bool {
        matches!(self.table.get(key).map(Spanned::get_ref), Some(DeValue::String(_)))
    }

    /// A key that is a string or a list of strings.
    pub(super) fn text_or_texts(&self, key: &str) -> Result<Option<Spanned<Vec<Spanned<String>>>>> {
        match self.is_text(key) {
            true => Ok(self.text(key)?.map(|text| Spanned::new(text.span(), vec![text]))),
            false => self.texts(key),
        }
    }

    /// A key that is a table of named tables, each with the `known` keys; in the file's order.
    pub(super) fn named_sections(
        &self,
        key: &str,
        known: &[&str],
    ) -> Result<Vec<(Spanned<String>, Section<'d>)>> {
        let Some(value) = self.table.get(key) else { return Ok(Vec::new()) };
        let DeValue::Table(sections) = value.get_ref() else {
            return Err(self.wrong_type(&self.path(key), "a table", value));
        };
        let mut entries: Vec<_> = sections.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let section = |(name, value): (&Spanned<_>, &'d Spanned<DeValue<'d>>)| {
            let path = format!("{}.{}", self.path(key), name.get_ref());
            let DeValue::Table(table) = value.get_ref() else {
                return Err(self.wrong_type(&path, "a table", value));
            };
            let section = Section::new(self.document, path, name.span(), table, known)?;
            Ok((Spanned::new(name.span(), AsRef::<str>::as_ref(name.get_ref()).to_owned()), section))
        };
        entries.into_iter().map(section).collect()
    }

    /// A key that is a list of tables, each with the `known` keys.
    pub(super) fn listed_sections(&self, key: &str, known: &[&str]) -> Result<Vec<Section<'d>>> {
        let Some(value) = self.table.get(key) else { return Ok(Vec::new()) };
        let path = self.path(key);
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.wrong_type(&path, "a list of tables", value));
        };
        let section = |item: &'d Spanned<DeValue<'d>>| match item.get_ref() {
            DeValue::Table(table) => Section::new(self.document, path.clone(), item.span(), table, known),
            _ => Err(self.wrong_type(&format!("each of {path}"), "a table", item)),
        };
        items.iter().map(section).collect()
    }
}

/// A TOML type as a sentence names it.
fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
