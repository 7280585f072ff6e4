//! The lock stage: request + archive indexes → [`Lockfile`](crate::artefacts::Lockfile).

pub mod index;
