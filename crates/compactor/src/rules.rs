//! Retention and delete requests as reasons to rewrite.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skald_model::{LabelsRef, Result, TenantId, TenantLimits, Timestamp};
use skald_removal::{AtRewrite, Due, Entry, Resolver, Sieve, Source};
use skald_runtime::Clock;
use skald_storage::block::BlockSummary;
use skald_storage::rewrite::{Keep, KeepRow, Kept, KeptRows};
use skald_storage::table::{BlockEntry, BlockOrigin, Catalog, Snapshot};

use crate::archive::{Archived, Expired, HowArchived};
use crate::keep::{KeepProvider, Removals};

/// Blocks of which it is remembered that nothing in them has expired.
const LOOKED_AT_MAX: u64 = 100_000;

/// What limits and delete requests say.
pub struct Rules {
    catalog: Arc<Catalog>,
    resolver: Resolver,
    clock: Arc<dyn Clock>,
    cancel_period: Duration,
    settle: Duration,
    /// Until when nothing in a block is known to expire, by its path. Times of rules only grow.
    looked_at: moka::sync::Cache<(TenantId, String), Timestamp>,
}

impl Rules {
    /// The rules in `limits` and the requests beside the tables of `catalog`. A request counts as carried out when flushes
    /// that did not know it have had the time `settle` to end.
    pub fn new(
        catalog: Arc<Catalog>,
        limits: Arc<dyn TenantLimits>,
        clock: Arc<dyn Clock>,
        config: &skald_removal::Config,
        settle: Duration,
    ) -> Self {
        Self {
            resolver: Resolver::new(catalog.clone(), limits, config.retention_enabled),
            catalog,
            clock,
            cancel_period: config.delete_request_cancel_period,
            settle,
            looked_at: moka::sync::Cache::new(LOOKED_AT_MAX),
        }
    }

    /// Whether all of some stream in the block has expired.
    async fn has_expired(&self, tenant: &TenantId, block: &BlockEntry, rules: &AtRewrite) -> Result<bool> {
        let key = (tenant.clone(), block.path.clone());
        let now = self.clock.now();
        if self.looked_at.get(&key).is_some_and(|until| now < until) {
            return Ok(false);
        }
        let expired = skald_removal::plan::has_expired(&self.catalog, tenant, block, &rules.done).await?;
        if !expired {
            self.looked_at.insert(key, now.saturating_add(LOOK_AGAIN_AFTER));
        }
        Ok(expired)
    }
}

/// The end of a block in which a rule might find something, but did not, is not read again for this long.
const LOOK_AGAIN_AFTER: i64 = 3600 * skald_model::time::SECOND;

#[async_trait]
impl KeepProvider for Rules {
    async fn removals(&self, tenant: &TenantId, snapshot: &Snapshot) -> Result<Removals> {
        let now = self.clock.now();
        let rules = self.resolver.at_rewrite(tenant, snapshot, now, self.cancel_period, self.settle).await?;
        if !rules.finished.is_empty() {
            self.resolver.lists().mark_processed(tenant, &rules.finished, now).await?;
            tracing::info!(%tenant, requests = rules.finished.join(","), "delete requests carried out");
        }
        let (mut drop, mut rewrite) = (Vec::new(), Vec::new());
        for block in snapshot.blocks.iter() {
            match rules.due(block) {
                Due::Nothing => {}
                Due::Drop => drop.push(block.path.clone()),
                Due::Rewrite => rewrite.push(block.path.clone()),
                Due::RewriteIfExpired => {
                    if self.has_expired(tenant, block, &rules).await? {
                        rewrite.push(block.path.clone());
                    }
                }
            }
        }
        let keep: Arc<dyn Keep> = Arc::new(Ruled(rules.done.clone()));
        let rules = Arc::new(rules);
        let archived = how_archived(rules.clone(), keep.clone());
        let (open_requests, finished_requests) = (rules.open.clone(), rules.finished.len());
        let group = Arc::new(move |b: &BlockEntry| rules.group(b));
        Ok(Removals { keep, drop, rewrite, group, archived, open_requests, finished_requests })
    }
}

/// How blocks are archived when rewrites keep what `stays`. What a delete request names is not archived, also when the
/// request has not been carried out yet: nothing is deleted from an archive.
fn how_archived(rules: Arc<AtRewrite>, stays: Arc<dyn Keep>) -> Arc<HowArchived> {
    let deletes = Arc::new(rules.all_deletes());
    let left: Arc<dyn Keep> = Arc::new(Ruled(deletes.clone()));
    Arc::new(move |block| {
        let BlockSummary { min_ts, max_ts, .. } = block.summary;
        let goes_whole = rules.due(block) == Due::Drop;
        if goes_whole && !deletes.may_concern(&Source::of(block), min_ts, max_ts) {
            Some(Archived::Whole)
        } else if goes_whole {
            Some(Archived::Rows(left.clone()))
        } else if rules.may_expire(block) {
            Some(Archived::Rows(Arc::new(Expired { left: left.clone(), stays: stays.clone() })))
        } else {
            None
        }
    })
}

/// The rules for rows.
struct Ruled(Arc<skald_removal::Removals>);

impl Keep for Ruled {
    fn stream(
        &self,
        origin: &BlockOrigin,
        labels: LabelsRef<'_>,
        min_ts: Timestamp,
        max_ts: Timestamp,
    ) -> Kept {
        let source = Source::Block { deletes: origin.deletes, received_min: origin.received_min };
        match self.0.stream(&source, labels, min_ts, max_ts) {
            skald_removal::Keep::All => Kept::All,
            skald_removal::Keep::Nothing => Kept::Nothing,
            skald_removal::Keep::Within(range) => Kept::rows(move |time, _, _| range.contains(time)),
            skald_removal::Keep::Rows(rules) => {
                let keys = self.0.keys_of_gone(&rules, min_ts, max_ts);
                let (mut sieve, labels) = (Sieve::new(self.0.clone()), labels.to_owned());
                let keep: KeepRow = Box::new(move |timestamp, line, metadata| {
                    let entry = Entry { timestamp, received: Entry::OF_BLOCK, line, metadata };
                    sieve.keeps(&rules, &labels, entry)
                });
                Kept::Rows(KeptRows::new(keep, keys))
            }
        }
    }

    fn generation(&self) -> u64 {
        self.0.generation()
    }
}
