//! Makes a block of a Parquet file that another tool has written: after `OPTIMIZE`, for example, a table holds files
//! with the right columns, but in any encoding and order, and without Skald's sections.

use std::collections::BTreeMap;

use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use skald_model::{Labels, StreamId, Timestamp};

use super::error::{Error, Result, corrupt};
use super::writer::{BlockOptions, BlockWriter, FinishedBlock};

/// Reads all rows of `file`, sorts them and writes them as a block in memory. The way through Parquet's record reader
/// is slow (under 100 MB/s) and takes memory for all rows; files of more than `bytes_max` bytes after decompression
/// are refused.
pub fn convert_foreign(
    file: Bytes,
    bytes_max: u64,
    options: &BlockOptions,
) -> Result<FinishedBlock<Vec<u8>>> {
    let reader = SerializedFileReader::new(file)?;
    let size: i64 = reader.metadata().row_groups().iter().map(|g| g.total_byte_size()).sum();
    if size as u64 > bytes_max {
        return Err(Error::TooLarge { what: "a foreign file", value: size as u64, limit: bytes_max });
    }
    let mut streams: BTreeMap<(Labels, StreamId), Vec<ForeignRow>> = BTreeMap::new();
    let mut known: BTreeMap<String, Labels> = BTreeMap::new();
    for row in reader.get_row_iter(None)? {
        let (stream, text, row) = read_row(row?)?;
        let labels = match known.get(&text) {
            Some(labels) => labels.clone(),
            None => {
                let labels = parse_labels(&text)?;
                known.insert(text, labels.clone());
                labels
            }
        };
        streams.entry((labels, stream)).or_default().push(row);
    }
    let mut writer = BlockWriter::new(options)?;
    for ((labels, id), mut rows) in streams {
        writer.begin_stream(&labels, id)?;
        // Stable: rows of one time keep the order that they have in the file.
        rows.sort_by_key(|r| r.timestamp);
        for r in rows {
            writer.row(r.timestamp, r.line.as_bytes(), r.metadata.as_ref())?;
        }
    }
    writer.finish()
}

struct ForeignRow {
    timestamp: Timestamp,
    line: String,
    metadata: Labels,
}

/// A row with the id and the labels of its stream.
fn read_row(row: Row) -> Result<(StreamId, String, ForeignRow)> {
    let (mut timestamp, mut nanos, mut id, mut labels) = (None, 0, None, None);
    let (mut line, mut metadata) = (None, Labels::empty());
    for (name, field) in row.into_columns() {
        match (name.as_str(), field) {
            ("timestamp", Field::TimestampMicros(us)) => timestamp = us.checked_mul(1000),
            ("timestamp", Field::TimestampMillis(ms)) => timestamp = ms.checked_mul(1_000_000),
            ("timestamp", Field::Long(ns)) => timestamp = Some(ns),
            ("nanos", Field::Int(n)) => nanos = i64::from(n),
            ("stream_id", Field::Long(v)) => id = Some(StreamId(v as u64)),
            ("labels", Field::Str(text)) => labels = Some(text),
            ("line", Field::Str(text)) => line = Some(text),
            ("metadata", Field::MapInternal(map)) => {
                let pairs = map.entries().iter().filter_map(|entry| match entry {
                    (Field::Str(k), Field::Str(v)) => Some((k.as_str(), v.as_str())),
                    _ => None,
                });
                metadata = Labels::from_pairs(pairs);
            }
            _ => {}
        }
    }
    let missing = Error::Foreign("a row lacks its timestamp, stream_id, labels or line");
    match (timestamp, id, labels, line) {
        (Some(t), Some(id), Some(labels), Some(line)) => {
            Ok((id, labels, ForeignRow { timestamp: t.saturating_add(nanos), line, metadata }))
        }
        _ => Err(missing),
    }
}

fn parse_labels(text: &str) -> Result<Labels> {
    let pairs: BTreeMap<String, String> = serde_json::from_str(text)
        .map_err(|e| corrupt("labels", format!("{text:?} is not a JSON object of texts: {e}")))?;
    Ok(Labels::from_pairs(pairs.iter().map(|(n, v)| (n.as_str(), v.as_str()))))
}
