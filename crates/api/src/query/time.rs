//! Times and durations as parameters, with the words of Go's `strconv` and of Prometheus in the errors.

use skald_model::Timestamp;
use skald_model::time::SECOND;

use crate::rfc3339;

/// A point in time: up to ten digits are seconds, more are nanoseconds; with a `.` seconds as a float; else RFC 3339.
/// An empty text is `default`.
///
/// # Errors
/// In the words of `strconv.ParseInt`.
pub fn timestamp(text: &str, default: Timestamp) -> Result<Timestamp, String> {
    if text.is_empty() {
        return Ok(default);
    }
    if text.contains('.')
        && let Some(seconds) = float(text)
    {
        // Loki keeps milliseconds of a float.
        let millis = (seconds.fract() * 1000.0).round() / 1000.0;
        let nanos = (seconds.trunc() as i64).saturating_mul(SECOND);
        return Ok(nanos.saturating_add((millis * SECOND as f64) as i64));
    }
    match integer(text, "ParseInt") {
        Ok(n) if text.len() <= 10 => Ok(n.saturating_mul(SECOND)),
        Ok(n) => Ok(n),
        Err(e) => rfc3339::parse(text).ok_or(e),
    }
}

/// A decimal integer as Go's `strconv` reads it; `function` names the one that complains.
///
/// # Errors
/// In the words of `strconv`.
pub fn integer(text: &str, function: &str) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let what = if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        "invalid syntax"
    } else {
        match text.parse() {
            Ok(n) => return Ok(n),
            Err(_) => "value out of range",
        }
    };
    Err(format!("strconv.{function}: parsing {}: {what}", go_quoted(text)))
}

/// Seconds as a float, or a Prometheus duration, in nanoseconds.
///
/// # Errors
/// In Loki's words.
pub fn seconds_or_duration(text: &str) -> Result<i64, String> {
    let quoted = || go_quoted(text);
    if let Some(seconds) = float(text).or_else(|| special_float(text)) {
        let nanos = seconds * SECOND as f64;
        if nanos > i64::MAX as f64 || nanos < i64::MIN as f64 {
            return Err(format!("cannot parse {} to a valid duration. It overflows int64", quoted()));
        }
        return Ok(nanos as i64);
    }
    prometheus_duration(text).map_err(|_| format!("cannot parse {} to a valid duration", quoted()))
}

/// A Prometheus duration, `1h30m`, in nanoseconds: whole numbers, the units from large to small, each once.
///
/// # Errors
/// In the words of Prometheus.
pub fn prometheus_duration(text: &str) -> Result<i64, String> {
    const MILLI: u64 = 1_000_000;
    const UNITS: [(&str, u64); 7] = [
        ("y", 365 * 86_400_000 * MILLI),
        ("w", 7 * 86_400_000 * MILLI),
        ("d", 86_400_000 * MILLI),
        ("h", 3_600_000 * MILLI),
        ("m", 60_000 * MILLI),
        ("s", 1000 * MILLI),
        ("ms", MILLI),
    ];
    match text {
        "0" => return Ok(0),
        "" => return Err("empty duration string".to_owned()),
        _ => {}
    }
    let malformed = || format!("not a valid duration string: {}", go_quoted(text));
    let (mut rest, mut total, mut next_unit) = (text, 0u64, 0);
    while !rest.is_empty() {
        let (digits, after) = split_where(rest, |b| !b.is_ascii_digit());
        let (unit, after) = split_where(after, |b| b.is_ascii_digit());
        let value: u64 = digits.parse().map_err(|_| malformed())?;
        if unit.is_empty() {
            return Err(malformed());
        }
        let Some(position) = UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err(format!("unknown unit {} in duration {}", go_quoted(unit), go_quoted(text)));
        };
        if position < next_unit {
            return Err(malformed());
        }
        next_unit = position + 1;
        total = value
            .checked_mul(UNITS[position].1)
            .and_then(|v| v.checked_add(total))
            .filter(|v| i64::try_from(*v).is_ok())
            .ok_or("duration out of range")?;
        rest = after;
    }
    Ok(total as i64)
}

fn split_where(text: &str, stop: impl Fn(u8) -> bool) -> (&str, &str) {
    text.split_at(text.bytes().position(stop).unwrap_or(text.len()))
}

/// A finite decimal float as `strconv.ParseFloat` accepts it.
fn float(text: &str) -> Option<f64> {
    let decimal = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    text.parse().ok().filter(|f: &f64| decimal && f.is_finite())
}

/// What else `strconv.ParseFloat` accepts.
fn special_float(text: &str) -> Option<f64> {
    let (sign, name) = match text.strip_prefix('-') {
        Some(name) => (-1.0, name),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let infinite = name.eq_ignore_ascii_case("inf") || name.eq_ignore_ascii_case("infinity");
    if infinite {
        return Some(sign * f64::INFINITY);
    }
    text.eq_ignore_ascii_case("nan").then_some(f64::NAN)
}

/// A text in quotes as Go's `%q` prints it.
pub fn go_quoted(text: &str) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = skald_model::labels::write_go_quoted(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = SECOND;

    #[test]
    fn timestamps() {
        for (text, expected) in [
            ("", 7),
            ("1768438800", 1_768_438_800 * S),
            ("1768438800000", 1_768_438_800_000),
            ("1768438800000000000", 1_768_438_800 * S),
            ("4000000000", 4_000_000_000 * S),
            ("1768438800.5", 1_768_438_800 * S + S / 2),
            ("1768438800.", 1_768_438_800 * S),
            ("1.7684388e9", 1_768_438_800 * S),
            ("1.7684391e+9", 1_768_439_100 * S),
            ("1768439100.000001", 1_768_439_100 * S),
            ("-5", -5 * S),
            ("0", 0),
            ("2026-01-15T01:00:00.5Z", 1_768_438_800 * S + S / 2),
            ("2026-01-15T02:00:00+01:00", 1_768_438_800 * S),
        ] {
            assert_eq!(timestamp(text, 7), Ok(expected), "{text}");
        }
        for (text, what) in [
            ("x", "invalid syntax"),
            ("now-1h", "invalid syntax"),
            ("2026-01-15 01:00:00", "invalid syntax"),
            ("1.5.2", "invalid syntax"),
            ("1e3", "invalid syntax"),
            ("99999999999999999999", "value out of range"),
        ] {
            assert_eq!(timestamp(text, 7), Err(format!("strconv.ParseInt: parsing \"{text}\": {what}")));
        }
    }

    #[test]
    fn seconds_and_durations() {
        for (text, expected) in [
            ("15", 15 * S),
            ("1.9", 1_900_000_000),
            ("1e2", 100 * S),
            ("-1", -S),
            ("0", 0),
            ("NaN", 0),
            ("60s", 60 * S),
            ("1500ms", S + S / 2),
            ("1h30m", 5400 * S),
            ("1d", 86_400 * S),
        ] {
            assert_eq!(seconds_or_duration(text), Ok(expected), "{text}");
        }
        for (text, end) in [
            ("abc", ""),
            ("1ns", ""),
            ("1.5h", ""),
            ("-5m", ""),
            ("", ""),
            ("99999999999999999999", ". It overflows int64"),
            ("Inf", ". It overflows int64"),
        ] {
            let expected = format!("cannot parse \"{text}\" to a valid duration{end}");
            assert_eq!(seconds_or_duration(text), Err(expected));
        }
    }

    #[test]
    fn prometheus_durations() {
        for (text, expected) in [
            ("x", "not a valid duration string: \"x\""),
            ("90", "not a valid duration string: \"90\""),
            ("1.5h", "unknown unit \".\" in duration \"1.5h\""),
            ("1m1h", "not a valid duration string: \"1m1h\""),
            ("1m1m", "not a valid duration string: \"1m1m\""),
            ("1000y", "duration out of range"),
            ("", "empty duration string"),
        ] {
            assert_eq!(prometheus_duration(text), Err(expected.to_owned()), "{text}");
        }
        assert_eq!(
            prometheus_duration("1y2w3d4h5m6s7ms"),
            Ok(((365 + 14 + 3) * 86_400 + 14_706) * S + 7_000_000)
        );
    }
}
