//! Parquet's DELTA_BINARY_PACKED: differences in blocks of 128, bit-packed by 32.
//!
//! The smallest miniblock that the format allows costs the fewest bits, because the widest of its values sets the
//! width of all.

use skald_model::labels::put_varint;

use super::error::{Result, corrupt};
use super::thrift::{unzigzag, zigzag};

const BLOCK: usize = 128;
const MINIBLOCKS: usize = 4;
const MINIBLOCK: usize = BLOCK / MINIBLOCKS;

/// Appends `values` to `out`. Sums wrap, so any numbers can be encoded.
pub(crate) fn encode(values: impl ExactSizeIterator<Item = i64>, out: &mut Vec<u8>) {
    put_varint(out, BLOCK as u64);
    put_varint(out, MINIBLOCKS as u64);
    put_varint(out, values.len() as u64);
    let mut values = values;
    let mut previous = values.next().unwrap_or(0);
    put_varint(out, zigzag(previous));
    let mut deltas = [0i64; BLOCK];
    loop {
        let mut n = 0;
        for (slot, value) in deltas.iter_mut().zip(values.by_ref()) {
            *slot = value.wrapping_sub(previous);
            previous = value;
            n += 1;
        }
        if n == 0 {
            return;
        }
        encode_block(&mut deltas, n, out);
        if n < BLOCK {
            return;
        }
    }
}

fn encode_block(deltas: &mut [i64; BLOCK], n: usize, out: &mut Vec<u8>) {
    let min = deltas[..n].iter().copied().min().unwrap_or(0);
    put_varint(out, zigzag(min));
    // What follows the last value in its miniblock is padding of zero bits.
    deltas[n..].fill(min);
    let widths_at = out.len();
    out.extend_from_slice(&[0; MINIBLOCKS]);
    for (i, mini) in deltas.chunks_exact(MINIBLOCK).enumerate().take(n.div_ceil(MINIBLOCK)) {
        let all = mini.iter().fold(0u64, |all, d| all | d.wrapping_sub(min) as u64);
        let width = 64 - all.leading_zeros();
        out[widths_at + i] = width as u8;
        pack(mini.iter().map(|d| d.wrapping_sub(min) as u64), width, out);
    }
}

/// Appends values of `width` bits each, least significant first; the last byte is filled up with zeros.
pub(crate) fn pack(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    let (mut word, mut used) = (0u64, 0u32);
    for v in values {
        word |= v << used;
        let end = used + width;
        if end >= 64 {
            out.extend_from_slice(&word.to_le_bytes());
            word = if used == 0 { 0 } else { v >> (64 - used) };
            used = end - 64;
        } else {
            used = end;
        }
    }
    let rest = word.to_le_bytes();
    out.extend_from_slice(&rest[..used.div_ceil(8) as usize]);
}

/// Decodes values from the start of `bytes`, appends them to `out`, and returns how many bytes they took.
/// More than `limit` values are an error.
pub(crate) fn decode(bytes: &[u8], limit: usize, out: &mut Vec<i64>) -> Result<usize> {
    let mut r = Cursor { bytes, at: 0 };
    let (block, minis, count) = (r.size()?, r.size()?, r.size()?);
    let mut value = unzigzag(r.varint()?);
    if count > limit {
        return Err(corrupt("delta page", format!("{count} values where {limit} were expected")));
    }
    if minis == 0
        || minis > 256
        || block % minis != 0
        || block / minis % 32 != 0
        || block == 0
        || block > 1 << 16
    {
        return Err(corrupt("delta page", format!("blocks of {block} values in {minis} parts")));
    }
    if count == 0 {
        return Ok(r.at);
    }
    let mini = block / minis;
    let mut unpacker = Unpacker::default();
    out.reserve(count);
    out.push(value);
    let mut left = count - 1;
    while left > 0 {
        let min = unzigzag(r.varint()?);
        let widths = r.take(minis)?;
        for &width in widths {
            if left == 0 {
                break;
            }
            if width > 64 {
                return Err(corrupt("delta page", format!("a width of {width} bits")));
            }
            let packed = r.take(mini / 8 * usize::from(width))?;
            let n = left.min(mini);
            unpacker.unpack(packed, u32::from(width), n, |deltas| {
                out.extend(deltas.iter().map(|d| {
                    value = value.wrapping_add(min).wrapping_add(*d as i64);
                    value
                }));
            });
            left -= n;
        }
    }
    Ok(r.at)
}

/// Unpacks values of some number of bits each.
pub(crate) struct Unpacker {
    /// A copy of the packed bytes, in a buffer of fixed size, so that eight can be loaded at any value.
    bytes: [u8; 64 * MINIBLOCK / 8 + 16],
    values: [u64; MINIBLOCK],
}

impl Default for Unpacker {
    fn default() -> Self {
        Self { bytes: [0; 64 * MINIBLOCK / 8 + 16], values: [0; MINIBLOCK] }
    }
}

impl Unpacker {
    /// Calls `each` with the first `n` values of `width` bits in `packed`, at most 32 at a time. Bits that are missing
    /// are zeros.
    #[inline]
    pub(crate) fn unpack(&mut self, packed: &[u8], width: u32, n: usize, mut each: impl FnMut(&[u64])) {
        let size = width as usize * MINIBLOCK / 8;
        for i in 0..n.div_ceil(MINIBLOCK) {
            let from = (i * size).min(packed.len());
            let packed = &packed[from..packed.len().min(from + size)];
            self.bytes[..packed.len()].copy_from_slice(packed);
            self.bytes[packed.len()..size].fill(0);
            self.unpack_32(width);
            each(&self.values[..(n - i * MINIBLOCK).min(MINIBLOCK)]);
        }
    }

    #[inline]
    fn unpack_32(&mut self, width: u32) {
        if width == 0 {
            return self.values.fill(0);
        }
        let mask = u64::MAX >> (64 - width);
        for (i, v) in self.values.iter_mut().enumerate() {
            let bit = i * width as usize;
            *v = if width <= 56 {
                (load(&self.bytes, bit / 8) >> (bit % 8)) & mask
            } else {
                let (low, high) = (load(&self.bytes, bit / 8), load(&self.bytes, bit / 8 + 8));
                let both = u128::from(low) | (u128::from(high) << 64);
                (both >> (bit % 8)) as u64 & mask
            };
        }
    }
}

/// Eight bytes as a little-endian number.
#[inline]
pub(crate) fn load(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("the slice has eight bytes"))
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = *self.bytes.get(self.at).ok_or_else(|| corrupt("delta page", "cut short"))?;
            self.at += 1;
            v |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Ok(v);
            }
        }
        Err(corrupt("delta page", "a number is too long"))
    }

    fn size(&mut self) -> Result<usize> {
        let v = self.varint()?;
        u32::try_from(v).map(|v| v as usize).map_err(|_| corrupt("delta page", format!("a size of {v}")))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let s = self
            .at
            .checked_add(n)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or_else(|| corrupt("delta page", "cut short"))?;
        self.at += n;
        Ok(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn round_trip(values: &[i64]) {
        let mut bytes = vec![];
        encode(values.iter().copied(), &mut bytes);
        let len = bytes.len();
        bytes.extend_from_slice(b"after");
        let mut back = vec![];
        assert_eq!(decode(&bytes, values.len(), &mut back).unwrap(), len);
        assert_eq!(back, values);
    }

    #[test]
    fn borders() {
        for n in [0, 1, 2, 32, 33, 34, 128, 129, 130, 161, 257] {
            round_trip(&(0..n).map(|i| i * i).collect::<Vec<i64>>());
            round_trip(&vec![7; n as usize]);
        }
        round_trip(&[i64::MIN, i64::MAX, 0, i64::MIN, -1]);
    }

    proptest! {
        #[test]
        fn round_trips(v in proptest::collection::vec(any::<i64>(), 0..300), shift in 0u32..64) {
            round_trip(&v.iter().map(|v| v >> shift).collect::<Vec<_>>());
        }

        #[test]
        fn damaged_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&b, 1000, &mut vec![]);
            let mut with_head = vec![0x80, 1, 4, 0x90, 1, 0];
            with_head.extend_from_slice(&b);
            let _ = decode(&with_head, 1000, &mut vec![]);
        }

        #[test]
        fn packing_round_trips(v in proptest::collection::vec(any::<u64>(), 0..100), width in 0u32..=64) {
            let mask = if width == 0 { 0 } else { u64::MAX >> (64 - width) };
            let v: Vec<_> = v.iter().map(|v| v & mask).collect();
            let mut bytes = vec![];
            pack(v.iter().copied(), width, &mut bytes);
            let mut back = vec![];
            Unpacker::default().unpack(&bytes, width, v.len(), |x| back.extend_from_slice(x));
            prop_assert_eq!(back, v);
        }
    }
}
