//! The read-only views against the folder they are made from, through the kernel: every field of
//! every entry. The oracle is the same walk over the plain folder.
#![allow(clippy::unwrap_used)] // in the tests' helpers, too

mod namespace;
mod trees;

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::Command,
};

use namespace::{inside, inside_single};
use nix::{
    libc::{S_IFDIR, S_IFMT},
    mount::{MntFlags, umount2},
};
use sandbox::view::{
    Device, Listing, ListingBuilder, Metadata, Owners, ROOT, Serve, StoredTree, Syncs, list_folder, serve,
    serve_writable,
};
use trees::{assert_same, make_tree, mount_overlay, see, xattr};

/// A mounted view of `source`. The server's threads end with the test's process.
fn mount_view(source: &Path, target: &Path, mode: Serve) {
    fs::create_dir_all(target).unwrap();
    let listing = list_folder(source).unwrap();
    let listing = Listing::from_file(listing.to_memory_file().unwrap()).unwrap();
    let device = Device::open().unwrap();
    device.mount(target, false).unwrap();
    serve(device, StoredTree::new(listing, source).unwrap(), mode, Owners::Real).unwrap();
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

/// Where one id alone is mapped, everything has to be root's: overlayfs could not copy up a file of
/// an owner that does not exist there.
#[test]
fn one_id_is_enough() {
    inside_single("one_id_is_enough", |scratch| {
        fs::create_dir(scratch.join("objects")).unwrap();
        fs::write(scratch.join("objects/1"), "content").unwrap();
        let tree = || {
            let folder = Metadata { mode: 0o2775, uid: 33, gid: 42, ..Metadata::default() };
            let mut builder = ListingBuilder::new(&folder).unwrap();
            let etc = builder.folder(ROOT, b"etc", &folder).unwrap();
            builder.file(etc, b"file", &Metadata { mode: 0o640, ..folder }, 7, b"1").unwrap();
            StoredTree::new(builder.finish().unwrap(), &scratch.join("objects")).unwrap()
        };
        for mode in ["data", "redirect", "cow"] {
            let scratch = scratch.join(mode);
            let [view, upper, work] = ["view", "upper", "work"].map(|name| scratch.join(name));
            for folder in [&view, &upper, &work] {
                fs::create_dir_all(folder).unwrap();
            }
            let device = Device::open().unwrap();
            device.mount(&view, mode == "cow").unwrap();
            let root = match mode {
                "cow" => {
                    serve_writable(device, tree(), &upper, &work, Owners::Root, Syncs::Nothing).map(|_| view)
                }
                "data" => serve(device, tree(), Serve::Data, Owners::Root).map(|_| view),
                _ => serve(device, tree(), Serve::Metadata, Owners::Root).map(|_| {
                    mount_overlay(
                        &format!("{}::{}", view.display(), scratch.join("../objects").display()),
                        &scratch,
                    )
                }),
            };
            let file = root.unwrap().join("etc/file");
            let status = fs::metadata(&file).unwrap();
            assert_eq!((status.uid(), status.gid(), status.mode() & 0o7777), (0, 0, 0o640), "{mode}");
            assert_eq!(fs::read(&file).unwrap(), b"content", "{mode}");
            if mode != "data" {
                fs::write(&file, "changed").unwrap();
                assert_eq!(fs::read(upper.join("etc/file")).unwrap(), b"changed", "{mode}");
                assert_eq!(fs::metadata(upper.join("etc")).unwrap().mode() & 0o7777, 0o2775, "{mode}");
            }
        }
    });
}

#[test]
fn server_ends_with_its_mount() {
    inside("server_ends_with_its_mount", |scratch| {
        let (source, view) = (scratch.join("source"), scratch.join("view"));
        [&source, &view].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let device = Device::open().unwrap();
        device.mount(&view, false).unwrap();
        let tree = StoredTree::new(list_folder(&source).unwrap(), &source).unwrap();
        let server = serve(device, tree, Serve::Data, Owners::Real).unwrap();
        assert!(!server.is_finished());
        umount2(&view, MntFlags::empty()).unwrap();
        server.wait().unwrap();
    });
}
