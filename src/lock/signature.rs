//! Trust in Release files: OpenPGP signatures by keys that the user or the host trusts.
//!
//! What is returned is the signed text and nothing else; an InRelease file with anything before or
//! after its signed part is refused. One good signature of several is enough, by a key that was
//! valid when it signed: an archive that is frozen stays usable after its key has expired, and a
//! signature made after that is refused.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use sequoia_openpgp::{
    self as openpgp, Cert, KeyHandle, Packet, PacketPile,
    cert::{CertParser, amalgamation::ValidAmalgamation, amalgamation::ValidateAmalgamation},
    packet::Signature,
    parse::Parse,
    policy::{HashAlgoSecurity, Policy, StandardPolicy},
    types::{RevocationStatus, SignatureType},
};

use crate::error::{Context, Error, Result};

const BEGIN_KEY: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const BEGIN_MESSAGE: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const BEGIN_SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END_SIGNATURE: &str = "-----END PGP SIGNATURE-----";

/// Where trusted keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A keyring, binary or armoured. It must be readable.
    File(PathBuf),
    /// A keyring that is used if it can be read.
    FileIfThere(PathBuf),
    /// An armoured key itself.
    Armoured(String),
}

impl KeySource {
    /// Reads one value of `signed-by`: a path, or an armoured key (perhaps indented as in a
    /// `.sources` file, where ` .` stands for an empty line).
    pub fn parse(value: &str) -> KeySource {
        if !value.contains(BEGIN_KEY) {
            return KeySource::File(value.into());
        }
        let line = |line: &str| match line.trim() {
            "." => String::new(),
            text => text.to_owned(),
        };
        KeySource::Armoured(value.lines().map(line).collect::<Vec<_>>().join("\n"))
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::File(path) | KeySource::FileIfThere(path) => path.display().fmt(f),
            KeySource::Armoured(_) => f.write_str("the key in `signed-by`"),
        }
    }
}

/// Trusted keys.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    certificates: Vec<Cert>,
    /// Where they came from, for messages.
    sources: Vec<String>,
}

impl Keyring {
    /// Reads keyrings. A key of a kind that is not known is passed over.
    pub fn load(sources: &[KeySource]) -> Result<Keyring> {
        let mut keyring = Keyring::default();
        for source in sources {
            let bytes = match source {
                KeySource::Armoured(text) => text.clone().into_bytes(),
                KeySource::File(path) => std::fs::read(path)
                    .with_context(|| format!("reading the keyring {}", path.display()))
                    .map_err(|error| {
                        error.hint("correct `signed-by`, or install the package that has the keyring")
                    })?,
                KeySource::FileIfThere(path) => match std::fs::read(path) {
                    Ok(bytes) => bytes,
                    Err(_) => continue,
                },
            };
            let found = certificates(&bytes);
            if found.is_empty() && matches!(source, KeySource::File(_) | KeySource::Armoured(_)) {
                let what = match bytes.get(8..12) {
                    Some(b"KBXf") => "it is a keybox, which apt does not read either",
                    _ => "it holds no OpenPGP key",
                };
                return Err(Error::input(format!("{source}: {what}"))
                    .hint("export the key: gpg --export --armor KEY > keyring.asc"));
            }
            keyring.certificates.extend(found);
            keyring.sources.push(source.to_string());
        }
        Ok(keyring)
    }

    /// Keeps the keys that have one of these fingerprints (of the key, or of a subkey of it), as
    /// `Signed-By: FINGERPRINT` asks for.
    pub fn restrict(&mut self, fingerprints: &[String]) {
        let wanted: Vec<KeyHandle> = fingerprints.iter().filter_map(|text| text.parse().ok()).collect();
        let is_wanted = |cert: &Cert| {
            cert.keys().any(|key| wanted.iter().any(|handle| key.key().key_handle().aliases(handle)))
        };
        self.certificates.retain(is_wanted);
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// Where the keys came from, for messages.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// The keys.
    #[cfg(test)]
    pub(super) fn certificates(&self) -> &[Cert] {
        &self.certificates
    }
}

/// The keys of a keyring; armoured ones may stand one after the other.
fn certificates(bytes: &[u8]) -> Vec<Cert> {
    let parse = |bytes: &[u8]| -> Vec<Cert> {
        CertParser::from_bytes(bytes)
            .map(|parser| parser.filter_map(openpgp::Result::ok).collect())
            .unwrap_or_default()
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains(BEGIN_KEY) => {
            let blocks = text.split(BEGIN_KEY).skip(1);
            blocks.flat_map(|block| parse(format!("{BEGIN_KEY}{block}").as_bytes())).collect()
        }
        _ => parse(bytes),
    }
}

/// Why one signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The signature is not that of this text.
    #[error("the signature by key {0} is wrong: the file was changed after it was signed")]
    Wrong(String),
    /// The key had expired when it signed.
    #[error("key {key} expired on {date}, before it signed this")]
    KeyExpired {
        /// The key.
        key: String,
        /// When.
        date: String,
    },
    /// The signature itself has expired, or is of the future.
    #[error("the signature by key {0} is not valid now: {1}")]
    NotNow(String, String),
    /// The key was revoked.
    #[error("key {0} is revoked")]
    Revoked(String),
    /// A hash function or key that is too weak.
    #[error("the signature by key {0} is too weak: {1}")]
    Weak(String, String),
    /// The key is not good for signing.
    #[error("key {0} cannot be used: {1}")]
    Unusable(String, String),
    /// No trusted key made it.
    #[error("key {0} is not trusted")]
    NoKey(String),
    /// It cannot be read.
    #[error("a signature cannot be read: {0}")]
    Malformed(String),
}

/// Checks signatures over a text.
pub trait Verifier {
    /// Succeeds if at least one signature is good; `signatures`: OpenPGP packets, armoured or not.
    /// `text`: the signed bytes; for clear-signed text in its canonical form. Else the problem of
    /// each signature; empty if there is none at all.
    fn verify(&self, text: &[u8], signatures: &[u8]) -> std::result::Result<(), Vec<Problem>>;
}

impl Verifier for Keyring {
    fn verify(&self, text: &[u8], signatures: &[u8]) -> std::result::Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        for signature in parse_signatures(signatures).map_err(|problem| vec![problem])? {
            match signature.and_then(|signature| self.check(&signature, text)) {
                Ok(()) => return Ok(()),
                Err(problem) => problems.push(problem),
            }
        }
        Err(problems)
    }
}

type Parsed = std::result::Result<Signature, Problem>;

/// The signatures of an armoured or binary block, or of several armoured ones.
fn parse_signatures(bytes: &[u8]) -> std::result::Result<Vec<Parsed>, Problem> {
    let malformed = |error: openpgp::anyhow::Error| Problem::Malformed(error.to_string());
    let blocks: Vec<Vec<u8>> = match std::str::from_utf8(bytes) {
        Ok(text) if text.contains(BEGIN_SIGNATURE) => {
            if text.matches(BEGIN_SIGNATURE).count() != text.matches(END_SIGNATURE).count() {
                return Err(Problem::Malformed("it is truncated".into()));
            }
            let blocks = text.split(BEGIN_SIGNATURE).skip(1);
            blocks.map(|block| format!("{BEGIN_SIGNATURE}{block}").into_bytes()).collect()
        }
        _ if bytes.is_empty() => Vec::new(),
        _ => vec![bytes.to_vec()],
    };
    let mut signatures = Vec::new();
    for block in blocks {
        for packet in PacketPile::from_bytes(&block).map_err(malformed)?.into_children() {
            match packet {
                Packet::Signature(signature) => signatures.push(Ok(signature)),
                Packet::Marker(_) | Packet::Padding(_) => {}
                other => signatures.push(Err(Problem::Malformed(format!("it is a packet {}", other.tag())))),
            }
        }
    }
    Ok(signatures)
}

impl Keyring {
    /// Whether one signature is good.
    fn check(&self, signature: &Signature, text: &[u8]) -> std::result::Result<(), Problem> {
        let issuers = signature.get_issuers();
        let name = issuers.first().map(KeyHandle::to_string).unwrap_or_else(|| "(unnamed)".into());
        let Some(time) = signature.signature_creation_time() else {
            return Err(Problem::Malformed("it has no creation time".into()));
        };
        let mut problem = Problem::NoKey(name);
        let keys = self.certificates.iter().flat_map(|cert| cert.keys());
        for key in keys.filter(|key| issuers.iter().any(|issuer| issuer.aliases(key.key().key_handle()))) {
            let name = key.key().fingerprint().to_string();
            match self.check_key(&key, time, &name).and_then(|()| check_content(signature, &key, text, &name))
            {
                Ok(()) => return Ok(()),
                Err(found) => problem = found,
            }
        }
        Err(problem)
    }

    /// Whether a key was good for signing at `time`.
    fn check_key(
        &self,
        key: &openpgp::cert::amalgamation::key::ErasedKeyAmalgamation<'_, openpgp::packet::key::PublicParts>,
        time: SystemTime,
        name: &str,
    ) -> std::result::Result<(), Problem> {
        let policy = StandardPolicy::new();
        let unusable = |reason: &dyn fmt::Display| Problem::Unusable(name.to_owned(), reason.to_string());
        // A keyring may hold only the newest self-signature of a key, younger than the signature
        // that is to be checked: then what it says today is held against the time of signing.
        let valid = match key.clone().with_policy(&policy, time) {
            Ok(valid) => valid,
            Err(_) => key.clone().with_policy(&policy, None).map_err(|error| unusable(&error))?,
        };
        if key.key().creation_time() > time {
            return Err(unusable(&"it is younger than its signature"));
        }
        let expirations =
            [valid.key_expiration_time(), valid.valid_cert().primary_key().key_expiration_time()];
        if let Some(end) = expirations.into_iter().flatten().filter(|end| *end <= time).min() {
            return Err(Problem::KeyExpired { key: name.to_owned(), date: date(end) });
        }
        let revoked = |status: RevocationStatus<'_>| matches!(status, RevocationStatus::Revoked(_));
        if revoked(valid.valid_cert().revocation_status()) || revoked(valid.revocation_status()) {
            return Err(Problem::Revoked(name.to_owned()));
        }
        if !valid.for_signing() {
            return Err(unusable(&"it is not for signing"));
        }
        Ok(())
    }
}

/// Whether a signature is that of `text` by `key`, alive, and strong enough.
fn check_content(
    signature: &Signature,
    key: &openpgp::cert::amalgamation::key::ErasedKeyAmalgamation<'_, openpgp::packet::key::PublicParts>,
    text: &[u8],
    name: &str,
) -> std::result::Result<(), Problem> {
    let name = || name.to_owned();
    let verified = match signature.typ() {
        SignatureType::Text => signature.verify_message(key.key(), canonical(text)),
        _ => signature.verify_message(key.key(), text),
    };
    verified.map_err(|_| Problem::Wrong(name()))?;
    signature.signature_alive(None, None).map_err(|error| Problem::NotNow(name(), error.to_string()))?;
    StandardPolicy::new()
        .signature(signature, HashAlgoSecurity::CollisionResistance)
        .map_err(|error| Problem::Weak(name(), format!("{} ({error})", signature.hash_algo())))
}

/// Text with CR LF at the end of each line, as signatures over text are made (RFC 9580 section 5.2.1.2).
fn canonical(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 40);
    let mut last = 0;
    for &byte in text {
        if byte == b'\n' && last != b'\r' {
            out.push(b'\r');
        }
        out.push(byte);
        last = byte;
    }
    out
}

fn date(time: SystemTime) -> String {
    // sequoia shows a timestamp in ISO 8601.
    let shown = openpgp::types::Timestamp::try_from(time).map(|timestamp| {
        let seconds = u32::from(timestamp);
        super::dates::day(i64::from(seconds))
    });
    shown.unwrap_or_else(|_| "a day long ago".into())
}

/// Which file is being verified, for messages.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The file's URI, without credentials.
    pub uri: &'a str,
    /// The manifest's name of the repository.
    pub repository: &'a str,
}

impl About<'_> {
    fn error(&self, message: impl fmt::Display) -> Error {
        Error::input(format!("{} of repository {}: {message}", self.uri, self.repository))
    }
}

/// The text of an InRelease file (or of one without any signature) that nobody vouches for.
pub(super) fn unverified(bytes: &[u8], about: About<'_>) -> Result<String> {
    match split(bytes) {
        Ok((lines, _)) => Ok(lines.join("\n") + "\n"),
        Err(_) if !bytes.starts_with(b"-----") => Ok(String::from_utf8_lossy(bytes).into_owned()),
        Err(reason) => Err(about.error(reason)),
    }
}

/// The signed text of an InRelease file.
pub fn verify_inline(
    bytes: &[u8],
    verifier: &dyn Verifier,
    keys: &[String],
    about: About<'_>,
) -> Result<String> {
    let (lines, signatures) = split(bytes).map_err(|reason| {
        about.error(reason).hint(format!(
            "try again; if it stays so, the mirror or a proxy on the way is broken: name another in `uris` of [repos.{}]",
            about.repository
        ))
    })?;
    // The line end before the signature is not part of the signed text.
    let signed = lines.join("\r\n");
    verifier
        .verify(signed.as_bytes(), signatures.as_bytes())
        .map_err(|problems| refusal(&problems, keys, about))?;
    Ok(lines.join("\n") + "\n")
}

/// The text of a Release file that has its signature in a file Release.gpg.
pub fn verify_detached(
    release: Vec<u8>,
    signatures: &[u8],
    verifier: &dyn Verifier,
    keys: &[String],
    about: About<'_>,
) -> Result<String> {
    verifier.verify(&release, signatures).map_err(|problems| refusal(&problems, keys, about))?;
    String::from_utf8(release).map_err(|_| about.error("it is not UTF-8"))
}

/// The error for signatures none of which is good: the gravest problem first.
fn refusal(problems: &[Problem], keys: &[String], about: About<'_>) -> Error {
    let repository = about.repository;
    let rank = |problem: &&Problem| match problem {
        Problem::Wrong(_) => 0,
        Problem::Malformed(_) => 1,
        Problem::NoKey(_) => 3,
        _ => 2,
    };
    let Some(worst) = problems.iter().min_by_key(rank) else {
        return about.error("it has no signature").hint(format!(
            "an archive that cannot sign is used with `trusted = true` in [repos.{repository}], at your own risk"
        ));
    };
    let trusted = match keys {
        [] => "no keyring".to_owned(),
        keys => keys.join(", "),
    };
    let message = match worst {
        Problem::NoKey(_) => {
            let names: Vec<String> = problems.iter().map(Problem::to_string).collect();
            format!("none of its signatures is by a trusted key: {} (trusted: {trusted})", names.join(", "))
        }
        worst => worst.to_string(),
    };
    let hint = match worst {
        Problem::Wrong(_) | Problem::Malformed(_) => format!(
            "do not use this mirror: name another in `uris` of [repos.{repository}], or try again later if it was being updated"
        ),
        Problem::NotNow(..) => "check the clock of this machine: date".to_owned(),
        Problem::Weak(..) => "ask the archive's maintainers to sign with SHA-256 or better".to_owned(),
        _ => format!(
            "name the archive's keyring: signed-by = \"/usr/share/keyrings/….gpg\" in [repos.{repository}]; a new one \
             is in the package debian-archive-keyring (or the archive's own)"
        ),
    };
    about.error(message).hint(hint)
}

/// Takes a clear-signed message apart (RFC 9580 section 7): its lines as they were signed, and the
/// armoured signatures. Stricter than the format: nothing may stand before or after, and no header
/// but `Hash`, since other programs could take such text for signed.
fn split(bytes: &[u8]) -> std::result::Result<(Vec<&str>, String), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    if text.trim_start().starts_with('<') {
        return Err("it is a web page, not a Release file: something on the way asks for a log-in?".into());
    }
    let trimmed = |line: &'static str| move |other: &str| other.trim_end() == line;
    let mut lines = text.lines();
    match lines.next() {
        None => return Err("it is empty".into()),
        Some(first) if trimmed(BEGIN_MESSAGE)(first) => {}
        Some(_) if text.contains(BEGIN_MESSAGE) => return Err("there is text before the signed part".into()),
        Some(_) => return Err("it is not signed".into()),
    }
    let truncated = || "it is truncated: the end of its signature is missing".to_owned();
    loop {
        match lines.next().ok_or_else(truncated)?.trim_end() {
            "" => break,
            header if header.starts_with("Hash:") => {}
            header => return Err(format!("an unexpected header before the signed text: {header:?}")),
        }
    }
    let mut signed = Vec::new();
    loop {
        let line = lines.next().ok_or_else(truncated)?;
        if trimmed(BEGIN_SIGNATURE)(line) {
            break;
        }
        // Spaces, tabs and line ends at the end of a line are not signed.
        let line = line.trim_end_matches([' ', '\t', '\r']);
        match line.strip_prefix('-') {
            None => signed.push(line),
            Some(rest) => match rest.strip_prefix(' ') {
                Some(escaped) => signed.push(escaped),
                None => return Err(format!("a line of the signed text is not escaped: {line:?}")),
            },
        }
    }
    let mut signatures = format!("{BEGIN_SIGNATURE}\n");
    loop {
        let line = lines.next().ok_or_else(truncated)?.trim_end();
        signatures.push_str(line);
        signatures.push('\n');
        if line == END_SIGNATURE {
            break;
        }
    }
    match lines.all(|line| line.trim().is_empty()) {
        true => Ok((signed, signatures)),
        false => Err("there is text after the signed part".into()),
    }
}

/// A keyring file as the host has it below `root`.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests;
