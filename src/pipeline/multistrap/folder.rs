//! The folder that is made, and single files in it.
//!
//! What packages and hooks left in it decides what a path in it means, so none is followed out of it: every
//! path is looked up with the folder as its root (openat2(2), `RESOLVE_IN_ROOT`, Linux 5.6), as it would be
//! inside. Files are written under another name and renamed.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::{Context, Error, Result};

/// Permissions of what apt and dpkg make.
const FOLDER_MODE: u32 = 0o755;
pub(super) const FILE_MODE: u32 = 0o644;

/// A folder whose content is somebody else's.
pub(super) struct Root {
    path: PathBuf,
    folder: OwnedFd,
}

impl Root {
    /// Opens a folder; makes it and those above it where they are missing.
    pub(super) fn make(path: &Path) -> Result<Self> {
        let making = || format!("making the folder {}", path.display());
        std::fs::create_dir_all(path).with_context(making)?;
        let folder = fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Root { path: path.to_owned(), folder: folder.map_err(std::io::Error::from).with_context(making)? })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn shown(&self, path: &str) -> String {
        self.path.join(path).display().to_string()
    }

    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        fs::openat2(&self.folder, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Opens a folder, and makes those that are missing.
    fn folder(&self, path: &str) -> Result<OwnedFd> {
        let making = || format!("making the folder {}", self.shown(path));
        let mut at = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let parent = self.open(&at, OFlags::PATH | OFlags::DIRECTORY);
            let parent = parent.map_err(std::io::Error::from).with_context(making)?;
            match fs::mkdirat(&parent, part, Mode::from_raw_mode(FOLDER_MODE)) {
                Ok(()) => {
                    // The caller's mask has no say in an image.
                    let mode = Mode::from_raw_mode(FOLDER_MODE);
                    fs::chmodat(&parent, part, mode, AtFlags::empty())
                        .map_err(std::io::Error::from)
                        .with_context(making)?;
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(std::io::Error::from(error)).with_context(making),
            }
            at = if at.is_empty() { part.to_owned() } else { format!("{at}/{part}") };
        }
        let found = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY);
        found.map_err(std::io::Error::from).with_context(making)
    }

    /// Makes a folder, and those above it.
    pub(super) fn make_folder(&self, path: &str) -> Result<()> {
        self.folder(path).map(|_| ())
    }

    /// Whether there is anything at a path, a link that leads nowhere included.
    pub(super) fn has(&self, path: &str) -> Result<bool> {
        let (parent, name) = split(path);
        match self.open(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(parent) => match fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Ok(true),
                Err(Errno::NOENT) => Ok(false),
                Err(error) => Err(self.failed("looking at", path, error)),
            },
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(self.failed("looking at", path, error)),
        }
    }

    /// The content of a file; none where there is none.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => {
                let mut content = Vec::new();
                let mut file = File::from(file);
                file.read_to_end(&mut content).with_context(|| format!("reading {}", self.shown(path)))?;
                Ok(Some(content))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(self.failed("reading", path, error)),
        }
    }

    /// Writes a file in the place of what is there.
    pub(super) fn write(&self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.write_with(path, mode, |file| file.write_all(content))
    }

    /// The same for a file that is copied from outside.
    pub(super) fn copy(&self, from: &Path, path: &str, mode: u32) -> Result<()> {
        let mut source = File::open(from).with_context(|| format!("opening {}", from.display()))?;
        self.write_with(path, mode, |file| std::io::copy(&mut source, file).map(|_| ()))
    }

    fn write_with(
        &self,
        path: &str,
        mode: u32,
        write: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<()> {
        let writing = || format!("writing {}", self.shown(path));
        let (parent, name) = split(path);
        let parent = self.folder(parent)?;
        let temporary = format!(".treestrap-{}-{name}", std::process::id());
        let done = || -> std::io::Result<()> {
            match fs::unlinkat(&parent, &temporary, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut file = File::from(fs::openat(&parent, &temporary, flags, Mode::from_raw_mode(0o600))?);
            write(&mut file)?;
            fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            Ok(fs::renameat(&parent, &temporary, &parent, name)?)
        };
        done().with_context(writing)
    }

    /// Writes a file unless something is there.
    pub(super) fn write_if_missing(&self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        if self.has(path)? { Ok(()) } else { self.write(path, mode, content) }
    }

    /// Removes a file, or a link; nothing happens where there is none, or a folder.
    pub(super) fn remove(&self, path: &str) -> Result<()> {
        let (parent, name) = split(path);
        match self.open(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(parent) => match fs::unlinkat(&parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
                Err(error) => Err(self.failed("removing", path, error)),
            },
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(self.failed("removing", path, error)),
        }
    }

    /// The names of a folder's files, without folders; sorted. None where there is no such folder.
    pub(super) fn files(&self, path: &str) -> Result<Vec<String>> {
        let folder = match self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed("listing", path, error)),
        };
        let entries = fs::Dir::read_from(&folder).map_err(|error| self.failed("listing", path, error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| self.failed("listing", path, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type() != FileType::Directory && ![".", ".."].contains(&name.as_str()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether it has nothing in it.
    pub(super) fn is_empty(&self) -> Result<bool> {
        let mut entries =
            std::fs::read_dir(&self.path).with_context(|| format!("listing {}", self.path.display()))?;
        Ok(entries.next().is_none())
    }

    fn failed(&self, doing: &str, path: &str, error: Errno) -> Error {
        Error::from(std::io::Error::from(error)).context(format!("{doing} {}", self.shown(path)))
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn nothing_is_followed_out_of_the_folder() {
        let all = tempfile::tempdir().expect("a folder");
        let (outside, inside) = (all.path().join("outside"), all.path().join("root"));
        std::fs::create_dir(&outside).expect("a folder");
        let root = Root::make(&inside).expect("made");
        symlink(&outside, inside.join("etc")).expect("a link");
        symlink("../../outside", inside.join("var")).expect("a link");
        std::fs::write(outside.join("file"), "kept").expect("written");
        // As it would be inside: the links lead to nothing there.
        assert!(root.write("etc/file", FILE_MODE, b"x").is_err());
        assert!(root.write("var/file", FILE_MODE, b"x").is_err());
        assert_eq!(root.read("etc/file").expect("looked"), None);
        root.remove("var/file").expect("nothing there");
        assert_eq!(std::fs::read(outside.join("file")).expect("read"), b"kept");
        assert_eq!(std::fs::read_dir(&outside).expect("listed").count(), 1);
    }

    #[test]
    fn links_inside_are_followed_but_at_the_end() {
        let all = tempfile::tempdir().expect("a folder");
        let root = Root::make(&all.path().join("root")).expect("made");
        root.make_folder("usr/lib").expect("made");
        symlink("/usr/lib", root.path().join("lib")).expect("a link");
        symlink("/usr/lib/real", root.path().join("usr/lib/name")).expect("a link");
        root.write("lib/name", 0o600, b"new").expect("written");
        let found = std::fs::symlink_metadata(root.path().join("usr/lib/name")).expect("there");
        assert!(found.is_file() && found.permissions().mode() & 0o7777 == 0o600, "the link is replaced");
        root.write_if_missing("lib/name", 0o644, b"newer").expect("left alone");
        assert_eq!(root.read("usr/lib/name").expect("read").as_deref(), Some(&b"new"[..]));
        assert_eq!(root.files("lib").expect("listed"), ["name"]);
        root.remove("lib/name").expect("removed");
        root.remove("lib").expect("removed");
        root.remove("usr/lib").expect("a folder stays");
        assert!(!root.has("lib").expect("looked") && root.has("usr/lib").expect("looked"));
    }
}
