//! Stanzas: the scanner of indexes and the strict parser; what is printed is read back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treestrap::debian::deb822;

fuzz_target!(|data: &[u8]| {
    for stanza in deb822::stanzas(data) {
        for (name, _) in deb822::fields(stanza) {
            if let Ok(name) = std::str::from_utf8(name) {
                deb822::field(stanza, name);
            }
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(stanzas) = deb822::parse(text) else { return };
    let stanzas: Vec<_> = stanzas.into_iter().map(|(_, stanza)| stanza).collect();
    let printed = deb822::print(&stanzas);
    let again = deb822::parse(&printed).expect("what was printed can be read");
    let again: Vec<_> = again.into_iter().map(|(_, stanza)| stanza).collect();
    assert_eq!(printed, deb822::print(&again));
});
