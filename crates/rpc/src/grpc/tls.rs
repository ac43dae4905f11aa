//! Connections to peers over TLS.

use std::io;

use hyper_util::rt::TokioIo;
use skald_runtime::tls::ClientTls;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// The channel of `endpoint`, whose address has the scheme `http`: tonic's own idea of TLS stays out of this, so that
/// there is one way to read certificates and one provider of cryptography. Its time to connect covers the handshake.
pub(super) fn channel(endpoint: Endpoint, origin: Uri, tls: ClientTls) -> Channel {
    // Requests do say `https`, for proxies that look.
    let endpoint = endpoint.origin(origin);
    endpoint.connect_with_connector_lazy(service_fn(move |uri: Uri| connect(uri, tls.clone())))
}

async fn connect(uri: Uri, tls: ClientTls) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, uri.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    let stream = tls.connect(bare, stream).await;
    stream.map(TokioIo::new).map_err(|e| io::Error::new(e.kind(), format!("TLS with {host}: {e}")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use async_trait::async_trait;
    use prometheus::Registry;
    use skald_model::{Kind, Push, Result, TenantId};
    use skald_runtime::grpc::MessageLimits;
    use skald_runtime::http::{ConnectionLimits, Server, ServerMetrics};
    use skald_runtime::tls::{ClientAuth, ClientTlsConfig, ServerTls, ServerTlsConfig, TlsPolicy};
    use skald_runtime::{CancellationToken, Tasks};
    use tokio_util::sync::DropGuard;

    use super::super::authority::{Authority, Signed};
    use super::super::{ClientConfig, Connection, DistributorClient, Services};
    use super::*;
    use crate::Distributor;

    const SECTION: &str = "ingester_client.grpc_client_config";

    struct Sink;

    #[async_trait]
    impl Distributor for Sink {
        async fn push(&self, _: &TenantId, _: Push) -> Result<()> {
            Ok(())
        }
    }

    /// Serves only clients that `authority` signed.
    async fn serve(authority: &Authority, dir: &Path) -> (String, DropGuard) {
        let (cert_file, key_file) = authority.sign().write(dir, "server");
        let config = ServerTlsConfig {
            cert_file,
            key_file,
            client_auth_type: ClientAuth::RequireAndVerifyClientCert,
            client_ca_file: authority.write(dir, "ca.pem"),
        };
        let tls = ServerTls::load("server.grpc_tls_config", &config, &TlsPolicy::default()).unwrap();
        let server = Server::bind("grpc", "127.0.0.1", 0, "x").await.unwrap().with_tls(tls);
        let peer = server.address().to_string();
        let services = Services { distributor: Some(Arc::new(Sink)), ..Services::default() };
        let router = skald_runtime::grpc::router(services.into_routes(MessageLimits::default()));
        let metrics = ServerMetrics::new(&Registry::new()).unwrap();
        let stop = CancellationToken::new();
        let limits = ConnectionLimits::default();
        tokio::spawn(server.serve(router, limits, metrics, stop.clone(), Duration::ZERO));
        (peer, stop.drop_guard())
    }

    fn config(authority: &Authority, dir: &Path, identity: &Signed) -> ClientTlsConfig {
        let (tls_cert_path, tls_key_path) = identity.write(dir, "client");
        ClientTlsConfig {
            tls_enabled: true,
            tls_cert_path,
            tls_key_path,
            tls_ca_path: authority.write(dir, "ca.pem"),
            ..ClientTlsConfig::default()
        }
    }

    async fn push(peer: &str, tls: Option<&ClientTls>) -> Result<()> {
        let connection = Connection::new(peer, &ClientConfig::default(), MessageLimits::default(), tls)?;
        DistributorClient::new(connection).push(&TenantId::new("a")?, Push::default()).await
    }

    async fn check_refused(peer: &str, config: &ClientTlsConfig, reason: &str) {
        let tls = ClientTls::load(SECTION, config).unwrap();
        let error = push(peer, tls.as_ref()).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable, "{error}");
        assert!(error.message.contains(peer) && error.message.contains(reason), "{error}");
    }

    #[tokio::test]
    async fn calls_go_through_when_both_sides_know_each_other() {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("own"));
        let (peer, _serving) = serve(&authority, dir.path()).await;
        let known = config(&authority, dir.path(), &authority.sign());
        push(&peer, ClientTls::load(SECTION, &known).unwrap().as_ref()).await.unwrap();
        let by_name = peer.replace("127.0.0.1", "localhost");
        push(&by_name, ClientTls::load(SECTION, &known).unwrap().as_ref()).await.unwrap();

        let wrong_name = ClientTlsConfig { tls_server_name: "ingester.example".into(), ..known.clone() };
        check_refused(&peer, &wrong_name, "ingester.example").await;
        let any_name = ClientTlsConfig { tls_insecure_skip_verify: true, ..wrong_name };
        push(&peer, ClientTls::load(SECTION, &any_name).unwrap().as_ref()).await.unwrap();
        let plain = push(&peer, None).await.unwrap_err();
        assert_eq!(plain.kind, Kind::Unavailable, "{plain}");
        let nobody = ClientTlsConfig { tls_cert_path: "".into(), tls_key_path: "".into(), ..known };
        check_refused(&peer, &nobody, "").await;
    }

    #[tokio::test]
    async fn servers_of_another_authority_are_refused() {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("own"));
        let (peer, _serving) = serve(&authority, dir.path()).await;
        let other = Authority::new("other");
        let stranger = tempfile::tempdir().unwrap();
        check_refused(&peer, &config(&other, stranger.path(), &authority.sign()), "UnknownIssuer").await;
    }

    #[tokio::test]
    async fn a_new_certificate_of_the_client_counts_at_the_next_connection() {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("own"));
        let (peer, _serving) = serve(&authority, dir.path()).await;
        let config = config(&authority, dir.path(), &Authority::new("other").sign());
        let tls = ClientTls::load(SECTION, &config).unwrap().unwrap();
        let tasks = Tasks::new();
        tls.watch(&tasks, Duration::from_millis(10));
        push(&peer, Some(&tls)).await.unwrap_err();
        authority.sign().write(dir.path(), "client");
        while push(&peer, Some(&tls)).await.is_err() {
            tokio::task::yield_now().await;
        }
        tasks.shutdown(Duration::from_secs(10)).await;
    }
}
