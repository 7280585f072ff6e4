//! Keys, signatures and small signed archives for tests, and the rules for skipping one.

use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, SystemTime},
};

use sequoia_openpgp::{
    Cert,
    cert::CertBuilder,
    crypto::KeyPair,
    serialize::{
        Serialize, SerializeInto,
        stream::{Armorer, Message, Signer},
    },
    types::HashAlgorithm,
};

use super::signature::Keyring;
use crate::digest::Sha256;

/// Whether a test of a tier may run. A skip prints its reason, and is a failure where
/// `TREESTRAP_TESTS_MUST_RUN` names the tier.
pub(crate) fn may_run(tier: &str, obstacle: Option<String>) -> bool {
    let Some(reason) = obstacle else { return true };
    let must = std::env::var("TREESTRAP_TESTS_MUST_RUN").unwrap_or_default();
    assert!(!must.split(',').any(|name| name.trim() == tier), "tier {tier} must run, but: {reason}");
    eprintln!("skipped ({tier}): {reason}");
    false
}

/// Why gpgv cannot be the oracle here, if it cannot.
pub(crate) fn no_gpgv() -> Option<String> {
    let version = std::process::Command::new("gpgv").arg("--version").output();
    version.err().map(|error| format!("gpgv: {error}"))
}

/// A signing key.
pub(crate) struct Key {
    pub(crate) cert: Cert,
}

impl Key {
    pub(crate) fn new(name: &str) -> Key {
        Key::valid(name, Duration::from_secs(3600), None)
    }

    /// A key made so long ago, valid for so long.
    pub(crate) fn valid(name: &str, age: Duration, validity: Option<Duration>) -> Key {
        let made = SystemTime::now() - age;
        let builder = CertBuilder::new().add_userid(name).add_signing_subkey().set_creation_time(made);
        Key { cert: builder.set_validity_period(validity).generate().unwrap().0 }
    }

    pub(crate) fn public(&self) -> Vec<u8> {
        self.cert.clone().strip_secret_key_material().to_vec().unwrap()
    }

    pub(crate) fn armoured(&self) -> String {
        let cert = self.cert.clone().strip_secret_key_material();
        String::from_utf8(cert.armored().to_vec().unwrap()).unwrap()
    }

    /// The fingerprint of the key that signs: the subkey.
    pub(crate) fn signing_fingerprint(&self) -> String {
        self.cert.keys().subkeys().next().unwrap().key().fingerprint().to_string()
    }

    fn pair(&self) -> KeyPair {
        let key = self.cert.keys().subkeys().secret().next().unwrap().key().clone();
        key.into_keypair().unwrap()
    }
}

/// How something is signed.
pub(crate) struct Signing {
    pub(crate) hash: HashAlgorithm,
    pub(crate) time: SystemTime,
}

impl Default for Signing {
    fn default() -> Self {
        Signing { hash: HashAlgorithm::SHA512, time: SystemTime::now() }
    }
}

/// `text`, clear-signed by all of these keys.
pub(crate) fn inline(text: &str, keys: &[&Key], signing: &Signing) -> Vec<u8> {
    let mut out = Vec::new();
    // The last line end belongs to the frame.
    let text = text.trim_end_matches('\n');
    sign(Message::new(&mut out), text.as_bytes(), keys, signing, |signer| signer.cleartext());
    out
}

/// A detached armoured signature.
pub(crate) fn detached(text: &[u8], keys: &[&Key], signing: &Signing) -> Vec<u8> {
    let mut out = Vec::new();
    let armoured = Armorer::new(Message::new(&mut out)).kind(sequoia_openpgp::armor::Kind::Signature);
    sign(armoured.build().unwrap(), text, keys, signing, |signer| signer.detached());
    out
}

fn sign<'a>(
    message: Message<'a>,
    text: &[u8],
    keys: &[&Key],
    signing: &Signing,
    mode: impl FnOnce(Signer<'a>) -> Signer<'a>,
) {
    let mut signer = Signer::new(message, keys[0].pair()).unwrap().hash_algo(signing.hash).unwrap();
    for key in &keys[1..] {
        signer = signer.add_signer(key.pair()).unwrap();
    }
    let mut message = mode(signer.creation_time(signing.time)).build().unwrap();
    message.write_all(text).unwrap();
    message.finalize().unwrap();
}

/// The files of one suite, by path below `dists/SUITE/`.
pub(crate) struct TestSuite {
    /// Fields before the hashes, one a line.
    pub(crate) fields: String,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl TestSuite {
    /// A suite with one Packages file per component and architecture, packed as xz and gz; of the
    /// unpacked ones only the hashes, as in Debian.
    pub(crate) fn new(fields: &str, indexes: &[(&str, &str, &str)]) -> (TestSuite, String) {
        let mut suite = TestSuite { fields: fields.to_owned(), files: BTreeMap::new() };
        let mut plain = BTreeMap::new();
        for (component, architecture, packages) in indexes {
            let path = format!("{component}/binary-{architecture}/Packages");
            let mut xz = liblzma::read::XzEncoder::new(packages.as_bytes(), 6);
            let mut gz = flate2::read::GzEncoder::new(packages.as_bytes(), flate2::Compression::fast());
            for (extension, reader) in [(".xz", &mut xz as &mut dyn std::io::Read), (".gz", &mut gz)] {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).unwrap();
                suite.files.insert(format!("{path}{extension}"), bytes);
            }
            plain.insert(path, packages.as_bytes().to_vec());
        }
        let release = suite.release(&plain);
        (suite, release)
    }

    /// The Release file: the fields, and the hashes of the suite's files and of `more`.
    pub(crate) fn release(&self, more: &BTreeMap<String, Vec<u8>>) -> String {
        let mut text = format!("{}\nSHA256:\n", self.fields.trim());
        for (path, content) in self.files.iter().chain(more) {
            text.push_str(&format!(" {} {:16} {path}\n", Sha256::of(content), content.len()));
        }
        text
    }
}

/// A date as Release files have it, so many seconds from now.
pub(crate) fn date(offset: i64) -> String {
    let seconds = super::indexes::now() + offset;
    let day = super::dates::day(seconds);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let parts: Vec<usize> = day.split('-').map(|part| part.parse().unwrap()).collect();
    let time = seconds.rem_euclid(86_400);
    format!(
        "Mon, {:02} {} {} {:02}:{:02}:{:02} UTC",
        parts[2],
        months[parts[1] - 1],
        parts[0],
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

/// gpgv's verdict on an InRelease file, and the text that it says was signed.
pub(crate) fn gpgv(bytes: &[u8], keyring: &Keyring) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut keys = Vec::new();
    keyring.certificates().iter().for_each(|cert| cert.serialize(&mut keys).unwrap());
    std::fs::write(path("keyring.gpg"), keys).unwrap();
    std::fs::write(path("InRelease"), bytes).unwrap();
    let mut command = std::process::Command::new("gpgv");
    command.arg("--homedir").arg(folder.path()).arg("--keyring").arg(path("keyring.gpg"));
    command.arg("--status-fd=1").arg("--output").arg(path("text")).arg(path("InRelease"));
    let output = command.output().unwrap();
    // As apt does, one good signature is enough, whatever gpgv's exit status says of the others.
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    let good = status.contains("\n[GNUPG:] GOODSIG ") && status.contains("[GNUPG:] VALIDSIG ");
    good.then(|| std::fs::read(path("text")).unwrap())
}
