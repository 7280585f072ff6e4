//! Release files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treestrap::debian::release::Release;

fuzz_target!(|text: &str| {
    let _ = Release::parse(text);
});
