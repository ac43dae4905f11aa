//! What blocks and members are asked, and told, while requests come and go.

use skald_cluster::Topology;
use skald_model::limits::DeletionMode;
use skald_model::time::SECOND;
use skald_model::{Direction, Limits};
use skald_removal::DeleteRequest;
use skald_rpc::QueryFrontend as _;
use skald_rpc::frontend::{InstantQuery, MetadataRequest, RangeQuery};

use crate::fakes::{Blocks, Item, Node, Told, frontend, table, tenant, view};
use crate::{Config, Frontend};

use super::*;

struct Rig {
    frontend: Frontend,
    node: Arc<Node>,
    querier: Arc<Blocks>,
}

/// Two blocks, with times from 0 to 9 and from 100 to 109, and an ingester with what came later.
async fn rig(limits: Limits) -> Rig {
    let items = |times: std::ops::Range<i64>| times.map(|time| Item { stream: 0, time, number: 0 }).collect();
    let node = Node::with([Item { stream: 0, time: 200, number: 0 }]);
    let (catalog, blocks) = table(&[items(0..10), items(100..110)]).await;
    let querier = Arc::new(Blocks { blocks, ..Blocks::default() });
    let view = view(std::slice::from_ref(&node), std::slice::from_ref(&querier), 1, &[]);
    Rig { frontend: frontend(&Config::default(), catalog, Topology::new(view), limits), node, querier }
}

impl Rig {
    async fn delete(&self, id: &str, query: &str, start: i64, end: i64) {
        let (id, query) = (id.to_owned(), query.to_owned());
        let request =
            DeleteRequest { id, query, start, end, created: SECOND, generation: 0, processed: None };
        let change = |loaded: &skald_removal::Loaded, _: &_| Ok((loaded.list.with(request.clone(), 0)?, ()));
        self.frontend.resolver.lists().update(&tenant(), change).await.unwrap();
    }

    async fn cancel(&self, id: &str) {
        let change = |loaded: &skald_removal::Loaded, _: &_| {
            Ok((Some(loaded.list.without(id, true, 0, |_| false)?), ()))
        };
        self.frontend.resolver.lists().update(&tenant(), change).await.unwrap();
    }

    async fn logs(&self, start: i64, end: i64) {
        let query = RangeQuery {
            tenant: tenant(),
            query: r#"{app=~".+"}"#.into(),
            start,
            end,
            step: 1,
            interval: 0,
            limit: 1000,
            direction: Direction::Forward,
            tags: String::new(),
        };
        self.frontend.query_range(query).await.unwrap();
    }

    async fn count(&self) {
        let query = InstantQuery {
            tenant: tenant(),
            query: r#"count_over_time({app=~".+"}[1s])"#.into(),
            time: 500,
            limit: 100,
            direction: Direction::Forward,
            tags: String::new(),
        };
        self.frontend.query(query).await.unwrap();
    }

    async fn series(&self) {
        let range = TimeRange::new(0, 150);
        let request = MetadataRequest { tenant: tenant(), range, selectors: Vec::new() };
        self.frontend.series(request).await.unwrap();
    }

    /// What the querier was told since the last look: how many blocks, and which generations.
    fn told(&self) -> Vec<(usize, Vec<u64>)> {
        std::mem::take(&mut *self.querier.told.lock()).iter().map(Told::summary).collect()
    }

    fn told_ingester(&self) -> Vec<Vec<u64>> {
        std::mem::take(&mut *self.node.told.lock()).iter().map(|t| t.summary().1).collect()
    }
}

#[tokio::test]
async fn tasks_are_told_what_they_must_not_see_and_only_that() {
    let rig = rig(Limits::default()).await;
    rig.logs(0, 300).await;
    assert_eq!(rig.told(), [(1, vec![]), (1, vec![])]);
    assert_eq!(rig.told_ingester(), [[] as [u64; 0]]);

    rig.delete("a", r#"{app="0"} |= "0-1""#, 0, 5).await;
    rig.logs(0, 300).await;
    assert_eq!(rig.told(), [(1, vec![1]), (1, vec![])], "the other block is not concerned");
    assert_eq!(rig.told_ingester(), [[1]]);
    rig.logs(50, 300).await;
    assert_eq!((rig.told(), rig.told_ingester()), (vec![(1, vec![])], vec![vec![]]), "of other times");

    // All of a block: it is not even asked.
    rig.delete("b", "{}", 100, 109).await;
    rig.logs(0, 300).await;
    assert_eq!((rig.told(), rig.told_ingester()), (vec![(1, vec![1, 2])], vec![vec![1, 2]]));
    rig.count().await;
    assert!(rig.told().iter().all(|(blocks, generations)| (*blocks, &generations[..]) == (1, &[1, 2])));
    assert!(rig.told_ingester().iter().all(|generations| generations == &[1, 2]));
    rig.series().await;
    assert_eq!(rig.told(), [(1, vec![1, 2])]);
    rig.series().await;
    assert_eq!(rig.told(), [], "it is remembered");

    rig.cancel("b").await;
    rig.series().await;
    assert_eq!(rig.told(), [(2, vec![1])], "at another generation it is asked anew");
    rig.cancel("a").await;
    rig.logs(0, 300).await;
    assert_eq!(rig.told(), [(1, vec![]), (1, vec![])]);
}

#[tokio::test]
async fn without_deletes_requests_have_no_effect() {
    let rig = rig(Limits { deletion_mode: DeletionMode::Disabled, ..Limits::default() }).await;
    rig.delete("a", "{}", 0, 300).await;
    rig.logs(0, 300).await;
    assert_eq!(rig.told(), [(1, vec![]), (1, vec![])]);
}

#[test]
fn remembered_answers_are_told_apart_by_the_blocks_that_are_left() {
    let block = |path: &str, times: (i64, i64)| {
        let summary = skald_storage::table::BlockSummary {
            rows: 1,
            min_ts: times.0,
            max_ts: times.1,
            ..Default::default()
        };
        Arc::new(BlockEntry { path: path.into(), date: 0, summary, origin: Default::default() })
    };
    let blocks = [block("a", (0, 9)), block("b", (5, 15)), block("c", (20, 30))];
    let left = |cutoff| {
        let spec = RemovalSpec { cutoff, ..RemovalSpec::default() };
        let rules = Some(Arc::new(Removals::compile(&spec).unwrap()));
        let left = Left::of(blocks.iter(), &rules, TimeRange::ALL);
        (left.blocks.len(), left.spec.is_some(), left.gone)
    };
    assert_eq!((left(0).0, left(0).1), (3, false));
    assert_eq!((left(10).0, left(10).1), (2, true), "b is cut");
    assert_eq!((left(16).0, left(16).1), (1, false), "nothing of what is left is concerned");
    assert_ne!(left(16).2, left(0).2);
}
