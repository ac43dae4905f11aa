//! What was sent and what was acknowledged.

use std::sync::Mutex;

/// What is known of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Sent at least once, never acknowledged: it may be there or not.
    Sent,
    /// Acknowledged at least once: it must be there.
    Acknowledged,
}

/// The state of every entry: per stream, by number.
#[derive(Debug)]
pub(crate) struct Ledger(Vec<Mutex<Vec<State>>>);

impl Ledger {
    /// Nothing sent yet on any of `streams` streams.
    pub(crate) fn new(streams: usize) -> Self {
        Self((0..streams).map(|_| Mutex::default()).collect())
    }

    /// Notes that the next `count` entries of a stream are about to be sent; returns the number of the first.
    pub(crate) fn send(&self, stream: usize, count: usize) -> usize {
        let mut states = self.0[stream].lock().expect("no thread panics with the ledger locked");
        let first = states.len();
        states.resize(first + count, State::Sent);
        first
    }

    /// Notes that entries were acknowledged.
    pub(crate) fn acknowledge(&self, stream: usize, first: usize, count: usize) {
        let mut states = self.0[stream].lock().expect("no thread panics with the ledger locked");
        states[first..first + count].fill(State::Acknowledged);
    }

    /// A copy of all states now.
    pub(crate) fn snapshot(&self) -> Vec<Vec<State>> {
        let states = |stream: &Mutex<Vec<State>>| {
            stream.lock().expect("no thread panics with the ledger locked").clone()
        };
        self.0.iter().map(states).collect()
    }
}
