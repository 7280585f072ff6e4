//! What programs say of the machine and of data, natively and emulated: the same, but for a table.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use qemu::{
    Emulator, find,
    interpreter::{Twin, interpreter},
    starts::{Starts, Why},
    twins::{LOG, Machine, Plan, TREE, rewrite, scripts},
};

use super::debs::{Contents, Deb};

/// Whether a twin answers as the device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    /// As the device does.
    Device,
    /// As the host does, until somebody answers uname(2).
    Uname,
    /// As the host does, which is known (docs/acceleration.md).
    Host,
    /// As the host does where the byte order is another one.
    ByteOrder,
    /// As the host does where the device counts time with 32 bits (bookworm's 32-bit ports).
    Time,
    /// As the host does where the device's words have 32 bits.
    Words,
}

use Truth::{ByteOrder, Device, Host, Time, Uname, Words};

/// Scripts, and what their output has to be.
const QUESTIONS: &[(Truth, &str)] = &[
    // Of the machine.
    (Device, "dpkg --print-architecture"),
    (Device, "perl -e 'print qx(dpkg --print-architecture)'"),
    (Device, "dpkg-query --admindir=/nowhere -W; dpkg-deb --help | tail -3; dpkg-split --help | head -3"),
    (Device, "dpkg-divert --list; dpkg-trigger --print-architecture; dpkg-trigger --check-supported"),
    (Device, "dpkg --validate-archname riscv64; dpkg --compare-versions 1:2 gt 2 && echo newer"),
    (
        Device,
        "dpkg-architecture | sort; dpkg-architecture -qDEB_HOST_MULTIARCH; dpkg-architecture -e any && echo any",
    ),
    (Device, "getconf LONG_BIT; getconf -a | grep -c INT"),
    (Device, "ldd /bin/sh | sed 's/(.*//'"),
    (Device, "ldconfig; ldconfig -p | sed 1d | sort | head -20"),
    (Device, "uname -m; arch"),
    (Device, "perl -V:archname; perl -MConfig=config_vars -e 'config_vars(q(archname))'"),
    (
        Device,
        "perl -MSocket -MFcntl -MList::Util=sum -e 'print sum(1..4), inet_ntoa(INADDR_LOOPBACK), O_EXCL'",
    ),
    (Device, "perl -MConfig -e 'print \"$Config{archname}\\n\"'"),
    (Device, "ls -d /lib64 /lib/ld* /usr/lib64 2>&1"),
    (Device, "find / -xdev -maxdepth 1 | sort | grep -v treestrap"),
    (Uname, "perl -MPOSIX -e 'print +(POSIX::uname())[4]'"),
    (Uname, "python3 -c 'import os, platform; print(os.uname().machine, platform.machine())'"),
    (Uname, "python3 -c 'import sysconfig; print(sysconfig.get_platform())'"),
    (Host, "python3 -c 'import sys; print(sys.implementation._multiarch)'"),
    (Host, "python3 -c 'import struct, sys; print(struct.calcsize(\"P\"), sys.maxsize)'"),
    (Host, "perl -MConfig -e 'print \"$Config{myarchname} $Config{byteorder} $Config{ptrsize}\"'"),
    (Host, "bash -c 'echo $HOSTTYPE $MACHTYPE $OSTYPE'"),
    (Host, "perl -e 'print length pack \"L!\", 0'"),
    // Of data.
    (Device, "printf 'b\\na\\nä\\nB\\n' | sort; printf 'b\\na\\n' | LC_ALL=C sort -r | tac"),
    (Device, "grep -c . /etc/debian_version; echo abc | sed 's/b/x/; s/[[:alpha:]]$/ä/'; echo ä | wc -m"),
    (Device, "printf '%d %x %e %s\\n' 4294967297 255 1.5 text; expr 2147483648 + 1; seq 1 3 | paste -s -d+"),
    (Device, "echo $((2147483647 + 1)) $((1 << 40)); test -x /bin/sh && echo yes; echo $0"),
    (Device, "bash -c 'echo $((2**62)) ${BASH_VERSION} $EUID'"),
    (Device, "date -u -d @2000000000 +%F; date -u -d '2038-01-18' +%s; stat -c '%a %F' /usr/bin/perl"),
    (Time, "date -u -d @5000000000 +%F; date -u -d '2038-01-20' +%s"),
    (Device, "md5sum /etc/debian_version; sha256sum < /etc/passwd; cksum < /etc/debian_version"),
    (
        Device,
        "tar c /etc/debian_version 2>/dev/null | gzip -n | sha256sum; find /etc -name 'd*' | sort | head -3",
    ),
    (Device, "awk 'BEGIN { print 2^53 + 1, substr(\"äbc\", 1, 2), 1e300 * 10, int(2147483648.5) }'"),
    (
        Device,
        "perl -e 'print 2**53 + 1, \" \", 1 << 40, \" \", 10 / 3, \" \", ~0, \"\\n\"; printf \"%b\\n\", 12'",
    ),
    (Device, "perl -MPOSIX -MFile::Spec -MCwd -e 'print strftime(\"%F\", gmtime 5e9), getcwd, LONG_MAX > 0'"),
    (Device, "perl -e 'print sort { $a <=> $b } map { hex } qw(ff 10 7fffffff); print crypt(\"a\", \"ab\")'"),
    (Device, "python3 -c 'import json, hashlib, zlib; print(json.dumps([1e16, 0.1]), zlib.crc32(b\"a\"))'"),
    (Device, "python3 -c 'import marshal; print(marshal.dumps((1, 2**40, \"ä\", 1.5)))'"),
    (
        Device,
        "openssl dgst -sha512 /etc/debian_version; openssl x509 -in /nowhere 2>&1 | tail -1 | cut -c1-9",
    ),
    (
        Device,
        "getent passwd root; id; locale | head -2; iconv -t latin1 <<< ä 2>/dev/null | md5sum; iconv -l | wc -l",
    ),
    (Device, "systemctl --version | head -1; systemd-escape --path /a/b; systemd-path | head -1"),
    // Of what they write. /tmp/text is the same everywhere.
    (Device, "cat /usr/lib/udev/hwdb.d/* | head -c 500000 > /tmp/text; wc -c /tmp/text"),
    (
        Device,
        "for how in 'gzip -9n' 'gzip -n' bzip2 'lz4 -q'; do echo $how; $how < /tmp/text | sha256sum; done",
    ),
    (
        Device,
        "for how in xz 'xz -9e' 'xz -T1' 'xz --check=crc32 -8'; do echo $how; $how < /tmp/text | sha256sum; done",
    ),
    (Device, "for how in zstd 'zstd -9 -T0' 'zstd -19'; do echo $how; $how -q < /tmp/text | sha256sum; done"),
    (
        Device,
        "cd /etc; find . -type f | sort | cpio -o -H newc --reproducible -R 0:0 --device-independent 2>/dev/null \
        | wc -c; seq 100 | shuf --random-source=/tmp/text | md5sum; split -n 3 /tmp/text /tmp/part; md5sum /tmp/part*",
    ),
    (
        Device,
        "awk 'BEGIN { srand(1); for (i in t) n++; print n + 0, length(sprintf(\"%c\", 256)) }'; bash -c 'RANDOM=42; echo $RANDOM'",
    ),
    (
        Device,
        "systemd-hwdb update; sha256sum /etc/udev/hwdb.bin; journalctl --update-catalog; \
        sha256sum /var/lib/systemd/catalog/database",
    ),
    (
        Device,
        "systemd-sysusers; useradd -M one; groupadd -r two; usermod -aG two one; chage -d 2020-01-01 one; \
        md5sum /etc/passwd /etc/group /etc/gshadow; cut -d: -f1,2 /etc/shadow; wc -c /var/log/*log 2>/dev/null",
    ),
    (
        Device,
        "systemd-tmpfiles --create --prefix=/var/lib --prefix=/run 2>&1; find /var/lib /run | sort | md5sum",
    ),
    (
        Device,
        "update-mime-database /usr/share/mime; find /usr/share/mime -type f | sort | xargs sha256sum | md5sum",
    ),
    (
        Device,
        "glib-compile-schemas --targetdir=/tmp /usr/share/glib-2.0/schemas; sha256sum /tmp/gschemas.compiled",
    ),
    (
        Device,
        "gtk-update-icon-cache -q -t -f /usr/share/icons/hicolor; sha256sum /usr/share/icons/hicolor/icon-theme.cache",
    ),
    (
        Device,
        "fc-cache -f; cd /var/cache/fontconfig; ls; sha256sum * | md5sum; fc-match sans; fc-list | sort | md5sum",
    ),
    (
        Device,
        "mkdir -p /tmp/l/usr/lib/locale; localedef --prefix=/tmp/l -i de_DE -f UTF-8 de_DE.UTF-8; \
        localedef --prefix=/tmp/l -i ja_JP -f EUC-JP ja_JP; sha256sum /tmp/l/usr/lib/locale/locale-archive",
    ),
    (
        Device,
        "mkdir /tmp/c; cp /usr/share/ca-certificates/mozilla/A*.crt /tmp/c; openssl rehash /tmp/c; ls /tmp/c | sort; \
        openssl x509 -noout -subject -dates -fingerprint -in /tmp/c/ACCVRAIZ1.crt",
    ),
    // A serial number that fits into a long is told as a decimal one.
    (Words, "openssl x509 -noout -text -in /usr/share/ca-certificates/mozilla/ACCVRAIZ1.crt"),
    (
        Device,
        "export PYTHONHASHSEED=0; python3 -m compileall -q -f /usr/lib/python3.*/json /usr/lib/python3.*/email; \
        find /usr/lib/python3.*/json /usr/lib/python3.*/email -name '*.pyc' | sort | xargs sha256sum | md5sum",
    ),
    (
        Device,
        "touch /tmp/f; setcap cap_net_raw+ep /tmp/f; getcap /tmp/f; setfacl -m u:1:rwx /tmp/f; getfacl -c /tmp/f",
    ),
    (
        Device,
        "xmlcatalog --noout --create --add public a b /tmp/catalog; cat /tmp/catalog; file -b /tmp/text /bin/sh | md5sum",
    ),
    (
        Device,
        "truncate -s 1M /tmp/i; mke2fs -q -t ext2 -U 00000000-0000-0000-0000-000000000001 -E hash_seed=\
        00000000-0000-0000-0000-000000000001,no_copy_xattrs /tmp/i; dumpe2fs -h /tmp/i | grep -c .",
    ),
    (
        Device,
        "gpgv --version | head -1; kmod list | head -1; depmod --version | head -1; ssh-keygen -l -f /nowhere",
    ),
    (ByteOrder, "echo abcd | od -An -tx4; echo abcd | od"),
    (ByteOrder, "perl -e 'print unpack \"L\", \"abcd\"'; python3 -c 'import sys; print(sys.byteorder)'"),
];

/// All of them, or those with this in them.
fn questions() -> Vec<&'static (Truth, &'static str)> {
    let only = std::env::var("TREESTRAP_QUESTIONS").unwrap_or_default();
    QUESTIONS.iter().filter(|(_, question)| question.contains(&only)).collect()
}

/// A root with the packages unpacked, as after `dpkg --unpack`.
pub(crate) fn unpack(debs: &[Deb], root: &Path) {
    fs::create_dir_all(root.join("usr")).expect("made");
    for folder in ["bin", "sbin", "lib"] {
        fs::create_dir(root.join("usr").join(folder)).expect("made");
        symlink(format!("usr/{folder}"), root.join(folder)).expect("linked");
    }
    for deb in debs {
        // tar's own option, and not dpkg-deb -x, keeps links of folders.
        let script =
            "dpkg-deb --fsys-tarfile \"$1\" | tar -C \"$2\" -x --keep-directory-symlink --no-same-owner";
        let status = Command::new("sh").args(["-c", script, "sh"]).args([&deb.path, root]).status();
        assert!(status.expect("sh").success(), "{}", deb.name);
    }
    // What base-passwd's and libc-bin's scripts would do, and base-files' and mawk's alternative.
    let script = "cp usr/share/base-passwd/passwd.master etc/passwd; cp usr/share/base-passwd/group.master etc/group; \
        test -e usr/bin/sh || ln -s dash usr/bin/sh; ln -s mawk usr/bin/awk; mkdir -p proc dev tmp run root; \
        mkdir -p var/lib/dpkg/info; : > var/lib/dpkg/status; test -e etc/ld.so.conf || echo 'include /etc/ld.so.conf.d/*.conf' > etc/ld.so.conf";
    assert!(Command::new("sh").args(["-c", script]).current_dir(root).status().expect("sh").success());
}

/// The tree of twins, as the plan says.
pub(crate) fn make_tree(plan: &Plan, natives: &[Deb], machines: (&Machine, &Machine), tree: &Path) {
    for deb in natives.iter().filter(|deb| plan.packages.contains(&deb.name)) {
        let folders =
            ["./usr/bin", "./usr/sbin", "./usr/lib", "./usr/libexec", "./usr/lib64", "./bin", "./sbin"];
        let folders = folders.into_iter().chain(["./lib", "./lib64"]);
        fs::create_dir_all(tree.join("usr")).expect("made");
        // A merged /usr; tar complains of folders that a package has not.
        let script = "dpkg-deb --fsys-tarfile \"$1\" | tar -C \"$2\" -x --no-same-owner --transform='s:^\\./\\(bin\\|sbin\\|lib\\|lib64\\)/:./usr/\\1/:rh' \
            \"$@\" 2>/dev/null; true";
        let script = script.replace("\"$@\"", &folders.collect::<Vec<_>>().join(" "));
        let status = Command::new("sh").args(["-c", &script, "sh"]).args([&deb.path, tree]).status();
        assert!(status.expect("sh").success(), "{}", deb.name);
    }
    for (path, target) in &plan.links {
        let path = tree.join(path);
        let _ = fs::remove_file(&path);
        symlink(target, &path).expect("linked");
    }
    for path in &plan.scripts {
        let place = tree.join(scripts::place(path));
        fs::create_dir_all(place.parent().expect("a folder")).expect("made");
        fs::write(&place, scripts::script(path).expect("a script")).expect("written");
        fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).expect("set");
    }
    let mut contents = Contents::new(natives);
    for deb in natives.iter().filter(|deb| plan.packages.contains(&deb.name)) {
        for path in deb.inventory.entries.keys() {
            let place = tree.join(path);
            if !fs::symlink_metadata(&place).is_ok_and(|metadata| metadata.is_file()) {
                continue;
            }
            let bytes = contents.read(&deb.name, path).expect("readable");
            if let Ok(changed) = rewrite(path, &bytes, machines)
                && changed != bytes
            {
                fs::remove_file(&place).expect("removed"); // hard links
                fs::write(&place, changed).expect("written");
                fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).expect("set");
            }
        }
    }
}

/// The answers, and the log.
pub(crate) fn ask(
    folder: &Path,
    mut command: Command,
    emulator: &Emulator,
    (architecture, twins, mounts): (&str, &[Twin], &[(PathBuf, String)]),
) -> (Vec<String>, Starts) {
    // Each time from the same: the questions change it.
    let root = folder.join("root");
    let _ = fs::remove_dir_all(&root);
    let copied =
        Command::new("cp").args(["-a", "--reflink=auto"]).args([&folder.join("unpacked"), &root]).status();
    assert!(copied.expect("cp").success());
    let questions = folder.join("questions");
    fs::create_dir_all(&questions).expect("made");
    for (index, (_, question)) in self::questions().into_iter().enumerate() {
        fs::write(questions.join(format!("{index:02}.sh")), question).expect("written");
    }
    let log = folder.join("starts");
    fs::write(&log, "").expect("written");
    fs::set_permissions(&log, PermissionsExt::from_mode(0o666)).expect("set");
    let qemu = fs::read(&emulator.path).expect("qemu");
    let combined = interpreter(&qemu, twins, LOG.as_bytes()).expect("an interpreter");
    fs::write(folder.join("interpreter"), combined).expect("written");
    fs::set_permissions(folder.join("interpreter"), PermissionsExt::from_mode(0o755)).expect("set");
    let mut lines = format!("{} {}\n", log.display(), &LOG[1..]);
    for (source, target) in mounts {
        lines.push_str(&format!("{} {target}\n", source.display()));
    }
    fs::write(folder.join("mounts"), lines).expect("written");
    let line = emulator.registration(find(architecture).expect("known")).line;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packages/inside.sh");
    let status = command
        .args(["sh", script])
        .arg(&root)
        .arg(line)
        .args([folder.join("interpreter"), folder.join("mounts"), questions.clone()])
        .status();
    assert!(status.expect("unshare").success());
    let answer = |index: usize| fs::read(questions.join(format!("{index:02}.answer"))).expect("an answer");
    let answers =
        (0..self::questions().len()).map(|index| String::from_utf8_lossy(&answer(index)).into_owned());
    (answers.collect(), Starts::read(&fs::read(&log).expect("the log")))
}

/// What of the twin tree is seen where.
pub(crate) fn mounts(plan: &Plan, tree: &Path) -> Vec<(PathBuf, String)> {
    let whole = (tree.to_owned(), TREE[1..].to_owned());
    let others = plan.mounts.iter().map(|mount| (tree.join(&mount.source), mount.target.clone()));
    [whole].into_iter().chain(others).collect()
}

/// Differences that are not in the table, and lines of the table that are no longer true.
pub(crate) fn compare(
    emulated: &[String],
    accelerated: &[String],
    image: &Machine,
    suite: &str,
) -> Vec<String> {
    let (big_endian, wide) = (image.identity.big_endian, image.identity.wide);
    let mut wrong = Vec::new();
    for (((truth, question), emulated), accelerated) in questions().into_iter().zip(emulated).zip(accelerated)
    {
        let device = match truth {
            Device => true,
            ByteOrder => !big_endian,
            Words => wide,
            Time => wide || suite != "bookworm",
            Uname | Host => false,
        };
        if device && emulated != accelerated {
            wrong.push(format!("{question}\n--- emulated\n{emulated}\n--- accelerated\n{accelerated}"));
        }
    }
    wrong
}

/// The programs that ran in qemu because their twin did not start.
pub(crate) fn failed(starts: &Starts) -> impl Iterator<Item = &str> {
    let failed = starts.emulated.keys().filter(|start| matches!(start.why, Why::Failed(_)));
    failed.map(|start| start.path.as_str())
}

/// A line for the report.
pub(crate) fn summary(starts: &Starts) -> String {
    let mut emulated: BTreeMap<&str, u64> = BTreeMap::new();
    for (start, count) in &starts.emulated {
        *emulated.entry(start.path.as_str()).or_default() += count;
    }
    format!(
        "{} twins ran, {} failed, {} in qemu for {:.1} s: {emulated:?}",
        starts.twins,
        failed(starts).count(),
        starts.emulated(),
        starts.spent().as_secs_f64()
    )
}
