//! Moving what a session changed into the folder that its base was: what the monitor does, and what is
//! written down so that it can be gone on with.
//!
//! ```text
//! FOLDER/upper       the changes: they stay here until the end, files as further names of what is moved
//! FOLDER/owners      tier single: owners of what carries no record
//! FOLDER/replaced/N  contents that take the place of changed ones
//! FOLDER/move        the order: target, tier, edits. As long as it is there, nobody sweeps the folder
//! ```
//! Nothing is taken out of the upper layer, so a move that was killed begins from the beginning, and does
//! what is done already once more, or sees that it is. The order is written when all that it needs is on
//! the disk, and removed when all that it says is, and the caller has what could not be done.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use nix::{
    fcntl::{AtFlags, OFlag, open},
    sys::stat::{Mode, fstatat},
    unistd::syncfs,
};
use serde::{Deserialize, Serialize};

use super::{
    Edits, FirstIds, Missing, Moved,
    rearrange::{self, Rearrange},
    write::{Content, How, InTheWay, Writing},
};
use crate::{
    capture::{self, Change, Entry},
    enforced::Tier,
    error::{Doing, Error, Result},
    owners::{self, Owner, Remembered},
    work,
};

/// The order's name in a session's folder.
pub(crate) const ORDER: &str = "move";
/// The folder of contents in the place of others.
pub(crate) const REPLACED: &str = "replaced";

/// Another one is of a later version of this program, and not understood.
const FORMAT: u32 = 1;

/// An owner for what did not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// What, without a leading slash.
    #[serde(with = "crate::bytes")]
    pub path: Vec<u8>,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits; none: those that it has.
    pub mode: Option<u32>,
    /// Attributes beside those that it has; a file capability in version 2.
    #[serde(with = "crate::bytes")]
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What is to be moved where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    format: u32,
    #[serde(with = "crate::bytes")]
    pub(crate) target: PathBuf,
    /// The target's inode number, and when it was made, where the file system notes that: the name, and
    /// the number, may be another folder's by the time.
    inode: u64,
    created: Option<Duration>,
    pub(crate) tier: Tier,
    first_id: FirstIds,
    #[serde(with = "crate::bytes")]
    leave: Vec<Vec<u8>>,
    /// File N in the folder of contents is for path N.
    #[serde(with = "crate::bytes")]
    replace: Vec<Vec<u8>>,
    give: Vec<Given>,
    rearrange: Vec<Rearrange>,
    #[serde(with = "crate::bytes")]
    without: Vec<Vec<u8>>,
}

impl Order {
    pub(crate) fn new(target: &Path, tier: Tier, edits: &Edits) -> Result<Self> {
        let status = fs::metadata(target).doing_to("looking at", target)?;
        Ok(Order {
            format: FORMAT,
            target: target.to_owned(),
            inode: status.ino(),
            created: created(&status),
            tier,
            first_id: edits.first_id,
            leave: edits.leave.clone(),
            replace: edits.replace.iter().map(|(path, _)| path.clone()).collect(),
            give: edits.give.clone(),
            rearrange: edits.rearrange.clone(),
            without: edits.without.clone(),
        })
    }

    /// The order in a session's folder; none if there is none.
    pub(crate) fn read(folder: &Path) -> Result<Option<Order>> {
        let path = folder.join(ORDER);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.doing_to("reading", &path)?,
        };
        let damaged = |why: &dyn std::fmt::Display| {
            Error::folder(format_args!("{} is no order of this program: {why}", path.display()))
        };
        let order: Order = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
        if order.format == FORMAT { Ok(Some(order)) } else { Err(damaged(&"another format")) }
    }

    /// Whether a folder is the one that changes were to be moved to.
    pub(crate) fn is_for(&self, folder: &Path) -> Result<bool> {
        match fs::metadata(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            status => {
                let status = status.doing_to("looking at", folder)?;
                Ok((status.ino(), created(&status)) == (self.inode, self.created))
            }
        }
    }

    /// Writes it down: from here on the move can be ended by whoever finds it.
    fn write(&self, folder: &Path) -> Result<()> {
        let (new, path) = (folder.join("move.new"), folder.join(ORDER));
        let text = serde_json::to_vec(self).map_err(Error::bug)?;
        let mut file = File::create(&new).doing_to("making", &new)?;
        file.write_all(&text).and_then(|()| file.sync_all()).doing_to("writing", &new)?;
        fs::rename(&new, &path).doing_to("writing", &path)?;
        sync_folder(folder)
    }
}

/// When a file was made: statx(2), Linux 4.11.
fn created(status: &fs::Metadata) -> Option<Duration> {
    status.created().ok()?.duration_since(UNIX_EPOCH).ok()
}

/// Begins and ends a move, when nothing runs any more and the owners elsewhere are written down.
pub(crate) fn begin(folder: &Path, order: &Order, step: &mut dyn FnMut() -> Result<()>) -> Result<Moved> {
    check(folder, order)?;
    // The sandbox's syncs did nothing.
    sync_all(folder)?;
    order.write(folder)?;
    go_on(folder, order, step)
}

/// Whether the order can be carried out, as far as that can be seen before anything is changed.
fn check(folder: &Path, order: &Order) -> Result<()> {
    let mut missing: BTreeSet<&[u8]> = order.replace.iter().map(Vec::as_slice).collect();
    capture::each_change(&folder.join("upper"), None, &mut |change, _| {
        if matches!(change.now, Entry::File { .. }) {
            missing.remove(change.path.as_slice());
        }
        Ok(())
    })?;
    match missing.first() {
        None => Ok(()),
        Some(path) => {
            let path = Path::new(OsStr::from_bytes(path));
            Err(Error::plan(format_args!("another content for {}, which is no changed file", path.display())))
        }
    }
}

/// Does all that an order says, and waits until it is on the disk.
pub(crate) fn go_on(folder: &Path, order: &Order, step: &mut dyn FnMut() -> Result<()>) -> Result<Moved> {
    let target = &order.target;
    if !order.is_for(target)? {
        return Err(Error::folder(format_args!(
            "{} is not the folder any more that changes were being moved to",
            target.display()
        ))
        .with_hint(format_args!("what was to be moved is in {}", folder.display())));
    }
    rearrange::carry_out(target, order.first_id, &order.rearrange, &order.without, step)?;
    let elsewhere = owners_elsewhere(folder, order.tier)?;
    let how = How {
        tier: order.tier,
        first_id: order.first_id,
        in_the_way: InTheWay::Removed,
        may_link: true,
        leave: order.leave.iter().cloned().collect(),
        without: order.without.clone(),
    };
    let mut writing = Writing::new(target, how, step);
    let replaced = Replaced::open(folder, order)?;
    let recorded = (order.tier == Tier::Single).then(|| elsewhere.clone());
    capture::each_change(&folder.join("upper"), recorded, &mut |change, file| {
        let content = file.map(|file| replaced.content(&change, file)).transpose()?;
        writing.take(change, content)
    })?;
    writing.end()?;
    for Given { path, uid, gid, mode, xattrs } in &order.give {
        if !writing.taken.contains(path) {
            writing.give_owner(path, Owner { uid: *uid, gid: *gid }, *mode, xattrs)?;
        }
    }
    note_unchanged(&mut writing, target, elsewhere)?;
    let mut not_on_disk = std::mem::take(&mut writing.not_on_disk);
    not_on_disk.sort();
    not_on_disk.dedup();
    sync_all(target)?;
    step()?;
    Ok(Moved { tier: order.tier, first_id: order.first_id, not_on_disk })
}

/// Removes an order that was carried out, and then all that it needed.
pub(crate) fn conclude(folder: &Path) -> Result<()> {
    let path = folder.join(ORDER);
    fs::remove_file(&path).doing_to("removing", &path)?;
    sync_folder(folder)?;
    work::remove(folder).doing_to("removing", folder)
}

/// Links and the like that did not change are still somebody's.
fn note_unchanged(writing: &mut Writing<'_>, target: &Path, owners: HashMap<Vec<u8>, Owner>) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = open(target, flags, Mode::empty()).doing_to("opening", target)?;
    let owners: BTreeMap<_, _> = owners.into_iter().collect();
    for (path, Owner { uid, gid }) in owners {
        let is_there = || {
            let stat = fstatat(&top, OsStr::from_bytes(&path), AtFlags::AT_SYMLINK_NOFOLLOW);
            stat.is_ok_and(|stat| !matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR))
        };
        if !writing.taken.contains(&path) && !writing.is_left(&path) && is_there() {
            writing.note(&path, Missing::Owner { uid, gid }, super::NO_RECORD);
        }
    }
    Ok(())
}

/// What the supervisor remembered, in tier single.
fn owners_elsewhere(folder: &Path, tier: Tier) -> Result<HashMap<Vec<u8>, Owner>> {
    if tier == Tier::Full {
        return Ok(HashMap::new());
    }
    let path = folder.join(owners::FILE);
    let text = fs::read(&path).doing_to("reading", &path)?;
    let owners: Vec<Remembered> = serde_json::from_slice(&text).map_err(Error::bug)?;
    Ok(owners.into_iter().map(|file| (file.path, file.owner)).collect())
}

/// Contents in the place of those that files have.
struct Replaced<'a> {
    folder: PathBuf,
    numbers: HashMap<&'a [u8], usize>,
    /// The names of one file all get its content.
    groups: HashMap<u64, usize>,
}

impl<'a> Replaced<'a> {
    fn open(folder: &Path, order: &'a Order) -> Result<Self> {
        let numbers = order.replace.iter().enumerate().map(|(number, path)| (path.as_slice(), number));
        let numbers: HashMap<_, _> = numbers.collect();
        let mut groups = HashMap::new();
        if !numbers.is_empty() {
            // Groups have the same numbers each time.
            capture::each_change(&folder.join("upper"), None, &mut |change, _| {
                if let Entry::File { hard_link: Some(group), .. } = change.now {
                    groups.extend(numbers.get(change.path.as_slice()).map(|number| (group, *number)));
                }
                Ok(())
            })?;
        }
        Ok(Replaced { folder: folder.join(REPLACED), numbers, groups })
    }

    fn content(&self, change: &Change, file: OwnedFd) -> Result<Content> {
        let group = match change.now {
            Entry::File { hard_link, .. } => hard_link,
            _ => None,
        };
        let of_group = group.and_then(|group| self.groups.get(&group));
        let Some(number) = self.numbers.get(change.path.as_slice()).or(of_group) else {
            return Ok(Content { file, is_replaced: false });
        };
        let path = self.folder.join(number.to_string());
        let file = File::open(&path).doing_to("opening", &path)?.into();
        Ok(Content { file, is_replaced: true })
    }
}

/// Waits until the file system of a folder is on its disk.
fn sync_all(folder: &Path) -> Result<()> {
    let file = File::open(folder).doing_to("opening", folder)?;
    syncfs(file.as_fd()).doing_to("writing to the disk what is in", folder)
}

/// Waits until a folder's own entries are on the disk.
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).doing_to("writing to the disk", folder)
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        os::unix::fs::{FileTypeExt, PermissionsExt, symlink},
        process::Command,
    };

    use nix::sys::stat::{SFlag, mknod};

    use super::*;
    use crate::sys::xattr::{self, Place};

    fn set(path: &Path, name: &std::ffi::CStr, value: &[u8]) {
        let path = crate::bytes::c_string(path).expect("a path");
        xattr::set(Place::Path(&path), name, value).expect("the file system has attributes");
    }

    /// A base, and an upper layer over it with every kind of change.
    fn make(target: &Path, folder: &Path) {
        let upper = folder.join("upper");
        for path in
            ["etc/dir", "etc/to-file/in", "opaque/old", "opaque/kept", "gone/in", "mixed/kept", "same"]
        {
            fs::create_dir_all(target.join(path)).expect("made");
        }
        for path in
            ["etc/old", "etc/gone", "etc/to-folder", "etc/left", "etc/to-file/in/x", "opaque/old/x", "same/x"]
        {
            fs::write(target.join(path), format!("old {path}")).expect("written");
        }
        for path in ["opaque/kept/x", "mixed/kept/x", "mixed/gone", "gone/in/x", "etc/given", "etc/to-link"] {
            fs::write(target.join(path), format!("old {path}")).expect("written");
        }
        fs::hard_link(target.join("etc/old"), target.join("etc/old-too")).expect("linked");
        symlink("old", target.join("etc/link")).expect("linked");
        symlink("dir", target.join("etc/link-to-folder")).expect("linked");
        for path in
            ["etc/link-to-folder", "etc/to-folder/deep/er", "new/empty", "opaque/new", "same", "etc/dir"]
        {
            fs::create_dir_all(upper.join(path)).expect("made");
        }
        for path in
            ["etc/old", "etc/new", "etc/left", "etc/to-folder/deep/er/x", "etc/to-file", "opaque/new/x"]
        {
            fs::write(upper.join(path), format!("new {path}")).expect("written");
        }
        fs::write(upper.join("etc/replaced"), "new etc/replaced").expect("written");
        fs::hard_link(upper.join("etc/replaced"), upper.join("etc/also-replaced")).expect("linked");
        for path in ["etc/link-to-folder/x", "new/left", "opaque/first", "new/awry"] {
            fs::write(upper.join(path), format!("new {path}")).expect("written");
        }
        fs::hard_link(upper.join("etc/new"), upper.join("new/again")).expect("linked");
        fs::hard_link(upper.join("etc/new"), upper.join("etc/dir/again")).expect("linked");
        symlink("new target", upper.join("etc/link")).expect("linked");
        symlink("../nowhere", upper.join("etc/to-link")).expect("linked");
        for path in ["etc/gone", "gone", "mixed"] {
            mknod(&upper.join(path), SFlag::S_IFCHR, Mode::empty(), 0)
                .expect("every user may make whiteouts");
        }
        mknod(&upper.join("new/pipe"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0).expect("made");
        for path in ["opaque", "etc/to-folder", "etc/link-to-folder"] {
            set(&upper.join(path), c"user.overlay.opaque", b"y");
        }
        set(&upper.join("etc/old"), c"user.overlay.origin", b"somewhere");
        set(&upper.join("etc/new"), c"user.colour", b"red");
        set(&upper.join("new/awry"), c"user.overlay.overlay.opaque", b"of the tree");
        set(&upper.join("etc/dir"), c"user.sandbox.owner", b"33:44");
        set(&upper.join("etc/old"), c"user.sandbox.owner", b"5:6");
        set(&target.join("same"), c"user.sandbox.owner", b"7:8");
        set(&target.join("same"), c"user.stale", b"");
        fs::set_permissions(upper.join("etc/to-file"), PermissionsExt::from_mode(0o4751)).expect("set");
        fs::set_permissions(upper.join("new"), PermissionsExt::from_mode(0o2775)).expect("set");
        fs::create_dir(folder.join(REPLACED)).expect("made");
        fs::write(folder.join(REPLACED).join("0"), "another content").expect("written");
        let links = vec![
            Remembered { path: b"etc/link".to_vec(), owner: Owner { uid: 1, gid: 2 } },
            Remembered { path: b"etc/never".to_vec(), owner: Owner { uid: 1, gid: 2 } },
        ];
        fs::write(folder.join(owners::FILE), serde_json::to_vec(&links).expect("JSON")).expect("written");
        let touched = Command::new("find")
            .args([target, &upper])
            .args(["-exec", "touch", "-h", "-d", "2020-02-02 02:02:02", "{}", "+"])
            .status();
        assert!(touched.expect("find starts").success());
    }

    fn order(target: &Path, tier: Tier) -> Order {
        let paths = |paths: &[&str]| paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let given = |path: &str, mode| Given {
            path: path.as_bytes().to_vec(),
            uid: 3,
            gid: 4,
            mode,
            xattrs: vec![(b"user.given".to_vec(), b"1".to_vec())],
        };
        let leave = paths(&["etc/left", "new/left", "opaque/kept", "mixed/kept/x"]);
        let give = vec![given("etc/given", Some(0o2750)), given("etc/old", None), given("nowhere", None)];
        let nothing = || tempfile::tempfile().expect("a file");
        let replace = vec![(b"etc/replaced".to_vec(), nothing())];
        let edits = Edits { leave, replace, give, ..Edits::default() };
        Order::new(target, tier, &edits).expect("an order")
    }

    /// All that is in a folder: path, kind and mode, owner, time, names, attributes, content.
    fn see(top: &Path) -> Vec<String> {
        let mut all = Vec::new();
        let mut firsts = HashMap::new();
        let mut pending = vec![top.to_owned()];
        while let Some(path) = pending.pop() {
            let status = fs::symlink_metadata(&path).expect("a status");
            let mut what = String::new();
            let kind = status.file_type();
            if kind.is_dir() {
                let mut inner: Vec<_> =
                    fs::read_dir(&path).expect("read").map(|entry| entry.expect("an entry").path()).collect();
                inner.sort();
                pending.extend(inner.into_iter().rev());
            } else if kind.is_symlink() {
                what = format!("{:?}", fs::read_link(&path).expect("a link"));
            } else if !kind.is_fifo() {
                what = fs::read_to_string(&path).expect("read");
            }
            let shown = path.strip_prefix(top).expect("below").display().to_string();
            let first = firsts.entry(status.ino()).or_insert_with(|| shown.clone()).clone();
            let place = crate::bytes::c_string(&path).expect("a path");
            let names = xattr::names(Place::Path(&place)).expect("attributes").into_iter();
            let mut xattrs: Vec<_> = names
                .map(|name| {
                    let value = xattr::get(Place::Path(&place), &name).expect("read").unwrap_or_default();
                    format!("{}={}", name.to_string_lossy(), value.escape_ascii())
                })
                .collect();
            xattrs.sort();
            let (owner, time) = ((status.uid(), status.gid()), (status.mtime(), status.mtime_nsec()));
            let time = if shown == "mixed" { (0, 0) } else { time };
            all.push(format!("{shown} {:o} {owner:?} {time:?} ={first} {xattrs:?} {what}", status.mode()));
        }
        all
    }

    fn tiers() -> Vec<Tier> {
        // Only root can give files away outside of a user namespace.
        if nix::unistd::geteuid().is_root() { vec![Tier::Full, Tier::Single] } else { vec![Tier::Single] }
    }

    /// The folders of tests: on one file system, and, where there is another one, on two. In memory syncs
    /// cost nothing.
    fn places() -> [(tempfile::TempDir, tempfile::TempDir); 2] {
        let memory = || tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
        [(memory(), memory()), (memory(), tempfile::tempdir().expect("a folder"))]
    }

    #[test]
    fn everything_is_moved() {
        for tier in tiers() {
            for (target, folder) in places() {
                let (target, folder) = (target.path(), folder.path());
                make(target, folder);
                let moved = begin(folder, &order(target, tier), &mut || Ok(())).expect("moved");
                conclude(folder).expect("concluded");
                assert!(!folder.exists());
                let all = see(target);
                let line = |path: &str| {
                    let found = all.iter().find(|line| line.starts_with(&format!("{path} ")));
                    found.unwrap_or_else(|| panic!("{path}: {all:#?}")).clone()
                };
                let names: Vec<_> =
                    all.iter().map(|line| line.split(' ').next().unwrap_or_default()).collect();
                assert_eq!(
                    names,
                    [
                        "",
                        "etc",
                        "etc/also-replaced",
                        "etc/dir",
                        "etc/dir/again",
                        "etc/given",
                        "etc/left",
                        "etc/link",
                        "etc/link-to-folder",
                        "etc/link-to-folder/x",
                        "etc/new",
                        "etc/old",
                        "etc/old-too",
                        "etc/replaced",
                        "etc/to-file",
                        "etc/to-folder",
                        "etc/to-folder/deep",
                        "etc/to-folder/deep/er",
                        "etc/to-folder/deep/er/x",
                        "etc/to-link",
                        "mixed",
                        "mixed/kept",
                        "mixed/kept/x",
                        "new",
                        "new/again",
                        "new/awry",
                        "new/empty",
                        "new/pipe",
                        "opaque",
                        "opaque/first",
                        "opaque/kept",
                        "opaque/kept/x",
                        "opaque/new",
                        "opaque/new/x",
                        "same",
                        "same/x",
                    ]
                );
                for (path, expected) in [
                    ("etc/old", "new etc/old"),
                    ("etc/old-too", "[] old etc/old"),
                    ("etc/left", "[] old etc/left"),
                    ("etc/replaced", "=etc/also-replaced [] another content"),
                    ("etc/also-replaced", "[] another content"),
                    ("etc/link", "\"new target\""),
                    ("etc/to-link", "\"../nowhere\""),
                    ("etc/to-file", "new etc/to-file"),
                    ("new/again", "=etc/dir/again [\"user.colour=red\"] new etc/new"),
                    ("etc/new", "=etc/dir/again [\"user.colour=red\"] new etc/new"),
                    ("new/awry", "[\"user.overlay.opaque=of the tree\"] new new/awry"),
                    ("opaque/kept/x", "old opaque/kept/x"),
                    ("same", "=same [] "),
                    ("opaque", "=opaque [] "),
                ] {
                    assert!(line(path).ends_with(expected), "{}", line(path));
                }
                for (path, mode) in [("etc/to-file", "104751"), ("new", "42775"), ("new/pipe", "10600")] {
                    assert!(line(path).starts_with(&format!("{path} {mode} ")), "{}", line(path));
                }
                let mut dated = all.iter().filter(|line| !line.starts_with("mixed "));
                assert!(dated.all(|line| line.contains(" (1580608922, 0) ")), "{all:#?}");
                check_owners(tier, &moved, &line);
            }
        }
    }

    fn check_owners(tier: Tier, moved: &Moved, line: &dyn Fn(&str) -> String) {
        let given = line("etc/given");
        if tier == Tier::Full {
            // Outside of a sandbox of tier single, records are records of nobody.
            assert!(given.contains(" 102750 (3, 4) ") && given.contains("[\"user.given=1\"]"), "{given}");
            assert!(line("etc/old").ends_with("[] new etc/old"), "{}", line("etc/old"));
            assert_eq!(moved.not_on_disk, []);
        } else {
            let expected = "[\"user.given=1\", \"user.sandbox.owner=3:4\"] old etc/given";
            assert!(given.ends_with(expected), "{given}");
            assert!(line("etc/dir").ends_with("[\"user.sandbox.owner=33:44\"] "), "{}", line("etc/dir"));
            assert!(line("etc/old").ends_with("[\"user.sandbox.owner=5:6\"] new etc/old"));
            let links: Vec<_> =
                moved.not_on_disk.iter().map(|missing| (&missing.path[..], &missing.what)).collect();
            assert_eq!(links, [(&b"etc/link"[..], &Missing::Owner { uid: 1, gid: 2 })]);
        }
    }

    /// Killed before each step, and once more in what follows: the result is the same, and so is what is said.
    #[test]
    fn killed_at_every_step() {
        for tier in tiers() {
            for ((target, folder), stride) in places().into_iter().zip([1, 7]) {
                let mut expected = None;
                for stop_at in (0..).step_by(stride) {
                    let (target, folder) =
                        (target.path().join(stop_at.to_string()), folder.path().join(stop_at.to_string()));
                    make(&target, &folder);
                    let order = order(&target, tier);
                    let steps = Cell::new(0);
                    let stopped = || {
                        let number = steps.replace(steps.get() + 1);
                        if number == stop_at { Err(Error::bug("stopped")) } else { Ok(()) }
                    };
                    let first = begin(&folder, &order, &mut &stopped);
                    if let Some((all, said)) = &expected
                        && let Ok(moved) = &first
                    {
                        assert!(stop_at > 40, "only {stop_at} steps");
                        assert_eq!((&see(&target), moved), (all, said));
                        break;
                    }
                    let order =
                        Order::read(&folder).expect("read").expect("the order is there until the end");
                    if stop_at > 5 {
                        steps.set(stop_at / 2);
                        go_on(&folder, &order, &mut &stopped).expect_err("stopped again");
                    }
                    let moved = go_on(&folder, &order, &mut || Ok(())).expect("moved");
                    let (all, said) = expected.get_or_insert_with(|| (see(&target), moved.clone()));
                    assert_eq!((&see(&target), &moved), (&*all, &*said), "stopped at {stop_at}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_moved() {
        let (target, folder) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        make(target.path(), folder.path());
        let before = see(target.path());
        let mut order = order(target.path(), Tier::Single);
        order.replace.push(b"etc".to_vec());
        let error = begin(folder.path(), &order, &mut || Ok(())).expect_err("etc is a folder");
        assert!(error.to_string().contains("content for etc,"), "{error}");
        assert_eq!(see(target.path()), before);
        assert!(!folder.path().join(ORDER).exists());
        order.replace.pop();
        assert!(order.is_for(target.path()).expect("seen"));
        let made = order.created.replace(Duration::ZERO);
        assert!(!order.is_for(target.path()).expect("seen"), "another one with the same number");
        order.created = made;
        order.inode += 1;
        order.write(folder.path()).expect("written");
        assert!(!order.is_for(target.path()).expect("seen"));
        let error = go_on(folder.path(), &order, &mut || Ok(())).expect_err("another folder");
        assert_eq!(error.kind(), crate::Kind::Folder);
        assert_eq!(see(target.path()), before);
        fs::write(folder.path().join(ORDER), "{}").expect("written");
        assert_eq!(Order::read(folder.path()).expect_err("garbage").kind(), crate::Kind::Folder);
    }
}
