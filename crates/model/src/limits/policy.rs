//! The limits that are more than a number.

use serde::{Deserialize, Deserializer, Serialize};

/// How `ingestion_rate_mb` is shared among distributors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateStrategy {
    /// Each distributor grants the whole rate.
    Local,
    /// Each distributor grants its share: the rate divided by the number of live distributors. The burst is each one's.
    #[default]
    Global,
}

/// `shard_streams`: streams that come too fast are divided into several with the label `__stream_shard__`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShardStreams {
    /// Whether it is done. Loki does it by default; here a stream of any rate is written and searched as well as several
    /// are, and the label changes what users see, so it is for those who need a stream spread over ingesters.
    pub enabled: bool,
    /// Whether each division is logged.
    pub logging_enabled: bool,
    /// Bytes per second that one part is meant to have.
    pub desired_rate: u64,
}

impl Default for ShardStreams {
    fn default() -> Self {
        Self { enabled: false, logging_enabled: false, desired_rate: 1536 << 10 }
    }
}

/// Streams that belong to a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySelector {
    /// Which streams, as a selector of LogQL.
    pub selector: String,
    /// Of the policies that match a stream the one with the highest priority counts.
    #[serde(default)]
    pub priority: i64,
}

/// A rule of `blocked_queries`. The first whose pattern or hash matches decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlockedQuery {
    /// The text of the query, or a regular expression that matches in it.
    pub pattern: String,
    /// Whether `pattern` is a regular expression.
    pub regex: bool,
    /// The 32-bit FNV-1 hash of the query's text; 0 is none.
    pub hash: u32,
    /// `metric`, `filter`, `limited`: the kinds of queries that are meant; none means all.
    #[serde(deserialize_with = "list")]
    pub types: Vec<String>,
}

/// A list, or text with commas.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum List {
        Text(String),
        Items(Vec<String>),
    }
    Ok(match List::deserialize(deserializer)? {
        List::Items(items) => items,
        List::Text(text) => {
            text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect()
        }
    })
}
