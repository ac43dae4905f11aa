//! How fast pushes are decoded, in bytes of raw lines per second of CPU time of one core, with the allocator of the
//! binary.
#![allow(missing_docs, reason = "the macros of criterion make undocumented items")]

use std::fmt::Write as _;

use bytes::Bytes;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, header};
use prost::Message;
use skald_api::push::{decode, encoding, json, protobuf};

#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    streams: Vec<Stream>,
}
#[derive(Clone, PartialEq, Message)]
struct Stream {
    #[prost(string, tag = "1")]
    labels: String,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<Entry>,
}
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<Time>,
    #[prost(string, tag = "2")]
    line: String,
}
#[derive(Clone, Copy, PartialEq, Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LIMIT: usize = 1 << 30;

/// Nanoseconds that this thread has run: other load on the machine does not count.
struct CpuTime;

impl CpuTime {
    fn now() -> u64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }
}

impl Measurement for CpuTime {
    type Intermediate = u64;
    type Value = u64;
    fn start(&self) -> u64 {
        Self::now()
    }
    fn end(&self, start: u64) -> u64 {
        Self::now() - start
    }
    fn add(&self, a: &u64, b: &u64) -> u64 {
        a + b
    }
    fn zero(&self) -> u64 {
        0
    }
    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// About 1 MB of lines in the manner of services: words that repeat, ids and numbers that do not.
fn request() -> (PushRequest, u64) {
    let mut seed = 7u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut raw = 0;
    let streams = (0..10)
        .map(|s| {
            let entries = (0..700)
                .map(|i| {
                    let mut line = String::new();
                    let _ = write!(
                        line,
                        "level=info ts=2026-01-15T01:{:02}:{:02}Z caller=handler.go:{} msg=\"request done\" \
                         trace_id={:016x} path=/api/v1/items/{} status=200 duration={}ms",
                        i / 60 % 60,
                        i % 60,
                        random() % 400,
                        random(),
                        random() % 10_000,
                        random() % 900
                    );
                    raw += line.len() as u64;
                    Entry {
                        timestamp: Some(Time {
                            seconds: 1_768_438_800 + i,
                            nanos: (random() % 1_000_000_000) as i32,
                        }),
                        line,
                    }
                })
                .collect();
            Stream { labels: format!("{{app=\"shop\", pod=\"shop-{s}\"}}"), entries }
        })
        .collect();
    (PushRequest { streams }, raw)
}

fn json_of(request: &PushRequest) -> Vec<u8> {
    let streams: Vec<_> = request
        .streams
        .iter()
        .map(|s| {
            let values: Vec<_> = s
                .entries
                .iter()
                .map(|e| {
                    let t = e.timestamp.unwrap_or_default();
                    serde_json::json!([format!("{}{:09}", t.seconds, t.nanos), e.line])
                })
                .collect();
            serde_json::json!({"stream": {"app": "shop", "pod": s.labels}, "values": values})
        })
        .collect();
    serde_json::json!({ "streams": streams }).to_string().into_bytes()
}

fn benches(c: &mut Criterion<CpuTime>) {
    let (request, raw) = request();
    let message = Bytes::from(request.encode_to_vec());
    let block = Bytes::from(snap::raw::Encoder::new().compress_vec(&message).expect("fits"));
    let json = Bytes::from(json_of(&request));
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));

    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Bytes(raw));
    group.bench_function("snappy", |b| b.iter(|| encoding::unsnap(&block, LIMIT).expect("valid")));
    group.bench_function("protobuf", |b| b.iter(|| protobuf::decode(message.clone(), None).expect("valid")));
    group.bench_function("snappy protobuf", |b| {
        b.iter(|| decode(&headers, block.clone(), json::Form::V1, LIMIT).expect("valid"));
    });
    group.bench_function("prost", |b| b.iter(|| PushRequest::decode(&message[..]).expect("valid")));
    group.bench_function("json", |b| b.iter(|| json::decode(&json, json::Form::V1).expect("valid")));
    group.bench_function("calibration: utf-8 check", |b| {
        b.iter(|| simdutf8::basic::from_utf8(&json).map(str::len).unwrap_or(0));
    });
    group.finish();
}

criterion_group! {
    name = decoding;
    config = Criterion::default().with_measurement(CpuTime);
    targets = benches
}
criterion_main!(decoding);
