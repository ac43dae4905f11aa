//! The command line for people, against a server of its own: two real processes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use support::{Server, now, skald};

/// Runs a command against a server, with `input` on standard input.
fn client(server: &Server, arguments: &[&str], input: &str) -> Output {
    let mut command = skald(arguments);
    command.env("SKALD_ADDR", format!("http://{}", server.address()));
    with_input(&mut command, input)
}

fn with_input(command: &mut Command, input: &str) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

/// The standard output of a command that has to end well.
fn text(server: &Server, arguments: &[&str], input: &str) -> String {
    let output = client(server, arguments, input);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn start(dir: &Path) -> Server {
    Server::start(dir, &[])
}

#[test]
fn what_is_pushed_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let pushed = client(
        &server,
        &["push", "-l", "app=demo", "-l", "env=test", "-m", "trace_id=7f"],
        "one\ntwo\n\nthree",
    );
    assert!(pushed.status.success(), "{pushed:?}");
    assert_eq!(stderr(&pushed), "pushed 3 entries in 1 requests\n");

    let raw = |arguments: &[&str]| {
        text(&server, &[&["query", r#"{app="demo"}"#, "-o", "raw"], arguments].concat(), "")
    };
    assert_eq!(raw(&[]), "three\ntwo\none\n");
    assert_eq!(raw(&["--forward", "-n", "2"]), "one\ntwo\n");
    let line = text(&server, &["query", r#"{app="demo"} |= "two""#, "-o", "jsonl"], "");
    let json: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(json["line"], "two");
    assert_eq!(json["labels"]["env"], "test");
    assert_eq!(json["metadata"]["trace_id"], "7f");

    let people = client(&server, &["query", r#"{app="demo"}"#, "--utc", "--stats"], "");
    let shown = String::from_utf8(people.stdout.clone()).unwrap();
    assert!(shown.lines().all(|line| line.contains("Z {} ")) && !shown.contains('\x1b'), "{shown}");
    let notes = stderr(&people);
    assert!(notes.contains(r#"common labels: {app="demo""#) && notes.contains("processed "), "{notes}");

    assert_eq!(
        text(&server, &["query", "--instant", r#"sum(count_over_time({app="demo"}[5m]))"#], ""),
        "VALUE  LABELS\n    3  {}\n"
    );
    let steps =
        text(&server, &["query", r#"count_over_time({app="demo"}[5m])"#, "--step", "10m", "-o", "jsonl"], "");
    assert!(steps.lines().all(|line| line.contains(r#""app":"demo""#)), "{steps}");

    let labels = text(&server, &["labels"], "");
    assert!(labels.lines().any(|name| name == "app") && labels.lines().any(|name| name == "env"), "{labels}");
    assert_eq!(text(&server, &["labels", "app"], ""), "demo\n");
    let series = text(&server, &["series", r#"{app="demo"}"#], "");
    assert!(series.contains(r#"app="demo", env="test""#), "{series}");
    let analysis = text(&server, &["series", "--analyze-labels"], "");
    assert!(analysis.starts_with("LABEL") && analysis.contains("env"), "{analysis}");
}

#[test]
fn large_results_are_fetched_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    // Every fourth nanosecond, so that each page ends in the middle of one.
    let start = now() - 60_000_000_000;
    let mut input = String::new();
    let mut expected = Vec::new();
    for number in 0..12_000i64 {
        let (time, app) = (start + number / 4, number % 3);
        let line = format!("line {number:05}");
        input +=
            &format!("{{\"timestamp\":\"{time}\",\"line\":\"{line}\",\"labels\":{{\"app\":\"{app}\"}}}}\n");
        expected.push((time, line));
    }
    let file = dir.path().join("input.jsonl");
    std::fs::write(&file, input).unwrap();
    let pushed =
        client(&server, &["push", "--format", "jsonl", "--batch-bytes", "64KB", file.to_str().unwrap()], "");
    assert!(stderr(&pushed).starts_with("pushed 12,000 entries in "), "{pushed:?}");

    for (arguments, forward) in
        [(&["--forward", "--batch", "5000"][..], true), (&["--batch", "999"][..], false)]
    {
        let all = [&["query", r#"{app=~".+"}"#, "-n", "0", "-o", "jsonl"], arguments].concat();
        let found = text(&server, &all, "");
        let mut times = Vec::new();
        let mut lines = Vec::new();
        for line in found.lines() {
            let entry: Value = serde_json::from_str(line).unwrap();
            times.push(entry["timestamp"].as_str().unwrap().to_owned());
            lines.push(entry["line"].as_str().unwrap().to_owned());
        }
        let sorted = if forward { times.is_sorted() } else { times.iter().rev().is_sorted() };
        assert!(sorted, "{arguments:?}: entries are out of order");
        lines.sort();
        assert_eq!(lines, expected.iter().map(|(_, line)| line.clone()).collect::<Vec<_>>(), "{arguments:?}");
    }
    // More per page than the server answers with: the client asks for less.
    let some = text(&server, &["query", r#"{app=~".+"}"#, "-n", "7000", "--batch", "20000", "-o", "raw"], "");
    assert_eq!(some.lines().count(), 7000);
}

#[test]
fn what_a_query_writes_can_be_pushed_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir.path().join("a"));
    let other = start(&dir.path().join("b"));
    client(&server, &["push", "-l", "app=demo", "-m", "k=v"], "one\n{\"two\": 2}\n");
    let query = ["query", r#"{app="demo"}"#, "-o", "jsonl", "-n", "0"];
    let copied = text(&server, &query, "");
    assert!(client(&other, &["push", "-f", "jsonl"], &copied).status.success());
    assert_eq!(text(&other, &query, ""), copied);
}

#[test]
fn what_goes_wrong_is_said_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let input = r#"{"line":"good","labels":{"app":"demo"}}
not json
{"line":"old","timestamp":1,"labels":{"app":"demo"}}
"#;
    let output = client(&server, &["push", "-f", "jsonl"], input);
    let notes = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{notes}");
    assert!(notes.contains("standard input, line 2: not an object"), "{notes}");
    assert!(
        notes.contains("timestamp too old") && notes.contains("1 lines of the input are no entries"),
        "{notes}"
    );
    assert_eq!(text(&server, &["query", r#"{app="demo"}"#, "-o", "raw"], ""), "good\n");

    let lost = client(&server, &["push", "--retries", "0", "--addr", "http://127.0.0.1:1"], "one\ntwo\n");
    assert_eq!(lost.status.code(), Some(1));
    assert!(
        stderr(&lost).starts_with("pushed 0 entries in 0 requests; 2 entries were not acknowledged\nerror: "),
        "{lost:?}"
    );

    let wrong = client(&server, &["query", r#"{app="demo"#], "");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        stderr(&wrong).starts_with("error: /loki/api/v1/query_range: the server answered 400"),
        "{wrong:?}"
    );
    assert_eq!(client(&server, &["query", "{a=\"b\"}", "--from", "noon"], "").status.code(), Some(1));
    assert_eq!(client(&server, &["query", "--no-such-flag"], "").status.code(), Some(2));
    let nobody = with_input(skald(&["labels", "--addr", "http://127.0.0.1:1"]).env_remove("SKALD_ADDR"), "");
    assert!(stderr(&nobody).contains("failed to connect to http://127.0.0.1:1/"), "{nobody:?}");
}

#[test]
fn a_reader_that_goes_away_ends_the_query_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let line = "x".repeat(200);
    let input = format!("{line}\n").repeat(5000);
    assert!(client(&server, &["push", "-l", "app=demo"], &input).status.success());
    let mut child = skald(&["query", r#"{app="demo"}"#, "-n", "0", "--batch", "100", "-o", "raw"])
        .env("SKALD_ADDR", format!("http://{}", server.address()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn an_interrupted_push_sends_what_it_has_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let mut child = skald(&["push", "-l", "app=demo", "--batch-wait", "1h", "--batch-bytes", "64KB"])
        .env("SKALD_ADDR", format!("http://{}", server.address()))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // The long line does not fit into the batch of the short ones. When these are there, it has been read.
    writeln!(pipe, "x\nx\nx\n{}", "y".repeat(100_000)).unwrap();
    while text(&server, &["query", r#"{app="demo"} |= "x""#, "-o", "raw"], "").is_empty() {
        std::thread::yield_now();
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(stderr(&output).starts_with("pushed 4 entries"), "{output:?}");
    drop(pipe);
}

#[test]
fn a_tail_shows_what_was_there_and_what_comes() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let push = |line: &str| assert!(client(&server, &["push", "-l", "app=demo"], line).status.success());
    push("before");
    let mut child = skald(&["tail", r#"{app="demo"} != "hidden""#, "-o", "raw"])
        .env("SKALD_ADDR", format!("http://{}", server.address()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "before");
    push("hidden");
    push("after");
    assert_eq!(lines.next().unwrap().unwrap(), "after");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(130), ""));
}
