//! A memory limit for all of a sandbox: a control group of its own (cgroups(7), version 2), where the caller
//! may make one.
//!
//! Groups can only be made where the folder above the caller's own group is the caller's to write, and
//! hands the memory controller on: below the service manager of a user, that is, as for whatever was started
//! by `systemd-run --user --scope`. A group that has processes cannot hand controllers on, so the
//! caller's own is no place for another (cgroups(7), "no internal processes"). Elsewhere each process has a
//! limit of its own: see [`Limits::memory`](crate::Limits::memory).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What groups of ours are called; the monitor's process id follows.
const PREFIX: &str = "sandbox-";

/// A control group, without processes to begin with.
#[derive(Debug)]
pub(crate) struct Group {
    folder: PathBuf,
}

impl Group {
    /// Makes one whose processes together use no more than so many bytes, swap space included.
    ///
    /// # Errors
    /// Why that is not possible here, as the end of a sentence.
    pub(crate) fn with_memory(most: u64) -> Result<Group, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let own = own_folder(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
            .ok_or("this process is in no control group of version 2, or in the topmost")?;
        let parent = own.parent().ok_or("this process is in the topmost control group")?;
        Group::below(parent, std::process::id(), most)
    }

    fn below(parent: &Path, number: u32, most: u64) -> Result<Group, String> {
        let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let path = parent.join("cgroup.subtree_control");
        let handed_on = fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
        if !handed_on.split_ascii_whitespace().any(|controller| controller == "memory") {
            return Err(format!("the control group {} does not limit memory", parent.display()));
        }
        remove_left_behind(parent);
        let folder = parent.join(format!("{PREFIX}{number}"));
        fs::create_dir(&folder).map_err(|error| failed(&folder, error))?;
        let group = Group { folder };
        group.set("memory.max", &most.to_string())?;
        // Where there is no swap space there may be no such file.
        if group.folder.join("memory.swap.max").exists() {
            group.set("memory.swap.max", "0")?;
        }
        Ok(group)
    }

    fn set(&self, name: &str, value: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        fs::write(&path, value).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Moves a process into it; its children to come are there too.
    pub(crate) fn add(&self, process: i32) -> Result<(), String> {
        self.set("cgroup.procs", &process.to_string())
    }
}

impl Drop for Group {
    /// Removes it. Its processes must have ended.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Removes groups whose monitor was killed. One that has processes cannot be removed.
fn remove_left_behind(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let monitor = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if monitor.is_some_and(|monitor| !Path::new("/proc").join(monitor).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The folder of this process's control group of version 2, by the texts of /proc/self/mountinfo
/// (proc_pid_mountinfo(5)) and /proc/self/cgroup.
fn own_folder(mounts: &str, groups: &str) -> Option<PathBuf> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let (root, mounted) = mounts.lines().find_map(|line| {
        let (fields, file_system) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let found = (fields.next()?, fields.next()?);
        (file_system.split(' ').next() == Some("cgroup2") && !line.contains('\\')).then_some(found)
    })?;
    // The mount may show a part of the hierarchy, and this process be in another.
    let below = Path::new("/").join(group).strip_prefix(root).ok()?.to_owned();
    let outside = below.components().any(|part| part == std::path::Component::ParentDir);
    // At the mount's root there is nothing above.
    (!outside && below.components().next().is_some()).then(|| Path::new(mounted).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_folders() {
        let both = "25 20 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro\n\
                    41 25 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let part = "41 25 0:38 /user.slice /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n";
        for (mounts, groups, expected) in [
            (both, "1:name=systemd:/\n0::/a/b.scope\n", Some("/sys/fs/cgroup/unified/a/b.scope")),
            (both, "0::/\n", None),
            (both, "4:memory:/x\n", None),
            (both, "0::/../other\n", None),
            (part, "0::/user.slice/x.scope\n", Some("/sys/fs/cgroup/x.scope")),
            (part, "0::/user.slice\n", None),
            (part, "0::/system.slice/x\n", None),
            ("25 20 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n", "0::/x\n", None),
            ("", "", None),
        ] {
            assert_eq!(own_folder(mounts, groups).as_deref(), expected.map(Path::new), "{groups}");
        }
    }

    /// A folder stands for the kernel's file system: what would be written, where.
    #[test]
    fn a_group_with_a_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let parent = folder.path();
        assert!(Group::below(parent, 7, 5).expect_err("no groups").contains("subtree_control"));
        fs::write(parent.join("cgroup.subtree_control"), "pids memory_other\n").expect("written");
        assert!(Group::below(parent, 7, 5).expect_err("no memory").contains("does not limit memory"));
        fs::write(parent.join("cgroup.subtree_control"), "pids memory\n").expect("written");
        let own = std::process::id();
        for left in ["sandbox-99999999", "other-99999999", &format!("sandbox-{own}")] {
            fs::create_dir(parent.join(left)).expect("made");
        }
        let group = Group::below(parent, 7, 1 << 20).expect("made");
        group.add(12).expect("added");
        let text = |name: &str| fs::read_to_string(group.folder.join(name)).expect("written");
        assert_eq!((text("memory.max").as_str(), text("cgroup.procs").as_str()), ("1048576", "12"));
        let left = |name: &str| parent.join(name).exists();
        assert!(!left("sandbox-99999999"), "its monitor is gone");
        assert!(left("other-99999999") && left(&format!("sandbox-{own}")));
        assert!(Group::below(parent, 7, 5).is_err(), "it is there already");
    }
}
