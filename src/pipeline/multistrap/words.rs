//! Hints in the words of a configuration: the stages speak of treestrap.toml.

use crate::Error;

/// What a stage says, and what is to be written into a configuration; longer ones first.
const WORDS: &[(&str, &str)] = &[
    (
        "signed-by = \"/usr/share/keyrings/….gpg\" in [repos.",
        "keyring=PACKAGE, or source=[signed-by=FILE] …, in [",
    ),
    ("signed-by = \"…\" in [repos.", "keyring=PACKAGE, or source=[signed-by=FILE] …, in ["),
    ("`trusted = true` in [repos.", "source=[trusted=yes] … in ["),
    ("check-valid-until = false in [repos.", "source=[check-valid-until=no] … in ["),
    ("run `treestrap lock --update`", "remove the lock, if there is one, and run the same command again"),
    ("treestrap lock --update", "remove the lock, if there is one, and run the same command again"),
    ("`arch` of the image", "arch="),
    ("`components`", "components="),
    ("`suites`", "suite="),
    ("`uris`", "source="),
    ("[repos.", "["),
    ("manifest", "configuration"),
];

/// An error whose hint says what to do about a configuration.
pub(super) fn in_its_words(error: Error) -> Error {
    let Some(hint) = error.get_hint() else { return error };
    let hint = WORDS.iter().fold(hint.to_owned(), |hint, (from, to)| hint.replace(from, to));
    let mut messages = error.messages().iter().rev();
    let innermost = Error::new(error.kind(), messages.next().map_or("", String::as_str)).hint(hint);
    messages.fold(innermost, Error::context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn hints_say_what_to_write_into_a_configuration() {
        for (hint, expected) in [
            (
                "add x: signed-by = \"…\" in [repos.mini]",
                "add x: keyring=PACKAGE, or source=[signed-by=FILE] …, in [mini]",
            ),
            ("correct `suites` or `uris` of [repos.mini]", "correct suite= or source= of [mini]"),
            ("name packages in the manifest", "name packages in the configuration"),
            (
                "run `treestrap lock --update`; or not",
                "remove the lock, if there is one, and run the same command again; or not",
            ),
        ] {
            let error = Error::machine("inner").hint(hint).context("middle").context("outer");
            let error = in_its_words(error);
            assert_eq!(error.get_hint(), Some(expected));
            assert_eq!(
                (error.kind(), error.messages()),
                (Kind::Machine, &["outer", "middle", "inner"].map(str::to_owned)[..])
            );
        }
        assert_eq!(in_its_words(Error::input("x")).get_hint(), None);
    }
}
