//! Times as people write them, and times for people to read.

use chrono::{DateTime, Local, SecondsFormat, Utc};
use skald_model::Timestamp;
use skald_model::time::SECOND;
use skald_runtime::units::parse_nanos;

/// Reads a time: RFC 3339, `now`, `now-1h`, or a number since 1970 in seconds, milliseconds, microseconds or
/// nanoseconds, told apart by the number of digits.
///
/// # Errors
/// Says what was expected.
pub(crate) fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let wrong = || {
        format!(
            "{text:?} is not a time; expected for example 2026-03-01T12:00:00Z, now-1h, or a number of seconds or \
             nanoseconds since 1970"
        )
    };
    if let Some(rest) = text.strip_prefix("now") {
        let nanos =
            |text: &str| parse_nanos(text).map_err(|why| format!("{why} (in {:?})", format!("now{rest}")));
        let shifted = match rest.split_at_checked(1) {
            None => Some(now),
            Some(("-", duration)) => now.checked_sub(nanos(duration)?),
            Some(("+", duration)) => now.checked_add(nanos(duration)?),
            Some(_) => None,
        };
        return shifted.ok_or_else(wrong);
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let scale = match digits.len() {
            ..=11 => SECOND,
            12..=14 => 1_000_000,
            15..=17 => 1_000,
            _ => 1,
        };
        return text.parse::<i64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(wrong);
    }
    if let Some((whole, fraction)) = text.split_once('.')
        && let Ok(seconds) = whole.parse::<i64>()
        && (1..=9).contains(&fraction.len())
        && fraction.bytes().all(|b| b.is_ascii_digit())
    {
        let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
        let nanos = if whole.starts_with('-') { -nanos } else { nanos };
        return seconds.checked_mul(SECOND).and_then(|s| s.checked_add(nanos)).ok_or_else(wrong);
    }
    DateTime::parse_from_rfc3339(text).ok().and_then(|time| time.timestamp_nanos_opt()).ok_or_else(wrong)
}

/// Which zone times are shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// The machine's.
    Local,
    /// UTC.
    Utc,
}

/// A time for people, with milliseconds.
pub(crate) fn show(t: Timestamp, zone: Zone) -> String {
    let time = DateTime::from_timestamp_nanos(t);
    match zone {
        Zone::Local => time.with_timezone(&Local).to_rfc3339_opts(SecondsFormat::Millis, false),
        Zone::Utc => time.to_rfc3339_opts(SecondsFormat::Millis, true),
    }
}

/// A time without loss: RFC 3339 in UTC with nanoseconds.
pub(crate) fn exact(t: Timestamp) -> String {
    DateTime::<Utc>::from_timestamp_nanos(t).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = 1_700_000_000 * SECOND;

    #[track_caller]
    fn check(text: &str, expected: Timestamp) {
        assert_eq!(parse(text, NOW), Ok(expected), "{text}");
    }

    #[test]
    fn times_are_read_in_all_their_forms() {
        check("now", NOW);
        check("now-1h", NOW - 3600 * SECOND);
        check("now-1h30m", NOW - 5400 * SECOND);
        check("now+7d", NOW + 7 * 86_400 * SECOND);
        check("1700000000", NOW);
        check("1700000000123", NOW + 123_000_000);
        check("1700000000123456", NOW + 123_456_000);
        check("1700000000123456789", NOW + 123_456_789);
        check("1700000000.25", NOW + 250_000_000);
        check("0", 0);
        check("-1.5", -1_500_000_000);
        check("2023-11-14T22:13:20Z", NOW);
        check("2023-11-14T23:13:20.000000001+01:00", NOW + 1);
    }

    #[test]
    fn what_is_not_a_time_is_refused_with_examples() {
        for text in
            ["", "yesterday", "now-", "now*2", "now-1", "2023-11-14", "99999999999999999999", "1.", "."]
        {
            let error = parse(text, NOW).unwrap_err();
            assert!(error.contains("expected for example"), "{text}: {error}");
        }
    }

    #[test]
    fn times_are_shown_with_milliseconds() {
        assert_eq!(show(NOW + 1_999_999, Zone::Utc), "2023-11-14T22:13:20.001Z");
    }

    proptest! {
        #[test]
        fn an_exact_time_reads_as_itself(t in any::<i64>()) {
            prop_assert_eq!(parse(&exact(t), NOW), Ok(t));
        }
    }
}
