//! A server that asks who somebody is.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::Write as _;
use std::process::Stdio;

use support::{Server, failure, now, replace_file, skald};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What `skald auth hash` prints for a secret.
fn hashed(arguments: &[&str], secret: &str) -> String {
    let mut command = skald(&[&["auth", "hash"], arguments].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{secret}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn push(server: &Server, headers: &[(&str, &str)]) -> u16 {
    let body =
        serde_json::json!({"streams": [{"stream": {"app": "a"}, "values": [[now().to_string(), "one"]]}]});
    server.post_with("/loki/api/v1/push", headers, &body.to_string()).0
}

#[test]
fn only_who_is_in_the_file_gets_in_and_the_file_may_change() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users.yaml");
    let (token, password) = (hashed(&["--token"], TOKEN), hashed(&[], "pass word"));
    let agent = format!("tokens: [{{name: agent, {token}, tenants: [a], rights: [write]}}]\n");
    let reader = format!("users: [{{name: reader, {password}, tenants: [a, b], rights: [read]}}]\n");
    std::fs::write(&users, &agent).unwrap();
    let file = format!("auth.file={}", users.display());
    let mut server = Server::start(
        &dir.path().join("data"),
        &["--set", &file, "--set", "auth.reload_period=20ms", "--listen", "0.0.0.0:0"],
    );
    assert!(!server.log().contains("everybody who reaches"), "{}", server.log());

    let bearer = format!("Bearer {TOKEN}");
    let labels = "/loki/api/v1/labels";
    assert_eq!(push(&server, &[]), 401);
    assert_eq!(push(&server, &[("Authorization", &bearer), ("X-Scope-OrgID", "b")]), 403);
    assert_eq!(push(&server, &[("Authorization", &bearer)]), 204);
    assert_eq!(server.get_with(labels, &[("Authorization", &bearer)]).0, 403);
    assert_eq!(server.get("/metrics").0, 200);
    assert_eq!(server.get("/config").0, 401);

    // reader:pass word
    let basic = [("Authorization", "Basic cmVhZGVyOnBhc3Mgd29yZA=="), ("X-Scope-OrgID", "a")];
    assert_eq!(server.get_with(labels, &basic).0, 401);
    replace_file(&users, &format!("{agent}{reader}"));
    server.await_line("took up changed files");
    let (status, body) = server.get_with(labels, &basic);
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("service_name"), "{body}");
    // Of another tenant there is nothing.
    let other = [basic[0], ("X-Scope-OrgID", "b")];
    assert_eq!(server.get_with(labels, &other), (200, "{\"status\":\"success\"}\n".to_owned()));

    replace_file(&users, "users: nobody");
    server.await_line("changed files are not usable");
    assert_eq!(server.get_with(labels, &basic).0, 200, "the last good one counts");
}

#[test]
fn a_wrong_file_and_an_open_door_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users.yaml");
    std::fs::write(&users, "tokens: [{name: a, sha256: x, tenants: [t], rights: [read]}]").unwrap();
    let data = dir.path().join("data");
    let file = format!("auth.file={}", users.display());
    let error =
        failure(&["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap(), "--set", &file]);
    assert!(
        error.contains("auth.file") && error.contains("users.yaml") && error.contains("sha256 of a"),
        "{error}"
    );
    let mut server = Server::start(&data, &["--listen", "0.0.0.0:0"]);
    let warning = server.await_line("everybody who reaches this address");
    assert!(warning.contains("level=warn") && warning.contains("auth.file"), "{warning}");
}
