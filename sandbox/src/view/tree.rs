//! What a view serves: an immutable tree, seen by inode numbers and by names. Where the tree comes
//! from (a commit, a folder) is the implementer's affair.

use std::{fs::File, io, ops::Range};

/// The inode number of the root folder; FUSE fixes it.
pub const ROOT: u64 = 1;

/// What kind of thing a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
}

impl Kind {
    /// The file type bits of `st_mode`; inode(7).
    pub fn bits(self) -> u32 {
        match self {
            Kind::Folder => libc::S_IFDIR,
            Kind::File => libc::S_IFREG,
            Kind::Symlink => libc::S_IFLNK,
            Kind::Fifo => libc::S_IFIFO,
            Kind::Socket => libc::S_IFSOCK,
        }
    }

    /// The kind that `st_mode` has; none for a device, which no user namespace could open anyway.
    pub fn of_mode(mode: u32) -> Option<Kind> {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Some(Kind::Folder),
            libc::S_IFREG => Some(Kind::File),
            libc::S_IFLNK => Some(Kind::Symlink),
            libc::S_IFIFO => Some(Kind::Fifo),
            libc::S_IFSOCK => Some(Kind::Socket),
            _ => None,
        }
    }
}

/// The fixed-size part of a node: what stat(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id and sticky included.
    pub permissions: u16,
    /// The owner, as the mounting namespace numbers it.
    pub uid: u32,
    /// The group, likewise.
    pub gid: u32,
    /// How many names it has; for a folder 2 plus its folders.
    pub links: u32,
    /// Bytes of a file's content or a symbolic link's target; 0 for others.
    pub size: u64,
    /// Modification time: seconds since the epoch.
    pub modified: i64,
    /// … and nanoseconds.
    pub modified_nanoseconds: u32,
}

/// One name in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name: bytes without `/` and NUL.
    pub name: &'a [u8],
    /// The inode that it names.
    pub inode: u64,
    /// The folder that it is in.
    pub folder: u64,
}

/// An immutable tree.
///
/// Inode numbers are 1 (the root) to [`node_count`](Tree::node_count), entry numbers 0 to
/// [`entry_count`](Tree::entry_count) − 1, and the entries of a folder are consecutive and sorted by
/// name. A number out of range gives none; nothing here panics.
pub trait Tree: Send + Sync + 'static {
    /// How many inodes there are.
    fn node_count(&self) -> u64;

    /// How many names there are, the root not counted, which has none.
    fn entry_count(&self) -> u32;

    /// What stat(2) shows of an inode.
    fn node(&self, inode: u64) -> Option<Node>;

    /// The entry numbers of a folder; none for anything else.
    fn entries(&self, folder: u64) -> Option<Range<u32>>;

    /// One entry.
    fn entry(&self, number: u32) -> Option<Entry<'_>>;

    /// The number of the entry of this name.
    fn find(&self, folder: u64, name: &[u8]) -> Option<u32>;

    /// The number of the (first) entry that names this inode; none for the root.
    fn entry_of(&self, inode: u64) -> Option<u32>;

    /// The target of a symbolic link.
    fn target(&self, inode: u64) -> Option<&[u8]>;

    /// Calls `each` with every extended attribute, until it returns false.
    fn xattrs(&self, inode: u64, each: &mut dyn FnMut(&[u8], &[u8]) -> bool);

    /// Whether any node has a POSIX access control list, so that the kernel has to ask for them.
    fn has_access_lists(&self) -> bool;

    /// The path of a file's content relative to the folder that an overlay mounts as its data-only
    /// layer. None: not a file.
    fn content_path(&self, inode: u64) -> Option<&[u8]>;

    /// Opens a file's content for reading.
    fn open(&self, inode: u64) -> io::Result<File>;
}
