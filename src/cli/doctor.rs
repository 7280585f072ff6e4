//! (next)
use super::program::Program;
use crate::Result;
pub(super) fn run(_program: &Program<'_>) -> Result<u8> {
    Ok(0)
}
