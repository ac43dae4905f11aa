//! The life of a real process: it takes entries in, finds them again over restarts, and says clearly why it does not
//! start.

mod support;

use std::net::TcpListener;

use skald_rpc::Distributor as _;
use skald_rpc::grpc::{ClientConfig, Connection, DistributorClient};
use skald_runtime::grpc::MessageLimits;
use support::{Server, failure, files, now, push_of_one_line, run, skald};

#[test]
fn what_was_pushed_is_found_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let start = now();

    let server = Server::start(&data, &[]);
    server.push(&[(start, "one"), (start + 1, "two")]);
    assert_eq!(server.lines(), ["one", "two"]);
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("msg=\"stopped\""), "{log}");
    assert!(!log.contains("level=error") && !log.contains("level=warn"), "{log}");

    // From the write-ahead log, also after a death without warning.
    let server = Server::start(&data, &[]);
    assert_eq!(server.lines(), ["one", "two"]);
    server.push(&[(start + 2, "three")]);
    server.kill();
    let server = Server::start(&data, &[]);
    assert_eq!(server.lines(), ["one", "two", "three"]);

    // From the table.
    assert_eq!(server.post("/flush", "text/plain", "").0, 204);
    assert_eq!(server.lines(), ["one", "two", "three"]);
    assert_eq!(server.terminate().0.code(), Some(0));
    std::fs::remove_dir_all(data.join("wal")).unwrap();
    let server = Server::start(&data, &[]);
    assert_eq!(server.lines(), ["one", "two", "three"]);
    assert!(files(&data.join("tables")).iter().any(|(name, _)| name.ends_with(".parquet")));
}

/// A push that a client repeats, because it never heard of the first one's success, is one entry wherever its copies lie.
#[test]
fn a_repeated_push_counts_once_in_lines_and_in_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let start = now();
    let count = || {
        let query = "/loki/api/v1/query?query=sum(count_over_time(%7Bapp%3D%22test%22%7D%5B1h%5D))";
        let (status, body) = server.get(query);
        assert_eq!(status, 200, "{body}");
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    // In memory; then in memory and in a block; then in two blocks.
    for flush in [false, true, true] {
        if flush {
            assert_eq!(server.post("/flush", "text/plain", "").0, 204);
        }
        server.push(&[(start, "one"), (start + 1, "two")]);
        assert_eq!(server.lines(), ["one", "two"]);
        assert_eq!(count().as_deref(), Some("2"));
    }
    assert_eq!(server.post("/flush", "text/plain", "").0, 204);
    server.push(&[(start + 2, "three")]);
    assert_eq!(server.lines(), ["one", "two", "three"]);
    assert_eq!(count().as_deref(), Some("3"));
}

#[test]
fn patterns_are_found_while_entries_come_in_and_outlive_flush_and_restart() {
    let dir = tempfile::tempdir().unwrap();
    let start = now();
    let patterns = |server: &Server| {
        let path = "/loki/api/v1/patterns?query=%7Bservice_name%3D%22test%22%7D&step=1h";
        let (status, body) = server.get(path);
        assert_eq!(status, 200, "{body}");
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        let count = |p: &serde_json::Value| -> u64 {
            p["samples"].as_array().unwrap().iter().map(|s| s[1].as_u64().unwrap()).sum()
        };
        let all = answer["data"].as_array().unwrap().iter();
        all.map(|p| (p["pattern"].as_str().unwrap().to_owned(), count(p))).collect::<Vec<_>>()
    };
    let expected = [("request <_> took <_>".to_owned(), 2), ("started".to_owned(), 1)];
    let server = Server::start(dir.path(), &[]);
    server.push(&[
        (start, "request 17 took 5ms"),
        (start + 1, "request 18 took 7ms"),
        (start + 2, "started"),
    ]);
    let end = std::time::Instant::now() + support::DEADLINE;
    while patterns(&server) != expected {
        assert!(std::time::Instant::now() < end, "{:?}", patterns(&server));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(server.post("/flush", "text/plain", "").0, 204);
    assert_eq!(patterns(&server), expected);
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    let server = Server::start(dir.path(), &[]);
    assert_eq!(patterns(&server), expected);
    assert_eq!(server.get("/loki/api/v1/patterns?query=%7B").0, 400);
    let metric = "/loki/api/v1/patterns?query=rate(%7Ba%3D%22b%22%7D%5B1m%5D)";
    assert_eq!(server.get(metric).1, "{\"status\":\"success\",\"data\":[]}\n");
}

#[test]
fn a_block_can_be_inspected() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.push(&[(now(), "one")]);
    assert_eq!(server.post("/flush", "text/plain", "").0, 204);
    let blocks = files(&dir.path().join("tables"));
    let (block, _) =
        blocks.iter().find(|(name, _)| name.ends_with(".parquet") && !name.contains("_delta_log")).unwrap();
    let output = run(&["block", "inspect", block]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("1 streams") && text.contains("app=\"test\""), "{text}");
    let error = failure(&["block", "inspect", "Cargo.toml"]);
    assert!(error.contains("Cargo.toml is not a block of Skald's"), "{error}");
}

#[test]
fn status_pages_tell_what_runs() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("f.yaml");
    std::fs::write(&config, "server: {log_level: warn}\nanalytics: {reporting_enabled: false}\n").unwrap();
    let mut server =
        Server::start(dir.path(), &["-config.file", config.to_str().unwrap(), "-log.level=info"]);
    let warning = server.await_line("level=warn");
    assert!(warning.contains("keys=analytics"), "{warning}");
    let storing = server.await_line("msg=\"storing\"");
    assert!(storing.contains(&format!("tables={}/tables", dir.path().display())), "{storing}");
    assert!(server.get("/metrics").1.contains("process_resident_memory_bytes"));
    assert!(server.get("/metrics").1.contains("loki_build_info"));
    assert!(server.get("/config").1.contains("log_level: info"));
    assert!(server.get("/config?mode=diff").1.contains("path_prefix"));
    assert_eq!(server.get("/services").1, "all => Running\n");
    assert!(server.post("/log_level?log_level=debug", "text/plain", "").1.contains("debug"));
    assert!(server.get("/log_level").1.contains("debug"));
    assert!(run(&["health", "--url", &format!("http://{}/ready", server.address())]).status.success());
}

#[test]
fn a_part_of_the_roles_is_served_over_grpc() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["--target", "write", "--set", "server.grpc_listen_port=0"];
    let mut server = Server::start(dir.path(), &arguments);
    let address = server.await_line("protocol=grpc").split("address=").nth(1).unwrap().to_owned();
    assert_eq!(server.get("/loki/api/v1/labels").0, 404);
    let push = push_of_one_line();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connection =
            Connection::new(&address, &ClientConfig::default(), MessageLimits::default(), None).unwrap();
        let tenant = skald_model::TenantId::new("fake").unwrap();
        DistributorClient::new(connection).push(&tenant, push).await.unwrap();
    });
    // With its runtime the connection goes, so that the server has nobody to wait for.
    drop(runtime);
    assert_eq!(server.terminate().0.code(), Some(0));
    assert_eq!(Server::start(dir.path(), &[]).lines(), ["one"]);
}

#[test]
fn a_path_prefix_is_before_every_path() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = skald(&["serve", "--listen", "127.0.0.1:0", "--set", "server.http_path_prefix=/logs"]);
    let data = dir.path().join("d");
    let child = command.arg("--data").arg(&data).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let server = Server::over(child);
    server.await_status("/logs/ready", 200);
    assert_eq!(server.get("/ready").0, 404);
}

#[test]
fn a_file_of_loki_starts_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/single-binary-filesystem.yaml");
    let text = std::fs::read_to_string(fixture).unwrap().replace("/tmp/loki", dir.path().to_str().unwrap());
    let file = dir.path().join("loki.yaml");
    std::fs::write(&file, text).unwrap();
    let server = Server::start(&dir.path().join("data"), &["-config.file", file.to_str().unwrap()]);
    server.push(&[(now(), "one")]);
    assert_eq!(server.post("/flush", "text/plain", "").0, 204);
    assert!(!files(&dir.path().join("chunks")).is_empty());
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = failure(&["serve", "--listen", &address, "--data", data.to_str().unwrap()]);
    assert!(error.contains(&address) && error.contains("in use") && error.contains("--listen"), "{error}");
    assert!(!data.exists());
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let data = file.join("data");
    let error = failure(&["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    assert!(error.contains(data.to_str().unwrap()) && error.contains("--data"), "{error}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "x");
}

#[test]
fn a_second_process_on_the_same_data_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.push(&[(now(), "one")]);
    let before = files(dir.path());
    let error = failure(&["serve", "--listen", "127.0.0.1:0", "--data", dir.path().to_str().unwrap()]);
    assert!(error.contains("in use by another process"), "{error}");
    assert_eq!(files(dir.path()), before);
    assert_eq!(server.lines(), ["one"]);
}

#[test]
fn a_table_of_somebody_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("tables/fake/_delta_log");
    std::fs::create_dir_all(&log).unwrap();
    let commit = r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}
{"metaData":{"id":"7b1a6a0e-4b0e-4a3c-9d55-0d6f0e6a3f10","format":{"provider":"parquet","options":{}},"schemaString":"{\"type\":\"struct\",\"fields\":[{\"name\":\"id\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}}]}","partitionColumns":[],"configuration":{},"createdTime":1700000000000}}
"#;
    std::fs::write(log.join("00000000000000000000.json"), commit).unwrap();
    let before = files(&dir.path().join("tables"));
    let error = failure(&["serve", "--listen", "127.0.0.1:0", "--data", dir.path().to_str().unwrap()]);
    assert!(error.contains("was not written by this version of Skald") && error.contains("fake"), "{error}");
    assert_eq!(files(&dir.path().join("tables")), before);
}

#[test]
fn a_configuration_with_a_mistake_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.yaml");
    std::fs::write(&file, "server:\n  http_listen_prt: 3100\n").unwrap();
    let name = file.to_str().unwrap();
    for arguments in [vec!["serve", "--config.file", name], vec!["config", "check", name]] {
        let error = failure(&arguments);
        assert_eq!(
            error,
            format!(
                "error: {name}: unknown key server.http_listen_prt; did you mean server.http_listen_port?"
            )
        );
    }
    let error = failure(&["serve", "--target", "ruler"]);
    assert!(error.contains("ruler"), "{error}");
    let error = failure(&["-server.http-listen-prt=1"]);
    assert!(error.contains("-server.http-listen-prt") && error.contains("http_listen_port"), "{error}");
}

#[test]
fn commands_without_a_server_answer() {
    let text = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(text(&["version"]).starts_with("skald, version "));
    assert_eq!(text(&["-version"]), text(&["version"]));
    assert!(text(&["config", "show", "--listen", "0.0.0.0:80"]).contains("http_listen_port: 80"));
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/docker-compose.yaml");
    assert!(text(&["config", "check", fixture]).contains("ingester.lifecycler.ring"));
    assert!(text(&[&format!("-config.file={fixture}"), "-verify-config"]).contains("is valid"));
    assert!(failure(&["health", "--url", "http://127.0.0.1:1/ready"]).contains("nobody listens"));
}
