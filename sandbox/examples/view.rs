//! Runs a command with a view of a plain folder as its current folder; for trying views out, and for
//! measuring them. To be run by the root of a user and a mount namespace:
//!
//! ```text
//! unshare --user --map-root-user --map-auto --mount -- view data|redirect|cow SOURCE SCRATCH COMMAND…
//! ```
//!
//! SCRATCH is an empty folder. `data` is read-only; the others keep changes in SCRATCH/upper.

use std::{
    env, fs, io,
    path::PathBuf,
    process::{Command, ExitCode},
};

use nix::mount::{MsFlags, mount};
use sandbox::view::{Device, Listing, Owners, Serve, StoredTree, list_folder, serve, serve_writable};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = env::args_os().skip(1);
    let mut next = || arguments.next().ok_or("usage: view data|redirect|cow SOURCE SCRATCH COMMAND…");
    let (mode, source, scratch) = (next()?, PathBuf::from(next()?), PathBuf::from(next()?));
    let command = next()?;
    let folders = ["view", "upper", "work", "merged"].map(|name| scratch.join(name));
    folders.iter().try_for_each(fs::create_dir)?;
    let [view, upper, work, merged] = folders;
    let listing = Listing::from_file(list_folder(&source)?.to_memory_file()?)?;
    let tree = StoredTree::new(listing, &source)?;
    let device = Device::open()?;
    let root = match mode.to_str() {
        Some("data") => {
            device.mount(&view, false)?;
            serve(device, tree, Serve::Data, Owners::Real)?;
            view
        }
        Some("redirect") => {
            device.mount(&view, false)?;
            serve(device, tree, Serve::Metadata, Owners::Real)?;
            let options = format!(
                "userxattr,lowerdir={}::{},upperdir={},workdir={}",
                view.display(),
                source.display(),
                upper.display(),
                work.display()
            );
            mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
                .map_err(io::Error::from)?;
            merged
        }
        Some("cow") => {
            device.mount(&view, true)?;
            serve_writable(device, tree, &upper, &work, Owners::Real)?;
            view
        }
        _ => return Err("data, redirect or cow".into()),
    };
    let status = Command::new(command).args(arguments).current_dir(root).status()?;
    Ok(ExitCode::from(status.code().map_or(1, |code| code as u8)))
}
