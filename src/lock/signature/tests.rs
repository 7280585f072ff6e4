//! Signatures: every way to be wrong, and gpgv as the oracle.

use std::time::{Duration, SystemTime};

use sequoia_openpgp::types::HashAlgorithm;

use super::*;
use crate::lock::test_archive::{Key, Signing, detached, gpgv, inline, may_run, no_gpgv};

const TEXT: &str = "Origin: Test\nSuite: stable\n- dashed\n-----BEGIN nothing\n  indented\n\nlast line\n";
const DAY: Duration = Duration::from_secs(86_400);
const ABOUT: About<'_> =
    About { uri: "http://mirror.example/debian/dists/x/InRelease", repository: "debian" };

fn keyring(keys: &[&Key]) -> Keyring {
    let sources: Vec<KeySource> = keys.iter().map(|key| KeySource::Armoured(key.armoured())).collect();
    Keyring::load(&sources).unwrap()
}

fn verify(bytes: &[u8], keyring: &Keyring) -> Result<String> {
    verify_inline(bytes, keyring, keyring.sources(), ABOUT)
}

#[test]
fn good_signatures() {
    let (one, two, other) = (Key::new("one"), Key::new("two"), Key::new("other"));
    for keys in [vec![&one], vec![&other, &one], vec![&one, &other, &two]] {
        let bytes = inline(TEXT, &keys, &Signing::default());
        let trusted = keyring(&[&two, &one]);
        assert_eq!(verify(&bytes, &trusted).unwrap(), TEXT);
        let signature = detached(TEXT.as_bytes(), &keys, &Signing::default());
        let text = verify_detached(TEXT.into(), &signature, &trusted, &[], ABOUT).unwrap();
        assert_eq!(text, TEXT);
    }
    // The line ends of a clear-signed text are not signed.
    let bytes = inline(TEXT, &[&one], &Signing::default());
    let dos = String::from_utf8(bytes).unwrap().replace('\n', "\r\n");
    assert_eq!(verify(dos.as_bytes(), &keyring(&[&one])).unwrap(), TEXT);
}

#[test]
fn a_key_that_expired_after_it_signed_is_good() {
    let key = Key::valid("old", 100 * DAY, Some(50 * DAY));
    let signing = Signing { time: SystemTime::now() - 60 * DAY, ..Signing::default() };
    assert_eq!(verify(&inline(TEXT, &[&key], &signing), &keyring(&[&key])).unwrap(), TEXT);
}

#[test]
fn what_is_refused_and_why() {
    let (key, other) = (Key::new("key"), Key::new("other"));
    let expired = Key::valid("expired", 100 * DAY, Some(50 * DAY));
    let good = String::from_utf8(inline(TEXT, &[&key], &Signing::default())).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let signed = |key: &Key, signing: Signing| String::from_utf8(inline(TEXT, &[key], &signing)).unwrap();
    let sha1 = Signing { hash: HashAlgorithm::SHA1, ..Signing::default() };
    let future = Signing { time: SystemTime::now() + 10 * DAY, ..Signing::default() };
    let id = |key: &Key| key.signing_fingerprint();
    let table: Vec<(&str, String, String, &str)> = vec![
        (
            "tampered",
            changed("stable", "edited"),
            "the file was changed after it was signed".into(),
            "do not use",
        ),
        (
            "wrong key",
            signed(&other, Signing::default()),
            format!("key {} is not trusted", id(&other)),
            "signed-by =",
        ),
        (
            "expired key",
            signed(&expired, Signing::default()),
            format!("key {} expired on ", id(&expired)),
            "signed-by =",
        ),
        (
            "SHA-1",
            signed(&key, sha1),
            format!("the signature by key {} is too weak: SHA1", id(&key)),
            "SHA-256",
        ),
        ("of the future", signed(&key, future), "is not valid now".into(), "date"),
        ("unsigned", TEXT.into(), "it is not signed".into(), "another"),
        ("empty", String::new(), "it is empty".into(), "try again"),
        ("a web page", "<html>\n</html>".into(), "it is a web page".into(), "another"),
        ("text before", format!("Suite: evil\n{good}"), "there is text before the signed part".into(), ""),
        ("empty line before", format!("\n{good}"), "there is text before the signed part".into(), ""),
        ("text after", format!("{good}Suite: evil\n"), "there is text after the signed part".into(), ""),
        ("two messages", good.repeat(2), "there is text after the signed part".into(), ""),
        ("a header", changed("Hash: SHA512", "Comment: x"), "an unexpected header".into(), ""),
        ("cut in the text", good[..60].into(), "it is truncated".into(), "try again"),
        ("cut in the signature", good[..good.len() - 60].into(), "it is truncated".into(), "try again"),
        ("not escaped", changed("- - dashed", "-- dashed"), "is not escaped".into(), ""),
    ];
    let trusted = keyring(&[&key, &expired]);
    for (name, text, message, hint) in table {
        let error = verify(text.as_bytes(), &trusted).unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains(&message), "{name}: {shown}");
        assert!(
            shown.starts_with("http://mirror.example/debian/dists/x/InRelease of repository debian: "),
            "{shown}"
        );
        assert!(error.get_hint().unwrap().contains(hint), "{name}: {error:?}");
        assert_eq!(error.kind(), crate::error::Kind::Input);
    }
}

#[test]
fn detached_signatures_that_are_refused() {
    let (key, other) = (Key::new("key"), Key::new("other"));
    let good = detached(TEXT.as_bytes(), &[&key], &Signing::default());
    let foreign = detached(TEXT.as_bytes(), &[&other], &Signing::default());
    for (name, text, signature, message) in [
        ("unsigned", TEXT.as_bytes(), &b""[..], "it has no signature"),
        ("garbage", TEXT.as_bytes(), b"garbage", "cannot be read"),
        ("truncated", TEXT.as_bytes(), &good[..good.len() - 60], "it is truncated"),
        ("tampered", b"Suite: evil\n", &good, "was changed after"),
        ("added line end", b"Origin: Test\n\n", &good, "was changed after"),
        ("wrong key", TEXT.as_bytes(), &foreign, "is not trusted"),
        ("a key instead", TEXT.as_bytes(), &key.public(), "it is a packet"),
    ] {
        let error = verify_detached(text.into(), signature, &keyring(&[&key]), &[], ABOUT).unwrap_err();
        assert!(error.to_string().contains(message), "{name}: {error}");
    }
}

#[test]
fn a_revoked_key_and_fingerprints() {
    let key = Key::new("key");
    let mut signer =
        key.cert.primary_key().key().clone().parts_into_secret().unwrap().into_keypair().unwrap();
    let reason = openpgp::types::ReasonForRevocation::KeyCompromised;
    let revocation = key.cert.revoke(&mut signer, reason, b"stolen").unwrap();
    let revoked = Key { cert: key.cert.clone().insert_packets(revocation).unwrap().0 };
    let bytes = inline(TEXT, &[&key], &Signing::default());
    let error = verify(&bytes, &keyring(&[&revoked])).unwrap_err().to_string();
    assert!(error.contains(&format!("key {} is revoked", key.signing_fingerprint())), "{error}");

    let mut trusted = keyring(&[&key]);
    trusted.restrict(&[Key::new("other").cert.fingerprint().to_string()]);
    assert!(trusted.is_empty());
    for fingerprint in [key.cert.fingerprint().to_string(), key.signing_fingerprint()] {
        let mut trusted = keyring(&[&key]);
        trusted.restrict(&[fingerprint]);
        assert_eq!(verify(&bytes, &trusted).unwrap(), TEXT);
    }
}

#[test]
fn keyrings_of_every_form() {
    let (one, two) = (Key::new("one"), Key::new("two"));
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let both = |bytes: [Vec<u8>; 2]| bytes.concat();
    let text = |key: &Key| format!("a comment\n{}", key.armoured()).into_bytes();
    for path in [
        write("binary.gpg", &both([one.public(), two.public()])),
        write("armoured.asc", &both([text(&one), text(&two)])),
    ] {
        let keyring = Keyring::load(&[KeySource::File(path)]).unwrap();
        for key in [&one, &two] {
            assert_eq!(verify(&inline(TEXT, &[key], &Signing::default()), &keyring).unwrap(), TEXT);
        }
    }
    let keybox = write("keybox.gpg", b"\0\0\0\x20\x01\x01\0\x02KBXf\0\0\0\0");
    for (path, message) in [
        (write("empty.gpg", b""), "holds no OpenPGP key"),
        (keybox, "a keybox"),
        ("/none".into(), "reading the keyring"),
    ] {
        let error = Keyring::load(&[KeySource::File(path.clone())]).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(Keyring::load(&[KeySource::FileIfThere(path)]).unwrap().is_empty());
    }
}

/// gpgv and this module agree on made-up files: several signers, wrong key, expired key, tampered.
#[test]
fn gpgv_agrees() {
    if !may_run("gpgv", no_gpgv()) {
        return;
    }
    let (key, other) = (Key::new("key"), Key::new("other"));
    let expired = Key::valid("expired", 100 * DAY, Some(50 * DAY));
    let trusted = keyring(&[&key, &expired]);
    let ours = |bytes: &[u8]| verify(bytes, &trusted).ok();
    let theirs = |bytes: &[u8]| gpgv(bytes, &trusted).map(|text| String::from_utf8_lossy(&text).into_owned());
    for (keys, good) in [
        (vec![&key], true),
        (vec![&other, &key], true),
        (vec![&expired, &key], true),
        (vec![&other], false),
        (vec![&expired], false),
    ] {
        let bytes = inline(TEXT, &keys, &Signing::default());
        let expected = good.then(|| TEXT.to_owned());
        assert_eq!((ours(&bytes), theirs(&bytes)), (expected.clone(), expected));
    }
    let good = inline(TEXT, &[&key], &Signing::default());
    let text = String::from_utf8(good.clone()).unwrap();
    let (begin, end) = (text.find("Origin").unwrap(), text.find("\n-----BEGIN PGP SIG").unwrap());
    for position in (begin..good.len()).step_by(5) {
        let mut changed = good.clone();
        changed[position] ^= 1;
        let verdicts = [ours(&changed), theirs(&changed)];
        if position < end {
            assert_eq!(verdicts, [None, None], "byte {position}");
        } else {
            // In the armour some bytes mean nothing (checksum, unhashed subpackets), and who minds
            // which differs; but whoever accepts must have seen what was signed.
            assert!(verdicts.iter().flatten().all(|text| text == TEXT), "byte {position}");
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(128))]

    /// Whatever is done to a signed file, what is taken for signed is what was signed.
    #[test]
    fn only_what_was_signed_comes_out(
        edits in proptest::collection::vec((0usize..2000, 0usize..40, "(\\PC|\n|-|Hash: SHA512\n){0,8}"), 1..4)
    ) {
        use std::sync::LazyLock;
        static SIGNED: LazyLock<(Keyring, String)> = LazyLock::new(|| {
            let key = Key::new("key");
            let text = String::from_utf8(inline(TEXT, &[&key], &Signing::default())).unwrap();
            (keyring(&[&key]), text)
        });
        let (trusted, text) = &*SIGNED;
        let mut bytes = text.clone().into_bytes();
        for (position, length, new) in edits {
            let begin = position % bytes.len();
            let end = (begin + length).min(bytes.len());
            bytes.splice(begin..end, new.into_bytes());
        }
        if let Ok(accepted) = verify(&bytes, trusted) {
            proptest::prop_assert_eq!(accepted, TEXT);
        }
        // Nothing here panics on foreign bytes either.
        let _ = verify_detached(TEXT.into(), &bytes, trusted, &[], ABOUT);
        let _ = certificates(&bytes);
    }
}
