//! The side that connects.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Pem, TlsError, provider, system_roots};
use crate::Tasks;
use crate::reload::{Reloaded, Source};

/// TLS of the calls to other processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientTlsConfig {
    /// Whether calls are made over TLS at all.
    pub tls_enabled: bool,
    /// The certificate to show and those between it and the authority, in PEM form.
    pub tls_cert_path: PathBuf,
    /// The secret key of the certificate, in PEM form.
    pub tls_key_path: PathBuf,
    /// Whom to trust, in PEM form; those whom the system trusts if it is not set.
    pub tls_ca_path: PathBuf,
    /// The name that certificates must have; the host that is called if it is not set.
    pub tls_server_name: String,
    /// Whether any certificate is taken.
    pub tls_insecure_skip_verify: bool,
}

impl ClientTlsConfig {
    /// Says what is wrong with the section without looking at its files.
    ///
    /// # Errors
    /// When a key is missing, or is no name.
    pub fn validate(&self, section: &str) -> Result<(), TlsError> {
        if !self.tls_enabled {
            return Ok(());
        }
        self.server_name(section)?;
        let (certificate, key) = (&self.tls_cert_path, &self.tls_key_path);
        let missing = match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
            (true, false) => "tls_cert_path",
            (false, true) => "tls_key_path",
            _ => return Ok(()),
        };
        Err(TlsError(format!("{section}.{missing} is not set; a certificate and its key go together")))
    }

    fn server_name(&self, section: &str) -> Result<Option<ServerName<'static>>, TlsError> {
        let name = &self.tls_server_name;
        if name.is_empty() {
            return Ok(None);
        }
        let parsed = ServerName::try_from(name.clone());
        parsed.map(Some).map_err(|_| TlsError(format!("{section}.tls_server_name: {name:?} is not a name")))
    }
}

/// TLS to other processes, as its files have it.
#[derive(Clone)]
pub struct ClientTls {
    files: Arc<Reloaded<Files>>,
    server_name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Reads the files of `section` for the first time; `None` while TLS is off.
    ///
    /// # Errors
    /// When the section is wrong, or a file.
    pub fn load(section: &'static str, config: &ClientTlsConfig) -> Result<Option<Self>, TlsError> {
        config.validate(section)?;
        if !config.tls_enabled {
            return Ok(None);
        }
        let server_name = config.server_name(section)?;
        let files = Arc::new(Reloaded::load(Files { section, config: config.clone() })?);
        Ok(Some(Self { files, server_name }))
    }

    /// Reads the files again when they have changed, as long as `tasks` live.
    pub fn watch(&self, tasks: &Tasks, period: Duration) {
        self.files.clone().watch(tasks, period);
    }

    /// The handshake with `host` over a connection to it. The caller sets the deadline.
    ///
    /// # Errors
    /// When the other side is not who it should be, or does not take us.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                ServerName::try_from(host).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?
            }
        };
        TlsConnector::from(self.files.current()).connect(name, stream).await
    }
}

struct Files {
    section: &'static str,
    config: ClientTlsConfig,
}

#[derive(PartialEq)]
struct Contents {
    authority: Option<Pem>,
    identity: Option<(Pem, Pem)>,
}

impl Source for Files {
    type Files = Contents;
    type Made = ClientConfig;
    type Error = TlsError;

    fn setting(&self) -> &str {
        self.section
    }

    fn summary(&self, _: &ClientConfig) -> String {
        "certificates".to_owned()
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let read = |key: &str, file: &PathBuf| match file.as_os_str().is_empty() {
            true => Ok(None),
            false => Pem::read(&format!("{}.{key}", self.section), file).map(Some),
        };
        let certificate = read("tls_cert_path", &self.config.tls_cert_path)?;
        let key = read("tls_key_path", &self.config.tls_key_path)?;
        Ok(Contents {
            authority: read("tls_ca_path", &self.config.tls_ca_path)?,
            identity: certificate.zip(key),
        })
    }

    fn make(&self, files: &Contents) -> Result<ClientConfig, TlsError> {
        let trust = match &files.authority {
            _ if self.config.tls_insecure_skip_verify => Trust::Anybody,
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                authority.add_to(&mut roots)?;
                Trust::SignedBy(roots)
            }
            None => Trust::SignedBy(system_roots()),
        };
        let identity = files.identity.as_ref().map(|(certificate, key)| Identity::new(certificate, key));
        let mut config = client_config(trust, identity.transpose()?)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// Which servers are believed to be who they say.
pub enum Trust {
    /// All.
    Anybody,
    /// Those with a certificate for their name that one of these signed.
    SignedBy(RootCertStore),
}

/// What a client shows of itself.
pub struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Takes it from two files.
    ///
    /// # Errors
    /// When one of them is not what it should be.
    pub fn new(certificate: &Pem, key: &Pem) -> Result<Self, TlsError> {
        Ok(Self { certificates: certificate.certificates()?, key: key.private_key()? })
    }
}

/// A client's side of TLS.
///
/// # Errors
/// When key and certificate do not go together.
pub fn client_config(trust: Trust, identity: Option<Identity>) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError(format!("no version of TLS can be used: {e}")))?;
    let builder = match trust {
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        Trust::SignedBy(roots) => builder.with_root_certificates(roots),
    };
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(Identity { certificates, key }) => builder
            .with_client_auth_cert(certificates, key)
            .map_err(|e| TlsError(format!("the client's certificate and its key do not go together: {e}"))),
    }
}

/// Looks at no certificate. Signatures are still checked, so that the handshake means something.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
