//! Which pushes the streams of a block came with.
//!
//! An ingester that keeps copies of what others write must find out that the table has its copies, too, without reading
//! them. So a block that was written by one of several replicas lists for each of its streams the pushes whose entries
//! of that stream are all in it. The list lies between the rows and the sections that queries read, is found through the
//! table ([`PushesPlace`]), and takes about a byte for each stream of each push.
//!
//! ```text
//! u32 raw length · zstd( varints: origins, each u64 ·
//!                        pushes, each: number of its origin, sequence − the one before of the same origin ·
//!                        streams, each: u64 id, its pushes, each: number − the one before )
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use skald_model::labels::put_varint;
use skald_model::{PushId, StreamId};

use super::error::{Result, corrupt};
use super::page::Compressor;

/// Lists compress well, and a higher level costs nothing that could be measured.
const LEVEL: i32 = 3;
/// Raw bytes of the largest list that is read.
const RAW_MAX: usize = 256 << 20;

/// Where a block has its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushesPlace {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// CRC-32 of the bytes.
    pub crc: u32,
}

/// The streams of a block with their pushes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushList {
    /// Sorted.
    pushes: Vec<PushId>,
    /// Positions in `pushes`, sorted.
    streams: Vec<(StreamId, Vec<u32>)>,
}

impl PushList {
    /// A list of streams, each with the pushes whose entries of it are all in the block.
    pub fn new(streams: impl IntoIterator<Item = (StreamId, Vec<PushId>)>) -> Self {
        let mut merged: BTreeMap<StreamId, BTreeSet<PushId>> = BTreeMap::new();
        for (stream, pushes) in streams {
            merged.entry(stream).or_default().extend(pushes);
        }
        let all: BTreeSet<PushId> = merged.values().flatten().copied().collect();
        let pushes: Vec<PushId> = all.into_iter().collect();
        let position = |p: &PushId| pushes.partition_point(|q| q < p) as u32;
        let streams =
            merged.into_iter().map(|(stream, of)| (stream, of.iter().map(position).collect())).collect();
        Self { pushes, streams }
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.pushes.is_empty()
    }

    /// The streams with their pushes.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, impl Iterator<Item = PushId> + '_)> + '_ {
        self.streams.iter().map(|(stream, of)| (*stream, of.iter().map(|p| self.pushes[*p as usize])))
    }

    /// Bytes in memory, about.
    pub fn memory_bytes(&self) -> usize {
        self.pushes.len() * size_of::<PushId>()
            + self.streams.iter().map(|(_, of)| 40 + of.len() * 4).sum::<usize>()
    }

    /// The bytes of the list in a block.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut raw = Vec::new();
        let origins: BTreeSet<u64> = self.pushes.iter().map(|p| p.origin).collect();
        put_varint(&mut raw, origins.len() as u64);
        origins.iter().for_each(|o| raw.extend_from_slice(&o.to_le_bytes()));
        put_varint(&mut raw, self.pushes.len() as u64);
        let (mut number, mut last) = (0u64, None);
        for push in &self.pushes {
            let before = match last {
                Some(PushId { origin, sequence }) if origin == push.origin => sequence,
                Some(_) => {
                    number += 1;
                    0
                }
                None => 0,
            };
            put_varint(&mut raw, number);
            put_varint(&mut raw, push.sequence - before);
            last = Some(*push);
        }
        put_varint(&mut raw, self.streams.len() as u64);
        for (stream, of) in &self.streams {
            raw.extend_from_slice(&stream.0.to_le_bytes());
            put_varint(&mut raw, of.len() as u64);
            let mut before = 0;
            for position in of {
                put_varint(&mut raw, u64::from(position - before));
                before = *position;
            }
        }
        let mut compressor = Compressor::new(LEVEL)?;
        let mut out = (raw.len() as u32).to_le_bytes().to_vec();
        out.extend_from_slice(compressor.compress(&raw)?);
        Ok(out)
    }

    /// Reads a list.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (len, stored) = bytes.split_first_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
        let len = u32::from_le_bytes(*len) as usize;
        if len > RAW_MAX {
            return Err(damaged("it is too large"));
        }
        let raw = zstd::bulk::decompress(stored, len).map_err(|e| damaged(&e.to_string()))?;
        let mut raw = Reader(&raw);
        let mut origins = Vec::new();
        for _ in 0..raw.varint()? {
            origins.push(raw.number()?);
        }
        let count = raw.varint()?;
        let mut pushes: Vec<PushId> = Vec::new();
        for _ in 0..count {
            let (number, delta) = (raw.varint()?, raw.varint()?);
            let origin = usize::try_from(number).ok().and_then(|n| origins.get(n));
            let origin = *origin.ok_or_else(|| damaged("a push has no origin"))?;
            let before = pushes.last().filter(|p| p.origin == origin).map_or(0, |p| p.sequence);
            pushes.push(PushId { origin, sequence: before.wrapping_add(delta) });
        }
        let mut streams = Vec::new();
        for _ in 0..raw.varint()? {
            let stream = StreamId(raw.number()?);
            let (mut of, mut position) = (Vec::new(), 0u64);
            for _ in 0..raw.varint()? {
                position = position.saturating_add(raw.varint()?);
                if position >= count {
                    return Err(damaged("a stream names a push that is not there"));
                }
                of.push(position as u32);
            }
            streams.push((stream, of));
        }
        Ok(Self { pushes, streams })
    }

    /// Reads a list from the bytes at `place`.
    pub fn read(bytes: &[u8], place: &PushesPlace) -> Result<Self> {
        if bytes.len() as u64 != place.length || crc32fast::hash(bytes) != place.crc {
            return Err(damaged("the checksum does not match"));
        }
        Self::decode(bytes)
    }
}

fn damaged(reason: &str) -> super::Error {
    corrupt("list of pushes", reason)
}

/// What is left to read. Nothing is reserved by numbers that are read: they may be wrong.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Result<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>().ok_or_else(|| damaged("it is cut short"))?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*number))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or_else(|| damaged("it is cut short"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged("a number is too long"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_streams() -> impl Strategy<Value = Vec<(StreamId, Vec<PushId>)>> {
        let push = (0u64..3, prop_oneof![0u64..50, any::<u64>()])
            .prop_map(|(origin, sequence)| PushId { origin: origin << 60 | 1, sequence });
        let stream = (0u64..9, proptest::collection::vec(push, 0..20));
        proptest::collection::vec(stream.prop_map(|(id, of)| (StreamId(id), of)), 0..9)
    }

    proptest! {
        #[test]
        fn lists_round_trip(streams in any_streams()) {
            let list = PushList::new(streams.clone());
            let back = PushList::decode(&list.encode().unwrap()).unwrap();
            prop_assert_eq!(&back, &list);
            let told: BTreeSet<_> = back.streams().flat_map(|(s, of)| of.map(move |p| (s, p)).collect::<Vec<_>>()).collect();
            let given: BTreeSet<_> = streams.into_iter().flat_map(|(s, of)| of.into_iter().map(move |p| (s, p))).collect();
            prop_assert_eq!(told, given);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), raw in any::<bool>()) {
            let bytes = if raw {
                bytes
            } else {
                let mut out = (bytes.len() as u32).to_le_bytes().to_vec();
                out.extend(zstd::bulk::compress(&bytes, 1).unwrap());
                out
            };
            let _ = PushList::decode(&bytes);
        }
    }

    #[test]
    fn pushes_of_one_agent_cost_a_byte_for_each_stream_or_less() {
        let of = |s: u64| {
            (0..500).map(move |n| PushId { origin: 7, sequence: 1000 + 2 * n + (s == 3) as u64 }).collect()
        };
        let list = PushList::new((0..20).map(|s| (StreamId(s), of(s))));
        assert!(list.encode().unwrap().len() < 20 * 500);
    }
}
