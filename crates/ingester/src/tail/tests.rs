use futures::{FutureExt as _, StreamExt as _};
use skald_model::{Kind, Limits};
use skald_rpc::Ingester as _;
use skald_rpc::tail::{TailStream, TailTask};

use crate::samples::tenant;
use crate::tests::{Node, START, config};

async fn tail(node: &Node, who: &str, query: &str) -> skald_model::Result<TailStream> {
    node.ingester.tail(TailTask { tenant: tenant(who), query: query.into() }).await
}

async fn lines(tail: &mut TailStream, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.len() < count {
        let batch = tail.next().await.unwrap().unwrap();
        assert!(batch.dropped.is_empty());
        lines.extend(batch.entries.iter().map(|e| String::from_utf8_lossy(&e.line).into_owned()));
    }
    lines
}

#[tokio::test]
async fn what_is_appended_is_handed_on_once_it_has_passed_the_query() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::alone(config(dir.path()), Limits::default()).await;
    node.push("t", &[("a", &[(START, "before", "")])]).await.unwrap();
    let mut all = tail(&node, "t", r#"{app=~".+"}"#).await.unwrap();
    let mut some =
        tail(&node, "t", r#"{app="a"} |= "x" | k="1" | line_format "<{{__line__}}>""#).await.unwrap();
    let mut others = tail(&node, "other", r#"{app="a"}"#).await.unwrap();
    node.push("t", &[("a", &[(START, "x1", "1"), (START, "x2", "2"), (START, "y", "1")])]).await.unwrap();
    node.push("t", &[("b", &[(START, "x3", "1")]), ("a", &[(START + 1, "x4", "1")])]).await.unwrap();
    assert_eq!(lines(&mut all, 5).await, ["x1", "x2", "y", "x3", "x4"]);
    assert_eq!(lines(&mut some, 2).await, ["<x1>", "<x4>"]);
    assert!(others.next().now_or_never().is_none());
    node.ingester.stop().await;
}

#[tokio::test]
async fn a_stage_that_is_not_valid_fails_the_tail_at_the_first_stream() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::alone(config(dir.path()), Limits::default()).await;
    let mut tail = tail(&node, "t", r#"{app="a"} |~ "[""#).await.unwrap();
    node.push("t", &[("b", &[(START, "x", "")])]).await.unwrap();
    node.push("t", &[("a", &[(START, "x", "")])]).await.unwrap();
    let error = tail.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind, Kind::InvalidArgument);
    assert!(tail.next().await.is_none());
    node.ingester.stop().await;
}

#[tokio::test]
async fn a_slow_reader_loses_entries_and_is_told_and_a_full_inbox_counts() {
    let dir = tempfile::tempdir().unwrap();
    let config = crate::Config { tail_buffer_bytes: 2000, ..config(dir.path()) };
    let node = Node::alone(config, Limits::default()).await;
    let mut tail = tail(&node, "t", r#"{app="a"}"#).await.unwrap();
    let long = "x".repeat(500);
    const PUSHES: i64 = 40;
    for i in 0..PUSHES {
        node.push("t", &[("a", &[(START + i, &long, "")]), ("b", &[(START + i, &long, "")])]).await.unwrap();
    }
    // Whatever had no room in the inbox or in the buffer has been counted, entries of other streams perhaps, too.
    let (mut read, mut lost) = (0, 0);
    while read + lost < PUSHES as u64 {
        let batch = tail.next().await.unwrap().unwrap();
        read += batch.entries.len() as u64;
        lost += batch.dropped.entries;
        assert!(batch.dropped.listed.iter().all(|d| d.labels.get("app") == Some("a")));
    }
    assert!((1..PUSHES as u64).contains(&read), "{read} were read");
    node.ingester.stop().await;
}

#[tokio::test]
async fn a_reader_that_goes_frees_its_place_and_everything_held() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { max_concurrent_tail_requests: 2, ..Limits::default() };
    let node = Node::alone(config(dir.path()), limits).await;
    let query = r#"{app="a"}"#;
    let first = tail(&node, "t", query).await.unwrap();
    let _second = tail(&node, "t", query).await.unwrap();
    let _other = tail(&node, "other", query).await.unwrap();
    let refused = tail(&node, "t", query).await.err().unwrap();
    assert_eq!(refused.kind, Kind::InvalidArgument);
    assert_eq!(refused.message, "max concurrent tail requests limit exceeded, count > limit (3 > 2)");
    let core = &node.ingester.core;
    assert_eq!((core.tails.len(), core.metrics.tails.get()), (3, 3));
    node.push("t", &[("a", &[(START, "x", "")])]).await.unwrap();
    drop(first);
    assert_eq!((core.tails.len(), core.metrics.tails.get()), (2, 2));
    let again = tail(&node, "t", query).await.unwrap();
    drop((again, _second, _other));
    assert_eq!((core.tails.len(), core.metrics.tails.get()), (0, 0));
    assert!(!core.tails.follow(&tenant("t")));
    // The tasks notice by themselves, and then nothing is held but the segment.
    while core.memory.used() > 0 {
        node.ingester.flush(None).await.unwrap();
        tokio::task::yield_now().await;
    }
    node.ingester.stop().await;
}

#[tokio::test]
async fn a_shutdown_ends_tails_and_takes_no_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::alone(config(dir.path()), Limits::default()).await;
    let mut open = tail(&node, "t", r#"{app="a"}"#).await.unwrap();
    node.ingester.end_tails();
    assert!(open.next().await.is_none());
    assert_eq!(tail(&node, "t", r#"{app="a"}"#).await.err().unwrap().kind, Kind::Unavailable);
    drop(open);
    assert_eq!(node.ingester.core.metrics.tails.get(), 0);
    node.ingester.stop().await;
}
