//! Values of OTLP as text, as OpenTelemetry's Go library writes them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::message::{AnyValue, KeyValue, Value};

/// Appends a value as text: text as it is, numbers in digits, maps and lists as JSON, bytes in base64.
pub(super) fn write_text(out: &mut Vec<u8>, value: Option<&AnyValue>) {
    match value.and_then(|v| v.value.as_ref()) {
        None => {}
        Some(Value::String(text)) => out.extend_from_slice(text.as_bytes()),
        Some(Value::Bool(b)) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Some(Value::Int(n)) => out.extend_from_slice(itoa::Buffer::new().format(*n).as_bytes()),
        Some(Value::Double(v)) => out.extend_from_slice(double(*v).as_bytes()),
        Some(Value::Bytes(bytes)) => out.extend_from_slice(base64(bytes).as_bytes()),
        Some(value) => out.extend_from_slice(json(value).to_string().as_bytes()),
    }
}

/// Calls `each` with the name and the text of every attribute. Maps are flattened, with `_` between the names.
pub(super) fn flatten(attributes: &[KeyValue], each: &mut dyn FnMut(&str, &str)) {
    flatten_under("", attributes, each);
}

fn flatten_under(prefix: &str, attributes: &[KeyValue], each: &mut dyn FnMut(&str, &str)) {
    for attribute in attributes {
        let name = match prefix {
            "" => Cow::Borrowed(attribute.key.as_str()),
            prefix => Cow::Owned(format!("{prefix}_{}", attribute.key)),
        };
        match attribute.value.as_ref().and_then(|v| v.value.as_ref()) {
            Some(Value::Map(map)) => flatten_under(&name, &map.values, each),
            Some(Value::String(text)) => each(&name, text),
            _ => {
                let mut text = Vec::new();
                write_text(&mut text, attribute.value.as_ref());
                each(&name, &String::from_utf8_lossy(&text));
            }
        }
    }
}

fn json(value: &Value) -> serde_json::Value {
    let of = |v: &AnyValue| v.value.as_ref().map_or(serde_json::Value::Null, json);
    match value {
        Value::String(text) => text.as_str().into(),
        Value::Bool(b) => (*b).into(),
        Value::Int(n) => (*n).into(),
        Value::Double(v) if v.fract() == 0.0 && v.abs() < 1e15 => (*v as i64).into(),
        Value::Double(v) => (*v).into(),
        Value::Bytes(bytes) => base64(bytes).into(),
        Value::Array(list) => list.values.iter().map(of).collect(),
        Value::Map(map) => {
            // Sorted, as Go writes maps.
            let pairs: BTreeMap<_, _> = map
                .values
                .iter()
                .map(|p| (p.key.clone(), p.value.as_ref().map_or(serde_json::Value::Null, of)))
                .collect();
            pairs.into_iter().collect()
        }
    }
}

/// A float as Go's JSON writes it: digits, and an exponent only for what is very large or very small.
fn double(v: f64) -> String {
    let size = v.abs();
    if v.is_finite() && size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{v:e}");
        return if size >= 1e21 { text.replace('e', "e+") } else { text };
    }
    v.to_string()
}

/// Bytes in hexadecimal; none when all are 0, which means that there is no id.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if bytes.iter().all(|b| *b == 0) {
        return String::new();
    }
    let digit = |n: u8| char::from(DIGITS[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let index = bits >> (18 - 6 * i) & 63;
            out.push(if i <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    out
}

/// Reads base64, in the standard or in the URL alphabet, with or without padding.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut n) = (Vec::with_capacity(text.len() * 3 / 4), 0u32, 0);
    for b in text.trim_end_matches('=').bytes() {
        let b = match b {
            b'-' => b'+',
            b'_' => b'/',
            b => b,
        };
        bits = bits << 6 | ALPHABET.iter().position(|a| *a == b)? as u32;
        n += 6;
        if n >= 8 {
            n -= 8;
            out.push((bits >> n) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_as_in_go() {
        for (v, expected) in
            [(1.5, "1.5"), (2.0, "2"), (1e21, "1e+21"), (-1e-7, "-1e-7"), (1e-6, "0.000001"), (0.0, "0")]
        {
            assert_eq!(double(v), expected);
        }
    }

    proptest! {
        #[test]
        fn base64_round_trips(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            prop_assert_eq!(from_base64(&base64(&bytes)), Some(bytes));
        }
    }

    #[test]
    fn base64_is_padded() {
        assert_eq!([base64(b"a"), base64(b"ab"), base64(b"abc")], ["YQ==", "YWI=", "YWJj"]);
        assert_eq!(from_base64("a*"), None);
    }
}
