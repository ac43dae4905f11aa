//! Pushes that must not be taken: wrong in their headers, their encoding, their structure or their content.

use serde_json::{Value, json};

use super::pick;
use super::request::Request;
use crate::clock::now;
use crate::push::{Entry, Stream, as_protobuf};
use crate::random::Random;

const PUSH: [&str; 2] = ["/loki/api/v1/push", "/api/prom/push"];
const OTLP: &str = "/otlp/v1/logs";

/// A malformed push.
pub(super) fn generate(random: &mut Random) -> Request {
    let request = match random.within(0..100) {
        0..12 => headers(random),
        12..30 => json_syntax(random),
        30..50 => json_shape(random),
        50..65 => content(random),
        65..82 => protobuf(random),
        82..92 => otlp(random),
        _ => too_large(random),
    };
    // How the body is cut into chunks must not matter.
    Request { chunked: random.percent(20), ..request }
}

fn json_push(family: &'static str, body: impl Into<Vec<u8>>) -> Request {
    Request::new(family, "POST", PUSH[0]).with("Content-Type", "application/json").body(body)
}

/// A push that would be taken.
fn good() -> Value {
    json!({"streams": [{"stream": {"a": "b"}, "values": [[now().to_string(), "x", {"k": "v"}]]}]})
}

/// Good bodies whose headers say something else.
fn headers(random: &mut Random) -> Request {
    let request = json_push("headers", good().to_string());
    match random.within(0..5) {
        0 => request.without("Content-Type"),
        1 => {
            let types =
                ["/", "application/", "a/b/c", "application/json; x", "application json", ";", "\"\"", "*"];
            request.with("Content-Type", pick(random, &types))
        }
        // Everything that is not JSON is taken for protobuf, which this is not.
        2 => request
            .with("Content-Type", pick(random, &["text/plain", "application/x-protobuf", "image/png", "x"])),
        3 => request.with(
            "Content-Encoding",
            pick(random, &["br", "zstd", "identity, x", "GZIP2", "é", "gzip, gzip"]),
        ),
        _ => request.with("Content-Encoding", pick(random, &["gzip", "deflate"])),
    }
}

/// What is no JSON.
fn json_syntax(random: &mut Random) -> Request {
    let text = good().to_string();
    let body = match random.within(0..6) {
        // A part of an object is never one. (What follows the object is ignored, as in Loki.)
        0 => text.as_bytes()[..random.within(0..text.len() as u64) as usize].to_vec(),
        1 => {
            format!("{}{text}", pick(random, &["}", "]", ",", "x", ":", "\"", "\0", "\u{feff}"])).into_bytes()
        }
        2 => "[".repeat(random.within(1..100_000) as usize).into_bytes(),
        3 => format!("{{\"streams\":{}", "[".repeat(random.within(1..50_000) as usize)).into_bytes(),
        4 => (0..random.within(1..300)).map(|_| random.next() as u8).chain([0x80]).collect(),
        _ => {
            let mut bytes = text.into_bytes();
            // No control character may stand anywhere in JSON but white space between tokens.
            let at = random.within(0..bytes.len() as u64) as usize;
            bytes[at] = random.within(1..9) as u8;
            bytes
        }
    };
    json_push("syntax", body)
}

/// JSON of another shape.
fn json_shape(random: &mut Random) -> Request {
    let time = now().to_string();
    let other: Value = match random.within(0..6) {
        0 => json!(7),
        1 => json!(-1.5e300),
        2 => json!("text"),
        3 => json!([[[]]]),
        4 => json!(true),
        _ => json!({"a": {"b": {}}}),
    };
    let number = json!(random.next() as i64);
    // Labels that are no strings become their text, and a line may be missing, as in Loki: these are not mistakes.
    let body = match random.within(0..12) {
        0 => json!({"streams": other}),
        1 => json!({"streams": [[other]]}),
        2 => json!({"streams": [{"stream": number, "values": [[time, "x"]]}]}),
        3 => json!({"streams": [{"stream": [number], "values": [[time, "x"]]}]}),
        4 => json!({"streams": [{"stream": {"a": "b"}, "values": number}]}),
        5 => json!({"streams": [{"stream": {"a": "b"}, "values": [number]}]}),
        6 => json!({"streams": [{"stream": {"a": "b"}, "values": [{"ts": time, "line": "x"}]}]}),
        7 => json!({"streams": [{"stream": {"a": "b"}, "values": [[now(), "x"]]}]}),
        8 => json!({"streams": [{"stream": {"a": "b"}, "values": [[time, number]]}]}),
        9 => json!({"streams": [{"stream": {"a": "b"}, "values": [[time, "x", "metadata"]]}]}),
        10 => json!({"streams": [{"stream": {"a": "b"}, "values": [[time, "x", {"k": number}]]}]}),
        _ => json!({"streams": []}),
    };
    json_push("shape", body.to_string())
}

/// Of the right shape, but with labels, times, lines or metadata that no limit allows.
fn content(random: &mut Random) -> Request {
    let one = |labels: Value, entry: Value| json!({"streams": [{"stream": labels, "values": [entry]}]});
    let good = json!({"a": "b"});
    let time = now().to_string();
    let long = |length: usize| "x".repeat(length);
    let body = match random.within(0..10) {
        0 => {
            let names = ["1a", "a-b", "a b", "a.b", "", "ä", "{", "a=\"b\"", "a\u{0}"];
            one(json!({pick(random, &names): "b"}), json!([time, "x"]))
        }
        1 => one(json!({long(1025): "b"}), json!([time, "x"])),
        2 => one(json!({"a": long(2049)}), json!([time, "x"])),
        3 => {
            let many: serde_json::Map<_, _> =
                (0..random.within(16..200)).map(|n| (format!("l{n}"), json!("x"))).collect();
            one(Value::Object(many), json!([time, "x"]))
        }
        4 => {
            let times =
                ["", "x", "1.5", "1e3", "99999999999999999999", "-99999999999999999999", "0x10", " 1", "1 "];
            one(good, json!([pick(random, &times), "x"]))
        }
        5 => one(good, json!([random.within(0..now() as u64 - 30 * 86_400_000_000_000).to_string(), "x"])),
        6 => one(good, json!([(now() + 3_600_000_000_000).to_string(), "x"])),
        7 => one(good, json!([time, long(random.within(262_145..600_000) as usize)])),
        8 => {
            let many: serde_json::Map<_, _> =
                (0..random.within(129..2000)).map(|n| (format!("m{n}"), json!("x"))).collect();
            one(good, json!([time, "x", many]))
        }
        _ => one(good, json!([time, "x", {"m": long(random.within(65_537..200_000) as usize)}])),
    };
    json_push("content", body.to_string())
}

/// Snappy and protobuf that are neither.
fn protobuf(random: &mut Random) -> Request {
    let entry =
        |line: &str| Entry { timestamp: now(), line: line.into(), metadata: vec![("k".into(), "v".into())] };
    let stream = Stream { labels: vec![("a".into(), "b".into())], entries: vec![entry("x"), entry("y")] };
    let good = as_protobuf(&[stream]).expect("compression of a few bytes").bytes;
    let plain = snap::raw::Decoder::new().decompress_vec(&good).expect("just compressed");
    let snappy =
        |bytes: &[u8]| snap::raw::Encoder::new().compress_vec(bytes).expect("compression of a few bytes");
    let body = match random.within(0..8) {
        0 => good[..random.within(0..good.len() as u64) as usize].to_vec(),
        // One message with a length: a part of it is never whole.
        1 => snappy(&plain[..random.within(1..plain.len() as u64) as usize]),
        // Announces more than there is, up to 4 GB.
        2 => [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &good].concat(),
        // The framed format of snappy, which nobody takes here.
        3 => [&b"\xff\x06\x00\x00sNaPpY"[..], &good].concat(),
        4 => plain,
        // Labels that are no labels.
        5 => {
            let texts = [
                "",
                "{",
                "}",
                "a",
                "{a}",
                "{a=}",
                "{a=\"b\"",
                "{a=\"b\",a=\"c\"}",
                "{1=\"b\"}",
                "{a=~\"b\"}",
            ];
            let text = pick(random, &texts);
            let inner = [&[0x0a, text.len() as u8][..], text.as_bytes(), &[0x12, 0x00]].concat();
            snappy(&[&[0x0a, inner.len() as u8][..], &inner].concat())
        }
        // Wrong types on the wire: 6 and 7 do not exist, and an end of a group has no beginning.
        6 => {
            snappy(&[pick(random, &[&[0x0e_u8, 1][..], &[0x0f, 1], &[0x0c], &[0x00, 0x00]]), b"abc"].concat())
        }
        _ => snappy(&[0xff; 300]),
    };
    let kind =
        pick(random, &["application/x-protobuf", "application/x-protobuf; charset=utf-8", "text/plain"]);
    Request::new("protobuf", "POST", pick(random, &PUSH)).with("Content-Type", kind).body(body)
}

fn otlp(random: &mut Random) -> Request {
    let record = json!({"timeUnixNano": now().to_string(), "body": {"stringValue": "x"}});
    let good = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).to_string();
    let request = Request::new("otlp", "POST", OTLP).with("Content-Type", "application/json");
    match random.within(0..7) {
        0 => request.body(&good.as_bytes()[..random.within(0..good.len() as u64) as usize]),
        1 => request.body(json!({"resourceLogs": 7}).to_string()),
        2 => request.body(json!({"resourceLogs": [{"scopeLogs": [{"logRecords": ["x"]}]}]}).to_string()),
        3 => request
            .with("Content-Type", "application/x-protobuf")
            .body(vec![0xff; random.within(1..300) as usize]),
        4 => request.with("Content-Type", pick(random, &["text/plain", "application/xml", "x/y"])).body(good),
        5 => request.with("Content-Encoding", pick(random, &["gzip", "zstd", "lz4", "br"])).body(good),
        _ => request.body(format!("{{\"resourceLogs\":{}", "[".repeat(random.within(1..50_000) as usize))),
    }
}

/// Bodies beyond the limits, and small ones that grow beyond them.
fn too_large(random: &mut Random) -> Request {
    let padding = |length: usize| format!("{{\"streams\":[],\"x\":\"{}\"}}", "x".repeat(length));
    match random.within(0..4) {
        0 => json_push("size", padding(random.within(1 << 20..3 << 20) as usize)),
        1 => {
            let body =
                snap::raw::Encoder::new().compress_vec(&vec![0x0a; 9 << 20]).expect("compression of zeros");
            Request::new("size", "POST", pick(random, &PUSH))
                .with("Content-Type", "application/x-protobuf")
                .body(body)
        }
        2 => {
            let bomb = gzip(padding(9 << 20).as_bytes());
            json_push("size", bomb).with("Content-Encoding", "gzip")
        }
        // What cannot be unpacked to its end.
        _ => {
            let zip = gzip(good().to_string().as_bytes());
            let part = random.within(0..zip.len() as u64) as usize;
            json_push("size", &zip[..part]).with("Content-Encoding", "gzip")
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}
