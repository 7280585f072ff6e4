//! Package relations: `Depends: a (>= 1) | b, c`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treestrap::debian::relation;

fuzz_target!(|data: &[u8]| {
    for relation in relation::alternatives(data) {
        let Ok(relation) = relation else { return };
        // what is shown in messages is itself a relation
        let shown = relation.to_string();
        assert!(!shown.is_empty());
    }
});
