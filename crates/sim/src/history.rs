//! What was pushed, and what answers may and must show of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use skald_model::{EntryRef, Labels, Push, PushLabels, PushStream, Timestamp};

/// Streams that are pushed to.
pub const APPS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// An entry; its line says its number, so that answers can be checked one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// Which of [`APPS`] it belongs to.
    pub app: usize,
    /// Its time.
    pub timestamp: Timestamp,
}

impl Entry {
    /// Its line.
    pub fn line(&self) -> String {
        line(self.number)
    }
}

fn line(number: u64) -> String {
    format!("entry {number} of many")
}

/// The number that a line says.
pub fn number_of(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line).ok()?.strip_prefix("entry ")?.strip_suffix(" of many")?.parse().ok()
}

/// A push of `entries`.
pub fn push_of(entries: &[Entry]) -> Push {
    let (mut body, mut metadata) = (Vec::new(), Vec::new());
    let mut push = Push::default();
    for (app, name) in APPS.iter().enumerate() {
        let start = push.entries.refs.len() as u32;
        for entry in entries.iter().filter(|e| e.app == app) {
            let line = entry.line();
            let value = entry.number.to_string();
            let pairs = Labels::from_pairs(
                [("number", value.as_str())].into_iter().filter(|_| entry.number % 3 == 0),
            );
            push.entries.refs.push(EntryRef {
                timestamp: entry.timestamp,
                line_start: body.len() as u32,
                line_len: line.len() as u32,
                metadata_start: metadata.len() as u32,
                metadata_len: pairs.packed().len() as u32,
            });
            body.extend_from_slice(line.as_bytes());
            metadata.extend_from_slice(pairs.packed());
        }
        let end = push.entries.refs.len() as u32;
        if end > start {
            let labels = PushLabels::Text(Bytes::from(format!("{{app=\"{name}\"}}")));
            push.streams.push(PushStream { labels, entries: start..end });
        }
    }
    push.entries.body = body.into();
    push.entries.metadata = metadata.into();
    push
}

/// All entries of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    entries: Vec<Known>,
    /// For each of [`APPS`] until when requests may be about what is pushed.
    unsure: [Timestamp; APPS.len()],
    /// Whether the clocks of distributors, which say when an entry was received, may be wrong.
    clocks_lie: bool,
}

/// What is known of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The entry.
    pub entry: Entry,
    /// Whether a push with it was acknowledged.
    pub acknowledged: bool,
    /// How many pushes with it were begun.
    pub pushed: u32,
    /// When the last of them was begun.
    pub pushed_at: Timestamp,
    /// What delete requests make of it.
    pub fate: Fate,
}

/// What delete requests make of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// No request is about it: it must be seen.
    Stays,
    /// A request may or may not be about it, since it was pushed while that was asked for, or again after that.
    Unsure,
    /// It was received before a request that was accepted: it must not be seen from then on.
    Gone,
}

const SECOND: i64 = 1_000_000_000;
/// By how much clocks differ when they lie, at most.
const LIE: i64 = 30 * SECOND;

impl History {
    /// A new entry, which is about to be pushed.
    pub fn add(&mut self, app: usize, timestamp: Timestamp) -> Entry {
        let entry = Entry { number: self.entries.len() as u64, app, timestamp };
        self.entries.push(Known { entry, acknowledged: false, pushed: 0, pushed_at: 0, fate: Fate::Stays });
        entry
    }

    /// A push of these begins.
    pub fn begin(&mut self, entries: &[Entry], now: Timestamp) {
        for entry in entries {
            let known = &mut self.entries[entry.number as usize];
            known.pushed += 1;
            known.pushed_at = now;
            if known.fate == Fate::Gone || self.unsure[entry.app] > now {
                known.fate = Fate::Unsure;
            }
        }
    }

    /// Clocks of distributors may be wrong.
    pub fn clocks_lie(&mut self) {
        self.clocks_lie = true;
    }

    /// A request to delete all of `app` begins. Returns what it is about for certain, if it is accepted.
    pub fn begin_delete(&mut self, app: usize, now: Timestamp) -> Vec<u64> {
        let until = if self.clocks_lie { now - LIE } else { now };
        self.unsure[app] = Timestamp::MAX;
        let mut certain = Vec::new();
        for known in self.entries.iter_mut().filter(|k| k.entry.app == app && k.pushed > 0) {
            // A push that was tried again may come a second time, later.
            let is_first = known.pushed == 1 && known.pushed_at <= until;
            if known.acknowledged && is_first && known.fate != Fate::Unsure {
                certain.push(known.entry.number);
            }
            if known.fate == Fate::Stays {
                known.fate = Fate::Unsure;
            }
        }
        certain
    }

    /// The request is over; `gone` is what is gone by it for certain.
    pub fn end_delete(&mut self, app: usize, gone: &[u64], now: Timestamp) {
        // What was received in the same second counts as earlier.
        self.unsure[app] = now + if self.clocks_lie { 2 * LIE } else { 2 * SECOND };
        for number in gone {
            let known = &mut self.entries[*number as usize];
            if known.pushed == 1 {
                known.fate = Fate::Gone;
            }
        }
    }

    /// The numbers of those that must not be seen.
    pub fn gone(&self) -> Vec<u64> {
        self.numbers(|k| k.fate == Fate::Gone)
    }

    /// Whether an entry must be seen.
    pub fn stays(&self, number: u64) -> bool {
        self.entries[number as usize].fate == Fate::Stays
    }

    fn numbers(&self, which: impl Fn(&Known) -> bool) -> Vec<u64> {
        self.entries.iter().filter(|k| which(k)).map(|k| k.entry.number).collect()
    }

    /// A push of these was acknowledged.
    pub fn acknowledge(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.entries[entry.number as usize].acknowledged = true;
        }
    }

    /// All entries.
    pub fn entries(&self) -> &[Known] {
        &self.entries
    }

    /// The numbers of the acknowledged ones.
    pub fn acknowledged(&self) -> Vec<u64> {
        self.numbers(|k| k.acknowledged)
    }

    /// Whether an entry with this number, time and stream was pushed.
    pub fn was_pushed(&self, entry: &Entry) -> bool {
        self.entries.get(entry.number as usize).is_some_and(|k| k.pushed > 0 && k.entry == *entry)
    }

    /// For each stream how many entries between `from` and `to` (inclusive) must be seen if `before` were acknowledged
    /// and `gone` were gone, and how many may be by now.
    pub fn counts(
        &self,
        (before, gone): (&[u64], &[u64]),
        (from, to): (Timestamp, Timestamp),
    ) -> BTreeMap<&'static str, (u64, u64)> {
        let mut counts: BTreeMap<_, _> = APPS.iter().map(|app| (*app, (0, 0))).collect();
        for known in self.entries.iter().filter(|k| k.pushed > 0 && (from..=to).contains(&k.entry.timestamp))
        {
            if let Some((must, may)) = counts.get_mut(APPS[known.entry.app]) {
                let is_in = |numbers: &[u64]| numbers.binary_search(&known.entry.number).is_ok();
                *must += u64::from(known.fate == Fate::Stays && is_in(before));
                *may += u64::from(!(known.fate == Fate::Gone && is_in(gone)));
            }
        }
        counts
    }
}
