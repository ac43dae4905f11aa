//! Base64 with the standard alphabet and padding.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Encodes bytes.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |w, (i, b)| w | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            if i <= chunk.len() {
                out.push(ALPHABET[(word >> (18 - 6 * i)) as usize & 63] as char);
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// Decodes a text; the error has Go's words.
pub(super) fn decode(text: &[u8]) -> Result<Vec<u8>, String> {
    let bad = |at: usize| format!("illegal base64 data at input byte {at}");
    // Go passes over line ends.
    let kept: Vec<(usize, u8)> =
        text.iter().copied().enumerate().filter(|(_, b)| !matches!(b, b'\r' | b'\n')).collect();
    let mut out = Vec::with_capacity(kept.len() / 4 * 3);
    let mut chunks = kept.chunks(4).peekable();
    while let Some(chunk) = chunks.next() {
        let last = chunks.peek().is_none();
        let mut word = 0u32;
        let mut digits = 0;
        for (at, b) in chunk {
            match ALPHABET.iter().position(|a| a == b) {
                Some(v) if digits < 4 => {
                    word |= (v as u32) << (18 - 6 * digits);
                    digits += 1;
                }
                _ if *b == b'=' && last && digits >= 2 => {}
                _ => return Err(bad(*at)),
            }
        }
        if chunk.len() < 4 {
            return Err(bad(text.len()));
        }
        out.extend_from_slice(&word.to_be_bytes()[1..digits]);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn round_trips(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)) {
            proptest::prop_assert_eq!(decode(encode(&bytes).as_bytes()), Ok(bytes));
        }
    }

    #[test]
    fn known_texts() {
        assert_eq!(encode("päss/wörd?".as_bytes()), "cMOkc3Mvd8O2cmQ/");
        assert_eq!(decode(b"eCt5"), Ok(b"x+y".to_vec()));
        assert_eq!(decode(b"e!t5"), Err("illegal base64 data at input byte 1".into()));
    }
}
