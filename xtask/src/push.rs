//! Push bodies in both encodings that Loki takes.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Pairs of names and values.
pub(crate) type Pairs = Vec<(String, String)>;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Nanoseconds since the Unix epoch.
    pub(crate) timestamp: i64,
    /// The line.
    pub(crate) line: String,
    /// Structured metadata.
    pub(crate) metadata: Pairs,
}

/// Some entries of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// Its labels.
    pub(crate) labels: Pairs,
    /// Its entries.
    pub(crate) entries: Vec<Entry>,
}

/// A body and its media type.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    /// The media type for the `Content-Type` header.
    pub(crate) media_type: &'static str,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
}

/// The push as JSON.
pub(crate) fn as_json(streams: &[Stream]) -> Result<Body> {
    let object =
        |pairs: &Pairs| -> Value { pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect() };
    let streams: Vec<Value> = streams
        .iter()
        .map(|stream| {
            let values: Vec<Value> = stream
                .entries
                .iter()
                .map(|entry| match entry.metadata.is_empty() {
                    true => json!([entry.timestamp.to_string(), entry.line]),
                    false => json!([entry.timestamp.to_string(), entry.line, object(&entry.metadata)]),
                })
                .collect();
            json!({"stream": object(&stream.labels), "values": values})
        })
        .collect();
    let bytes = serde_json::to_vec(&json!({ "streams": streams })).context("failed to write JSON")?;
    Ok(Body { media_type: "application/json", bytes })
}

/// The push as protobuf (`logproto.PushRequest`) in a snappy block.
pub(crate) fn as_protobuf(streams: &[Stream]) -> Result<Body> {
    let mut request = Vec::new();
    for stream in streams {
        let mut message = Vec::new();
        field(&mut message, 1, selector(&stream.labels).as_bytes());
        for entry in &stream.entries {
            field(&mut message, 2, &protobuf_entry(entry));
        }
        field(&mut request, 1, &message);
    }
    let bytes = snap::raw::Encoder::new().compress_vec(&request).context("failed to compress")?;
    Ok(Body { media_type: "application/x-protobuf", bytes })
}

/// `{name="value",…}`.
pub(crate) fn selector(labels: &Pairs) -> String {
    let matchers: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", matchers.join(","))
}

fn protobuf_entry(entry: &Entry) -> Vec<u8> {
    let mut timestamp = Vec::new();
    number(&mut timestamp, 1, entry.timestamp.div_euclid(1_000_000_000).cast_unsigned());
    number(&mut timestamp, 2, entry.timestamp.rem_euclid(1_000_000_000).cast_unsigned());
    let mut message = Vec::new();
    field(&mut message, 1, &timestamp);
    field(&mut message, 2, entry.line.as_bytes());
    for (name, value) in &entry.metadata {
        let mut pair = Vec::new();
        field(&mut pair, 1, name.as_bytes());
        field(&mut pair, 2, value.as_bytes());
        field(&mut message, 3, &pair);
    }
    message
}

fn field(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    varint(out, tag << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn number(out: &mut Vec<u8>, tag: u64, value: u64) {
    varint(out, tag << 3);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<Stream> {
        vec![Stream {
            labels: vec![("app".into(), "a\"b".into())],
            entries: vec![Entry {
                timestamp: 1_000_000_300,
                line: "x".into(),
                metadata: vec![("k".into(), "v".into())],
            }],
        }]
    }

    #[test]
    fn json_has_the_shape_that_loki_documents() {
        let body = as_json(&example()).unwrap();
        let expected = r#"{"streams":[{"stream":{"app":"a\"b"},"values":[["1000000300","x",{"k":"v"}]]}]}"#;
        assert_eq!(String::from_utf8(body.bytes).unwrap(), expected);
    }

    #[test]
    fn protobuf_has_the_bytes_of_the_wire_format() {
        let body = as_protobuf(&example()).unwrap();
        let bytes = snap::raw::Decoder::new().decompress_vec(&body.bytes).unwrap();
        let entry = b"\x0a\x05\x08\x01\x10\xac\x02\x12\x01x\x1a\x06\x0a\x01k\x12\x01v";
        let mut stream = b"\x0a\x0c{app=\"a\\\"b\"}\x12".to_vec();
        stream.push(entry.len() as u8);
        stream.extend_from_slice(entry);
        let mut request = vec![0x0a, stream.len() as u8];
        request.extend_from_slice(&stream);
        assert_eq!(bytes, request);
    }
}
