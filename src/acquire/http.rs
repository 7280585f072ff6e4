//! One HTTP request: redirections, proxies, credentials; keep-alive is `ureq`'s.

use std::{io::Read, time::Duration};

use ureq::{
    Agent,
    config::RedirectAuthHeaders,
    http::{StatusCode, header},
    tls::{RootCerts, TlsConfig},
    unversioned::transport::{Connector, DefaultConnector, TcpConnector},
};

use super::{
    failure::Cause,
    proxy::{Route, Settings},
    resolver::Remembering,
    uri::{self, Target},
};

/// How many redirections are followed, as in apt and curl's usual settings.
const MAX_REDIRECTIONS: usize = 10;

/// A redirection's own body is read up to this many bytes, so that the connection can be kept.
const REDIRECTION_BODY: u64 = 64 * 1024;

/// The agents, one for each way out; they share nothing with other instances.
pub(super) struct Http {
    settings: Settings,
    direct: Agent,
    /// The agent for `http` URIs through a proxy.
    http: Option<Agent>,
    /// The agent for `https` URIs through a proxy.
    https: Option<Agent>,
    stall: Duration,
}

/// An answer with a body.
pub(super) struct Answer {
    /// Where its first byte belongs: 0, or what was asked for.
    pub(super) start: u64,
    /// The length of the whole file, where the server says it.
    pub(super) whole: Option<u64>,
    /// A strong validator for `If-Range` (RFC 9110 section 13.1.5).
    pub(super) validator: Option<String>,
    /// The body from `start` on.
    pub(super) body: Box<dyn Read + Send>,
}

impl Http {
    pub(super) fn new(settings: Settings, stall: Duration) -> Self {
        let config = |proxy: Option<ureq::Proxy>| {
            Agent::config_builder()
                .proxy(proxy)
                .http_status_as_error(false)
                .max_redirects(0)
                .redirect_auth_headers(RedirectAuthHeaders::Never)
                .user_agent(concat!("treestrap/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity") // a .gz is wanted as it is
                .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
                .timeout_resolve(Some(stall))
                .timeout_connect(Some(stall))
                .timeout_per_read(Some(stall))
                .timeout_per_write(Some(stall))
                .max_idle_connections(64)
                .max_idle_connections_per_host(32)
                .build()
        };
        let agent = |config| Agent::with_parts(config, DefaultConnector::default(), Remembering::default());
        let through = |proxy: &Option<String>, tunnelled: bool| {
            // What is no proxy's URI is reported when it is used: see `agent_for`.
            let agent: Agent = match Route::new(proxy.as_deref()?, tunnelled)? {
                Route::Tunnel(proxy) => agent(config(Some(proxy))),
                Route::Forward(connector, resolver) => {
                    let chain = ().chain(TcpConnector::default()).chain(connector);
                    Agent::with_parts(config(None), chain, resolver)
                }
            };
            Some(agent)
        };
        Http {
            direct: agent(config(None)),
            http: through(&settings.http, false),
            https: through(&settings.https, true),
            settings,
            stall,
        }
    }

    /// The same settings with connections of its own.
    pub(super) fn renewed(&self) -> Self {
        Http::new(self.settings.clone(), self.stall)
    }

    /// Breaks all connections; later requests fail.
    pub(super) fn shutdown(&self) {
        for agent in [Some(&self.direct), self.http.as_ref(), self.https.as_ref()].into_iter().flatten() {
            agent.clone().shutdown();
        }
    }

    /// The agent for a URI, and the proxy that it goes through.
    fn agent_for(&self, uri: &str) -> Result<(&Agent, Option<&str>), Cause> {
        if self.settings.is_direct(uri::host(uri).unwrap_or_default()) {
            return Ok((&self.direct, None));
        }
        let (setting, agent) = match uri.starts_with("https:") {
            true => (&self.settings.https, &self.https),
            false => (&self.settings.http, &self.http),
        };
        match (setting, agent) {
            (None, _) => Ok((&self.direct, None)),
            (Some(proxy), Some(agent)) => Ok((agent, Some(proxy))),
            (Some(proxy), None) => {
                Err(Cause::Proxy { proxy: uri::shown(proxy), reason: "it is no proxy's URI".into() })
            }
        }
    }

    /// GETs a URI from byte `start` on; `if_range`: only if this still is its validator, else whole.
    pub(super) fn get(
        &self,
        uri: &str,
        authorization: Option<&str>,
        start: u64,
        if_range: Option<&str>,
    ) -> Result<Answer, Cause> {
        let mut at = uri.to_owned();
        let mut authorization = authorization.map(str::to_owned);
        for _ in 0..=MAX_REDIRECTIONS {
            let (agent, proxy) = self.agent_for(&at)?;
            let mut request = agent.get(&at);
            if let Some(value) = &authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            if start > 0 {
                request = request.header(header::RANGE, format!("bytes={start}-"));
                if let Some(validator) = if_range {
                    request = request.header(header::IF_RANGE, validator);
                }
            }
            let response = request.call().map_err(|error| self.cause(error, &at, proxy))?;
            if !response.status().is_redirection() {
                return answer(response, start);
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let target = location.and_then(|location| uri::resolve(&at, location));
            let (next, own) = match target.as_deref().map(uri::parse) {
                Some(Some(Target::Network { uri, authorization })) => (uri, authorization),
                _ => {
                    return Err(Cause::Redirected(format!(
                        "redirected to nowhere (HTTP {})",
                        response.status()
                    )));
                }
            };
            if at.starts_with("https:") && !next.starts_with("https:") {
                return Err(Cause::Redirected(format!("redirected from https to {next}, which is refused")));
            }
            // Credentials stay with the host that they were given for.
            if own.is_some() || uri::host(&next) != uri::host(&at) {
                authorization = own;
            }
            let mut rest = response.into_body().into_reader().take(REDIRECTION_BODY);
            std::io::copy(&mut rest, &mut std::io::sink()).ok(); // only to keep the connection
            at = next;
        }
        Err(Cause::Redirected(format!("redirected more than {MAX_REDIRECTIONS} times, last to {at}")))
    }

    /// What an error of `ureq` means.
    pub(super) fn cause(&self, error: ureq::Error, uri: &str, proxy: Option<&str>) -> Cause {
        use ureq::{Error as E, Timeout};
        let host = || uri::host(proxy.unwrap_or(uri)).unwrap_or(uri).to_owned();
        let towards = |text: String| match proxy {
            Some(proxy) => Cause::Unreachable(format!("the proxy {}: {text}", uri::shown(proxy))),
            None => Cause::Unreachable(text),
        };
        match error {
            E::HostNotFound => Cause::NoSuchHost { host: host(), passing: false },
            E::ConnectProxyFailed(reason) => {
                Cause::Proxy { proxy: proxy.map(uri::shown).unwrap_or_default(), reason }
            }
            E::Timeout(Timeout::Connect | Timeout::Resolve) => {
                towards(format!("no answer within {} seconds", self.stall.as_secs()))
            }
            E::Timeout(_) => Cause::Stalled(self.stall),
            E::Tls(reason) => Cause::Tls(reason.to_owned()),
            E::Rustls(error) => Cause::Tls(error.to_string()),
            E::BadUri(_) | E::Http(_) => Cause::Unsupported,
            E::Io(error) => {
                use std::io::ErrorKind as K;
                if error.get_ref().is_some_and(|inner| inner.is::<std::io::Error>()) {
                    return Cause::Lost(error.to_string());
                }
                let text = error.to_string();
                // std gives getaddrinfo's errors no kind of their own.
                if text.contains("failed to lookup address") {
                    return Cause::NoSuchHost { host: host(), passing: text.contains("Temporary failure") };
                }
                match error.kind() {
                    K::ConnectionRefused
                    | K::HostUnreachable
                    | K::NetworkUnreachable
                    | K::AddrNotAvailable => towards(text),
                    K::InvalidData if uri.starts_with("https:") => Cause::Tls(text),
                    K::TimedOut | K::WouldBlock => Cause::Stalled(self.stall),
                    _ => Cause::Lost(text),
                }
            }
            other => Cause::Lost(other.to_string()),
        }
    }
}

/// Sorts an answer that is no redirection.
fn answer(response: ureq::http::Response<ureq::Body>, asked: u64) -> Result<Answer, Cause> {
    let headers = response.headers();
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let status = response.status();
    let start = match status {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT => asked,
        StatusCode::RANGE_NOT_SATISFIABLE => {
            // `bytes */LENGTH`: the file ends before the byte that was asked for.
            let whole = text(header::CONTENT_RANGE).and_then(|range| range.rsplit('/').next()?.parse().ok());
            return Err(Cause::Truncated { received: whole.unwrap_or(asked), expected: 0 });
        }
        _ => return Err(refusal(status, text(header::RETRY_AFTER))),
    };
    let mut whole = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if status == StatusCode::PARTIAL_CONTENT {
        let range = text(header::CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes "));
        let (part, total) = range.and_then(|range| range.split_once('/')).unwrap_or_default();
        let first = part.split('-').next().and_then(|first| first.parse::<u64>().ok());
        if first != Some(asked) {
            return Err(Cause::Lost("the server answers with another range than was asked for".into()));
        }
        whole = total.parse().ok();
    }
    // A weak validator must not be used in If-Range.
    let validator = text(header::ETAG).filter(|tag| tag.starts_with('"')).or(text(header::LAST_MODIFIED));
    let validator = validator.map(str::to_owned);
    Ok(Answer { start, whole, validator, body: Box::new(response.into_body().into_reader()) })
}

fn refusal(status: StatusCode, retry_after: Option<&str>) -> Cause {
    match status.as_u16() {
        code @ (404 | 410) => Cause::Absent(format!("HTTP {code}")),
        code @ (401 | 403 | 407) => Cause::Denied(code),
        code @ (408 | 429 | 500..=599) => {
            // The form with a date is rare, and clocks differ: our own back-off does for it.
            let seconds = retry_after.and_then(|value| value.trim().parse().ok());
            Cause::Busy { status: code, wait: seconds.map(Duration::from_secs) }
        }
        code => Cause::Status(code),
    }
}
