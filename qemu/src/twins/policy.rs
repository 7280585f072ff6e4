//! The tables: which packages' programs are worth a twin, and which must never have one.
//!
//! The packages are those whose programs maintainer scripts start, directly or through the
//! helpers that they call (docs/acceleration.md says how that was found out). A package that is
//! missing here costs time, never correctness.

use serde::{Deserialize, Serialize};

/// A pattern and why it's in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// A package's name or a program's path without the leading slash; `*` stands for any
    /// characters. `{triplet}` in a path stands for the architecture's folder.
    pub pattern: String,
    /// Why.
    pub reason: String,
}

/// Modules that a program loads from the folders of its own architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modules {
    /// Paths of modules, as in [`Rule::pattern`].
    pub pattern: &'static str,
    /// The packages (a pattern) whose code loads them.
    pub loader: &'static str,
    /// Whether what uses the loader behaves differently, or fails, without them. Then it has no
    /// twin as long as they are missing natively.
    pub required: bool,
}

/// What may be run natively. The default is the built-in tables; entries may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Packages whose programs are to have twins.
    pub packages: Vec<Rule>,
    /// Programs that stay emulated.
    pub emulated: Vec<Rule>,
    /// Whether uname(2) is answered for twins as on the device. Else what asks it is emulated.
    pub uname_is_answered: bool,
}

impl Default for Policy {
    fn default() -> Self {
        let rules = |table: &[(&str, &str)]| {
            table
                .iter()
                .map(|(pattern, reason)| Rule { pattern: (*pattern).into(), reason: (*reason).into() })
                .collect()
        };
        Policy { packages: rules(PACKAGES), emulated: rules(EMULATED), uname_is_answered: false }
    }
}

impl Policy {
    /// Why the package is to have twins; none where it is not.
    pub fn package(&self, name: &str) -> Option<&str> {
        self.packages.iter().find(|rule| matches(&rule.pattern, name)).map(|rule| rule.reason.as_str())
    }

    /// Why the program stays emulated; none where it need not. The path is that of
    /// [`Machine::neutral`](super::Machine::neutral).
    pub fn emulated(&self, path: &str) -> Option<&str> {
        let uname = ASK_UNAME.iter().filter(|_| !self.uname_is_answered);
        let own = self.emulated.iter().map(|rule| (rule.pattern.as_str(), rule.reason.as_str()));
        uname.copied().chain(own).find(|(pattern, _)| matches(pattern, path)).map(|(_, reason)| reason)
    }
}

/// Whether `text` is of the pattern, in which `*` stands for any characters.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(start) else {
        return false;
    };
    (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| matches(rest, &text[at..]))
}

/// Packages whose programs scripts start: name, what starts them.
const PACKAGES: &[(&str, &str)] = &[
    // Shells, and what every script is made of.
    ("dash", "/bin/sh of nearly every script"),
    ("bash", "scripts in bash"),
    ("coreutils", "rm, mv, chmod, chown, mkdir, ln, readlink, install, …: most of all starts"),
    ("coreutils-from-*", "the same, where coreutils has variants"),
    ("gnu-coreutils", "the same, where coreutils has variants"),
    ("debianutils", "run-parts, add-shell, update-shells, which, tempfile"),
    ("diffutils", "cmp and diff (ucf, update-ca-certificates)"),
    ("findutils", "find, xargs"),
    ("grep", "conditions of nearly every script"),
    ("sed", "edits of configuration files; dpkg-maintscript-helper"),
    ("mawk", "awk (also update-ca-certificates, locale-gen)"),
    ("gawk", "awk where it is the alternative"),
    ("original-awk", "awk where it is the alternative"),
    ("hostname", "hostname (ssl-cert, postfix, exim4, mailname defaults)"),
    ("util-linux", "mountpoint, setpriv, getopt, flock, su, runuser"),
    ("util-linux-extra", "parts of util-linux since bookworm"),
    ("bsdutils", "logger, script"),
    ("procps", "pgrep, sysctl"),
    ("tar", "tar (dpkg-deb, base-files, texlive)"),
    ("cpio", "mkinitramfs"),
    ("file", "file (mkinitramfs hooks)"),
    // Compressors: mkinitramfs, dpkg-deb, postinsts that unpack examples.
    ("gzip", "gzip, zcat"),
    ("bzip2", "tar and mkinitramfs call it"),
    ("xz-utils", "xz (mkinitramfs, dpkg-deb where it is not linked in)"),
    ("zstd", "zstd (mkinitramfs)"),
    ("lz4", "lz4 (mkinitramfs)"),
    // dpkg, debconf and their languages.
    ("dpkg", "dpkg, dpkg-query, update-alternatives, dpkg-divert, dpkg-trigger, dpkg-statoverride"),
    ("perl-base", "debconf, adduser, deb-systemd-helper, ucf's questions, update-rc.d"),
    ("perl", "scripts that need more of perl than perl-base has"),
    ("cdebconf", "debconf where it is the other implementation"),
    ("libdebconfclient0", "base-passwd's questions"),
    ("python3*-minimal", "py3compile, py3clean"),
    ("python3.*", "python scripts; the interpreter's full package"),
    // Accounts and base files.
    ("passwd", "useradd, usermod, groupadd, chage, for adduser and directly"),
    ("login", "login's helpers, where passwd is split"),
    ("base-passwd", "update-passwd"),
    ("libc-bin", "getent, locale, localedef (locale-gen), iconv"),
    ("init-system-helpers", "deb-systemd-helper, update-rc.d, invoke-rc.d (scripts mostly)"),
    ("sysvinit-utils", "pidof, fstab-decode"),
    ("insserv", "update-rc.d, once a script of /etc/init.d"),
    ("systemd", "systemctl, systemd-tmpfiles, systemd-machine-id-setup, journalctl --update-catalog"),
    ("systemd-standalone-*", "systemd-sysusers and systemd-tmpfiles without systemd"),
    ("systemd-sysusers", "systemd-sysusers where it's split"),
    ("opensysusers", "systemd-sysusers' other implementation"),
    ("udev", "udevadm, systemd-hwdb"),
    ("systemd-hwe-hwdb", "systemd-hwdb's data"),
    // What particular postinsts spend their time in.
    ("openssl", "update-ca-certificates (once a certificate), ssl-cert"),
    ("openssh-client", "ssh-keygen for openssh-server's host keys"),
    ("dbus-bin", "dbus-uuidgen, dbus-send"),
    ("dbus", "dbus-uuidgen before it was split"),
    ("man-db", "mandb, whose index.db no commit has; man and manpath"),
    ("shared-mime-info", "update-mime-database"),
    ("desktop-file-utils", "update-desktop-database"),
    ("libglib2.0-bin", "glib-compile-schemas, gio"),
    ("libglib2.0-0*", "glib-compile-schemas in the library's folder"),
    ("gtk-update-icon-cache", "icon caches: the longest of all in desktop images"),
    ("libgtk-3-bin", "gtk-update-icon-cache's package before gtk 4"),
    ("fontconfig", "fc-cache: half a minute for the fonts of a desktop"),
    ("xfonts-utils", "mkfontscale, mkfontdir, update-fonts-dir"),
    ("install-info", "update-info-dir"),
    ("libxml2-utils", "xmlcatalog"),
    ("kmod", "depmod, modinfo (mkinitramfs, linux-image)"),
    ("dracut-install", "mkinitramfs copies programs and modules with it"),
    ("initramfs-tools-bin", "mkinitramfs' wait-for-root"),
    ("busybox*", "mkinitramfs asks it for its applets"),
    ("libcap2-bin", "setcap"),
    ("e2fsprogs", "chattr, mke2fs"),
    ("acl", "setfacl (systemd's journal folder)"),
    ("attr", "setfattr"),
    ("ucf", "ucf (a script)"),
    ("apt-utils", "apt-extracttemplates"),
    ("gpgv", "apt-key verification in postinsts"),
];

/// Programs that ask uname(2), so that they're right only where it's answered as on the device.
const ASK_UNAME: &[(&str, &str)] = &[
    ("usr/bin/uname", "it reports the machine (uname(2))"),
    ("usr/bin/arch", "it reports the machine (uname(2))"),
];

/// Programs that stay emulated: path, why.
const EMULATED: &[(&str, &str)] = &[
    // What reports the architecture, or depends on it.
    ("usr/sbin/ldconfig*", "it looks for libraries of its own architecture and writes them to ld.so.cache"),
    ("usr/bin/getconf", "it reports the sizes of its own types (LONG_BIT) and limits of its machine"),
    ("usr/bin/lscpu", "it reports the processor"),
    ("usr/bin/setarch", "what it starts sees another machine; which ones it knows depends on its own"),
    ("usr/bin/linux32", "a name of setarch"),
    ("usr/bin/linux64", "a name of setarch"),
    ("usr/bin/systemd-detect-virt", "it asks the processor"),
    ("usr/bin/systemd-analyze", "it reports the architecture of units' conditions"),
    ("usr/bin/gdb*", "it looks into processes of its own architecture"),
    ("usr/bin/strace", "it looks into processes of its own architecture"),
    // What loads plug-ins from the image's library folder to ask them what they can do.
    ("*/gio-querymodules", "it loads the image's modules"),
    ("*/gdk-pixbuf-query-loaders", "it loads the image's modules"),
    ("*/gtk-query-immodules-*", "it loads the image's modules"),
    ("*/gtk4-query-*", "it loads the image's modules"),
    ("*/pango-querymodules", "it loads the image's modules"),
    ("*/vlc-cache-gen", "it loads the image's modules"),
    ("*/gst-plugin-scanner", "it loads the image's modules"),
    ("*/p11-kit*", "it loads the image's modules"),
    // What writes to a folder that is built in with the architecture's name in it.
    ("usr/sbin/iconvconfig", "it writes the cache of the gconv folder of its own architecture"),
    // What writes caches in a layout that depends on the machine.
];

/// Files that packages have on some architectures only, which changes nothing for their programs.
const MAY_DIFFER: &[(&str, &str)] = &[
    ("usr/share/doc/*", "a rebuild for one architecture adds a changelog"),
    ("usr/share/man/*", "pages of programs that differ, which are seen themselves"),
    ("usr/share/lintian/*", "for nobody but lintian"),
    ("usr/bin/i386", "a name of setarch, which stays emulated"),
    ("usr/bin/x86_64", "a name of setarch, which stays emulated"),
    ("usr/bin/s390*", "a name of setarch, which stays emulated"),
    ("usr/bin/ppc*", "a name of setarch, which stays emulated"),
    ("usr/lib/sysctl.d/50-pid-max.conf", "a setting for 64-bit kernels; programs read the image's"),
    ("usr/lib/systemd/boot/*", "EFI programs, which no script starts"),
    ("usr/lib/systemd/*systemd-pcr*", "units and programs for a TPM, where there may be one"),
    ("usr/lib/systemd/*systemd-tpm2-setup*", "units and programs for a TPM, where there may be one"),
    ("usr/lib/systemd/systemd-measure", "predicts a TPM's state; no script starts it"),
    ("usr/lib/udev/dmi_memory_id", "for machines with DMI tables; no script starts it"),
    ("usr/lib/udev/rules.d/70-memory.rules", "for machines with DMI tables"),
    ("usr/share/bash-completion/*", "completions of programs that differ, which are seen themselves"),
    ("usr/share/zsh/*", "the same"),
    ("etc/default/hwclock", "for machines with a clock; data is the image's own"),
    ("etc/init.d/hwclock.sh", "for machines with a clock; data is the image's own"),
];

/// Whether one of two packages may have the (neutral) path and the other one not.
pub(super) fn may_differ(path: &str) -> bool {
    MAY_DIFFER.iter().any(|(pattern, _)| matches(pattern, path))
}

/// Shared objects outside an architecture's folder that only one program of their package has to
/// do with: path, program. All others may be loaded by every program of the package.
const PLUG_INS: &[(&str, &str)] = &[("usr/libexec/coreutils/libstdbuf.so", "usr/bin/stdbuf")];

/// Whether the program may load this shared object of its package.
pub(super) fn may_load(program: &str, object: &str) -> bool {
    PLUG_INS.iter().find(|(path, _)| *path == object).is_none_or(|(_, only)| *only == program)
}

/// Programs that read or write files in the byte order of their machine. Where the image's is
/// another one, they stay emulated.
const BYTE_ORDER: &[&str] =
    &["usr/bin/localedef", "usr/bin/makedb", "usr/bin/kmod", "usr/bin/od", "*/glib-compile-schemas"];

/// Programs whose files depend on the size of words and the byte order of their machine. fontconfig's
/// caches are laid out as in memory, and named after that (`…-le64.cache-9`); lz4 looks for matches of
/// as many bytes as a word has, so that it finds others.
const WORDS: &[&str] = &["usr/bin/fc-*", "usr/bin/lz4*"];

/// Whether the program's files depend on the size of words; the path is a neutral one.
pub(super) fn in_words(path: &str) -> bool {
    WORDS.iter().any(|pattern| matches(pattern, path))
}

/// Whether the program's files have the machine's byte order; the path is a neutral one.
pub(super) fn in_byte_order(path: &str) -> bool {
    BYTE_ORDER.iter().any(|pattern| matches(pattern, path))
}

/// Modules that code of a twin loads at run time. Packages of the image that have some are needed
/// natively, too.
pub const MODULES: &[Modules] = &[
    Modules { pattern: "usr/lib/{triplet}/perl*.so", loader: "perl-base", required: true },
    Modules {
        pattern: "usr/lib/python3*.cpython-*-{triplet}.so",
        loader: "python3.*-minimal",
        required: true,
    },
    Modules { pattern: "usr/lib/{triplet}/security/pam_*.so", loader: "libpam0g", required: true },
    // glibc does without a module that is not there. A list of accounts that is not in files is
    // none of an image's.
    Modules { pattern: "usr/lib/{triplet}/libnss_*.so*", loader: "libc6", required: false },
    // For pthread_cancel(3).
    Modules { pattern: "usr/lib/{triplet}/libgcc_s.so.1", loader: "libc6", required: false },
    Modules { pattern: "usr/lib/{triplet}/gconv/*.so", loader: "libc6", required: false },
    Modules { pattern: "usr/lib/{triplet}/ossl-modules/*.so", loader: "libssl3*", required: false },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("dash", "dash", true),
            ("dash", "dashing", false),
            ("python3.*", "python3.11", true),
            ("python3.*", "python3", false),
            ("*/fc-*", "usr/bin/fc-cache", true),
            ("a*b*c", "a--b-c-bc", true),
            ("a*b*c", "a--c", false),
            ("*", "", true),
            ("*ß", "äß", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn every_line_has_its_reason_and_none_is_there_twice() {
        let policy = Policy::default();
        let mut patterns: Vec<_> = policy.packages.iter().chain(&policy.emulated).collect();
        assert!(patterns.iter().all(|rule| rule.reason.len() > 5));
        patterns.sort_by_key(|rule| &rule.pattern);
        assert!(patterns.windows(2).all(|pair| pair[0].pattern != pair[1].pattern));
    }

    #[test]
    fn uname_is_emulated_until_it_is_answered() {
        let mut policy = Policy::default();
        assert!(policy.emulated("usr/bin/uname").is_some());
        policy.uname_is_answered = true;
        assert_eq!(policy.emulated("usr/bin/uname"), None);
        assert!(policy.emulated("usr/lib/{triplet}/glib-2.0/gio-querymodules").is_some());
    }
}
