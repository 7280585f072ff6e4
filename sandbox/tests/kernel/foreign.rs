//! Foreign binaries in a private binfmt_misc: Debian's own busybox of every architecture that the
//! machine's apt sources carry, run by qemu-user.
//!
//! apt is used with folders of its own; the machine's package lists and architectures stay as they
//! are. A static qemu-user that the host lacks is taken from the archive too. `TREESTRAP_TEST_CACHE`
//! names a folder that keeps what was downloaded.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command as Host, Stdio},
};

use qemu::{Architecture, Emulator};
use sandbox::{Binfmt, Session};

use crate::support::{Test, Tree, output};

pub(crate) const TESTS: &[Test] = &[
    ("foreign::registrations_are_debians", &["archive"], registrations_are_debians),
    ("foreign::every_architecture", &["userns", "archive", "binfmt"], every_architecture),
    ("foreign::semantics_of_a_start", &["userns", "archive", "binfmt"], semantics_of_a_start),
    (
        "foreign::the_interpreter_is_out_of_reach",
        &["userns", "archive", "binfmt"],
        the_interpreter_is_out_of_reach,
    ),
];

/// Why private registrations cannot work; none if they can.
pub(crate) fn no_binfmt() -> Option<String> {
    let tree = Tree::new();
    let mut plan = tree.plan();
    let line = ":treestrap-probe:E::treestrap-probe::{interpreter}:F".into();
    plan.binfmt.push(Binfmt { name: "probe".into(), line, interpreter: "/bin/true".into() });
    Session::start(&plan).err().map(|error| error.to_string())
}

/// Why nothing can be had from the archive; none if it can.
pub(crate) fn no_archive() -> Option<String> {
    Archive::open().err()
}

/// The archive of the machine's own apt sources.
struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// With lists of all architectures that are there, fetched once for each cache.
    fn open() -> Result<Archive, String> {
        let folder = std::env::var_os("TREESTRAP_TEST_CACHE").map_or_else(
            || PathBuf::from(format!("/var/tmp/treestrap-tests-{}", nix::unistd::geteuid())),
            PathBuf::from,
        );
        for part in ["state/lists/partial", "cache/archives/partial", "debs"] {
            fs::create_dir_all(folder.join(part))
                .map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let archive = Archive { folder };
        let done = archive.folder.join("lists-are-there");
        if !done.exists() {
            // A mirror in the middle of an update lacks some lists; what is asked for decides.
            let output = archive.apt().arg("update").output().map_err(|error| format!("apt-get: {error}"))?;
            if archive.unpacked("busybox-static:armhf").is_none() {
                return Err(format!("apt-get update: {}", String::from_utf8_lossy(&output.stderr).trim()));
            }
            fs::write(done, "").map_err(|error| error.to_string())?;
        }
        Ok(archive)
    }

    fn apt(&self) -> Host {
        let mut apt = Host::new("apt-get");
        let option = |name: &str, value: String| ["-o".to_owned(), format!("{name}={value}")];
        let at = |part: &str| self.folder.join(part).display().to_string();
        let names: Vec<_> =
            qemu::ARCHITECTURES.iter().map(|architecture| architecture.name).take(9).collect();
        apt.args(option("Dir::State", at("state")))
            .args(option("Dir::State::status", "/dev/null".into()))
            .args(option("Dir::Cache", at("cache")))
            .args(option("APT::Architectures", names.join(",")))
            .args(option("APT::Sandbox::User", String::new()))
            .args(option("APT::Update::Post-Invoke", String::new()))
            .args(option("Acquire::Languages", "none".into()))
            .args(option("Debug::NoLocking", "1".into()))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        apt
    }

    /// A package, unpacked; none if the archive has none such.
    fn unpacked(&self, package: &str) -> Option<PathBuf> {
        let target = self.folder.join("debs").join(package.replace(':', "_"));
        let tree = target.join("tree");
        if !tree.exists() {
            fs::create_dir_all(&target).expect("made");
            let downloaded =
                self.apt().args(["download", package]).current_dir(&target).output().expect("apt starts");
            if !downloaded.status.success() {
                return None;
            }
            let deb = fs::read_dir(&target)
                .expect("read")
                .flatten()
                .find(|entry| entry.path().extension().is_some_and(|end| end == "deb"));
            let unpacked =
                Host::new("dpkg-deb").arg("-x").arg(deb.expect("a deb").path()).arg(&tree).status();
            assert!(unpacked.expect("dpkg-deb starts").success());
        }
        Some(tree)
    }

    /// busybox of an architecture.
    fn busybox(&self, architecture: &Architecture) -> Option<PathBuf> {
        let tree = self.unpacked(&format!("busybox-static:{}", architecture.name))?;
        ["bin/busybox", "usr/bin/busybox"].map(|path| tree.join(path)).into_iter().find(|path| path.exists())
    }

    /// The host's qemu, or the archive's.
    fn emulator(&self, target: &Architecture) -> Emulator {
        Emulator::on_host(target).unwrap_or_else(|_| {
            let candidates = qemu::packaged(target, "bookworm").into_iter();
            let host = qemu::host().expect("known").name;
            let mut paths = candidates.filter_map(|candidate| {
                Some(self.unpacked(&format!("{}:{host}", candidate.package))?.join(candidate.path))
            });
            Emulator::at(&paths.find(|path| path.exists()).expect("the archive has it"))
                .expect("it says its version")
        })
    }
}

fn binfmt(archive: &Archive, target: &Architecture) -> Binfmt {
    let emulator = archive.emulator(target);
    let registration = emulator.registration(target);
    Binfmt { name: registration.name, line: registration.line, interpreter: emulator.path }
}

/// What Debian's package registers, wherever its architecture is in our table: where both masks look,
/// the bytes are the same.
fn registrations_are_debians() {
    let archive = Archive::open().expect("it opened before");
    let host = qemu::host().expect("known").name;
    let trees = ["qemu-user-static", "qemu-user-binfmt", "qemu-user"]
        .map(|name| archive.unpacked(&format!("{name}:{host}")));
    let folders = trees
        .into_iter()
        .flatten()
        .flat_map(|tree| ["usr/lib/binfmt.d", "usr/share/qemu/binfmt.d"].map(|folder| tree.join(folder)));
    let mut compared = 0;
    for folder in folders.filter(|folder| folder.exists()) {
        for target in qemu::ARCHITECTURES {
            let Some(name) = target.qemu else { continue };
            let Ok(theirs) = fs::read_to_string(folder.join(format!("qemu-{name}.conf"))) else { continue };
            let version: qemu::Version = "7.2.0".parse().expect("a version");
            let ours = Emulator { path: PathBuf::new(), version }.registration(target).line;
            let pattern = |line: &str| {
                let fields: Vec<Vec<u8>> = line.split(':').skip(4).take(2).map(unescape).collect();
                (fields[0].clone(), fields[1].clone())
            };
            let ((our_magic, our_mask), (their_magic, their_mask)) = (pattern(&ours), pattern(&theirs));
            assert!(our_magic.len() == 20 && their_magic.len() >= 20);
            for at in 0..20 {
                let both = our_mask[at] & their_mask[at];
                assert_eq!(
                    our_magic[at] & both,
                    their_magic[at] & both,
                    "byte {at} of {}: {theirs}",
                    target.name
                );
            }
            compared += 1;
        }
    }
    assert!(compared >= 15, "{compared}");
}

/// `\x7fELF\x01` as the kernel reads it.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(hex) = rest.strip_prefix("\\x") {
            bytes.push(u8::from_str_radix(&hex[..2], 16).expect("hex"));
            rest = &hex[2..];
        } else {
            bytes.push(first as u8);
            rest = &rest[1..];
        }
    }
    bytes
}

/// A tree with busybox of `target` at /foreign/busybox.
fn tree_with(busybox: &Path) -> Tree {
    let tree = Tree::new();
    fs::create_dir(tree.base().join("foreign")).expect("made");
    let target = tree.base().join("foreign/busybox");
    fs::copy(busybox, &target).expect("copied");
    fs::set_permissions(&target, PermissionsExt::from_mode(0o755)).expect("set");
    tree
}

/// sha256sum of "through a pipe" and a newline.
const SUM: &str = "549a7bf1b3f6e7cf4164525d7ac01513755f367becd80c7686eac3e3f0a2f998  -";

fn every_architecture() {
    let archive = Archive::open().expect("it opened before");
    let table = || fs::read_dir("/proc/sys/fs/binfmt_misc").map(|entries| entries.count()).unwrap_or(0);
    let before = table();
    let host = qemu::host().expect("known");
    let mut ran = Vec::new();
    for target in qemu::ARCHITECTURES.iter().filter(|target| *target != host) {
        let Some(busybox) = archive.busybox(target) else { continue };
        let tree = tree_with(&busybox);
        let native = qemu::runs_natively(host, target, tree.path()).expect("tried");
        let mut plan = tree.plan();
        if !native {
            plan.binfmt.push(binfmt(&archive, target));
        }
        let elf = qemu::read_elf(&busybox).expect("readable").expect("ELF");
        assert!(
            elf.is_static()
                && elf.architecture.is_some_and(
                    |found| found.elf_machine == target.elf_machine && found.endian == target.endian
                )
        );
        let mut session = Session::start(&plan).expect("a session");
        assert_eq!(session.enforced().inside.binfmt.len(), usize::from(!native));
        let text = output(
            &mut session,
            "/foreign/busybox uname -m; echo through a pipe | /foreign/busybox sha256sum",
        );
        let machine = if native { host.machine } else { target.machine };
        let (said, sum) = text.split_once('\n').expect("two lines");
        assert_eq!(said, machine, "{}", target.name);
        assert_eq!(sum, SUM, "{}", target.name);
        if !native && before == 0 {
            let error =
                Host::new(tree.base().join("foreign/busybox")).output().expect_err("the host has no handler");
            assert_eq!(error.raw_os_error(), Some(8), "{error}");
        }
        ran.push(target.name);
    }
    println!("      ran: {}", ran.join(" "));
    assert!(ran.contains(&"armhf") && ran.contains(&"arm64") && ran.len() >= 4, "{ran:?}");
    assert_eq!(table(), before);
}

fn semantics_of_a_start() {
    let archive = Archive::open().expect("it opened before");
    let target = qemu::find("armhf").expect("known");
    let tree = tree_with(&archive.busybox(target).expect("the archive has it"));
    let mut plan = tree.plan();
    plan.binfmt.push(binfmt(&archive, target));
    let mut session = Session::start(&plan).expect("a session");
    // geteuid() and exit() as ARM code: a busybox would drop what set-id gave it.
    let text = output(
        &mut session,
        r#"python3 - <<'END'
import struct, os, subprocess
code = struct.pack("<4I", 0xe3a070c9, 0xef000000, 0xe3a07001, 0xef000000)
size = 84 + len(code)
elf = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, 40, 1, 0x10054, 52, 0, 0x5000000, 52, 32, 1, 0, 0, 0)
elf += struct.pack("<8I", 1, 0, 0x10000, 0x10000, size, size, 5, 4096) + code
def program(name, owner, mode):
    open(name, "wb").write(elf); os.chown(name, owner, owner); os.chmod(name, mode)
    return name
run = lambda *command: subprocess.run(command).returncode
as_33 = ["setpriv", "--reuid", "33", "--regid", "33", "--clear-groups"]
print("plain", run(program("/root/plain", 0, 0o755)))
os.chmod("/root", 0o755)
print("as 33", run(*as_33, "/root/plain"))
print("set-id", run(*as_33, program("/root/setid", 42, 0o4755)))
print("unreadable", run(*as_33, program("/root/unreadable", 0, 0o711)))
handle = os.open("/root/plain", os.O_RDONLY)
os.unlink("/root/plain")
by_handle = ["python3", "-c", f"import os; os.execve({handle}, ['x'], {{}})"]
print("deleted", subprocess.run(by_handle, pass_fds=[handle]).returncode)
END
        bash -c 'exec -a /no/where/echo /foreign/busybox by its name'
        printf '#!/foreign/busybox sh\necho script $0 "$@"\n' > /root/script; chmod +x /root/script; cd /root; ./script a 'b c'
        cd /foreign; ./busybox echo relative"#,
    );
    assert_eq!(
        text,
        "plain 0\nas 33 33\nset-id 42\nunreadable 33\ndeleted 0\nby its name\nscript ./script a b c\nrelative"
    );
}

/// The memory file is sealed: a running interpreter cannot be written to through /proc/PID/exe.
fn the_interpreter_is_out_of_reach() {
    let archive = Archive::open().expect("it opened before");
    let target = qemu::find("arm64").expect("known");
    let tree = tree_with(&archive.busybox(target).expect("the archive has it"));
    let mut plan = tree.plan();
    plan.binfmt.push(binfmt(&archive, target));
    let mut session = Session::start(&plan).expect("a session");
    let text = output(
        &mut session,
        "/foreign/busybox sleep 100 & sleep 0.5; readlink /proc/$!/exe | cut -c1-18
         exec 3< /proc/$!/exe; kill $!; wait $! || true
         (echo x > /proc/self/fd/3) 2>/dev/null && echo written
         python3 -c 'import os; os.ftruncate(os.open(\"/proc/self/fd/3\", os.O_RDWR), 0)' 2>&1 | tail -1
         /foreign/busybox echo still works",
    );
    assert!(
        text.starts_with("/memfd:interpreter\n")
            && !text.contains("written")
            && text.ends_with("\nstill works"),
        "{text}"
    );
}
