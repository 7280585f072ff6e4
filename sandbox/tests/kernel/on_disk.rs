//! Trees that are folders of the host: reading them with their owners.

use std::{
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command as Host,
};

use sandbox::{
    Change, Entry, Error, FolderRead, Kind, Metadata, Mount, Plan, Session, Source, Tier, read_folder,
    remove_contents,
};

use crate::support::{Test, Tree, output};

pub(crate) const TESTS: &[Test] = &[
    ("on_disk::owners_are_read", &["userns", "python"], owners_are_read),
    ("on_disk::every_kind_is_read", &["userns"], every_kind_is_read),
    ("on_disk::trees_of_subordinate_ids", &["userns", "range"], trees_of_subordinate_ids),
    ("on_disk::strangers_are_named", &["userns", "range"], strangers_are_named),
    ("on_disk::mounts_are_named", &["root", "userns", "range"], mounts_are_named),
];

/// Those that this account can have.
pub(crate) fn tiers() -> Vec<Tier> {
    let has_range = crate::support::no_range().is_none();
    if has_range { vec![Tier::Full, Tier::Single] } else { vec![Tier::Single] }
}

/// A folder of the host that a sandbox fills, since only there files of others can be made.
pub(crate) struct OnDisk {
    pub(crate) tree: Tree,
}

impl OnDisk {
    pub(crate) fn new() -> Self {
        let tree = Tree::new();
        fs::create_dir(tree.path().join("disk")).expect("made");
        OnDisk { tree }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.tree.path().join("disk")
    }

    /// Runs a script in the folder, in a sandbox of this tier; gives what it says.
    pub(crate) fn script(&self, tier: Tier, text: &str) -> String {
        let mount = Mount { target: b"disk".to_vec(), source: Source::Writable(self.path()) };
        let mut plan = Plan { tier: Some(tier), ..self.tree.folder_plan() };
        plan.mounts.push(mount);
        let mut session = Session::start(&plan).expect("a session");
        output(&mut session, &format!("cd /disk; {text}"))
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = remove_contents(&self.path()); // the owner alone cannot
        let _ = fs::remove_dir(self.path()); // and may not read it
    }
}

/// Entries, with contents.
type Listed = Vec<(Change, Option<Vec<u8>>)>;

/// All that is in a folder.
pub(crate) fn read(folder: &Path, tier: Tier) -> Result<(FolderRead, Listed), Error> {
    let mut all = Vec::new();
    let read = read_folder::<Error>(folder, Some(tier), &mut |change, file| {
        let content = file.map(|mut file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).expect("read");
            bytes
        });
        all.push((change, content));
        Ok(())
    })?;
    Ok((read, all))
}

pub(crate) fn metadata(entry: &Entry) -> &Metadata {
    match entry {
        Entry::Folder { metadata, .. }
        | Entry::File { metadata, .. }
        | Entry::Symlink { metadata, .. }
        | Entry::Special { metadata, .. } => metadata,
        Entry::Removed => panic!("removed"),
    }
}

/// `PATH MODE UID:GID` and a link's target, or a file's content.
pub(crate) fn lines(all: &[(Change, Option<Vec<u8>>)]) -> Vec<String> {
    let line = |(change, content): &(Change, Option<Vec<u8>>)| {
        let Metadata { uid, gid, mode, .. } = metadata(&change.now);
        let what = match &change.now {
            Entry::Symlink { target, .. } => target.escape_ascii().to_string(),
            _ => content.as_deref().unwrap_or_default().escape_ascii().to_string(),
        };
        format!("/{} {mode:o} {uid}:{gid} {what}", change.path.escape_ascii()).trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

const OWNED: &str = r#"
    chmod 755 .; mkdir -m 2775 mail; chown 0:8 mail; mkdir -m 700 closed; echo x > closed/in; chown -R 33:33 closed
    echo set > set; chown 33:60 set; chmod 6755 set; echo plain > plain; chmod 600 plain; ln plain mail/again
    echo listed > listed; chmod 640 listed; echo able > able; chmod 755 able
    python3 - <<'END'
import os, struct
entry = lambda tag, perm, who: struct.pack("<HHI", tag, perm, who)
none = 0xffffffff
acl = struct.pack("<I", 2) + entry(1, 6, none) + entry(2, 4, 33) + entry(4, 4, none) + entry(16, 4, none) + entry(32, 0, none)
os.setxattr("listed", "system.posix_acl_access", acl)
os.setxattr("able", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
os.setxattr("able", "user.colour", b"red")
os.setxattr("able", "user.overlay.opaque", b"y")
END"#;

/// Written with owners in one tier, read in the same: both show the same. What tier single recorded,
/// tier full shows, too.
fn owners_are_read() {
    for (written, seen) in
        [(Tier::Full, Tier::Full), (Tier::Single, Tier::Single), (Tier::Single, Tier::Full)]
    {
        if !tiers().contains(&seen) {
            continue;
        }
        let disk = OnDisk::new();
        disk.script(written, OWNED);
        let (read, all) = read(&disk.path(), seen).unwrap_or_else(|e| panic!("{written:?} {seen:?}: {e}"));
        assert_eq!((read.tier, read.recorded), (seen, written == Tier::Single));
        assert!(read.first_id.is_none());
        assert_eq!(
            lines(&all),
            [
                "/ 40755 0:0",
                "/able 100755 0:0 able\\n",
                "/closed 40700 33:33",
                "/closed/in 100644 33:33 x\\n",
                "/listed 100640 0:0 listed\\n",
                "/mail 42775 0:8",
                "/mail/again 100600 0:0 plain\\n",
                "/plain 100600 0:0 plain\\n",
                "/set 106755 33:60 set\\n",
            ]
        );
        let at = |path: &str| {
            &all.iter().find(|(change, _)| change.path == path.as_bytes()).expect("it is there").0.now
        };
        let capability = [0x0200_0001u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
        assert_eq!(
            metadata(at("able")).xattrs,
            [
                (b"security.capability".to_vec(), capability),
                (b"user.colour".to_vec(), b"red".to_vec()),
                (b"user.overlay.opaque".to_vec(), b"y".to_vec()),
            ],
            "no mark of an overlay is one here"
        );
        let list = &metadata(at("listed")).xattrs;
        assert_eq!((list.len(), &list[0].0[..]), (1, &b"system.posix_acl_access"[..]));
        assert_eq!(list[0].1[16..20], 33u32.to_le_bytes());
        let groups = ["plain", "mail/again"].map(|path| match at(path) {
            Entry::File { hard_link, .. } => hard_link.expect("it has two names"),
            other => panic!("{other:?}"),
        });
        assert_eq!(groups[0], groups[1]);
    }
}

fn every_kind_is_read() {
    for tier in tiers() {
        let disk = OnDisk::new();
        let secret = disk.tree.path().join("secret");
        fs::write(&secret, "the host's").expect("written");
        disk.script(tier, &format!("mkfifo -m 600 pipe; ln -s {} out; mkdir d; touch d/x", secret.display()));
        // What is a whiteout in an upper layer, and what every user may make: mknod(2).
        nix::sys::stat::mknod(
            &disk.path().join("device"),
            nix::sys::stat::SFlag::S_IFCHR,
            nix::sys::stat::Mode::from_bits_truncate(0o600),
            0,
        )
        .expect("made");
        let (_, all) = read(&disk.path(), tier).expect("read");
        let all = lines(&all);
        assert_eq!(
            all[1..],
            [
                "/d 40755 0:0".to_owned(),
                "/d/x 100644 0:0".to_owned(),
                "/device 20600 0:0".to_owned(),
                format!("/out 120777 0:0 {}", secret.display()),
                "/pipe 10600 0:0".to_owned(),
            ]
        );
        if nix::unistd::geteuid().is_root() {
            nix::sys::stat::mknod(
                &disk.path().join("null"),
                nix::sys::stat::SFlag::S_IFCHR,
                nix::sys::stat::Mode::from_bits_truncate(0o666),
                nix::sys::stat::makedev(1, 3),
            )
            .expect("made");
            let (_, all) = read(&disk.path(), tier).expect("read");
            let null = all.iter().find(|(change, _)| change.path == b"null").expect("there");
            assert!(matches!(null.0.now, Entry::Special { device: (1, 3), .. }), "{null:?}");
        }
    }
}

/// A folder whose root is another's: as `mmdebstrap --mode=unshare` leaves it.
fn trees_of_subordinate_ids() {
    let disk = OnDisk::new();
    disk.script(
        Tier::Full,
        "mkdir etc; echo x > etc/x; ln -s x etc/link; chown -hR 1:1 .; chown 34:43 etc/x; chmod 4711 etc/x",
    );
    let (read_full, all) = read(&disk.path(), Tier::Full).expect("read");
    assert_eq!((read_full.first_id.uid, read_full.first_id.gid), (1, 1));
    assert_eq!(lines(&all)[1..], ["/etc 40755 0:0", "/etc/link 120777 0:0 x", "/etc/x 104711 33:42 x\\n"]);
    disk.script(Tier::Full, "chown 0:0 etc/x");
    let error = read(&disk.path(), Tier::Full).expect_err("0 is below the tree's root");
    assert_eq!(error.kind(), Kind::Folder);
    assert!(error.to_string().contains("disk/etc/x belongs to 0:0"), "{error}");
    let error = read(&disk.path(), Tier::Single).expect_err("1 is nobody there");
    assert_eq!(error.kind(), Kind::Folder, "{error}");
}

fn strangers_are_named() {
    let disk = OnDisk::new();
    disk.script(
        Tier::Full,
        "mkdir -p home/a; touch home/a/x; chown 33:33 home/a/x; touch home/b; chown 65534:65534 home/b",
    );
    let (_, all) = read(&disk.path(), Tier::Full).expect("65534 is somebody in tier full");
    assert!(lines(&all).contains(&"/home/b 100644 65534:65534".to_owned()));
    let outside = fs::metadata(disk.path().join("home/a/x")).expect("there").uid();
    let error = read(&disk.path(), Tier::Single).expect_err("33 is nobody in tier single");
    assert_eq!(error.kind(), Kind::Folder);
    let expected = format!("disk/home/a/x belongs to user {outside} ");
    assert!(error.to_string().contains(&expected), "{error}, not {expected}");
    // For root that is www-data, for others the account that has the range.
    let account = nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("asked").expect("it has a name");
    let account = if account.uid.is_root() { "www-data" } else { &account.name };
    assert_eq!(error.hint(), Some(format!("run the same command as {account}").as_str()));
}

/// Something is mounted below a folder, in a mount namespace of the test's own; for root.
fn mounts_are_named() {
    let disk = OnDisk::new();
    for folder in ["proc", "dev", "mnt/same"] {
        fs::create_dir_all(disk.path().join(folder)).expect("made");
    }
    fs::write(disk.path().join("dev/null"), "").expect("made");
    let program = std::env::current_exe().expect("it has a name");
    let output = Host::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc"])
        .arg(
            "cd \"$1\"; mount -t proc proc proc; mount --bind /dev/null dev/null; mount --bind dev mnt/same
             exec \"$2\" --role=read-folder \"$1\"",
        )
        .arg("sh")
        .args([disk.path(), program])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("dev/null, mnt/same, proc\n"),
        "{said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("umount -R"), "{said}");
    assert!(!said.contains("listed proc/"), "{said}");
}

/// What this program does when a test starts it again.
pub(crate) fn play(role: &str, arguments: &[String]) -> std::process::ExitCode {
    let [folder] = arguments else { return std::process::ExitCode::FAILURE };
    if role == "empty" {
        if let Err(error) = remove_contents(Path::new(folder)) {
            println!("{error}\n{}", error.hint().unwrap_or_default());
        }
        return std::process::ExitCode::SUCCESS;
    }
    let read = read_folder::<Error>(Path::new(folder), Some(Tier::Full), &mut |change, _| {
        println!("listed {}", change.path.escape_ascii());
        Ok(())
    });
    if let Err(error) = read {
        println!("{error}\n{}", error.hint().unwrap_or_default());
    }
    std::process::ExitCode::SUCCESS
}
