//! The capabilities that commands inside can have: what dpkg and maintainer scripts use, no more.
//!
//! All of them count in the user namespace only. Dropping the others from the bounding set is a
//! second fence behind that one.

use caps::{CapSet, Capability};

use crate::error::{Error, Result};

/// What stays, with the reason.
pub(crate) const KEPT: &[(Capability, &str)] = &[
    (Capability::CAP_CHOWN, "dpkg, install -o and postinst scripts give files to other users"),
    (Capability::CAP_DAC_OVERRIDE, "root writes into folders of other users"),
    (Capability::CAP_FOWNER, "chmod and setxattr on files of other users"),
    (Capability::CAP_FSETID, "set-id bits survive a write and a chown"),
    (Capability::CAP_KILL, "prerm scripts stop daemons that run as another user"),
    (Capability::CAP_SETGID, "su, runuser, setpriv, start-stop-daemon --chuid in scripts"),
    (Capability::CAP_SETUID, "the same"),
    (Capability::CAP_SETPCAP, "programs that drop capabilities themselves (setpriv, capsh)"),
    (Capability::CAP_SETFCAP, "setcap in postinst scripts (iputils-ping, wireshark-common)"),
    (Capability::CAP_SYS_CHROOT, "dpkg --root, systemd-sysusers --root, sshd's privilege separation"),
    (Capability::CAP_NET_BIND_SERVICE, "a server started for its own set-up; the network is private"),
    (Capability::CAP_NET_RAW, "ping, whose file capability could not be had at exec otherwise"),
];

/// Drops all others from the bounding set, for every program that will be executed, and empties the
/// sets through which capabilities survive an exec. Gives the names of those that stay.
pub(crate) fn reduce() -> Result<Vec<String>> {
    let failed = |error| Error::machine(format_args!("dropping capabilities: {error}"));
    for capability in caps::read(None, CapSet::Bounding).map_err(failed)? {
        if !KEPT.iter().any(|(kept, _)| *kept == capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(failed)?;
        }
    }
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).map_err(failed)?;
    }
    let bounding = caps::read(None, CapSet::Bounding).map_err(failed)?;
    Ok(KEPT.iter().filter(|(kept, _)| bounding.contains(kept)).map(|(kept, _)| kept.to_string()).collect())
}
