//! Which questions package scripts asked that nobody had answered: no preseed, no default. A script got
//! an empty answer for each, and may have left its service unconfigured because of it.
//!
//! Read from debconf's database (debconf-devel(7), DebConf::DbDriver::File), after the scripts: a
//! question that was asked has the flag `seen`, since `DEBCONF_NONINTERACTIVE_SEEN` is set.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek},
};

use crate::{Context, Result};

/// Larger databases, in bytes, are not looked into.
const LARGEST: u64 = 64 << 20;

/// What scripts left in debconf's database.
#[derive(Default)]
pub(super) struct Database {
    questions: Vec<Stanza>,
    templates: Vec<Stanza>,
}

type Stanza = BTreeMap<String, String>;

impl Database {
    /// Reads one of its files, if `path` is one; leaves `content` at its start.
    pub(super) fn read(&mut self, path: &[u8], content: &mut File, size: u64) -> Result<()> {
        let stanzas = match path {
            b"var/cache/debconf/config.dat" | b"var/cache/debconf/passwords.dat" => &mut self.questions,
            b"var/cache/debconf/templates.dat" => &mut self.templates,
            _ => return Ok(()),
        };
        if size <= LARGEST {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).context("reading debconf's database")?;
            content.rewind().context("reading debconf's database again")?;
            stanzas.extend(parse(&String::from_utf8_lossy(&bytes)));
        }
        Ok(())
    }

    /// A line for each question without an answer, with what a preseed file would have for it.
    pub(super) fn unanswered(&self, preseed: Option<&[u8]>) -> Vec<String> {
        let preseed = String::from_utf8_lossy(preseed.unwrap_or_default());
        let answered: BTreeSet<&str> = preseed
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        let templates: BTreeMap<&str, &Stanza> =
            self.templates.iter().filter_map(|stanza| Some((stanza.get("Name")?.as_str(), stanza))).collect();
        let mut lines: Vec<String> = self
            .questions
            .iter()
            .filter_map(|question| {
                let field = |name: &str| question.get(name).map_or("", String::as_str);
                let template = templates.get(field("Template"))?;
                let kind = template.get("Type").map_or("", String::as_str);
                // Empty is what a list of which nothing is chosen looks like.
                let wants_answer = ["string", "password", "select", "boolean"].contains(&kind);
                let is_seen = field("Flags").split(", ").any(|flag| flag == "seen");
                let has_default = template.get("Default").is_some_and(|default| !default.is_empty());
                let name = field("Name");
                let is_open = wants_answer && is_seen && field("Value").is_empty() && !has_default;
                if !is_open || answered.contains(name) {
                    return None;
                }
                let owner = field("Owners").split(", ").next().unwrap_or_default();
                Some(format!(
                    "debconf: {owner} asked {name}, which has no default, and nobody answered; in a preseed \
                     file: {owner} {name} {kind} ANSWER"
                ))
            })
            .collect();
        lines.sort();
        lines
    }
}

/// Stanzas of `Name: value`; what goes on in a line that begins with a space is left out.
fn parse(text: &str) -> Vec<Stanza> {
    text.split("\n\n")
        .map(|stanza| {
            stanza
                .lines()
                .filter(|line| !line.starts_with(' '))
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect::<Stanza>()
        })
        .filter(|stanza| !stanza.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_open_questions_are_named() {
        let mut database = Database::default();
        let mut read = |path: &str, text: &str| {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(text.as_bytes()).and_then(|()| file.rewind()).expect("written");
            database.read(path.as_bytes(), &mut file, text.len() as u64).expect("read");
            let mut again = String::new();
            file.read_to_string(&mut again).expect("it is at its start");
            assert_eq!(again, text);
        };
        let question =
            |name: &str, rest: &str| format!("Name: p/{name}\nTemplate: p/{name}\nOwners: p, q\n{rest}\n");
        let asked = "Value: \nFlags: seen\n";
        let questions = [
            question("realm", asked),
            question("servers", "Flags: seen\n"),
            question("answered", "Value: x\nFlags: seen\n"),
            question("unasked", "Value: \n"),
            question("default", asked),
            question("note", asked),
            question("seeded", asked),
            question("list", asked),
        ];
        read("var/cache/debconf/config.dat", &questions.join("\n"));
        read("var/cache/debconf/passwords.dat", &question("secret", asked));
        let template =
            |name: &str, rest: &str| format!("Name: p/{name}\n{rest}Description: of it\n  Default: no\n\n");
        let templates = [
            template("realm", "Type: string\n"),
            template("servers", "Default: \nType: string\n"),
            template("answered", "Type: string\n"),
            template("unasked", "Type: string\n"),
            template("default", "Default: d\nType: string\n"),
            template("note", "Type: note\n"),
            template("seeded", "Type: string\n"),
            template("list", "Type: multiselect\n"),
            template("secret", "Type: password\n"),
        ];
        read("var/cache/debconf/templates.dat", &templates.concat());
        read("var/cache/debconf/other", "Name: p/other\n");
        let lines = database.unanswered(Some(b"# p p/realm\np p/seeded string \n"));
        let names: Vec<&str> = lines.iter().filter_map(|line| line.rsplit(": ").next()).collect();
        assert_eq!(
            names,
            ["p p/realm string ANSWER", "p p/secret password ANSWER", "p p/servers string ANSWER"]
        );
    }
}
