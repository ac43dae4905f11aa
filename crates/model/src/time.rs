//! Points and ranges of time.

use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch.
pub type Timestamp = i64;

/// Nanoseconds in one second.
pub const SECOND: i64 = 1_000_000_000;
/// Nanoseconds in one day.
pub const DAY: i64 = 86_400 * SECOND;

/// The times `start <= t < end`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TimeRange {
    /// First nanosecond inside.
    pub start: Timestamp,
    /// First nanosecond after it.
    pub end: Timestamp,
}

impl TimeRange {
    /// All of time.
    pub const ALL: TimeRange = TimeRange { start: i64::MIN, end: i64::MAX };

    /// The range `start <= t < end`.
    pub fn new(start: Timestamp, end: Timestamp) -> Self {
        Self { start, end }
    }

    /// Whether no time is inside.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Whether `t` is inside.
    pub fn contains(&self, t: Timestamp) -> bool {
        self.start <= t && t < self.end
    }

    /// Whether any time from `min` to `max`, both inclusive, is inside.
    pub fn overlaps(&self, min: Timestamp, max: Timestamp) -> bool {
        min < self.end && self.start <= max
    }

    /// Whether all times from `min` to `max`, both inclusive, are inside.
    pub fn covers(&self, min: Timestamp, max: Timestamp) -> bool {
        self.start <= min && max < self.end
    }

    /// The times inside both.
    pub fn intersect(&self, other: &TimeRange) -> TimeRange {
        TimeRange { start: self.start.max(other.start), end: self.end.min(other.end) }
    }
}

/// The order in which a log query returns entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first, Loki's default.
    Backward,
}

/// Days since the Unix epoch of the UTC day that `t` lies in: the table's partition.
pub fn day_of(t: Timestamp) -> i32 {
    t.div_euclid(DAY) as i32
}
