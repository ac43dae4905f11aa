//! Patterns of lines, found while entries come in, for Grafana's Logs Drilldown.
//!
//! Acknowledged batches go by reference through a bounded queue to one task; pushes never wait for it. It looks at a
//! bounded number of lines a second, each of which stands for those that were left out, and keeps templates and counts
//! in a budget of bytes. A file beside the log keeps them over restarts: it tells up to which log record it has counted,
//! so that a replay adds the rest.

#[doc(hidden)]
pub mod bench;
mod counts;
mod file;
mod miner;
mod sample;
#[cfg(test)]
mod tests;
mod tokens;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skald_model::time::SECOND;
use skald_model::{Batch, Selector, StreamId, TenantId, TimeRange, Timestamp};
use skald_rpc::patterns::PatternSeries;
use skald_runtime::{CancellationToken, Clock};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::metrics::PatternMetrics;
use crate::segment::HeldBatch;
use crate::wal::Lsn;
pub(crate) use miner::{Mined, Miner};

/// Settings of pattern mining (`pattern_ingester`). Names are Loki's where the thing is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Whether patterns are found.
    pub enabled: bool,
    /// Most patterns of one service; beyond it the one that was not seen for the longest time goes.
    pub max_clusters: usize,
    /// How long counts are kept.
    #[serde(with = "skald_runtime::units::duration")]
    pub retain_for: Duration,
    /// Memory for patterns and counts of all tenants. Over it counts become coarser, then the rarer ones are forgotten.
    #[serde(with = "skald_runtime::units::bytes")]
    pub max_bytes: u64,
    /// Most lines a second that are looked at, of all tenants. More takes more CPU (about two microseconds each) and
    /// makes counts of loud services more exact.
    pub max_lines_per_second: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            max_clusters: 300,
            retain_for: Duration::from_secs(3 * 3600),
            max_bytes: 32 << 20,
            max_lines_per_second: 5_000,
        }
    }
}

/// Most batches and bytes that wait to be looked at. What finds no room is not looked at, and the next batch stands for it.
const QUEUE_BATCHES: usize = 512;
const QUEUE_BYTES: usize = 8 << 20;
/// How often counts grow old and are written to disk. A crash loses the counts of entries that were flushed since.
const PERIOD: Duration = Duration::from_secs(60);
/// Entries further in the future are not counted.
const FUTURE_MAX: i64 = 600 * SECOND;
/// Lines that are looked at before others get their turn on the thread.
const TURN_LINES: u64 = 256;
/// A line stands for at most so many that found no room in the queue.
const SHARE_MAX: u64 = 1000;

/// The patterns of one ingester.
#[derive(Debug)]
pub(crate) struct Patterns {
    miner: Mutex<Miner>,
    queue: mpsc::Sender<(TenantId, Arc<HeldBatch>)>,
    queued_bytes: AtomicUsize,
    /// Lines that found no room in the queue and that no line has stood for yet.
    missed_lines: AtomicU64,
    /// Log records up to here had been counted before the start.
    counted: Lsn,
    file: Option<PathBuf>,
    metrics: PatternMetrics,
}

/// Batches to be looked at.
pub(crate) type Queue = mpsc::Receiver<(TenantId, Arc<HeldBatch>)>;

impl Patterns {
    /// Reads what an earlier process left in `dir`, if there is one.
    pub(crate) fn open(config: &Config, dir: Option<&Path>, metrics: &PatternMetrics) -> (Arc<Self>, Queue) {
        let file = dir.map(file::path);
        let saved = file.as_ref().and_then(|file| read(file, config));
        let miner = saved.unwrap_or_else(|| Miner::new(config.clone()));
        let (queue, receiver) = mpsc::channel(QUEUE_BATCHES);
        let patterns = Self {
            counted: miner.lsn,
            miner: Mutex::new(miner),
            queue,
            queued_bytes: AtomicUsize::new(0),
            missed_lines: AtomicU64::new(0),
            file,
            metrics: metrics.clone(),
        };
        (Arc::new(patterns), receiver)
    }

    /// Queues a stored batch, if there is room.
    pub(crate) fn offer(&self, tenant: &TenantId, held: &Arc<HeldBatch>) {
        let bytes = held.reserved_bytes();
        let has_room = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= QUEUE_BYTES;
        if !has_room || self.queue.try_send((tenant.clone(), held.clone())).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            let lines = held.batch.entries.refs.len() as u64;
            self.missed_lines.fetch_add(lines, Ordering::Relaxed);
            self.metrics.skipped_batches.inc();
        }
    }

    /// Queues a replayed batch that no earlier process has counted.
    pub(crate) fn offer_replayed(&self, tenant: &TenantId, held: &Arc<HeldBatch>) {
        if held.lsn > self.counted {
            self.offer(tenant, held);
        }
    }

    /// Looks at what is queued, and looks after what is known, until the end; then at the rest, and saves.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut queue: Queue,
        clock: Arc<dyn Clock>,
        token: CancellationToken,
    ) {
        let mut period = interval(PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                _ = period.tick() => self.clone().tidy_and_save(clock.now()).await,
                Some((tenant, held)) = queue.recv() => self.look_at(&tenant, &held, clock.now()).await,
            }
        }
        while let Ok((tenant, held)) = queue.try_recv() {
            self.look_at(&tenant, &held, clock.now()).await;
        }
        self.tidy_and_save(clock.now()).await;
    }

    async fn look_at(&self, tenant: &TenantId, held: &HeldBatch, now: Timestamp) {
        let mut mined = Mined::default();
        let share = self.share(&held.batch);
        let mut turn = 0;
        for stream in &held.batch.streams {
            let of_stream = self.miner.lock().mine(tenant, &held.batch, stream, now, share);
            mined.lines += of_stream.lines;
            mined.sampled_out += of_stream.sampled_out;
            mined.refused += of_stream.refused;
            turn += of_stream.lines;
            if turn >= TURN_LINES {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        let bytes = {
            let mut miner = self.miner.lock();
            miner.lsn = miner.lsn.max(held.lsn);
            miner.bytes()
        };
        self.queued_bytes.fetch_sub(held.reserved_bytes(), Ordering::Relaxed);
        self.metrics.lines.with_label_values(&["mined"]).inc_by(mined.lines);
        self.metrics.lines.with_label_values(&["sampled_out"]).inc_by(mined.sampled_out);
        self.metrics.lines.with_label_values(&["refused"]).inc_by(mined.refused);
        self.metrics.bytes.set(bytes as i64);
    }

    /// For how many lines each line of a batch stands, because others found no room in the queue.
    fn share(&self, batch: &Batch) -> u64 {
        let missed = self.missed_lines.swap(0, Ordering::Relaxed);
        let lines = (batch.entries.refs.len() as u64).max(1);
        (1 + missed / lines).min(SHARE_MAX)
    }

    async fn tidy_and_save(self: Arc<Self>, now: Timestamp) {
        let saving = tokio::task::spawn_blocking(move || {
            let encoded = {
                let mut miner = self.miner.lock();
                miner.tidy(now);
                self.metrics.bytes.set(miner.bytes() as i64);
                self.file.as_ref().map(|file| (file, file::encode(&miner)))
            };
            if let Some((file, encoded)) = encoded
                && let Err(error) = file::write(file, &encoded)
            {
                tracing::warn!(%error, file = %file.display(), "failed to save patterns");
            }
        });
        if saving.await.is_err() {
            tracing::error!("saving patterns panicked");
        }
    }

    /// How often each stream that passes was counted.
    pub(crate) fn streams(
        &self,
        tenant: &TenantId,
        selector: &Selector,
        range: TimeRange,
    ) -> Vec<(StreamId, u64)> {
        self.miner.lock().streams(tenant, selector, range)
    }

    /// The patterns of the streams that pass.
    pub(crate) fn patterns(
        &self,
        tenant: &TenantId,
        selector: &Selector,
        range: TimeRange,
        step: i64,
        exclude: &[StreamId],
    ) -> Vec<PatternSeries> {
        self.miner.lock().patterns(tenant, selector, range, step, exclude)
    }
}

/// What was saved; nothing if there is nothing, or nothing that can be read.
fn read(file: &Path, config: &Config) -> Option<Miner> {
    let bytes = std::fs::read(file).ok()?;
    let miner = file::decode(&bytes, config);
    if miner.is_none() {
        tracing::warn!(file = %file.display(), "the saved patterns cannot be read and are counted anew");
    }
    miner
}
