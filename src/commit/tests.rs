//! Tests of commit.
