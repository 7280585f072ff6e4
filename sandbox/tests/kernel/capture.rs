//! capture
pub(crate) const TESTS: &[crate::support::Test] = &[];
