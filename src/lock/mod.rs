//! The lock stage: request + archive indexes → [`Lockfile`](crate::artefacts::Lockfile).
//!
//! [`sources`] says where an archive is, [`indexes`] gets and verifies what it offers
//! ([`signature`], `releases`, `dates`). [`resolve`] chooses as apt does (`selection`, `marking`,
//! `problem`, `garbage` are the parts of apt's algorithm, over the `universe` of all packages and
//! the `policy` of pins); docs/resolver.md shows how equal the choice is. Where apt gives up,
//! `complete` searches on. `closure` looks at finished locks, [`agreement`] at those of several images. `layers`
//! says which packages come first where an image continues from another one, or from what it was.

pub mod agreement;
mod apt_configuration;
mod closure;
mod complete;
mod dates;
mod garbage;
pub mod index;
pub mod indexes;
mod layers;
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

pub use closure::{check, why};
pub use layers::{Base, check_base, resolve_layers};
pub use resolve::{EMULATOR, Offer, TWIN, Tools, candidate, digest, of_priority, resolve};

#[cfg(test)]
mod tests;
