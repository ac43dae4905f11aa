//! A server that speaks TLS, and the command line against it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../runtime/src/tls/authority.rs"]
mod authority;
mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Output, Stdio};

use authority::Authority;
use support::{Server, failure, push_of_one_line, run, skald};

/// A server of its own process over `dir`, with `settings`.
fn start(dir: &Path, settings: &[String]) -> Server {
    let mut command = skald(&["serve", "--listen", "127.0.0.1:0", "--set", "server.tls_reload_period=20ms"]);
    command.arg("--data").arg(dir.join("data"));
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut server = Server::over(command.stderr(Stdio::piped()).spawn().unwrap());
    server.await_line("msg=\"ready\"");
    server
}

/// `section.cert_file=…` and `section.key_file=…` for a new certificate.
fn certificate(authority: &Authority, dir: &Path, section: &str) -> Vec<String> {
    let (certificate, key) = authority.sign().write(dir, "server");
    let set = |name: &str, path: &Path| format!("{section}.{name}={}", path.display());
    vec![set("cert_file", &certificate), set("key_file", &key)]
}

/// Runs a command against the server with flags about TLS.
fn client(server: &Server, command: &[&str], tls: &[&str]) -> Output {
    let url = format!("https://{}", server.address());
    let target = if command[0] == "health" { "--url" } else { "--addr" };
    run(&[command, &[target, &url], tls].concat())
}

#[track_caller]
fn check_refused(output: &Output, reason: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains(reason), "{output:?}");
}

#[test]
fn logs_are_pushed_and_queried_over_tls() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("own"));
    let ca = authority.write(dir.path(), "ca.pem");
    let trust = ["--ca-cert", ca.to_str().unwrap()];
    let mut server = start(dir.path(), &certificate(&authority, dir.path(), "server.http_tls_config"));
    assert!(server.await_line("msg=\"listening\"").contains("tls=true"), "{}", server.log());
    assert!(client(&server, &["health"], &trust).status.success());
    check_refused(&client(&server, &["health"], &[]), "UnknownIssuer");

    let file = dir.path().join("lines.txt");
    std::fs::write(&file, "over tls\n").unwrap();
    let push = ["push", "--label", "app=test", file.to_str().unwrap()];
    let pushed = client(&server, &push, &trust);
    assert!(pushed.status.success(), "{pushed:?}");
    let query = ["query", "{app=\"test\"}", "--retries", "0", "-o", "raw"];
    let found = client(&server, &query, &trust);
    assert_eq!(String::from_utf8_lossy(&found.stdout), "over tls\n", "{found:?}");
    assert!(client(&server, &query, &["--tls-skip-verify"]).status.success());
    let other = Authority::new("other").write(dir.path(), "other.pem");
    check_refused(&client(&server, &query, &["--ca-cert", other.to_str().unwrap()]), "UnknownIssuer");

    let mut plain = TcpStream::connect(server.address()).unwrap();
    plain.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("TLS"), "{answer}");
    assert!(server.terminate().0.success());
}

#[test]
fn who_has_no_certificate_stays_out_and_new_files_count() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("own"));
    let ca = authority.write(dir.path(), "ca.pem");
    let mut settings = certificate(&authority, dir.path(), "server.http_tls_config");
    settings.push("server.http_tls_config.client_auth_type=RequireAndVerifyClientCert".into());
    settings.push(format!("server.http_tls_config.client_ca_file={}", ca.display()));
    let mut server = start(dir.path(), &settings);
    let (cert, key) = authority.sign().write(dir.path(), "client");
    let trust = ["--ca-cert", ca.to_str().unwrap()];
    let known = [&trust[..], &["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()]].concat();
    let labels = ["labels", "--retries", "0"];
    assert!(client(&server, &labels, &known).status.success());
    assert!(client(&server, &["health"], &known).status.success());
    check_refused(&client(&server, &labels, &trust), "CertificateRequired");

    // Another authority signs the server from now on; that of the clients stays.
    let next = Authority::new("next");
    next.sign().write(dir.path(), "server");
    server.await_line("took up changed files");
    check_refused(&client(&server, &labels, &known), "UnknownIssuer");
    std::fs::write(dir.path().join("server.pem"), "broken").unwrap();
    server.await_line("changed files are not usable");
    next.write(dir.path(), "trusted.pem");
    let trust_next = dir.path().join("trusted.pem");
    let known = ["--ca-cert", trust_next.to_str().unwrap(), known[2], known[3], known[4], known[5]];
    assert!(client(&server, &labels, &known).status.success(), "the last good one counts");
}

#[test]
fn files_that_are_wrong_are_named_before_anything_starts() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("own"));
    let data = dir.path().join("data");
    let (certificate, _) = authority.sign().write(dir.path(), "server");
    let set = |key: &str, path: &Path| format!("server.http_tls_config.{key}={}", path.display());
    let (cert, key) = (set("cert_file", &certificate), set("key_file", &dir.path().join("no.key")));
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let error = failure(&[&serve[..], &["--set", &cert, "--set", &key]].concat());
    assert!(error.contains("server.http_tls_config.key_file") && error.contains("no.key"), "{error}");
    let error = failure(&[&serve[..], &["--set", &cert]].concat());
    assert!(error.contains("server.http_tls_config.key_file is not set"), "{error}");
    assert!(!data.exists());
}

#[test]
fn services_call_each_other_over_mutual_tls() {
    use skald_rpc::Distributor as _;
    use skald_rpc::grpc::{ClientConfig, Connection, DistributorClient};
    use skald_runtime::grpc::MessageLimits;
    use skald_runtime::tls::{ClientTls, ClientTlsConfig};

    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("own"));
    let ca = authority.write(dir.path(), "ca.pem");
    let mut settings = certificate(&authority, dir.path(), "server.grpc_tls_config");
    settings.push("server.grpc_tls_config.client_auth_type=RequireAndVerifyClientCert".into());
    settings.push(format!("server.grpc_tls_config.client_ca_file={}", ca.display()));
    settings.extend(["target=write".to_owned(), "server.grpc_listen_port=0".to_owned()]);
    let mut server = start(dir.path(), &settings);
    let peer = server.await_line("protocol=grpc").split("address=").nth(1).unwrap().to_owned();
    let (tls_cert_path, tls_key_path) = authority.sign().write(dir.path(), "client");
    let config = ClientTlsConfig {
        tls_enabled: true,
        tls_cert_path,
        tls_key_path,
        tls_ca_path: ca,
        ..Default::default()
    };
    let tls = ClientTls::load("ingester_client.grpc_client_config", &config).unwrap();

    let push = push_of_one_line();
    let tenant = skald_model::TenantId::new("fake").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connect =
            |tls| Connection::new(&peer, &ClientConfig::default(), MessageLimits::default(), tls).unwrap();
        DistributorClient::new(connect(tls.as_ref())).push(&tenant, push.clone()).await.unwrap();
        let error = DistributorClient::new(connect(None)).push(&tenant, push).await.unwrap_err();
        assert_eq!(error.kind, skald_model::Kind::Unavailable, "{error}");
    });
    drop(runtime);
    assert!(server.terminate().0.success());
}
