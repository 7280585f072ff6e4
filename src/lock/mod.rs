//! The lock stage: request + archive indexes → [`Lockfile`](crate::artefacts::Lockfile).

mod apt_configuration;
mod dates;
pub mod index;
pub mod indexes;
mod releases;
pub mod signature;
pub mod sources;
#[cfg(test)]
mod test_archive;
