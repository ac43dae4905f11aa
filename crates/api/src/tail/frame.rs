//! What a tail sends: JSON text frames in the shapes of version 1 and of the legacy interface.

use axum::extract::ws::Utf8Bytes;
use skald_model::LogEntry;
use skald_rpc::tail::{Dropped, TailBatch};

use crate::query::answer::Rows;
use crate::query::json;
use crate::query::legacy::LegacyRows;
use crate::query::streams::{Flags, StreamRows};
use crate::rfc3339;

/// Most entries of a frame, as in Loki.
const FRAME_ENTRIES_MAX: usize = 100;

/// How frames are written.
pub(super) struct Frames {
    /// The encoding flags of the request.
    pub(super) flags: Flags,
    /// Whether the shape is that of `/api/prom`.
    pub(super) legacy: bool,
}

impl Frames {
    /// The frames for a batch, in order; what was dropped is told in the first.
    pub(super) fn of(&self, batch: TailBatch) -> Vec<Utf8Bytes> {
        let TailBatch { mut entries, dropped } = batch;
        let mut frames = Vec::with_capacity(entries.len() / FRAME_ENTRIES_MAX + 1);
        let mut dropped = Some(dropped);
        loop {
            let rest = entries.split_off(entries.len().min(FRAME_ENTRIES_MAX));
            frames.push(self.frame(entries, &dropped.take().unwrap_or_default()));
            if rest.is_empty() {
                return frames;
            }
            entries = rest;
        }
    }

    fn frame(&self, entries: Vec<LogEntry>, dropped: &Dropped) -> Utf8Bytes {
        let mut out = b"{\"streams\":[".to_vec();
        let mut rows: Box<dyn Rows> = match self.legacy {
            true => Box::new(LegacyRows::new(entries)),
            false => Box::new(StreamRows::new(entries, self.flags.categorize())),
        };
        while rows.next(&mut out) {}
        out.push(b']');
        if !dropped.listed.is_empty() {
            out.extend_from_slice(b",\"dropped_entries\":[");
            self.dropped(&mut out, dropped);
            out.push(b']');
        }
        if !self.legacy {
            out.push(b',');
            self.flags.write(&mut out);
            // The flags end in a comma if there are any; if not, the one before them goes.
            out.pop();
        }
        out.push(b'}');
        // JSON is written from texts.
        Utf8Bytes::try_from(out).unwrap_or_default()
    }

    fn dropped(&self, out: &mut Vec<u8>, dropped: &Dropped) {
        for (i, entry) in dropped.listed.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"timestamp\":\"");
            if self.legacy {
                out.extend_from_slice(rfc3339::format(entry.timestamp).as_bytes());
                out.extend_from_slice(b"\",\"labels\":");
                json::string(out, &entry.labels.to_string());
            } else {
                json::integer(out, entry.timestamp);
                out.extend_from_slice(b"\",\"labels\":");
                json::labels(out, entry.labels.as_ref());
            }
            out.push(b'}');
        }
    }
}
