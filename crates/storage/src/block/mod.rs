//! Blocks: Parquet files that carry Skald's own index.
//!
//! This module owns the format: how rows are encoded, where everything lies in the file, how a query finds and reads
//! its rows. Any Parquet reader can read a block; a block that such a tool has rewritten can be read here again
//! through [`convert_foreign`]. The module is pure: it never touches an object store, a clock or a task. Writers get
//! rows and give bytes; readers say which bytes they need and get them handed in.
//!
//! Reading goes in steps: [`BlockMeta::parse`] the tail (cache it), [`StreamIndex::select`] the streams,
//! [`plan_scan`], fetch the plan's byte ranges, then [`scan_pages`], [`scan_times`] or [`TopRows`].

mod columns;
mod convert;
mod delta;
mod error;
mod fetched;
mod footer;
pub mod format;
mod groups;
mod hybrid;
mod inspect;
mod line_filter;
pub mod merge;
mod meta;
mod page;
mod plan;
mod predicate;
mod pushes;
mod scan;
mod stream_index;
mod summary;
#[cfg(test)]
mod tests;
mod thrift;
mod top;
mod writer;

pub use columns::ScanBuffers;
pub use convert::convert_foreign;
pub use error::{Error, Result};
pub use fetched::{Fetched, coalesce};
pub use inspect::inspect;
pub use line_filter::{
    FilterKeys, FilterStats, IdFilter, IdFilterBuilder, Masks, PageProbe, WordIndex, WordIndexBuilder,
};
pub use meta::{BlockMeta, TAIL_GUESS};
pub use plan::{ScanPlan, ScanRequest, plan_scan};
pub use predicate::PreparedPredicate;
pub use pushes::{PushList, PushesPlace};
pub use scan::{Row, ScanPart, ScanStats, scan_pages, scan_times};
pub use stream_index::{StreamIndex, StreamInfo, Totals};
pub(crate) use summary::LabelValues;
pub use summary::{BlockSummary, LABEL_VALUES};
pub use top::{TopRow, TopRows, TopStep};
pub use writer::{BlockOptions, BlockWriter, FinishedBlock};
