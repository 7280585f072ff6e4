//! Debian version numbers: dpkg's order of them, and what a well-formed one is.
//!
//! deb-version(7) describes the order; `dpkg --compare-versions` is the oracle of the tests.

use std::cmp::Ordering;

/// The parts of a version: epoch (digits, perhaps none), upstream version, revision.
fn split(version: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let (epoch, rest) = match memchr::memchr(b':', version) {
        Some(colon) => (&version[..colon], &version[colon + 1..]),
        None => (&[][..], version),
    };
    let (upstream, revision) = match memchr::memrchr(b'-', rest) {
        Some(dash) => (&rest[..dash], &rest[dash + 1..]),
        None => (rest, &[][..]),
    };
    (epoch, upstream, revision)
}

/// A byte's place among non-digits: `~` before the end, the end before letters, letters before
/// everything else.
fn rank(byte: Option<&u8>) -> i32 {
    match byte {
        None => 0,
        Some(b'~') => -1,
        Some(b) if b.is_ascii_digit() => 0,
        Some(b) if b.is_ascii_alphabetic() => i32::from(*b),
        Some(b) => i32::from(*b) + 256,
    }
}

/// The order of two upstream versions or two revisions: non-digits and numbers in turn.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let is_text = |part: &[u8]| part.first().is_some_and(|b| !b.is_ascii_digit());
    while !a.is_empty() || !b.is_empty() {
        while is_text(a) || is_text(b) {
            let order = rank(a.first()).cmp(&rank(b.first()));
            if order.is_ne() {
                return order;
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let (number_a, rest_a) = number(a);
        let (number_b, rest_b) = number(b);
        // Without leading zeros the longer number is the greater; this way none overflows.
        let order = number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b));
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

/// Splits off the leading digits, without their leading zeros.
fn number(part: &[u8]) -> (&[u8], &[u8]) {
    let end = part.iter().position(|b| !b.is_ascii_digit()).unwrap_or(part.len());
    let start = part[..end].iter().position(|&b| b != b'0').unwrap_or(end);
    (&part[start..end], &part[end..])
}

/// dpkg's order of two versions (deb-version(7)); any bytes have one.
pub fn compare_bytes(a: &[u8], b: &[u8]) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let (epoch_a, upstream_a, revision_a) = split(a);
    let (epoch_b, upstream_b, revision_b) = split(b);
    compare_part(epoch_a, epoch_b)
        .then_with(|| compare_part(upstream_a, upstream_b))
        .then_with(|| compare_part(revision_a, revision_b))
}

/// dpkg's order of two versions (deb-version(7)); any text has one.
pub fn compare(a: &str, b: &str) -> Ordering {
    compare_bytes(a.as_bytes(), b.as_bytes())
}

/// Whether `version` is well-formed: `[epoch:]upstream[-revision]` in the characters that policy
/// 5.6.12 allows. Such a version is safe in a file name, a field and a ref.
pub fn is_valid(version: &str) -> bool {
    let (epoch, upstream, revision) = split(version.as_bytes());
    let has_epoch = version.contains(':');
    let has_revision = version.contains('-');
    // dpkg wants the upstream version to start with a digit but reads others, which exist.
    (!has_epoch || !epoch.is_empty() && epoch.len() <= 10 && epoch.iter().all(u8::is_ascii_digit))
        && upstream.first().is_some_and(u8::is_ascii_alphanumeric)
        && upstream.iter().all(|b| b.is_ascii_alphanumeric() || b".+-~:".contains(b))
        && (!has_revision
            || !revision.is_empty()
                && revision.iter().all(|b| b.is_ascii_alphanumeric() || b".+~".contains(b)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::{prelude::*, strategy::ValueTree};

    use super::*;

    /// Asks dpkg for the order of many pairs in one process.
    fn dpkg_orders(pairs: &[(String, String)]) -> Vec<Ordering> {
        // dpkg compares one pair a process: one shell runs them all.
        let script = r#"while [ $# -gt 1 ]; do
            if dpkg --compare-versions "$1" lt "$2"; then echo lt
            elif dpkg --compare-versions "$1" eq "$2"; then echo eq
            else echo gt; fi; shift 2; done 2>/dev/null"#;
        let output = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(pairs.iter().flat_map(|(a, b)| [a, b]))
            .output()
            .expect("sh runs");
        String::from_utf8(output.stdout)
            .expect("ASCII")
            .lines()
            .map(|line| match line {
                "lt" => Ordering::Less,
                "eq" => Ordering::Equal,
                _ => Ordering::Greater,
            })
            .collect()
    }

    #[test]
    fn known_orders() {
        use Ordering::{Equal, Greater, Less};
        for (a, b, order) in [
            ("1.0", "1.0", Equal),
            ("1.0", "1.0-0", Equal),
            ("0:1.0", "1.0", Equal),
            ("1.0-1", "1.0-2", Less),
            ("1.0~rc1", "1.0", Less),
            ("1.0~~", "1.0~", Less),
            ("1.0+b1", "1.0", Greater),
            ("1:0.1", "2.0", Greater),
            ("1.10", "1.9", Greater),
            ("1.01", "1.1", Equal),
            ("1.0a", "1.0+", Less),
            // what another implementation is known to get wrong
            ("0.9+ds0-3", "0.9+ds-4", Less),
            ("1.1.1+dfsg-1", "1.1.1+dfsg0-1", Equal),
            ("99999999999999999999999", "100000000000000000000000", Less),
        ] {
            assert_eq!(compare(a, b), order, "{a} {b}");
            assert_eq!(compare(b, a), order.reverse(), "{b} {a}");
        }
    }

    #[test]
    fn what_is_well_formed() {
        for good in ["1", "1.0-1", "2:1.0-1~bpo12+1", "0.0~git20200101.abc-1", "1-2-3", "1:2:3-1"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "-1", ":1", "a:1", "1-", "1/2", "1 2", "1_2", "../1", "1\n", "é", "1:"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    fn version() -> impl Strategy<Value = String> {
        ("([0-3]:)?", "[0-9][0-9a-zA-Z.+~]{0,8}", "(-[0-9a-z.+~]{1,5})?")
            .prop_map(|(epoch, upstream, revision)| format!("{epoch}{upstream}{revision}"))
    }

    #[test]
    fn as_dpkg_orders() {
        if Command::new("dpkg").arg("--version").output().is_err() {
            eprintln!("skipped: no dpkg");
            return;
        }
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let mut pairs = Vec::new();
        for _ in 0..300 {
            let tree = (version(), version()).new_tree(&mut runner).expect("a value");
            pairs.push(tree.current());
            // A near relative of the first: most of the order is decided by small differences.
            let (a, _) = tree.current();
            pairs.push((a.clone(), a.replacen(|c: char| c.is_ascii_digit(), "0", 1)));
        }
        let orders = dpkg_orders(&pairs);
        assert_eq!(orders.len(), pairs.len());
        for ((a, b), order) in pairs.iter().zip(orders) {
            assert_eq!(compare(a, b), order, "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn a_total_order_of_any_bytes(a: Vec<u8>, b: Vec<u8>, c: Vec<u8>) {
            prop_assert_eq!(compare_bytes(&a, &b), compare_bytes(&b, &a).reverse());
            if compare_bytes(&a, &b).is_le() && compare_bytes(&b, &c).is_le() {
                prop_assert!(compare_bytes(&a, &c).is_le());
            }
        }
    }
}
