//! How the layers come together: the views that a plan allows, tried until one works.
//!
//! Runs in pid 1, while the host's mounts are still there. No version number is looked at: a view
//! works if it can be mounted and, where mounting alone proves nothing, if a file can be read.

use std::{
    collections::HashMap,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::Mode,
};

use crate::{
    Kind,
    enforced::View,
    error::{Doing, Error, Result, Step},
    plan::{Layer, Plan, Stored},
    protocol::{Channel, FromServer, ToServer},
    view::{self, Device, Listing, Owners, ROOT, StoredTree, Tree, check_out},
};

/// What the monitor has prepared for the views.
pub(crate) struct Prepared {
    /// The stored layer's metadata.
    pub(crate) listing: Option<Listing>,
    /// The process that serves FUSE, where a view may need it.
    pub(crate) server: Option<Channel>,
    /// Why there is no control group for the limit of memory; empty where there is one, or no limit.
    pub(crate) no_group: String,
}

/// Whose files a stored tree shows: their owners'. In tier single the tree has been made root's before,
/// with the owners on record: see `recorded`.
pub(crate) const OWNERS: Owners = Owners::Real;

/// The layers, mounted at `FOLDER/root`.
pub(crate) struct Stack {
    /// The view's root folder.
    pub(crate) root: OwnedFd,
    /// Which view it is.
    pub(crate) view: View,
    /// Whether no sync reaches the disk.
    pub(crate) volatile: bool,
    /// Why better views were not taken, a sentence each.
    pub(crate) passed_over: Vec<String>,
}

/// The views that a plan allows, best first.
pub(crate) fn candidates(plan: &Plan) -> Result<Vec<View>> {
    let needs_stored = |view: View| matches!(view, View::Redirect | View::Fuse);
    let is_stored = plan.stored()?.is_some();
    match plan.view {
        Some(view) if needs_stored(view) && !is_stored => {
            Err(Error::plan(format_args!("there is no view {view} of folders: the lowest layer is none")))
        }
        Some(view) => Ok(vec![view]),
        None => {
            let wanted = &plan.conditions.views;
            let order = if wanted.is_empty() { &View::PREFERENCE[..] } else { wanted };
            Ok(order.iter().copied().filter(|&view| is_stored || !needs_stored(view)).collect())
        }
    }
}

/// Whether a view is served by a process of ours.
pub(crate) fn needs_server(view: View) -> bool {
    matches!(view, View::Redirect | View::Fuse | View::FuseCow)
}

/// Mounts the layers, with the upper layer of `folder`, at `folder/root`.
pub(crate) fn mount_layers(plan: &Plan, folder: &Path, prepared: &mut Prepared) -> Result<Stack> {
    let mut attempt = Attempt { plan, folder, prepared };
    let mut refusals: Vec<(View, Error)> = Vec::new();
    for view in candidates(plan)? {
        match attempt.mount(view) {
            Ok((root, volatile)) => {
                return Ok(Stack { root, view, volatile, passed_over: passed_over(&refusals) });
            }
            // That the plan is impossible, or the disk full, holds for all of them.
            Err(error) if error.kind() != Kind::Machine || error.errno() == Some(libc::ENOSPC) => {
                return Err(error);
            }
            Err(error) => {
                attempt.undo();
                refusals.push((view, error));
            }
        }
    }
    Err(refused(refusals))
}

/// Why views were not taken; those with one cause in one sentence.
fn passed_over(refusals: &[(View, Error)]) -> Vec<String> {
    let same = refusals.chunk_by(|(_, a), (_, b)| a == b);
    let names =
        |views: &[(View, Error)]| views.iter().map(|(view, _)| view.name()).collect::<Vec<_>>().join(" or ");
    let sentence = |views: &[(View, Error)]| {
        let error = &views[0].1; // a chunk is never empty
        let way_out = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("no view {}: {error}{way_out}", names(views))
    };
    same.map(sentence).collect()
}

/// One error of several: the first view's, which has the fewest needs or was asked for, with what the
/// others said.
fn refused(refusals: Vec<(View, Error)>) -> Error {
    let mut refusals = refusals.into_iter();
    let Some((_, mut error)) = refusals.next() else { return Error::bug("no view was tried") };
    for (view, other) in refusals {
        error = error.and(format_args!("view {view}: {other}"));
    }
    error
}

/// The name by which /proc leads to an open file. Mount options and targets given so need no
/// escaping, have no length limit and cannot be redirected.
pub(crate) fn by_descriptor(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Opens a file or folder as a handle.
pub(crate) fn open_path(path: &Path) -> Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).doing_to("opening", path)
}

struct Attempt<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    prepared: &'a mut Prepared,
}

impl Attempt<'_> {
    /// The view's root, and whether no sync reaches the disk.
    fn mount(&mut self, view: View) -> Result<(OwnedFd, bool)> {
        let target = self.folder.join("root");
        let mut layers = Vec::new();
        for layer in &self.plan.layers {
            if let Layer::Folder(path) = layer {
                layers.push(open_path(path).map_err(|error| error.of_kind(Kind::Plan))?);
            }
        }
        let mut contents = None;
        match view {
            View::FuseCow => {
                self.mount_fuse(view, &target)?;
                return Ok((open_path(&target)?, self.plan.no_sync));
            }
            View::Checkout => layers.extend(self.check_out()?),
            View::Redirect | View::Fuse => {
                let place = self.folder.join("view");
                self.mount_fuse(view, &place)?;
                if view == View::Redirect {
                    contents = Some(self.open_contents()?);
                    self.check_redirect(&place, contents.as_ref())?;
                }
                layers.push(open_path(&place)?);
            }
        }
        // The server adds mount points to what it serves: a file's redirect is followed into the
        // layers below first, where there must be none but the contents.
        if view == View::Checkout {
            layers.push(open_path(&self.folder.join("skeleton"))?);
        }
        let volatile = self.mount_overlay(&layers, contents.as_ref(), &target)?;
        Ok((open_path(&target)?, volatile))
    }

    /// Unmounts what a view that does not work has left. What is not mounted gives an error that does
    /// not matter.
    fn undo(&self) {
        for name in ["root", "view"] {
            let _ = umount2(&self.folder.join(name), MntFlags::MNT_DETACH);
        }
    }

    fn stored(&self) -> Result<(&Listing, &Stored)> {
        match (&self.prepared.listing, self.plan.stored()?) {
            (Some(listing), Some(stored)) => Ok((listing, stored)),
            _ => Err(Error::bug("there is no stored tree")),
        }
    }

    /// The stored tree as a folder; none where the plan has no stored tree.
    fn check_out(&self) -> Result<Option<OwnedFd>> {
        if self.plan.stored()?.is_none() {
            return Ok(None);
        }
        let (listing, stored) = self.stored()?;
        let tree = self.folder.join("tree");
        std::fs::create_dir(&tree).doing_to("making", &tree)?;
        check_out(listing, &stored.contents, &tree, OWNERS)?;
        open_path(&tree).map(Some)
    }

    fn open_contents(&self) -> Result<OwnedFd> {
        let (_, stored) = self.stored()?;
        open_path(&stored.contents).map_err(|error| error.of_kind(Kind::Plan))
    }

    /// Mounts a FUSE file system that the server answers for.
    fn mount_fuse(&mut self, view: View, target: &Path) -> Result<()> {
        let device = Device::open().map_err(|error| error.at(Step::Fuse))?;
        device.mount(target, view == View::FuseCow).map_err(|error| error.at(Step::Fuse))?;
        let server = self.prepared.server.as_mut().ok_or_else(|| Error::bug("nobody serves views"))?;
        server.send(&ToServer::Serve(view), &[device.as_fd()])?;
        match server.receive()? {
            Some((FromServer::Serving, _)) => Ok(()),
            Some((FromServer::Failed(error), _)) => Err(error.at(Step::Fuse)),
            None => Err(Error::bug("the process that serves views died")),
        }
    }

    /// Whether overlayfs takes contents from a data-only layer here: Linux < 6.16 mounts it in a user
    /// namespace and shows files that cannot be read.
    fn check_redirect(&self, view: &Path, contents: Option<&OwnedFd>) -> Result<()> {
        let (listing, stored) = self.stored()?;
        let tree = StoredTree::new(listing.clone(), &stored.contents)?;
        let Some((path, inode)) = first_file(&tree) else { return Ok(()) };
        let target = self.folder.join("root");
        let unsupported =
            |error: Error| error.at(Step::Overlay).with_hint("the redirect view needs Linux 6.16");
        let lower = open_path(view)?;
        let contents = contents.map(by_descriptor).unwrap_or_default();
        let options = format!("lowerdir={}::{contents},userxattr", by_descriptor(&lower));
        mount(Some("sandbox"), &target, Some("overlay"), MsFlags::MS_NODEV, Some(options.as_str()))
            .doing("mounting an overlay with a data-only layer")
            .map_err(unsupported)?;
        let expected = tree.open(inode).and_then(|file| first_bytes(&file)).doing("reading a content")?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let seen = openat2(&open_path(&target)?, path.as_path(), how)
            .map_err(std::io::Error::from)
            .and_then(|file| first_bytes(&file.into()));
        umount2(&target, MntFlags::MNT_DETACH).doing("unmounting the overlay")?;
        match seen.doing("reading through a redirect").map_err(unsupported)? {
            seen if seen == expected => Ok(()),
            _ => Err(unsupported(Error::machine("overlayfs ignores redirects to a data-only layer"))),
        }
    }

    /// The overlay itself; gives whether it took `volatile`.
    fn mount_overlay(&self, lower: &[OwnedFd], contents: Option<&OwnedFd>, target: &Path) -> Result<bool> {
        let [upper, work] = [open_path(&self.folder.join("upper"))?, open_path(&self.folder.join("work"))?];
        let contents = contents.map(|folder| format!("::{}", by_descriptor(folder))).unwrap_or_default();
        // The three `off` are defaults of most kernels, and make the result the same on all of them:
        // no metadata-only copies, no links kept across copy-up, no redirects in the upper layer.
        // Nor inode numbers with the layer's number in their high bits (`xino`): 32-bit programs without
        // large file support cannot stat(2) such a file.
        let options = format!(
            "lowerdir={}{contents},upperdir={},workdir={},userxattr,index=off,metacopy=off,redirect_dir=nofollow,xino=off",
            lower.iter().map(by_descriptor).collect::<Vec<_>>().join(":"),
            by_descriptor(&upper),
            by_descriptor(&work)
        );
        let attempt = |options: &str| {
            let flags = MsFlags::MS_NODEV;
            mount(Some("sandbox"), target, Some("overlay"), flags, Some(options))
        };
        let failed = |errno| Error::system("mounting the overlay", errno).at(Step::Overlay);
        let no_sync = self.plan.no_sync;
        // `volatile` came with Linux 5.10, `userxattr` with 5.11; Debian's 5.10 has a patch of its own.
        match attempt(&if no_sync { format!("{options},volatile") } else { options.clone() }) {
            Ok(()) => Ok(no_sync),
            Err(Errno::EINVAL) if no_sync => attempt(&options).map(|()| false).map_err(failed),
            Err(errno) => Err(failed(errno)),
        }
    }
}

/// Some file with content: its path and inode.
fn first_file(tree: &StoredTree) -> Option<(PathBuf, u64)> {
    let mut paths: HashMap<u64, PathBuf> = HashMap::from([(ROOT, PathBuf::new())]);
    // A folder's entry comes before what is in it.
    (0..tree.entry_count()).find_map(|number| {
        let entry = tree.entry(number)?;
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(entry.name);
        let path = paths.get(&entry.folder)?.join(name);
        let node = tree.node(entry.inode)?;
        match node.kind {
            view::Kind::File if node.size > 0 => Some((path, entry.inode)),
            view::Kind::Folder => {
                paths.insert(entry.inode, path);
                None
            }
            _ => None,
        }
    })
}

fn first_bytes(file: &std::fs::File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 4096), &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(layers: Vec<Layer>, view: Option<View>) -> Plan {
        Plan { layers, view, ..Plan::new(Vec::new(), "/w") }
    }

    #[test]
    fn folders_have_two_views_and_stored_trees_four() {
        let folder = || Layer::Folder("/f".into());
        let stored = || Layer::Stored(Stored { listing: "/l".into(), contents: "/c".into() });
        let of = |layers, view| candidates(&plan(layers, view)).ok();
        assert_eq!(of(vec![folder(), stored()], None), Some(View::PREFERENCE.into()));
        assert_eq!(of(vec![folder()], None), Some(vec![View::Checkout, View::FuseCow]));
        assert_eq!(of(vec![folder()], Some(View::FuseCow)), Some(vec![View::FuseCow]));
        assert_eq!(of(vec![stored()], Some(View::Fuse)), Some(vec![View::Fuse]));
        for (layers, view) in
            [(vec![folder()], Some(View::Redirect)), (vec![stored(), folder()], None), (vec![], None)]
        {
            assert_eq!(of(layers, view), None);
        }
    }

    #[test]
    fn one_cause_is_told_once() {
        let closed = Error::machine("/dev/fuse is closed").with_hint("open it");
        let old = Error::machine("the kernel is old");
        let refusals =
            [(View::Redirect, old.clone()), (View::Fuse, closed.clone()), (View::FuseCow, closed.clone())];
        assert_eq!(
            passed_over(&refusals),
            [
                "no view redirect: the kernel is old",
                "no view fuse or fuse-cow: /dev/fuse is closed (open it)"
            ]
        );
        let error = refused(vec![(View::Redirect, closed), (View::Checkout, old)]);
        assert_eq!(error.to_string(), "/dev/fuse is closed; view checkout: the kernel is old");
        assert_eq!(error.hint(), Some("open it"));
    }
}
