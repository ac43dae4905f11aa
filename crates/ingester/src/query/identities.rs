//! The identities of entries in memory.

use std::collections::HashSet;
use std::sync::Arc;

use skald_model::{EntryHash, Result, StreamId};
use skald_rpc::ingester::{IDENTITIES_MAX, IdentitiesRequest, check_identities};

use super::Cancelled;
use super::removals::{self, Removing};
use crate::segment::Segment;

/// The identities of the entries that are asked for, each once, in no order.
pub(crate) fn identities(
    segments: &[Arc<Segment>],
    request: &IdentitiesRequest,
    cancelled: &Cancelled,
) -> Result<Vec<(StreamId, EntryHash)>> {
    let wanted: HashSet<StreamId> = request.streams.iter().copied().collect();
    let mut removing = Removing::of(request.removals.as_ref())?;
    let mut found = HashSet::new();
    for segment in segments {
        let batches = segment.batches();
        for stream in segment.streams().iter().filter(|s| wanted.contains(&s.id)) {
            cancelled.check()?;
            let rows = removals::rows(removing.as_mut(), segment, stream, &request.range);
            for row in rows.iter().filter(|r| batches.get(r.batch).lsn <= request.cut) {
                found.insert((stream.id, batches.identity(row)));
            }
            check_identities(found.len(), IDENTITIES_MAX)?;
        }
    }
    Ok(found.into_iter().collect())
}
