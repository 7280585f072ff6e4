//! multistrap.conf, one file that another includes, and what they come to: mistakes are errors with a place
//! in a file.
#![no_main]

use std::{io, path::Path};

use libfuzzer_sys::fuzz_target;
use treestrap::manifest::multistrap::{Configuration, Files, parse_preferences};

/// Two files: the text up to a line of dashes, and what follows it.
struct Two<'a>(&'a str, &'a str);

impl Files for Two<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(if path == Path::new("a.conf") { self.0 } else { self.1 }.as_bytes().to_vec())
    }

    fn is_file(&self, path: &Path) -> bool {
        path == Path::new("a.conf") || path == Path::new("b.conf")
    }
}

fuzz_target!(|text: &str| {
    let (first, second) = text.split_once("\n---\n").unwrap_or((text, ""));
    match Configuration::read(Path::new("a.conf"), &Two(first, second)) {
        Ok(configuration) => {
            let _ = configuration.request("image", "armhf", &[], &[]);
            let _ = configuration.additional_packages();
        }
        Err(error) => assert!(error.to_string().contains(".conf"), "{error}"),
    }
    let _ = parse_preferences(text, "preferences");
});
