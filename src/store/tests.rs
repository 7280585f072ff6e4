//! Tests of the repository.
