//! Native twins: which foreign programs the host can run itself, with the same result.
//!
//! A twin is the same program from the same source version, built for the host. This module is
//! pure: it's given what packages contain and says what to do. It knows neither an archive (which
//! packages exist natively is for the caller to find) nor a sandbox (what is mounted where is for
//! the caller to do).
//!
//! ```text
//! Inventory (a package's files) ─┬─ wanted ─▶ packages to fetch for the host
//! Policy (tables) ───────────────┴─ plan ───▶ Plan: twins, what stays emulated and why, mounts
//! ```
//!
//! - [`inventory`]: what a package contains, as far as it matters here.
//! - [`policy`]: the tables, each line with its reason.
//! - [`mod@wanted`]: which packages are needed natively.
//! - [`mod@plan`]: which programs have a twin.
//! - [`libraries`]: whether the dynamic loader would find everything.
//! - [`dpkg`]: making dpkg's programs know the image's architecture.
//! - [`perl`]: having perl say the image's architecture.
//! - [`loader`]: where twins find their loader.
//! - [`scripts`]: what stands before programs that need not do all that they are asked for,
//!   - [`background`]: those for whose end nobody waits,
//!   - [`keys`]: host keys that are thrown away.
//! - [`caches`]: what the loader need not ask the processor.
//! - [`folder`]: where they find their libraries and modules.
//! - [`machine`]: what names an architecture has where a twin could see or tell the wrong one.

pub mod background;
pub mod caches;
pub mod dpkg;
pub mod folder;
pub mod inventory;
pub mod keys;
pub mod libraries;
pub mod loader;
pub mod machine;
pub mod perl;
pub mod plan;
pub mod policy;
pub mod scripts;
pub mod wanted;

pub use inventory::{Entry, Inventory, Object, Package};
pub use machine::Machine;
pub use plan::{Emulated, Mount, Plan, Program, Reason, plan};
pub use policy::{Policy, Rule};
pub use wanted::wanted;

/// Where the twin tree is inside the sandbox. It must be short: it has to fit where the host's
/// loader is named. Private libraries are linked to by this path.
pub const TREE: &str = "/.treestrap/twins";
/// Which rules [`plan()`] and [`rewrite`] follow: for whoever keeps what they have made of the same
/// packages and policy. Raised with every change of a table or a rule.
pub const RULES: u32 = 6;
/// Where starts are noted inside the sandbox.
pub const LOG: &str = "/.treestrap/starts";

/// Why a file of the twin tree could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRewritten {
    /// Its loader could not be changed.
    #[error(transparent)]
    Loader(#[from] loader::NotChanged),
    /// It knows its architecture.
    #[error("it knows its architecture: {0}")]
    Architecture(#[from] dpkg::NotPatched),
}

/// The content that a file of a package for the host has in the twin tree: a program asks for the tree's
/// loader; what knows its architecture, dpkg's programs and perl's description of itself, is for the
/// image's; the host's folder is where the image has none; and the loader asks the processor less.
pub fn rewrite(
    path: &str,
    content: &[u8],
    (machine, host): (&Machine, &Machine),
) -> Result<Vec<u8>, NotRewritten> {
    let mut changed = if content.starts_with(ELF_MAGIC) {
        loader::change(content)?
    } else if perl::has_name(path, host) {
        // Where the name isn't found, it tells the host's.
        perl::rename(content, machine, host).unwrap_or_else(|| content.to_vec())
    } else {
        content.to_vec()
    };
    if dpkg::PROGRAMS.contains(&path) && machine.debian != host.debian {
        changed = dpkg::patch(&changed, host.debian, machine.debian)?;
    }
    folder::hide(&mut changed, host);
    if host.debian == "amd64" && file_name(path) == file_name(host.loader) {
        caches::remember(&mut changed);
    }
    Ok(changed)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What an ELF file begins with (elf(5)).
const ELF_MAGIC: &[u8] = b"\x7fELF";

#[cfg(test)]
mod tests;
