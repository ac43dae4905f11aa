//! Every entry counts once, wherever and how often it lies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use skald_cluster::Topology;
use skald_model::{Kind, Limits, Result};
use skald_rpc::QueryFrontend as _;
use skald_rpc::frontend::{InstantQuery, QueryData};

use crate::fakes::{Blocks, Item, Node, cluster, frontend, table, tenant, view};
use crate::{Config, Frontend};

/// How often each line counts.
async fn counts(f: &Frontend) -> Result<BTreeMap<String, u64>> {
    let query = r#"sum by (n) (count_over_time({app=~".+"} | regexp "(?P<n>.+)" [1s]))"#;
    let query =
        InstantQuery { tenant: tenant(), query: query.into(), time: 500, tags: String::new(), ..at_once() };
    let QueryData::Vector(series) = f.query(query).await?.data else { panic!("a vector") };
    Ok(series.iter().map(|s| (s.labels.get("n").unwrap().to_owned(), s.samples[0].1 as u64)).collect())
}

fn at_once() -> InstantQuery {
    InstantQuery {
        tenant: tenant(),
        query: String::new(),
        time: 0,
        limit: 100,
        direction: skald_model::Direction::Forward,
        tags: String::new(),
    }
}

fn item(stream: u8, time: i64, number: u8) -> Item {
    Item { stream, time, number }
}

fn items(stream: u8, times: std::ops::Range<i64>) -> Vec<Item> {
    times.map(|t| item(stream, t, 0)).collect()
}

fn questions(nodes: &[Arc<Node>], question: &str) -> Vec<usize> {
    nodes.iter().map(|n| n.asked.lock().iter().filter(|q| **q == question).count()).collect()
}

/// Where one entry lies in a random cluster.
#[derive(Clone, Debug)]
struct Place {
    item: Item,
    /// Acknowledged: on two ingesters at least. Otherwise on one at most.
    acknowledged: bool,
    holders: [bool; 4],
    /// In these blocks.
    blocks: [bool; 2],
    /// Which holders know that the table has it, and which learn it while they are asked.
    covered: [bool; 4],
    settling: [bool; 4],
    /// Who gets it (again) while it is asked.
    arriving: [bool; 4],
}

fn place() -> impl Strategy<Value = Place> {
    let item = (0u8..3, 0i64..12, 0u8..2).prop_map(|(stream, time, number)| Item { stream, time, number });
    // Often many of them agree.
    let holders = prop_oneof![
        2 => Just([true, true, true, false]),
        3 => any::<[bool; 4]>(),
    ];
    let rarely = || prop::array::uniform4(prop::bool::weighted(0.1));
    let blocks = prop::array::uniform2(prop::bool::weighted(0.3));
    (item, holders, blocks, any::<[bool; 4]>(), rarely(), rarely(), any::<bool>()).prop_map(
        |(item, holders, blocks, covered, settling, arriving, verified)| {
            let count = holders.iter().filter(|h| **h).count();
            let is_covered = |c: [bool; 4], n: usize| c[n] && blocks != [false; 2];
            let covered = std::array::from_fn(|n| verified && is_covered(covered, n));
            let settling = std::array::from_fn(|n| is_covered(settling, n));
            Place { item, acknowledged: count >= 2, holders, blocks, covered, settling, arriving }
        },
    )
}

fn nodes_of(places: &[Place], count: usize, is_silent: bool) -> Vec<Arc<Node>> {
    let of = |n: usize, which: fn(&Place) -> [bool; 4]| {
        places.iter().filter(move |p| which(p)[n]).map(|p| p.item).collect::<BTreeSet<Item>>()
    };
    let node = |n| {
        Arc::new(Node {
            log: of(n, |p| p.holders).into_iter().collect::<Vec<_>>().into(),
            covered: of(n, |p| p.covered).into(),
            settling: of(n, |p| p.settling).into(),
            arriving: of(n, |p| p.arriving).into_iter().collect::<Vec<_>>().into(),
            is_silent,
            ..Node::default()
        })
    };
    (0..count).map(node).collect()
}

fn blocks_of(places: &[Place]) -> Vec<Vec<Item>> {
    let of = |b: usize| places.iter().filter(move |p| p.blocks[b]).map(|p| p.item).collect();
    (0..2).map(of).collect()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(work)
}

fn distinct_places(places: Vec<Place>) -> Vec<Place> {
    let by_item: BTreeMap<Item, Place> = places.into_iter().map(|p| (p.item, p)).collect();
    by_item.into_values().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Four ingesters, three copies of an entry (some more, some less), of which two are needed: whoever disagrees, lags
    /// behind the table, gets entries meanwhile, or goes away before or while it is asked.
    #[test]
    fn each_acknowledged_entry_counts_once(
        places in prop::collection::vec(place(), 0..40), lost in prop::option::of((0usize..4, 0usize..4)), is_silent in any::<bool>(),
    ) {
        let places = distinct_places(places);
        let nodes = nodes_of(&places, 4, is_silent);
        if let Some((n, after)) = lost {
            *nodes[n].answers_left.lock() = Some(after);
        }
        let got = block_on(async {
            let (f, _) = cluster(&nodes, &blocks_of(&places), 3).await;
            counts(&f).await
        });
        let got = got.unwrap();
        for p in &places {
            let count = got.get(&p.item.line()).copied().unwrap_or(0);
            let must = p.acknowledged || p.blocks != [false; 2];
            prop_assert!(count == 1 || (count == 0 && !must), "{count} of {p:?} with {lost:?} lost");
        }
    }

    /// One ingester alone, at RF 1.
    #[test]
    fn each_entry_of_one_process_counts_once(places in prop::collection::vec(place(), 0..40)) {
        let mut places = distinct_places(places);
        for p in &mut places {
            // It always knows what it has written, but not at once what others have.
            (p.settling, p.covered) = ([false; 4], [false; 4]);
        }
        let nodes = nodes_of(&places, 1, true);
        let got = block_on(async {
            let (f, _) = cluster(&nodes, &blocks_of(&places), 1).await;
            counts(&f).await
        });
        let got = got.unwrap();
        for p in &places {
            let count = got.get(&p.item.line()).copied().unwrap_or(0);
            let must = p.holders[0] || p.blocks != [false; 2];
            prop_assert!(count == 1 || (count == 0 && !must), "{count} of {p:?}");
        }
    }
}

#[tokio::test]
async fn replicas_that_agree_need_one_to_evaluate() {
    let all = [items(0, 0..5), items(1, 3..9)].concat();
    let nodes = [(); 3].map(|()| Node::with(all.clone()));
    let (f, querier) = cluster(&nodes, &[items(0, 20..30)], 3).await;
    let got = counts(&f).await.unwrap();
    assert!(got.len() == 21 && got.values().all(|n| *n == 1), "{got:?}");
    assert_eq!(questions(&nodes, "streams"), [1, 1, 1]);
    assert_eq!(questions(&nodes, "metric").iter().sum::<usize>(), 1);
    assert_eq!(questions(&nodes, "identities"), [0, 0, 0]);
    assert!(!querier.asked.lock().contains(&"identities"));
}

#[tokio::test]
async fn a_push_on_its_way_is_not_compared() {
    let all = items(0, 0..50);
    let more = [all.clone(), vec![item(0, 50, 0)]].concat();
    let nodes = [Node::with(more), Node::with(all.clone()), Node::with(all)];
    let (f, _) = cluster(&nodes, &[], 3).await;
    assert_eq!(counts(&f).await.unwrap().len(), 50);
    assert_eq!(questions(&nodes, "identities"), [0, 0, 0]);
    // With one of them gone nobody knows whether it was acknowledged.
    *nodes[1].answers_left.lock() = Some(0);
    assert_eq!(counts(&f).await.unwrap().len(), 51);
    assert_eq!(questions(&nodes, "identities"), [1, 0, 1]);
}

#[tokio::test]
async fn one_process_asks_memory_once_unless_the_table_has_the_same() {
    let nodes = [Node::with(items(0, 5..9))];
    let (f, _) = cluster(&nodes, &[items(0, 0..5)], 1).await;
    assert_eq!(counts(&f).await.unwrap().len(), 9);
    assert_eq!(*nodes[0].asked.lock(), ["streams", "metric"]);
    let (f, _) = cluster(&nodes, &[items(0, 0..6)], 1).await;
    assert!(counts(&f).await.unwrap().values().all(|n| *n == 1));
    assert_eq!(nodes[0].asked.lock()[2..], ["streams", "metric", "identities", "metric"]);
}

#[tokio::test]
async fn much_data_is_divided_among_queriers() {
    let all = [items(0, 0..5), items(1, 3..9), items(2, 0..3)].concat();
    let (catalog, blocks) = table(&[all.clone(), all]).await;
    let queriers = [(); 3].map(|()| Arc::new(Blocks { blocks: blocks.clone(), ..Blocks::default() }));
    let topology = Topology::new(view(&[Node::with([])], &queriers, 1, &[]));
    let f = frontend(&Config::default(), catalog, topology, Limits::default());
    let got = counts(&f).await.unwrap();
    assert!(got.len() == 14 && got.values().all(|n| *n == 1), "{got:?}");
    for querier in &queriers {
        assert_eq!(querier.asked.lock().iter().filter(|q| **q == "metric").count(), 1);
    }
    assert_eq!([0, 1 << 28, 5 << 28].map(|bytes| super::shards(bytes, 3, 32)), [1, 1, 3]);
    assert_eq!(super::shards(5 << 28, 3, 2), 2);
}

#[tokio::test(start_paused = true)]
async fn too_few_answers_are_an_error_or_a_warning() {
    let nodes = [(); 3].map(|()| Node::with(items(0, 0..5)));
    for n in &nodes[1..] {
        *n.answers_left.lock() = Some(0);
    }
    let (f, _) = cluster(&nodes, &[], 3).await;
    let e = counts(&f).await.unwrap_err();
    assert_eq!(e.kind, Kind::Unavailable);
    assert!(e.message.contains("i1 (connection refused), i2 (connection refused)"), "{e}");

    let (catalog, blocks) = table(&[items(0, 7..9)]).await;
    let querier = Arc::new(Blocks { blocks, ..Blocks::default() });
    let topology = Topology::new(view(&nodes, &[querier], 3, &[]));
    let limits = Limits { query_partial_data: true, ..Limits::default() };
    let f = frontend(&Config::default(), catalog, topology, limits);
    let query = InstantQuery { query: r#"count_over_time({app="0"}[1s])"#.into(), time: 50, ..at_once() };
    let answer = f.query(query).await.unwrap();
    let QueryData::Vector(series) = answer.data else { panic!("a vector") };
    assert_eq!(series[0].samples[0].1, 7.0);
    assert_eq!(answer.warnings.len(), 1);
    assert!(answer.warnings[0].contains("i1 (connection refused)"), "{:?}", answer.warnings);
}

#[tokio::test(start_paused = true)]
async fn absent_ingesters_count_as_lacking() {
    let nodes = [(); 2].map(|()| Node::with(items(0, 0..5)));
    let (catalog, _) = table(&[]).await;
    let topology = Topology::new(view(&nodes, &[], 3, &["i2"]));
    let f = frontend(&Config::default(), catalog, topology.clone(), Limits::default());
    assert_eq!(counts(&f).await.unwrap().len(), 5);
    topology.publish(view(&nodes, &[], 3, &["i2", "i3"]));
    let e = counts(&f).await.unwrap_err();
    assert!(e.message.contains("i2 (absent), i3 (absent)"), "{e}");
}

#[tokio::test(start_paused = true)]
async fn an_ingester_that_hangs_is_not_waited_for_while_the_others_suffice() {
    let nodes = [(); 3].map(|()| Node::with(items(0, 0..5)));
    *nodes[0].hangs.lock() = true;
    let (f, _) = cluster(&nodes, &[], 3).await;
    let begin = tokio::time::Instant::now();
    assert_eq!(counts(&f).await.unwrap().len(), 5);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(f.metrics.ingesters_lacking.get(), 1);
}
