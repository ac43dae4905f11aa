//! Answers as streams of chunks, and back.

use futures::Stream;
use skald_model::{EntryHash, Error, GroupVolume, Result, StreamId};
use tonic::{Response, Status, Streaming};

use super::convert;
use super::entries::{CHUNK_BYTES, EntryReader, EntryWriter};
use super::volumes;
use super::{error::to_status, proto};
use crate::frontend::{DetectedField, DetectedLabel, QueryData, QueryResponse, Series};
use crate::ingester::{HeldStreams, StreamInfo};
use crate::querier::{LogResult, MetricResult};

/// A stream of chunks that are cut when they are asked for.
pub(super) type Chunks<T> = tokio_stream::Iter<Box<dyn Iterator<Item = Answer<T>> + Send>>;
type Answer<T> = std::result::Result<T, Status>;

/// Sends what `cut` gives; an error instead of a value is sent as such.
pub(super) fn send<V, T, I>(value: Result<V>, cut: impl FnOnce(V) -> I) -> Answer<Response<Chunks<T>>>
where
    I: Iterator<Item = T> + Send + 'static,
    T: 'static,
{
    let chunks = cut(value.map_err(to_status)?);
    let boxed: Box<dyn Iterator<Item = Answer<T>> + Send> = Box::new(chunks.map(Ok));
    Ok(Response::new(tokio_stream::iter(boxed)))
}

/// Feeds all chunks of a call to `add`.
pub(super) async fn receive<T>(mut stream: Streaming<T>, mut add: impl FnMut(T) -> Result<()>) -> Answer<()> {
    while let Some(chunk) = stream.message().await? {
        add(chunk).map_err(to_status)?;
    }
    Ok(())
}

/// Yields until `next` says that it gave the last.
fn until_last<T>(mut next: impl FnMut() -> (T, bool)) -> impl Iterator<Item = T> {
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let (item, last) = next();
        done = last;
        Some(item)
    })
}

/// Cuts a list so that each piece weighs about [`CHUNK_BYTES`]; an empty list is no piece.
pub(super) fn pieces<T: Send + 'static>(
    items: Vec<T>,
    weight: impl Fn(&T) -> usize + Send + 'static,
) -> impl Iterator<Item = Vec<T>> + Send {
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let (mut piece, mut size) = (Vec::new(), 0);
        while size < CHUNK_BYTES {
            let Some(item) = items.next() else { break };
            size += weight(&item);
            piece.push(item);
        }
        (!piece.is_empty()).then_some(piece)
    })
}

pub(super) fn cut_logs(result: LogResult) -> impl Iterator<Item = proto::LogChunk> + Send {
    let LogResult { entries, stats } = result;
    let mut writer = EntryWriter::new(entries);
    until_last(move || {
        let (entries, last) = writer.next_chunk();
        let stats = last.then(|| convert::stats_to(&stats));
        (proto::LogChunk { entries: Some(entries), stats }, last)
    })
}

pub(super) async fn receive_logs(stream: Streaming<proto::LogChunk>) -> Answer<LogResult> {
    let (mut reader, mut stats) = (EntryReader::default(), None);
    receive(stream, |chunk| {
        stats = chunk.stats;
        chunk.entries.map_or(Ok(()), |entries| reader.add(entries))
    })
    .await?;
    Ok(LogResult { entries: reader.finish(), stats: complete(stats)? })
}

pub(super) fn cut_metric(result: MetricResult) -> impl Iterator<Item = proto::MetricChunk> + Send {
    let MetricResult { mut partials, stats } = result;
    until_last(move || {
        let piece = partials.split_to(partials.len().min(CHUNK_BYTES));
        let last = partials.is_empty();
        (proto::MetricChunk { partials: piece, stats: last.then(|| convert::stats_to(&stats)) }, last)
    })
}

pub(super) async fn receive_metric(stream: Streaming<proto::MetricChunk>) -> Answer<MetricResult> {
    let (mut pieces, mut stats) = (Vec::new(), None);
    receive(stream, |chunk| {
        stats = chunk.stats;
        pieces.push(chunk.partials);
        Ok(())
    })
    .await?;
    // Most answers are one piece, which is then not copied.
    let partials = if pieces.len() == 1 { pieces.swap_remove(0) } else { pieces.concat().into() };
    Ok(MetricResult { partials, stats: complete(stats)? })
}

pub(super) fn cut_streams(streams: Vec<StreamInfo>) -> impl Iterator<Item = proto::StreamChunk> + Send {
    pieces(streams, |s| s.labels.packed().len() + 48)
        .map(|piece| proto::StreamChunk { streams: piece.iter().map(convert::stream_to).collect() })
}

/// At least one chunk, as each tells the cut.
pub(super) fn cut_held(held: HeldStreams) -> impl Iterator<Item = proto::HeldStreamChunk> + Send {
    let HeldStreams { cut, streams } = held;
    let chunk = move |streams| proto::HeldStreamChunk { streams, cut };
    std::iter::once(chunk(Vec::new())).chain(cut_streams(streams).map(move |c| chunk(c.streams)))
}

pub(super) async fn receive_held(stream: Streaming<proto::HeldStreamChunk>) -> Answer<HeldStreams> {
    let mut held = HeldStreams::default();
    receive(stream, |chunk| {
        held.cut = chunk.cut;
        held.streams.reserve(chunk.streams.len());
        chunk.streams.iter().try_for_each(|s| {
            held.streams.push(convert::stream_from(s)?);
            Ok(())
        })
    })
    .await?;
    Ok(held)
}

pub(super) fn cut_identities(
    identities: Vec<(StreamId, EntryHash)>,
) -> impl Iterator<Item = proto::IdentityChunk> + Send {
    pieces(identities, |_| convert::IDENTITY_LEN)
        .map(|piece| proto::IdentityChunk { identities: convert::identities_to(piece.iter()) })
}

pub(super) async fn receive_identities(
    stream: Streaming<proto::IdentityChunk>,
) -> Answer<Vec<(StreamId, EntryHash)>> {
    let mut identities = Vec::new();
    receive(stream, |chunk| {
        identities.append(&mut convert::identities_from(&chunk.identities)?);
        Ok(())
    })
    .await?;
    Ok(identities)
}

pub(super) async fn receive_streams(stream: Streaming<proto::StreamChunk>) -> Answer<Vec<StreamInfo>> {
    let mut streams = Vec::new();
    receive(stream, |chunk| {
        streams.reserve(chunk.streams.len());
        chunk.streams.iter().try_for_each(|s| {
            streams.push(convert::stream_from(s)?);
            Ok(())
        })
    })
    .await?;
    Ok(streams)
}

pub(super) fn cut_volumes(groups: Vec<GroupVolume>) -> impl Iterator<Item = proto::VolumeChunk> + Send {
    pieces(groups, |g| g.labels.packed().len() + 16 * g.steps.len())
        .map(|piece| proto::VolumeChunk { groups: piece.iter().map(volumes::group_to).collect() })
}

pub(super) async fn receive_volumes(stream: Streaming<proto::VolumeChunk>) -> Answer<Vec<GroupVolume>> {
    let mut groups = Vec::new();
    receive(stream, |chunk| {
        chunk.groups.iter().try_for_each(|g| {
            groups.push(volumes::group_from(g)?);
            Ok(())
        })
    })
    .await?;
    Ok(groups)
}

pub(super) fn cut_labels(
    labels: Vec<DetectedLabel>,
) -> impl Iterator<Item = proto::DetectedLabelChunk> + Send {
    pieces(labels, |l| l.name.len() + 8)
        .map(|piece| proto::DetectedLabelChunk { labels: piece.into_iter().map(volumes::label_to).collect() })
}

pub(super) async fn receive_labels(
    stream: Streaming<proto::DetectedLabelChunk>,
) -> Answer<Vec<DetectedLabel>> {
    let mut labels = Vec::new();
    receive(stream, |chunk| {
        labels.extend(chunk.labels.into_iter().map(volumes::label_from));
        Ok(())
    })
    .await?;
    Ok(labels)
}

pub(super) fn cut_fields(
    fields: Vec<DetectedField>,
) -> impl Iterator<Item = proto::DetectedFieldChunk> + Send {
    pieces(fields, |f| f.name.len() + 32)
        .map(|piece| proto::DetectedFieldChunk { fields: piece.into_iter().map(volumes::field_to).collect() })
}

pub(super) async fn receive_fields(
    stream: Streaming<proto::DetectedFieldChunk>,
) -> Answer<Vec<DetectedField>> {
    let mut fields = Vec::new();
    receive(stream, |chunk| {
        fields.extend(chunk.fields.into_iter().map(volumes::field_from));
        Ok(())
    })
    .await?;
    Ok(fields)
}

pub(super) fn cut_texts(texts: Vec<String>) -> impl Iterator<Item = proto::TextChunk> + Send {
    pieces(texts, |t| t.len() + 4).map(|texts| proto::TextChunk { texts })
}

pub(super) async fn receive_texts(stream: Streaming<proto::TextChunk>) -> Answer<Vec<String>> {
    let mut texts = Vec::new();
    receive(stream, |mut chunk| {
        texts.append(&mut chunk.texts);
        Ok(())
    })
    .await?;
    Ok(texts)
}

pub(super) fn cut_answer(response: QueryResponse) -> Box<dyn Iterator<Item = proto::QueryChunk> + Send> {
    let QueryResponse { data, stats, warnings, memory } = response;
    let last = proto::QueryChunk { stats: Some(convert::stats_to(&stats)), warnings, ..Default::default() };
    match data {
        QueryData::Streams(entries) => {
            let mut writer = EntryWriter::new(entries);
            let mut last = Some(last);
            Box::new(until_last(move || {
                let _held_until_sent = &memory;
                let (entries, is_last) = writer.next_chunk();
                let rest = if is_last { last.take().unwrap_or_default() } else { Default::default() };
                let kind = proto::ResultKind::Streams.into();
                (proto::QueryChunk { kind, entries: Some(entries), ..rest }, is_last)
            }))
        }
        QueryData::Matrix(series) => cut_series(proto::ResultKind::Matrix, series, last),
        QueryData::Vector(series) => cut_series(proto::ResultKind::Vector, series, last),
        QueryData::Scalar(time, value) => {
            let labels = skald_model::Labels::empty();
            cut_series(proto::ResultKind::Scalar, vec![Series { labels, samples: vec![(time, value)] }], last)
        }
    }
}

/// A series is not cut: an answer has at most some ten thousand steps.
fn cut_series(
    kind: proto::ResultKind,
    series: Vec<Series>,
    last: proto::QueryChunk,
) -> Box<dyn Iterator<Item = proto::QueryChunk> + Send> {
    let kind = kind.into();
    let chunks = pieces(series, |s| s.labels.packed().len() + s.samples.len() * 14).map(move |piece| {
        let series = piece.iter().map(convert::series_to).collect();
        proto::QueryChunk { kind, series, ..Default::default() }
    });
    Box::new(chunks.chain(std::iter::once(proto::QueryChunk { kind, ..last })))
}

pub(super) async fn receive_answer(stream: Streaming<proto::QueryChunk>) -> Answer<QueryResponse> {
    let (mut reader, mut series) = (EntryReader::default(), Vec::new());
    let (mut kind, mut stats, mut warnings) = (proto::ResultKind::Streams, None, Vec::new());
    receive(stream, |chunk| {
        kind = chunk.kind();
        stats = chunk.stats;
        warnings.extend(chunk.warnings);
        for s in &chunk.series {
            series.push(convert::series_from(s)?);
        }
        chunk.entries.map_or(Ok(()), |entries| reader.add(entries))
    })
    .await?;
    let data = match kind {
        proto::ResultKind::Streams => QueryData::Streams(reader.finish()),
        proto::ResultKind::Matrix => QueryData::Matrix(series),
        proto::ResultKind::Vector => QueryData::Vector(series),
        proto::ResultKind::Scalar => {
            let sample = series.first().and_then(|s| s.samples.first());
            let (time, value) =
                sample.ok_or_else(|| to_status(Error::internal("a peer sent a scalar without a value")))?;
            QueryData::Scalar(*time, *value)
        }
    };
    Ok(QueryResponse { warnings, ..QueryResponse::new(data, complete(stats)?) })
}

/// The last chunk has the stats; an answer without it is a part of one.
fn complete(stats: Option<proto::QueryStats>) -> Answer<skald_model::QueryStats> {
    match stats {
        Some(stats) => Ok(convert::stats_from(&stats)),
        None => Err(to_status(Error::unavailable("a peer's answer broke off before its end"))),
    }
}

/// Keeps the bound on [`Chunks`] in one place: it is what tonic sends.
const _: fn() = || {
    fn is_stream<T: Stream + Send>() {}
    is_stream::<Chunks<proto::LogChunk>>();
};
