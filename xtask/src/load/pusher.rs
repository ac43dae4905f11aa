//! A thread that pushes as fast as it is answered.

use std::thread::sleep;
use std::time::Instant;

use super::{Latencies, Shared};
use crate::clock;
use crate::push::{Entry, Stream, as_json, as_protobuf};
use crate::random::{Random, mix};

/// Pushes that are read back line by line, per pusher.
const SAMPLES_MAX: usize = 20;

/// One acknowledged push.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    /// Time of its first entry; each further one is a nanosecond later.
    pub(super) start: i64,
    /// Number of entries.
    pub(super) count: usize,
}

/// What a pusher got acknowledged.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    pub(super) entries: u64,
    /// Of lines.
    pub(super) bytes: u64,
    /// After the last entry.
    pub(super) end: i64,
    pub(super) latencies: Latencies,
    batches: Vec<Batch>,
}

impl Batch {
    /// Its entries, oldest first: they depend on the seed and their time only.
    pub(super) fn lines(&self, seed: u64, pusher: usize) -> Vec<(i64, String)> {
        (0..self.count as i64).map(|n| (self.start + n, line(seed, pusher, self.start + n))).collect()
    }
}

impl Pushed {
    /// Some of the pushes, from the first to the last.
    pub(super) fn samples(&self) -> impl Iterator<Item = Batch> {
        let step = self.batches.len().div_ceil(SAMPLES_MAX).max(1);
        self.batches.iter().copied().step_by(step)
    }
}

/// The stream of a pusher.
pub(super) fn selector(pusher: usize) -> String {
    format!("{{job=\"load\", pusher=\"{pusher}\"}}")
}

fn line(seed: u64, pusher: usize, time: i64) -> String {
    let id = mix(seed ^ mix(time as u64 ^ (pusher as u64) << 48));
    let level = ["info", "info", "info", "warn", "error"][(id % 5) as usize];
    format!(
        "level={level} method=GET path=/api/v1/orders/{} status={} duration={}ms trace_id={id:016x}{:016x} msg=\"request done\"",
        id % 1000,
        [200, 200, 200, 404, 500][(id / 7 % 5) as usize],
        id / 35 % 900,
        mix(id)
    )
}

/// Pushes until it is told to stop.
pub(super) fn run(shared: &Shared, number: usize) -> Pushed {
    let mut random = Random::new(shared.seed, number as u64);
    let mut pushed = Pushed { end: shared.start, ..Pushed::default() };
    while !shared.stopped() {
        let now = clock::now();
        let batch = Batch { start: now.max(pushed.end), count: random.within(10..3000) as usize };
        pushed.end = batch.start + batch.count as i64;
        if let Err(error) = push(shared, number, batch, &mut pushed, &mut random) {
            shared.find(format!("push: {error:#}"));
        }
    }
    pushed
}

fn push(
    shared: &Shared,
    number: usize,
    batch: Batch,
    pushed: &mut Pushed,
    random: &mut Random,
) -> anyhow::Result<()> {
    let lines = batch.lines(shared.seed, number);
    let bytes: usize = lines.iter().map(|(_, line)| line.len()).sum();
    let entries =
        lines.into_iter().map(|(timestamp, line)| Entry { timestamp, line, metadata: Vec::new() }).collect();
    let labels = vec![("job".into(), "load".into()), ("pusher".into(), number.to_string())];
    let streams = [Stream { labels, entries }];
    let body = if random.percent(30) { as_json(&streams)? } else { as_protobuf(&streams)? };
    loop {
        let start = Instant::now();
        let answer = shared.client.post("/loki/api/v1/push", body.media_type, &body.bytes)?;
        match answer.status {
            204 => {
                pushed.latencies.add(start);
                pushed.entries += batch.count as u64;
                pushed.bytes += bytes as u64;
                pushed.batches.push(batch);
                return Ok(());
            }
            429 => {
                pushed.latencies.refused += 1;
                if shared.stopped() {
                    return Ok(());
                }
                // Far too soon for a good client, which this is not.
                sleep(random.millis(1..50));
            }
            status => anyhow::bail!("status {status}: {}", answer.text()),
        }
    }
}
