//! What a query must not see of memory.

use std::borrow::Cow;
use std::sync::Arc;

use skald_model::{RemovalSpec, Result, TimeRange};
use skald_removal::{Entry, Keep, Removals, RowRules, Sieve, Source};

use crate::segment::{Row, Segment, StreamRows};

/// The rules of one query at work.
#[derive(Debug)]
pub(crate) struct Removing {
    removals: Arc<Removals>,
    sieve: Sieve,
}

impl Removing {
    /// The rules that a request came with; `None` when there are none.
    pub(crate) fn of(spec: Option<&Arc<RemovalSpec>>) -> Result<Option<Self>> {
        let Some(spec) = spec else { return Ok(None) };
        Ok(Some(Self::new(Arc::new(Removals::compile(spec)?))))
    }

    /// These rules.
    pub(crate) fn new(removals: Arc<Removals>) -> Self {
        let sieve = Sieve::new(removals.clone());
        Self { removals, sieve }
    }

    /// What stays of a stream of a segment.
    pub(crate) fn keep(&self, segment: &Segment, stream: &StreamRows) -> Keep {
        let (Some((min, max)), Some((received_min, received_max))) = (stream.bounds(), segment.seconds())
        else {
            return Keep::All;
        };
        let source = Source::Memory { received_min, received_max };
        self.removals.stream(&source, stream.labels.as_ref(), min, max)
    }

    /// Whether a row of a stream that `rules` were told for stays.
    pub(crate) fn keeps(
        &mut self,
        rules: &RowRules,
        segment: &Segment,
        stream: &StreamRows,
        row: &Row,
    ) -> bool {
        let batches = segment.batches();
        let entry = Entry {
            timestamp: row.timestamp,
            received: batches.stamp(row).second,
            line: batches.line(row),
            metadata: batches.metadata(row),
        };
        self.sieve.keeps(rules, &stream.labels, entry)
    }
}

/// The rows of a stream in `range` that stay.
pub(crate) fn rows<'a>(
    removing: Option<&mut Removing>,
    segment: &Segment,
    stream: &'a StreamRows,
    range: &TimeRange,
) -> Cow<'a, [Row]> {
    let all = || Cow::Borrowed(&stream.rows[stream.range(range)]);
    let Some(removing) = removing else { return all() };
    match removing.keep(segment, stream) {
        Keep::All => all(),
        Keep::Nothing => Cow::Borrowed(&[]),
        Keep::Within(kept) => Cow::Borrowed(&stream.rows[stream.range(&range.intersect(&kept))]),
        Keep::Rows(rules) => {
            let rows = &stream.rows[stream.range(range)];
            Cow::Owned(rows.iter().filter(|r| removing.keeps(&rules, segment, stream, r)).copied().collect())
        }
    }
}
