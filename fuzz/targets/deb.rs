//! The container of a deb, its decompressors and the tars inside.
#![no_main]

use std::io::{self, Read as _};

use libfuzzer_sys::fuzz_target;
use treestrap::debian::deb::Deb;

/// What a few bytes may decompress to before it is called enough.
const LIMIT: u64 = 16 << 20;

fn read(data: &[u8]) -> io::Result<()> {
    let mut deb = Deb::new(data)?;
    let mut control = deb.control()?;
    for entry in tar::Archive::new((&mut control).take(LIMIT)).entries()? {
        let mut entry = entry?;
        entry.pax_extensions()?;
        io::copy(&mut entry, &mut io::sink())?;
    }
    control.finish()?;
    let mut data = deb.data()?;
    for entry in tar::Archive::new((&mut data).take(LIMIT)).entries()? {
        io::copy(&mut entry?, &mut io::sink())?;
    }
    data.finish()?;
    deb.finish().map(drop)
}

fuzz_target!(|data: &[u8]| {
    // an error is the answer to most of it
    let _ = read(data);
});
