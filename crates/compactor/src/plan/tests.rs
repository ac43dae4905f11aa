//! A table that is flushed to and compacted by the plan, without files: what ends, what is rewritten how often.

use std::collections::BTreeMap;

use proptest::prelude::*;
use skald_model::time::DAY;
use skald_storage::block::{BlockSummary, PushesPlace};
use skald_storage::table::BlockOrigin;

use super::*;

const HOUR: i64 = 3600;
const DATE: i32 = 20_000;
const START: i64 = DATE as i64 * 24 * HOUR;

fn rules() -> Rules {
    Rules {
        slice: 4 * HOUR * SECOND,
        target_bytes: 128 << 20,
        min_blocks: 8,
        runs_max: 32,
        settle: 45 * 60,
        close_after: HOUR,
        late_after: 24 * HOUR,
    }
}

/// Bytes of a block by slice, each with how often they were rewritten.
type Pieces = BTreeMap<i64, (u64, u32)>;

struct Table {
    rules: Rules,
    blocks: Vec<Arc<BlockEntry>>,
    /// What is in each block, by path.
    contents: BTreeMap<String, Pieces>,
    number: u64,
    flushed: u64,
    rewritten: u64,
}

impl Table {
    fn new(rules: Rules) -> Self {
        Self { rules, blocks: vec![], contents: BTreeMap::new(), number: 0, flushed: 0, rewritten: 0 }
    }

    fn add(&mut self, pieces: Pieces, origin: BlockOrigin, times: (i64, i64)) {
        self.number += 1;
        let path = format!("date={DATE}/{:08}", self.number);
        let size = pieces.values().map(|p| p.0).sum();
        let summary =
            BlockSummary { rows: 1, min_ts: times.0, max_ts: times.1, file_size: size, ..Default::default() };
        self.contents.insert(path.clone(), pieces);
        self.blocks.push(Arc::new(BlockEntry { path, date: DATE, summary, origin }));
        self.blocks.sort_by(|a, b| a.path.cmp(&b.path));
    }

    /// A flush at second `now` of the day, of entries of these seconds of the day with their bytes.
    fn flush(&mut self, now: i64, entries: &[(i64, u64)], with_list: bool) {
        let mut pieces = Pieces::new();
        for (second, bytes) in entries {
            pieces.entry(slice_of(second * SECOND, self.rules.slice)).or_default().0 += bytes;
            self.flushed += bytes;
        }
        let day = i64::from(DATE) * DAY;
        let first = entries.iter().map(|e| e.0).min().unwrap() * SECOND + day;
        let last = entries.iter().map(|e| e.0).max().unwrap() * SECOND + day;
        let pushes = with_list.then_some(PushesPlace { offset: 0, length: 0, crc: 0 });
        let origin = BlockOrigin {
            received_min: START + now - 300,
            received_max: START + now,
            pushes,
            ..BlockOrigin::default()
        };
        self.add(pieces, origin, (first, last));
    }

    /// Does what is due at second `now` of the day until nothing is.
    fn compact(&mut self, now: i64) {
        for round in 0.. {
            assert!(round < 200, "it does not end");
            let jobs = plan(&self.blocks, START + now, &self.rules);
            let mut inputs: Vec<&str> = jobs.iter().flat_map(Job::inputs).map(|b| b.path.as_str()).collect();
            let all = inputs.len();
            inputs.sort_unstable();
            inputs.dedup();
            assert_eq!(inputs.len(), all, "a block is in two jobs");
            if jobs.is_empty() {
                return;
            }
            for job in jobs {
                self.carry_out(&job, START + now);
            }
        }
    }

    fn carry_out(&mut self, job: &Job, now: i64) {
        assert!(!job.runs.is_empty() && job.runs.len() <= self.rules.runs_max);
        let mut slices: BTreeMap<i64, Pieces> = BTreeMap::new();
        for block in job.inputs() {
            let settled = block.origin.received_max + self.rules.settle <= now;
            assert!(settled || block.origin.pushes.is_none(), "its list is still needed");
            for (slice, (bytes, times)) in self.contents.remove(&block.path).unwrap() {
                let piece = slices.entry(slice).or_default().entry(slice).or_default();
                *piece = (piece.0 + bytes, piece.1.max(times + 1));
                self.rewritten += bytes;
            }
        }
        let min = job.inputs().map(|b| b.origin.received_min).min().unwrap();
        let max = job.inputs().map(|b| b.origin.received_max).max().unwrap();
        let gone: Vec<String> = job.inputs().map(|b| b.path.clone()).collect();
        self.blocks.retain(|b| !gone.contains(&b.path));
        let run = self.number + 1;
        for (slice, pieces) in slices {
            let at = i64::from(DATE) * DAY + slice * self.rules.slice;
            let origin = BlockOrigin {
                level: job.level,
                received_min: min,
                received_max: max,
                run,
                ..BlockOrigin::default()
            };
            self.add(pieces, origin, (at, at + self.rules.slice - 1));
        }
    }

    fn rewrites_max(&self) -> u32 {
        self.contents.values().flat_map(|p| p.values()).map(|p| p.1).max().unwrap_or(0)
    }

    fn amplification(&self) -> f64 {
        self.rewritten as f64 / self.flushed as f64
    }
}

#[test]
fn a_day_ends_as_one_run_for_each_slice_and_no_entry_is_rewritten_more_than_twice() {
    for (every, bytes) in [(300, 8 << 20), (1800, 20_000)] {
        let mut table = Table::new(rules());
        for now in (every..=24 * HOUR).step_by(every as usize) {
            table.flush(now, &[(now - every, bytes), (now - 1, 1000)], true);
            table.compact(now);
            assert!(table.blocks.len() < 100, "{} blocks at {now}", table.blocks.len());
        }
        table.compact(30 * HOUR);
        assert_eq!(table.blocks.len(), 6, "every {every} seconds");
        assert!(table.rewrites_max() <= 2, "{}", table.rewrites_max());
        assert!(table.amplification() <= 2.0, "{}", table.amplification());
    }
}

#[test]
fn few_late_entries_wait_and_many_do_not() {
    let mut table = Table::new(rules());
    for now in (300..=4 * HOUR).step_by(300) {
        table.flush(now, &[(now - 300, 1 << 20)], false);
    }
    table.compact(6 * HOUR);
    assert_eq!(table.blocks.len(), 1);
    table.flush(6 * HOUR, &[(10, 1 << 20)], false);
    table.compact(8 * HOUR);
    assert_eq!(table.blocks.len(), 2, "a forty-eighth is few");
    table.compact(31 * HOUR);
    assert_eq!(table.blocks.len(), 1, "but it does not lie there for ever");
    table.flush(31 * HOUR, &[(10, 50 << 20)], false);
    table.compact(33 * HOUR);
    assert_eq!(table.blocks.len(), 1, "as much again is not few");
}

#[test]
fn late_entries_that_keep_coming_are_gathered_without_touching_the_final_blocks() {
    let mut table = Table::new(rules());
    for now in (300..=4 * HOUR).step_by(300) {
        table.flush(now, &[(now - 300, 8 << 20)], false);
    }
    table.compact(6 * HOUR);
    let before = table.rewritten;
    for now in (6 * HOUR..20 * HOUR).step_by(300) {
        table.flush(now, &[(10, 1000)], false);
        table.compact(now);
        assert!(table.blocks.len() < 40, "{} blocks", table.blocks.len());
    }
    assert!(table.rewritten - before < 1 << 20, "{}", table.rewritten - before);
}

#[test]
fn blocks_whose_lists_may_be_needed_are_left_alone() {
    let mut table = Table::new(rules());
    for n in 0..20 {
        table.flush(600 + n, &[(n, 1000)], true);
    }
    assert!(plan(&table.blocks, START + 600 + 44 * 60, &table.rules).is_empty());
    assert_eq!(plan(&table.blocks, START + 619 + 45 * 60, &table.rules).len(), 1);
}

#[test]
fn blocks_that_are_final_already_are_left_alone() {
    let mut table = Table::new(rules());
    table.flush(600, &[(0, 1000)], false);
    table.compact(48 * HOUR);
    assert_eq!((table.rewritten, table.blocks.len()), (0, 1), "alone in its slice");
    table.flush(48 * HOUR, &[(10, 1000)], false);
    table.compact(50 * HOUR);
    assert_eq!(table.blocks.len(), 1);
    let rewritten = table.rewritten;
    table.compact(500 * HOUR);
    assert_eq!(table.rewritten, rewritten);
}

proptest! {
    /// What came in order stays in order: no piece has anything of the time of another one.
    #[test]
    fn pieces_of_what_comes_in_order_are_apart(
        sizes in proptest::collection::vec(1u64..(20 << 20), 1..80), runs_max in 2usize..6, min_blocks in 1usize..6,
    ) {
        let mut table = Table::new(Rules { min_blocks, runs_max, slice: 24 * HOUR * SECOND, ..rules() });
        for (number, bytes) in sizes.into_iter().enumerate() {
            let now = 300 * (number as i64 + 1);
            table.flush(now, &[(now - 1, bytes)], false);
            table.compact(now);
            let mut pieces: Vec<_> =
                table.blocks.iter().map(|b| (b.origin.received_min, b.origin.received_max)).collect();
            pieces.sort_unstable();
            for pair in pieces.windows(2) {
                prop_assert!(pair[0].1 <= pair[1].0, "{:?} and {:?}", pair[0], pair[1]);
            }
        }
    }

    /// Whatever comes when: the plan ends, blocks become few, and write amplification stays below 4.
    #[test]
    fn any_day_is_compacted_within_the_bound(
        flushes in proptest::collection::vec(
            (60i64..3000, 1u64..(10 << 20), proptest::collection::vec((0i64..24 * HOUR, 1u64..(1 << 20)), 0..3), any::<bool>()),
            1..120,
        ),
        min_blocks in 2usize..12, few in any::<bool>(),
    ) {
        // With memory for few inputs only it takes more rewrites, but ends as well.
        let runs_max = if few { 3 } else { 32 };
        let mut table = Table::new(Rules { min_blocks, runs_max, ..rules() });
        let mut now = 0;
        for (pause, bytes, late, with_list) in flushes {
            now += pause;
            let mut entries: Vec<_> = late.into_iter().filter(|(at, _)| *at < now).collect();
            entries.push(((now - pause).min(24 * HOUR - 1), bytes));
            table.flush(now, &entries, with_list);
            table.compact(now);
        }
        // A day later everything has come to rest.
        let end = now.max(24 * HOUR) + 30 * HOUR;
        table.compact(end);
        prop_assert!(table.blocks.len() <= 6, "{} blocks", table.blocks.len());
        prop_assert!(few || table.amplification() < 4.0, "{}", table.amplification());
        prop_assert!(plan(&table.blocks, START + end + 100 * HOUR, &table.rules).is_empty());
    }
}
