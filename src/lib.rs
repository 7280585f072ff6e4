//! treestrap makes configured Debian root file systems as OSTree commits.
//!
//! The pipeline, and the module that owns each stage (the order is known to [`pipeline`] alone):
//!
//! ```text
//! treestrap.toml ─manifest─▶ Request ─lock─▶ Lockfile ─fetch+ingest─▶ Ingested ─compose─▶ Composed
//!                                               │IMAGE.lock             │deb/pool/…          │deb/images/IMAGE/unpacked
//!                    Committed ◀─commit─ Configured ◀─configure (sandbox, qemu)──────────────┘
//!                        │deb/images/IMAGE/configured
//!                        └─export─▶ tar, folder
//! ```
//!
//! What stages hand to each other is in [`artefacts`]; a stage never imports another stage.
//! [`debian`] holds the pure parsers, [`store`] is the only user of libostree, [`acquire`] the
//! only code that talks to a network. The crate `sandbox` runs commands in a rootless view of a
//! tree and knows nothing of Debian; the crate `qemu` knows foreign binaries and nothing of the
//! sandbox; [`configure`] brings the two together.
//!
//! [`ninja`] says what a build that ninja(1) drives has to know of all that.
//!
//! [`doctor`] says whether a machine can do all that, before anything is tried.
//!
//! This library never prints: it tells a [`report::Reporter`] what happens, and [`cli`] prints.
#![forbid(unsafe_code)]

pub mod acquire;
pub mod artefacts;
pub mod cli;
pub mod commit;
pub mod compose;
pub mod configure;
pub mod debian;
pub mod difference;
pub mod digest;
pub mod doctor;
pub mod error;
pub mod export;
pub mod fetch;
pub mod ingest;
pub mod lock;
pub mod manifest;
pub mod ninja;
pub mod pipeline;
pub mod report;
pub mod rootfs;
pub mod store;
pub mod twins;

pub use error::{Context, Error, Result};
