//! A configuration file and those that it includes, put together.

use std::{
    collections::{HashMap, VecDeque},
    path::{Component, Path, PathBuf},
};

use super::{
    Configuration, Files, Named,
    ini::{self, Entry},
    section::{Section, Source, Switch},
};
use crate::{
    Context, Error, Result,
    manifest::{did_you_mean, package::check_architecture},
};

/// The keys of `[General]`.
const GENERAL_KEYS: &[&str] = &[
    "arch",
    "directory",
    "bootstrap",
    "debootstrap",
    "aptsources",
    "include",
    "unpack",
    "forceunpack",
    "noauth",
    "cleanup",
    "explicitsuite",
    "aptdefaultrelease",
    "aptpreferences",
    "allowrecommends",
    "omitrequired",
    "addimportant",
    "omitpreinst",
    "ignorenativearch",
    "multiarch",
    "markauto",
    "setupscript",
    "configscript",
    "hookdir",
    "debconfseed",
    "retainsources",
    "tarballname",
];

/// The keys of any other section.
const SECTION_KEYS: &[&str] = &[
    "packages",
    "source",
    "suite",
    "components",
    "keyring",
    "architecture",
    "omitdebsrc",
    "reinstall",
    "additional",
];

/// Keys whose value is a list, so that they may come again. Of multistrap's own only `packages` may; the
/// others become nonsense there.
const LISTS: &[&str] = &[
    "packages",
    "bootstrap",
    "debootstrap",
    "aptsources",
    "include",
    "multiarch",
    "hookdir",
    "debconfseed",
    "reinstall",
    "additional",
];

/// More files than anybody includes.
const MOST_FILES: usize = 64;

impl Configuration {
    /// Reads the file at `path`, and what it includes.
    ///
    /// # Errors
    /// `Kind::Input` if a file is missing or malformed, includes itself by any way, or asks for what
    /// cannot be.
    pub fn read(path: &Path, files: &dyn Files) -> Result<Self> {
        let mut reader = Reader::new(path);
        let mut queue = VecDeque::from([(path.to_owned(), Vec::<PathBuf>::new())]);
        let mut read: Vec<PathBuf> = Vec::new();
        while let Some((file, chain)) = queue.pop_front() {
            if read.contains(&plain(&file)) {
                continue; // two files may include the same third
            }
            if read.len() == MOST_FILES {
                return Err(Error::input(format!("{}: it includes too many files", path.display())));
            }
            read.push(plain(&file));
            if !chain.is_empty() {
                reader.configuration.included.push(file.clone());
            }
            let includes = reader.file(&file, files)?;
            let chain = [chain, vec![file.clone()]].concat();
            for (name, place) in includes {
                let found = find(&name, &file, path, files).ok_or_else(|| {
                    Error::input(format!("{place}: there is no file {name:?}"))
                        .hint("name it by its full path, or relative to the working folder or to this file")
                })?;
                if chain.iter().any(|above| plain(above) == plain(&found)) {
                    let message = format!("{place}: {} includes itself", found.display());
                    return Err(Error::input(message).hint("remove one of the include= lines"));
                }
                queue.push_back((found, chain.clone()));
            }
        }
        reader.finish()
    }
}

/// A path without `.`: enough to tell whether two lines name one file in one way.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|component| *component != Component::CurDir).collect()
}

/// The file that `include` names: relative to the working folder, beside the file that includes it, beside
/// the first file (multistrap looks at the first and the last of these places).
fn find(name: &str, includer: &Path, first: &Path, files: &dyn Files) -> Option<PathBuf> {
    let beside = |file: &Path| file.parent().unwrap_or(Path::new("")).join(name);
    let places = [PathBuf::from(name), beside(includer), beside(first)];
    places.into_iter().find(|path| files.is_file(path))
}

struct Reader {
    configuration: Configuration,
}

impl Reader {
    fn new(path: &Path) -> Self {
        let configuration = Configuration {
            path: path.to_owned(),
            included: Vec::new(),
            architecture: None,
            directory: None,
            multiarch: Vec::new(),
            bootstrap: Vec::new(),
            apt_sources: Vec::new(),
            sections: Default::default(),
            unpack: true,
            no_auth: false,
            cleanup: false,
            explicit_suite: false,
            recommends: false,
            omit_required: false,
            add_important: false,
            omit_preinst: false,
            ignore_native: false,
            mark_auto: false,
            default_release: Some("*".to_owned()),
            preferences: Vec::new(),
            setup_script: Vec::new(),
            config_script: Vec::new(),
            tarball: None,
            hook_folders: Vec::new(),
            seeds: Vec::new(),
            retain_sources: Vec::new(),
            reinstall: Vec::new(),
            additional: Vec::new(),
            warnings: Vec::new(),
        };
        Reader { configuration }
    }

    fn warn(&mut self, message: String) {
        self.configuration.warnings.push(message);
    }

    /// Takes one file; gives the files that it includes, each with the place where it does.
    fn file(&mut self, path: &Path, files: &dyn Files) -> Result<Vec<(String, String)>> {
        let shown = path.display().to_string();
        let bytes = files.read(path).map_err(Error::from);
        let bytes = bytes.with_context(|| format!("cannot read the configuration {shown}"))?;
        let sections = ini::parse(&String::from_utf8_lossy(&bytes)).map_err(|malformed| {
            Error::input(format!("{shown}:{}: {}", malformed.line, malformed.message))
                .hint("correct the line; multistrap reads no file with such a line either")
        })?;
        let mut includes = Vec::new();
        let mut lines: HashMap<(String, String), usize> = HashMap::new();
        let mut replaced: Vec<(String, &'static str)> = Vec::new();
        for section in sections {
            let is_general = section.name == "general";
            if !is_general {
                let place = format!("{shown}:{}", section.line);
                self.section(&section.name, place)?;
            }
            let known = if is_general { GENERAL_KEYS } else { SECTION_KEYS };
            for entry in &section.entries {
                let place = format!("{shown}:{}", entry.line);
                let Some(&key) = known.iter().find(|known| **known == entry.key) else {
                    let hint = did_you_mean(&entry.key, known, "its keys");
                    let section = &section.name;
                    self.warn(format!(
                        "{place}: [{section}] has no key {:?}: ignored, as by multistrap; {hint}",
                        entry.key
                    ));
                    continue;
                };
                let first = lines.insert((section.name.clone(), key.to_owned()), entry.line);
                if let Some(first) = first.filter(|_| !LISTS.contains(&key)) {
                    let message = format!("{place}: {key} is there already, in line {first}");
                    return Err(Error::input(message).hint("keep one of the two lines"));
                }
                if is_general {
                    includes.extend(self.general(key, entry, &place)?);
                } else {
                    self.of_section(&section.name, key, entry, &place, &mut replaced)?;
                }
            }
        }
        Ok(includes)
    }

    /// A switch, with a warning where multistrap reads it otherwise.
    fn switch(&mut self, key: &str, entry: &Entry, place: &str, exact: bool, default: bool) -> bool {
        let switch = Switch::parse(entry, exact, default);
        let value = entry.value();
        if let Some(there) = switch.elsewhere {
            self.warn(format!(
                "{place}: multistrap reads {key}={value} as {there}, by accident; here it is {}",
                switch.on
            ));
        } else if !Switch::is_word(entry) {
            self.warn(format!("{place}: {key}={value} is neither true nor false: it counts as false"));
        }
        switch.on
    }

    /// Takes a key of `[General]`.
    fn general(&mut self, key: &str, entry: &Entry, place: &str) -> Result<Vec<(String, String)>> {
        let value = entry.value();
        let words = || value.split_whitespace().map(str::to_owned);
        let lower = || value.to_lowercase().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let named = |path: &str| Named { path: path.into(), place: format!("{place}: {key}") };
        let whole = || (!value.is_empty()).then(|| named(value));
        let exact = !matches!(key, "markauto" | "omitrequired" | "addimportant" | "ignorenativearch");
        match key {
            "unpack" => self.configuration.unpack &= self.switch(key, entry, place, true, true),
            "forceunpack" => self.configuration.unpack &= self.switch(key, entry, place, false, true),
            "noauth" | "cleanup" | "explicitsuite" | "allowrecommends" | "omitrequired" | "addimportant"
            | "omitpreinst" | "ignorenativearch" | "markauto" => {
                let on = self.switch(key, entry, place, exact, false);
                let configuration = &mut self.configuration;
                let switch = match key {
                    "noauth" => &mut configuration.no_auth,
                    "cleanup" => &mut configuration.cleanup,
                    "explicitsuite" => &mut configuration.explicit_suite,
                    "allowrecommends" => &mut configuration.recommends,
                    "omitrequired" => &mut configuration.omit_required,
                    "addimportant" => &mut configuration.add_important,
                    "omitpreinst" => &mut configuration.omit_preinst,
                    "ignorenativearch" => &mut configuration.ignore_native,
                    _ => &mut configuration.mark_auto,
                };
                *switch |= on;
            }
            "include" => return Ok(words().map(|name| (name, place.to_owned())).collect()),
            "arch" => _ = self.configuration.architecture.get_or_insert_with(|| value.to_owned()),
            "directory" if !value.is_empty() => {
                self.configuration.directory.get_or_insert_with(|| value.into());
            }
            "tarballname" if !value.is_empty() => {
                self.configuration.tarball.get_or_insert_with(|| value.into());
            }
            "aptdefaultrelease" => {
                self.configuration.default_release = (!value.is_empty()).then(|| value.to_owned());
            }
            "bootstrap" | "debootstrap" => self.configuration.bootstrap.extend(lower()),
            "aptsources" => self.configuration.apt_sources.extend(lower()),
            "multiarch" => self.configuration.multiarch.extend(words()),
            "aptpreferences" => self.configuration.preferences.extend(whole()),
            "setupscript" => self.configuration.setup_script.extend(whole()),
            "configscript" => self.configuration.config_script.extend(whole()),
            // "false" is what multistrap's own example has, and no folder is called that.
            "retainsources" if value != "false" => self.configuration.retain_sources.extend(whole()),
            "hookdir" => self.configuration.hook_folders.extend(value.split_whitespace().map(named)),
            "debconfseed" => self.configuration.seeds.extend(value.split_whitespace().map(named)),
            _ => {} // an empty value
        }
        Ok(Vec::new())
    }

    /// Makes sure that there is a section of this name.
    fn section(&mut self, name: &str, place: String) -> Result<()> {
        // It becomes the name of a file in sources.list.d, of which apt reads no others.
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !name.chars().all(fits) {
            let message = format!("{place}: {name:?} cannot name a section");
            return Err(Error::input(message).hint("use letters, digits, '-', '_' and '.'"));
        }
        let section = self.configuration.sections.entry(name.to_owned()).or_default();
        if section.place.is_empty() {
            (section.name, section.place) = (name.to_owned(), place);
        }
        Ok(())
    }

    /// Takes a key of a section of packages. `replaced`: lists that this file has taken over from another
    /// already.
    fn of_section(
        &mut self,
        name: &str,
        key: &'static str,
        entry: &Entry,
        place: &str,
        replaced: &mut Vec<(String, &'static str)>,
    ) -> Result<()> {
        let value = entry.value();
        let words = || value.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        match key {
            "omitdebsrc" => {
                let on = self.switch(key, entry, place, true, false);
                self.of_name(name).omit_deb_src |= on;
                return Ok(());
            }
            "reinstall" => {
                self.of_name(name).reinstall.extend(words());
                return Ok(());
            }
            "additional" => {
                self.of_name(name).additional.extend(words());
                return Ok(());
            }
            _ if value.is_empty() => return Ok(()),
            _ => {}
        }
        // multistrap lets the more specific file win for these, and the more general one for the others,
        // although its manual asks for names that come once.
        let specific_wins = matches!(key, "suite" | "components" | "keyring");
        let section = self.of_name(name);
        let mine = (name.to_owned(), key);
        let other = section.places.iter().find(|(k, _)| *k == key).map(|(_, place)| place.clone());
        if let Some(other) = other.filter(|_| !replaced.contains(&mine)) {
            let (wins, loses) = if specific_wins { (other.as_str(), place) } else { (place, other.as_str()) };
            let message = format!(
                "{loses}: {key} of [{name}] is in {wins}, too, which counts, as with multistrap; a section's name \
                 should come once"
            );
            self.warn(message);
            if specific_wins {
                return Ok(());
            }
            let section = self.of_name(name);
            section.places.retain(|(k, _)| *k != key);
            if key == "packages" {
                section.packages.clear();
            }
        }
        replaced.push(mine);
        let section = self.of_name(name);
        section.places.push((key, place.to_owned()));
        match key {
            "packages" => section.packages.extend(words()),
            "architecture" => section.architecture = Some(value.to_owned()),
            "keyring" => section.keyring = Some(value.to_owned()),
            "components" => section.components.extend(words()),
            // Its words are pasted into a line of sources.list, where components come after the suite.
            "suite" => {
                let mut words = words();
                section.suite = Some(words.remove(0));
                section.components.splice(0..0, words);
            }
            _ => {
                let source = Source::parse(value);
                section.source = Some(source.map_err(|message| {
                    Error::input(format!("{place}: source={value}: {message}"))
                        .hint("such as source=http://mirror.example/debian")
                })?);
            }
        }
        Ok(())
    }

    fn of_name(&mut self, name: &str) -> &mut Section {
        self.configuration.sections.entry(name.to_owned()).or_default()
    }

    /// Sorts the lists, and looks at what several lines say together.
    fn finish(mut self) -> Result<Configuration> {
        let configuration = &mut self.configuration;
        let path = configuration.path.display().to_string();
        for section in configuration.sections.values_mut() {
            let has_components = section.places.iter().any(|(key, _)| *key == "components");
            let is_flat = section.source.as_ref().is_some_and(|source| source.flat.is_some());
            if is_flat {
                section.components.clear();
                section.suite = None;
            } else if !has_components {
                section.components.push("main".to_owned());
            }
            configuration.reinstall.append(&mut section.reinstall.clone());
            configuration.additional.append(&mut section.additional.clone());
        }
        for list in [
            &mut configuration.bootstrap,
            &mut configuration.apt_sources,
            &mut configuration.reinstall,
            &mut configuration.additional,
        ] {
            list.sort();
            list.dedup();
        }
        let mut seen = Vec::new();
        configuration.multiarch.retain(|name| !seen.contains(name) && (seen.push(name.clone()), true).1);
        if configuration.omit_required && configuration.add_important {
            let message =
                format!("{path}: addimportant and omitrequired are both true, here or in an included file");
            return Err(Error::input(message).hint("remove one of the two"));
        }
        self.check_architectures()?;
        self.check_lists(&path);
        Ok(self.configuration)
    }

    fn check_architectures(&self) -> Result<()> {
        let configuration = &self.configuration;
        let path = configuration.path.display();
        let own = configuration.architecture.iter().filter(|name| !name.is_empty());
        for name in own.chain(&configuration.multiarch) {
            check_architecture(name).map_err(|hint| {
                Error::input(format!("{path}: {name:?} is no architecture of Debian")).hint(hint)
            })?;
        }
        for section in configuration.sections.values() {
            let Some(name) = &section.architecture else { continue };
            if !configuration.multiarch.contains(name) {
                let message = format!(
                    "{}: [{}] wants packages of {name}, which multiarch does not have",
                    section.place, section.name
                );
                return Err(Error::input(message).hint(format!("add {name} to multiarch= in [General]")));
            }
        }
        Ok(())
    }

    /// Says which sections are asked for and not there, or there and not asked for.
    fn check_lists(&mut self, path: &str) {
        let configuration = &self.configuration;
        let mut warnings = Vec::new();
        for (key, list) in
            [("bootstrap", &configuration.bootstrap), ("aptsources", &configuration.apt_sources)]
        {
            let missing = list.iter().filter(|name| !configuration.sections.contains_key(*name));
            warnings.extend(missing.map(|name| format!("{path}: {key} names [{name}], which is not there")));
        }
        for section in configuration.sections.values() {
            let name = &section.name;
            if !configuration.bootstrap.contains(name) && !configuration.apt_sources.contains(name) {
                warnings.push(format!(
                    "{}: neither bootstrap nor aptsources names [{name}]: its packages and its repository are not used",
                    section.place
                ));
            }
        }
        self.configuration.warnings.append(&mut warnings);
    }
}
