//! Times as RFC 3339 text, read as Go's `time.Parse` reads them.

use skald_model::Timestamp;

/// Nanoseconds since the Unix epoch of a text like `2026-01-15T01:00:00.5+01:00`. Digits beyond nanoseconds are cut;
/// times that nanoseconds in 64 bits cannot reach become the first or the last that they can.
pub fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_at_checked(10)?;
    let (year, month, day) = match date {
        [y @ .., b'-', m1, m2, b'-', d1, d2] => (number(y)?, number(&[*m1, *m2])?, number(&[*d1, *d2])?),
        _ => return None,
    };
    let (clock, rest) = rest.split_at_checked(9)?;
    let (hour, minute, second) = match clock {
        [b'T', h1, h2, b':', m1, m2, b':', s1, s2] => {
            (number(&[*h1, *h2])?, number(&[*m1, *m2])?, number(&[*s1, *s2])?)
        }
        _ => return None,
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanos, rest) = fraction(rest)?;
    let offset = zone(rest)?;
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Some(total.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
}

/// The text of a time in UTC, without a fraction when there is none, as Go's `RFC3339Nano`.
pub fn format(t: Timestamp) -> String {
    let (seconds, nanos) = (t.div_euclid(1_000_000_000), t.rem_euclid(1_000_000_000));
    let (days, clock) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date_of(days);
    let mut out =
        format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", clock / 3600, clock / 60 % 60, clock % 60);
    if nanos > 0 {
        out.push_str(format!(".{nanos:09}").trim_end_matches('0'));
    }
    out.push('Z');
    out
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
}

/// Nanoseconds of `.5` or `,5`, and what follows.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    if !matches!(rest.first(), Some(b'.' | b',')) {
        return Some((0, rest));
    }
    let len = rest[1..].iter().take_while(|b| b.is_ascii_digit()).count();
    if len == 0 {
        return None;
    }
    let (digits, rest) = rest[1..].split_at(len);
    let nanos = (0..9).fold(0, |n, i| n * 10 + digits.get(i).map_or(0, |d| i64::from(d - b'0')));
    Some((nanos, rest))
}

/// Seconds east of Greenwich.
fn zone(rest: &[u8]) -> Option<i64> {
    match rest {
        b"Z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            let seconds = hours * 3600 + minutes * 60;
            (hours <= 24 && minutes < 60).then_some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar. Years begin in March, so that the leap day
/// is the last of its year; 400 years have 146,097 days.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_since_epoch`].
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: Option<i64>) {
        assert_eq!(parse(text), expected, "{text}");
    }

    #[test]
    fn times() {
        const BASE: i64 = 1_768_438_800_000_000_000;
        check("2026-01-15T01:00:00Z", Some(BASE));
        check("2026-01-15T02:00:00+01:00", Some(BASE));
        check("2026-01-15T01:00:00-00:00", Some(BASE));
        check("2026-01-15T01:00:00.5Z", Some(BASE + 500_000_000));
        check("2026-01-15T01:00:00.0000000019Z", Some(BASE + 1));
        check("1969-12-31T23:59:59.999999999Z", Some(-1));
        check("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000_000));
        check("9999-12-31T23:59:59Z", Some(i64::MAX));
        check("0001-01-01T00:00:00Z", Some(i64::MIN));
        for bad in [
            "",
            "2026-13-45",
            "2026-01-15 01:00:00Z",
            "2026-01-15T25:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-15T01:00:00",
            "2026-01-15T01:00:00.Z",
            "2026-01-15T01:00:00+0100",
            "2026-01-15T01:00:00Zx",
            "2026-01-15t01:00:00z",
            "ü026-01-15T01:00:00Z",
        ] {
            check(bad, None);
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(t in any::<i64>()) {
            prop_assert_eq!(parse(&format(t)), Some(t));
        }

        #[test]
        fn agrees_with_chrono(t in any::<i64>()) {
            let theirs = chrono::DateTime::from_timestamp_nanos(t).to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
            prop_assert_eq!(parse(&theirs), Some(t));
        }
    }
}
