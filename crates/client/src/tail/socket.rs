//! A WebSocket to the server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use chrono::Utc;
use futures::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use http::header::{RETRY_AFTER, USER_AGENT};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use url::Url;

use crate::http::{Client, message};
use crate::retry;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// After this long without a word from the server it is asked for a sign of life, and after twice as long it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How a connection ended, or did not begin, although another try may go well.
#[derive(Debug)]
pub(super) struct End {
    reason: String,
    /// How long the server wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// Whether there is no reason to wait: the server ended a connection that was fine.
    pub(super) at_once: bool,
}

impl End {
    /// For this reason.
    pub(super) fn new(reason: String) -> Self {
        Self { reason, retry_after: None, at_once: false }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

trait Bytestream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytestream for T {}

/// An open connection.
pub(super) struct Socket {
    stream: WebSocketStream<Box<dyn Bytestream>>,
}

impl Socket {
    /// Connects. The outer error is for good: the server refuses the request.
    pub(super) async fn open(
        client: &Client,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<Result<Self, End>> {
        let mut url = client.url(path);
        url.query_pairs_mut().extend_pairs(parameters);
        let end = |reason: String| Ok(Err(End::new(reason)));
        let bytes = match timeout(CONNECT_TIMEOUT, connect(client, &url)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return end(format!("failed to connect to {}: {error:#}", origin(&url))),
            Err(_) => {
                return end(format!("failed to connect to {} within {CONNECT_TIMEOUT:?}", origin(&url)));
            }
        };
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        let address = url.as_str().replacen(url.scheme(), scheme, 1);
        let mut request = address.into_client_request().context("no request can be made of the address")?;
        request.headers_mut().extend(client.headers().clone());
        let agent = HeaderValue::from_static(concat!("skald/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        let handshake = tokio_tungstenite::client_async(request, bytes);
        match timeout(CONNECT_TIMEOUT, handshake).await {
            Ok(Ok((stream, _))) => Ok(Ok(Self { stream })),
            Ok(Err(tungstenite::Error::Http(response))) => {
                let status = response.status();
                let text = message(response.body().as_deref().unwrap_or_default());
                let reason = format!("{path}: the server answered {status}: {text}");
                if !retry::is_temporary(status) {
                    anyhow::bail!(reason);
                }
                let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let retry_after = header.and_then(|text| retry::retry_after(text, Utc::now()));
                Ok(Err(End { retry_after, ..End::new(reason) }))
            }
            Ok(Err(error)) => end(format!("{}: no WebSocket: {error}", origin(&url))),
            Err(_) => end(format!("{} did not open the WebSocket within {CONNECT_TIMEOUT:?}", origin(&url))),
        }
    }

    /// The next message.
    pub(super) async fn next(&mut self) -> Result<Bytes, End> {
        let mut asked = false;
        loop {
            let message = match timeout(SILENCE_MAX, self.stream.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(End::new(format!("the connection broke: {error}"))),
                Ok(None) => return Err(End::new("the connection ended".into())),
                Err(_) if asked => return Err(End::new("the server is silent".into())),
                Err(_) => {
                    asked = true;
                    if let Err(error) = self.stream.send(Message::Ping(Bytes::new())).await {
                        return Err(End::new(format!("the connection broke: {error}")));
                    }
                    continue;
                }
            };
            match message {
                Message::Text(text) => return Ok(text.into()),
                Message::Binary(bytes) => return Ok(bytes),
                Message::Close(frame) => return Err(closed(frame)),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => asked = false,
            }
        }
    }
}

fn closed(frame: Option<CloseFrame>) -> End {
    match frame {
        Some(CloseFrame { code: CloseCode::Normal | CloseCode::Away, reason }) => {
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            End { at_once: true, ..End::new(format!("the server closed the connection{why}")) }
        }
        Some(CloseFrame { code, reason }) => {
            End::new(format!("the server closed the connection with code {code}: {reason}"))
        }
        None => End::new("the server closed the connection".into()),
    }
}

async fn connect(client: &Client, url: &Url) -> Result<Box<dyn Bytestream>> {
    let host = url.host_str().context("the address has no host")?;
    let port = url.port_or_known_default().context("the address has no port")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((bare, port)).await?;
    tcp.set_nodelay(true)?;
    if url.scheme() != "https" {
        return Ok(Box::new(tcp));
    }
    let name = ServerName::try_from(bare.to_owned()).context("the host cannot be in a certificate")?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client.tls().clone()));
    Ok(Box::new(connector.connect(name, tcp).await?))
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}
