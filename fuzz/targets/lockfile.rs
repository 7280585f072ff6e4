//! Locks, ours and apt2ostree's: what is printed is read back the same.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use treestrap::lock::lockfile;

fuzz_target!(|text: &str| {
    let Ok(lock) = lockfile::parse(text, Path::new("fuzz.lock")) else { return };
    let printed = lockfile::print(&lock);
    let again = lockfile::parse(&printed, Path::new("fuzz.lock")).expect("what was printed can be read");
    assert_eq!(printed, lockfile::print(&again));
});
