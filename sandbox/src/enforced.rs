//! What was asked of a sandbox and what was given: invariant "nothing degrades in silence".

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

/// How the layers come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum View {
    /// Folders of the host under overlayfs.
    Checkout,
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
    /// How the layers come together.
    pub view: View,
    /// The id maps.
    pub mapping: Mapping,
    /// What pid 1 reported.
    #[serde(flatten)]
    pub inside: Inside,
}

/// The part of [`Enforced`] that is known inside only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// Whether the overlay is mounted `volatile` (Linux ≥ 5.10): no sync reaches the disk, O_SYNC
    /// writes included.
    pub volatile: bool,
    /// Whether the system call filter denies what no package script needs.
    pub seccomp: bool,
    /// Whether it also answers fsync and its kin.
    pub no_sync: bool,
    /// Whether uname(2) says what the plan wants it to say; if not, it says what the host's does.
    #[serde(default)]
    pub uname: bool,
    /// The capabilities that commands can have, by the kernel's names.
    pub capabilities: Vec<String>,
    /// Interpreters registered in the sandbox's own binfmt_misc.
    pub binfmt: Vec<String>,
    /// Whether new user namespaces are impossible inside.
    pub no_nested_namespaces: bool,
    /// The process limit in force; none where the kernel exempts the user.
    pub processes: Option<u64>,
    /// What was asked for and not given, a sentence each. Empty is what one wants.
    pub degraded: Vec<String>,
}
