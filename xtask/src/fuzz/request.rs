//! A malformed request, and the bytes of its answer.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{TENANT, pick, push, query};
use crate::random::Random;

/// No answer takes longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Stands for no answer to a request that was not whole. (Servers have used 499 for this.)
const BROKEN_OFF: u16 = 499;

/// A request as it goes over the wire.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    /// What kind of mistake it is.
    pub(super) family: &'static str,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    /// Chunks of a body with `Transfer-Encoding: chunked`, instead of a length.
    pub(super) chunked: bool,
    /// A length to announce instead of the real one.
    pub(super) announced: Option<String>,
    /// Everything before the body, instead of what would be written.
    pub(super) head: Option<Vec<u8>>,
    /// Whether the sender goes away after sending, as if the line had broken. Then there is nobody to answer.
    pub(super) breaks_off: bool,
    /// Whether the answer has to say why. What is no HTTP, or `HEAD`, gets a status only.
    pub(super) needs_reason: bool,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// The request with this number.
pub(super) fn generate(seed: u64, number: u64) -> Request {
    let mut random = Random::new(seed, number);
    match random.within(0..100) {
        0..8 => http(&mut random),
        8..16 => route(&mut random),
        16..22 => tenant(&mut random),
        22..60 => push::generate(&mut random),
        _ => query::generate(&mut random),
    }
}

impl Request {
    pub(super) fn new(family: &'static str, method: &str, target: impl Into<String>) -> Self {
        Self { family, method: method.into(), target: target.into(), needs_reason: true, ..Self::default() }
            .with("X-Scope-OrgID", TENANT)
    }

    pub(super) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    fn head_bytes(&self) -> Vec<u8> {
        if let Some(head) = &self.head {
            return head.clone();
        }
        let mut head =
            format!("{} {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", self.method, self.target)
                .into_bytes();
        for (name, value) in &self.headers {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        let length = match (&self.announced, self.chunked) {
            (Some(text), _) => format!("Content-Length: {text}\r\n"),
            (None, true) => "Transfer-Encoding: chunked\r\n".into(),
            (None, false) => format!("Content-Length: {}\r\n", self.body.len()),
        };
        head.extend_from_slice(length.as_bytes());
        head.extend_from_slice(b"\r\n");
        head
    }

    /// Sends it to a port of this machine and reads the answer.
    pub(super) fn send(&self, port: u16) -> Result<Answer> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).context("failed to connect")?;
        stream.set_read_timeout(Some(TIMEOUT)).context("failed to set a timeout")?;
        stream.set_write_timeout(Some(TIMEOUT)).context("failed to set a timeout")?;
        // The server may answer and close before it has read everything, which is its right.
        let sent = self.write(&mut stream);
        if self.breaks_off {
            stream.shutdown(Shutdown::Write).context("failed to end the request")?;
        }
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        match (sent, read) {
            _ if !bytes.is_empty() => parse(&bytes),
            _ if self.breaks_off => Ok(Answer { status: BROKEN_OFF, body: String::new() }),
            (Err(error), _) => Err(error).context("failed to send"),
            (_, Err(error)) => Err(error).context("failed to read the answer"),
            _ => anyhow::bail!("the server closed the connection without an answer"),
        }
    }

    fn write(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut bytes = self.head_bytes();
        if self.chunked {
            for chunk in self.body.chunks(1000) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        } else {
            bytes.extend_from_slice(&self.body);
        }
        match stream.write_all(&bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Ok(())
            }
            outcome => outcome,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |bytes: &[u8], max: usize| -> String {
            let text: String = String::from_utf8_lossy(bytes).chars().take(max).collect();
            text.escape_debug().to_string()
        };
        write!(f, "{}", short(&self.head_bytes(), 600))?;
        write!(f, " with {} bytes: {}", self.body.len(), short(&self.body, 300))
    }
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no head")?;
    let status =
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the answer has no status")?;
    Ok(Answer { status, body: body.to_owned() })
}

/// What is no HTTP, or breaks off.
fn http(random: &mut Random) -> Request {
    let mut request =
        Request::new("http", "POST", "/loki/api/v1/push").with("Content-Type", "application/json");
    request.needs_reason = false;
    request.body = b"{\"streams\":[]}".to_vec();
    let line = |text: &str| Some(format!("{text}\r\nHost: x\r\n\r\n").into_bytes());
    match random.within(0..10) {
        0 => request.head = line("GET"),
        1 => request.head = line("GET /ready HTTP/9.9"),
        2 => request.head = line("G\u{1}T /ready HTTP/1.1"),
        3 => request.head = line("GET /a\u{7f}b HTTP/1.1"),
        4 => request.head = Some((0..200).map(|_| random.next() as u8 | 0x80).chain(*b"\r\n\r\n").collect()),
        5 => request = request.with("Bad Name", "x"),
        6 => request = request.with("X-Bad", b"a\x00b"),
        7 => {
            let wrong = ["-1", "abc", "99999999999999999999999", "1, 2", ""];
            request.announced = Some(pick(random, &wrong).to_owned());
        }
        8 => {
            for number in 0..300 {
                request = request.with(&format!("X-Many-{number}"), "x");
            }
        }
        _ => {
            request.announced = Some((request.body.len() as u64 + random.within(1..1000)).to_string());
            request.breaks_off = true;
        }
    }
    request
}

/// Every path of the API, with the methods that it takes.
const ROUTES: [(&str, &[&str]); 19] = [
    ("/loki/api/v1/push", &["POST"]),
    ("/api/prom/push", &["POST"]),
    ("/otlp/v1/logs", &["POST"]),
    ("/flush/tenant", &["POST"]),
    ("/ready", &["GET"]),
    ("/metrics", &["GET"]),
    ("/services", &["GET"]),
    ("/config", &["GET"]),
    ("/config/tenant/v1/limits", &["GET"]),
    ("/loki/api/v1/status/buildinfo", &["GET"]),
    ("/loki/api/v1/query", &["GET", "POST"]),
    ("/loki/api/v1/query_range", &["GET", "POST"]),
    ("/loki/api/v1/labels", &["GET", "POST"]),
    ("/loki/api/v1/label/a/values", &["GET", "POST"]),
    ("/loki/api/v1/series", &["GET", "POST"]),
    ("/loki/api/v1/format_query", &["GET", "POST"]),
    ("/api/prom/query", &["GET", "POST"]),
    ("/api/prom/label", &["GET", "POST"]),
    ("/flush", &["GET", "POST"]),
];

/// Paths that are none, and methods that a path does not take.
fn route(random: &mut Random) -> Request {
    if random.percent(50) {
        let (path, methods) = ROUTES[random.within(0..ROUTES.len() as u64) as usize];
        let others: Vec<&str> =
            ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "X"]
                .into_iter()
                .filter(|method| !methods.contains(method))
                .collect();
        return Request::new("method", pick(random, &others), path);
    }
    let (path, _) = ROUTES[random.within(0..ROUTES.len() as u64) as usize];
    let path = match random.within(0..6) {
        0 => format!("{path}/"),
        1 => format!("/{path}"),
        2 => path.to_uppercase(),
        3 => format!("{path}/../{}", random.next()),
        4 => format!("{path}%00"),
        _ => format!("/{}", "x/".repeat(random.within(1..500) as usize)),
    };
    Request::new("path", pick(random, &["GET", "POST", "PUT"]), path)
}

/// Tenants that are missing or cannot be.
fn tenant(random: &mut Random) -> Request {
    let target = pick(random, &["/loki/api/v1/push", "/otlp/v1/logs", "/api/prom/push"]);
    let body = r#"{"streams":[{"stream":{"a":"b"},"values":[["1","x"]]}]}"#;
    let request = Request::new("tenant", "POST", target).with("Content-Type", "application/json").body(body);
    let read =
        pick(random, &["/loki/api/v1/labels", "/loki/api/v1/series", "/loki/api/v1/query?query=vector(1)"]);
    let request = if random.percent(40) { Request::new("tenant", "GET", read) } else { request };
    let long = "x".repeat(random.within(151..5000) as usize);
    match random.within(0..4) {
        0 => request.without("X-Scope-OrgID"),
        1 => request.with("X-Scope-OrgID", long),
        2 => request
            .with("X-Scope-OrgID", pick(random, &["", ".", "..", "a/b", "a b", "../../etc", "a\\b", "%2e"])),
        _ => request.with("X-Scope-OrgID", [b'a', random.within(0x80..0x100) as u8]),
    }
}
