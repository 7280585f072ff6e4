//! Whether views work here, found out by using one: no version number is read.
//!
//! Mounting leaves traces in the mount namespace for a moment, and the server's threads stay with
//! the process; so this is for a process that was made for it: root of a user namespace, in a mount
//! namespace of its own, which ends afterwards.

use std::{
    fs, io,
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::Mode,
};
use serde::{Deserialize, Serialize};

use super::{Device, ListingBuilder, Metadata, Owners, ROOT, Serve, StoredTree, serve};
use crate::error::{Doing, Error, Result};

/// What stands in the way of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Obstacle {
    /// There is no /dev/fuse: the kernel module is missing, or a container hides the device.
    DeviceMissing,
    /// /dev/fuse is there, and this user may not open it: on a minimal machine it is 0600 root.
    DeviceForbidden,
    /// FUSE cannot be mounted in this user namespace (Linux < 4.18, or a security module).
    MountRefused,
    /// overlayfs cannot be mounted in this user namespace (Linux < 5.11, or a security module, or
    /// the scratch folder's file system cannot be an upper layer).
    OverlayRefused,
    /// overlayfs mounts, but does not follow redirects into a data-only layer (Linux < 6.16).
    RedirectUnsupported,
    /// Something else failed, such as a full disk.
    Other,
}

/// Why a view does not work here. The error has a hint where there is a remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What stands in the way.
    pub obstacle: Obstacle,
    /// What happened, in words.
    pub error: Error,
}

/// The probe's only file.
const CONTENT: &[u8] = b"the data-only layer's";

/// What a probe finds.
pub type Verdict = std::result::Result<(), Refusal>;

impl Obstacle {
    fn because(self, error: Error) -> Refusal {
        Refusal { obstacle: self, error }
    }
}

/// Whether [`Serve::Data`] works. `scratch` is an existing folder; what the probe makes there, it
/// removes.
pub fn probe_data(scratch: &Path) -> Verdict {
    let place = Scratch::new(scratch)?;
    place.serve(Serve::Data)?;
    let file = place.at("view/file");
    match fs::read(&file).doing_to("reading", &file) {
        Ok(content) if content == CONTENT => Ok(()),
        Ok(_) => Err(Obstacle::Other.because(Error::bug("a FUSE view shows wrong data"))),
        Err(error) => Err(Obstacle::Other.because(error)),
    }
}

/// Whether [`Serve::Metadata`] works under an overlay whose upper layer is on the file system of
/// `scratch`: metadata from FUSE, data from the data-only layer, and copying up.
pub fn probe_redirect(scratch: &Path) -> Verdict {
    let place = Scratch::new(scratch)?;
    place.serve(Serve::Metadata)?;
    place.overlay().map_err(|error| Obstacle::OverlayRefused.because(error))?;
    let unsupported = |error: Error| {
        Obstacle::RedirectUnsupported.because(error.with_hint("the redirect view needs Linux 6.16"))
    };
    let file = place.at("merged/file");
    let copied_up = || -> io::Result<bool> {
        let read = fs::read(&file)?;
        fs::OpenOptions::new().append(true).open(&file)?.write_all(MORE)?;
        Ok(read == CONTENT && fs::read(place.at("upper/file"))? == [CONTENT, MORE].concat())
    };
    match copied_up().doing_to("reading through a redirect", &file) {
        Ok(true) => Ok(()),
        // Without support the metadata's own file shows: of the right size, and unreadable.
        Ok(false) => Err(unsupported(Error::machine("overlayfs ignores redirects to a data-only layer"))),
        Err(error) => Err(unsupported(error)),
    }
}

/// What is appended to it.
const MORE: &[u8] = b", copied up";

/// The probe's folders, unmounted and removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> std::result::Result<Self, Refusal> {
        let root = parent.join(format!("view-probe-{}", std::process::id()));
        let make = || -> Result<Scratch> {
            fs::create_dir(&root).doing_to("making", &root)?;
            let scratch = Scratch(root.clone());
            for name in ["view", "contents", "upper", "work", "merged"] {
                fs::create_dir(scratch.at(name)).doing_to("making a folder in", &root)?;
            }
            fs::write(scratch.at("contents/object"), CONTENT).doing_to("writing a file in", &root)?;
            Ok(scratch)
        };
        make().map_err(|error| Obstacle::Other.because(error))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Mounts and serves a tree of one file.
    fn serve(&self, mode: Serve) -> Verdict {
        let device = Device::open().map_err(|error| {
            let obstacle = match error.errno().map(Errno::from_raw) {
                Some(Errno::EACCES | Errno::EPERM) => Obstacle::DeviceForbidden,
                Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => Obstacle::DeviceMissing,
                _ => Obstacle::Other,
            };
            obstacle.because(error)
        })?;
        device.mount(&self.at("view"), false).map_err(|error| Obstacle::MountRefused.because(error))?;
        let start = || -> Result<()> {
            let metadata = Metadata { mode: 0o755, ..Metadata::default() };
            let mut builder = ListingBuilder::new(&metadata)?;
            builder.file(ROOT, b"file", &metadata, CONTENT.len() as u64, b"object")?;
            let tree = StoredTree::new(builder.finish()?, &self.at("contents"))?;
            serve(device, tree, mode, Owners::Real).map(drop)
        };
        start().map_err(|error| Obstacle::Other.because(error))
    }

    /// Mounts the overlay. Descriptors stand for the folders, whose names might have `:` or `,`.
    fn overlay(&self) -> Result<()> {
        let folder = |name: &str| -> Result<OwnedFd> {
            let path = self.at(name);
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            open(&path, flags, Mode::empty()).doing_to("opening", &path)
        };
        let folders = [folder("view")?, folder("contents")?, folder("upper")?, folder("work")?];
        let [view, contents, upper, work] =
            folders.each_ref().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let options = format!("userxattr,lowerdir={view}::{contents},upperdir={upper},workdir={work}");
        let target = self.at("merged");
        mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .doing_to("mounting an overlay on", &target)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is not mounted gives an error that does not matter; the rest goes with the namespace.
        for name in ["merged", "view"] {
            let _ = umount2(&self.at(name), MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}
