//! Sessions on trees that are folders of the host, and their changes moved there. The oracle is a look
//! from inside: what a session saw at its end, the next one on the moved folder sees.

use std::{collections::HashMap, fs, path::Path};

use sandbox::{
    Edits, Entry, Error, FirstIds, FolderRead, Given, Layer, Missing, Mount, Moved, Plan, Session, Source,
    Stored, Tier, View, Work, finish_move, read_folder, sweep, unfinished_moves,
    view::{self, ListingBuilder, ROOT},
};

use crate::{
    on_disk::{OnDisk, lines, metadata, read, tiers},
    support::{Test, output},
};

pub(crate) const TESTS: &[Test] = &[
    ("moved::what_a_session_left", &["userns", "fuse", "python"], what_a_session_left),
    ("moved::kept_sessions", &["userns", "fuse", "python"], kept_sessions),
    ("moved::other_file_systems", &["userns", "fuse", "python"], other_file_systems),
    ("moved::trees_of_subordinate_ids", &["userns", "range", "fuse", "python"], trees_of_subordinate_ids),
    ("moved::edits", &["userns", "python"], edits),
    ("moved::owners_given_in_the_other_tier", &["userns", "range"], owners_given_in_the_other_tier),
    ("moved::links_lead_nowhere", &["userns", "range"], links_lead_nowhere),
    ("moved::written_out", &["userns", "fuse", "python"], written_out),
    ("moved::conflicts_name_both", &["userns", "range"], conflicts_name_both),
    ("moved::refusals_are_said", &["root", "userns", "range", "python"], refusals_are_said),
    ("moved::mounts_are_not_emptied", &["root", "userns"], mounts_are_not_emptied),
    ("moved::killed_at_any_moment", &["userns", "fuse", "python"], killed_at_any_moment),
];

/// A root file system as a script leaves one.
const ROOT_FILE_SYSTEM: &str = r#"
    chmod 751 .; mkdir -p etc usr var/lib/things var/mail proc dev sys run tmp root closed opaque/inner
    for d in bin sbin lib lib64; do ln -s usr/$d $d; done
    echo root:x:0:0:root:/root:/bin/sh > etc/passwd
    for i in 1 2 3 4 5 6 7 8 9; do echo $i > var/lib/things/$i; done
    ln var/lib/things/1 etc/one; ln -s one etc/link; ln -s ../var/lib etc/folder; mkfifo -m 600 var/pipe
    chown 33:33 var/lib/things/2 var/lib/things; chmod 4755 var/lib/things/3; chown 5:6 var/lib/things/3
    chmod 4755 var/lib/things/3; chown 0:8 var/mail; chmod 2775 var/mail; chown -h 7:8 etc/link
    echo x > closed/in; chown -R 33:34 closed; chmod 0700 closed; chmod 0400 closed/in; echo old > opaque/inner/old
    : > var/empty; : > var/empty-too; touch -d @86400 etc/passwd var/lib/things closed/in; touch -h -d @9 etc/link
    python3 - <<'END'
import os, struct
entry = lambda tag, perm, who: struct.pack("<HHI", tag, perm, who)
none = 0xffffffff
acl = struct.pack("<I", 2) + entry(1, 6, none) + entry(2, 4, 33) + entry(4, 4, none) + entry(16, 4, none) + entry(32, 0, none)
os.setxattr("var/lib/things/4", "system.posix_acl_access", acl)
os.setxattr("var/lib", "system.posix_acl_default", acl)
os.setxattr("var/lib/things/5", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
os.setxattr("var/lib/things/6", "user.colour", b"red")
END"#;

/// What a session does to it.
const CHANGES: &str = r#"
    cd /var/lib/things; echo more >> 1; rm 7; chmod 600 8; chown 1:2 9; mv 6 moved; touch 4; echo y >> 5
    echo new > new; chown 33:8 new; chmod 6755 new; ln new again; ln new /etc/again
    ln -sfn elsewhere /etc/link; chown -h 3:4 /etc/link; ln -s nowhere /etc/new-link; chown -h 5:5 /etc/new-link
    rm -r /opaque; mkdir -m 1777 /opaque; echo n > /opaque/n; chown 9:9 /opaque
    rm /etc/folder; mkdir /etc/folder; echo in > /etc/folder/in; rm /var/pipe; mkfifo -m 640 /var/mail/pipe
    echo z >> /closed/in; mkdir -p /srv/a/b/c; chown 33 /srv/a/b; truncate -s 1M /srv/a/sparse; echo e >> /srv/a/sparse
    touch -d @5000 /srv/a/b; chmod 711 /; setpriv --reuid 33 --regid 33 --clear-groups true
    python3 -c '
import os, struct
os.setxattr("/srv/a", "user.x", b"1")
try: os.setxattr("/srv/a/sparse", "user.overlay.opaque", b"own")
except PermissionError: pass # the view fuse-cow takes none
os.setxattr("/srv/a/sparse", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))'
"#;

/// All that can be seen of the tree from inside.
const SEE: &str = r#"python3 - <<'END'
import hashlib, os, stat
firsts = {}
def see(path):
    s = os.lstat(path)
    first = firsts.setdefault((s.st_dev, s.st_ino), path)
    # The topmost folder's time is the session's.
    what = [path, oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns if path != b'/' else '', first]
    if not stat.S_ISLNK(s.st_mode): what += [(n, os.getxattr(path, n)) for n in sorted(os.listxattr(path))]
    if stat.S_ISREG(s.st_mode): what += [s.st_size, hashlib.sha256(open(path, 'rb').read()).hexdigest()]
    if stat.S_ISLNK(s.st_mode): what += [os.readlink(path)]
    print(*what)
    mounts = (b'/proc', b'/dev', b'/sys', b'/usr', b'/run', b'/tmp')
    if stat.S_ISDIR(s.st_mode):
        inner = [os.path.join(path, name) for name in sorted(os.listdir(path))]
        for each in inner:
            if each not in mounts: see(each)
see(b'/')
END"#;

/// A folder of the host as a layer, and what is known of it. `owners`: those of links, which tier single
/// cannot keep there.
fn layer(folder: &Path, tier: Tier, owners: &[(Vec<u8>, u32, u32)]) -> (Layer, FolderRead) {
    let mut builder = None;
    let mut folders = HashMap::new();
    let mut groups: HashMap<u64, u64> = HashMap::new();
    let read = read_folder::<Error>(folder, Some(tier), &mut |change, _| {
        let mut found = metadata(&change.now).clone();
        if let Some((_, uid, gid)) = owners.iter().find(|(path, ..)| *path == change.path) {
            (found.uid, found.gid) = (*uid, *gid);
        }
        let known = view::Metadata {
            uid: found.uid,
            gid: found.gid,
            mode: found.mode,
            modified: found.modified.0,
            modified_nanoseconds: found.modified.1,
            xattrs: found.xattrs,
        };
        if change.path.is_empty() {
            builder = Some(ListingBuilder::new(&known)?);
            folders.insert(Vec::new(), ROOT);
            return Ok(());
        }
        let builder = builder.as_mut().expect("the root comes first");
        let slash = change.path.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = match slash {
            Some(slash) => (&change.path[..slash], &change.path[slash + 1..]),
            None => (&b""[..], &change.path[..]),
        };
        let parent = folders[parent];
        match change.now {
            Entry::Folder { .. } => {
                let made = builder.folder(parent, name, &known)?;
                folders.insert(change.path.clone(), made);
            }
            Entry::File { hard_link: Some(group), .. } if groups.contains_key(&group) => {
                builder.link(parent, name, groups[&group])?;
            }
            Entry::File { size, hard_link, .. } => {
                let made = builder.file(parent, name, &known, size, &change.path)?;
                groups.extend(hard_link.map(|group| (group, made)));
            }
            Entry::Symlink { target, .. } => drop(builder.symlink(parent, name, &known, &target)?),
            Entry::Special { .. } => {
                let kind = view::Kind::of_mode(known.mode).expect("no device");
                builder.special(parent, name, kind, &known)?;
            }
            Entry::Removed => panic!("a folder has no whiteouts"),
        }
        Ok(())
    })
    .expect("read");
    let listing = folder.with_extension("listing");
    let bytes = builder.expect("a root").finish().expect("a listing");
    fs::write(&listing, bytes.as_bytes()).expect("written");
    (Layer::Stored(Stored { listing, contents: folder.to_owned() }), read)
}

/// A plan for a session on the folder.
fn plan(disk: &OnDisk, tier: Tier, view: View, owners: &[(Vec<u8>, u32, u32)]) -> (Plan, FolderRead) {
    let mut plan = Plan::new(Vec::new(), disk.tree.work());
    plan.mounts.push(Mount { target: b"usr".to_vec(), source: Source::ReadOnly("/usr".into()) });
    (plan.tier, plan.view) = (Some(tier), Some(view));
    let (layer, read) = layer(&disk.path(), tier, owners);
    plan.layers.push(layer);
    (plan, read)
}

/// Owners that are not on disk, for the next session.
fn owners_of(moved: &Moved) -> Vec<(Vec<u8>, u32, u32)> {
    let owner = |missing: &sandbox::NotOnDisk| match missing.what {
        Missing::Owner { uid, gid } => (missing.path.clone(), uid, gid),
        Missing::Attribute { .. } => panic!("{missing:?}"),
    };
    moved.not_on_disk.iter().map(owner).collect()
}

/// The owner of the one link that has another one, where it is not on disk.
fn link_owner(tier: Tier) -> Vec<(Vec<u8>, u32, u32)> {
    if tier == Tier::Single { vec![(b"etc/link".to_vec(), 7, 8)] } else { Vec::new() }
}

fn same(seen: &str, expected: &str, what: &str) {
    for (seen, expected) in seen.lines().zip(expected.lines()) {
        assert_eq!(seen, expected, "{what}");
    }
    assert_eq!(seen.lines().count(), expected.lines().count(), "{what}");
}

/// Changes a folder in a session, moves that, and looks whether a session of each tier sees the same.
fn round(disk: &OnDisk, tier: Tier, view: View, what: &str) {
    let (mut plan, read) = plan(disk, tier, view, &link_owner(tier));
    let work = disk.tree.work();
    let mut session = Session::start(&plan).unwrap_or_else(|error| panic!("{what}: {error}"));
    let before = output(&mut session, SEE);
    for part in [
        "b'/closed/in' 0o100400 33 34 86400000000000",
        "b'/etc/link' 0o120777 7 8",
        "b'/var/mail' 0o42775 0 8",
    ] {
        assert!(before.contains(part), "{what}: {part}: {before}");
    }
    output(&mut session, CHANGES);
    let expected = output(&mut session, SEE);
    let edits = Edits { first_id: read.first_id, ..Edits::default() };
    let moved = session.move_into(&disk.path(), &edits).unwrap_or_else(|error| panic!("{what}: {error}"));
    session.close().expect("it closes");
    assert_eq!((moved.tier, moved.first_id), (tier, read.first_id));
    let left: Vec<_> = fs::read_dir(&work).expect("there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, [".lock"], "{what}");
    let owners = owners_of(&moved);
    let expected_owners: &[(&[u8], u32, u32)] = match tier {
        Tier::Full => &[],
        _ => &[(b"etc/link", 3, 4), (b"etc/new-link", 5, 5), (b"var/mail/pipe", 0, 8)],
    };
    let borrowed: Vec<_> = owners.iter().map(|(path, uid, gid)| (path.as_slice(), *uid, *gid)).collect();
    assert_eq!(borrowed, expected_owners, "{what}");
    for again in [View::Checkout, View::Redirect] {
        (plan.layers[0], _) = layer(&disk.path(), tier, &owners);
        plan.view = Some(again);
        let mut session = Session::start(&plan).unwrap_or_else(|error| panic!("{what}: {error}"));
        same(&output(&mut session, SEE), &expected, what);
    }
    if tier == Tier::Single && tiers().contains(&Tier::Full) {
        // Records count in tier full, too.
        (plan.layers[0], _) = layer(&disk.path(), Tier::Full, &owners);
        plan.tier = Some(Tier::Full);
        let mut session = Session::start(&plan).unwrap_or_else(|error| panic!("{what}: {error}"));
        same(&output(&mut session, SEE), &expected, what);
    }
}

fn what_a_session_left() {
    for tier in tiers() {
        for view in View::PREFERENCE {
            let disk = OnDisk::new();
            disk.script(tier, ROOT_FILE_SYSTEM);
            round(&disk, tier, view, &format!("{tier:?} {view}"));
        }
    }
}

fn trees_of_subordinate_ids() {
    for view in View::PREFERENCE {
        let disk = OnDisk::new();
        disk.script(Tier::Full, ROOT_FILE_SYSTEM);
        // As if root were somebody else: what is not there in the result is what chown(1) does not know.
        disk.script(
            Tier::Full,
            r#"python3 - <<'END'
import os, stat, struct
for folder, folders, files in os.walk("."):
    for name in folders + files:
        path = os.path.join(folder, name)
        s = os.lstat(path)
        kept = {}
        if not stat.S_ISLNK(s.st_mode):
            for name in os.listxattr(path):
                value = os.getxattr(path, name)
                if name == "security.capability": value = b"\x01\0\0\x03" + value[4:] + struct.pack("<I", 1)
                if "acl" in name:
                    entries = [struct.unpack_from("<HHI", value, at) for at in range(4, len(value), 8)]
                    entries = [(t, p, i + 1 if t in (2, 8) else i) for t, p, i in entries]
                    value = value[:4] + b"".join(struct.pack("<HHI", *entry) for entry in entries)
                kept[name] = value
        os.lchown(path, s.st_uid + 1, s.st_gid + 1)
        if not stat.S_ISLNK(s.st_mode): os.chmod(path, stat.S_IMODE(s.st_mode))
        for name, value in kept.items(): os.setxattr(path, name, value)
        os.utime(path, ns=(s.st_mtime_ns, s.st_mtime_ns), follow_symlinks=False)
s = os.stat(".")
os.chown(".", s.st_uid + 1, s.st_gid + 1)
END"#,
        );
        round(&disk, Tier::Full, view, &format!("from 1 on, {view}"));
        let (read, _) = read(&disk.path(), Tier::Full).expect("read");
        assert_eq!(read.first_id, FirstIds { uid: 1, gid: 1 });
    }
}

fn kept_sessions() {
    for tier in tiers() {
        let disk = OnDisk::new();
        disk.script(tier, ROOT_FILE_SYSTEM);
        let (mut plan, _) = plan(&disk, tier, View::Redirect, &link_owner(tier));
        let kept = disk.tree.path().join("kept");
        let mut session = Session::start(&plan).expect("a session");
        output(&mut session, CHANGES);
        session.keep(&kept).expect("kept");
        drop(session);
        plan.work = Work::Kept(kept.clone());
        let mut session = Session::start(&plan).expect("taken up");
        let expected = output(&mut session, SEE);
        let moved = session.move_into(&disk.path(), &Edits::default()).expect("moved");
        session.close().expect("it closes");
        assert!(!kept.exists(), "a kept folder goes, too");
        plan.work = Work::Below(disk.tree.work());
        (plan.layers[0], _) = layer(&disk.path(), tier, &owners_of(&moved));
        same(&output(&mut Session::start(&plan).expect("a session"), SEE), &expected, tier.name());
    }
}

/// The session's folder on another file system than the target.
fn other_file_systems() {
    for tier in tiers() {
        let disk = OnDisk::new();
        disk.script(tier, ROOT_FILE_SYSTEM);
        let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        let device = |path: &Path| std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).expect("there"));
        assert_ne!(device(memory.path()), device(&disk.path()), "the test's folder is in memory, too");
        for view in [View::Redirect, View::Checkout] {
            let (mut plan, _) = plan(&disk, tier, view, &link_owner(tier));
            plan.work = Work::Below(memory.path().to_owned());
            let mut session = Session::start(&plan).expect("a session");
            output(
                &mut session,
                if view == View::Redirect { CHANGES } else { "echo more >> /closed/in; rm /var/empty" },
            );
            let expected = output(&mut session, SEE);
            let moved = session.move_into(&disk.path(), &Edits::default()).expect("moved");
            session.close().expect("it closes");
            let owners = owners_of(&moved);
            // The second round has no such links.
            let owners = if owners.is_empty() { link_owner(tier) } else { owners };
            (plan.layers[0], _) = layer(&disk.path(), tier, &owners);
            if view == View::Redirect {
                same(&output(&mut Session::start(&plan).expect("a session"), SEE), &expected, tier.name());
            }
            // The links have other owners now than a second round starts from.
            disk.script(tier, "chown -h 7:8 etc/link");
        }
    }
}

fn edits() {
    for tier in tiers() {
        let disk = OnDisk::new();
        disk.script(tier, ROOT_FILE_SYSTEM);
        let (plan, _) = plan(&disk, tier, View::Fuse, &[]);
        let mut session = Session::start(&plan).expect("a session");
        output(
            &mut session,
            "cd /var/lib/things; echo changed > 1; rm 3; echo changed > 2; echo changed > 4; mkdir d; touch d/x; rm -r /opaque",
        );
        let paths = |paths: &[&str]| paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let content = disk.tree.path().join("content");
        fs::write(&content, "another\n").expect("written");
        let given = |path: &str| Given {
            path: path.into(),
            uid: 33,
            gid: 60,
            mode: Some(0o4711),
            xattrs: vec![(b"user.given".to_vec(), b"1".to_vec())],
        };
        let edits = Edits {
            leave: paths(&["var/lib/things/1", "var/lib/things/3", "var/lib/things/d", "opaque/inner/old"]),
            replace: vec![(b"var/lib/things/2".to_vec(), fs::File::open(&content).expect("there"))],
            give: vec![
                given("var/lib/things/8"),
                given("var/lib/things/4"),
                given("no/such"),
                given("etc/folder/things/8"),
            ],
            ..Edits::default()
        };
        session.move_into(&disk.path(), &edits).expect("moved");
        session.close().expect("it closes");
        let (_, all) = read(&disk.path(), tier).expect("read");
        let all = lines(&all);
        for line in [
            "/var/lib/things/1 100644 0:0 1\\n",
            "/var/lib/things/2 100644 33:33 another\\n",
            "/var/lib/things/3 104755 5:6 3\\n",
            "/var/lib/things/4 100640 0:0 changed\\n",
            "/var/lib/things/8 104711 33:60 8\\n",
            "/var/lib/things/9 100644 0:0 9\\n",
            "/opaque 40755 0:0",
            "/opaque/inner/old 100644 0:0 old\\n",
        ] {
            assert!(all.iter().any(|found| found == line), "{tier:?} {line}: {all:#?}");
        }
        assert!(!all.iter().any(|line| line.contains("things/d")), "{all:#?}");
    }
}

/// A folder written in tier single is finished in tier full: the caller gives what was recorded.
fn owners_given_in_the_other_tier() {
    let disk = OnDisk::new();
    disk.script(Tier::Single, ROOT_FILE_SYSTEM);
    let (_, before) = read(&disk.path(), Tier::Single).expect("read");
    let (mut plan, _) = plan(&disk, Tier::Full, View::Redirect, &[]);
    let mut session = Session::start(&plan).expect("a session");
    output(&mut session, "chown 1:1 /var/lib/things/2; touch /closed/new");
    let expected = output(&mut session, SEE);
    let give = before.iter().map(|(change, _)| {
        let found = metadata(&change.now);
        let xattrs = found.xattrs.clone();
        Given {
            path: change.path.clone(),
            uid: found.uid,
            gid: found.gid,
            mode: Some(found.mode & 0o7777),
            xattrs,
        }
    });
    let edits = Edits { give: give.collect(), ..Edits::default() };
    let moved = session.move_into(&disk.path(), &edits).expect("moved");
    assert_eq!(moved.not_on_disk, []);
    session.close().expect("it closes");
    let (read, _) = read(&disk.path(), Tier::Full).expect("read");
    assert!(!read.recorded, "owners are real now");
    (plan.layers[0], _) = layer(&disk.path(), Tier::Full, &[]);
    same(&output(&mut Session::start(&plan).expect("a session"), SEE), &expected, "in tier full");
}

/// While a session runs somebody replaces folders of the target by links that lead out of it.
fn links_lead_nowhere() {
    let disk = OnDisk::new();
    let outside = disk.tree.path().join("outside");
    fs::create_dir_all(outside.join("lib/things")).expect("made");
    fs::write(outside.join("lib/things/7"), "precious").expect("written");
    disk.script(Tier::Full, ROOT_FILE_SYSTEM);
    let (plan, _) = plan(&disk, Tier::Full, View::Checkout, &[]);
    let mut session = Session::start(&plan).expect("a session");
    output(&mut session, "cd /var/lib/things; rm 7; echo new > 8; touch new");
    let target = disk.path();
    fs::rename(target.join("var"), disk.tree.path().join("away")).expect("moved");
    std::os::unix::fs::symlink(&outside, target.join("var")).expect("linked");
    let give =
        vec![Given { path: b"var/lib/things/9".to_vec(), uid: 1, gid: 1, mode: Some(0o777), xattrs: vec![] }];
    session.move_into(&target, &Edits { give, ..Edits::default() }).expect("moved");
    session.close().expect("it closes");
    let names: Vec<_> = fs::read_dir(outside.join("lib/things")).expect("there").flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(fs::read_to_string(outside.join("lib/things/7")).expect("there"), "precious");
    assert!(!target.join("var").is_symlink() && target.join("var/lib/things/new").exists());
    disk.script(Tier::Full, "chmod 777 . closed");
    let away = disk.tree.path().join("away");
    sandbox::remove_contents(&away).expect("removed");
}

/// The moving process is killed by kill -9, by and by later: what it did not do is done by the next one.
fn killed_at_any_moment() {
    let mut killed = 0;
    for round in 0..6 {
        let tiers = tiers();
        let tier = tiers[round % tiers.len()];
        let disk = OnDisk::new();
        disk.script(tier, ROOT_FILE_SYSTEM);
        let (plan, _) = plan(&disk, tier, View::Checkout, &link_owner(tier));
        let mut session = Session::start(&plan).expect("a session");
        output(&mut session, CHANGES);
        output(
            &mut session,
            "mkdir /many; cd /many; for i in $(seq 300); do echo $i > $i; done; chown -R 33 .",
        );
        let expected = output(&mut session, SEE);
        let folder = session.folder().to_owned();
        let monitor = monitor_of(&folder);
        let moved = std::thread::scope(|scope| {
            let kill = scope.spawn(|| {
                let wait = |nanoseconds| {
                    let time = nix::sys::time::TimeSpec::new(0, nanoseconds);
                    let _ = nix::poll::ppoll(&mut [], Some(time), None);
                };
                while !folder.join("move").exists() && folder.exists() {
                    wait(50_000);
                }
                // From the first moved file to the removal of the folder.
                wait((round * round) as i64 * 400_000);
                let _ = nix::sys::signal::kill(monitor, nix::sys::signal::Signal::SIGKILL);
            });
            let moved = session.move_into(&disk.path(), &Edits::default());
            kill.join().expect("it ends");
            moved
        });
        let moved = match moved {
            Ok(moved) => {
                // Perhaps it was killed after the answer.
                if session.close().is_err() {
                    for unfinished in unfinished_moves(&disk.tree.work()).expect("looked") {
                        finish_move(&unfinished.folder).expect("moved").close().expect("closed");
                    }
                }
                moved
            }
            Err(_) => {
                killed += 1;
                drop(session);
                let unfinished = unfinished_moves(&disk.tree.work()).expect("looked");
                let [unfinished] = &unfinished[..] else { panic!("{unfinished:?}") };
                assert_eq!((&unfinished.target, &unfinished.folder), (&disk.path(), &folder));
                assert_eq!(sweep(&disk.tree.work()).expect("swept"), 0, "it is nobody's to sweep");
                drop(finish_move(&folder).expect("moved"));
                let finished = finish_move(&folder).expect("moved once more, as nobody has noted the result");
                let moved = finished.moved.clone();
                finished.close().expect("closed");
                assert_eq!(finish_move(&folder).err().map(|error| error.kind()), Some(sandbox::Kind::Folder));
                moved
            }
        };
        assert_eq!(unfinished_moves(&disk.tree.work()).expect("looked"), []);
        sweep(&disk.tree.work()).expect("swept");
        let owners = owners_of(&moved);
        let mut plan = plan;
        (plan.layers[0], _) = layer(&disk.path(), tier, &owners);
        same(
            &output(&mut Session::start(&plan).expect("a session"), SEE),
            &expected,
            &format!("round {round}"),
        );
    }
    assert!(killed > 1, "only {killed} were killed while they moved");
}

/// The process that has a session's folder locked and is not this one.
fn monitor_of(folder: &Path) -> nix::unistd::Pid {
    let own = std::process::id();
    let lock = folder.join("lock");
    let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).expect("readable");
    let holds = |pid: &&str| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        links.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|path| path == lock)
    };
    let found = children.split_whitespace().find(holds).expect("a monitor");
    nix::unistd::Pid::from_raw(found.parse().expect("a number"))
}

/// A tree that is written out: what a session sees of it is what one sees of the result.
fn written_out() {
    for tier in tiers() {
        let disk = OnDisk::new();
        disk.script(tier, ROOT_FILE_SYSTEM);
        let (mut plan, _) = plan(&disk, tier, View::Redirect, &link_owner(tier));
        let Layer::Stored(stored) = plan.layers[0].clone() else { panic!("a folder") };
        let expected = output(&mut Session::start(&plan).expect("a session"), SEE);
        let out = OnDisk::new();
        fs::create_dir_all(out.path().join("var/lib/things")).expect("made");
        fs::write(out.path().join("var/lib/things/10"), "stays").expect("written");
        fs::write(out.path().join("var/lib/things/1"), "is replaced").expect("written");
        std::os::unix::fs::symlink("/nowhere", out.path().join("var/empty")).expect("linked");
        let written = sandbox::check_out(&stored, &out.path(), Some(tier)).expect("written");
        assert_eq!(written.tier, tier);
        assert_eq!(owners_of(&written), link_owner(tier));
        let read_again = read(&out.path(), tier).expect("read").1;
        let all = lines(&read_again);
        assert!(all.contains(&"/var/lib/things/10 100644 0:0 stays".to_owned()), "{all:#?}");
        assert!(all.contains(&"/var/lib/things/1 100644 0:0 1\\n".to_owned()), "{all:#?}");
        out.script(
            tier,
            "touch -r var/lib/things /tmp/time; rm var/lib/things/10; touch -r /tmp/time var/lib/things",
        );
        (plan.layers[0], _) = layer(&out.path(), tier, &owners_of(&written));
        same(&output(&mut Session::start(&plan).expect("a session"), SEE), &expected, tier.name());
        // Nothing that happens there reaches the contents.
        out.script(tier, "for i in var/lib/things/? closed/in; do echo changed >> $i; done");
        let Layer::Stored(contents) = layer(&disk.path(), tier, &link_owner(tier)).0 else {
            panic!("a folder")
        };
        plan.layers[0] = Layer::Stored(contents);
        same(&output(&mut Session::start(&plan).expect("a session"), SEE), &expected, tier.name());
        sandbox::remove_contents(&out.path()).expect("removed");
        assert_eq!(fs::read_dir(out.path()).expect("there").count(), 0);
    }
}

fn conflicts_name_both() {
    let disk = OnDisk::new();
    disk.script(Tier::Full, "mkdir lib lib/x; ln -s lib lib64");
    let (plan, _) = plan(&disk, Tier::Full, View::Redirect, &[]);
    let Layer::Stored(stored) = &plan.layers[0] else { panic!("a folder") };
    for (made, expected) in [
        (&["lib64"][..], "out/lib64 is a folder, and the tree has a symbolic link to lib there"),
        (
            &["usr", "usr/lib", "@lib"],
            "out/lib is a symbolic link to usr/lib, and the tree has a folder there",
        ),
    ] {
        let out = disk.tree.path().join("out");
        for path in made {
            match path.strip_prefix('@') {
                Some(link) => std::os::unix::fs::symlink("usr/lib", out.join(link)).expect("linked"),
                None => fs::create_dir_all(out.join(path)).expect("made"),
            }
        }
        let error = sandbox::check_out(stored, &out, Some(Tier::Full)).expect_err("they differ");
        assert_eq!(error.kind(), sandbox::Kind::Folder);
        assert!(error.to_string().ends_with(expected), "{error}");
        assert!(error.hint().is_some());
        let names = fs::read_dir(&out).expect("there").flatten().map(|entry| entry.file_name());
        assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with('.')), "nothing is left");
        assert!(!out.join("usr/lib/x").exists(), "no link is followed");
        sandbox::remove_contents(&out).expect("removed");
    }
}

/// A file system that knows no attributes.
fn refusals_are_said() {
    let attributes = [
        "var/lib attribute system.posix_acl_default",
        "var/lib/things/4 attribute system.posix_acl_access",
        "var/lib/things/5 attribute security.capability",
        "var/lib/things/6 attribute user.colour",
    ];
    let owners = [
        "closed 33:34",
        "closed/in 33:34",
        "etc/link 7:8",
        "var/lib/things 33:33",
        "var/lib/things/2 33:33",
        "var/lib/things/3 5:6",
        "var/mail 0:8",
    ];
    for tier in [Tier::Full, Tier::Single] {
        let disk = OnDisk::new();
        disk.script(tier, ROOT_FILE_SYSTEM);
        let (plan, _) = plan(&disk, tier, View::Redirect, &link_owner(tier));
        let Layer::Stored(Stored { listing, contents }) = &plan.layers[0] else { panic!("a folder") };
        let program = std::env::current_exe().expect("it has a name");
        let plain = disk.tree.path().join("plain");
        fs::create_dir(&plain).expect("made");
        let output = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-euc"])
            .arg("mount -t ramfs ramfs \"$3\"; exec \"$0\" --role=check-out \"$@\"")
            .args([&program, listing, contents, &plain])
            .arg(tier.name())
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
        let mut expected = attributes.to_vec();
        if tier == Tier::Single {
            expected.extend(owners);
        }
        expected.sort_unstable();
        assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{tier:?}");
    }
}

/// Writes a tree out and says what the disk has not got.
pub(crate) fn play(arguments: &[String]) -> std::process::ExitCode {
    let [listing, contents, target, tier] = arguments else { return std::process::ExitCode::FAILURE };
    let stored = Stored { listing: listing.into(), contents: contents.into() };
    let tier = if tier == "full" { Tier::Full } else { Tier::Single };
    let written = sandbox::check_out(&stored, Path::new(target), Some(tier)).expect("written");
    let mut lines: Vec<_> = written
        .not_on_disk
        .iter()
        .map(|missing| {
            let path = missing.path.escape_ascii();
            match &missing.what {
                Missing::Owner { uid, gid } => format!("{path} {uid}:{gid}"),
                Missing::Attribute { name, .. } => format!("{path} attribute {}", name.escape_ascii()),
            }
        })
        .collect();
    lines.sort();
    lines.iter().for_each(|line| println!("{line}"));
    std::process::ExitCode::SUCCESS
}

/// A folder with something mounted below is not emptied beyond that.
fn mounts_are_not_emptied() {
    let disk = OnDisk::new();
    let outside = disk.tree.path().join("outside");
    fs::create_dir_all(&outside).expect("made");
    fs::write(outside.join("precious"), "").expect("written");
    fs::create_dir_all(disk.path().join("mnt/in")).expect("made");
    fs::write(disk.path().join("file"), "").expect("written");
    let program = std::env::current_exe().expect("it has a name");
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc"])
        .arg("mount --bind \"$2\" \"$1/mnt/in\"; exec \"$3\" --role=empty \"$1\"")
        .arg("sh")
        .args([disk.path(), outside.clone(), program])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("something is mounted there, or below") && said.contains("umount"), "{said}");
    assert!(outside.join("precious").exists() && disk.path().join("mnt/in").exists());
}
