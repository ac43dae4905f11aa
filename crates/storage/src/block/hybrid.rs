//! Parquet's hybrid of run lengths and bit-packing, for dictionary indexes and levels.

use skald_model::labels::{get_varint, put_varint};

use super::delta::{Unpacker, pack};
use super::error::{Result, corrupt};

/// Bits needed for numbers up to `max`.
pub(crate) fn width_for(max: u32) -> u32 {
    32 - max.leading_zeros()
}

/// Appends one run of `n` times `value`.
pub(crate) fn encode_run(value: u32, n: usize, width: u32, out: &mut Vec<u8>) {
    put_varint(out, (n as u64) << 1);
    out.extend_from_slice(&value.to_le_bytes()[..width.div_ceil(8) as usize]);
}

/// Appends `values`: one run if they are all the same, else bit-packed.
pub(crate) fn encode(values: &[u32], width: u32, out: &mut Vec<u8>) {
    let Some(first) = values.first() else { return };
    if values.iter().all(|v| v == first) {
        return encode_run(*first, values.len(), width, out);
    }
    let groups = values.len().div_ceil(8);
    put_varint(out, (groups as u64) << 1 | 1);
    let padding = groups * 8 - values.len();
    let padded = values.iter().copied().chain(std::iter::repeat_n(0, padding));
    pack(padded.map(u64::from), width, out);
}

/// Appends the `n` values in `bytes` to `out`.
pub(crate) fn decode(bytes: &[u8], width: u32, n: usize, out: &mut Vec<u32>) -> Result<()> {
    if width > 32 {
        return Err(corrupt("dictionary page", format!("a width of {width} bits")));
    }
    let end = out.len() + n;
    out.reserve(n);
    let mut rest = bytes;
    let mut unpacker = Unpacker::default();
    while out.len() < end {
        let (head, after) = get_varint(rest).ok_or_else(|| corrupt("dictionary page", "cut short"))?;
        let len = usize::try_from(head >> 1).map_err(|_| corrupt("dictionary page", "a run is too long"))?;
        let left = end - out.len();
        if head & 1 == 0 {
            let size = width.div_ceil(8) as usize;
            let value = after.get(..size).ok_or_else(|| corrupt("dictionary page", "cut short"))?;
            let mut word = [0u8; 4];
            word[..size].copy_from_slice(value);
            if len == 0 {
                return Err(corrupt("dictionary page", "an empty run"));
            }
            out.extend(std::iter::repeat_n(u32::from_le_bytes(word), len.min(left)));
            rest = &after[size..];
        } else {
            // Some writers leave out the padding of the last group.
            let size = len.checked_mul(width as usize).filter(|_| len > 0);
            let size = size.ok_or_else(|| corrupt("dictionary page", "a run is too long"))?;
            let values = len.saturating_mul(8).min(left);
            if after.len() < (values * width as usize).div_ceil(8) {
                return Err(corrupt("dictionary page", "cut short"));
            }
            let packed = &after[..size.min(after.len())];
            unpacker.unpack(packed, width, values, |all| out.extend(all.iter().map(|v| *v as u32)));
            rest = &after[packed.len()..];
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(v in proptest::collection::vec(0u32..1000, 0..100), run in 0usize..50) {
            let mut bytes = vec![];
            encode_run(5, run + 1, 10, &mut bytes);
            encode(&v, 10, &mut bytes);
            let mut all = vec![5; run + 1];
            all.extend(&v);
            let mut back = vec![];
            decode(&bytes, 10, all.len(), &mut back).unwrap();
            prop_assert_eq!(back, all);
        }

        #[test]
        fn damaged_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..60), width in 0u32..40) {
            let _ = decode(&b, width, 500, &mut vec![]);
        }
    }

    #[test]
    fn width_zero_needs_no_bytes_per_value() {
        let mut bytes = vec![];
        encode(&[0; 40], width_for(0), &mut bytes);
        let mut back = vec![];
        decode(&bytes, 0, 40, &mut back).unwrap();
        assert_eq!(back, [0; 40]);
    }
}
