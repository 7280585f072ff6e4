//! `multistrap.conf`: the configuration of multistrap(1) 2.2, read as multistrap reads it.
//!
//! | file | what it does |
//! |---|---|
//! | `ini` | text → sections, keys, values |
//! | `cascade` | a file with those that it includes → [`Configuration`] |
//! | `section` | one section, and what `source` says |
//! | `preferences` | the file that `aptpreferences` names → pins |
//! | `request` | [`Configuration`] → what to install, and from where |
//!
//! Nothing is opened here: who reads a configuration brings the way to its files ([`Files`]). What
//! multistrap does with keys that it does not know, or reads otherwise than anybody would expect, is a
//! warning with file and line; docs/from-multistrap.md has them all.

mod cascade;
mod ini;
mod preferences;
mod request;
mod section;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, path::PathBuf};

pub use self::{
    preferences::parse as parse_preferences,
    request::command_line,
    section::{Section, Source},
};

/// Where multistrap looks for what `-s NAME` names; the last that is there counts.
pub const SHORTCUT_FOLDERS: [&str; 2] = ["/usr/share/multistrap", "/etc/multistrap.d"];

/// The way to configuration files.
pub trait Files {
    /// The content of a file.
    fn read(&self, path: &std::path::Path) -> io::Result<Vec<u8>>;
    /// Whether a path names a file.
    fn is_file(&self, path: &std::path::Path) -> bool;
}

/// What a configuration and the files that it includes say together.
///
/// Where several files say something about one thing, the most specific one counts: that which was named,
/// then those that it includes in their order. Lists, and switches that are on in one of the files, add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The file.
    pub path: PathBuf,
    /// The files that it includes, directly or not, in the order in which they were read.
    pub included: Vec<PathBuf>,
    /// `arch`, Debian's name of it. None, or empty: the host's.
    pub architecture: Option<String>,
    /// `directory`.
    pub directory: Option<PathBuf>,
    /// `multiarch`: the architectures whose packages may be installed, the image's own among them;
    /// empty: that one alone.
    pub multiarch: Vec<String>,
    /// `bootstrap` and `debootstrap`: names of sections that packages come from; sorted.
    pub bootstrap: Vec<String>,
    /// `aptsources`: names of sections that are apt's sources in the image; sorted.
    pub apt_sources: Vec<String>,
    /// The sections by their names, which are in lower case.
    pub sections: BTreeMap<String, Section>,
    /// `unpack` and `forceunpack`: whether packages are more than downloaded.
    pub unpack: bool,
    /// `noauth`: whether no signature is checked.
    pub no_auth: bool,
    /// `cleanup`: whether packages and indexes do not stay in the image.
    pub cleanup: bool,
    /// `explicitsuite`: whether a section's packages must come from its suite.
    pub explicit_suite: bool,
    /// `allowrecommends`.
    pub recommends: bool,
    /// `omitrequired`: whether packages of priority required are not added.
    pub omit_required: bool,
    /// `addimportant`: whether packages of priority important are added.
    pub add_important: bool,
    /// `omitpreinst`: whether preinst scripts do not run.
    pub omit_preinst: bool,
    /// `ignorenativearch`: whether nothing is configured.
    pub ignore_native: bool,
    /// `markauto`: whether apt is told which packages nobody asked for.
    pub mark_auto: bool,
    /// `aptdefaultrelease`: apt's `APT::Default-Release`; `*` where nothing is said, none where nothing
    /// is said explicitly.
    pub default_release: Option<String>,
    /// `aptpreferences`: the first that is a file counts.
    pub preferences: Vec<Named>,
    /// `setupscript`: the first that can be executed counts.
    pub setup_script: Vec<Named>,
    /// `configscript`: the first that can be executed counts.
    pub config_script: Vec<Named>,
    /// `tarballname`.
    pub tarball: Option<PathBuf>,
    /// `hookdir`: folders of hooks.
    pub hook_folders: Vec<Named>,
    /// `debconfseed`: files of answers to packages' questions.
    pub seeds: Vec<Named>,
    /// `retainsources`: the last that is a folder counts.
    pub retain_sources: Vec<Named>,
    /// `reinstall` of all sections: packages that are installed once more at the end; sorted.
    pub reinstall: Vec<String>,
    /// `additional` of all sections: packages of a second round; sorted.
    pub additional: Vec<String>,
    /// What is to be said about it, with file and line.
    pub warnings: Vec<String>,
}

/// A file that a configuration names, relative to the working folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its path.
    pub path: PathBuf,
    /// Where it is named: `FILE:LINE: KEY`.
    pub place: String,
}
