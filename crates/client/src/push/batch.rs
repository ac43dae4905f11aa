//! Entries as Loki's push message: protobuf in a snappy block.

use std::collections::HashMap;

use bytes::Bytes;
use skald_model::Labels;
use skald_model::labels::put_varint;
use skald_model::time::SECOND;
use tokio::time::Instant;

use super::record::Record;

/// Entries that go in one request, encoded as they come.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The entries of each stream, each with its tag and length.
    streams: HashMap<Labels, Vec<u8>>,
    entries: u64,
    bytes: usize,
    opened: Option<Instant>,
    /// Room for one entry, to know its length.
    entry: Vec<u8>,
}

impl Batch {
    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// How many entries it has.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// How large it is before compression.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When its first entry came.
    pub(super) fn opened(&self) -> Option<Instant> {
        self.opened
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, record: &Record) {
        self.opened.get_or_insert_with(Instant::now);
        self.entry.clear();
        let mut time = Vec::with_capacity(16);
        number(&mut time, 1, record.timestamp.div_euclid(SECOND).cast_unsigned());
        number(&mut time, 2, record.timestamp.rem_euclid(SECOND).cast_unsigned());
        field(&mut self.entry, 1, &time);
        field(&mut self.entry, 2, record.line.as_bytes());
        for (name, value) in &record.metadata {
            let mut pair = Vec::with_capacity(name.len() + value.len() + 8);
            field(&mut pair, 1, name.as_bytes());
            field(&mut pair, 2, value.as_bytes());
            field(&mut self.entry, 3, &pair);
        }
        if !self.streams.contains_key(&record.labels) {
            self.bytes += record.labels.packed().len();
            self.streams.insert(record.labels.clone(), Vec::new());
        }
        if let Some(stream) = self.streams.get_mut(&record.labels) {
            let before = stream.len();
            field(stream, 2, &self.entry);
            self.bytes += stream.len() - before;
        }
        self.entries += 1;
    }

    /// The body of a request.
    pub(super) fn encode(self) -> Result<Bytes, snap::Error> {
        let mut request = Vec::with_capacity(self.bytes + 64 * self.streams.len());
        for (labels, entries) in self.streams {
            let mut stream = Vec::with_capacity(entries.len() + 64);
            field(&mut stream, 1, labels.to_string().as_bytes());
            stream.extend_from_slice(&entries);
            field(&mut request, 1, &stream);
        }
        snap::raw::Encoder::new().compress_vec(&request).map(Bytes::from)
    }
}

/// A number of a protobuf message.
fn number(out: &mut Vec<u8>, tag: u64, value: u64) {
    put_varint(out, tag << 3);
    put_varint(out, value);
}

/// A text or message inside of a protobuf message.
fn field(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    put_varint(out, tag << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_the_bytes_of_the_wire_format() {
        let record = |line: &str, metadata: &[(&str, &str)]| Record {
            timestamp: 1_000_000_300,
            line: line.into(),
            labels: Labels::from_pairs([("app", "a\"b")]),
            metadata: metadata.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        };
        let mut batch = Batch::default();
        batch.add(&record("x", &[("k", "v")]));
        batch.add(&record("y", &[]));
        assert_eq!(batch.entries(), 2);

        let first = b"\x0a\x05\x08\x01\x10\xac\x02\x12\x01x\x1a\x06\x0a\x01k\x12\x01v";
        let second = b"\x0a\x05\x08\x01\x10\xac\x02\x12\x01y";
        let mut stream = b"\x0a\x0c{app=\"a\\\"b\"}".to_vec();
        for entry in [&first[..], &second[..]] {
            stream.extend_from_slice(&[0x12, entry.len() as u8]);
            stream.extend_from_slice(entry);
        }
        let mut request = vec![0x0a, stream.len() as u8];
        request.extend_from_slice(&stream);
        let bytes = snap::raw::Decoder::new().decompress_vec(&batch.encode().unwrap()).unwrap();
        assert_eq!(bytes, request);
    }
}
