use super::*;
use crate::ast::Expr;
use proptest::prelude::*;
use skald_model::{Labels, LabelsRef};

const SECOND: i64 = 1_000_000_000;

fn compile(query: &str) -> MetricQuery {
    let Expr::Metric(expr) = crate::parse(query).unwrap() else { panic!("a metric query") };
    MetricQuery::compile(&expr).unwrap()
}

/// Entries: seconds, pod, value of `v` in the line.
type Entry = (i64, u8, i64);

fn partials(query: &MetricQuery, steps: Steps, entries: &[Entry]) -> Vec<Partial> {
    let one = |leaf: &std::sync::Arc<RangeLeaf>| {
        let mut observer = leaf.observer(steps).unwrap();
        for (t, pod, v) in entries {
            let stream = Labels::from_pairs([("app", "a"), ("pod", pod.to_string().as_str())]);
            let line = format!("v={v} g={}", v % 3);
            if leaf.predicate.matches(line.as_bytes()) {
                observer.observe(t * SECOND, line.as_bytes(), &stream, LabelsRef::EMPTY).unwrap();
            }
        }
        observer.finish()
    };
    query.leaves().iter().map(one).collect()
}

const LIMITS: QueryLimits = QueryLimits { max_series: 500 };

fn show(value: &QueryValue) -> String {
    match value {
        QueryValue::Scalar(_, v) => v.to_string(),
        QueryValue::Vector(v) => v.iter().map(|s| format!("{} {}\n", s.labels, s.value)).collect(),
        QueryValue::Matrix(m) => m
            .iter()
            .map(|s| {
                let points: Vec<String> =
                    s.points.iter().map(|(t, v)| format!("{}:{v}", t / SECOND)).collect();
                format!("{} {}\n", s.labels, points.join(" "))
            })
            .collect(),
    }
}

fn run(query: &str, steps: Steps, entries: &[Entry]) -> Result<String, String> {
    let query = compile(query);
    let partials = partials(&query, steps, entries);
    query.evaluate(&partials, steps, LIMITS).map(|v| show(&v)).map_err(|e| e.message)
}

const ENTRIES: &[Entry] = &[(1, 0, 5), (2, 1, 7), (10, 0, 9), (11, 0, 1), (20, 1, 4)];

#[test]
fn windows_are_open_on_the_left() {
    let steps = Steps::range(0, 30 * SECOND, 10 * SECOND);
    let got = run(r#"sum(count_over_time({app="a"}[10s]))"#, steps, ENTRIES);
    assert_eq!(got.unwrap(), "{} 10:3 20:2\n");
    let got = run(r#"sum by (pod) (count_over_time({app="a"}[15s] offset 5s))"#, steps, ENTRIES);
    assert_eq!(got.unwrap(), "{pod=\"0\"} 10:1 20:3 30:1\n{pod=\"1\"} 10:1 20:1 30:1\n");
}

#[test]
fn aggregations_of_values() {
    let steps = Steps::instant(20 * SECOND);
    for (query, want) in [
        (
            r#"sum_over_time({app="a"} | logfmt | keep pod, v | unwrap v [20s])"#,
            "{pod=\"0\"} 15\n{pod=\"1\"} 11\n",
        ),
        (r#"max_over_time({app="a"} | logfmt | unwrap v [20s]) by (app)"#, "{app=\"a\"} 9\n"),
        (r#"first_over_time({app="a"} | logfmt | unwrap v [20s]) by (app)"#, "{app=\"a\"} 5\n"),
        (r#"quantile_over_time(0.5, {app="a"} | logfmt | unwrap v [20s]) by (app)"#, "{app=\"a\"} 5\n"),
        (
            r#"stdvar_over_time({app="a"} | logfmt | unwrap v [20s]) by (app)"#,
            "{app=\"a\"} 7.359999999999999\n",
        ),
        (r#"topk(1, sum by (pod) (count_over_time({app="a"}[20s])))"#, "{pod=\"0\"} 3\n"),
        (r#"absent_over_time({app="x", b=~"c"} |= "nothing" [20s])"#, "{app=\"x\"} 1\n"),
        (r#"sum(count_over_time({app="a"}[20s])) / 0"#, "{} NaN\n"),
        (r#"2 > bool sum(count_over_time({app="a"}[20s]))"#, "{} 0\n"),
        (
            r#"vector(1) or sum by (pod) (count_over_time({app="a"}[20s]))"#,
            "{} 1\n{pod=\"0\"} 3\n{pod=\"1\"} 2\n",
        ),
        ("2 ^ 10", "1024"),
    ] {
        assert_eq!(run(query, steps, ENTRIES).as_deref(), Ok(want), "{query}");
    }
}

#[test]
fn an_entry_with_an_error_fails_the_query() {
    let steps = Steps::instant(20 * SECOND);
    let e = run(r#"sum by (g) (count_over_time({app="a"} | json [20s]))"#, steps, ENTRIES).unwrap_err();
    assert!(e.starts_with("pipeline error: 'JSONParserErr' for series: '{__error__="), "{e}");
    // Without a label to look for nothing is parsed, as in Loki.
    assert_eq!(run(r#"sum(count_over_time({app="a"} | json [20s]))"#, steps, ENTRIES).unwrap(), "{} 5\n");
    let none = run(r#"sum(count_over_time({app="a"} | json | __error__="" [20s]))"#, steps, ENTRIES);
    assert_eq!(none.unwrap(), "");
    let ok = run(r#"sum by (__error__) (count_over_time({app="a"} | json [20s]))"#, steps, ENTRIES);
    assert_eq!(ok.unwrap(), "{__error__=\"JSONParserErr\"} 5\n");
}

#[test]
fn matching_that_is_not_unique_fails() {
    let steps = Steps::instant(20 * SECOND);
    let by_pod = r#"sum by (app, pod) (count_over_time({app="a"}[20s]))"#;
    let e = run(&format!("{by_pod} / on (app) {by_pod}"), steps, ENTRIES).unwrap_err();
    assert!(e.starts_with("found duplicate series on the right hand-side"), "{e}");
    let e = run(&format!("{by_pod} / on (app) sum by (app) ({by_pod})"), steps, ENTRIES).unwrap_err();
    assert!(e.starts_with("multiple matches for labels: many-to-one"), "{e}");
    let ok = run(&format!("{by_pod} / on (app) group_left sum by (app) ({by_pod})"), steps, ENTRIES);
    assert_eq!(ok.unwrap(), "{app=\"a\", pod=\"0\"} 0.6\n{app=\"a\", pod=\"1\"} 0.4\n");
}

#[test]
fn what_a_state_takes_is_counted_as_it_grows() {
    for query in [
        r#"sum by (pod) (count_over_time({app="a"}[10s]))"#,
        r#"quantile_over_time(0.9, {app="a"} | logfmt | unwrap v [10s]) by (pod)"#,
        r#"rate_counter({app="a"} | logfmt | unwrap v [10s])"#,
    ] {
        let query = compile(query);
        let mut observer = query.leaves()[0].observer(Steps::range(0, 100 * SECOND, 10 * SECOND)).unwrap();
        for i in 0..5000 {
            let stream = Labels::from_pairs([("app", "a"), ("pod", (i % 100).to_string().as_str())]);
            let line = format!("v={i}");
            observer.observe(i % 90 * SECOND, line.as_bytes(), &stream, LabelsRef::EMPTY).unwrap();
        }
        let counted = observer.memory_bytes();
        let state = observer.finish().memory_bytes();
        // The observer remembers what the labels of its series look like, too.
        assert!((state..2 * state).contains(&counted), "{counted} counted, {state} taken");
    }
}

#[test]
fn many_values_are_sketched() {
    let query = compile(r#"quantile_over_time(0.9, {a="b"} | logfmt | unwrap v [100h]) by (app)"#);
    let steps = Steps::instant(100_000 * SECOND);
    let entries: Vec<Entry> = (1..=40_000).map(|i| (i, 0, i)).collect();
    let mut merged = partials(&query, steps, &entries[..20_000]);
    for part in partials(&query, steps, &entries[20_000..]) {
        merged[0].merge(Partial::decode(&part.encode()).unwrap());
    }
    let QueryValue::Vector(v) = query.evaluate(&merged, steps, LIMITS).unwrap() else { panic!("a vector") };
    assert!((v[0].value / 36_000.0 - 1.0).abs() < 0.006, "{}", v[0].value);
    assert!(merged[0].memory_bytes() < 64 << 10);
}

#[test]
fn counting_by_times_alone_is_counting() {
    let query = compile(r#"sum by (pod) (rate({a="b"}[25s]))"#);
    let steps = Steps::range(0, 100 * SECOND, 10 * SECOND);
    let leaf = &query.leaves()[0];
    assert!(leaf.counts_only());
    let mut observer = leaf.observer(steps).unwrap();
    for (t, pod, _) in ENTRIES {
        let stream = Labels::from_pairs([("app", "a"), ("pod", pod.to_string().as_str())]);
        observer.observe_times(&[t * SECOND], &stream).unwrap();
    }
    let by_times = query.evaluate(&[observer.finish()], steps, LIMITS).unwrap();
    assert_eq!(by_times, query.evaluate(&partials(&query, steps, ENTRIES), steps, LIMITS).unwrap());
}

proptest! {
    /// Tasks may be cut in any way: merging their states, encoded and decoded, gives what one task gives.
    #[test]
    fn splitting_and_merging_changes_nothing(
        entries in prop::collection::vec((0i64..100, 0u8..3, -5i64..50), 0..40),
        cuts in prop::collection::vec(0usize..4, 40),
        op in prop::sample::select(vec![
            "count_over_time({a=\"b\"}[W])", "rate({a=\"b\"}[W])", "bytes_over_time({a=\"b\"} |= \"1\" [W])",
            "sum_over_time({a=\"b\"} | logfmt | unwrap v [W])", "avg_over_time({a=\"b\"} | logfmt | unwrap v [W]) by (g)",
            "min_over_time({a=\"b\"} | logfmt | unwrap v [W]) by (pod)", "max_over_time({a=\"b\"} | logfmt | unwrap v [W]) by (app)",
            "stddev_over_time({a=\"b\"} | logfmt | unwrap v [W]) by (app)", "quantile_over_time(0.7, {a=\"b\"} | logfmt | unwrap v [W]) by (app)",
            "rate_counter({a=\"b\"} | logfmt | keep app, v | unwrap v [W])", "absent_over_time({a=\"b\"}[W])",
            "sum by (pod) (count_over_time({a=\"b\"} | logfmt | g=`1` [W])) / 2",
        ]),
        window in prop::sample::select(vec!["7s", "10s", "25s", "30s"]),
        step in prop::sample::select(vec![3i64, 10, 20]),
    ) {
        // Counters and the like need an order among entries of one time; there is none between tasks.
        let mut entries = entries;
        entries.sort_by_key(|e| e.0);
        entries.dedup_by_key(|e| e.0);
        let query = compile(&op.replace('W', window));
        let steps = Steps::range(0, 100 * SECOND, step * SECOND);
        let at_once = query.evaluate(&partials(&query, steps, &entries), steps, LIMITS);
        let mut merged: Vec<Partial> = partials(&query, steps, &[]);
        for task in 0..4 {
            let part: Vec<Entry> =
                entries.iter().zip(&cuts).filter(|(_, c)| **c == task).map(|(e, _)| *e).collect();
            for (all, part) in merged.iter_mut().zip(partials(&query, steps, &part)) {
                all.merge(Partial::decode(&part.encode()).unwrap());
            }
        }
        let apart = query.evaluate(&merged, steps, LIMITS);
        let (a, b) = (at_once.unwrap(), apart.unwrap());
        let (QueryValue::Matrix(a), QueryValue::Matrix(b)) = (a, b) else { panic!("matrices") };
        prop_assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(&b) {
            prop_assert_eq!(&a.labels, &b.labels);
            prop_assert_eq!(a.points.len(), b.points.len());
            for (p, q) in a.points.iter().zip(&b.points) {
                prop_assert_eq!(p.0, q.0);
                prop_assert!((p.1 - q.1).abs() <= 1e-9 * p.1.abs().max(1.0), "{:?} {:?}", p, q);
            }
        }
    }

    #[test]
    fn any_bytes_are_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = Partial::decode(&bytes);
    }
}
