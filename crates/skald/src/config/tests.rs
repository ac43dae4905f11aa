//! Goal: files of real Loki installations start Skald, and mistakes are named. Method: fixtures for the former, one
//! line each for the latter.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn load_text(text: &str) -> Result<Loaded, Error> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("skald.yaml");
    std::fs::write(&file, text).unwrap();
    Config::load(&Sources { files: vec![file], ..Sources::default() })
}

fn load_fixture(name: &str) -> Loaded {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    Config::load(&Sources { files: vec![file], ..Sources::default() }).unwrap()
}

fn with_environment(variables: &[(&str, &str)]) -> Result<Config, Error> {
    let environment = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    Config::load(&Sources { environment, ..Sources::default() }).map(|l| l.config)
}

#[track_caller]
fn check_error(text: &str, parts: &[&str]) {
    let error = load_text(text).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn the_example_of_loki_starts() {
    let Loaded { config, unused, .. } = load_fixture("single-binary-filesystem.yaml");
    assert_eq!(config.common.storage.place(), "/tmp/loki/chunks");
    assert_eq!(config.ingester.wal.dir, PathBuf::from("/tmp/loki/wal"));
    assert_eq!(config.server.log_level, "debug");
    assert_eq!(config.server.http_listen_address, "127.0.0.1");
    let expected = [
        "analytics",
        "common.ring",
        "common.storage.filesystem.rules_directory",
        "frontend.encoding",
        "limits_config.enable_multi_variant_queries",
        "limits_config.metric_aggregation_enabled",
        "pattern_ingester.metric_aggregation",
        "query_range",
        "ruler",
        "schema_config",
    ];
    assert_eq!(unused, expected);
}

#[test]
fn a_compose_file_of_some_years_starts() {
    let Loaded { config, unused, .. } = load_fixture("docker-compose.yaml");
    assert_eq!(config.common.storage.place(), "/loki/chunks");
    assert_eq!(config.ingester.wal.dir, PathBuf::from("/loki/wal"));
    assert!(config.ingester.wal.flush_on_shutdown);
    assert_eq!(config.ingester.max_chunk_age, Duration::from_secs(3600));
    assert_eq!(config.server.grpc_server_max_recv_msg_size, 100 << 20);
    let limits = &config.limits_config.0;
    assert_eq!(limits.per_stream_rate_limit, 8 << 20);
    assert_eq!(limits.reject_old_samples_max_age, 168 * 3600 * 1_000_000_000);
    assert_eq!((limits.max_query_length, limits.ingestion_rate_mb), (0, 16.0));
    assert!(limits.retention_period > 0);
    assert!(unused.contains(&"ingester.lifecycler.ring".to_owned()));
}

#[test]
fn a_file_of_the_helm_chart_starts() {
    let Loaded { config, .. } = load_fixture("s3-simple-scalable.yaml");
    assert!(config.auth_enabled);
    let store = config.common.storage.store();
    let s3 = store.s3.unwrap();
    assert!(store.filesystem.is_none());
    assert_eq!((s3.bucketnames.as_str(), s3.endpoint.as_str()), ("chunks", "minio.loki.svc:9000"));
    // A number where text is expected is text.
    assert_eq!(s3.access_key_id, "123456");
    assert_eq!(config.limits_config.0.max_line_size, 512 << 10);
    assert_eq!(config.ingester.wal.dir, PathBuf::from("/var/loki/wal"));
    assert!(!config.to_yaml().contains("supersecret"));
}

#[test]
fn a_bucket_in_storage_config_is_found() {
    let Loaded { config, unused, .. } = load_fixture("aws-storage-config.yaml");
    let s3 = config.common.storage.store().s3.unwrap();
    assert_eq!((s3.bucketnames.as_str(), s3.region.as_str()), ("my-loki-bucket", "eu-central-1"));
    assert_eq!((s3.access_key_id.as_str(), s3.secret_access_key.reveal()), ("AKIA/X", "se+cret"));
    assert!(unused.contains(&"storage_config".to_owned()));
    let other = "schema_config: {configs: [{from: 2024-01-01, object_store: swift}]}";
    check_error(other, &["swift", "filesystem, s3, gcs or azure"]);
}

#[test]
fn without_a_file_everything_lies_below_data() {
    let Loaded { config, unused, file } = Config::load(&Sources::default()).unwrap();
    assert_eq!(config.common.storage.place(), "data/tables");
    assert_eq!(config.ingester.wal.dir, PathBuf::from("data/wal"));
    assert!(!config.auth_enabled && unused.is_empty() && file.is_none());
}

#[test]
fn unknown_keys_are_named_with_the_nearest_one() {
    check_error(
        "server: {http_listen_prt: 1}",
        &["server.http_listen_prt", "did you mean server.http_listen_port?"],
    );
    check_error("ingster: {wal: {}}", &["unknown key ingster", "did you mean ingester?"]);
    check_error("ingester: {wal: {dri: x}}", &["ingester.wal.dri", "ingester.wal.dir?"]);
    check_error("http_listen_port: 1", &["did you mean server.http_listen_port?"]);
    check_error("limits_config: {retention_perid: 1d}", &["limits_config.retention_period?"]);
    check_error("flubber: 1", &["unknown key flubber", "skald config show"]);
    check_error("server: {a: 1, b: 2}", &["server.a", "server.b"]);
}

#[test]
fn wrong_values_are_named_with_what_is_expected() {
    check_error("server: {http_listen_port: abc}", &["server.http_listen_port", "u16", "abc", "skald.yaml"]);
    check_error("server: {http_listen_port: 70000}", &["server.http_listen_port", "70000"]);
    check_error("server: 7", &["server", "7"]);
    check_error("auth_enabled: maybe", &["auth_enabled", "boolean", "maybe"]);
    check_error("ingester: {flush_interval: soon}", &["ingester.flush_interval", "soon", "30s"]);
    check_error("ingester: {memory_budget: 1 XB}", &["ingester.memory_budget", "1 XB", "256KB"]);
    check_error("limits_config: {max_line_size: big}", &["limits_config", "max_line_size", "big"]);
    check_error("limits_config: {max_query_series: big}", &["max_query_series", "big"]);
    check_error("server: {log_format: xml}", &["server.log_format", "xml", "logfmt"]);
    check_error("server: {log_level: loud}", &["server.log_level", "loud", "debug"]);
    check_error("no_auth_tenant: a/b", &["no_auth_tenant", "unsupported character"]);
    check_error("a: [", &["skald.yaml", "YAML", "line"]);
    check_error("- a", &["expected keys with values"]);
    check_error("server: {http_listen_port: 1, http_listen_port: 2}", &["duplicate", "http_listen_port"]);
    check_error(
        "common: {storage: {s3: {bucketnames: a}, gcs: {bucket_name: b}}}",
        &["more than one place", "s3, gcs"],
    );
}

#[test]
fn what_would_be_worse_without_is_refused() {
    check_error("common: {storage: {s3: {bucketnames: b, sse: {type: SSE-S3}}}}", &["encryption"]);
    check_error("common: {storage: {swift: {container_name: b}}}", &["filesystem, s3, gcs or azure"]);
    let key = "server: {http_tls_config: {cert_file: a, key_file: b, key: 'secret'}}";
    check_error(key, &["server.http_tls_config.key:", "key_file"]);
}

#[test]
fn tls_is_asked_for_by_the_names_of_loki() {
    let Loaded { config, unused, .. } = load_text(
        "server:
  tls_min_version: VersionTLS13
  tls_cipher_suites: ''
  http_tls_config: {cert_file: a, key_file: b, cert: '', client_auth_type: ''}
  grpc_tls_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert, client_ca_file: c}
ingester_client:
  remote_timeout: 5s
  grpc_client_config: {tls_enabled: true, tls_ca_path: c, tls_cert_path: a, tls_key_path: b, grpc_compression: snappy}
frontend_worker:
  grpc_client_config: {tls_enabled: true}",
    )
    .unwrap();
    assert!(config.server.http_tls_config.is_on() && config.server.grpc_tls_config.requires_certificates());
    assert!(config.ingester_client.grpc_client_config.tls_enabled);
    assert_eq!(config.ingester_client.calls.remote_timeout, Duration::from_secs(5));
    assert_eq!(unused, ["frontend_worker", "ingester_client.grpc_client_config.grpc_compression"]);
    assert!(load_text("server: {http_tls_config: {}}").is_ok());
}

#[test]
fn half_of_tls_is_refused() {
    check_error("server: {http_tls_config: {cert_file: a}}", &["server.http_tls_config.key_file is not set"]);
    check_error(
        "server: {grpc_tls_config: {cert_file: a, key_file: b, client_auth_type: RequestClientCert}}",
        &["server.grpc_tls_config.client_auth_type", "nobody verifies"],
    );
    check_error(
        "server: {http_tls_config: {cert_file: a, key_file: b, client_auth_type: Maybe}}",
        &["client_auth_type", "Maybe", "RequireAndVerifyClientCert"],
    );
    check_error("server: {tls_min_version: VersionSSL30}", &["server.tls_min_version", "VersionTLS12"]);
    check_error("server: {tls_cipher_suites: TLS_NONE}", &["server.tls_cipher_suites", "TLS_NONE"]);
    check_error(
        "ingester_client: {grpc_client_config: {tls_enabled: true, tls_key_path: b}}",
        &["ingester_client.grpc_client_config.tls_cert_path is not set"],
    );
    check_error("ingester_client: {grpc_client_config: {tls_enable: true}}", &["tls_enabled?"]);
}

#[test]
fn the_environment_is_stronger_than_the_file_and_flags_are_strongest() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.yaml");
    std::fs::write(&file, "server: {http_listen_port: 1, log_level: warn, graceful_shutdown_timeout: 5}\n")
        .unwrap();
    let flag =
        |key: &str, value: &str| Flag { name: format!("-{key}"), key: key.into(), value: value.into() };
    // A number without a unit is no duration.
    let missing = Sources { files: vec![file.clone()], ..Sources::default() };
    assert!(Config::load(&missing).unwrap_err().to_string().contains("graceful_shutdown_timeout"));
    std::fs::write(&file, "server: {http_listen_port: 1, log_level: warn}\n").unwrap();
    let sources = Sources {
        files: vec![dir.path().join("no.yaml"), file],
        environment: vec![
            ("SKALD_SERVER__HTTP_LISTEN_PORT".into(), "2".into()),
            ("SKALD_AUTH_ENABLED".into(), "true".into()),
            ("SKALD_LIMITS_CONFIG__DISCOVER_SERVICE_NAME".into(), "app, job".into()),
            ("SKALD_COMMON__STORAGE__S3__ACCESS_KEY_ID".into(), "007".into()),
            ("SKALD_NO_AUTH_TENANT".into(), "42".into()),
        ],
        flags: vec![flag("server.http_listen_port", "3"), flag("server.http_listen_port", "4")],
        ..Sources::default()
    };
    let config = Config::load(&sources).unwrap().config;
    assert_eq!((config.server.http_listen_port, config.server.log_level.as_str()), (4, "warn"));
    assert_eq!(config.limits_config.0.discover_service_name, ["app", "job"]);
    assert_eq!(
        (config.common.storage.s3.access_key_id.as_str(), config.no_auth_tenant.as_str()),
        ("007", "42")
    );
    assert!(config.auth_enabled);
}

#[test]
fn variables_are_checked_but_those_of_kubernetes_are_left_alone() {
    assert!(
        with_environment(&[
            ("SKALD_SERVICE_HOST", "10.0.0.1"),
            ("SKALD_PORT_3100_TCP", "x"),
            ("SKALD_URL", "")
        ])
        .is_ok()
    );
    let error = with_environment(&[("SKALD_SERVER__HTTP_LISTEN_PRT", "1")]).unwrap_err().to_string();
    assert!(error.contains("SKALD_SERVER__HTTP_LISTEN_PRT") && error.contains("http_listen_port"), "{error}");
    let error = with_environment(&[("SKALD_SERVER__HTTP_LISTEN_PORT", "x")]).unwrap_err().to_string();
    assert!(error.contains("environment variable SKALD_SERVER__HTTP_LISTEN_PORT"), "{error}");
}

#[test]
fn what_is_shown_can_be_read_again() {
    let shown = load_fixture("docker-compose.yaml").config;
    let again = load_text(&shown.to_yaml()).unwrap();
    assert_eq!(again.config, shown);
    assert!(again.unused.is_empty());
    let diff = shown.diff_to_yaml();
    assert!(diff.contains("flush_on_shutdown: true") && !diff.contains("segment_bytes"), "{diff}");
    assert_eq!(Config::load(&Sources::default()).unwrap().config.diff_to_yaml().trim(), "{}");
}

#[test]
fn a_missing_file_is_an_error() {
    let error =
        Config::load(&Sources { files: vec!["no/such.yaml".into()], ..Sources::default() }).unwrap_err();
    assert_eq!(error.to_string(), "configuration file no/such.yaml does not exist");
}
