//! Live tails of a real process, by WebSocket.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpStream;
use std::time::Instant;

use serde_json::Value;
use support::{DEADLINE, Server, now};
use tokio_tungstenite::tungstenite::client::client;
use tokio_tungstenite::tungstenite::handshake::HandshakeError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

const TAIL: &str = "/loki/api/v1/tail?query=%7Bapp%3D%22test%22%7D";
/// Limits that no test here reaches.
const UNLIMITED: [&str; 6] = [
    "--set",
    "limits_config.ingestion_rate_mb=10000",
    "--set",
    "limits_config.ingestion_burst_size_mb=10000",
    "--set",
    "limits_config.per_stream_rate_limit=10GB",
];

/// A reader of a tail.
struct Tail(WebSocket<TcpStream>);

impl Tail {
    fn open(server: &Server, path: &str) -> Self {
        Self::try_open(server, path).unwrap_or_else(|(status, body)| panic!("{status}: {body}"))
    }

    /// The refusal before the upgrade, if there is one.
    fn try_open(server: &Server, path: &str) -> Result<Self, (u16, String)> {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        match client(format!("ws://{}{path}", server.address()), stream) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(HandshakeError::Failure(Error::Http(response))) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8(body).unwrap()))
            }
            Err(e) => panic!("{e}"),
        }
    }

    /// The next frame.
    fn frame(&mut self) -> Value {
        loop {
            match self.0.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Lines of frames until one of them is `last`.
    fn lines_up_to(&mut self, last: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while !lines.iter().any(|l| l == last) {
            let frame = self.frame();
            assert!(frame.get("dropped_entries").is_none(), "{frame}");
            let found = lines_of(&frame);
            assert!((1..=100).contains(&found.len()), "{frame}");
            lines.extend(found);
        }
        lines
    }

    /// The code and reason that the server closes with.
    fn closed(&mut self) -> (CloseCode, String) {
        loop {
            match self.0.read().unwrap() {
                Message::Close(frame) => {
                    let frame = frame.unwrap();
                    return (frame.code, frame.reason.to_string());
                }
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn lines_of(frame: &Value) -> Vec<String> {
    let streams = frame["streams"].as_array().unwrap().iter();
    streams
        .flat_map(|s| s["values"].as_array().unwrap())
        .map(|v| {
            assert_eq!(v.as_array().unwrap().len(), 2, "{frame}");
            v[1].as_str().unwrap().to_owned()
        })
        .collect()
}

fn metric(server: &Server, name: &str) -> f64 {
    let metrics = server.get("/metrics").1;
    let line = metrics.lines().find(|l| l.starts_with(&format!("{name} ")));
    line.and_then(|l| l.split(' ').nth(1)).map_or(0.0, |v| v.parse().unwrap())
}

fn await_metric(server: &Server, name: &str, wanted: impl Fn(f64) -> bool) {
    let end = Instant::now() + DEADLINE;
    while !wanted(metric(server, name)) {
        assert!(Instant::now() < end, "{name} is {}", metric(server, name));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn what_is_there_comes_first_and_then_each_push_as_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let start = now();
    server.push(&[(start, "one"), (start + 1, "two"), (start + 2, "three")]);
    let mut tail = Tail::open(&server, &format!("{TAIL}&limit=2"));
    let frame = tail.frame();
    assert_eq!(lines_of(&frame), ["two", "three"]);
    assert_eq!(frame["streams"][0]["stream"]["app"], "test");
    assert_eq!(frame["streams"][0]["values"][1][0], (start + 2).to_string());
    let mut filtered = Tail::open(&server, &format!("{TAIL}%7C%3D%22v%22&delay_for=1&start={start}"));
    server.push(&[(start + 3, "four")]);
    server.push(&[(start + 4, "five")]);
    // A repeated push is not shown again.
    server.push(&[(start + 4, "five")]);
    server.push(&[(start + 5, "six")]);
    assert_eq!(tail.lines_up_to("six"), ["four", "five", "six"]);
    assert_eq!(filtered.lines_up_to("five"), ["five"]);
    let mut legacy = Tail::open(&server, "/api/prom/tail?query=%7Bapp%3D%22test%22%7D&regexp=f..r");
    let frame = legacy.frame();
    assert_eq!(frame["streams"][0]["entries"][0]["line"], "four");
    assert!(frame["streams"][0]["labels"].as_str().unwrap().starts_with(r#"{app="test", "#), "{frame}");
    // A shutdown does not wait for readers, and says nothing to them: so Grafana comes back.
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("level=warn") && !log.contains("level=error"), "{log}");
    let error = loop {
        match tail.0.read() {
            Ok(message) => assert!(message.is_ping(), "{message:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Protocol(_) | Error::Io(_)), "{error}");
}

#[test]
fn pushes_that_go_on_while_tails_begin_are_shown_once_each() {
    const LINES: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &UNLIMITED);
    let (go_on, may_begin) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let server = &server;
        scope.spawn(move || {
            for i in 0..LINES {
                server.push(&[(now(), &i.to_string())]);
                if i % 50 == 20 {
                    go_on.send(()).unwrap();
                }
                if i == LINES / 2 {
                    assert_eq!(server.post("/flush", "text/plain", "").0, 204);
                }
            }
        });
        for () in may_begin {
            scope.spawn(|| {
                let mut tail = Tail::open(server, &format!("{TAIL}&limit=5000"));
                let mut counts = BTreeMap::new();
                while counts.len() < LINES {
                    for line in lines_of(&tail.frame()) {
                        *counts.entry(line.parse::<usize>().unwrap()).or_insert(0) += 1;
                    }
                }
                assert!(counts.values().all(|n| *n == 1), "{counts:?}");
                assert_eq!(counts.keys().copied().collect::<Vec<_>>(), (0..LINES).collect::<Vec<_>>());
            });
        }
    });
}

#[test]
fn a_slow_reader_is_told_what_it_lost_and_a_reader_that_goes_frees_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &UNLIMITED);
    let mut slow = Tail::open(&server, TAIL);
    let line = "x".repeat(100_000);
    let mut pushed = 0;
    while metric(&server, "skald_ingester_tail_dropped_entries_total") == 0.0 {
        assert!(pushed < 2_000, "nothing was lost");
        let entries: Vec<_> = (0..20).map(|i| (now() + i, line.as_str())).collect();
        server.push(&entries);
        pushed += entries.len();
    }
    let mut seen = 0;
    let frame = loop {
        let frame = slow.frame();
        seen += lines_of(&frame).len();
        if frame.get("dropped_entries").is_some() {
            break frame;
        }
    };
    assert!(seen < pushed);
    let dropped = frame["dropped_entries"].as_array().unwrap();
    assert!((1..=10).contains(&dropped.len()), "{dropped:?}");
    assert_eq!(dropped[0]["labels"]["app"], "test");
    assert!(dropped[0]["timestamp"].as_str().unwrap().parse::<i64>().unwrap() > 0);

    let mut others: Vec<_> = (0..9).map(|_| Tail::open(&server, TAIL)).collect();
    await_metric(&server, "loki_ingester_tailers", |n| n == 10.0);
    await_metric(&server, "loki_querier_tail_active", |n| n == 10.0);
    let text = "max concurrent tail requests limit exceeded, count > limit (11 > 10)";
    assert_eq!(Tail::open(&server, TAIL).closed(), (CloseCode::Error, text.to_owned()));
    // One says goodbye, the others are just gone; the slow one while the server has things to tell it.
    others[0].0.close(None).unwrap();
    let _ = others[0].0.get_mut().read_to_end(&mut Vec::new());
    drop((slow, others));
    await_metric(&server, "loki_ingester_tailers", |n| n == 0.0);
    await_metric(&server, "loki_querier_tail_active", |n| n == 0.0);
}

#[test]
fn what_is_wrong_is_said_before_or_after_the_upgrade() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--set", "querier.tail_max_duration=1s"]);
    let refused = |path: &str| Tail::try_open(&server, path).err().unwrap();
    let (status, text) = refused("/loki/api/v1/tail?query=%7B");
    assert_eq!(status, 400);
    assert!(text.starts_with("parse error at line 1, col 2"), "{text}");
    let text = "delay_for can't be greater than 5\n".to_owned();
    assert_eq!(refused(&format!("{TAIL}&delay_for=6")), (400, text));
    assert_eq!(refused(&format!("{TAIL}&limit=0")), (400, "limit must be a positive value\n".to_owned()));
    let (status, body) = server.get(TAIL);
    assert!(status == 400 && body.contains("WebSocket"), "{status} {body}");
    let mut metric = Tail::open(&server, "/loki/api/v1/tail?query=rate(%7Bapp%3D%22test%22%7D%5B1m%5D)");
    assert_eq!(metric.closed(), (CloseCode::Error, "only log selector is supported".to_owned()));
    let mut long = Tail::open(&server, TAIL);
    assert_eq!(long.closed(), (CloseCode::Error, "reached tail max duration limit".to_owned()));
}

#[test]
fn a_tail_belongs_to_one_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--set", "auth_enabled=true"]);
    assert_eq!(Tail::try_open(&server, TAIL).err().unwrap(), (401, "no org id\n".to_owned()));
}
