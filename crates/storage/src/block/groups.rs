//! Row groups as they are stored: what it takes to write them into another block without decoding them.

use std::ops::Range;

use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;

use super::footer::{Bounds, WrittenChunk, WrittenPage, WrittenRowGroup};
use super::format::Column;

/// The columns in the order in which a row group has them in its file.
const FILE_ORDER: [Column; 7] = [
    Column::Line,
    Column::Timestamp,
    Column::Nanos,
    Column::StreamId,
    Column::Labels,
    Column::MetadataKey,
    Column::MetadataValue,
];

/// A row group whose bytes follow each other in its file.
#[derive(Clone, Debug)]
pub(crate) struct StoredGroup {
    /// Where it lies in its file.
    pub(crate) bytes: Range<u64>,
    /// Its pages of lines, counted over the block.
    pub(crate) line_pages: Range<usize>,
    /// What the footer and the page index tell of it.
    pub(crate) written: WrittenRowGroup,
}

/// A page of a row group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredPage {
    pub(crate) column: Column,
    /// Where it lies in its file.
    pub(crate) bytes: Range<u64>,
}

impl StoredGroup {
    /// All pages, those of dictionaries too, in the order of the file.
    pub(crate) fn pages(&self) -> Vec<StoredPage> {
        let mut pages = Vec::new();
        for column in FILE_ORDER {
            let chunk = &self.written.chunks[column as usize];
            if let (Some(start), Some(first)) = (chunk.dictionary_offset, chunk.pages.first()) {
                pages.push(StoredPage { column, bytes: start..first.offset });
            }
            pages.extend(chunk.pages.iter().map(|p| {
                let bytes = p.offset..p.offset.saturating_add(u64::from(p.size));
                StoredPage { column, bytes }
            }));
        }
        pages
    }
}

/// The row groups of a block whose page index was read; `None` for one that is not laid out as here. `tail_offset` is where
/// rows end.
pub(crate) fn stored_groups(metadata: &ParquetMetaData, tail_offset: u64) -> Vec<Option<StoredGroup>> {
    let Some(index) = metadata.offset_index() else { return Vec::new() };
    let mut line_page = 0;
    let groups = index.iter().enumerate().map(|(number, columns)| {
        let line_pages = line_page..line_page + columns.get(Column::Line as usize)?.page_locations().len();
        line_page = line_pages.end;
        let written = written_group(metadata, number)?;
        let mut group = StoredGroup { bytes: 0..0, line_pages, written };
        let pages = group.pages();
        let follow = pages.windows(2).all(|w| w[0].bytes.end == w[1].bytes.start);
        let (first, last) = (pages.first()?, pages.last()?);
        group.bytes = first.bytes.start..last.bytes.end;
        let is_whole = pages.iter().all(|p| p.bytes.start < p.bytes.end) && last.bytes.end <= tail_offset;
        (follow && is_whole).then_some(group)
    });
    groups.collect()
}

fn written_group(metadata: &ParquetMetaData, number: usize) -> Option<WrittenRowGroup> {
    let group = metadata.row_group(number);
    let chunks = Column::ALL.into_iter().zip(group.columns());
    let chunks = chunks.map(|(column, chunk)| written_chunk(metadata, number, column, chunk));
    let chunks = chunks.collect::<Option<Vec<_>>>().filter(|chunks| chunks.len() == Column::ALL.len())?;
    Some(WrittenRowGroup { rows: group.num_rows().try_into().ok()?, chunks })
}

fn written_chunk(
    metadata: &ParquetMetaData,
    group: usize,
    column: Column,
    chunk: &ColumnChunkMetaData,
) -> Option<WrittenChunk> {
    let places = metadata.offset_index()?.get(group)?.get(column as usize)?.page_locations();
    let pages = places.iter().map(|p| {
        let (offset, first_row) = (p.offset.try_into().ok()?, p.first_row_index.try_into().ok()?);
        Some(WrittenPage { offset, size: p.compressed_page_size.try_into().ok()?, first_row })
    });
    let pages = pages.collect::<Option<Vec<_>>>()?;
    let dictionary_offset = match column.has_dictionary() {
        true => Some(chunk.dictionary_page_offset()?.try_into().ok()?),
        false => None,
    };
    let bounds = match metadata.column_index()?.get(group)?.get(column as usize)? {
        ColumnIndexMetaData::NONE => None,
        index => {
            let of_pages = page_bounds(index).filter(|bounds| bounds.len() == pages.len())?;
            Some((chunk_bounds(chunk.statistics()?)?, of_pages))
        }
    };
    Some(WrittenChunk {
        column,
        values: chunk.num_values().try_into().ok()?,
        raw_bytes: chunk.uncompressed_size().try_into().ok()?,
        stored_bytes: chunk.compressed_size().try_into().ok()?,
        dictionary_offset,
        pages,
        bounds,
    })
}

/// The bounds of a chunk's pages. Whether they are values themselves is not told, and not needed.
fn page_bounds(index: &ColumnIndexMetaData) -> Option<Vec<Bounds>> {
    let bounds = |min: &[u8], max: &[u8]| Bounds { min: min.into(), max: max.into(), exact: false };
    match index {
        ColumnIndexMetaData::INT64(index) => {
            let numbers = index.min_values().iter().zip(index.max_values());
            Some(numbers.map(|(min, max)| bounds(&min.to_le_bytes(), &max.to_le_bytes())).collect())
        }
        ColumnIndexMetaData::BYTE_ARRAY(index) => {
            index.min_values_iter().zip(index.max_values_iter()).map(|(a, b)| Some(bounds(a?, b?))).collect()
        }
        _ => None,
    }
}

fn chunk_bounds(statistics: &Statistics) -> Option<Bounds> {
    Some(Bounds {
        min: statistics.min_bytes_opt()?.into(),
        max: statistics.max_bytes_opt()?.into(),
        exact: statistics.min_is_exact() && statistics.max_is_exact(),
    })
}
