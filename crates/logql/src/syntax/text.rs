//! String literals as Go reads and writes them.
//!
//! LogQL's strings may hold bytes that are not UTF-8 (`"\xff"`). A query's text is a Rust string here, so such a byte
//! is kept as a private-use character far outside of what anyone writes, U+10FF00 plus the byte, and turned back where
//! bytes are wanted.

const STRAY: u32 = 0x10_FF00;

/// The bytes that a literal stands for.
pub fn to_bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match stray(c) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

fn stray(c: char) -> Option<u8> {
    (c as u32).checked_sub(STRAY).and_then(|b| u8::try_from(b).ok()).filter(|b| *b >= 0x80)
}

fn from_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().filter_map(|b| char::from_u32(STRAY + u32::from(*b))));
    }
    out
}

/// Quotes a literal as Go's `strconv.Quote`.
pub fn quote(text: &str) -> String {
    if !text.chars().any(|c| stray(c).is_some()) {
        return crate::units::go_quote(text);
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match stray(c) {
            Some(byte) => out.push_str(&format!("\\x{byte:02x}")),
            None => {
                let quoted = crate::units::go_quote(c.encode_utf8(&mut [0; 4]));
                out.push_str(&quoted[1..quoted.len() - 1]);
            }
        }
    }
    out.push('"');
    out
}

/// Reads a Go string literal, quotes included; `None` if it is not one.
pub(crate) fn unquote(literal: &str) -> Option<String> {
    let mut chars = literal.chars();
    let quote = chars.next()?;
    if literal.len() < 2 || chars.next_back() != Some(quote) {
        return None;
    }
    let body = chars.as_str();
    if quote == '`' {
        return Some(body.replace('\r', ""));
    }
    if !body.contains('\\') {
        return Some(body.to_owned());
    }
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let kind = rest[at + 1..].chars().next()?;
        let after = &rest[at + 1 + kind.len_utf8()..];
        let number = |text: &str, digits: usize, base: u32| {
            let text = text.get(..digits).filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u32::from_str_radix(text, base).ok()
        };
        let mut used = 0;
        match kind {
            'a' => out.push(7),
            'b' => out.push(8),
            'f' => out.push(12),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(11),
            '\\' => out.push(b'\\'),
            c if c == quote => out.push(c as u8),
            'x' => {
                out.push(number(after, 2, 16)? as u8);
                used = 2;
            }
            '0'..='7' => {
                let value = number(&rest[at + 1..], 3, 8)?;
                out.push(u8::try_from(value).ok()?);
                used = 2;
            }
            'u' | 'U' => {
                used = if kind == 'u' { 4 } else { 8 };
                let c = char::from_u32(number(after, used, 16)?)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
        rest = &after[used..];
    }
    out.extend_from_slice(rest.as_bytes());
    Some(from_bytes(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_round_trip() {
        for (literal, bytes) in [
            (r#""a\nb""#, &b"a\nb"[..]),
            (r#""\x41\u00e9\101""#, "A\u{e9}A".as_bytes()),
            (r#""\xff\"""#, b"\xff\""),
            ("`a\\n`", b"a\\n"),
        ] {
            let text = unquote(literal).unwrap();
            assert_eq!(to_bytes(&text), bytes, "{literal}");
            assert_eq!(unquote(&quote(&text)).as_deref(), Some(text.as_str()));
        }
        assert_eq!(unquote(r#""\'""#), None);
        assert_eq!(quote(&unquote(r#""\xff""#).unwrap()), r#""\xff""#);
    }
}
