//! The whole way of a deb into a repository: whatever it holds, an error or an ingested package.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use treestrap::{artefacts::LockedPackage, digest::Sha256, ingest::Ingester};

thread_local! {
    /// One repository for the whole run; nothing is ever made durable in it.
    static STATE: RefCell<(tempfile::TempDir, Ingester)> = RefCell::new({
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ingester = Ingester::new(&folder.path().join("repo")).expect("a new repository");
        (folder, ingester)
    });
}

fuzz_target!(|data: &[u8]| {
    let package = LockedPackage {
        name: "seed".into(),
        version: "1.0".into(),
        architecture: "all".into(),
        filename: "pool/seed.deb".into(),
        size: data.len() as u64,
        sha256: Sha256::of(data),
        repository: None,
        stanza: Default::default(),
    };
    STATE.with_borrow_mut(|(_, ingester)| {
        let _ = ingester.ingest(&package, &mut &*data);
    });
});
