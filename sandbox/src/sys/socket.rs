//! Receiving descriptors over a Unix socket. (Sending them is safe in nix.)

use std::{
    io::IoSliceMut,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::net::UnixStream,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};

/// The most descriptors in one message; the kernel's own limit (SCM_MAX_FD) is 253.
pub(crate) const MOST_DESCRIPTORS: usize = 128;

/// Fills as much of `buffer` as one recvmsg(2) gives, with the descriptors that came along (closed
/// on exec). 0 bytes: the other side has closed.
pub(crate) fn receive(socket: &UnixStream, buffer: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([libc::c_int; MOST_DESCRIPTORS]);
    loop {
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let mut descriptors = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = part {
                // SAFETY: the kernel has just made these descriptors for us; nothing else owns them.
                descriptors.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        return Ok((message.bytes, descriptors));
    }
}
