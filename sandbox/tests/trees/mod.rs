//! Trees to test views with, and walks that see everything of them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

use nix::mount::{MsFlags, mount};
use rustix::fs::{XattrFlags, lgetxattr, lgetxattr_query, llistxattr, lsetxattr};

/// What one entry is, as a program sees it. Inode numbers stand for which names are one file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) links: u64,
    pub(crate) size: u64,
    pub(crate) modified: (i64, i64),
    pub(crate) xattrs: Vec<String>,
    pub(crate) content: Vec<u8>,
    /// The first path that is the same file.
    pub(crate) first_name: PathBuf,
}

/// All attributes, as text.
pub(crate) fn xattrs(path: &Path) -> Vec<String> {
    let mut names = vec![0; 65536];
    let length = llistxattr(path, &mut names).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let mut all: Vec<_> =
        names.map(|name| format!("{}={:?}", name.escape_ascii(), xattr(path, name))).collect();
    all.sort();
    all
}

/// One attribute, first asking for its size as getfattr(1) does.
pub(crate) fn xattr(path: &Path, name: &[u8]) -> Option<Vec<u8>> {
    let size = match lgetxattr_query(path, name) {
        Err(rustix::io::Errno::NODATA) => return None,
        size => size.unwrap_or_else(|e| panic!("{}: {e}", path.display())),
    };
    let mut value = vec![0; size];
    assert_eq!(lgetxattr(path, name, &mut value), Ok(size));
    if size > 1 {
        assert_eq!(lgetxattr(path, name, &mut vec![0; size - 1]), Err(rustix::io::Errno::RANGE));
    }
    Some(value)
}

/// Walks a tree.
pub(crate) fn see(root: &Path, with_xattrs: bool) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut files = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let status = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let kind = status.file_type();
        let mut content = Vec::new();
        if kind.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if kind.is_file() {
            content = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        } else if kind.is_symlink() {
            content = fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec();
        }
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let identity = (status.dev(), status.ino());
        let name: &mut PathBuf = files.entry(identity).or_insert_with(|| relative.clone());
        if relative < *name {
            *name = relative.clone();
        }
        let seen = Seen {
            mode: status.mode(),
            owner: (status.uid(), status.gid()),
            links: status.nlink(),
            // A folder's size is the file system's own affair.
            size: if kind.is_dir() { 0 } else { status.size() },
            modified: (status.mtime(), status.mtime_nsec()),
            xattrs: if with_xattrs { xattrs(&path) } else { Vec::new() },
            content,
            first_name: PathBuf::new(),
        };
        all.insert(relative, (identity, seen));
    }
    let named = |(path, (identity, seen)): (PathBuf, (_, Seen))| {
        (path, Seen { first_name: files[&identity].clone(), ..seen })
    };
    all.into_iter().map(named).collect()
}

/// A small tree with one of everything.
pub(crate) fn make_tree(root: &Path) {
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let file = |name: &str, mode, owner: (u32, u32), content: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        chown(&path, Some(owner.0), Some(owner.1)).unwrap();
        set_mode(&path, mode);
    };
    file("usr/bin/su", 0o4755, (0, 42), b"set-uid");
    file("usr/bin/wall", 0o2755, (0, 5), b"set-gid");
    file("etc/shadow", 0o640, (0, 42), b"secret");
    file("etc/empty", 0o644, (0, 0), b"");
    file("home/user/none", 0, (1000, 1000), b"not even for its owner");
    file("usr/bin/capable", 0o755, (0, 0), b"with a capability");
    file("etc/attributes", 0o644, (0, 0), b"with attributes");
    file("etc/listed", 0o640, (0, 0), b"with an access control list");
    let large: Vec<u8> = (0..700_001u32).flat_map(|n| n.to_le_bytes()).collect();
    file("usr/lib/large", 0o644, (0, 0), &large);
    file("usr/lib/last-byte-of-page", 0o644, (0, 0), &large[..4096]);
    for number in 0..1500 {
        file(&format!("usr/share/many/{number}-{}", "x".repeat(number % 200)), 0o644, (0, 0), b"");
    }
    fs::write(root.join("etc").join(std::ffi::OsStr::from_bytes(b"not-\xff-utf8")), b"bytes").unwrap();
    for (number, name) in ["usr/lib/linked", "usr/share/linked-too", "a-first-name"].iter().enumerate() {
        match number {
            0 => fs::write(root.join(name), b"one file").unwrap(),
            _ => fs::hard_link(root.join("usr/lib/linked"), root.join(name)).unwrap(),
        }
    }
    symlink("usr/bin", root.join("bin")).unwrap();
    symlink("x".repeat(4095), root.join("etc/long-link")).unwrap();
    std::os::unix::fs::lchown(root.join("bin"), Some(7), Some(8)).unwrap();
    nix::unistd::mkfifo(&root.join("etc/pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    set_mode(&root.join("tmp"), 0o1777);
    fs::create_dir(root.join("var")).unwrap();
    set_mode(&root.join("var"), 0o2775);
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).current_dir(root).status();
        assert!(status.unwrap_or_else(|e| panic!("{program}: {e}")).success(), "{program} {arguments:?}");
    };
    // CAP_NET_RAW, permitted and effective: what setcap(8) writes for ping(8), in version 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // u::rw- u:1000:r-- g::r-- m::r-- o::---, as acl(5) is stored.
    let list = [
        [2, 0, 0, 0, 1, 0, 6, 0],
        [255, 255, 255, 255, 2, 0, 4, 0],
        [232, 3, 0, 0, 4, 0, 4, 0],
        [255, 255, 255, 255, 16, 0, 4, 0],
        [255, 255, 255, 255, 32, 0, 0, 0],
    ]
    .concat();
    let list = [list, vec![255; 4]].concat();
    for (name, attribute, value) in [
        ("etc/attributes", "user.empty", b"".as_slice()),
        ("etc/attributes", "user.long", &[b'v'; 2000]),
        ("usr/bin/capable", "security.capability", &capability),
        ("etc/listed", "system.posix_acl_access", &list),
    ] {
        lsetxattr(root.join(name), attribute, value, XattrFlags::empty()).unwrap();
    }
    for name in ["etc/attributes", "bin", "usr"] {
        run("touch", &["--no-dereference", "--date=@86400.5", name]);
    }
}

/// Compares two walks, saying the first paths that differ rather than printing megabytes.
pub(crate) fn assert_same(expected: &BTreeMap<PathBuf, Seen>, seen: &BTreeMap<PathBuf, Seen>) {
    let names = |all: &BTreeMap<PathBuf, Seen>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(expected), names(seen));
    for (path, expected) in expected {
        let seen = &seen[path];
        assert!(
            expected == seen,
            "{}: {:?}\nis not {:?}",
            path.display(),
            Seen { content: seen.content[..seen.content.len().min(40)].to_vec(), ..seen.clone_fields() },
            Seen {
                content: expected.content[..expected.content.len().min(40)].to_vec(),
                ..expected.clone_fields()
            },
        );
    }
}

impl Seen {
    fn clone_fields(&self) -> Seen {
        Seen {
            xattrs: self.xattrs.clone(),
            content: Vec::new(),
            first_name: self.first_name.clone(),
            ..*self
        }
    }
}

/// An overlay in the namespace, as a sandbox mounts it.
pub(crate) fn mount_overlay(lower: &str, scratch: &Path) -> PathBuf {
    for name in ["upper", "work", "merged"] {
        fs::create_dir_all(scratch.join(name)).unwrap();
    }
    let [upper, work] = ["upper", "work"].map(|name| scratch.join(name).display().to_string());
    let options = format!("userxattr,lowerdir={lower},upperdir={upper},workdir={work}");
    let merged = scratch.join("merged");
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .unwrap_or_else(|errno| panic!("overlay {options}: {errno}"));
    merged
}
