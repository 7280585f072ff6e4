//! Runs foreign binaries: by qemu-user, or by the same program built for the host.
#![forbid(unsafe_code)]

pub mod program;
pub mod interpreter;
pub mod twins;
