//! What was asked of a sandbox and what was given: invariant "nothing degrades in silence".

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How much the sandbox may do with owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Tier {
    /// A range of ids is mapped: owners inside are real.
    Full,
    /// One id is mapped: the supervisor records owners and answers for users and groups.
    Single,
}

impl Tier {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Full => "full",
            Tier::Single => "single",
        }
    }
}

/// How the layers come together. All show the same; they differ in what they need and cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum View {
    /// overlayfs over a FUSE file system of metadata, with contents straight from where they are
    /// stored (Linux ≥ 6.16).
    Redirect,
    /// overlayfs over a FUSE file system that serves contents, too.
    Fuse,
    /// overlayfs over folders: a stored tree is written out as hard links to its contents.
    Checkout,
    /// A FUSE file system that takes the changes itself: for kernels without overlayfs in user
    /// namespaces.
    FuseCow,
}

impl View {
    /// All of them, in the order in which they are tried where none is asked for.
    /// docs/benchmarks-sandbox.md has why.
    pub const PREFERENCE: [View; 4] = [View::Redirect, View::Fuse, View::Checkout, View::FuseCow];

    /// The name that serde has for it.
    pub fn name(self) -> &'static str {
        match self {
            View::Redirect => "redirect",
            View::Fuse => "fuse",
            View::Checkout => "checkout",
            View::FuseCow => "fuse-cow",
        }
    }
}

impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Who wrote the id maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapper {
    /// newuidmap(1) and newgidmap(1), with ranges of /etc/subuid and /etc/subgid.
    Tools,
    /// The caller itself, which may (root, or CAP_SETUID), or which maps nobody but itself.
    Direct,
}

/// `count` ids from `inside` on are those from `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id in the namespace.
    pub inside: u32,
    /// First id in the parent namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The id maps of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Who wrote them.
    pub mapper: Mapper,
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

/// What a session really has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// How owners are handled.
    pub tier: Tier,
    /// The view that the plan asked for; none: any.
    pub asked_view: Option<View>,
    /// The id maps.
    pub mapping: Mapping,
    /// What pid 1 reported.
    #[serde(flatten)]
    pub inside: Inside,
}

/// Whose memory is limited, and to how many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryLimit {
    /// That of all processes together, what they have in files of /tmp and /run included.
    Together(u64),
    /// The private memory of each process by itself.
    EachProcess(u64),
}

/// The part of [`Enforced`] that is known inside only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// How the layers come together.
    pub view: View,
    /// Whether the view passes no sync on: overlayfs is mounted `volatile` (Linux ≥ 5.10), or the view is
    /// [`View::FuseCow`].
    pub volatile: bool,
    /// Whether the system call filter denies what no package script needs.
    pub seccomp: bool,
    /// Whether neither fsync and its kin nor O_SYNC wait for the disk.
    pub no_sync: bool,
    /// Whether uname(2) says what the plan wants it to say; if not, it says what the host's does.
    #[serde(default)]
    pub uname: bool,
    /// Whether folders list their names in byte order, as the plan wants it; if not, the order is that of
    /// the file system, which is another on another machine.
    #[serde(default)]
    pub sorted_folders: bool,
    /// The capabilities that commands can have, by the kernel's names.
    pub capabilities: Vec<String>,
    /// Interpreters registered in the sandbox's own binfmt_misc.
    pub binfmt: Vec<String>,
    /// Whether new user namespaces are impossible inside.
    pub no_nested_namespaces: bool,
    /// The process limit in force; none where the kernel exempts the user.
    pub processes: Option<u64>,
    /// The memory limit in force; none where none was asked for.
    #[serde(default)]
    pub memory: Option<MemoryLimit>,
    /// How long a command may run.
    #[serde(default)]
    pub time: Option<Duration>,
    /// What was asked for and not given, a sentence each. Empty is what one wants.
    pub degraded: Vec<String>,
}
