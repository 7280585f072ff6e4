//! The harness itself: real apt, gpgv and dpkg accept what it makes, so that a failure elsewhere
//! is treestrap's and not the fixture's.

use std::{fs, path::Path, process::Command};

use crate::common::{
    account::Account,
    archive::{Archive, Signed, pool_path, rfc_date, write},
    base,
    fixture::finish,
    server::{Fault, Server},
    tier::{Tier, needs},
};

/// A package with one of everything that the language can say.
const EVERYTHING: &str = r#"
Package: everything
Depends: dash
file ./usr/bin/everything 4755 = #!/bin/sh
folder ./var/lib/everything 2750 0:42
conffile ./etc/everything.conf = x=1
symlink ./usr/bin/all -> everything
link ./usr/bin/every -> ./usr/bin/everything
file ./usr/share/everything/a-name-that-is-so-long-that-it-does-not-fit-into-the-name-field-of-a-tar-header-and-more
    long
script postinst
    echo "$1" >/var/lib/everything/state
compress xz
"#;

#[test]
fn gpgv_accepts_both_signatures_and_the_dates_are_real() {
    needs!(Tier::Gpgv);
    let archive = Archive::without_base(EVERYTHING);
    let folder = tempfile::tempdir().expect("a folder");
    write(&archive.publish(), folder.path());
    fs::write(folder.path().join("key.gpg"), archive.key.public_binary()).expect("a file");
    let gpgv = |arguments: &[&str]| {
        let mut command = Command::new("gpgv");
        command.current_dir(folder.path()).args(["--keyring", "./key.gpg"]).args(arguments);
        finish(command)
    };
    gpgv(&["dists/mini/InRelease"]).ok().says(&["Good signature from \"Miniature archive"]);
    gpgv(&["dists/mini/Release.gpg", "dists/mini/Release"]).ok();
    gpgv(&["dists/mini/Release.gpg", "key.gpg"]).exits(1);
    for seconds in [0, 951_782_399, 951_782_400, 1_709_164_800, 1_735_689_599, 4_107_542_400_u64] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let output = Command::new("date")
            .env("LC_ALL", "C")
            .args(["-u", "-d", &format!("@{seconds}"), "+%a, %d %b %Y %H:%M:%S UTC"])
            .output();
        assert_eq!(rfc_date(time), String::from_utf8_lossy(&output.expect("date").stdout).trim());
    }
}

/// Runs apt-get with all its state below `root`, on the archive at `uri`.
fn apt(root: &Path, arguments: &[&str]) -> crate::common::fixture::Outcome {
    let mut command = Command::new("apt-get");
    command
        .env("LC_ALL", "C")
        .arg("-o")
        .arg(format!("Dir={}", root.display()))
        .arg("-o")
        .arg(format!("Dir::State::status={}/status", root.display()))
        .args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1", "-o", "Acquire::Retries=0"])
        .args([
            "-o",
            "Dir::Etc::Parts=/dev/null",
            "-o",
            "Dir::Etc::Main=/dev/null",
            "-o",
            "APT::Install-Recommends=false",
        ])
        .args(arguments);
    finish(command)
}

fn apt_root(archive: &Archive, uri: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    for name in [
        "etc/apt/preferences.d",
        "etc/apt/apt.conf.d",
        "etc/apt/sources.list.d",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
    ] {
        fs::create_dir_all(root.join(name)).expect("a folder");
    }
    fs::write(root.join("status"), "").expect("a file");
    fs::write(root.join("key.gpg"), archive.key.public_binary()).expect("a file");
    let line = format!("deb [signed-by={}/key.gpg] {uri} mini main\n", root.display());
    fs::write(root.join("etc/apt/sources.list"), line).expect("a file");
    folder
}

#[test]
fn apt_accepts_the_archive_and_refuses_what_the_faults_do_to_it() {
    needs!(Tier::Apt);
    let mut archive = Archive::with_base(EVERYTHING);
    let server = Server::new(archive.publish());
    let root = apt_root(&archive, &server.uri());
    apt(root.path(), &["update"]).ok().does_not_say(&["W:", "E:"]);
    assert!(server.take_requests().iter().any(|r| r.path.contains("/by-hash/SHA256/")), "apt asks by hash");
    let output = apt(root.path(), &["install", "-y", "--download-only", "everything"]).ok();
    assert!(output.stdout.contains("libc6"), "{output}");
    let debs = server.take_deb_requests();
    assert!(debs.iter().any(|path| path.ends_with("/everything_1.0_all.deb")), "{debs:?}");

    // what a client sees of each fault
    server.fault("everything", Fault::Status(503), 1);
    server.fault("everything", Fault::Disconnect(100), 1);
    server.fault("everything", Fault::Wrong, 1);
    for complaint in ["503", "Connection", "Hash Sum mismatch"] {
        fs::remove_dir_all(root.path().join("var/cache/apt/archives")).expect("a folder");
        fs::create_dir_all(root.path().join("var/cache/apt/archives/partial")).expect("a folder");
        let output = apt(root.path(), &["install", "-y", "--download-only", "everything"]);
        assert!(!output.status.success(), "{output}");
        if complaint != "Connection" {
            assert!(output.stderr.contains(complaint), "{complaint}: {output}");
        }
    }
    apt(root.path(), &["install", "-y", "--download-only", "everything"]).ok();

    archive.suite().signed = Signed::Not;
    server.publish(archive.publish());
    let root = apt_root(&archive, &server.uri());
    let output = apt(root.path(), &["update"]);
    assert!(output.stderr.contains("is not signed"), "{output}");
}

#[test]
fn dpkg_reads_every_deb_as_it_was_written() {
    let archive = Archive::with_base(EVERYTHING);
    let folder = tempfile::tempdir().expect("a folder");
    write(&archive.publish(), folder.path());
    for deb in &archive.suites[0].debs {
        let mut command = Command::new("dpkg-deb");
        command.arg("--info").arg(folder.path().join(pool_path(deb)));
        finish(command).ok();
    }
    let path = folder.path().join(pool_path(&archive.suites[0].debs[0]));
    let script = "dpkg-deb --fsys-tarfile \"$1\" | tar -tv --numeric-owner --full-time";
    let mut command = Command::new("sh");
    command.env("LC_ALL", "C").env("TZ", "UTC").args(["-c", script, "sh"]).arg(path);
    let listing = finish(command).ok().stdout;
    let words: Vec<String> = listing
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").replace("2023-11-14 22:13:20 ", ""))
        .collect();
    assert_eq!(
        words,
        [
            "drwxr-xr-x 0/0 0 ./",
            "drwxr-xr-x 0/0 0 ./usr/",
            "drwxr-xr-x 0/0 0 ./usr/bin/",
            "-rwsr-xr-x 0/0 10 ./usr/bin/everything",
            "drwxr-xr-x 0/0 0 ./var/",
            "drwxr-xr-x 0/0 0 ./var/lib/",
            "drwxr-s--- 0/42 0 ./var/lib/everything/",
            "drwxr-xr-x 0/0 0 ./etc/",
            "-rw-r--r-- 0/0 4 ./etc/everything.conf",
            "lrwxrwxrwx 0/0 0 ./usr/bin/all -> everything",
            "hrwxr-xr-x 0/0 0 ./usr/bin/every link to ./usr/bin/everything",
            "drwxr-xr-x 0/0 0 ./usr/share/",
            "drwxr-xr-x 0/0 0 ./usr/share/everything/",
            "-rw-r--r-- 0/0 5 ./usr/share/everything/a-name-that-is-so-long-that-it-does-not-fit-into-the-name-field-of-a-tar-header-and-more",
        ]
    );
}

/// The base is a Debian: dpkg in a plain chroot, with nothing of treestrap, unpacks and
/// configures it.
#[test]
fn dpkg_configures_the_base_in_a_chroot() {
    needs!(Tier::As(Account::Root));
    let archive = Archive::with_base(EVERYTHING);
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("var/lib/dpkg/info")).expect("a folder");
    for file in ["status", "available"] {
        fs::write(root.join("var/lib/dpkg").join(file), "").expect("a file");
    }
    write(&archive.publish(), folder.path());
    let debs = archive.suites[0].debs.iter().map(|deb| folder.path().join(pool_path(deb)));
    // the links of /bin and /lib come first, as in a real bootstrap
    let mut debs: Vec<_> = debs.collect();
    debs.sort_by_key(|path| !path.to_string_lossy().contains("base-files"));
    for deb in &debs {
        let mut command = Command::new("dpkg-deb");
        command.arg("--extract").arg(deb).arg(&root);
        finish(command).ok();
    }
    let mut unpack = Command::new("dpkg");
    unpack.arg(format!("--root={}", root.display())).args(["--force-all", "--unpack"]).args(&debs);
    finish(unpack).ok();
    let mut configure = Command::new("chroot");
    configure.arg(&root).args(["dpkg", "--configure", "-a"]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    finish(configure).ok();
    let mut query = Command::new("chroot");
    query
        .arg(&root)
        .args(["dpkg-query", "-W", "-f", "${Status} ${Package}\n"])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let statuses = finish(query).ok().stdout;
    assert_eq!(statuses.lines().count(), base::debs().len() + 1, "{statuses}");
    assert!(statuses.lines().all(|line| line.starts_with("install ok installed ")), "{statuses}");
    assert_eq!(fs::read_to_string(root.join("var/lib/everything/state")).expect("written"), "configure\n");
}
