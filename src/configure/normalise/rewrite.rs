//! Times of the build and random names inside files that an image cannot do without: how they are
//! replaced in each format. Not for whole files, which rules drop or empty.
//!
//! Each function takes a content and the time to write instead, in seconds since 1970; it gives none
//! where the content is not what it knows to the last byte.

use sha1::{Digest, Sha1};

/// open-iscsi's name of this host: made when the daemon starts (its startup-checks.sh).
pub(in crate::configure) fn iscsi_initiator_name(content: &[u8], _: u64) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(content).ok()?;
    let lines = text.lines().map(|line| match line.starts_with("InitiatorName=") {
        true => "GenerateName=yes\n".to_owned(),
        false => format!("{line}\n"),
    });
    Some(lines.collect::<String>().into_bytes())
}

/// A Java keystore in its old format, JKS, as ca-certificates-java writes it: the time at which each
/// certificate was added, in milliseconds, and the digest of it all under the default password.
///
/// The format is `sun.security.provider.JavaKeyStore`'s: magic, version 2, count; each entry has a
/// tag, an alias, the time, and a certificate with its type; then comes SHA-1 of the password, a
/// constant, and all that came before. Only certificates are known here: a private key has no
/// business in an image.
pub(super) fn java_keystore(content: &[u8], time: u64) -> Option<Vec<u8>> {
    let (body, digest) = content.split_at_checked(content.len().checked_sub(KEYSTORE_DIGEST)?)?;
    if keystore_digest(body) != digest {
        return None;
    }
    let mut rest = body.strip_prefix(&[0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2])?;
    let mut written = body[..body.len() - rest.len()].to_vec();
    let count = big_endian(take(&mut rest, 4)?);
    written.extend(&body[written.len()..body.len() - rest.len()]);
    for _ in 0..count {
        let start = body.len() - rest.len();
        (big_endian(take(&mut rest, 4)?) == TRUSTED_CERTIFICATE).then_some(())?;
        take_counted(&mut rest, 2)?; // the alias
        written.extend(&body[start..body.len() - rest.len()]);
        take(&mut rest, 8)?;
        written.extend(time.checked_mul(1000)?.to_be_bytes());
        let start = body.len() - rest.len();
        take_counted(&mut rest, 2)?; // the type, "X.509"
        take_counted(&mut rest, 4)?; // the certificate
        written.extend(&body[start..body.len() - rest.len()]);
    }
    rest.is_empty().then_some(())?;
    let digest = keystore_digest(&written);
    written.extend(digest);
    Some(written)
}

/// Bytes of the digest at a keystore's end.
const KEYSTORE_DIGEST: usize = 20;

/// The tag of an entry that is a certificate; 1 is a private key.
const TRUSTED_CERTIFICATE: u64 = 2;

/// The digest under the password that every cacerts has.
fn keystore_digest(body: &[u8]) -> [u8; KEYSTORE_DIGEST] {
    let password = "changeit".encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
    Sha1::new().chain_update(password).chain_update("Mighty Aphrodite").chain_update(body).finalize().into()
}

/// doc-base's list of registered files: `  CT: TIME` is the change time (ctime) of each, which is
/// another one anyway wherever the image is deployed.
pub(super) fn doc_base(content: &[u8], time: u64) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(content).ok()?;
    let is_time = |value: &str| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let lines = text.split_inclusive('\n').map(|line| match line.split_once("CT: ") {
        Some((indent, value)) if indent.trim().is_empty() && is_time(value.trim_end()) => {
            format!("{indent}CT: {time}\n")
        }
        _ => line.to_owned(),
    });
    Some(lines.collect::<String>().into_bytes())
}

/// A Berkeley database that postalias(1) wrote: the random name in its head, which is for databases
/// that processes share, what was in memory where its pages have room left, and the time of the build
/// in one record.
///
/// The fields are those of `DBMETA` and `PAGE` in Berkeley DB's `dbinc/db_page.h`; numbers are in the
/// machine's byte order.
pub(super) fn berkeley_database(content: &[u8], time: u64) -> Option<Vec<u8>> {
    const MAGICS: [u32; 2] = [0x0005_3162, 0x0006_1561]; // tree, hash
    const NAME: std::ops::Range<usize> = 52..72;
    const HEADER: usize = 26;
    const WITH_ITEMS: [u8; 3] = [2, 5, 13]; // hash, leaf of a tree, sorted hash
    let magic: [u8; 4] = content.get(12..16)?.try_into().ok()?;
    let little = MAGICS.contains(&u32::from_le_bytes(magic));
    (little || MAGICS.contains(&u32::from_be_bytes(magic))).then_some(())?;
    let number = |bytes: &[u8]| {
        let shift = |number, &byte: &u8| number << 8 | usize::from(byte);
        if little { bytes.iter().rev().fold(0, shift) } else { bytes.iter().fold(0, shift) }
    };
    let size = number(content.get(20..24)?);
    (size >= 512 && content.len().is_multiple_of(size)).then_some(())?;
    let mut written = content.to_vec();
    for page in written.chunks_exact_mut(size) {
        let (items, start) = (number(&page[20..22]), number(&page[22..24]));
        if page[12..16] == magic {
            page[NAME].fill(0);
        } else if WITH_ITEMS.contains(&page[25]) {
            // The offsets of the items come first, the items are at the page's end.
            page.get_mut(HEADER + 2 * items..start)?.fill(0);
        }
    }
    // Items lie before one another, each after its kind (1, a plain item): a key before its value.
    let key = b"\x01YP_LAST_MODIFIED";
    let time = time.to_string();
    for at in memchr::memmem::find_iter(content, key) {
        let value = at.checked_sub(time.len())?..at;
        if content[value.clone()].iter().all(u8::is_ascii_digit) {
            written[value].copy_from_slice(time.as_bytes());
        }
    }
    Some(written)
}

/// The next `count` bytes.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

/// The next bytes, with their number before them, which has `width` bytes.
fn take_counted<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let count = big_endian(take(rest, width)?);
    take(rest, usize::try_from(count).ok()?)
}

/// A number of at most eight bytes.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A keystore with these aliases and times in milliseconds.
    fn keystore(entries: &[(&str, u64)]) -> Vec<u8> {
        let mut bytes = b"\xfe\xed\xfe\xed\0\0\0\x02".to_vec();
        bytes.extend((entries.len() as u32).to_be_bytes());
        for (alias, time) in entries {
            bytes.extend(b"\0\0\0\x02");
            bytes.extend((alias.len() as u16).to_be_bytes());
            bytes.extend(alias.as_bytes());
            bytes.extend(time.to_be_bytes());
            bytes.extend(b"\0\x05X.509\0\0\0\x03DER");
        }
        let digest = keystore_digest(&bytes);
        bytes.extend(digest);
        bytes
    }

    #[test]
    fn keystores_differ_in_times_alone() {
        let (one, other) =
            (keystore(&[("debian:a", 5), ("debian:b", 6)]), keystore(&[("debian:a", 7), ("debian:b", 7)]));
        let expected = keystore(&[("debian:a", 9000), ("debian:b", 9000)]);
        assert_eq!(java_keystore(&one, 9), Some(expected.clone()));
        assert_eq!(java_keystore(&other, 9), Some(expected));
        assert_ne!(
            java_keystore(&keystore(&[("debian:c", 5)]), 9),
            java_keystore(&keystore(&[("debian:d", 5)]), 9)
        );
    }

    /// The digest that keytool(1) of OpenJDK 17 wrote for a keystore without entries.
    #[test]
    fn the_digest_is_that_of_java() {
        let empty = b"\xfe\xed\xfe\xed\0\0\0\x02\0\0\0\0";
        let hex: String = keystore_digest(empty).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "e2686e45fb43dfa4d992dd41ceb6b21c6330d792");
    }

    #[test]
    fn what_is_no_keystore_of_certificates_stays() {
        let whole = keystore(&[("debian:a", 5)]);
        for cut in 0..whole.len() {
            assert_eq!(java_keystore(&whole[..cut], 9), None, "{cut}");
        }
        let mut changed = whole.clone();
        changed[30] ^= 1; // the digest is another one: so is the password, perhaps
        assert_eq!(java_keystore(&changed, 9), None);
    }

    #[test]
    fn documents() {
        let text = "---\n/usr/share/doc-base/x.CT: 1:\n  CT: 1795275331\n  ID: CT: 3\n/y:\n  CT: later\n";
        let expected = "---\n/usr/share/doc-base/x.CT: 1:\n  CT: 7\n  ID: CT: 3\n/y:\n  CT: later\n";
        assert_eq!(doc_base(text.as_bytes(), 7), Some(expected.as_bytes().to_vec()));
        assert_eq!(doc_base(b"\xff", 7), None);
    }

    /// Two pages, head and items, as postalias writes them; `name` is also what was in memory.
    fn database(big: bool, name: u8, time: &str) -> Vec<u8> {
        let number = |number: u32| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let half = |number: u16| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let mut head = vec![0; 512];
        head[12..16].copy_from_slice(&number(0x0006_1561));
        head[20..24].copy_from_slice(&number(512));
        head[52..72].fill(name);
        let start = 512 - time.len() - 18;
        let mut data = vec![0; 30];
        data[20..22].copy_from_slice(&half(2));
        data[22..24].copy_from_slice(&half(start as u16));
        data[25] = 13;
        data.resize(start, name);
        data.extend(b"\x01");
        data.extend(time.as_bytes());
        data.extend(b"\x01YP_LAST_MODIFIED");
        [head, data].concat()
    }

    #[test]
    fn databases_differ_in_names_and_times_alone() {
        for big in [false, true] {
            let written = berkeley_database(&database(big, 0xaa, "1795275524"), 1_700_000_000);
            assert_eq!(written, Some(database(big, 0, "1700000000")));
        }
        assert_eq!(berkeley_database(&[0; 1024], 1), None);
        assert_eq!(berkeley_database(&database(false, 1, "1")[..700], 1), None, "half a page");
    }
}
