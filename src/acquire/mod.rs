//! The transport that `lock` and `fetch` share: the only code that talks to a network.
//!
//! [`Wanted`] says what is to be got, from which URIs, and what its size and digest are;
//! [`Acquire::deliver`] hands it over as a stream that is verified while it is read. Which files are
//! wanted, and what is done with them, is not known here.
//!
//! | file | what it does |
//! |---|---|
//! | `uri` | joins URIs, hides credentials |
//! | `proxy` | proxies of the environment, plain HTTP through a proxy |
//! | `resolver` | host names, looked up once |
//! | `http` | one request: redirections, status codes |
//! | `download` | the verified stream: resumes, fails over |
//! | `failure` | why it did not work |
//! | `meter` | counts bytes, reports progress |
//! | `workers` | threads that stop together |

mod download;
mod failure;
mod http;
mod meter;
mod proxy;
mod resolver;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;
pub mod uri;
mod workers;

use std::{
    io::Read,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub use self::{
    download::Download,
    failure::{Cause, Failure},
    meter::{Meter, Metered},
    workers::parallel,
};
use crate::{
    digest::Sha256,
    error::{Error, Kind, Result},
};

/// In the place of a repository's name, for what may be in any of them.
pub const ANY: &str = "(any)";

/// What is to be got.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What it is, for messages: `the package nginx_1.22.1-9_armhf`.
    pub what: String,
    /// The manifest's name of the repository, for messages; or [`ANY`].
    pub repository: String,
    /// Whole URIs, tried in turn (see [`uri::join`]).
    pub uris: Vec<String>,
    /// Its size in bytes, where that is known.
    pub size: Option<u64>,
    /// Its digest, where that is known.
    pub sha256: Option<Sha256>,
    /// The most bytes that are read where `size` is not known.
    pub limit: u64,
}

/// How long to wait for what, and how often to try again.
#[derive(Clone, Debug)]
pub struct Patience {
    /// After this long without a byte, or without a connection, another try is made. apt waits as
    /// long (`Acquire::http::Timeout`).
    pub stall: Duration,
    /// The pauses between tries; as many tries more as there are pauses.
    pub pauses: Vec<Duration>,
    /// The longest that a server's `Retry-After` is heeded.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            stall: Duration::from_secs(30),
            pauses: [200, 1000, 4000].map(Duration::from_millis).to_vec(),
            longest_wait: Duration::from_secs(60),
        }
    }
}

/// A way to the archives: settings, connections, and whether to stop.
pub struct Acquire<'a> {
    offline: bool,
    patience: Patience,
    http: http::Http,
    /// The user wants to stop.
    stop: &'a AtomicBool,
    /// Something failed, and the rest is to stop too.
    cancelled: Mutex<bool>,
    woken: Condvar,
}

impl<'a> Acquire<'a> {
    /// With the proxies of the environment. `offline`: every attempt to use the network fails.
    /// `stop`: set when the user wants to stop.
    pub fn new(offline: bool, stop: &'a AtomicBool) -> Self {
        let settings = proxy::Settings::from_environment(|name| std::env::var(name).ok());
        Acquire::with_settings(offline, stop, Patience::default(), settings)
    }

    /// A way to test servers: quick to give up, and past any proxy that the tests' environment names.
    #[cfg(test)]
    pub(crate) fn for_tests(offline: bool, stop: &'a AtomicBool) -> Self {
        let patience = Patience {
            stall: Duration::from_millis(400),
            pauses: vec![Duration::from_millis(1); 3],
            longest_wait: Duration::from_millis(20),
        };
        Acquire::with_settings(offline, stop, patience, proxy::Settings::default())
    }

    fn with_settings(
        offline: bool,
        stop: &'a AtomicBool,
        patience: Patience,
        settings: proxy::Settings,
    ) -> Self {
        let http = http::Http::new(settings, patience.stall);
        Acquire { offline, patience, http, stop, cancelled: Mutex::new(false), woken: Condvar::new() }
    }

    /// The same settings with connections of its own, so that [`Acquire::cancel`] ends only what
    /// was begun with it.
    pub fn renewed(&self) -> Acquire<'a> {
        Acquire {
            offline: self.offline,
            patience: self.patience.clone(),
            http: self.http.renewed(),
            stop: self.stop,
            cancelled: Mutex::new(false),
            woken: Condvar::new(),
        }
    }

    /// Whether the network may not be used.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// Whether the user asked to stop, or [`Acquire::cancel`] was called.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || *self.cancelled()
    }

    /// Ends all that is under way with this value: blocked reads return at once.
    pub fn cancel(&self) {
        *self.cancelled() = true;
        self.woken.notify_all();
        self.http.shutdown();
    }

    fn cancelled(&self) -> std::sync::MutexGuard<'_, bool> {
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, unless or until it is to stop.
    fn pause(&self, duration: Duration) {
        // Ctrl-C sets a flag and cannot wake a condition variable: look at it this often.
        const GLANCE: Duration = Duration::from_millis(100);
        let end = Instant::now() + duration;
        let mut cancelled = self.cancelled();
        while !*cancelled && !self.stop.load(Ordering::Relaxed) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.woken.wait_timeout(cancelled, left.min(GLANCE));
            cancelled = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Opens what is wanted as a verified stream. [`Acquire::deliver`] also copes with a mirror whose
    /// content is wrong.
    pub fn open<'b>(&'b self, wanted: &'b Wanted) -> Result<Download<'b>, Failure> {
        Download::open(self, wanted, vec![true; wanted.uris.len()])
    }

    /// Gets what is wanted into memory.
    pub fn get(&self, wanted: &Wanted) -> Result<Vec<u8>> {
        self.deliver(wanted, &mut |stream| {
            let mut bytes = Vec::with_capacity(wanted.size.unwrap_or(0).min(1 << 28) as usize);
            stream.read_to_end(&mut bytes)?;
            Ok(bytes)
        })
        .map_err(Error::from)
    }

    /// Gives `consume` the stream, then reads the stream to its end: what is returned was made of
    /// the right bytes. `consume` is called again, with a fresh stream, where what came was wrong
    /// but another URI is left, or where it had been put together from several answers.
    pub fn deliver<T>(
        &self,
        wanted: &Wanted,
        consume: &mut dyn FnMut(&mut Download<'_>) -> Result<T>,
    ) -> Result<T, Undelivered> {
        let mut usable = vec![true; wanted.uris.len()];
        let mut wrong: Vec<(String, Cause)> = Vec::new();
        let mut whole_again = true;
        loop {
            let opened = Download::open(self, wanted, usable.clone());
            let mut download = opened.map_err(|failure| with_earlier(failure, &wrong))?;
            let result = match consume(&mut download) {
                // A full disk is not cured by reading on.
                Err(error) if error.kind() != Kind::Input && download.failure().is_none() => {
                    return Err(Undelivered::Consumer(error));
                }
                result => result,
            };
            // A consumer that chokes on wrong content is not the one to complain.
            let Err(failure) = download.drain() else { return result.map_err(Undelivered::Consumer) };
            if !failure.is_wrong_content() {
                return Err(with_earlier(failure, &wrong).into());
            }
            if download.is_resumed() && whole_again {
                whole_again = false;
                continue;
            }
            usable[download.index()] = false;
            if !usable.contains(&true) {
                return Err(with_earlier(failure, &wrong).into());
            }
            wrong.extend(failure.attempts.into_iter().filter(|(_, cause)| cause.is_wrong_content()));
        }
    }
}

/// Adds what was wrong in earlier rounds and is not named any more.
fn with_earlier(mut failure: Failure, earlier: &[(String, Cause)]) -> Failure {
    for (uri, cause) in earlier.iter().rev() {
        if failure.attempts.iter().all(|(other, _)| other != uri) {
            failure.attempts.insert(0, (uri.clone(), cause.clone()));
        }
    }
    failure
}

/// Why [`Acquire::deliver`] did not: the transport failed, or the consumer did.
#[derive(Debug)]
pub enum Undelivered {
    /// It could not be got.
    Failure(Failure),
    /// The stream was right; who read it failed.
    Consumer(Error),
}

impl From<Failure> for Undelivered {
    fn from(failure: Failure) -> Self {
        Undelivered::Failure(failure)
    }
}

impl From<Undelivered> for Error {
    fn from(undelivered: Undelivered) -> Error {
        match undelivered {
            Undelivered::Failure(failure) => failure.into(),
            Undelivered::Consumer(error) => error,
        }
    }
}
