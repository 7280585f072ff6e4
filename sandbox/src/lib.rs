//! Runs a command in a rootless copy-on-write view of a tree, and says what it changed.

#[allow(dead_code)]
mod error;
#[allow(dead_code)]
mod sys;
pub mod view;

pub use error::{Error, Kind, Result, Step};
