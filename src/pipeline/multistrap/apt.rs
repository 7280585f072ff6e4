//! What apt finds in the folder: sources, keys, preferences, indexes, packages, and which of them nobody
//! asked for.

use std::{fmt::Write, path::Path};

use super::{
    choice,
    folder::{FILE_MODE, Root},
    keyring,
    scripts::Scripts,
};
use crate::{
    Context, Result,
    acquire::uri,
    artefacts::{LockedPackage, Lockfile},
    lock::{index::Index, indexes, lockfile},
    manifest::multistrap::{Configuration, Section},
    pipeline::Session,
};

const SOURCES: &str = "etc/apt/sources.list.d";
pub(super) const ARCHIVES: &str = "var/cache/apt/archives";
const LISTS: &str = "var/lib/apt/lists";

/// Folders that multistrap makes before anything is unpacked. What packages ship at these places decides on
/// owner and mode.
const FOLDERS: [&str; 9] = [
    SOURCES,
    "etc/apt/trusted.gpg.d",
    "etc/apt/preferences.d",
    "etc/apt/apt.conf.d",
    "etc/network",
    "dev",
    "usr/share/info",
    "var/cache/apt/archives/partial",
    "var/lib/apt/lists/partial",
];

/// Files that are there, empty, where no package brings them.
const EMPTY: [(&str, &str); 4] = [
    ("usr/share/info/dir", "install-info(1) wants one to write to"),
    ("etc/shells", "add-shell(8) does"),
    ("var/lib/dpkg/diversions", "of dpkg's own making, were anything diverted"),
    ("var/lib/dpkg/statoverride", "as well"),
];

/// Makes the folders and files that are there whatever is installed.
pub(super) fn prepare(
    root: &Root,
    session: &Session<'_>,
    configuration: &Configuration,
    scripts: &Scripts,
    lockfile: &Lockfile,
) -> Result<()> {
    FOLDERS.iter().try_for_each(|path| root.make_folder(path))?;
    EMPTY.iter().try_for_each(|(path, _)| root.write_if_missing(path, FILE_MODE, b""))?;
    if !configuration.multiarch.is_empty() {
        // multistrap writes this machine's architecture first, whatever the image's.
        let architectures = configuration.architectures(configuration.target_architecture());
        root.write("var/lib/dpkg/arch", FILE_MODE, (architectures.join("\n") + "\n").as_bytes())?;
    }
    if let Some(path) = &scripts.preferences {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        root.copy(path, &format!("etc/apt/preferences.d/{name}"), FILE_MODE)?;
    }
    if configuration.no_auth {
        return Ok(());
    }
    for name in configuration.keyrings() {
        let installed = lockfile.packages.iter().find(|package| package.name == name);
        let Some(package) = installed else { continue };
        for (name, content) in keyring::of_package(session, package)? {
            if !name.contains("removed") {
                root.write(&format!("etc/apt/trusted.gpg.d/{name}"), FILE_MODE, &content)?;
            }
        }
    }
    Ok(())
}

/// Writes the sources of these sections, and removes all others.
pub(super) fn write_sources<'a>(
    root: &Root,
    configuration: &Configuration,
    sections: impl Iterator<Item = &'a Section>,
) -> Result<()> {
    for name in root.files(SOURCES)? {
        if name.starts_with("multistrap-") && name.ends_with(".list") {
            root.remove(&format!("{SOURCES}/{name}"))?;
        }
    }
    root.remove("etc/apt/sources.list")?;
    for section in sections {
        let text = sources_of(configuration, section);
        if !text.is_empty() {
            root.write(&format!("{SOURCES}/multistrap-{}.list", section.name), FILE_MODE, text.as_bytes())?;
        }
    }
    Ok(())
}

/// A section's lines (sources.list(5)), as multistrap writes them.
fn sources_of(configuration: &Configuration, section: &Section) -> String {
    let mut text = String::new();
    let Some(source) = section.source.as_ref().filter(|_| section.is_repository()) else { return text };
    let own: Vec<String> = source
        .options
        .iter()
        .filter(|(name, _)| name != "arch")
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let options = |mut words: Vec<String>| {
        words.extend(own.iter().cloned());
        if words.is_empty() { String::new() } else { format!("[{}] ", words.join(" ")) }
    };
    let (uri, suite) = (&source.uri, section.suite_or_path().unwrap_or_default());
    let place =
        [&[uri.as_str(), suite], &section.components.iter().map(String::as_str).collect::<Vec<_>>()[..]];
    let place = place.concat().join(" ");
    let target = [configuration.target_architecture().to_owned()];
    let architectures =
        if configuration.multiarch.is_empty() { &target[..] } else { &configuration.multiarch };
    for architecture in architectures {
        let _ = writeln!(text, "deb {}{place}", options(vec![format!("arch={architecture}")]));
    }
    if !section.omit_deb_src {
        let _ = writeln!(text, "deb-src {}{place}", options(Vec::new()));
    }
    text
}

/// Writes apt's note of the packages that nobody asked for (`markauto`), which it removes when nothing
/// needs them any more: `extended_states` (apt-mark(8)).
pub(super) fn mark_automatic(root: &Root, configuration: &Configuration, lockfile: &Lockfile) -> Result<()> {
    let is_automatic = |package: &&LockedPackage| {
        !choice::is_additional(package) && package.stanza.get(lockfile::REASON) != Some("requested")
    };
    let mut text = String::new();
    for package in lockfile.packages.iter().filter(is_automatic) {
        let architecture = match package.architecture.as_str() {
            "all" => configuration.target_architecture(),
            architecture => architecture,
        };
        let _ =
            writeln!(text, "Package: {}\nArchitecture: {architecture}\nAuto-Installed: 1\n", package.name);
    }
    root.write("var/lib/apt/extended_states", FILE_MODE, text.as_bytes())
}

/// Writes the indexes where apt looks for them, so that it need not get them before it can be used.
pub(super) fn write_lists(root: &Root, cache: &Path, indexes: &[Index]) -> Result<()> {
    root.write(&format!("{LISTS}/lock"), 0o640, b"")?;
    for index in indexes {
        let folder = match index.suite.as_str() {
            "./" => String::new(),
            suite if suite.ends_with('/') => suite.to_owned(),
            suite => format!("dists/{suite}/"),
        };
        let name = |path: String| format!("{LISTS}/{}", list_name(&uri::join(&index.uri, &path)));
        let path = match index.component.is_empty() {
            true => "Packages".to_owned(),
            false => format!("{}/binary-{}/Packages", index.component, index.architecture),
        };
        // apt looks at no index whose release it has not got.
        let Some(release) = indexes::signed_release(cache, &index.uri, &index.suite) else { continue };
        root.write(&name(format!("{folder}InRelease")), FILE_MODE, &release)?;
        root.write(&name(format!("{folder}{path}")), FILE_MODE, &index.packages)?;
    }
    Ok(())
}

/// What apt calls the file that it got from a URI (`URItoFileName` in its strutl.cc).
fn list_name(uri: &str) -> String {
    let (_, rest) = uri.split_once(':').unwrap_or(("", uri));
    let mut name = String::new();
    for byte in rest.strip_prefix("//").unwrap_or(rest).bytes() {
        match byte {
            b'/' => name.push('_'),
            b'_' | b'\\' | b'|' | b'{' | b'}' | b'[' | b']' | b'<' | b'>' | b'"' | b'^' | b'~' | b'='
            | b'!' | b'@' | b'#' | b'$' | b'%' | b'*' | b'&' => {
                let _ = write!(name, "%{byte:02x}");
            }
            byte if byte <= b' ' || byte >= 0x7f => {
                let _ = write!(name, "%{byte:02x}");
            }
            byte => name.push(char::from(byte)),
        }
    }
    name
}

/// What apt calls a package that it keeps: with the whole version, its colon escaped.
pub(super) fn archive_name(package: &LockedPackage) -> String {
    let version = package.version.replace('%', "%25").replace(':', "%3a");
    format!("{}_{version}_{}.deb", package.name, package.architecture)
}

/// Removes what apt got: `cleanup`. Packages that are nowhere else, because they were not unpacked, stay.
pub(super) fn tidy(root: &Root, is_unpacked: bool) -> Result<()> {
    let debs = is_unpacked.then_some((ARCHIVES, ".deb"));
    for (folder, end) in debs.into_iter().chain([(LISTS, ""), ("var/cache/apt", ".bin")]) {
        for name in root.files(folder)?.iter().filter(|name| name.ends_with(end)) {
            root.remove(&format!("{folder}/{name}")).context("tidying up")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io, path::PathBuf};

    use super::*;
    use crate::{
        debian::deb822::Stanza, digest::Sha256, manifest::multistrap::Files, pipeline::multistrap::Scripts,
    };

    struct One(&'static str);

    impl Files for One {
        fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
            Ok(self.0.as_bytes().to_vec())
        }

        fn is_file(&self, _: &Path) -> bool {
            true
        }
    }

    fn configuration(text: &'static str) -> Configuration {
        let mut configuration = Configuration::read(Path::new("a"), &One(text)).expect("well-formed");
        configuration.set_architecture("armhf").expect("an architecture");
        configuration
    }

    #[test]
    fn names_of_lists_are_those_of_apt() {
        // As apt 2.6 called them in var/lib/apt/lists.
        for (uri, name) in [
            ("http://mirror.example/debian/dists/sid/InRelease", "mirror.example_debian_dists_sid_InRelease"),
            ("https://mirror.example:8080/a_b/x", "mirror.example:8080_a%5fb_x"),
            ("file:/srv/a/dists/x", "_srv_a_dists_x"),
            ("copy:///srv/a/./Packages", "_srv_a_._Packages"),
        ] {
            assert_eq!(list_name(uri), name, "{uri}");
        }
    }

    #[test]
    fn lines_of_sources() {
        for (text, expected) in [
            (
                "[d]\nsource=http://mirror.example/debian\nsuite=sid\n",
                "deb [arch=armhf] http://mirror.example/debian sid main\n\
                 deb-src http://mirror.example/debian sid main\n",
            ),
            (
                "[d]\nsource=[arch=x trusted=yes] copy:/srv/a ./\nomitdebsrc=true\n",
                "deb [arch=armhf trusted=yes] copy:/srv/a ./\n",
            ),
            (
                "[General]\nmultiarch=armhf arm64\n[d]\nsource=[signed-by=/k] http://mirror.example\nsuite=sid\n\
                 components=main contrib\n",
                "deb [arch=armhf signed-by=/k] http://mirror.example sid main contrib\n\
                 deb [arch=arm64 signed-by=/k] http://mirror.example sid main contrib\n\
                 deb-src [signed-by=/k] http://mirror.example sid main contrib\n",
            ),
            ("[d]\npackages=ab\n", ""),
        ] {
            let configuration = configuration(text);
            assert_eq!(sources_of(&configuration, &configuration.sections["d"]), expected, "{text}");
        }
    }

    fn package(name: &str, version: &str, architecture: &str, reason: &str) -> LockedPackage {
        let fields = vec![(lockfile::REASON.to_owned(), reason.to_owned())];
        LockedPackage {
            name: name.into(),
            version: version.into(),
            architecture: architecture.into(),
            filename: String::new(),
            size: 1,
            sha256: Sha256([0; 32]),
            repository: None,
            stanza: Stanza { fields },
        }
    }

    #[test]
    fn packages_have_apts_names() {
        for (version, name) in
            [("1:9.2p1-2+deb12u1", "a_1%3a9.2p1-2+deb12u1_armhf.deb"), ("2.0~rc1", "a_2.0~rc1_armhf.deb")]
        {
            assert_eq!(archive_name(&package("a", version, "armhf", "")), name);
        }
    }

    #[test]
    fn what_is_there_whatever_is_installed_and_what_is_tidied_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::make(folder.path()).expect("made");
        let configuration = configuration(
            "[General]\nmultiarch=arm64 armhf\nnoauth=true\nmarkauto=true\n[d]\nsource=http://mirror.example\nsuite=sid\n",
        );
        let packages = vec![
            package("asked", "1", "armhf", "requested"),
            package("needed", "1", "all", "depends of asked"),
            package("foreign", "1", "arm64", "depends of asked"),
        ];
        let lockfile = Lockfile { packages, request: None };
        let preferences = folder.path().join("pins");
        std::fs::write(&preferences, "Package: a\n").expect("written");
        let scripts = Scripts { preferences: Some(preferences), ..Scripts::default() };
        let (stop, reporter) = (std::sync::atomic::AtomicBool::new(false), crate::report::Silent);
        let session = Session {
            repo: PathBuf::new(),
            cache: PathBuf::new(),
            state: PathBuf::new(),
            offline: true,
            keep_debs: None,
            debug: false,
            reporter: &reporter,
            stop: &stop,
        };
        std::fs::create_dir_all(folder.path().join("etc")).expect("a folder");
        std::fs::write(folder.path().join("etc/shells"), "/bin/sh\n").expect("written");
        prepare(&root, &session, &configuration, &scripts, &lockfile).expect("prepared");
        let read =
            |path: &str| String::from_utf8(root.read(path).expect("read").expect(path)).expect("UTF-8");
        assert_eq!(read("var/lib/dpkg/arch"), "armhf\narm64\n", "its own comes first");
        assert_eq!(read("etc/apt/preferences.d/pins"), "Package: a\n");
        assert_eq!((read("etc/shells").as_str(), read("usr/share/info/dir").as_str()), ("/bin/sh\n", ""));

        mark_automatic(&root, &configuration, &lockfile).expect("written");
        assert_eq!(
            read("var/lib/apt/extended_states"),
            "Package: needed\nArchitecture: armhf\nAuto-Installed: 1\n\n\
             Package: foreign\nArchitecture: arm64\nAuto-Installed: 1\n\n"
        );
        for path in [
            "etc/apt/sources.list",
            "etc/apt/sources.list.d/multistrap-gone.list",
            "etc/apt/sources.list.d/own.list",
        ] {
            root.write(path, FILE_MODE, b"x").expect("written");
        }
        write_sources(&root, &configuration, configuration.sections.values()).expect("written");
        assert_eq!(root.files(SOURCES).expect("listed"), ["multistrap-d.list", "own.list"]);
        assert!(!root.has("etc/apt/sources.list").expect("looked"));

        for path in
            ["var/cache/apt/archives/a_1_all.deb", "var/lib/apt/lists/x", "var/cache/apt/pkgcache.bin"]
        {
            root.write(path, FILE_MODE, b"x").expect("written");
        }
        tidy(&root, false).expect("tidied");
        assert_eq!(root.files(ARCHIVES).expect("listed"), ["a_1_all.deb"], "it is nowhere else");
        tidy(&root, true).expect("tidied");
        for folder in [ARCHIVES, LISTS, "var/cache/apt"] {
            assert_eq!(root.files(folder).expect("listed"), [""; 0], "{folder}");
        }
    }
}
