//! Queries over memory with rules of removal, against a model that looks at every row.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use proptest::prelude::*;
use skald_logql::metric::{Partial, QueryLimits, QueryValue, Steps};
use skald_model::removal::{CutoffRule, DeleteRule, NEVER, RemovalSpec};
use skald_model::{Direction, PushStamp, StreamId, TimeRange, VolumeGroups, VolumeSpec};
use skald_rpc::ingester::IdentitiesRequest;
use skald_rpc::memory::QueryMemory;
use skald_rpc::querier::{LogTask, MetricResult, MetricTask};
use skald_runtime::memory::Memory;

use super::*;
use crate::samples::{Sample, batch, tenant};
use crate::segment::{HeldBatch, Segment};

const APPS: [&str; 2] = ["a", "b"];
const LINES: [&str; 2] = ["plain", "secret"];

/// A push: its second, and its entries by stream, time and line.
type Push = (i64, BTreeSet<(usize, i64, usize)>);

#[derive(Clone, Debug)]
struct Rule {
    app: usize,
    line: Option<usize>,
    range: (i64, i64),
    accepted: i64,
}

/// Segments of consecutive pushes. Each entry comes once, so that it has one time at which it came.
fn segments(pushes: &[Push], per_segment: usize) -> Vec<Arc<Segment>> {
    let memory = Memory::new(1 << 20);
    let mut lsn = 0;
    let segment = |pushes: &[Push]| {
        let mut segment = Segment::new(true);
        for (second, entries) in pushes {
            let of = |app: usize| -> Vec<Sample<'_>> {
                entries.iter().filter(|e| e.0 == app).map(|e| (e.1, LINES[e.2], "")).collect()
            };
            let (a, b) = (of(0), of(1));
            let batch = batch(&tenant("t"), &[(APPS[0], &a), (APPS[1], &b)]);
            lsn += 1;
            let stamp = PushStamp::unnumbered(*second);
            segment.insert(HeldBatch::new(batch, lsn, stamp, memory.try_reserve(1).unwrap()));
        }
        Arc::new(segment)
    };
    pushes.chunks(per_segment).map(segment).collect()
}

fn spec(rules: &[Rule], cutoff: i64) -> Arc<RemovalSpec> {
    let deletes = rules.iter().zip(1..).map(|(r, generation)| DeleteRule {
        generation,
        accepted: r.accepted,
        range: TimeRange::new(r.range.0, r.range.1),
        query: match r.line {
            None => format!(r#"{{app="{}"}}"#, APPS[r.app]),
            Some(line) => format!(r#"{{app="{}"}} |= "{}""#, APPS[r.app], LINES[line]),
        }
        .into(),
    });
    Arc::new(RemovalSpec {
        generation: 9,
        deletes: deletes.collect(),
        cutoffs: vec![CutoffRule { selector: r#"{app="b"}"#.into(), cutoff }],
        cutoff: NEVER,
    })
}

fn pushes() -> impl Strategy<Value = Vec<Push>> {
    let entry = (0..2usize, 0..20i64, 0..2usize);
    let pushes = prop::collection::vec((0..8i64, prop::collection::btree_set(entry, 0..8)), 1..5);
    pushes.prop_map(|mut pushes| {
        let mut seen = BTreeSet::new();
        for (_, entries) in &mut pushes {
            entries.retain(|e| seen.insert(*e));
        }
        pushes
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = (0..2usize, prop::option::of(0..2usize), (0..20i64, 1..20i64), 0..8i64);
    let rule = rule.prop_map(|(app, line, (start, length), accepted)| Rule {
        app,
        line,
        range: (start, start + length),
        accepted,
    });
    prop::collection::vec(rule, 0..3)
}

proptest! {
    #[test]
    fn queries_see_what_is_left(
        pushes in pushes(), per_segment in 1..4usize, rules in rules(), cutoff in 0..20i64,
    ) {
        let takes = |r: &Rule, second: i64, (app, time, line): (usize, i64, usize)| {
            r.app == app && r.line.is_none_or(|l| l == line)
                && (r.range.0..r.range.1).contains(&time) && second <= r.accepted
        };
        let mut expected = BTreeSet::new();
        for (second, entries) in &pushes {
            let stays = |e: &&(usize, i64, usize)| {
                (e.0 == 0 || e.1 >= cutoff) && !rules.iter().any(|r| takes(r, *second, **e))
            };
            expected.extend(entries.iter().filter(stays).copied());
        }
        let segments = segments(&pushes, per_segment);
        let removals = Some(spec(&rules, cutoff));
        let (cancelled, mut share) = (Cancelled::default(), QueryMemory::default().share());

        let task = LogTask {
            tenant: tenant("t"),
            query: r#"{app=~".+"}"#.into(),
            range: TimeRange::ALL,
            direction: Direction::Backward,
            limit: 1000,
            version: -1,
            blocks: Vec::new(),
            max_bytes: u64::MAX,
            removals: removals.clone(),
        };
        let query = parse_log(&task.query).unwrap();
        let found = query_logs(&segments, &query, &task, &mut share, &cancelled).unwrap().entries;
        let place = |all: &[&str], text: &str| all.iter().position(|x| *x == text).unwrap();
        let row = |e: &skald_model::LogEntry| {
            let line = std::str::from_utf8(&e.line).unwrap();
            (place(&APPS, e.labels.stream.get("app").unwrap()), e.timestamp, place(&LINES, line))
        };
        let rows: Vec<_> = found.iter().map(row).collect();
        prop_assert_eq!(rows.iter().copied().collect::<BTreeSet<_>>(), expected.clone());
        prop_assert_eq!(rows.len(), expected.len());

        let text = r#"count_over_time({app=~".+"}[1h])"#;
        let task = MetricTask {
            tenant: tenant("t"),
            query: text.into(),
            start: 100,
            end: 100,
            step: 0,
            version: -1,
            blocks: Vec::new(),
            shard: (0, 1),
            max_bytes: u64::MAX,
            exclude: Arc::default(),
            cut: None,
            skip: Arc::default(),
            removals: removals.clone(),
        };
        let query = parse_metric(text).unwrap();
        let result = query_metric(&segments, &query, &task, &mut share, &cancelled).unwrap();
        let states = MetricResult::unpack(&result.partials).unwrap();
        let states: Vec<_> = query.leaves().iter().zip(states).map(|(leaf, state)| match state {
            [] => leaf.empty(),
            state => Partial::decode(state).unwrap(),
        }).collect();
        let value = query.evaluate(&states, Steps::instant(100), QueryLimits { max_series: 0 }).unwrap();
        let QueryValue::Vector(samples) = value else { panic!("{value:?}") };
        let counted: BTreeMap<_, _> =
            samples.iter().map(|s| (place(&APPS, s.labels.get("app").unwrap()), s.value as usize)).collect();
        let count = |app: usize| expected.iter().filter(|e| e.0 == app).count();
        let counts: BTreeMap<_, _> = (0..2).map(|a| (a, count(a))).filter(|(_, n)| *n > 0).collect();
        prop_assert_eq!(counted, counts.clone());

        // In memory these are exact, too.
        let removing = || Removing::of(removals.as_ref()).unwrap();
        let held = streams(&segments, &[], TimeRange::ALL, removing(), &cancelled).unwrap().streams;
        let held: BTreeMap<_, _> =
            held.iter().map(|s| (place(&APPS, s.labels.get("app").unwrap()), s.entries as usize)).collect();
        prop_assert_eq!(held, counts.clone());
        let volume = VolumeSpec { step: 0, groups: VolumeGroups::Streams, whole_kib: false };
        let skip = HashSet::new();
        let found = volumes(&segments, &[], TimeRange::ALL, volume, &skip, removing(), &cancelled).unwrap();
        let found: BTreeMap<_, _> = found.iter().map(|g| {
            let entries: u64 = g.steps.iter().map(|s| s.entries).sum();
            (place(&APPS, g.labels.get("app").unwrap()), entries as usize)
        }).collect();
        prop_assert_eq!(found, counts);

        let ids: BTreeSet<StreamId> = segments.iter().flat_map(|s| s.streams()).map(|s| s.id).collect();
        let request = IdentitiesRequest {
            tenant: tenant("t"),
            version: -1,
            cut: u64::MAX,
            range: TimeRange::ALL,
            streams: ids.into_iter().collect(),
            removals,
        };
        prop_assert_eq!(identities(&segments, &request, &cancelled).unwrap().len(), expected.len());
    }
}

/// A copy that comes after the request is seen, although the one before it is not.
#[test]
fn a_deleted_copy_does_not_hide_a_later_one_in_another_segment() {
    let entry = BTreeSet::from([(0, 5, 1)]);
    let segments = segments(&[(1, entry.clone()), (7, entry)], 1);
    let rules = [Rule { app: 0, line: None, range: (0, 9), accepted: 3 }];
    let mut removing = Removing::of(Some(&spec(&rules, NEVER))).unwrap();
    let left = segments.iter().map(|s| {
        let stream = s.streams().iter().find(|s| s.labels.get("app") == Some("a")).unwrap();
        removals::rows(removing.as_mut(), s, stream, &TimeRange::ALL).len()
    });
    assert_eq!(left.collect::<Vec<_>>(), [0, 1]);
}
