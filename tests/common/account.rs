//! Who runs a command: root, or accounts that `make setup` made, each with less than the other.

use std::{ffi::OsStr, os::unix::fs::MetadataExt as _, path::Path, process::Command};

/// An account of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// The superuser.
    Root,
    /// An account with a range of subordinate ids: the ordinary user of treestrap.
    Subordinate,
    /// An account without one.
    WithoutSubordinate,
    /// The one with a range, under no_new_privs: newuidmap cannot help it.
    NoNewPrivileges,
}

/// What the harness itself runs as.
pub(crate) fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").expect("a mounted /proc").uid()
}

/// Whether a user has at least 65536 subordinate ids, by name or number.
fn has_range(user: &str, uid: u32) -> bool {
    ["/etc/subuid", "/etc/subgid"].iter().all(|file| {
        std::fs::read_to_string(file).is_ok_and(|text| {
            text.lines().any(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                matches!(fields[..], [name, _, count]
                    if (name == user || name == uid.to_string()) && count.parse().is_ok_and(|n: u64| n >= 65536))
            })
        })
    })
}

/// The uid and gid of an account by name.
fn look_up(name: &str) -> Option<(u32, u32)> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

impl Account {
    fn name(self) -> &'static str {
        match self {
            Account::Root => "root",
            Account::Subordinate | Account::NoNewPrivileges => "treestrap-test",
            Account::WithoutSubordinate => "treestrap-nosub",
        }
    }

    /// Why commands cannot be run as this account; none where they can.
    pub(crate) fn missing(self) -> Option<String> {
        let own = own_uid();
        if own != 0 {
            let user = std::env::var("USER").unwrap_or_default();
            return match self {
                Account::Subordinate | Account::NoNewPrivileges if has_range(&user, own) => None,
                Account::Subordinate | Account::NoNewPrivileges => {
                    Some("you have no subordinate ids: run 'make setup'".to_owned())
                }
                _ => Some(format!("changing to the account {} needs root", self.name())),
            };
        }
        match look_up(self.name()) {
            None => Some(format!("there is no account {}: run 'make setup'", self.name())),
            Some((uid, _)) => {
                let wrong = match self {
                    Account::Root => false,
                    Account::Subordinate | Account::NoNewPrivileges => !has_range(self.name(), uid),
                    Account::WithoutSubordinate => has_range(self.name(), uid),
                };
                wrong.then(|| format!("{}'s subordinate ids are not as 'make setup' makes them", self.name()))
            }
        }
    }

    /// The account's uid and gid.
    pub(crate) fn ids(self) -> (u32, u32) {
        if own_uid() != 0 {
            let own = std::fs::metadata("/proc/self").expect("a mounted /proc");
            return (own.uid(), own.gid());
        }
        look_up(self.name()).expect("an account that is not missing")
    }

    /// A command that runs as this account, with a plain environment and no input.
    ///
    /// setpriv(1) replaces itself by the program: the child's process id is the program's.
    pub(crate) fn command(self, program: impl AsRef<OsStr>, home: &Path) -> Command {
        let mut words = Vec::new();
        if own_uid() == 0 && self != Account::Root {
            let (uid, gid) = self.ids();
            words.extend([
                "setpriv".to_owned(),
                format!("--reuid={uid}"),
                format!("--regid={gid}"),
                "--clear-groups".to_owned(),
                "--inh-caps=-all".to_owned(),
            ]);
        }
        if self == Account::NoNewPrivileges {
            if words.is_empty() {
                words.push("setpriv".to_owned());
            }
            words.push("--no-new-privs".to_owned());
        }
        let mut command = match words.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg("--").arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .env_clear()
            .env("HOME", home)
            .env("USER", self.name())
            .env("LANG", "C.UTF-8")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
            .stdin(std::process::Stdio::null());
        command
    }
}
