//! What a sandbox is to be: data that can be printed, kept and replayed. Nothing happens here.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    bytes::escape,
    enforced::{Tier, View},
    error::{Error, Result},
};

/// Stands for the interpreter in [`Binfmt::line`]; replaced by a path that exists only while the
/// line is written.
pub const INTERPRETER: &str = "{interpreter}";

/// A sandbox as data: layers, mounts, interpreters, limits.
///
/// Network there is none, whatever the plan says. All paths inside the sandbox are bytes without a
/// leading slash; the root is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The layers that the sandbox sees and cannot change, topmost first. For a folder that several
    /// layers have, the topmost one's owner and mode show.
    pub layers: Vec<Layer>,
    /// How they come together; none: the first of [`View::PREFERENCE`] that works here.
    #[serde(default)]
    pub view: Option<View>,
    /// Where changes go.
    pub work: Work,
    /// How owners are handled; none: in the best way that this machine can.
    #[serde(default)]
    pub tier: Option<Tier>,
    /// The host name inside.
    pub hostname: String,
    /// What the kernel inside is said to be; none: what it is.
    #[serde(default)]
    pub uname: Option<Uname>,
    /// Whether folders list their names in byte order, whatever the order of their file system.
    #[serde(default)]
    pub sorted_folders: bool,
    /// Environment of every command, before the command's own: `NAME=value`.
    #[serde(with = "crate::bytes")]
    pub environment: Vec<Vec<u8>>,
    /// More mounts, in order. /proc, /dev and /sys are always there and not among these.
    pub mounts: Vec<Mount>,
    /// Interpreters for foreign binaries, in a binfmt_misc of the sandbox's own.
    #[serde(default)]
    pub binfmt: Vec<Binfmt>,
    /// Whether it is noted who writes which file.
    #[serde(default)]
    pub writers: Option<Writers>,
    /// Whether it is noted which programs run when.
    #[serde(default)]
    pub programs: Option<Programs>,
    /// What is to be otherwise than it would be here.
    #[serde(default)]
    pub conditions: Conditions,
    /// What commands may use up.
    #[serde(default)]
    pub limits: Limits,
    /// Whether fsync and its kin return at once. The changes are durable only when the caller has
    /// made them so.
    pub no_sync: bool,
}

/// What uname(2) and /proc say of the kernel, to programs of every ABI. Beside the name of the system
/// (`Linux`) and the host name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uname {
    /// `uname -m`. For emulated programs an emulator says it itself; for the host's own ABIs
    /// this does.
    pub machine: String,
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
}

impl Uname {
    /// A machine with a kernel that says nothing of the host: the oldest release that has all that a
    /// sandbox needs, so that no program takes it for newer than the real one.
    pub fn of_machine(machine: impl Into<String>) -> Self {
        Uname { machine: machine.into(), release: "5.11.0".to_owned(), version: "#1 SMP".to_owned() }
    }
}

/// A layer of the view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Layer {
    /// A folder of the host, such as a hard-link checkout.
    Folder(#[serde(with = "crate::bytes")] PathBuf),
    /// A tree that is no folder, such as a commit of a repository. Only the lowest layer can be one.
    Stored(Stored),
}

/// A tree as a listing of its metadata, and a folder with the contents of its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// A file with the bytes of a [`Listing`](crate::view::Listing).
    #[serde(with = "crate::bytes")]
    pub listing: PathBuf,
    /// What the listing's content paths are relative to, such as the `objects` of a repository. Nothing
    /// is ever written there.
    #[serde(with = "crate::bytes")]
    pub contents: PathBuf,
}

/// Where the upper layer lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// A folder of its own below this one, which is made if missing; removed at the end. It should
    /// be on the disk where the changes will end up, and must not be on an overlay itself.
    Below(#[serde(with = "crate::bytes")] PathBuf),
    /// What [`Session::keep`](crate::Session::keep) left here: the session goes on from it, changes
    /// it in place and leaves it there.
    Kept(#[serde(with = "crate::bytes")] PathBuf),
}

/// One mount inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where. Symbolic links are followed inside the root. What no layer has there is made in a
    /// layer below all others, so that it is no change.
    #[serde(with = "crate::bytes")]
    pub target: Vec<u8>,
    /// What.
    pub source: Source,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Source {
    /// A file system in memory. What is written to it is no change.
    Memory {
        /// Permission bits of its root folder.
        mode: u32,
        /// Whether it starts with the folders (not the files) that the view has there.
        with_folders: bool,
    },
    /// A file or folder of the host that can only be read, and no set-id bit on it counts.
    ReadOnly(#[serde(with = "crate::bytes")] PathBuf),
    /// A file or folder of the host that commands write to: what they do there is no change, and is
    /// seen by the caller at once. Nothing in it can be executed, and devices in it are dead.
    Writable(#[serde(with = "crate::bytes")] PathBuf),
}

/// An interpreter in the sandbox's own binfmt_misc (Linux ≥ 6.7), which the host's table never sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binfmt {
    /// For messages; the kernel takes the name in `line`.
    pub name: String,
    /// A line as for `/proc/sys/fs/binfmt_misc/register`, with [`INTERPRETER`] where the
    /// interpreter's path belongs. Its flags must have `F`, since that path is gone afterwards.
    pub line: String,
    /// The interpreter on the host: a static program. It is copied to memory, so that nothing
    /// inside can reach the file.
    #[serde(with = "crate::bytes")]
    pub interpreter: PathBuf,
}

/// What differs from machine to machine, and from run to run, and is to be otherwise than it would be:
/// to see whether what programs make depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Views in the order in which they are tried, where the plan asks for none; empty:
    /// [`View::PREFERENCE`].
    pub views: Vec<View>,
    /// Of the processors, this many may be used (sched_setaffinity(2)); none: all.
    pub processors: Option<usize>,
    /// The number after which processes get theirs; none: 300.
    pub last_process: Option<u32>,
}

/// That it is noted which program writes which file: see [`Writer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writers {
    /// A file that is there; a line of JSON, a [`Writer`], is appended for each open for writing and each
    /// new name. Such calls then take some twenty microseconds more.
    #[serde(with = "crate::bytes")]
    pub log: PathBuf,
    /// The environment variable whose value is noted, too.
    pub variable: String,
}

/// A program that was about to write a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The file, without a leading slash; of a link, the link.
    #[serde(with = "crate::bytes")]
    pub path: Vec<u8>,
    /// The beginning of the program's command line.
    pub command: String,
    /// The value of the variable that the plan names, if the program has it.
    pub variable: Option<String>,
}

/// Where the fourth argument of execve(2), at which the kernel does not look, is this, a start is not noted: one
/// program becomes another that stands for it.
pub const UNNOTED: u32 = 0x7473_6e6e;

/// That it is noted which programs run when: see [`Program`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// A file that is there; a line of JSON, a [`Program`], is appended for each when it has ended. Starting a
    /// program then takes some 10 microseconds more, in a virtual machine 30.
    #[serde(with = "crate::bytes")]
    pub log: PathBuf,
}

/// A program that ran; but for those with which the caller's own commands begin, which are started before anybody
/// may look into their processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The path by which it was started; of a script, the script's.
    #[serde(with = "crate::bytes")]
    pub path: Vec<u8>,
    /// A number that its process alone had at the time.
    pub process: u32,
    /// When it was started: seconds of CLOCK_MONOTONIC (clock_gettime(2)).
    pub begun: f64,
    /// When its process ended, or started the next program.
    pub ended: f64,
}

/// What commands may use up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Processes and threads: a fork bomb ends here. From Linux 6.14 on of the whole sandbox
    /// (`kernel.pid_max` of its pid namespace); before, of each user inside (`RLIMIT_NPROC`), which the
    /// kernel does not apply to the host's own root.
    pub processes: u64,
    /// Bytes of memory: of the whole sandbox, where it can have a control group of its own
    /// (`memory.max`, cgroups(7)), else of private writable memory of each process (`RLIMIT_DATA`, counted
    /// so since Linux 4.7). [`Enforced`](crate::Enforced) says which.
    pub memory: Option<u64>,
    /// Wall time of one command.
    pub time: Option<Duration>,
}

impl Mount {
    /// Whether a folder is mounted, and not a file. What is not there counts as a folder; mounting
    /// it will say so.
    pub(crate) fn source_is_folder(&self) -> bool {
        match &self.source {
            Source::Memory { .. } => true,
            Source::ReadOnly(path) | Source::Writable(path) => {
                path.metadata().map_or(true, |metadata| metadata.is_dir())
            }
        }
    }
}

impl Default for Limits {
    /// Room for any build, none for a fork bomb; no other limit.
    fn default() -> Self {
        Limits { processes: 4096, memory: None, time: None }
    }
}

impl Plan {
    /// A view of `layers` (topmost first) whose changes go to a folder below `work`, with /run and
    /// /tmp in memory.
    pub fn new(layers: Vec<PathBuf>, work: impl Into<PathBuf>) -> Self {
        let memory = |target: &[u8], mode, with_folders| Mount {
            target: target.to_vec(),
            source: Source::Memory { mode, with_folders },
        };
        Plan {
            layers: layers.into_iter().map(Layer::Folder).collect(),
            view: None,
            work: Work::Below(work.into()),
            tier: None,
            hostname: "sandbox".to_owned(),
            uname: None,
            sorted_folders: false,
            environment: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
                .map(|variable| variable.as_bytes().to_vec())
                .into(),
            // /run/lock and its kin are folders that packages ship and scripts rely on.
            mounts: vec![memory(b"run", 0o755, true), memory(b"tmp", 0o1777, false)],
            binfmt: Vec::new(),
            writers: None,
            programs: None,
            conditions: Conditions::default(),
            limits: Limits::default(),
            no_sync: true,
        }
    }

    /// The stored tree among its layers.
    ///
    /// # Errors
    /// If it is not the lowest layer.
    pub(crate) fn stored(&self) -> Result<Option<&Stored>> {
        let (lowest, others) =
            self.layers.split_last().ok_or_else(|| Error::plan("a sandbox needs at least one layer"))?;
        if others.iter().any(|layer| matches!(layer, Layer::Stored(_))) {
            return Err(Error::plan("only the lowest layer of a sandbox can be a stored tree"));
        }
        Ok(match lowest {
            Layer::Stored(stored) => Some(stored),
            Layer::Folder(_) => None,
        })
    }

    /// The plan as text for people, a line a step.
    pub fn describe(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for layer in &self.layers {
            match layer {
                Layer::Folder(folder) => writeln!(f, "layer     {}", folder.display())?,
                Layer::Stored(Stored { listing, contents }) => {
                    writeln!(f, "layer     {} with contents in {}", listing.display(), contents.display())?
                }
            }
        }
        writeln!(f, "view      {}", self.view.map_or("the first that works", View::name))?;
        match &self.work {
            Work::Below(folder) => writeln!(f, "changes   in a new folder below {}", folder.display())?,
            Work::Kept(folder) => writeln!(f, "changes   go on in {}", folder.display())?,
        }
        writeln!(
            f,
            "mount     /proc, what can hurt masked\nmount     /dev of its own\nmount     /sys, empty"
        )?;
        for mount in &self.mounts {
            let target = escape(&mount.target);
            match &mount.source {
                Source::Memory { mode, with_folders } => {
                    let folders = if *with_folders { ", with the view's folders" } else { "" };
                    writeln!(f, "mount     /{target}: in memory, mode {mode:04o}{folders}")?;
                }
                Source::ReadOnly(source) => {
                    writeln!(f, "mount     /{target}: {}, read-only", source.display())?
                }
                Source::Writable(source) => {
                    writeln!(f, "mount     /{target}: {}, writable", source.display())?
                }
            }
        }
        for binfmt in &self.binfmt {
            writeln!(f, "binfmt    {}: {}", binfmt.name, binfmt.interpreter.display())?;
        }
        for variable in &self.environment {
            writeln!(f, "env       {}", escape(variable))?;
        }
        writeln!(f, "tier      {}", self.tier.map_or("the best there is", Tier::name))?;
        writeln!(f, "hostname  {}", self.hostname)?;
        if let Some(uname) = &self.uname {
            writeln!(f, "uname     Linux {} {} {}", uname.release, uname.version, uname.machine)?;
        }
        if self.sorted_folders {
            writeln!(f, "folders   list their names in byte order")?;
        }
        writeln!(f, "network   none, loopback up")?;
        write!(f, "limits    {} processes", self.limits.processes)?;
        if let Some(memory) = self.limits.memory {
            write!(f, ", {memory} bytes of memory")?;
        }
        if let Some(time) = self.limits.time {
            write!(f, ", {} s a command", time.as_secs_f64())?;
        }
        write!(f, "\nsyncs     {}", if self.no_sync { "cost nothing" } else { "as asked" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let mut plan = Plan::new(vec!["/a\u{e4}".into(), "/b".into()], "/w");
        plan.binfmt.push(Binfmt {
            name: "arm".into(),
            line: ":arm:M::\\x7f:\\xff:{interpreter}:F".into(),
            interpreter: "/q".into(),
        });
        plan
    }

    #[test]
    fn a_plan_can_be_kept_and_replayed() {
        let text = serde_json::to_string(&plan()).expect("a plan is JSON");
        assert_eq!(serde_json::from_str::<Plan>(&text).expect("and back"), plan());
    }

    #[test]
    fn a_plan_can_be_read() {
        let text = plan().describe();
        for line in [
            "layer     /a\u{e4}\nlayer     /b\nview      the first that works\n",
            "changes   in a new folder below /w\n",
            "mount     /run: in memory, mode 0755, with the view's folders\n",
            "binfmt    arm: /q\n",
            "limits    4096 processes\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing in {text}");
        }
    }
}
