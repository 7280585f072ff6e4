//! The folder, claimed for a run. A run that was killed, or that failed, leaves a mark beside the folder; the
//! next one begins anew. Two runs at once are not let.
//!
//! ```text
//! PARENT/.NAME.treestrap-unfinished     locked while a run goes on: "empty", or "with entries", which is
//!                                       what the folder PARENT/NAME was before the first of them
//! ```

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::folder::Root;
use crate::{Context, Error, Result, pipeline::Session};

/// A folder that this run has for itself.
pub(super) struct Place {
    path: PathBuf,
    mark: PathBuf,
    /// The mark, locked.
    _lock: File,
}

/// What the mark says of a folder that was empty before: then all in it is ours.
const EMPTY: &str = "empty\n";
const WITH_ENTRIES: &str = "with entries\n";

impl Place {
    /// Makes the folder, or empties it if an unfinished run has made what is there.
    ///
    /// # Errors
    /// `Kind::Input` if it has a system in it already, or another run is at work on it.
    pub(super) fn claim(session: &Session<'_>, image: &str, path: &Path) -> Result<Self> {
        let root = Root::make(path)?;
        let path = fs::canonicalize(path).with_context(|| format!("finding {}", path.display()))?;
        let name =
            path.file_name().ok_or_else(|| Error::input("directory= is this machine's root folder"))?;
        let mark = path.with_file_name(format!(".{}.treestrap-unfinished", name.to_string_lossy()));
        let marking = || format!("writing {}", mark.display());
        let is_new = !mark.exists();
        if is_new && root.read("var/lib/dpkg/status")?.is_some_and(|status| !status.is_empty()) {
            let shown = path.display();
            return Err(Error::input(format!("{shown} has a system in it already")).hint(format!(
                "remove it, or name another folder: -d DIR; treestrap configure --rootfs {shown} configures \
                 what is there"
            )));
        }
        let mut options = File::options();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&mark).with_context(marking)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::input(format!("{}: another treestrap is at work on this folder", path.display()))
        })?;
        let mut before = String::new();
        file.read_to_string(&mut before).with_context(marking)?;
        if before.is_empty() {
            before = if root.is_empty()? { EMPTY } else { WITH_ENTRIES }.to_owned();
            file.rewind().and_then(|()| file.write_all(before.as_bytes())).with_context(marking)?;
        } else {
            forget_moves(&path)?;
            if before == EMPTY {
                session.reporter.note(image, "an earlier run did not finish: the folder is begun anew");
                sandbox::remove_contents(&path).with_context(|| format!("emptying {}", path.display()))?;
            }
        }
        Ok(Place { path, mark, _lock: file })
    }

    /// The folder.
    pub(super) fn root(&self) -> Result<Root> {
        Root::make(&self.path)
    }

    /// Notes that the folder is done.
    pub(super) fn release(self) -> Result<()> {
        fs::remove_file(&self.mark).with_context(|| format!("removing {}", self.mark.display()))
    }
}

/// Removes what a killed run was about to move into the folder (see `pipeline::rootfs`, which has its work
/// folder there): it is made anew.
fn forget_moves(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for unfinished in sandbox::unfinished_moves(&path.with_file_name(format!(".{name}.treestrap")))? {
        sandbox::remove_kept(&unfinished.folder)
            .with_context(|| format!("removing {}", unfinished.folder.display()))?;
    }
    Ok(())
}
