//! The side that is connected to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Pem, TlsError, TlsPolicy};
use crate::Tasks;
use crate::reload::{Reloaded, Source};

/// The first byte of every TLS connection: a handshake record.
const HANDSHAKE: u8 = 22;
/// Both kinds of HTTP. Clients of HTTP/2, gRPC among them, are told so in the handshake.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What clients of plain HTTP/1 are told.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    connection: close\r\n\r\nthis port speaks TLS only; use https://\n";
/// How HTTP/2 begins, gRPC included.
const HTTP2: &[u8] = b"PRI ";
/// What clients of plain HTTP/2 are told: an empty frame of settings, then GOAWAY with `INADEQUATE_SECURITY`.
const PLAIN_HTTP2_ANSWER: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0c";

/// Certificates of a server. Off while no file is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerTlsConfig {
    /// The certificate and those between it and the authority, in PEM form.
    pub cert_file: PathBuf,
    /// The secret key of the certificate, in PEM form.
    pub key_file: PathBuf,
    /// What clients must show.
    pub client_auth_type: ClientAuth,
    /// Who signs the certificates of clients, in PEM form.
    pub client_ca_file: PathBuf,
}

/// What clients must show, by Go's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientAuth {
    /// Nothing.
    #[default]
    #[serde(alias = "")]
    NoClientCert,
    /// Any certificate or none, unseen: refused, because nothing comes of it.
    RequestClientCert,
    /// Any certificate, unseen: refused, because everybody can make one.
    RequireAnyClientCert,
    /// Nothing, or a certificate that the authority signed.
    VerifyClientCertIfGiven,
    /// A certificate that the authority signed.
    RequireAndVerifyClientCert,
}

impl ServerTlsConfig {
    /// Whether there is TLS at all.
    pub fn is_on(&self) -> bool {
        *self != Self::default()
    }

    /// Whether only clients with a certificate get in.
    pub fn requires_certificates(&self) -> bool {
        self.client_auth_type == ClientAuth::RequireAndVerifyClientCert
    }

    /// Says what is wrong with the section without looking at its files.
    ///
    /// # Errors
    /// When a key is missing, or contradicts another.
    pub fn validate(&self, section: &str) -> Result<(), TlsError> {
        let Self { cert_file, key_file, client_auth_type, client_ca_file } = self;
        if !self.is_on() {
            return Ok(());
        }
        for (key, file) in [("cert_file", cert_file), ("key_file", key_file)] {
            if file.as_os_str().is_empty() {
                return Err(TlsError(format!(
                    "{section}.{key} is not set; TLS needs a certificate and its key"
                )));
            }
        }
        let has_authority = !client_ca_file.as_os_str().is_empty();
        let reason = match client_auth_type {
            ClientAuth::RequestClientCert | ClientAuth::RequireAnyClientCert => {
                "asks for certificates that nobody verifies; use VerifyClientCertIfGiven or RequireAndVerifyClientCert"
            }
            ClientAuth::NoClientCert if has_authority => {
                "lets everybody in although client_ca_file is set; use RequireAndVerifyClientCert, or remove client_ca_file"
            }
            ClientAuth::VerifyClientCertIfGiven | ClientAuth::RequireAndVerifyClientCert
                if !has_authority =>
            {
                "needs client_ca_file, the authority that signs the certificates of clients"
            }
            _ => return Ok(()),
        };
        Err(TlsError(format!("{section}.client_auth_type: {client_auth_type:?} {reason}")))
    }
}

/// The certificates of a server, as its files have them.
pub struct ServerTls(Arc<Reloaded<Files>>);

impl ServerTls {
    /// Reads the files of `section` for the first time; `None` while TLS is off.
    ///
    /// # Errors
    /// When the section is wrong, or a file.
    pub fn load(
        section: &'static str,
        config: &ServerTlsConfig,
        policy: &TlsPolicy,
    ) -> Result<Option<Self>, TlsError> {
        config.validate(section)?;
        if !config.is_on() {
            return Ok(None);
        }
        let source = Files { section, config: config.clone(), policy: policy.clone() };
        Ok(Some(Self(Arc::new(Reloaded::load(source)?))))
    }

    /// Reads the files again when they have changed, as long as `tasks` live.
    pub fn watch(&self, tasks: &Tasks, period: Duration) {
        self.0.clone().watch(tasks, period);
    }

    /// The handshake over a connection that begins with the byte `first`. The caller sets the deadline.
    pub(crate) async fn accept(
        &self,
        mut stream: TcpStream,
        first: u8,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        if first != HANDSHAKE {
            // What is not read before the end makes TCP drop the answer.
            let mut begin = [0; 4096];
            let read = stream.read(&mut begin).await?;
            let answer = if begin[..read].starts_with(HTTP2) { PLAIN_HTTP2_ANSWER } else { PLAIN_ANSWER };
            stream.write_all(answer).await?;
            stream.shutdown().await?;
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "the client does not speak TLS",
            ));
        }
        TlsAcceptor::from(self.0.current()).accept(stream).await
    }
}

struct Files {
    section: &'static str,
    config: ServerTlsConfig,
    policy: TlsPolicy,
}

#[derive(PartialEq)]
struct Contents {
    certificate: Pem,
    key: Pem,
    authority: Option<Pem>,
}

impl Source for Files {
    type Files = Contents;
    type Made = ServerConfig;
    type Error = TlsError;

    fn setting(&self) -> &str {
        self.section
    }

    fn summary(&self, _: &ServerConfig) -> String {
        "certificates".to_owned()
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let ServerTlsConfig { cert_file, key_file, client_auth_type: _, client_ca_file } = &self.config;
        let read = |key: &str, file| Pem::read(&format!("{}.{key}", self.section), file);
        let authority = match client_ca_file.as_os_str().is_empty() {
            true => None,
            false => Some(read("client_ca_file", client_ca_file)?),
        };
        Ok(Contents {
            certificate: read("cert_file", cert_file)?,
            key: read("key_file", key_file)?,
            authority,
        })
    }

    fn make(&self, files: &Contents) -> Result<ServerConfig, TlsError> {
        let Contents { certificate, key, authority } = files;
        let wrong = |e: &dyn std::fmt::Display| TlsError(format!("{}: {e}", self.section));
        let provider = self.policy.provider()?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(self.policy.min_version.versions())
            .map_err(|e| wrong(&e))?;
        let builder = match authority {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                authority.add_to(&mut roots)?;
                let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                if !self.config.requires_certificates() {
                    verifier = verifier.allow_unauthenticated();
                }
                builder.with_client_cert_verifier(verifier.build().map_err(|e| wrong(&e))?)
            }
        };
        let mut config =
            builder.with_single_cert(certificate.certificates()?, key.private_key()?).map_err(|e| {
                key.wrong(&format!("the key and the certificate of cert_file do not go together: {e}"))
            })?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(config)
    }
}
