//! `diff`: two locks, images or commits.

use std::{io::Read, path::Path};

use super::{Session, locks, not_built};
use crate::{
    Context, Error, Result,
    debian::deb822::{self, Stanza},
    difference::{self, PackageId},
    digest::Sha256,
    store::{
        Content, Node, Store,
        records::{configured_reference, unpacked_reference},
    },
};

/// dpkg's list of packages.
const STATUS: &str = "var/lib/dpkg/status";

/// What `diff` compares.
enum Operand {
    Lock(Vec<PackageId>),
    Commit(Sha256, Vec<PackageId>),
}

/// Differences between two locks (files), images or commits: packages first, then files; one line
/// each.
pub fn diff(session: &Session<'_>, a: &str, b: &str) -> Result<Vec<String>> {
    let (a, b) = (operand(session, a)?, operand(session, b)?);
    let (Operand::Lock(old) | Operand::Commit(_, old)) = &a;
    let (Operand::Lock(new) | Operand::Commit(_, new)) = &b;
    let mut lines = difference::packages(old, new);
    if let (Operand::Commit(a, _), Operand::Commit(b, _)) = (&a, &b) {
        let store = Store::open(&session.repo)?;
        for difference in store.diff(*a, *b)? {
            let sign = difference.change.sign();
            lines.push(format!("{sign} /{}", String::from_utf8_lossy(&difference.path)));
        }
    }
    Ok(lines)
}

/// A file is a lock; otherwise an image's name, a ref or a commit's checksum.
fn operand(session: &Session<'_>, text: &str) -> Result<Operand> {
    let path = Path::new(text);
    if path.is_file() {
        let packages = locks::read(path)?.packages.into_iter().map(|package| PackageId {
            name: package.name,
            architecture: package.architecture,
            version: package.version,
        });
        return Ok(Operand::Lock(packages.collect()));
    }
    let store = Store::open(&session.repo)?;
    let commit = find(&store, text)?.ok_or_else(|| match text.contains(['/', '.']) {
        true => Error::input(format!(
            "{text}: neither a lock, nor an image, a ref or a commit of {}",
            session.repo.display()
        )),
        false => not_built(text),
    })?;
    Ok(Operand::Commit(commit, packages(&store, commit)?))
}

/// The packages of a commit: its own list or, where another system made it, what dpkg says there.
fn packages(store: &Store, commit: Sha256) -> Result<Vec<PackageId>> {
    let listed = store.list_packages(commit);
    let status = match &listed {
        Err(_) => store.root(commit)?.find(store, STATUS)?.cloned(),
        Ok(_) => None,
    };
    let Some(Node::Object { checksum, .. }) = status else {
        let packages = listed?.into_iter().map(|package| PackageId {
            name: package.name,
            architecture: package.architecture,
            version: package.version,
        });
        return Ok(packages.collect());
    };
    let (_, Content::File(mut file)) = store.object(checksum)? else {
        return Err(Error::input(format!("{commit}: {STATUS} is no file")));
    };
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("{commit}: {STATUS}"))?;
    let stanzas = deb822::parse(&text)
        .map_err(|error| Error::input(format!("{commit}: {STATUS}:{}: {}", error.line, error.message)))?;
    let field = |stanza: &Stanza, name: &str| stanza.get(name).unwrap_or_default().to_owned();
    Ok(stanzas
        .iter()
        .map(|(_, stanza)| PackageId {
            name: field(stanza, "Package"),
            architecture: field(stanza, "Architecture"),
            version: field(stanza, "Version"),
        })
        .collect())
}

/// The commit that is meant, if there is one.
fn find(store: &Store, text: &str) -> Result<Option<Sha256>> {
    if let Ok(checksum) = text.parse::<Sha256>() {
        // libostree resolves every checksum to itself, whether there is such a commit or not.
        return Ok(store.has_commit(checksum)?.then_some(checksum));
    }
    let references = [configured_reference(text), unpacked_reference(text), text.to_owned()];
    // What is no valid ref is none.
    for reference in references.into_iter().filter(|reference| may_be_reference(reference)) {
        // libostree (2022.7) reads through a null pointer where the parent of a ref is asked for that
        // is not there, so that has to be known first.
        let resolved = match store.resolve(reference.trim_end_matches('^')) {
            Ok(Some(_)) if reference.ends_with('^') => store.resolve(&reference),
            other => other,
        };
        match resolved {
            Ok(None) => {}
            Ok(commit) => return Ok(commit),
            // A folder of refs is no ref, and no broken one either: those below it can be read.
            Err(error) => {
                store.references(&reference).map_err(|_| error)?;
            }
        }
    }
    Ok(None)
}

/// Whether libostree takes `text` as a revision: words apart by slashes, perhaps behind a remote
/// and a colon, perhaps with a `^` for each step to a parent (ostree_validate_rev,
/// ostree_repo_resolve_rev).
fn may_be_reference(text: &str) -> bool {
    let name = text.trim_end_matches('^');
    let (remote, name) = name.split_once(':').unwrap_or(("remote", name));
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            && word.chars().all(|c| c.is_alphanumeric() || "-._".contains(c))
    };
    is_word(remote) && name.split('/').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{artefacts::Metadata, store::Folder};

    #[test]
    fn what_names_a_commit_and_what_is_broken() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open_or_create(folder.path()).expect("a repository");
        let mut transaction = store.transaction().expect("a transaction");
        let metadata = Metadata { uid: 0, gid: 0, mode: 0o755, xattrs: Vec::new() };
        let metadata = transaction.write_folder_metadata(&metadata).expect("a dirmeta");
        let commit = transaction.write_commit(&Folder::empty(metadata), "image", &mut []).expect("a commit");
        transaction.set_reference(&configured_reference("board"), commit);
        transaction.commit().expect("committing");
        let checksum = commit.to_string();
        let unknown = "0".repeat(64);
        for (text, expected) in [
            ("board", Some(commit)),
            ("deb/images/board/configured", Some(commit)),
            (&checksum, Some(commit)),
            (&unknown, None),
            ("other", None),
            // No refs.
            ("deb/images/board", None),
            ("no such.lock", None),
            ("../other.lock", None),
            ("/srv/other.lock", None),
            ("", None),
            ("remote:board", None),
            ("board^", None),
        ] {
            let found = find(&store, text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(found, expected, "{text}");
        }
        let error = find(&store, "deb/images/board/configured^").expect_err("no parent");
        assert!(error.to_string().contains("parent"), "{error}");
        // A ref that cannot be read is not one that is not there.
        let reference = configured_reference("board");
        std::fs::write(folder.path().join("refs/heads").join(&reference), "garbage\n").expect("written");
        let error = find(&store, "board").expect_err("a broken ref");
        assert!(error.to_string().contains(&reference), "{error}");
    }
}
