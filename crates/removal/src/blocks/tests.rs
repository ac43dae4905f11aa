//! Whole blocks, by what the table knows of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use skald_model::limits::StreamRetention;
use skald_model::removal::DeleteRule;
use skald_model::time::{DAY, SECOND};
use skald_model::{Limits, Retention};
use skald_storage::table::BlockOrigin;

use proptest::prelude::*;

use super::*;
use crate::rewrite::AtRewrite;

/// A block with these values of `app`, and others that are too many to be listed under `pod`.
fn block(apps: &[&str], times: (i64, i64), origin: BlockOrigin, size: u64) -> BlockEntry {
    let values = apps.iter().map(|a| (*a).to_owned()).collect();
    let label_values = BTreeMap::from([("app".to_owned(), Some(values)), ("pod".to_owned(), None)]);
    let summary = BlockSummary {
        rows: 10,
        streams: 1,
        min_ts: times.0,
        max_ts: times.1,
        file_size: size,
        label_values,
        ..BlockSummary::default()
    };
    BlockEntry { path: format!("{times:?}"), date: 0, summary, origin }
}

fn received(min: i64, deletes: u64) -> BlockOrigin {
    BlockOrigin { received_min: min, received_max: min + 5, deletes, ..BlockOrigin::default() }
}

fn delete(generation: u64, accepted: i64, range: (i64, i64), query: &str) -> Delete {
    let range = TimeRange::new(range.0, range.1);
    Delete::compile(DeleteRule { generation, accepted, range, query: query.into() }).unwrap()
}

fn with(deletes: Vec<Delete>) -> Removals {
    Removals { deletes: deletes.into_iter().map(Arc::new).collect(), ..Removals::default() }
}

#[test]
fn deletes_take_a_block_if_they_are_sure_to_take_all_of_it() {
    let concern = |query: &str, range| {
        let removals = with(vec![delete(3, 100, range, query)]);
        removals.block(&block(&["a", "b"], (10, 20), received(50, 2), 1))
    };
    assert_eq!(concern("{}", (10, 21)), Concern::Whole);
    assert_eq!(concern(r#"{app=~"a|b"}"#, (0, 30)), Concern::Whole);
    assert_eq!(concern(r#"{zone=""}"#, (0, 30)), Concern::Whole, "no stream has a zone");
    assert_eq!(concern("{}", (10, 20)), Concern::Some, "the last nanosecond stays");
    assert_eq!(concern(r#"{app="a"}"#, (0, 30)), Concern::Some);
    assert_eq!(concern(r#"{pod=~".+"}"#, (0, 30)), Concern::Some, "some may have no pod");
    assert_eq!(concern(r#"{pod=~".*"}"#, (0, 30)), Concern::Whole);
    assert_eq!(concern(r#"{} |= "x""#, (0, 30)), Concern::Some);
    assert_eq!(concern(r#"{app="c"}"#, (0, 30)), Concern::Nothing);
    assert_eq!(concern("{}", (21, 30)), Concern::Nothing);
}

#[test]
fn what_is_carried_out_or_came_later_is_not_due() {
    let removals = with(vec![delete(3, 100, (0, 30), "{}"), delete(5, 40, (0, 30), "{}")]);
    let due = |origin| {
        let block = block(&["a"], (10, 20), origin, 1);
        removals.deletes.iter().filter(|d| d.is_due(&block)).map(|d| d.rule.generation).collect::<Vec<_>>()
    };
    assert_eq!(due(received(30, 0)), [3, 5]);
    assert_eq!(due(received(50, 0)), [3], "came after the second");
    assert_eq!(due(received(30, 3)), [5], "the first is done");
    assert_eq!(due(received(101, 0)), [] as [u64; 0]);
    assert_eq!(removals.block(&block(&["a"], (10, 20), received(50, 3), 1)), Concern::Nothing);
}

#[test]
fn blocks_expire_by_the_rules_that_their_streams_can_have() {
    let rule = |selector: &str, priority, days| StreamRetention {
        selector: selector.into(),
        priority,
        period: days * DAY,
    };
    let limits = Limits {
        retention_period: 10 * DAY,
        retention_stream: vec![rule(r#"{app="dev"}"#, 2, 1), rule(r#"{app=~"dev|old"}"#, 1, 50)],
        ..Limits::default()
    };
    let now = 100 * DAY;
    let removals = Removals::new(0, Vec::new(), &Retention::of(&limits).unwrap(), now);
    let at = |apps: &[&str], days_ago: i64| {
        let end = now - days_ago * DAY;
        removals.block(&block(apps, (end - 3600 * SECOND, end - SECOND), received(1, 0), 1))
    };
    assert_eq!(at(&["dev"], 0), Concern::Nothing);
    assert_eq!(at(&["dev"], 1), Concern::Whole, "all its streams have the first rule");
    assert_eq!(at(&["dev", "prod"], 1), Concern::Some);
    assert_eq!(at(&["dev", "prod"], 10), Concern::Some, "a stream might have only the second rule");
    assert_eq!(at(&["dev", "prod"], 50), Concern::Whole);
    assert_eq!(at(&["old", "prod"], 10), Concern::Some);
    assert_eq!(at(&["old"], 49), Concern::Nothing);
    assert_eq!(at(&["old"], 50), Concern::Whole);
    assert_eq!(at(&["prod"], 9), Concern::Nothing);
}

#[test]
fn beyond_the_size_the_oldest_blocks_go() {
    let blocks: Vec<_> = (0..5).map(|i| block(&["a"], (i * 10, i * 10 + 9), received(1, 0), 100)).collect();
    let gone = |bytes_max| {
        let removals = Removals::default().with_size(blocks.iter(), bytes_max);
        blocks.iter().filter(|b| removals.block(b) == Concern::Whole).count()
    };
    // Never one of which a part might stay, however little is allowed.
    assert_eq!([0, 500, 401, 400, 300, 250, 1].map(gone), [0, 0, 0, 1, 2, 2, 4]);
    let together: Vec<_> = (0..3).map(|i| block(&["a"], (i, 9), received(1, 0), 100)).collect();
    assert!(Removals::default().with_size(together.iter(), 1).is_empty());
    // What is left needs no more to go.
    let removals = Removals::default().with_size(blocks.iter(), 250);
    let left: Vec<_> = blocks.iter().filter(|b| removals.block(b) != Concern::Whole).cloned().collect();
    assert!(Removals::default().with_size(left.iter(), 250).is_empty());
}

/// A block of the model: its apps, times, when it came, and what was carried out on it.
type Model = (Vec<usize>, (i64, i64), i64, u64);

const APPS: [&str; 3] = ["a", "b", "c"];

fn entry((apps, times, min, deletes): &Model) -> BlockEntry {
    let apps: Vec<&str> = apps.iter().map(|a| APPS[*a]).collect();
    block(&apps, *times, received(*min, *deletes), 1)
}

fn model() -> impl Strategy<Value = Model> {
    let apps = prop::sample::subsequence(vec![0usize, 1, 2], 1..=3);
    (apps, (0..10i64, 0..10i64), 0..8i64, 0..4u64)
        .prop_map(|(apps, (start, length), min, deletes)| (apps, (start, start + length), min, deletes))
}

proptest! {
    /// After a merge of blocks of one group the same rows are seen as before, whichever there are.
    #[test]
    fn merged_blocks_show_what_they_showed_apart(
        models in prop::collection::vec(model(), 2..4),
        rules in prop::collection::vec((prop::option::of(0..3usize), (0..20i64, 1..20i64), 0..8i64), 0..4),
        carried in 0..4u64,
    ) {
        let carried = carried.min(rules.len() as u64);
        let deletes = rules.iter().zip(1..).map(|((app, (start, length), accepted), generation)| {
            let query = app.map_or("{}".to_owned(), |a| format!(r#"{{app="{}"}}"#, APPS[a]));
            delete(generation, *accepted, (*start, start + length), &query)
        });
        let (done, pending): (Vec<_>, Vec<_>) = deletes.partition(|d| d.rule.generation <= carried);
        let rewrite = AtRewrite { done: Arc::new(with(done)), pending: pending.into_iter().map(Arc::new).collect(), ..AtRewrite::default() };
        let blocks: Vec<BlockEntry> = models.iter().map(entry).collect();
        if blocks.windows(2).any(|pair| rewrite.group(&pair[0]) != rewrite.group(&pair[1])) {
            return Ok(());
        }
        // As `rewrite_into` of the storage has it.
        let inherited = blocks.iter().map(|b| b.origin.deletes).min().unwrap();
        let generation = carried.max(inherited);
        let min = models.iter().map(|m| m.2).min().unwrap();
        let takes = |generation: u64, min: i64, deletes: u64, app: usize, time: i64| {
            let (of, (start, length), accepted) = &rules[generation as usize - 1];
            generation > deletes && min <= *accepted && of.is_none_or(|o| o == app)
                && (*start..start + length).contains(&time)
        };
        let numbers = 1..=rules.len() as u64;
        for (apps, times, received_min, deletes) in &models {
            for app in apps {
                for time in times.0..=times.1 {
                    let apart = numbers.clone().any(|n| takes(n, *received_min, *deletes, *app, time));
                    let on_the_way = (1..=carried).any(|n| takes(n, *received_min, *deletes, *app, time));
                    let merged = on_the_way || numbers.clone().any(|n| takes(n, min, generation, *app, time));
                    prop_assert_eq!(merged, apart, "{} at {}", APPS[*app], time);
                }
            }
        }
    }
}
