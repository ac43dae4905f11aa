//! Requests to the server, repeated where that helps.

use std::io::Read as _;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use chrono::Utc;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use rustls::ClientConfig;
use url::Url;

use crate::connection::Settings;
use crate::notes::Notes;
use crate::retry;

/// No answer may be larger, unpacked, in bytes: a page of queries is far below.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Of an error's body no more is shown, in bytes.
const MESSAGE_BYTES_MAX: usize = 2000;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Why there is no answer to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server refused, or failed.
    #[error("{path}: the server answered {status}: {message}")]
    Status {
        /// What was asked for.
        path: String,
        /// The status.
        status: StatusCode,
        /// What the server says about it.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// No connection.
    #[error("failed to connect to {address}")]
    Connect {
        /// The server.
        address: Url,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The connection ended before the answer did.
    #[error("no whole answer from {address}")]
    Broken {
        /// The server.
        address: Url,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The answer cannot be taken.
    #[error("{path}: {reason}")]
    Answer {
        /// What was asked for.
        path: String,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// The status, if the server gave one.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    fn is_temporary(&self, patience: Patience) -> bool {
        match self {
            Self::Status { status, .. } => retry::is_temporary(*status),
            Self::Connect { .. } => patience == Patience::Long,
            Self::Broken { .. } => true,
            Self::Answer { .. } => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Whether a server that cannot be reached at all is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Somebody waits for the answer and wants to know.
    Short,
    /// The work should survive a restart of the server.
    Long,
}

/// A server and who we are to it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    settings: Settings,
    tls: ClientConfig,
    notes: Notes,
}

impl Client {
    /// No request is made yet.
    pub(crate) fn new(settings: Settings, notes: Notes) -> anyhow::Result<Self> {
        let tls = settings.tls.clone().into_config()?;
        let mut headers = settings.headers.clone();
        if settings.compress {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("skald/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .tls_backend_preconfigured(tls.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(settings.timeout)
            .build()
            .context("failed to set up the HTTP client")?;
        Ok(Self { http, settings, tls, notes })
    }

    /// GET, with parameters; the body of a 200.
    pub(crate) async fn get(&self, path: &str, parameters: &[(&str, String)]) -> Result<Bytes, Error> {
        self.get_with(path, parameters, HeaderMap::new(), Patience::Short).await
    }

    /// GET with headers of its own.
    pub(crate) async fn get_with(
        &self,
        path: &str,
        parameters: &[(&str, String)],
        headers: HeaderMap,
        patience: Patience,
    ) -> Result<Bytes, Error> {
        let mut url = self.url(path);
        url.query_pairs_mut().extend_pairs(parameters);
        let request = || self.http.get(url.clone()).headers(headers.clone());
        self.repeat(path, patience, request).await
    }

    /// POST of a body that is there already.
    pub(crate) async fn post(
        &self,
        path: &str,
        content_type: &'static str,
        body: &Bytes,
    ) -> Result<Bytes, Error> {
        let url = self.url(path);
        let request = || {
            self.http.request(Method::POST, url.clone()).header(CONTENT_TYPE, content_type).body(body.clone())
        };
        self.repeat(path, Patience::Long, request).await
    }

    /// The address of a path on the server.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.settings.address.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}{path}"));
        url
    }

    /// Headers of every request.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.settings.headers
    }

    /// The TLS configuration, for connections that are not plain requests.
    pub(crate) fn tls(&self) -> &ClientConfig {
        &self.tls
    }

    /// How often one request is repeated.
    pub(crate) fn retries(&self) -> u32 {
        self.settings.retries
    }

    async fn repeat(
        &self,
        path: &str,
        patience: Patience,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Bytes, Error> {
        let mut attempt = 0;
        loop {
            let error = match self.once(path, request()).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            attempt += 1;
            if attempt > self.settings.retries || !error.is_temporary(patience) {
                return Err(error);
            }
            let delay = retry::delay(attempt, error.retry_after(), retry::random());
            self.notes.say(&format!("{error}; trying again in {:.1} s", delay.as_secs_f64()));
            tokio::time::sleep(delay).await;
        }
    }

    async fn once(&self, path: &str, request: reqwest::RequestBuilder) -> Result<Bytes, Error> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let retry_after = header(response.headers(), RETRY_AFTER.as_str())
            .and_then(|text| retry::retry_after(text, Utc::now()));
        let zipped = header(response.headers(), CONTENT_ENCODING.as_str()) == Some("gzip");
        let body = self.body(path, response).await?;
        let body = if zipped { unzip(path, &body)? } else { body };
        if status.is_success() {
            return Ok(body);
        }
        Err(Error::Status { path: path.to_owned(), status, message: message(&body), retry_after })
    }

    async fn body(&self, path: &str, mut response: reqwest::Response) -> Result<Bytes, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(too_large(path));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        let address = self.settings.address.clone();
        // The address with the whole query would hide the reason.
        let source = error.without_url();
        if source.is_connect() {
            Error::Connect { address, source }
        } else {
            Error::Broken { address, source }
        }
    }
}

fn too_large(path: &str) -> Error {
    let reason =
        format!("the answer is larger than {ANSWER_BYTES_MAX} bytes; ask for less, or use a smaller --batch");
    Error::Answer { path: path.to_owned(), reason }
}

fn unzip(path: &str, body: &[u8]) -> Result<Bytes, Error> {
    let mut plain = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(body).take(ANSWER_BYTES_MAX as u64 + 1);
    reader.read_to_end(&mut plain).map_err(|error| Error::Answer {
        path: path.to_owned(),
        reason: format!("the answer is not gzip, although it says so: {error}"),
    })?;
    if plain.len() > ANSWER_BYTES_MAX {
        return Err(too_large(path));
    }
    Ok(plain.into())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What an error's body says: plain text, or JSON with a message.
pub(crate) fn message(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let inside = json.as_ref().and_then(|json| {
        ["message", "error"].iter().find_map(|key| json.get(key).and_then(|text| text.as_str()))
    });
    let text = inside.map_or_else(|| String::from_utf8_lossy(body).trim().to_owned(), str::to_owned);
    if text.is_empty() {
        return "(no reason given)".into();
    }
    match text.char_indices().find(|(at, _)| *at >= MESSAGE_BYTES_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::response::IntoResponse as _;
    use axum::routing::get;

    use super::*;
    use crate::connection::Connection;

    async fn serve(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/prefix/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    fn client(address: String, retries: u32) -> Client {
        let args = Connection {
            addr: Some(address),
            retries,
            compress: true,
            quiet: true,
            timeout: Duration::from_secs(60),
            ..Connection::default()
        };
        Client::new(args.settings(|_| None).unwrap(), Notes::new(true)).unwrap()
    }

    /// Answers each status in turn, then 200.
    fn turns(statuses: &'static [u16]) -> (Router, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = calls.clone();
        let handler = get(move || async move {
            let turn = seen.fetch_add(1, Ordering::SeqCst);
            match statuses.get(turn) {
                Some(status) => {
                    let status = StatusCode::from_u16(*status).unwrap();
                    (status, [("Retry-After", "0")], "not now\n").into_response()
                }
                None => "done".into_response(),
            }
        });
        (Router::new().route("/prefix/x", handler), calls)
    }

    #[tokio::test]
    async fn temporary_refusals_are_tried_again() {
        let (router, calls) = turns(&[429, 503, 500]);
        let answer = client(serve(router).await, 3).get("/x", &[]).await.unwrap();
        assert_eq!((&answer[..], calls.load(Ordering::SeqCst)), (&b"done"[..], 4));
    }

    #[tokio::test]
    async fn patience_ends_and_the_servers_words_are_kept() {
        let (router, calls) = turns(&[429, 429, 429]);
        let error = client(serve(router).await, 1).get("/x", &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "/x: the server answered 429 Too Many Requests: not now");
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_refusal_for_good_is_not_tried_again() {
        let (router, calls) = turns(&[400]);
        let error = client(serve(router).await, 3).get("/x", &[]).await.unwrap_err();
        assert_eq!((error.status(), calls.load(Ordering::SeqCst)), (Some(StatusCode::BAD_REQUEST), 1));
    }

    #[tokio::test]
    async fn zipped_answers_are_unpacked() {
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut zip, b"plain").unwrap();
        let body = zip.finish().unwrap();
        let handler = get(move || async move { ([("Content-Encoding", "gzip")], body) });
        let answer = client(serve(Router::new().route("/prefix/x", handler)).await, 0).get("/x", &[]).await;
        assert_eq!(&answer.unwrap()[..], b"plain");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        let error = client("http://127.0.0.1:1".into(), 3).get("/x", &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "failed to connect to http://127.0.0.1:1/");
    }

    #[test]
    fn messages_are_taken_out_of_json_and_kept_short() {
        assert_eq!(message(b"parse error\n"), "parse error");
        assert_eq!(message(br#"{"message":"no","x":1}"#), "no");
        assert_eq!(message(b""), "(no reason given)");
        assert!(message("ä".repeat(5000).as_bytes()).len() < 2010);
    }
}
