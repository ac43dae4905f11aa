//! Text that is not UTF-8, treated as Go treats it: byte by byte.

const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Appends `bytes` with every byte that is not part of a UTF-8 character replaced by U+FFFD. (Rust's own lossy
/// conversion makes one of a whole broken sequence.)
pub(crate) fn replace_invalid(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(REPLACEMENT);
        }
    }
}

/// Appends `bytes` without those that are not part of a UTF-8 character.
pub(crate) fn without_invalid(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        let mut out = Vec::new();
        replace_invalid(bytes, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn each_invalid_byte_counts() {
        check(b"bad \xff\xfe utf8", "bad \u{fffd}\u{fffd} utf8");
        check(b"cut \xe2\x82", "cut \u{fffd}\u{fffd}");
        check(b"\xe2\x82x", "\u{fffd}\u{fffd}x");
        check(b"surrogate \xed\xa0\x80", "surrogate \u{fffd}\u{fffd}\u{fffd}");
        check("ünï".as_bytes(), "ünï");
    }
}
