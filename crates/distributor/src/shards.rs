//! Streams that come too fast for one ingester, divided by the label `__stream_shard__`.
//!
//! The rate of a stream is what came through this distributor in the last whole second. A stream is not divided before its
//! rate is known, and in a push with few entries into no more parts than those.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use skald_model::limits::ShardStreams;
use skald_model::time::SECOND;
use skald_model::{Batch, BatchStream, LabelsBuilder, StreamId, TenantId, Timestamp};

/// The label of a part.
const SHARD_LABEL: &str = "__stream_shard__";
/// Streams whose rates are remembered. A stream that finds no place is not divided.
const STREAMS_MAX: usize = 200_000;
/// How long a stream is remembered that nothing comes of.
const IDLE_NANOS: i64 = 60 * SECOND;

/// Learns rates and divides streams by them.
#[derive(Default)]
pub(crate) struct Sharder(Mutex<Rates>);

#[derive(Default)]
struct Rates {
    streams: FxHashMap<StreamId, Rate>,
    swept: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    second: Timestamp,
    /// Bytes since `second` began.
    bytes: u64,
    /// Bytes per second before that; 0 while it is not known.
    known: f64,
}

impl Rates {
    /// Notes what came, and tells how many parts the stream should have.
    fn parts(&mut self, stream: StreamId, bytes: u64, desired: u64, now: Timestamp) -> u32 {
        if now.saturating_sub(self.swept) > IDLE_NANOS {
            self.streams.retain(|_, r| now.saturating_sub(r.second) <= IDLE_NANOS);
            self.swept = now;
        }
        let full = self.streams.len() >= STREAMS_MAX;
        let rate = match self.streams.entry(stream) {
            std::collections::hash_map::Entry::Occupied(rate) => rate.into_mut(),
            std::collections::hash_map::Entry::Vacant(_) if full => return 1,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Rate { second: now, bytes: 0, known: 0.0 })
            }
        };
        let elapsed = now.saturating_sub(rate.second);
        if elapsed >= SECOND {
            let known = rate.bytes as f64 * SECOND as f64 / elapsed as f64;
            *rate = Rate { second: now, bytes: 0, known };
        }
        rate.bytes += bytes;
        if rate.known == 0.0 || desired == 0 {
            return 1;
        }
        ((rate.known + bytes as f64) / desired as f64).ceil().max(1.0) as u32
    }
}

impl Sharder {
    /// Divides the streams of `batch` that come too fast.
    pub(crate) fn divide(&self, tenant: &TenantId, batch: &mut Batch, config: &ShardStreams, now: Timestamp) {
        if !config.enabled {
            return;
        }
        let mut divided = false;
        let parts: Vec<u32> = {
            let mut rates = self.0.lock();
            let streams = batch.streams.iter();
            streams
                .map(|s| {
                    let bytes =
                        batch.of(s).iter().map(|e| u64::from(e.line_len) + u64::from(e.metadata_len)).sum();
                    let parts = rates.parts(s.id, bytes, config.desired_rate, now);
                    divided |= parts > 1;
                    parts
                })
                .collect()
        };
        if !divided {
            return;
        }
        let streams = std::mem::take(&mut batch.streams);
        for (stream, parts) in streams.into_iter().zip(parts) {
            if parts <= 1 {
                batch.streams.push(stream);
                continue;
            }
            if config.logging_enabled {
                tracing::info!(%tenant, stream = %stream.labels, parts, "stream divided");
            }
            let time = batch.entries.refs[stream.entries.start as usize].timestamp;
            divide_stream(tenant, &stream, parts, first_part(time), &mut batch.streams);
        }
    }
}

/// The part that a push begins with, by the time of its first entry: small pushes reach all parts, and a push that is
/// repeated goes where it went before.
fn first_part(time: Timestamp) -> u32 {
    (time.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32
}

/// Divides the entries of a stream into runs of the same length, each a stream of its own.
fn divide_stream(
    tenant: &TenantId,
    stream: &BatchStream,
    parts: u32,
    first: u32,
    out: &mut Vec<BatchStream>,
) {
    let entries = stream.entries.end - stream.entries.start;
    let run = entries.div_ceil(parts).max(1);
    for (i, start) in (stream.entries.start..stream.entries.end).step_by(run as usize).enumerate() {
        let mut labels = LabelsBuilder::from_labels(&stream.labels);
        labels.set(SHARD_LABEL, &(first.wrapping_add(i as u32) % parts).to_string());
        let labels = labels.build();
        out.push(BatchStream {
            id: StreamId::of(tenant, labels.as_ref()),
            labels,
            entries: start..start.saturating_add(run).min(stream.entries.end),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_model::{EntryRef, Labels};

    fn batch(entries: u32, timestamp: i64) -> Batch {
        let labels = Labels::from_pairs([("app", "x")]);
        let id = StreamId::of(&tenant(), labels.as_ref());
        let mut b =
            Batch { streams: vec![BatchStream { id, labels, entries: 0..entries }], ..Batch::default() };
        let e = EntryRef { timestamp, line_start: 0, line_len: 100, metadata_start: 0, metadata_len: 0 };
        b.entries.refs = vec![e; entries as usize];
        b
    }

    fn tenant() -> TenantId {
        TenantId::new("t").unwrap()
    }

    fn divided(sharder: &Sharder, entries: u32, now: Timestamp) -> Vec<(String, std::ops::Range<u32>)> {
        let mut b = batch(entries, now);
        let config = ShardStreams { enabled: true, desired_rate: 1000, ..ShardStreams::default() };
        sharder.divide(&tenant(), &mut b, &config, now);
        let shard = |s: &BatchStream| s.labels.get(SHARD_LABEL).unwrap_or("-").to_owned();
        b.streams.iter().map(|s| (shard(s), s.entries.clone())).collect()
    }

    #[test]
    fn a_fast_stream_is_divided_once_its_rate_is_known() {
        let sharder = Sharder::default();
        assert_eq!(divided(&sharder, 20, 0), [("-".to_owned(), 0..20)]);
        // 2000 bytes in the last second and 1000 in this push.
        let parts = divided(&sharder, 10, SECOND);
        assert_eq!(parts.iter().map(|p| p.1.clone()).collect::<Vec<_>>(), [0..4, 4..8, 8..10]);
        let names: std::collections::BTreeSet<_> = parts.into_iter().map(|p| p.0).collect();
        assert_eq!(names, ["0", "1", "2"].map(str::to_owned).into());
        // Slow again.
        divided(&sharder, 1, 2 * SECOND);
        assert_eq!(divided(&sharder, 1, 10 * SECOND), [("-".to_owned(), 0..1)]);
    }

    #[test]
    fn small_pushes_reach_all_parts() {
        let sharder = Sharder::default();
        divided(&sharder, 25, 0);
        let names: std::collections::BTreeSet<_> =
            (0..40).flat_map(|i| divided(&sharder, 1, SECOND + i)).map(|p| p.0).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }

    #[test]
    fn it_can_be_switched_off() {
        let (sharder, mut b) = (Sharder::default(), batch(1000, 0));
        let off = ShardStreams { enabled: false, desired_rate: 1, ..ShardStreams::default() };
        sharder.divide(&tenant(), &mut b, &off, 0);
        sharder.divide(&tenant(), &mut b, &off, SECOND);
        assert_eq!(b.streams.len(), 1);
    }
}
