//! One block without what does not stay, against the same rows written anew.

use skald_model::line_filter::{LineFilter, Needle};

use super::*;
use crate::block::FilterKeys;

/// What stays, by stream, time and line.
#[derive(Clone, Debug)]
struct Rule {
    nothing_of: u8,
    /// Of this stream what is earlier stays.
    cut_of: u8,
    cut_at: Timestamp,
    /// Of this stream lines with this in them go.
    text_of: u8,
    text: &'static str,
    /// Whether the rule tells what lines it is about.
    tells: bool,
}

impl Rule {
    const ALL: Self = Self { nothing_of: 9, cut_of: 9, cut_at: 0, text_of: 9, text: "", tells: false };

    fn keep(&self) -> KeepStream {
        let rule = self.clone();
        let keys = rule.tells.then(|| Arc::new(keys_of(rule.text)));
        Box::new(move |l, first, last| {
            assert!(first <= last);
            let stream = (0..8).find(|n| labels(*n).as_ref() == l).unwrap();
            let (cut_at, text) = (rule.cut_at, rule.text);
            match stream {
                s if s == rule.nothing_of => Kept::Nothing,
                s if s == rule.cut_of && last < cut_at => Kept::All,
                s if s == rule.cut_of && first >= cut_at => Kept::Nothing,
                s if s == rule.cut_of => Kept::rows(move |ts, _, _| ts < cut_at),
                s if s == rule.text_of => {
                    let keep: KeepRow = Box::new(move |_, line: &[u8], _| {
                        memchr::memmem::find(line, text.as_bytes()).is_none()
                    });
                    Kept::Rows(KeptRows::new(keep, keys.clone().map(|keys| vec![keys])))
                }
                _ => Kept::All,
            }
        })
    }

    fn stays(&self, row: &Row) -> bool {
        row.0 != self.nothing_of
            && (row.0 != self.cut_of || row.1 < self.cut_at)
            && (row.0 == self.cut_of || row.0 != self.text_of || !row.2.contains(self.text))
    }
}

fn some_rule() -> impl Strategy<Value = Rule> {
    let text = prop_oneof![Just("a"), Just("id="), Just("ff"), Just("two"), Just("nowhere")];
    (0u8..12, 0u8..12, 0i64..400, 0u8..12, text, any::<bool>()).prop_map(
        |(nothing_of, cut_of, cut, text_of, text, tells)| Rule {
            nothing_of,
            cut_of,
            cut_at: cut * 999,
            text_of,
            text,
            tells,
        },
    )
}

/// Rows in order, each once.
fn some_rows() -> impl Strategy<Value = Vec<Row>> {
    proptest::collection::vec(some_row(), 1..160).prop_map(|rows| model(&[rows]))
}

fn opened(file: &Bytes, filters_max: u64) -> BlockMeta {
    BlockMeta::parse_for_copies(&Fetched::whole(file.clone()), file.len() as u64, filters_max).unwrap()
}

fn pruning(file: &Bytes, rule: &Rule, may_stay: bool, options: &MergeOptions) -> Box<Prune> {
    Prune::new(opened(file, u64::MAX), rule.keep(), may_stay, options).unwrap()
}

fn prune(file: &Bytes, rule: &Rule, options: &MergeOptions) -> (Vec<Bytes>, Vec<MergedBlock>, MergeStats) {
    run(&mut *pruning(file, rule, false, options), std::slice::from_ref(file))
}

/// A row group is a unit of copies only from an eighth of a full one on: blocks are read as if full ones were small.
fn all_are_large(options: &MergeOptions) -> MergeOptions {
    let block = BlockOptions { row_group_rows: 1, ..options.block };
    MergeOptions { block, range: TimeRange::ALL, ..options.clone() }
}

fn open(file: &Bytes) -> BlockMeta {
    BlockMeta::parse(file, file.len() as u64).unwrap()
}

fn keys_of(text: &str) -> FilterKeys {
    FilterKeys::new(&LinePredicate { all: vec![LineFilter::Contains(Needle::new(text.as_bytes()))] })
}

/// Every line has to be in pages that the filters do not exclude.
fn assert_filters_find(file: &Bytes) {
    let meta = open(file);
    let rows = read(file);
    for (number, (_, _, line, _)) in rows.iter().enumerate() {
        let keys =
            FilterKeys::new(&LinePredicate { all: vec![LineFilter::Contains(Needle::new(line.as_bytes()))] });
        let page = meta.pages.line.of_row(number as u32);
        assert!(meta.probe(&keys).may_hold(page), "{line:?} is in page {page}");
    }
}

proptest! {
    /// However row groups are copied, looked at and written anew.
    #[test]
    fn a_block_is_what_it_would_be_without_what_goes(
        rows in some_rows(), rule in some_rule(), options in some_options(), small in any::<bool>(),
    ) {
        let (file, _) = write(&rows, &options.block);
        let options = if small { MergeOptions { range: TimeRange::ALL, ..options } } else { all_are_large(&options) };
        let (files, blocks, stats) = prune(&file, &rule, &options);
        let expected: Vec<Row> = rows.iter().filter(|r| rule.stays(r)).cloned().collect();
        // A look before anything is written changes nothing, unless nothing goes.
        let checked = run(&mut *pruning(&file, &rule, true, &options), std::slice::from_ref(&file));
        match expected.len() == rows.len() {
            true => prop_assert!(checked.0.is_empty() && checked.2.rows_written == 0),
            false => prop_assert_eq!((&checked.0, &checked.1), (&files, &blocks)),
        }
        prop_assert_eq!(files.len(), usize::from(!expected.is_empty()));
        prop_assert_eq!(stats.rows_written as usize, expected.len());
        let Some(pruned) = files.first() else { return Ok(()) };
        prop_assert_eq!(&read(pruned), &expected);
        // Everything that is told of it is as if it had been written anew.
        let (again, summary) = write(&expected, &options.block);
        let told = &blocks[0].summary;
        let sizes = |s: &BlockSummary| BlockSummary { file_size: 0, tail_offset: 0, ..s.clone() };
        prop_assert_eq!(sizes(told), sizes(&summary));
        prop_assert_eq!(told.file_size, pruned.len() as u64);
        let (meta, again) = (open(pruned), open(&again));
        prop_assert_eq!(told.tail_offset, meta.tail_offset());
        for stream in 0..again.streams().len() as u32 {
            prop_assert_eq!(meta.streams().get(stream).unwrap(), again.streams().get(stream).unwrap());
        }
        assert_filters_find(pruned);
    }

    /// So it is with its filters, page index, footer.
    #[test]
    fn a_block_of_which_all_stays_is_the_same_file(rows in some_rows(), options in some_options()) {
        let (file, summary) = write(&rows, &options.block);
        let (files, blocks, stats) = prune(&file, &Rule::ALL, &all_are_large(&options));
        prop_assert_eq!(stats.rows_copied as usize, rows.len());
        prop_assert_eq!(stats.rows_read, 0);
        prop_assert_eq!(&blocks[0].summary, &summary);
        prop_assert_eq!(&files[0], &file);
    }
}

/// Four row groups of a hundred rows, the first two of one stream.
fn four_groups() -> (Bytes, Vec<Row>, MergeOptions) {
    let block =
        BlockOptions { row_group_rows: 100, line_page_bytes: 500, page_rows: 30, ..BlockOptions::default() };
    let rows: Vec<Row> = (0..400)
        .map(|n: i64| {
            (
                if n < 200 { 0 } else { (n / 100) as u8 },
                n * 1000,
                format!("line id{n:08} end"),
                Labels::empty(),
            )
        })
        .collect();
    let options = MergeOptions { block, ..MergeOptions::default() };
    (write(&rows, &block).0, rows, options)
}

#[test]
fn only_row_groups_of_which_something_goes_are_written_anew() {
    let (file, _, options) = four_groups();
    let copied = |rule: Rule| {
        let (_, _, stats) = prune(&file, &rule, &options);
        (stats.rows_copied, stats.rows_written, stats.rows_read)
    };
    assert_eq!(copied(Rule::ALL), (400, 400, 0));
    // A whole row group goes, and none is read.
    assert_eq!(copied(Rule { nothing_of: 2, ..Rule::ALL }), (300, 300, 0));
    // The later half of a stream of two row groups: the earlier one is read to know what it is of the stream.
    assert_eq!(copied(Rule { cut_of: 0, cut_at: 100_000, ..Rule::ALL }), (300, 300, 100));
    // Rows that only their lines tell.
    let text = |text| Rule { text_of: 0, text, ..Rule::ALL };
    assert_eq!(copied(text("nowhere")), (400, 400, 200));
    let (kept, written, read) = copied(text("id00000150"));
    assert_eq!((kept, written), (300, 399));
    assert!((250..=300).contains(&read), "{read}: looked at up to the row that goes, then written");
    // The same, where filters tell that no row goes, or which may.
    let told = |name| Rule { tells: true, ..text(name) };
    assert_eq!(copied(told("nowhere")), (400, 400, 0));
    // Of a stream that loses a row the others need no count; of each row group its first and its last row tell the times.
    let (kept, written, read) = copied(told("id00000150"));
    assert_eq!((kept, written), (300, 399));
    assert!((104..150).contains(&read), "{read}: three rows, some of a page, and what is written");
    let of_one_group = |name| Rule { text_of: 3, ..told(name) };
    let (kept, written, read) = copied(of_one_group("id00000350"));
    assert_eq!((kept, written), (300, 399));
    assert!((100..150).contains(&read), "{read}: one page was looked at");
}

/// A block may have them if another tool has written it. What the stream index tells of a stream that stays counts them.
#[test]
fn equal_rows_of_a_stream_that_stays_whole_stay() {
    let (_, mut rows, options) = four_groups();
    // The second row group is written anew, with the end of the first stream and the two rows.
    rows.truncate(180);
    rows[150] = rows[149].clone();
    rows.extend((180..250).map(|n| (2, n * 1000, "goes".to_owned(), Labels::empty())));
    let file = write(&rows, &options.block).0;
    let (files, blocks, stats) = prune(&file, &Rule { nothing_of: 2, ..Rule::ALL }, &options);
    assert_eq!(read(&files[0]), rows[..180]);
    assert_eq!((stats.rows_copied, blocks[0].summary.digest.count), (100, 180));
    // So they do if other rows of it go.
    let rule = Rule { nothing_of: 2, text_of: 0, text: "id00000160", tells: true, ..Rule::ALL };
    let (files, blocks, stats) = prune(&file, &rule, &options);
    rows.remove(160);
    assert_eq!(read(&files[0]), rows[..179]);
    assert_eq!((stats.rows_copied, blocks[0].summary.digest.count), (100, 179));
}

#[test]
fn what_has_other_filters_than_are_written_is_not_copied() {
    let (file, _, options) = four_groups();
    let with = |filters_max, block| {
        let options = MergeOptions { block, ..options.clone() };
        Prune::new(opened(&file, filters_max), Rule::ALL.keep(), false, &options).is_some()
    };
    assert!(with(u64::MAX, options.block));
    assert!(!with(10, options.block), "they were not read");
    assert!(!with(u64::MAX, BlockOptions { word_index: false, ..options.block }));
    assert!(!with(u64::MAX, BlockOptions { filter_bits_per_key: 0.0, ..options.block }));
}

#[test]
fn damage_is_not_copied() {
    let (file, _, options) = four_groups();
    for page in opened(&file, u64::MAX).stored_groups[2].as_ref().unwrap().pages() {
        let mut damaged = file.to_vec();
        damaged[page.bytes.end as usize - 1] ^= 1;
        let damaged = Bytes::from(damaged);
        let mut prune = pruning(&damaged, &Rule::ALL, false, &options);
        let error = loop {
            match prune.step() {
                Ok(MergeStep::Fetch { .. }) => prune.fetched(0, Fetched::whole(damaged.clone())),
                Ok(MergeStep::Output(_)) => {}
                Ok(step) => panic!("{step:?} of a damaged page of {:?}", page.column),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
}
