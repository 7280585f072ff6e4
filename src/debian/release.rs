//! Release files: what a suite is, and the hashes of its indexes.

use std::collections::BTreeMap;

use crate::digest::Sha256;

/// A parsed Release file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// `Origin`, such as `Debian`.
    pub origin: String,
    /// `Label`.
    pub label: String,
    /// `Suite`, such as `stable`.
    pub suite: String,
    /// `Codename`, such as `trixie`.
    pub codename: String,
    /// `Version`, such as `13.1`.
    pub version: String,
    /// `NotAutomatic: yes` (priority 1 unless pinned).
    pub not_automatic: bool,
    /// `ButAutomaticUpgrades: yes` (priority 100).
    pub but_automatic_upgrades: bool,
    /// `Date`, in seconds since the epoch.
    pub date: Option<i64>,
    /// `Valid-Until`, in seconds since the epoch.
    pub valid_until: Option<i64>,
    /// `Acquire-By-Hash: yes`.
    pub acquire_by_hash: bool,
    /// `Architectures`.
    pub architectures: Vec<String>,
    /// `Components`.
    pub components: Vec<String>,
    /// `No-Support-for-Architecture-all: Packages`: binary-ARCH indexes hold `all` packages too.
    pub no_support_for_architecture_all: bool,
    /// The files of the `SHA256` field: path → digest and size in bytes.
    pub files: BTreeMap<String, (Sha256, u64)>,
}
