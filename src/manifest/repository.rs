//! `[repos.NAME]`: where packages come from and which keys vouch for them.

use toml::Spanned;

use super::{document::Section, path_text};
use crate::{Result, artefacts::Repository};

/// The keys of a repository.
const KEYS: &[&str] = &["suites", "components", "uris", "signed-by", "check-valid-until", "trusted"];

/// The schemes of a repository's URIs (contract).
const SCHEMES: &[&str] = &["http", "https", "file", "copy"];

/// How an armoured OpenPGP key starts (RFC 9580, 6.2): what does not start so is a file's name.
const ARMOUR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";

/// All repositories, in the file's order; never none.
pub(super) fn read_all(root: &Section<'_>) -> Result<Vec<Repository>> {
    let sections = root.named_sections("repos", KEYS)?;
    if sections.is_empty() {
        return Err(root
            .incomplete("no repository: packages must come from somewhere")
            .hint("add [repos.debian] with suites = [\"bookworm\"]"));
    }
    sections.iter().map(|(name, section)| read(name, section)).collect()
}

fn read(name: &Spanned<String>, section: &Section<'_>) -> Result<Repository> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.get_ref().is_empty() || !name.get_ref().chars().all(plain) {
        let message = format!("{:?} cannot name a repository", name.get_ref());
        return Err(section.error(name.span(), message).hint("use ASCII letters, digits, '-', '.' and '_'"));
    }
    let suites = suites(section)?;
    let trusted = section.boolean("trusted")?.unwrap_or(false);
    let signed_by = signed_by(section)?;
    if trusted && !signed_by.is_empty() {
        return Err(section
            .incomplete("has both signed-by and trusted = true, which checks no signature")
            .hint("remove one of the two"));
    }
    Ok(Repository {
        name: name.get_ref().clone(),
        uris: uris(section)?,
        components: components(section, &suites)?,
        suites,
        signed_by,
        check_valid_until: section.boolean("check-valid-until")?.unwrap_or(true),
        trusted,
    })
}

/// Refuses words that cannot stand in a URI's path, and those that are there twice.
fn words(
    section: &Section<'_>,
    key: &str,
    list: &Spanned<Vec<Spanned<String>>>,
    empty_hint: &str,
) -> Result<Vec<String>> {
    let mut words: Vec<String> = Vec::new();
    if list.get_ref().is_empty() {
        let message = format!("{} is empty", section.path(key));
        return Err(section.error(list.span(), message).hint(empty_hint));
    }
    for item in list.get_ref() {
        let word = item.get_ref();
        let bad = |c: char| c.is_whitespace() || c.is_control();
        if word.is_empty() || word.contains(bad) || word.split('/').any(|part| part == "..") {
            let message = format!("{word:?} cannot be one of {}", section.path(key));
            return Err(section.error(item.span(), message));
        }
        if words.contains(word) {
            return Err(section.error(item.span(), format!("{} names {word:?} twice", section.path(key))));
        }
        words.push(word.clone());
    }
    Ok(words)
}

fn suites(section: &Section<'_>) -> Result<Vec<String>> {
    let list = section.texts("suites")?;
    let list = list.ok_or_else(|| section.incomplete("needs suites, such as suites = [\"bookworm\"]"))?;
    words(section, "suites", &list, "name at least one, such as suites = [\"bookworm\"]")
}

/// The components; `main` where they are left out. A flat repository (sources.list(5): its suite is
/// a path that ends in a slash) has none.
fn components(section: &Section<'_>, suites: &[String]) -> Result<Vec<String>> {
    let flat = suites.iter().filter(|suite| suite.ends_with('/')).count();
    let list = section.texts("components")?;
    match list {
        _ if flat != 0 && flat != suites.len() => Err(section
            .incomplete("mixes flat suites (with a slash at the end) and others")
            .hint("make two repositories of it")),
        Some(list) if flat != 0 => Err(section
            .error(list.span(), "a flat repository (a suite with a slash at the end) has no components")),
        None if flat != 0 => Ok(Vec::new()),
        Some(list) => {
            words(section, "components", &list, "name at least one, such as components = [\"main\"]")
        }
        None => Ok(vec!["main".to_owned()]),
    }
}

fn uris(section: &Section<'_>) -> Result<Vec<String>> {
    let Some(list) = section.texts("uris")? else { return Ok(Vec::new()) };
    let hint = "name at least one, or leave uris out for those of the host's own apt sources";
    let uris = words(section, "uris", &list, hint)?;
    for (uri, item) in uris.iter().zip(list.get_ref()) {
        if !is_uri(uri) {
            let message = format!("{uri:?} is not a URI of a repository");
            let hint = "such as \"http://mirror.example/debian\"; https, file and copy are known too";
            return Err(section.error(item.span(), message).hint(hint));
        }
    }
    Ok(uris)
}

/// Whether a text is the whole URI of a repository, of a known scheme.
pub(super) fn is_uri(uri: &str) -> bool {
    let (scheme, rest) = uri.split_once(':').unwrap_or(("", uri));
    let path = rest.trim_start_matches('/');
    let complete = match scheme {
        "http" | "https" => rest.starts_with("//") && !path.is_empty(),
        _ => rest.starts_with('/'),
    };
    SCHEMES.contains(&scheme) && complete
}

/// Keys as they are, files relative to the manifest.
fn signed_by(section: &Section<'_>) -> Result<Vec<String>> {
    let Some(list) = section.text_or_texts("signed-by")? else { return Ok(Vec::new()) };
    if list.get_ref().is_empty() {
        let message = format!("{} is empty", section.path("signed-by"));
        let hint = "name a keyring file, or leave signed-by out for the host's archive keyring";
        return Err(section.error(list.span(), message).hint(hint));
    }
    let key = |item: &Spanned<String>| {
        let text = item.get_ref();
        match text.trim_start() {
            "" => Err(section.error(item.span(), format!("{} names no file", section.path("signed-by")))),
            armoured if armoured.starts_with(ARMOUR) => Ok(armoured.to_owned()),
            _ => path_text(&section.folder().join(text)),
        }
    };
    list.get_ref().iter().map(key).collect()
}
