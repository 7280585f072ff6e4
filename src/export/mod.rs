//! The export stage: an image's tree for the outside world, as a tar file or as a folder; a folder's tree as
//! a tar file; a package of the repository as a deb.

mod deb;
mod folder;
mod folder_tar;
mod tar;
mod tar_writer;

use std::collections::HashMap;

pub use self::{
    deb::deb,
    folder::folder,
    folder_tar::{Override, folder_tar},
    tar::tar,
};
use crate::{
    digest::Sha256,
    error::Result,
    store::{Content, Folder, Node, Store},
};

/// Which paths of an image are hard links of one file: in the order of a walk, the first path of a
/// group gets the file, the others are links to that.
struct HardLinks {
    groups: HashMap<String, usize>,
    first: HashMap<(usize, Sha256), String>,
}

impl HardLinks {
    fn of(store: &Store, commit: Sha256) -> Result<Self> {
        let mut groups = HashMap::new();
        for (index, group) in store.hard_links(commit)?.into_iter().enumerate() {
            groups.extend(group.into_iter().map(|path| (path, index)));
        }
        Ok(HardLinks { groups, first: HashMap::new() })
    }

    /// The path that this one is a link to, unless it is the first of its group (or of none).
    fn target(&mut self, path: &str, checksum: Sha256) -> Option<&str> {
        let group = *self.groups.get(path)?;
        // Paths that the commit's metadata wrongly calls one file have different objects.
        match self.first.entry((group, checksum)) {
            std::collections::hash_map::Entry::Occupied(first) => Some(first.into_mut()),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(path.to_owned());
                None
            }
        }
    }
}

/// The names of users or groups in an image's `etc/passwd` or `etc/group`, by number; empty where the
/// image has no such file.
fn names(store: &Store, root: &mut Folder, path: &str) -> Result<HashMap<u32, String>> {
    use std::io::Read;
    let Some(Node::Object { checksum, .. }) = root.find(store, path)? else { return Ok(HashMap::new()) };
    let (_, Content::File(mut file)) = store.object(*checksum)? else { return Ok(HashMap::new()) };
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(names_in(&text))
}

/// The names in a passwd or group file, by number.
fn names_in(text: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(id))) = (fields.next(), fields.nth(1).map(str::parse)) {
            // As getpwuid(3): the first line of a number is the one that counts.
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests;
