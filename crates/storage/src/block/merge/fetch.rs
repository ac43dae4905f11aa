//! What to fetch of an input.

use std::ops::Range;

use crate::block::meta::{BlockMeta, Pages};
use crate::block::plan::joined;

/// Collects what to fetch, in stored order.
#[derive(Default)]
pub(super) struct FetchPlan {
    ranges: Vec<Range<u64>>,
    bytes: u64,
    limit: u64,
    line_page: Option<usize>,
    time_page: Option<usize>,
    metadata_page: Option<usize>,
}

impl FetchPlan {
    /// A plan for about so many bytes of lines.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, ..Self::default() }
    }

    /// What is to be fetched.
    pub(super) fn into_ranges(self) -> Vec<Range<u64>> {
        joined(self.ranges)
    }

    /// Adds what `rows` need; `false` when the plan is full.
    pub(super) fn add(&mut self, meta: &BlockMeta, rows: Range<u32>) -> bool {
        let lines = &meta.pages.line;
        let mut row = rows.start;
        while row < rows.end {
            let page = lines.of_row(row);
            if self.line_page != Some(page) {
                if self.bytes >= self.limit && !self.ranges.is_empty() {
                    return false;
                }
                let bytes = lines.bytes(page);
                self.bytes += bytes.end - bytes.start;
                self.ranges.push(bytes);
                self.line_page = Some(page);
            }
            let end = lines.rows(page).end.min(rows.end);
            self.add_columns(meta, row..end);
            row = end;
        }
        true
    }

    fn add_columns(&mut self, meta: &BlockMeta, rows: Range<u32>) {
        let pages = &meta.pages;
        let of = |column: &Pages| column.of_row(rows.start)..=column.of_row(rows.end - 1);
        for page in of(&pages.timestamp) {
            if self.time_page.replace(page) != Some(page) {
                self.ranges.push(pages.timestamp.bytes(page));
                self.ranges.push(pages.nanos.bytes(page));
                let first = pages.timestamp.rows(page).start;
                self.ranges.push(meta.group_of_row(first).nanos_dictionary.clone());
            }
        }
        if meta.has_metadata() {
            for page in of(&pages.metadata_key) {
                if self.metadata_page.replace(page) != Some(page) {
                    self.ranges.push(pages.metadata_key.bytes(page));
                    self.ranges.push(pages.metadata_value.bytes(page));
                }
            }
        }
    }
}
