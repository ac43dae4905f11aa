//! Sends each ingester its part of a batch and waits until every stream has its quorum.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use skald_cluster::View;
use skald_model::{Batch, Error, Kind, PushStamp, Result, TenantId};
use skald_rpc::ingester::IngesterPush;

/// Stores `batch` on the replicas of its streams. `Ok` when each stream is on a quorum of them.
///
/// A refusal that sending again will not change (400) is returned as such once the rest is stored; a quorum that
/// cannot be had is an error that may be retried.
pub(crate) async fn replicate(
    view: &Arc<View>,
    tenant: &TenantId,
    stamp: PushStamp,
    batch: Batch,
) -> Result<()> {
    let ingesters = view.ingesters();
    if ingesters.is_empty() {
        return Err(Error::unavailable("no ingester is known yet; the push can be repeated"));
    }
    if ingesters.len() == 1 {
        let push = IngesterPush { tenant: tenant.clone(), stamp, batch: Arc::new(batch) };
        return ingesters[0].service.push(push).await;
    }
    let replicas: Vec<Vec<usize>> = batch.streams.iter().map(|s| view.replicas(s.id)).collect();
    let mut sends: FuturesUnordered<_> = (0..ingesters.len())
        .filter_map(|i| part_for(i, &batch, &replicas).map(|part| (i, Arc::new(part))))
        .map(|(i, part)| {
            let push = IngesterPush { tenant: tenant.clone(), stamp, batch: part };
            async move { (i, ingesters[i].service.push(push).await) }
        })
        .collect();
    let mut stored = vec![0usize; replicas.len()];
    let (mut refusal, mut failure) = (None, None);
    // All of them are waited for: a send that is dropped half-way would leave a replica without its part.
    while let Some((i, outcome)) = sends.next().await {
        match outcome {
            Ok(()) => {}
            // The ingester has stored the rest of its part and named what is wrong with the entries.
            Err(e) if e.kind == Kind::InvalidArgument => refusal = Some(e),
            Err(e) => {
                failure = Some(e.context(&ingesters[i].name));
                continue;
            }
        }
        for (n, r) in stored.iter_mut().zip(&replicas) {
            *n += usize::from(r.contains(&i));
        }
    }
    let sure = stored.iter().all(|n| *n >= view.write_quorum());
    match (sure, failure, refusal) {
        (true, _, None) => Ok(()),
        (true, _, Some(refusal)) => Err(refusal),
        (false, Some(failure), _) => Err(failure),
        (false, None, _) => {
            Err(Error::unavailable("fewer ingesters than a write quorum; the push can be repeated"))
        }
    }
}

/// The streams of `batch` that ingester `i` is a replica of.
fn part_for(i: usize, batch: &Batch, replicas: &[Vec<usize>]) -> Option<Batch> {
    let mine: Vec<bool> = replicas.iter().map(|r| r.contains(&i)).collect();
    if !mine.contains(&true) {
        return None;
    }
    if !mine.contains(&false) {
        return Some(batch.clone());
    }
    let mut next = mine.iter();
    Some(batch.select(|_| next.next() == Some(&true)))
}

#[cfg(test)]
mod tests;
