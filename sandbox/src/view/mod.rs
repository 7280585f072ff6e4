//! File systems that serve an immutable tree, such as a commit, without a checkout. They speak FUSE
//! with the kernel and need neither libfuse nor a set-uid helper, only /dev/fuse.
//!
//! | serves | what reads it |
//! |---|---|
//! | [`Serve::Metadata`] | overlayfs, which takes the data from a data-only layer (Linux ≥ 6.16) |
//! | [`Serve::Data`] | anything, also overlayfs as a plain lower layer |
//! | [`serve_writable`] | programs, where overlayfs cannot be mounted: changes go to an upper folder |
//!
//! ```text
//! tree.rs        the trait Tree: what is served
//! listing.rs     … as flat bytes that go from process to process;  builder.rs makes them
//! stored.rs      … with the contents below a folder;  folder.rs lists a plain folder
//! merge.rs       several trees as one, as overlayfs would show them
//! checkout.rs    the tree as a folder of hard links
//! readonly.rs    the file system for Metadata and Data;  kept.rs holds its open files
//! cow/           the writable one
//! device.rs      opening /dev/fuse, mounting, serving
//! ```
//!
//! # Who does what, in which order
//! 1. A process **inside the user namespace** opens the device ([`Device::open`]). The kernel refuses
//!    a descriptor that was opened in another user namespace.
//! 2. A process with CAP_SYS_ADMIN over its mount namespace mounts it ([`Device::mount`]); mount(2)
//!    returns at once, before anybody serves. That may be a forked child: the descriptor is shared.
//! 3. Only then [`serve`] may be called, by whoever shall do the work: it waits for the kernel's
//!    first request, which exists from the mount on (before it, the device answers EPERM). It starts
//!    threads; so a process that wants to fork does it before.
//! 4. Only now may anybody touch the mount point: mounting an overlay above it reads its root.
//!
//! When the serving process ends in whatever way, the kernel aborts the connection: every use of the
//! mount fails with ENOTCONN from then on. The mount itself goes with its mount namespace.

mod attributes;
mod builder;
mod checkout;
mod cow;
mod device;
mod folder;
mod kept;
mod listing;
mod merge;
mod readonly;
mod stored;
mod tree;

pub use builder::{ListingBuilder, Metadata};
pub(crate) use checkout::{check_out, give_metadata};
pub use cow::{Syncs, serve_writable};
pub use device::{Device, ServerHandle, serve};
pub use folder::list_folder;
pub use listing::Listing;
pub(crate) use merge::{changed, merge, metadata, numbered, with_mount_points};
pub use stored::StoredTree;
pub(crate) use stored::open_contents;
pub use tree::{Entry, Kind, Node, ROOT, Tree};

/// What a read-only view answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serve {
    /// Metadata, and for each file the attributes that make overlayfs take its data from a data-only
    /// layer: mount with `userxattr,lowerdir=VIEW::CONTENTS`. Reading a file here is refused.
    Metadata,
    /// Metadata and data.
    Data,
}

/// Whose files a view shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// The tree's owners: every id that occurs must be mapped in the namespace. One that is not
    /// shows as 65534, and overlayfs refuses to copy such a file up (EOVERFLOW).
    Real,
    /// Everything belongs to root, the only id that is mapped; somebody else keeps the owners.
    Root,
}

/// File names in messages.
fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
