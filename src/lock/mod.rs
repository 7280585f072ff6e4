//! The lock stage: request + archive indexes → [`Lockfile`](crate::artefacts::Lockfile).
//!
//! [`resolve`] chooses as apt does ([`selection`], [`marking`], [`problem`], [`garbage`] are the
//! parts of apt's algorithm, over the [`universe`] of all packages and the [`policy`] of pins);
//! docs/resolver.md shows how equal the choice is.

mod dates;
mod garbage;
pub mod index;
pub mod indexes;
pub mod lockfile;
mod marking;
mod policy;
mod problem;
mod releases;
mod resolve;
mod selection;
pub mod signature;
pub mod sources;
#[cfg(test)]
mod test_archive;
mod universe;

pub use resolve::{check, digest, resolve, why};
