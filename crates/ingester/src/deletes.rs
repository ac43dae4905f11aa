//! Delete requests at a flush.

use std::sync::Arc;
use std::time::Duration;

use skald_model::{Result, TenantId, TenantLimits};
use skald_removal::{AtFlush, Delete, DeleteLists, Keep};
use skald_runtime::Clock;

use crate::query::Removing;
use crate::segment::{Row, Segment};

/// What a flush needs to know of delete requests.
#[derive(Clone)]
pub struct FlushDeletes {
    /// The requests.
    pub lists: Arc<DeleteLists>,
    /// Whether tenants have theirs carried out.
    pub limits: Arc<dyn TenantLimits>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long requests can be taken back.
    pub cancel_period: Duration,
}

impl std::fmt::Debug for FlushDeletes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlushDeletes").field("cancel_period", &self.cancel_period).finish_non_exhaustive()
    }
}

impl FlushDeletes {
    /// The requests of a tenant as a flush that begins now sees them; `None` when there never were any.
    ///
    /// What this process knows of the table is new enough: the flush has looked at it after the segment was sealed, and
    /// a request that came later is about all of the segment, which the block then tells.
    pub(crate) async fn at(&self, tenant: &TenantId) -> Result<Option<AtFlush>> {
        let catalog = self.lists.catalog();
        let snapshot = match catalog.cached(tenant) {
            Some(known) => known,
            None => catalog.snapshot(tenant).await?,
        };
        let Some(loaded) = self.lists.at(tenant, &snapshot).await? else { return Ok(None) };
        let limits = self.limits.of(tenant);
        Ok(Some(AtFlush::new(&loaded, &limits, self.clock.now(), self.cancel_period)))
    }
}

/// The segment without what requests take away, and in parts where something came after a request that was accepted
/// meanwhile and is about the same streams and times: what is about a block is about all of it.
pub(crate) fn split(segment: &Arc<Segment>, at: Option<&AtFlush>) -> Vec<Arc<Segment>> {
    let Some(at) = at else { return vec![segment.clone()] };
    let rest = if at.done.is_empty() { segment.clone() } else { without_deleted(segment, at) };
    let Some((first, last)) = rest.seconds() else { return Vec::new() };
    let mut borders: Vec<i64> = at
        .borders(first, last)
        .into_iter()
        .filter(|d| is_crossed(&rest, d))
        .map(|d| d.rule().accepted)
        .collect();
    borders.sort_unstable();
    borders.dedup();
    if borders.is_empty() {
        return vec![rest];
    }
    let side = |row: &Row| borders.partition_point(|b| *b < rest.batches().stamp(row).second);
    let part = |number| Arc::new(rest.retained(|_, row| side(row) == number));
    (0..=borders.len()).map(part).filter(|p| p.entries() > 0).collect()
}

fn without_deleted(segment: &Arc<Segment>, at: &AtFlush) -> Arc<Segment> {
    let mut removing = Removing::new(at.done.clone());
    let keeps: Vec<Keep> = segment.streams().iter().map(|s| removing.keep(segment, s)).collect();
    if keeps.iter().all(|k| *k == Keep::All) {
        return segment.clone();
    }
    Arc::new(segment.retained(|number, row| match &keeps[number] {
        Keep::All => true,
        Keep::Nothing => false,
        Keep::Within(range) => range.contains(row.timestamp),
        Keep::Rows(rules) => removing.keeps(rules, segment, &segment.streams()[number], row),
    }))
}

/// Whether something came after the request that it would be about, had it come before.
fn is_crossed(segment: &Segment, delete: &Delete) -> bool {
    let rule = delete.rule();
    let late =
        |row: &Row| rule.range.contains(row.timestamp) && segment.batches().stamp(row).second > rule.accepted;
    let streams = segment.streams().iter().filter(|s| delete.is_about_stream(s.labels.as_ref()));
    streams.flat_map(|s| s.rows.iter()).any(late)
}
