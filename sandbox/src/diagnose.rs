//! Why this machine can or cannot run a sandbox: by doing it, then explaining what failed.
//!
//! [`probe`] starts a real, empty sandbox. [`diagnose`] turns what came out, and what the kernel's and
//! the distribution's settings say, into findings with the command that mends each.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};
use serde::{Deserialize, Serialize};

use crate::{
    Binfmt, Enforced, Error, Layer, Plan, Session, Step, Stored, Tier, View,
    error::{Doing, Result},
    userns::{Caller, Ids, add_range, subordinate_range},
    view::{ListingBuilder, Metadata, ROOT},
};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// All is well.
    Fine,
    /// Something will be slower, or missing for some uses.
    Degraded,
    /// No sandbox starts.
    Fatal,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name: `user-namespaces`, `subordinate-ids`, `overlay`, `proc`, `binfmt`, `seccomp`,
    /// `uidmap-tools`, `views`.
    pub subject: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence: what is, and what follows.
    pub message: String,
    /// The command or the edit that mends it.
    pub remedy: Option<String>,
}

impl Finding {
    fn new(subject: &str, severity: Severity, message: impl Into<String>) -> Self {
        Finding { subject: subject.to_owned(), severity, message: message.into(), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Starts an empty sandbox with its folder below `work` (which says whether that file system will do
/// for the upper layer), and ends it. Gives what it had.
pub fn probe(work: &Path) -> Result<Enforced> {
    probe_with(work, Vec::new(), None)
}

fn probe_with(work: &Path, binfmt: Vec<Binfmt>, tier: Option<Tier>) -> Result<Enforced> {
    let base = work.join(format!("probe-{}", std::process::id()));
    fs::create_dir_all(&base).doing_to("making", &base)?;
    let result = Session::start(&Plan { binfmt, tier, ..Plan::new(vec![base.clone()], work) });
    let enforced = result.and_then(|session| {
        let enforced = session.enforced().clone();
        session.close().map(|()| enforced)
    });
    fs::remove_dir(&base).doing_to("removing", &base)?;
    enforced
}

/// Looks at everything; `work` as for [`probe`]. The first finding that is fatal is the one to mend
/// first.
pub fn diagnose(work: &Path) -> Vec<Finding> {
    let system = System::read();
    let mut findings = Vec::new();
    match probe(work) {
        Ok(enforced) => {
            findings.extend(what_works(&enforced));
            if enforced.tier == Tier::Single
                && let Err(error) = probe_with(work, Vec::new(), Some(Tier::Full))
            {
                // Said as a reason, and no obstacle: there is another way.
                findings.push(Finding { severity: Severity::Degraded, ..explain(&error, &system) });
            }
        }
        Err(error) => findings.push(explain(&error, &system)),
    }
    let works = findings.iter().all(|finding| finding.severity != Severity::Fatal);
    findings.extend(ids(&system, if works { Severity::Degraded } else { Severity::Fatal }));
    if findings.iter().all(|finding| finding.severity != Severity::Fatal) {
        findings.extend(views(work));
        findings.push(interpreters(work));
    }
    findings
}

/// What settings say, apart from what happens: so that the explanations can be tested.
#[derive(Clone, Debug, Default)]
struct System {
    root: bool,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu from 23.10 on).
    apparmor_restricts: bool,
    /// `kernel.unprivileged_userns_clone` is there and 0 (Debian up to bullseye, and by choice).
    clone_forbidden: bool,
    /// `user.max_user_namespaces`.
    most_namespaces: Option<u64>,
    /// `NoNewPrivs` of this process.
    no_new_privileges: bool,
    /// A system call filter is in force already: a container's.
    filtered: bool,
    /// A container by its own marks.
    container: bool,
    /// Mounts over parts of /proc.
    masked_proc: bool,
}

impl System {
    fn read() -> Self {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).is_some_and(|value| value.trim() != "0")
        };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        System {
            root: nix::unistd::geteuid().is_root(),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1),
            clone_forbidden: number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0),
            most_namespaces: number("/proc/sys/user/max_user_namespaces"),
            no_new_privileges: field("NoNewPrivs:"),
            filtered: field("Seccomp:"),
            container: Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists(),
            // binfmt_misc is where everyone mounts it; any other mount below /proc hides something.
            masked_proc: mounts
                .lines()
                .filter_map(|line| line.split(' ').nth(4))
                .any(|place| place.starts_with("/proc/") && !place.starts_with("/proc/sys/fs/binfmt_misc")),
        }
    }
}

fn what_works(enforced: &Enforced) -> Vec<Finding> {
    let mapping = match (enforced.tier, enforced.mapping.mapper) {
        (Tier::Single, _) => "with one id, the owners recorded",
        (Tier::Full, crate::Mapper::Tools) => "with ids from /etc/subuid and /etc/subgid",
        (Tier::Full, crate::Mapper::Direct) => "with each id its own number, as root",
    };
    let tier = enforced.tier.name();
    let mut findings = vec![
        Finding::new("user-namespaces", Severity::Fine, format!("tier {tier} works, {mapping}")),
        Finding::new("overlay", Severity::Fine, "overlayfs works in a user namespace"),
    ];
    // Why the tier is single is a finding of its own, with the way out.
    let degraded = enforced.inside.degraded.iter().filter(|message| !message.starts_with("tier single"));
    findings.extend(degraded.map(|message| Finding::new("sandbox", Severity::Degraded, message.clone())));
    findings
}

/// Which of several causes it was that a step failed.
fn explain(error: &Error, system: &System) -> Finding {
    let fatal = |subject, message: String| Finding::new(subject, Severity::Fatal, message);
    let errno = error.errno().map(Errno::from_raw);
    let with_hint = |finding: Finding| match error.hint() {
        Some(hint) => finding.remedy(hint),
        None => finding,
    };
    match (error.step(), errno) {
        (Some(Step::UserNamespace), Some(Errno::ENOSPC | Errno::EUSERS)) => namespaces_used_up(system),
        (Some(Step::UserNamespace), Some(Errno::EPERM | Errno::EACCES)) => namespaces_forbidden(system),
        (Some(Step::UserNamespace), Some(Errno::EINVAL | Errno::ENOSYS)) => {
            fatal("user-namespaces", "this kernel was built without user namespaces (CONFIG_USER_NS)".into())
        }
        // AppArmor lets the namespace be made and takes its capabilities away: what fails is the first
        // thing that needs one.
        (Some(Step::Mapping | Step::Namespaces | Step::Mounts), Some(Errno::EPERM | Errno::EACCES))
            if system.apparmor_restricts && !system.root =>
        {
            apparmor()
        }
        (Some(Step::Mapping), _) if system.no_new_privileges && !system.root => fatal(
            "user-namespaces",
            "no_new_privs is set for this process, so newuidmap cannot map ids: tier full is impossible here".into(),
        )
        .remedy("run outside of `setpriv --no-new-privs`, `docker --security-opt no-new-privileges` and their like"),
        (Some(Step::Mapping), _) => with_hint(fatal("subordinate-ids", error.to_string())),
        (Some(Step::Overlay), Some(Errno::EINVAL | Errno::EPERM | Errno::ENODEV)) => fatal(
            "overlay",
            format!("overlayfs cannot be mounted in a user namespace with its changes there ({error}): it needs Linux 5.11 or newer, and a file system below that is no overlayfs itself and has user xattrs"),
        )
        .remedy("choose a work folder on ext4, xfs, btrfs or tmpfs (Linux ≥ 6.6); in a container, on a volume"),
        (Some(Step::Proc), Some(Errno::EPERM)) if system.masked_proc => fatal(
            "proc",
            "parts of /proc are masked here, as containers do, and then the kernel allows no fresh /proc".into(),
        )
        .remedy("docker run --security-opt systempaths=unconfined … (podman: --security-opt unmask=ALL)"),
        (Some(Step::Binfmt), _) => with_hint(fatal("binfmt", error.to_string())),
        _ => with_hint(fatal("sandbox", error.to_string())),
    }
}

fn apparmor() -> Finding {
    Finding::new(
        "user-namespaces",
        Severity::Fatal,
        "AppArmor takes all rights from user namespaces of programs without a profile (kernel.apparmor_restrict_unprivileged_userns)",
    )
    .remedy(apparmor_profile(&std::env::current_exe().unwrap_or_else(|_| "/usr/bin/program".into())))
}

/// The commands that allow this program alone to make user namespaces. treestrap's source has the same
/// as a file, apparmor/treestrap, for where packages install it.
fn apparmor_profile(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let profile =
        format!("abi <abi/4.0>, profile {name} \"{}\" flags=(unconfined) {{ userns, }}", program.display());
    format!(
        "echo '{profile}' | sudo tee /etc/apparmor.d/{name} && sudo apparmor_parser -r /etc/apparmor.d/{name} (or, for all programs: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0)"
    )
}

fn namespaces_used_up(system: &System) -> Finding {
    let limit = system.most_namespaces.map_or("unknown".to_owned(), |most| most.to_string());
    let message = format!("no user namespace is left: user.max_user_namespaces is {limit}");
    Finding::new("user-namespaces", Severity::Fatal, message)
        .remedy("sudo sysctl -w user.max_user_namespaces=15000")
}

fn namespaces_forbidden(system: &System) -> Finding {
    let fatal = |message: &str| Finding::new("user-namespaces", Severity::Fatal, message);
    if system.clone_forbidden {
        return fatal("only root may make user namespaces here (kernel.unprivileged_userns_clone is 0)")
            .remedy("sudo sysctl -w kernel.unprivileged_userns_clone=1");
    }
    if system.most_namespaces == Some(0) {
        return namespaces_used_up(system);
    }
    if system.apparmor_restricts && !system.root {
        return apparmor();
    }
    if system.filtered || system.container {
        return fatal("a system call filter forbids user namespaces, as container runtimes' default ones do")
            .remedy("docker run --security-opt seccomp=unconfined … (podman: the same; Kubernetes: seccompProfile Unconfined)");
    }
    fatal("user namespaces are forbidden by something that leaves no trace (a security module, or a chroot)")
        .remedy("sudo journalctl -k -g 'apparmor|selinux|lsm' and see what denied userns_create")
}

/// The tools and the ranges, which root does not need.
fn ids(system: &System, if_missing: Severity) -> Vec<Finding> {
    let caller = Caller::current();
    let severity = if system.root { Severity::Fine } else { if_missing };
    let mut findings = Vec::new();
    for ids in [Ids::Users, Ids::Groups] {
        let tool = ids.tool();
        match in_path(tool) {
            None if !system.root => {
                let message = format!("{tool} is missing, which maps a range of ids");
                findings.push(
                    Finding::new("uidmap-tools", severity, message).remedy("sudo apt-get install uidmap"),
                );
            }
            // Either set-id root, or with a file capability (Fedora, Arch): which of them is not seen here.
            Some(path) if !system.root && !may_gain_rights(&path) => {
                let message = format!("{} has neither a set-id bit nor a capability", path.display());
                let remedy = "sudo apt-get install --reinstall uidmap";
                findings.push(Finding::new("uidmap-tools", severity, message).remedy(remedy));
            }
            _ => {}
        }
        match subordinate_range(ids, &caller) {
            Ok((start, count)) => {
                let message = format!(
                    "{} gives {} the ids {start} to {}",
                    ids.file(),
                    caller.name,
                    start + (count - 1)
                );
                findings.push(Finding::new("subordinate-ids", Severity::Fine, message));
            }
            Err(_) if system.root => {}
            Err(error) => findings.push(
                Finding::new("subordinate-ids", severity, error.to_string()).remedy(add_range(ids, &caller)),
            ),
        }
    }
    findings
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| access(path, AccessFlags::X_OK).is_ok())
}

fn may_gain_rights(program: &Path) -> bool {
    let set_id = fs::metadata(program).is_ok_and(|metadata| metadata.permissions().mode() & 0o4000 != 0);
    let name = crate::bytes::c_string(program);
    let capable = name.is_ok_and(|name| {
        let place = crate::sys::xattr::Place::Path(&name);
        crate::sys::xattr::get(place, c"security.capability").is_ok_and(|value| value.is_some())
    });
    set_id || capable
}

/// Which views of a stored tree work, by using each.
fn views(work: &Path) -> Vec<Finding> {
    let folder = work.join(format!("views-{}", std::process::id()));
    let layer = || -> Result<Layer> {
        let (contents, listing) = (folder.join("contents"), folder.join("listing"));
        fs::create_dir_all(&contents).doing_to("making", &contents)?;
        let metadata = Metadata { mode: 0o755, ..Metadata::default() };
        let mut builder = ListingBuilder::new(&metadata)?;
        builder.file(ROOT, b"file", &metadata, 1, b"file")?;
        fs::write(contents.join("file"), "1").doing_to("writing to", &contents)?;
        fs::write(&listing, builder.finish()?.as_bytes()).doing_to("writing", &listing)?;
        Ok(Layer::Stored(Stored { listing, contents }))
    };
    let views = layer().map(|layer| {
        View::PREFERENCE.map(|view| {
            let mut plan = Plan::new(Vec::new(), work);
            plan.layers.push(layer.clone());
            plan.view = Some(view);
            match Session::start(&plan).and_then(Session::close) {
                Ok(()) => Finding::new("views", Severity::Fine, format!("view {view} works")),
                Err(error) => {
                    let message = format!("view {view} does not work: {error}");
                    let finding = Finding::new("views", Severity::Degraded, message);
                    match error.hint() {
                        Some(hint) => finding.remedy(hint),
                        None => finding,
                    }
                }
            }
        })
    });
    let _ = fs::remove_dir_all(&folder); // what is left of it is in the caller's scratch folder
    match views {
        Ok(findings) => findings.into(),
        Err(error) => vec![Finding::new("views", Severity::Degraded, error.to_string())],
    }
}

/// Whether a private binfmt_misc works: by registering a handler for files of no kind that exists.
fn interpreters(work: &Path) -> Finding {
    let line = ":sandbox-probe:E::sandbox-probe::{interpreter}:F".to_owned();
    let interpreter = PathBuf::from("/proc/self/exe");
    match probe_with(work, vec![Binfmt { name: "probe".into(), line, interpreter }], None) {
        Ok(_) => Finding::new(
            "binfmt",
            Severity::Fine,
            "foreign binaries can have interpreters of the sandbox's own",
        ),
        Err(error) => {
            let message = format!("{error}: images of foreign architectures cannot be configured here");
            let finding = Finding::new("binfmt", Severity::Degraded, message);
            match error.hint() {
                Some(hint) => finding.remedy(hint),
                None => finding,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_names_this_very_program() {
        let text = apparmor_profile(Path::new("/opt/bin/treestrap"));
        assert!(
            text.contains("profile treestrap \"/opt/bin/treestrap\" flags=(unconfined) { userns, }"),
            "{text}"
        );
        assert!(text.contains("apparmor_parser -r /etc/apparmor.d/treestrap"), "{text}");
        // The file for packages says the same.
        let file = include_str!("../../apparmor/treestrap");
        for part in ["abi <abi/4.0>,", "profile treestrap ", "flags=(unconfined)", "userns,"] {
            assert!(text.contains(part) && file.contains(part), "{part}");
        }
    }

    #[test]
    fn each_refusal_has_its_own_explanation() {
        let failed = |step: Step, errno: Errno| Error::system("trying", errno).at(step);
        let plain = System { most_namespaces: Some(1000), ..System::default() };
        let namespace = failed(Step::UserNamespace, Errno::EPERM);
        for (error, system, part, remedy) in [
            (
                namespace.clone(),
                System { clone_forbidden: true, ..plain.clone() },
                "unprivileged_userns_clone is 0",
                "unprivileged_userns_clone=1",
            ),
            (
                namespace.clone(),
                System { apparmor_restricts: true, ..plain.clone() },
                "AppArmor",
                "apparmor_restrict_unprivileged_userns=0",
            ),
            (
                failed(Step::Mapping, Errno::EPERM),
                System { apparmor_restricts: true, ..plain.clone() },
                "AppArmor",
                "apparmor_restrict_unprivileged_userns=0",
            ),
            (
                failed(Step::UserNamespace, Errno::ENOSPC),
                System { most_namespaces: Some(0), ..plain.clone() },
                "max_user_namespaces is 0",
                "max_user_namespaces=15000",
            ),
            (
                namespace.clone(),
                System { filtered: true, ..plain.clone() },
                "system call filter",
                "seccomp=unconfined",
            ),
            (
                namespace.clone(),
                System { container: true, ..plain.clone() },
                "system call filter",
                "seccomp=unconfined",
            ),
            (namespace, plain.clone(), "leaves no trace", "journalctl"),
            (
                failed(Step::Mapping, Errno::EPERM),
                System { no_new_privileges: true, ..plain.clone() },
                "no_new_privs",
                "outside",
            ),
            (
                failed(Step::Proc, Errno::EPERM),
                System { masked_proc: true, ..plain.clone() },
                "masked",
                "systempaths=unconfined",
            ),
            (failed(Step::Overlay, Errno::EINVAL), plain, "Linux 5.11", "work folder on ext4"),
        ] {
            let finding = explain(&error, &system);
            assert_eq!(finding.severity, Severity::Fatal);
            assert!(finding.message.contains(part), "{finding:?}");
            assert!(finding.remedy.as_deref().is_some_and(|text| text.contains(remedy)), "{finding:?}");
        }
    }
}
