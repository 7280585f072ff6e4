//! The read-only views against the folder they are made from, through the kernel: every field of
//! every entry. The oracle is the same walk over the plain folder.
#![allow(clippy::unwrap_used)] // in the tests' helpers, too

mod namespace;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

use namespace::inside;
use nix::{
    libc::{S_IFDIR, S_IFMT},
    mount::{MsFlags, mount},
};
use rustix::fs::{XattrFlags, lgetxattr, lgetxattr_query, llistxattr, lsetxattr};
use sandbox::view::{
    Device, Listing, Obstacle, Owners, Serve, StoredTree, list_folder, probe_data, probe_redirect, serve,
};

/// What one entry is, as a program sees it. Inode numbers stand for which names are one file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    modified: (i64, i64),
    xattrs: Vec<String>,
    content: Vec<u8>,
    /// The first path that is the same file.
    first_name: PathBuf,
}

/// All attributes, as text.
fn xattrs(path: &Path) -> Vec<String> {
    let mut names = vec![0; 65536];
    let length = llistxattr(path, &mut names).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let mut all: Vec<_> =
        names.map(|name| format!("{}={:?}", name.escape_ascii(), xattr(path, name))).collect();
    all.sort();
    all
}

/// One attribute, first asking for its size as getfattr(1) does.
fn xattr(path: &Path, name: &[u8]) -> Option<Vec<u8>> {
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
fn see(root: &Path, with_xattrs: bool) -> BTreeMap<PathBuf, Seen> {
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
fn make_tree(root: &Path) {
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

/// A mounted view of `source`. The server's threads end with the test's process.
fn mount_view(source: &Path, target: &Path, mode: Serve) {
    fs::create_dir_all(target).unwrap();
    let listing = list_folder(source).unwrap();
    let listing = Listing::from_file(listing.to_memory_file().unwrap()).unwrap();
    let device = Device::open().unwrap();
    device.mount(target, false).unwrap();
    serve(device, StoredTree::new(listing, source).unwrap(), mode, Owners::Real).unwrap();
}

/// Compares two walks, saying the first paths that differ rather than printing megabytes.
fn assert_same(expected: &BTreeMap<PathBuf, Seen>, seen: &BTreeMap<PathBuf, Seen>) {
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
fn mount_overlay(lower: &str, scratch: &Path) -> PathBuf {
    for name in ["upper", "work", "merged"] {
        fs::create_dir_all(scratch.join(name)).unwrap();
    }
    let options = format!("userxattr,lowerdir={lower},upperdir=upper,workdir=work");
    let merged = scratch.join("merged");
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .unwrap_or_else(|errno| panic!("overlay {options}: {errno}"));
    merged
}

#[test]
fn data_view_equals_its_source() {
    inside("data_view_equals_its_source", |scratch| {
        let (source, view) = (scratch.join("source"), scratch.join("view"));
        fs::create_dir(&source).unwrap();
        make_tree(&source);
        mount_view(&source, &view, Serve::Data);
        let expected = see(&source, true);
        assert!(expected.len() > 1500);
        assert_same(&expected, &see(&view, true));
        // From the kernel's caches now.
        assert_same(&expected, &see(&view, true));
    });
}

#[test]
fn redirect_view_equals_its_source() {
    inside("redirect_view_equals_its_source", |scratch| {
        let (source, view) = (scratch.join("source"), scratch.join("view"));
        fs::create_dir(&source).unwrap();
        make_tree(&source);
        mount_view(&source, &view, Serve::Metadata);
        let merged = mount_overlay("view::source", scratch);
        let mut expected = see(&source, true);
        // The overlay's root shows the upper layer's own folder.
        let mut seen = see(&merged, true);
        assert!(expected.remove(Path::new("")).is_some() && seen.remove(Path::new("")).is_some());
        // It shows one link for a merged folder, so that find(1) does not count them.
        for seen in expected.values_mut().chain(seen.values_mut()) {
            if seen.mode & S_IFMT == S_IFDIR {
                seen.links = 0;
            }
        }
        assert_same(&expected, &seen);
        // Copying up takes the content from the data-only layer and the owner from the view.
        fs::OpenOptions::new()
            .append(true)
            .open(merged.join("etc/shadow"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b", appended"))
            .unwrap();
        let upper = fs::metadata("upper/etc/shadow").unwrap();
        assert_eq!((upper.uid(), upper.gid(), upper.mode() & 0o7777), (0, 42, 0o640));
        assert_eq!(fs::read("upper/etc/shadow").unwrap(), b"secret, appended");
        assert_eq!(fs::read(source.join("etc/shadow")).unwrap(), b"secret");
    });
}

#[test]
fn metadata_view_names_its_contents() {
    inside("metadata_view_names_its_contents", |scratch| {
        let (source, view) = (scratch.join("source"), scratch.join("view"));
        fs::create_dir(&source).unwrap();
        make_tree(&source);
        mount_view(&source, &view, Serve::Metadata);
        let redirect = |name: &str| xattr(&view.join(name), b"user.overlay.redirect");
        assert_eq!(redirect("etc/shadow"), Some(b"/etc/shadow".to_vec()));
        assert_eq!(redirect("etc"), None);
        assert!(fs::read(view.join("etc/shadow")).is_err(), "there is no data here");
        assert!(fs::write(view.join("new"), b"").is_err(), "nor can anything be written");
    });
}

#[test]
fn large_file_can_be_read_anywhere_and_mapped() {
    inside("large_file_can_be_read_anywhere_and_mapped", |scratch| {
        let (source, view) = (scratch.join("source"), scratch.join("view"));
        fs::create_dir(&source).unwrap();
        make_tree(&source);
        mount_view(&source, &view, Serve::Data);
        let expected = fs::read(source.join("usr/lib/large")).unwrap();
        let file = File::open(view.join("usr/lib/large")).unwrap();
        for (offset, length) in [(2_799_999, 10), (0, 1), (131_071, 2), (2_800_004, 1), (1_000_001, 4097)] {
            let mut buffer = vec![0; length];
            let count = file.read_at(&mut buffer, offset).unwrap();
            let end = expected.len().min(offset as usize + length);
            assert_eq!(
                buffer[..count],
                expected[(offset as usize).min(end)..end],
                "{length} bytes at {offset}"
            );
        }
        // The dynamic loader maps what it runs.
        fs::copy("/bin/true", source.join("usr/bin/true")).unwrap();
        let again = scratch.join("again");
        mount_view(&source, &again, Serve::Data);
        assert!(Command::new(again.join("usr/bin/true")).status().unwrap().success());
    });
}

#[test]
fn errors_are_those_of_any_file_system() {
    inside("errors_are_those_of_any_file_system", |scratch| {
        let (source, view) = (scratch.join("source"), scratch.join("view"));
        fs::create_dir(&source).unwrap();
        make_tree(&source);
        mount_view(&source, &view, Serve::Data);
        let errno = |error: std::io::Error| error.raw_os_error().unwrap();
        for (result, expected) in [
            (fs::metadata(view.join("missing")).map(drop), nix::libc::ENOENT),
            (fs::metadata(view.join("missing")).map(drop), nix::libc::ENOENT),
            (fs::metadata(view.join("etc/shadow/below")).map(drop), nix::libc::ENOTDIR),
            (fs::metadata(view.join("x".repeat(256))).map(drop), nix::libc::ENAMETOOLONG),
            (fs::write(view.join("etc/shadow"), b"").map(drop), nix::libc::EROFS),
            (fs::remove_file(view.join("etc/shadow")).map(drop), nix::libc::EROFS),
            (fs::read_link(view.join("etc/shadow")).map(drop), nix::libc::EINVAL),
        ] {
            assert_eq!(result.map_err(errno), Err(expected));
        }
        // Another user of the namespace: permissions are checked by the kernel.
        let cat = |name: &str| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=1000", "--regid=1000", "--clear-groups", "cat"]);
            command.arg(view.join(name)).output().unwrap().status.success()
        };
        assert!(cat("etc/empty") && !cat("etc/shadow") && !cat("home/user/none"));
        let status = nix::sys::statvfs::statvfs(&view).unwrap();
        assert_eq!((status.name_max(), status.blocks_available()), (255, 0));
    });
}

#[test]
fn probes_find_what_works() {
    inside("probes_find_what_works", |scratch| {
        // A comma and a colon in the path must not matter.
        let odd = scratch.join("a,b:c");
        fs::create_dir(&odd).unwrap();
        probe_data(&odd).unwrap();
        let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
        let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
        let version = (numbers.next(), numbers.next());
        match probe_redirect(&odd) {
            Ok(()) => {}
            Err(refusal) => assert!(version < (Some(6), Some(16)), "{release}: {refusal:?}"),
        }
        assert_eq!(fs::read_dir(&odd).unwrap().count(), 0, "nothing is left");
        assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains("view-probe"));
        // Something that is no device, and nothing at all.
        let device = scratch.join("device");
        fs::write(&device, b"").unwrap();
        let none: Option<&str> = None;
        mount(Some(&device), "/dev/fuse", none, MsFlags::MS_BIND, none).unwrap();
        assert_eq!(probe_data(&odd).unwrap_err().obstacle, Obstacle::MountRefused);
        mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let refusal = probe_data(&odd).unwrap_err();
        assert_eq!(refusal.obstacle, Obstacle::DeviceMissing);
        assert!(refusal.error.hint().is_some_and(|hint| hint.contains("modprobe fuse")));
    });
}

/// On a machine whose /dev/fuse is closed to users: the namespace's root is none there.
#[test]
fn closed_device_is_explained() {
    inside("closed_device_is_explained", |scratch| {
        let none: Option<&str> = None;
        // Owned by an id that is not mapped: the file of somebody else's that no user may open.
        let foreign = Path::new("/proc/sys/vm/compact_memory");
        mount(Some(foreign), "/dev/fuse", none, MsFlags::MS_BIND, none).unwrap();
        let refusal = probe_redirect(scratch).unwrap_err();
        assert_eq!(refusal.obstacle, Obstacle::DeviceForbidden);
        assert_eq!(refusal.error.hint(), Some("sudo chmod 0666 /dev/fuse"));
    });
}
