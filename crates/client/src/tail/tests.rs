//! A tail against a server that breaks its connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use http::{StatusCode, Uri};
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::http::Client;
use crate::notes::Notes;

/// What the server was asked, in order: the path and the parameter `start`.
#[derive(Clone)]
struct Asked(mpsc::UnboundedSender<(&'static str, i64)>, Arc<AtomicUsize>);

const SECONDS: i64 = 1_700_000_000;

fn streams(entries: &[(i64, &str)]) -> serde_json::Value {
    let values: Vec<_> = entries
        .iter()
        .map(|(second, line)| json!([((SECONDS + second) * SECOND).to_string(), line]))
        .collect();
    json!([{"stream": {"app": "x"}, "values": values}])
}

fn start_of(uri: &Uri) -> i64 {
    let parameters = url::form_urlencoded::parse(uri.query().unwrap().as_bytes());
    let start = parameters.into_iter().find(|(name, _)| name == "start").unwrap().1;
    start.parse().unwrap()
}

async fn tail(State(asked): State<Asked>, uri: Uri, upgrade: WebSocketUpgrade) -> Response {
    asked.0.send(("tail", start_of(&uri))).unwrap();
    let turn = asked.1.fetch_add(1, Ordering::SeqCst);
    upgrade.on_upgrade(move |mut socket: WebSocket| async move {
        let frames = match turn {
            0 => vec![json!({"streams": streams(&[(0, "a"), (20, "b")])})],
            // Comes with what was shown already, as the connection begins at an earlier time.
            1 => vec![json!({
                "streams": streams(&[(20, "b"), (21, "c"), (22, "d")]),
                "dropped_entries": [{"timestamp": "1", "labels": {"app": "x"}}]
            })],
            _ => vec![json!({"streams": streams(&[(22, "d"), (30, "e")])})],
        };
        for frame in frames {
            socket.send(Message::Text(frame.to_string().into())).await.unwrap();
        }
        if turn == 1 {
            // A server that goes, as Loki does after an hour.
            let frame = CloseFrame { code: 1000, reason: "reached tail max duration limit".into() };
            socket.send(Message::Close(Some(frame))).await.unwrap();
        }
    })
}

async fn query_range(State(asked): State<Asked>, uri: Uri) -> String {
    asked.0.send(("query_range", start_of(&uri))).unwrap();
    // The entry that came while nobody listened.
    let result =
        if asked.1.load(Ordering::SeqCst) == 1 { streams(&[(20, "b"), (21, "c")]) } else { json!([]) };
    json!({"data": {"resultType": "streams", "result": result}}).to_string()
}

async fn serve() -> (String, mpsc::UnboundedReceiver<(&'static str, i64)>) {
    let (sender, asked) = mpsc::unbounded_channel();
    let router = Router::new()
        .route("/loki/api/v1/tail", get(tail))
        .route("/loki/api/v1/query_range", get(query_range))
        .with_state(Asked(sender, Arc::new(AtomicUsize::new(0))));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, asked)
}

fn client(address: String) -> Client {
    let connection = Connection {
        addr: Some(address),
        timeout: Duration::from_secs(60),
        retries: 5,
        ..Connection::default()
    };
    Client::new(connection.settings(|_| None).unwrap(), Notes::new(true)).unwrap()
}

fn follower(address: String) -> Follower {
    Follower {
        client: client(address),
        notes: Notes::new(true),
        query: r#"{app="x"}"#.into(),
        limit: 100,
        delay_for: 0,
        start: SECONDS * SECOND,
        recent: Recent::default(),
        failures: 0,
    }
}

#[tokio::test]
async fn a_broken_connection_loses_nothing_and_shows_nothing_twice() {
    let (address, mut asked) = serve().await;
    let mut shown = Vec::new();
    let result = follower(address)
        .run(|entries: &[Entry]| {
            shown.extend(entries.iter().map(|entry| entry.line.clone()));
            // Ends the test: as if standard output had gone away.
            if shown.iter().any(|line| line == "e") {
                Err(std::io::ErrorKind::BrokenPipe.into())
            } else {
                Ok(())
            }
        })
        .await;
    assert!(crate::session::is_broken_pipe(&result.unwrap_err()));
    assert_eq!(shown, ["a", "b", "c", "d", "e"]);
    let second = |s: i64| (SECONDS + s) * SECOND;
    let mut calls = Vec::new();
    while let Ok(call) = asked.try_recv() {
        calls.push(call);
    }
    let expected = [
        ("tail", second(0)),
        // Ten seconds before the newest, in case that something came late.
        ("query_range", second(10)),
        ("tail", second(11)),
        ("query_range", second(12)),
        ("tail", second(12)),
    ];
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn a_refusal_for_good_ends_the_tail_with_the_servers_words() {
    let refuse = get(|| async { (StatusCode::BAD_REQUEST, "parse error at line 1\n") });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(
        async move { axum::serve(listener, Router::new().route("/loki/api/v1/tail", refuse)).await },
    );
    let error = follower(address).run(|_: &[Entry]| Ok(())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "/loki/api/v1/tail: the server answered 400 Bad Request: parse error at line 1"
    );
}
