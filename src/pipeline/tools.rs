//! qemu-user for foreign images: pinned beside the lock, fetched like packages, found again.

use super::Session;
use crate::{Result, acquire::Acquire, artefacts::Image, configure::Emulator, store::Store};

pub(super) fn lock(_session: &Session<'_>, _image: &Image, _acquire: &Acquire<'_>) -> Result<()> {
    Ok(())
}

pub(super) fn fetch(_session: &Session<'_>, _image: &Image, _acquire: &Acquire<'_>) -> Result<()> {
    Ok(())
}

pub(super) fn emulator(
    _session: &Session<'_>,
    _image: Option<&Image>,
    _architecture: &str,
    _store: &Store,
) -> Result<Option<Emulator>> {
    Ok(None)
}
