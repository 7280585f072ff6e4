//! A verified stream: bytes are hashed and counted as they are read, and a broken connection is
//! taken up again where it broke, unseen by the reader.

use std::{
    fs::File,
    io::{self, Read},
    time::Duration,
};

use sha2::Digest;

use super::{
    Acquire, Wanted,
    failure::{Cause, Failure},
    uri::{self, Target},
};
use crate::{digest::Sha256, error::Error};

/// A reconnection counts as progress, and the patience starts anew, after this many bytes.
const PROGRESS: u64 = 64 * 1024;

/// A stream of what was wanted.
///
/// [`Read::read`] gives an error as soon as it is certain that this is not what was wanted: more
/// bytes than expected, or a digest that differs. The last bytes are given only after the digest
/// was found right, so a reader that has had `size` bytes has had the right ones.
pub struct Download<'a> {
    acquire: &'a Acquire<'a>,
    wanted: &'a Wanted,
    /// Which of the URIs are still worth asking.
    usable: Vec<bool>,
    /// The last cause for each URI.
    causes: Vec<Option<Cause>>,
    stream: Option<Stream>,
    position: u64,
    hasher: sha2::Sha256,
    /// Whether it was put together from several answers.
    resumed: bool,
    /// How often it broke without progress, and where it last did.
    broken: usize,
    broken_at: u64,
    end: Option<Result<(), Failure>>,
}

/// An open answer.
struct Stream {
    index: usize,
    validator: Option<String>,
    body: Box<dyn Read + Send>,
}

impl<'a> Download<'a> {
    /// Connects to the first URI that answers. `usable`: which URIs may be tried at all.
    pub(super) fn open(
        acquire: &'a Acquire<'a>,
        wanted: &'a Wanted,
        usable: Vec<bool>,
    ) -> Result<Self, Failure> {
        let mut download = Download {
            acquire,
            wanted,
            causes: vec![None; wanted.uris.len()],
            usable,
            stream: None,
            position: 0,
            hasher: sha2::Sha256::new(),
            resumed: false,
            broken: 0,
            broken_at: 0,
            end: None,
        };
        download.connect()?;
        Ok(download)
    }

    /// How many bytes were read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The URI that is being read, without credentials.
    pub fn uri(&self) -> String {
        let index = self.index();
        self.wanted.uris.get(index).map(|uri| uri::shown(uri)).unwrap_or_default()
    }

    /// Which of the URIs is being read, or was last.
    pub(super) fn index(&self) -> usize {
        self.stream.as_ref().map_or(0, |stream| stream.index)
    }

    /// Whether it was put together from several answers.
    pub(super) fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Why it failed, if it did.
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.end.as_ref().and_then(|end| end.as_ref().err())
    }

    /// Reads what is left, so that size and digest are known to be right.
    pub(super) fn drain(&mut self) -> Result<(), Failure> {
        let mut buffer = [0; 16 * 1024];
        while self.end.is_none() {
            self.step(&mut buffer).ok(); // the failure is in `end`
        }
        self.end.clone().unwrap_or(Ok(()))
    }

    /// Opens a stream at the current position: each usable URI in turn, then, after a pause, those
    /// again whose trouble may pass.
    fn connect(&mut self) -> Result<(), Failure> {
        let rounds = self.acquire.patience.pauses.len();
        for round in self.broken.min(rounds)..=rounds {
            for index in 0..self.wanted.uris.len() {
                if !self.usable[index] {
                    continue;
                }
                if self.acquire.is_stopped() {
                    return Err(self.failed(index, Cause::Interrupted));
                }
                match self.connect_to(index) {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        return Ok(());
                    }
                    Err(cause) => {
                        // Our own interruption breaks connections in ways that look like the peer's.
                        let cause = if self.acquire.is_stopped() { Cause::Interrupted } else { cause };
                        self.usable[index] = cause.is_passing();
                        self.causes[index] = Some(cause);
                    }
                }
            }
            if !self.usable.contains(&true) {
                break;
            }
            if let Some(pause) = self.acquire.patience.pauses.get(round) {
                let asked = self.causes.iter().flatten().filter_map(|cause| match cause {
                    Cause::Busy { wait, .. } => *wait,
                    _ => None,
                });
                let longest = self.acquire.patience.longest_wait;
                self.acquire.pause(asked.min().unwrap_or(Duration::ZERO).max(*pause).min(longest));
            }
        }
        Err(self.failure_of_all())
    }

    fn connect_to(&self, index: usize) -> Result<Stream, Cause> {
        let wanted = self.wanted;
        let target = uri::parse(&wanted.uris[index]).ok_or(Cause::Unsupported)?;
        let (mut body, start, whole, validator): (Box<dyn Read + Send>, _, _, _) = match target {
            Target::File(path) => {
                let local = |error: io::Error| match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                        Cause::Absent(error.to_string())
                    }
                    _ => Cause::Local(error.to_string()),
                };
                let file = File::open(&path).map_err(local)?;
                let metadata = file.metadata().map_err(local)?;
                if !metadata.is_file() {
                    return Err(Cause::Absent("not a regular file".into()));
                }
                (Box::new(file), 0, Some(metadata.len()), None)
            }
            Target::Network { .. } if self.acquire.offline => return Err(Cause::Offline),
            Target::Network { uri, authorization } => {
                // If-Range only towards the server whose validator it is.
                let same = self.stream.as_ref().filter(|stream| stream.index == index);
                let if_range = same.and_then(|stream| stream.validator.as_deref());
                let answer = self.acquire.http.get(&uri, authorization.as_deref(), self.position, if_range);
                let answer = answer.map_err(|cause| match cause {
                    Cause::Truncated { received, .. } => self.ended_early(received),
                    other => other,
                })?;
                (answer.body, answer.start, answer.whole, answer.validator)
            }
        };
        if let (Some(found), Some(expected)) = (whole, wanted.size)
            && found != expected
        {
            return Err(Cause::WrongSize { found, expected });
        }
        // A server without ranges starts anew: what was read already is skipped. Should it differ,
        // the digest, which covers what the reader has had, does not come out right.
        let skip = self.position - start;
        let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink())
            .map_err(|error| self.acquire.http.cause(error.into(), &wanted.uris[index], None))?;
        if skipped < skip {
            return Err(self.ended_early(skipped));
        }
        Ok(Stream { index, validator, body })
    }

    fn ended_early(&self, received: u64) -> Cause {
        Cause::Truncated { received, expected: self.wanted.size.unwrap_or(self.position) }
    }

    /// One read; reconnects as often as it takes.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match &self.end {
                Some(Ok(())) => return Ok(0),
                Some(Err(failure)) => return Err(Error::from(failure.clone()).into()),
                None => {}
            }
            let index = self.index();
            if self.acquire.is_stopped() {
                self.end = Some(Err(self.failed(index, Cause::Interrupted)));
                continue;
            }
            let Some(stream) = &mut self.stream else {
                self.end = Some(Err(self.failure_of_all()));
                continue;
            };
            let result = stream.body.read(buffer);
            match result {
                Ok(0) => match self.wanted.size {
                    Some(expected) if self.position < expected => {
                        self.reconnect(index, self.ended_early(self.position));
                    }
                    _ => self.finish(index),
                },
                Ok(count) => match self.take(index, &buffer[..count]) {
                    true => return Ok(count),
                    false => continue,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let cause = match uri::is_remote(&self.wanted.uris[index]) {
                        true => self.acquire.http.cause(error.into(), &self.wanted.uris[index], None),
                        false => Cause::Local(error.to_string()),
                    };
                    self.reconnect(index, cause);
                }
            }
        }
    }

    /// Hashes and counts what came; whether the reader may have it.
    fn take(&mut self, index: usize, bytes: &[u8]) -> bool {
        self.hasher.update(bytes);
        self.position += bytes.len() as u64;
        let limit = self.wanted.size.unwrap_or(self.wanted.limit);
        if self.position > limit {
            let cause = Cause::WrongSize { found: self.position, expected: limit };
            self.end = Some(Err(self.failed(index, cause)));
            return false;
        }
        if self.wanted.size == Some(self.position)
            && let Err(cause) = self.check()
        {
            self.end = Some(Err(self.failed(index, cause)));
            return false;
        }
        true
    }

    fn check(&self) -> Result<(), Cause> {
        let found = Sha256(self.hasher.clone().finalize().into());
        match self.wanted.sha256 {
            Some(expected) if expected != found => Err(Cause::WrongDigest { found, expected }),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, index: usize) {
        self.end = Some(self.check().map_err(|cause| self.failed(index, cause)));
    }

    /// The stream broke: goes on at the same position, from wherever that can be had.
    fn reconnect(&mut self, index: usize, cause: Cause) {
        self.broken = if self.position >= self.broken_at + PROGRESS { 1 } else { self.broken + 1 };
        self.broken_at = self.position;
        self.usable[index] = cause.is_passing() && uri::is_remote(&self.wanted.uris[index]);
        self.causes[index] = Some(cause);
        self.resumed |= self.position > 0;
        let pauses = &self.acquire.patience.pauses;
        if self.broken > pauses.len() {
            self.end = Some(Err(self.failure_of_all()));
            return;
        }
        if let Some(again) = self.broken.checked_sub(2) {
            self.acquire.pause(pauses[again]);
        }
        if let Err(failure) = self.connect() {
            self.end = Some(Err(failure));
        }
    }

    /// The failure at one URI, among what the others said.
    fn failed(&mut self, index: usize, cause: Cause) -> Failure {
        if let Some(slot) = self.causes.get_mut(index) {
            *slot = Some(cause);
        }
        self.failure_of_all()
    }

    fn failure_of_all(&self) -> Failure {
        let pairs = self.wanted.uris.iter().zip(&self.causes);
        Failure {
            what: self.wanted.what.clone(),
            repository: self.wanted.repository.clone(),
            attempts: pairs.filter_map(|(uri, cause)| Some((uri::shown(uri), cause.clone()?))).collect(),
        }
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.step(buffer)
    }
}
