//! The vocabulary of Skald: tenants, labels, streams, entries, limits, digests, ring placement.
//!
//! This crate owns the words that every other crate uses. It is pure: no I/O, no clock, no tasks; whatever
//! needs the time takes it as an argument. It depends on nothing else of Skald's, and it knows neither LogQL,
//! nor Parquet, nor HTTP.

pub mod batch;
pub mod digest;
pub mod error;
pub mod label_text;
pub mod labels;
pub mod limits;
pub mod line_filter;
pub mod matcher;
pub mod merge;
pub mod regex;
pub mod removal;
pub mod rendezvous;
pub mod result;
pub mod retention;
pub mod ring;
pub mod stamp;
pub mod tenant;
pub mod time;
pub mod volume;

pub use batch::{Batch, BatchStream, EntryRef, Push, PushLabels, PushStream};
pub use digest::{Digest, EntryHash};
pub use error::{Error, Kind, Result};
pub use labels::{Labels, LabelsBuilder, LabelsRef, StreamId};
pub use limits::{Limits, TenantLimits};
pub use line_filter::{LineFilter, LinePredicate};
pub use matcher::{MatchOp, Matcher, Selector};
pub use merge::LogMerger;
pub use removal::RemovalSpec;
pub use result::{EntryLabels, LogEntry, QueryStats};
pub use retention::Retention;
pub use stamp::{PushId, PushStamp};
pub use tenant::TenantId;
pub use time::{Direction, TimeRange, Timestamp};
pub use volume::{Chunk, GroupVolume, StepVolume, VolumeCollector, VolumeGroups, VolumeSpec};
