//! Durations and byte sizes as people write them: `1h30m`, `7d`, `256KB`, `1.5MB`, plain numbers.
//!
//! Modules for `#[serde(with = "…")]` turn them into [`Duration`] or integers and back, so that a printed
//! configuration can be read again.

use std::fmt::Write as _;
use std::time::Duration;

const NANOS: [(&str, u64); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];
const YEAR_NANOS: u64 = 365 * 86_400_000_000_000;

/// Reads a duration in nanoseconds: Go's text (`1h30m`, `1.5s`), Prometheus' (`7d`, `1w`, `1y`), or `0` without a unit.
///
/// # Errors
/// Says what was expected when `text` is neither, has no unit, is negative, or is over 292 years.
pub fn parse_nanos(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a duration; expected for example 30s, 5m, 1h30m or 7d");
    let text_trimmed = text.trim();
    if text_trimmed == "0" {
        return Ok(0);
    }
    let mut rest = text_trimmed;
    let mut total = 0f64;
    let mut exact = 0u128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let scale = match unit {
            "y" => YEAR_NANOS,
            _ => NANOS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
        };
        match number.parse::<u64>() {
            Ok(whole) => exact += u128::from(whole) * u128::from(scale),
            Err(_) => total += number.parse::<f64>().map_err(|_| wrong())? * scale as f64,
        }
        rest = after;
    }
    if text_trimmed.is_empty() {
        return Err(wrong());
    }
    let nanos = exact + total.round() as u128;
    i64::try_from(nanos).map_err(|_| format!("{text:?} is too long; the longest duration is 292 years"))
}

/// Reads a duration; see [`parse_nanos`].
///
/// # Errors
/// As [`parse_nanos`].
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_nanos(text).map(|n| Duration::from_nanos(n.unsigned_abs()))
}

/// Writes nanoseconds in the form that [`parse_nanos`] reads, in as few parts as it takes: `1h30m`, `0s`.
pub fn format_nanos(nanos: i64) -> String {
    let mut left = nanos.unsigned_abs();
    let mut out = String::new();
    if nanos < 0 {
        out.push('-');
    }
    for (unit, scale) in [
        ("h", NANOS[6].1),
        ("m", NANOS[5].1),
        ("s", NANOS[4].1),
        ("ms", NANOS[3].1),
        ("us", 1_000),
        ("ns", 1),
    ] {
        if left >= scale {
            let _ = write!(out, "{}{unit}", left / scale);
            left %= scale;
        }
    }
    if nanos == 0 {
        out.push_str("0s");
    }
    out
}

/// Reads a size in bytes: a plain number, or one with a unit. As in Loki, `KB`, `MB`, `GB` and `TB` are powers of
/// 1024; `KiB` and so on mean the same.
///
/// # Errors
/// Says what was expected when `text` is no size.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; expected for example 1048576, 256KB, 1.5MB or 2GB");
    let t = text.trim();
    let digits = t.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(t.len());
    let (number, unit) = t.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(1 << shift).ok_or_else(wrong),
        Err(_) => {
            let value = number.parse::<f64>().map_err(|_| wrong())? * (1u64 << shift) as f64;
            if value.is_finite() && value < u64::MAX as f64 { Ok(value as u64) } else { Err(wrong()) }
        }
    }
}

/// Writes a size in the form that [`parse_bytes`] reads: `256KB`, `100MB`, or a plain number.
pub fn format_bytes(bytes: u64) -> String {
    for (unit, shift) in [("TB", 40), ("GB", 30), ("MB", 20), ("KB", 10)] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// `#[serde(with = "skald_runtime::units::duration")]` for a [`Duration`].
pub mod duration {
    use super::{Duration, parse_duration};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes it as text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::format_nanos(i64::try_from(value.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Reads it from text.
    ///
    /// # Errors
    /// When it is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// `#[serde(with = "skald_runtime::units::nanos")]` for a duration kept as `i64` nanoseconds.
pub mod nanos {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes it as text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &i64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::format_nanos(*value))
    }

    /// Reads it from text.
    ///
    /// # Errors
    /// When it is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
        super::parse_nanos(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// `#[serde(with = "skald_runtime::units::bytes")]` for a size kept as `u64`, `usize` or `u32` bytes.
pub mod bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes it as text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Copy + TryInto<u64>, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::format_bytes((*value).try_into().unwrap_or(u64::MAX)))
    }

    /// Reads it from text.
    ///
    /// # Errors
    /// When it is no size or one too large for the type.
    pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        let text = String::deserialize(d)?;
        let bytes = super::parse_bytes(&text).map_err(serde::de::Error::custom)?;
        T::try_from(bytes)
            .map_err(|_| serde::de::Error::custom(format!("{text} is too large for this setting")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations_of_go_and_prometheus() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("5m", 300_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            ("7d", 604_800_000_000_000),
            ("1w", 604_800_000_000_000),
            ("1y", 31_536_000_000_000_000),
            ("250ms", 250_000_000),
            ("10us", 10_000),
        ] {
            assert_eq!(parse_nanos(text), Ok(nanos), "{text}");
        }
        for text in ["", "5", "h", "5 minutes", "-1h", "1h-", "1..5s", "999999y"] {
            assert!(parse_nanos(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_sizes_as_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("256KB", 256 << 10),
            ("1.5MB", 3 << 19),
            ("2gb", 2 << 30),
            ("64 MiB", 64 << 20),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "KB", "1XB", "-1", "1e400MB", "99999999999TB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for n in [0, 1, 999, 1_000_000, 5_400_000_000_000, 604_800_000_000_001, i64::MAX] {
            assert_eq!(parse_nanos(&format_nanos(n)), Ok(n));
        }
        for b in [0, 1, 1023, 1024, 1025, 256 << 20, u64::MAX] {
            assert_eq!(parse_bytes(&format_bytes(b)), Ok(b));
        }
    }
}
