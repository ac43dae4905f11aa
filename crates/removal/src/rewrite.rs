//! What a rewrite of blocks does about retention and delete requests.

use std::sync::Arc;
use std::time::Duration;

use skald_model::limits::DeletionMode;
use skald_model::time::DAY;
use skald_model::{Result, TenantId, Timestamp};
use skald_rpc::deletes::DeleteProgress;
use skald_storage::table::{BlockEntry, Snapshot};

use crate::blocks::Concern;
use crate::flush::AtFlush;
use crate::removals::{Delete, Removals};
use crate::requests::DeleteRequest;
use crate::resolve::Resolver;
use crate::service::{finished, progress};

/// The rules as rewrites see them.
#[derive(Clone, Debug, Default)]
pub struct AtRewrite {
    /// What has to go now: what has expired, and requests that can no longer be taken back.
    pub done: Arc<Removals>,
    /// Requests that may still be taken back, or that the tenant wants obeyed but not carried out.
    pub pending: Vec<Arc<Delete>>,
    /// Requests of which nothing is left to do.
    pub finished: Vec<String>,
    /// When each request was accepted that clients see as not carried out, nanoseconds.
    pub open: Vec<Timestamp>,
}

/// What is to be done about a block that nothing else is done about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing now.
    Nothing,
    /// To remove it: all of it goes.
    Drop,
    /// To rewrite it, because requests are about it.
    Rewrite,
    /// To rewrite it if it has one of the streams of which all has expired that its summary can't rule out.
    RewriteIfExpired,
}

impl AtRewrite {
    /// What is to be done about `block`. Streams that have expired wait until whatever has their time has: until their
    /// period has passed the newest entry of the block. So a block is rewritten no more often than there are rules; queries
    /// do not show what has expired.
    pub fn due(&self, block: &BlockEntry) -> Due {
        if self.done.block(block) == Concern::Whole {
            Due::Drop
        } else if self.done.deletes.iter().any(|d| d.is_due(block)) {
            Due::Rewrite
        } else if self.done.cutoffs_of(&block.summary).1 > block.summary.max_ts {
            Due::RewriteIfExpired
        } else {
            Due::Nothing
        }
    }

    /// All delete requests and nothing else: those that have to be carried out, and those that may be taken back.
    pub fn all_deletes(&self) -> Removals {
        let deletes = self.done.deletes.iter().chain(&self.pending).cloned().collect();
        Removals { generation: self.done.generation, deletes, ..Removals::default() }
    }

    /// Whether retention may take something of the block when it is rewritten.
    pub fn may_expire(&self, block: &BlockEntry) -> bool {
        self.done.cutoffs_of(&block.summary).1 > block.summary.min_ts
    }

    /// Blocks of a day may be merged where this is equal: where they stand towards the requests that are not carried out on
    /// the way. A block tells only when its first entry was received, and up to which request all are carried out, so what
    /// came after a request would be taken for what it is about, if it lay with something that came before.
    pub fn group(&self, block: &BlockEntry) -> Vec<u64> {
        let day = i64::from(block.date).saturating_mul(DAY);
        let of_the_day = |d: &&Arc<Delete>| d.rule().range.overlaps(day, day.saturating_add(DAY - 1));
        let place = |d: &Arc<Delete>| match d.rule() {
            rule if block.origin.deletes >= rule.generation => 0,
            rule if block.origin.received_min <= rule.accepted => 1,
            _ => 2,
        };
        self.pending.iter().filter(of_the_day).map(place).collect()
    }
}

impl Resolver {
    /// What a rewrite of the table at `snapshot` has to do at `now`; `snapshot` must not be older than that. Requests count
    /// as carried out when flushes that did not know them have had the time `settle` to end.
    pub async fn at_rewrite(
        &self,
        tenant: &TenantId,
        snapshot: &Snapshot,
        now: Timestamp,
        cancel_period: Duration,
        settle: Duration,
    ) -> Result<AtRewrite> {
        let limits = self.limits.of(tenant);
        let retention = self.retention(tenant, &limits)?;
        let (mut pending, mut deletes, mut generation) = (Vec::new(), Vec::new(), 0);
        let (mut done_with, mut open) = (Vec::new(), Vec::new());
        if let Some(loaded) = self.lists().at(tenant, snapshot).await? {
            let at = AtFlush::new(&loaded, &limits, now, cancel_period);
            (deletes, generation) = (at.done.deletes.clone(), at.done.generation());
            pending = at.pending;
            let requests = loaded.list.requests.iter().zip(&loaded.deletes);
            let is_open = |(r, d): &(&DeleteRequest, &Arc<Delete>)| {
                progress(r, d, snapshot, now, cancel_period) != DeleteProgress::Processed
            };
            open = requests.filter(is_open).map(|(request, _)| request.created).collect();
            if limits.deletion_mode == DeletionMode::FilterAndDelete {
                done_with = finished(&loaded, snapshot, now, cancel_period, settle);
            }
        }
        let mut done = Removals::new(generation, deletes, &retention, now);
        if self.retention_enabled {
            done = done.with_size(snapshot.blocks.iter().map(|b| &**b), limits.retention_bytes);
        }
        Ok(AtRewrite { done: Arc::new(done), pending, finished: done_with, open })
    }
}

#[cfg(test)]
mod tests {
    use skald_model::TimeRange;
    use skald_model::removal::DeleteRule;
    use skald_storage::table::BlockOrigin;

    use super::*;

    fn block(received_min: i64, deletes: u64) -> BlockEntry {
        let origin = BlockOrigin { received_min, deletes, ..BlockOrigin::default() };
        BlockEntry {
            path: String::new(),
            date: 1,
            summary: skald_storage::block::BlockSummary::default(),
            origin,
        }
    }

    #[test]
    fn what_came_before_a_request_that_waits_stays_apart_from_what_came_after() {
        let delete = |generation, accepted, range| {
            let rule = DeleteRule { generation, accepted, range, query: r#"{app="a"}"#.into() };
            Arc::new(Delete::compile(rule).unwrap())
        };
        let pending = vec![delete(3, 100, TimeRange::ALL), delete(4, 200, TimeRange::new(0, DAY))];
        let rules = AtRewrite { pending, ..AtRewrite::default() };
        let group = |received_min, deletes| rules.group(&block(received_min, deletes));
        // The second request is about another day.
        assert_eq!(group(50, 0), group(100, 2));
        assert_eq!(group(101, 0), group(300, 0));
        assert_ne!(group(100, 0), group(101, 0));
        // Carried out before the tenant wanted requests to be obeyed only.
        assert_ne!(group(50, 3), group(50, 0));
        assert_eq!(group(0, 0), group(50, 0), "nobody knows when it came");
    }
}
