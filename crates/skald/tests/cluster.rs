//! A cluster of real processes on one machine: each entry is acknowledged by a quorum and read exactly once, whoever dies,
//! comes back or leaves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;
use support::{DEADLINE, Server, failure, files, now, skald};

/// What all processes of a cluster have in common.
struct Cluster {
    dir: tempfile::TempDir,
    /// Where the first member gossips.
    seed: u16,
}

impl Cluster {
    fn new() -> Self {
        // Free when it was asked for; nobody else here takes ports by number.
        let seed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { dir: tempfile::tempdir().unwrap(), seed }
    }

    fn data(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a process without waiting until it is ready.
    fn start(&self, name: &str, target: &str, gossip_port: u16) -> Server {
        let set = |key: &str, value: String| format!("--set={key}={value}");
        let mut command = skald(&["serve", "--listen", "127.0.0.1:0", "--target", target, "--data"]);
        command.arg(self.data(name)).args([
            set("common.storage.filesystem.chunks_directory", self.data("tables").display().to_string()),
            set("server.grpc_listen_port", "0".into()),
            set("memberlist.node_name", name.into()),
            set("memberlist.bind_port", gossip_port.to_string()),
            set("memberlist.join_members", format!("127.0.0.1:{}", self.seed)),
            set("memberlist.gossip_interval", "50ms".into()),
            set("memberlist.failure_timeout", "2s".into()),
            set("ingester.lifecycler.join_after", "100ms".into()),
        ]);
        Server::over(command.stderr(Stdio::piped()).spawn().unwrap())
    }
}

fn json(server: &Server, path: &str) -> Value {
    let (status, body) = server.get_with(path, &[("Accept", "application/json")]);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// The ring as `server` sees it: the state of each ingester.
fn ring(server: &Server) -> BTreeMap<String, String> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let shards = json(server, "/ring")["shards"].as_array().unwrap().clone();
    shards.iter().map(|s| (text(&s["id"]), text(&s["state"]))).collect()
}

fn await_ring(server: &Server, expected: &[(&str, &str)]) {
    let expected = expected.iter().map(|(n, s)| ((*n).to_owned(), (*s).to_owned())).collect();
    let end = Instant::now() + DEADLINE;
    while ring(server) != expected {
        assert!(Instant::now() < end, "{:?} is not {expected:?}\n{}", ring(server), server.log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn count(server: &Server) -> u64 {
    let path = "/loki/api/v1/query?query=sum(count_over_time(%7Bapp%3D%22test%22%7D%5B1h%5D))";
    let answer = json(server, path);
    answer["data"]["result"][0]["value"][1].as_str().unwrap().parse().unwrap()
}

/// Pushes `n` more entries and checks that each is counted once and found once.
fn push_and_check(server: &Server, pushed: &mut Vec<String>, n: usize) {
    let start = now();
    let lines: Vec<_> = (0..n).map(|i| format!("line {:06}", pushed.len() + i)).collect();
    let entries: Vec<_> = lines.iter().zip(start..).map(|(line, t)| (t, line.as_str())).collect();
    server.push(&entries);
    pushed.extend(lines);
    assert_eq!(count(server), pushed.len() as u64);
    assert_eq!(server.lines(), *pushed);
}

fn registered(dir: &Path) -> Vec<String> {
    let names = files(&dir.join("tables/_skald/ingesters")).into_iter();
    names.map(|(path, _)| path.rsplit('/').next().unwrap().to_owned()).collect()
}

#[test]
fn every_entry_is_read_once_while_ingesters_die_come_back_and_leave() {
    let cluster = Cluster::new();
    let door = cluster.start("door", "distributor,query-frontend", cluster.seed);
    let querier = cluster.start("querier", "querier", 0);
    let [a, b, c] = ["a", "b", "c"].map(|name| cluster.start(name, "ingester", 0));
    for server in [&door, &querier, &a, &b, &c] {
        server.await_status("/ready", 200);
    }
    await_ring(&door, &[("a", "ACTIVE"), ("b", "ACTIVE"), ("c", "ACTIVE")]);
    assert_eq!(registered(cluster.dir.path()), ["a.json", "b.json", "c.json"]);
    assert_eq!(a.post("/loki/api/v1/push", "application/json", "{}").0, 404, "no distributor there");
    assert_eq!(json(&b, "/memberlist")["members"].as_array().unwrap().len(), 5);
    let tokens = json(&door, "/ring")["shards"][1]["tokens"].clone();
    let mut pushed = Vec::new();
    push_and_check(&door, &mut pushed, 50);

    b.kill();
    await_ring(&door, &[("a", "ACTIVE"), ("b", "Unhealthy"), ("c", "ACTIVE")]);
    assert_eq!(door.get("/ready").0, 200, "others are no reason not to be ready");
    push_and_check(&door, &mut pushed, 50);
    // Each finds out for itself.
    await_ring(&a, &[("a", "ACTIVE"), ("b", "Unhealthy"), ("c", "ACTIVE")]);
    let (status, page) = a.get("/ring");
    assert!(status == 200 && page.contains("value=\"b\">Forget"), "{page}");

    let b = cluster.start("b", "ingester", 0);
    b.await_status("/ready", 200);
    await_ring(&door, &[("a", "ACTIVE"), ("b", "ACTIVE"), ("c", "ACTIVE")]);
    assert_eq!(json(&door, "/ring")["shards"][1]["tokens"], tokens, "it has its old places");
    push_and_check(&door, &mut pushed, 50);

    // For good: everything is written, and nobody has to count on it.
    let (status, log) = b.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(registered(cluster.dir.path()), ["a.json", "c.json"], "{log}");
    push_and_check(&door, &mut pushed, 50);
    assert_eq!(door.post("/flush", "text/plain", "").0, 204);
    push_and_check(&door, &mut pushed, 50);
    for server in [a, c, querier, door] {
        let (status, log) = server.terminate();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("level=error"), "{log}");
    }
    assert!(registered(cluster.dir.path()).is_empty());
}

#[test]
fn a_dead_ingester_is_forgotten_by_request_only_when_it_is_dead() {
    let cluster = Cluster::new();
    let start = |name: &str, target: &str, port| cluster.start(name, target, port);
    let a = start("a", "all", cluster.seed);
    let b = start("b", "ingester", 0);
    for server in [&a, &b] {
        server.await_status("/ready", 200);
    }
    await_ring(&a, &[("a", "ACTIVE"), ("b", "ACTIVE")]);
    let form = "application/x-www-form-urlencoded";
    let (status, answer) = a.post("/ring", form, "forget=b");
    assert!(status == 400 && answer.contains("is alive"), "{status} {answer}");
    assert_eq!(a.post("/ring", form, "forget=nobody").0, 404);
    b.kill();
    await_ring(&a, &[("a", "ACTIVE"), ("b", "Unhealthy")]);
    // The answer leads back to the page.
    assert_eq!(a.post("/ring", form, "forget=b").0, 200);
    assert_eq!(registered(cluster.dir.path()), ["a.json"]);
    let row = json(&a, "/ring")["shards"][1].clone();
    assert_eq!(row["registered_timestamp"], "1970-01-01T00:00:00Z", "{row}");
}

#[test]
fn the_next_end_can_be_made_one_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(ring(&server).values().collect::<Vec<_>>(), ["ACTIVE"], "alone it is its own ring");
    server.push(&[(now(), "one")]);
    assert_eq!(server.get("/ingester/prepare_shutdown"), (200, "unset\n".into()));
    assert_eq!(server.post("/ingester/prepare_shutdown", "text/plain", "").0, 204);
    assert_eq!(server.get("/ingester/prepare_shutdown").1, "set\n");
    // Kept over a death without warning.
    server.kill();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.get("/ingester/prepare_shutdown").1, "set\n");
    assert_eq!(server.terminate().0.code(), Some(0));
    let blocks = || files(dir.path()).iter().filter(|(name, _)| name.ends_with(".parquet")).count();
    assert_eq!(blocks(), 1);
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.get("/ingester/prepare_shutdown").1, "unset\n");
    server.push(&[(now(), "two")]);
    assert_eq!(server.get("/ingester/shutdown?terminate=false").0, 204);
    assert_eq!(blocks(), 2);
    assert_eq!(server.lines(), ["one", "two"]);
    assert_eq!(server.get("/ready").0, 503);
    assert_eq!(server.get("/ingester/shutdown?terminate=maybe").0, 400);
    assert_eq!(server.terminate().0.code(), Some(0));
}

#[test]
fn roles_that_need_others_say_how_to_find_them() {
    let error = failure(&["serve", "--target", "distributor"]);
    assert!(
        error.contains("distributor needs ingester") && error.contains("memberlist.join_members"),
        "{error}"
    );
    let error = failure(&["serve", "--set", "memberlist.join_members=dnssrv+x"]);
    assert!(error.contains("memberlist.join_members") && error.contains("dnssrv"), "{error}");
}
