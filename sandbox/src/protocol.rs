//! How the caller, the monitor and pid 1 talk: messages over Unix stream sockets, a JSON value each,
//! with descriptors beside it.
//!
//! All three are the same program, so the format has no version. What pid 1 says is parsed as
//! foreign input all the same: it is inside.

use std::{
    io::{IoSlice, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    capture::Change,
    disk::{Learnt, Moved, Order, Target},
    enforced::{Inside, Tier, View},
    error::{Doing, Error, Result},
    host::OnHost,
    owners::{Owner, Remembered},
    plan::{Plan, Stored},
    session::Status,
    sys,
};

/// No message is larger; a length above it is garbage. (Plans and batches of changes have some KiB, and
/// with long attributes some MiB.)
const LONGEST: u32 = 1 << 28;

/// What the monitor is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToMonitor {
    /// The id maps are written.
    Mapped {
        /// How.
        tier: Tier,
        /// Whether the monitor stays in the caller's other groups.
        keep_groups: bool,
    },
    /// Start a sandbox. With it come pid 1's socket and the lock of the folder.
    Start(Box<Start>),
    /// End everything inside and begin to list what changed.
    Changes,
    /// Send the next changes.
    Next,
    /// Send no more changes.
    Enough,
    /// End everything inside and move the upper layer here.
    Keep(#[serde(with = "crate::bytes")] PathBuf),
    /// End everything inside, remove what is to be removed, and end.
    Close,
    /// Read a folder of the host, as changes.
    Read(#[serde(with = "crate::bytes")] PathBuf),
    /// End everything inside and move the changes where this says.
    Move(Box<Order>),
    /// End the move that was begun from this folder.
    FinishMove(#[serde(with = "crate::bytes")] PathBuf),
    /// Get ready for programs of the host. With it comes pid 1's socket.
    StartOnHost(Box<Start>),
    /// End all programs of the host.
    EndOnHost,
    /// The caller has what became of the move: remove the session's folder.
    Conclude,
    /// Write a tree to a folder of the host.
    CheckOut(Stored, Target),
    /// Remove all that is in this folder of the host.
    Empty(#[serde(with = "crate::bytes")] PathBuf),
    /// The file is this owner's, outside.
    ItIs(Owner),
    /// Remove these folders of killed sessions.
    Remove(#[serde(with = "crate::bytes")] Vec<PathBuf>),
}

/// What a sandbox is started with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The plan, all paths absolute.
    pub(crate) plan: Plan,
    /// How ids are mapped.
    pub(crate) tier: Tier,
    /// The session's folder.
    #[serde(with = "crate::bytes")]
    pub(crate) folder: PathBuf,
    /// Where the caller may have folders of its own: see [`crate::LayerFolder`].
    #[serde(with = "crate::bytes")]
    pub(crate) swept: Vec<PathBuf>,
    /// For programs of the host: which tree they work on. There is no session's folder then.
    pub(crate) on_host: Option<OnHost>,
}

/// What the monitor answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromMonitor {
    /// The user namespace is there, without maps.
    Unshared,
    /// Pid 1 runs; it speaks for itself from here on.
    Started,
    /// Some changes; the descriptors beside it belong to those that have content, in their order.
    Changes {
        /// The changes.
        changes: Vec<Change>,
        /// Whether these are the last.
        last: bool,
    },
    /// Whose is the file beside this? Asked while a folder is read.
    WhoseIsThis,
    /// The folder has been read.
    Read(Learnt),
    /// The changes have been moved.
    Moved(Moved),
    /// Programs of the host have ended; owners of links.
    Links(Vec<Remembered>),
    /// What was asked is done.
    Done,
    /// It failed.
    Failed(Error),
}

/// What pid 1 is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToChild {
    /// Run a command; the descriptors beside it become `descriptors`, in that order.
    Run(Run),
    /// A stopped command goes on, in the foreground of its terminal.
    Continue,
    /// Kill every process but pid 1.
    EndAll,
}

/// A command as pid 1 gets it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Program and arguments.
    #[serde(with = "crate::bytes")]
    pub(crate) arguments: Vec<Vec<u8>>,
    /// The whole environment.
    #[serde(with = "crate::bytes")]
    pub(crate) environment: Vec<Vec<u8>>,
    /// The folder to start in.
    #[serde(with = "crate::bytes")]
    pub(crate) folder: Vec<u8>,
    /// The numbers that the descriptors beside the message get.
    pub(crate) descriptors: Vec<i32>,
    /// Whether it gets the foreground of the terminal that is its descriptor 0.
    pub(crate) terminal: bool,
}

/// What pid 1 says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromChild {
    /// The sandbox is up.
    Ready(Inside),
    /// Programs of the host can be started.
    ReadyOnHost,
    /// The command has ended.
    Ended(Status),
    /// The command was stopped (Ctrl-Z).
    Paused,
    /// No process but pid 1 is left.
    Quiet,
    /// The sandbox could not be set up, or the command could not be started.
    Failed(Error),
}

/// What the process that serves views is told, by pid 1.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToServer {
    /// Serve this view on the device beside the message, which has been mounted.
    Serve(View),
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromServer {
    /// The file system can be used.
    Serving,
    /// It cannot.
    Failed(Error),
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Channel(UnixStream);

impl Channel {
    /// Over this socket.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Channel(UnixStream::from(socket))
    }

    /// A connection; both ends are closed on exec.
    pub(crate) fn pair() -> Result<(Channel, Channel)> {
        let (a, b) = UnixStream::pair().doing("making a socket pair")?;
        Ok((Channel(a), Channel(b)))
    }

    /// The socket itself.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.0.into()
    }

    /// Sends a message with descriptors.
    pub(crate) fn send<T: Serialize>(&mut self, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let body = serde_json::to_vec(message).map_err(Error::bug)?;
        let length = u32::try_from(body.len()).ok().filter(|&length| length <= LONGEST);
        let length = length.ok_or_else(|| Error::plan("the plan is too large"))?.to_le_bytes();
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &rights[..0] } else { &rights[..] };
        let slices = [IoSlice::new(&length), IoSlice::new(&body)];
        // One call for all of a usual message. The descriptors travel with its first byte.
        let sent = sendmsg::<()>(self.0.as_raw_fd(), &slices, rights, MsgFlags::MSG_NOSIGNAL, None)
            .doing("sending to a process of the sandbox")?;
        let rest = (length.iter().skip(sent).copied().collect::<Vec<u8>>(), &body[sent.saturating_sub(4)..]);
        self.0
            .write_all(&rest.0)
            .and_then(|()| self.0.write_all(rest.1))
            .doing("sending to a process of the sandbox")
    }

    /// Waits for a message. None: the other side is gone.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>> {
        const DOING: &str = "receiving from a process of the sandbox";
        let mut length = [0; 4];
        let (received, descriptors) = match sys::socket::receive(&self.0, &mut length) {
            Ok((0, _)) | Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            other => other.doing(DOING)?,
        };
        self.0.read_exact(&mut length[received..]).doing(DOING)?;
        let length = u32::from_le_bytes(length);
        if length > LONGEST {
            return Err(Error::bug(format_args!("{DOING}: a message of {length} bytes")));
        }
        let mut body = Vec::new();
        let read = Read::by_ref(&mut self.0).take(length.into()).read_to_end(&mut body).doing(DOING)?;
        if read < length as usize {
            return Ok(None); // it died while sending
        }
        let message = serde_json::from_slice(&body).map_err(|e| Error::bug(format_args!("{DOING}: {e}")))?;
        Ok(Some((message, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_together() {
        let (mut a, mut b) = Channel::pair().expect("a pair");
        let sender = std::thread::spawn(move || {
            for size in [0, 1, 100, 1 << 20] {
                let file = tempfile::tempfile().expect("a file");
                let folder = vec![b'x'; size];
                let path: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(folder);
                a.send(&ToMonitor::Keep(path.into()), &[file.as_fd(), file.as_fd()]).expect("sent");
            }
        });
        for size in [0, 1, 100, 1 << 20] {
            let (message, descriptors) = b.receive().expect("no error").expect("a message");
            let ToMonitor::Keep(path) = message else { panic!("another message: {message:?}") };
            assert_eq!((path.as_os_str().len(), descriptors.len()), (size, 2));
        }
        sender.join().expect("it ended");
        assert!(b.receive::<ToMonitor>().expect("no error").is_none(), "the other side is gone");
    }

    #[test]
    fn garbage_is_an_error() {
        for garbage in [&b"\xff\xff\xff\xffxx"[..], b"\x02\0\0\0{}", b"\x03\0\0\0\"\xff\""] {
            let (mut a, mut b) = Channel::pair().expect("a pair");
            a.0.write_all(garbage).expect("written");
            assert!(b.receive::<FromChild>().is_err(), "{garbage:?}");
        }
    }
}
