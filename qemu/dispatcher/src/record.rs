//! What is noted of every start of a foreign program: the layout, writing it and reading it.
//!
//! Records are appended to one file, each with a single write(2) to a descriptor with `O_APPEND`,
//! which Linux does not interleave.
//!
//! ```text
//! 0   length   u16   of the whole record
//! 2   kind     u8    see [`Kind`]
//! 3   (zero)   u8
//! 4   detail   u32   an errno, or a wait status; 0 where there's nothing to say
//! 8   pid      u32   in the sandbox's pid namespace
//! 12  (zero)   u32
//! 16  key      u64   of the program's fingerprint; 0 where it could not be taken
//! 24  size     u64   of the program
//! 32  time     u64   nanoseconds of CLOCK_MONOTONIC
//! 40  path           as execve(2) was given it, without NUL; its end where it is too long
//! ```

/// The size of what comes before the path.
pub const HEADER: usize = 40;
/// The size of the longest record.
pub const LONGEST: usize = 512;

/// What happened at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// The twin is about to be started.
    Twin = 1,
    /// No twin is known: qemu runs it.
    Emulated = 2,
    /// The twin, noted just before, could not be started: qemu runs the program. The detail is
    /// the errno.
    Fallback = 3,
    /// It has credentials (set-id other than to root, file capabilities) that do not survive a
    /// second execve(2): qemu runs it.
    Privileged = 4,
    /// The process of this pid has ended, in which qemu had run the program; it may have started
    /// others since, which have records of their own. The detail is its wait status where the kernel
    /// tells (Linux ≥ 6.15), else `u32::MAX`.
    Ended = 5,
}

impl Kind {
    /// The kind of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Kind::Twin, Kind::Emulated, Kind::Fallback, Kind::Privileged, Kind::Ended]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What happened.
    pub kind: Kind,
    /// An errno or a wait status, see [`Kind`].
    pub detail: u32,
    /// The process, in the sandbox's pid namespace.
    pub pid: u32,
    /// The key of the program's fingerprint.
    pub key: u64,
    /// The size of the program.
    pub size: u64,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// The path as execve(2) was given it, without NUL.
    pub path: &'a [u8],
}

impl Record<'_> {
    /// Writes it to the start of `buffer`; the bytes to append to the log.
    pub fn write<'b>(&self, buffer: &'b mut [u8; LONGEST]) -> &'b [u8] {
        let room = LONGEST - HEADER;
        // The end of a path says more than its beginning.
        let path = self.path.get(self.path.len().saturating_sub(room)..).unwrap_or(self.path);
        let (head, tail) = buffer.split_at_mut(HEADER);
        let mut length = HEADER;
        for (to, from) in tail.iter_mut().zip(path) {
            *to = *from;
            length += 1;
        }
        let fields = (length as u64 & 0xffff) | (self.kind as u64) << 16 | u64::from(self.detail) << 32;
        let numbers = [fields, u64::from(self.pid), self.key, self.size, self.time];
        for (to, from) in head.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *to = from.to_le_bytes();
        }
        buffer.get(..length).unwrap_or(buffer)
    }
}

impl<'a> Record<'a> {
    /// Takes the first record off `log`. None at its end, and where what follows is no record.
    pub fn read(log: &mut &'a [u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(*log.get(at..)?.first_chunk()?));
        let fields = number(0)?;
        let record = Record {
            kind: Kind::from_number((fields >> 16) as u8)?,
            detail: (fields >> 32) as u32,
            pid: number(8)? as u32,
            key: number(16)?,
            size: number(24)?,
            time: number(32)?,
            path: log.get(HEADER..(fields & 0xffff) as usize)?,
        };
        *log = log.get(HEADER + record.path.len()..)?;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let long = [b'x'; 600];
        let records = [
            Record { kind: Kind::Twin, detail: 0, pid: 7, key: 1, size: 2, time: 3, path: b"/bin/sh" },
            Record { kind: Kind::Fallback, detail: 2, pid: u32::MAX, key: !0, size: !0, time: !0, path: b"" },
            Record { kind: Kind::Ended, detail: u32::MAX, pid: 0, key: 0, size: 0, time: 0, path: &long },
        ];
        let mut log = std::vec::Vec::new();
        for record in &records {
            log.extend_from_slice(record.write(&mut [0; LONGEST]));
        }
        let mut rest = &log[..];
        assert_eq!(Record::read(&mut rest), Some(records[0]));
        assert_eq!(Record::read(&mut rest), Some(records[1]));
        let last = Record::read(&mut rest).expect("a third record");
        assert_eq!((last.kind, last.path), (Kind::Ended, &long[..LONGEST - HEADER]));
        assert_eq!((rest, Record::read(&mut rest)), (&b""[..], None));
    }

    #[test]
    fn garbage_is_no_record() {
        for garbage in [
            &b"\0"[..],
            &[0; HEADER],
            &[0xff; 100],
            b"\x27\0\x01\0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            let mut rest = garbage;
            assert_eq!(Record::read(&mut rest), None, "{garbage:?}");
        }
    }
}
