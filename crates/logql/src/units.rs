//! Durations, byte sizes and numbers as Go and Prometheus read and write them.

use skald_model::time::SECOND;

const MILLISECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// Units of Prometheus durations in the order they must have.
const PROMETHEUS_UNITS: [(&str, i64); 7] = [
    ("y", 365 * 24 * HOUR),
    ("w", 7 * 24 * HOUR),
    ("d", 24 * HOUR),
    ("h", HOUR),
    ("m", MINUTE),
    ("s", SECOND),
    ("ms", MILLISECOND),
];

/// Reads a Prometheus duration (`1h30m`, `5d`) into nanoseconds; the error has Prometheus' words.
pub fn parse_prometheus_duration(text: &str) -> Result<i64, String> {
    if text == "0" {
        return Ok(0);
    }
    if text.is_empty() {
        return Err("empty duration string".into());
    }
    let invalid = || format!("not a valid duration string: {}", go_quote(text));
    let mut rest = text;
    let mut total: i64 = 0;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let value: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let len = rest.bytes().take_while(|b| !b.is_ascii_digit()).count();
        if len == 0 {
            return Err(invalid());
        }
        let (unit, after) = rest.split_at(len);
        rest = after;
        let Some(place) = PROMETHEUS_UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err(format!("unknown unit {} in duration {}", go_quote(unit), go_quote(text)));
        };
        if place < next_unit {
            return Err(invalid());
        }
        next_unit = place + 1;
        total = i64::try_from(value)
            .ok()
            .and_then(|v| v.checked_mul(PROMETHEUS_UNITS[place].1))
            .and_then(|v| total.checked_add(v))
            .ok_or("duration out of range")?;
    }
    Ok(total)
}

/// Writes a duration as Prometheus does: `1h30m`, whole milliseconds only.
pub fn format_prometheus_duration(nanos: i64) -> String {
    let mut ms = nanos / MILLISECOND;
    if ms == 0 {
        return "0s".into();
    }
    let mut out = String::new();
    for (name, size) in PROMETHEUS_UNITS {
        let size = size / MILLISECOND;
        if matches!(name, "y" | "w") && ms % size != 0 {
            continue;
        }
        if ms / size > 0 {
            out.push_str(&format!("{}{name}", ms / size));
            ms %= size;
        }
    }
    out
}

/// Reads a duration with Go's `time.ParseDuration`; the error has Go's words.
pub fn parse_go_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", go_quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let whole = rest.bytes().take_while(u8::is_ascii_digit).count();
        let mut nanos: u64 = if whole == 0 {
            0
        } else {
            rest[..whole].parse().ok().filter(|v| *v <= 1 << 63).ok_or_else(invalid)?
        };
        rest = &rest[whole..];
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            fraction = &after[..digits];
            rest = &after[digits..];
        }
        if whole == 0 && fraction.is_empty() {
            return Err(invalid());
        }
        let len = rest.bytes().take_while(|b| *b != b'.' && !b.is_ascii_digit()).count();
        if len == 0 {
            return Err(format!("time: missing unit in duration {}", go_quote(text)));
        }
        let (unit, after) = rest.split_at(len);
        rest = after;
        let size: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(format!("time: unknown unit {} in duration {}", go_quote(unit), go_quote(text))),
        };
        nanos = nanos.checked_mul(size).filter(|v| *v <= 1 << 63).ok_or_else(invalid)?;
        if !fraction.is_empty() {
            let digits = &fraction[..fraction.len().min(18)];
            let value: u64 = digits.parse().map_err(|_| invalid())?;
            nanos += (value as f64 * (size as f64 / 10f64.powi(digits.len() as i32))) as u64;
        }
        total = total.checked_add(nanos).filter(|v| *v <= 1 << 63).ok_or_else(invalid)?;
    }
    match (negative, i64::try_from(total)) {
        (true, Ok(v)) => Ok(-v),
        (true, Err(_)) => Ok(i64::MIN),
        (false, Ok(v)) => Ok(v),
        (false, Err(_)) => Err(invalid()),
    }
}

/// Writes a duration as Go's `time.Duration` shows itself: `1h30m0s`, `250ms`, `1.5µs`.
pub fn format_go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |value: u64, digits: usize| {
        let text = format!("{value:0digits$}");
        match text.trim_end_matches('0') {
            "" => String::new(),
            t => format!(".{t}"),
        }
    };
    let text = match n {
        0 => return "0s".into(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => format!("{}{}µs", n / 1_000, fraction(n % 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}{}ms", n / 1_000_000, fraction(n % 1_000_000, 6)),
        _ => {
            let seconds = n / 1_000_000_000;
            let tail = format!("{}{}s", seconds % 60, fraction(n % 1_000_000_000, 9));
            let minutes = seconds / 60;
            match minutes {
                0 => tail,
                1..60 => format!("{minutes}m{tail}"),
                _ => format!("{}h{}m{tail}", minutes / 60, minutes % 60),
            }
        }
    };
    format!("{sign}{text}")
}

/// A LogQL duration literal: Prometheus' units first, then Go's.
pub(crate) fn parse_literal_duration(text: &str) -> Option<i64> {
    parse_prometheus_duration(text).or_else(|_| parse_go_duration(text)).ok()
}

/// Reads a byte size (`5MB`, `1.5 KiB`) as Loki's library does; the error has its words.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !(c.is_numeric() || c == '.' || c == ',')).unwrap_or(text.len());
    let number = text[..end].replace(',', "");
    let value = parse_go_float(&number)?;
    let unit = text[end..].trim().to_lowercase();
    let factor: f64 = match unit.as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "p" | "pb" => 1e15,
        "e" | "eb" => 1e18,
        "ki" | "kib" => 1024f64,
        "mi" | "mib" => 1024f64.powi(2),
        "gi" | "gib" => 1024f64.powi(3),
        "ti" | "tib" => 1024f64.powi(4),
        "pi" | "pib" => 1024f64.powi(5),
        "ei" | "eib" => 1024f64.powi(6),
        _ => return Err(format!("unhandled size name: {unit}")),
    };
    let bytes = value * factor;
    if bytes >= u64::MAX as f64 {
        return Err(format!("too large: {text}"));
    }
    Ok(bytes as u64)
}

/// Writes a byte size as Loki's `format_query` does, rounded to a short text: `5.2MB`.
pub fn format_bytes(bytes: u64) -> String {
    if bytes < 10 {
        return format!("{bytes}B");
    }
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let place = ((bytes as f64).ln() / 1000f64.ln()).floor();
    let value = (bytes as f64 / 1000f64.powf(place) * 10.0 + 0.5).floor() / 10.0;
    let unit = units[(place as usize).min(units.len() - 1)];
    if value < 10.0 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// Reads a number as Go's `strconv.ParseFloat`; the error has Go's words.
pub fn parse_go_float(text: &str) -> Result<f64, String> {
    let invalid = |why: &str| format!("strconv.ParseFloat: parsing {}: {why}", go_quote(text));
    let bare = text.strip_prefix(['+', '-']).unwrap_or(text);
    let lower = bare.to_ascii_lowercase();
    let value = match lower.as_str() {
        "inf" | "infinity" => f64::INFINITY,
        "nan" if bare.len() == text.len() => return Ok(f64::NAN),
        _ if lower.starts_with("0x") => {
            parse_hex_float(&lower[2..]).ok_or_else(|| invalid("invalid syntax"))?
        }
        _ => {
            let plain = lower.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'+' | b'-'));
            let value: f64 =
                if plain { lower.parse().ok() } else { None }.ok_or_else(|| invalid("invalid syntax"))?;
            if value.is_infinite() {
                return Err(invalid("value out of range"));
            }
            value
        }
    };
    Ok(if text.starts_with('-') { -value } else { value })
}

fn parse_hex_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once('p')?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0f64;
    for c in whole.chars().chain(fraction.chars()) {
        value = value * 16.0 + f64::from(c.to_digit(16)?);
    }
    let exponent: i32 = exponent.parse().ok()?;
    Some(value * 2f64.powi(exponent.checked_sub(4 * fraction.len() as i32)?))
}

/// Writes a number as samples show it: Go's `strconv.FormatFloat(v, 'f', -1, 64)`.
pub fn format_float(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else {
        format!("{value}")
    }
}

/// Writes a number as Go's `fmt.Sprint` does: shortest, with an exponent below 1e-4 and from 1e21.
pub fn format_float_short(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() || value == 0.0 || (1e-4..1e21).contains(&magnitude) {
        return format_float(value);
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(d) => ('-', d),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// Quotes as Go's `strconv.Quote`.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    // Writing into a String does not fail.
    let _ = skald_model::labels::write_go_quoted(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_durations() {
        assert_eq!(parse_prometheus_duration("1h30m"), Ok(90 * MINUTE));
        assert_eq!(parse_prometheus_duration("100s500ms"), Ok(100_500 * MILLISECOND));
        assert_eq!(parse_prometheus_duration("").unwrap_err(), "empty duration string");
        assert_eq!(parse_prometheus_duration("5").unwrap_err(), "not a valid duration string: \"5\"");
        assert_eq!(parse_prometheus_duration("5m1h").unwrap_err(), "not a valid duration string: \"5m1h\"");
        assert_eq!(parse_prometheus_duration("0.5h").unwrap_err(), "unknown unit \".\" in duration \"0.5h\"");
        assert_eq!(format_prometheus_duration(90 * SECOND), "1m30s");
        assert_eq!(format_prometheus_duration(7 * 24 * HOUR), "1w");
        assert_eq!(format_prometheus_duration(90 * 24 * HOUR), "90d");
    }

    #[test]
    fn go_durations() {
        assert_eq!(parse_go_duration("1.5h"), Ok(90 * MINUTE));
        assert_eq!(parse_go_duration("-250ms"), Ok(-250 * MILLISECOND));
        assert_eq!(parse_go_duration("5").unwrap_err(), "time: missing unit in duration \"5\"");
        assert_eq!(parse_go_duration("x").unwrap_err(), "time: invalid duration \"x\"");
        for (nanos, text) in [
            (0, "0s"),
            (5 * MINUTE, "5m0s"),
            (90 * MINUTE, "1h30m0s"),
            (1_500_000, "1.5ms"),
            (1_500_000_000, "1.5s"),
            (-HOUR, "-1h0m0s"),
            (1_500, "1.5µs"),
        ] {
            assert_eq!(format_go_duration(nanos), text);
        }
    }

    #[test]
    fn byte_sizes_and_numbers() {
        assert_eq!(parse_bytes("5MB"), Ok(5_000_000));
        assert_eq!(parse_bytes("1.5 KiB"), Ok(1536));
        assert_eq!(parse_bytes("5XB").unwrap_err(), "unhandled size name: xb");
        assert_eq!(format_bytes(5_242_880), "5.2MB");
        assert_eq!(format_bytes(20_000), "20kB");
        assert_eq!(
            parse_go_float("0x1F").unwrap_err(),
            "strconv.ParseFloat: parsing \"0x1F\": invalid syntax"
        );
        assert_eq!(parse_go_float("0x1p4"), Ok(16.0));
        assert_eq!(parse_go_float("+Inf"), Ok(f64::INFINITY));
        assert!(parse_go_float("").is_err() && parse_go_float("1_0").is_err());
        assert_eq!(format_float(1e21), "1000000000000000000000");
        assert_eq!(format_float_short(1e21), "1e+21");
        assert_eq!(format_float_short(0.00001), "1e-05");
        assert_eq!(format_float_short(9.0), "9");
    }
}
