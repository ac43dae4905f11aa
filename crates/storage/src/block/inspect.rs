//! A description of a block for people.

use std::fmt::Write;

use bytes::Bytes;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::error::Result;
use super::format::Column;
use super::meta::BlockMeta;

/// Streams that are listed.
const TOP_STREAMS: usize = 10;

/// Describes the block whose last bytes are `tail`; see [`BlockMeta::parse`].
pub fn inspect(tail: &Bytes, file_size: u64) -> Result<String> {
    let meta = BlockMeta::parse(tail, file_size)?;
    let footer_len = tail.len() - footer_start(tail);
    let parquet = ParquetMetaDataReader::decode_metadata(&tail[footer_start(tail)..tail.len() - 8])?;
    let mut out = String::new();
    describe(&mut out, &meta, &parquet, footer_len as u64).expect("writing text to memory does not fail");
    describe_streams(&mut out, &meta)?;
    Ok(out)
}

/// Where the footer begins in a tail that has been parsed.
fn footer_start(tail: &[u8]) -> usize {
    let at = tail.len() - 8;
    let len = u32::from_le_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]);
    at - len as usize
}

fn describe(out: &mut String, meta: &BlockMeta, parquet: &ParquetMetaData, footer: u64) -> std::fmt::Result {
    let t = meta.streams().totals();
    let file = meta.file_size();
    let written_by = parquet.file_metadata().created_by().unwrap_or("unknown");
    writeln!(out, "block format {}, written by {written_by}", meta.version())?;
    writeln!(out, "time    {} to {}", time(t.min_ts), time(t.max_ts))?;
    writeln!(out, "rows    {} in {} row groups, {} streams", t.rows, parquet.num_row_groups(), t.streams)?;
    let ratio = t.raw_bytes as f64 / file as f64;
    writeln!(
        out,
        "bytes   {} lines, {} metadata, {file} file (ratio {ratio:.2})",
        t.raw_bytes, t.metadata_bytes
    )?;
    writeln!(out, "digest  {} rows, {:032x}", t.digest.count, t.digest.sum)?;
    writeln!(out)?;
    writeln!(
        out,
        "{:<24} {:>12} {:>12} {:>7} {:>9} {:>7}",
        "part", "encoded", "stored", "of file", "B/row", "pages"
    )?;
    let mut part = |name: &str, encoded: u64, stored: u64, pages: Option<usize>| {
        let share = stored as f64 * 100.0 / file as f64;
        let per_row = stored as f64 / (t.rows as f64).max(1.0);
        let pages = pages.map(|p| p.to_string()).unwrap_or_default();
        writeln!(out, "{name:<24} {encoded:>12} {stored:>12} {share:>6.2}% {per_row:>9.3} {pages:>7}")
    };
    for column in Column::ALL {
        let chunks = || parquet.row_groups().iter().map(|g| g.column(column as usize));
        let encoded: i64 = chunks().map(|c| c.uncompressed_size()).sum();
        let stored: i64 = chunks().map(|c| c.compressed_size()).sum();
        let p = &meta.pages;
        let pages = match column {
            Column::Timestamp => Some(p.timestamp.len()),
            Column::Nanos => Some(p.nanos.len()),
            Column::Line => Some(p.line.len()),
            Column::MetadataKey => Some(p.metadata_key.len()),
            Column::MetadataValue => Some(p.metadata_value.len()),
            _ => None,
        };
        part(&column.path().join("."), encoded as u64, stored as u64, pages)?;
    }
    let streams = meta.streams().section_len() as u64;
    let filter = meta.filter().map_or(0, |f| f.memory_bytes()) as u64;
    part("stream index", streams, streams, None)?;
    part("line filter", filter, filter, meta.filter().map(|f| f.pages()))?;
    let words = meta.words().map_or(0, |w| w.section_len()) as u64;
    part("word index", words, words, meta.words().map(|w| w.pages()))?;
    let page_index = file - meta.tail_offset() - streams - filter - words - footer;
    part("page index", page_index, page_index, None)?;
    part("footer", footer, footer, None)?;
    if let Some(f) = meta.filter() {
        let s = f.stats();
        let share = filter as f64 * 100.0 / (t.raw_bytes as f64).max(1.0);
        writeln!(
            out,
            "\nfilter  {share:.2} % of the lines, {:.1} % of its bits set, {} of {} pages without ids",
            s.fill * 100.0,
            s.empty_pages,
            s.pages
        )?;
    }
    if let Some(w) = meta.words() {
        writeln!(
            out,
            "words   {} listed, {} of {} pages with unknown ones",
            w.words(),
            w.unknown_pages(),
            w.pages()
        )?;
    }
    writeln!(out, "memory  {} bytes when cached", meta.memory_bytes())
}

fn describe_streams(out: &mut String, meta: &BlockMeta) -> Result<()> {
    let n = meta.streams().len() as u32;
    let mut streams = (0..n).map(|i| meta.streams().get(i)).collect::<Result<Vec<_>>>()?;
    streams.sort_by_key(|s| std::cmp::Reverse(s.bytes));
    let _ = writeln!(out, "\n{:>12} {:>10}  stream (the largest of {n})", "bytes", "rows");
    for s in streams.iter().take(TOP_STREAMS) {
        let _ = writeln!(out, "{:>12} {:>10}  {}", s.bytes, s.rows.len(), s.labels);
    }
    Ok(())
}

fn time(ns: i64) -> String {
    chrono::DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}
