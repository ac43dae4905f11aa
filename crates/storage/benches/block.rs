//! Blocks beside the machine's own limits: how fast they are built, scanned and searched, in bytes of raw lines.
//!
//! Lines are generated, id-rich and always the same. `SKALD_BENCH_LINES` names a file of lines to use instead.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use memchr::memmem::Finder;
use skald_model::line_filter::{LineFilter, Needle};
use skald_model::{
    Digest, Direction, EntryHash, Labels, LabelsRef, LinePredicate, Selector, StreamId, TenantId, TimeRange,
};
use skald_storage::block::merge::{
    KeepStream, Kept, KeptRows, Merge, MergeOptions, MergeStep, Prune, Rewriting,
};
use skald_storage::block::{
    BlockMeta, BlockOptions, BlockWriter, Fetched, FilterKeys, IdFilter, IdFilterBuilder, Masks, PageProbe,
    PreparedPredicate, ScanBuffers, ScanPlan, ScanRequest, TopRows, WordIndex, WordIndexBuilder, plan_scan,
    scan_pages, scan_times,
};
use zstd_safe::{CCtx, CParameter, DCtx};

const RAW_BYTES: usize = 24_000_000;
const STREAMS: usize = 400;
const PAGE: usize = 256 << 10;

/// The lines of a stream with their times, next to each other in memory as an ingester has them.
#[derive(Default)]
struct Lines {
    times: Vec<i64>,
    ends: Vec<usize>,
    data: Vec<u8>,
}

impl Lines {
    fn push(&mut self, time: i64, line: &[u8]) {
        self.times.push(time);
        self.data.extend_from_slice(line);
        self.ends.push(self.data.len());
    }

    fn iter(&self) -> impl Iterator<Item = (i64, &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let spans = starts.zip(&self.ends);
        self.times.iter().copied().zip(spans.map(|(start, end)| &self.data[start..*end]))
    }
}

/// Streams in order, each with its lines in order of time.
struct Corpus {
    streams: Vec<(Labels, StreamId, Lines)>,
    raw: u64,
    rows: u64,
}

impl Corpus {
    fn new() -> Self {
        let lines = match std::env::var("SKALD_BENCH_LINES") {
            Ok(path) => file_lines(&path),
            Err(_) => generated_lines(),
        };
        let tenant = TenantId::new("bench").expect("a valid tenant");
        let mut streams: Vec<_> = (0..STREAMS)
            .map(|i| {
                let (app, pod) = (format!("app-{:02}", i / 20), format!("pod-{i:04}"));
                let labels =
                    Labels::from_pairs([("app", app.as_str()), ("cluster", "c1"), ("pod", pod.as_str())]);
                let id = StreamId::of(&tenant, labels.as_ref());
                (labels, id, Lines::default())
            })
            .collect();
        let (mut random, mut time) = (Random(7), 1_750_000_000_000_000_000);
        let (raw, rows) = (lines.iter().map(|l| l.len() as u64).sum(), lines.len() as u64);
        for (i, line) in lines.into_iter().enumerate() {
            time += (random.next() % 40_000_000) as i64;
            // Small streams are the normal case; a few are large. A stream has lines of one kind.
            let stream =
                (random.next() % STREAMS as u64 * (random.next() % STREAMS as u64)) as usize / STREAMS;
            streams[stream / 4 * 4 + i % 4].2.push(time, &line);
        }
        streams.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        Self { streams, raw, rows }
    }

    fn lines(&self) -> impl Iterator<Item = (i64, &[u8])> {
        self.streams.iter().flat_map(|s| s.2.iter())
    }

    fn block(&self, options: &BlockOptions) -> Vec<u8> {
        let mut w = BlockWriter::new(options).expect("a writer");
        for (labels, id, lines) in &self.streams {
            w.begin_stream(labels, *id).expect("streams in order");
            for (time, line) in lines.iter() {
                w.row(time, line, LabelsRef::EMPTY).expect("rows in order");
            }
        }
        w.finish().expect("a block").output
    }

    /// The lines in pages, with their lengths.
    fn pages(&self) -> Vec<(Vec<u8>, Vec<u32>)> {
        let mut pages = vec![(vec![], vec![])];
        for (_, line) in self.lines() {
            if pages.last().is_some_and(|p: &(Vec<u8>, Vec<u32>)| p.0.len() + line.len() > PAGE) {
                pages.push((vec![], vec![]));
            }
            if let Some((data, lengths)) = pages.last_mut() {
                data.extend_from_slice(line);
                lengths.push(line.len() as u32);
            }
        }
        pages
    }
}

fn file_lines(path: &str) -> Vec<Vec<u8>> {
    let text = std::fs::read(path).expect("SKALD_BENCH_LINES names a file");
    let mut bytes = 0;
    let lines = text.split(|b| *b == b'\n').take_while(|l| {
        bytes += l.len();
        bytes <= RAW_BYTES
    });
    lines.map(|l| String::from_utf8_lossy(l).into_owned().into_bytes()).collect()
}

fn generated_lines() -> Vec<Vec<u8>> {
    const PATHS: [&str; 6] =
        ["/api/v1/orders", "/api/v1/carts/items", "/healthz", "/login", "/static/app.js", "/api/v2/search"];
    let (mut r, mut out, mut bytes) = (Random(1), vec![], 0);
    while bytes < RAW_BYTES {
        let (a, b, c) = (r.next(), r.next(), r.next());
        let (trace, path) = (u128::from(a) << 64 | u128::from(b), PATHS[(c % 6) as usize]);
        let (ms, status) = (c >> 8 & 0xfff, [200, 200, 200, 201, 304, 404, 500][(c >> 20) as usize % 7]);
        // Four kinds of lines, by the streams that they go to.
        let line = match out.len() % 4 {
            0 => format!(
                r#"{{"level":"info","msg":"request completed","method":"GET","path":"{path}","status":{status},"duration_ms":{ms},"trace_id":"{trace:032x}","span_id":"{:016x}","user_id":{}}}"#,
                a ^ b,
                c >> 40
            ),
            1 => format!(
                r#"10.{}.{}.{} - - "GET {path}?q={} HTTP/1.1" {status} {} "-" "Mozilla/5.0 (X11; Linux x86_64)" rt=0.{ms} id={trace:032x}"#,
                a & 255,
                b & 255,
                c & 255,
                a >> 50,
                b >> 48
            ),
            2 => format!(
                "level=warn component=billing msg=\"retrying payment\" attempt={} order={:012x} amount={}.{} duration={ms}ms",
                a % 5,
                b >> 16,
                c >> 50,
                a & 63
            ),
            _ => format!(
                "ERROR [worker-{}] c.a.c.JobRunner - job {:08x} failed: java.lang.IllegalStateException: queue is full\n\tat com.acme.Queue.put(Queue.java:{})\n\tat com.acme.JobRunner.run(JobRunner.java:{})",
                a % 16,
                b >> 32,
                c % 300,
                a >> 55
            ),
        };
        bytes += line.len();
        out.push(line.into_bytes());
    }
    out
}

/// A small generator, so that the lines are the same everywhere (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn contains(needle: &str) -> PreparedPredicate {
    let all = vec![LineFilter::Contains(Needle::new(needle.as_bytes()))];
    PreparedPredicate::new(&LinePredicate { all })
}

fn limits(c: &mut Criterion, corpus: &Corpus) {
    let mut g = c.benchmark_group("limits");
    g.throughput(Throughput::Bytes(corpus.raw)).sample_size(10);
    let pages = corpus.pages();
    let mut context = CCtx::create();
    context.set_parameter(CParameter::CompressionLevel(1)).expect("level 1");
    let mut buffer = vec![0; 2 * PAGE];
    let mut compress = || -> Vec<Vec<u8>> {
        let one = |(data, _): &(Vec<u8>, Vec<u32>)| {
            let n = context.compress2(&mut buffer[..], data).expect("room enough");
            buffer[..n].to_vec()
        };
        pages.iter().map(one).collect()
    };
    g.bench_function("zstd 1, compress", |b| b.iter(&mut compress));
    let compressed = compress();
    let mut context = DCtx::create();
    g.bench_function("zstd 1, decompress", |b| {
        b.iter(|| {
            for page in &compressed {
                context.decompress(&mut buffer[..], page).expect("what was compressed");
            }
        });
    });
    let finder = Finder::new("no such text");
    g.bench_function("memmem", |b| {
        b.iter(|| pages.iter().filter_map(|(data, _)| finder.find(data)).count());
    });
    g.bench_function("hash of entries", |b| {
        b.iter(|| {
            let mut digest = Digest::default();
            corpus.lines().for_each(|(t, l)| digest.add(EntryHash::of(t, l, LabelsRef::EMPTY)));
            digest
        });
    });
    g.finish();
}

fn build(c: &mut Criterion, corpus: &Corpus) {
    let mut g = c.benchmark_group("build");
    g.throughput(Throughput::Bytes(corpus.raw)).sample_size(10);
    let options = BlockOptions::default();
    g.bench_function("block", |b| b.iter(|| corpus.block(&options)));
    let bare = BlockOptions { filter_bits_per_key: 0.0, word_index: false, ..options };
    g.bench_function("block without filter and words", |b| b.iter(|| corpus.block(&bare)));
    let pages = corpus.pages();
    let mut masks = Masks::default();
    g.bench_function("masks", |b| {
        b.iter(|| pages.iter().for_each(|(data, lengths)| masks.fill(data, lengths)));
    });
    g.bench_function("masks and id filter", |b| b.iter(|| filter(&pages)));
    g.bench_function("masks and word index", |b| b.iter(|| words(&pages)));
    g.finish();
}

fn filter(pages: &[(Vec<u8>, Vec<u32>)]) -> Vec<u8> {
    let (mut builder, mut masks) =
        (IdFilterBuilder::new(BlockOptions::default().filter_bits_per_key), Masks::default());
    for (data, lengths) in pages {
        masks.fill(data, lengths);
        builder.add_page(data, &masks);
    }
    builder.finish()
}

fn words(pages: &[(Vec<u8>, Vec<u32>)]) -> Vec<u8> {
    let (mut builder, mut masks) = (WordIndexBuilder::default(), Masks::default());
    for (data, lengths) in pages {
        masks.fill(data, lengths);
        builder.add_page(data, &masks);
    }
    builder.finish()
}

struct Opened {
    meta: BlockMeta,
    fetched: Fetched,
}

impl Opened {
    fn plan(&self, predicate: &PreparedPredicate) -> ScanPlan {
        let streams = self.meta.streams().select(&Selector::default(), TimeRange::ALL).expect("an index");
        let range = TimeRange::ALL;
        let request = ScanRequest { streams: &streams, range, predicate, metadata: true };
        plan_scan(&self.meta, &request).expect("a plan")
    }

    fn scan(&self, predicate: &PreparedPredicate, buffers: &mut ScanBuffers) -> u64 {
        let plan = self.plan(predicate);
        let mut matched = 0;
        for part in plan.parts(&self.meta, u64::MAX) {
            let visit = |row: skald_storage::block::Row<'_>| {
                black_box(row.line);
                ControlFlow::Continue(())
            };
            let (stats, _) =
                scan_pages(&self.meta, &plan, &part, &self.fetched, buffers, visit).expect("a sound block");
            matched += stats.matched;
        }
        matched
    }
}

fn read(c: &mut Criterion, corpus: &Corpus) {
    let file = Bytes::from(corpus.block(&BlockOptions::default()));
    let meta = BlockMeta::parse(&file, file.len() as u64).expect("a sound block");
    let tail = file.slice(meta.tail_offset() as usize..);
    let opened = Opened { meta, fetched: Fetched::whole(file.clone()) };
    let mut buffers = ScanBuffers::new();

    let mut g = c.benchmark_group("read");
    g.throughput(Throughput::Bytes(corpus.raw)).sample_size(10);
    for needle in ["no such text", "IllegalState", "GET", "aaaaaaaabbbbbbbbcccccccc12345678", ""] {
        let predicate = contains(needle);
        g.bench_function(format!("scan for {needle:?}"), |b| {
            b.iter(|| opened.scan(&predicate, &mut buffers))
        });
    }
    let all = PreparedPredicate::all();
    g.bench_function("times", |b| {
        b.iter(|| {
            let (plan, mut n) = (opened.plan(&all), 0);
            let each = |_, times: &[i64]| n += times.len();
            scan_times(&opened.meta, &plan, &opened.fetched, &mut buffers, each).expect("a sound block");
            assert_eq!(n as u64, corpus.rows);
        });
    });
    for (name, needle, all) in [("newest 1000", "", true), ("newest 1000 with GET", "GET", false)] {
        let predicate = contains(needle);
        g.bench_function(name, |b| {
            b.iter(|| {
                let mut top = TopRows::new(opened.plan(&predicate), Direction::Backward, 1000, all);
                top.step(&opened.meta, &opened.fetched, &mut buffers, |_| true).expect("a sound block");
                top.into_rows()
            });
        });
    }
    g.finish();

    let mut g = c.benchmark_group("index");
    g.bench_function("parse the tail", |b| {
        b.iter(|| BlockMeta::parse(&tail, file.len() as u64).expect("a sound block"));
    });
    let filter = IdFilter::open(filter(&corpus.pages()).into()).expect("a sound filter");
    let absent = contains("aaaaaaaabbbbbbbbcccccccc12345678");
    let words = WordIndex::open(&words(&corpus.pages()).into()).expect("a sound index");
    let count = |keys: &FilterKeys| {
        let probe = PageProbe::new(Some(&filter), Some(&words), keys);
        (0..filter.pages()).filter(|p| probe.may_hold(*p)).count()
    };
    g.bench_function("probe a block for an id", |b| b.iter(|| count(absent.keys())));
    let word = contains("Connection refused");
    g.bench_function("probe a block for words", |b| b.iter(|| count(word.keys())));
    g.finish();
}

/// Does all of a rewrite of one block, with the whole file at hand; the bytes that are written.
fn rewritten(work: &mut dyn Rewriting, file: &Bytes) -> usize {
    let (whole, size, mut bytes) = (Fetched::whole(file.clone()), file.len() as u64, 0);
    loop {
        match work.step().expect("a sound block") {
            MergeStep::Open { input } => {
                let meta = BlockMeta::parse_without_filters(&whole, size).expect("a sound block");
                work.opened(input, meta);
            }
            MergeStep::Fetch { input, .. } => work.fetched(input, whole.clone()),
            MergeStep::Output(part) => bytes += part.len(),
            MergeStep::Done => return bytes,
            MergeStep::Block(_) | MergeStep::Unchanged { .. } => {}
        }
    }
}

/// What it takes to take something out of a block, of which a row group is a thirtieth or so.
fn rewrite(c: &mut Criterion, corpus: &Corpus) {
    let block = BlockOptions { row_group_rows: 4096, ..BlockOptions::default() };
    let file = Bytes::from(corpus.block(&block));
    let options = MergeOptions { block, ..MergeOptions::default() };
    let prune = |keep: KeepStream| {
        let (whole, size) = (Fetched::whole(file.clone()), file.len() as u64);
        let meta = BlockMeta::parse_for_copies(&whole, size, u64::MAX).expect("a sound block");
        rewritten(&mut *Prune::new(meta, keep, true, &options).expect("the same filters"), &file)
    };
    let mut g = c.benchmark_group("rewrite");
    g.throughput(Throughput::Bytes(corpus.raw)).sample_size(10);
    g.bench_function("everything anew", |b| {
        b.iter(|| {
            let keep: KeepStream = Box::new(|_, _, _| Kept::All);
            rewritten(&mut Merge::new(vec![vec![0]], vec![keep], options.clone()), &file)
        });
    });
    g.bench_function("without a stream", |b| {
        b.iter(|| {
            let keep: KeepStream = Box::new(|labels, _, _| match labels.get("pod") {
                Some("pod-0007") => Kept::Nothing,
                _ => Kept::All,
            });
            prune(keep)
        });
    });
    let id = "aaaaaaaabbbbbbbbcccccccc12345678";
    let keys = Arc::new(contains(id).keys().clone());
    g.bench_function("without an id that is not there", |b| {
        b.iter(|| {
            let (finder, keys) = (Finder::new(id).into_owned(), keys.clone());
            let keep: KeepStream = Box::new(move |_, _, _| {
                let finder = finder.clone();
                let keep = move |_, line: &[u8], _: LabelsRef<'_>| finder.find(line).is_none();
                Kept::Rows(KeptRows::new(Box::new(keep), Some(vec![keys.clone()])))
            });
            prune(keep)
        });
    });
    g.finish();
}

fn all(c: &mut Criterion) {
    let corpus = Corpus::new();
    limits(c, &corpus);
    build(c, &corpus);
    read(c, &corpus);
    rewrite(c, &corpus);
}

criterion_group!(benches, all);
criterion_main!(benches);
