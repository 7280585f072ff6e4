//! Proxies from the environment, and plain HTTP through an HTTP proxy.
//!
//! `ureq` tunnels everything through an HTTP proxy with CONNECT. Proxies in front of archives
//! (squid as it is installed, apt-cacher-ng, approx) refuse CONNECT to port 80 or cannot cache it, so
//! an `http` request is sent to the proxy in absolute form (RFC 9112 section 3.2.2) by [`Forward`].

use ureq::{
    Error, Proxy, ProxyProtocol,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport},
    },
};

use super::{resolver::Remembering, uri};

/// The proxy settings of the environment, as curl(1) reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// For `http` URIs.
    pub(super) http: Option<String>,
    /// For `https` URIs.
    pub(super) https: Option<String>,
    /// Hosts that are reached directly: names, `.domain`s, addresses, or `*`.
    no_proxy: Vec<String>,
}

impl Settings {
    /// Reads `http_proxy`, `https_proxy`, `all_proxy`, `no_proxy` and their upper-case forms;
    /// the lower-case form wins, an empty value means none.
    pub(super) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| {
            let value = variable(name).or_else(|| variable(&name.to_ascii_uppercase()));
            value.map(|value| value.trim().to_owned())
        };
        // Without a scheme it is an HTTP proxy, as in curl; with one, credentials are known for such.
        let whole = |value: String| if value.contains("://") { value } else { format!("http://{value}") };
        let chosen = |name: &str| get(name).or_else(|| get("all_proxy"));
        let proxy = |name: &str| chosen(name).filter(|value| !value.is_empty()).map(whole);
        let no_proxy = get("no_proxy").unwrap_or_default();
        Settings {
            http: proxy("http_proxy"),
            https: proxy("https_proxy"),
            no_proxy: no_proxy
                .split([',', ' '])
                .map(|entry| {
                    entry.trim().trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase()
                })
                .filter(|entry| !entry.is_empty())
                .collect(),
        }
    }

    /// Whether `host` (perhaps with `:port`) is reached without a proxy.
    pub(super) fn is_direct(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => &host,
        };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        self.no_proxy.iter().any(|entry| {
            entry == "*"
                || *entry == host
                || entry == name
                || entry == bare
                || name.strip_suffix(entry.as_str()).is_some_and(|rest| rest.ends_with('.'))
        })
    }
}

/// How requests go through one proxy.
pub(super) enum Route {
    /// `ureq` does it: CONNECT or SOCKS.
    Tunnel(Proxy),
    /// In absolute form.
    Forward(ForwardConnector, ProxyResolver),
}

impl Route {
    /// The route of `https` (`tunnelled`) or `http` requests through `proxy`; `None` where that is
    /// no proxy's URI.
    pub(super) fn new(proxy: &str, tunnelled: bool) -> Option<Route> {
        let parsed = Proxy::new(proxy).ok()?;
        if tunnelled || parsed.protocol() != ProxyProtocol::Http {
            return Some(Route::Tunnel(parsed));
        }
        let authorization = parsed
            .username()
            .map(|user| uri::basic(format!("{user}:{}", parsed.password().unwrap_or_default()).as_bytes()));
        let address = format!("http://{}:{}/", parsed.host(), parsed.port()).parse().ok()?;
        Some(Route::Forward(
            ForwardConnector { authorization },
            ProxyResolver { proxy: address, resolver: Remembering::default() },
        ))
    }
}

/// Gives the proxy's addresses, whatever host is asked for.
#[derive(Debug)]
pub(super) struct ProxyResolver {
    proxy: Uri,
    resolver: Remembering,
}

impl Resolver for ProxyResolver {
    fn resolve(&self, _: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        self.resolver.resolve(&self.proxy, config, timeout)
    }
}

/// Wraps the connection to the proxy in [`Forward`].
#[derive(Debug)]
pub(super) struct ForwardConnector {
    authorization: Option<String>,
}

impl<In: Transport> Connector<In> for ForwardConnector {
    type Out = Forward<In>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        // Connections are pooled per scheme and authority, so the prefix holds for the whole life.
        let authority = details.uri.authority().map(|a| a.as_str()).unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let authorization = self
            .authorization
            .as_ref()
            .map(|value| format!("Proxy-Authorization: {value}\r\n"))
            .unwrap_or_default();
        Ok(chained.map(|inner| Forward { inner, prefix: format!("http://{host}"), authorization }))
    }
}

/// A connection to a proxy, on which `GET /path` leaves as `GET http://host/path`.
#[derive(Debug)]
pub(super) struct Forward<In> {
    inner: In,
    prefix: String,
    authorization: String,
}

impl<In: Transport> Transport for Forward<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        const METHOD: &[u8] = b"GET ";
        let output = self.inner.buffers().output();
        let amount = match output.get(..amount) {
            // Only a request line starts so: our requests have no body.
            Some(request) if request.starts_with(b"GET /") => {
                let request = request.to_vec();
                let line =
                    request.windows(2).position(|pair| pair == b"\r\n").map_or(request.len(), |at| at + 2);
                let pieces = [
                    METHOD,
                    self.prefix.as_bytes(),
                    &request[METHOD.len()..line],
                    self.authorization.as_bytes(),
                    &request[line..],
                ]
                .concat();
                output
                    .get_mut(..pieces.len())
                    .ok_or_else(|| Error::Io(std::io::Error::other("the request is too long for a proxy")))?
                    .copy_from_slice(&pieces);
                pieces.len()
            }
            _ => amount,
        };
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_from_the_environment() {
        let environment = [
            ("HTTP_PROXY", "http://upper:1"),
            ("http_proxy", "http://lower:1"),
            ("ALL_PROXY", "socks5://all:1"),
            ("no_proxy", "localhost, .inner.example,*.star.example 10.0.0.1 host.example:8080"),
        ];
        let read = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let settings = Settings::from_environment(read);
        assert_eq!(settings.http.as_deref(), Some("http://lower:1"));
        assert_eq!(settings.https.as_deref(), Some("socks5://all:1"));
        for (host, direct) in [
            ("localhost", true),
            ("localhost:3142", true),
            ("a.inner.example", true),
            ("inner.example", true),
            ("notinner.example", false),
            ("x.star.example:80", true),
            ("10.0.0.1", true),
            ("host.example:8080", true),
            ("host.example", false),
            ("mirror.example", false),
        ] {
            assert_eq!(settings.is_direct(host), direct, "{host}");
        }
        let star = Settings::from_environment(|name| (name == "NO_PROXY").then(|| "*".to_owned()));
        assert!(star.is_direct("anything") && star.http.is_none());
        let bare = Settings::from_environment(|name| {
            (name == "all_proxy").then(|| "me:secret@proxy.example:3128".into())
        });
        assert_eq!(bare.https.as_deref().map(uri::shown).as_deref(), Some("http://proxy.example:3128"));
        let none = Settings::from_environment(|name| match name {
            "http_proxy" => Some(String::new()),
            "ALL_PROXY" => Some("http://all:1".into()),
            _ => None,
        });
        assert_eq!(none.http, None, "an empty http_proxy switches the proxy off for http");
    }
}
