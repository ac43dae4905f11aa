//! Entries on their way in: columns of offsets into one buffer of lines.
//!
//! A push is decoded into a [`Push`] without copying a line: entries hold offsets into the decoded body. The
//! distributor turns it into a [`Batch`] (labels parsed, streams hashed), which ingesters keep by reference until
//! it is flushed. Both have one encoding, used on the wire and as the payload of the write-ahead log:
//!
//! ```text
//! u8 version (2) · u8 body codec (0 plain, 1 raw snappy block) · varint body length · varint decoded length
//! varint streams · per stream: u8 kind (0 text, 1 packed) · varint len · labels · u64 id (LE) · varint entries
//! per entry: zigzag varint (timestamp − previous) · zigzag varint (line offset − end of previous line)
//!            varint line length · varint metadata
//! metadata bytes · body
//! ```
//!
//! `metadata` is twice the length of the entry's own metadata, or an odd number when the entry shares the metadata of an
//! earlier one: twice the place among the sixteen that came last, plus one. Version 1, where `metadata` is the length, is
//! still read.
//!
//! The body is the pusher's own compressed request where there was one, so logging a push compresses nothing.

use bytes::{Bytes, BytesMut};

use crate::labels::{Labels, LabelsRef, StreamId, get_varint, put_varint};
use crate::time::Timestamp;

/// Where one entry's parts lie: the line in the body, the structured metadata in the metadata buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef {
    /// Nanoseconds since the Unix epoch.
    pub timestamp: Timestamp,
    /// Start of the line in the body.
    pub line_start: u32,
    /// Length of the line in bytes.
    pub line_len: u32,
    /// Start of the packed metadata in the metadata buffer.
    pub metadata_start: u32,
    /// Length of the packed metadata in bytes.
    pub metadata_len: u32,
}

/// Entries of several streams over shared buffers.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// The buffer that lines lie in; usually the decoded request with its framing between the lines.
    pub body: Bytes,
    /// The same bytes as one raw snappy block, if they came that way.
    pub compressed: Option<Bytes>,
    /// Packed structured metadata ([`Labels::packed`]) of the entries that have any.
    pub metadata: Bytes,
    /// All entries, those of one stream next to each other.
    pub refs: Vec<EntryRef>,
}

impl Entries {
    /// The line of `e`.
    pub fn line(&self, e: &EntryRef) -> &[u8] {
        &self.body[e.line_start as usize..][..e.line_len as usize]
    }

    /// The structured metadata of `e`.
    pub fn metadata(&self, e: &EntryRef) -> LabelsRef<'_> {
        LabelsRef::from_trusted(&self.metadata[e.metadata_start as usize..][..e.metadata_len as usize])
    }

    /// Bytes of memory that holding these entries costs, roughly.
    pub fn memory_bytes(&self) -> usize {
        self.body.len()
            + self.compressed.as_ref().map_or(0, Bytes::len)
            + self.metadata.len()
            + self.refs.capacity() * size_of::<EntryRef>()
    }
}

/// The labels of a pushed stream before the distributor has seen them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PushLabels {
    /// As text, `{a="b"}`, still to be parsed.
    Text(Bytes),
    /// As pairs, from JSON or OTLP.
    Set(Labels),
}

/// A pushed stream.
#[derive(Clone, Debug)]
pub struct PushStream {
    /// Labels as they came.
    pub labels: PushLabels,
    /// Its entries in [`Entries::refs`].
    pub entries: std::ops::Range<u32>,
}

/// A decoded push, not yet validated.
#[derive(Clone, Debug, Default)]
pub struct Push {
    /// The streams in the order of the request.
    pub streams: Vec<PushStream>,
    /// Their entries.
    pub entries: Entries,
}

/// A validated stream of a batch.
#[derive(Clone, Debug)]
pub struct BatchStream {
    /// Identity.
    pub id: StreamId,
    /// Canonical labels.
    pub labels: Labels,
    /// Its entries in [`Entries::refs`].
    pub entries: std::ops::Range<u32>,
}

/// Validated entries of one tenant, ready to be stored.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The streams; one stream may occur more than once.
    pub streams: Vec<BatchStream>,
    /// Their entries.
    pub entries: Entries,
}

/// Why bytes are not an encoded push or batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end early or a length points outside.
    #[error("the batch is cut short or a length points outside of it")]
    Truncated,
    /// A version or codec that this build does not know.
    #[error("the batch has version {0} or a codec that this build does not know")]
    Unknown(u8),
    /// Labels or metadata are not well formed.
    #[error("the batch holds malformed labels")]
    Labels,
    /// The body does not decompress to the stated length.
    #[error("the batch's body does not decompress")]
    Body,
}

/// Decompresses a raw snappy block to exactly this many bytes; handed in so that this crate needs no codec.
pub type Decompress<'a> = &'a dyn Fn(&[u8], usize) -> Option<Vec<u8>>;

const VERSION: u8 = 2;
/// Without shared metadata.
const VERSION_UNSHARED: u8 = 1;
const PLAIN: u8 = 0;
const SNAPPY: u8 = 1;

impl Push {
    /// Encodes everything but the body, which is returned beside it to be written without a copy.
    pub fn encode(&self) -> (Vec<u8>, Bytes) {
        encode(
            &self.entries,
            self.streams.iter().map(|s| {
                let (kind, bytes) = match &s.labels {
                    PushLabels::Text(t) => (0, &t[..]),
                    PushLabels::Set(l) => (1, l.packed()),
                };
                (kind, bytes, StreamId(0), s.entries.clone())
            }),
        )
    }

    /// The inverse of [`Push::encode`], head and body in one piece.
    pub fn decode(bytes: &Bytes, decompress: Decompress<'_>) -> Result<Self, DecodeError> {
        let mut streams = Vec::new();
        let entries = decode(bytes, decompress, |kind, labels, _, range| {
            let labels = match kind {
                0 => PushLabels::Text(labels),
                _ => PushLabels::Set(Labels::from_packed(&labels).ok_or(DecodeError::Labels)?),
            };
            streams.push(PushStream { labels, entries: range });
            Ok(())
        })?;
        Ok(Self { streams, entries })
    }
}

impl Batch {
    /// Encodes everything but the body, which is returned beside it to be written without a copy.
    pub fn encode(&self) -> (Vec<u8>, Bytes) {
        encode(&self.entries, self.streams.iter().map(|s| (1, s.labels.packed(), s.id, s.entries.clone())))
    }

    /// The inverse of [`Batch::encode`], head and body in one piece.
    pub fn decode(bytes: &Bytes, decompress: Decompress<'_>) -> Result<Self, DecodeError> {
        let mut streams = Vec::new();
        let entries = decode(bytes, decompress, |_, labels, id, entries| {
            streams.push(BatchStream {
                id,
                labels: Labels::from_packed(&labels).ok_or(DecodeError::Labels)?,
                entries,
            });
            Ok(())
        })?;
        Ok(Self { streams, entries })
    }

    /// The entries of `stream`.
    pub fn of<'a>(&'a self, stream: &BatchStream) -> &'a [EntryRef] {
        &self.entries.refs[stream.entries.start as usize..stream.entries.end as usize]
    }

    /// A batch of some of the streams with buffers of its own, for when replicas differ.
    pub fn select(&self, mut keep: impl FnMut(&BatchStream) -> bool) -> Batch {
        let (mut body, mut metadata, mut refs, mut streams) =
            (BytesMut::new(), BytesMut::new(), Vec::new(), Vec::new());
        let (mut seen, mut copied) = (Recent::default(), Recent::default());
        for s in self.streams.iter().filter(|s| keep(s)) {
            let start = refs.len() as u32;
            for e in self.of(s) {
                let place = match seen.find(e.metadata_start, e.metadata_len) {
                    Some(at) => copied.get(at).0,
                    None => {
                        let place = metadata.len() as u32;
                        metadata.extend_from_slice(self.entries.metadata(e).packed());
                        seen.add(e.metadata_start, e.metadata_len);
                        copied.add(place, e.metadata_len);
                        place
                    }
                };
                refs.push(EntryRef {
                    timestamp: e.timestamp,
                    line_start: body.len() as u32,
                    line_len: e.line_len,
                    metadata_start: place,
                    metadata_len: e.metadata_len,
                });
                body.extend_from_slice(self.entries.line(e));
            }
            streams.push(BatchStream {
                id: s.id,
                labels: s.labels.clone(),
                entries: start..refs.len() as u32,
            });
        }
        Batch {
            streams,
            entries: Entries { body: body.freeze(), compressed: None, metadata: metadata.freeze(), refs },
        }
    }
}

/// The places of metadata that came last. Entries of one push often share theirs: the level that was detected.
#[derive(Default)]
struct Recent {
    places: [(u32, u32); Recent::SLOTS],
    next: usize,
}

impl Recent {
    const SLOTS: usize = 16;

    /// The slot of metadata that is there already; metadata without a byte needs none.
    fn find(&self, start: u32, len: u32) -> Option<usize> {
        if len == 0 { None } else { self.places.iter().position(|p| *p == (start, len)) }
    }

    fn get(&self, slot: usize) -> (u32, u32) {
        self.places[slot % Self::SLOTS]
    }

    fn add(&mut self, start: u32, len: u32) {
        if len > 0 {
            self.places[self.next] = (start, len);
            self.next = (self.next + 1) % Self::SLOTS;
        }
    }
}

fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

fn unzigzag(v: u64) -> i64 {
    (v >> 1) as i64 ^ -((v & 1) as i64)
}

fn encode<'a>(
    entries: &Entries,
    streams: impl ExactSizeIterator<Item = (u8, &'a [u8], StreamId, std::ops::Range<u32>)>,
) -> (Vec<u8>, Bytes) {
    let (codec, body) = match &entries.compressed {
        Some(c) => (SNAPPY, c.clone()),
        None => (PLAIN, entries.body.clone()),
    };
    let mut out =
        Vec::with_capacity(64 + streams.len() * 160 + entries.refs.len() * 10 + entries.metadata.len());
    out.extend_from_slice(&[VERSION, codec]);
    put_varint(&mut out, body.len() as u64);
    put_varint(&mut out, entries.body.len() as u64);
    put_varint(&mut out, streams.len() as u64);
    let mut metadata = Vec::new();
    let mut recent = Recent::default();
    for (kind, labels, id, range) in streams {
        out.push(kind);
        put_varint(&mut out, labels.len() as u64);
        out.extend_from_slice(labels);
        out.extend_from_slice(&id.0.to_le_bytes());
        let refs = &entries.refs[range.start as usize..range.end as usize];
        put_varint(&mut out, refs.len() as u64);
        let (mut time, mut end) = (0i64, 0i64);
        for e in refs {
            put_varint(&mut out, zigzag(e.timestamp.wrapping_sub(time)));
            put_varint(&mut out, zigzag(i64::from(e.line_start) - end));
            put_varint(&mut out, u64::from(e.line_len));
            match recent.find(e.metadata_start, e.metadata_len) {
                Some(slot) => put_varint(&mut out, (slot as u64) << 1 | 1),
                None => {
                    put_varint(&mut out, u64::from(e.metadata_len) << 1);
                    metadata.extend_from_slice(entries.metadata(e).packed());
                    recent.add(e.metadata_start, e.metadata_len);
                }
            }
            time = e.timestamp;
            end = i64::from(e.line_start) + i64::from(e.line_len);
        }
    }
    out.extend_from_slice(&metadata);
    (out, body)
}

fn decode(
    bytes: &Bytes,
    decompress: Decompress<'_>,
    mut stream: impl FnMut(u8, Bytes, StreamId, std::ops::Range<u32>) -> Result<(), DecodeError>,
) -> Result<Entries, DecodeError> {
    let mut r = Reader { bytes, at: 0 };
    let version = r.u8()?;
    if !matches!(version, VERSION | VERSION_UNSHARED) {
        return Err(DecodeError::Unknown(version));
    }
    let codec = r.u8()?;
    let packed_len = r.len()?;
    let body_len = r.len()?;
    let n_streams = r.varint()?;
    let mut refs: Vec<EntryRef> = Vec::new();
    let mut metadata_len = 0usize;
    let mut recent = Recent::default();
    for _ in 0..n_streams {
        let kind = r.u8()?;
        let len = r.len()?;
        let labels = r.slice(len)?;
        let id = StreamId(u64::from_le_bytes(
            r.slice(8)?.as_ref().try_into().map_err(|_| DecodeError::Truncated)?,
        ));
        let n = r.len()?;
        let first = refs.len() as u32;
        let (mut time, mut end) = (0i64, 0i64);
        for _ in 0..n {
            time = time.wrapping_add(unzigzag(r.varint()?));
            let start = end.checked_add(unzigzag(r.varint()?)).ok_or(DecodeError::Truncated)?;
            let line_len = r.len()?;
            let (meta_start, meta_len) = match (version, r.varint()?) {
                (VERSION, slot) if slot & 1 == 1 => recent.get((slot >> 1) as usize),
                (version, len) => {
                    let len = if version == VERSION { len >> 1 } else { len };
                    let len = u32::try_from(len).map_err(|_| DecodeError::Truncated)?;
                    let start = u32::try_from(metadata_len).map_err(|_| DecodeError::Truncated)?;
                    metadata_len = metadata_len.checked_add(len as usize).ok_or(DecodeError::Truncated)?;
                    recent.add(start, len);
                    (start, len)
                }
            };
            let ok = start >= 0 && (start as u64).saturating_add(line_len as u64) <= body_len as u64;
            if !ok {
                return Err(DecodeError::Truncated);
            }
            refs.push(EntryRef {
                timestamp: time,
                line_start: start as u32,
                line_len: line_len as u32,
                metadata_start: meta_start,
                metadata_len: meta_len,
            });
            end = start + line_len as i64;
        }
        stream(kind, labels, id, first..refs.len() as u32)?;
    }
    let metadata = r.slice(metadata_len)?;
    // Metadata that entries share is that of an earlier one.
    let mut new_from = 0;
    for e in refs.iter().filter(|e| e.metadata_len > 0) {
        if e.metadata_start < new_from {
            continue;
        }
        new_from = e.metadata_start + e.metadata_len;
        LabelsRef::check(&metadata[e.metadata_start as usize..][..e.metadata_len as usize])
            .ok_or(DecodeError::Labels)?;
    }
    let packed = r.slice(packed_len)?;
    let (body, compressed) = match codec {
        PLAIN if packed.len() == body_len => (packed, None),
        SNAPPY => (Bytes::from(decompress(&packed, body_len).ok_or(DecodeError::Body)?), Some(packed)),
        PLAIN => return Err(DecodeError::Body),
        other => return Err(DecodeError::Unknown(other)),
    };
    if body.len() != body_len {
        return Err(DecodeError::Body);
    }
    Ok(Entries { body, compressed, metadata, refs })
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn u8(&mut self) -> Result<u8, DecodeError> {
        let b = *self.bytes.get(self.at).ok_or(DecodeError::Truncated)?;
        self.at += 1;
        Ok(b)
    }
    fn varint(&mut self) -> Result<u64, DecodeError> {
        let rest = &self.bytes[self.at..];
        let (v, after) = get_varint(rest).ok_or(DecodeError::Truncated)?;
        self.at += rest.len() - after.len();
        Ok(v)
    }
    /// A length; none in a batch is over 4 GiB.
    fn len(&mut self) -> Result<usize, DecodeError> {
        u32::try_from(self.varint()?).map(|v| v as usize).map_err(|_| DecodeError::Truncated)
    }
    fn slice(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        let end =
            self.at.checked_add(len).filter(|e| *e <= self.bytes.len()).ok_or(DecodeError::Truncated)?;
        let s = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TenantId;
    use proptest::prelude::*;

    /// Time, line, metadata.
    type Item = (i64, String, Option<String>);

    fn batch(streams: Vec<(String, Vec<Item>)>) -> Batch {
        let tenant = TenantId::new("t").unwrap();
        let (mut body, mut metadata) = (Vec::new(), Vec::new());
        let mut out = Batch::default();
        for (name, entries) in streams {
            let start = out.entries.refs.len() as u32;
            for (timestamp, line, meta) in entries {
                body.push(b'#');
                let m = meta.map_or(Labels::empty(), |m| Labels::from_pairs([("k", m.as_str())]));
                out.entries.refs.push(EntryRef {
                    timestamp,
                    line_start: body.len() as u32,
                    line_len: line.len() as u32,
                    metadata_start: metadata.len() as u32,
                    metadata_len: m.packed().len() as u32,
                });
                body.extend_from_slice(line.as_bytes());
                metadata.extend_from_slice(m.packed());
            }
            let labels = Labels::from_pairs([("app", name.as_str())]);
            let id = StreamId::of(&tenant, labels.as_ref());
            out.streams.push(BatchStream { id, labels, entries: start..out.entries.refs.len() as u32 });
        }
        out.entries.body = body.into();
        out.entries.metadata = metadata.into();
        out
    }

    fn glue(parts: (Vec<u8>, Bytes)) -> Bytes {
        let mut all = parts.0;
        all.extend_from_slice(&parts.1);
        all.into()
    }

    fn same(a: &Batch, b: &Batch) -> bool {
        a.streams.len() == b.streams.len()
            && a.streams.iter().zip(&b.streams).all(|(x, y)| {
                x.id == y.id
                    && x.labels == y.labels
                    && a.of(x).len() == b.of(y).len()
                    && a.of(x).iter().zip(b.of(y)).all(|(e, f)| {
                        e.timestamp == f.timestamp
                            && a.entries.line(e) == b.entries.line(f)
                            && a.entries.metadata(e) == b.entries.metadata(f)
                    })
            })
    }

    #[test]
    fn entries_that_share_metadata_carry_it_once() {
        let mut b = batch(vec![("a".into(), vec![(1, "x".into(), Some("info".into())); 100])]);
        let alone = b.encode().0.len();
        for e in &mut b.entries.refs {
            e.metadata_start = 0;
        }
        let shared = b.encode().0.len();
        assert!(alone - shared > 99 * 6, "{alone} {shared}");
        let back = Batch::decode(&glue(b.encode()), &none).unwrap();
        assert!(same(&b, &back) && back.entries.metadata.len() < 16);
        assert!(same(&b, &b.select(|_| true)) && b.select(|_| true).entries.metadata.len() < 16);
    }

    #[test]
    fn batches_of_version_1_are_read() {
        // One stream with two entries, each with metadata of its own.
        let mut bytes = vec![1, 0, 2, 2, 1, 1];
        let labels = Labels::from_pairs([("app", "a")]);
        bytes.push(labels.packed().len() as u8);
        bytes.extend_from_slice(labels.packed());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&[2, 2, 0, 1, 4, 2, 0, 1, 4]);
        bytes.extend_from_slice(b"\x01k\x01v\x01k\x01wxy");
        let b = Batch::decode(&bytes.into(), &none).unwrap();
        let entries: Vec<_> = b
            .of(&b.streams[0])
            .iter()
            .map(|e| (e.timestamp, b.entries.line(e), b.entries.metadata(e).get("k")))
            .collect();
        assert_eq!(entries, [(1, &b"x"[..], Some("v")), (2, &b"y"[..], Some("w"))]);
    }

    fn none(_: &[u8], _: usize) -> Option<Vec<u8>> {
        None
    }

    proptest! {
        #[test]
        fn encoding_round_trips(b in arbitrary()) {
            let back = Batch::decode(&glue(b.encode()), &none).unwrap();
            prop_assert!(same(&b, &back));
            prop_assert!(same(&b, &b.select(|_| true)));
        }

        #[test]
        fn cut_or_changed_bytes_never_panic(b in arbitrary(), at in any::<prop::sample::Index>(), x in any::<u8>()) {
            let bytes = glue(b.encode());
            let _ = Batch::decode(&bytes.slice(..at.index(bytes.len())), &none);
            let mut changed = bytes.to_vec();
            let i = at.index(changed.len());
            changed[i] ^= x;
            let _ = Batch::decode(&changed.into(), &none);
        }
    }

    fn arbitrary() -> impl Strategy<Value = Batch> {
        let entry = (any::<i64>(), ".{0,12}", proptest::option::of("[a-z]{1,4}"));
        proptest::collection::vec(("[a-z]{1,4}", proptest::collection::vec(entry, 0..5)), 0..4)
            .prop_map(batch)
    }
}
