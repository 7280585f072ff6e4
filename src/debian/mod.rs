//! Debian's formats and rules, as pure functions of text and bytes: no I/O, nothing of treestrap.
//!
//! Every parser here reads foreign bytes and is fuzzed (`fuzz/`): errors are fine, panics are bugs.

pub mod architecture;
pub mod changelog;
pub mod date;
pub mod deb;
pub mod deb822;
pub mod relation;
pub mod release;
pub mod triggers;
pub mod version;
