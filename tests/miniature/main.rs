//! The real binary on signed miniature archives: what users rely on, one module a subject.
//!
//! Results are compared with independent programs: ostree, dpkg, apt, gpgv, tar.

#[path = "../common/mod.rs"]
mod common;

mod harness;
