//! /dev/fuse: opening it, mounting it, and threads that serve it.

use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    thread::{self, JoinHandle},
};

use fuser::{Config, Filesystem, Notifier, Session, SessionACL};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};

use super::{Owners, Serve, readonly::ReadOnly, tree::Tree};
use crate::error::{Doing, Error, Result};

/// Where the device is.
const PATH: &str = "/dev/fuse";

/// An open /dev/fuse: at first connected to nothing, then to one mount.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Opens /dev/fuse. To be called in the user namespace that is to mount it.
    pub fn open() -> Result<Device> {
        // std opens with O_CLOEXEC.
        let file = OpenOptions::new().read(true).write(true).open(PATH);
        file.map(|file| Device(file.into())).doing_to("opening", Path::new(PATH)).map_err(explain_open)
    }

    /// Takes a descriptor of /dev/fuse that somebody else opened, who was in the same user namespace
    /// (perhaps by setns(2)).
    pub fn from_descriptor(descriptor: OwnedFd) -> Device {
        Device(descriptor)
    }

    /// Another descriptor of the same connection, for one process to mount and another to serve.
    pub fn duplicate(&self) -> Result<Device> {
        self.0.try_clone().map(Device).doing("duplicating the descriptor of /dev/fuse")
    }

    /// Mounts a file system on `target` that whoever serves this device will answer for. The kernel
    /// checks permissions itself, and everyone in the namespace may use the mount.
    pub fn mount(&self, target: &Path, writable: bool) -> Result<()> {
        // rootmode has to name the type only; the rest comes with the first getattr. The ids are those
        // of the mounting user, root of its namespace.
        let options = format!(
            "fd={},rootmode={:o},user_id=0,group_id=0,allow_other,default_permissions",
            self.0.as_raw_fd(),
            libc::S_IFDIR
        );
        let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
        if !writable {
            flags |= MsFlags::MS_RDONLY;
        }
        mount(Some("sandbox-view"), target, Some("fuse"), flags, Some(options.as_str()))
            .doing_to("mounting a FUSE file system on", target)
            .map_err(explain_mount)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Device> for OwnedFd {
    fn from(device: Device) -> OwnedFd {
        device.0
    }
}

/// Why /dev/fuse cannot be opened, and what mends it.
fn explain_open(error: Error) -> Error {
    match error.errno().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) => error.with_hint("sudo chmod 0666 /dev/fuse"),
        Some(Errno::ENOENT) => {
            error.with_hint("sudo modprobe fuse; in a container, start it with --device /dev/fuse")
        }
        Some(Errno::ENODEV | Errno::ENXIO) => error.with_hint("sudo modprobe fuse"),
        _ => error,
    }
}

/// mount(2) has few words: EINVAL also means "this descriptor is of another user namespace"
/// (fs/fuse/inode.c, fuse_fill_super), ENODEV "no such file system type".
fn explain_mount(error: Error) -> Error {
    match error.errno().map(Errno::from_raw) {
        Some(Errno::ENODEV) => error.with_hint("sudo modprobe fuse"),
        Some(Errno::EPERM) => {
            error.with_hint("FUSE in a user namespace needs Linux 4.18 and a mount namespace of its own")
        }
        Some(Errno::EINVAL) => {
            error.with_hint("/dev/fuse has to be opened by a process of the user namespace that mounts it")
        }
        _ => error,
    }
}

/// A file system being served. Dropping it changes nothing: the threads serve on until the mount is
/// gone or the process ends.
#[derive(Debug)]
pub struct ServerHandle {
    thread: JoinHandle<io::Result<()>>,
}

impl ServerHandle {
    /// Waits until the file system has been unmounted everywhere.
    pub fn wait(self) -> Result<()> {
        match self.thread.join() {
            Ok(ended) => ended.doing("serving a FUSE file system"),
            Err(_) => Err(Error::bug("a thread that serves a FUSE file system panicked")),
        }
    }

    /// Whether nothing is mounted any more.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Serves `tree` on a device that has been mounted. Returns when the kernel can send requests; the
/// rest is done by threads.
pub fn serve(device: Device, tree: impl Tree, mode: Serve, owners: Owners) -> Result<ServerHandle> {
    start(device, ReadOnly::new(tree, mode, owners))
}

/// Shakes hands with the kernel and starts the threads.
pub(super) fn start(device: Device, filesystem: impl Filesystem) -> Result<ServerHandle> {
    start_notifying(device, filesystem, |_| {})
}

/// The same for a file system that tells the kernel what it has to ask for again.
pub(super) fn start_notifying(
    device: Device,
    filesystem: impl Filesystem,
    take: impl FnOnce(Notifier),
) -> Result<ServerHandle> {
    let mut config = Config::default();
    config.n_threads = Some(threads());
    let session = Session::from_fd(filesystem, device.0, SessionACL::All, config)
        .doing("answering the first request of a FUSE mount (is it mounted?)")?;
    take(session.notifier());
    let thread = thread::Builder::new().name("view".to_owned()).spawn(move || session.run());
    Ok(ServerHandle { thread: thread.doing("starting the threads of a FUSE file system")? })
}

/// One for each processor, within reason. At least two: a slow read should not keep a lookup waiting.
fn threads() -> usize {
    thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 8))
}
