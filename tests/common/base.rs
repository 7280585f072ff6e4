//! A minimal Debian for the miniature archive: a real dpkg, shell and core utilities with their
//! libraries, packed from this machine's own files, so that maintainer scripts really run.
//!
//! Names, Essential marks and dependencies are Debian's; contents are a small part of it. `/usr`
//! is merged, with the links in base-files, as in trixie.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::common::{
    package::{Compression, Deb, Package},
    tarball::{Kind, Member},
};

/// This machine's architecture, by dpkg's name; the miniature archive's too.
pub(crate) fn architecture() -> &'static str {
    static ARCHITECTURE: OnceLock<String> = OnceLock::new();
    ARCHITECTURE.get_or_init(|| {
        let output = Command::new("dpkg").arg("--print-architecture").output().expect("dpkg");
        String::from_utf8(output.stdout).expect("ASCII").trim().to_owned()
    })
}

/// Programs by package: those of maintainer scripts, of dpkg itself (which looks for sh, rm, tar,
/// diff, dpkg-deb, ldconfig and start-stop-daemon before it does anything), and of the tests.
const PROGRAMS: &[(&str, &[&str])] = &[
    (
        "coreutils",
        &[
            "basename", "cat", "chgrp", "chmod", "chown", "cp", "date", "dirname", "echo", "env", "false",
            "head", "id", "install", "ln", "ls", "mkdir", "mkfifo", "mknod", "mktemp", "mv", "readlink",
            "rm", "rmdir", "seq", "sleep", "sort", "stat", "sync", "tail", "test", "touch", "tr", "true",
            "uname", "wc", "whoami",
        ],
    ),
    ("dash", &["dash"]),
    ("diffutils", &["cmp", "diff"]),
    (
        "dpkg",
        &[
            "dpkg",
            "dpkg-deb",
            "dpkg-divert",
            "dpkg-query",
            "dpkg-split",
            "dpkg-statoverride",
            "dpkg-trigger",
            "start-stop-daemon",
            "update-alternatives",
        ],
    ),
    ("grep", &["grep"]),
    ("libc-bin", &["ldconfig"]),
    ("libcap2-bin", &["getcap", "setcap"]),
    ("sed", &["sed"]),
    ("tar", &["tar"]),
];

/// The packages without programs of this machine.
const TEXT: &str = r#"
Package: base-files
Essential: yes
Priority: required

folder ./bin-is-merged
symlink ./bin -> usr/bin
symlink ./sbin -> usr/sbin
symlink ./lib -> usr/lib
symlink ./lib64 -> usr/lib64
folder ./dev
folder ./etc
folder ./home
folder ./proc
folder ./root 700
folder ./run
folder ./sys
folder ./tmp 1777
folder ./usr/bin
folder ./usr/lib
folder ./usr/lib64
folder ./usr/sbin
folder ./var/cache
folder ./var/lib
folder ./var/log
folder ./var/mail 2775 0:8
folder ./var/tmp 1777
file ./etc/debian_version = mini
conffile ./etc/issue = Miniature \n \l
file ./etc/host.conf = multi on
file ./usr/lib/os-release = ID=debian
symlink ./etc/os-release -> ../usr/lib/os-release
control triggers
    interest-noawait /usr/lib/sysimage

Package: base-passwd
Essential: yes
Priority: required

folder ./usr/share/base-passwd
file ./usr/share/base-passwd/passwd.master
    root:*:0:0:root:/root:/bin/sh
    daemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin
    bin:*:2:2:bin:/bin:/usr/sbin/nologin
    mail:*:8:8:mail:/var/mail:/usr/sbin/nologin
    www-data:*:33:33:www-data:/var/www:/usr/sbin/nologin
    nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
file ./usr/share/base-passwd/group.master
    root:*:0:
    daemon:*:1:
    bin:*:2:
    tty:*:5:
    mail:*:8:
    www-data:*:33:
    shadow:*:42:
    nogroup:*:65534:
script preinst
    # as in bookworm: the first package script of all makes the accounts
    if [ "$1" = install ] && [ ! -e "$DPKG_ROOT/etc/passwd" ]; then
        {
            echo 'root:*:0:0:root:/root:/bin/sh'
            echo 'daemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin'
            echo 'bin:*:2:2:bin:/bin:/usr/sbin/nologin'
            echo 'mail:*:8:8:mail:/var/mail:/usr/sbin/nologin'
            echo 'www-data:*:33:33:www-data:/var/www:/usr/sbin/nologin'
            echo 'nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin'
        } >"$DPKG_ROOT/etc/passwd"
    fi
    if [ "$1" = install ] && [ ! -e "$DPKG_ROOT/etc/group" ]; then
        {
            echo 'root:*:0:'
            echo 'daemon:*:1:'
            echo 'bin:*:2:'
            echo 'tty:*:5:'
            echo 'mail:*:8:'
            echo 'www-data:*:33:'
            echo 'shadow:*:42:'
            echo 'nogroup:*:65534:'
        } >"$DPKG_ROOT/etc/group"
    fi
script postinst
    cmp "$DPKG_ROOT/etc/group" "$DPKG_ROOT/usr/share/base-passwd/group.master"

Package: init-system-helpers
Priority: required

file ./usr/sbin/invoke-rc.d
    #!/bin/sh
    # what Debian's does where it matters here: policy-rc.d is asked first, 101 forbids
    policy=0
    [ ! -x /usr/sbin/policy-rc.d ] || /usr/sbin/policy-rc.d "$1" "$2" || policy=$?
    if [ "$policy" = 101 ]; then
        echo "invoke-rc.d: policy-rc.d denied execution of $2." >&2
        exit 0
    fi
    exec "/etc/init.d/$1" "$2"
"#;

/// The debs of the base, built once per test binary.
pub(crate) fn debs() -> &'static [Deb] {
    static DEBS: OnceLock<Vec<Deb>> = OnceLock::new();
    DEBS.get_or_init(|| debs_for(architecture()))
}

/// The same packages, with another architecture written on them.
pub(crate) fn debs_for(architecture: &str) -> Vec<Deb> {
    packages(architecture).iter().map(Package::build).collect()
}

fn packages(architecture: &str) -> Vec<Package> {
    let mut packages = Package::parse_all(TEXT);
    let mut libraries = BTreeSet::new();
    for (name, programs) in PROGRAMS {
        let mut package = Package::named(name);
        package.set("Architecture", architecture).set("Priority", "required").set("Pre-Depends", "libc6");
        if *name != "libcap2-bin" {
            package.set("Essential", "yes");
        }
        for program in *programs {
            let path = find(program);
            libraries.extend(libraries_of(&path));
            let folder = if path.parent().is_some_and(|p| p.ends_with("sbin")) { "sbin" } else { "bin" };
            package.members.push(copy(&path, &format!("./usr/{folder}/{program}"), 0o755));
        }
        package.compression = Compression::Zstd;
        packages.push(package);
    }
    let dpkg = packages.iter_mut().find(|p| p.control[0].1 == "dpkg").expect("in the table above");
    for folder in ["alternatives", "info", "parts", "updates"] {
        dpkg.members.push(Member::new(Kind::Folder, &format!("./var/lib/dpkg/{folder}"), 0o755));
    }
    dpkg.members.push(Member::new(Kind::Folder, "./etc/alternatives", 0o755));
    let dash = packages.iter_mut().find(|p| p.control[0].1 == "dash").expect("in the table above");
    dash.members.push(Member { target: "dash".into(), ..Member::new(Kind::Symlink, "./usr/bin/sh", 0o777) });

    let mut libc = Package::named("libc6");
    libc.set("Architecture", architecture).set("Multi-Arch", "same").set("Priority", "optional");
    libc.compression = Compression::Xz;
    for library in libraries {
        // /lib/TRIPLET/libc.so.6 is below /usr where /usr is merged
        let path = library.to_str().expect("an ASCII path");
        let path = path.strip_prefix("/usr").unwrap_or(path);
        libc.members.push(copy(&library, &format!("./usr{path}"), 0o755));
    }
    packages.push(libc);
    packages
}

fn copy(from: &Path, to: &str, mode: u32) -> Member {
    let data = std::fs::read(from).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    Member { data, ..Member::new(Kind::File, to, mode) }
}

fn find(program: &str) -> PathBuf {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{program} is not on this machine"))
}

/// The shared libraries and the loader of a program, by ldd(1).
fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}
