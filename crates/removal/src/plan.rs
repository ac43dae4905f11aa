//! What retention would remove: a look at summaries and stream indexes, which changes nothing.

use std::collections::BTreeMap;

use skald_model::removal::NEVER;
use skald_model::retention::{Retention, cutoff};
use skald_model::{Error, Limits, Result, Selector, TenantId, TimeRange, Timestamp};
use skald_storage::block::{self, BlockMeta};
use skald_storage::table::{BlockEntry, Catalog, Snapshot};

use crate::blocks::Concern;
use crate::removals::Removals;

/// What a rule would remove of a tenant's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The rule as it stands in the limits.
    pub rule: String,
    /// Streams of which something goes, those of each block counted apart.
    pub streams: u64,
    /// Entries; of a stream that goes only in part an estimate.
    pub entries: u64,
    /// Bytes of their lines, likewise.
    pub bytes: u64,
}

/// What retention would remove of a tenant's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By rule.
    pub shares: Vec<Share>,
    /// Blocks that go as a whole.
    pub whole_blocks: u64,
    /// Bytes of their files.
    pub whole_bytes: u64,
    /// Blocks of which something stays, and which would be rewritten.
    pub partial_blocks: u64,
    /// Bytes of their files.
    pub partial_bytes: u64,
    /// Blocks that stay as they are.
    pub kept_blocks: u64,
    /// Bytes of their files.
    pub kept_bytes: u64,
}

/// The rules of a tenant by name, in order of precedence, each with the time before which its streams expire.
struct Rules {
    named: Vec<(String, Selector, Timestamp)>,
    others: (String, Timestamp),
}

impl Rules {
    fn of(retention: &Retention, now: Timestamp) -> Self {
        let text = |period| skald_runtime::units::format_nanos(period);
        let named = retention.rules().iter().map(|r| {
            let name = format!("retention_stream {} period {}", r.selector, text(r.period));
            (name, r.selector.clone(), cutoff(now, r.period))
        });
        let others =
            (format!("retention_period {}", text(retention.period())), cutoff(now, retention.period()));
        Self { named: named.collect(), others }
    }

    /// The number of the rule for a stream; that for all others comes last.
    fn number(&self, labels: skald_model::LabelsRef<'_>) -> usize {
        let found = self.named.iter().position(|(_, selector, _)| selector.matches(labels));
        found.unwrap_or(self.named.len())
    }

    fn cutoff(&self, number: usize) -> Timestamp {
        self.named.get(number).map_or(self.others.1, |(_, _, cutoff)| *cutoff)
    }

    fn name(&self, number: usize) -> &str {
        self.named.get(number).map_or(&self.others.0, |(name, ..)| name)
    }
}

/// Plans what retention by the tenant's `limits` would remove at `now`. Opens the ends of the blocks that are concerned,
/// one after the other.
pub async fn plan(catalog: &Catalog, tenant: &TenantId, limits: &Limits, now: Timestamp) -> Result<Plan> {
    let snapshot: std::sync::Arc<Snapshot> = catalog.snapshot(tenant).await?;
    let retention = Retention::of(limits).map_err(Error::invalid)?;
    let rules = Rules::of(&retention, now);
    let removals = Removals::new(0, Vec::new(), &retention, now);
    let sized = Removals::default().with_size(snapshot.blocks.iter().map(|b| &**b), limits.retention_bytes);
    let mut shares: BTreeMap<usize, Share> = BTreeMap::new();
    let by_size = rules.named.len() + 1;
    let mut plan = Plan::default();
    for entry in snapshot.blocks.iter() {
        if sized.block(entry) == Concern::Whole {
            let share = shares.entry(by_size).or_default();
            share.streams += u64::from(entry.summary.streams);
            share.entries += entry.summary.rows;
            share.bytes += entry.summary.raw_bytes;
            plan.whole_blocks += 1;
            plan.whole_bytes += entry.size();
            continue;
        }
        let concern = removals.block(entry);
        let (blocks, bytes) = match concern {
            Concern::Nothing => (&mut plan.kept_blocks, &mut plan.kept_bytes),
            Concern::Some => (&mut plan.partial_blocks, &mut plan.partial_bytes),
            Concern::Whole => (&mut plan.whole_blocks, &mut plan.whole_bytes),
        };
        *blocks += 1;
        *bytes += entry.size();
        if concern == Concern::Nothing {
            continue;
        }
        let went = add_streams(catalog, tenant, entry, &rules, &mut shares).await?;
        match (concern, went) {
            (Concern::Some, Went::Nothing) => {
                plan.partial_blocks -= 1;
                plan.partial_bytes -= entry.size();
                plan.kept_blocks += 1;
                plan.kept_bytes += entry.size();
            }
            (Concern::Some, Went::All) => {
                plan.partial_blocks -= 1;
                plan.partial_bytes -= entry.size();
                plan.whole_blocks += 1;
                plan.whole_bytes += entry.size();
            }
            _ => {}
        }
    }
    let size_name = format!("retention_bytes {}", skald_runtime::units::format_bytes(limits.retention_bytes));
    plan.shares = shares
        .into_iter()
        .map(|(number, share)| {
            let rule = if number == by_size { size_name.clone() } else { rules.name(number).to_owned() };
            Share { rule, ..share }
        })
        .collect();
    Ok(plan)
}

/// Whether everything of some stream in a block has expired. Reads the end of the block.
pub async fn has_expired(
    catalog: &Catalog,
    tenant: &TenantId,
    entry: &BlockEntry,
    removals: &Removals,
) -> Result<bool> {
    let meta = open(catalog, tenant, entry).await?;
    let damaged =
        |e: &dyn std::fmt::Display| Error::internal(format!("failed to read block {}: {e}", entry.path));
    for ordinal in meta.streams().select(&Selector::default(), TimeRange::ALL).map_err(|e| damaged(&e))? {
        let stream = meta.streams().get(ordinal).map_err(|e| damaged(&e))?;
        if stream.max_ts < removals.cutoff_of(stream.labels.as_ref()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What goes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    Nothing,
    Some,
    All,
}

/// Adds what goes of the streams of one block.
async fn add_streams(
    catalog: &Catalog,
    tenant: &TenantId,
    entry: &BlockEntry,
    rules: &Rules,
    shares: &mut BTreeMap<usize, Share>,
) -> Result<Went> {
    let meta = open(catalog, tenant, entry).await?;
    let damaged =
        |e: &dyn std::fmt::Display| Error::internal(format!("failed to read block {}: {e}", entry.path));
    let (mut some, mut all) = (false, true);
    for ordinal in meta.streams().select(&Selector::default(), TimeRange::ALL).map_err(|e| damaged(&e))? {
        let stream = meta.streams().get(ordinal).map_err(|e| damaged(&e))?;
        let number = rules.number(stream.labels.as_ref());
        let cutoff = rules.cutoff(number);
        if cutoff == NEVER || stream.min_ts >= cutoff {
            all = false;
            continue;
        }
        some = true;
        all &= stream.max_ts < cutoff;
        let rows = u64::from(stream.rows.end - stream.rows.start);
        let share = shares.entry(number).or_default();
        share.streams += 1;
        share.entries += before(rows, &stream, cutoff);
        share.bytes += before(stream.bytes, &stream, cutoff);
    }
    Ok(match (some, all) {
        (false, _) => Went::Nothing,
        (true, true) => Went::All,
        (true, false) => Went::Some,
    })
}

/// The part of `whole` that lies before `cutoff`, if it is spread evenly over the stream's time.
fn before(whole: u64, stream: &block::StreamInfo, cutoff: Timestamp) -> u64 {
    if stream.max_ts < cutoff {
        return whole;
    }
    let (min, max) = (i128::from(stream.min_ts), i128::from(stream.max_ts));
    let share = i128::from(whole) * (i128::from(cutoff) - min) / (max - min + 1);
    u64::try_from(share).unwrap_or(0)
}

async fn open(catalog: &Catalog, tenant: &TenantId, entry: &BlockEntry) -> Result<BlockMeta> {
    let meta = catalog.open_block(tenant, entry).await?;
    meta.map_err(|e| Error::internal(format!("failed to read block {}: {e}", entry.path)))
}
