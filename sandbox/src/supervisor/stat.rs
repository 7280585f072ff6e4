//! stat(2) and its kin, with the recorded owner in place of the one mapped user.

use nix::sys::stat::{FileStat, fstat};

use super::{Answer, caller::Caller, files::Target, records::Records};
use crate::{owners::Owner, sys::status};

/// A call that shows a file's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Which file.
    pub(crate) target: Target,
    /// The argument that points to the structure.
    pub(crate) structure: usize,
    /// Which structure.
    pub(crate) layout: Layout,
}

/// The structures (uapi asm/stat.h, linux/stat.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `struct stat` of a 64-bit ABI; x32 has x86-64's.
    Native,
    /// `struct stat64` of i386.
    I386,
    /// `struct stat64` of 32-bit ARM.
    Arm,
    /// `struct statx`, of all.
    Statx,
}

/// Answers where there is a record, and lets the kernel answer where there is none.
pub(super) fn answer(stat: Stat, records: &mut Records, caller: &Caller<'_>) -> nix::Result<Answer> {
    // What cannot be opened here has its error from the kernel.
    let Ok(file) = stat.target.open(caller) else { return Ok(Answer::GoOn) };
    let status = fstat(&file)?;
    let Some(owner) = records.of(&file, &status) else { return Ok(Answer::GoOn) };
    if !caller.surroundings.holds(&file)? {
        return Ok(Answer::GoOn);
    }
    let bytes = match stat.layout {
        Layout::Statx => {
            let flags = caller.int(2) & libc::AT_STATX_SYNC_TYPE;
            let mut bytes = status::statx(std::os::fd::AsFd::as_fd(&file), flags, caller.argument(3) as u32)?;
            // stx_uid and stx_gid.
            bytes[20..24].copy_from_slice(&owner.uid.to_ne_bytes());
            bytes[24..28].copy_from_slice(&owner.gid.to_ne_bytes());
            bytes.to_vec()
        }
        layout => layout.encode(&status, owner),
    };
    caller.write(caller.argument(stat.structure), &bytes)?;
    Ok(Answer::Value(0))
}

/// A structure in the making.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u64(mut self, values: &[u64]) -> Self {
        values.iter().for_each(|value| self.0.extend_from_slice(&value.to_ne_bytes()));
        self
    }

    fn u32(mut self, values: &[u32]) -> Self {
        values.iter().for_each(|value| self.0.extend_from_slice(&value.to_ne_bytes()));
        self
    }
}

impl Layout {
    #[allow(clippy::unnecessary_cast)] // not every architecture's fields are this wide
    fn encode(self, status: &FileStat, owner: Owner) -> Vec<u8> {
        let s = status;
        let times = [
            s.st_atime as u64,
            s.st_atime_nsec as u64,
            s.st_mtime as u64,
            s.st_mtime_nsec as u64,
            s.st_ctime as u64,
            s.st_ctime_nsec as u64,
        ];
        let short_times = times.map(|part| part as u32);
        // On arm64 it has 32 bits.
        #[allow(clippy::unnecessary_cast)]
        let (links, size) = (s.st_nlink as u64, s.st_size as u64);
        let (block_size, blocks) = (s.st_blksize as u64, s.st_blocks as u64);
        let Owner { uid, gid } = owner;
        let fields = Fields::default();
        match self {
            Layout::Native if cfg!(target_arch = "x86_64") => fields
                .u64(&[s.st_dev, s.st_ino, links])
                .u32(&[s.st_mode, uid, gid, 0])
                .u64(&[s.st_rdev, size, block_size, blocks])
                .u64(&times)
                .u64(&[0; 3]),
            // asm-generic: arm64, riscv64, loongarch64.
            Layout::Native => fields
                .u64(&[s.st_dev, s.st_ino])
                .u32(&[s.st_mode, links as u32, uid, gid])
                .u64(&[s.st_rdev, 0, size])
                .u32(&[block_size as u32, 0])
                .u64(&[blocks])
                .u64(&times)
                .u32(&[0; 2]),
            Layout::I386 => fields
                .u64(&[s.st_dev])
                .u32(&[0, s.st_ino as u32, s.st_mode, links as u32, uid, gid])
                .u64(&[s.st_rdev])
                .u32(&[0])
                .u64(&[size])
                .u32(&[block_size as u32])
                .u64(&[blocks])
                .u32(&short_times)
                .u64(&[s.st_ino]),
            Layout::Arm => fields
                .u64(&[s.st_dev])
                .u32(&[0, s.st_ino as u32, s.st_mode, links as u32, uid, gid])
                .u64(&[s.st_rdev])
                .u32(&[0, 0]) // and four bytes so that the size is aligned
                .u64(&[size])
                .u32(&[block_size as u32, 0])
                .u64(&[blocks])
                .u32(&short_times)
                .u64(&[s.st_ino]),
            Layout::Statx => fields, // comes from the kernel as it is
        }
        .0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        let status = nix::sys::stat::stat("/").expect("there");
        let owner = Owner { uid: 0x1234, gid: 0x4321 };
        for (layout, size, uid_at) in [(Layout::I386, 96, 24), (Layout::Arm, 104, 24)] {
            let bytes = layout.encode(&status, owner);
            assert_eq!(bytes.len(), size, "{layout:?}");
            assert_eq!(bytes[uid_at..uid_at + 4], 0x1234u32.to_ne_bytes(), "{layout:?}");
        }
        let native = Layout::Native.encode(&status, owner);
        assert_eq!(native.len(), size_of::<FileStat>());
    }
}
