//! Several ingesters keep each stream, and one of them writes it.
//!
//! For each stream the first of its replicas on the ring is its *writer*. When a segment is sealed, an ingester writes
//! what it is the writer of, and lists in the block which pushes' entries are in it. The others wait until the table
//! lists what they have ([`Pending`]), and only then let go. Whoever waits in vain for the takeover time, times its place
//! among the replicas, writes what is missing. So in steady state the table has one copy; a failure costs at most some
//! duplicates, which reads join and compaction erases; and nothing is let go that the table does not have.

pub(crate) mod copies;
mod lists;
pub(crate) mod pending;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use skald_cluster::Topology;
use skald_model::{Result, StreamId, TenantId, TenantLimits};

pub use copies::Copies;
pub use lists::Lists;
pub(crate) use pending::Pending;

use crate::core::Core;
use crate::tenant::Tenant;

/// The takeover time when somebody waits for a flush, or the ingester leaves.
const HURRIED: Duration = Duration::from_secs(5);
/// The takeover time when memory is nearly used up.
const PRESSED: Duration = Duration::from_secs(5);
/// How long to wait before looking at the table again: at first, and at last.
const POLL: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(5));
/// The same when memory is short.
const POLL_PRESSED: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// Which streams an ingester writes, among those that it keeps.
pub trait Writers: Send + Sync + 'static {
    /// Its place among the replicas of a stream of `tenant` as they are now: 0 for the writer, the number of replicas for
    /// a stream that it no longer belongs to.
    fn ranks(&self, tenant: &TenantId) -> Box<dyn Fn(StreamId) -> usize + Send>;
}

/// The ring's word on who writes what.
pub struct RingWriters {
    /// The members.
    pub topology: Arc<Topology>,
    /// Which share of the ring each tenant has.
    pub limits: Arc<dyn TenantLimits>,
    /// The ingester's name there.
    pub name: String,
}

impl Writers for RingWriters {
    fn ranks(&self, tenant: &TenantId) -> Box<dyn Fn(StreamId) -> usize + Send> {
        let view = self.topology.view();
        let subset = view.subset(tenant, self.limits.of(tenant).ingestion_tenant_shard_size);
        let own = view.ingesters().iter().position(|m| m.name == self.name);
        Box::new(move |stream| {
            let replicas = view.replicas(stream, subset.as_ref());
            replicas.iter().position(|r| Some(*r) == own).unwrap_or_else(|| view.replication_factor())
        })
    }
}

/// Whether memory is nearly used up.
fn is_pressed(core: &Core) -> bool {
    core.memory.used() > core.memory.total() / 8 * 7
}

/// How long a replica of each rank waits for those before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    takeover: Duration,
    hurried: bool,
}

impl Patience {
    fn of(core: &Core) -> Self {
        let takeover = core.config.takeover_after;
        let takeover = if is_pressed(core) { takeover.min(PRESSED) } else { takeover };
        Self { takeover, hurried: core.is_leaving() }
    }

    /// Nanoseconds from sealing until a replica of `rank` writes.
    pub(crate) fn after(&self, rank: usize, hurried: bool) -> i64 {
        let takeover = if hurried || self.hurried { self.takeover.min(HURRIED) } else { self.takeover };
        i64::try_from(takeover.as_nanos().saturating_mul(rank as u128)).unwrap_or(i64::MAX)
    }
}

/// Brings what the tenant has sealed nearer to the table: learns what the table has, and writes what is this
/// ingester's to write. Returns how long to wait before the next look; `None` when nothing is left.
pub(crate) async fn advance(
    core: &Arc<Core>,
    tenant: &Arc<Tenant>,
    writers: &Arc<dyn Writers>,
) -> Result<Option<Duration>> {
    let Some((since, mut lists)) = tenant.lock().begin_look() else { return Ok(None) };
    let looked = core.table.listed(&tenant.id, &mut lists, since).await;
    // Kept even after an error: what was read need not be read again.
    let released = {
        let mut state = tenant.lock();
        state.keep_lists(lists);
        state.settle_listed(looked?)
    };
    core.give_back(tenant, released);

    let now = core.clock.now();
    let ranks = writers.ranks(&tenant.id);
    let patience = Patience::of(core);
    let abandon_after = core.config.flush_abandon_after;
    let due = tenant.lock().next_copies(now, &*ranks, patience, abandon_after);
    let Some(due) = due else {
        drop(ranks);
        let age = tenant.lock().sealed_age(now);
        let (least, most) = if is_pressed(core) { POLL_PRESSED } else { POLL };
        return Ok(age.map(|age| (age / 4).clamp(least, most)));
    };
    drop(ranks);
    let timer = core.metrics.flush_seconds.start_timer();
    let covered = tenant.lock().covered();
    let version = core.table.commit_copies(&tenant.id, &due.copies, covered).await?;
    timer.observe_duration();
    core.metrics.flushes.with_label_values(&["success"]).inc();
    if due.taken_over > 0 {
        core.metrics.streams_taken_over.inc_by(due.taken_over as u64);
        tracing::info!(tenant = %tenant.id, streams = due.taken_over, entries = due.copies.segment.entries(),
            "wrote streams of others, which the table did not have in time");
    }
    let released = tenant.lock().settle_written(&due, version);
    // Before anybody is told that the memory is free.
    drop(due);
    core.give_back(tenant, released);
    Ok(Some(Duration::ZERO))
}
