//! Which rows of which segments a query looks at.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use skald_model::line_filter::Needle;
use skald_model::{EntryHash, LinePredicate, Selector, StreamId, TimeRange, Timestamp};
use skald_removal::{Keep, RowRules};

use super::merge::Cursor;
use super::removals::Removing;
use crate::segment::{Row, Segment, StreamRows};

/// Bodies are searched as a whole only if at least this share of their rows is asked about.
const BODY_SEARCH_SHARE: u64 = 8;

/// The parts of streams that a query looks at.
pub(super) struct Sources<'a> {
    pub(super) list: Vec<Source<'a>>,
    /// Distinct streams.
    pub(super) streams: u64,
}

/// One stream in one segment.
pub(super) struct Source<'a> {
    pub(super) segment: usize,
    pub(super) stream: &'a StreamRows,
    rows: std::ops::Range<usize>,
    /// Number of the stream among all of the query.
    pub(super) ordinal: u32,
    /// Whether another segment has the stream, too.
    pub(super) shared: bool,
    /// What its rows have to be tried for, if not all of them stay.
    pub(super) rules: Option<RowRules>,
}

impl<'a> Source<'a> {
    pub(super) fn cursor(&self) -> Cursor<'a> {
        Cursor::new(&self.stream.rows, self.rows.clone())
    }
}

impl<'a> Sources<'a> {
    /// Those of the `wanted` streams that pass the selector and have rows in the range.
    pub(super) fn select(
        segments: &'a [Arc<Segment>],
        selector: &Selector,
        range: TimeRange,
        removing: Option<&Removing>,
        wanted: impl Fn(StreamId) -> bool,
    ) -> Self {
        let mut list = Vec::new();
        for (segment, held) in segments.iter().enumerate() {
            for stream in held.streams() {
                let mut rows = stream.range(&range);
                if rows.is_empty() || !wanted(stream.id) || !selector.matches(stream.labels.as_ref()) {
                    continue;
                }
                let mut rules = None;
                match removing.map_or(Keep::All, |r| r.keep(held, stream)) {
                    Keep::All => {}
                    Keep::Nothing => continue,
                    Keep::Within(kept) => rows = stream.range(&range.intersect(&kept)),
                    Keep::Rows(r) => rules = Some(r),
                }
                if !rows.is_empty() {
                    list.push(Source { segment, stream, rows, ordinal: 0, shared: false, rules });
                }
            }
        }
        // The order of blocks; copies of a stream next to each other, older segments first.
        list.sort_by(|a, b| {
            let labels = a.stream.labels.cmp(&b.stream.labels);
            labels.then(a.stream.id.cmp(&b.stream.id)).then(a.segment.cmp(&b.segment))
        });
        let mut streams = 0;
        for same in list.chunk_by_mut(|a, b| identity(a) == identity(b)) {
            let shared = same.len() > 1;
            for source in same {
                (source.ordinal, source.shared) = (streams, shared);
            }
            streams += 1;
        }
        Self { list, streams: u64::from(streams) }
    }
}

fn identity<'a>(source: &Source<'a>) -> (StreamId, &'a [u8]) {
    (source.stream.id, source.stream.labels.packed())
}

/// Entries of one time that several segments may hold.
#[derive(Default)]
pub(super) struct Copies {
    at: Timestamp,
    seen: FxHashSet<(u32, EntryHash)>,
}

impl Copies {
    pub(super) fn is_new(&mut self, at: Timestamp, ordinal: u32, identity: EntryHash) -> bool {
        if self.at != at {
            self.at = at;
            self.seen.clear();
        }
        self.seen.insert((ordinal, identity))
    }
}

/// Excludes whole batches whose body holds none of the literals that a matching line must have. A body is searched once,
/// at the speed of memory, when the first of its rows comes up.
pub(super) struct BodySearch<'a> {
    segments: &'a [Arc<Segment>],
    clauses: Vec<Vec<&'a Needle>>,
    /// What is known of each batch of each segment.
    known: Vec<Vec<Option<bool>>>,
}

impl<'a> BodySearch<'a> {
    pub(super) fn new(
        segments: &'a [Arc<Segment>],
        predicate: &'a LinePredicate,
        sources: &Sources<'_>,
    ) -> Self {
        let asked: u64 = sources.list.iter().map(|s| s.rows.len() as u64).sum();
        let held: u64 = segments.iter().map(|s| s.entries()).sum();
        let worth_it = asked * BODY_SEARCH_SHARE >= held;
        let clauses = if worth_it { predicate.required() } else { Vec::new() };
        let known = match clauses.is_empty() {
            true => Vec::new(),
            false => segments.iter().map(|s| vec![None; s.batches().len()]).collect(),
        };
        Self { segments, clauses, known }
    }

    pub(super) fn may_match(&mut self, segment: usize, row: &Row) -> bool {
        if self.clauses.is_empty() {
            return true;
        }
        let Self { segments, clauses, known } = self;
        *known[segment][row.batch as usize].get_or_insert_with(|| {
            let body = &segments[segment].batches().get(row.batch).batch.entries.body;
            clauses.iter().all(|literals| literals.iter().any(|n| n.finder().find(body).is_some()))
        })
    }
}
