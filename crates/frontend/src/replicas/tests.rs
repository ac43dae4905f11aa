//! What is planned, and who is waited for.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use proptest::prelude::*;
use skald_model::{Digest, EntryHash, Error, Labels, Result, StreamId, TimeRange};
use skald_rpc::ingester::StreamInfo;

use super::*;
use crate::fakes::{Node, view};

fn stream(id: u64, times: (i64, i64), digest: u64) -> StreamInfo {
    StreamInfo {
        id: StreamId(id),
        labels: Labels::from_pairs([("s", id.to_string().as_str())]),
        min_ts: times.0,
        max_ts: times.1,
        entries: 10,
        bytes: 100,
        digest: Digest { count: u64::from(digest > 0), sum: u128::from(digest) },
    }
}

/// A plan for RF 3 without lacking ingesters and an empty table.
fn planned(held: &[Vec<StreamInfo>], preference: &[usize]) -> Plan {
    let held: Vec<&[StreamInfo]> = held.iter().map(|h| &h[..]).collect();
    plan(&held, |_| None, 2, |left| left.len() < 2, preference)
}

fn skips(plan: &Plan) -> Vec<(usize, Vec<u64>)> {
    let sorted = |skip: &HashSet<StreamId>| {
        let mut ids: Vec<_> = skip.iter().map(|s| s.0).collect();
        ids.sort_unstable();
        ids
    };
    plan.evaluated.iter().map(|(i, skip)| (*i, sorted(skip))).collect()
}

#[test]
fn the_preferred_one_evaluates_what_all_agree_about() {
    let same = vec![stream(1, (0, 9), 7), stream(2, (0, 9), 8)];
    let held = [same.clone(), same.clone(), same];
    assert_eq!(skips(&planned(&held, &[2, 0, 1])), [(2, vec![])]);
    assert_eq!(planned(&held, &[1, 2, 0]).compared, BTreeMap::new());
    // One that has to be asked anyway takes what it can.
    let held = [held[0].clone(), [held[1].clone(), vec![stream(3, (0, 9), 9)]].concat(), held[2].clone()];
    assert_eq!(skips(&planned(&held, &[2, 0, 1])), [(1, vec![])]);
}

#[test]
fn a_quorum_that_agrees_is_enough_where_the_others_may_be_left() {
    let held = [vec![stream(1, (0, 9), 7)], vec![stream(1, (0, 8), 6)], vec![stream(1, (0, 9), 7)]];
    assert_eq!(skips(&planned(&held, &[1, 2, 0])), [(2, vec![])]);
    let views: Vec<&[StreamInfo]> = held.iter().map(|h| &h[..]).collect();
    // Another one is lacking already: those that differ are compared, one of those that agree.
    let plan = plan(&views, |_| None, 2, <[usize]>::is_empty, &[1, 2, 0]);
    assert_eq!(skips(&plan), [(1, vec![]), (2, vec![])]);
    let range = TimeRange::new(0, 9);
    let both =
        [(Side::Ingester(1), vec![(StreamId(1), range)]), (Side::Ingester(2), vec![(StreamId(1), range)])];
    assert_eq!(plan.compared, BTreeMap::from(both));
    assert_eq!(plan.disputed, 20);
}

#[test]
fn who_does_not_tell_is_compared() {
    let held = [vec![stream(1, (0, 4), 0)], vec![stream(1, (4, 9), 0)], vec![stream(1, (20, 30), 0)]];
    let plan = planned(&held, &[0, 1, 2]);
    assert_eq!(skips(&plan), [(0, vec![]), (1, vec![]), (2, vec![])]);
    let range = TimeRange::new(4, 5);
    assert_eq!(plan.compared[&Side::Ingester(0)], [(StreamId(1), range)]);
    assert_eq!(plan.compared[&Side::Ingester(1)], [(StreamId(1), range)]);
    assert!(!plan.compared.contains_key(&Side::Ingester(2)), "it shares no time with the others");
}

#[test]
fn only_the_times_that_the_table_shares_are_compared() {
    let held = [vec![stream(1, (5, 20), 7), stream(2, (5, 20), 8)]];
    let views: Vec<&[StreamInfo]> = held.iter().map(|h| &h[..]).collect();
    let plan = plan(&views, |s| (s.id.0 == 1).then_some((0, 6)), 1, |_| false, &[0]);
    let shared = vec![(StreamId(1), TimeRange::new(5, 7))];
    let both = [(Side::Table, shared.clone()), (Side::Ingester(0), shared)];
    assert_eq!(plan.compared, BTreeMap::from(both));
}

#[test]
fn a_stream_of_several_ingesters_is_there_once() {
    let more = StreamInfo { entries: 11, ..stream(1, (3, 9), 1) };
    let all = once([stream(1, (0, 5), 2), more, stream(2, (0, 1), 3)]);
    assert_eq!(all.len(), 2);
    assert_eq!((all[0].entries, all[0].min_ts, all[0].max_ts), (11, 0, 9));
    let s = StreamId;
    let counts = [vec![(s(1), 5), (s(2), 7)], vec![(s(1), 6), (s(2), 7), (s(3), 1)], vec![(s(3), 1)]];
    let elsewhere = counted_elsewhere(&counts);
    assert_eq!(elsewhere, [HashSet::from([s(1)]), HashSet::from([s(2)]), HashSet::from([s(3)])]);
}

proptest! {
    #[test]
    fn every_stream_is_asked_for_in_a_range_that_holds_its_own(
        ranges in prop::collection::vec((0i64..1_000_000, 0u32..19), 0..60)
    ) {
        let streams: Vec<_> = ranges.iter().enumerate()
            .map(|(i, (start, log))| (StreamId(i as u64), TimeRange::new(*start, start + (1 << log))))
            .collect();
        let requests = requests(&streams);
        let mut asked = 0;
        for (hull, ids) in &requests {
            asked += ids.len();
            for id in ids {
                let own = streams[id.0 as usize].1;
                prop_assert!(hull.start <= own.start && own.end <= hull.end);
                prop_assert!(hull.end - hull.start <= 32 * (own.end - own.start));
            }
        }
        prop_assert_eq!(asked, streams.len());
    }

    /// Whoever holds what: with the exclusions each identity is left at exactly one side, at the table if it has it.
    #[test]
    fn exclusions_leave_each_identity_once(
        table in prop::collection::btree_set(0u128..20, 0..12),
        ingesters in prop::collection::vec(prop::collection::btree_set(0u128..20, 0..12), 1..4),
    ) {
        let ids = |set: &std::collections::BTreeSet<u128>| {
            set.iter().map(|n| (StreamId(1), EntryHash(*n))).collect::<Vec<_>>()
        };
        let mut compared = Compared::from([(Side::Table, ids(&table))]);
        for (i, set) in ingesters.iter().enumerate() {
            compared.insert(Side::Ingester(i), ids(set));
        }
        let order: Vec<usize> = (0..ingesters.len()).collect();
        let excluded = exclusions(compared, &order);
        for n in 0u128..20 {
            let kept = ingesters.iter().enumerate().filter(|(i, set)| {
                set.contains(&n) && !excluded.get(i).is_some_and(|e| e.contains(&(StreamId(1), EntryHash(n))))
            });
            let total = kept.count() + usize::from(table.contains(&n));
            let held = table.contains(&n) || ingesters.iter().any(|set| set.contains(&n));
            prop_assert_eq!(total, usize::from(held));
        }
    }
}

fn replicas(nodes: &[Arc<Node>], rf: usize) -> Replicas {
    let manner = Manner {
        timeout: Duration::from_secs(10),
        partial: false,
        warnings: Warnings::default(),
        lacked: IntCounter::new("lacked", "Lacked.").unwrap(),
    };
    Replicas::new(Arc::new(view(nodes, &[], rf, &[])), manner)
}

/// Answers after so many seconds.
async fn after(seconds: u64) -> Result<u64> {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    Ok(seconds)
}

#[tokio::test(start_paused = true)]
async fn the_last_one_has_as_long_again_as_the_others_took() {
    let may_leave = |missing: &[usize]| missing.len() < 2;
    let timeout = Duration::from_secs(10);
    let ask = async |seconds: [u64; 3]| {
        let begin = Instant::now();
        let questions = seconds.into_iter().map(after).enumerate();
        let answers = gather(questions, timeout, may_leave, false).await;
        (answers.iter().filter(|(_, a)| a.is_ok()).count(), begin.elapsed().as_secs())
    };
    assert_eq!(ask([0, 1, 2]).await, (3, 2));
    assert_eq!(ask([2, 3, 9]).await, (2, 6));
    assert_eq!(ask([7, 8, 99]).await, (2, 10));
    // Without two of them nothing is sure, so they are waited for.
    assert_eq!(ask([1, 20, 99]).await, (2, 20));
}

#[tokio::test(start_paused = true)]
async fn one_at_work_is_waited_for_as_long_as_it_says_that_it_is_there() {
    let nodes = [(); 3].map(|()| Node::with([]));
    let replicas = replicas(&nodes, 3);
    assert_eq!(replicas.ask_these([(1, after(60))]).await.unwrap().unwrap(), [(1, 60)]);
    assert!(!nodes[1].asked.lock().is_empty());
    *nodes[1].hangs.lock() = true;
    let begin = Instant::now();
    assert!(replicas.ask_these([(1, after(60))]).await.unwrap().is_none());
    assert_eq!(begin.elapsed(), Duration::from_secs(12));
    // The next question goes to the others.
    let asked = replicas.ask(|_| after(0)).await.unwrap();
    assert_eq!(asked, [(0, 0), (2, 0)]);
}

#[tokio::test]
async fn what_is_wrong_with_the_question_is_an_error_at_once() {
    let nodes = [(); 3].map(|()| Node::with([]));
    let wrong = |_| async { Err::<(), _>(Error::invalid("no")) };
    assert_eq!(replicas(&nodes, 3).ask(wrong).await.unwrap_err().message, "no");
}
