//! A thread that pushes numbered entries, each push until it is acknowledged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Shared;
use crate::push::{Entry, Stream, as_json, as_protobuf};
use crate::random::Random;
use crate::server::Client;

/// Streams of a pusher; a push brings some entries of each.
pub(super) const STREAMS: usize = 3;
/// Longer than this nobody should wait for an acknowledgement while one member at a time is down.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);

/// How far a pusher has come. Entry `n` of a pusher belongs to its stream `n % STREAMS`.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    /// Entries that were sent at least once.
    sent: AtomicU64,
    /// Entries that were acknowledged; always the first ones.
    acknowledged: AtomicU64,
    pub(super) repeats: AtomicU64,
    pub(super) longest_wait_ms: AtomicU64,
}

impl Pushed {
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// The selector of all streams of a pusher.
pub(super) fn selector(pusher: usize) -> String {
    format!("{{job=\"cluster\", pusher=\"{pusher}\"}}")
}

/// Entry `number` of a pusher: its time depends on the run's begin alone.
pub(super) fn entry(start: i64, seed: u64, pusher: usize, number: u64) -> Entry {
    let line = format!("entry {number} of pusher {pusher} in run {seed}");
    Entry { timestamp: start + number as i64 * 1_000_000, line, metadata: Vec::new() }
}

/// Pushes until it is told to stop. What was begun is brought to its end, so that what was sent and not acknowledged is
/// at most one push.
pub(super) fn run(shared: &Shared, pusher: usize) {
    let mut random = Random::new(shared.seed, 0xc105 + pusher as u64);
    let pushed = &shared.pushed[pusher];
    let mut door = pusher;
    while !shared.stopped() {
        let first = pushed.sent();
        let count = random.within(1..60);
        let streams: Vec<Stream> = (0..STREAMS as u64)
            .map(|stream| Stream {
                labels: vec![
                    ("job".into(), "cluster".into()),
                    ("pusher".into(), pusher.to_string()),
                    ("stream".into(), stream.to_string()),
                ],
                entries: (first..first + count)
                    .filter(|n| n % STREAMS as u64 == stream)
                    .map(|n| entry(shared.start, shared.seed, pusher, n))
                    .collect(),
            })
            .filter(|s| !s.entries.is_empty())
            .collect();
        let body = match if random.percent(30) { as_json(&streams) } else { as_protobuf(&streams) } {
            Ok(body) => body,
            Err(error) => return shared.find(format!("a push could not be made: {error:#}")),
        };
        pushed.sent.store(first + count, Ordering::SeqCst);
        let begun = Instant::now();
        loop {
            let client = &shared.doors[door % shared.doors.len()];
            let failure = match client.post("/loki/api/v1/push", body.media_type, &body.bytes) {
                Ok(answer) if answer.status == 204 => break,
                Ok(answer) if answer.status == 429 || answer.status >= 500 => {
                    format!("status {}: {}", answer.status, answer.text())
                }
                Ok(answer) => {
                    return shared.find(format!("push refused with {}: {}", answer.status, answer.text()));
                }
                Err(error) => format!("{error:#}"),
            };
            if begun.elapsed() > PATIENCE {
                shared.find(format!("a push was not taken for {PATIENCE:?}: {failure}"));
                return;
            }
            // Another door, as a load balancer does.
            door += 1;
            pushed.repeats.fetch_add(1, Ordering::Relaxed);
            sleep(random.millis(20..200));
        }
        let waited = begun.elapsed().as_millis() as u64;
        pushed.longest_wait_ms.fetch_max(waited, Ordering::Relaxed);
        pushed.acknowledged.store(first + count, Ordering::SeqCst);
        sleep(random.millis(5..80));
    }
}

/// A push at one door after the other, as long as anybody should try.
pub(super) fn push_patiently(shared: &Shared, streams: &[Stream]) -> Result<()> {
    let body = as_protobuf(streams)?;
    patiently(shared, "a push", |door| {
        let answer = door.post("/loki/api/v1/push", body.media_type, &body.bytes)?;
        if answer.status == 204 { Ok(()) } else { bail!("status {}: {}", answer.status, answer.text()) }
    })
}

/// Tries at one door after the other, as long as anybody should.
pub(super) fn patiently(
    shared: &Shared,
    what: &str,
    mut attempt: impl FnMut(&Client) -> Result<()>,
) -> Result<()> {
    let begun = Instant::now();
    for door in shared.doors.iter().cycle() {
        match attempt(door) {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > PATIENCE => {
                return Err(error).with_context(|| format!("{what} was not taken for {:?}", begun.elapsed()));
            }
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
    Ok(())
}
