//! Changelogs, and the dates in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treestrap::debian::changelog;

fuzz_target!(|text: &[u8]| {
    let _ = changelog::newest(&mut &*text);
});
