//! Batches for tests.

use skald_model::{Batch, BatchStream, EntryRef, Labels, StreamId, TenantId};

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

/// One entry: time, line, value of the metadata label `k` (empty for none).
pub(crate) type Sample<'a> = (i64, &'a str, &'a str);

/// A batch of streams `{app="<name>"}`.
pub(crate) fn batch(tenant: &TenantId, streams: &[(&str, &[Sample<'_>])]) -> Batch {
    let (mut body, mut metadata) = (Vec::new(), Vec::new());
    let mut out = Batch::default();
    for (name, entries) in streams {
        let start = out.entries.refs.len() as u32;
        for (timestamp, line, value) in *entries {
            // Framing between lines, as in a decoded request.
            body.push(b'#');
            let pairs = Labels::from_pairs([("k", *value)]);
            out.entries.refs.push(EntryRef {
                timestamp: *timestamp,
                line_start: body.len() as u32,
                line_len: line.len() as u32,
                metadata_start: metadata.len() as u32,
                metadata_len: pairs.packed().len() as u32,
            });
            body.extend_from_slice(line.as_bytes());
            metadata.extend_from_slice(pairs.packed());
        }
        let labels = Labels::from_pairs([("app", *name)]);
        let id = StreamId::of(tenant, labels.as_ref());
        out.streams.push(BatchStream { id, labels, entries: start..out.entries.refs.len() as u32 });
    }
    out.entries.body = body.into();
    out.entries.metadata = metadata.into();
    out
}

/// All entries of a batch as (stream name, time, line, metadata value).
pub(crate) fn entries(batch: &Batch) -> Vec<(String, i64, String, String)> {
    let mut out = Vec::new();
    for s in &batch.streams {
        for e in batch.of(s) {
            let line = String::from_utf8(batch.entries.line(e).to_vec()).unwrap();
            let value = batch.entries.metadata(e).get("k").unwrap_or("").to_owned();
            out.push((s.labels.get("app").unwrap_or("").to_owned(), e.timestamp, line, value));
        }
    }
    out
}
