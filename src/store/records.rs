//! What commits say of themselves: the values of their metadata, as JSON by key.
//!
//! `ostree show --print-metadata-key=treestrap.packages COMMIT` prints them. A commit whose
//! [`FORMAT_KEY`] is newer than [`FORMAT`] is not understood and is made again; raise [`FORMAT`] when
//! a record changes its meaning, or when the same deb would give another tree.

use serde::{Deserialize, Serialize};

use super::Store;
use crate::{
    artefacts::{HeldFile, UnpackedPackage},
    digest::Sha256,
    error::{Error, Result},
};

/// The version of everything in this file.
pub const FORMAT: u32 = 3;
/// A commit's [`FORMAT`].
pub const FORMAT_KEY: &str = "treestrap.format";
/// A deb's commit: its [`PackageRecord`].
pub const PACKAGE_KEY: &str = "treestrap.package";
/// An image's commit: its [`ImageRecord`].
pub const IMAGE_KEY: &str = "treestrap.image";
/// An image's commit: its packages, a list of [`UnpackedPackage`].
pub const PACKAGES_KEY: &str = "treestrap.packages";
/// An image's unpacked commit: files that are not at their places yet, a list of [`HeldFile`].
pub const HELD_KEY: &str = "treestrap.held";
/// An image's commit: groups of paths that are hard links of one file.
pub const HARD_LINKS_KEY: &str = "treestrap.hard-links";

/// What compose has to know of a deb, so that it need not open any of its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRecord {
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// The deb's SHA-256.
    pub deb: Sha256,
    /// What its files in `var/lib/dpkg/info` begin with: `name`, or `name:architecture`.
    pub info_name: String,
    /// The control stanza, as in the deb.
    pub control: String,
    /// What its control member lists as configuration files, in order.
    pub conffiles: Vec<Conffile>,
    /// The lines of its `triggers` control file.
    pub triggers: String,
    /// Its maintainer scripts: `preinst`, `postinst`, …; sorted.
    pub scripts: Vec<String>,
    /// If its preinst says `dpkg-divert`: which of its files and links the preinst names, too.
    pub diverts: Option<Vec<String>>,
    /// The text of its `.list` file.
    pub list: String,
    /// The text of its `.md5sums` file if that was made as dpkg makes it, because the deb has none.
    pub made_md5sums: Option<String>,
    /// Symbolic links: path and target.
    pub symlinks: Vec<(String, String)>,
    /// Groups of paths that are hard links of one file.
    pub hard_links: Vec<Vec<String>>,
    /// The date of its changelog's newest entry, in seconds since 1970; 0 without one.
    pub newest: u64,
    /// Bytes in its files.
    pub bytes: u64,
}

/// A configuration file of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conffile {
    /// The path, without a leading slash.
    pub path: String,
    /// Whether it is marked `remove-on-upgrade`, and so not in the deb.
    pub remove_on_upgrade: bool,
}

/// What an image's commit is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The image's architecture.
    pub architecture: String,
    /// The digest of what it was composed from: it says whether it has to be composed again. Of a finished
    /// tree, the commit that was composed.
    pub source: Sha256,
    /// Of a finished tree that continues from another one, that one's commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Sha256>,
}

impl Store {
    /// The record of a deb's commit; none if it is of another format than ours.
    ///
    /// # Errors
    /// If there is no such commit, or it has no readable record.
    pub fn package_record(&self, commit: Sha256) -> Result<Option<PackageRecord>> {
        self.own_commit_value(commit, PACKAGE_KEY)
    }

    /// The record of an image's commit; none if it is of another format than ours.
    ///
    /// # Errors
    /// As [`Store::package_record`].
    pub fn image_record(&self, commit: Sha256) -> Result<Option<ImageRecord>> {
        self.own_commit_value(commit, IMAGE_KEY)
    }

    /// The packages of an image's commit, in the lock's order.
    ///
    /// # Errors
    /// If there is no such commit, or it is not one that compose or commit wrote.
    pub fn list_packages(&self, commit: Sha256) -> Result<Vec<UnpackedPackage>> {
        self.commit_value(commit, PACKAGES_KEY)?.ok_or_else(|| {
            Error::input(format!("commit {commit} has no list of packages: treestrap did not make it"))
        })
    }

    /// The files of an image's unpacked commit that are not at their places yet.
    ///
    /// # Errors
    /// If there is no such commit.
    pub fn held_files(&self, commit: Sha256) -> Result<Vec<HeldFile>> {
        Ok(self.commit_value(commit, HELD_KEY)?.unwrap_or_default())
    }

    /// The groups of hard links of an image's commit; each group and the groups are sorted.
    ///
    /// # Errors
    /// If there is no such commit.
    pub fn hard_links(&self, commit: Sha256) -> Result<Vec<Vec<String>>> {
        Ok(self.commit_value(commit, HARD_LINKS_KEY)?.unwrap_or_default())
    }
}

/// The ref of a deb's commit.
pub fn pool_reference(deb: Sha256) -> String {
    let digits = deb.to_string();
    format!("deb/pool/{}/{}", &digits[..2], &digits[2..])
}

/// The ref of an image's composed tree.
pub fn unpacked_reference(image: &str) -> String {
    format!("deb/images/{image}/unpacked")
}

/// The ref of an image's finished tree.
pub fn configured_reference(image: &str) -> String {
    format!("deb/images/{image}/configured")
}

/// The ref under which a finished tree is found again by the digest of all that determined it, whichever
/// image it is.
pub fn memory_reference(inputs: Sha256) -> String {
    format!("{MEMORY}{inputs}")
}

/// What the refs of finished trees by their inputs begin with.
pub const MEMORY: &str = "deb/memory/";

/// The ref of a stage of an image that another system made.
pub fn imported_reference(image: &str, stage: &str) -> String {
    format!("deb/imported/{image}/{stage}")
}

/// A record as commit metadata has it.
///
/// # Errors
/// Never for the records of this file: their maps have strings as keys.
pub fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::bug)
}
