//! Where a repository's suites are: the manifest's URIs, or the host's own apt sources.
//!
//! apt itself is not needed: its files are read (sources.list(5), both formats). A suite that the
//! host's sources name is taken from there. For any other suite of the same distribution (trixie on a
//! bookworm host, backports) the URIs of the host's sources are tried, a security suite's among those
//! that serve security suites; a third party's never: see [`Place::origins`].

use std::path::{Path, PathBuf};

use super::{
    apt_configuration::AptConfiguration,
    signature::{KeySource, below},
};
use crate::{
    acquire::uri,
    artefacts::Repository,
    error::{Context, Error, Result},
};

/// One place where a suite may be got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The archive's URI, which may hold credentials.
    pub uri: String,
    /// Where the keys are that it is trusted by.
    pub keys: Vec<KeySource>,
    /// If not empty: only keys with these fingerprints.
    pub fingerprints: Vec<String>,
    /// Whether an expired Release file is refused.
    pub check_valid_until: bool,
    /// Whether it is used without a signature.
    pub trusted: bool,
    /// If not empty, the Release file's `Origin` must be one of these (in any case): the URI is
    /// tried because it might belong to the distribution, not because somebody said so.
    pub origins: Vec<String>,
}

/// One suite and where it may be got, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    /// The suite as the manifest spells it.
    pub name: String,
    /// The places, tried in turn.
    pub places: Vec<Place>,
}

/// Where the suites of a repository are. `root`: the host's root folder.
pub fn locate(repository: &Repository, root: &Path) -> Result<Vec<Suite>> {
    let own_keys: Vec<KeySource> = repository.signed_by.iter().map(|value| KeySource::parse(value)).collect();
    if !repository.uris.is_empty() {
        let keys = if own_keys.is_empty() { host_keyrings(root) } else { own_keys };
        let place = |uri: &String| Place {
            uri: uri.clone(),
            keys: keys.clone(),
            fingerprints: Vec::new(),
            check_valid_until: repository.check_valid_until,
            trusted: repository.trusted,
            origins: Vec::new(),
        };
        if let Some(bad) = repository.uris.iter().find(|uri| !uri::is_supported(uri)) {
            let message = format!("repository {}: not a usable URI: {}", repository.name, uri::shown(bad));
            return Err(Error::input(message).hint("http://, https://, file: and copy: can be used"));
        }
        let suite =
            |name: &String| Suite { name: name.clone(), places: repository.uris.iter().map(place).collect() };
        return Ok(repository.suites.iter().map(suite).collect());
    }
    let sources = read(root)?;
    if sources.is_empty() {
        return Err(Error::input(format!(
            "repository {} names no `uris`, and this machine has no apt sources (/etc/apt/sources.list, \
             /etc/apt/sources.list.d)",
            repository.name
        ))
        .hint(format!("add to [repos.{}]: uris = [\"http://mirror.example/debian\"]", repository.name)));
    }
    let origins = distribution(root);
    repository
        .suites
        .iter()
        .map(|suite| {
            let candidates = candidates(suite, repository, &sources);
            // Third parties use the distribution's names for suites of their own: where several
            // sources name one, only the distribution's counts. Were the others a way out when it
            // fails, whoever breaks its mirror could make us take theirs.
            let first = candidates.first().map(|(source, ..)| *source);
            let ambiguous = candidates.iter().any(|&(source, _, named)| named && Some(source) != first);
            let places: Vec<Place> = candidates
                .iter()
                .map(|&(source, uri, named)| {
                    let keys = match (own_keys.is_empty(), source.keys.is_empty()) {
                        (false, _) => own_keys.clone(),
                        (true, false) => source.keys.clone(),
                        (true, true) => host_keyrings(root),
                    };
                    Place {
                        uri: uri.clone(),
                        keys,
                        fingerprints: source.fingerprints.clone(),
                        check_valid_until: repository.check_valid_until
                            && source.check_valid_until != Some(false),
                        trusted: repository.trusted || source.trusted,
                        origins: if named && !ambiguous { Vec::new() } else { origins.clone() },
                    }
                })
                .collect();
            if places.is_empty() {
                let kind = if is_security(suite) { "security " } else { "" };
                return Err(Error::input(format!(
                    "repository {}: none of this machine's apt sources serves the {kind}suite {suite}",
                    repository.name
                ))
                .hint(format!(
                    "add to [repos.{}]: uris = [\"http://mirror.example/debian\"]",
                    repository.name
                )));
            }
            Ok(Suite { name: suite.clone(), places })
        })
        .collect()
}

/// The host's own apt sources as repositories without URIs: all that they serve.
///
/// # Errors
/// `Kind::Input` if there are none, or a file of them is malformed.
pub fn host_repositories(root: &Path) -> Result<Vec<Repository>> {
    let mut repositories: Vec<Repository> = Vec::new();
    for source in read(root)? {
        let repository = Repository {
            name: format!("apt-{}", repositories.len() + 1),
            uris: Vec::new(),
            suites: source.suites,
            components: source.components,
            signed_by: Vec::new(),
            check_valid_until: true,
            trusted: false,
        };
        let same = |other: &Repository| {
            (&other.suites, &other.components) == (&repository.suites, &repository.components)
        };
        if !repositories.iter().any(same) {
            repositories.push(repository);
        }
    }
    if repositories.is_empty() {
        let message = "this machine has no apt sources (/etc/apt/sources.list, /etc/apt/sources.list.d)";
        return Err(Error::input(message));
    }
    Ok(repositories)
}

/// The URIs of a repository, for getting its packages: each once, credentials included.
pub fn uris(repository: &Repository, root: &Path) -> Result<Vec<String>> {
    let mut uris: Vec<String> = Vec::new();
    for place in locate(repository, root)?.into_iter().flat_map(|suite| suite.places) {
        if !uris.contains(&place.uri) {
            uris.push(place.uri);
        }
    }
    Ok(uris)
}

/// The sources to try for a suite, with one URI each, and whether the source names it.
fn candidates<'a>(
    suite: &str,
    repository: &Repository,
    sources: &'a [Source],
) -> Vec<(&'a Source, &'a String, bool)> {
    let shares_component = |source: &&Source| {
        repository.components.is_empty()
            || source.components.iter().any(|c| repository.components.contains(c))
    };
    let mut found: Vec<(&Source, &String, bool)> = Vec::new();
    let mut add = |source: &'a Source, named: bool| {
        for uri in &source.uris {
            if !found.iter().any(|(_, other, _)| other.trim_end_matches('/') == uri.trim_end_matches('/')) {
                found.push((source, uri, named));
            }
        }
    };
    // Named with one of the components; a third party may use the distribution's name for a suite
    // with components of its own.
    let naming = |source: &&Source| source.suites.iter().any(|name| name == suite);
    sources.iter().filter(naming).filter(shares_component).for_each(|source| add(source, true));
    // The same distribution, as far as can be seen here; `origins` makes sure. A flat repository is
    // nobody's but who names it.
    if !suite.ends_with('/') {
        let security = is_security(suite);
        let of_its_kind = |source: &&Source| source.is_security() == security && !source.is_flat();
        sources.iter().filter(of_its_kind).filter(shares_component).for_each(|source| add(source, false));
    }
    found
}

/// Whether a suite is one of security updates: `bookworm-security`, `buster/updates`.
fn is_security(suite: &str) -> bool {
    suite.ends_with("-security") || suite.ends_with("/updates")
}

/// What the host's distribution calls itself, and those that it is like (os-release(5)): these are
/// what `Origin` in its archive's Release files says, but for case.
fn distribution(root: &Path) -> Vec<String> {
    let read = |path| std::fs::read_to_string(root.join(path)).ok();
    let text = read("etc/os-release").or_else(|| read("usr/lib/os-release")).unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    format!("{} {}", value("ID"), value("ID_LIKE")).split_whitespace().map(str::to_owned).collect()
}

/// The keyrings that are trusted where nothing names one: the distribution's, and apt's own.
pub fn host_keyrings(root: &Path) -> Vec<KeySource> {
    let mut paths: Vec<PathBuf> = ["gpg", "pgp"]
        .iter()
        .map(|extension| PathBuf::from(format!("/usr/share/keyrings/debian-archive-keyring.{extension}")))
        .collect();
    let folder = Path::new("/etc/apt/trusted.gpg.d");
    let extensions = ["gpg", "asc", "pgp"];
    paths.extend(files_of(&below(root, folder), &extensions).into_iter().map(|name| folder.join(name)));
    paths.push("/etc/apt/trusted.gpg".into());
    paths.into_iter().map(|path| KeySource::FileIfThere(below(root, &path))).collect()
}

/// The names of a folder's files that apt reads, sorted: letters, digits, `_`, `-` and `.`, with one
/// of these extensions (sources.list(5)).
fn files_of(folder: &Path, extensions: &[&str]) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_ours = |name: &String| {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        let extension = name.rsplit_once('.').map(|(_, extension)| extension);
        plain && !name.starts_with('.') && extension.is_some_and(|extension| extensions.contains(&extension))
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(is_ours).collect();
    names.sort();
    names
}

/// One entry of the host's sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    keys: Vec<KeySource>,
    fingerprints: Vec<String>,
    trusted: bool,
    check_valid_until: Option<bool>,
}

impl Source {
    fn is_security(&self) -> bool {
        self.suites.iter().any(|suite| is_security(suite))
            || self.uris.iter().any(|uri| uri.contains("debian-security"))
    }

    fn is_flat(&self) -> bool {
        self.suites.iter().all(|suite| suite.ends_with('/'))
    }

    /// Takes `Signed-By`: paths and fingerprints apart by white space or commas, or a key itself.
    fn signed_by(&mut self, value: &str, root: &Path) {
        if let KeySource::Armoured(key) = KeySource::parse(value) {
            self.keys.push(KeySource::Armoured(key));
            return;
        }
        for word in value.split([' ', '\t', '\n', ',']).filter(|word| !word.is_empty()) {
            match word.starts_with('/') {
                true => self.keys.push(KeySource::File(below(root, Path::new(word)))),
                false => self.fingerprints.push(word.trim_end_matches('!').to_owned()),
            }
        }
    }
}

/// All entries for binary packages, in apt's order.
fn read(root: &Path) -> Result<Vec<Source>> {
    let folder = root.join("etc/apt/sources.list.d");
    let mut paths = vec![root.join("etc/apt/sources.list")];
    paths.extend(files_of(&folder, &["list", "sources"]).into_iter().map(|name| folder.join(name)));
    let mut sources = Vec::new();
    for path in paths {
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let found = match path.extension().is_some_and(|extension| extension == "sources") {
            true => read_stanzas(&text, root),
            false => read_lines(&text, root),
        };
        let found = found.map_err(|(line, reason)| {
            Error::input(format!("{}:{line}: {reason}", path.display()))
                .hint("correct the file (sources.list(5)), or name `uris` in the manifest")
        })?;
        sources.extend(found);
    }
    // What apt was told for all its sources; a source's own option went before.
    let configuration = AptConfiguration::read(root);
    let for_all = !configuration.get("Acquire::Check-Valid-Until").is_some_and(is_no);
    for source in &mut sources {
        source.check_valid_until.get_or_insert(for_all);
    }
    // Other transports (cdrom:, mirror+…:) are apt's own.
    for source in &mut sources {
        source.uris.retain(|uri| uri::is_supported(uri));
    }
    sources.retain(|source| !source.uris.is_empty());
    Ok(sources)
}

type Malformed = (usize, String);

/// The one-line format: `deb [option=value …] uri suite [component …]`.
fn read_lines(text: &str, root: &Path) -> std::result::Result<Vec<Source>, Malformed> {
    let mut sources = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t', '['])) else {
            continue; // deb-src, or nothing
        };
        let mut source = Source::default();
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[') {
            None => rest,
            Some(rest) => {
                let (options, rest) = rest.split_once(']').ok_or((number, "no ] after [".to_owned()))?;
                for option in options.split_whitespace() {
                    let (name, value) = option.split_once('=').unwrap_or((option, ""));
                    source_option(&mut source, name.trim_end_matches(['+', '-']), value, root);
                }
                rest
            }
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            return Err((number, "neither a URI nor a suite".to_owned()));
        };
        source.uris.push(uri);
        source.suites.push(suite);
        source.components = words.collect();
        sources.push(source);
    }
    Ok(sources)
}

/// The deb822 format: stanzas with `Types`, `URIs`, `Suites`, `Components`, and options.
fn read_stanzas(text: &str, root: &Path) -> std::result::Result<Vec<Source>, Malformed> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_end()));
    for (number, line) in lines.chain([(0, "")]) {
        if line.starts_with('#') {
            continue; // anywhere, even between the lines of a field
        }
        if line.is_empty() {
            sources.extend(stanza(&fields, root));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut().ok_or((number, "a continuation of nothing".to_owned()))?;
            value.push('\n');
            value.push_str(line.trim());
        } else {
            let (name, value) = line.split_once(':').ok_or((number, "not `Field: value`".to_owned()))?;
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    Ok(sources)
}

/// What a stanza says; `None` if it is switched off, or names no binary packages or nothing at all.
fn stanza(fields: &[(String, String)], root: &Path) -> Option<Source> {
    let get = |name: &str| fields.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value.as_str());
    let words = |name: &str| get(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if !words("types").iter().any(|word| word == "deb") || is_no(get("enabled")) {
        return None;
    }
    let mut source = Source {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        ..Source::default()
    };
    for name in ["signed-by", "trusted", "check-valid-until"] {
        source_option(&mut source, name, get(name), root);
    }
    (!source.suites.is_empty()).then_some(source)
}

/// Takes an option that both formats have.
fn source_option(source: &mut Source, name: &str, value: &str, root: &Path) {
    match name.to_ascii_lowercase().as_str() {
        "signed-by" => source.signed_by(value, root),
        "trusted" => source.trusted = is_yes(value),
        "check-valid-until" if is_no(value) => source.check_valid_until = Some(false),
        "check-valid-until" if is_yes(value) => source.check_valid_until = Some(true),
        _ => {}
    }
}

/// Booleans as apt reads them (`StringToBool`).
fn is_yes(value: &str) -> bool {
    ["yes", "true", "1", "with", "on", "enable"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn is_no(value: &str) -> bool {
    ["no", "false", "0", "without", "off", "disable"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root folder with these files.
    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        root
    }

    fn repository(suites: &[&str], components: &[&str]) -> Repository {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Repository {
            name: "debian".into(),
            uris: Vec::new(),
            suites: words(suites),
            components: words(components),
            signed_by: Vec::new(),
            check_valid_until: true,
            trusted: false,
        }
    }

    const DEBIAN: &str = "ID=debian\nVERSION_CODENAME=bookworm\n";
    const DEB822: &str = "\
# the archive
Types: deb deb-src
URIs: http://mirror.example/debian
# a comment inside
 http://second.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Check-Valid-Until: no

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm trixie
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
";

    fn places<'a>(suites: &'a [Suite], name: &str) -> Vec<(&'a str, bool)> {
        let suite = suites.iter().find(|suite| suite.name == name).unwrap();
        suite.places.iter().map(|place| (place.uri.as_str(), place.origins.is_empty())).collect()
    }

    #[test]
    fn deb822_sources() {
        let root = host(&[
            ("etc/os-release", DEBIAN),
            ("etc/apt/sources.list.d/debian.sources", DEB822),
            (
                "etc/apt/sources.list.d/gone.sources.disabled",
                "Types: deb\nURIs: http://x\nSuites: bookworm\n",
            ),
        ]);
        let wanted = ["bookworm", "bookworm-backports", "trixie", "bookworm-security", "trixie-security"];
        let suites = locate(&repository(&wanted, &["main"]), root.path()).unwrap();
        let both =
            |named| vec![("http://mirror.example/debian", named), ("http://second.example/debian/", named)];
        let security = "http://mirror.example/debian-security";
        assert_eq!(places(&suites, "bookworm"), both(true));
        assert_eq!(places(&suites, "bookworm-backports"), both(false));
        assert_eq!(places(&suites, "trixie"), both(false));
        assert_eq!(places(&suites, "bookworm-security"), [(security, true)]);
        assert_eq!(places(&suites, "trixie-security"), [(security, false)]);
        assert_eq!(suites[1].places[0].origins, ["debian"]);
        let keyring = root.path().join("usr/share/keyrings/debian-archive-keyring.gpg");
        assert_eq!(suites[0].places[0].keys, [KeySource::File(keyring)]);
        assert!(suites[0].places[0].check_valid_until && !suites[3].places[0].check_valid_until);
        let all = uris(&repository(&wanted, &["main"]), root.path()).unwrap();
        assert_eq!(all, ["http://mirror.example/debian", "http://second.example/debian/", security]);
    }

    #[test]
    fn one_line_sources() {
        let list = "\
deb http://mirror.example/debian bookworm main contrib # the archive
deb-src http://mirror.example/debian bookworm main
#deb http://off.example/debian bookworm main
deb [ arch=amd64,armhf signed-by=/etc/apt/keyrings/other.asc,0123456789ABCDEF0123456789ABCDEF01234567! check-valid-until=no ] http://other.example/debian bookworm stable
deb [trusted=yes] file:/srv/local ./
deb cdrom:[Debian]/ bookworm main
";
        let root = host(&[
            ("usr/lib/os-release", "ID=\"raspbian\"\nID_LIKE=debian\n"),
            ("etc/apt/sources.list", list),
        ]);
        let suites = locate(&repository(&["bookworm", "sid"], &["main"]), root.path()).unwrap();
        // A third party that has other components is not asked, nor is it for suites it doesn't name.
        assert_eq!(places(&suites, "bookworm"), [("http://mirror.example/debian", true)]);
        assert_eq!(places(&suites, "sid"), [("http://mirror.example/debian", false)]);
        assert_eq!(suites[1].places[0].origins, ["raspbian", "debian"]);
        // Where two name it, it must be the distribution's.
        let ambiguous = locate(&repository(&["bookworm"], &["main", "stable"]), root.path()).unwrap();
        let both = [("http://mirror.example/debian", false), ("http://other.example/debian", false)];
        assert_eq!(places(&ambiguous, "bookworm"), both);
        let third = locate(&repository(&["bookworm"], &["stable"]), root.path()).unwrap();
        assert_eq!(places(&third, "bookworm"), [("http://other.example/debian", true)]);
        let place = &third[0].places[0];
        assert_eq!(place.keys, [KeySource::File(root.path().join("etc/apt/keyrings/other.asc"))]);
        assert_eq!(place.fingerprints, ["0123456789ABCDEF0123456789ABCDEF01234567"]);
        assert!(!place.check_valid_until && !place.trusted);
        let flat = locate(&repository(&["./"], &[]), root.path()).unwrap();
        assert_eq!(places(&flat, "./"), [("file:/srv/local", true)]);
        assert!(flat[0].places[0].trusted);
    }

    #[test]
    fn keys_of_a_stanza() {
        let sources = "Types: deb\nURIs: https://third.example\nSuites: stable\nComponents: main\nSigned-By:\n \
             -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n";
        let root =
            host(&[("etc/apt/sources.list.d/third.sources", sources), ("etc/apt/trusted.gpg.d/a.asc", "x")]);
        let suites = locate(&repository(&["stable"], &["main"]), root.path()).unwrap();
        let key = "\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----";
        assert_eq!(suites[0].places[0].keys, [KeySource::Armoured(key.into())]);
        let names: Vec<String> = host_keyrings(root.path()).iter().map(ToString::to_string).collect();
        assert!(names.iter().any(|name| name.ends_with("etc/apt/trusted.gpg.d/a.asc")), "{names:?}");
    }

    #[test]
    fn apt_was_told_not_to_look_at_valid_until() {
        let list = "deb http://a.example/debian bookworm main\n\
                    deb [check-valid-until=yes] http://b.example/debian trixie main\n";
        let root = host(&[
            ("etc/apt/sources.list", list),
            ("etc/apt/apt.conf.d/90snapshot", "Acquire::Check-Valid-Until \"no\";"),
        ]);
        let suites = locate(&repository(&["bookworm", "trixie"], &["main"]), root.path()).unwrap();
        let checked: Vec<bool> = suites.iter().map(|suite| suite.places[0].check_valid_until).collect();
        assert_eq!(checked, [false, true]);
    }

    #[test]
    fn what_the_manifest_names_comes_first() {
        let root = host(&[("etc/apt/sources.list.d/debian.sources", DEB822)]);
        let mut repository = repository(&["bookworm"], &["main"]);
        repository.uris = vec!["https://own.example/debian".into()];
        repository.signed_by = vec!["/own.gpg".into()];
        let suites = locate(&repository, root.path()).unwrap();
        assert_eq!(places(&suites, "bookworm"), [("https://own.example/debian", true)]);
        assert_eq!(suites[0].places[0].keys, [KeySource::File("/own.gpg".into())]);
        repository.uris = vec!["ftp://own.example/debian".into()];
        assert!(locate(&repository, root.path()).unwrap_err().to_string().contains("ftp://own.example"));
    }

    #[test]
    fn errors_name_the_way_out() {
        let none = host(&[]);
        let error = locate(&repository(&["bookworm"], &["main"]), none.path()).unwrap_err();
        assert!(error.to_string().contains("no apt sources"), "{error}");
        assert!(error.get_hint().unwrap().contains("[repos.debian]: uris = "));
        let only = host(&[("etc/apt/sources.list", "deb http://mirror.example/debian bookworm main\n")]);
        let error = locate(&repository(&["bookworm-security"], &["main"]), only.path()).unwrap_err();
        assert!(error.to_string().contains("serves the security suite bookworm-security"), "{error}");
        for (file, text, message) in [
            ("etc/apt/sources.list", "\ndeb [x http://m s\n", "sources.list:2: no ] after ["),
            ("etc/apt/sources.list.d/a.sources", "Types: deb\nURIs\n", "a.sources:2: not `Field: value`"),
        ] {
            let bad = host(&[(file, text)]);
            let error = locate(&repository(&["bookworm"], &["main"]), bad.path()).unwrap_err();
            assert!(error.to_string().ends_with(message), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_is_no_panic(text in "(deb |\\[|\\]|\n| |#|Types: deb|URIs:|Suites: |=|[a-z:/é]){0,40}") {
            let _ = read_lines(&text, Path::new("/"));
            let _ = read_stanzas(&text, Path::new("/"));
        }
    }
}
