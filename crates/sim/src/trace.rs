//! What happened, in order: a sum to compare runs by, and the last events to read.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// Events that are kept.
const KEPT: usize = 600;

/// The events of a run. Clones share them.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Events>>);

struct Events {
    begun: Instant,
    last: VecDeque<String>,
    sum: Xxh3,
    count: u64,
    prints: bool,
}

impl Trace {
    pub(crate) fn new(prints: bool) -> Self {
        let (last, sum) = (VecDeque::new(), Xxh3::new());
        Self(Arc::new(Mutex::new(Events { begun: Instant::now(), last, sum, count: 0, prints })))
    }

    /// Takes note of an event.
    pub(crate) fn note(&self, event: fmt::Arguments<'_>) {
        let mut events = self.0.lock();
        let text = format!("{:>10.3} {event}", events.begun.elapsed().as_secs_f64());
        events.sum.update(text.as_bytes());
        events.count += 1;
        if events.prints {
            // What a developer asked to see, while it happens.
            eprintln!("{text}");
        }
        if events.last.len() == KEPT {
            events.last.pop_front();
        }
        events.last.push_back(text);
    }

    /// A sum over all events, and their number.
    pub(crate) fn sum(&self) -> (u64, u64) {
        let events = self.0.lock();
        (events.sum.digest(), events.count)
    }

    /// The last events.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.0.lock().last.iter().cloned().collect()
    }
}

/// Takes note of an event, as `println!` prints.
macro_rules! note {
    ($trace:expr, $($event:tt)*) => { $trace.note(format_args!($($event)*)) };
}
pub(crate) use note;
