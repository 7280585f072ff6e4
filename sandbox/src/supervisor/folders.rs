//! Folders list their names in one order, which depends on the names alone: `.` and `..`, then byte by
//! byte. The kernel gives the file system's, which with ext4 comes from a seed that each file system has
//! for itself, so that what programs make of it differs from machine to machine.
//!
//! The supervisor opens the folder once more, reads all of it, and answers from that **listing**. Where
//! a program is in it is kept by the kernel as ever, as the position of the open folder, which is so one for
//! all duplicates of a descriptor, and goes to 0 with rewinddir(3). Each listing has positions that no
//! other has: so the position says which listing it is in, and who holds what need not be known. All are
//! below 2³¹, which 32-bit programs can take (with ext4's own many cannot, and their readdir(3) fails
//! with EOVERFLOW under an emulator).
//!
//! A listing is kept as it was when its reading began, so that names which come and go meanwhile make
//! nobody skip another. When there are many, the oldest are given up, but for the names at which somebody
//! stopped in the middle: who then goes on gets what now comes after that name.
//!
//! Left to the kernel: what is below /proc, which is of no order anyway and belongs to who looks; and
//! i386's readdir (call 89), which no C library has used since Linux 2.0.

use std::{
    borrow::Cow,
    cmp::Ordering,
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl, openat},
    sys::stat::{FileStat, Mode, fstat},
    unistd::{Whence, lseek},
};

use super::{
    Abi, Answer,
    caller::{Caller, own_name},
};
use crate::sys::{folders::read_entries, notify};

/// What a call fills its buffer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Structure {
    /// `struct linux_dirent`: with the numbers of the ABI.
    Old,
    /// `struct linux_dirent64`: the same in all.
    New,
}

/// Bytes of listings that are kept whole; the newest is, however large it is.
const MOST_BYTES: usize = 32 << 20;
/// Listings of which only the names are kept at which somebody stopped.
const MOST_LEFT: usize = 1 << 16;
/// What a listing takes beside its entries, in bytes, roughly.
const OVERHEAD: usize = 160;
/// Before d_name of `struct linux_dirent64`: d_ino, d_off, d_reclen, d_type.
const NAME_AT: usize = 19;

/// All listings that are known.
pub(super) struct Folders {
    /// The device of the sandbox's /proc.
    proc: u64,
    /// By the position at which they begin: that of the first entry's predecessor, which no folder is
    /// ever at, since those who begin are at 0.
    whole: BTreeMap<u32, Listing>,
    bytes: usize,
    left: BTreeMap<u32, Stops>,
    /// Where the next listing begins.
    next: u32,
    buffer: Vec<u8>,
}

/// What a folder had in it.
struct Listing {
    folder: (u64, u64),
    /// `struct linux_dirent64`s, in order; their d_off are positions.
    entries: Vec<u8>,
    /// Where each ends.
    ends: Vec<u32>,
    /// After how many entries calls ended, unless after all.
    stops: Vec<u32>,
}

/// What is left of a listing.
struct Stops {
    folder: (u64, u64),
    count: u32,
    /// After how many entries calls ended, and the last one's name.
    stops: Vec<(u32, Vec<u8>)>,
}

impl Folders {
    /// For a process that is in the sandbox's mount namespace.
    pub(super) fn new() -> nix::Result<Self> {
        Ok(Folders {
            proc: nix::sys::stat::stat("/proc")?.st_dev,
            whole: BTreeMap::new(),
            bytes: 0,
            left: BTreeMap::new(),
            next: 0,
            buffer: vec![0; 64 << 10],
        })
    }

    /// Answers getdents(2).
    pub(super) fn list(
        &mut self,
        structure: Structure,
        abi: Abi,
        caller: &Caller<'_>,
    ) -> nix::Result<Answer> {
        // What is no open folder has its error from the kernel.
        let Some(open) = caller.description(caller.int(0))? else { return Ok(Answer::GoOn) };
        let stat = fstat(&open)?;
        let is_folder = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let is_name = fcntl(&open, FcntlArg::F_GETFL)? & libc::O_PATH != 0;
        if !is_folder || is_name || stat.st_nlink == 0 || stat.st_dev == self.proc {
            return Ok(Answer::GoOn);
        }
        let before = lseek(&open, 0, Whence::SeekCur)?;
        let Some((start, done)) = self.find(before, &open, &stat, caller)? else {
            return Ok(Answer::Value(0));
        };
        let listing = self.whole.get_mut(&start).ok_or(Errno::EIO)?;
        let room = (caller.argument(2) as u32).min(i32::MAX as u32) as usize;
        let (length, count) = listing.give(done, room, structure.width(abi), caller)?;
        let now = done + count;
        if count == 0 {
            return Ok(Answer::Value(0));
        }
        if now < listing.count() && listing.stops.last() != Some(&now) {
            listing.stops.push(now);
        }
        lseek(&open, i64::from(start + now), Whence::SeekSet)?;
        // A signal may have ended the call (before Linux 5.19), which then is made again.
        if !notify::answer_if_waiting(caller.listener, caller.notification.id, length)? {
            lseek(&open, before, Whence::SeekSet)?;
        }
        Ok(Answer::Given)
    }

    /// The listing that an open folder at this position is in, and how many entries of it were given.
    /// None: after the end.
    fn find(
        &mut self,
        position: i64,
        open: &OwnedFd,
        stat: &FileStat,
        caller: &Caller<'_>,
    ) -> nix::Result<Option<(u32, u32)>> {
        let folder = (stat.st_dev, stat.st_ino);
        let mut after = None;
        if position != 0 {
            let Ok(position) = u32::try_from(position) else { return Ok(None) };
            let known = self.whole.range(..position).next_back();
            if let Some((start, listing)) = known
                && listing.folder == folder
                && position - start <= listing.count()
            {
                return Ok(Some((*start, position - start)));
            }
            let left = self.left.range(..position).next_back();
            let Some((start, stops)) = left else { return Ok(None) };
            let done = position - start;
            if stops.folder != folder || done >= stops.count {
                return Ok(None);
            }
            // seekdir(3) may have gone to where no call ended: rather something twice than not at all.
            after = stops.stops.iter().rfind(|(stop, _)| *stop <= done).map(|(_, name)| name.clone());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let own = &caller.surroundings.own_descriptors;
        let again = openat(own, own_name(open).as_c_str(), flags, Mode::empty())?;
        let mut raw = Vec::new();
        loop {
            let read = read_entries(again.as_fd(), &mut self.buffer)?;
            if read == 0 {
                break;
            }
            raw.extend_from_slice(self.buffer.get(..read).ok_or(Errno::EIO)?);
        }
        self.add(folder, &raw, after.as_deref()).map(|start| Some((start, 0)))
    }

    /// Takes a folder's entries in, those that come after a name if there is one; gives where their
    /// positions begin.
    fn add(&mut self, folder: (u64, u64), raw: &[u8], after: Option<&[u8]>) -> nix::Result<u32> {
        let mut entries = entries(raw)?;
        entries.retain(|(name, _)| after.is_none_or(|after| order(name, after) == Ordering::Greater));
        entries.sort_unstable_by(|(one, _), (other, _)| order(one, other));
        let last = i32::MAX as u32;
        let count = u32::try_from(entries.len()).ok().filter(|count| *count <= last);
        let count = count.ok_or(Errno::EOVERFLOW)?;
        if last - self.next < count {
            // Positions are used up, after a hundred thousand whole systems: whoever is anywhere is at an end.
            (self.whole, self.left, self.bytes, self.next) = (BTreeMap::new(), BTreeMap::new(), 0, 0);
        }
        let start = self.next;
        let mut listing = Listing { folder, entries: Vec::new(), ends: Vec::new(), stops: Vec::new() };
        listing.entries.reserve_exact(raw.len());
        listing.ends.reserve_exact(entries.len());
        for (position, (_, entry)) in (start + 1..).zip(entries) {
            let at = listing.entries.len();
            listing.entries.extend_from_slice(entry);
            listing.entries[at + 8..at + 16].copy_from_slice(&u64::from(position).to_ne_bytes());
            listing.ends.push(u32::try_from(listing.entries.len()).map_err(|_| Errno::EOVERFLOW)?);
        }
        // An empty one needs a position, too, or the next would begin at the same.
        self.next = start + count.max(1);
        self.bytes += listing.size();
        self.whole.insert(start, listing);
        self.give_up();
        Ok(start)
    }

    /// Makes room by giving up the oldest listings.
    fn give_up(&mut self) {
        while self.bytes > MOST_BYTES && self.whole.len() > 1 {
            let Some((start, listing)) = self.whole.pop_first() else { return };
            self.bytes -= listing.size();
            if !listing.stops.is_empty() {
                self.left.insert(start, listing.left());
            }
            if self.left.len() > MOST_LEFT {
                self.left.pop_first();
            }
        }
    }
}

impl Listing {
    fn count(&self) -> u32 {
        self.ends.len() as u32
    }

    fn size(&self) -> usize {
        OVERHEAD + self.entries.len() + 4 * self.ends.len()
    }

    /// Where the entries end of which so many come before.
    fn end(&self, count: u32) -> usize {
        let last = (count as usize).checked_sub(1).and_then(|last| self.ends.get(last));
        last.map_or(0, |end| *end as usize)
    }

    fn entry(&self, index: u32) -> &[u8] {
        &self.entries[self.end(index)..self.end(index + 1)]
    }

    fn left(mut self) -> Stops {
        self.stops.sort_unstable();
        self.stops.dedup();
        let stops = self.stops.iter().map(|&stop| (stop, name(self.entry(stop - 1)).to_vec())).collect();
        Stops { folder: self.folder, count: self.count(), stops }
    }

    /// Writes as many entries as there is room for to the caller; gives how many bytes and how many
    /// entries they are. None were left: 0.
    fn give(
        &self,
        done: u32,
        room: usize,
        width: Option<usize>,
        caller: &Caller<'_>,
    ) -> nix::Result<(i64, u32)> {
        let mut most = self.count() - done;
        loop {
            let (bytes, count) = self.encode(done, most, room, width)?;
            if count == 0 {
                return Ok((0, 0));
            }
            match caller.write(caller.argument(1), &bytes) {
                // The kernel gives what there is memory for.
                Err(Errno::EFAULT) if count > 1 => most = count / 2,
                result => return result.map(|()| (bytes.len() as i64, count)),
            }
        }
    }

    /// As many entries, as the caller wants them; an error if there is no room for a single one.
    fn encode(
        &self,
        done: u32,
        most: u32,
        room: usize,
        width: Option<usize>,
    ) -> nix::Result<(Cow<'_, [u8]>, u32)> {
        let Some(width) = width else {
            let start = self.end(done);
            let ends = &self.ends[done as usize..(done + most) as usize];
            let count = ends.partition_point(|end| *end as usize <= start + room) as u32;
            if count == 0 && most > 0 {
                return Err(Errno::EINVAL);
            }
            return Ok((Cow::Borrowed(&self.entries[start..self.end(done + count)]), count));
        };
        let mut bytes = Vec::new();
        let mut count = 0;
        for index in done..done + most {
            let length = bytes.len();
            let added = encode_old(self.entry(index), width, &mut bytes);
            if added.is_err() || bytes.len() > room {
                bytes.truncate(length);
                if count == 0 {
                    return Err(added.err().unwrap_or(Errno::EINVAL));
                }
                break;
            }
            count += 1;
        }
        Ok((Cow::Owned(bytes), count))
    }
}

impl Structure {
    /// Of `struct linux_dirent`, how many bytes its numbers have.
    fn width(self, abi: Abi) -> Option<usize> {
        match (self, abi) {
            (Structure::New, _) => None,
            (Structure::Old, Abi::I386 | Abi::Arm) => Some(4),
            (Structure::Old, Abi::Native | Abi::X32) => Some(8),
        }
    }
}

/// Adds a `struct linux_dirent`. EOVERFLOW: the inode's number is too large, as the kernel says it.
fn encode_old(entry: &[u8], width: usize, bytes: &mut Vec<u8>) -> nix::Result<()> {
    let name = name(entry);
    // d_ino, d_off, d_reclen, d_name, its NUL, room, and in the last byte the type.
    let length = (2 * width + 2 + name.len() + 2).next_multiple_of(width);
    let end = bytes.len() + length;
    for at in [0, 8] {
        let number = entry[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
        match width {
            4 => bytes.extend(u32::try_from(number).map_err(|_| Errno::EOVERFLOW)?.to_ne_bytes()),
            _ => bytes.extend(number.to_ne_bytes()),
        }
    }
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend_from_slice(name);
    bytes.resize(end - 1, 0);
    bytes.push(entry[NAME_AT - 1]);
    Ok(())
}

/// The entries that calls gave, with their names.
fn entries(mut raw: &[u8]) -> nix::Result<Vec<(&[u8], &[u8])>> {
    let mut entries = Vec::new();
    while !raw.is_empty() {
        let length = raw.get(16..18).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
        let (entry, rest) = raw.split_at_checked(length.into()).ok_or(Errno::EIO)?;
        if entry.len() <= NAME_AT {
            return Err(Errno::EIO);
        }
        entries.push((name(entry), entry));
        raw = rest;
    }
    Ok(entries)
}

/// d_name of a `struct linux_dirent64`.
fn name(entry: &[u8]) -> &[u8] {
    let name = &entry[NAME_AT..];
    name.split(|&byte| byte == 0).next().unwrap_or(name)
}

/// The order of two names.
fn order(one: &[u8], other: &[u8]) -> Ordering {
    let is_name = |name: &[u8]| !matches!(name, b"." | b"..");
    (is_name(one), one).cmp(&(is_name(other), other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(names: &[&str]) -> Vec<u8> {
        let mut raw = Vec::new();
        for name in names {
            let (at, length) = (raw.len(), (NAME_AT + name.len() + 1).next_multiple_of(8));
            raw.resize(at + length, 0);
            raw[at + 16..at + 18].copy_from_slice(&(length as u16).to_ne_bytes());
            raw[at + NAME_AT..at + NAME_AT + name.len()].copy_from_slice(name.as_bytes());
        }
        raw
    }

    fn names(listing: &Listing) -> Vec<&str> {
        let names = (0..listing.count()).map(|index| name(listing.entry(index)));
        names.map(|name| std::str::from_utf8(name).expect("UTF-8")).collect()
    }

    #[test]
    fn listings_are_sorted_and_have_positions_of_their_own() {
        let mut folders = Folders::new().expect("there is a /proc");
        let raw = raw(&["b", "..", "a.b", "-", ".", "...", "a", "a-b", "B", ".a"]);
        let sorted = [".", "..", "-", "...", ".a", "B", "a", "a-b", "a.b", "b"];
        for (after, skipped, start) in
            [(None, 0, 0), (Some("."), 1, 10), (Some("a"), 7, 19), (Some("aa"), 9, 22)]
        {
            let added = folders.add((1, 1), &raw, after.map(str::as_bytes)).expect("added");
            assert_eq!((added, &names(&folders.whole[&added])[..]), (start, &sorted[skipped..]));
        }
        // An empty one has a position, too, and when all are used up they begin anew.
        assert_eq!(folders.add((1, 1), &[], None), Ok(23));
        folders.next = i32::MAX as u32 - 9;
        assert_eq!((folders.add((1, 2), &raw, None), folders.whole.len()), (Ok(0), 1));
    }

    #[test]
    fn the_oldest_are_given_up_but_for_where_somebody_stopped() {
        let mut folders = Folders::new().expect("there is a /proc");
        let all: Vec<_> = (0..1000).map(|number| format!("{number:0200}")).collect();
        let raw = raw(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let first = folders.add((1, 1), &raw, None).expect("added");
        folders.whole.get_mut(&first).expect("there").stops = vec![500, 3, 500];
        while folders.whole.contains_key(&first) {
            folders.add((1, 2), &raw, None).expect("added");
            assert!(folders.bytes <= MOST_BYTES);
        }
        assert_eq!(folders.bytes, folders.whole.values().map(Listing::size).sum::<usize>());
        let left = &folders.left[&first];
        let stops = [(3, all[2].clone().into_bytes()), (500, all[499].clone().into_bytes())];
        assert_eq!((left.count, &left.stops[..]), (1000, &stops[..]));
        folders.add((1, 2), &raw, None).expect("added");
        assert_eq!(folders.left.len(), 1, "of those who stopped nowhere nothing is left");
    }

    #[test]
    fn what_is_no_entry() {
        assert_eq!(entries(&[0; 24]), Err(Errno::EIO));
        let raw = raw(&["name"]);
        for length in 1..raw.len() {
            assert_eq!(entries(&raw[..length]), Err(Errno::EIO), "{length}");
        }
    }
}
