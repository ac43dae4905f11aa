//! Merges against a model: the rows of all inputs in order, each once, less what does not stay.

mod prune;

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use skald_model::{LinePredicate, Selector};

use super::*;
use crate::block::{
    BlockSummary, BlockWriter, PreparedPredicate, ScanBuffers, ScanRequest, plan_scan, scan_pages,
};

/// Stream, time, line, metadata.
type Row = (u8, i64, String, Labels);

fn labels(stream: u8) -> Labels {
    // A name that is a prefix of another, and labels that some lack.
    match stream {
        0 => Labels::from_pairs([("app", "a")]),
        1 => Labels::from_pairs([("app", "a"), ("pod", "1")]),
        2 => Labels::from_pairs([("app", "ab")]),
        n => Labels::from_pairs([("app", "b"), ("pod", &*n.to_string())]),
    }
}

fn write(rows: &[Row], options: &BlockOptions) -> (Bytes, BlockSummary) {
    let mut writer = BlockWriter::new(options).unwrap();
    let mut last = None;
    for (stream, ts, line, metadata) in rows {
        if last.replace(*stream) != Some(*stream) {
            writer.begin_stream(&labels(*stream), StreamId(u64::from(*stream) << 62)).unwrap();
        }
        writer.row(*ts, line.as_bytes(), metadata.as_ref()).unwrap();
    }
    let finished = writer.finish().unwrap();
    (finished.output.into(), finished.summary)
}

fn read(file: &Bytes) -> Vec<Row> {
    let meta = BlockMeta::parse(file, file.len() as u64).unwrap();
    let streams: Vec<u32> = (0..meta.streams().len() as u32).collect();
    let predicate = PreparedPredicate::new(&LinePredicate::default());
    let request =
        ScanRequest { streams: &streams, range: TimeRange::ALL, predicate: &predicate, metadata: true };
    let plan = plan_scan(&meta, &request).unwrap();
    assert_eq!(meta.streams().select(&Selector::default(), TimeRange::ALL).unwrap(), streams);
    let (mut rows, fetched) = (Vec::new(), Fetched::whole(file.clone()));
    for part in plan.parts(&meta, 1 << 20) {
        let visit = |r: crate::block::Row<'_>| {
            let all = meta.streams().get(r.stream).unwrap().labels;
            let stream = (0..8).find(|n| labels(*n) == all).unwrap();
            rows.push((
                stream,
                r.timestamp,
                String::from_utf8(r.line.to_vec()).unwrap(),
                r.metadata.to_owned(),
            ));
            std::ops::ControlFlow::Continue(())
        };
        let _ = scan_pages(&meta, &plan, &part, &fetched, &mut ScanBuffers::new(), visit).unwrap();
    }
    rows
}

/// Runs a merge; hands in exactly the bytes that are asked for.
fn merge(
    runs: &[Vec<Bytes>],
    keep: impl Fn(LabelsRef<'_>) -> Kept + Send + Clone + 'static,
    options: MergeOptions,
) -> (Vec<Bytes>, Vec<MergedBlock>, MergeStats) {
    let files: Vec<Bytes> = runs.iter().flatten().cloned().collect();
    let mut numbers = 0..files.len();
    let numbered = runs.iter().map(|r| numbers.by_ref().take(r.len()).collect()).collect();
    let keeps = files.iter().map(|_| {
        let keep = keep.clone();
        Box::new(move |labels: LabelsRef<'_>, first, last| {
            assert!(first <= last);
            keep(labels)
        }) as KeepStream
    });
    run(&mut Merge::new(numbered, keeps.collect(), options), &files)
}

/// Goes on to the end; hands in exactly the bytes that are asked for.
pub(super) fn run(
    rewriting: &mut dyn Rewriting,
    files: &[Bytes],
) -> (Vec<Bytes>, Vec<MergedBlock>, MergeStats) {
    let (mut out, mut blocks, mut open) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        match rewriting.step().unwrap() {
            MergeStep::Open { input } => {
                let (file, size) = (&files[input], files[input].len() as u64);
                let mut pieces = Fetched::new();
                let meta = loop {
                    match BlockMeta::parse_without_filters(&pieces, size) {
                        Ok(meta) => break meta,
                        Err(Error::NotFetched { start, end }) => {
                            pieces.insert(start, file.slice(start as usize..end as usize));
                        }
                        Err(e) => panic!("{e}"),
                    }
                };
                rewriting.opened(input, meta);
            }
            MergeStep::Fetch { input, ranges } => {
                let mut fetched = Fetched::new();
                for r in ranges {
                    fetched.insert(r.start, files[input].slice(r.start as usize..r.end as usize));
                }
                rewriting.fetched(input, fetched);
            }
            MergeStep::Output(bytes) => open.extend(bytes),
            MergeStep::Block(block) => {
                blocks.push(*block);
                out.push(Bytes::from(std::mem::take(&mut open)));
            }
            MergeStep::Unchanged { .. } => assert!(out.is_empty() && open.is_empty()),
            MergeStep::Done => break,
        }
    }
    assert!(open.is_empty());
    (out, blocks, rewriting.stats())
}

/// The rows of inputs, the oldest first, in order and each once.
fn model(inputs: &[Vec<Row>]) -> Vec<Row> {
    let mut all: Vec<Row> = inputs.iter().flatten().cloned().collect();
    all.sort_by_key(|r| (r.0, r.1));
    let mut seen = BTreeSet::new();
    all.retain(|r| seen.insert((r.0, r.1, r.2.clone(), r.3.packed().to_vec())));
    all
}

fn some_row() -> impl Strategy<Value = Row> {
    let metadata = prop_oneof![3 => Just(Labels::empty()), 1 => "[xy]".prop_map(|v| Labels::from_pairs([("m", v.as_str())]))];
    // Few times and lines, so that many rows are alike; some long runs of times.
    let ts = prop_oneof![0i64..6, 0i64..400];
    (0u8..6, ts, "(a|b|id=[0-9a-f]{8}|one two){0,2}", metadata)
        .prop_map(|(s, ts, line, m)| (s, ts * 999, line, m))
}

fn some_block() -> impl Strategy<Value = Vec<Row>> {
    proptest::collection::vec(some_row(), 1..60).prop_map(|mut rows| {
        rows.sort_by_key(|r| (r.0, r.1));
        rows
    })
}

fn some_options() -> impl Strategy<Value = MergeOptions> {
    let block =
        (20usize..300, 1usize..12, 3usize..40).prop_map(|(line_page_bytes, page_rows, row_group_rows)| {
            BlockOptions { line_page_bytes, page_rows, row_group_rows, ..BlockOptions::default() }
        });
    let range = prop_oneof![
        2 => Just(TimeRange::ALL),
        1 => (0i64..400, 1i64..400).prop_map(|(a, b)| TimeRange::new(a * 999, (a + b) * 999)),
    ];
    (block, range, 0u64..4000, 1usize..2000, prop_oneof![Just(1u64 << 20), 200u64..3000]).prop_map(
        |(block, range, fetch_bytes, output_bytes, target_bytes)| MergeOptions {
            block,
            range,
            target_bytes,
            fetch_bytes,
            output_bytes,
            writer_bytes: usize::MAX,
        },
    )
}

proptest! {
    /// However rows are spread over blocks, and however little is read at a time.
    #[test]
    fn a_merge_is_the_sorted_set(
        inputs in proptest::collection::vec(some_block(), 1..6), options in some_options(),
        nothing_of in 0u8..9, rows_of in 0u8..9,
    ) {
        let keep = move |l: LabelsRef<'_>| {
            let stream = (0..8).find(|n| labels(*n).as_ref() == l).unwrap();
            if stream == nothing_of {
                Kept::Nothing
            } else if stream == rows_of {
                Kept::rows(|ts, line, _| ts % 2 == 0 || line.starts_with(b"a"))
            } else {
                Kept::All
            }
        };
        let files: Vec<_> = inputs.iter().map(|rows| vec![write(rows, &options.block).0]).collect();
        let range = options.range;
        let (files, blocks, stats) = merge(&files, keep, options);
        let merged: Vec<Row> = files.iter().flat_map(read).collect();
        let stays = |r: &Row| {
            range.contains(r.1) && r.0 != nothing_of
                && (r.0 != rows_of || r.1 % 2 == 0 || r.2.starts_with('a'))
        };
        let mut expected = model(&inputs);
        expected.retain(stays);
        prop_assert_eq!(&merged, &expected);
        prop_assert_eq!(stats.rows_written as usize, expected.len());
        prop_assert_eq!(stats.rows_read, stats.rows_written + stats.duplicates + stats.removed);
        let staying = inputs.iter().flatten().filter(|r| stays(r)).count();
        prop_assert_eq!(stats.duplicates as usize, staying - expected.len());
        // Blocks know what is in them, and rows of one stream and time are never in two.
        for (file, block) in files.iter().zip(&blocks) {
            let (again, summary) = write(&read(file), &BlockOptions::default());
            prop_assert_eq!(&block.summary.digest, &summary.digest);
            prop_assert_eq!(&block.summary.label_values, &summary.label_values);
            prop_assert_eq!(block.summary.file_size, file.len() as u64);
            prop_assert!(!again.is_empty());
        }
        let ends: Vec<_> = files.iter().map(|f| { let r = read(f); let (a, b) = (&r[0], &r[r.len() - 1]); ((a.0, a.1), (b.0, b.1)) }).collect();
        prop_assert!(ends.windows(2).all(|w| w[0].1 < w[1].0), "{:?}", ends);
    }

    /// What a merge has cut into several blocks goes on as one run, of which one block is open at a time.
    #[test]
    fn a_run_of_blocks_is_like_one_block(
        one in some_block(), other in some_block(), options in some_options(), target in 200u64..2000,
    ) {
        let cut = MergeOptions { target_bytes: target, range: TimeRange::ALL, ..options.clone() };
        let all = |_: LabelsRef<'_>| Kept::All;
        let (run, ..) = merge(&[vec![write(&one, &options.block).0]], all, cut);
        let younger = vec![write(&other, &options.block).0];
        let range = options.range;
        let (files, ..) = merge(&[run, younger], all, options);
        let merged: Vec<Row> = files.iter().flat_map(read).collect();
        let mut expected = model(&[one, other]);
        expected.retain(|r| range.contains(r.1));
        prop_assert_eq!(merged, expected);
    }
}

#[test]
fn many_rows_at_one_time_keep_their_order_and_are_there_once() {
    let row = |n: usize| (0, 5, format!("line {n}"), Labels::empty());
    let (even, odd): (Vec<Row>, Vec<Row>) =
        ((0..300).step_by(2).map(row).collect(), (0..300).map(row).collect());
    let files = [&even, &odd].map(|rows| vec![write(rows, &BlockOptions::default()).0]).to_vec();
    let (files, _, stats) = merge(&files, |_| Kept::All, MergeOptions::default());
    assert_eq!((stats.rows_written, stats.duplicates), (300, 150));
    assert_eq!(read(&files[0]), model(&[even, odd]));
}

#[test]
fn a_writer_that_keeps_too_much_turns_to_the_next_block() {
    let rows: Vec<Row> = (0..20_000).map(|n| (0, n, format!("id={n:012x}"), Labels::empty())).collect();
    let file = write(&rows, &BlockOptions::default()).0;
    let options = MergeOptions { writer_bytes: 20_000, ..MergeOptions::default() };
    let (files, ..) = merge(&[vec![file]], |_| Kept::All, options);
    assert!(files.len() > 1, "{}", files.len());
    assert_eq!(files.iter().flat_map(read).collect::<Vec<_>>(), rows);
}

#[test]
fn nothing_that_stays_gives_no_block() {
    let rows: Vec<Row> = vec![(0, 1, "x".into(), Labels::empty())];
    let file = write(&rows, &BlockOptions::default()).0;
    let (files, ..) = merge(&[vec![file.clone()]], |_| Kept::Nothing, MergeOptions::default());
    assert!(files.is_empty());
    let none = |_: LabelsRef<'_>| Kept::rows(|_, _, _| false);
    let (files, _, stats) = merge(&[vec![file]], none, MergeOptions::default());
    assert_eq!((files.len(), stats.removed), (0, 1));
}

#[test]
fn damage_is_an_error() {
    let rows: Vec<Row> = (0..500).map(|n| (0, n, format!("line {n}"), Labels::empty())).collect();
    let file = write(&rows, &BlockOptions::default()).0;
    let mut damaged = file.to_vec();
    damaged[100] ^= 1;
    let damaged = Bytes::from(damaged);
    let meta = BlockMeta::parse(&damaged, damaged.len() as u64).unwrap();
    let mut merge = Merge::new(vec![vec![0]], vec![Box::new(|_, _, _| Kept::All)], MergeOptions::default());
    assert!(matches!(merge.step().unwrap(), MergeStep::Open { input: 0 }));
    merge.opened(0, meta);
    assert!(matches!(merge.step().unwrap(), MergeStep::Fetch { input: 0, .. }));
    merge.fetched(0, Fetched::whole(damaged));
    assert!(matches!(merge.step(), Err(Error::Corrupt { .. })));
}
