//! Version comparison: never a panic, and an order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treestrap::debian::version::{compare_bytes, is_valid};

fuzz_target!(|versions: (&[u8], &[u8], &[u8])| {
    let (a, b, c) = versions;
    let order = compare_bytes(a, b);
    assert_eq!(order.reverse(), compare_bytes(b, a), "antisymmetric");
    assert!(compare_bytes(a, a).is_eq(), "reflexive");
    if order.is_le() && compare_bytes(b, c).is_le() {
        assert!(compare_bytes(a, c).is_le(), "transitive");
    }
    if let Ok(text) = std::str::from_utf8(a) {
        is_valid(text);
    }
});
