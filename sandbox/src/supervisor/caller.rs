//! Who waits for an answer: its arguments, its memory, and the files that its paths and descriptors
//! name.
//!
//! A path is looked up as the kernel would look it up for the caller: from its root, its current folder
//! or its descriptor, in the sandbox's mounts, where nothing of the host is. What lies outside of the
//! sandbox cannot be named, by whatever race: the lookup itself has no way there.

use std::{
    ffi::CString,
    fs::File,
    io::IoSliceMut,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::FileExt,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat, readlinkat},
    sys::{
        stat::Mode,
        uio::{RemoteIoVec, process_vm_readv},
    },
    unistd::{Pid, chroot, fchdir},
};

use crate::sys::{
    folders::{duplicate_of, open_process, open_thread, share_descriptors},
    notify::{self, Notification},
    status::statx,
};

/// PATH_MAX: the longest path that a call takes, with its NUL.
const LONGEST_PATH: usize = 4096;
/// Descriptors that only name something.
pub(super) const NAME: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// Where the supervisor looks things up.
pub(super) struct Surroundings {
    /// The host's /proc, where callers have the numbers by which this process knows them.
    proc: OwnedFd,
    /// Its `self/fd`, where the supervisor always is: so the name of its descriptor 7 is `7`, for
    /// the calls that take no descriptor.
    pub(super) own_descriptors: OwnedFd,
    /// The sandbox's root, which is the supervisor's too.
    root: OwnedFd,
    /// Owners are kept here and nowhere else; none: everywhere.
    tree: Option<Scope>,
}

/// A folder of the host, without what is mounted below it.
struct Scope {
    path: Vec<u8>,
    mount: u64,
}

impl Surroundings {
    /// Of a process that still is where it was started.
    pub(super) fn open_proc() -> nix::Result<(OwnedFd, OwnedFd)> {
        let open = |path: &str| {
            nix::fcntl::open(path, OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        };
        Ok((open("/proc")?, open("/proc/self/fd")?))
    }

    /// Of a process that has joined the sandbox's mount namespace.
    pub(super) fn inside(proc: OwnedFd, own_descriptors: OwnedFd, tree: Option<&Path>) -> nix::Result<Self> {
        let root = nix::fcntl::open("/", NAME | OFlag::O_DIRECTORY, Mode::empty())?;
        let scope = |path: &Path| -> nix::Result<Scope> {
            let folder = nix::fcntl::open(path, NAME | OFlag::O_DIRECTORY, Mode::empty())?;
            Ok(Scope { path: path.as_os_str().as_encoded_bytes().to_vec(), mount: mount_of(&folder)? })
        };
        let tree = tree.map(scope).transpose()?;
        fchdir(&own_descriptors)?;
        Ok(Surroundings { proc, own_descriptors, root, tree })
    }

    /// Whether owners are kept for this file.
    pub(super) fn holds(&self, file: &OwnedFd) -> nix::Result<bool> {
        let Some(Scope { path, mount }) = &self.tree else { return Ok(true) };
        let found = self.path_of(file)?;
        let is_below =
            found.strip_prefix(path.as_slice()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
        Ok(is_below && mount_of(file)? == *mount)
    }

    /// Where in the sandbox a file is that this process has open.
    pub(super) fn path_of(&self, file: &OwnedFd) -> nix::Result<Vec<u8>> {
        let path = readlinkat(&self.own_descriptors, own_name(file).as_c_str())?;
        Ok(std::os::unix::ffi::OsStringExt::into_vec(path))
    }
}

/// The number of the mount that a file is in. (statx(2), Linux ≥ 5.8.)
fn mount_of(file: &OwnedFd) -> nix::Result<u64> {
    const STATX_MNT_ID: u32 = 0x1000;
    const AT: usize = 144; // stx_mnt_id
    let bytes = statx(file.as_fd(), 0, STATX_MNT_ID)?;
    Ok(bytes[AT..].first_chunk().map_or(0, |number| u64::from_ne_bytes(*number)))
}

/// A call that waits.
pub(super) struct Caller<'a> {
    pub(super) listener: BorrowedFd<'a>,
    pub(super) notification: Notification,
    pub(super) surroundings: &'a Surroundings,
}

impl Caller<'_> {
    /// Fails when the caller has been killed: nothing that was read of it may be relied on.
    pub(super) fn still_waits(&self) -> nix::Result<()> {
        if notify::is_valid(self.listener, self.notification.id) { Ok(()) } else { Err(Errno::ESRCH) }
    }

    /// The thread's number, as this process knows it.
    pub(super) fn thread(&self) -> Pid {
        Pid::from_raw(self.notification.thread as i32)
    }

    /// An argument as it is in the register.
    pub(super) fn argument(&self, index: usize) -> u64 {
        self.notification.arguments[index]
    }

    /// An argument that is an `int`.
    pub(super) fn int(&self, index: usize) -> i32 {
        self.argument(index) as i32
    }

    /// Writes into the caller's memory. The file is opened by number and then known to be the
    /// caller's; where the caller may not write, the kernel writes into a copy of its own
    /// (proc_pid_mem(5)).
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> nix::Result<()> {
        let path = format!("{}/mem", self.thread());
        let memory =
            openat(&self.surroundings.proc, path.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
        self.still_waits()?;
        File::from(memory?).write_all_at(bytes, address).map_err(|_| Errno::EFAULT)
    }

    /// Reads from the caller's memory as many bytes as are there, up to the length of `buffer`.
    fn read_some(&self, address: u64, buffer: &mut [u8]) -> nix::Result<usize> {
        let remote = RemoteIoVec { base: address as usize, len: buffer.len() };
        let read = process_vm_readv(self.thread(), &mut [IoSliceMut::new(buffer)], &[remote]);
        self.still_waits()?;
        read
    }

    /// Reads exactly this many bytes.
    pub(super) fn read(&self, address: u64, length: usize) -> nix::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        if self.read_some(address, &mut bytes)? == length { Ok(bytes) } else { Err(Errno::EFAULT) }
    }

    /// The string at an address, without its NUL.
    fn string(&self, address: u64) -> nix::Result<Vec<u8>> {
        // Few paths are longer than the first piece; no piece goes over the end of a page, where the
        // memory may end.
        let (mut string, mut piece) = (Vec::new(), 256);
        while string.len() < LONGEST_PATH {
            let at = address.wrapping_add(string.len() as u64);
            let mut buffer = [0; LONGEST_PATH];
            let length = piece.min(4096 - (at % 4096) as usize);
            let read = self.read_some(at, &mut buffer[..length])?;
            if let Some(end) = buffer[..read].iter().position(|&byte| byte == 0) {
                string.extend_from_slice(&buffer[..end]);
                return Ok(string);
            }
            string.extend_from_slice(&buffer[..read]);
            piece = LONGEST_PATH;
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// The path that an argument points to.
    pub(super) fn path(&self, index: usize) -> nix::Result<Vec<u8>> {
        self.string(self.argument(index))
    }

    /// What /proc has of the caller under this name.
    fn of_proc(&self, name: &str) -> nix::Result<OwnedFd> {
        let found = openat(
            &self.surroundings.proc,
            format!("{}/{name}", self.thread()).as_str(),
            NAME,
            Mode::empty(),
        );
        self.still_waits()?;
        found
    }

    /// What one of the caller's descriptors refers to.
    pub(super) fn descriptor(&self, number: i32) -> nix::Result<OwnedFd> {
        if number < 0 {
            return Err(Errno::EBADF);
        }
        self.of_proc(&format!("fd/{number}")).map_err(|errno| match errno {
            Errno::ENOENT => Errno::EBADF,
            other => other,
        })
    }

    /// What one of the caller's descriptors refers to as it is open, with the position that it has there.
    /// None: there is no way to it.
    pub(super) fn description(&self, number: i32) -> nix::Result<Option<OwnedFd>> {
        let thread = self.thread();
        let owner = match open_thread(thread) {
            Err(Errno::EINVAL) => self.status()?.number("Tgid").and_then(|process| {
                // A thread may have descriptors of its own, though the C library makes none so.
                let is_same = process == thread || share_descriptors(thread, process).unwrap_or(true);
                if is_same { open_process(process).map(Some) } else { Ok(None) }
            }),
            owner => owner.map(Some),
        };
        let found = owner.and_then(|owner| owner.map(|owner| duplicate_of(&owner, number)).transpose());
        self.still_waits()?;
        found
    }

    /// The folder from which a relative path starts.
    pub(super) fn base(&self, folder: i32) -> nix::Result<OwnedFd> {
        if folder == libc::AT_FDCWD { self.of_proc("cwd") } else { self.descriptor(folder) }
    }

    /// The caller's /proc/PID/status.
    pub(super) fn status(&self) -> nix::Result<Status> {
        String::from_utf8(self.text("status")?).map(Status).map_err(|_| Errno::EIO)
    }

    /// What /proc has to read of the caller under this name, such as `cmdline`.
    pub(super) fn text(&self, name: &str) -> nix::Result<Vec<u8>> {
        let name = format!("{}/{name}", self.thread());
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let file = openat(&self.surroundings.proc, name.as_str(), flags, Mode::empty())?;
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut File::from(file), &mut text).map_err(|_| Errno::EIO)?;
        self.still_waits()?;
        Ok(text)
    }

    /// Opens `path` as the caller would, relative to what `folder` is for it.
    pub(super) fn open(&self, folder: i32, path: &[u8], flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
        let root = self.enter_root()?;
        if root.is_none()
            && let Some(own) = own_link(path)
        {
            let name = format!("{}/{own}", self.thread());
            let found = openat(&self.surroundings.proc, name.as_str(), flags | OFlag::O_CLOEXEC, mode);
            self.still_waits()?;
            return found;
        }
        let name = CString::new(path).map_err(|_| Errno::EINVAL)?;
        if path.first() == Some(&b'/') {
            return openat(&self.surroundings.root, name.as_c_str(), flags | OFlag::O_CLOEXEC, mode);
        }
        openat(self.base(folder)?, name.as_c_str(), flags | OFlag::O_CLOEXEC, mode)
    }

    /// Makes the caller's root this process's, as long as the guard lives: absolute paths and links
    /// start there, and `..` ends there.
    pub(super) fn enter_root(&self) -> nix::Result<Option<Root<'_>>> {
        let name = format!("{}/root", self.thread());
        if readlinkat(&self.surroundings.proc, name.as_str())?.as_encoded_bytes() == b"/" {
            return Ok(None); // the sandbox's root, as nearly always
        }
        let root = self.of_proc("root")?;
        let guard = Root(self.surroundings);
        fchdir(&root).and_then(|()| chroot("."))?;
        fchdir(&self.surroundings.own_descriptors)?;
        Ok(Some(guard))
    }
}

/// What /proc/PID/status says of a thread (proc_pid_status(5)).
pub(super) struct Status(String);

impl Status {
    /// A field, such as `NoNewPrivs`.
    pub(super) fn field(&self, name: &str) -> nix::Result<&str> {
        let mut lines = self.0.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(str::trim).ok_or(Errno::EIO)
    }

    /// A field that is the number of a process.
    fn number(&self, name: &str) -> nix::Result<Pid> {
        self.field(name)?.parse().map(Pid::from_raw).map_err(|_| Errno::EIO)
    }

    /// The mask for the modes of new files.
    pub(super) fn umask(&self) -> nix::Result<Mode> {
        let octal = u32::from_str_radix(self.field("Umask")?, 8).map_err(|_| Errno::EIO)?;
        Ok(Mode::from_bits_truncate(octal))
    }
}

/// /proc/self is whoever looks, and the supervisor is not in the /proc of the sandbox: what a path below
/// it is called below the caller's folder in the host's /proc. Only links that lead back into the
/// sandbox, and without `..`: the host's /proc is no place of the sandbox.
pub(super) fn own_link(path: &[u8]) -> Option<String> {
    let rest =
        [&b"/proc/self/"[..], b"/proc/thread-self/"].iter().find_map(|prefix| path.strip_prefix(*prefix));
    let own = match (rest, path) {
        (Some(rest), _) => String::from_utf8(rest.to_vec()).ok()?,
        (None, b"/dev/stdin") => "fd/0".to_owned(),
        (None, b"/dev/stdout") => "fd/1".to_owned(),
        (None, b"/dev/stderr") => "fd/2".to_owned(),
        (None, path) => format!("fd/{}", std::str::from_utf8(path.strip_prefix(b"/dev/fd/")?).ok()?),
    };
    let mut parts = own.split('/');
    let leads_inside = match parts.next()? {
        "root" | "cwd" | "exe" => true,
        "fd" => parts.next().is_some_and(|number| number.parse::<u32>().is_ok()),
        _ => false,
    };
    (leads_inside && !parts.any(|part| part == "..")).then_some(own)
}

/// A changed root, put back when dropped.
pub(super) struct Root<'a>(&'a Surroundings);

impl Drop for Root<'_> {
    fn drop(&mut self) {
        let back =
            fchdir(&self.0.root).and_then(|()| chroot(".")).and_then(|()| fchdir(&self.0.own_descriptors));
        if back.is_err() {
            // Anything else would answer the next caller from another's root.
            crate::sys::process::exit_now(1);
        }
    }
}

/// The name of one of this process's own descriptors, for calls that take no descriptor.
pub(super) fn own_name(descriptor: &impl AsFd) -> CString {
    use std::os::fd::AsRawFd;
    CString::new(descriptor.as_fd().as_raw_fd().to_string()).expect("digits have no NUL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_caller_itself() {
        for (path, expected) in [
            ("/proc/self/fd/7", Some("fd/7")),
            ("/proc/thread-self/fd/7/etc/x", Some("fd/7/etc/x")),
            ("/dev/fd/0", Some("fd/0")),
            ("/dev/stdout", Some("fd/1")),
            ("/proc/self/root/etc", Some("root/etc")),
            ("/proc/self/../1/root", None),
            ("/proc/self/fd/7/../../..", None),
            ("/proc/self/root/../x", None),
            ("/proc/self/fd/x", None),
            ("/proc/self/fd", None),
            ("/proc/self/task/1/fd/2", None),
            ("/proc/self/mem", None),
            ("/proc/1/fd/7", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(own_link(path.as_bytes()).as_deref(), expected, "{path}");
        }
    }
}
