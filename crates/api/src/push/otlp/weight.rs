//! What a request takes in memory once decoded, estimated before it is.
//!
//! A record of two bytes on the wire takes hundreds in memory. Without a look at the request beforehand, one of a few
//! megabytes could take gigabytes.

use std::ops::Range;

use skald_model::{Error, Kind};

use super::message::{
    AnyValue, InstrumentationScope, KeyValue, LogRecord, Resource, ResourceLogs, ScopeLogs,
};
use crate::push::protobuf::{Fault, Fields, LENGTH_DELIMITED};

/// A request may take this many times its size, and a megabyte.
const TIMES_MAX: usize = 16;

/// Messages deeper than this are left to the decoder, which refuses them.
const DEPTH_MAX: u32 = 100;

/// Refuses a protobuf request that would take far more memory than its size.
pub(super) fn check_protobuf(message: &[u8]) -> Result<(), Error> {
    // What is malformed is for the decoder to complain about.
    let weight = weigh(message, 0..message.len(), Kinds::Request, 0).unwrap_or(0);
    check(weight, message.len())
}

/// The same for JSON by the number of objects: most are values and attributes, a few are records.
pub(super) fn check_json(message: &[u8]) -> Result<(), Error> {
    const OBJECT_BYTES: usize = 160;
    check(memchr::memchr_iter(b'{', message).count() * OBJECT_BYTES, message.len())
}

fn check(weight: usize, size: usize) -> Result<(), Error> {
    if weight > size * TIMES_MAX + (1 << 20) {
        return Err(Error::new(
            Kind::TooLarge,
            "the request has too many records or attributes for its size",
        ));
    }
    Ok(())
}

/// The messages that contain messages.
#[derive(Clone, Copy)]
enum Kinds {
    Request,
    ResourceLogs,
    /// Resource and scope, as far as this is concerned.
    Attributes(u32),
    ScopeLogs,
    Record,
    KeyValue,
    Value,
    Values,
    Pairs,
}

impl Kinds {
    /// The message in field `number`, and what it takes.
    fn child(self, number: u32) -> Option<(Kinds, usize)> {
        Some(match (self, number) {
            (Kinds::Request, 1) => (Kinds::ResourceLogs, size_of::<ResourceLogs>()),
            (Kinds::ResourceLogs, 1) => (Kinds::Attributes(1), size_of::<Resource>()),
            (Kinds::ResourceLogs, 2) => (Kinds::ScopeLogs, size_of::<ScopeLogs>()),
            (Kinds::ScopeLogs, 1) => (Kinds::Attributes(3), size_of::<InstrumentationScope>()),
            (Kinds::ScopeLogs, 2) => (Kinds::Record, size_of::<LogRecord>()),
            (Kinds::Record, 5) | (Kinds::KeyValue, 2) => (Kinds::Value, 0),
            (Kinds::Record, 6) | (Kinds::Pairs, 1) => (Kinds::KeyValue, size_of::<KeyValue>()),
            (Kinds::Attributes(field), n) if n == field => (Kinds::KeyValue, size_of::<KeyValue>()),
            (Kinds::Value, 5) => (Kinds::Values, 0),
            (Kinds::Value, 6) => (Kinds::Pairs, 0),
            (Kinds::Values, 1) => (Kinds::Value, size_of::<AnyValue>()),
            _ => return None,
        })
    }
}

fn weigh(message: &[u8], range: Range<usize>, kind: Kinds, depth: u32) -> Result<usize, Fault> {
    let mut weight = 0;
    let mut fields = Fields::new(message, range, "LogsRequest");
    while let Some((number, wire_type)) = fields.next()? {
        match kind.child(number) {
            Some((child, bytes)) if wire_type == LENGTH_DELIMITED && depth < DEPTH_MAX => {
                let range = fields.message(wire_type, "")?;
                weight += bytes + weigh(message, range, child, depth + 1)?;
            }
            _ => fields.skip(number, wire_type)?,
        }
    }
    Ok(weight)
}

#[cfg(test)]
mod tests {
    use super::super::message::{LogsRequest, Value};
    use super::*;
    use prost::Message as _;

    fn request(records: usize, text: &str) -> LogsRequest {
        let value = Some(AnyValue { value: Some(Value::String(text.to_owned())) });
        let attributes = match text {
            "" => vec![],
            _ => vec![KeyValue { key: "http.method".to_owned(), value: value.clone() }; 4],
        };
        let body = value.filter(|_| !text.is_empty());
        let record = LogRecord { body, attributes, ..LogRecord::default() };
        let scope = ScopeLogs { scope: None, log_records: vec![record; records] };
        LogsRequest { resource_logs: vec![ResourceLogs { resource: None, scope_logs: vec![scope] }] }
    }

    #[test]
    fn requests_of_empty_records_are_refused() {
        let empty = request(100_000, "").encode_to_vec();
        assert_eq!(empty.len() / 1000, 200);
        assert_eq!(check_protobuf(&empty).unwrap_err().kind, Kind::TooLarge);
        assert_eq!(check_json("{},".repeat(100_000).as_bytes()).unwrap_err().kind, Kind::TooLarge);
    }

    #[test]
    fn real_requests_pass() {
        check_protobuf(&request(100_000, "GET").encode_to_vec()).unwrap();
        let record = r#"{"timeUnixNano":"1768608000000000000","body":{"stringValue":"x"},"attributes":[{"key":"a","value":{"intValue":"1"}}]},"#;
        check_json(record.repeat(100_000).as_bytes()).unwrap();
    }

    #[test]
    fn attributes_are_weighed_at_every_level() {
        let mut deep = AnyValue::default();
        for _ in 0..20 {
            deep = AnyValue {
                value: Some(Value::Array(super::super::message::ArrayValue { values: vec![deep; 2] })),
            };
            if deep.encoded_len() > 1 << 20 {
                break;
            }
        }
        let mut r = request(1, "");
        r.resource_logs[0].scope_logs[0].log_records[0].body = Some(deep);
        let bytes = r.encode_to_vec();
        let weight = weigh(&bytes, 0..bytes.len(), Kinds::Request, 0).unwrap();
        assert!(weight > (1 << 15) * size_of::<AnyValue>(), "{weight}");
    }
}
