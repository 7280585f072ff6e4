//! Configuration files at their places in an unpacked folder.
//!
//! dpkg gives a configuration file the name `FILE.dpkg-new` until its package is configured, and so does
//! compose. multistrap unpacks it as `FILE` and notes its digest; setup scripts and hooks count on that, and
//! edit it. dpkg then finds no new version to install, and leaves the file as it is (`deferred_configure_conffile`
//! in its configure.c).

use std::{
    collections::HashMap,
    fmt::Write,
    io::{self, Read},
};

use md5::{Digest, Md5};

use crate::{
    Context, Error, Result,
    artefacts::{Composed, NEW_CONFFILE},
    digest::Sha256,
    store::{Content, Folder, Node, Store},
};

/// dpkg's status file, and what it says of a configuration file that is not installed yet.
const STATUS: &str = "var/lib/dpkg/status";
const NOT_YET: &str = "newconffile";

/// How an unpacked tree is to be laid down.
pub(super) struct InPlace {
    /// Paths, and the names that their entries get.
    pub(super) names: HashMap<String, String>,
    /// The content of dpkg's status file.
    pub(super) status: Vec<u8>,
}

/// Puts the configuration files of an unpacked tree at their places: all but those that wait for a preinst
/// which may divert them.
pub(super) fn in_place(store: &Store, composed: &Composed) -> Result<InPlace> {
    let mut root = store.root(composed.commit)?;
    let status = object(store, &mut root, STATUS)?.map(|object| content(store, object)).transpose()?;
    let status = status.flatten().ok_or_else(|| Error::bug("an unpacked tree without a status file"))?;
    let mut text = String::new();
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(&status).split_inclusive('\n') {
        let place = conffile(line).map(|(path, rest)| (path, format!("{path}{NEW_CONFFILE}"), rest));
        let waits = |new: &String| composed.held.iter().any(|held| held.held == *new);
        let Some((path, new, rest)) = place.filter(|(_, new, _)| !waits(new)) else {
            text.push_str(line);
            continue;
        };
        let found =
            object(store, &mut root, &new)?.map(|object| content(store, object)).transpose()?.flatten();
        let Some(found) = found else {
            text.push_str(line); // below a link, or another package's now
            continue;
        };
        let _ = write!(text, " /{path} "); // into memory
        Md5::digest(&found).iter().for_each(|byte| _ = write!(text, "{byte:02x}"));
        text.push_str(rest);
        names.insert(new, path.rsplit('/').next().unwrap_or(path).to_owned());
    }
    Ok(InPlace { names, status: text.into_bytes() })
}

/// The path, and what follows the digest, in a line of a `Conffiles` field: ` /PATH newconffile[ FLAGS]`.
fn conffile(line: &str) -> Option<(&str, &str)> {
    let (path, rest) = line.strip_prefix(" /")?.split_once(&format!(" {NOT_YET}"))?;
    rest.starts_with([' ', '\n']).then_some((path, rest))
}

fn object(store: &Store, root: &mut Folder, path: &str) -> Result<Option<Sha256>> {
    Ok(match root.find(store, path)? {
        Some(Node::Object { checksum, .. }) => Some(*checksum),
        _ => None,
    })
}

/// A file's content; none for a link.
fn content(store: &Store, object: Sha256) -> Result<Option<Vec<u8>>> {
    match store.object(object)?.1 {
        Content::File(mut file) => {
            let mut bytes = Vec::new();
            let read: io::Result<usize> = file.read_to_end(&mut bytes);
            read.with_context(|| format!("reading the object {object}"))?;
            Ok(Some(bytes))
        }
        Content::Symlink(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_configuration_files() {
        for (line, expected) in [
            (" /etc/a newconffile\n", Some(("etc/a", "\n"))),
            (" /etc/a b newconffile obsolete\n", Some(("etc/a b", " obsolete\n"))),
            (" /etc/a 0123456789abcdef0123456789abcdef\n", None),
            (" /etc/a newconffiles\n", None),
            ("Conffiles:\n", None),
            (" a text of newconffile\n", None),
        ] {
            assert_eq!(conffile(line), expected, "{line:?}");
        }
    }
}
