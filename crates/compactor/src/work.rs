//! Work on one table: what has to go, what is to be merged, its log, its files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skald_model::{Error, Result, TenantId, TimeRange};
use skald_storage::block::BlockOptions;
use skald_storage::rewrite::{RewriteOptions, Rewritten, rewrite};
use skald_storage::table::{self, AppliedCommit, BlockEntry, NewBlock, RewriteCommit, Snapshot, date_text};
use tokio::time::Instant;

use crate::Compactor;
use crate::archive::DROPS_MAX;
use crate::keep::Removals;
use crate::plan::{Job, Reason, Rules, plan};
use crate::status::look_at;

/// Rewrites of one pass that may lose against others.
const CONFLICTS_MAX: usize = 5;

/// How far a pass came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing is left to do.
    Done,
    /// Its time was over first.
    OutOfTime,
    /// The table is another compactor's now.
    NotOurs,
}

/// One rewrite.
struct Task {
    reason: &'static str,
    runs: Vec<Vec<Arc<BlockEntry>>>,
    options: RewriteOptions,
}

impl Compactor {
    /// What has to go from a table.
    async fn removals(&self, tenant: &TenantId, snapshot: &Snapshot) -> Result<Removals> {
        let removals = self.parts.keep.removals(tenant, snapshot).await;
        let metrics = &self.metrics.removal;
        metrics.loaded(removals.is_ok());
        let removals = removals?;
        if removals.finished_requests > 0 {
            let done = metrics.requests_done.with_label_values(&[tenant.as_str()]);
            done.inc_by(removals.finished_requests as u64);
        }
        self.status.change(tenant, |s| {
            s.open_requests = removals.open_requests.len() as u64;
            s.oldest_request = removals.open_requests.iter().min().copied();
        });
        Ok(removals)
    }

    /// Takes note of rows that left `blocks` of a table, and of the bytes of their lines.
    fn count_removed(&self, tenant: &TenantId, blocks: &[Arc<BlockEntry>], rows: u64, bytes: u64) {
        self.metrics.rows_removed.inc_by(rows);
        self.status.change(tenant, |s| s.rows_removed += rows);
        let metrics = &self.metrics.removal;
        metrics.lines.with_label_values(&[tenant.as_str()]).inc_by(rows);
        metrics.bytes.inc_by(bytes);
        for block in blocks {
            metrics.marked.with_label_values(&[&date_text(block.date)]).inc();
        }
    }

    /// Does what is to be done about a table, as long as there is time.
    pub(crate) async fn pass(&self, tenant: &TenantId, deadline: Instant) -> Result<Progress> {
        let catalog = &self.parts.catalog;
        let mut snapshot = catalog.snapshot(tenant).await?;
        let removals = self.removals(tenant, &snapshot).await?;
        let (mut conflicts, mut skipped, mut unchanged) = (0, BTreeSet::new(), BTreeSet::new());
        let mut failed = None;
        let progress = loop {
            if !self.parts.ownership.owns(tenant) {
                break Progress::NotOurs;
            }
            self.deliver(tenant, &snapshot).await?;
            let mut dropped = gone(&snapshot, &removals.drop);
            let tasks = self.tasks(&snapshot, &removals, &skipped, &unchanged);
            self.show(tenant, &snapshot, &tasks, dropped.len());
            if Instant::now() >= deadline {
                break if tasks.is_empty() && dropped.is_empty() {
                    Progress::Done
                } else {
                    Progress::OutOfTime
                };
            }
            let outcome = if !dropped.is_empty() {
                if self.parts.archive.is_some() {
                    dropped.truncate(DROPS_MAX);
                }
                self.drop_blocks(tenant, &snapshot, &removals, dropped).await
            } else if let Some(task) = tasks.into_iter().next() {
                let inputs: Vec<String> = task.runs.iter().flatten().map(|b| b.path.clone()).collect();
                let outcome = self.carry_out(tenant, &snapshot, &removals, task).await;
                match &outcome {
                    Ok(after) => unchanged.extend(inputs.into_iter().filter(|p| after.block(p).is_some())),
                    Err(table::Error::Unreadable { .. }) => skipped.extend(inputs),
                    Err(_) => {}
                }
                outcome
            } else {
                break Progress::Done;
            };
            match outcome {
                Ok(after) => snapshot = after,
                Err(table::Error::Conflict { reason, .. }) if conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    self.metrics.conflicts.inc();
                    tracing::debug!(%tenant, reason, "another rewrite was faster; starting over");
                    snapshot = catalog.snapshot(tenant).await?;
                }
                // The others go on without these blocks.
                Err(error @ table::Error::Unreadable { .. }) => {
                    self.metrics.failures.inc();
                    tracing::error!(%tenant, %error, "a block can't be compacted; see `skald table check`");
                    failed = Some(error);
                }
                Err(error) => {
                    self.metrics.failures.inc();
                    return Err(error.into());
                }
            }
        };
        if progress != Progress::NotOurs {
            catalog.maintain(tenant).await?;
            self.vacuum_if_due(tenant).await?;
        }
        failed.map_or(Ok(progress), |error| Err(error.into()))
    }

    /// What is to be rewritten, the most urgent first, without blocks that can't be read and those of which nothing has to go
    /// after all.
    fn tasks(
        &self,
        snapshot: &Snapshot,
        removals: &Removals,
        skipped: &BTreeSet<String>,
        unchanged: &BTreeSet<String>,
    ) -> Vec<Task> {
        let usable: Vec<Arc<BlockEntry>> =
            snapshot.blocks.iter().filter(|b| !skipped.contains(&b.path)).cloned().collect();
        let now = self.parts.clock.now().div_euclid(skald_model::time::SECOND);
        let rules = self.rules();
        // Each group keeps the order of the blocks.
        let mut groups: BTreeMap<Vec<u64>, Vec<Arc<BlockEntry>>> = BTreeMap::new();
        for block in &usable {
            groups.entry((removals.group)(block)).or_default().push(block.clone());
        }
        let jobs: Vec<Job> = groups.values().flat_map(|blocks| plan(blocks, now, &rules)).collect();
        let merged: BTreeSet<&str> = jobs.iter().flat_map(Job::inputs).map(|b| b.path.as_str()).collect();
        // What is merged anyway loses what has to go by the way. What is rewritten alone keeps its list of pushes, so it does
        // not have to wait until nobody needs that.
        let due = removals.rewrite.iter().filter(|path| !unchanged.contains(*path));
        let due: BTreeSet<&str> = due.map(String::as_str).collect();
        let alone = usable.iter().filter(|b| due.contains(&*b.path) && !merged.contains(b.path.as_str()));
        let mut tasks: Vec<Task> = alone.map(|block| self.rewrite_alone(block)).collect();
        tasks.extend(jobs.into_iter().map(|job| self.merge(job)));
        tasks
    }

    fn rules(&self) -> Rules {
        let seconds = |d: std::time::Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX / 4);
        let config = &self.config;
        Rules {
            slice: self.slice(),
            target_bytes: config.target_block_bytes,
            min_blocks: config.min_blocks,
            runs_max: RewriteOptions::runs_max(config.rewrite_bytes()).max(2),
            settle: seconds(self.parts.settle_after),
            close_after: seconds(config.close_after),
            late_after: seconds(config.late_after),
        }
    }

    fn slice(&self) -> i64 {
        i64::try_from(self.config.slice_duration.as_nanos()).unwrap_or(0)
    }

    fn merge(&self, job: Job) -> Task {
        let reason = match job.reason {
            Reason::Gather => "gather",
            Reason::Close => "close",
            Reason::Late => "late",
        };
        let options = RewriteOptions {
            block: BlockOptions::default(),
            target_bytes: self.config.target_block_bytes,
            memory_bytes: self.config.rewrite_bytes(),
            range: TimeRange::ALL,
            slice: self.slice(),
            level: job.level,
            place: None,
            writer: self.parts.name.clone(),
        };
        Task { reason, runs: job.runs, options }
    }

    /// A block that is not merged keeps its place among those of its run, and its list of pushes.
    fn rewrite_alone(&self, block: &Arc<BlockEntry>) -> Task {
        let options = RewriteOptions::alone(block, self.config.rewrite_bytes(), self.parts.name.clone());
        Task { reason: "removal", runs: vec![vec![block.clone()]], options }
    }

    async fn drop_blocks(
        &self,
        tenant: &TenantId,
        snapshot: &Arc<Snapshot>,
        removals: &Removals,
        removes: Vec<String>,
    ) -> table::Result<Arc<Snapshot>> {
        let count = removes.len();
        let gone: Vec<_> = removes.iter().filter_map(|p| snapshot.block(p).cloned()).collect();
        let note = self.stage(tenant, snapshot, gone.iter(), &*removals.archived).await?;
        let rows: u64 = gone.iter().map(|b| b.summary.rows).sum();
        let (base, adds) = (snapshot.clone(), Vec::new());
        let commit = RewriteCommit { base, removes, adds, data_change: true, note };
        let committed = self.parts.catalog.commit_rewrite(tenant, &commit).await?;
        self.metrics.blocks_dropped.inc_by(count as u64);
        let bytes = gone.iter().map(|b| b.summary.raw_bytes).sum();
        self.count_removed(tenant, &gone, rows, bytes);
        tracing::info!(%tenant, blocks = count, rows, version = committed.snapshot.version, "removed blocks");
        Ok(committed.snapshot)
    }

    /// Whether what was uploaded since `begun` may still be committed.
    pub(crate) fn check_time(&self, tenant: &TenantId, begun: Instant) -> table::Result<()> {
        let limit = self.config.commit_patience();
        match begun.elapsed() > limit {
            true => Err(table::Error::TooSlow { tenant: tenant.clone(), limit }),
            false => Ok(()),
        }
    }

    /// Rewrites and commits.
    async fn carry_out(
        &self,
        tenant: &TenantId,
        snapshot: &Arc<Snapshot>,
        removals: &Removals,
        task: Task,
    ) -> table::Result<Arc<Snapshot>> {
        let (catalog, begun) = (&self.parts.catalog, Instant::now());
        let Task { reason, runs, options } = task;
        let note = self.stage(tenant, snapshot, runs.iter().flatten(), &*removals.archived).await?;
        let written = rewrite(catalog, tenant, &runs, &removals.keep, &options).await?;
        if let Err(slow) = self.check_time(tenant, begun) {
            catalog.discard(tenant, &written.blocks).await;
            return Err(slow);
        }
        if let Some(block) = written.unchanged {
            return self.applied(tenant, snapshot, block, begun).await;
        }
        let inputs = || runs.iter().flatten();
        let rows_before: u64 = inputs().map(|b| b.summary.rows).sum();
        let rows_after: u64 = written.blocks.iter().map(|b| b.summary.rows).sum();
        let removed = rows_before.saturating_sub(rows_after + written.stats.duplicates);
        let raw_before: u64 = inputs().map(|b| b.summary.raw_bytes).sum();
        let raw_after: u64 = written.blocks.iter().map(|b| b.summary.raw_bytes).sum();
        let removed_bytes = raw_before.saturating_sub(raw_after + written.stats.duplicate_bytes);
        let commit = RewriteCommit {
            base: snapshot.clone(),
            removes: inputs().map(|b| b.path.clone()).collect(),
            adds: written.blocks.clone(),
            data_change: removed > 0,
            note,
        };
        let committed = match catalog.commit_rewrite(tenant, &commit).await {
            Ok(committed) => committed,
            Err(error) => {
                // Only now it is certain that the commit is not and will not be in the log.
                if matches!(error, table::Error::Conflict { .. }) {
                    catalog.discard(tenant, &written.blocks).await;
                }
                return Err(error);
            }
        };
        self.count(tenant, reason, inputs().count(), &written);
        if removed > 0 {
            let blocks: Vec<_> = inputs().cloned().collect();
            self.count_removed(tenant, &blocks, removed, removed_bytes);
        }
        let bytes_before: u64 = inputs().map(|b| b.size()).sum();
        let bytes_after: u64 = written.blocks.iter().map(|b| b.summary.file_size).sum();
        tracing::info!(
            %tenant,
            reason,
            blocks = inputs().count(),
            bytes = bytes_before,
            into = written.blocks.len(),
            into_bytes = bytes_after,
            rows = rows_after,
            copied = written.stats.rows_copied,
            duplicates = written.stats.duplicates,
            removed,
            took = ?begun.elapsed(),
            version = committed.snapshot.version,
            "compacted"
        );
        Ok(committed.snapshot)
    }

    /// Commits that nothing has to go of a block.
    async fn applied(
        &self,
        tenant: &TenantId,
        snapshot: &Arc<Snapshot>,
        block: NewBlock,
        begun: Instant,
    ) -> table::Result<Arc<Snapshot>> {
        let (path, deletes) = (block.path.clone(), block.origin.deletes);
        let commit = AppliedCommit { base: snapshot.clone(), blocks: vec![block] };
        let committed = self.parts.catalog.commit_applied(tenant, &commit).await?;
        self.metrics.blocks_unchanged.inc();
        let (took, version) = (begun.elapsed(), committed.snapshot.version);
        tracing::info!(%tenant, path, deletes, ?took, version, "nothing has to go of a block");
        Ok(committed.snapshot)
    }

    fn count(&self, tenant: &TenantId, reason: &str, inputs: usize, written: &Rewritten) {
        let m = &self.metrics;
        let bytes_written = written.blocks.iter().map(|b| b.summary.file_size).sum();
        m.rewrites.with_label_values(&[reason]).inc();
        m.blocks_read.inc_by(inputs as u64);
        m.blocks_written.inc_by(written.blocks.len() as u64);
        m.bytes_read.inc_by(written.bytes_read);
        m.bytes_written.inc_by(bytes_written);
        m.rows_written.inc_by(written.stats.rows_written);
        m.rows_copied.inc_by(written.stats.rows_copied);
        m.duplicates.inc_by(written.stats.duplicates);
        self.status.change(tenant, |s| {
            s.rewritten_bytes_read += written.bytes_read;
            s.rewritten_bytes_written += bytes_written;
        });
    }

    fn show(&self, tenant: &TenantId, snapshot: &Snapshot, tasks: &[Task], dropped: usize) {
        let is_merge = |t: &&Task| t.reason != "removal";
        self.status.change(tenant, |s| {
            look_at(s, snapshot);
            s.pending_merges = tasks.iter().filter(is_merge).count() as u64;
            let blocks = tasks.iter().flat_map(|t| &t.runs).flatten();
            s.pending_bytes = blocks.map(|b| b.size()).sum();
            s.pending_removals = (tasks.len() as u64 - s.pending_merges) + dropped as u64;
        });
    }
}

/// Those of `paths` that the table still has.
fn gone(snapshot: &Snapshot, paths: &[String]) -> Vec<String> {
    paths.iter().filter(|path| snapshot.block(path).is_some()).cloned().collect()
}

/// An error of the work on a table.
pub(crate) fn failed(what: &str, tenant: &TenantId, error: &object_store::Error) -> Error {
    Error::unavailable(format!("failed to {what} of tenant {tenant}: {error}"))
}
