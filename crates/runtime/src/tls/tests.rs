//! Goal: who gets in and who does not. Method: the server shell with certificates made here, and clients over TCP.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use prometheus::Registry;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::DropGuard;

use super::authority::{Authority, Signed};
use super::*;
use crate::http::{ConnectionLimits, Server, ServerMetrics};
use crate::{CancellationToken, Tasks};

const ENCRYPTED_KEY: &str =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
const SECTION: &str = "server.http_tls_config";

/// An authority with the files of one server.
struct Place {
    dir: TempDir,
    authority: Authority,
    config: ServerTlsConfig,
}

impl Place {
    fn new() -> Self {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("own"));
        let (cert_file, key_file) = authority.sign().write(dir.path(), "server");
        let config = ServerTlsConfig { cert_file, key_file, ..ServerTlsConfig::default() };
        Self { dir, authority, config }
    }

    /// Clients must show what the authority has signed.
    fn mutual(mut self, client_auth_type: ClientAuth) -> Self {
        self.config.client_ca_file = self.authority.write(self.dir.path(), "clients.pem");
        self.config.client_auth_type = client_auth_type;
        self
    }

    fn load(&self, policy: &TlsPolicy) -> Result<ServerTls, TlsError> {
        ServerTls::load(SECTION, &self.config, policy).map(Option::unwrap)
    }

    #[track_caller]
    fn check_error(&self, parts: &[&str]) {
        let error = self.load(&TlsPolicy::default()).err().unwrap().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }

    async fn serve(&self) -> Running {
        serve(self.load(&TlsPolicy::default()).unwrap(), ConnectionLimits::default()).await
    }

    /// A client that trusts the authority and shows `identity`.
    fn client(&self, identity: Option<&Signed>) -> Arc<rustls::ClientConfig> {
        client(&self.authority, self.dir.path(), identity)
    }
}

fn client(authority: &Authority, dir: &Path, identity: Option<&Signed>) -> Arc<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    Pem::read("ca", &authority.write(dir, "trusted.pem")).unwrap().add_to(&mut roots).unwrap();
    let identity = identity.map(|signed| {
        let (certificate, key) = signed.write(dir, "client");
        Identity::new(&Pem::read("cert", &certificate).unwrap(), &Pem::read("key", &key).unwrap()).unwrap()
    });
    Arc::new(client_config(Trust::SignedBy(roots), identity).unwrap())
}

struct Running {
    address: SocketAddr,
    failed: Box<dyn Fn() -> u64>,
    _stop: DropGuard,
}

async fn serve(tls: ServerTls, limits: ConnectionLimits) -> Running {
    let server = Server::bind("http", "127.0.0.1", 0, "--listen").await.unwrap().with_tls(Some(tls));
    let (address, stop) = (server.address(), CancellationToken::new());
    let registry = Registry::new();
    let metrics = ServerMetrics::new(&registry).unwrap();
    let router = Router::new().route("/", get(|| async { "fine" }));
    tokio::spawn(server.serve(router, limits, metrics, stop.clone(), Duration::from_secs(5)));
    let failed = move || {
        let all = registry.gather();
        let family = all.iter().find(|f| f.name() == "skald_tls_handshakes_failed_total").unwrap();
        family.get_metric()[0].get_counter().get_value() as u64
    };
    Running { address, failed: Box::new(failed), _stop: stop.drop_guard() }
}

async fn connect(
    address: SocketAddr,
    config: &Arc<rustls::ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config.clone()).connect(ServerName::from(address.ip()), stream).await
}

/// The answer to a request; with TLS 1.3 a server refuses a client only after the client's side of the handshake.
async fn ask(address: SocketAddr, config: &Arc<rustls::ClientConfig>) -> std::io::Result<String> {
    let mut stream = connect(address, config).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[track_caller]
fn is_fine(answer: &std::io::Result<String>) {
    assert!(
        matches!(answer, Ok(text) if text.starts_with("HTTP/1.1 200") && text.ends_with("fine")),
        "{answer:?}"
    );
}

#[track_caller]
fn is_refused(answer: &std::io::Result<String>, reason: &str) {
    let error = answer.as_ref().expect_err("was let in").to_string();
    assert!(error.contains(reason), "{reason:?} is not in {error:?}");
}

#[tokio::test]
async fn requests_are_answered_over_tls() {
    let place = Place::new();
    let running = place.serve().await;
    is_fine(&ask(running.address, &place.client(None)).await);
    let anybody = Arc::new(client_config(Trust::Anybody, None).unwrap());
    is_fine(&ask(running.address, &anybody).await);
}

#[tokio::test]
async fn both_kinds_of_http_are_offered() {
    let place = Place::new();
    let running = place.serve().await;
    for protocol in ["h2", "http/1.1"] {
        let mut config = (*place.client(None)).clone();
        config.alpn_protocols = vec![protocol.into()];
        let stream = connect(running.address, &Arc::new(config)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
    }
}

#[tokio::test]
async fn plain_http_is_told_what_it_met() {
    let running = Place::new().serve().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("use https://"), "{answer}");
    assert_eq!((running.failed)(), 1);
}

#[tokio::test]
async fn clients_refuse_strangers_and_what_has_expired() {
    let mut place = Place::new();
    let running = place.serve().await;
    let stranger = client(&Authority::new("other"), place.dir.path(), None);
    is_refused(&ask(running.address, &stranger).await, "UnknownIssuer");
    let (cert_file, key_file) = place.authority.sign_expired().write(place.dir.path(), "old");
    place.config = ServerTlsConfig { cert_file, key_file, ..place.config };
    let running = place.serve().await;
    is_refused(&ask(running.address, &place.client(None)).await, "expired");
}

#[tokio::test]
async fn only_clients_of_the_authority_get_in() {
    let place = Place::new().mutual(ClientAuth::RequireAndVerifyClientCert);
    let running = place.serve().await;
    is_fine(&ask(running.address, &place.client(Some(&place.authority.sign()))).await);
    is_refused(&ask(running.address, &place.client(None)).await, "CertificateRequired");
    let foreign = Authority::new("other").sign();
    is_refused(&ask(running.address, &place.client(Some(&foreign))).await, "UnknownCA");
    let expired = place.authority.sign_expired();
    is_refused(&ask(running.address, &place.client(Some(&expired))).await, "CertificateExpired");
    assert_eq!((running.failed)(), 3);
}

#[tokio::test]
async fn a_certificate_may_be_optional_but_not_wrong() {
    let place = Place::new().mutual(ClientAuth::VerifyClientCertIfGiven);
    let running = place.serve().await;
    is_fine(&ask(running.address, &place.client(None)).await);
    let foreign = Authority::new("other").sign();
    is_refused(&ask(running.address, &place.client(Some(&foreign))).await, "UnknownCA");
}

#[tokio::test]
async fn slow_handshakes_do_not_hold_up_others_and_end() {
    /// The head of a record that never comes.
    const HEAD: [u8; 3] = [22, 3, 1];
    let place = Place::new();
    let running = place.serve().await;
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(&HEAD).await.unwrap();
    is_fine(&ask(running.address, &place.client(None)).await);

    let limits = ConnectionLimits { handshake: Duration::from_millis(20), ..ConnectionLimits::default() };
    let running = serve(place.load(&TlsPolicy::default()).unwrap(), limits).await;
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(&HEAD).await.unwrap();
    assert_eq!(slow.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!((running.failed)(), 1);
}

#[tokio::test]
async fn those_who_are_silent_after_the_handshake_are_dropped() {
    let place = Place::new();
    let limits = ConnectionLimits { first_byte: Duration::from_millis(500), ..ConnectionLimits::default() };
    let running = serve(place.load(&TlsPolicy::default()).unwrap(), limits).await;
    let mut silent = connect(running.address, &place.client(None)).await.unwrap();
    let ended = silent.read(&mut [0; 1]).await;
    assert!(!matches!(ended, Ok(1)), "{ended:?}");
}

#[tokio::test]
async fn new_files_count_and_wrong_ones_do_not() {
    let place = Place::new();
    let tls = place.load(&TlsPolicy::default()).unwrap();
    let tasks = Tasks::new();
    tls.watch(&tasks, Duration::from_millis(10));
    let running = serve(tls, ConnectionLimits::default()).await;
    let (old, other) = (place.client(None), Authority::new("other"));

    std::fs::write(&place.config.cert_file, "nothing").unwrap();
    let next = other.sign();
    // A key without its certificate, as in the moment between two writes.
    std::fs::write(&place.config.key_file, &next.key).unwrap();
    place.check_error(&["cert_file"]);
    is_fine(&ask(running.address, &old).await);

    std::fs::write(&place.config.cert_file, &next.certificate).unwrap();
    let new = client(&other, place.dir.path(), None);
    while ask(running.address, &new).await.is_err() {
        tokio::task::yield_now().await;
    }
    is_refused(&ask(running.address, &old).await, "UnknownIssuer");
    tasks.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn versions_and_ciphers_are_as_asked_for() {
    let place = Place::new();
    let policy = TlsPolicy {
        min_version: MinVersion::Tls12,
        cipher_suites: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".into(),
    };
    let running = serve(place.load(&policy).unwrap(), ConnectionLimits::default()).await;
    let mut roots = RootCertStore::empty();
    Pem::read("ca", &place.authority.write(place.dir.path(), "ca.pem")).unwrap().add_to(&mut roots).unwrap();
    let old = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    let stream = connect(running.address, &old).await.unwrap();
    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
    is_fine(&ask(running.address, &place.client(None)).await);

    let policy = TlsPolicy { min_version: MinVersion::Tls13, cipher_suites: String::new() };
    let running = serve(place.load(&policy).unwrap(), ConnectionLimits::default()).await;
    is_refused(&ask(running.address, &old).await, "ProtocolVersion");
    let unknown = TlsPolicy { cipher_suites: "TLS_RSA_WITH_RC4_128_SHA".into(), ..policy };
    let error = unknown.validate().unwrap_err().to_string();
    assert!(error.contains("server.tls_cipher_suites") && error.contains("AES_128_GCM"), "{error}");
}

#[test]
fn errors_name_the_key_and_the_file() {
    let mut place = Place::new();
    let other = place.authority.sign();
    std::fs::write(&place.config.key_file, &other.key).unwrap();
    place.check_error(&["server.http_tls_config.key_file", "server.key", "go together"]);
    std::fs::write(&place.config.key_file, ENCRYPTED_KEY).unwrap();
    place.check_error(&["server.http_tls_config.key_file", "server.key", "encrypted"]);
    std::fs::write(&place.config.cert_file, "").unwrap();
    place.check_error(&["server.http_tls_config.cert_file", "server.pem", "no certificate"]);
    place.config.cert_file = "/no/such.pem".into();
    place.check_error(&["server.http_tls_config.cert_file", "/no/such.pem"]);
    place.config.key_file = "".into();
    place.check_error(&["server.http_tls_config.key_file is not set"]);
    let off = ServerTls::load(SECTION, &ServerTlsConfig::default(), &TlsPolicy::default());
    assert!(matches!(off, Ok(None)));
}

#[test]
fn what_protects_nothing_is_refused() {
    let mut place = Place::new().mutual(ClientAuth::RequireAnyClientCert);
    place.check_error(&["client_auth_type", "RequireAnyClientCert", "nobody verifies"]);
    place.config.client_auth_type = ClientAuth::RequestClientCert;
    place.check_error(&["client_auth_type", "RequestClientCert", "nobody verifies"]);
    place.config.client_auth_type = ClientAuth::NoClientCert;
    place.check_error(&["client_auth_type", "lets everybody in"]);
    let mut place = Place::new();
    place.config.client_auth_type = ClientAuth::RequireAndVerifyClientCert;
    place.check_error(&["client_auth_type", "needs client_ca_file"]);
}

#[test]
fn a_client_needs_both_halves_of_its_identity() {
    let place = Place::new();
    let section = "ingester_client.grpc_client_config";
    let mut config = ClientTlsConfig {
        tls_enabled: true,
        tls_cert_path: place.config.cert_file.clone(),
        ..ClientTlsConfig::default()
    };
    let error = ClientTls::load(section, &config).unwrap_err().to_string();
    assert!(error.contains("ingester_client.grpc_client_config.tls_key_path is not set"), "{error}");
    config.tls_key_path = place.config.key_file.clone();
    config.tls_ca_path = place.dir.path().join("no.pem");
    let error = ClientTls::load(section, &config).unwrap_err().to_string();
    assert!(error.contains("tls_ca_path") && error.contains("no.pem"), "{error}");
    config.tls_server_name = "not a name".into();
    let error = ClientTls::load(section, &config).unwrap_err().to_string();
    assert!(error.contains("tls_server_name"), "{error}");
    config.tls_enabled = false;
    assert!(matches!(ClientTls::load(section, &config), Ok(None)));
}
