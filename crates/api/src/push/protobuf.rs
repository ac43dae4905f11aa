//! Pushes in protobuf, read in place.
//!
//! The message is `PushRequest { streams = 1: { labels = 1, entries = 2: { timestamp = 1: { seconds = 1, nanos = 2 },
//! line = 2, structuredMetadata = 3: { name = 1, value = 2 } } } }`. The visitor walks over its wire format once and
//! notes where the lines lie; nothing is copied but structured metadata. What is well formed is decided as `prost`
//! decides it (a property test holds the two together), the words of errors are those of Go's decoder.

use std::ops::Range;

use bytes::Bytes;
use skald_model::batch::Entries;
use skald_model::{EntryRef, Error, Push, PushLabels, PushStream, Timestamp};

use super::metadata::Packer;
use super::{NO_TIMESTAMP, utf8};

/// Decodes `body`, the message itself. `compressed` is the same as one raw snappy block, if it came that way; it is
/// kept with the push while the body stays as it came.
///
/// # Errors
/// In the words of Go's decoder; nothing of a malformed message is kept.
pub fn decode(body: Bytes, compressed: Option<Bytes>) -> Result<Push, Error> {
    let mut visitor = Visitor::new(&body);
    visitor.push().map_err(|fault| Error::invalid(fault.to_string()))?;
    let Visitor { refs, streams, metadata, replaced, .. } = visitor;
    if body.len() + replaced.len() > u32::MAX as usize || metadata.len() > u32::MAX as usize {
        return Err(crate::body::too_large(body.len() as u64, u32::MAX as usize, "max_decompressed_size"));
    }
    let streams = streams
        .into_iter()
        .map(|(labels, entries)| PushStream { labels: PushLabels::Text(body.slice(labels)), entries })
        .collect();
    let (body, compressed) = if replaced.is_empty() {
        (body, compressed)
    } else {
        (Bytes::from([&body[..], &replaced].concat()), None)
    };
    let metadata = Bytes::from(metadata.into_packed());
    Ok(Push { streams, entries: Entries { body, compressed, metadata, refs } })
}

/// Why bytes are not the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("unexpected EOF")]
    Cut,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: illegal wireType {0}")]
    IllegalWireType(u8),
    #[error("proto: wrong wireType = {0} for field {1}")]
    WrongWireType(u8, &'static str),
    #[error("proto: {0}: illegal tag {1} (wire type {2})")]
    IllegalTag(&'static str, u32, u8),
    #[error("proto: {0}: wiretype end group for non-group")]
    EndGroup(&'static str),
    #[error("proto: groups are nested too deeply")]
    TooDeep,
    #[error("timestamp: &types.Timestamp{{Seconds: {0},\nNanos: {1},\n}}: {2}")]
    Timestamp(i64, i32, &'static str),
    #[error("too many entries or streams for the size of the push")]
    Overhead,
    #[error("couldn't parse labels: 1:{0}: parse error: invalid UTF-8 rune")]
    Labels(usize),
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
pub(super) const LENGTH_DELIMITED: u8 = 2;
const START_GROUP: u8 = 3;
const END_GROUP: u8 = 4;
const FIXED32: u8 = 5;

/// Groups inside of unknown fields may nest this deep.
const DEPTH_MAX: u32 = 96;

struct Visitor<'a> {
    body: &'a [u8],
    refs: Vec<EntryRef>,
    streams: Vec<(Range<usize>, Range<u32>)>,
    metadata: Packer,
    /// Lines that are not UTF-8, repaired; they follow the body.
    replaced: Vec<u8>,
}

impl<'a> Visitor<'a> {
    fn new(body: &'a [u8]) -> Self {
        // Lines of about 150 bytes are usual: most pushes need no second allocation.
        let refs = Vec::with_capacity(body.len() / 160 + 1);
        Self { body, refs, streams: Vec::new(), metadata: Packer::default(), replaced: Vec::new() }
    }

    fn push(&mut self) -> Result<(), Fault> {
        let mut fields = Fields::new(self.body, 0..self.body.len(), "PushRequest");
        while let Some((number, wire_type)) = fields.next()? {
            match number {
                1 => self.stream(fields.message(wire_type, "Streams")?)?,
                _ => fields.skip(number, wire_type)?,
            }
        }
        Ok(())
    }

    fn stream(&mut self, range: Range<usize>) -> Result<(), Fault> {
        if self.streams.len() == self.streams.capacity() {
            self.check_overhead()?;
        }
        let first = self.refs.len() as u32;
        let mut labels = 0..0;
        let mut fields = Fields::new(self.body, range, "StreamAdapter");
        while let Some((number, wire_type)) = fields.next()? {
            match number {
                1 => labels = fields.message(wire_type, "Labels")?,
                2 => self.entry(fields.message(wire_type, "Entries")?)?,
                _ => fields.skip(number, wire_type)?,
            }
        }
        if let Err(e) = std::str::from_utf8(&self.body[labels.clone()]) {
            return Err(Fault::Labels(e.valid_up_to() + 1));
        }
        self.streams.push((labels, first..self.refs.len() as u32));
        Ok(())
    }

    fn check_overhead(&self) -> Result<(), Fault> {
        let overhead = super::overhead_bytes(self.refs.len(), self.streams.len());
        if overhead > super::overhead_bytes_max(self.body.len()) { Err(Fault::Overhead) } else { Ok(()) }
    }

    fn entry(&mut self, range: Range<usize>) -> Result<(), Fault> {
        if self.refs.len() == self.refs.capacity() {
            self.check_overhead()?;
        }
        let mut time = None;
        let mut line = 0..0;
        let mut fields = Fields::new(self.body, range, "EntryAdapter");
        while let Some((number, wire_type)) = fields.next()? {
            match number {
                1 => {
                    let time = time.get_or_insert((0, 0));
                    timestamp(self.body, fields.message(wire_type, "Timestamp")?, time)?;
                }
                2 => line = fields.message(wire_type, "Line")?,
                3 => {
                    let range = fields.message(wire_type, "StructuredMetadata")?;
                    let (name, value) = pair(self.body, range)?;
                    self.metadata.add(&self.body[name], &self.body[value]);
                }
                _ => fields.skip(number, wire_type)?,
            }
        }
        let timestamp = time.map_or(Ok(NO_TIMESTAMP), |(seconds, nanos)| nanoseconds(seconds, nanos))?;
        let line = self.line(line);
        let (metadata_start, metadata_len) = self.metadata.finish();
        self.refs.push(EntryRef {
            timestamp,
            line_start: line.start as u32,
            line_len: line.len() as u32,
            metadata_start,
            metadata_len,
        });
        Ok(())
    }

    /// Where a valid form of `line` lies.
    fn line(&mut self, line: Range<usize>) -> Range<usize> {
        let bytes = &self.body[line.clone()];
        if simdutf8::basic::from_utf8(bytes).is_ok() {
            return line;
        }
        let start = self.replaced.len();
        utf8::replace_invalid(bytes, &mut self.replaced);
        self.body.len() + start..self.body.len() + self.replaced.len()
    }
}

fn pair(body: &[u8], range: Range<usize>) -> Result<(Range<usize>, Range<usize>), Fault> {
    let (mut name, mut value) = (0..0, 0..0);
    let mut fields = Fields::new(body, range, "LabelPairAdapter");
    while let Some((number, wire_type)) = fields.next()? {
        match number {
            1 => name = fields.message(wire_type, "Name")?,
            2 => value = fields.message(wire_type, "Value")?,
            _ => fields.skip(number, wire_type)?,
        }
    }
    Ok((name, value))
}

fn timestamp(body: &[u8], range: Range<usize>, time: &mut (i64, i32)) -> Result<(), Fault> {
    let mut fields = Fields::new(body, range, "Timestamp");
    while let Some((number, wire_type)) = fields.next()? {
        match number {
            1 => time.0 = fields.integer(wire_type, "Seconds")? as i64,
            2 => time.1 = fields.integer(wire_type, "Nanos")? as i32,
            _ => fields.skip(number, wire_type)?,
        }
    }
    Ok(())
}

/// A protobuf timestamp in nanoseconds. Times beyond the reach of 64 bits become the nearest within; the limits on
/// the age of entries deal with them.
fn nanoseconds(seconds: i64, nanos: i32) -> Result<Timestamp, Fault> {
    // 0001-01-01 and 10000-01-01.
    const MIN_SECONDS: i64 = -62_135_596_800;
    const MAX_SECONDS: i64 = 253_402_300_800;
    let fault = |what| Err(Fault::Timestamp(seconds, nanos, what));
    if seconds < MIN_SECONDS {
        return fault("before 0001-01-01");
    }
    if seconds >= MAX_SECONDS {
        return fault("after 10000-01-01");
    }
    if !(0..1_000_000_000).contains(&nanos) {
        return fault("nanos not in range [0, 1e9)");
    }
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(nanos)))
}

/// Walks over the fields of one message. Positions count from the start of the body.
pub(super) struct Fields<'a> {
    body: &'a [u8],
    at: usize,
    end: usize,
    message: &'static str,
}

impl<'a> Fields<'a> {
    pub(super) fn new(body: &'a [u8], range: Range<usize>, message: &'static str) -> Self {
        Self { body, at: range.start, end: range.end, message }
    }

    /// Number and wire type of the next field.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<(u32, u8)>, Fault> {
        if self.at == self.end {
            return Ok(None);
        }
        self.key().map(Some)
    }

    #[inline]
    fn key(&mut self) -> Result<(u32, u8), Fault> {
        let key = u32::try_from(self.varint()?).map_err(|_| Fault::Overflow)?;
        let (number, wire_type) = (key >> 3, (key & 7) as u8);
        if wire_type > FIXED32 {
            return Err(Fault::IllegalWireType(wire_type));
        }
        if number == 0 {
            return Err(Fault::IllegalTag(self.message, number, wire_type));
        }
        Ok((number, wire_type))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Fault> {
        let rest = &self.body[self.at..self.end];
        match rest {
            [b, ..] if *b < 0x80 => {
                self.at += 1;
                Ok(u64::from(*b))
            }
            [a, b, ..] if *b < 0x80 => {
                self.at += 2;
                Ok(u64::from(*a & 0x7f) | u64::from(*b) << 7)
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0u64;
        for (i, b) in self.body[self.at..self.end].iter().enumerate() {
            if i == 9 && *b > 1 {
                return Err(Fault::Overflow);
            }
            value |= u64::from(b & 0x7f) << (7 * i);
            if *b < 0x80 {
                self.at += i + 1;
                return Ok(value);
            }
        }
        Err(Fault::Cut)
    }

    /// The range of a length-delimited field.
    #[inline]
    pub(super) fn message(&mut self, wire_type: u8, field: &'static str) -> Result<Range<usize>, Fault> {
        if wire_type != LENGTH_DELIMITED {
            return Err(Fault::WrongWireType(wire_type, field));
        }
        let len = self.varint()?;
        let start = self.at;
        self.advance(len)?;
        Ok(start..self.at)
    }

    fn integer(&mut self, wire_type: u8, field: &'static str) -> Result<u64, Fault> {
        if wire_type != VARINT {
            return Err(Fault::WrongWireType(wire_type, field));
        }
        self.varint()
    }

    #[inline]
    fn advance(&mut self, len: u64) -> Result<(), Fault> {
        if len > (self.end - self.at) as u64 {
            return Err(Fault::Cut);
        }
        self.at += len as usize;
        Ok(())
    }

    pub(super) fn skip(&mut self, number: u32, wire_type: u8) -> Result<(), Fault> {
        self.skip_nested(number, wire_type, 0)
    }

    fn skip_nested(&mut self, number: u32, wire_type: u8, depth: u32) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::TooDeep);
        }
        match wire_type {
            VARINT => self.varint().map(drop),
            FIXED64 => self.advance(8),
            FIXED32 => self.advance(4),
            LENGTH_DELIMITED => {
                let len = self.varint()?;
                self.advance(len)
            }
            START_GROUP => loop {
                let (inner, wire_type) = self.key()?;
                if wire_type == END_GROUP {
                    return if inner == number { Ok(()) } else { Err(Fault::EndGroup(self.message)) };
                }
                self.skip_nested(inner, wire_type, depth + 1)?;
            },
            _ => Err(Fault::EndGroup(self.message)),
        }
    }
}

#[cfg(test)]
#[path = "protobuf_tests.rs"]
mod tests;
