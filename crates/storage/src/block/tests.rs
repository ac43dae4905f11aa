//! Whole blocks: written, read back, searched, damaged.

use std::ops::ControlFlow;

use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use proptest::prelude::*;
use skald_model::line_filter::{LineFilter, Needle};
use skald_model::{
    Digest, Direction, EntryHash, Labels, LabelsRef, LinePredicate, MatchOp, Matcher, Selector, StreamId,
    TimeRange,
};

use super::*;

/// A row as a test knows it: number of its stream, time, line, metadata.
type TestRow = (u32, i64, String, Labels);

#[derive(Clone, Debug)]
struct TestBlock {
    streams: Vec<Labels>,
    rows: Vec<TestRow>,
}

impl TestBlock {
    fn write(&self, options: &BlockOptions) -> FinishedBlock<Vec<u8>> {
        let mut w = BlockWriter::new(options).unwrap();
        let mut last = None;
        for (stream, ts, line, metadata) in &self.rows {
            if last.replace(*stream) != Some(*stream) {
                w.begin_stream(&self.streams[*stream as usize], StreamId(u64::from(*stream) << 60 | 5))
                    .unwrap();
            }
            w.row(*ts, line.as_bytes(), metadata.as_ref()).unwrap();
        }
        w.finish().unwrap()
    }

    /// The rows that a query must find, and the numbers under which the block knows the streams that have rows.
    fn expected(&self, selector: &Selector, range: TimeRange, p: &LinePredicate) -> Vec<TestRow> {
        let passes = |r: &&TestRow| {
            selector.matches(self.streams[r.0 as usize].as_ref())
                && range.contains(r.1)
                && p.matches(r.2.as_bytes())
        };
        self.rows.iter().filter(passes).cloned().collect()
    }
}

struct Opened {
    meta: BlockMeta,
    file: Bytes,
    /// The test's number of each of the block's streams.
    streams: Vec<u32>,
}

fn open(block: &TestBlock, options: &BlockOptions) -> Opened {
    let finished = block.write(options);
    let file = Bytes::from(finished.output);
    let s = &finished.summary;
    assert_eq!(s.file_size, file.len() as u64);
    let meta = BlockMeta::parse(&file.slice(s.tail_offset as usize..), s.file_size).unwrap();
    assert_eq!(meta.tail_offset(), s.tail_offset);
    let streams = (0..meta.streams().len() as u32)
        .map(|i| (meta.streams().get(i).unwrap().id.0 >> 60) as u32)
        .collect();
    Opened { meta, file, streams }
}

impl Opened {
    fn plan(&self, selector: &Selector, range: TimeRange, p: &LinePredicate) -> ScanPlan {
        let streams = self.meta.streams().select(selector, range).unwrap();
        let predicate = PreparedPredicate::new(p);
        let request = ScanRequest { streams: &streams, range, predicate: &predicate, metadata: true };
        plan_scan(&self.meta, &request).unwrap()
    }

    fn fetch(&self, ranges: &[std::ops::Range<u64>]) -> Fetched {
        let mut f = Fetched::new();
        for r in ranges {
            f.insert(r.start, self.file.slice(r.start as usize..r.end as usize));
        }
        f
    }

    fn scan(&self, plan: &ScanPlan) -> Result<Vec<TestRow>> {
        let (mut out, mut buffers) = (vec![], ScanBuffers::new());
        for part in plan.parts(&self.meta, 200) {
            let fetched = self.fetch(&plan.part_ranges(&self.meta, &part));
            let visit = |row: Row<'_>| {
                out.push(self.test_row(row.stream, row.timestamp, row.line, row.metadata));
                ControlFlow::Continue(())
            };
            let _ = scan_pages(&self.meta, plan, &part, &fetched, &mut buffers, visit)?;
        }
        Ok(out)
    }

    fn top(&self, plan: ScanPlan, direction: Direction, limit: usize, all: bool) -> Result<Vec<TestRow>> {
        let mut search = TopRows::new(plan, direction, limit, all);
        let (mut fetched, mut buffers) = (Fetched::new(), ScanBuffers::new());
        while let TopStep::Fetch(ranges) =
            search.step(&self.meta, &fetched, &mut buffers, |r| all || r.timestamp % 3 != 0)?
        {
            fetched = self.fetch(&ranges);
        }
        let row = |r: TopRow| self.test_row(r.stream, r.timestamp, &r.line, r.metadata.as_ref());
        Ok(search.into_rows().into_iter().map(row).collect())
    }

    fn test_row(&self, stream: u32, timestamp: i64, line: &[u8], metadata: LabelsRef<'_>) -> TestRow {
        let line = String::from_utf8(line.to_vec()).unwrap();
        (self.streams[stream as usize], timestamp, line, metadata.to_owned())
    }
}

/// Small pages, so that little data has many borders.
fn some_options() -> impl Strategy<Value = BlockOptions> {
    (20usize..300, 1usize..12, 3usize..40, prop_oneof![Just(0.0), Just(6.0)], any::<bool>()).prop_map(
        |(line_page_bytes, page_rows, row_group_rows, filter_bits_per_key, word_index)| BlockOptions {
            zstd_level: 1,
            line_page_bytes,
            filter_bits_per_key,
            word_index,
            row_group_rows,
            page_rows,
        },
    )
}

fn some_metadata() -> impl Strategy<Value = Labels> {
    let pairs = proptest::collection::btree_map("[a-c]{1,2}", "[x-zé]{1,3}", 0..3);
    let some = pairs.prop_map(|m| Labels::from_pairs(m.iter().map(|(k, v)| (k.as_str(), v.as_str()))));
    prop_oneof![3 => Just(Labels::empty()), 1 => some]
}

fn some_block() -> impl Strategy<Value = TestBlock> {
    let streams = proptest::collection::btree_set("[a-c]{1,2}", 1..5);
    let row = (0i64..3000, "(GET|get|id=[0-9a-f]{8}|[ab]{0,3}|\n|é ){0,4}", some_metadata());
    (streams, proptest::collection::vec((0usize..5, row), 0..80)).prop_map(|(names, rows)| {
        let streams: Vec<_> =
            names.iter().map(|n| Labels::from_pairs([("app", n.as_str()), ("x", "1")])).collect();
        let base = 1_750_000_000_000_000_000;
        let n = streams.len();
        let mut rows: Vec<TestRow> =
            rows.into_iter().map(|(s, (t, l, m))| ((s % n) as u32, base + t * 700, l, m)).collect();
        rows.sort_by_key(|r| (r.0, r.1));
        TestBlock { streams, rows }
    })
}

fn some_predicate() -> impl Strategy<Value = LinePredicate> {
    let contains = |s: String| LineFilter::Contains(Needle::new(s.as_bytes()));
    let needle = || "(GET|G|id=|[0-9a-f]{8}|a|ba|)";
    let filter = prop_oneof![
        needle().prop_map(contains),
        needle().prop_map(|s| LineFilter::NotContains(Needle::new(s.as_bytes()))),
        proptest::collection::vec(needle().prop_map(contains), 1..4).prop_map(LineFilter::Any),
    ];
    proptest::collection::vec(filter, 0..3).prop_map(|all| LinePredicate { all })
}

fn some_range() -> impl Strategy<Value = TimeRange> {
    let base = 1_750_000_000_000_000_000;
    let some =
        (0i64..3000, 0i64..3000).prop_map(move |(a, b)| TimeRange::new(base + a * 700, base + (a + b) * 700));
    prop_oneof![Just(TimeRange::ALL), some]
}

fn some_selector() -> impl Strategy<Value = Selector> {
    let some = "[a-c]".prop_map(|v| Selector {
        matchers: vec![Matcher::new("app", MatchOp::Match, &format!("{v}.?")).unwrap()],
    });
    prop_oneof![Just(Selector::default()), some]
}

proptest! {
    #[test]
    fn scanning_finds_what_matching_every_row_finds(
        block in some_block(), options in some_options(), selector in some_selector(), range in some_range(),
        predicate in some_predicate(),
    ) {
        let opened = open(&block, &options);
        let plan = opened.plan(&selector, range, &predicate);
        prop_assert_eq!(opened.scan(&plan).unwrap(), block.expected(&selector, range, &predicate));
    }

    #[test]
    fn first_rows_are_those_of_the_sorted_whole(
        block in some_block(), options in some_options(), selector in some_selector(), range in some_range(),
        predicate in some_predicate(), limit in 0usize..20, forward in any::<bool>(), all in any::<bool>(),
    ) {
        let opened = open(&block, &options);
        let plan = opened.plan(&selector, range, &predicate);
        let direction = if forward { Direction::Forward } else { Direction::Backward };
        let mut expected = block.expected(&selector, range, &predicate);
        expected.retain(|r| all || r.1 % 3 != 0);
        expected.sort_by_key(|r| r.1);
        if !forward {
            expected.reverse();
        }
        expected.truncate(limit);
        prop_assert_eq!(opened.top(plan, direction, limit, all).unwrap(), expected);
    }

    #[test]
    fn times_are_read_without_lines(
        block in some_block(), options in some_options(), selector in some_selector(), range in some_range(),
    ) {
        let opened = open(&block, &options);
        let plan = opened.plan(&selector, range, &LinePredicate::default());
        let fetched = opened.fetch(&plan.time_ranges(&opened.meta));
        let mut found = vec![];
        scan_times(&opened.meta, &plan, &fetched, &mut ScanBuffers::new(), |stream, times| {
            found.extend(times.iter().map(|t| (opened.streams[stream as usize], *t)));
        }).unwrap();
        let expected: Vec<_> = block.expected(&selector, range, &LinePredicate::default())
            .into_iter().map(|r| (r.0, r.1)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn index_and_summary_tell_the_truth(block in some_block(), options in some_options()) {
        let finished = block.write(&options);
        let opened = open(&block, &options);
        let mut all = Digest::default();
        for i in 0..opened.meta.streams().len() as u32 {
            let info = opened.meta.streams().get(i).unwrap();
            let test_number = (info.id.0 >> 60) as u32;
            let rows: Vec<_> = block.rows.iter().filter(|r| r.0 == test_number).collect();
            let mut digest = Digest::default();
            rows.iter().for_each(|r| digest.add(EntryHash::of(r.1, r.2.as_bytes(), r.3.as_ref())));
            prop_assert_eq!(info.digest, digest);
            prop_assert_eq!(&info.labels, &block.streams[test_number as usize]);
            prop_assert_eq!(info.rows.len(), rows.len());
            prop_assert_eq!(info.bytes, rows.iter().map(|r| r.2.len() as u64).sum::<u64>());
            prop_assert_eq!((info.min_ts, info.max_ts), (rows[0].1, rows[rows.len() - 1].1));
            all.merge(&digest);
        }
        let s = &finished.summary;
        prop_assert_eq!(s.digest, all);
        prop_assert_eq!(s.rows, block.rows.len() as u64);
        prop_assert_eq!(s.metadata_bytes, block.rows.iter().map(|r| r.3.packed().len() as u64).sum::<u64>());
    }

    /// Parquet's own reader sees the rows as they were written.
    #[test]
    fn other_readers_read_it_and_it_can_be_made_anew(block in some_block(), options in some_options()) {
        let file = Bytes::from(block.write(&options).output);
        let reader = SerializedFileReader::new(file.clone()).unwrap();
        prop_assert_eq!(reader.metadata().file_metadata().num_rows(), block.rows.len() as i64);
        let again = convert_foreign(file.clone(), 1 << 30, &options).unwrap();
        prop_assert_eq!(again.output, file);
    }

    #[test]
    fn damage_is_an_error_and_not_a_panic_or_a_wrong_answer(
        block in some_block(), options in some_options(), at in any::<prop::sample::Index>(), flip in 1u8..=255,
        cut in any::<prop::sample::Index>(),
    ) {
        let good = open(&block, &options);
        let range = TimeRange::ALL;
        let plan = good.plan(&Selector::default(), range, &LinePredicate::default());
        let expected = good.scan(&plan).unwrap();
        let mut bytes = good.file.to_vec();
        let i = at.index(bytes.len());
        bytes[i] ^= flip;
        let file = Bytes::from(bytes);
        if let Ok(meta) = BlockMeta::parse(&file, file.len() as u64) {
            let opened = Opened { meta, file: file.clone(), streams: good.streams.clone() };
            let plan = opened.plan(&Selector::default(), range, &LinePredicate::default());
            if let Ok(rows) = opened.scan(&plan) {
                prop_assert_eq!(rows, expected);
            }
            let _ = inspect(&file, file.len() as u64);
        }
        let short = good.file.slice(..cut.index(good.file.len()));
        prop_assert!(BlockMeta::parse(&short, short.len() as u64).is_err());
        let _ = BlockMeta::parse(&short, good.file.len() as u64);
    }
}

fn one_row() -> TestBlock {
    TestBlock {
        streams: vec![Labels::from_pairs([("app", "a\"b")])],
        rows: vec![(0, 1_750_000_000_123_456_789, "hello".into(), Labels::from_pairs([("k", "v")]))],
    }
}

#[test]
fn the_tail_can_be_found_by_asking_twice() {
    let file = Bytes::from(one_row().write(&BlockOptions::default()).output);
    let size = file.len() as u64;
    let mut have = 8;
    let meta = loop {
        match BlockMeta::parse(&file.slice(file.len() - have..), size) {
            Ok(meta) => break meta,
            Err(Error::NeedTail { offset }) => {
                assert!(size - offset > have as u64);
                have = (size - offset) as usize;
            }
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!(meta.tail_offset(), size - have as u64);
    assert_eq!(meta.rows(), 1);
}

#[test]
fn foreign_and_later_files_are_told_apart() {
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    let schema = parquet::schema::parser::parse_message_type("message m { required int32 a; }").unwrap();
    let mut file = vec![];
    let properties = WriterProperties::builder().build();
    SerializedFileWriter::new(&mut file, schema.into(), properties.into()).unwrap().close().unwrap();
    let file = Bytes::from(file);
    assert!(matches!(BlockMeta::parse(&file, file.len() as u64), Err(Error::Foreign(_))));

    let mut later = one_row().write(&BlockOptions::default()).output;
    let at = memchr::memmem::find(&later, b"skald.version").unwrap() + "skald.version".len();
    // The value's field header, its length, its only digit.
    later[at + 2] = b'2';
    let later = Bytes::from(later);
    assert!(matches!(
        BlockMeta::parse(&later, later.len() as u64),
        Err(Error::Version { found: 2, known: 1 })
    ));
}

#[test]
fn rows_out_of_order_are_refused() {
    let (a, b) = (Labels::from_pairs([("a", "1")]), Labels::from_pairs([("a", "2")]));
    let mut w = BlockWriter::new(&BlockOptions::default()).unwrap();
    assert!(matches!(w.row(1, b"x", LabelsRef::EMPTY), Err(Error::Order(_))));
    w.begin_stream(&b, StreamId(1)).unwrap();
    w.row(5, b"x", LabelsRef::EMPTY).unwrap();
    assert!(matches!(w.row(4, b"x", LabelsRef::EMPTY), Err(Error::Order(_))));
    assert!(matches!(w.begin_stream(&a, StreamId(2)), Err(Error::Order(_))));
    assert!(matches!(w.begin_stream(&b, StreamId(1)), Err(Error::Order(_))));
    w.begin_stream(&b, StreamId(2)).unwrap();
    let finished = w.finish().unwrap();
    assert_eq!(
        (finished.summary.rows, finished.summary.streams),
        (1, 1),
        "a stream without rows is left out"
    );
}

#[test]
fn a_block_without_rows_can_be_read() {
    let block = TestBlock { streams: vec![], rows: vec![] };
    let opened = open(&block, &BlockOptions::default());
    let plan = opened.plan(&Selector::default(), TimeRange::ALL, &LinePredicate::default());
    assert!(plan.is_empty());
    assert_eq!(opened.scan(&plan).unwrap(), []);
}

#[test]
fn times_before_the_epoch_and_at_the_ends_of_time_are_kept() {
    let times = [i64::MIN, -1_000_001, -1, 0, 999, 1000, i64::MAX - 1];
    let rows = times.iter().map(|t| (0, *t, "x".to_owned(), Labels::empty())).collect::<Vec<_>>();
    let block = TestBlock { streams: one_row().streams, rows };
    let opened = open(&block, &BlockOptions::default());
    let plan = opened.plan(&Selector::default(), TimeRange::ALL, &LinePredicate::default());
    assert_eq!(opened.scan(&plan).unwrap(), block.rows);
}

#[test]
fn empty_lines_and_one_very_long_line() {
    let mut rows: Vec<TestRow> = (0..30_000).map(|i| (0, i, String::new(), Labels::empty())).collect();
    rows.push((0, 40_000, "a".repeat(1 << 20), Labels::empty()));
    rows.push((0, 40_001, "end".into(), Labels::empty()));
    let block = TestBlock { streams: one_row().streams, rows };
    let opened = open(&block, &BlockOptions::default());
    let needle = LinePredicate { all: vec![LineFilter::Contains(Needle::new(b"a"))] };
    for p in [LinePredicate::default(), needle] {
        let plan = opened.plan(&Selector::default(), TimeRange::ALL, &p);
        assert_eq!(opened.scan(&plan).unwrap(), block.expected(&Selector::default(), TimeRange::ALL, &p));
    }
}

#[test]
fn the_newest_rows_of_long_streams_need_few_pages() {
    let rows = (0..2u32)
        .flat_map(|s| (0..5000i64).map(move |i| (s, i, format!("line {i:040}"), Labels::empty())))
        .collect();
    let streams = ["a", "b"].map(|v| Labels::from_pairs([("app", v)])).to_vec();
    let options = BlockOptions { line_page_bytes: 4096, ..Default::default() };
    let opened = open(&TestBlock { streams, rows }, &options);
    let count = |p: &LinePredicate, limit, all| {
        let plan = opened.plan(&Selector::default(), TimeRange::ALL, p);
        let pages = plan.pages();
        let mut search = TopRows::new(plan, Direction::Backward, limit, all);
        let fetched = Fetched::whole(opened.file.clone());
        search.step(&opened.meta, &fetched, &mut ScanBuffers::new(), |_| true).unwrap();
        (search.stats().pages as usize, pages)
    };
    let (read, all) = count(&LinePredicate::default(), 10, true);
    assert_eq!(read, 2, "of {all}");
    let every_tenth = LinePredicate { all: vec![LineFilter::Contains(Needle::new(b"7"))] };
    let (read, all) = count(&every_tenth, 10, false);
    assert!(read <= 4, "{read} of {all}");
}

#[test]
fn a_description_names_the_parts() {
    let file = Bytes::from(one_row().write(&BlockOptions::default()).output);
    let text = inspect(&file, file.len() as u64).unwrap();
    for part in
        ["block format 1", "2025-06-15T15:06:40.123456789Z", "metadata.key_value.value", r#"{app="a\"b"}"#]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn each_stream_tells_how_much_metadata_it_has() {
    let labels = |app| Labels::from_pairs([("app", app)]);
    let metadata = Labels::from_pairs([("key", "value"), ("k", "v")]);
    let row = |stream, ts, metadata: &Labels| (stream, ts, "x".to_owned(), metadata.clone());
    let block = TestBlock {
        streams: vec![labels("a"), labels("b"), labels("c")],
        rows: vec![
            row(0, 1, &metadata),
            row(0, 2, &metadata),
            row(1, 1, &Labels::empty()),
            row(2, 1, &metadata),
        ],
    };
    let sizes = |meta: &BlockMeta| -> Vec<u64> {
        (0..3).map(|i| meta.streams().get(i).unwrap().metadata_bytes).collect()
    };
    let Opened { meta, file, .. } = open(&block, &BlockOptions::default());
    assert_eq!(sizes(&meta), [20, 0, 10]);

    // A block of an older build, which has no such part: the same file with another key.
    let mut older = file.to_vec();
    let at = memchr::memmem::find(&older, b"skald.metadata").unwrap();
    older[at] = b'x';
    let meta = BlockMeta::parse(&Bytes::from(older), file.len() as u64).unwrap();
    let packed = metadata.packed().len() as u64 * 3;
    assert_eq!(sizes(&meta), [packed / 2, packed / 4, packed / 4]);
}
