//! A thread that pushes batches, repeats some and gives some up.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;

use anyhow::Result;

use super::ledger::Ledger;
use super::workload::{STREAMS_PER_PUSHER, Workload};
use crate::push::{Body, Stream, as_json, as_protobuf};
use crate::random::Random;
use crate::server::Client;

/// What all pushers share.
pub(crate) struct Shared {
    /// What to push.
    pub(crate) workload: Workload,
    /// What was sent and acknowledged.
    pub(crate) ledger: Ledger,
    /// Where to push.
    pub(crate) client: Client,
    /// Set while entries are read back.
    pub(crate) checking: AtomicBool,
    /// Set when pushers shall end.
    pub(crate) stop: AtomicBool,
    /// Pushes that were acknowledged.
    pub(crate) pushes: AtomicU64,
    /// Pushes that were sent again.
    pub(crate) repeats: AtomicU64,
    /// Refusals that a client cannot mend: faults of the server.
    pub(crate) refusals: Mutex<Vec<String>>,
}

/// Entries of one push, as the ledger names them: `(stream, first, count)`.
type Parts = Vec<(usize, usize, usize)>;

/// What became of a push.
enum Outcome {
    Acknowledged,
    /// No answer or a temporary error: the entries may be stored or not.
    Unknown,
    Refused(String),
}

/// Pushes until it is told to stop. The plan (sizes, encodings, patience) depends on the seed and `pusher` only.
pub(crate) fn run(shared: &Shared, pusher: usize) -> Result<()> {
    let mut random = Random::new(shared.workload.seed, 0x9054 + pusher as u64);
    while !shared.stop.load(Ordering::Relaxed) {
        let (parts, body) = next_push(shared, pusher, &mut random)?;
        deliver(shared, &parts, &body, &mut random);
        sleep(random.millis(5..60));
        while shared.checking.load(Ordering::Relaxed)
            && random.percent(80)
            && !shared.stop.load(Ordering::Relaxed)
        {
            // Some pushes go on while entries are read back, but not so many that reading never ends.
            sleep(random.millis(5..60));
        }
    }
    Ok(())
}

fn next_push(shared: &Shared, pusher: usize, random: &mut Random) -> Result<(Parts, Body)> {
    let mut parts = Parts::new();
    for stream in pusher * STREAMS_PER_PUSHER..(pusher + 1) * STREAMS_PER_PUSHER {
        if random.percent(60) {
            let count = random.within(1..8) as usize;
            parts.push((stream, shared.ledger.send(stream, count), count));
        }
    }
    let streams: Vec<Stream> = parts
        .iter()
        .map(|&(stream, first, count)| Stream {
            labels: shared.workload.labels(stream),
            entries: (first..first + count).map(|number| shared.workload.entry(stream, number)).collect(),
        })
        .collect();
    let body = if random.percent(50) { as_json(&streams)? } else { as_protobuf(&streams)? };
    Ok((parts, body))
}

/// Sends a push until it is acknowledged, or gives it up.
fn deliver(shared: &Shared, parts: &Parts, body: &Body, random: &mut Random) {
    if parts.is_empty() {
        return;
    }
    let gives_up = random.percent(25);
    let sends_twice = random.percent(3);
    loop {
        match send(shared, body) {
            Outcome::Acknowledged => break,
            Outcome::Refused(reason) => {
                shared.refusals.lock().expect("no thread panics with the refusals locked").push(reason);
                return;
            }
            Outcome::Unknown if gives_up || shared.stop.load(Ordering::Relaxed) => return,
            Outcome::Unknown => {
                shared.repeats.fetch_add(1, Ordering::Relaxed);
                sleep(random.millis(5..100));
            }
        }
    }
    for &(stream, first, count) in parts {
        shared.ledger.acknowledge(stream, first, count);
    }
    shared.pushes.fetch_add(1, Ordering::Relaxed);
    if sends_twice {
        // A client whose acknowledgement was lost does this; it must change nothing.
        shared.repeats.fetch_add(1, Ordering::Relaxed);
        if let Outcome::Refused(reason) = send(shared, body) {
            shared.refusals.lock().expect("no thread panics with the refusals locked").push(reason);
        }
    }
}

fn send(shared: &Shared, body: &Body) -> Outcome {
    match shared.client.post("/loki/api/v1/push", body.media_type, &body.bytes) {
        Ok(answer) if answer.status == 204 => Outcome::Acknowledged,
        Ok(answer) if answer.status == 429 || answer.status >= 500 => Outcome::Unknown,
        Ok(answer) => Outcome::Refused(format!("push: status {}: {}", answer.status, answer.text())),
        Err(_) => Outcome::Unknown,
    }
}
