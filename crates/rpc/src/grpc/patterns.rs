//! Patterns across the wire.

use skald_model::{Error, Result, StreamId, TimeRange};
use tonic::Streaming;

use super::chunks::{pieces, receive};
use super::{convert, proto};
use crate::patterns::{PatternSeries, PatternsQuery, PatternsRequest};

pub(super) fn request_to(request: PatternsRequest) -> proto::PatternsRequest {
    let PatternsRequest { tenant, selector, range, step, exclude } = request;
    let range = proto::TimeRange { start: range.start, end: range.end };
    let exclude = exclude.into_iter().map(|s| s.0).collect();
    proto::PatternsRequest { tenant: tenant.as_str().to_owned(), selector, range: Some(range), step, exclude }
}

pub(super) fn request_from(request: proto::PatternsRequest) -> Result<PatternsRequest> {
    let proto::PatternsRequest { tenant, selector, range, step, exclude } = request;
    let range = range.ok_or_else(|| Error::invalid("the request has no time range"))?;
    Ok(PatternsRequest {
        tenant: convert::tenant(&tenant)?,
        selector,
        range: TimeRange::new(range.start, range.end),
        step,
        exclude: exclude.into_iter().map(StreamId).collect(),
    })
}

pub(super) fn query_to(query: PatternsQuery) -> proto::PatternsQuery {
    let PatternsQuery { tenant, query, start, end, step } = query;
    proto::PatternsQuery { tenant: tenant.as_str().to_owned(), query, start, end, step }
}

pub(super) fn query_from(query: proto::PatternsQuery) -> Result<PatternsQuery> {
    let proto::PatternsQuery { tenant, query, start, end, step } = query;
    Ok(PatternsQuery { tenant: convert::tenant(&tenant)?, query, start, end, step })
}

pub(super) fn cut(series: Vec<PatternSeries>) -> impl Iterator<Item = proto::PatternChunk> + Send {
    let series_to = |s: PatternSeries| {
        let (seconds, counts) = s.samples.into_iter().unzip();
        proto::PatternSeries { pattern: s.pattern, level: s.level, seconds, counts }
    };
    pieces(series, |s: &PatternSeries| s.pattern.len() + s.samples.len() * 12 + 16)
        .map(move |piece| proto::PatternChunk { series: piece.into_iter().map(series_to).collect() })
}

pub(super) async fn receive_patterns(
    stream: Streaming<proto::PatternChunk>,
) -> std::result::Result<Vec<PatternSeries>, tonic::Status> {
    let mut all = Vec::new();
    receive(stream, |chunk| {
        all.extend(chunk.series.into_iter().map(|s| PatternSeries {
            pattern: s.pattern,
            level: s.level,
            samples: s.seconds.into_iter().zip(s.counts).collect(),
        }));
        Ok(())
    })
    .await?;
    Ok(all)
}

pub(super) fn cut_streams(
    counts: Vec<(StreamId, u64)>,
) -> impl Iterator<Item = proto::PatternStreams> + Send {
    pieces(counts, |_| 12).map(|piece| {
        let (streams, counts) = piece.into_iter().map(|(stream, count)| (stream.0, count)).unzip();
        proto::PatternStreams { streams, counts }
    })
}

pub(super) async fn receive_streams(
    stream: Streaming<proto::PatternStreams>,
) -> std::result::Result<Vec<(StreamId, u64)>, tonic::Status> {
    let mut all = Vec::new();
    receive(stream, |chunk| {
        all.extend(chunk.streams.into_iter().map(StreamId).zip(chunk.counts));
        Ok(())
    })
    .await?;
    Ok(all)
}
