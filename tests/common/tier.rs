//! What a test needs of the machine. Where it is missing the test skips, and says why;
//! `TREESTRAP_TESTS_MUST_RUN` (`all`, or tiers apart by commas) makes such a skip a failure.

use std::{
    io::Write as _,
    path::Path,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::common::account::{Account, own_uid};

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Commands can be run as this account.
    As(Account),
    /// An unprivileged user namespace with a range of ids.
    Userns,
    /// overlayfs inside a user namespace (Linux 5.11).
    Overlay,
    /// binfmt_misc inside a user namespace (Linux 6.7).
    Binfmt,
    /// tmpfs can be mounted: needs root.
    Tmpfs,
    /// The archive that apt is set up for answers.
    Archive,
    /// apt-get, for comparison.
    Apt,
    /// gpgv, for comparison.
    Gpgv,
    /// The ostree program, for comparison.
    Ostree,
    /// strace, and it may trace.
    Strace,
    /// setcap and getcap.
    Capabilities,
    /// python3, which some of the harness is written in.
    Python,
    /// mmdebstrap, for comparison.
    Mmdebstrap,
    /// ninja, which drives builds.
    Ninja,
}

impl Tier {
    /// The name in `TREESTRAP_TESTS_MUST_RUN`.
    fn name(self) -> &'static str {
        match self {
            Tier::As(Account::Root) => "root",
            Tier::As(_) => "accounts",
            Tier::Userns => "userns",
            Tier::Overlay => "overlay",
            Tier::Binfmt => "binfmt",
            Tier::Tmpfs => "tmpfs",
            Tier::Archive => "archive",
            Tier::Apt => "apt",
            Tier::Gpgv => "gpgv",
            Tier::Ostree => "ostree",
            Tier::Strace => "strace",
            Tier::Capabilities => "capabilities",
            Tier::Python => "python",
            Tier::Mmdebstrap => "mmdebstrap",
            Tier::Ninja => "ninja",
        }
    }

    /// Why it is not there; none where it is.
    fn missing(self) -> Option<String> {
        match self {
            Tier::As(account) => account.missing(),
            Tier::Userns => in_namespace("true"),
            Tier::Overlay => in_namespace(
                "d=$(mktemp -d) && cd $d && mkdir l u w m && mount -t overlay -o userxattr,lowerdir=l,upperdir=u,workdir=w o m \
                 && umount m; s=$?; rm -rf $d; exit $s",
            ),
            Tier::Binfmt => in_namespace("mount -t binfmt_misc b /proc/sys/fs/binfmt_misc"),
            Tier::Tmpfs => (own_uid() != 0).then(|| "mounting needs root".to_owned()),
            Tier::Archive => archive(),
            Tier::Apt => runs("apt-get", "--version"),
            Tier::Gpgv => runs("gpgv", "--version"),
            Tier::Ostree => runs("ostree", "--version"),
            Tier::Strace => {
                let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
                (!traced.is_ok_and(|o| o.status.success()))
                    .then(|| "strace is missing, or may not trace".to_owned())
            }
            Tier::Python => runs("python3", "--version"),
            Tier::Mmdebstrap => runs("mmdebstrap", "--version"),
            Tier::Ninja => runs("ninja", "--version"),
            Tier::Capabilities => {
                runs("/usr/sbin/getcap", "-h").filter(|_| !Path::new("/usr/sbin/setcap").exists())
            }
        }
    }
}

/// Whether a program starts at all.
fn runs(program: &str, argument: &str) -> Option<String> {
    Command::new(program)
        .arg(argument)
        .output()
        .err()
        .map(|error| format!("{program}: {error}: run 'make setup'"))
}

/// Whether a script succeeds as the ordinary account, in its own user, mount and pid namespaces.
fn in_namespace(script: &str) -> Option<String> {
    if let Some(reason) = Account::Subordinate.missing() {
        return Some(reason);
    }
    let output = Account::Subordinate
        .command("unshare", Path::new("/"))
        .args([
            "--map-root-user",
            "--map-auto",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "sh",
            "-c",
            script,
        ])
        .output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// Whether apt's first source answers, asked through apt's own transport.
fn archive() -> Option<String> {
    static ANSWER: OnceLock<Option<String>> = OnceLock::new();
    let ask = || {
        let output = Command::new("apt-get").args(["update", "--print-uris"]).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let uri = text.lines().next()?.split('\'').nth(1)?.to_owned();
        let folder = tempfile::tempdir().ok()?;
        let helper = Command::new("/usr/lib/apt/apt-helper")
            .args(["-o", "APT::Sandbox::User=root", "download-file", &uri])
            .arg(folder.path().join("InRelease"))
            .output()
            .ok()?;
        helper.status.success().then_some(())
    };
    let reason = || "the archive of apt's sources does not answer".to_owned();
    ANSWER.get_or_init(|| ask().is_none().then(reason)).clone()
}

/// Whether all these are there. Where one is not, says so on the real stderr (which the test
/// runner does not swallow) and counts, or panics if it must be there.
pub(crate) fn have(tiers: &[Tier]) -> bool {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let must_run = std::env::var("TREESTRAP_TESTS_MUST_RUN").unwrap_or_default();
    for tier in tiers {
        let Some(reason) = tier.missing() else { continue };
        let name = tier.name();
        let must = must_run.split(',').any(|word| word == "all" || word == name);
        assert!(!must, "TREESTRAP_TESTS_MUST_RUN={must_run}, but the tier {name} is missing: {reason}");
        let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        let _ = writeln!(std::io::stderr(), "skipped ({count} so far): {test}: no {name}: {reason}");
        return false;
    }
    true
}

/// Ends the test here, as skipped, unless the machine has all these [`Tier`]s.
macro_rules! needs {
    ($($tier:expr),+ $(,)?) => {
        if !$crate::common::tier::have(&[$($tier),+]) {
            return;
        }
    };
}
pub(crate) use needs;
