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

    /// The pins of `aptpreferences`.
    pub(super) fn pins(&self) -> Result<Vec<Pin>> {
        let Some(path) = &self.preferences else { return Ok(Vec::new()) };
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

/// Whether the caller may execute a file.
fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}
