//! An index: one verified Packages file, with what its Release file says of it.

use std::sync::Arc;

use crate::debian::release::Release;

/// One verified Packages file.
#[derive(Clone, Debug)]
pub struct Index {
    /// The manifest's name of the repository.
    pub repository: String,
    /// The URI that it was got from, without credentials, for `Pin: origin` and messages.
    pub uri: String,
    /// The suite as the manifest spells it.
    pub suite: String,
    /// The component; empty in a flat repository.
    pub component: String,
    /// The architecture whose `binary-ARCH` folder it is from.
    pub architecture: String,
    /// What the Release file says of the suite.
    pub release: Arc<Release>,
    /// The Packages file, decompressed.
    pub packages: Arc<Vec<u8>>,
}
