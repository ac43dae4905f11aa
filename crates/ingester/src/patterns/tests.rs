//! What comes out, what must hold for any lines, and what stays over a restart.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use skald_logql::{Expr, LogQuery};
use skald_model::{Limits, PushStamp, Selector, StreamId, TimeRange};
use skald_rpc::Ingester as _;
use skald_rpc::patterns::PatternsRequest;

use super::miner::Miner;
use super::tokens::Tokens;
use super::tree::{Template, Tree};
use super::*;
use crate::samples::{batch, tenant};
use crate::tests::{Node, START, config};

/// The patterns that lines give.
fn patterns_of(lines: &[&str]) -> Vec<String> {
    let (mut tree, mut tokens) = (Tree::default(), Tokens::default());
    let mut ids: Vec<_> =
        lines.iter().map(|l| tree.insert(l.as_bytes(), tokens.split(l.as_bytes()), 300).unwrap()).collect();
    ids.sort();
    ids.dedup();
    ids.into_iter().filter_map(|id| tree.get(id).map(Template::render)).collect()
}

/// Whether a line passes `|> "pattern"`.
fn passes(pattern: &str, line: &[u8]) -> bool {
    let mut query = r#"{a="b"} |> "#.to_owned();
    skald_model::labels::write_go_quoted(&mut query, pattern).unwrap();
    match skald_logql::parse(&query) {
        Ok(Expr::Log(log)) => {
            let compiled = LogQuery::compile(&log);
            assert!(compiled.invalid.is_none(), "{query}: {:?}", compiled.invalid);
            compiled.predicate.matches(line)
        }
        other => panic!("{query}: {other:?}"),
    }
}

#[track_caller]
fn check(lines: &[&str], expected: &[&str]) {
    let patterns = patterns_of(lines);
    assert_eq!(patterns, expected);
    for line in lines {
        assert!(patterns.iter().any(|p| passes(p, line.as_bytes())), "{line}");
    }
}

#[test]
fn patterns_are_readable() {
    check(
        &[
            "INFO Executor: Running task 29.0 in stage 6.0 (TID 4467)",
            "INFO Executor: Running task 78.0 in stage 7.0 (TID 5641)",
            "WARN TaskSetManager: Lost task 94.0 in stage 1.0 (TID 613): ExecutorLostFailure",
        ],
        &[
            "INFO Executor: Running task <_> in stage <_> (TID <_>)",
            "WARN TaskSetManager: Lost task <_> in stage <_> (TID <_>): ExecutorLostFailure",
        ],
    );
    check(
        &[
            r#"10.0.0.7 - - [15/Jan/2026:06:00:00 +0000] "GET /api/v1/users/42 HTTP/1.1" 200 512"#,
            r#"10.0.0.9 - - [15/Jan/2026:06:00:01 +0000] "GET /api/v1/users/7 HTTP/1.1" 404 19"#,
        ],
        &[r#"<_> - - [<_>/Jan/<_> <_>] "GET /api/v1/users/<_> HTTP/<_>" <_> <_>"#],
    );
    check(
        &[
            r#"ts=2026-01-15T06:00:00.1Z level=info caller=main.go:52 msg="starting job" job=alpha took=3ms"#,
            r#"ts=2026-01-15T06:00:03.7Z level=info caller=main.go:52 msg="starting job" job=beta took=12ms"#,
        ],
        &[r#"ts=<_> level=info caller=main.go:<_> msg="starting job" job=<_> took=<_>"#],
    );
    check(
        &[
            r#"{"ts":"x","level":"info","msg":"user alice \"a\" logged in","nested":{"a":[1,2]}}"#,
            r#"{"ts":"y","msg":"user bob \"b\" logged in","more":true,"level":"info"}"#,
        ],
        &[r#"<_>"msg":"user <_> \"<_>\" logged in"<_>"#],
    );
    check(&["java.lang.X: failed\n\tat a.b(C.java:1)\n\tat d"], &["java.lang.X: failed<_>"]);
    // Their tokens differ by nothing but a variable in front.
    check(&[" \n", "0 \n"], &[" <_>", "<_> <_>"]);
    check(&["see <b> and <_>5 or <5>"], &["see <_> and <_> or <<_>>"]);
}

#[test]
fn long_lines_and_many_tokens_end_in_a_placeholder() {
    let long = format!("begin {}", "word ".repeat(500));
    let patterns = patterns_of(&[&long]);
    assert!(patterns[0].ends_with("<_>") && patterns[0].len() < 600, "{patterns:?}");
    assert!(passes(&patterns[0], long.as_bytes()));
    assert_eq!(patterns_of(&[&"x".repeat(100_000)]), ["<_>"]);
}

#[test]
fn templates_are_bounded_and_those_not_seen_for_long_go() {
    let (mut tree, mut tokens) = (Tree::default(), Tokens::default());
    let word = |i: usize| (0..4).map(|d| (b'a' + (i >> (4 * d) & 15) as u8) as char).collect::<String>();
    let mut insert = |tree: &mut Tree, line: &str| {
        let line = line.as_bytes();
        tree.insert(line, tokens.split(line), 10).unwrap()
    };
    let first = insert(&mut tree, "kept on being seen");
    let second = insert(&mut tree, "never again");
    for i in 0..1000 {
        insert(&mut tree, &format!("{} {}", word(i), word(i + 7)));
        assert_eq!(insert(&mut tree, "kept on being seen"), first);
    }
    assert!(tree.len() <= 10 && tree.get(first).is_some() && tree.get(second).is_none());
    assert!(tree.bytes() < 20_000, "{}", tree.bytes());
}

fn any_line() -> impl Strategy<Value = String> {
    let text = "[a-c <>_\\\\\"0-9{}\\[\\]():=,/é\n.-]{1,60}";
    let words = proptest::collection::vec("(get|put|<_>|<x>|user|[a-d]{1,3}|[0-9]{1,4}|:|/)", 1..9);
    prop_oneof![
        text,
        words.prop_map(|w| w.join(" ")),
        ("[a-z0-9 <>_\\\\\\\\é-]{0,20}", "[a-c0-9\"]{0,5}")
            .prop_map(|(text, rest)| format!("{{\"a\":1,\"msg\": \"{text}\"{rest}}}")),
    ]
}

proptest! {
    #[test]
    fn every_line_passes_the_pattern_that_it_was_put_to(lines in proptest::collection::vec(any_line(), 1..40)) {
        let (mut tree, mut tokens) = (Tree::default(), Tokens::default());
        let ids: Vec<_> = lines.iter().map(|l| tree.insert(l.as_bytes(), tokens.split(l.as_bytes()), 12).unwrap()).collect();
        for (line, id) in lines.iter().zip(ids) {
            // A template that had to go says nothing.
            if let Some(pattern) = tree.get(id).map(Template::render) {
                prop_assert!(passes(&pattern, line.as_bytes()), "{pattern:?} {line:?}");
            }
        }
    }

    #[test]
    fn tokens_cover_the_line(line in any_line()) {
        let mut tokens = Tokens::default();
        let mut at = 0;
        for token in tokens.split(line.as_bytes()) {
            prop_assert!(token.start == at && token.end > at);
            prop_assert!(line.is_char_boundary(at as usize));
            at = token.end;
        }
        prop_assert_eq!(at as usize, line.len());
    }
}

fn selector(text: &str) -> Selector {
    crate::query::parse_selector(text).unwrap()
}

fn mine(miner: &mut Miner, batch: &Batch, now: i64) -> Mined {
    let mut all = Mined::default();
    for stream in &batch.streams {
        let mined = miner.mine(&tenant("t"), batch, stream, now, 1);
        all.lines += mined.lines;
        all.sampled_out += mined.sampled_out;
        all.refused += mined.refused;
    }
    all
}

const ALL: TimeRange = TimeRange::ALL;

#[test]
fn counts_are_per_stream_level_and_step() {
    let mut miner = Miner::new(Config::default());
    let lines: &[_] = &[(START, "took 5 s", ""), (START + 15 * SECOND, "took 6 s", "")];
    let b = batch(&tenant("t"), &[("a", lines), ("b", lines), ("b", &[(START, "other", "")])]);
    assert_eq!(mine(&mut miner, &b, START), Mined { lines: 5, ..Mined::default() });
    let ask = |selector_text: &str, step: i64, exclude: &[StreamId]| {
        miner.patterns(&tenant("t"), &selector(selector_text), ALL, step, exclude)
    };
    let both = ask(r#"{app=~"a|b"}"#, 10 * SECOND, &[]);
    assert_eq!((both[0].pattern.as_str(), both[0].level.as_str()), ("took <_> s", "unknown"));
    let second = START / SECOND;
    assert_eq!(both[0].samples, [(second, 2), (second + 10, 2)]);
    assert_eq!((both[1].pattern.as_str(), &both[1].samples[..]), ("other", &[(second, 1)][..]));
    let one = ask(r#"{app="a"}"#, 60 * SECOND, &[]);
    assert_eq!((one.len(), one[0].samples[0]), (1, (second - second % 60, 2)));
    assert_eq!(ask(r#"{app=~"a|b"}"#, SECOND, &[b.streams[1].id]).len(), 1);
    assert!(miner.patterns(&tenant("other"), &selector("{}"), ALL, SECOND, &[]).is_empty());
    let mut streams = miner.streams(&tenant("t"), &selector("{}"), ALL);
    streams.sort_by_key(|s| s.1);
    assert_eq!(streams, [(b.streams[0].id, 2), (b.streams[1].id, 3)]);
    let range = TimeRange::new(START + 10 * SECOND, START + 20 * SECOND);
    assert_eq!(miner.streams(&tenant("t"), &selector(r#"{app="a"}"#), range)[0].1, 1);
}

#[test]
fn what_is_old_is_not_counted_and_goes() {
    let mut miner = Miner::new(Config::default());
    let old = START - 4 * 3600 * SECOND;
    let b = batch(&tenant("t"), &[("a", &[(START, "new", ""), (old, "old", "")])]);
    assert_eq!(mine(&mut miner, &b, START).lines, 1);
    miner.tidy(START + 3600 * SECOND);
    assert_eq!(miner.streams(&tenant("t"), &selector("{}"), ALL)[0].1, 1);
    miner.tidy(START + 4 * 3600 * SECOND);
    assert!(miner.tenants.is_empty());
    assert_eq!(miner.bytes(), 0);
}

#[test]
fn a_flood_is_sampled_and_counted_in_full() {
    let mut miner = Miner::new(Config { max_lines_per_second: 500, ..Config::default() });
    let lines: Vec<_> = (0..5000).map(|i| (START, ["one 1", "two 2"][i % 2], "")).collect();
    let b = batch(&tenant("t"), &[("a", &lines)]);
    let mut looked_at = 0;
    for _ in 0..20 {
        looked_at += mine(&mut miner, &b, START).lines;
    }
    assert!(looked_at < 5000, "{looked_at} lines were looked at");
    let total = miner.streams(&tenant("t"), &selector("{}"), ALL)[0].1;
    assert!(total.abs_diff(100_000) < 10_000, "{total} lines were counted");
}

#[test]
fn memory_is_bounded_by_bytes() {
    let mut miner = Miner::new(Config { max_bytes: 100_000, ..Config::default() });
    let word = |i: usize| (0..4).map(|d| (b'a' + (i >> (4 * d) & 15) as u8) as char).collect::<String>();
    let mut refused = 0;
    for i in 0..2000 {
        let (app, line) = (word(i), format!("{} {}", word(i * 31), word(i * 7)));
        let now = START + i as i64 * SECOND;
        refused += mine(&mut miner, &batch(&tenant("t"), &[(&app, &[(now, &line, "")])]), now).refused;
        assert!(miner.bytes() < 120_000, "{} bytes", miner.bytes());
        if i % 500 == 499 {
            miner.tidy(now);
            assert!(miner.bytes() < 100_000, "{} bytes after tidying", miner.bytes());
        }
    }
    let streams = miner.streams(&tenant("t"), &selector("{}"), ALL).len();
    assert!(refused > 0 && streams > 0, "{refused} lines were refused, {streams} streams are left");
}

fn filled() -> Miner {
    let mut miner = Miner::new(Config::default());
    for i in 0..50 {
        let now = START + i * 30 * SECOND;
        let line = format!("took {i} seconds at <{i}>");
        let b = batch(&tenant("t"), &[("a", &[(now, &line, "")]), ("ü", &[(now, "other", "k")])]);
        mine(&mut miner, &b, now);
        miner.tidy(now);
    }
    miner.lsn = 77;
    miner
}

#[test]
fn what_was_saved_is_read_again_and_damage_is_ignored() {
    let miner = filled();
    let bytes = file::encode(&miner);
    let again = file::decode(&bytes, &miner.config).unwrap();
    assert_eq!(again.lsn, 77);
    let ask = |m: &Miner| {
        let mut all = m.patterns(&tenant("t"), &selector("{}"), ALL, 10 * SECOND, &[]);
        all.sort_by(|a, b| a.pattern.cmp(&b.pattern));
        all
    };
    assert_eq!(ask(&again), ask(&miner));
    assert_eq!(ask(&again).len(), 2);
    for cut in 0..bytes.len() {
        assert!(file::decode(&bytes[..cut], &miner.config).is_none());
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x55;
        assert!(file::decode(&changed, &miner.config).is_none(), "byte {at}");
    }
}

proptest! {
    /// A checksum does not keep a file from being wrong that another version wrote.
    #[test]
    fn any_body_with_a_right_checksum_is_read_without_panic(change in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let mut bytes = file::encode(&filled());
        let body = 13..bytes.len() - 4;
        for (at, byte) in change {
            let at = body.start + at.index(body.len());
            bytes[at] = byte;
        }
        let crc = crc32fast::hash(&bytes[body.clone()]);
        bytes[body.end..].copy_from_slice(&crc.to_le_bytes());
        if let Some(mut miner) = file::decode(&bytes, &Config::default()) {
            miner.tidy(START);
            miner.patterns(&tenant("t"), &selector("{}"), ALL, SECOND, &[]);
        }
    }
}

async fn count(node: &Node, app: &str) -> u64 {
    let request = PatternsRequest {
        tenant: tenant("t"),
        selector: format!(r#"{{app="{app}"}}"#),
        range: ALL,
        step: 60 * SECOND,
        exclude: vec![],
    };
    let patterns = node.ingester.patterns(request).await.unwrap();
    assert!(patterns.iter().all(|p| p.pattern == "took <_> s"), "{patterns:?}");
    patterns.iter().flat_map(|p| &p.samples).map(|s| s.1).sum()
}

async fn await_count(node: &Node, app: &str, expected: u64) {
    while count(node, app).await != expected {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_outlive_a_restart_and_a_replay_counts_only_what_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::alone(config(dir.path()), Limits::default()).await;
    node.push("t", &[("a", &[(START, "took 1 s", ""), (START, "took 2 s", "")])]).await.unwrap();
    await_count(&node, "a", 2).await;
    node.ingester.stop().await;

    let saved = std::fs::read(file::path(dir.path())).unwrap();
    let node = Node::alone(config(dir.path()), Limits::default()).await;
    await_count(&node, "a", 2).await;
    node.push("t", &[("a", &[(START, "took 3 s", "")])]).await.unwrap();
    await_count(&node, "a", 3).await;
    node.ingester.stop().await;

    // As after a crash: the file is behind the log.
    std::fs::write(file::path(dir.path()), saved).unwrap();
    let node = Node::alone(config(dir.path()), Limits::default()).await;
    await_count(&node, "a", 3).await;
    node.ingester.stop().await;

    std::fs::write(file::path(dir.path()), b"torn").unwrap();
    let node = Node::alone(config(dir.path()), Limits::default()).await;
    await_count(&node, "a", 3).await;
    node.ingester.stop().await;

    let off = Config { enabled: false, retain_for: Duration::ZERO, ..Config::default() };
    let node = Node::alone(crate::Config { patterns: off, ..config(dir.path()) }, Limits::default()).await;
    assert_eq!(count(&node, "a").await, 0);
    node.ingester.stop().await;
}

#[tokio::test]
async fn batches_without_room_are_stood_for_by_the_next() {
    let node_dir = tempfile::tempdir().unwrap();
    let metrics = crate::metrics::Metrics::of_test().patterns;
    let (patterns, mut queue) = Patterns::open(&Config::default(), Some(node_dir.path()), &metrics);
    let memory = skald_runtime::memory::Memory::new(64 << 20);
    let lines: Vec<_> = (0..100).map(|i| (START + i, "took 1 s", "")).collect();
    let held = |lsn| {
        let reservation = memory.try_reserve(QUEUE_BYTES / 2).unwrap();
        Arc::new(HeldBatch::new(
            batch(&tenant("t"), &[("a", &lines)]),
            lsn,
            PushStamp::default(),
            reservation,
        ))
    };
    for lsn in 1..=4 {
        patterns.offer(&tenant("t"), &held(lsn));
    }
    assert_eq!(metrics.skipped_batches.get(), 2);
    while let Ok((id, held)) = queue.try_recv() {
        patterns.look_at(&id, &held, START).await;
    }
    assert_eq!(patterns.streams(&tenant("t"), &selector("{}"), ALL)[0].1, 400);
    patterns.offer(&tenant("t"), &held(5));
    assert_eq!(metrics.skipped_batches.get(), 2, "there is room again");
}
