//! The folders that are written to, and what their file systems can do.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::{fs::XattrFlags, io::Errno};
use tempfile::NamedTempFile;

use super::Finding;

/// Free space below which a build is likely to fail, in bytes: an image of a few hundred packages
/// is there once as objects, and its changed files twice.
const SPACE: u64 = 2 << 30;

/// An attribute in the namespace that a bare-user repository keeps owners and modes in
/// (`user.ostreemeta`).
const ATTRIBUTE: &str = "user.treestrap-doctor";

/// The repository's folder: writable, with extended attributes and hard links, and roomy.
pub(super) fn repository(repo: &Path) -> Vec<Finding> {
    const CHECK: &str = "repository";
    let folder = existing(repo);
    let file = match try_writing(&folder) {
        Ok(file) => file,
        Err(error) => {
            let message = unwritable(repo, &folder, &error);
            return vec![Finding::missing(CHECK, message, "name a folder of yours: --repo PATH")];
        }
    };
    let elsewhere = "put it on ext4, xfs, btrfs or tmpfs (Linux 6.6 or newer): --repo PATH";
    let mut findings = Vec::new();
    if let Err(errno) = rustix::fs::fsetxattr(file.as_file(), ATTRIBUTE, b"1", XattrFlags::empty()) {
        let message = format!(
            "the file system of {} takes no user.* extended attributes, which hold owners and modes: {}",
            folder.display(),
            explained(errno),
        );
        findings.push(Finding::missing(CHECK, message, elsewhere));
    }
    if let Err(error) = try_linking(file.path()) {
        let message = format!(
            "the file system of {} makes no hard links, which the sandbox's view is made of: {error}",
            folder.display(),
        );
        findings.push(Finding::missing(CHECK, message, elsewhere));
    }
    if findings.is_empty() {
        let message = format!("{}: writable, with extended attributes and hard links", folder.display());
        findings.push(Finding::ok(CHECK, message));
    }
    findings.extend(space(&folder, file.as_file()));
    findings
}

/// A folder that only has to be writable; `variable` moves it.
pub(super) fn writable(check: &'static str, path: &Path, variable: &str) -> Vec<Finding> {
    let folder = existing(path);
    let finding = match try_writing(&folder) {
        Ok(_) => Finding::ok(check, format!("{}: writable", path.display())),
        Err(error) => {
            let message = unwritable(path, &folder, &error);
            Finding::missing(check, message, format!("export {variable}=/a/folder/of/yours"))
        }
    };
    vec![finding]
}

fn space(folder: &Path, file: &File) -> Option<Finding> {
    const CHECK: &str = "space";
    let numbers = rustix::fs::fstatvfs(file).ok()?;
    let free = numbers.f_bavail.saturating_mul(numbers.f_frsize);
    let message = format!("{} has {:.1} GiB free", folder.display(), free as f64 / (1u64 << 30) as f64);
    Some(if free >= SPACE {
        Finding::ok(CHECK, message)
    } else {
        let message = format!("{message}; an image may need {} GiB", SPACE >> 30);
        Finding::degraded(CHECK, message, format!("free some space: df -h {}", folder.display()))
    })
}

/// The nearest folder above `path` that is there, or `path` itself.
pub(super) fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// Why nothing can be written at `path`, whose nearest existing folder is `folder`.
fn unwritable(path: &Path, folder: &Path, error: &io::Error) -> String {
    if path == folder {
        return format!("{} cannot be written: {error}", path.display());
    }
    format!("{} cannot be made, as {} cannot be written: {error}", path.display(), folder.display())
}

/// A temporary file in `folder`, which goes away with the value.
fn try_writing(folder: &Path) -> io::Result<NamedTempFile> {
    let file = tempfile::Builder::new().prefix(".treestrap-doctor-").tempfile_in(folder);
    // tempfile's own error repeats the path, and a name that is gone.
    file.map_err(|error| io::Error::from(error.kind()))
}

fn try_linking(file: &Path) -> io::Result<()> {
    let mut link = file.as_os_str().to_owned();
    link.push("-link");
    std::fs::hard_link(file, &link)?;
    std::fs::remove_file(&link)
}

/// The kernel's words for "not supported here" name no cause.
fn explained(errno: Errno) -> String {
    match errno {
        Errno::NOTSUP => "not supported".to_owned(),
        other => io::Error::from(other).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn a_good_folder_is_left_as_it_was() {
        let folder =
            tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target").expect("a folder");
        let findings = repository(&folder.path().join("new/repo"));
        assert_eq!((findings[0].check, findings[0].state), ("repository", State::Ok), "{findings:?}");
        assert!(findings[0].message.starts_with(&format!("{}: ", folder.path().display())));
        assert_eq!(findings[1].check, "space");
        assert_eq!(writable("cache", folder.path(), "X")[0].state, State::Ok);
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0);
    }

    #[test]
    fn folders_that_cannot_be_written() {
        // procfs makes no files, even for root.
        let findings = repository(Path::new("/proc/treestrap/repo"));
        assert_eq!((findings.len(), findings[0].state), (1, State::Missing), "{findings:?}");
        assert!(
            findings[0]
                .message
                .starts_with("/proc/treestrap/repo cannot be made, as /proc cannot be written: "),
            "{findings:?}"
        );
        let findings = writable("cache", Path::new("/proc/treestrap"), "XDG_CACHE_HOME");
        assert_eq!(findings[0].remedy.as_deref(), Some("export XDG_CACHE_HOME=/a/folder/of/yours"));
    }
}
