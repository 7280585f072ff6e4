//! Which held files get their places after a preinst: what dpkg would do when it unpacked the package
//! only now, with the diversions that are there now.
//!
//! dpkg lets two packages have one path if one of them diverts it (dpkg-divert(1); `tarobject` in
//! dpkg's archives.c): that one has the path, the other the place that the diversion names. Compose
//! could not know, and left the file of one at the path. `dpkg-divert --rename` has moved that by now, or
//! the preinst itself did; one that is still there is overwritten, as by dpkg.

use std::collections::BTreeSet;

use crate::{
    Error, Result,
    artefacts::{HeldFile, NEW_CONFFILE, Rival},
};

/// A line of dpkg's `diversions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Diversion {
    from: String,
    to: String,
    /// The package's name; `:` of a local diversion.
    package: String,
}

/// The content of `diversions`: three lines each (`diversiondb` in dpkg's db-fsys-divert.c).
pub(super) fn parse(lines: &[String]) -> Vec<Diversion> {
    let of = |chunk: &[String]| match chunk {
        [from, to, package] => {
            Some(Diversion { from: from.clone(), to: to.clone(), package: package.clone() })
        }
        _ => None,
    };
    lines.chunks(3).filter_map(of).collect()
}

/// A file is to be moved; paths have no leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: String,
    pub(super) to: String,
}

/// A shell script that moves other packages' configuration files which a preinst has diverted, and which
/// are not configured: those have a name that `dpkg-divert --rename` does not move, and dpkg would look
/// for them behind the diversion, and find none. Arguments: the `.list` file of the preinst's package,
/// then each diversion's two paths.
pub(super) const MOVE_NEW_CONFFILES: &str = r#"
list=$1
shift
while [ $# -gt 1 ]; do
    if [ -e "$1.dpkg-new" ] && [ ! -e "$2.dpkg-new" ] && ! grep -qxF -e "$1" "$list"; then
        mv -T -- "$1.dpkg-new" "$2.dpkg-new"
    fi
    shift 2
done
"#;

/// The two paths of each diversion that a package made.
pub(super) fn paths_of(package: &str, diversions: &[Diversion]) -> Vec<String> {
    let own = diversions.iter().filter(|diversion| diversion.package == package);
    own.flat_map(|diversion| [diversion.from.clone(), diversion.to.clone()]).collect()
}

/// The files that still wait.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    files: Vec<HeldFile>,
    /// Packages whose preinst has run.
    ran: BTreeSet<String>,
}

impl Waiting {
    pub(super) fn new(files: &[HeldFile]) -> Self {
        Waiting { files: files.to_vec(), ran: BTreeSet::new() }
    }

    /// Whether a file may get its place when a package's preinst has run.
    pub(super) fn wait_for(&self, package: &str) -> bool {
        self.files.iter().any(|file| decides(file, package))
    }

    /// What is to be moved now that a package's preinst has run; those files no longer wait.
    ///
    /// # Errors
    /// `Kind::Input`, as dpkg's, if two packages have a path and none of them diverted it.
    pub(super) fn after(&mut self, package: &str, diversions: &[Diversion]) -> Result<Vec<Move>> {
        self.ran.insert(package.to_owned());
        let concerned = self.files.iter().filter(|file| decides(file, package));
        let concerned: BTreeSet<String> = concerned.map(|file| file.path.clone()).collect();
        let mut moves = Vec::new();
        for path in concerned {
            let group: Vec<&HeldFile> = self.files.iter().filter(|file| file.path == path).collect();
            if let Some(found) = self.settle(&group, diversions)? {
                let is_moved = |file: &HeldFile| found.iter().any(|step| step.from == file.held);
                self.files.retain(|file| !is_moved(file));
                moves.extend(found);
            }
        }
        Ok(moves)
    }

    /// What happens to the files that want one path; none if that is not decided yet.
    fn settle(&self, group: &[&HeldFile], diversions: &[Diversion]) -> Result<Option<Vec<Move>>> {
        let [first, more @ ..] = group else { return Ok(None) };
        let Some(rival) = &first.rival else {
            let free = |file: &&HeldFile| to_place(file, &file.path);
            return Ok(Some(group.iter().map(free).collect()));
        };
        let has_name = |diversion: &&Diversion| {
            let from = diversion.from.trim_start_matches('/');
            from == rival.name || group.iter().any(|file| from == file.name)
        };
        let found: Vec<&Diversion> = diversions.iter().filter(has_name).collect();
        let owner = group.iter().copied().find(|file| found.iter().any(|d| d.package == file.package));
        if let Some(owner) = owner {
            let is_refused =
                |file: &&&HeldFile| file.package != owner.package && self.ran.contains(&file.package);
            if let Some(other) = group.iter().find(is_refused) {
                return Err(conflict(other, &rival.package));
            }
            return Ok(Some(vec![to_place(owner, &owner.path)]));
        }
        if found.iter().any(|diversion| diversion.package == rival.package) {
            if let Some(other) = more.first() {
                return Err(conflict(other, &first.package));
            }
            return Ok(Some(vec![to_place(first, &target(&found, &rival.package, &first.name))]));
        }
        let undecided = |rival: &Rival| rival.diverts && !self.ran.contains(&rival.package);
        let ran = |file: &&HeldFile| self.ran.contains(&file.package);
        match group.iter().copied().find(ran) {
            // Whoever made the diversion, another one of the same path fails.
            Some(file) if !found.is_empty() => Err(conflict(file, &rival.package)),
            Some(file) if !undecided(rival) && group.iter().all(ran) => Err(conflict(file, &rival.package)),
            _ => Ok(None),
        }
    }
}

/// Whether a package's preinst has a say in where a file goes.
fn decides(file: &HeldFile, package: &str) -> bool {
    file.package == package || file.rival.as_ref().is_some_and(|rival| rival.package == package)
}

/// Moves a held file to a path; a configuration file to the name that it has until it is configured.
fn to_place(file: &HeldFile, path: &str) -> Move {
    let suffix = if file.conffile { NEW_CONFFILE } else { "" };
    Move { from: file.held.clone(), to: format!("{path}{suffix}") }
}

/// Where a package's diversion leads the path that another package spells as `name`.
fn target(diversions: &[&Diversion], package: &str, name: &str) -> String {
    let by = || diversions.iter().filter(|diversion| diversion.package == package);
    let best = by().find(|diversion| diversion.from.trim_start_matches('/') == name).or_else(|| by().next());
    best.map_or_else(|| name.to_owned(), |diversion| diversion.to.trim_start_matches('/').to_owned())
}

fn conflict(file: &HeldFile, other: &str) -> Error {
    let HeldFile { package, name, .. } = file;
    let message = format!(
        "package {package}: /{name} is also in package {other}, neither replaces the other, \
         and no preinst script has diverted it"
    );
    Error::input(message).hint(format!("leave {package} or {other} out of the image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(package: &str, conffile: bool, rival: Option<(&str, bool, bool)>) -> HeldFile {
        HeldFile {
            path: "usr/sbin/x".into(),
            package: package.into(),
            name: "sbin/x".into(),
            held: format!("usr/sbin/x.{package}.dpkg-new"),
            conffile,
            rival: rival.map(|(package, conffile, diverts)| Rival {
                package: package.into(),
                name: "usr/sbin/x".into(),
                conffile,
                diverts,
            }),
        }
    }

    /// What happens after some preinst scripts, as text: moves, or a part of the error.
    fn outcome(files: &[HeldFile], ran: &[&str], diversions: &str) -> Result<String, String> {
        let lines: Vec<String> = diversions.split_whitespace().map(str::to_owned).collect();
        let mut waiting = Waiting::new(files);
        let mut said = Vec::new();
        for package in ran {
            let moves = waiting.after(package, &parse(&lines)).map_err(|error| error.to_string())?;
            said.extend(moves.iter().map(|m| format!("{} -> {}", m.from, m.to)));
        }
        Ok(said.join(", "))
    }

    #[test]
    fn dpkgs_rules_for_one_path_of_several_packages() {
        let simple = || vec![held("d", false, Some(("p", false, false)))];
        let both = || vec![held("d", false, Some(("p", false, true)))];
        let two =
            || vec![held("d", false, Some(("p", false, false))), held("e", false, Some(("p", false, false)))];
        let conffiles = || vec![held("d", true, Some(("p", true, false)))];
        let moved = "usr/sbin/x.d.dpkg-new -> usr/sbin/x";
        for (files, ran, diversions, expected) in [
            (vec![held("d", false, None)], &["d"][..], "", Ok(moved)),
            (simple(), &["z"], "", Ok("")),
            (simple(), &["d"], "/sbin/x /sbin/x.real d", Ok(moved)),
            (simple(), &["d"], "/usr/sbin/x /sbin/x.real d", Ok(moved)),
            (simple(), &["d"], "/sbin/y /sbin/y.real d", Err("d: /sbin/x is also in package p")),
            (simple(), &["d"], "/sbin/x /sbin/x.real :", Err("also in package p")),
            (simple(), &["d"], "/sbin/x /sbin/x.real z", Err("also in package p")),
            (both(), &["p"], "", Ok("")),
            (both(), &["p", "d"], "", Err("also in package p")),
            (both(), &["p"], "/usr/sbin/x /usr/sbin/x.p p", Ok("usr/sbin/x.d.dpkg-new -> usr/sbin/x.p")),
            (both(), &["d", "p"], "/usr/sbin/x /usr/sbin/x.p d", Ok(moved)),
            (two(), &["d", "e"], "/sbin/x /sbin/x.real d", Err("e: /sbin/x is also in package p")),
            (two(), &["d", "e"], "/sbin/x /sbin/x.real p", Err("e: /sbin/x is also in package d")),
            (
                conffiles(),
                &["d"],
                "/sbin/x /etc/x.real d",
                Ok("usr/sbin/x.d.dpkg-new -> usr/sbin/x.dpkg-new"),
            ),
        ] {
            let found = outcome(&files, ran, diversions);
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{ran:?} {diversions:?}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{error:?}: {part:?}"),
                _ => panic!("{ran:?} {diversions:?}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn who_still_waits() {
        let files = [held("d", false, Some(("p", false, true)))];
        let mut waiting = Waiting::new(&files);
        assert!(waiting.wait_for("d") && waiting.wait_for("p") && !waiting.wait_for("z"));
        waiting.after("d", &parse(&["/sbin/x".into(), "/y".into(), "d".into()])).expect("moves");
        assert!(!waiting.wait_for("d"));
    }
}
