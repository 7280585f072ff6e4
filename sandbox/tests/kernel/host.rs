//! Programs of the host on a folder of the host: what they see, what they may do, and that nothing of
//! them stays.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use sandbox::{Command, Error, Kind, Missing, NotOnDisk, Outcome, RanOnHost, Stdio, Tier, run_on_host};

use crate::{
    on_disk::{OnDisk, lines, read, tiers},
    support::{Test, heard},
};

pub(crate) const TESTS: &[Test] = &[
    ("host::owners", &["userns"], owners),
    ("host::links", &["userns"], links),
    ("host::the_rest_of_the_host", &["userns"], the_rest_of_the_host),
    ("host::nothing_else_is_given_away", &["userns", "python"], nothing_else_is_given_away),
    ("host::in_a_chroot", &["userns"], in_a_chroot),
    ("host::nothing_stays", &["userns"], nothing_stays),
    ("host::stopped", &["userns"], stopped),
];

/// Runs a shell script with the folder as its argument; gives what it says.
fn try_hook(
    folder: &Path,
    tier: Tier,
    links: &[NotOnDisk],
    text: &str,
) -> Result<(RanOnHost, String), Error> {
    let folder_text = folder.to_str().expect("a name");
    let command = Command::new(["sh", "-euc", text, "hook", folder_text]);
    let (ran, said) =
        heard(command, |command| run_on_host(folder, Some(tier), links, command, &AtomicBool::new(false)));
    ran.map(|ran| (ran, said))
}

fn hook(folder: &Path, tier: Tier, text: &str) -> String {
    let (ran, said) = try_hook(folder, tier, &[], text).unwrap_or_else(|error| panic!("{tier:?}: {error}"));
    assert!(ran.status.success(), "{tier:?}: {said}");
    said
}

fn owners() {
    for tier in tiers() {
        let disk = OnDisk::new();
        disk.script(tier, "mkdir etc; echo x > etc/x; chown 33:60 etc/x; chmod 6755 etc/x; mkdir -m 2775 mail; chown 0:8 mail");
        let said = hook(
            &disk.path(),
            tier,
            r#"cd "$1"; stat -c '%n %a %u:%g' . etc/x mail; touch mail/new; chown 1:1 etc; chown 5 mail/new
               cp -a etc/x etc/copy; tar -cf - etc/x | tar -C mail -xf -; stat -c '%n %a %u:%g' etc mail/new etc/copy mail/etc/x; id -u"#,
        );
        let expected = ". 755 0:0\netc/x 6755 33:60\nmail 2775 0:8\netc 755 1:1\nmail/new 644 5:8\n\
                        etc/copy 6755 33:60\nmail/etc/x 6755 33:60\n0";
        assert_eq!(said, expected, "{tier:?}");
        let (_, all) = read(&disk.path(), tier).expect("read");
        let all = lines(&all);
        for line in [
            "/etc 40755 1:1",
            "/etc/copy 106755 33:60 x\\n",
            "/mail/new 100644 5:8",
            "/mail/etc/x 106755 33:60 x\\n",
        ] {
            assert!(all.iter().any(|found| found == line), "{tier:?} {line}: {all:#?}");
        }
    }
}

/// Owners of links come and go beside the folder where it cannot carry them.
fn links() {
    let link = |path: &str, uid, gid| NotOnDisk {
        path: path.into(),
        what: Missing::Owner { uid, gid },
        why: "only files and folders can carry a record".to_owned(),
    };
    let disk = OnDisk::new();
    disk.script(Tier::Single, "mkdir etc; ln -s x etc/one; ln -s x etc/two; ln -s x etc/three");
    let known = [link("etc/one", 1, 1), link("etc/two", 2, 2)];
    let (ran, said) = try_hook(
        &disk.path(),
        Tier::Single,
        &known,
        r#"cd "$1"/etc; stat -c '%n %u:%g' one two three; chown -h 3:3 three; rm two; mv one moved; mkfifo pipe; chown 4:4 pipe
           ln pipe "$1"/again"#,
    )
    .expect("it runs");
    assert_eq!(said, "one 1:1\ntwo 2:2\nthree 0:0");
    let expected =
        [link("again", 4, 4), link("etc/moved", 1, 1), link("etc/pipe", 4, 4), link("etc/three", 3, 3)];
    assert_eq!(ran.links, expected);
    if !tiers().contains(&Tier::Full) {
        return;
    }
    let disk = OnDisk::new();
    disk.script(Tier::Full, "ln -s x link");
    let (ran, _) = try_hook(&disk.path(), Tier::Full, &[], "chown -h 3:3 \"$1\"/link").expect("it runs");
    assert_eq!(ran.links, []);
    assert!(
        lines(&read(&disk.path(), Tier::Full).expect("read").1).contains(&"/link 120777 3:3 x".to_owned())
    );
}

fn the_rest_of_the_host() {
    for tier in tiers() {
        let disk = OnDisk::new();
        let own = disk.tree.path().join("own");
        fs::write(&own, "private\n").expect("written");
        fs::set_permissions(&own, PermissionsExt::from_mode(0o600)).expect("set");
        let said = hook(
            &disk.path(),
            tier,
            r#"cat "$1/../own"; stat -c %u:%g "$1/../own"; readlink /proc/self/ns/net; pwd; umask; cat; echo "[$HOME]"
               [ -r /etc/passwd ]; if [ "$(stat -c %u /etc/passwd)" != 0 ]; then if echo x 2>/dev/null >> /etc/passwd; then echo OH; fi; fi"#,
        );
        let home = std::env::var("HOME").unwrap_or_default();
        let net = fs::read_link("/proc/self/ns/net").expect("a link");
        let here = std::env::current_dir().expect("a folder");
        let expected = format!("private\n0:0\n{}\n{}\n0022\n[{home}]", net.display(), here.display());
        assert_eq!(said, expected, "{tier:?}");
        let (ran, _) = try_hook(&disk.path(), tier, &[], "exit 7").expect("it runs");
        assert_eq!(ran.status.outcome, Outcome::Exited(7));
        let (ran, _) = try_hook(&disk.path(), tier, &[], "kill -9 $$").expect("it runs");
        assert_eq!(ran.status.outcome, Outcome::Signalled(9));
        let missing = run_on_host(
            &disk.path(),
            Some(tier),
            &[],
            &Command::new(["/no/such/program"]),
            &AtomicBool::new(false),
        );
        assert_eq!(missing.expect_err("it is not there").kind(), Kind::Command);
        let nowhere = run_on_host(
            &disk.path().join("nowhere"),
            Some(tier),
            &[],
            &Command::new(["true"]),
            &AtomicBool::new(false),
        );
        assert_eq!(nowhere.expect_err("it is not there").kind(), Kind::Folder);
    }
}

/// In tier single whatever is not below the folder stays whose it is, and carries no record.
fn nothing_else_is_given_away() {
    let disk = OnDisk::new();
    let own = disk.tree.path().join("outside");
    fs::create_dir(&own).expect("made");
    fs::write(own.join("file"), "").expect("written");
    // One whose path begins like the folder's.
    fs::write(disk.tree.path().join("disk-too"), "").expect("written");
    disk.script(
        Tier::Single,
        "mkdir mnt; touch inside; ln -s ../outside/file leads-out; ln -s ../outside folder-out",
    );
    let said = hook(
        &disk.path(),
        Tier::Single,
        r#"cd "$1"
           for file in ../outside ../outside/file ../disk-too leads-out folder-out/file /etc/passwd; do
               chown 33:33 $file 2>&1 || true; chgrp 8 $file 2>&1 || true
           done
           chown -h 33 ../outside/file 2>&1 || true
           chown 0:0 ../outside/file
           mount --bind ../outside mnt; chown 33 mnt/file 2>&1 || true
           touch ../outside/new; mkdir ../outside/folder; ln -s x ../outside/link
           python3 -c 'import os; os.setxattr("../outside/file", "user.colour", b"red")
try: os.setxattr("../outside/file", "user.sandbox.owner", b"1:1")
except OSError as e: print("refused", e.errno)'
           setpriv --reuid 33 --regid 33 --clear-groups touch ../outside/theirs
           chown 33 inside; stat -c %u inside ../outside/file ../outside/new ../outside/theirs"#,
    );
    let (errors, rest): (Vec<_>, Vec<_>) = said.lines().partition(|line| line.contains("changing"));
    assert!(
        errors.len() == 14 && errors.iter().all(|line| line.ends_with("Operation not permitted")),
        "{said}"
    );
    assert_eq!(rest, ["refused 1", "33", "0", "0", "0"]);
    let caller = nix::unistd::geteuid().as_raw();
    for name in ["", "file", "new", "folder", "link", "theirs"] {
        let path = own.join(name);
        assert_eq!(fs::symlink_metadata(&path).expect("there").uid(), caller, "{name}");
        let mut names = [0u8; 4096];
        let length = rustix::fs::llistxattr(&path, &mut names[..]).expect("listed");
        let names = String::from_utf8_lossy(&names[..length]).into_owned();
        assert!(!names.contains("sandbox"), "{name}: {names}");
    }
}

/// As hooks of image builders do it: mount what the tree lacks, and run there.
fn in_a_chroot() {
    for tier in tiers() {
        let disk = OnDisk::new();
        disk.script(
            tier,
            "mkdir usr etc proc dev; for d in bin sbin lib lib64; do ln -s usr/$d $d; done; touch etc/x dev/null
             echo root:x:0:0:root:/root:/bin/sh > etc/passwd",
        );
        let said = hook(
            &disk.path(),
            tier,
            r#"PATH=$PATH:/usr/sbin; mount --rbind /usr "$1/usr"; mount --rbind /dev/null "$1/dev/null"; mount -t proc proc "$1/proc" || mount --rbind /proc "$1/proc"
               chroot "$1" sh -euc 'chown 33:44 /etc/x; stat -c %u:%g /etc/x /etc; cd /etc; chown 7 x; stat -c %u x; echo > /dev/null'"#,
        );
        assert_eq!(said, "33:44\n0:0\n7", "{tier:?}");
        let (_, all) = read(&disk.path(), tier).expect("what was mounted is gone");
        assert!(lines(&all).contains(&"/etc/x 100644 7:44".to_owned()), "{:#?}", lines(&all));
    }
}

/// Processes of this machine with this among their arguments.
fn processes(marker: &str) -> usize {
    let entries = fs::read_dir("/proc").expect("readable").flatten();
    let arguments = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    arguments.filter(|text| text.split(|&byte| byte == 0).any(|word| word == marker.as_bytes())).count()
}

fn nothing_stays() {
    for (number, tier) in tiers().into_iter().enumerate() {
        let disk = OnDisk::new();
        let marker = format!("2000.{}{number}", std::process::id());
        let text = format!(
            "(setsid sleep {marker} &) >/dev/null 2>&1; mkdir \"$1/m\"; mount -t tmpfs none \"$1/m\"; touch \"$1/m/x\""
        );
        hook(&disk.path(), tier, &text);
        assert_eq!(processes(&marker), 0, "{tier:?}");
        assert_eq!(fs::read_dir(disk.path().join("m")).expect("there").count(), 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
        assert!(!mounts.contains(&*disk.path().to_string_lossy()));
    }
}

fn stopped() {
    for (number, tier) in tiers().into_iter().enumerate() {
        let disk = OnDisk::new();
        let marker = format!("3000.{}{number}", std::process::id());
        let stop = AtomicBool::new(false);
        let mut command = Command::new([
            "sh".to_owned(),
            "-c".into(),
            format!("trap '' INT TERM; setsid sleep {marker} & sleep {marker}"),
        ]);
        (command.stdout, command.stderr) = (Stdio::Null, Stdio::Null);
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                let started = Instant::now();
                while processes(&marker) < 2 && started.elapsed() < Duration::from_secs(10) {
                    let _ = nix::poll::poll(&mut [], 20u16);
                }
                stop.store(true, Ordering::Relaxed);
            });
            run_on_host(&disk.path(), Some(tier), &[], &command, &stop).expect_err("it was stopped")
        });
        assert_eq!(error.kind(), Kind::Interrupted);
        let started = Instant::now();
        while processes(&marker) > 0 {
            assert!(started.elapsed() < Duration::from_secs(10), "{tier:?}");
            let _ = nix::poll::poll(&mut [], 20u16);
        }
    }
}
