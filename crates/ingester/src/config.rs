//! Settings of the ingester.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use skald_cluster::LifecyclerConfig;

use crate::wal::WalConfig;

/// What a flush takes besides the compressed block: the columns of a row group, the filters, the compressor.
const FLUSH_BYTES: u64 = 2 << 20;

/// Settings of the ingester (`ingester`). Names are Loki's where the thing is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The name of this instance in commits and file names, `0-9A-Za-z._-`. Empty means a random one, kept beside the log.
    pub instance_id: String,
    /// How it comes and goes in a cluster.
    pub lifecycler: LifecyclerConfig,
    /// The write-ahead log.
    pub wal: WalConfig,
    /// Length of an epoch: how long entries are gathered before they are written to the table. More gives fewer, larger
    /// blocks and needs more memory and log; less makes more of both commits and blocks.
    #[serde(with = "skald_runtime::units::duration")]
    pub flush_interval: Duration,
    /// How long after the end of an epoch its last pushes are waited for.
    #[serde(with = "skald_runtime::units::duration")]
    pub flush_grace: Duration,
    /// A tenant with fewer bytes in memory than this is not worth a file yet and waits for further epochs, up to
    /// `max_flush_delay`.
    #[serde(with = "skald_runtime::units::bytes")]
    pub min_flush_bytes: u64,
    /// The longest that entries of a small tenant stay out of the table. More keeps more of the log on disk.
    #[serde(with = "skald_runtime::units::duration")]
    pub max_flush_delay: Duration,
    /// A tenant's entries are written before the epoch ends once they take this much memory; at most a third of
    /// `memory_budget`. More gives larger blocks.
    #[serde(with = "skald_runtime::units::bytes")]
    pub segment_target_bytes: u64,
    /// Memory for all entries that the table does not hold yet, pushes on their way included, and for the blocks that
    /// are being written from them, which get a part of it (see `concurrent_flushes`). When it is full, pushes wait and
    /// are then refused with 429.
    #[serde(with = "skald_runtime::units::bytes")]
    pub memory_budget: u64,
    /// How long a push waits for memory before it is refused.
    #[serde(with = "skald_runtime::units::duration")]
    pub memory_wait: Duration,
    /// Flushes at a time. Each takes a core, and a quarter of `segment_target_bytes` and 2 MB of `memory_budget` for the
    /// block that it writes.
    pub concurrent_flushes: usize,
    /// The longest pause before a failed flush is tried again; pauses grow up to it.
    #[serde(with = "skald_runtime::units::duration")]
    pub flush_op_backoff_max: Duration,
    /// A flush that could not be committed for this long is written anew under another file name, because the vacuum
    /// might later take the first file for garbage. At most a quarter of `compactor.retention_delete_delay`.
    #[serde(with = "skald_runtime::units::duration")]
    pub flush_abandon_after: Duration,
    /// How long a replica that is not the first for a stream waits, after it sealed a segment, for the first one to write
    /// it; a replica in the third place waits twice as long. Less makes up for failures sooner, and writes more copies
    /// when others are slow. Has no effect where each entry is kept once.
    #[serde(with = "skald_runtime::units::duration")]
    pub takeover_after: Duration,
    /// Loki's age of a chunk; entries may be up to half of it older than the newest of their stream.
    #[serde(with = "skald_runtime::units::duration")]
    pub max_chunk_age: Duration,
    /// A stream without pushes for this long no longer counts as live, and its newest time is forgotten.
    #[serde(with = "skald_runtime::units::duration")]
    pub chunk_idle_period: Duration,
    /// Most refused entries of a stream that an error lists one by one.
    pub max_returned_stream_errors: usize,
    /// Queries over memory at a time; further ones wait. Each may take a core.
    pub concurrent_queries: usize,
    /// Entries that wait for one live tail, before and after the query was applied to them. What a slow reader has no
    /// room for is lost to it, and it is told so. More spares slow readers more.
    #[serde(with = "skald_runtime::units::bytes")]
    pub tail_buffer_bytes: u64,
    /// Pattern mining, which has a section of its own, as in Loki.
    #[serde(skip)]
    pub patterns: crate::patterns::Config,
}

impl Default for Config {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            instance_id: String::new(),
            lifecycler: LifecyclerConfig::default(),
            wal: WalConfig::default(),
            flush_interval: 5 * MINUTE,
            flush_grace: Duration::from_secs(10),
            min_flush_bytes: 1 << 20,
            max_flush_delay: 30 * MINUTE,
            segment_target_bytes: 48 << 20,
            memory_budget: 160 << 20,
            memory_wait: Duration::from_secs(5),
            concurrent_flushes: 2,
            flush_op_backoff_max: Duration::from_secs(30),
            flush_abandon_after: 30 * MINUTE,
            takeover_after: Duration::from_secs(30),
            max_chunk_age: 120 * MINUTE,
            chunk_idle_period: 30 * MINUTE,
            max_returned_stream_errors: 10,
            concurrent_queries: 4,
            tail_buffer_bytes: 4 << 20,
            patterns: crate::patterns::Config::default(),
        }
    }
}

impl Config {
    /// Bytes at which a tenant's segment is sealed early. Where several ingesters keep the same streams, a segment stays
    /// until the others have sealed theirs and one more, as these do not end with the same push; so there smaller ones
    /// have to do.
    pub(crate) fn seal_bytes(&self, replicated: bool) -> usize {
        let share = if replicated { 6 } else { 3 };
        self.segment_target_bytes.min(self.memory_budget / share) as usize
    }

    /// Bytes of the budget that entries may take: what the blocks that are being written leave. Logs shrink to a fifth
    /// or less.
    pub(crate) fn entries_budget(&self) -> usize {
        let flush = self.seal_bytes(false) as u64 / 4 + FLUSH_BYTES;
        let flushes = (self.concurrent_flushes.max(1) as u64).saturating_mul(flush);
        (self.memory_budget - flushes.min(self.memory_budget / 4)) as usize
    }

    /// Bytes in memory during a replay at which everything is flushed.
    pub(crate) fn replay_bytes(&self) -> usize {
        self.wal.replay_memory_ceiling.min(self.entries_budget() as u64 / 4 * 3) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_with_units_and_written_so_that_it_can_be_read() {
        let text = r#"{"flush_interval":"1m30s","memory_budget":"64MB","wal":{"fsync":false,"corrupt_action":"skip"}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.flush_interval, Duration::from_secs(90));
        assert!(!config.wal.fsync);
        assert!(config.seal_bytes(false) < config.memory_budget as usize / 2);
        let again: Config = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }
}
