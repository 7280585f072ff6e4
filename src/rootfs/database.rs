//! What a folder's dpkg database says of its packages.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::tree::Tree;
use crate::{
    Error, Result,
    artefacts::{Layer, PackageState, UnpackedPackage},
    debian::{
        deb822::{self, Stanza},
        triggers,
    },
};

/// The database.
#[derive(Clone, Debug, Default)]
pub(super) struct Database {
    /// The packages that are there, sorted by name and architecture.
    pub(super) packages: Vec<UnpackedPackage>,
    /// The stanzas of `status` by the same index.
    pub(super) stanzas: Vec<Stanza>,
    /// Interests in triggers, files and texts, that whoever unpacked the packages did not register.
    pub(super) triggers: BTreeMap<String, String>,
}

/// The files that are read.
pub(super) const STATUS: &[u8] = b"var/lib/dpkg/status";
pub(super) const LOG: &[u8] = b"var/log/dpkg.log";
const INFO: &str = "var/lib/dpkg/info";

/// Reads the database. `texts`: the contents of the files that [`is_read`] names.
pub(super) fn read(
    tree: &Tree,
    texts: &HashMap<Vec<u8>, Vec<u8>>,
    architecture: &str,
    stanzas: Vec<Stanza>,
) -> Result<Database> {
    let text = |path: &[u8]| String::from_utf8_lossy(texts.get(path).map_or(&b""[..], Vec::as_slice));
    let prepared = unpacked_by_dpkg(&text(LOG));
    let mut found: BTreeMap<(String, String), (UnpackedPackage, Stanza)> = BTreeMap::new();
    for stanza in stanzas {
        let Some((state, package)) = package(tree, &stanza, architecture, &prepared)? else { continue };
        let key = (package.name.clone(), package.architecture.clone());
        // Of two stanzas of one package, dpkg takes the last.
        match state {
            Some(_) => found.insert(key, (package, stanza)),
            None => found.remove(&key),
        };
    }
    let (packages, stanzas): (Vec<_>, Vec<_>) = found.into_values().unzip();
    let is_registered = tree.is_folder(b"var/lib/dpkg/triggers");
    let interests = packages.iter().map(|package: &UnpackedPackage| {
        let path = info(tree, package, "triggers");
        (package.info_name.clone(), path.and_then(|path| texts.get(path.as_bytes())))
    });
    let interests: Vec<(String, String)> = interests
        .filter_map(|(name, text)| Some((name, String::from_utf8_lossy(text?).into_owned())))
        .collect();
    let triggers = match is_registered {
        true => BTreeMap::new(),
        false => triggers::interests(interests.iter().map(|(name, text)| (name.clone(), text.as_str())))
            .map_err(Error::input)?,
    };
    Ok(Database { packages, stanzas, triggers })
}

/// Whether the content of a file is needed to read the database.
pub(super) fn is_read(path: &[u8]) -> bool {
    path == STATUS || path == LOG || is_info(path, b".triggers")
}

fn is_info(path: &[u8], ending: &[u8]) -> bool {
    let name = path.strip_prefix(INFO.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
    name.is_some_and(|name| name.ends_with(ending))
}

/// The stanzas of `status`.
pub(super) fn stanzas(status: &[u8]) -> Result<Vec<Stanza>> {
    let text = String::from_utf8_lossy(status);
    let stanzas =
        deb822::parse(&text).map_err(|error| Error::input(format!("var/lib/dpkg/status: {error}")))?;
    Ok(stanzas.into_iter().map(|(_, stanza)| stanza).collect())
}

/// The package of a stanza, and its state: none if nothing of it is there.
fn package(
    tree: &Tree,
    stanza: &Stanza,
    native: &str,
    prepared: &BTreeSet<(String, String)>,
) -> Result<Option<(Option<PackageState>, UnpackedPackage)>> {
    let get = |field: &str| stanza.get(field).unwrap_or_default().to_owned();
    let (name, version) = (get("Package"), get("Version"));
    let status = get("Status");
    let mut words = status.split_ascii_whitespace();
    let (_, flag, state) = (words.next(), words.next(), words.next());
    let refuse = |what: &str| {
        let message = format!("{name}: {what} (Status: {status})");
        Err(Error::input(message).hint(format!("unpack it again, or remove it: dpkg --purge {name}")))
    };
    if flag == Some("reinstreq") {
        return refuse("it is damaged: dpkg wants it reinstalled");
    }
    let is_prepared = prepared.contains(&(name.clone(), version.clone()));
    let state = match state {
        Some("not-installed" | "config-files") => None,
        Some("unpacked") if is_prepared => Some(PackageState::Prepared),
        Some("unpacked") => Some(PackageState::Unpacked),
        Some("half-configured" | "triggers-awaited" | "triggers-pending") => Some(PackageState::Prepared),
        Some("installed") => Some(PackageState::Installed),
        Some("half-installed") => return refuse("it is half unpacked"),
        _ if name.is_empty() => return Ok(None),
        _ => return refuse("its state is none of dpkg's"),
    };
    let mut package = named(stanza, native, state.unwrap_or_default());
    for script in ["preinst", "postinst", "prerm", "postrm", "config"] {
        if info(tree, &package, script).is_some() {
            package.scripts.push(script.to_owned());
        }
    }
    Ok(Some((state, package)))
}

/// A package with its names.
fn named(stanza: &Stanza, native: &str, state: PackageState) -> UnpackedPackage {
    let get = |field: &str| stanza.get(field).unwrap_or_default().to_owned();
    let (name, architecture) = (get("Package"), get("Architecture"));
    let is_same = get("Multi-Arch").eq_ignore_ascii_case("same");
    let is_foreign = architecture != "all" && architecture != native;
    let with_architecture = || format!("{name}:{architecture}");
    UnpackedPackage {
        qualified_name: if is_same || is_foreign { with_architecture() } else { name.clone() },
        info_name: if is_same { with_architecture() } else { name.clone() },
        version: get("Version"),
        control: stanza.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect(),
        scripts: Vec::new(),
        diverts: false,
        newest: 0,
        layer: Layer::default(),
        state,
        name,
        architecture,
    }
}

/// The package of a deb that is not unpacked yet. What scripts it has is not asked.
pub(super) fn of_deb(stanza: &Stanza, native: &str) -> UnpackedPackage {
    named(stanza, native, PackageState::Unpacked)
}

/// The path of a package's file in `info`, where it has one. dpkg's first form of the database has no
/// architectures in names (`pkg_infodb_get_file` in its infodb-access.c).
pub(super) fn info(tree: &Tree, package: &UnpackedPackage, kind: &str) -> Option<String> {
    [&package.info_name, &package.name]
        .into_iter()
        .map(|name| format!("{INFO}/{name}.{kind}"))
        .find(|path| tree.get(path.as_bytes()).is_some())
}

/// Names and versions of what dpkg has unpacked itself, by its log (`log_message` in dpkg's
/// status-fd code: `DATE TIME status unpacked NAME:ARCHITECTURE VERSION`).
fn unpacked_by_dpkg(log: &str) -> BTreeSet<(String, String)> {
    let words = log.lines().map(|line| line.split_ascii_whitespace().skip(2).collect::<Vec<_>>());
    words
        .filter_map(|words| match words[..] {
            ["status", "unpacked", package, version] => {
                let name = package.split_once(':').map_or(package, |(name, _)| name);
                Some((name.to_owned(), version.to_owned()))
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use sandbox::{Change, Entry, Metadata};

    use super::*;

    fn metadata(mode: u32) -> Metadata {
        Metadata { uid: 0, gid: 0, mode, xattrs: Vec::new(), modified: (0, 0) }
    }

    /// A database of `info` files with this text, and of a status.
    fn database(files: &[(&str, &str)], status: &str, log: &str) -> Result<Database> {
        let mut tree = Tree::default();
        let mut texts = HashMap::from([(LOG.to_vec(), log.as_bytes().to_vec())]);
        for (name, text) in files {
            let path = format!("{INFO}/{name}").into_bytes();
            let now = Entry::File { metadata: metadata(0o100_644), size: 0, hard_link: None };
            tree.add(Change { path: path.clone(), now });
            texts.insert(path, text.as_bytes().to_vec());
        }
        read(&tree, &texts, "armhf", stanzas(status.as_bytes())?)
    }

    fn stanza(name: &str, architecture: &str, state: &str, more: &str) -> String {
        format!(
            "Package: {name}\nStatus: install {state}\nArchitecture: {architecture}\nVersion: 1\n{more}\n"
        )
    }

    #[test]
    fn packages_are_as_far_as_their_states_say() {
        let status = [
            stanza("libc6", "armhf", "ok unpacked", "Multi-Arch: same\n"),
            stanza("a", "all", "ok installed", ""),
            stanza("b", "armhf", "ok half-configured", ""),
            stanza("c", "armhf", "ok unpacked", "Multi-Arch: foreign\n"),
            stanza("d", "i386", "ok triggers-awaited", ""),
            stanza("gone", "armhf", "ok config-files", ""),
            stanza("e", "armhf", "ok unpacked", ""),
            stanza("e", "armhf", "ok installed", ""),
        ]
        .concat();
        let log =
            "2026-01-01 00:00:00 status unpacked c:armhf 1\n2026-01-01 00:00:00 status unpacked b:armhf 0\n";
        let files =
            [("libc6.preinst", ""), ("libc6:armhf.postinst", ""), ("c.config", ""), ("c.list", "/.\n")];
        let found = database(&files, &status, log).expect("a database");
        let states: Vec<_> = found.packages.iter().map(|p| (p.qualified_name.as_str(), p.state)).collect();
        assert_eq!(
            states,
            [
                ("a", PackageState::Installed),
                ("b", PackageState::Prepared),
                ("c", PackageState::Prepared),
                ("d:i386", PackageState::Prepared),
                ("e", PackageState::Installed),
                ("libc6:armhf", PackageState::Unpacked),
            ]
        );
        assert_eq!(found.packages[5].scripts, ["preinst", "postinst"]);
        assert_eq!(found.packages[2].scripts, ["config"]);
        assert_eq!(found.packages[5].info_name, "libc6:armhf");
    }

    #[test]
    fn what_cannot_be_gone_on_from_is_refused_by_name() {
        for state in ["ok half-installed", "reinstreq unpacked", "ok nonsense"] {
            let error = database(&[], &stanza("broken", "all", state, ""), "").expect_err(state);
            assert!(error.to_string().starts_with("broken: "), "{error}");
        }
    }

    #[test]
    fn interests_are_registered_where_nobody_has() {
        let status = stanza("libc6", "armhf", "ok unpacked", "Multi-Arch: same\n");
        let files = [("libc6.triggers", "interest-noawait ldconfig\n")];
        let found = database(&files, &status, "").expect("a database");
        let expected = ("ldconfig".to_owned(), "libc6:armhf/noawait\n".to_owned());
        assert_eq!(found.triggers, BTreeMap::from([expected]));
    }
}
