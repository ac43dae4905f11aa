//! Settings of the compactor.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use skald_model::time::DAY;

/// Settings of the compactor (`compactor`). Names are Loki's where the thing is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// How often each tenant's table is looked at. Less merges small blocks sooner; each look costs one small request for
    /// each tenant.
    #[serde(with = "skald_runtime::units::duration")]
    pub compaction_interval: Duration,
    /// Tenants that are worked on at a time. Each takes a core and its part of `memory_budget`.
    pub max_compaction_parallelism: usize,
    /// Memory for all rewrites of this process. More merges more blocks at a time and makes fewer, larger requests.
    #[serde(with = "skald_runtime::units::bytes")]
    pub memory_budget: u64,
    /// Size of the files that are written. Larger ones are fewer to plan over; a query loads the end of each file that it
    /// looks into, about a tenth of it, so smaller ones make single queries cheaper.
    #[serde(with = "skald_runtime::units::bytes")]
    pub target_block_bytes: u64,
    /// Length of the slices of a day that no compacted block reaches over. Shorter slices let a query for the newest
    /// entries leave out more, and make more files. It divides a day.
    #[serde(with = "skald_runtime::units::duration")]
    pub slice_duration: Duration,
    /// Flushed blocks that are worth a merge. Fewer keep the newest data in fewer blocks; each entry is then rewritten just
    /// as often, but in more and smaller commits.
    pub min_blocks: usize,
    /// How long after its end, and after the last news of it, a slice gets its final form. More waits longer for late
    /// entries, which otherwise cost another rewrite.
    #[serde(with = "skald_runtime::units::duration")]
    pub close_after: Duration,
    /// How long late entries of a slice that has its final form may lie beside it, if they are few. Less rewrites more.
    #[serde(with = "skald_runtime::units::duration")]
    pub late_after: Duration,
    /// How long files stay that the table no longer names: as long can `skald table restore` undo, and as long may a query
    /// run. Loki's delay of deletion.
    #[serde(with = "skald_runtime::units::duration")]
    pub retention_delete_delay: Duration,
    /// How often the files of a table are listed to find those that nobody needs.
    #[serde(with = "skald_runtime::units::duration")]
    pub vacuum_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            compaction_interval: 5 * MINUTE,
            max_compaction_parallelism: 1,
            memory_budget: 256 << 20,
            target_block_bytes: 128 << 20,
            slice_duration: 120 * MINUTE,
            min_blocks: 8,
            close_after: 60 * MINUTE,
            late_after: 24 * 60 * MINUTE,
            retention_delete_delay: 120 * MINUTE,
            vacuum_interval: 60 * MINUTE,
        }
    }
}

impl Config {
    /// What is wrong with it, in words for the operator.
    ///
    /// # Errors
    /// Names the key, its value and its limit.
    pub fn validate(&self) -> Result<(), String> {
        if self.compaction_interval.is_zero() {
            return Err("compactor.compaction_interval is 0; it must be longer".into());
        }
        if self.max_compaction_parallelism == 0 {
            return Err("compactor.max_compaction_parallelism is 0; it must be at least 1".into());
        }
        let share = self.memory_budget / self.max_compaction_parallelism as u64;
        if share < 32 << 20 {
            return Err(format!(
                "compactor.memory_budget is {} bytes for compactor.max_compaction_parallelism of {}; it must be at least \
                 32MB for each",
                self.memory_budget, self.max_compaction_parallelism
            ));
        }
        if self.target_block_bytes < 1 << 20 {
            return Err(format!(
                "compactor.target_block_bytes is {} bytes; it must be at least 1MB",
                self.target_block_bytes
            ));
        }
        let slice = self.slice_duration.as_nanos();
        if slice == 0 || !(DAY as u128).is_multiple_of(slice) {
            return Err(format!(
                "compactor.slice_duration is {:?}; it must divide a day, such as 1h, 4h or 6h",
                self.slice_duration
            ));
        }
        if self.min_blocks < 2 {
            return Err(format!("compactor.min_blocks is {}; it must be at least 2", self.min_blocks));
        }
        if self.vacuum_interval.is_zero() {
            return Err("compactor.vacuum_interval is 0; it must be longer".into());
        }
        Ok(())
    }

    /// How long what was uploaded may wait for its commit; vacuum might take what lay about for longer for garbage.
    pub(crate) fn commit_patience(&self) -> std::time::Duration {
        self.retention_delete_delay / 4
    }

    /// Memory of one rewrite, as it counts it. An eighth of the budget is for what it does not count: what the allocator and
    /// the store's client hold besides, which was 5 % with blocks of a gigabyte.
    pub(crate) fn rewrite_bytes(&self) -> u64 {
        self.memory_budget / 8 * 7 / self.max_compaction_parallelism.max(1) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_by_the_name_of_its_key() {
        assert!(Config::default().validate().is_ok());
        let check = |part: &str, change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            let error = config.validate().unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        check("compactor.compaction_interval", |c| c.compaction_interval = Duration::ZERO);
        check("compactor.max_compaction_parallelism is 0", |c| c.max_compaction_parallelism = 0);
        check("compactor.memory_budget is 1 bytes", |c| c.memory_budget = 1);
        check("compactor.target_block_bytes", |c| c.target_block_bytes = 0);
        check("compactor.slice_duration is 25200s", |c| c.slice_duration = Duration::from_secs(7 * 3600));
        check("compactor.min_blocks is 1", |c| c.min_blocks = 1);
        check("compactor.vacuum_interval", |c| c.vacuum_interval = Duration::ZERO);
    }
}
