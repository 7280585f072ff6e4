//! A file of apt_preferences(5), as pins.

use crate::{Error, Result, artefacts::Pin, debian::deb822};

/// Parses the text of a file; `name` is for messages.
///
/// # Errors
/// `Kind::Input` for a stanza that apt refuses: one without packages, pin or priority.
pub fn parse(text: &str, name: &str) -> Result<Vec<Pin>> {
    let mut pins = Vec::new();
    for (number, stanza) in deb822::stanzas(text.as_bytes()).enumerate() {
        let field = |name: &str| {
            let value = deb822::field(stanza, name).unwrap_or_default();
            String::from_utf8_lossy(value).split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let (package, pin, priority) = (field("Package"), field("Pin"), field("Pin-Priority"));
        if [&package, &pin, &priority].iter().all(|value| value.is_empty())
            && deb822::fields(stanza).next().is_none()
        {
            continue; // comments alone
        }
        let refuse = |what: &str| {
            Error::input(format!("{name}: stanza {}: {what}", number + 1))
                .hint("a stanza has Package, Pin and Pin-Priority: apt_preferences(5)")
        };
        if package.is_empty() || pin.is_empty() {
            return Err(refuse("it has no Package or no Pin"));
        }
        let priority: i16 =
            priority.parse().map_err(|_| refuse("its Pin-Priority is no number from -32768 to 32767"))?;
        if priority == 0 {
            return Err(refuse("its Pin-Priority is 0"));
        }
        pins.push(Pin { package, pin, priority: priority.into() });
    }
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_pins() {
        let text = "# why\n\nExplanation: a\nExplanation: b\nPackage: nginx nginx-*\nPin: release n=sid\n\
                    Pin-Priority: 900\n\nPackage: *\nPin: origin mirror.example\nPin-Priority: -10\n";
        let pin =
            |package: &str, pin: &str, priority| Pin { package: package.into(), pin: pin.into(), priority };
        assert_eq!(
            parse(text, "pins").expect("well-formed"),
            [pin("nginx nginx-*", "release n=sid", 900), pin("*", "origin mirror.example", -10)]
        );
        for (bad, message) in [
            ("Pin: release n=sid\nPin-Priority: 1\n", "pins: stanza 1: it has no Package"),
            ("Package: *\nPin-Priority: 1\n", "no Pin"),
            ("Package: *\nPin: release n=sid\n", "no number"),
            ("Package: *\nPin: release n=sid\nPin-Priority: 0\n", "is 0"),
            ("Package: *\nPin: release n=sid\nPin-Priority: 99999\n", "no number"),
        ] {
            let error = parse(bad, "pins").expect_err(bad).to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
