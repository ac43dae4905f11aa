use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use skald_api::Config;
use skald_model::{Error, Kind, PushLabels};

use crate::services::{Answer, Services, send, surface, surface_with};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";
const GOOD: &str = r#"{"streams":[{"stream":{"a":"b"},"values":[["1","x"]]}]}"#;

fn request(headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::post("/loki/api/v1/push");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

/// `{a="b"}` with one entry `x` at 1 ns, as protobuf.
fn message() -> Vec<u8> {
    let entry = [&[0x0a, 2, 0x10, 1][..], &[0x12, 1, b'x']].concat();
    let labels = b"{a=\"b\"}";
    let stream = [&[0x0a, labels.len() as u8][..], labels, &[0x12, entry.len() as u8], &entry].concat();
    [&[0x0a, stream.len() as u8][..], &stream].concat()
}

fn snappy(message: &[u8]) -> Vec<u8> {
    // A block of one literal.
    [&[message.len() as u8, ((message.len() - 1) as u8) << 2][..], message].concat()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    e.write_all(data).unwrap();
    e.finish().unwrap()
}

async fn one(headers: &[(&str, &str)], body: impl Into<Body>) -> (Answer, Arc<Services>) {
    let services = Arc::new(Services::default());
    let config = Config {
        auth_enabled: false,
        max_recv_msg_size: 4096,
        max_decompressed_size: 8192,
        ..Config::default()
    };
    let answer = send(&surface_with(&services, config), request(headers, body)).await;
    (answer, services)
}

#[tokio::test]
async fn good_pushes_reach_the_distributor() {
    let cases: [(&str, &str, Vec<u8>); 5] = [
        (JSON, "", GOOD.into()),
        ("Application/JSON; charset=utf-8", "gzip", gzip(GOOD.as_bytes())),
        (PROTOBUF, "", snappy(&message())),
        (PROTOBUF, "snappy", snappy(&message())),
        (PROTOBUF, "gzip", gzip(&snappy(&message()))),
    ];
    for (kind, encoding, body) in cases {
        let (answer, services) = one(&[("content-type", kind), ("content-encoding", encoding)], body).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (204, ""), "{kind} {encoding}");
        let pushes = services.pushes.lock().unwrap();
        let [(tenant, push)] = &pushes[..] else { panic!("one push") };
        assert_eq!(tenant.as_str(), "fake");
        assert_eq!(push.entries.line(&push.entries.refs[0]), b"x");
        assert_eq!(push.entries.refs[0].timestamp, 1);
        let labels = match &push.streams[0].labels {
            PushLabels::Text(t) => String::from_utf8(t.to_vec()).unwrap(),
            PushLabels::Set(l) => l.to_string(),
        };
        assert_eq!(labels, r#"{a="b"}"#);
    }
}

/// Headers, body, and the status and text of the refusal.
type Bad<'a> = (Vec<(&'a str, &'a str)>, Vec<u8>, u16, &'a str);

#[tokio::test]
async fn bad_pushes_get_a_reason_and_store_nothing() {
    let json = ("content-type", JSON);
    let proto = ("content-type", PROTOBUF);
    let big = format!(r#"{{"streams":[{{"values":[["1","{}"]]}}]}}"#, "x".repeat(8192));
    let bomb = gzip(&vec![b' '; 256 << 10]);
    let cut = message()[..8].to_vec();
    let cases: Vec<Bad<'_>> = vec![
        (vec![], GOOD.into(), 400, "mime: no media type"),
        (vec![("content-type", "garbage/;;")], GOOD.into(), 400, "mime: expected token after slash"),
        (vec![("content-type", "text/plain")], GOOD.into(), 400, "snappy: corrupt input"),
        (vec![json, ("content-encoding", "br")], GOOD.into(), 400, "Content-Encoding \"br\" not supported"),
        (vec![json, ("content-encoding", "gzip")], GOOD.into(), 400, "gzip: invalid header"),
        (vec![json, ("content-encoding", "deflate")], b"x\x9c".to_vec(), 400, "EOF"),
        (vec![proto], vec![], 400, "snappy: corrupt input"),
        (vec![proto], message(), 400, "snappy: corrupt input"),
        (vec![proto], snappy(&cut), 400, "unexpected EOF"),
        (vec![proto], snappy(&[0xff, 0x07]), 400, "proto: illegal wireType 7"),
        (vec![proto], vec![0], 422, "error at least one valid stream is required for ingestion"),
        (vec![json], vec![], 400, "EOF"),
        (vec![json], b"not json".to_vec(), 400, "malformed JSON at byte 0: expected a value"),
        (
            vec![json],
            br#"{"streams":[]}"#.to_vec(),
            422,
            "error at least one valid stream is required for ingestion",
        ),
        (vec![json], b"null".to_vec(), 422, "error at least one valid stream is required for ingestion"),
        (
            vec![json],
            br#"{"streams":[{"values":[[1,"x"]]}]}"#.to_vec(),
            400,
            "malformed JSON at byte 24: expected a timestamp as text, in nanoseconds",
        ),
        (
            vec![json],
            br#"{"streams":[{"values":[["x","x"]]}]}"#.to_vec(),
            400,
            "malformed JSON at byte 25: expected a timestamp as text, in nanoseconds",
        ),
        (
            vec![json],
            big.clone().into(),
            413,
            "received message larger than max (8227 vs 4096), see the setting distributor.max_recv_msg_size",
        ),
        (
            vec![json, ("content-encoding", "gzip")],
            bomb,
            413,
            "received message larger than max (8193 vs 8192), see the setting max_decompressed_size",
        ),
        (
            vec![proto],
            // 2^31 bytes are declared and none are there.
            vec![0x80, 0x80, 0x80, 0x80, 0x08],
            400,
            "snappy: corrupt input",
        ),
    ];
    for (headers, body, status, text) in cases {
        let (answer, services) = one(&headers, body).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, text), "{headers:?}");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(services.pushes.lock().unwrap().is_empty(), "{headers:?}");
    }
}

#[tokio::test]
async fn bodies_without_a_length_are_bounded_too() {
    let frames =
        futures::stream::iter((0..9).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1000]))));
    let (answer, services) = one(&[("content-type", JSON)], Body::from_stream(frames)).await;
    assert_eq!(answer.status, 413);
    assert!(services.pushes.lock().unwrap().is_empty());
    let frames = GOOD.as_bytes().chunks(7).map(|c| Ok::<_, std::io::Error>(Bytes::from_static(c)));
    let frames: Vec<_> = frames.collect();
    let (answer, _) = one(&[("content-type", JSON)], Body::from_stream(futures::stream::iter(frames))).await;
    assert_eq!(answer.status, 204);
}

#[tokio::test]
async fn tenants_come_from_the_header() {
    let services = Arc::new(Services::default());
    let router = surface_with(&services, Config::default());
    let json = ("content-type", JSON);
    for (headers, status, text) in [
        (vec![json], 401, "no org id"),
        (vec![json, ("X-Scope-OrgID", "a|b")], 400, "tenant ID 'a|b' contains unsupported character '|'"),
        (vec![json, ("x-scope-orgid", "team-a")], 204, ""),
    ] {
        let answer = send(&router, request(&headers, GOOD)).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, text));
    }
    let pushes = services.pushes.lock().unwrap();
    assert_eq!(pushes.iter().map(|(t, _)| t.as_str()).collect::<Vec<_>>(), ["team-a"]);
}

#[tokio::test]
async fn refusals_of_the_distributor_keep_their_words() {
    let services = Arc::new(Services::default());
    let router = surface(&services);
    let cases = [
        (Error::invalid("bad entry"), 400, ""),
        (Error::limit("slow down", Duration::from_millis(1500)), 429, "2"),
        (Error::unavailable("no quorum"), 503, "1"),
        (Error::new(Kind::TooLarge, "too large"), 413, ""),
        (Error::internal("oops"), 500, ""),
    ];
    for (error, status, retry_after) in cases {
        *services.refusal.lock().unwrap() = Some(error.clone());
        let answer = send(&router, request(&[("content-type", JSON)], GOOD)).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, error.message.as_str()));
        assert_eq!(answer.header("retry-after"), retry_after);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

    /// Whatever is sent is taken or refused with a reason, on all three routes, and never anything else.
    #[test]
    fn any_request_is_taken_or_refused(
        path in proptest::sample::select(vec!["/loki/api/v1/push", "/api/prom/push", "/otlp/v1/logs"]),
        kind in proptest::sample::select(vec![JSON, PROTOBUF, "text/plain", "", "a/b; c"]),
        encoding in proptest::sample::select(vec!["", "gzip", "deflate", "snappy", "zstd", "br"]),
        seed in proptest::sample::select(vec![0, 1, 2, 3, 4]),
        damage in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 0..3),
    ) {
        let mut body = match seed {
            0 => GOOD.as_bytes().to_vec(),
            1 => snappy(&message()),
            2 => gzip(GOOD.as_bytes()),
            3 => message(),
            _ => br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"x"}}]}]}]}"#.to_vec(),
        };
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let mut request = request(&[("content-type", kind), ("content-encoding", encoding)], body);
        *request.uri_mut() = path.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let services = Arc::new(Services::default());
        let answer = runtime.block_on(send(&surface(&services), request));
        let status = answer.status.as_u16();
        let stored = services.pushes.lock().unwrap().len();
        proptest::prop_assert!(status == 204 && stored <= 1 || matches!(status, 400 | 413 | 422) && stored == 0, "{status}");
        proptest::prop_assert!(status == 204 || !answer.body.is_empty());
    }
}
