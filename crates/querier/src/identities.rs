//! The identities of entries of blocks.

use std::collections::HashSet;
use std::ops::ControlFlow;

use skald_model::{EntryHash, Result, Selector, StreamId};
use skald_rpc::ingester::{IDENTITIES_MAX, check_identities};
use skald_rpc::querier::BlockIdentitiesRequest;
use skald_storage::block::{PreparedPredicate, ScanBuffers, ScanRequest, plan_scan, scan_pages};

use crate::Querier;
use crate::metric::PART_BYTES;
use crate::pool::Cancelled;
use crate::removals::{self, Sift};

/// The identities of the entries that are asked for, each once, in no order.
pub(crate) async fn run(
    querier: &Querier,
    request: BlockIdentitiesRequest,
) -> Result<Vec<(StreamId, EntryHash)>> {
    let BlockIdentitiesRequest { tenant, blocks, range, streams, removals } = request;
    let removals = querier.removals.compile(removals.as_ref())?;
    let wanted: HashSet<StreamId> = streams.into_iter().collect();
    let everything = PreparedPredicate::all();
    let mut found = HashSet::new();
    for block in &blocks {
        let (_open, _) = querier.pool.open().await?;
        let source = removals::source(block);
        let block = querier.blocks.open(&tenant, block).await?;
        let damaged = |e| block.damaged(&e);
        let index = block.meta.streams();
        let mut ordinals = Vec::new();
        for ordinal in index.select(&Selector::default(), range).map_err(damaged)? {
            if wanted.contains(&index.id(ordinal).map_err(damaged)?) {
                ordinals.push(ordinal);
            }
        }
        let kept = removals::keep(removals.as_ref(), &block, &source, ordinals, range)?;
        let mut sift = Sift::new(removals.as_ref(), kept.rows);
        let (streams, range) = (&kept.streams[..], kept.range);
        let scan = ScanRequest { streams, range, predicate: &everything, metadata: true };
        let mut plan = plan_scan(&block.meta, &scan).map_err(damaged)?;
        for part in plan.parts(&block.meta, PART_BYTES) {
            let pages = querier.blocks.fetch(&block, &plan.part_ranges(&block.meta, &part)).await?;
            let block = block.clone();
            let work = move |cancelled: &Cancelled| {
                cancelled.check()?;
                let index = block.meta.streams();
                let mut outcome = Ok(());
                let mut buffers = ScanBuffers::new();
                let scanned = scan_pages(&block.meta, &plan, &part, &pages.fetched, &mut buffers, |row| {
                    let mut look = || {
                        if let Some(sift) = sift.as_mut().filter(|s| s.has(row.stream)) {
                            let labels = index.get(row.stream)?.labels;
                            if !sift.keeps(row.stream, &labels, row.timestamp, row.line, row.metadata) {
                                return Ok(());
                            }
                        }
                        let id = index.id(row.stream)?;
                        found.insert((id, EntryHash::of(row.timestamp, row.line, row.metadata)));
                        Ok(())
                    };
                    match look() {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(e) => {
                            outcome = Err(block.damaged(&e));
                            ControlFlow::Break(())
                        }
                    }
                });
                let _ = scanned.map_err(|e| block.damaged(&e))?;
                outcome.map(|()| (plan, found, sift))
            };
            ((plan, found, sift), _) = querier.pool.run(work).await?;
            check_identities(found.len(), IDENTITIES_MAX)?;
        }
    }
    Ok(found.into_iter().collect())
}
