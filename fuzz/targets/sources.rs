//! apt's sources of the host, both formats: a file in a temporary root, as the program reads it.
#![no_main]

use std::{fs, path::Path};

use libfuzzer_sys::fuzz_target;
use treestrap::{artefacts::Repository, lock::sources};

thread_local! {
    /// The root, made once for the whole run.
    static ROOT: tempfile::TempDir = {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(root.path().join("etc/apt/sources.list.d")).expect("a folder");
        root
    };
}

fuzz_target!(|data: &[u8]| {
    let repository = Repository {
        name: "fuzz".into(),
        uris: Vec::new(),
        suites: vec!["bookworm".into()],
        components: vec!["main".into()],
        signed_by: Vec::new(),
        check_valid_until: true,
        trusted: false,
    };
    ROOT.with(|root| {
        let root: &Path = root.path();
        let (list, sources) = (root.join("etc/apt/sources.list"), root.join("etc/apt/sources.list.d/fuzz.sources"));
        fs::write(list, data).expect("a file of ours");
        fs::write(sources, data).expect("a file of ours");
        let _ = sources::locate(&repository, root);
    });
});
