//! Patterns: each stream's from the replica that has counted most of its lines.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use skald_logql::ast::Expr;
use skald_model::{Error, Result, StreamId, TimeRange};
use skald_rpc::patterns::{PatternSeries, PatternsQuery, PatternsRequest};

use crate::Frontend;

pub(crate) async fn run(frontend: &Frontend, query: PatternsQuery) -> Result<Vec<PatternSeries>> {
    let limits = frontend.limits.of(&query.tenant);
    let Expr::Log(log) = Frontend::parse(&query.query, &limits)? else { return Ok(Vec::new()) };
    if query.end < query.start {
        return Err(Error::invalid("end timestamp must not be before or equal to start time"));
    }
    let request = PatternsRequest {
        tenant: query.tenant,
        selector: log.selector.to_string(),
        range: TimeRange::new(query.start, query.end),
        step: query.step,
        exclude: Vec::new(),
    };
    frontend.timed(&limits, collect(frontend, request)).await
}

async fn collect(frontend: &Frontend, request: PatternsRequest) -> Result<Vec<PatternSeries>> {
    let view = frontend.topology.view();
    let ingesters: Vec<_> = view.ingesters().iter().map(|m| m.service.clone()).collect();
    if let [one] = &ingesters[..] {
        return one.patterns(request).await;
    }
    let counts = try_join_all(ingesters.iter().map(|i| i.pattern_streams(request.clone()))).await?;
    let exclude = excluded(&counts);
    let asked = ingesters.iter().zip(exclude).map(|(ingester, exclude)| {
        let request = PatternsRequest { exclude, ..request.clone() };
        async move { ingester.patterns(request).await }
    });
    Ok(PatternSeries::join(try_join_all(asked).await?.into_iter().flatten()))
}

/// For each ingester the streams that another one has counted better, or as well and comes first.
fn excluded(counts: &[Vec<(StreamId, u64)>]) -> Vec<Vec<StreamId>> {
    let mut best: BTreeMap<StreamId, (u64, usize)> = BTreeMap::new();
    for (ingester, counts) in counts.iter().enumerate() {
        for (stream, count) in counts {
            let entry = best.entry(*stream).or_insert((*count, ingester));
            if *count > entry.0 {
                *entry = (*count, ingester);
            }
        }
    }
    let others = |(ingester, counts): (usize, &Vec<(StreamId, u64)>)| {
        counts.iter().map(|c| c.0).filter(|s| best.get(s).is_some_and(|b| b.1 != ingester)).collect()
    };
    counts.iter().enumerate().map(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streams_counts_come_from_the_replica_that_has_most() {
        let s = StreamId;
        let counts = [vec![(s(1), 5), (s(2), 7)], vec![(s(1), 6), (s(2), 7), (s(3), 1)], vec![(s(3), 1)]];
        assert_eq!(excluded(&counts), [vec![s(1)], vec![s(2)], vec![s(3)]]);
    }
}
