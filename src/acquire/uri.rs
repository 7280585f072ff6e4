//! URIs as the transport sees them: joined, percent-encoded, and shown without credentials.
//!
//! Not a general URI library: just what apt's `http`, `https`, `file` and `copy` URIs need.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// Where a URI points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An `http` or `https` URI without credentials, and the value of an `Authorization` header.
    Network {
        /// The URI, credentials and fragment taken out.
        uri: String,
        /// `Basic …`, where the URI had credentials.
        authorization: Option<String>,
    },
    /// A local file (`file:` and `copy:`, which mean the same to a program that only reads).
    File(PathBuf),
}

/// Splits a URI into what is sent and what is secret; `None` for a scheme that is not known.
pub(super) fn parse(uri: &str) -> Option<Target> {
    let (scheme, rest) = uri.split_once(':')?;
    match scheme.to_ascii_lowercase().as_str() {
        scheme @ ("http" | "https") => {
            let rest = rest.strip_prefix("//")?;
            let rest = rest.split('#').next().unwrap_or_default();
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            let (credentials, host) = match authority.rsplit_once('@') {
                Some((credentials, host)) => (Some(credentials), host),
                None => (None, authority),
            };
            if host.is_empty() {
                return None;
            }
            let slash = if path.starts_with('/') { "" } else { "/" };
            Some(Target::Network {
                uri: format!("{scheme}://{host}{slash}{path}"),
                authorization: credentials.map(|pair| basic(&decode(pair))),
            })
        }
        "file" | "copy" => {
            // file:/path, file:///path and file://localhost/path; a host elsewhere isn't a file.
            let path = match rest.strip_prefix("//") {
                Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
                None => rest,
            };
            path.starts_with('/').then(|| Target::File(OsString::from_vec(decode(path)).into()))
        }
        _ => None,
    }
}

/// Whether a URI can be got at all: its scheme is known and it is complete.
pub fn is_supported(uri: &str) -> bool {
    parse(uri).is_some()
}

/// Whether a URI needs the network.
pub fn is_remote(uri: &str) -> bool {
    matches!(parse(uri), Some(Target::Network { .. }))
}

/// A URI as people may see it: without user name and password.
pub fn shown(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{}", &rest[end..]),
        None => uri.to_owned(),
    }
}

/// The host (with its port, if it names one) of a network URI, as `Pin: origin` wants it.
pub fn host(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once("://")?;
    if scheme.eq_ignore_ascii_case("file") || scheme.eq_ignore_ascii_case("copy") {
        return None;
    }
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

/// The URI of `path` (a plain file name with slashes, as in `Filename:`) below the URI `base`.
///
/// `+` is encoded although a path may hold it: object stores that serve archives read it as a space.
pub fn join(base: &str, path: &str) -> String {
    let mut uri = base.trim_end_matches('/').to_owned();
    uri.push('/');
    let path = path.trim_start_matches('/');
    let path = path.strip_prefix("./").unwrap_or(path);
    for &byte in path.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => uri.push(byte as char),
            b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b',' | b'=' | b'@' => uri.push(byte as char),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

/// A redirection's `Location` as an absolute URI (RFC 9110 section 10.2.2), seen from `from`.
pub(super) fn resolve(from: &str, location: &str) -> Option<String> {
    let lower = location.to_ascii_lowercase();
    if lower.starts_with("http://") || lower.starts_with("https://") {
        return Some(location.to_owned());
    }
    let (scheme, rest) = from.split_once("://")?;
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
    if location.starts_with('/') {
        return Some(format!("{scheme}://{authority}{location}"));
    }
    if location.contains("://") {
        return None; // some other scheme: never followed
    }
    let path = from.split('?').next().unwrap_or_default();
    let folder = &path[..path.rfind('/').map_or(path.len(), |slash| slash + 1)];
    Some(format!("{folder}{location}"))
}

/// Percent-decoding; what is no escape stays as it is.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |index: usize| bytes.get(index).and_then(|b| (*b as char).to_digit(16)).map(|d| d as u8);
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// The value of an `Authorization` header (RFC 7617) for `user:password`.
pub(super) fn basic(credentials: &[u8]) -> String {
    let mut pair = credentials.to_vec();
    if !pair.contains(&b':') {
        pair.push(b':');
    }
    format!("Basic {}", base64(&pair))
}

/// Base64 with padding (RFC 4648 section 4).
fn base64(data: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in data.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize] as char;
            out.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

/// A `file:` URI for an absolute path.
pub fn of_file(path: &Path) -> String {
    join("file://", &path.to_string_lossy())
}

/// Whether a URI is that of this file.
pub fn is_same_file(uri: &str, path: &Path) -> bool {
    matches!(parse(uri), Some(Target::File(file)) if file == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out() {
        for (uri, seen) in [
            ("http://user:pa%40ss@mirror.example/debian", "http://mirror.example/debian"),
            ("http://u:a@b@mirror.example:80/x@y", "http://mirror.example:80/x@y"),
            ("https://mirror.example/a@b", "https://mirror.example/a@b"),
            ("file:/srv/debian", "file:/srv/debian"),
        ] {
            assert_eq!(shown(uri), seen);
        }
        assert_eq!(
            parse("http://Aladdin:open%20sesame@mirror.example/debian"),
            Some(Target::Network {
                uri: "http://mirror.example/debian".into(),
                authorization: Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".into()) // RFC 7617
            })
        );
        assert_eq!(host("http://u:p@mirror.example:8080/debian"), Some("mirror.example:8080"));
        assert_eq!(host("file:///srv"), None);
    }

    #[test]
    fn files() {
        for (uri, path) in [
            ("file:/srv/a", Some("/srv/a")),
            ("file:///srv/a%20b", Some("/srv/a b")),
            ("copy://localhost/srv", Some("/srv")),
            ("file://elsewhere/srv", None),
            ("cdrom:[Debian]/", None),
            ("http:///x", None),
        ] {
            let expected = path.map(|p| Target::File(p.into()));
            assert_eq!(parse(uri), expected, "{uri}");
        }
        assert_eq!(parse(&of_file(Path::new("/tmp/a b%20+"))), Some(Target::File("/tmp/a b%20+".into())));
    }

    #[test]
    fn joining() {
        assert_eq!(
            join("http://m/debian/", "./pool/g++_1%3a2~b.deb"),
            "http://m/debian/pool/g%2B%2B_1%253a2~b.deb"
        );
        let from = "http://m:1/a/b/c?x=/y";
        for (location, target) in [
            ("https://other/z", Some("https://other/z")),
            ("/z", Some("http://m:1/z")),
            ("z", Some("http://m:1/a/b/z")),
            ("//other/z", Some("http://other/z")),
            ("ftp://other/z", None),
        ] {
            assert_eq!(resolve(from, location).as_deref(), target);
        }
    }
}
