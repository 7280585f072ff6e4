//! Dates as mail has them (RFC 5322), which is how Release files and changelogs write theirs.

/// Seconds since 1970 of `Sat, 08 Jun 2024 09:11:42 +0200`: the zone is an offset or one of universal
/// time's names.
pub fn parse(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = text.split_once(',').map_or(text, |(_weekday, rest)| rest);
    let mut words = text.split_whitespace();
    let day: i64 = words.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))? as i64 + 1;
    let year: i64 = words.next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let mut time = words.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let mut part = |limit| time.next()?.filter(|value| (0..=limit).contains(value));
    let (hour, minute, second) = (part(23)?, part(59)?, part(60)?);
    let east = minutes_east(words.next()?)?;
    if words.next().is_some() || time.next().is_some() {
        return None;
    }
    Some(((days_from_civil(year, month, day) * 24 + hour) * 60 + minute - east) * 60 + second)
}

/// How far a zone is ahead of universal time.
fn minutes_east(zone: &str) -> Option<i64> {
    if ["UTC", "GMT", "Z"].contains(&zone) {
        return Some(0);
    }
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    if digits.len() != 4 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: i64 = digits.parse().ok()?;
    (number % 100 < 60).then_some(sign * (number / 100 * 60 + number % 100))
}

/// Days since 1970-01-01 of a date in the Gregorian calendar. The year is taken to begin in March,
/// so that the leap day is its last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before = year * 365 + year / 4 - year / 100 + year / 400;
    // 153 days in each five months from March on: 31, 30, 31, 30, 31.
    before + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", Some(0)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Tue, 1 Mar 2100 00:00:00 +0000", Some(4_107_542_400)), // 2100 is no leap year
            ("Wed, 04 Nov 2026  5:06:07 Z", Some(1_793_768_767)),
            ("Thu, 01 Jan 1970 01:00:00 +0100", Some(0)),
            ("Wed, 31 Dec 1975 18:30:00 -0530", Some(189_302_400)),
            ("Sat, 08 Jun 2024 09:11:42 CEST", None),
            ("Sat, 08 Jun 2024 09:11:42 +02:00", None),
            ("Sat, 08 Jun 2024 09:11:42 +0260", None),
            ("Sat, 08 Jun 2024 09:11:42", None),
            ("Sat, 32 Jun 2024 09:11:42 UTC", None),
            ("2024-06-08", None),
        ] {
            assert_eq!(parse(text), seconds, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_is_no_panic(text in "(\\PC|:| |[0-9]){0,60}", zone in "[+-]\\PC{0,5}") {
            let _ = parse(&text);
            let _ = parse(&format!("Thu, 01 Jan 1970 00:00:00 {zone}"));
        }
    }
}
