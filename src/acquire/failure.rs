//! Why something could not be got: told apart, so that callers can branch and people can act.

use std::{fmt, time::Duration};

use crate::{
    digest::Sha256,
    error::{Error, Kind},
};

/// Why one attempt at one URI failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Cause {
    /// The network may not be used (`--offline`).
    #[error("not tried, because of --offline")]
    Offline,
    /// The user asked to stop, or something else failed and took this along.
    #[error("interrupted")]
    Interrupted,
    /// The host name has no address. `passing`: the resolver itself failed, and may recover.
    #[error("the host name {host} cannot be resolved")]
    NoSuchHost {
        /// The name that was looked up: the mirror's or the proxy's.
        host: String,
        /// Whether asking again may help.
        passing: bool,
    },
    /// No connection came about.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// The proxy refused, or is none.
    #[error("the proxy {proxy} does not let it through: {reason}")]
    Proxy {
        /// The proxy, without credentials.
        proxy: String,
        /// What it said.
        reason: String,
    },
    /// TLS failed: a certificate that is not trusted, mostly.
    #[error("TLS: {0}")]
    Tls(String),
    /// There is no such file (HTTP 404 or 410, or a local file that is not there).
    #[error("there is no such file ({0})")]
    Absent(String),
    /// The server wants credentials, or forbids (HTTP 401, 403, 407).
    #[error("access denied (HTTP {0})")]
    Denied(u16),
    /// The server is out of order or busy (HTTP 5xx, 408, 429), perhaps saying for how long.
    #[error("the server answered HTTP {status}")]
    Busy {
        /// The status.
        status: u16,
        /// `Retry-After`.
        wait: Option<Duration>,
    },
    /// Any other answer that is no success.
    #[error("the server answered HTTP {0}")]
    Status(u16),
    /// Redirected in a circle, nowhere, or from https to http.
    #[error("{0}")]
    Redirected(String),
    /// Nothing came for so long.
    #[error("nothing came for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// The connection broke, or did not speak HTTP.
    #[error("the connection broke: {0}")]
    Lost(String),
    /// It ended early.
    #[error("truncated: {received} of {expected} bytes")]
    Truncated {
        /// How many bytes came.
        received: u64,
        /// How many there should be.
        expected: u64,
    },
    /// It is longer than it should be, or the server says that its length is another.
    #[error("wrong size: {found} bytes instead of {expected}")]
    WrongSize {
        /// The length announced, or what had come when it was given up.
        found: u64,
        /// The right size.
        expected: u64,
    },
    /// Its digest is another.
    #[error("wrong content: its SHA-256 is {found}, not {expected}")]
    WrongDigest {
        /// What came.
        found: Sha256,
        /// What was to come.
        expected: Sha256,
    },
    /// The URI's scheme is not known, or it is malformed.
    #[error("not a URI that can be fetched (http, https, file and copy can)")]
    Unsupported,
    /// A local file cannot be read.
    #[error("{0}")]
    Local(String),
}

impl Cause {
    /// Whether the same request may succeed in a moment.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Cause::NoSuchHost { passing, .. } => *passing,
            Cause::Unreachable(_)
            | Cause::Busy { .. }
            | Cause::Stalled(_)
            | Cause::Lost(_)
            | Cause::Truncated { .. } => true,
            _ => false,
        }
    }

    /// Whether the server gave something that is not what was wanted.
    pub(super) fn is_wrong_content(&self) -> bool {
        matches!(self, Cause::WrongSize { .. } | Cause::WrongDigest { .. } | Cause::Truncated { .. })
    }

    fn hint(&self, repository: &str) -> Option<String> {
        let repository = match repository {
            super::ANY => "the manifest's repositories".to_owned(),
            name => format!("[repos.{name}]"),
        };
        Some(match self {
            Cause::Offline => "run the same command once without --offline".to_owned(),
            Cause::NoSuchHost { .. } | Cause::Unreachable(_) | Cause::Stalled(_) | Cause::Lost(_) => format!(
                "check the network and the proxy settings (http_proxy, https_proxy, no_proxy), or name \
                 another mirror in `uris` of {repository}"
            ),
            Cause::Proxy { .. } => {
                "correct http_proxy, https_proxy or ALL_PROXY, or name the host in no_proxy".to_owned()
            }
            Cause::Tls(_) => {
                "install the package ca-certificates, check the clock (date), or set SSL_CERT_FILE to \
                              the certificate authority of your network"
                    .to_owned()
            }
            Cause::Absent(_) => format!(
                "the archive may have moved on since the lock or the index was made: run `treestrap lock --update`; \
                 if the mirror is gone, correct `uris` of {repository}"
            ),
            Cause::Denied(_) => {
                format!("put the credentials into `uris` of {repository}: https://user:password@host/…")
            }
            Cause::Busy { .. } => {
                format!("try again later, or name another mirror in `uris` of {repository}")
            }
            Cause::Truncated { .. } | Cause::WrongSize { .. } | Cause::WrongDigest { .. } => format!(
                "the mirror or a proxy on the way serves something else: try again later, or name another mirror in \
                 `uris` of {repository}"
            ),
            Cause::Unsupported => format!("correct `uris` of {repository}"),
            Cause::Interrupted | Cause::Status(_) | Cause::Redirected(_) | Cause::Local(_) => return None,
        })
    }
}

/// Something could not be got, from any of its URIs.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What it is, such as `the package nginx_1.22.1-9_armhf`.
    pub what: String,
    /// The manifest's name of the repository.
    pub repository: String,
    /// The URIs that were tried, without credentials, each with the last cause; never empty.
    pub attempts: Vec<(String, Cause)>,
}

impl Failure {
    /// Whether every URI said that there is no such file.
    pub fn is_absent(&self) -> bool {
        self.attempts.iter().all(|(_, cause)| matches!(cause, Cause::Absent(_)))
    }

    /// Whether a server gave something that is not what was wanted.
    pub fn is_wrong_content(&self) -> bool {
        !self.is_interrupted() && self.attempts.iter().any(|(_, cause)| cause.is_wrong_content())
    }

    /// Whether the user asked to stop.
    pub fn is_interrupted(&self) -> bool {
        self.attempts.iter().any(|(_, cause)| matches!(cause, Cause::Interrupted))
    }

    /// The cause that says most: content that is wrong before a file that is not there.
    fn main_cause(&self) -> Option<&Cause> {
        let causes = || self.attempts.iter().map(|(_, cause)| cause);
        causes()
            .find(|cause| cause.is_wrong_content())
            .or_else(|| causes().find(|cause| !matches!(cause, Cause::Absent(_))))
            .or_else(|| causes().next())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot get {} of repository {}", self.what, self.repository)?;
        for (index, (uri, cause)) in self.attempts.iter().enumerate() {
            write!(f, "{}{uri}: {cause}", if index == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        if failure.is_interrupted() {
            return Error::new(Kind::Interrupted, format!("interrupted while getting {}", failure.what));
        }
        let error = Error::input(&failure);
        match failure.main_cause().and_then(|cause| cause.hint(&failure.repository)) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
