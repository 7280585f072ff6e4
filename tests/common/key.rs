//! OpenPGP keys of the tests, made anew for each archive, and what they sign.

use std::{
    io::Write as _,
    time::{Duration, SystemTime},
};

use sequoia_openpgp::{
    Cert, Profile,
    cert::{CertBuilder, CipherSuite},
    policy::StandardPolicy,
    serialize::{
        SerializeInto as _,
        stream::{Armorer, Message, Signer},
    },
    types::HashAlgorithm,
};

/// A signing key.
pub(crate) struct Key {
    cert: Cert,
}

/// How far back keys are made, so that they are older than every signature of the tests.
const AGE: Duration = Duration::from_secs(3 * 365 * 86400);

impl Key {
    /// A fresh key. Version 4, EdDSA: what gpgv of every supported Debian reads.
    pub(crate) fn new(user: &str) -> Self {
        let (cert, _) = CertBuilder::new()
            .set_profile(Profile::RFC4880)
            .expect("a known profile")
            .set_cipher_suite(CipherSuite::Cv25519)
            .set_creation_time(SystemTime::now() - AGE)
            .add_userid(user)
            .add_signing_subkey()
            .generate()
            .expect("a key");
        Key { cert }
    }

    /// The public key, armoured.
    pub(crate) fn public_armored(&self) -> String {
        let bytes = self.cert.armored().to_vec().expect("memory");
        String::from_utf8(bytes).expect("armour is ASCII")
    }

    /// The public key, binary: the form that gpgv and old apt want.
    pub(crate) fn public_binary(&self) -> Vec<u8> {
        self.cert.to_vec().expect("memory")
    }

    fn signer<'a>(&self, message: Message<'a>) -> Signer<'a> {
        let policy = StandardPolicy::new();
        let key = self
            .cert
            .keys()
            .with_policy(&policy, None)
            .secret()
            .alive()
            .for_signing()
            .next()
            .expect("a signing key")
            .key()
            .clone()
            .into_keypair()
            .expect("an unencrypted key");
        Signer::new(message, key)
            .and_then(|signer| signer.hash_algo(HashAlgorithm::SHA512))
            .expect("a key that can sign")
    }

    /// The text with its signature inline: `InRelease`.
    pub(crate) fn sign_clear(&self, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut message = self.signer(Message::new(&mut out)).cleartext().build().expect("memory");
        message.write_all(text.as_bytes()).expect("memory");
        message.finalize().expect("memory");
        out
    }

    /// The detached, armoured signature: `Release.gpg`.
    pub(crate) fn sign_detached(&self, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let message = Armorer::new(Message::new(&mut out))
            .kind(sequoia_openpgp::armor::Kind::Signature)
            .build()
            .expect("memory");
        let mut message = self.signer(message).detached().build().expect("memory");
        message.write_all(text.as_bytes()).expect("memory");
        message.finalize().expect("memory");
        out
    }
}
