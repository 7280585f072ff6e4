//! What the sandbox sees: the layers, /proc, /dev, /sys and the plan's mounts, and nothing else.
//!
//! Runs in pid 1, in its own mount namespace, while the host's mounts are still there; the last step
//! makes the view the root and drops everything else.

use std::{
    fs::DirBuilder,
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::{DirBuilderExt, MetadataExt, symlink},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::{chdir, pivot_root},
};

use crate::{
    Kind,
    bytes::{c_string, escape},
    enforced::Tier,
    error::{Doing, Result},
    owners::RECORD,
    plan::{Mount, Plan, Source, Uname},
    stack::{Prepared, Stack, by_descriptor, mount_layers, open_path},
    sys::{
        mounts::add_attributes,
        xattr::{self, Place},
    },
};

const NONE: Option<&str> = None;
/// A file system of ours that holds neither programs nor devices.
const INERT: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
/// For bind mounts of single files of the host. Not NODEV: devices are what some of them are.
const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;

/// The mounted view, before it is the root.
pub(crate) struct View {
    root: OwnedFd,
}

impl View {
    /// Mounts the layers, with the upper layer of `folder`, at `folder/root`.
    pub(crate) fn mount(plan: &Plan, folder: &Path, prepared: &mut Prepared) -> Result<(View, Stack)> {
        // Nothing that is mounted from here on shows outside, nor the other way round.
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
            .doing("making all mounts private")?;
        let stack = mount_layers(plan, folder, prepared)?;
        let root = stack.root.try_clone().doing("duplicating a descriptor")?;
        Ok((View { root }, stack))
    }

    /// Opens a path of the view, links resolved inside it.
    fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, path, how)
            .doing(format_args!("opening mount point /{}", escape(path)))
            .map_err(|error| error.of_kind(Kind::Plan))
    }

    /// Mounts a new file system at `path`.
    fn mount_new(&self, path: &[u8], kind: &str, flags: MsFlags, options: &str) -> Result<OwnedFd> {
        let target = self.open(path)?;
        mount(Some(kind), by_descriptor(&target).as_str(), Some(kind), flags, Some(options))
            .doing(format_args!("mounting {kind} at /{}", escape(path)))?;
        self.open(path)
    }

    /// Binds `source` to `path`, read-only.
    fn bind_read_only(&self, path: &[u8], source: &str) -> Result<()> {
        let doing = format!("mounting {source} at /{}", escape(path));
        let target = self.open(path)?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(source), by_descriptor(&target).as_str(), NONE, flags, NONE).doing(&doing)?;
        add_attributes(self.open(path)?.as_fd(), READ_ONLY, true).doing(&doing)
    }

    /// A fresh /proc of the new pid namespace, with what can hurt masked.
    pub(crate) fn mount_proc(&self) -> Result<()> {
        self.mount_new(b"proc", "proc", INERT, "")?;
        // Also the number of namespaces below this one is a thing of /proc/sys: see `child`.
        Ok(())
    }

    /// Masks parts of /proc; after everything that still has to write there.
    pub(crate) fn mask_proc(&self) -> Result<()> {
        for (name, _) in READ_ONLY_IN_PROC {
            let path = format!("proc/{name}");
            if let Ok(file) = self.open(path.as_bytes()) {
                self.bind_read_only(path.as_bytes(), &by_descriptor(&file))?;
            }
        }
        for (name, _) in HIDDEN_IN_PROC {
            let path = format!("proc/{name}");
            let Ok(file) = self.open(path.as_bytes()) else { continue };
            let stat = nix::sys::stat::fstat(&file).doing_to("looking at", Path::new(&path))?;
            if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
                self.mount_new(path.as_bytes(), "tmpfs", INERT | MsFlags::MS_RDONLY, "size=0,mode=0555")?;
            } else {
                self.bind_read_only(path.as_bytes(), "/dev/null")?;
            }
        }
        Ok(())
    }

    /// Has /proc say of the kernel what uname(2) does. The files are in a memory file system that is
    /// mounted over a folder of ours that the overlay has open already, and goes with the old root.
    pub(crate) fn show_kernel(&self, uname: &Uname, folder: &Path) -> Result<()> {
        let memory = folder.join("skeleton");
        mount(Some("kernel"), &memory, Some("tmpfs"), INERT, Some("size=64k,mode=0755"))
            .doing_to("mounting at", &memory)?;
        let Uname { machine, release, version } = uname;
        for (name, content) in [
            ("sys/kernel/arch", machine.clone()),
            ("sys/kernel/osrelease", release.clone()),
            ("sys/kernel/version", version.clone()),
            ("version", format!("Linux version {release} {version}")),
        ] {
            let target = format!("proc/{name}");
            if self.open(target.as_bytes()).is_err() {
                continue; // `arch` came with Linux 6.1
            }
            let file = memory.join(name.replace('/', "-"));
            std::fs::write(&file, format!("{content}\n")).doing_to("writing", &file)?;
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o444))
                .doing_to("changing the mode of", &file)?;
            self.bind_read_only(target.as_bytes(), &file.to_string_lossy())?;
        }
        Ok(())
    }

    /// A /dev of its own. The folder is the sandbox's: scripts may chmod it and make files, links,
    /// pipes and folders there. The device nodes are the host's, bound read-only (which does not
    /// forbid writing to a device): a chmod of one fails instead of changing the host's, which it
    /// would where the caller is root.
    pub(crate) fn mount_dev(&self, tier: Tier) -> Result<()> {
        let dev =
            self.mount_new(b"dev", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=0755,size=1m")?;
        let at = PathBuf::from(by_descriptor(&dev));
        for name in DEVICES {
            let path = at.join(name);
            std::fs::File::create(&path).doing_to("making", &path)?;
            self.bind_read_only(format!("dev/{name}").as_bytes(), &format!("/dev/{name}"))?;
        }
        for (name, target) in DEVICE_LINKS {
            symlink(target, at.join(name)).doing_to("making /dev's link", Path::new(name))?;
        }
        for (name, kind, options) in DEVICE_FILE_SYSTEMS {
            let folder = at.join(name);
            DirBuilder::new().mode(0o755).create(&folder).doing_to("making", &folder)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
            // A group that is not mapped cannot be an owner.
            let options = options.replace(if tier == Tier::Single { ",gid=5" } else { "" }, "");
            self.mount_new(format!("dev/{name}").as_bytes(), kind, flags, &options)?;
        }
        Ok(())
    }

    /// /sys is empty: the machine that builds an image must have no say in it, and programs that
    /// look for hardware there find none, as in any chroot.
    pub(crate) fn mount_sys(&self) -> Result<()> {
        self.mount_new(b"sys", "tmpfs", INERT | MsFlags::MS_RDONLY, "size=0,mode=0555").map(drop)
    }

    /// One mount of the plan.
    pub(crate) fn mount_planned(&self, planned: &Mount) -> Result<()> {
        match &planned.source {
            Source::Memory { mode, with_folders } => {
                let below = self.open(&planned.target)?;
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                let memory = self.mount_new(&planned.target, "tmpfs", flags, &format!("mode={mode:o}"))?;
                if *with_folders {
                    copy_folders(Path::new(&by_descriptor(&below)), Path::new(&by_descriptor(&memory)))?;
                }
                Ok(())
            }
            Source::ReadOnly(source) => {
                let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
                self.bind(&planned.target, source, attributes)
            }
            Source::Writable(source) => {
                let attributes = libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
                self.bind(&planned.target, source, attributes)
            }
        }
    }

    /// Binds a file or folder of the host to `path`, with these attributes.
    fn bind(&self, path: &[u8], source: &Path, attributes: u64) -> Result<()> {
        let source = open_path(source).map_err(|error| error.of_kind(Kind::Plan))?;
        let target = self.open(path)?;
        let doing = format!("mounting at /{}", escape(path));
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(by_descriptor(&source).as_str()), by_descriptor(&target).as_str(), NONE, flags, NONE)
            .doing(&doing)?;
        add_attributes(self.open(path)?.as_fd(), attributes, true).doing(&doing)
    }

    /// Makes the view the root, and drops every other mount: no path of the host is left.
    pub(crate) fn become_root(self) -> Result<()> {
        const DOING: &str = "changing the root";
        nix::unistd::fchdir(&self.root).doing(DOING)?;
        // pivot_root(2): with both the same, the old root is stacked on the new one, and the new one
        // shows when the old one is gone.
        pivot_root(".", ".").doing(DOING)?;
        umount2(".", MntFlags::MNT_DETACH).doing(DOING)?;
        chdir("/").doing(DOING)
    }
}

/// Copies the folders of `from`, not their files, with mode and owner.
fn copy_folders(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).doing_to("reading", from)? {
        let entry = entry.doing_to("reading", from)?;
        let metadata = entry.metadata().doing_to("reading", from)?;
        if metadata.is_dir() {
            let target = to.join(entry.file_name());
            std::fs::create_dir(&target).doing_to("making", &target)?;
            std::os::unix::fs::chown(&target, Some(metadata.uid()), Some(metadata.gid()))
                .doing_to("changing the owner of", &target)?;
            std::fs::set_permissions(&target, metadata.permissions())
                .doing_to("changing the mode of", &target)?;
            let record = xattr::get(Place::Path(&c_string(&entry.path())?), RECORD);
            if let Some(record) = record.doing_to("reading attributes of", &target)? {
                // A tmpfs has them since Linux 6.6.
                let _ = xattr::set(Place::Path(&c_string(&target)?), RECORD, &record);
            }
            copy_folders(&entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Parts of /proc that can be read but not written, with the reason. Who runs treestrap as root has
/// the host's user 0 inside: then these files' permissions alone would not stop it.
const READ_ONLY_IN_PROC: &[(&str, &str)] = &[
    ("sys", "kernel settings, most of them the host's (kernel.core_pattern runs programs)"),
    ("sysrq-trigger", "reboots the host"),
    ("irq", "interrupt routing"),
    ("bus", "PCI configuration space"),
    ("fs", "settings of the host's file systems"),
    ("mtrr", "memory types"),
];

/// Parts of /proc that are not to be seen, with the reason.
const HIDDEN_IN_PROC: &[(&str, &str)] = &[
    ("kcore", "the host's memory"),
    ("kmsg", "the host's log, consumed by reading"),
    ("keys", "the caller's keyrings"),
    ("key-users", "the same"),
    ("kpagecount", "the host's memory map"),
    ("kpageflags", "the same"),
    ("kpagecgroup", "the same"),
    ("vmallocinfo", "kernel addresses"),
    ("slabinfo", "what the host does"),
    ("timer_list", "kernel addresses and what the host does"),
    ("sched_debug", "the same"),
    ("latency_stats", "the same"),
    ("acpi", "the machine's hardware"),
    ("scsi", "the machine's hardware, and commands to it"),
    ("asound", "the machine's hardware"),
];

/// The devices that Debian policy and POSIX programs expect everywhere.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

const DEVICE_LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Group 5 is Debian's `tty` (base-passwd), which may write to terminals.
const DEVICE_FILE_SYSTEMS: &[(&str, &str, &str)] =
    &[("pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5"), ("shm", "tmpfs", "mode=1777")];
