//! Trees of native programs as sandboxes mount them: checked out once and kept beside the objects, since a tree
//! never changes, and images of nearly the same packages have the same one. Sandboxes only read them.
//!
//! ```text
//! REPO/extensions/treestrap/twin-trees-1/TREE     hard links to the objects; TREE is the tree's own checksum
//! ```
//!
//! `prune` removes those of which no twins are left.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::Session;
use crate::{
    Context, Error, Result,
    digest::Sha256,
    store::{self, Store},
    twins,
};

/// The folder's name; another one when the trees are of another form.
const FOLDER: &str = "twin-trees-1";

/// The folder with the tree of a commit of twins.
pub(super) fn of_commit(session: &Session<'_>, store: &Store, commit: Sha256) -> Result<PathBuf> {
    let path = folder(session).join(tree(store, commit)?.to_string());
    if path.is_dir() {
        return Ok(path);
    }
    // Elsewhere at first: a killed run leaves nothing that looks whole.
    let making = sandbox::LayerFolder::make(&session.work()).context("making a work folder")?;
    let unfinished = making.path().join("tree");
    fs::create_dir(&unfinished).with_context(|| format!("creating {}", unfinished.display()))?;
    store.checkout(commit, &unfinished)?;
    fs::create_dir_all(folder(session)).with_context(|| format!("creating {}", folder(session).display()))?;
    match fs::rename(&unfinished, &path) {
        Err(error) if !path.is_dir() => Err(error).with_context(|| format!("creating {}", path.display())),
        _ => Ok(path), // or another run has made it
    }
}

/// Removes those of which no twins are left.
pub(super) fn remove_orphans(session: &Session<'_>, store: &Store) -> Result<()> {
    let commits = store.references(twins::REFERENCES.trim_end_matches('/'))?;
    let trees: BTreeSet<String> =
        commits.into_iter().map(|(_, commit)| Ok(tree(store, commit)?.to_string())).collect::<Result<_>>()?;
    for entry in fs::read_dir(folder(session)).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_str().is_some_and(|name| trees.contains(name)) {
            // In one step: half a tree would count as whole.
            let removing = || format!("removing {}", path.display());
            let gone = sandbox::LayerFolder::make(&session.work()).context("making a work folder")?;
            fs::rename(&path, gone.path().join("tree")).with_context(removing)?;
            gone.remove().with_context(removing)?;
        }
    }
    Ok(())
}

fn folder(session: &Session<'_>) -> PathBuf {
    session.repo.join(store::PRIVATE_FOLDER).join(FOLDER)
}

fn tree(store: &Store, commit: Sha256) -> Result<Sha256> {
    store.root(commit)?.stored_tree().ok_or_else(|| Error::bug("a commit's tree that is no object"))
}
