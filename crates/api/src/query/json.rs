//! JSON written straight into a buffer, in the notation of Go's encoders.

use std::borrow::Cow;
use std::io::Write as _;

use skald_model::{LabelsRef, Timestamp};

/// Appends a string in quotes. `<`, `>`, `&` and the line separators U+2028 and U+2029 are escaped as Go does.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    let mut at = 0;
    while let Some(skip) = bytes[at..].iter().position(|b| SPECIAL[usize::from(*b)]) {
        at += skip;
        let escape: &[u8] = match bytes[at] {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0xe2 => match &bytes[at..] {
                [_, 0x80, 0xa8, ..] => b"\\u2028",
                [_, 0x80, 0xa9, ..] => b"\\u2029",
                _ => {
                    at += 1;
                    continue;
                }
            },
            b => {
                out.extend_from_slice(&bytes[from..at]);
                out.extend_from_slice(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    HEX[usize::from(b >> 4)],
                    HEX[usize::from(b & 15)],
                ]);
                at += 1;
                from = at;
                continue;
            }
        };
        out.extend_from_slice(&bytes[from..at]);
        out.extend_from_slice(escape);
        at += if bytes[at] == 0xe2 { 3 } else { 1 };
        from = at;
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Bytes at which [`string`] has to stop.
const SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 0x20 {
        table[b] = true;
        b += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table[b'<' as usize] = true;
    table[b'>' as usize] = true;
    table[b'&' as usize] = true;
    table[0xe2] = true;
    table
};

/// Appends a line. Stored lines are UTF-8; what a query's stages made of one may in theory not be.
pub(crate) fn line(out: &mut Vec<u8>, line: &[u8]) {
    let text = match simdutf8::basic::from_utf8(line) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(line),
    };
    string(out, &text);
}

/// Appends a label set as an object.
pub(crate) fn labels(out: &mut Vec<u8>, labels: LabelsRef<'_>) {
    out.push(b'{');
    for (i, (name, value)) in labels.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        string(out, name);
        out.push(b':');
        string(out, value);
    }
    out.push(b'}');
}

/// Appends an array of strings.
pub(crate) fn strings<'a>(out: &mut Vec<u8>, items: impl IntoIterator<Item = &'a str>) {
    out.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        string(out, item);
    }
    out.push(b']');
}

/// Appends an integer.
pub(crate) fn integer(out: &mut Vec<u8>, n: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Appends a float in quotes as Go's `FormatFloat(v, 'f', -1, 64)` prints it: the shortest digits that read back,
/// never an exponent.
pub(crate) fn float_text(out: &mut Vec<u8>, v: f64) {
    out.push(b'"');
    if v.is_infinite() {
        out.extend_from_slice(if v > 0.0 { b"+Inf" } else { b"-Inf" });
    } else {
        // Writing to a vector cannot fail.
        let _ = write!(out, "{v}");
    }
    out.push(b'"');
}

/// Appends a time in seconds with up to three decimals.
pub(crate) fn seconds(out: &mut Vec<u8>, t: Timestamp) {
    let millis = t.div_euclid(1_000_000);
    if millis < 0 {
        out.push(b'-');
    }
    let (whole, fraction) = (millis.unsigned_abs() / 1000, millis.unsigned_abs() % 1000);
    integer(out, whole as i64);
    if fraction > 0 {
        let digits = [
            b'.',
            b'0' + (fraction / 100) as u8,
            b'0' + (fraction / 10 % 10) as u8,
            b'0' + (fraction % 10) as u8,
        ];
        let zeros = digits.iter().rev().take_while(|d| **d == b'0').count();
        out.extend_from_slice(&digits[..4 - zeros]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_in_go() {
        let s = |text: &str| written(|out| string(out, text));
        assert_eq!(s(""), r#""""#);
        assert_eq!(s("plain ünï 日本 🚀 …"), "\"plain ünï 日本 🚀 …\"");
        assert_eq!(s("\"\\\n\r\t\0\u{8}\u{1b}\u{7f}"), "\"\\\"\\\\\\n\\r\\t\\u0000\\u0008\\u001b\u{7f}\"");
        assert_eq!(s("<a>&\u{2028}\u{2029}x"), r#""\u003ca\u003e\u0026\u2028\u2029x""#);
        assert_eq!(written(|out| line(out, b"a\xffb")), "\"a\u{fffd}b\"");
    }

    #[test]
    fn numbers_are_printed_as_in_go() {
        for (v, expected) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (1e21, "1000000000000000000000"),
            (1e-7, "0.0000001"),
            (0.0038888888888888888, "0.0038888888888888888"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(written(|out| float_text(out, v)), format!("\"{expected}\""));
        }
        for (t, expected) in [
            (1_768_442_400_000_000_000, "1768442400"),
            (1_768_442_422_500_000_000, "1768442422.5"),
            (1_768_442_422_050_999_999, "1768442422.05"),
            (1_768_442_422_001_000_000, "1768442422.001"),
            (-1_500_000_000, "-1.5"),
            (0, "0"),
        ] {
            assert_eq!(written(|out| seconds(out, t)), expected);
        }
    }

    proptest! {
        #[test]
        fn any_string_reads_back(text in "\\PC{0,20}|[\\x00-\\x7f\u{2020}-\u{2030}]{0,20}") {
            let json = written(|out| string(out, &text));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
