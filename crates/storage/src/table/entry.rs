//! What the table knows of one block.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skald_model::{Digest, Selector, Timestamp};

/// What can be told of a block without opening it. Kept with the block in the table's log, so fields may be
/// added (with a default) but never change their meaning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockStats {
    /// Entries.
    pub rows: u64,
    /// Bytes of all lines, uncompressed.
    pub raw_bytes: u64,
    /// Bytes of all structured metadata, uncompressed.
    #[serde(default)]
    pub metadata_bytes: u64,
    /// Streams.
    pub streams: u64,
    /// The earliest entry, nanoseconds, inclusive.
    pub min_ts: Timestamp,
    /// The latest entry, nanoseconds, inclusive.
    pub max_ts: Timestamp,
    /// Length of the file in bytes.
    pub file_size: u64,
    /// Where the stream index, the line filter and the footer begin: one read from here to the end of the file
    /// gets them all.
    pub tail_offset: u64,
    /// Digest of all entries.
    #[serde(default)]
    pub digest: Digest,
    /// For labels with few values, all the values that streams of the block have; `""` stands for streams
    /// without the label. A label that is not listed here may have any value or be absent.
    #[serde(default)]
    pub label_values: BTreeMap<String, Vec<String>>,
}

impl BlockStats {
    /// Whether a stream that passes `selector` may be in the block.
    pub fn may_match(&self, selector: &Selector) -> bool {
        selector.matchers.iter().all(|m| {
            self.label_values.get(&*m.name).is_none_or(|values| values.iter().any(|value| m.matches(value)))
        })
    }
}

/// Where a block comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockOrigin {
    /// 0: as flushed by an ingester. Above: compacted, with a level more at each pass.
    pub level: u8,
    /// The first epoch whose entries are in it.
    pub epoch_min: i64,
    /// The last such epoch.
    pub epoch_max: i64,
    /// Which part of its epoch it is, when memory or late entries divided one.
    #[serde(default)]
    pub part: u32,
    /// Who wrote it: an ingester or compactor.
    #[serde(default)]
    pub writer: String,
}

/// A block that the table holds.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockEntry {
    /// Path below the tenant's folder: `date=2026-01-31/<name>.parquet`. It identifies the block.
    pub path: String,
    /// The day of all its entries (UTC), days since the Unix epoch.
    pub date: i32,
    /// What is in it.
    pub stats: BlockStats,
    /// Where it comes from.
    pub origin: BlockOrigin,
}

impl BlockEntry {
    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.stats.file_size
    }

    /// Bytes in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        let labels: usize = self
            .stats
            .label_values
            .iter()
            .map(|(name, values)| name.len() + 64 + values.iter().map(|v| v.len() + 24).sum::<usize>())
            .sum();
        size_of::<Self>() + 16 + self.path.len() + self.origin.writer.len() + labels
    }
}

/// A block whose file lies in place already and that a commit is to add.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBlock {
    /// Path below the tenant's folder, as [`block_path`](super::block_path) makes it.
    pub path: String,
    /// The day of all its entries (UTC), days since the Unix epoch.
    pub date: i32,
    /// What is in it.
    pub stats: BlockStats,
    /// Where it comes from.
    pub origin: BlockOrigin,
    /// The least and the greatest stream id as the file's signed column has them, for other engines' pruning.
    pub stream_ids: Option<(i64, i64)>,
}

/// What the `skald.block` tag of an `add` action holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BlockTag {
    pub(super) stats: BlockStats,
    pub(super) origin: BlockOrigin,
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_model::{MatchOp, Matcher};

    fn stats() -> BlockStats {
        let label_values = [("app", vec!["api", "web"]), ("host", vec!["", "h1"])]
            .map(|(n, v)| (n.to_owned(), v.into_iter().map(str::to_owned).collect()));
        BlockStats {
            digest: Digest { count: 3, sum: u128::MAX - 7 },
            min_ts: i64::MIN,
            label_values: label_values.into(),
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(name: &str, op: MatchOp, value: &str, may: bool) {
        let selector = Selector { matchers: vec![Matcher::new(name, op, value).unwrap()] };
        assert_eq!(stats().may_match(&selector), may, "{selector}");
    }

    #[test]
    fn blocks_without_a_matching_value_are_left_out() {
        check("app", MatchOp::Equal, "api", true);
        check("app", MatchOp::Equal, "db", false);
        check("app", MatchOp::Match, "w.*", true);
        check("app", MatchOp::NotMatch, "api|web", false);
        check("app", MatchOp::NotEqual, "api", true);
        check("app", MatchOp::Equal, "", false);
        check("host", MatchOp::Equal, "", true);
        check("host", MatchOp::NotMatch, ".+", true);
        check("other", MatchOp::Equal, "x", true);
        check("other", MatchOp::Equal, "", true);
    }

    #[test]
    fn tags_keep_every_bit() {
        let origin = BlockOrigin { level: 1, epoch_min: -1, epoch_max: 9, part: 2, writer: "i-\"1\"".into() };
        let tag = BlockTag { stats: stats(), origin };
        let text = serde_json::to_string(&tag).unwrap();
        let back: BlockTag = serde_json::from_str(&text).unwrap();
        assert_eq!((back.stats, back.origin), (tag.stats, tag.origin));
    }

    /// Tags of tables out there; they have to stay readable.
    #[test]
    fn old_tags_stay_readable() {
        let text = r#"{"stats":{"rows":2,"raw_bytes":10,"streams":1,"min_ts":1,"max_ts":2,"file_size":99,"tail_offset":50,"digest":{"count":2,"sum":340282366920938463463374607431768211448}},"origin":{"level":0,"epoch_min":5,"epoch_max":5}}"#;
        let tag: BlockTag = serde_json::from_str(text).unwrap();
        assert_eq!(tag.stats.digest, Digest { count: 2, sum: u128::MAX - 7 });
        assert_eq!(tag.stats.metadata_bytes, 0);
        assert_eq!(tag.origin, BlockOrigin { epoch_min: 5, epoch_max: 5, ..Default::default() });
    }
}
