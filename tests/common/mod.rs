//! The harness of the integration tests: the real binary, as different accounts, on signed
//! miniature archives whose servers can misbehave.
//!
//! - [`package`]: a small language for tiny debs; [`tarball`] writes their tars, evil ones too.
//! - [`archive`]: an archive of such debs, signed with a key made for the test.
//! - [`apt2ostree`]: what that system makes of debs, by its own commands.
//! - [`base`]: a minimal, configurable Debian, packed from this machine's own programs.
//! - [`server`]: serves an archive over HTTP, counts requests and injects faults.
//! - [`account`]: who runs a command; [`tier`]: what a test needs of the machine.
//! - [`fixture`]: a home, a manifest, a repository, and the program run in them.
//!
//! It uses nothing of treestrap's own parsers and writers: what tests compare with is
//! independent (dpkg, apt, gpgv, ostree, tar, and this).
#![allow(dead_code, reason = "each test binary uses its part of the harness")]

pub(crate) mod account;
pub(crate) mod apt2ostree;
pub(crate) mod archive;
pub(crate) mod base;
pub(crate) mod fixture;
pub(crate) mod key;
pub(crate) mod package;
pub(crate) mod server;
pub(crate) mod tarball;
pub(crate) mod tier;
