//! What a stream may still bring: the out-of-order window and the limit of live streams.

use rustc_hash::FxHashMap;
use skald_model::time::SECOND;
use skald_model::{Batch, BatchStream, Error, Limits, StreamId, TenantId, Timestamp};

use super::refusal::{Refusal, Refused, Why};

/// The live streams of a tenant with their newest times.
#[derive(Debug, Default)]
pub(crate) struct Window {
    streams: FxHashMap<StreamId, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    newest: Timestamp,
    pushed_at: Timestamp,
    /// Bytes of the stream's burst that are used up, as of `pushed_at`.
    spent: f64,
}

/// What the window is checked against.
pub(crate) struct Rules<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) limits: &'a Limits,
    /// How far behind the newest entry of its stream an entry may be, nanoseconds.
    pub(crate) behind_max: i64,
    /// Most refused entries that are listed.
    pub(crate) listed_max: usize,
    pub(crate) now: Timestamp,
}

/// What came of a check.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// What was refused, if anything was.
    pub(crate) refused: Option<Refused>,
    /// Streams that were not live before.
    pub(crate) new_streams: usize,
}

impl Window {
    /// Checks the entries in their order and remembers the newest times of those that pass.
    pub(crate) fn check(&mut self, batch: &Batch, rules: &Rules<'_>) -> Checked {
        let mut checked = Checked::default();
        let streams_max = streams_max(rules.limits);
        for stream in &batch.streams {
            let full = streams_max > 0 && self.streams.len() >= streams_max;
            let seen = match self.streams.entry(stream.id) {
                std::collections::hash_map::Entry::Occupied(seen) => seen.into_mut(),
                std::collections::hash_map::Entry::Vacant(_) if full => {
                    let refused = checked.refused.get_or_insert_with(|| Refused::none_of(batch));
                    refused.stream(batch, stream, rules.tenant);
                    continue;
                }
                std::collections::hash_map::Entry::Vacant(place) => {
                    checked.new_streams += 1;
                    place.insert(Seen { newest: Timestamp::MIN, pushed_at: rules.now, spent: 0.0 })
                }
            };
            if let Some(refusal) = seen.check(batch, stream, rules, &mut checked.refused) {
                checked.refused.get_or_insert_with(|| Refused::none_of(batch)).add(refusal);
            }
        }
        checked
    }

    /// Remembers the newest times of a replayed batch, whose entries were all accepted once.
    pub(crate) fn learn(&mut self, batch: &Batch, now: Timestamp) -> usize {
        let before = self.streams.len();
        for stream in &batch.streams {
            let newest = batch.of(stream).iter().map(|e| e.timestamp).max();
            let Some(newest) = newest else { continue };
            let seen = self.streams.entry(stream.id).or_insert(Seen { newest, pushed_at: now, spent: 0.0 });
            seen.newest = seen.newest.max(newest);
            seen.pushed_at = now;
        }
        self.streams.len() - before
    }

    /// Forgets streams without a push since `cut`.
    pub(crate) fn forget_idle(&mut self, cut: Timestamp) {
        self.streams.retain(|_, seen| seen.pushed_at >= cut);
        if self.streams.capacity() > 1024 && self.streams.len() < self.streams.capacity() / 8 {
            self.streams.shrink_to_fit();
        }
    }

    /// Number of live streams.
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }
}

impl Seen {
    /// Marks the entries of one stream that are too far behind.
    fn check(
        &mut self,
        batch: &Batch,
        stream: &BatchStream,
        rules: &Rules<'_>,
        refused: &mut Option<Refused>,
    ) -> Option<Error> {
        let entries = batch.of(stream);
        let first = stream.entries.start as usize;
        let unordered = rules.limits.unordered_writes;
        let behind_max = if unordered { rules.behind_max } else { 0 };
        let mut refusal: Option<Refusal<'_>> = None;
        let mut refuse = |i: usize, why: Why| {
            let refused = refused.get_or_insert_with(|| Refused::none_of(batch));
            if refused.keeps(first + i) {
                refused.entry(batch, first + i, why);
                let new = || Refusal::new(rules.tenant, &stream.labels, entries.len(), rules.listed_max);
                refusal.get_or_insert_with(new).add(&entries[i], why);
            }
        };
        let (mut newest, mut bytes) = (self.newest, 0u64);
        for (i, entry) in entries.iter().enumerate() {
            let oldest = newest.saturating_sub(behind_max);
            if entry.timestamp >= oldest {
                newest = newest.max(entry.timestamp);
                bytes += u64::from(entry.line_len) + u64::from(entry.metadata_len);
            } else {
                refuse(i, if unordered { Why::Behind(oldest) } else { Why::OutOfOrder });
            }
        }
        if self.spend(bytes, rules) {
            self.newest = newest;
        } else {
            let limit = rules.limits.per_stream_rate_limit as u64;
            (0..entries.len()).for_each(|i| refuse(i, Why::TooFast(limit)));
        }
        refusal.map(Refusal::into_error)
    }

    /// Takes `bytes` from the stream's burst, which fills with its rate. False, and nothing taken, if they are not there.
    fn spend(&mut self, bytes: u64, rules: &Rules<'_>) -> bool {
        let Limits { per_stream_rate_limit: rate, per_stream_rate_limit_burst: burst, .. } = *rules.limits;
        let elapsed = rules.now.saturating_sub(self.pushed_at).max(0) as f64 / SECOND as f64;
        self.spent = (self.spent - elapsed * rate as f64).max(0.0);
        self.pushed_at = rules.now;
        // No bytes are left of a push whose entries were all refused for another reason.
        if rate > 0 && bytes > 0 && self.spent + bytes as f64 > burst as f64 {
            return false;
        }
        self.spent += bytes as f64;
        true
    }
}

/// Most live streams; 0 is no limit.
fn streams_max(limits: &Limits) -> usize {
    let set = [limits.max_streams_per_user, limits.max_global_streams_per_user];
    set.into_iter().filter(|n| *n > 0).min().unwrap_or(0)
}
