//! Copying a file's content: by reference where the file system can, and with its holes.

use std::{fs::File, io};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};

/// Copies all of `from` to the start of `to`, an empty file.
pub(super) fn copy(from: &File, to: &File) -> io::Result<()> {
    let length = i64::try_from(from.metadata()?.len()).map_err(io::Error::other)?;
    let mut at = 0;
    while at < length {
        let start = match lseek(from, at, Whence::SeekData) {
            Err(Errno::ENXIO) => break, // a hole to the end
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => at,
            start => start?,
        };
        let end = match lseek(from, start, Whence::SeekHole) {
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => length,
            end => end?.min(length),
        };
        lseek(from, start, Whence::SeekSet)?;
        lseek(to, start, Whence::SeekSet)?;
        // copy_file_range(2), which shares blocks where it can.
        let copied = io::copy(&mut io::Read::take(from, (end - start).unsigned_abs()), &mut &*to)?;
        if copied < (end - start).unsigned_abs() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = end;
    }
    to.set_len(length.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Seek, Write},
        os::unix::fs::{FileExt, MetadataExt},
    };

    use super::*;

    #[test]
    fn contents_and_holes() {
        let mut end_of_data = tempfile::tempfile().expect("a file");
        end_of_data.write_all(b"plain").expect("written");
        let empty = tempfile::tempfile().expect("a file");
        let sparse = tempfile::tempfile().expect("a file");
        sparse.write_at(b"middle", 3 << 20).expect("written");
        sparse.set_len(9 << 20).expect("set");
        for from in [end_of_data, empty, sparse] {
            let mut to = tempfile::tempfile().expect("a file");
            copy(&from, &to).expect("copied");
            let (mut expected, mut copied) = (Vec::new(), Vec::new());
            (&from).rewind().expect("rewound");
            (&from).read_to_end(&mut expected).expect("read");
            to.rewind().expect("rewound");
            to.read_to_end(&mut copied).expect("read");
            assert!(expected == copied, "{} bytes, {} copied", expected.len(), copied.len());
            let blocks = |file: &File| file.metadata().expect("a status").blocks();
            assert!(blocks(&to) <= blocks(&from), "holes stay holes");
        }
    }
}
