//! What dpkg itself makes of packages with scripts, to compare images with: an independent oracle for
//! stage 2 on the miniature archive. It needs root, for chroot(2) and for owners.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::{
    base,
    fixture::{Miniature, finish},
    package::Deb,
};

/// What the images have of the base: what is essential, and what that needs.
const ESSENTIAL: &[&str] = &[
    "base-files",
    "base-passwd",
    "coreutils",
    "dash",
    "diffutils",
    "dpkg",
    "grep",
    "libc-bin",
    "libc6",
    "sed",
    "tar",
];

/// A root in which dpkg has installed the base, then unpacked these debs, one by one, and configured them;
/// or what it says.
pub(crate) fn theirs(debs: &[Deb]) -> Result<tempfile::TempDir, String> {
    let groups: Vec<&[Deb]> = debs.chunks(1).collect();
    installed(&groups, "--unpack")
}

/// As [`theirs`], but what `action` does with each group in turn.
pub(crate) fn installed(groups: &[&[Deb]], action: &str) -> Result<tempfile::TempDir, String> {
    let root = tempfile::tempdir().expect("a temporary folder");
    let store = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir_all(root.path().join("var/lib/dpkg")).expect("a folder");
    fs::write(root.path().join("var/lib/dpkg/status"), "").expect("a file");
    let file = |deb: &Deb| {
        let path = store.path().join(deb.file_name());
        fs::write(&path, &deb.bytes).expect("a deb");
        path
    };
    let dpkg = |arguments: &[&str], debs: &[PathBuf]| {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", root.path().display()));
        command.args(["--force-unsafe-io", "--force-confold", "--log=/dev/null"]);
        command.args(arguments).args(debs).env_clear();
        for (name, value) in
            [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("LC_ALL", "C.UTF-8")]
        {
            command.env(name, value);
        }
        finish(command)
    };
    // In the order of stage 2: all of the base is unpacked before its scripts run.
    let needed = base::debs().iter().filter(|deb| ESSENTIAL.contains(&deb.field("Package")));
    let (first, last): (Vec<&Deb>, Vec<&Deb>) =
        needed.partition(|deb| !deb.field("Package").starts_with("base-"));
    for debs in [first, last] {
        let files: Vec<PathBuf> = debs.into_iter().map(file).collect();
        dpkg(&["--unpack", "--force-depends"], &files).ok();
    }
    dpkg(&["--configure", "-a"], &[]).ok();
    for group in groups {
        let files: Vec<PathBuf> = group.iter().map(file).collect();
        let outcome = dpkg(&[action], &files);
        if !outcome.status.success() {
            return Err(outcome.stderr);
        }
    }
    dpkg(&["--configure", "-a"], &[]).ok();
    Ok(root)
}

/// Every path with type, mode, owner and content.
pub(crate) fn entries(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, folder: &Path, out: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            let content = match metadata.file_type() {
                kind if kind.is_symlink() => fs::read_link(&path).expect("a link").display().to_string(),
                kind if kind.is_dir() => String::new(),
                _ => String::from_utf8_lossy(&fs::read(&path).expect("a file")).into_owned(),
            };
            let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.permissions().mode());
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            out.insert(name, format!("{mode:o} {uid}:{gid} {content}"));
            if metadata.is_dir() {
                walk(root, &path, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut out);
    // Of a run of dpkg or of ldconfig, and not of the system.
    let volatile = [
        "dev/null",
        "var/lib/dpkg/status-old",
        "var/lib/dpkg/diversions-old",
        "var/cache/ldconfig",
        "var/log/dpkg.log",
    ];
    out.retain(|path, _| !volatile.iter().any(|start| path.starts_with(start)));
    out
}

/// Panics with the paths that differ.
pub(crate) fn compare(name: &str, dpkg: &BTreeMap<String, String>, other: &BTreeMap<String, String>) {
    let paths = dpkg.keys().chain(other.keys().filter(|path| !dpkg.contains_key(*path)));
    let differences: Vec<String> = paths
        .filter(|path| dpkg.get(*path) != other.get(*path))
        .map(|path| {
            let shown = |entries: &BTreeMap<String, String>| {
                entries.get(path).map(|line| line.chars().take(2000).collect::<String>())
            };
            format!("{path}: dpkg {:?}, other {:?}", shown(dpkg), shown(other))
        })
        .collect();
    assert!(differences.is_empty(), "{name}:\n{}", differences.join("\n"));
}

/// The image as root has it in a folder.
pub(crate) fn ours(tiny: &Miniature) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    let words = ["export", "tiny", "--dir", out.to_str().expect("UTF-8")];
    tiny.fixture.treestrap(&words).ok();
    folder
}
