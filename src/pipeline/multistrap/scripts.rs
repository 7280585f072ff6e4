//! The files that a configuration names: scripts and hooks, answers for debconf, pins.
//!
//! They are looked for as multistrap looks for them, relative to the working folder. It passes over what is
//! not there, or cannot be executed, without a word; here that is a warning.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

use crate::{
    Context, Result,
    artefacts::Pin,
    manifest::multistrap::{Configuration, Named, parse_preferences},
};

/// What a configuration names, as it is on this machine. All paths are whole and without links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scripts {
    /// `aptpreferences`: the file's path.
    pub preferences: Option<PathBuf>,
    /// `debconfseed`.
    pub seeds: Vec<PathBuf>,
    /// `setupscript`.
    pub setup: Option<PathBuf>,
    /// `configscript`.
    pub config: Option<PathBuf>,
    /// Hooks that run when all is unpacked: `download*` of `hookdir`, sorted.
    pub download: Vec<PathBuf>,
    /// Hooks that run before and after packages are configured: `native*`.
    pub native: Vec<PathBuf>,
    /// Hooks that run at the end: `completion*`.
    pub completion: Vec<PathBuf>,
    /// `retainsources`, or `--source-dir`.
    pub retain_sources: Option<PathBuf>,
    /// What was passed over, with file and line.
    pub warnings: Vec<String>,
}

impl Scripts {
    /// Looks for them. `source_folder` is `--source-dir`, which goes before what the configuration says.
    pub fn find(configuration: &Configuration, source_folder: Option<&Path>) -> Self {
        let mut scripts = Scripts::default();
        let mut warnings = Vec::new();
        let is_file = |path: &Path| path.is_file();
        scripts.preferences = first(&configuration.preferences, is_file, "is no file", &mut warnings);
        if let Some(path) = scripts.preferences.as_ref().filter(|path| !is_read_by_apt(path)) {
            warnings.push(format!(
                "{}: apt reads no preferences from a file of this name, and so they do not count: name it NAME.pref",
                path.display()
            ));
        }
        scripts.setup = first(&configuration.setup_script, is_program, "cannot be executed", &mut warnings);
        scripts.config = first(&configuration.config_script, is_program, "cannot be executed", &mut warnings);
        for seed in &configuration.seeds {
            scripts.seeds.extend(first(std::slice::from_ref(seed), is_file, "is no file", &mut warnings));
        }
        for folder in &configuration.hook_folders {
            scripts.hooks_of(folder, &mut warnings);
        }
        for hooks in [&mut scripts.download, &mut scripts.native, &mut scripts.completion] {
            hooks.sort();
        }
        // The last that is there counts.
        let named: Vec<Named> = configuration.retain_sources.iter().rev().cloned().collect();
        let option =
            source_folder.map(|path| Named { path: path.to_owned(), place: "--source-dir".to_owned() });
        let folders: Vec<Named> = option.into_iter().chain(named).collect();
        scripts.retain_sources =
            first(&folders, Path::is_dir, "is no folder: nothing is retained", &mut warnings);
        scripts.warnings = warnings;
        scripts
    }

    fn hooks_of(&mut self, folder: &Named, warnings: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(&folder.path) else {
            warnings.push(format!(
                "{}: {} is no folder that can be read",
                folder.place,
                folder.path.display()
            ));
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = [
                ("download", &mut self.download),
                ("native", &mut self.native),
                ("completion", &mut self.completion),
            ];
            let Some((_, hooks)) = kind.into_iter().find(|(prefix, _)| name.starts_with(prefix)) else {
                continue;
            };
            match fs::canonicalize(entry.path()).ok().filter(|path| is_program(path)) {
                Some(path) => hooks.push(path),
                None => {
                    let path = entry.path();
                    warnings.push(format!(
                        "{}: {} cannot be executed: passed over",
                        folder.place,
                        path.display()
                    ));
                }
            }
        }
    }

    /// The pins of `aptpreferences`: those that apt would read in the image.
    pub(super) fn pins(&self) -> Result<Vec<Pin>> {
        let Some(path) = self.preferences.as_ref().filter(|path| is_read_by_apt(path)) else {
            return Ok(Vec::new());
        };
        let name = path.display().to_string();
        let bytes = fs::read(path).with_context(|| format!("reading {name}"))?;
        parse_preferences(&String::from_utf8_lossy(&bytes), &name)
    }
}

/// The first that fits; says of those before it that they do not.
fn first(
    named: &[Named],
    fits: impl Fn(&Path) -> bool,
    what: &str,
    warnings: &mut Vec<String>,
) -> Option<PathBuf> {
    for named in named {
        match fs::canonicalize(&named.path).ok().filter(|path| fits(path)) {
            Some(path) => return Some(path),
            None => warnings.push(format!("{}: {} {what}", named.place, named.path.display())),
        }
    }
    None
}

/// Whether apt reads a file of this name in preferences.d: letters, digits, `_`, `-` and `.`, with the
/// extension `pref` or none (apt_preferences(5)).
fn is_read_by_apt(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    plain && name.rsplit_once('.').is_none_or(|(_, extension)| extension == "pref")
}

/// Whether the caller may execute a file.
fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::manifest::multistrap::Files;

    struct Host(String);

    impl Files for Host {
        fn read(&self, _: &Path) -> std::io::Result<Vec<u8>> {
            Ok(self.0.as_bytes().to_vec())
        }

        fn is_file(&self, _: &Path) -> bool {
            true
        }
    }

    #[test]
    fn names_of_preferences() {
        for (name, is_read) in
            [("pins", true), ("50-pins.pref", true), ("pins.conf", false), ("pins~", false), ("a b", false)]
        {
            assert_eq!(is_read_by_apt(&Path::new("/etc").join(name)), is_read, "{name}");
        }
    }

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = fs::canonicalize(folder.path()).expect("a folder");
        let write = |name: &str, mode: u32| {
            let path = here.join(name);
            fs::create_dir_all(path.parent().expect("below")).expect("a folder");
            fs::write(&path, "Package: a\nPin: release n=sid\nPin-Priority: 1\n").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        };
        for (name, mode) in [
            ("hooks/native-b", 0o755),
            ("hooks/native-a", 0o755),
            ("hooks/download", 0o755),
            ("hooks/completion.txt", 0o644),
            ("hooks/other", 0o755),
            ("setup", 0o755),
            ("config", 0o644),
            ("pins", 0o644),
            ("seed", 0o644),
        ] {
            write(name, mode);
        }
        fs::create_dir(here.join("sources")).expect("a folder");
        std::os::unix::fs::symlink("hooks/other", here.join("link")).expect("a link");
        let at = |name: &str| here.join(name).display().to_string();
        let text = format!(
            "[General]\nhookdir={} {}\nsetupscript={}\nconfigscript={}\naptpreferences={}\ndebconfseed={} {}\nretainsources={}\n",
            at("hooks"),
            at("gone"),
            at("link"),
            at("config"),
            at("pins"),
            at("seed"),
            at("nothing"),
            at("sources"),
        );
        let configuration = Configuration::read(Path::new("a"), &Host(text)).expect("well-formed");
        let scripts = Scripts::find(&configuration, Some(&here.join("no-folder")));
        assert_eq!(scripts.native, [here.join("hooks/native-a"), here.join("hooks/native-b")]);
        assert_eq!(scripts.download, [here.join("hooks/download")]);
        assert!(scripts.completion.is_empty() && scripts.config.is_none());
        assert_eq!(scripts.setup, Some(here.join("hooks/other")), "links are followed");
        assert_eq!(
            (scripts.seeds.as_slice(), &scripts.retain_sources),
            (&[here.join("seed")][..], &Some(here.join("sources")))
        );
        assert_eq!(scripts.pins().expect("well-formed")[0].priority, 1);
        let told = [
            "config cannot be executed",
            "nothing is no file",
            "gone is no folder",
            "completion.txt cannot be executed",
            "no-folder is no folder",
        ];
        for what in told {
            assert!(
                scripts.warnings.iter().any(|warning| warning.contains(what)),
                "{what}: {:?}",
                scripts.warnings
            );
        }
        assert_eq!(scripts.warnings.len(), told.len());
        assert!(scripts.warnings.iter().any(|warning| warning.starts_with("a:4: configscript: ")));
    }
}
