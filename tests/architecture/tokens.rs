//! Just enough of Rust's syntax to see which paths a file names: tokens, and paths with their braces
//! unfolded. It knows nothing of the rules.

/// A token that matters here, with its line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) line: usize,
}

/// Comments are dropped; literals lose their content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier or a keyword; a raw one without its `r#`.
    Word(String),
    /// A string, character or number.
    Literal,
    /// `::`
    PathSeparator,
    /// Any other character.
    Punctuation(char),
}

impl Token {
    /// Whether it is this word.
    pub(crate) fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(own) if own == word)
    }

    /// Whether it is this character.
    pub(crate) fn is(&self, character: char) -> bool {
        self.kind == Kind::Punctuation(character)
    }
}

/// The tokens of a file.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: text, line: 1 };
    let mut tokens = Vec::new();
    while let Some((kind, line)) = lexer.next() {
        tokens.push(Token { kind, line });
    }
    tokens
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
}

impl Lexer<'_> {
    fn skip(&mut self, bytes: usize) {
        let (skipped, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }

    fn next(&mut self) -> Option<(Kind, usize)> {
        loop {
            let line = self.line;
            let first = self.rest.chars().next()?;
            if first.is_whitespace() {
                self.skip(first.len_utf8());
            } else if self.rest.starts_with("//") {
                self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                self.skip(block_comment(self.rest));
            } else {
                let (kind, length) = self.token(first);
                self.skip(length);
                return Some((kind, line));
            }
        }
    }

    /// The token that starts here, and its length in bytes.
    fn token(&self, first: char) -> (Kind, usize) {
        let text = self.rest;
        if let Some(length) = string(text) {
            return (Kind::Literal, length);
        }
        let word = |text: &str| text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len());
        match first {
            '\'' => match character(text) {
                Some(length) => (Kind::Literal, length),
                None => (Kind::Punctuation('\''), 1),
            },
            ':' if text.starts_with("::") => (Kind::PathSeparator, 2),
            'r' if text.starts_with("r#") => {
                let length = 2 + word(&text[2..]);
                (Kind::Word(text[2..length].to_owned()), length)
            }
            _ if first.is_ascii_digit() => (Kind::Literal, word(text)),
            _ if first == '_' || first.is_alphabetic() => {
                (Kind::Word(text[..word(text)].to_owned()), word(text))
            }
            _ => (Kind::Punctuation(first), first.len_utf8()),
        }
    }
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a string literal with its prefix (`b`, `c`, `r`, `br`, `cr`), if one starts here.
fn string(text: &str) -> Option<usize> {
    let prefix = text.find(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|length| *length <= 2)?;
    let raw = text[..prefix].contains('r');
    let hashes = text[prefix..].bytes().take_while(|byte| *byte == b'#').count();
    let start = prefix + hashes;
    if text.as_bytes().get(start) != Some(&b'"') || (hashes > 0 && !raw) {
        return None;
    }
    if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(text[start + 1..].find(&end).map_or(text.len(), |at| start + 1 + at + end.len()));
    }
    Some(closing(text, start + 1, b'"'))
}

/// The length of a character literal; none where a lifetime starts.
fn character(text: &str) -> Option<usize> {
    let mut characters = text[1..].chars();
    match characters.next()? {
        '\\' => Some(closing(text, 1, b'\'')),
        first => (characters.next()? == '\'').then(|| 2 + first.len_utf8()),
    }
}

/// The position after the first `quote` from `start` on that no backslash precedes.
fn closing(text: &str, start: usize, quote: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = start;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// A path that a file names, such as `["crate", "lock", "resolve"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

/// All paths of two segments or more, and each lone word; the braces of `use a::{b, c::d}` are
/// unfolded to `a::b` and `a::c::d`.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = path(tokens, at, &[], &mut paths).max(at + 1);
    }
    paths
}

/// Reads the path that starts at `at`, below `prefix`; gives where it ends.
fn path(tokens: &[Token], mut at: usize, prefix: &[String], paths: &mut Vec<Path>) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        match tokens.get(at).map(|token| &token.kind) {
            Some(Kind::Word(word)) => segments.push(word.clone()),
            Some(Kind::Punctuation('{')) if !segments.is_empty() => {
                return braces(tokens, at + 1, &segments, paths);
            }
            Some(Kind::Punctuation('*')) if segments.len() > prefix.len() => {
                paths.push(Path { segments, line });
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        match tokens.get(at).map(|token| &token.kind) {
            Some(Kind::PathSeparator) => at += 1,
            _ => break,
        }
    }
    if segments.len() > prefix.len() {
        paths.push(Path { segments, line });
    }
    at
}

/// Reads what stands in braces after `prefix::`; gives where it ends.
fn braces(tokens: &[Token], mut at: usize, prefix: &[String], paths: &mut Vec<Path>) -> usize {
    while let Some(token) = tokens.get(at) {
        if token.is('}') {
            return at + 1;
        }
        // `self` and `*` in braces mean the prefix itself.
        if token.is('*') || token.is_word("self") {
            paths.push(Path { segments: prefix.to_vec(), line: token.line });
            at += 1;
        } else if token.is_word("as") {
            at += 2;
        } else {
            at = path(tokens, at, prefix, paths).max(at + 1);
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        paths(&tokens(text))
            .iter()
            .map(|path| format!("{}@{}", path.segments.join("::"), path.line))
            .collect()
    }

    #[test]
    fn paths_in_all_their_forms() {
        assert_eq!(
            named("use crate::{a::{self, B as C}, d::*, e};\nlet x = f::g(h);"),
            [
                "use@1",
                "crate::a@1",
                "crate::a::B@1",
                "crate::d@1",
                "crate::e@1",
                "let@2",
                "x@2",
                "f::g@2",
                "h@2"
            ]
        );
        assert_eq!(named("use {a::b, c};"), ["use@1", "a::b@1", "c@1"]);
        assert_eq!(named("match x { a::B => c }"), ["match@1", "x@1", "a::B@1", "c@1"]);
    }

    #[test]
    fn comments_and_literals_name_nothing() {
        for text in [
            "// a::b\n",
            "/* a /* b */ c */",
            "\"a::b \\\" c\"",
            "r#\"a \" b\"#",
            "br\"a\\\"",
            "b\"a\"",
            "c\"a\"",
            "'a' '\\'' '\\u{1b}' b'x' 12_usize",
        ] {
            let names: Vec<String> = named(text).into_iter().filter(|name| name != "b@1").collect();
            assert!(names.is_empty(), "{text}: {names:?}");
        }
        assert_eq!(named("&'a str /* \n */ x r#type"), ["a@1", "str@1", "x@2", "type@2"]);
    }
}
