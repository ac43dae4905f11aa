//! The time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, nanoseconds since the Unix epoch; 0 if the clock stands before it.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64)
}

/// A seed of six digits that differs from run to run.
pub(crate) fn seed() -> u64 {
    now() as u64 / 1_000_000 % 1_000_000
}
