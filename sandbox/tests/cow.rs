//! The writable view against the kernel's overlayfs: the same operations on both must have the same
//! results, show the same tree and leave the same in the upper folder.
#![allow(clippy::unwrap_used)] // in the tests' helpers, too

mod namespace;
mod trees;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::{
        fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
};

use namespace::inside;
use nix::{
    libc::{O_TRUNC, S_IFCHR, S_IFDIR, S_IFMT, S_IFREG},
    mount::{MntFlags, umount2},
};
use rustix::fs::{
    FallocateFlags, RenameFlags, XattrFlags, fallocate, lremovexattr, lsetxattr, renameat_with,
};
use sandbox::view::{Device, Owners, StoredTree, Syncs, list_folder, serve_writable};
use trees::{Seen, assert_same, make_tree, mount_overlay, see, xattr};

/// A writable view of `source` with its upper folder in `scratch`; where it is mounted.
fn mount_cow(source: &Path, scratch: &Path) -> PathBuf {
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| scratch.join(name));
    [&upper, &work, &merged].into_iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    let device = Device::open().unwrap();
    device.mount(&merged, true).unwrap();
    let tree = StoredTree::new(list_folder(source).unwrap(), source).unwrap();
    serve_writable(device, tree, &upper, &work, Owners::Real, Syncs::Nothing).unwrap();
    merged
}

/// Both, over the same tree.
fn mount_both(source: &Path, scratch: &Path) -> [(PathBuf, PathBuf); 2] {
    let (overlay, cow) = (scratch.join("overlay"), scratch.join("cow"));
    fs::create_dir(&overlay).unwrap();
    let merged = mount_overlay(&source.display().to_string(), &overlay);
    [(merged, overlay.join("upper")), (mount_cow(source, &cow), cow.join("upper"))]
}

/// What can be compared between two runs: times are those of the run, and the links of a merged
/// folder anybody's guess.
fn comparable(mut seen: BTreeMap<PathBuf, Seen>) -> BTreeMap<PathBuf, Seen> {
    for (path, one) in &mut seen {
        match one.mode & S_IFMT {
            S_IFDIR => one.links = 0,
            // Overlayfs makes all its whiteouts one file.
            S_IFCHR => (one.links, one.first_name) = (0, path.clone()),
            _ => {}
        }
        one.modified = (0, 0);
        // Overlay's notes to itself about where a copy came from.
        one.xattrs.retain(|line| {
            !["origin", "impure", "nlink", "uuid"]
                .iter()
                .any(|name| line.starts_with(&format!("user.overlay.{name}=")))
        });
    }
    seen
}

/// Forgets that a folder is opaque where nothing is below it: overlayfs sometimes says it then, too.
fn without_idle_marks(mut seen: BTreeMap<PathBuf, Seen>, source: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut opaque: Vec<PathBuf> = Vec::new();
    for (path, one) in &mut seen {
        let marked = one.xattrs.iter().any(|line| line.starts_with("user.overlay.opaque="));
        let below = fs::symlink_metadata(source.join(path)).is_ok_and(|status| status.is_dir());
        if marked && (!below || opaque.iter().any(|above| path.starts_with(above))) {
            one.xattrs.retain(|line| !line.starts_with("user.overlay.opaque="));
        } else if marked {
            opaque.push(path.clone());
        }
    }
    seen
}

/// Takes each name of what was copied up for a file of its own. Which of those are one file the upper
/// folders show; overlayfs itself may give a copied-up file's new link another inode number than its old
/// name. Of what was not, the first name is the first that is left.
fn single_names(mut seen: BTreeMap<PathBuf, Seen>, upper: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut firsts: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for (path, one) in &mut seen {
        let copied_up = fs::symlink_metadata(upper.join(path)).is_ok();
        let first =
            if copied_up { path } else { firsts.entry(one.first_name.clone()).or_insert(path.clone()) };
        one.first_name.clone_from(first);
    }
    seen
}

/// Compares what both show and what both have in their upper folders.
fn assert_alike([overlay, cow]: &[(PathBuf, PathBuf); 2], source: &Path) {
    let [expected, seen] = [overlay, cow].map(|one| single_names(see(&one.0, true), &one.1));
    assert_same(&comparable(expected), &comparable(seen));
    let [expected, seen] = [overlay, cow].map(|one| without_idle_marks(see(&one.1, true), source));
    assert_same(&comparable(expected), &comparable(seen));
}

/// Runs a shell script, as a maintainer script would be, and gives its output.
fn shell(folder: &Path, script: &str) -> String {
    let output =
        Command::new("sh").args(["-ec", script]).current_dir(folder).env("LC_ALL", "C").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{script}\nin {}: {}", folder.display(), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn untouched_view_equals_its_source() {
    inside("untouched_view_equals_its_source", |scratch| {
        let source = scratch.join("source");
        fs::create_dir(&source).unwrap();
        make_tree(&source);
        let merged = mount_cow(&source, &scratch.join("cow"));
        let without_root = |mut seen: BTreeMap<PathBuf, Seen>| {
            seen.remove(Path::new("")); // it is the upper folder's
            seen
        };
        let expected = without_root(see(&source, true));
        let linked = expected.values().filter(|one| one.links == 3 && one.mode & S_IFMT == S_IFREG).count();
        assert_eq!(linked, 3, "the tree has a file with three names");
        for _ in 0..2 {
            assert_same(&expected, &without_root(see(&merged, true)));
            let listed = "find usr etc -type f -printf '%n %M %p\\n' | sort | sha256sum";
            assert_eq!(shell(&merged, listed), shell(&source, listed), "by way of readdir");
        }
        assert_eq!(fs::read_dir(scratch.join("cow/upper")).unwrap().count(), 0, "reading changes nothing");
    });
}

#[test]
fn scripts_do_the_same_as_on_overlayfs() {
    inside("scripts_do_the_same_as_on_overlayfs", |scratch| {
        let source = scratch.join("source");
        fs::create_dir(&source).unwrap();
        make_tree(&source);
        let both = mount_both(&source, scratch);
        for script in [
            "stat -c %h a-first-name usr/share/linked-too usr/lib/linked; ls -l a-first-name | cut -c1-13; test a-first-name -ef usr/lib/linked; find . -samefile usr/lib/linked | sort",
            "mkdir c; cp -a a-first-name usr/share/linked-too usr/lib/linked c; stat -c %h c/*; cp -a usr c; stat -c %h c/usr/lib/linked; rm -r c",
            "tar c a-first-name usr/share/linked-too usr/lib/linked | tar tv | sort",
            "ln usr/lib/linked backup; stat -c %h backup usr/lib/linked a-first-name; test backup -ef usr/lib/linked; ! test backup -ef a-first-name; echo more >> backup; cat usr/lib/linked a-first-name",
            "exec 3<>usr/share/linked-too; echo x >&3; cat usr/share/linked-too a-first-name; stat -c %h usr/share/linked-too a-first-name; stat -Lc %h /proc/self/fd/3; ls -l usr/share/linked-too a-first-name | cut -c1-13",
            "ln -f a-first-name usr/share/linked-too; stat -c %h a-first-name usr/share/linked-too; test a-first-name -ef usr/share/linked-too; mv usr/share/linked-too usr/share/moved; stat -c %h usr/share/moved; ln usr/share/moved usr/share/linked-too; rm usr/share/moved; stat -c %h a-first-name",
            "echo new > etc/new; cat etc/new; stat -c %a:%s etc/new",
            "echo more >> etc/shadow; stat -c %a:%u:%g:%s etc/shadow; cat etc/shadow",
            "rm etc/empty; test ! -e etc/empty; ls etc | LC_ALL=C sort",
            "mkdir etc/empty; echo x > etc/empty/x; ls etc/empty",
            "rm -r home; mkdir home; find home",
            "mkdir home/user; ls -A home/user; test ! -e home/user/none",
            "mv usr/lib usr/lib2 && find usr/lib2 | sort; cat usr/lib2/linked",
            "mv usr/bin/wall etc/wall; stat -c %a:%u:%g etc/wall; test ! -e usr/bin/wall",
            "mkdir -p a/b/c; mv a/b d; find d a; mv d a; find a; rmdir a/d/c a/d a",
            "chmod 600 a-first-name; stat -c %a usr/share/linked-too",
            "ln etc/new hard; echo both >> hard; cat etc/new; stat -c %h etc/new hard; rm etc/new; stat -c %h hard",
            "ln -s target link; readlink link; rm link; ln -s other link; readlink link; chown -h 3:4 link; stat -c %u:%g link",
            "chown 5:6 usr/bin/su; stat -c %a:%u:%g usr/bin/su",
            "chmod 4711 usr/bin/su; stat -c %a usr/bin/su; chgrp 7 var; mkdir var/inherits; touch var/file; stat -c %a:%g var/*",
            "cp -a etc copied; find copied -type f -print0 | sort -z | xargs -0 cat | sha256sum; rm -r copied",
            "mkfifo pipe; (echo through > pipe &) ; cat pipe",
            "cd tmp; for i in $(seq 300); do echo $i > file$i; done; rm file*5; ls | wc -l; sed -i s/1/one/ file1; cat file1",
            "truncate -s 5 usr/bin/capable; stat -c %s usr/bin/capable; cat usr/bin/capable",
            "dd if=/dev/zero of=sparse bs=1 count=1 seek=1000000 2>&1 | head -c 0; stat -c %s sparse; cp --sparse=always sparse sparse2; cmp sparse sparse2",
            "tar -C etc -cf archive.tar . ; mkdir untarred; tar -C untarred -xpf archive.tar; find untarred -printf '%m %U %G %s %p\\n' | sort; rm archive.tar",
            "touch -d @1000.5 etc/attributes; stat -c %.Y etc/attributes; touch -hd @5 bin; stat -c %Y bin",
            "cd usr/share/many; rm 1*; ls | wc -l; find . | sort | sha256sum",
            "perl -e 'open F, q(>>), q(etc/log); print F qq(line $_\\n) for 1..9; close F'; flock etc/log cat etc/log",
            "dpkg-divert --version >/dev/null; sync; sync -f etc; df etc > /dev/null",
            "setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'id -u; ! echo x > etc/forbidden; cat etc/shadow || echo no; echo mine > tmp/mine; stat -c %u:%g tmp/mine' 2>/dev/null",
            "rm -rf usr; mkdir usr; find usr",
        ] {
            let [expected, seen] = [0, 1].map(|which| shell(&both[which].0, script));
            assert_eq!(expected, seen, "{script}");
        }
        assert_alike(&both, &source);
    });
}

/// A small source of numbers: the same sequence each time (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn path(&mut self) -> PathBuf {
        let depth = 1 + self.roll(3);
        (0..depth).map(|_| ["a", "b", "c", "d"][self.roll(4)]).collect()
    }
}

/// One operation on two paths: its description and what came of it.
fn operate(
    root: &Path,
    which: usize,
    first: &Path,
    second: &Path,
    number: usize,
) -> (String, Result<String, i32>) {
    let (from, to) = (root.join(first), root.join(second));
    let open = |options: &mut OpenOptions| options.open(&from);
    let unit = |result: io::Result<()>| result.map(|()| String::new());
    let (name, result) = match which {
        0 => ("create", unit(open(OpenOptions::new().write(true).create_new(true)).map(drop))),
        1 => ("write", unit(fs::write(&from, format!("content {number}")))),
        2 => ("append", unit(open(OpenOptions::new().append(true)).and_then(|mut f| f.write_all(b"+")))),
        3 => ("truncate", unit(open(OpenOptions::new().write(true)).and_then(|f| f.set_len(3)))),
        4 => ("read", fs::read_to_string(&from)),
        5 | 6 => ("mkdir", unit(fs::create_dir(&from))),
        7 => ("rmdir", unit(fs::remove_dir(&from))),
        8 | 9 => ("unlink", unit(fs::remove_file(&from))),
        10 | 11 => ("rename", unit(fs::rename(&from, &to))),
        12 => ("link", unit(fs::hard_link(&from, &to))),
        13 => ("symlink", unit(symlink("target", &from))),
        14 => (
            "chmod",
            unit(fs::set_permissions(&from, fs::Permissions::from_mode(0o600 + number as u32 % 64))),
        ),
        15 => ("chown", unit(chown(&from, Some(number as u32 % 100), Some(7)))),
        16 => (
            "setxattr",
            unit(lsetxattr(&from, "user.x", &[number as u8], XattrFlags::empty()).map_err(io::Error::from)),
        ),
        17 => ("removexattr", unit(lremovexattr(&from, "user.x").map_err(io::Error::from))),
        18 => ("rmtree", unit(fs::remove_dir_all(&from))),
        19 => {
            let here = rustix::fs::CWD;
            let result = renameat_with(here, &from, here, &to, RenameFlags::NOREPLACE);
            ("rename-noreplace", unit(result.map_err(io::Error::from)))
        }
        20 => ("open-truncate", unit(open(OpenOptions::new().write(true).custom_flags(O_TRUNC)).map(drop))),
        _ => {
            let names = fs::read_dir(&from).map(|entries| {
                let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
                names.sort();
                format!("{names:?}")
            });
            ("list", names)
        }
    };
    let what = format!("{number}: {name} {} {}", first.display(), second.display());
    (what, result.map_err(|error| error.raw_os_error().unwrap_or(-1)))
}

#[test]
fn random_operations_do_the_same_as_on_overlayfs() {
    inside("random_operations_do_the_same_as_on_overlayfs", |scratch| {
        // More, for a long search: SANDBOX_VIEW_SEEDS=1000
        let seeds = std::env::var("SANDBOX_VIEW_SEEDS").ok().and_then(|text| text.parse().ok());
        for seed in 0..seeds.unwrap_or(12) {
            let scratch = scratch.join(seed.to_string());
            let source = scratch.join("source");
            for folder in ["a/a", "a/b/c", "b/a", "b/b", "c"] {
                fs::create_dir_all(source.join(folder)).unwrap();
            }
            for file in ["a/a/a", "a/b/d", "a/d", "b/a/a", "b/d", "c/c", "d"] {
                fs::write(source.join(file), file).unwrap();
            }
            fs::hard_link(source.join("d"), source.join("c/d")).unwrap();
            symlink("d", source.join("b/c")).unwrap();
            let both = mount_both(&source, &scratch);
            let mut dice = Dice(seed);
            let mut history = Vec::new();
            for number in 0..400 {
                let (which, first, second) = (dice.roll(22), dice.path(), dice.path());
                let [(what, expected), (_, seen)] =
                    [0, 1].map(|side| operate(&both[side].0, which, &first, &second, number));
                history.push(format!("{what} = {expected:?}"));
                assert_eq!(expected, seen, "seed {seed}, the last of:\n{}", history.join("\n"));
            }
            assert_alike(&both, &source);
            // A later session goes on from what is in the upper folder.
            let [_, (cow, upper)] = &both;
            umount2(cow, MntFlags::MNT_DETACH).unwrap();
            let again = mount_cow(&source, upper.parent().unwrap());
            let [(overlay, _), _] = &both;
            let [expected, seen] = [overlay, &again].map(|root| single_names(see(root, true), upper));
            assert_same(&comparable(expected), &comparable(seen));
            for mounted in [&again, overlay] {
                umount2(mounted, MntFlags::MNT_DETACH).unwrap();
            }
        }
    });
}

#[test]
fn open_files_outlive_what_happens_to_their_names() {
    inside("open_files_outlive_what_happens_to_their_names", |scratch| {
        let source = scratch.join("source");
        fs::create_dir(&source).unwrap();
        make_tree(&source);
        let root = mount_cow(&source, &scratch.join("cow"));
        let read = |mut file: &File| {
            let mut text = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut text)).unwrap();
            text
        };
        // Of the upper folder: written, removed, written again.
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).open(root.join("new")).unwrap();
        file.write_all(b"one ").unwrap();
        fs::remove_file(root.join("new")).unwrap();
        file.write_all(b"two").unwrap();
        assert_eq!(read(&file), "one two");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        // Of the tree: open for reading while another one writes.
        let reader = File::open(root.join("etc/shadow")).unwrap();
        fs::write(root.join("etc/shadow"), "changed").unwrap();
        assert_eq!(read(&reader), "changed", "a file is one file, before and after copying up");
        // Of the tree, removed: still there, and changing it does not bring the name back.
        let reader = File::open(root.join("usr/lib/linked")).unwrap();
        fs::remove_file(root.join("usr/lib/linked")).unwrap();
        reader.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!((read(&reader).as_str(), reader.metadata().unwrap().mode() & 0o777), ("one file", 0o600));
        assert!(!root.join("usr/lib/linked").exists());
        assert_eq!(fs::read(root.join("usr/share/linked-too")).unwrap(), b"one file");
        // A folder that is read while it is emptied.
        for entry in fs::read_dir(root.join("usr/share/many")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert_eq!(fs::read_dir(root.join("usr/share/many")).unwrap().count(), 0);
    });
}

#[test]
fn mappings_holes_sockets_and_attributes() {
    inside("mappings_holes_sockets_and_attributes", |scratch| {
        let source = scratch.join("source");
        fs::create_dir(&source).unwrap();
        make_tree(&source);
        let root = mount_cow(&source, &scratch.join("cow"));
        // A shared mapping, by a program that has one: python3's mmap writes through it.
        fs::write(root.join("mapped"), vec![b'.'; 10_000]).unwrap();
        shell(
            &root,
            "python3 -c \"
import mmap
f = open('mapped', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[5000:5006] = b'mapped'; m.flush()
f = open('usr/lib/large', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[0:4] = b'head'; m.flush()\"",
        );
        assert_eq!(&fs::read(root.join("mapped")).unwrap()[4999..5007], b".mapped.");
        let upper = scratch.join("cow/upper");
        assert_eq!(&fs::read(upper.join("mapped")).unwrap()[5000..5006], b"mapped");
        let (large, original) =
            (fs::read(upper.join("usr/lib/large")).unwrap(), fs::read(source.join("usr/lib/large")).unwrap());
        assert!(large[..4] == *b"head" && large[4..] == original[4..], "only what was written has changed");
        // Holes.
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(root.join("holes")).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
        file.write_all_at(b"data", 1 << 19).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 1 << 16).unwrap();
        let mut seeker = &file;
        assert_eq!(seeker.seek(SeekFrom::Start(0)).unwrap(), 0);
        let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
        assert!(data >= 1 << 16, "the hole of 64 KiB is seen: {data}");
        // A socket can be connected to by its name.
        let listener = UnixListener::bind(root.join("socket")).unwrap();
        let client = std::os::unix::net::UnixStream::connect(root.join("socket"));
        assert!(client.is_ok() && listener.accept().is_ok());
        assert!(fs::symlink_metadata(root.join("socket")).unwrap().file_type().is_socket());
        // Attributes: a capability is kept in version 2, overlay's own are out of reach.
        let capable = root.join("usr/bin/capable");
        let capability = xattr(&capable, b"security.capability");
        chown(root.join("usr/bin"), Some(1), Some(1)).unwrap();
        fs::set_permissions(&capable, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(upper.join("usr/bin/capable").exists());
        assert_eq!(xattr(&capable, b"security.capability"), capability);
        let refused = lsetxattr(&capable, "user.overlay.opaque", b"y", XattrFlags::empty());
        assert_eq!(refused, Err(rustix::io::Errno::PERM));
        let create = lsetxattr(root.join("etc/attributes"), "user.empty", b"", XattrFlags::CREATE);
        assert_eq!(create, Err(rustix::io::Errno::EXIST));
        // Writing by somebody else than root takes the set-id bits away.
        shell(
            &root,
            "cp usr/bin/su tmp/su; chmod 6777 tmp/su; setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'echo x >> tmp/su'; test $(stat -c %a tmp/su) = 777",
        );
        // Devices cannot be made, least of all a whiteout.
        shell(&root, "! mknod device c 0 0 2>/dev/null; ! mknod device b 8 0 2>/dev/null; test ! -e device");
    });
}

#[test]
fn whiteouts_that_are_files_hide_names_too() {
    inside("whiteouts_that_are_files_hide_names_too", |scratch| {
        let source = scratch.join("source");
        for file in ["kept/a", "kept/b", "kept/c", "hidden/a"] {
            fs::create_dir_all(source.join(file).parent().unwrap()).unwrap();
            fs::write(source.join(file), file).unwrap();
        }
        // What a session leaves where mknod(2) is forbidden. Overlayfs reads this in lower layers alone.
        let upper = scratch.join("cow/upper");
        fs::create_dir_all(upper.join("kept")).unwrap();
        lsetxattr(upper.join("kept"), "user.overlay.opaque", b"x", XattrFlags::empty()).unwrap();
        fs::write(upper.join("kept/a"), "").unwrap();
        lsetxattr(upper.join("kept/a"), "user.overlay.whiteout", b"y", XattrFlags::empty()).unwrap();
        fs::write(upper.join("kept/b"), "").unwrap();
        fs::create_dir(upper.join("hidden")).unwrap();
        lsetxattr(upper.join("hidden"), "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        let root = mount_cow(&source, &scratch.join("cow"));
        assert_eq!(shell(&root, "find . | sort"), ".\n./hidden\n./kept\n./kept/b\n./kept/c\n");
        assert_eq!(fs::read(root.join("kept/b")).unwrap(), b"");
        fs::write(root.join("kept/a"), "again").unwrap();
        assert_eq!(fs::read(root.join("kept/a")).unwrap(), b"again");
        assert_eq!(fs::read(upper.join("kept/a")).unwrap(), b"again");
    });
}
