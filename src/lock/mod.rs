//! The lock stage: request + archive indexes → [`Lockfile`](crate::artefacts::Lockfile).
//!
//! [`resolve`] chooses as apt does ([`selection`], [`marking`], [`problem`], [`garbage`] are the
//! parts of apt's algorithm, over the [`universe`] of all packages and the [`policy`] of pins);
//! docs/resolver.md shows how equal the choice is. Where apt gives up, [`complete`] searches on.
//! [`closure`] looks at finished locks.

mod closure;
mod complete;
mod garbage;
pub mod index;
pub mod lockfile;
mod marking;
mod policy;
mod problem;
mod resolve;
mod selection;
mod universe;

pub use closure::{check, why};
pub use resolve::{digest, resolve, resolve_tools};

#[cfg(test)]
mod tests;
