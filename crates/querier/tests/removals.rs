//! Goal: whatever is deleted or has expired, each kind of task sees the rest and nothing else. Method: random blocks, of
//! which two may hold a stream over the same times, and random rules, against a model that looks at every row.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use prometheus::Registry;
use proptest::prelude::*;
use skald_logql::Expr;
use skald_logql::metric::{MetricQuery, Partial, QueryLimits, QueryValue, Steps};
use skald_model::removal::{CutoffRule, DeleteRule, NEVER, RemovalSpec};
use skald_model::{Direction, Labels, LabelsRef, StreamId, TenantId, TimeRange, VolumeGroups, VolumeSpec};
use skald_querier::{Config, Querier};
use skald_removal::{Concern, Removals};
use skald_rpc::Querier as _;
use skald_rpc::memory::QueryMemory;
use skald_rpc::querier::{
    BlockIdentitiesRequest, BlockRef, BlockStreamsRequest, BlockVolumesRequest, LogTask, MetricResult,
    MetricTask,
};
use skald_storage::block::{BlockOptions, BlockWriter};
use skald_storage::cache::CacheMetrics;
use skald_storage::table::{BlockEntry, BlockOrigin, Catalog, CatalogConfig, block_path};

const APPS: [&str; 3] = ["a", "b", "c"];
const LINES: [&str; 3] = ["plain", "with secret", r#"{"user":"eve"}"#];
/// Times of the model are so far apart.
const STEP: i64 = 1_000;
const END: i64 = 100 * STEP;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    app: usize,
    time: i64,
    line: usize,
}

#[derive(Clone, Debug)]
struct Block {
    rows: BTreeSet<Row>,
    received_min: i64,
    deletes: u64,
}

#[derive(Clone, Debug)]
struct Rule {
    app: Option<usize>,
    line: Option<usize>,
    range: (i64, i64),
    accepted: i64,
}

#[derive(Clone, Debug)]
struct Rules {
    deletes: Vec<Rule>,
    cutoff_of_b: i64,
    cutoff: i64,
}

impl Rule {
    fn query(&self) -> String {
        let selector = self.app.map_or("{}".to_owned(), |a| format!(r#"{{app="{}"}}"#, APPS[a]));
        match self.line {
            None => selector,
            Some(0) => format!(r#"{selector} |= "plain""#),
            Some(1) => format!(r#"{selector} |~ "sec.*t""#),
            Some(_) => format!(r#"{selector} | json | user="eve""#),
        }
    }
}

impl Rules {
    fn spec(&self) -> Arc<RemovalSpec> {
        let deletes = self.deletes.iter().zip(1..).map(|(r, generation)| DeleteRule {
            generation,
            accepted: r.accepted,
            range: TimeRange::new(r.range.0 * STEP, r.range.1 * STEP),
            query: r.query().into(),
        });
        let time = |t| if t == 0 { NEVER } else { t * STEP };
        Arc::new(RemovalSpec {
            generation: self.deletes.len() as u64,
            deletes: deletes.collect(),
            cutoffs: vec![CutoffRule { selector: r#"{app="b"}"#.into(), cutoff: time(self.cutoff_of_b) }],
            cutoff: time(self.cutoff),
        })
    }

    /// Whether a row of a block stays.
    fn keep(&self, block: &Block, row: &Row) -> bool {
        let takes = |(r, generation): (&Rule, u64)| {
            generation > block.deletes
                && block.received_min <= r.accepted
                && r.app.is_none_or(|a| a == row.app)
                && r.line.is_none_or(|l| l == row.line)
                && (r.range.0..r.range.1).contains(&row.time)
        };
        let cutoff = if row.app == 1 { self.cutoff_of_b } else { self.cutoff };
        row.time >= cutoff && !self.deletes.iter().zip(1..).any(takes)
    }
}

fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let row = (0..3usize, 1..20i64, 0..3usize).prop_map(|(app, time, line)| Row { app, time, line });
    let block = (prop::collection::btree_set(row, 1..25), 0..6i64, 0..3u64);
    let block = block.prop_map(|(rows, received_min, deletes)| Block { rows, received_min, deletes });
    prop::collection::vec(block, 1..3)
}

fn rules() -> impl Strategy<Value = Rules> {
    let rule = (prop::option::of(0..3usize), prop::option::of(0..3usize), (0..20i64, 1..20i64), 0..6i64);
    let rule = rule.prop_map(|(app, line, (start, length), accepted)| Rule {
        app,
        line,
        range: (start, start + length),
        accepted,
    });
    let cutoff = || prop_oneof![Just(0i64), 0..20i64];
    (prop::collection::vec(rule, 0..3), cutoff(), cutoff()).prop_map(|(deletes, cutoff_of_b, cutoff)| Rules {
        deletes,
        cutoff_of_b,
        cutoff,
    })
}

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn labels(app: usize) -> Labels {
    Labels::from_pairs([("app", APPS[app])])
}

fn id(app: usize) -> StreamId {
    StreamId::of(&tenant(), labels(app).as_ref())
}

/// A querier over the blocks, how tasks name them, and what the table knows of them.
async fn querier(blocks: &[Block]) -> (Querier, Vec<BlockRef>, Vec<BlockEntry>) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let registry = Registry::new();
    let catalog = Arc::new(Catalog::new(&CatalogConfig::default(), store, "", &registry).unwrap());
    let (mut refs, mut entries) = (Vec::new(), Vec::new());
    for (number, block) in blocks.iter().enumerate() {
        let options = BlockOptions { page_rows: 4, ..BlockOptions::default() };
        let mut writer = BlockWriter::to(Vec::new(), &options).unwrap();
        for app in 0..APPS.len() {
            let of_app: Vec<_> = block.rows.iter().filter(|r| r.app == app).collect();
            if of_app.is_empty() {
                continue;
            }
            writer.begin_stream(&labels(app), id(app)).unwrap();
            for row in of_app {
                writer.row(row.time * STEP, LINES[row.line].as_bytes(), LabelsRef::EMPTY).unwrap();
            }
        }
        let finished = writer.finish().unwrap();
        let path = block_path(0, &number.to_string());
        catalog.put_block(&tenant(), &path, finished.output.into()).await.unwrap();
        let (received_min, deletes) = (block.received_min, block.deletes);
        let origin = BlockOrigin { received_min, deletes, ..BlockOrigin::default() };
        let summary = finished.summary.clone();
        entries.push(BlockEntry { path: path.clone(), date: 0, summary, origin });
        refs.push(BlockRef {
            path: path.into(),
            size: finished.summary.file_size,
            tail_offset: finished.summary.tail_offset,
            received_min,
            deletes,
        });
    }
    let caches = CacheMetrics::new(&registry).unwrap();
    let memory = QueryMemory::default();
    (Querier::new(&Config::default(), memory, catalog, &caches, &registry).unwrap(), refs, entries)
}

/// The values of an instant query's state, by app.
fn values(query: &str, result: &MetricResult) -> BTreeMap<String, f64> {
    let Expr::Metric(expr) = skald_logql::parse(query).unwrap() else { panic!("{query}") };
    let query = MetricQuery::compile(&expr).unwrap();
    let states = MetricResult::unpack(&result.partials).unwrap();
    let partials = query.leaves().iter().zip(states).map(|(leaf, state)| match state {
        [] => leaf.empty(),
        state => Partial::decode(state).unwrap(),
    });
    let partials: Vec<Partial> = partials.collect();
    match query.evaluate(&partials, Steps::instant(END), QueryLimits { max_series: 0 }).unwrap() {
        QueryValue::Vector(samples) => {
            samples.into_iter().map(|s| (s.labels.get("app").unwrap_or("").to_owned(), s.value)).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn check(blocks: Vec<Block>, rules: Rules) {
    let (querier, refs, entries) = querier(&blocks).await;
    let removals = Some(rules.spec());
    let compiled = Removals::compile(&rules.spec()).unwrap();
    for (block, entry) in blocks.iter().zip(&entries) {
        let mut stays = block.rows.iter().map(|row| rules.keep(block, row));
        match compiled.block(entry) {
            Concern::Whole => assert!(!stays.any(|s| s), "what is left out as a whole has nothing left"),
            Concern::Nothing => assert!(stays.all(|s| s), "what is not looked at has lost nothing"),
            Concern::Some => {}
        }
    }
    // An entry that is in two blocks is one, if it is left in any of them.
    let left =
        |block: &Block| block.rows.iter().filter(|r| rules.keep(block, r)).copied().collect::<Vec<_>>();
    let expected: BTreeSet<Row> = blocks.iter().flat_map(left).collect();

    let task = LogTask {
        tenant: tenant(),
        query: r#"{app=~".+"}"#.into(),
        range: TimeRange::new(0, END),
        direction: Direction::Forward,
        limit: 1000,
        version: 0,
        blocks: refs.clone(),
        max_bytes: u64::MAX,
        removals: removals.clone(),
    };
    for direction in [Direction::Forward, Direction::Backward] {
        let found = querier.query_logs(LogTask { direction, ..task.clone() }).await.unwrap();
        let row = |e: &skald_model::LogEntry| Row {
            app: APPS.iter().position(|a| Some(*a) == e.labels.stream.get("app")).unwrap(),
            time: e.timestamp / STEP,
            line: LINES.iter().position(|l| l.as_bytes() == &e.line[..]).unwrap(),
        };
        let rows: Vec<Row> = found.entries.iter().map(row).collect();
        assert_eq!(rows.iter().copied().collect::<BTreeSet<_>>(), expected);
        assert_eq!(rows.len(), expected.len(), "each once");
    }
    // The newest alone: what is gone must not take its place.
    let newest = LogTask { direction: Direction::Backward, limit: 1, ..task };
    let found = querier.query_logs(newest).await.unwrap();
    let times = |e: &skald_model::LogEntry| e.timestamp / STEP;
    assert_eq!(found.entries.first().map(times), expected.iter().map(|r| r.time).max());

    let metric = |query: &str| MetricTask {
        tenant: tenant(),
        query: query.into(),
        start: END,
        end: END,
        step: 0,
        version: 0,
        blocks: refs.clone(),
        shard: (0, 1),
        max_bytes: u64::MAX,
        exclude: Arc::default(),
        cut: None,
        skip: Arc::default(),
        removals: removals.clone(),
    };
    // Without looking at lines, and with.
    for (query, line) in [
        (r#"count_over_time({app=~".+"}[1h])"#, None),
        (r#"count_over_time({app=~".+"} |= "secret" [1h])"#, Some(1)),
    ] {
        let mut counts: BTreeMap<String, f64> = BTreeMap::new();
        for row in expected.iter().filter(|r| line.is_none_or(|l| l == r.line)) {
            *counts.entry(APPS[row.app].to_owned()).or_default() += 1.0;
        }
        let result = querier.query_metric(metric(query)).await.unwrap();
        assert_eq!(values(query, &result), counts, "{query}");
    }

    let asked = BlockIdentitiesRequest {
        tenant: tenant(),
        blocks: refs.clone(),
        range: TimeRange::new(0, END),
        streams: (0..APPS.len()).map(id).collect(),
        removals: removals.clone(),
    };
    assert_eq!(querier.identities(asked).await.unwrap().len(), expected.len());

    // By index alone: every stream is there that has something left.
    let (range, selectors) = (TimeRange::ALL, Vec::new());
    let streams = BlockStreamsRequest { tenant: tenant(), blocks: refs, range, selectors, removals };
    let found = querier.streams(streams.clone()).await.unwrap();
    let apps: BTreeSet<&str> = found.iter().map(|s| s.labels.get("app").unwrap()).collect();
    let has_any: BTreeSet<&str> = expected.iter().map(|r| APPS[r.app]).collect();
    assert!(apps.is_superset(&has_any), "{apps:?} {has_any:?}");
    for s in &found {
        let of_stream = expected.iter().filter(|r| s.labels.get("app") == Some(APPS[r.app]));
        assert!(of_stream.map(|r| r.time * STEP).all(|t| s.min_ts <= t && t <= s.max_ts), "{s:?}");
    }
    if rules.deletes.is_empty() {
        assert_eq!(apps, has_any, "cuts through time are exact");
    }
    let spec = VolumeSpec { step: 0, groups: VolumeGroups::Streams, whole_kib: false };
    let volumes = querier.volumes(BlockVolumesRequest { streams, spec }).await.unwrap();
    assert_eq!(volumes.len(), apps.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn tasks_see_what_is_left(blocks in blocks(), rules in rules()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(blocks, rules));
    }
}
