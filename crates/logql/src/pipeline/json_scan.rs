//! Walking over JSON text without building anything, with the tolerance and the errors of the library Loki uses.
//!
//! That library looks only as far as it must: what follows the first object is ignored, numbers are not checked, and
//! its errors are guesses from the first character. Users see its texts in `__error_details__`.

/// What a value is, by its first character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    String,
    Number,
    Boolean,
    Null,
    Object,
    Array,
}

/// An error with its text.
pub(crate) type ScanError = &'static str;

pub(crate) const OBJECT: ScanError = "Value looks like object, but can't find closing '}' symbol";
pub(crate) const ARRAY: ScanError = "Value looks like array, but can't find closing ']' symbol";
const STRING: ScanError = "Value is string, but can't find closing '\"' symbol";
const UNKNOWN: ScanError = "Unknown value type";
pub(crate) const MALFORMED: ScanError = "Malformed JSON error";
pub(crate) const ESCAPE: ScanError = "Encountered an invalid escape sequence in a string";

/// What a visitor wants next.
pub(crate) enum Visit {
    Continue,
    Stop,
}

/// The index of what is not space at or after `at`.
#[inline]
pub(crate) fn skip_space(data: &[u8], at: usize) -> Option<usize> {
    if data.get(at).is_some_and(|b| *b > b' ') {
        return Some(at);
    }
    data[at..].iter().position(|b| !matches!(b, b' ' | b'\n' | b'\r' | b'\t')).map(|p| at + p)
}

/// The index after the closing quote of a string whose content begins at `at`, and whether it holds escapes.
#[inline]
pub(crate) fn string_end(data: &[u8], at: usize) -> Option<(usize, bool)> {
    let mut from = at;
    let mut escaped = false;
    loop {
        let found = from + memchr::memchr2(b'"', b'\\', &data[from..])?;
        if data[found] == b'"' {
            return Some((found + 1, escaped));
        }
        escaped = true;
        from = (found + 2).min(data.len());
    }
}

/// The index after the bracket that closes the one at `at`.
pub(crate) fn block_end(data: &[u8], at: usize, open: u8, close: u8) -> Option<usize> {
    let mut level = 0usize;
    let mut i = at;
    while i < data.len() {
        let b = data[i];
        if b == b'"' {
            i = string_end(data, i + 1)?.0;
            continue;
        }
        if b == open {
            level += 1;
        } else if b == close {
            level -= 1;
            if level == 0 {
                return Some(i + 1);
            }
        }
        i += 1;
    }
    None
}

/// The value that begins at or after `at`: its text (strings without quotes), kind, and the index after it.
pub(crate) fn value(data: &[u8], at: usize) -> Result<(&[u8], Kind, usize), ScanError> {
    let at = skip_space(data, at).ok_or(MALFORMED)?;
    match data[at] {
        b'"' => {
            let (end, _) = string_end(data, at + 1).ok_or(STRING)?;
            Ok((&data[at + 1..end - 1], Kind::String, end))
        }
        b'[' => {
            let end = block_end(data, at, b'[', b']').ok_or(ARRAY)?;
            Ok((&data[at..end], Kind::Array, end))
        }
        b'{' => {
            let end = block_end(data, at, b'{', b'}').ok_or(OBJECT)?;
            Ok((&data[at..end], Kind::Object, end))
        }
        first => {
            let len = data[at..]
                .iter()
                .position(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t' | b',' | b'}' | b']'))
                .unwrap_or(data.len() - at);
            let text = &data[at..at + len];
            let kind = match first {
                b't' | b'f' if text == b"true" || text == b"false" => Kind::Boolean,
                b'n' | b'u' if text == b"null" => Kind::Null,
                b'0'..=b'9' | b'-' => Kind::Number,
                _ => return Err(UNKNOWN),
            };
            Ok((text, kind, at + len))
        }
    }
}

/// Calls `visit` with each key (unescaped into `scratch` if it has escapes), value and kind of the object that `data`
/// begins with.
pub(crate) fn each_pair<'d, E: From<ScanError>>(
    data: &'d [u8],
    visit: &mut impl FnMut(&[u8], &'d [u8], Kind) -> Result<Visit, E>,
) -> Result<(), E> {
    let mut at = match skip_space(data, 0) {
        Some(at) if data[at] == b'{' => at + 1,
        _ => return Err(OBJECT.into()),
    };
    at = skip_space(data, at).ok_or(MALFORMED)?;
    if data[at] == b'}' {
        return Ok(());
    }
    loop {
        match data[at] {
            b'"' => at += 1,
            b'}' => return Ok(()),
            _ => return Err(OBJECT.into()),
        }
        let (end, escaped) = string_end(data, at).ok_or(MALFORMED)?;
        let key = &data[at..end - 1];
        let colon = skip_space(data, end).ok_or(MALFORMED)?;
        let mut unescaped = Vec::new();
        let key = if escaped {
            if !unescape(key, &mut unescaped) {
                return Err(ESCAPE.into());
            }
            &unescaped[..]
        } else {
            key
        };
        if data[colon] != b':' {
            return Err(MALFORMED.into());
        }
        let (text, kind, after) = value(data, colon + 1)?;
        if let Visit::Stop = visit(key, text, kind)? {
            return Ok(());
        }
        at = skip_space(data, after).ok_or(ARRAY)?;
        match data[at] {
            b'}' => return Ok(()),
            b',' => at += 1,
            _ => return Err(OBJECT.into()),
        }
        at = skip_space(data, at).ok_or(ARRAY)?;
    }
}

/// Calls `visit` with the values of the array `data` until it stops; errors end the walk.
pub(crate) fn nth_element(data: &[u8], index: usize) -> Option<(&[u8], Kind)> {
    let mut at = skip_space(data, 0).filter(|at| data[*at] == b'[')? + 1;
    let mut i = 0;
    loop {
        at = skip_space(data, at)?;
        if data[at] == b']' {
            return None;
        }
        let (text, kind, after) = value(data, at).ok()?;
        if i == index {
            return Some((text, kind));
        }
        i += 1;
        at = skip_space(data, after)?;
        if data[at] != b',' {
            return None;
        }
        at += 1;
    }
}

/// Appends the text of a JSON string without its escapes; false if one is not valid.
pub(crate) fn unescape(text: &[u8], out: &mut Vec<u8>) -> bool {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let Some(kind) = rest.get(at + 1) else { return false };
        rest = &rest[at + 2..];
        let plain = match kind {
            b'"' | b'\\' | b'/' => *kind,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let Some(mut code) = hex4(rest) else { return false };
                rest = &rest[4..];
                if (0xd800..0xdc00).contains(&code) {
                    let low =
                        rest.strip_prefix(b"\\u").and_then(hex4).filter(|l| (0xdc00..0xe000).contains(l));
                    let Some(low) = low else { return false };
                    rest = &rest[6..];
                    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                }
                let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return false,
        };
        out.push(plain);
    }
    out.extend_from_slice(rest);
    true
}

fn hex4(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text.get(..4)?).ok()?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> (Vec<(String, String)>, Option<ScanError>) {
        let mut out = vec![];
        let end = each_pair::<ScanError>(text.as_bytes(), &mut |k, v, _| {
            out.push((String::from_utf8_lossy(k).into(), String::from_utf8_lossy(v).into()));
            Ok(Visit::Continue)
        });
        (out, end.err())
    }

    #[test]
    fn reads_as_far_as_it_can() {
        assert_eq!(pairs(r#"{"a":1}{"a":2}"#).0.len(), 1);
        assert_eq!(pairs("not json").1, Some(OBJECT));
        assert_eq!(pairs(r#"{"level":"error","msg":"trunc"#).1, Some(STRING));
        assert_eq!(pairs(r#"{"k":"v" "z":1}"#), (vec![("k".into(), "v".into())], Some(OBJECT)));
        assert_eq!(pairs(r#"{"l":'single'}"#).1, Some(UNKNOWN));
        assert_eq!(pairs(r#"{"l":"w",}"#).1, None);
        assert_eq!(pairs(r#"{"a":"\\\"}"}"#).0[0].1, r#"\\\"}"#);
    }

    #[test]
    fn unescapes() {
        let mut out = vec![];
        assert!(unescape(br#"tab\tquote\"o\u0041\ud83d\ude00"#, &mut out));
        assert_eq!(out, "tab\tquote\"oA😀".as_bytes());
        assert!(!unescape(br"\x", &mut out));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_walked_without_panic(data in proptest::collection::vec(proptest::sample::select(&b"{}[]\":, \\u01atn"[..]), 0..40)) {
            let _ = each_pair::<ScanError>(&data, &mut |k, v, _| { let mut o = k.to_vec(); unescape(v, &mut o); Ok(Visit::Continue) });
            let _ = nth_element(&data, 1);
        }
    }
}
