use std::sync::Arc;

use proptest::prelude::*;
use skald_model::{Direction, LogEntry, PushStamp, TimeRange};
use skald_rpc::memory::QueryMemory;
use skald_rpc::querier::{LogResult, LogTask};
use std::collections::HashSet;

use super::*;
use crate::samples::{Sample, batch, tenant};
use crate::segment::{HeldBatch, Segment};
use skald_runtime::memory::Memory;

/// A segment of one push.
fn segment(lsn: u64, streams: &[(&str, &[Sample<'_>])]) -> Arc<Segment> {
    let reservation = Memory::new(1 << 20).try_reserve(64).unwrap();
    let mut segment = Segment::default();
    segment.insert(HeldBatch::new(batch(&tenant("t"), streams), lsn, PushStamp::default(), reservation));
    Arc::new(segment)
}

fn task(query: &str, direction: Direction, limit: usize) -> LogTask {
    LogTask {
        tenant: tenant("t"),
        query: query.into(),
        range: TimeRange::ALL,
        direction,
        limit,
        version: -1,
        blocks: Vec::new(),
        max_bytes: u64::MAX,
        removals: None,
    }
}

fn run(segments: &[Arc<Segment>], task: &LogTask) -> Result<LogResult> {
    let mut share = QueryMemory::default().share();
    query_logs(segments, &parse_log(&task.query)?, task, &mut share, &Cancelled::default())
}

fn show(e: &LogEntry) -> String {
    format!("{}{}", e.timestamp, String::from_utf8_lossy(&e.line))
}

#[track_caller]
fn check(segments: &[Arc<Segment>], query: &str, direction: Direction, limit: usize, expected: &[&str]) {
    let got: Vec<_> =
        run(segments, &task(query, direction, limit)).unwrap().entries.iter().map(show).collect();
    assert_eq!(got, expected, "{query} {direction:?} {limit}");
}

use Direction::{Backward, Forward};

#[test]
fn gives_the_first_entries_of_the_direction_over_streams_and_segments() {
    let segments = [
        segment(1, &[("a", &[(1, "x", ""), (4, "y", "")]), ("b", &[(2, "x", "")])]),
        segment(2, &[("a", &[(3, "z", "")]), ("c", &[(5, "x", "")])]),
    ];
    check(&segments, r#"{app=~"a|b"}"#, Forward, 9, &["1x", "2x", "3z", "4y"]);
    check(&segments, r#"{app=~"a|b"}"#, Backward, 2, &["4y", "3z"]);
    check(&segments, r#"{app=~".+"} |= "x""#, Backward, 2, &["5x", "2x"]);
    check(&segments, r#"{app=~".+"} != "x""#, Forward, 9, &["3z", "4y"]);
    check(&segments, r#"{app="nothing"}"#, Forward, 9, &[]);
    check(&segments, r#"{app=~".+"}"#, Forward, 0, &[]);
}

#[test]
fn copies_in_several_segments_are_one_entry_and_ties_keep_their_order() {
    let segments = [
        segment(1, &[("a", &[(1, "p", ""), (1, "q", "m"), (2, "r", "")])]),
        segment(2, &[("a", &[(1, "q", "m"), (1, "q", ""), (2, "r", "")])]),
    ];
    let result = run(&segments, &task(r#"{app="a"}"#, Forward, 9)).unwrap();
    assert_eq!(result.entries.iter().map(show).collect::<Vec<_>>(), ["1p", "1q", "1q", "2r"]);
    assert_eq!((result.stats.duplicates, result.stats.streams, result.stats.head_lines), (2, 1, 6));
    let backward: Vec<_> = run(&segments, &task(r#"{app="a"}"#, Backward, 9)).unwrap().entries;
    let metadata = |e: &LogEntry| e.labels.structured_metadata.get("k").unwrap_or("").to_owned();
    assert_eq!(backward.iter().map(show).collect::<Vec<_>>(), ["2r", "1q", "1q", "1p"]);
    assert_eq!(backward.iter().map(metadata).collect::<Vec<_>>(), ["", "", "m", ""]);
}

#[test]
fn stages_run_and_their_labels_are_kept_apart() {
    let segments = [segment(1, &[("a", &[(1, "level=info n=1", "m"), (2, "level=warn n=2", "")])])];
    let result =
        run(&segments, &task(r#"{app="a"} | logfmt | level="info" | line_format "{{.n}}""#, Backward, 9));
    let entries = result.unwrap().entries;
    assert_eq!(entries.iter().map(show).collect::<Vec<_>>(), ["11"]);
    let labels = &entries[0].labels;
    assert_eq!(labels.stream.get("app"), Some("a"));
    assert_eq!(labels.structured_metadata.get("k"), Some("m"));
    assert_eq!(labels.parsed.get("level"), Some("info"));
}

#[test]
fn ranges_are_half_open_and_budgets_are_kept() {
    let segments = [segment(1, &[("a", &[(1, "xx", ""), (2, "yy", ""), (3, "zz", "")])])];
    let mut t = task(r#"{app="a"}"#, Forward, 9);
    t.range = TimeRange::new(2, 3);
    assert_eq!(run(&segments, &t).unwrap().entries.iter().map(show).collect::<Vec<_>>(), ["2yy"]);
    t.range = TimeRange::ALL;
    t.max_bytes = 5;
    let error = run(&segments, &t).unwrap_err();
    assert!(error.message.contains("max_query_bytes_read"), "{error}");
}

#[test]
fn what_is_not_a_log_query_is_refused_and_invalid_stages_only_where_they_meet_a_stream() {
    assert!(parse_log(r#"rate({app="a"}[1m])"#).is_err());
    assert!(parse_log("{").is_err());
    assert!(parse_selectors(&["{app=\"a\"}".into(), "nonsense".into()]).is_err());
    let segments = [segment(1, &[("a", &[(1, "x", "")])])];
    let run = |selector: &str| {
        let mut query = parse_log(selector).unwrap();
        query.invalid = skald_logql::parse("{").err();
        let mut share = QueryMemory::default().share();
        query_logs(&segments, &query, &task(selector, Forward, 9), &mut share, &Cancelled::default())
    };
    assert!(run(r#"{app="a"}"#).is_err());
    assert!(run(r#"{app="b"}"#).unwrap().entries.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_told_when_nobody_waits_any_more() {
    let pool = Arc::new(Pool::new(1));
    let (started, on_start) = tokio::sync::oneshot::channel();
    let (ended, on_end) = tokio::sync::oneshot::channel();
    let of_caller = pool.clone();
    let caller = tokio::spawn(async move {
        let work = move |cancelled: &Cancelled| {
            let _ = started.send(());
            while cancelled.check().is_ok() {
                std::thread::yield_now();
            }
            let _ = ended.send(());
            Ok(())
        };
        of_caller.run(work).await
    });
    on_start.await.unwrap();
    caller.abort();
    on_end.await.unwrap();
    assert_eq!(pool.run(|_| Ok(7)).await.unwrap().0, 7);
}

#[test]
fn streams_are_told_with_what_is_known_of_them() {
    let segments = [
        segment(1, &[("b", &[(1, "x", "")]), ("a", &[(1, "xx", ""), (4, "y", "")])]),
        segment(2, &[("a", &[(3, "zzz", "")])]),
    ];
    let find = |selectors: &[&str], range| {
        let selectors: Vec<_> = selectors.iter().map(|s| (*s).to_owned()).collect();
        let selectors = parse_selectors(&selectors).unwrap();
        let found = streams(&segments, &selectors, range, None, &Cancelled::default()).unwrap().streams;
        let show = |s: &skald_rpc::ingester::StreamInfo| {
            (s.labels.get("app").unwrap().to_owned(), s.min_ts, s.max_ts, s.entries, s.bytes)
        };
        found.iter().map(show).collect::<Vec<_>>()
    };
    assert_eq!(find(&[], TimeRange::ALL), [("a".into(), 1, 4, 3, 6), ("b".into(), 1, 1, 1, 1)]);
    assert_eq!(find(&[r#"{app="a"}"#], TimeRange::new(2, 5)), [("a".into(), 3, 4, 2, 4)]);
    assert_eq!(find(&[r#"{app="b"}"#, r#"{app="c"}"#], TimeRange::new(2, 5)), []);
}

proptest! {
    #[test]
    fn is_like_sorting_everything(
        pushes in proptest::collection::vec(
            proptest::collection::vec((0usize..3, 0i64..6, "[xy]{1,2}"), 0..10), 0..5),
        needle in "[xy]{0,2}", limit in 1usize..12, backward in any::<bool>(),
        start in 0i64..3, len in 1i64..6,
    ) {
        let names = ["a", "b", "c"];
        let mut all = std::collections::BTreeSet::new();
        let segments: Vec<_> = pushes.iter().enumerate().map(|(lsn, push)| {
            let mut by_stream: Vec<Vec<Sample<'_>>> = vec![Vec::new(); 3];
            for (s, t, line) in push {
                by_stream[*s].push((*t, line, ""));
                all.insert((*t, names[*s], line.clone()));
            }
            let streams: Vec<_> = names.iter().zip(&by_stream).map(|(n, e)| (*n, e.as_slice())).collect();
            segment(lsn as u64 + 1, &streams)
        }).collect();
        let direction = if backward { Backward } else { Forward };
        let mut t = task(&format!(r#"{{app=~"a|b"}} |= "{needle}""#), direction, limit);
        t.range = TimeRange::new(start, start + len);
        let got = run(&segments, &t).unwrap().entries;
        let mut expected: Vec<_> = all
            .into_iter()
            .filter(|(time, name, line)| t.range.contains(*time) && *name != "c" && line.contains(&needle))
            .collect();
        if backward {
            expected.reverse();
        }
        let times: Vec<_> = expected.iter().take(limit).map(|e| e.0).collect();
        prop_assert_eq!(got.iter().map(|e| e.timestamp).collect::<Vec<_>>(), times);
        let key = |e: &LogEntry| {
            (e.timestamp, e.labels.stream.get("app").unwrap().to_owned(), String::from_utf8(e.line.to_vec()).unwrap())
        };
        let mut keys: Vec<_> = got.iter().map(key).collect();
        keys.sort();
        keys.dedup();
        prop_assert_eq!(keys.len(), got.len(), "nothing twice");
        let known: Vec<_> = expected.iter().map(|(t, n, l)| (*t, (*n).to_owned(), l.clone())).collect();
        prop_assert!(keys.iter().all(|k| known.contains(k)));
    }
}

#[test]
fn range_aggregations_count_each_entry_once_and_by_shard() {
    use skald_logql::metric::{Partial, QueryLimits, Steps};
    use skald_model::{EntryHash, LabelsRef, StreamId};
    use skald_rpc::querier::{MetricResult, MetricTask};
    const S: i64 = 1_000_000_000;
    let segments = [
        segment(1, &[("a", &[(S, "x", ""), (2 * S, "y", "")]), ("b", &[(S, "x", "")])]),
        segment(2, &[("a", &[(2 * S, "y", ""), (3 * S, "x", "")])]),
    ];
    let text = r#"sum(count_over_time({app=~"a|b"} |= "x" [10s])) + sum(count_over_time({app="a"}[10s]))"#;
    let query = parse_metric(text).unwrap();
    let run_without = |shard, exclude: &[(StreamId, EntryHash)]| {
        let task = MetricTask {
            tenant: tenant("t"),
            query: text.into(),
            start: 5 * S,
            end: 5 * S,
            step: 0,
            version: -1,
            blocks: Vec::new(),
            shard,
            max_bytes: u64::MAX,
            exclude: Arc::new(exclude.iter().copied().collect()),
            cut: None,
            skip: Arc::default(),
            removals: None,
        };
        let mut share = QueryMemory::default().share();
        query_metric(&segments, &query, &task, &mut share, &Cancelled::default()).unwrap()
    };
    let run = |shard| run_without(shard, &[]);
    let whole = run((0, 1));
    assert_eq!((whole.stats.duplicates, whole.stats.post_filter_lines), (1, 6));
    let states = MetricResult::unpack(&whole.partials).unwrap();
    let states: Vec<_> = states.into_iter().map(|s| Partial::decode(s).unwrap()).collect();
    let value = query.evaluate(&states, Steps::instant(5 * S), QueryLimits { max_series: 9 }).unwrap();
    assert!(format!("{value:?}").contains("6.0"), "three with x and three of a: {value:?}");
    let counted = |n| run((n, 2)).stats.post_filter_lines;
    assert_eq!(counted(0) + counted(1), 6, "shards divide the streams");
    let a = &segments[0].streams()[0];
    let in_table = (a.id, EntryHash::of(S, b"x", LabelsRef::EMPTY));
    let rest = run_without((0, 1), &[in_table]);
    assert_eq!(rest.stats.post_filter_lines, 4, "both aggregations leave it out");
}

#[test]
fn what_a_query_holds_is_held_against_the_memory_of_queries() {
    use skald_model::Kind;
    use skald_rpc::memory::QueryMemoryConfig;
    let line = "x".repeat(100_000);
    let entries: Vec<Sample<'_>> = (0..20).map(|t| (t, line.as_str(), "")).collect();
    let segments = [segment(1, &[("a", &entries)])];
    let run = |query_max, limit| {
        let config = QueryMemoryConfig { budget: 1 << 20, query_max, ..QueryMemoryConfig::default() };
        let mut share = QueryMemory::new(&config).share();
        let task = task(r#"{app="a"}"#, Direction::Forward, limit);
        query_logs(&segments, &parse_log(&task.query).unwrap(), &task, &mut share, &Cancelled::default())
    };
    assert_eq!(run(1 << 20, 9).unwrap().entries.len(), 9);
    let error = run(1 << 20, 20).unwrap_err();
    assert!(
        error.kind == Kind::InvalidArgument && error.message.contains("querier.query_memory_max"),
        "{error}"
    );
}

#[test]
fn volumes_are_counted_entry_by_entry() {
    use skald_model::{StepVolume, VolumeGroups, VolumeSpec};
    let segments = [
        segment(1, &[("a", &[(1, "xx", ""), (12, "y", "meta"), (25, "z", "")])]),
        segment(2, &[("a", &[(13, "zzz", "")]), ("b", &[(14, "q", "")])]),
    ];
    let count = |step, selector: &str, range| {
        let spec = VolumeSpec { step, groups: VolumeGroups::Streams, whole_kib: false };
        let selectors = parse_selectors(&[selector.to_owned()]).unwrap();
        volumes(&segments, &selectors, range, spec, &HashSet::new(), None, &Cancelled::default()).unwrap()
    };
    let metadata = skald_model::volume::metadata_text_bytes(
        segments[0].batches().metadata(&segments[0].streams()[0].rows[1]),
    );
    assert!(metadata > 4);
    let all = count(0, r#"{app=~".+"}"#, TimeRange::ALL);
    let a = StepVolume { step: 0, chunks: 2, entries: 4, bytes: 7 + metadata };
    let b = StepVolume { step: 0, chunks: 1, entries: 1, bytes: 1 };
    assert_eq!(all.iter().map(|g| g.steps.clone()).collect::<Vec<_>>(), [[a], [b]]);
    let cut = count(10, r#"{app="a"}"#, TimeRange::new(2, 26));
    let steps = [
        StepVolume { step: 1, chunks: 2, entries: 2, bytes: 4 + metadata },
        StepVolume { step: 2, chunks: 1, entries: 1, bytes: 1 },
    ];
    assert_eq!(cut[0].steps, steps);
}
