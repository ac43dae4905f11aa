//! Draws from the run's seed.

use std::time::Duration;

/// A number below `bound`, which is over 0.
pub(crate) fn below(bound: u64) -> u64 {
    skald_runtime::random() % bound.max(1)
}

/// One of the numbers from 0 to `len` (not included), for an index.
pub(crate) fn index(len: usize) -> usize {
    below(len as u64) as usize
}

/// True with probability `p`.
pub(crate) fn chance(p: f64) -> bool {
    (below(1 << 32) as f64) < p * (1u64 << 32) as f64
}

/// A duration from `least` to `most` in whole milliseconds.
pub(crate) fn between(least: u64, most: u64) -> Duration {
    Duration::from_millis(least + below(most.saturating_sub(least) + 1))
}

/// The members of `of`, in an order of chance.
pub(crate) fn shuffled<T>(mut of: Vec<T>) -> Vec<T> {
    for i in (1..of.len()).rev() {
        of.swap(i, index(i + 1));
    }
    of
}
