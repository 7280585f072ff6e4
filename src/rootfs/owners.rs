//! Owners that the folder itself does not have: in a tar of the same tree, in a file that fakeroot(1)
//! saved, or in the attribute that OSTree leaves on files of a user's checkout. The folder gets them when it
//! is finished.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs::File,
    io::{BufReader, Read, Seek},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use super::tree::{Node, NodeKind, Tree};
use crate::{Context, Error, Result};

/// An owner with permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Given {
    uid: u32,
    gid: u32,
    mode: u32,
    device: Option<(u32, u32)>,
}

/// The attribute of a file of a bare-user repository: owner, group, mode (big-endian), and
/// extended attributes (`OSTREE_FILEMETA`, `(uuua(ayay))`).
pub(super) const OSTREE: &[u8] = b"user.ostreemeta";

/// Takes owners and modes from what OSTree left, and from a file, if one is named.
pub(super) fn apply(tree: &mut Tree, folder: &Path, file: Option<&Path>) -> Result<()> {
    apply_ostree(tree);
    let Some(file) = file else { return Ok(()) };
    let reading = || format!("reading the owners in {}", file.display());
    let mut opened = File::open(file).with_context(reading)?;
    let mut start = Vec::new();
    opened.by_ref().take(512).read_to_end(&mut start).with_context(reading)?;
    opened.rewind().with_context(reading)?;
    let given = match start.starts_with(b"dev=") || start.is_empty() {
        true => fakeroot(tree, folder, opened).with_context(reading)?,
        false => archive(opened).with_context(reading)?,
    };
    let mut count = 0;
    for (path, node) in &mut tree.0 {
        let Some(given) = given.get(path) else { continue };
        count += 1;
        if given.device.is_some() {
            // fakeroot's mknod made an empty file. The sandbox has a /dev of its own.
            node.kind = NodeKind::Special;
            node.device = given.device;
            node.metadata.mode = given.mode;
        }
        give(node, *given);
    }
    if count == 0 {
        let message = format!("{} says nothing of any file of {}", file.display(), folder.display());
        return Err(Error::input(message).hint(
            "a tar has paths like ./etc/passwd; what fakeroot saved has inode numbers, which are lost when \
             the folder is copied",
        ));
    }
    Ok(())
}

/// Gives a node its owner and permissions.
fn give(node: &mut Node, given: Given) {
    let before = node.metadata.clone();
    let metadata = &mut node.metadata;
    (metadata.uid, metadata.gid) = (given.uid, given.gid);
    if !matches!(node.kind, NodeKind::Symlink(_)) {
        metadata.mode = metadata.mode & 0o170_000 | given.mode & 0o7777;
    }
    node.is_given |= before != *metadata;
}

fn apply_ostree(tree: &mut Tree) {
    for node in tree.0.values_mut() {
        let xattrs = &mut node.metadata.xattrs;
        let Some(at) = xattrs.iter().position(|(name, _)| name == OSTREE) else { continue };
        let (_, value) = xattrs.remove(at);
        let number = |at: usize| value.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        if let (Some(uid), Some(gid), Some(mode)) = (number(0), number(4), number(8)) {
            give(node, Given { uid, gid, mode, device: None });
        }
    }
}

/// What is to be said where nothing tells whose a user's files are: of those that make a program or a new
/// file another group's, the group is lost. Root's own group is none that packages mean.
pub(super) fn unknown(tree: &Tree, folder: &Path) -> Option<String> {
    const NAMED: usize = 3;
    let is_roots = |node: &&Node| (node.metadata.uid, node.metadata.gid) == (0, 0);
    let is_users = std::fs::metadata(folder).is_ok_and(|status| status.uid() != 0);
    if !is_users || !tree.0.values().filter(|node| !node.is_given).all(|node| is_roots(&node)) {
        return None;
    }
    let is_lost = |node: &Node| node.metadata.gid == 0 && node.metadata.mode & 0o2000 != 0;
    let lost = tree.0.iter().filter(|(_, node)| is_lost(node));
    let lost: Vec<_> = lost.map(|(path, _)| format!("/{}", String::from_utf8_lossy(path))).collect();
    let more = match lost.len() {
        0 => return None,
        count if count > NAMED => format!(" and {} more", count - NAMED),
        _ => String::new(),
    };
    let named = lost.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    Some(format!(
        "nothing says whose the files are that the user has, so they are root's; set-group-id, and without their \
         groups: {named}{more} (--owners FILE says them)"
    ))
}

/// Files with names outside of the folder, which share owner and mode with those: what the folder gets is to
/// be a copy. Gives the names that each has in the tree.
pub(super) fn shared(tree: &Tree, folder: &Path) -> Vec<Vec<Vec<u8>>> {
    let mut groups: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for (path, node) in tree.0.iter().filter(|(_, node)| node.is_given) {
        if let NodeKind::File { hard_link: Some(group), .. } = &node.kind {
            groups.entry(*group).or_default().push(path.clone());
        }
    }
    let mut shared: Vec<_> = groups.into_values().collect();
    shared.retain(|names| {
        let NodeKind::File { content, .. } = &tree.0[&names[0]].kind else { return false };
        let status = std::fs::symlink_metadata(folder.join(OsStr::from_bytes(content)));
        // Where that cannot be seen, a copy is right, too.
        status.map_or(true, |status| status.nlink() > names.len() as u64)
    });
    shared
}

/// A tar's path as the tree has it.
fn names(path: &[u8]) -> Vec<u8> {
    let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.collect::<Vec<_>>().join(&b'/')
}

/// The owners of a tar's entries, compressed as it may be.
fn archive(file: File) -> Result<HashMap<Vec<u8>, Given>> {
    let mut archive = tar::Archive::new(decompressed(file)?);
    let mut given = HashMap::new();
    for entry in archive.entries().context("the tar")? {
        let entry = entry.context("the tar")?;
        let header = entry.header();
        let path = names(&entry.path_bytes());
        if header.entry_type().is_hard_link() {
            // What it leads to says it, and comes before it.
            let first = entry.link_name_bytes().and_then(|first| given.get(&names(&first)).copied());
            given.extend(first.map(|first| (path, first)));
            continue;
        }
        let number = |number: std::io::Result<u64>| -> Result<u32> {
            u32::try_from(number.context("the tar")?).map_err(|_| Error::input("the tar: an id above 2^32"))
        };
        let kind = match header.entry_type() {
            tar::EntryType::Char => 0o020_000,
            tar::EntryType::Block => 0o060_000,
            _ => 0,
        };
        let device = header.device_major().ok().flatten().zip(header.device_minor().ok().flatten());
        let owner = Given {
            uid: number(header.uid())?,
            gid: number(header.gid())?,
            mode: header.mode().context("the tar")? & 0o7777 | kind,
            device: device.filter(|_| kind != 0),
        };
        given.insert(path, owner);
    }
    Ok(given)
}

/// The tar in a file, by the first bytes of its compression.
fn decompressed(mut file: File) -> Result<Box<dyn Read>> {
    let mut magic = Vec::new();
    file.by_ref().take(6).read_to_end(&mut magic).context("the tar")?;
    file.rewind().context("the tar")?;
    let reader = BufReader::with_capacity(1 << 17, file);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(reader).context("the tar")?),
        _ => Box::new(reader),
    })
}

/// A device's numbers, major and minor (`gnu_dev_major` and `gnu_dev_minor` in glibc's sys/sysmacros.h).
fn device_numbers(number: u64) -> (u32, u32) {
    let part = |shift: u32, mask: u64| u32::try_from(number >> shift & mask).unwrap_or(0);
    (part(8, 0xfff) | part(32, 0xffff_f000), part(0, 0xff) | part(12, 0xffff_ff00))
}

/// What `fakeroot -s FILE` wrote: a line a file, by device and inode (faked(1)).
fn fakeroot(tree: &Tree, folder: &Path, mut file: File) -> Result<HashMap<Vec<u8>, Given>> {
    let mut text = String::new();
    file.read_to_string(&mut text).context("the file")?;
    let mut saved: HashMap<(u64, u64), Given> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let values: HashMap<&str, &str> = line.split(',').filter_map(|word| word.split_once('=')).collect();
        let get = |name: &str, radix| {
            let value = values.get(name).and_then(|value| u64::from_str_radix(value, radix).ok());
            value.ok_or_else(|| Error::input(format!("line {number} has no {name}= of fakeroot's")))
        };
        let small = |name: &str, radix| {
            get(name, radix).and_then(|value| {
                u32::try_from(value).map_err(|_| Error::input(format!("line {number}: {name} is too large")))
            })
        };
        let mode = small("mode", 8)?;
        let is_device = matches!(mode & 0o170_000, 0o020_000 | 0o060_000);
        let device = match is_device {
            true => get("rdev", 10).map(|number| Some(device_numbers(number)))?,
            false => None,
        };
        let given = Given { uid: small("uid", 10)?, gid: small("gid", 10)?, mode, device };
        saved.insert((get("dev", 16)?, get("ino", 10)?), given);
    }
    let mut given = HashMap::new();
    for path in tree.0.keys() {
        let place = folder.join(OsStr::from_bytes(path));
        let status = std::fs::symlink_metadata(&place);
        let status = status.with_context(|| format!("looking at {}", place.display()))?;
        if let Some(&owner) = saved.get(&(status.dev(), status.ino())) {
            given.insert(path.clone(), owner);
        }
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use sandbox::{Change, Entry, Metadata};

    use super::*;

    /// Files and folders of root's, by path and mode, on a folder that is the user's.
    fn tree(entries: &[(&str, u32)]) -> Tree {
        let mut tree = Tree::default();
        for (number, (path, mode)) in (1..).zip(entries) {
            let metadata = Metadata { uid: 0, gid: 0, mode: *mode, xattrs: Vec::new(), modified: (0, 0) };
            let now = match mode & 0o170_000 {
                0o040_000 => Entry::Folder { metadata, opaque: false },
                _ => Entry::File { metadata, size: 0, hard_link: Some(number) },
            };
            tree.add(Change { path: path.as_bytes().to_vec(), now });
        }
        tree
    }

    fn given(uid: u32, gid: u32, mode: u32, device: Option<(u32, u32)>) -> Given {
        Given { uid, gid, mode, device }
    }

    #[test]
    fn a_tar_says_owners_of_every_name() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: tar::EntryType, link: &str, (uid, gid, mode): (u64, u64, u32)| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_uid(uid);
            header.set_gid(gid);
            header.set_mode(mode);
            if kind == tar::EntryType::Char {
                header.set_device_major(1).and_then(|()| header.set_device_minor(3)).expect("numbers fit");
            }
            match kind {
                tar::EntryType::Link => builder.append_link(&mut header, path, link),
                _ => builder.append_data(&mut header, path, &[][..]),
            }
            .expect("added");
        };
        add("./etc/", tar::EntryType::Directory, "", (0, 42, 0o2755));
        add("./etc/one", tar::EntryType::Regular, "", (33, 8, 0o4640));
        add("etc//two", tar::EntryType::Link, "./etc/one", (0, 0, 0o644));
        add("dev/null", tar::EntryType::Char, "", (0, 0, 0o666));
        let plain = builder.into_inner().expect("a tar");
        let packed = zstd::encode_all(plain.as_slice(), 1).expect("packed");
        let expected = HashMap::from([
            (b"etc".to_vec(), given(0, 42, 0o2755, None)),
            (b"etc/one".to_vec(), given(33, 8, 0o4640, None)),
            (b"etc/two".to_vec(), given(33, 8, 0o4640, None)),
            (b"dev/null".to_vec(), given(0, 0, 0o020_666, Some((1, 3)))),
        ]);
        for bytes in [plain, packed] {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&bytes).and_then(|()| file.rewind()).expect("written");
            assert_eq!(archive(file).expect("read"), expected);
        }
    }

    #[test]
    fn fakeroot_says_owners_by_inode() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("x"), "").expect("written");
        let status = std::fs::metadata(folder.path().join("x")).expect("a file");
        let tree = tree(&[("x", 0o100_644)]);
        let read = |text: String| {
            let path = folder.path().join("saved");
            std::fs::write(&path, text).expect("written");
            fakeroot(&tree, folder.path(), File::open(path).expect("opened"))
        };
        let line = |mode: &str, rdev: u64| {
            let (device, inode) = (status.dev(), status.ino());
            format!("dev={device:x},ino={inode},mode={mode},uid=33,gid=8,nlink=1,rdev={rdev}\n")
        };
        let other = "dev=1,ino=2,mode=100600,uid=1,gid=1,nlink=1,rdev=0\n";
        for (mode, rdev, device) in [("104755", 0, None), ("20666", 259, Some((1, 3)))] {
            let found = read(other.to_owned() + &line(mode, rdev)).expect("read");
            let mode = u32::from_str_radix(mode, 8).expect("octal");
            assert_eq!(found, HashMap::from([(b"x".to_vec(), given(33, 8, mode, device))]));
        }
        let error = read(other.to_owned() + "dev=1,ino=2\n").expect_err("no mode");
        assert!(error.to_string().contains("line 2 has no mode="), "{error}");
    }

    #[test]
    fn lost_groups_are_named_unless_it_is_known_whose_files_are() {
        let folder = tempfile::tempdir().expect("a folder");
        if std::fs::metadata(folder.path()).expect("a folder").uid() == 0 {
            std::os::unix::fs::chown(folder.path(), Some(1000), None).expect("root may");
        }
        let mut tree = tree(&[
            ("bin/chage", 0o102_755),
            ("bin/su", 0o104_755),
            ("mail", 0o042_775),
            ("spool/a", 0o042_755),
            ("spool/b", 0o042_755),
        ]);
        let said = unknown(&tree, folder.path()).expect("some are lost");
        assert!(said.contains("groups: /bin/chage, /mail, /spool/a and 1 more ("), "{said}");
        let node = tree.0.get_mut(&b"bin/su"[..]).expect("there");
        node.metadata.uid = 33;
        assert_eq!(unknown(&tree, folder.path()), None, "owners are on the disk");
    }

    #[test]
    fn files_with_names_elsewhere_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        std::fs::create_dir(place("root")).expect("made");
        let mut tree = tree(&[("own", 0o100_644), ("shared", 0o100_644), ("unchanged", 0o100_644)]);
        for (name, other) in [("own", "root/second"), ("shared", "outside"), ("unchanged", "outside-too")] {
            std::fs::write(place("root").join(name), "").expect("written");
            std::fs::hard_link(place("root").join(name), place(other)).expect("linked");
        }
        let mut second = tree.0[&b"own"[..]].clone();
        second.is_given = true;
        tree.0.insert(b"second".to_vec(), second);
        for name in [&b"own"[..], b"shared"] {
            tree.0.get_mut(name).expect("there").is_given = true;
        }
        assert_eq!(shared(&tree, &place("root")), [[b"shared".to_vec()]]);
    }
}
