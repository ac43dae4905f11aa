//! What the table knows of one block.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::block::{BlockSummary, PushesPlace};

/// Where a block comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockOrigin {
    /// 0: as flushed by an ingester. Above: compacted, with a level more at each pass.
    pub level: u8,
    /// When the first of its entries was received, seconds since the Unix epoch; 0 when nobody knows.
    #[serde(default)]
    pub received_min: i64,
    /// When the last of its entries was received, seconds since the Unix epoch.
    #[serde(default)]
    pub received_max: i64,
    /// Under how many names it was written before, because commits of them were given up.
    #[serde(default)]
    pub part: u32,
    /// Who wrote it: an ingester or compactor.
    #[serde(default)]
    pub writer: String,
    /// Where it lists the pushes that its entries came with, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushes: Option<PushesPlace>,
    /// Up to which generation of the tenant's delete requests all have been carried out on its rows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub deletes: u64,
    /// Which rewrite wrote it; 0 of a flushed block. The blocks of one rewrite in one slice follow each other in the order
    /// of streams, by `part`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub run: u64,
}

impl BlockOrigin {
    /// The same for a copy in another table. That has delete requests of its own, counted anew; and lists of pushes are for
    /// ingesters, of which none writes there.
    pub fn in_another_table(&self) -> Self {
        Self { pushes: None, deletes: 0, ..self.clone() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A block that the table holds.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockEntry {
    /// Path below the tenant's folder: `date=2026-01-31/<name>.parquet`. It identifies the block.
    pub path: String,
    /// The day of all its entries (UTC), days since the Unix epoch.
    pub date: i32,
    /// What is in it.
    pub summary: BlockSummary,
    /// Where it comes from.
    pub origin: BlockOrigin,
}

impl BlockEntry {
    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.summary.file_size
    }

    /// Bytes in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        let values =
            |values: &Option<BTreeSet<String>>| values.iter().flatten().map(|v| v.len() + 32).sum::<usize>();
        let labels = self.summary.label_values.iter().map(|(name, v)| name.len() + 64 + values(v));
        size_of::<Self>() + 16 + self.path.len() + self.origin.writer.len() + labels.sum::<usize>()
    }
}

impl From<&BlockEntry> for NewBlock {
    /// The same block, to be added again or to another table.
    fn from(block: &BlockEntry) -> Self {
        let BlockEntry { path, date, summary, origin } = block.clone();
        Self { path, date, summary, origin, stream_ids: None }
    }
}

/// A block whose file lies in place already and that a commit is to add.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewBlock {
    /// Path below the tenant's folder, as [`block_path`](super::block_path) makes it.
    pub path: String,
    /// The day of all its entries (UTC), days since the Unix epoch.
    pub date: i32,
    /// What is in it.
    pub summary: BlockSummary,
    /// Where it comes from.
    pub origin: BlockOrigin,
    /// The least and the greatest stream id as the file's signed column has them, for other engines' pruning.
    pub stream_ids: Option<(i64, i64)>,
}

/// What the `skald.block` tag of an `add` action holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BlockTag {
    pub(super) summary: BlockSummary,
    pub(super) origin: BlockOrigin,
}

#[cfg(test)]
mod tests {
    use skald_model::Digest;

    use super::*;

    #[test]
    fn tags_keep_every_bit() {
        let values = |values: &[&str]| Some(values.iter().map(|v| (*v).to_owned()).collect());
        let summary = BlockSummary {
            digest: Digest { count: 3, sum: u128::MAX - 7 },
            min_ts: i64::MIN,
            label_values: [("app".to_owned(), values(&["", "\"ü"])), ("many".to_owned(), None)].into(),
            ..Default::default()
        };
        let origin = BlockOrigin {
            level: 1,
            received_min: -1,
            received_max: 9,
            part: 2,
            writer: "i-\"1\"".into(),
            pushes: Some(PushesPlace { offset: 1, length: 2, crc: 3 }),
            deletes: 7,
            run: u64::MAX,
        };
        let tag = BlockTag { summary, origin };
        let text = serde_json::to_string(&tag).unwrap();
        let back: BlockTag = serde_json::from_str(&text).unwrap();
        assert_eq!((back.summary, back.origin), (tag.summary, tag.origin));
    }

    /// Tags of tables out there; they have to stay readable.
    #[test]
    fn old_tags_stay_readable() {
        let text = r#"{"summary":{"rows":2,"raw_bytes":10,"metadata_bytes":0,"streams":1,"min_ts":1,"max_ts":2,"file_size":99,"tail_offset":50,"label_values":{"app":["a"],"id":null},"digest":{"count":2,"sum":340282366920938463463374607431768211448}},"origin":{"level":0,"received_min":5,"received_max":5}}"#;
        let tag: BlockTag = serde_json::from_str(text).unwrap();
        assert_eq!(tag.summary.digest, Digest { count: 2, sum: u128::MAX - 7 });
        assert_eq!(tag.summary.label_values["id"], None);
        assert_eq!(tag.origin, BlockOrigin { received_min: 5, received_max: 5, ..Default::default() });
    }
}
