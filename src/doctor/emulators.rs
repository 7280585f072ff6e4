//! Who will run the programs of the manifest's foreign images: this machine's CPU, or which qemu.
//!
//! A missing qemu is no fault of the machine: `treestrap build` and `fetch` get one from the archive.

use std::path::Path;

use qemu::Architecture;

use super::{Finding, folders};
use crate::{artefacts::Image, manifest::Manifest};

const CHECK: &str = "emulator";

/// One finding for each architecture that is not this machine's. What the CPU runs is tried below
/// the folder `cache`, as a build does.
pub(super) fn examine(manifest: Option<&Manifest>, cache: &Path) -> Vec<Finding> {
    let images = manifest.map_or(&[][..], |manifest| &manifest.images);
    let Some(host) = qemu::host() else {
        let message = "this machine's architecture is none of Debian's";
        return vec![Finding::missing(CHECK, message, "make images on another machine, amd64 or arm64, say")];
    };
    let mut names: Vec<&str> = images.iter().map(|image| image.request.architecture.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .filter(|name| *name != host.name)
        .filter_map(|name| {
            let Some(target) = qemu::find(name) else {
                let message = format!("{name} is no architecture of Debian");
                return Some(Finding::missing(CHECK, message, "correct `arch` in the manifest"));
            };
            let of_target: Vec<&Image> =
                images.iter().filter(|image| image.request.architecture == name).collect();
            finding(host, target, &of_target, cache)
        })
        .collect()
}

/// The finding for one architecture, which some images have; none if another check tells why nothing
/// could be tried.
fn finding(host: &Architecture, target: &Architecture, images: &[&Image], cache: &Path) -> Option<Finding> {
    let name = target.name;
    if qemu::execution(host, target) != qemu::Execution::Emulated {
        let folder = folders::existing(cache);
        let scratch = tempfile::Builder::new().prefix(".treestrap-doctor-").tempdir_in(folder).ok()?;
        match qemu::runs_natively(host, target, scratch.path()) {
            Ok(true) => {
                return Some(Finding::ok(
                    CHECK,
                    format!("{name}: none needed, this machine runs its programs"),
                ));
            }
            Ok(false) => {}
            Err(error) => {
                let message = format!("{name}: whether this machine runs its programs is unknown: {error}");
                let remedy = "export XDG_CACHE_HOME=/a/folder/not/mounted/noexec";
                return Some(Finding::missing(CHECK, message, remedy));
            }
        }
    }
    Some(emulated(host, target, images))
}

/// The finding for an architecture that needs qemu, which some images have: first what a build
/// takes first.
fn emulated(host: &Architecture, target: &Architecture, images: &[&Image]) -> Finding {
    let name = target.name;
    let Some(emulated) = target.qemu else {
        let remedy = format!("make its images on a machine that runs {name} programs");
        return Finding::missing(CHECK, format!("{name}: qemu-user does not emulate it"), remedy);
    };
    let pinned = images.iter().find_map(|image| {
        let file = format!("{}.tools.{}.lock", image.request.image, host.name);
        let path = image.lock.with_file_name(file);
        path.is_file().then_some(path)
    });
    let message = match (pinned, qemu::Emulator::on_host(target)) {
        (Some(lock), _) => format!("{name}: qemu-{emulated}, which {} pins", lock.display()),
        (None, Ok(emulator)) => {
            format!("{name}: {}, qemu-user {}", emulator.path.display(), emulator.version)
        }
        (None, Err(_)) => format!(
            "{name}: no static qemu-{emulated} on this machine; the first build fetches one from the archive"
        ),
    };
    Finding::ok(CHECK, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    fn manifest(folder: &Path, architectures: &[&str]) -> Manifest {
        let mut text = "[repos.d]\nsuites = [\"sid\"]\n".to_owned();
        for name in architectures {
            text += &format!("[images.i-{name}]\narch = \"{name}\"\npackages = [\"bash\"]\n");
        }
        Manifest::parse(&folder.join("treestrap.toml"), &text).expect("a good manifest")
    }

    #[test]
    fn one_finding_for_each_foreign_architecture() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = qemu::host().expect("an architecture of Debian").name;
        let foreign = if host == "s390x" { "riscv64" } else { "s390x" };
        let examine = |names: &[&str]| {
            let findings = examine(Some(&manifest(folder.path(), names)), &folder.path().join("cache"));
            assert!(findings.iter().all(|finding| finding.check == CHECK), "{findings:?}");
            findings
        };
        assert_eq!(examine(&[host]), []);
        assert_eq!(super::examine(None, folder.path()), []);
        let findings = examine(&[host, foreign]);
        assert_eq!((findings.len(), findings[0].state), (1, State::Ok), "{findings:?}");
        assert!(findings[0].message.starts_with(&format!("{foreign}: ")), "{findings:?}");

        let lock = folder.path().join(format!("i-{foreign}.tools.{host}.lock"));
        std::fs::write(&lock, "").expect("written");
        let findings = examine(&[foreign]);
        assert!(findings[0].message.contains(&lock.display().to_string()), "{findings:?}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1, "the lock alone");
    }

    #[test]
    fn an_architecture_that_qemu_lacks() {
        let host = qemu::host().expect("an architecture of Debian");
        let target = qemu::ARCHITECTURES.iter().find(|target| target.qemu.is_none()).expect("one such");
        let finding = emulated(host, target, &[]);
        assert_eq!(finding.state, State::Missing);
        assert!(finding.message.starts_with(target.name), "{finding:?}");
    }
}
