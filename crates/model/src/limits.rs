//! Per-tenant limits with Loki's names and defaults.

mod otlp;
mod policy;
mod removal;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::otlp::{AttributeRule, OtlpAction, OtlpConfig, ResourceAttributes};
pub use self::policy::{BlockedQuery, PolicySelector, RateStrategy, ShardStreams};
pub use self::removal::{DeletionMode, StreamRetention};

use crate::time::SECOND;

/// The limits of one tenant. Field names, meanings and defaults are those of Loki's `limits_config`; durations are in
/// nanoseconds and sizes in bytes once the configuration has been read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Sustained ingestion rate in MB (2^20 bytes) per second; 0 refuses everything, as in Loki.
    pub ingestion_rate_mb: f64,
    /// Burst above it, in MB (2^20 bytes).
    pub ingestion_burst_size_mb: f64,
    /// Whether each distributor grants the whole rate or its share of it.
    pub ingestion_rate_strategy: RateStrategy,
    /// How many ingesters take the tenant's entries; 0 is all. Never fewer than hold each entry.
    pub ingestion_tenant_shard_size: usize,
    /// Longest label name in bytes.
    pub max_label_name_length: usize,
    /// Longest label value in bytes.
    pub max_label_value_length: usize,
    /// Most labels of a stream, `service_name` not counted if Skald adds it.
    pub max_label_names_per_series: usize,
    /// Whether entries older than `reject_old_samples_max_age` are refused.
    pub reject_old_samples: bool,
    /// Age limit for `reject_old_samples`, nanoseconds.
    pub reject_old_samples_max_age: i64,
    /// How far an entry's time may lie in the future, nanoseconds.
    pub creation_grace_period: i64,
    /// Longest line in bytes; 0 is no limit.
    pub max_line_size: usize,
    /// Whether longer lines are cut instead of refused.
    pub max_line_size_truncate: bool,
    /// What is put at the end of a line that was cut, inside of `max_line_size`.
    pub max_line_size_truncate_identifier: String,
    /// Whether an entry with the time of the one before it in its stream, but another line, is moved by a nanosecond.
    pub increment_duplicate_timestamp: bool,
    /// Whether structured metadata is accepted.
    pub allow_structured_metadata: bool,
    /// Most bytes of structured metadata of an entry.
    pub max_structured_metadata_size: usize,
    /// Most pairs of structured metadata of an entry.
    pub max_structured_metadata_entries_count: usize,
    /// Most live streams of the tenant in one ingester; 0 is no limit.
    pub max_streams_per_user: usize,
    /// Most live streams of the tenant over all ingesters; 0 is no limit.
    pub max_global_streams_per_user: usize,
    /// Rate of one stream in one ingester, bytes per second; 0 is no limit.
    pub per_stream_rate_limit: usize,
    /// Burst of one stream, bytes.
    pub per_stream_rate_limit_burst: usize,
    /// Labels to take a missing `service_name` from, in order; empty adds no such label.
    pub discover_service_name: Vec<String>,
    /// Whether `detected_level` is added as structured metadata.
    pub discover_log_levels: bool,
    /// Names of labels, metadata and fields of lines that hold a level, in order.
    pub log_level_fields: Vec<String>,
    /// How deep in JSON lines such fields are looked for; 0 is no limit.
    pub log_level_from_json_max_depth: usize,
    /// Division of streams that come too fast for one ingester.
    pub shard_streams: ShardStreams,
    /// Until when pushes are refused, nanoseconds since the Unix epoch; 0 refuses none.
    pub block_ingestion_until: i64,
    /// The status code of pushes that `block_ingestion_until` refuses; with 200 they are dropped without a word.
    pub block_ingestion_status_code: u16,
    /// Until when streams of a policy are refused, nanoseconds since the Unix epoch; `*` is those without a policy.
    pub block_ingestion_policy_until: BTreeMap<String, i64>,
    /// Which streams belong to which policy.
    pub policy_stream_mapping: BTreeMap<String, Vec<PolicySelector>>,
    /// Labels that every stream must have.
    pub enforced_labels: Vec<String>,
    /// Labels that the streams of a policy must have besides; `*` is those without a policy.
    pub policy_enforced_labels: BTreeMap<String, Vec<String>>,
    /// Which attributes of OpenTelemetry become labels or structured metadata, and which are dropped.
    pub otlp_config: OtlpConfig,
    /// Whether entries may arrive out of order inside the window.
    pub unordered_writes: bool,

    /// Most entries a log query may ask for.
    pub max_entries_limit_per_query: usize,
    /// Longest time range of a query, nanoseconds; 0 is no limit.
    pub max_query_length: i64,
    /// How far back queries may look, nanoseconds; 0 is no limit.
    pub max_query_lookback: i64,
    /// Longest `[range]`, nanoseconds; 0 is no limit.
    pub max_query_range: i64,
    /// Most series of a metric query's answer.
    pub max_query_series: usize,
    /// Most tasks of one query at a time.
    pub max_query_parallelism: usize,
    /// Most raw bytes one query may read; 0 is no limit.
    pub max_query_bytes_read: u64,
    /// Most raw bytes that a single querier may read for one query; 0 is no limit.
    pub max_querier_bytes_read: u64,
    /// Most streams that a selector may match; 0 is no limit.
    pub cardinality_limit: usize,
    /// Labels that every selector of a query must have a matcher for.
    pub required_labels: Vec<String>,
    /// How many matchers every selector of a query must have at least.
    pub minimum_labels_number: usize,
    /// Queries that are refused.
    pub blocked_queries: Vec<BlockedQuery>,
    /// Longest run of a query, nanoseconds.
    pub query_timeout: i64,
    /// Whether a query that too few ingesters answer gives what there is, with a warning, instead of an error.
    pub query_partial_data: bool,
    /// Length of the pieces that metric range queries are cut into, nanoseconds. Above 0, start and end are aligned
    /// with the step, as in Loki.
    pub split_queries_by_interval: i64,
    /// Most live tails of the tenant at a time.
    pub max_concurrent_tail_requests: usize,
    /// Most stream matchers of a query.
    pub max_streams_matchers_per_query: usize,
    /// Whether index/volume is served.
    pub volume_enabled: bool,
    /// Most series of a volume; 0 is no limit.
    pub volume_max_series: usize,

    /// How long entries are kept after their time, nanoseconds; 0 is for ever.
    pub retention_period: i64,
    /// Streams that are kept for another time.
    pub retention_stream: Vec<StreamRetention>,
    /// Stored bytes of the newest blocks that stay, older ones go; 0 is no limit.
    pub retention_bytes: u64,
    /// What becomes of the tenant's delete requests.
    pub deletion_mode: DeletionMode,

    /// The limits that drilldown-limits shows to users.
    pub tenant_limits_allow_publish: Vec<String>,

    /// Refuse what Loki refuses (selectors that match everything, log queries with a trailing range), in its words, and
    /// round volumes as Loki does: to KiB for what a block or memory holds of a stream, so that small streams have none.
    pub loki_strict: bool,
}

const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

impl Default for Limits {
    fn default() -> Self {
        Self {
            ingestion_rate_mb: 4.0,
            ingestion_burst_size_mb: 6.0,
            ingestion_rate_strategy: RateStrategy::Global,
            ingestion_tenant_shard_size: 0,
            max_label_name_length: 1024,
            max_label_value_length: 2048,
            max_label_names_per_series: 15,
            reject_old_samples: true,
            reject_old_samples_max_age: 7 * 24 * HOUR,
            creation_grace_period: 10 * MINUTE,
            max_line_size: 256 << 10,
            max_line_size_truncate: false,
            max_line_size_truncate_identifier: String::new(),
            increment_duplicate_timestamp: false,
            allow_structured_metadata: true,
            max_structured_metadata_size: 64 << 10,
            max_structured_metadata_entries_count: 128,
            max_streams_per_user: 0,
            max_global_streams_per_user: 5000,
            per_stream_rate_limit: 3 << 20,
            per_stream_rate_limit_burst: 15 << 20,
            discover_service_name: [
                "service",
                "app",
                "application",
                "app_name",
                "name",
                "app_kubernetes_io_name",
                "container",
                "container_name",
                "k8s_container_name",
                "component",
                "workload",
                "job",
                "k8s_job_name",
            ]
            .map(String::from)
            .to_vec(),
            discover_log_levels: true,
            log_level_fields: [
                "level",
                "LEVEL",
                "Level",
                "log.level",
                "severity",
                "SEVERITY",
                "Severity",
                "SeverityText",
                "lvl",
                "LVL",
                "Lvl",
                "severity_text",
                "Severity_Text",
                "SEVERITY_TEXT",
            ]
            .map(String::from)
            .to_vec(),
            log_level_from_json_max_depth: 2,
            shard_streams: ShardStreams::default(),
            block_ingestion_until: 0,
            block_ingestion_status_code: 260,
            block_ingestion_policy_until: BTreeMap::new(),
            policy_stream_mapping: BTreeMap::new(),
            enforced_labels: Vec::new(),
            policy_enforced_labels: BTreeMap::new(),
            otlp_config: OtlpConfig::default(),
            unordered_writes: true,
            max_entries_limit_per_query: 5000,
            max_query_length: 721 * HOUR,
            max_query_lookback: 0,
            max_query_range: 0,
            max_query_series: 500,
            max_query_parallelism: 32,
            max_query_bytes_read: 0,
            max_querier_bytes_read: 150 << 30,
            cardinality_limit: 100_000,
            required_labels: Vec::new(),
            minimum_labels_number: 0,
            blocked_queries: Vec::new(),
            query_timeout: MINUTE,
            query_partial_data: false,
            split_queries_by_interval: HOUR,
            max_concurrent_tail_requests: 10,
            max_streams_matchers_per_query: 1000,
            volume_enabled: true,
            volume_max_series: 1000,
            retention_period: 0,
            retention_stream: Vec::new(),
            retention_bytes: 0,
            deletion_mode: DeletionMode::default(),
            tenant_limits_allow_publish: [
                "discover_log_levels",
                "discover_service_name",
                "max_entries_limit_per_query",
                "max_line_size_truncate",
                "max_query_bytes_read",
                "max_query_length",
                "max_query_lookback",
                "max_query_range",
                "max_query_series",
                "query_timeout",
                "retention_period",
                "volume_enabled",
                "volume_max_series",
            ]
            .map(String::from)
            .to_vec(),
            loki_strict: false,
        }
    }
}

impl Limits {
    /// The limits for queries that hold for both: of two limits the smaller, where 0 is none.
    #[must_use]
    pub fn tightest(mut self, other: &Limits) -> Limits {
        fn smaller<T: Copy + Ord + Default>(a: &mut T, b: T) {
            if b > T::default() && (*a <= T::default() || b < *a) {
                *a = b;
            }
        }
        smaller(&mut self.max_entries_limit_per_query, other.max_entries_limit_per_query);
        smaller(&mut self.max_query_length, other.max_query_length);
        smaller(&mut self.max_query_lookback, other.max_query_lookback);
        smaller(&mut self.max_query_range, other.max_query_range);
        smaller(&mut self.max_query_series, other.max_query_series);
        smaller(&mut self.max_query_parallelism, other.max_query_parallelism);
        smaller(&mut self.max_query_bytes_read, other.max_query_bytes_read);
        smaller(&mut self.max_querier_bytes_read, other.max_querier_bytes_read);
        smaller(&mut self.cardinality_limit, other.cardinality_limit);
        smaller(&mut self.query_timeout, other.query_timeout);
        smaller(&mut self.max_streams_matchers_per_query, other.max_streams_matchers_per_query);
        self.minimum_labels_number = self.minimum_labels_number.max(other.minimum_labels_number);
        for label in &other.required_labels {
            if !self.required_labels.contains(label) {
                self.required_labels.push(label.clone());
            }
        }
        self.blocked_queries.extend(other.blocked_queries.iter().cloned());
        self.query_partial_data &= other.query_partial_data;
        self.loki_strict |= other.loki_strict;
        self.volume_enabled &= other.volume_enabled;
        self
    }
}

/// Tells the limits of a tenant, which may change while the process runs.
pub trait TenantLimits: Send + Sync + 'static {
    /// The limits of `tenant` now.
    fn of(&self, tenant: &crate::TenantId) -> std::sync::Arc<Limits>;

    /// The limits of a query, which may be for several tenants: the tightest of theirs.
    fn of_query(&self, tenant: &crate::TenantId) -> std::sync::Arc<Limits> {
        let mut parts = tenant.parts().map(|t| self.of(&t));
        match parts.next() {
            Some(first) if tenant.is_joined() => {
                std::sync::Arc::new(parts.fold((*first).clone(), |all, one| all.tightest(&one)))
            }
            Some(only) => only,
            None => self.of(tenant),
        }
    }
}

/// The same limits for every tenant.
impl TenantLimits for std::sync::Arc<Limits> {
    fn of(&self, _: &crate::TenantId) -> std::sync::Arc<Limits> {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_limit_holds_and_0_is_none() {
        let a = Limits { max_query_series: 0, max_query_lookback: 5, ..Limits::default() };
        let b = Limits { max_query_series: 9, max_query_lookback: 0, query_timeout: 1, ..Limits::default() };
        let c = Limits { required_labels: vec!["x".into()], minimum_labels_number: 2, ..Limits::default() };
        let all = a.tightest(&b).tightest(&c);
        assert_eq!((all.max_query_series, all.max_query_lookback, all.query_timeout), (9, 5, 1));
        assert_eq!((all.minimum_labels_number, all.required_labels), (2, vec!["x".to_owned()]));
    }
}
