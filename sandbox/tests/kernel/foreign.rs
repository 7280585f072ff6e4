//! foreign
pub(crate) const TESTS: &[crate::support::Test] = &[];
