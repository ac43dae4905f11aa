use super::*;
use proptest::prelude::*;
use prost::Message;

/// The messages as `prost` reads them. Texts are bytes, because it refuses what is not UTF-8 and Go does not.
#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    streams: Vec<Stream>,
}
#[derive(Clone, PartialEq, Message)]
struct Stream {
    #[prost(bytes = "vec", tag = "1")]
    labels: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<Entry>,
}
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<Time>,
    #[prost(bytes = "vec", tag = "2")]
    line: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<Pair>,
}
#[derive(Clone, Copy, PartialEq, Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}
#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// What a push says, in a form that the two decoders share.
type Plain = Vec<(Vec<u8>, Vec<(i64, Vec<u8>, Vec<u8>)>)>;

fn ours(body: &[u8]) -> Result<Plain, String> {
    let push = decode(Bytes::copy_from_slice(body), None).map_err(|e| e.message)?;
    let e = &push.entries;
    Ok(push
        .streams
        .iter()
        .map(|s| {
            let PushLabels::Text(labels) = &s.labels else { panic!("labels are text") };
            let refs = &e.refs[s.entries.start as usize..s.entries.end as usize];
            let entries = refs
                .iter()
                .map(|r| (r.timestamp, e.line(r).to_vec(), e.metadata(r).packed().to_vec()))
                .collect();
            (labels.to_vec(), entries)
        })
        .collect())
}

fn oracle(body: &[u8]) -> Option<Plain> {
    let request = PushRequest::decode(body).ok()?;
    request
        .streams
        .into_iter()
        .map(|s| {
            std::str::from_utf8(&s.labels).ok()?;
            let entries = s.entries.into_iter().map(|e| {
                let time = match e.timestamp {
                    None => NO_TIMESTAMP,
                    Some(t) => nanoseconds(t.seconds, t.nanos).ok()?,
                };
                let mut line = Vec::new();
                utf8::replace_invalid(&e.line, &mut line);
                let mut packer = Packer::default();
                e.metadata.iter().for_each(|p| packer.add(&p.name, &p.value));
                packer.finish();
                Some((time, line, packer.into_packed()))
            });
            Some((s.labels, entries.collect::<Option<_>>()?))
        })
        .collect()
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[ -~]{0,30}".prop_map(String::into_bytes),
        1 => ".{0,80}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..9),
    ]
}

fn request() -> impl Strategy<Value = PushRequest> {
    let time = (any::<i64>(), any::<i32>(), 0u8..4).prop_map(|(s, n, kind)| match kind {
        0 => None,
        1 => Some(Time { seconds: s, nanos: n }),
        _ => Some(Time { seconds: s >> 30, nanos: n.rem_euclid(1_000_000_000) }),
    });
    let pair = (text(), text()).prop_map(|(name, value)| Pair { name, value });
    let entry = (time, text(), proptest::collection::vec(pair, 0..3))
        .prop_map(|(timestamp, line, metadata)| Entry { timestamp, line, metadata });
    let stream = ("\\{[a-z\"=]{0,9}\\}", proptest::collection::vec(entry, 0..4))
        .prop_map(|(labels, entries)| Stream { labels: labels.into_bytes(), entries });
    proptest::collection::vec(stream, 0..4).prop_map(|streams| PushRequest { streams })
}

fn agree(body: &[u8]) -> Result<(), TestCaseError> {
    match (ours(body), oracle(body)) {
        (Ok(a), Some(b)) => prop_assert_eq!(a, b),
        (Err(_), None) => {}
        (a, b) => prop_assert!(false, "{a:?} against {b:?} for {body:?}"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn reads_what_prost_writes(request in request()) {
        agree(&request.encode_to_vec())?;
    }

    #[test]
    fn agrees_with_prost_on_damaged_bytes(
        request in request(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut body = request.encode_to_vec();
        if !body.is_empty() {
            for (at, byte) in damage {
                let at = at.index(body.len());
                body[at] = byte;
            }
            if let Some(cut) = cut {
                body.truncate(cut.index(body.len()));
            }
        }
        agree(&body)?;
    }

    #[test]
    fn agrees_with_prost_on_any_bytes(body in proptest::collection::vec(prop_oneof![0u8..32, any::<u8>()], 0..60)) {
        agree(&body)?;
    }
}

#[track_caller]
fn check(body: &[u8], expected: &str) {
    assert_eq!(ours(body).unwrap_err(), expected);
}

#[test]
fn errors_have_the_words_of_gos_decoder() {
    check(&[0xff, 0x07], "proto: illegal wireType 7");
    check(&[0x0a], "unexpected EOF");
    check(&[0x0a, 5, 1], "unexpected EOF");
    check(&[0x08, 5], "proto: wrong wireType = 0 for field Streams");
    check(&[0x0a, 2, 0x10, 5], "proto: wrong wireType = 0 for field Entries");
    check(&[0x02, 0], "proto: PushRequest: illegal tag 0 (wire type 2)");
    check(&[0x14], "proto: PushRequest: wiretype end group for non-group");
    check(&[0xff; 11], "proto: integer overflow");
    check(&[0x13; 200], "proto: groups are nested too deeply");
    let late = Entry { timestamp: Some(Time { seconds: 1, nanos: 1_000_000_000 }), ..Entry::default() };
    let request = PushRequest { streams: vec![Stream { labels: vec![], entries: vec![late] }] };
    check(
        &request.encode_to_vec(),
        "timestamp: &types.Timestamp{Seconds: 1,\nNanos: 1000000000,\n}: nanos not in range [0, 1e9)",
    );
}

fn one_entry(line: &[u8]) -> Vec<u8> {
    let entry = Entry {
        timestamp: Some(Time { seconds: 1, nanos: 2 }),
        line: line.to_vec(),
        metadata: vec![Pair { name: b"a.b".to_vec(), value: b"1".to_vec() }],
    };
    PushRequest { streams: vec![Stream { labels: b"{a=\"b\"}".to_vec(), entries: vec![entry] }] }
        .encode_to_vec()
}

#[test]
fn lines_stay_where_they_came() {
    let body = Bytes::from(one_entry(b"the line"));
    let compressed = Some(Bytes::from_static(b"block"));
    let push = decode(body.clone(), compressed.clone()).unwrap();
    let e = &push.entries;
    assert_eq!(e.line(&e.refs[0]), b"the line");
    assert_eq!(
        e.line(&e.refs[0]).as_ptr(),
        body[body.windows(8).position(|w| w == b"the line").unwrap()..].as_ptr()
    );
    assert_eq!(e.refs[0].timestamp, 1_000_000_002);
    assert_eq!(e.metadata(&e.refs[0]).to_string(), r#"{a_b="1"}"#);
    assert_eq!(e.compressed, compressed);
}

#[test]
fn repaired_lines_follow_the_body() {
    let push = decode(one_entry(b"bad \xff").into(), Some(Bytes::from_static(b"block"))).unwrap();
    let e = &push.entries;
    assert_eq!(e.line(&e.refs[0]), "bad \u{fffd}".as_bytes());
    assert_eq!(e.compressed, None);
}

#[test]
fn an_absent_time_is_gos_zero_time() {
    let request = PushRequest { streams: vec![Stream { labels: vec![], entries: vec![Entry::default()] }] };
    assert_eq!(ours(&request.encode_to_vec()).unwrap()[0].1[0].0, NO_TIMESTAMP);
    let entry = Entry { timestamp: Some(Time::default()), ..Entry::default() };
    let request = PushRequest { streams: vec![Stream { labels: vec![], entries: vec![entry] }] };
    assert_eq!(ours(&request.encode_to_vec()).unwrap()[0].1[0].0, 0);
}

#[test]
fn a_body_of_empty_entries_is_refused() {
    let entries = [0x12, 0].repeat(1 << 20);
    let len = entries.len() as u64;
    let head = [
        &[0x0a][..],
        &[
            (len & 0x7f | 0x80) as u8,
            (len >> 7 & 0x7f | 0x80) as u8,
            (len >> 14 & 0x7f | 0x80) as u8,
            (len >> 21) as u8,
        ],
    ]
    .concat();
    check(&[head, entries].concat(), "too many entries or streams for the size of the push");
    check(&[0x0a, 0].repeat(1 << 20), "too many entries or streams for the size of the push");
}
