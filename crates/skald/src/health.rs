//! `skald health`: asks a server whether it is ready, for containers without a shell.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use skald_client::TlsFlags;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Ends well if `url` answers 200.
pub(crate) fn check(url: &str, tls: &TlsFlags) -> Result<()> {
    let (rest, port, is_tls) = match url.split_once("://") {
        Some(("http", rest)) => (rest, 80, false),
        Some(("https", rest)) => (rest, 443, true),
        _ => bail!("{url} does not begin with http:// or https://"),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, "ready"));
    let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:{port}") };
    let address = with_port.to_socket_addrs().with_context(|| format!("{host} is not an address"))?.next();
    let address = address.with_context(|| format!("{host} has no address"))?;
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("nobody listens on {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let answer = match is_tls {
        false => ask(stream, host, path),
        true => ask(over_tls(stream, &with_port, tls)?, host, path),
    };
    let answer = answer.with_context(|| format!("{url} did not answer"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(()),
        _ => bail!("{url} answered: {} {}", head.lines().next().unwrap_or("nothing"), body.trim()),
    }
}

fn ask(mut stream: impl Read + Write, host: &str, path: &str) -> std::io::Result<String> {
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer)?;
    Ok(answer)
}

fn over_tls(
    stream: TcpStream,
    host_and_port: &str,
    flags: &TlsFlags,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let config = flags.config(|name| std::env::var(name).ok())?;
    let host = host_and_port.rsplit_once(':').map_or(host_and_port, |(host, _)| host);
    let name = ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']').to_owned())
        .with_context(|| format!("{host} is not the name of a server"))?;
    Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, stream))
}
