//! What is pushed: entries that can be told from their number alone, so that any answer can be checked.

use crate::push::{Entry, Pairs};
use crate::random::{Random, mix};

/// Streams per pusher.
pub(crate) const STREAMS_PER_PUSHER: usize = 4;

const WORDS: [&str; 8] = ["order ", "paid\\t", "user-", "failed: ", "€ ", "GET /", "0af7", "\\\"quoted\\\" "];

const MILLISECOND: i64 = 1_000_000;
/// Distance of the entries of a stream.
const STEP: i64 = 20 * MILLISECOND;
/// How many entries back in time a late one may lie.
const LATE_ENTRIES_MAX: usize = 30;
const DAY: i64 = 24 * 3600 * 1000 * MILLISECOND;

/// The entries of a run: a pure function of seed and start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// The seed.
    pub(crate) seed: u64,
    /// The time the run began, nanoseconds.
    pub(crate) start: i64,
    /// Threads that push.
    pub(crate) pushers: usize,
}

impl Workload {
    /// How many streams there are.
    pub(crate) fn streams(&self) -> usize {
        self.pushers * STREAMS_PER_PUSHER
    }

    /// The labels of a stream.
    pub(crate) fn labels(&self, stream: usize) -> Pairs {
        let pair = |name: &str, value: String| (name.to_owned(), value);
        vec![
            pair("job", "crash-test".to_owned()),
            pair("pusher", (stream / STREAMS_PER_PUSHER).to_string()),
            pair("stream", stream.to_string()),
        ]
    }

    /// Entry `number` of a stream. Lines hold the stream and the number and differ therefore.
    pub(crate) fn entry(&self, stream: usize, number: usize) -> Entry {
        let mut random = Random::new(self.seed, mix((stream as u64) << 32 | number as u64));
        // One in a thousand is a long line, as stack traces are.
        let words = if random.within(0..1000) == 0 { 2_000 } else { random.within(1..30) };
        let metadata = match random.within(0..4) {
            0 => vec![
                ("region".to_owned(), ["eu", "us", "ap"][random.within(0..3) as usize].to_owned()),
                ("trace_id".to_owned(), format!("{:016x}", random.next())),
            ],
            _ => Vec::new(),
        };
        let mut line = format!("id={stream}-{number} run={} text=\"", self.seed);
        for _ in 0..words {
            let word = random.next() as usize;
            line.push_str(WORDS[word % WORDS.len()]);
            line.push(char::from(b'0' + (word >> 8) as u8 % 10));
        }
        line.push('"');
        Entry { timestamp: self.timestamp(stream, number), line, metadata }
    }

    /// A time at or before that of every entry from `number` on, and one after that of every entry up to it.
    pub(crate) fn range(&self, stream: usize, number: usize) -> (i64, i64) {
        let base = self.base(stream);
        let low = number.saturating_sub(LATE_ENTRIES_MAX + 1) as i64;
        (base + low * STEP, base + (number as i64 + 1) * STEP)
    }

    /// Grows with the number; each fifth entry has the time of the one before, each seventh is late.
    fn timestamp(&self, stream: usize, number: usize) -> i64 {
        let base = self.base(stream);
        let tied = number - usize::from(number % 5 == 4);
        let late = if number % 7 == 6 { LATE_ENTRIES_MAX as i64 * STEP } else { 0 };
        base + tied as i64 * STEP - late.min(tied as i64 * STEP)
    }

    /// Most streams lie in the hour before the run; the first one of each pusher crosses a midnight.
    fn base(&self, stream: usize) -> i64 {
        match stream % STREAMS_PER_PUSHER {
            0 => self.start / DAY * DAY - 10_000 * MILLISECOND,
            _ => self.start - 30 * 60_000 * MILLISECOND,
        }
    }

    /// The stream and number that a line claims to be.
    pub(crate) fn identify(&self, line: &str) -> Option<(usize, usize)> {
        let (stream, number) = line.strip_prefix("id=")?.split_once(' ')?.0.split_once('-')?;
        Some((stream.parse().ok()?, number.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: Workload = Workload { seed: 3, start: 1_790_000_000_000_000_000, pushers: 2 };

    #[test]
    fn entries_are_told_from_their_lines() {
        for stream in 0..WORKLOAD.streams() {
            for number in 0..50 {
                let entry = WORKLOAD.entry(stream, number);
                assert_eq!(WORKLOAD.identify(&entry.line), Some((stream, number)));
                assert_eq!(entry, WORKLOAD.entry(stream, number));
            }
        }
        assert_eq!(WORKLOAD.identify("id=1 x"), None);
        assert_eq!(WORKLOAD.identify("something else"), None);
    }

    #[test]
    fn timestamps_stay_inside_the_range_and_some_are_equal_and_some_late() {
        let timestamps: Vec<i64> = (0..1000).map(|number| WORKLOAD.entry(1, number).timestamp).collect();
        let (low, high) = (WORKLOAD.range(1, 0).0, WORKLOAD.range(1, 999).1);
        assert!(timestamps.iter().all(|timestamp| (low..high).contains(timestamp)));
        let low = WORKLOAD.range(1, 500).0;
        assert!(timestamps[500..].iter().all(|timestamp| *timestamp >= low));
        assert!(timestamps[..=500].iter().all(|timestamp| *timestamp < WORKLOAD.range(1, 500).1));
        assert!(timestamps.windows(2).any(|pair| pair[0] == pair[1]));
        assert!(timestamps.windows(2).any(|pair| pair[0] > pair[1]));
    }

    #[test]
    fn the_first_stream_crosses_midnight() {
        let day = |number| WORKLOAD.entry(0, number).timestamp / DAY;
        assert_ne!(day(0), day(2000));
    }
}
