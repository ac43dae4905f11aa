//! Entries that are held back for a while, so that those that arrive late come in order.

use std::collections::VecDeque;
use std::time::Duration;

use skald_model::LogEntry;
use skald_rpc::tail::{Dropped, TailBatch, weight};
use tokio::time::Instant;

/// Batches that are not due, in the order of their arrival.
#[derive(Debug)]
pub(super) struct Held {
    delay: Duration,
    bytes_max: usize,
    batches: VecDeque<(Instant, Vec<LogEntry>)>,
    bytes: usize,
    dropped: Dropped,
}

impl Held {
    pub(super) fn new(delay: Duration, bytes_max: usize) -> Self {
        Self { delay, bytes_max, batches: VecDeque::new(), bytes: 0, dropped: Dropped::default() }
    }

    /// Takes a batch that has arrived now.
    pub(super) fn add(&mut self, batch: TailBatch, now: Instant) {
        self.bytes += batch.entries.iter().map(weight).sum::<usize>();
        self.dropped.merge(batch.dropped);
        self.batches.push_back((now + self.delay, batch.entries));
    }

    /// When the first batch is due.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.batches.front().map(|b| b.0)
    }

    /// What is due, oldest first: what has been held for long enough (or has to make room), and whatever has arrived
    /// since and is not newer.
    pub(super) fn due(&mut self, now: Instant) -> Option<TailBatch> {
        let mut entries = Vec::new();
        while self.due_at().is_some_and(|at| at <= now || self.bytes > self.bytes_max) {
            let Some((_, due)) = self.batches.pop_front() else { break };
            self.bytes -= due.iter().map(weight).sum::<usize>();
            entries.extend(due);
        }
        let newest = entries.iter().map(|e| e.timestamp).max();
        if let Some(newest) = newest {
            for (_, batch) in &mut self.batches {
                let early = batch.extract_if(.., |e| e.timestamp <= newest);
                let before = entries.len();
                entries.extend(early);
                self.bytes -= entries[before..].iter().map(weight).sum::<usize>();
            }
            self.batches.retain(|(_, batch)| !batch.is_empty());
        }
        if entries.is_empty() && self.dropped.is_empty() {
            return None;
        }
        entries.sort_by_key(|e| e.timestamp);
        Some(TailBatch { entries, dropped: std::mem::take(&mut self.dropped) })
    }
}
