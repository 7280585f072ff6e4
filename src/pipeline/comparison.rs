//! `diff`: two locks, images or commits.

use std::path::Path;

use super::{Session, locks, not_built};
use crate::{
    Error, Result,
    difference::{self, PackageId},
    digest::Sha256,
    store::{
        Change, Store,
        records::{configured_reference, unpacked_reference},
    },
};

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
            let sign = match difference.change {
                Change::Added => '+',
                Change::Removed => '-',
                Change::Changed | Change::Replaced => '~',
            };
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
    let mut commit = None;
    if let Ok(checksum) = text.parse::<Sha256>()
        && store.has_commit(checksum)?
    {
        commit = Some(checksum);
    }
    for reference in [configured_reference(text), unpacked_reference(text), text.to_owned()] {
        if commit.is_none() {
            // What is no valid ref is none.
            commit = store.resolve(&reference).ok().flatten();
        }
    }
    let commit = commit.ok_or_else(|| match text.contains(['/', '.']) {
        true => Error::input(format!(
            "{text}: neither a lock, nor an image, a ref or a commit of {}",
            session.repo.display()
        )),
        false => not_built(text),
    })?;
    let packages = store.list_packages(commit)?.into_iter().map(|package| PackageId {
        name: package.name,
        architecture: package.architecture,
        version: package.version,
    });
    Ok(Operand::Commit(commit, packages.collect()))
}
