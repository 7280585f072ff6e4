//! Machines that cannot: no subordinate ids, no space, no permission. Exit status 3, and the way
//! out; and machines that are not to be touched.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use crate::common::{
    account::Account,
    archive::Archive,
    fixture::{Fixture, Miniature},
    package::{Compression, Package},
    server::Server,
    tarball::{Kind, Member},
    tier::{Tier, needs},
};

const HELLO: &str = "Package: hello\nfile ./usr/share/hello = hello\n";

#[test]
fn an_account_without_subordinate_ids_is_told_how_to_get_them() {
    needs!(Tier::Ostree, Tier::Userns);
    let archive = Archive::with_base(HELLO);
    let server = Server::new(archive.publish());
    for account in [Account::WithoutSubordinate, Account::NoNewPrivileges] {
        needs!(Tier::As(account));
        let fixture = Fixture::with_archive(account, &archive, &server.uri(), &["hello"]);
        // stage 1 needs no ids at all
        for verb in ["lock", "fetch", "compose"] {
            fixture.treestrap(&[verb]).ok();
        }
        let outcome = fixture.treestrap(&["configure", "--tier", "full"]).exits(3);
        // the error names what is missing, doctor the command that mends it
        let (missing, remedy) = match account {
            Account::WithoutSubordinate => ("/etc/subuid", "--add-subuids"),
            _ => ("newuidmap", "no_new_privs"),
        };
        assert!(outcome.stderr.contains(missing), "{account:?}: {missing} expected: {outcome}");
        assert_eq!(fixture.rev("deb/images/tiny/configured"), None);
        fixture.fsck();
        fixture.assert_nothing_left();
        // there is another way, and still the remedy is told
        let doctor = fixture.treestrap(&["doctor"]).ok();
        assert!(doctor.stdout.contains(remedy), "{account:?}: {remedy} expected: {doctor}");
        assert!(doctor.stdout.contains("tier single works"), "{account:?}: {doctor}");
        let refused = fixture.treestrap(&["configure", "--require", "tier=full"]).exits(3);
        assert!(refused.stderr.contains(missing), "{account:?}: {missing} expected: {refused}");
        let outcome = fixture.treestrap(&["configure"]).ok();
        assert!(outcome.stderr.contains("tier single, and not full"), "{account:?}: {outcome}");
    }
}

#[test]
fn a_repository_that_cannot_be_written_is_named() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree);
    let tiny = Miniature::of(Account::Subordinate, Archive::without_base(HELLO), &["hello"]);
    // made by the harness, so not the account's
    fs::create_dir_all(tiny.fixture.repo()).expect("a new folder");
    tiny.fixture.treestrap(&["build"]).exits(3).says(&[".treestrap/repo"]);
}

#[test]
fn a_repository_that_became_read_only_still_serves() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, HELLO, &["hello"]);
    let built = tiny.fixture.treestrap(&["build"]).ok().stdout;
    let repo = tiny.fixture.repo();
    let repo = repo.to_str().expect("UTF-8");
    tiny.fixture.run("chmod", &["-R", "a-w", repo]).ok();
    assert_eq!(tiny.fixture.treestrap(&["build"]).ok().stdout, built, "there is nothing to write");
    tiny.images(&[("tiny", &["hello"]), ("other", &["libcap2-bin"])]);
    tiny.fixture.treestrap(&["build", "other"]).exits(3).says(&["repo"]);
    tiny.fixture.run("chmod", &["-R", "u+w", repo]).ok();
    tiny.fixture.treestrap(&["build"]).ok();
    tiny.fixture.fsck();
}

/// A tmpfs, unmounted when dropped.
struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn new(path: &'a Path, size: &str, owner: (u32, u32)) -> Self {
        let options = format!("size={size},mode=755,uid={},gid={}", owner.0, owner.1);
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "treestrap-test"]).arg(path).status();
        assert!(status.expect("mount").success());
        Tmpfs(path)
    }

    fn grow(&self, size: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(self.0).status();
        assert!(status.expect("mount").success());
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// A package with a file of `size` bytes that do not compress, and a script that writes as much.
fn bulky(name: &str, size: usize) -> Package {
    let mut package = Package::named(name);
    package.compression = Compression::None;
    let data = (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    package.members.push(Member { data, ..Member::new(Kind::File, &format!("./usr/share/{name}"), 0o644) });
    package
}

#[test]
fn a_full_disk_is_named_and_the_next_run_goes_on() {
    needs!(Tier::Tmpfs, Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let mut archive = Archive::with_base(
        "Package: writer\nscript postinst\n    head -c 12000000 /dev/zero | tr '\\0' x >/var/lib/written\n",
    );
    archive.add(bulky("bulky", 40 << 20).build());
    let tiny = Miniature::of(Account::Subordinate, archive, &["bulky"]);
    tiny.images(&[("tiny", &["bulky"]), ("writes", &["writer"])]);
    tiny.fixture.treestrap(&["lock"]).ok();
    let folder = tiny.fixture.path(".treestrap");
    tiny.fixture.run("mkdir", &["-p", ".treestrap"]).ok();
    let disk = Tmpfs::new(&folder, "24m", tiny.fixture.account.ids());
    // while ingesting, then while a script writes
    for (image, room) in [("tiny", "150m"), ("writes", "400m")] {
        if image == "writes" {
            // leave the script less room than it wants
            let used = tiny.fixture.run("du", &["-sk", ".treestrap"]).ok().stdout;
            let used: u64 =
                used.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a size");
            disk.grow(&format!("{}k", used + 6_000));
        }
        let outcome = tiny.fixture.treestrap(&["build", image]);
        let text = outcome.stderr.to_lowercase();
        assert!(text.contains("space"), "{image}: {outcome}");
        // for a script it is the script that failed, and its own words that say why
        let expected: &[i32] = if image == "tiny" { &[3] } else { &[1, 3] };
        assert!(outcome.status.code().is_some_and(|code| expected.contains(&code)), "{image}: {outcome}");
        tiny.fixture.assert_only_mount(&folder);
        disk.grow(room);
        tiny.fixture.fsck();
        tiny.fixture.treestrap(&["build", image]).ok();
        tiny.fixture.fsck();
    }
    drop(disk);
}

/// Every path below a folder with what a change would show in: inode, size, change time.
fn fingerprint(folder: &Path, out: &mut BTreeMap<String, (u64, u64, i64, i64)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        out.insert(path.display().to_string(), (meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()));
        if meta.is_dir() {
            fingerprint(&path, out);
        }
    }
}

#[test]
fn root_changes_nothing_of_the_host_either() {
    needs!(Tier::As(Account::Root), Tier::Ostree, Tier::Overlay);
    let text = r#"
Package: bold
script postinst
    echo x >/etc/bold
    echo 1 >/proc/sys/kernel/printk 2>/dev/null || true
    echo bold >/proc/sys/kernel/hostname 2>/dev/null || true
    mknod /dev/bold c 1 3 2>/dev/null || true
    mount -t tmpfs bold /boot 2>/dev/null || true
"#;
    let tiny = Miniature::new(Account::Root, text, &["bold"]);
    let look = || {
        let mut out = BTreeMap::new();
        for folder in ["/etc", "/proc/sys/fs/binfmt_misc", "/usr/sbin", "/boot"] {
            fingerprint(Path::new(folder), &mut out);
        }
        // /proc has no stable times: contents, then
        out.retain(|path, _| !path.starts_with("/proc/"));
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let binfmt: Vec<_> = fs::read_dir("/proc/sys/fs/binfmt_misc")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        let devices: Vec<_> = fs::read_dir("/dev")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name())
            .filter(|name| name == "bold")
            .collect();
        (out, binfmt, devices, read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/printk"))
    };
    let before = look();
    tiny.fixture.treestrap(&["build"]).ok();
    let after = look();
    assert!(before == after, "the host changed");
    tiny.fixture.assert_nothing_left();
}
