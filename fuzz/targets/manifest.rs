//! treestrap.toml: mistakes are errors with a place in the file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use treestrap::manifest::Manifest;

fuzz_target!(|text: &str| {
    let path = Path::new("/nowhere/treestrap.toml");
    if let Err(error) = Manifest::parse(path, text) {
        assert!(error.to_string().contains("treestrap.toml"), "{error}");
    }
});
