//! What retention would remove: a look at summaries and stream indexes, which changes nothing.

use std::collections::{BTreeMap, HashSet};

use skald_model::removal::NEVER;
use skald_model::retention::{Retention, cutoff};
use skald_model::{Error, Limits, Result, Selector, StreamId, TenantId, Timestamp};
use skald_storage::block::{self, StreamInfo};
use skald_storage::table::{BlockEntry, Catalog, Snapshot};

use crate::blocks::Concern;
use crate::removals::Removals;

/// What a rule would remove of a tenant's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The rule as it stands in the limits.
    pub rule: String,
    /// Streams of which something goes.
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
    let mut shares: BTreeMap<usize, Counted> = BTreeMap::new();
    let by_size = rules.named.len() + 1;
    let mut plan = Plan::default();
    for entry in snapshot.blocks.iter() {
        if sized.block(entry) == Concern::Whole {
            let counted = shares.entry(by_size).or_default();
            for_streams(catalog, tenant, entry, |stream| counted.add_all(&stream)).await?;
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
        .map(|(number, Counted { streams, entries, bytes })| {
            let rule = if number == by_size { size_name.clone() } else { rules.name(number).to_owned() };
            Share { rule, streams: streams.len() as u64, entries, bytes }
        })
        .collect();
    Ok(plan)
}

/// What was counted of a rule.
#[derive(Default)]
struct Counted {
    streams: HashSet<StreamId>,
    entries: u64,
    bytes: u64,
}

impl Counted {
    fn add_all(&mut self, stream: &StreamInfo) {
        self.add(stream, stream.rows.len() as u64, stream.bytes);
    }

    fn add(&mut self, stream: &StreamInfo, entries: u64, bytes: u64) {
        self.streams.insert(stream.id);
        self.entries += entries;
        self.bytes += bytes;
    }
}

/// Whether everything of some stream in a block has expired. Reads the end of the block.
pub async fn has_expired(
    catalog: &Catalog,
    tenant: &TenantId,
    entry: &BlockEntry,
    removals: &Removals,
) -> Result<bool> {
    let mut expired = false;
    let look = |stream: StreamInfo| expired |= stream.max_ts < removals.cutoff_of(stream.labels.as_ref());
    for_streams(catalog, tenant, entry, look).await?;
    Ok(expired)
}

/// Shows the streams of a block, of which it reads the end.
async fn for_streams(
    catalog: &Catalog,
    tenant: &TenantId,
    entry: &BlockEntry,
    mut visit: impl FnMut(StreamInfo),
) -> Result<()> {
    let damaged = |e: block::Error| Error::internal(format!("failed to read block {}: {e}", entry.path));
    let meta = catalog.open_block(tenant, entry).await?.map_err(damaged)?;
    for ordinal in 0..meta.streams().len() as u32 {
        visit(meta.streams().get(ordinal).map_err(damaged)?);
    }
    Ok(())
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
    shares: &mut BTreeMap<usize, Counted>,
) -> Result<Went> {
    let (mut some, mut all) = (false, true);
    for_streams(catalog, tenant, entry, |stream| {
        let number = rules.number(stream.labels.as_ref());
        let cutoff = rules.cutoff(number);
        if cutoff == NEVER || stream.min_ts >= cutoff {
            all = false;
            return;
        }
        some = true;
        let goes_whole = stream.max_ts < cutoff;
        all &= goes_whole;
        let counted = shares.entry(number).or_default();
        if goes_whole {
            counted.add_all(&stream);
        } else {
            // Its first entry goes, its last one stays.
            let rows = stream.rows.len() as u64;
            let entries = before(rows, &stream, cutoff).clamp(1, (rows - 1).max(1));
            counted.add(&stream, entries, before(stream.bytes, &stream, cutoff));
        }
    })
    .await?;
    Ok(match (some, all) {
        (false, _) => Went::Nothing,
        (true, true) => Went::All,
        (true, false) => Went::Some,
    })
}

/// The part of `whole` that lies before `cutoff`, which lies within the stream's time, if it is spread evenly over that.
fn before(whole: u64, stream: &StreamInfo, cutoff: Timestamp) -> u64 {
    let (min, max) = (i128::from(stream.min_ts), i128::from(stream.max_ts));
    let share = i128::from(whole) * (i128::from(cutoff) - min) / (max - min + 1);
    u64::try_from(share).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use prometheus::Registry;
    use skald_model::limits::StreamRetention;
    use skald_model::time::{DAY, SECOND, day_of};
    use skald_model::{Labels, LabelsRef};
    use skald_storage::block::{BlockOptions, BlockWriter};
    use skald_storage::table::{BlockOrigin, CatalogConfig, FlushCommit, NewBlock, block_path};

    use super::*;

    const HOUR: i64 = 3600 * SECOND;
    /// The begin of a day.
    const BEGIN: Timestamp = 20_000 * DAY;

    /// A table of blocks, each with lines of ten bytes of these streams at these hours.
    async fn table(tenant: &TenantId, blocks: &[&[(&str, &[i64])]]) -> Catalog {
        let store = Arc::new(InMemory::new());
        let catalog = Catalog::new(&CatalogConfig::default(), store, "", &Registry::new()).unwrap();
        for (number, streams) in (1..).zip(blocks) {
            let mut writer = BlockWriter::new(&BlockOptions::default()).unwrap();
            for (app, hours) in *streams {
                let labels = Labels::from_pairs([("app", *app)]);
                writer.begin_stream(&labels, StreamId::of(tenant, labels.as_ref())).unwrap();
                for hour in *hours {
                    writer.row(BEGIN + hour * HOUR, b"ten bytes.", LabelsRef::EMPTY).unwrap();
                }
            }
            let finished = writer.finish().unwrap();
            let date = day_of(BEGIN);
            let path = block_path(date, &number.to_string());
            catalog.put_block(tenant, &path, finished.output.into()).await.unwrap();
            let (summary, origin) = (finished.summary, BlockOrigin::default());
            let block = NewBlock { path, date, summary, origin, stream_ids: None };
            let commit = FlushCommit { blocks: vec![block], app_id: "i".into(), app_version: number };
            catalog.commit_flush(tenant, &commit).await.unwrap();
        }
        catalog
    }

    #[tokio::test]
    async fn tells_by_rule_and_counts_a_stream_once() {
        let tenant = TenantId::new("t").unwrap();
        let blocks: &[&[(&str, &[i64])]] = &[
            &[("gone", &[0, 1])],
            &[("gone", &[2, 3]), ("partly", &[4, 23]), ("stays", &[4])],
            &[("stays", &[1])],
        ];
        let catalog = table(&tenant, blocks).await;
        let selector = r#"{app=~"gone|partly"}"#.to_owned();
        let rule = StreamRetention { selector, priority: 1, period: 24 * HOUR };
        let limits = Limits { retention_stream: vec![rule], ..Limits::default() };
        let found = plan(&catalog, &tenant, &limits, BEGIN + 29 * HOUR).await.unwrap();
        let [share] = &found.shares[..] else { panic!("{found:?}") };
        // One entry of those of `partly`, which are 19 hours apart, and which are 20 bytes.
        assert_eq!((share.streams, share.entries, share.bytes), (2, 5, 41), "{found:?}");
        assert_eq!((found.whole_blocks, found.partial_blocks, found.kept_blocks), (1, 1, 1));

        let limits = Limits { retention_bytes: 1, ..Limits::default() };
        let found = plan(&catalog, &tenant, &limits, BEGIN + 29 * HOUR).await.unwrap();
        let [share] = &found.shares[..] else { panic!("{found:?}") };
        // The block with the newest entries is more than is allowed, so the others go.
        assert_eq!((share.streams, share.entries, share.bytes), (2, 3, 30), "{found:?}");
        assert!(share.rule.starts_with("retention_bytes"), "{found:?}");
        assert_eq!((found.whole_blocks, found.partial_blocks, found.kept_blocks), (2, 0, 1));
    }
}
