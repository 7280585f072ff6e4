//! The days of a run as programs write them, to find files that will be others tomorrow: two runs of one
//! day do not show that.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// 1970-01-01 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const SECONDS: u64 = 86_400;

/// All days (of UTC) from one time to another, in the ways in which they are written.
pub(super) fn texts(from: SystemTime, to: SystemTime) -> Vec<String> {
    let day = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / SECONDS);
    (day(from)..=day(to)).flat_map(of_day).collect()
}

/// The day with this number since 1970-01-01.
fn of_day(number: u64) -> Vec<String> {
    let (year, month, day) = civil(number);
    let name = MONTHS[month as usize - 1];
    let short = &name[..3];
    let weekday = WEEKDAYS[(number % 7) as usize];
    vec![
        format!("{year}-{month:02}-{day:02}"),
        format!("{year}/{month:02}/{day:02}"),
        format!("{year}{month:02}{day:02}"),
        format!("{day} {short} {year}"),
        format!("{day:02} {short} {year}"),
        format!("{day} {name} {year}"),
        format!("{short} {day:2} {year}"),
        format!("{name} {day}, {year}"),
        format!("{weekday} {short} {day:2} "),
        format!("{weekday}, {day:02} {short} "),
    ]
}

/// Year, month and day of the proleptic Gregorian calendar. The year begins in March, so that the day
/// that some have and others do not is its last.
fn civil(number: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097; // days in 400 years
    let since_march_0000 = number + 719_468;
    let (era, of_era) = (since_march_0000 / ERA, since_march_0000 % ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;

    #[test]
    fn days_are_those_of_date() {
        for number in [0, 58, 59, 11_016, 11_017, 19_782, 19_783, 20_778, 47_540] {
            let output = Command::new("date")
                .env("LC_ALL", "C")
                .args(["-u", "-d", &format!("@{}", number * SECONDS)])
                .arg("+%Y-%m-%d|%Y/%m/%d|%Y%m%d|%-d %b %Y|%d %b %Y|%-d %B %Y|%b %e %Y|%B %-d, %Y|%a %b %e |%a, %d %b ")
                .output()
                .expect("date");
            let text = String::from_utf8(output.stdout).expect("UTF-8");
            let expected: Vec<&str> = text.trim_end_matches('\n').split('|').collect();
            assert_eq!(of_day(number), expected, "{number}");
        }
    }

    #[test]
    fn a_run_over_midnight_has_two_days() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let texts = texts(at(86_399), at(86_400));
        assert!(texts.contains(&"1970-01-01".to_owned()) && texts.contains(&"1970-01-02".to_owned()));
    }
}
