//! What the doctor says of machines that forbid something. Each situation is made for real, as far as this
//! machine can: what needs another kernel (`kernel.unprivileged_userns_clone`, AppArmor's restriction) is
//! tested with `sandbox::diagnose` itself.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command as Host,
};

use sandbox::{Finding, Severity};

use crate::support::{Test, Tree};

pub(crate) const TESTS: &[Test] = &[
    ("doctor::all_is_well_here", &["userns", "binfmt"], all_is_well_here),
    ("doctor::each_refusal_is_told_apart", &["userns", "python"], each_refusal_is_told_apart),
    ("doctor::an_account_without_ranges", &["userns"], an_account_without_ranges),
    ("doctor::apparmor_takes_the_profile", &["apparmor"], apparmor_takes_the_profile),
];

/// What it finds when it is started by this command.
fn diagnose(tree: &Tree, around: &[&str]) -> Vec<Finding> {
    let program = std::fs::read_link("/proc/self/exe").expect("a path");
    let (first, rest) = around.split_first().expect("something around it");
    let mut host = Host::new(first);
    host.args(rest).arg(&program).args(["--role=diagnose", "-"]).arg(tree.work());
    findings(host)
}

fn findings(mut host: Host) -> Vec<Finding> {
    let output = host.output().expect("it starts");
    assert!(output.status.success(), "{host:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Asserts that one of the findings says this, and that one says how to mend it.
fn assert_said(findings: &[Finding], severity: Severity, subject: &str, part: &str, remedy: &str) {
    let said = |finding: &&Finding| {
        (finding.severity, finding.subject.as_str()) == (severity, subject)
            && finding.message.contains(part)
            && finding.remedy.as_deref().unwrap_or_default().contains(remedy)
    };
    assert!(findings.iter().any(|finding| said(&finding)), "{subject}, {part}, {remedy}: {findings:#?}");
    let fatal = findings.iter().any(|finding| finding.severity == Severity::Fatal);
    assert_eq!(fatal, severity == Severity::Fatal, "{findings:#?}");
}

fn all_is_well_here() {
    let tree = Tree::new();
    let findings = diagnose(&tree, &["env"]);
    assert!(findings.iter().all(|finding| finding.severity != Severity::Fatal), "{findings:#?}");
    for subject in ["user-namespaces", "overlay", "views", "binfmt"] {
        let fine = |finding: &Finding| finding.subject == subject && finding.severity == Severity::Fine;
        assert!(findings.iter().any(fine), "{subject}: {findings:#?}");
    }
    assert!(tree.sessions().is_empty());
}

/// A system call filter that does what Docker's default one does to namespaces and mounts where the
/// container has no CAP_SYS_ADMIN: EPERM, and ENOSYS for clone3(2), whose flags it cannot see. As root of a
/// user namespace it needs no no_new_privs, as a container's runtime does not.
const LIKE_DOCKER: &str = r#"
import ctypes, os, platform, struct, sys
numbers = {"x86_64": (272, 165, 166, 155, 308, 56, 435), "aarch64": (97, 40, 39, 41, 268, 220, 435)}[platform.machine()]
unshare, mount, umount2, pivot_root, setns, clone, clone3 = numbers
ALLOW, EPERM, ENOSYS = 0x7fff0000, 0x50001, 0x50026
def op(code, jt, jf, k): return struct.pack("<HBBI", code, jt, jf, k)
program = [op(0x20, 0, 0, 0)]
for number in unshare, mount, umount2, pivot_root, setns: program += [op(0x15, 0, 1, number), op(0x06, 0, 0, EPERM)]
program += [op(0x15, 0, 1, clone3), op(0x06, 0, 0, ENOSYS)]
program += [op(0x15, 0, 3, clone), op(0x20, 0, 0, 16), op(0x45, 0, 1, 0x7e020000), op(0x06, 0, 0, EPERM), op(0x06, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(program))
class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
filter = Program(len(program), ctypes.addressof(code))
if libc.prctl(22, 2, ctypes.byref(filter), 0, 0): sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])"#;

/// A filter that hands calls to a supervisor, and the kernel allows one of a kind: tier full goes on
/// without the supervisor's answers.
const WITH_SUPERVISOR: &str = r#"
import ctypes, os, struct, sys
code = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7fff0000))
class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
filter = Program(1, ctypes.addressof(code))
listener = libc.syscall({"x86_64": 317, "aarch64": 277}[os.uname().machine], 1, 8, ctypes.byref(filter))
if listener < 0: sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
os.set_inheritable(listener, True)
os.execvp(sys.argv[1], sys.argv[1:])"#;

fn each_refusal_is_told_apart() {
    use Severity::{Degraded, Fatal};
    let no_namespaces = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
    // As container runtimes hide it. The kernel then shows no fresh /proc to a namespace inside.
    let masked = "for file in kcore keys timer_list; do
            [ ! -e /proc/$file ] || mount --bind /dev/null /proc/$file
        done; exec \"$@\"";
    let mut situations = vec![
        (vec!["unshare", "-Ur"], Degraded, "subordinate-ids", "too few ids", ""),
        (
            vec!["unshare", "-Ur", "sh", "-c", no_namespaces, "sh"],
            Fatal,
            "user-namespaces",
            "max_user_namespaces is 0",
            "sysctl -w user.max_user_namespaces=",
        ),
        (
            vec!["unshare", "-Ur", "python3", "-c", LIKE_DOCKER],
            Fatal,
            "user-namespaces",
            "a system call filter forbids user namespaces",
            "--security-opt seccomp=unconfined",
        ),
        (
            vec!["unshare", "-Urm", "sh", "-c", masked, "sh"],
            Fatal,
            "proc",
            "parts of /proc are masked",
            "systempaths=unconfined",
        ),
    ];
    if nix::unistd::geteuid().is_root() {
        situations.push((
            vec!["python3", "-c", WITH_SUPERVISOR],
            Degraded,
            "sandbox",
            "files opened with O_SYNC wait for the disk",
            "",
        ));
    } else {
        situations.extend([
            (
                vec!["setpriv", "--no-new-privs"],
                Degraded,
                "user-namespaces",
                "no_new_privs is set",
                "run outside of `setpriv --no-new-privs`",
            ),
            (
                vec!["env", "PATH=/no/such"],
                Degraded,
                "uidmap-tools",
                "newuidmap is missing",
                "apt-get install uidmap",
            ),
        ]);
    }
    let tree = Tree::new();
    for (around, severity, subject, part, remedy) in situations {
        let findings = diagnose(&tree, &around);
        assert_said(&findings, severity, subject, part, remedy);
        assert!(tree.sessions().is_empty(), "{around:?}");
    }
}

/// /etc/subuid and /etc/subgid are there and say nothing of the user.
fn an_account_without_ranges() {
    if !nix::unistd::geteuid().is_root() {
        return; // the tests as root make it
    }
    let (folder, work) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("another"));
    std::fs::set_permissions(work.path(), PermissionsExt::from_mode(0o777)).expect("opened");
    let role = ["--role=diagnose", "-", work.path().to_str().expect("UTF-8")].map(str::to_owned);
    let user = crate::support::as_user(folder.path(), "666", &role);
    let mut host = Host::new("unshare");
    let empty = "for file in subuid subgid; do mount --bind /dev/null /etc/$file; done; exec \"$@\"";
    host.args(["--mount", "--propagation", "private", "sh", "-euc", empty, "sh"])
        .arg(user.get_program())
        .args(user.get_args())
        .current_dir("/");
    let findings = findings(host);
    for file in ["subuid", "subgid"] {
        assert_said(&findings, Severity::Degraded, "subordinate-ids", file, "usermod --add-sub");
    }
    let single = |finding: &Finding| finding.message.starts_with("tier single works");
    assert!(findings.iter().any(single), "{findings:#?}");
}

/// Where Debian has it; ordinary users have no sbin in their PATH.
const PARSER: &str = "/usr/sbin/apparmor_parser";

/// Both the file for packages and the line that the doctor says, with the host's own parser. One of
/// AppArmor 3 (Debian 12) knows nothing of user namespaces: it gets the rest.
fn apparmor_takes_the_profile() {
    let output = Host::new(PARSER).arg("--version").output().expect("it starts");
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let version =
        version.split_ascii_whitespace().find_map(|word| word.split('.').next()?.parse::<u32>().ok());
    let is_old = version.expect("a version") < 4;
    let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../apparmor/treestrap"));
    // As sandbox::diagnose has it, whose unit test compares it with the file.
    let line = tempfile::NamedTempFile::new().expect("a file");
    let profile = "abi <abi/4.0>, profile treestrap \"/opt/bin/treestrap\" flags=(unconfined) { userns, }\n";
    std::fs::write(line.path(), profile).expect("written");
    for profile in [file.as_path(), line.path()] {
        let mut text = std::fs::read_to_string(profile).expect("readable");
        if is_old {
            text = text.replace("abi <abi/4.0>,", "").replace("userns,", "");
        }
        let copy = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(copy.path(), text).expect("written");
        let output = Host::new(PARSER)
            .args(["--skip-kernel-load", "--skip-cache", "--names"])
            .arg(copy.path())
            .output()
            .expect("it starts");
        let names = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(names.trim(), "treestrap");
    }
}

/// Why there is nothing to ask about the profile.
pub(crate) fn no_apparmor() -> Option<String> {
    (!Path::new(PARSER).exists()).then(|| format!("there is no {PARSER}"))
}
