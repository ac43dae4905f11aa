//! Log queries over replicas: every entry once, in order, no more than the limit.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use skald_model::{Direction, Result, TimeRange};
use skald_rpc::QueryFrontend as _;
use skald_rpc::frontend::{QueryData, RangeQuery};

use crate::Frontend;
use crate::fakes::{Item, Node, cluster, tenant};

fn query(range: TimeRange, limit: usize, direction: Direction, interval: i64) -> RangeQuery {
    RangeQuery {
        tenant: tenant(),
        query: r#"{app=~".+"}"#.into(),
        start: range.start,
        end: range.end,
        step: 1,
        interval,
        limit,
        direction,
        tags: String::new(),
    }
}

/// Time and line of each entry.
async fn ask(f: &Frontend, query: RangeQuery) -> Result<Vec<(i64, String)>> {
    match f.query_range(query).await?.data {
        QueryData::Streams(entries) => {
            let text = |line: &[u8]| String::from_utf8(line.to_vec()).unwrap();
            Ok(entries.iter().map(|e| (e.timestamp, text(&e.line))).collect())
        }
        other => panic!("{other:?}"),
    }
}

fn item() -> impl Strategy<Value = Item> {
    (0u8..3, 0i64..20, 0u8..2).prop_map(|(stream, time, number)| Item { stream, time, number })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However entries lie on two or three of three ingesters and in blocks, the answer is that of one list, also when one
    /// of the ingesters does not answer.
    #[test]
    fn replicas_give_the_answer_of_one_list(
        items in prop::collection::btree_map(item(), (0usize..4, any::<[bool; 2]>()), 0..40),
        range in (0i64..10, 10i64..21), limit in 1usize..12, backward in any::<bool>(), interval in 0i64..4, lost in 0usize..4,
    ) {
        let missing_at = |n: usize| items.iter().filter(move |(_, (missing, _))| *missing != n).map(|(i, _)| *i);
        let nodes: Vec<_> = (0..3).map(|n| Node::with(missing_at(n))).collect();
        if let Some(node) = nodes.get(lost) {
            *node.answers_left.lock() = Some(0);
        }
        let blocks: Vec<Vec<Item>> = (0..2)
            .map(|b| items.iter().filter(|(_, (_, blocks))| blocks[b]).map(|(i, _)| *i).collect())
            .collect();
        let range = TimeRange::new(range.0, range.1);
        let direction = if backward { Direction::Backward } else { Direction::Forward };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let got = runtime.block_on(async {
            let (f, _) = cluster(&nodes, &blocks, 3).await;
            ask(&f, query(range, limit, direction, interval)).await
        });
        let got = got.unwrap();

        let mut times: Vec<i64> = items.keys().map(|i| i.time).filter(|t| range.contains(*t)).collect();
        times.sort_unstable();
        if backward {
            times.reverse();
        }
        let mut expected: Vec<i64> = Vec::new();
        for t in times {
            let is_due = expected.last().is_none_or(|last| last.abs_diff(t) >= interval as u64);
            if expected.len() < limit && (interval == 0 || is_due) {
                expected.push(t);
            }
        }
        prop_assert_eq!(got.iter().map(|(t, _)| *t).collect::<Vec<_>>(), expected);
        let lines: BTreeSet<_> = got.iter().map(|(_, line)| line).collect();
        prop_assert_eq!(lines.len(), got.len(), "each once: {:?}", got);
        for pair in got.windows(2).filter(|p| p[0].0 == p[1].0) {
            // The stream is the first letter of the line.
            prop_assert!(pair[0].1[..1] <= pair[1].1[..1], "at one time in order of labels: {:?}", got);
        }
    }
}

#[tokio::test]
async fn too_few_ingesters_are_an_error_also_for_logs() {
    let item = Item { stream: 0, time: 1, number: 0 };
    let nodes: [Arc<Node>; 3] = [(); 3].map(|()| Node::with([item]));
    let (f, _) = cluster(&nodes, &[], 3).await;
    let all = || query(TimeRange::new(0, 9), 10, Direction::Forward, 0);
    *nodes[0].answers_left.lock() = Some(0);
    assert_eq!(ask(&f, all()).await.unwrap().len(), 1);
    *nodes[2].answers_left.lock() = Some(0);
    let e = ask(&f, all()).await.unwrap_err();
    assert!(e.message.contains("i0 (connection refused), i2 (connection refused)"), "{e}");
}
