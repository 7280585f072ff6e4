//! Days, for messages.

/// `2026-11-04` for seconds since the epoch, in universal time.
pub(super) fn day(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400) + 719_468; // since 0000-03-01
    let era = days.div_euclid(146_097); // 400 years
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // from March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (era * 400 + year_of_era, month + 3),
        _ => (era * 400 + year_of_era + 1, month - 9),
    };
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2026-11-04 07:12:47 UTC` for seconds since the epoch.
pub(super) fn moment(seconds: i64) -> String {
    let second = seconds.rem_euclid(86_400);
    format!("{} {:02}:{:02}:{:02} UTC", day(seconds), second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days() {
        for (seconds, text) in [
            (0, "1970-01-01"),
            (1_709_251_199, "2024-02-29"),
            (4_107_542_400, "2100-03-01"),
            (1_793_768_767, "2026-11-04"),
            (951_868_799, "2000-02-29"),
        ] {
            assert_eq!(day(seconds), text);
        }
        assert_eq!(moment(1_709_251_199), "2024-02-29 23:59:59 UTC");
    }
}
