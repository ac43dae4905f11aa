//! Simulated time as a clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use skald_model::Timestamp;
use skald_runtime::Clock;
use tokio::time::Instant;

/// The time of the runtime, which stands still while anybody has something to do, and a deviation from it.
#[derive(Clone, Debug)]
pub struct SimClock {
    start: Timestamp,
    begun: Instant,
    /// Nanoseconds by which this clock is wrong.
    deviation: Arc<AtomicI64>,
}

impl SimClock {
    /// A clock that shows `start` now.
    pub(crate) fn new(start: Timestamp) -> Self {
        Self { start, begun: Instant::now(), deviation: Arc::default() }
    }

    /// Another clock of the same time, right at first.
    pub(crate) fn beside(&self) -> Self {
        Self { deviation: Arc::default(), ..self.clone() }
    }

    /// Puts the clock wrong by `nanos`.
    pub fn deviate(&self, nanos: i64) {
        self.deviation.store(nanos, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.start + self.begun.elapsed().as_nanos() as i64 + self.deviation.load(Ordering::Relaxed)
    }
}
