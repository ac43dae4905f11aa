//! Volumes and detected labels and fields, to and from their messages.

use std::sync::Arc;

use skald_model::{Error, GroupVolume, Result, StepVolume, VolumeGroups, VolumeSpec};

use super::convert::{self, labels_from, tenant};
use super::proto;
use crate::frontend::{DetectedField, DetectedFieldsQuery, DetectedLabel, IndexStats, VolumeQuery};
use crate::ingester::VolumesRequest;
use crate::querier::BlockVolumesRequest;

pub(super) fn ingester_volumes_to(request: VolumesRequest) -> proto::IngesterVolumesRequest {
    let VolumesRequest { streams, spec, skip } = request;
    let streams = Some(convert::ingester_streams_to(streams));
    proto::IngesterVolumesRequest { streams, spec: Some(spec_to(spec)), skip: convert::ids_to(skip.iter()) }
}

pub(super) fn ingester_volumes_from(request: proto::IngesterVolumesRequest) -> Result<VolumesRequest> {
    let proto::IngesterVolumesRequest { streams, spec, skip } = request;
    let streams = convert::ingester_streams_from(streams.ok_or_else(incomplete)?)?;
    let skip = Arc::new(convert::ids_from(skip));
    Ok(VolumesRequest { streams, spec: spec_from(spec.ok_or_else(incomplete)?), skip })
}

pub(super) fn block_volumes_to(request: BlockVolumesRequest) -> proto::BlockVolumesRequest {
    let BlockVolumesRequest { streams, spec } = request;
    let streams = Some(convert::block_streams_to(streams));
    proto::BlockVolumesRequest { streams, spec: Some(spec_to(spec)) }
}

pub(super) fn block_volumes_from(request: proto::BlockVolumesRequest) -> Result<BlockVolumesRequest> {
    let proto::BlockVolumesRequest { streams, spec } = request;
    let streams = convert::block_streams_from(streams.ok_or_else(incomplete)?)?;
    Ok(BlockVolumesRequest { streams, spec: spec_from(spec.ok_or_else(incomplete)?) })
}

fn incomplete() -> Error {
    Error::invalid("the request for volumes does not say of what")
}

fn spec_to(spec: VolumeSpec) -> proto::VolumeSpec {
    let VolumeSpec { step, groups, whole_kib } = spec;
    let (grouping, names) = match groups {
        VolumeGroups::Streams => (proto::VolumeGrouping::Streams, Vec::new()),
        VolumeGroups::Labels(names) => (proto::VolumeGrouping::Labels, names),
        VolumeGroups::Names(names) => (proto::VolumeGrouping::Names, names),
    };
    proto::VolumeSpec { step, grouping: grouping.into(), names, whole_kib }
}

fn spec_from(spec: proto::VolumeSpec) -> VolumeSpec {
    let groups = match spec.grouping() {
        proto::VolumeGrouping::Streams => VolumeGroups::Streams,
        proto::VolumeGrouping::Labels => VolumeGroups::Labels(spec.names),
        proto::VolumeGrouping::Names => VolumeGroups::Names(spec.names),
    };
    VolumeSpec { step: spec.step, groups, whole_kib: spec.whole_kib }
}

pub(super) fn group_to(group: &GroupVolume) -> proto::GroupVolume {
    let GroupVolume { labels, steps } = group;
    let mut previous = 0;
    let delta = |s: &StepVolume| {
        let delta = s.step.wrapping_sub(previous);
        previous = s.step;
        delta
    };
    proto::GroupVolume {
        labels: bytes::Bytes::copy_from_slice(labels.packed()),
        step_deltas: steps.iter().map(delta).collect(),
        chunks: steps.iter().map(|s| s.chunks).collect(),
        entries: steps.iter().map(|s| s.entries).collect(),
        bytes: steps.iter().map(|s| s.bytes).collect(),
    }
}

pub(super) fn group_from(group: &proto::GroupVolume) -> Result<GroupVolume> {
    let proto::GroupVolume { labels, step_deltas, chunks, entries, bytes } = group;
    let n = step_deltas.len();
    if [chunks.len(), entries.len(), bytes.len()] != [n; 3] {
        return Err(Error::internal("a peer sent a volume whose columns differ in length"));
    }
    let mut step = 0i64;
    let steps = (0..n).map(|i| {
        step = step.wrapping_add(step_deltas[i]);
        StepVolume { step, chunks: chunks[i], entries: entries[i], bytes: bytes[i] }
    });
    Ok(GroupVolume { steps: steps.collect(), labels: labels_from(labels)? })
}

pub(super) fn stats_to(stats: IndexStats) -> proto::IndexStatsResponse {
    let IndexStats { streams, chunks, bytes, entries } = stats;
    proto::IndexStatsResponse { streams, chunks, bytes, entries }
}

pub(super) fn stats_from(stats: &proto::IndexStatsResponse) -> IndexStats {
    let proto::IndexStatsResponse { streams, chunks, bytes, entries } = *stats;
    IndexStats { streams, chunks, bytes, entries }
}

pub(super) fn volume_to(query: VolumeQuery) -> proto::VolumeRequest {
    let VolumeQuery { tenant, query, start, end, step, limit, target_labels, by_name } = query;
    let (tenant, limit) = (tenant.as_str().to_owned(), limit as u64);
    proto::VolumeRequest { tenant, query, start, end, step, limit, target_labels, by_name }
}

pub(super) fn volume_from(query: proto::VolumeRequest) -> Result<VolumeQuery> {
    let proto::VolumeRequest { tenant: id, query, start, end, step, limit, target_labels, by_name } = query;
    let (tenant, limit) = (tenant(&id)?, limit as usize);
    Ok(VolumeQuery { tenant, query, start, end, step, limit, target_labels, by_name })
}

pub(super) fn label_to(label: DetectedLabel) -> proto::DetectedLabel {
    proto::DetectedLabel { name: label.name, cardinality: label.cardinality }
}

pub(super) fn label_from(label: proto::DetectedLabel) -> DetectedLabel {
    DetectedLabel { name: label.name, cardinality: label.cardinality }
}

pub(super) fn fields_query_to(query: DetectedFieldsQuery, name: &str) -> proto::DetectedFieldsRequest {
    let DetectedFieldsQuery { tenant, query, start, end, line_limit, limit } = query;
    proto::DetectedFieldsRequest {
        tenant: tenant.as_str().to_owned(),
        query,
        start,
        end,
        line_limit: line_limit as u64,
        limit: limit as u64,
        name: name.to_owned(),
    }
}

pub(super) fn fields_query_from(
    query: proto::DetectedFieldsRequest,
) -> Result<(DetectedFieldsQuery, String)> {
    let proto::DetectedFieldsRequest { tenant: id, query, start, end, line_limit, limit, name } = query;
    let (tenant, line_limit, limit) = (tenant(&id)?, line_limit as usize, limit as usize);
    Ok((DetectedFieldsQuery { tenant, query, start, end, line_limit, limit }, name))
}

pub(super) fn field_to(field: DetectedField) -> proto::DetectedField {
    let DetectedField { name, kind, cardinality, parsers, json_path } = field;
    proto::DetectedField { name, kind, cardinality, parsers, json_path }
}

pub(super) fn field_from(field: proto::DetectedField) -> DetectedField {
    let proto::DetectedField { name, kind, cardinality, parsers, json_path } = field;
    DetectedField { name, kind, cardinality, parsers, json_path }
}
