//! The process that serves FUSE views: outside of the sandbox, as root of its user namespace, beside
//! the monitor.
//!
//! Pid 1 mounts and asks; this process answers the kernel from then on, with threads. It lives as
//! long as anything is mounted, and no longer than the monitor (PR_SET_PDEATHSIG), which kills it when
//! everything inside has ended. If it dies earlier, all use of the view fails with ENOTCONN, and pid 1
//! ends, too.

use std::{os::fd::OwnedFd, path::Path, path::PathBuf};

use nix::sys::{prctl, signal::Signal};

use crate::{
    enforced::View,
    error::{Error, Result},
    plan::{Layer, Plan, Stored},
    protocol::{Channel, FromServer, ToServer},
    stack::OWNERS,
    sys::process,
    view::{
        Device, Listing, Serve, ServerHandle, StoredTree, Syncs, list_folder, merge, numbered, serve,
        serve_writable, with_mount_points,
    },
};

/// Serves until nothing is mounted any more. Runs in a process that was forked for it; `listing` is
/// the stored layer's.
pub(crate) fn run(plan: &Plan, folder: &Path, listing: Option<&Listing>, mut channel: Channel) -> ! {
    // What the fork brought along is others': pid 1's socket must close when pid 1 ends.
    let alone = process::close_all_from_3_except(&std::os::fd::AsFd::as_fd(&channel));
    let tied = prctl::set_pdeathsig(Signal::SIGKILL);
    let _ = prctl::set_name(c"sandbox-view");
    if alone.is_err() || tied.is_err() {
        process::exit_now(1);
    }
    let mut served = Vec::new();
    while let Ok(Some((ToServer::Serve(view), devices))) = channel.receive() {
        let answer = match start(plan, folder, listing, view, devices) {
            Ok(handle) => {
                served.push(handle);
                FromServer::Serving
            }
            Err(error) => FromServer::Failed(error),
        };
        if channel.send(&answer, &[]).is_err() {
            break;
        }
    }
    // Pid 1 has gone, or needs no view. What it leaves behind in its namespace ends now and may still
    // look at files while it does.
    served.into_iter().for_each(|handle| drop(handle.wait()));
    process::exit_now(0)
}

/// Starts the threads for one mount.
fn start(
    plan: &Plan,
    folder: &Path,
    listing: Option<&Listing>,
    view: View,
    devices: Vec<OwnedFd>,
) -> Result<ServerHandle> {
    let device = devices.into_iter().next().ok_or_else(|| Error::bug("the view's device got lost"))?;
    let device = Device::from_descriptor(device);
    let skeleton = folder.join("skeleton");
    let stored = || {
        let (Some(listing), Some(Stored { contents, .. })) = (listing, plan.stored()?) else {
            return Err(Error::bug("there is no stored tree to be served"));
        };
        StoredTree::new(with_mount_points(listing, &list_folder(&skeleton)?)?, contents)
    };
    match view {
        View::Redirect => serve(device, stored()?, Serve::Metadata, OWNERS),
        View::Fuse => serve(device, stored()?, Serve::Data, OWNERS),
        View::FuseCow => {
            let tree = all_layers(plan, skeleton.clone(), listing)?;
            let syncs = if plan.no_sync { Syncs::Nothing } else { Syncs::Real };
            serve_writable(device, tree, &folder.join("upper"), &folder.join("work"), OWNERS, syncs)
        }
        View::Checkout => Err(Error::bug("a checkout needs no server")),
    }
}

/// All layers as one tree, the folder of mount points too.
fn all_layers(plan: &Plan, skeleton: PathBuf, stored: Option<&Listing>) -> Result<StoredTree> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let mut listings = Vec::new();
    for layer in &plan.layers {
        let (contents, listing) = match (layer, stored) {
            (Layer::Stored(Stored { contents, .. }), Some(listing)) => (contents, listing.clone()),
            (Layer::Stored(stored), None) => (&stored.contents, Listing::read(&stored.listing)?),
            (Layer::Folder(path), _) => (path, list_folder(path)?),
        };
        folders.push(contents.clone());
        listings.push(listing);
    }
    listings.push(list_folder(&skeleton)?);
    folders.push(skeleton);
    StoredTree::merged(merge(&listings, &numbered)?, &folders)
}
