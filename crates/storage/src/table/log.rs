//! The files of a table's log: their names, what Skald writes into a commit and what it reads out of one.
//!
//! Written with the action types of `deltalake-core`, so that other readers get what they expect; read with
//! types of our own that take only what planning needs and pass over what later versions may add.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat};
use deltalake_core::kernel::{Action, Add, CommitInfo, Remove, Transaction};
use object_store::path::Path;
use serde::Deserialize;
use skald_model::Timestamp;

use super::entry::{BlockEntry, BlockTag, NewBlock};
use super::schema::{MetadataLine, ProtocolLine};
use super::snapshot::Changes;

pub(super) const LOG_FOLDER: &str = "_delta_log";
const BLOCK_TAG: &str = "skald.block";
const ENGINE: &str = concat!("skald/", env!("CARGO_PKG_VERSION"));

/// The path of a block of `date` (days since the Unix epoch, UTC) below the tenant's folder.
///
/// `name` must be made from the block's content (for example its writer, log records and part), so that one
/// name never stands for two contents; only `0-9A-Za-z._-` are allowed in it.
pub fn block_path(date: i32, name: &str) -> String {
    format!("date={}/{name}.parquet", date_text(date))
}

/// A day (days since the Unix epoch) as `YYYY-MM-DD`, as it stands in paths.
pub fn date_text(date: i32) -> String {
    NaiveDate::from_num_days_from_ce_opt(date + UNIX_EPOCH_DAYS).unwrap_or_default().to_string()
}

fn date_of_text(text: &str) -> Option<i32> {
    text.parse::<NaiveDate>().ok().map(|d| d.num_days_from_ce() - UNIX_EPOCH_DAYS)
}

/// Days from the first day of the common era to the Unix epoch.
const UNIX_EPOCH_DAYS: i32 = 719_163;

/// A file of the log that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogFile {
    /// `N.json`
    Commit { version: i64 },
    /// `N.checkpoint.parquet`, or part `part` (from 1) of `parts`.
    Checkpoint { version: i64, part: u32, parts: u32 },
    /// A checkpoint of a kind that tables of Skald's protocol don't have.
    UnknownCheckpoint { version: i64 },
}

impl LogFile {
    /// The version of the table that it belongs to.
    pub(super) fn version(&self) -> i64 {
        match self {
            Self::Commit { version }
            | Self::Checkpoint { version, .. }
            | Self::UnknownCheckpoint { version } => *version,
        }
    }

    /// Reads a file name of the log's folder.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (digits, rest) = name.split_once('.')?;
        if digits.len() != 20 {
            return None;
        }
        let version = digits.parse().ok()?;
        match rest {
            "json" => Some(Self::Commit { version }),
            "checkpoint.parquet" => Some(Self::Checkpoint { version, part: 1, parts: 1 }),
            _ => {
                let numbers = rest.strip_prefix("checkpoint.")?;
                let parts = numbers.strip_suffix(".parquet").and_then(|n| n.split_once('.'));
                let parts = parts.and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)));
                Some(match parts {
                    Some((part, parts)) => Self::Checkpoint { version, part, parts },
                    None => Self::UnknownCheckpoint { version },
                })
            }
        }
    }
}

pub(super) fn commit_path(table: &Path, version: i64) -> Path {
    table.clone().join(LOG_FOLDER).join(format!("{version:020}.json"))
}

/// What the `commitInfo` of a commit says. For people and tools; nothing depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// Blocks were added.
    Flush,
    /// Blocks were replaced by others with the same entries.
    Compact,
    /// Entries were taken out.
    Delete,
    /// The tenant's delete requests changed; the blocks did not.
    Requests,
    /// Requests were applied to blocks in which nothing had to go.
    Applied,
}

/// The commit's own line, first in the file.
pub(super) fn commit_info(operation: Operation, now_ms: i64) -> Action {
    let (name, parameters): (_, Vec<(&str, &str)>) = match operation {
        Operation::Flush => ("WRITE", vec![("mode", "Append"), ("partitionBy", "[\"date\"]")]),
        Operation::Compact => ("OPTIMIZE", vec![("predicate", "[]")]),
        Operation::Delete => ("DELETE", vec![("predicate", "[]")]),
        Operation::Requests => ("SKALD DELETE REQUESTS", Vec::new()),
        Operation::Applied => ("SKALD DELETES APPLIED", Vec::new()),
    };
    let parameters = parameters.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
    Action::CommitInfo(CommitInfo {
        timestamp: Some(now_ms),
        operation: Some(name.to_owned()),
        operation_parameters: Some(parameters),
        is_blind_append: Some(matches!(operation, Operation::Flush)),
        engine_info: Some(ENGINE.to_owned()),
        ..Default::default()
    })
}

/// The line that adds a block.
pub(super) fn add(block: &NewBlock, data_change: bool, now_ms: i64) -> Result<Action, serde_json::Error> {
    let tag = BlockTag { summary: block.summary.clone(), origin: block.origin.clone() };
    Ok(Action::Add(Add {
        path: block.path.clone(),
        partition_values: partition(block.date),
        size: block.summary.file_size as i64,
        modification_time: now_ms,
        data_change,
        stats: Some(delta_stats(block)),
        tags: Some(HashMap::from([(BLOCK_TAG.to_owned(), Some(serde_json::to_string(&tag)?))])),
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    }))
}

/// The line that removes a block.
pub(super) fn remove(block: &BlockEntry, data_change: bool, now_ms: i64) -> Action {
    Action::Remove(Remove {
        path: block.path.clone(),
        data_change,
        deletion_timestamp: Some(now_ms),
        extended_file_metadata: Some(true),
        partition_values: Some(partition(block.date)),
        size: Some(block.size() as i64),
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
    })
}

/// The line that records the version of an application.
pub(super) fn txn(app_id: &str, version: i64, now_ms: i64) -> Action {
    Action::Txn(Transaction { app_id: app_id.to_owned(), version, last_updated: Some(now_ms) })
}

/// One action per line.
pub(super) fn encode(actions: &[Action]) -> Result<Bytes, serde_json::Error> {
    let mut out = Vec::with_capacity(1024 * actions.len());
    for action in actions {
        serde_json::to_writer(&mut out, action)?;
        out.push(b'\n');
    }
    Ok(out.into())
}

fn partition(date: i32) -> HashMap<String, Option<String>> {
    HashMap::from([("date".to_owned(), Some(date_text(date)))])
}

/// Delta's statistics, by which other engines skip files. Times are milliseconds there: the least is rounded
/// down, the greatest up, so that no entry lies outside.
fn delta_stats(block: &NewBlock) -> String {
    let summary = &block.summary;
    let min = delta_time(summary.min_ts.div_euclid(1_000_000));
    let max = delta_time(-(-summary.max_ts).div_euclid(1_000_000));
    let (id_min, id_max) = match block.stream_ids {
        Some((min, max)) => (format!(",\"stream_id\":{min}"), format!(",\"stream_id\":{max}")),
        None => Default::default(),
    };
    format!(
        "{{\"numRecords\":{},\"minValues\":{{\"timestamp\":\"{min}\"{id_min}}},\"maxValues\":{{\"timestamp\":\"{max}\"{id_max}}},\"nullCount\":{{\"timestamp\":0,\"nanos\":0,\"stream_id\":0}}}}",
        summary.rows
    )
}

fn delta_time(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The entry of a block that this process adds.
pub(super) fn entry_of(block: &NewBlock) -> BlockEntry {
    BlockEntry {
        path: block.path.clone(),
        date: block.date,
        summary: block.summary.clone(),
        origin: block.origin.clone(),
    }
}

/// What a new block must keep to, for the table's order and pruning to hold.
pub(super) fn check_block(block: &NewBlock) -> Result<(), String> {
    let summary = &block.summary;
    let name = block.path.strip_prefix(&format!("date={}/", date_text(block.date)));
    let name = name.and_then(|n| n.strip_suffix(".parquet")).ok_or("the path does not fit its date")?;
    if name.is_empty() || name.chars().any(|c| !(c.is_ascii_alphanumeric() || "._-".contains(c))) {
        return Err("the name has characters other than 0-9A-Za-z._-".into());
    }
    let day = |t: Timestamp| skald_model::time::day_of(t);
    if summary.min_ts > summary.max_ts
        || day(summary.min_ts) != block.date
        || day(summary.max_ts) != block.date
    {
        return Err(format!(
            "its times {} to {} do not lie within {}",
            summary.min_ts,
            summary.max_ts,
            date_text(block.date)
        ));
    }
    if summary.rows == 0 || summary.file_size == 0 || summary.tail_offset > summary.file_size {
        return Err(format!(
            "its sizes are not those of a block (rows {}, bytes {}, tail at {})",
            summary.rows, summary.file_size, summary.tail_offset
        ));
    }
    Ok(())
}

/// One line of a commit, as far as it is of interest.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Line {
    add: Option<AddLine>,
    remove: Option<RemoveLine>,
    txn: Option<TxnLine>,
    meta_data: Option<MetadataLine>,
    protocol: Option<ProtocolLine>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AddLine {
    path: String,
    #[serde(default)]
    partition_values: HashMap<String, Option<String>>,
    tags: Option<HashMap<String, Option<String>>>,
}

#[derive(Debug, Deserialize)]
struct RemoveLine {
    path: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TxnLine {
    app_id: String,
    version: i64,
}

/// Why a part of the log is not acceptable.
#[derive(Debug)]
pub(super) enum Unacceptable {
    /// Well formed, but not of Skald's kind.
    Foreign(String),
    /// Not well formed.
    Damaged(String),
}

/// What a commit or a checkpoint holds.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    pub(super) changes: Changes,
    /// It has a (checked) `metaData` action.
    pub(super) metadata: bool,
    /// It has a (checked) `protocol` action.
    pub(super) protocol: bool,
}

impl Replayed {
    pub(super) fn new(version: i64) -> Self {
        Self { changes: Changes { version, ..Default::default() }, ..Default::default() }
    }

    pub(super) fn metadata(&mut self, line: &MetadataLine) -> Result<(), Unacceptable> {
        self.metadata = true;
        line.check().map_err(Unacceptable::Foreign)
    }

    pub(super) fn protocol(&mut self, line: &ProtocolLine) -> Result<(), Unacceptable> {
        self.protocol = true;
        line.check().map_err(Unacceptable::Foreign)
    }

    /// A block: `path` as the log has it (percent-encoded), the partition and the tag.
    pub(super) fn add(
        &mut self,
        path: &str,
        date: Option<&str>,
        tag: Option<&str>,
    ) -> Result<(), Unacceptable> {
        let path = decode_path(path)?;
        let Some(tag) = tag else {
            return Err(Unacceptable::Foreign(format!("its file {path} was written by something else")));
        };
        let damaged = |reason: String| Unacceptable::Damaged(format!("file {path}: {reason}"));
        let BlockTag { summary, origin } =
            serde_json::from_str(tag).map_err(|e| damaged(format!("tag {BLOCK_TAG}: {e}")))?;
        let date = date.and_then(date_of_text).ok_or_else(|| damaged("no date".into()))?;
        self.changes.adds.push(Arc::new(BlockEntry { path, date, summary, origin }));
        Ok(())
    }

    pub(super) fn txn(&mut self, app_id: String, version: i64) {
        self.changes.txns.push((app_id, version));
    }
}

/// The tag of a block among the tags of its `add` action.
pub(super) fn is_block_tag(key: &str) -> bool {
    key == BLOCK_TAG
}

fn decode_path(path: &str) -> Result<String, Unacceptable> {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8();
    decoded.map(|p| p.into_owned()).map_err(|_| Unacceptable::Damaged(format!("path {path:?} is not UTF-8")))
}

/// Reads one commit.
pub(super) fn decode(version: i64, bytes: &[u8]) -> Result<Replayed, Unacceptable> {
    let mut replayed = Replayed::new(version);
    for line in serde_json::Deserializer::from_slice(bytes).into_iter::<Line>() {
        let line = line.map_err(|e| Unacceptable::Damaged(format!("commit {version}: {e}")))?;
        // Protocol and metadata first: they explain best what is wrong with the rest.
        line.protocol.map_or(Ok(()), |p| replayed.protocol(&p))?;
        line.meta_data.map_or(Ok(()), |m| replayed.metadata(&m))?;
        if let Some(add) = line.add {
            let date = add.partition_values.get("date").and_then(Option::as_deref);
            let tag = add.tags.as_ref().and_then(|t| t.get(BLOCK_TAG)).and_then(Option::as_deref);
            replayed.add(&add.path, date, tag)?;
        }
        if let Some(remove) = line.remove {
            replayed.changes.removes.push(decode_path(&remove.path)?);
        }
        if let Some(txn) = line.txn {
            replayed.txn(txn.app_id, txn.version);
        }
    }
    Ok(replayed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockSummary;
    use crate::table::entry::BlockOrigin;
    use proptest::prelude::*;

    fn block(min_ts: i64, max_ts: i64) -> NewBlock {
        let date = skald_model::time::day_of(min_ts);
        let summary = BlockSummary { rows: 3, min_ts, max_ts, file_size: 10, ..Default::default() };
        NewBlock {
            path: block_path(date, "a-1"),
            date,
            summary,
            origin: BlockOrigin::default(),
            stream_ids: Some((-5, i64::MAX)),
        }
    }

    #[test]
    fn names_of_log_files() {
        let check = |name, expected| assert_eq!(LogFile::parse(name), expected, "{name}");
        check("00000000000000000007.json", Some(LogFile::Commit { version: 7 }));
        check(
            "00000000000000000010.checkpoint.parquet",
            Some(LogFile::Checkpoint { version: 10, part: 1, parts: 1 }),
        );
        check(
            "00000000000000000010.checkpoint.0000000002.0000000003.parquet",
            Some(LogFile::Checkpoint { version: 10, part: 2, parts: 3 }),
        );
        check(
            "00000000000000000010.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json",
            Some(LogFile::UnknownCheckpoint { version: 10 }),
        );
        check("_last_checkpoint", None);
        check("_commit_x.json.tmp", None);
        check("00000000000000000010.crc", None);
        check("7.json", None);
    }

    #[test]
    fn dates_and_paths() {
        assert_eq!(block_path(0, "x"), "date=1970-01-01/x.parquet");
        assert_eq!(block_path(20_484, "x"), "date=2026-01-31/x.parquet");
        assert_eq!(date_of_text("2026-01-31"), Some(20_484));
        assert_eq!(date_of_text("1969-12-31"), Some(-1));
    }

    #[test]
    fn statistics_enclose_every_entry() {
        let stats: serde_json::Value =
            serde_json::from_str(&delta_stats(&block(1_999_999, 2_000_001))).unwrap();
        assert_eq!(stats["numRecords"], 3);
        assert_eq!(stats["minValues"]["timestamp"], "1970-01-01T00:00:00.001Z");
        assert_eq!(stats["maxValues"]["timestamp"], "1970-01-01T00:00:00.003Z");
        assert_eq!(stats["minValues"]["stream_id"], -5);
        let exact: serde_json::Value =
            serde_json::from_str(&delta_stats(&block(2_000_000, 2_000_000))).unwrap();
        assert_eq!(exact["maxValues"]["timestamp"], "1970-01-01T00:00:00.002Z");
    }

    #[test]
    fn blocks_that_break_a_rule_are_refused() {
        check_block(&block(5, 6)).unwrap();
        let day = skald_model::time::DAY;
        let mut across = block(5, day + 1);
        assert!(check_block(&across).unwrap_err().contains("do not lie within 1970-01-01"));
        across.path = block_path(1, "a-1");
        assert!(check_block(&across).unwrap_err().contains("does not fit its date"));
        let odd = NewBlock { path: block_path(0, "a b"), ..block(5, 6) };
        assert!(check_block(&odd).unwrap_err().contains("characters"));
        let mut hollow = block(5, 6);
        hollow.summary.rows = 0;
        assert!(check_block(&hollow).unwrap_err().contains("rows 0"));
    }

    #[test]
    fn unknown_actions_are_passed_over() {
        let text = b"{\"cdc\":{\"path\":\"x\"}}\n{\"domainMetadata\":{\"domain\":\"d\"}}\n{\"txn\":{\"appId\":\"a\",\"version\":3,\"lastUpdated\":1}}";
        let replayed = decode(4, text).unwrap();
        assert_eq!(replayed.changes.txns, [("a".to_owned(), 3)]);
        assert_eq!(replayed.changes.version, 4);
    }

    #[test]
    fn what_is_not_ours_is_named() {
        let foreign = decode(0, br#"{"add":{"path":"x.parquet","partitionValues":{},"size":1}}"#);
        assert!(matches!(foreign, Err(Unacceptable::Foreign(r)) if r.contains("x.parquet")));
        let raised =
            decode(0, br#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":[]}}"#);
        assert!(matches!(raised, Err(Unacceptable::Foreign(r)) if r.contains("reader 3")));
        assert!(matches!(decode(0, b"{\"add\":{\"pa"), Err(Unacceptable::Damaged(_))));
    }

    proptest! {
        #[test]
        fn a_commit_reads_back_as_it_was_written(
            from in 0i64..skald_model::time::DAY / 2,
            long in 0i64..skald_model::time::DAY / 2,
            rows in 1u64..,
            sum in any::<u128>(),
            value in "[ -~ü]{0,12}",
            app in "[a-z\"\\\\]{1,8}",
        ) {
            let mut new = block(from, from + long);
            new.summary.rows = rows;
            new.summary.digest = skald_model::Digest { count: rows, sum };
            new.summary.label_values.insert("app".into(), Some([value, String::new()].into()));
            let gone = entry_of(&block(0, 1));
            let actions = [
                commit_info(Operation::Flush, 1),
                add(&new, true, 1).unwrap(),
                remove(&gone, false, 1),
                txn(&app, 7, 1),
            ];
            let replayed = decode(3, &encode(&actions).unwrap()).unwrap();
            prop_assert_eq!(&replayed.changes.adds, &[Arc::new(entry_of(&new))]);
            prop_assert_eq!(&replayed.changes.removes, &[gone.path]);
            prop_assert_eq!(&replayed.changes.txns, &[(app, 7)]);
        }
    }
}
