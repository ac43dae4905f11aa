//! Pushes in JSON, read in one pass: lines are unescaped into one buffer, which becomes the body of the push.
//!
//! Two forms: that of `/loki/api/v1/push`, `{"streams":[{"stream":{"a":"b"},"values":[["<ns>","line",{"k":"v"}]]}]}`,
//! and that of `/api/prom/push`, `{"streams":[{"labels":"{a=\"b\"}","entries":[{"ts":"<RFC 3339>","line":"…"}]}]}`.
//! As in Loki, unknown keys and what follows the message are ignored, and one malformed entry refuses the whole
//! request.

mod reader;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use skald_model::batch::Entries;
use skald_model::label_text::is_label_name;
use skald_model::labels::write_go_quoted;
use skald_model::{EntryRef, Error, Labels, Push, PushLabels, PushStream, Timestamp};

use self::reader::{Fault, Reader};
use super::metadata::Packer;
use super::{NO_TIMESTAMP, utf8};
use crate::rfc3339;

/// The two forms of a JSON push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `stream` and `values`.
    V1,
    /// `labels` and `entries`.
    Legacy,
}

/// Decodes `body`.
///
/// # Errors
/// `InvalidArgument` with the place and what was expected there.
pub fn decode(body: &[u8], form: Form) -> Result<Push, Error> {
    let invalid = |e: Fault| Error::invalid(e.to_string());
    if body.is_empty() {
        return Err(Error::invalid("EOF"));
    }
    let body = match simdutf8::basic::from_utf8(body) {
        Ok(_) => Cow::Borrowed(body),
        Err(_) => {
            let mut repaired = Vec::with_capacity(body.len() + 64);
            utf8::replace_invalid(body, &mut repaired);
            Cow::Owned(repaired)
        }
    };
    if body.len() > u32::MAX as usize {
        return Err(crate::body::too_large(body.len() as u64, u32::MAX as usize, "max_decompressed_size"));
    }
    let mut decoder = Decoder {
        form,
        read: Reader::new(&body),
        lines: Vec::with_capacity(body.len()),
        // The shortest useful entries have about 100 bytes with their framing.
        refs: Vec::with_capacity(body.len() / 100 + 1),
        streams: Vec::new(),
        metadata: Packer::default(),
        key: Vec::new(),
        value: Vec::new(),
    };
    decoder.push().map_err(invalid)?;
    Ok(decoder.finish())
}

struct Decoder<'a> {
    form: Form,
    read: Reader<'a>,
    lines: Vec<u8>,
    refs: Vec<EntryRef>,
    streams: Vec<PushStream>,
    metadata: Packer,
    /// Scratch for keys and for short values.
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder<'_> {
    fn finish(mut self) -> Push {
        // The buffer lives until its entries are flushed; framing and escapes are not worth that.
        if self.lines.capacity() - self.lines.len() > self.lines.len() / 8 {
            self.lines.shrink_to_fit();
        }
        let entries = Entries {
            body: Bytes::from(self.lines),
            compressed: None,
            metadata: Bytes::from(self.metadata.into_packed()),
            refs: self.refs,
        };
        Push { streams: self.streams, entries }
    }

    /// The message. What follows it is not looked at.
    fn push(&mut self) -> Result<(), Fault> {
        if self.read.null()? {
            return Ok(());
        }
        let mut first = true;
        self.read.open(b'{', "an object")?;
        while self.next_key(&mut first)? {
            if !self.key.eq_ignore_ascii_case(b"streams") {
                self.read.skip()?;
                continue;
            }
            self.streams.clear();
            if self.read.null()? {
                continue;
            }
            let mut first = true;
            self.read.open(b'[', "an array of streams")?;
            while self.read.more(b']', &mut first)? {
                self.stream()?;
            }
        }
        Ok(())
    }

    /// Reads the next key of an object into `self.key`; `false` at its end.
    fn next_key(&mut self, first: &mut bool) -> Result<bool, Fault> {
        if !self.read.more(b'}', first)? {
            return Ok(false);
        }
        self.key.clear();
        self.read.string(&mut self.key, "a key")?;
        self.read.colon()?;
        Ok(true)
    }

    fn stream(&mut self) -> Result<(), Fault> {
        if self.streams.len() == self.streams.capacity()
            && super::overhead_bytes(self.refs.len(), self.streams.len())
                > super::overhead_bytes_max(self.read.len())
        {
            return Err(Fault::expected(self.read.at(), "fewer streams in a push of this size"));
        }
        let start = self.refs.len() as u32;
        let mut labels = match self.form {
            Form::V1 => PushLabels::Set(Labels::empty()),
            Form::Legacy => PushLabels::Text(Bytes::new()),
        };
        let mut first = true;
        self.read.open(b'{', "a stream object")?;
        while self.next_key(&mut first)? {
            match (self.form, &self.key[..]) {
                (Form::V1, b"stream") => labels = self.label_object()?,
                (Form::V1, b"values") if !self.read.null()? => {
                    let mut first = true;
                    self.read.open(b'[', "an array of values")?;
                    while self.read.more(b']', &mut first)? {
                        self.entry()?;
                    }
                }
                (Form::V1, b"values") => {}
                (Form::Legacy, key) if key.eq_ignore_ascii_case(b"labels") => {
                    self.value.clear();
                    self.read.string(&mut self.value, "the labels as text")?;
                    labels = PushLabels::Text(Bytes::copy_from_slice(&self.value));
                }
                (Form::Legacy, key) if key.eq_ignore_ascii_case(b"entries") => {
                    if self.read.null()? {
                        continue;
                    }
                    let mut first = true;
                    self.read.open(b'[', "an array of entries")?;
                    while self.read.more(b']', &mut first)? {
                        self.legacy_entry()?;
                    }
                }
                _ => self.read.skip()?,
            }
        }
        self.streams.push(PushStream { labels, entries: start..self.refs.len() as u32 });
        Ok(())
    }

    /// Labels as an object. A value that is no text counts as its JSON.
    fn label_object(&mut self) -> Result<PushLabels, Fault> {
        let mut pairs = BTreeMap::new();
        let mut first = true;
        self.read.open(b'{', "an object of labels")?;
        while self.next_key(&mut first)? {
            self.value.clear();
            if self.read.at_string()? {
                self.read.string(&mut self.value, "a label value")?;
            } else {
                let raw = self.read.raw()?;
                self.value.extend_from_slice(raw);
            }
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            pairs.insert(text(&self.key), text(&self.value));
        }
        if pairs.keys().all(|name| is_label_name(name)) {
            return Ok(PushLabels::Set(Labels::from_pairs(
                pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())),
            )));
        }
        // Only text can carry a name that the parser of labels is going to refuse.
        Ok(PushLabels::Text(label_text(&pairs).into()))
    }

    /// `["<ns>", "line", {…}]`; what comes after is ignored.
    fn entry(&mut self) -> Result<(), Fault> {
        let start = self.lines.len();
        let (mut timestamp, mut has_line) = (NO_TIMESTAMP, false);
        let mut first = true;
        let mut index = 0;
        self.read.open(b'[', "an entry as an array")?;
        while self.read.more(b']', &mut first)? {
            match index {
                0 => timestamp = self.read.integer_text("a timestamp as text, in nanoseconds")?,
                1 => {
                    self.read.string(&mut self.lines, "a line as text")?;
                    has_line = true;
                }
                2 => self.metadata_object()?,
                _ => self.read.skip()?,
            }
            index += 1;
        }
        if has_line {
            self.keep(timestamp, start);
        }
        Ok(())
    }

    fn metadata_object(&mut self) -> Result<(), Fault> {
        let mut first = true;
        self.read.open(b'{', "structured metadata as an object")?;
        while self.next_key(&mut first)? {
            self.value.clear();
            self.read.string(&mut self.value, "a value of structured metadata as text")?;
            self.metadata.add(&self.key, &self.value);
        }
        Ok(())
    }

    /// `{"ts": "<RFC 3339>", "line": "…"}`
    fn legacy_entry(&mut self) -> Result<(), Fault> {
        let start = self.lines.len();
        let mut timestamp = NO_TIMESTAMP;
        let mut first = true;
        self.read.open(b'{', "an entry as an object")?;
        while self.next_key(&mut first)? {
            if self.key.eq_ignore_ascii_case(b"ts") {
                if self.read.null()? {
                    continue;
                }
                let at = self.read.at();
                self.value.clear();
                self.read.string(&mut self.value, "a timestamp as text")?;
                timestamp = std::str::from_utf8(&self.value)
                    .ok()
                    .and_then(rfc3339::parse)
                    .ok_or(Fault::expected(at, "a timestamp in RFC 3339"))?;
            } else if self.key.eq_ignore_ascii_case(b"line") {
                self.lines.truncate(start);
                self.read.string(&mut self.lines, "a line as text")?;
            } else {
                self.read.skip()?;
            }
        }
        self.keep(timestamp, start);
        Ok(())
    }

    /// Notes the entry whose line is what was read since `start`.
    fn keep(&mut self, timestamp: Timestamp, start: usize) {
        let (metadata_start, metadata_len) = self.metadata.finish();
        self.refs.push(EntryRef {
            timestamp,
            line_start: start as u32,
            line_len: (self.lines.len() - start) as u32,
            metadata_start,
            metadata_len,
        });
    }
}

/// The text that Loki makes of an object of labels before it parses it.
fn label_text(pairs: &BTreeMap<String, String>) -> String {
    let mut out = String::from("{");
    for (i, (name, value)) in pairs.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        out.push_str(name);
        out.push('=');
        // Writing to a string cannot fail.
        let _ = write_go_quoted(&mut out, value);
    }
    out.push('}');
    out
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
