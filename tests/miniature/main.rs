//! The real binary on signed miniature archives: what users rely on, one module a subject.
//!
//! Results are compared with independent programs: ostree, dpkg, apt, gpgv, tar.

#[path = "../common/mod.rs"]
mod common;

mod agreement;
mod diversions;
mod dpkg;
mod emulator;
mod exports;
mod harness;
mod hostile;
mod import;
mod interruption;
mod layers;
mod machine;
mod memory;
mod multistrap;
mod ninja;
mod pipeline;
mod rootfs;
mod script_environment;
mod scripts;
mod signatures;
mod tiers;
mod transport;
mod unpacked;
