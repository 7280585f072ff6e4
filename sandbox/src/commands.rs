//! Running commands through pid 1: the caller's side of one command, with its descriptors, its terminal
//! and its end.

use std::{
    os::fd::{AsFd, BorrowedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{getpgrp, tcgetpgrp},
};

use crate::{
    error::{Doing, Error, Kind, Result},
    helper::unexpected,
    protocol::{Channel, FromChild, Run, ToChild},
    session::{Command, Status, Stdio},
    terminal::Foreground,
};

/// A connection to pid 1, and what commands get from there.
pub(crate) struct Commands {
    channel: Channel,
    /// `NAME=value`, of every command.
    environment: Vec<Vec<u8>>,
    /// How long a command may run.
    time: Option<Duration>,
    /// Where a command starts that names no folder.
    folder: Vec<u8>,
    /// Whether a command can inherit descriptor 0.
    has_input: bool,
    /// Why no more commands can run; none while they can.
    pub(crate) over: Option<&'static str>,
}

impl Commands {
    pub(crate) fn new(channel: Channel, environment: Vec<Vec<u8>>, time: Option<Duration>) -> Self {
        Commands { channel, environment, time, folder: b"/".to_vec(), has_input: true, over: None }
    }

    /// For programs of the host: see [`crate::host`].
    pub(crate) fn on_host(channel: Channel, environment: Vec<Vec<u8>>, folder: Vec<u8>) -> Self {
        Commands { folder, has_input: false, ..Commands::new(channel, environment, None) }
    }

    /// Runs a command and waits for its end, or until `stop` is true.
    pub(crate) fn run_unless(&mut self, command: &Command, stop: &AtomicBool) -> Result<Status> {
        if let Some(why) = self.over {
            return Err(Error::bug(format_args!("no command can run: {why}")));
        }
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let own: [BorrowedFd<'_>; 3] = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let mut descriptors = Vec::new();
        let mut numbers = Vec::new();
        for (number, (stdio, own)) in
            [&command.stdin, &command.stdout, &command.stderr].into_iter().zip(own).enumerate()
        {
            match stdio {
                Stdio::Inherit if number == 0 && !self.has_input => continue,
                Stdio::Inherit => descriptors.push(own),
                Stdio::Descriptor(descriptor) => descriptors.push(descriptor.as_fd()),
                Stdio::Null => continue,
            }
            numbers.push(number as RawFd);
        }
        for (descriptor, number) in &command.descriptors {
            descriptors.push(descriptor.as_fd());
            numbers.push(*number);
        }
        // Whoever has the foreground of the terminal gives it to the command, and takes it back.
        let interactive = self.has_input
            && matches!(command.stdin, Stdio::Inherit)
            && tcgetpgrp(stdin.as_fd()).is_ok_and(|foreground| foreground == getpgrp());
        let foreground = if interactive { Foreground::remember(stdin.as_fd()) } else { None };
        let run = ToChild::Run(Run {
            arguments: command.arguments.clone(),
            environment: merge(&self.environment, &command.environment),
            folder: if command.folder.is_empty() { &self.folder } else { &command.folder }.clone(),
            descriptors: numbers,
            terminal: foreground.is_some(),
        });
        if let Err(error) = self.channel.send(&run, &descriptors) {
            // Pid 1 has gone, and may have said why.
            return Err(match self.message() {
                Ok(FromChild::Failed(why)) => why,
                _ => error,
            });
        }
        self.wait(foreground, stop)
    }

    fn wait(&mut self, mut foreground: Option<Foreground<'_>>, stop: &AtomicBool) -> Result<Status> {
        let deadline = self.time.map(|limit| Instant::now() + limit);
        loop {
            if !self.message_within_a_moment()? {
                if stop.load(Ordering::Relaxed) {
                    self.end_all()?;
                    return Err(Error::new(Kind::Interrupted, "interrupted"));
                }
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    self.end_all()?;
                    let limit = self.time.unwrap_or_default().as_secs_f64();
                    return Err(Error::new(
                        Kind::TimeLimit,
                        format_args!("the command ran longer than {limit} s"),
                    ));
                }
                continue;
            }
            match self.message()? {
                FromChild::Ended(status) => return Ok(status),
                FromChild::Failed(error) => return Err(error),
                FromChild::Paused => {
                    if let Some(foreground) = foreground.as_mut() {
                        foreground.pause_with_the_command();
                    }
                    self.channel.send(&ToChild::Continue, &[])?;
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Whether pid 1 has said something. A moment is how long it takes at most to see a stop.
    fn message_within_a_moment(&self) -> Result<bool> {
        const MOMENT: u16 = 100; // milliseconds
        match poll(&mut [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)], PollTimeout::from(MOMENT)) {
            Ok(count) => Ok(count > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno).doing("waiting for the command"),
        }
    }

    fn message(&mut self) -> Result<FromChild> {
        match self.channel.receive()? {
            Some((message, _)) => Ok(message),
            None => {
                self.over = Some("pid 1 of the sandbox died");
                Err(Error::bug("pid 1 of the sandbox died under the command"))
            }
        }
    }

    /// Kills everything inside but pid 1.
    fn end_all(&mut self) -> Result<()> {
        self.channel.send(&ToChild::EndAll, &[])?;
        while !matches!(self.message()?, FromChild::Quiet) {}
        Ok(())
    }
}

/// The plan's variables without those that the command sets itself, then the command's.
fn merge(plan: &[Vec<u8>], command: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let name = |variable: &[u8]| variable.split(|&byte| byte == b'=').next().unwrap_or_default().to_vec();
    let mut merged: Vec<Vec<u8>> = Vec::new();
    for variable in plan.iter().chain(command) {
        merged.retain(|other| name(other) != name(variable));
        merged.push(variable.clone());
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_s_own_variables_win() {
        let list =
            |text: &str| -> Vec<Vec<u8>> { text.split(' ').map(|part| part.as_bytes().to_vec()).collect() };
        assert_eq!(merge(&list("A=1 B=2"), &list("B=3 C= B=4")), list("A=1 C= B=4"));
        assert_eq!(merge(&list("PATH=/bin"), &[]), list("PATH=/bin"));
    }
}
