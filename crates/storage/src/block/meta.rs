//! The end of a block, read once and kept: where every page lies, the stream index and the line filter.

use std::ops::Range;

use bytes::Bytes;
use parquet::DecodeResult;
use parquet::basic::Compression;
use parquet::file::metadata::{
    PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder, ParquetMetaDataReader,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use skald_model::Timestamp;

use super::error::{Error, Result, corrupt};
use super::fetched::Fetched;
use super::format::{
    Column, KEY_FILTER, KEY_METADATA, KEY_PAGES, KEY_STREAMS, KEY_VERSION, KEY_WORDS, MAGIC, PageTableCrc,
    Section, check_version,
};
use super::groups::{StoredGroup, stored_groups};
use super::line_filter::{FilterKeys, IdFilter, PageProbe, WordIndex};
use super::stream_index::StreamIndex;

/// How much of the end of a file to read when nothing is known about it.
pub const TAIL_GUESS: u64 = 1 << 20;

/// Everything about a block but its rows. Immutable; meant to be shared and cached.
#[derive(Debug)]
pub struct BlockMeta {
    file_size: u64,
    tail_offset: u64,
    version: u32,
    streams: StreamIndex,
    filter: Option<IdFilter>,
    words: Option<WordIndex>,
    pub(crate) pages: ColumnPages,
    pub(crate) groups: Vec<Group>,
    /// Empty unless the block was opened by [`BlockMeta::parse_for_copies`].
    pub(crate) stored_groups: Vec<Option<StoredGroup>>,
}

/// What is read of the end of a file beside what reading rows takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extra {
    Nothing,
    Filters,
    /// Filters of at most so many bytes, and the row groups as they are stored.
    Stored(u64),
}

/// A row group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) first_row: u32,
    /// The dictionary page of `nanos`.
    pub(crate) nanos_dictionary: Range<u64>,
}

/// The pages of the columns that are read.
#[derive(Debug, Default)]
pub(crate) struct ColumnPages {
    pub(crate) timestamp: Pages,
    /// Smallest and largest microsecond of each timestamp page.
    pub(crate) micros: Vec<(i64, i64)>,
    pub(crate) nanos: Pages,
    pub(crate) line: Pages,
    pub(crate) metadata_key: Pages,
    pub(crate) metadata_value: Pages,
}

/// The pages of one column over the whole block.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    offsets: Vec<u64>,
    sizes: Vec<u32>,
    /// First row of each page; one more for the end.
    rows: Vec<u32>,
}

impl ColumnPages {
    /// Times between which the rows of a timestamp page lie: up to the last nanosecond of the last microsecond.
    pub(crate) fn times(&self, page: usize) -> (Timestamp, Timestamp) {
        let (min, max) = self.micros[page];
        (min.saturating_mul(1000), max.saturating_mul(1000).saturating_add(999))
    }
}

impl Pages {
    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Where a page lies in the file.
    pub(crate) fn bytes(&self, page: usize) -> Range<u64> {
        let start = self.offsets[page];
        start..start + u64::from(self.sizes[page])
    }

    pub(crate) fn rows(&self, page: usize) -> Range<u32> {
        self.rows[page]..self.rows[page + 1]
    }

    /// The page that holds `row`.
    pub(crate) fn of_row(&self, row: u32) -> usize {
        self.rows.partition_point(|first| *first <= row) - 1
    }

    /// The parts of `rows` in pages that are wanted; those of neighbours in one.
    pub(crate) fn parts(&self, rows: &Range<u32>, is_wanted: impl Fn(usize) -> bool) -> Vec<Range<u32>> {
        let mut out: Vec<Range<u32>> = Vec::new();
        if rows.is_empty() {
            return out;
        }
        for page in (self.of_row(rows.start)..=self.of_row(rows.end - 1)).filter(|page| is_wanted(*page)) {
            let all = self.rows(page);
            let part = all.start.max(rows.start)..all.end.min(rows.end);
            match out.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => out.push(part),
            }
        }
        out
    }

    fn memory_bytes(&self) -> usize {
        self.offsets.capacity() * 8 + (self.sizes.capacity() + self.rows.capacity()) * 4
    }
}

impl BlockMeta {
    /// Reads the end of a file of `file_size` bytes. `tail` must reach from the block's `tail_offset`, or before, to
    /// the end of the file; if it is shorter, [`Error::NeedTail`] tells from where on it is needed.
    pub fn parse(tail: &Bytes, file_size: u64) -> Result<Self> {
        Self::read(&Tail::new(tail, file_size)?, Extra::Filters).map_err(|e| match e {
            Error::NotFetched { start, .. } => Error::NeedTail { offset: start },
            other => other,
        })
    }

    /// Reads what reading rows takes, and leaves out the filters, which are most of the end of a large block. `pieces` of a
    /// file of `file_size` bytes may be any; if one is lacking, [`Error::NotFetched`] tells which.
    pub fn parse_without_filters(pieces: &Fetched, file_size: u64) -> Result<Self> {
        Self::read(&Tail { pieces: pieces.clone(), file_size }, Extra::Nothing)
    }

    /// Reads what copying row groups takes, and the filters unless they are more than `filters_max` bytes; else as
    /// [`BlockMeta::parse_without_filters`].
    pub fn parse_for_copies(pieces: &Fetched, file_size: u64, filters_max: u64) -> Result<Self> {
        Self::read(&Tail { pieces: pieces.clone(), file_size }, Extra::Stored(filters_max))
    }

    fn read(tail: &Tail, extra: Extra) -> Result<Self> {
        let metadata = tail.footer()?;
        let pair = |key: &str| {
            let pairs = metadata.file_metadata().key_value_metadata()?;
            pairs.iter().find(|p| p.key == key).and_then(|p| p.value.as_deref())
        };
        let version = check_version(pair(KEY_VERSION).ok_or(Error::Foreign("no version in the footer"))?)?;
        let streams_at = pair(KEY_STREAMS).ok_or(Error::Foreign("no stream index"))?;
        let streams_at = Section::parse(streams_at)?;
        let pages_crc =
            pair(KEY_PAGES).ok_or_else(|| corrupt("footer", "no checksum of the pages"))?.to_owned();
        let filter_at = pair(KEY_FILTER).map(Section::parse).transpose()?;
        let words_at = pair(KEY_WORDS).map(Section::parse).transpose()?;
        let metadata_at = pair(KEY_METADATA).map(Section::parse).transpose()?;
        let sections = [Some(streams_at), filter_at, words_at, metadata_at];
        let tail_offset = sections.iter().flatten().map(|s| s.offset).min().unwrap_or(streams_at.offset);
        let filters = || [filter_at, words_at].iter().flatten().map(|s| s.length).sum::<u64>();
        let with_filters = match extra {
            Extra::Nothing => false,
            Extra::Filters => true,
            Extra::Stored(filters_max) => filters() <= filters_max,
        };
        let (filter_at, words_at) = if with_filters { (filter_at, words_at) } else { (None, None) };
        let mut streams = StreamIndex::open(tail.section(streams_at, "stream index")?)?;
        if let Some(at) = metadata_at {
            streams.set_metadata_sizes(tail.section(at, "metadata sizes")?)?;
        }
        let filter = match filter_at {
            Some(at) => Some(IdFilter::open(tail.section(at, "line filter")?)?),
            None => None,
        };
        let words = match words_at {
            Some(at) => Some(WordIndex::open(&tail.section(at, "word index")?)?),
            None => None,
        };
        let metadata = tail.with_page_index(metadata)?;
        let (pages, groups) = read_pages(&metadata, tail_offset)?;
        if pages_crc.parse() != Ok(page_table_crc(&pages, &groups)) {
            return Err(corrupt("page index", "the checksum does not match"));
        }
        let rows = pages.timestamp.rows.last().copied().unwrap_or(0);
        if u64::from(rows) != streams.totals().rows {
            let told = streams.totals().rows;
            return Err(corrupt("footer", format!("{rows} rows, the stream index tells {told}")));
        }
        if filter.as_ref().is_some_and(|f| f.pages() != pages.line.len()) {
            return Err(corrupt("line filter", "it covers other pages than the file has"));
        }
        if words.as_ref().is_some_and(|w| w.pages() != pages.line.len()) {
            return Err(corrupt("word index", "it covers other pages than the file has"));
        }
        let stored_groups = match extra {
            Extra::Stored(_) => stored_groups(&metadata, tail_offset),
            _ => Vec::new(),
        };
        let file_size = tail.file_size;
        Ok(Self { file_size, tail_offset, version, streams, filter, words, pages, groups, stored_groups })
    }

    /// Length of the file.
    pub fn file_size(&self) -> u64 {
        self.file_size
    }

    /// Where the rows end and the tail begins.
    pub fn tail_offset(&self) -> u64 {
        self.tail_offset
    }

    /// Version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The streams of the block.
    pub fn streams(&self) -> &StreamIndex {
        &self.streams
    }

    /// The id filter, unless the block was written without.
    pub fn filter(&self) -> Option<&IdFilter> {
        self.filter.as_ref()
    }

    /// The word index, unless the block was written without.
    pub fn words(&self) -> Option<&WordIndex> {
        self.words.as_ref()
    }

    /// Tells which line pages may hold lines that pass the predicate of `keys`.
    pub fn probe<'a>(&'a self, keys: &'a FilterKeys) -> PageProbe<'a> {
        PageProbe::new(self.filter.as_ref(), self.words.as_ref(), keys)
    }

    /// Number of rows.
    pub fn rows(&self) -> u32 {
        self.pages.timestamp.rows.last().copied().unwrap_or(0)
    }

    /// Whether any row has structured metadata.
    pub fn has_metadata(&self) -> bool {
        self.streams.totals().metadata_bytes > 0
    }

    /// Bytes of memory that this takes at most, for whoever caches it.
    pub fn memory_bytes(&self) -> usize {
        let p = &self.pages;
        let pages = [&p.timestamp, &p.nanos, &p.line, &p.metadata_key, &p.metadata_value];
        size_of::<Self>()
            + pages.iter().map(|p| p.memory_bytes()).sum::<usize>()
            + p.micros.capacity() * 16
            + self.groups.capacity() * size_of::<Group>()
            + self.streams.memory_bytes()
            + self.filter.as_ref().map_or(0, IdFilter::memory_bytes)
            + self.words.as_ref().map_or(0, WordIndex::memory_bytes)
    }

    /// The rows of the row group with this number.
    pub(crate) fn rows_of_group(&self, number: usize) -> Range<u32> {
        let end = self.groups.get(number + 1).map_or(self.rows(), |next| next.first_row);
        self.groups[number].first_row..end
    }

    /// The number of the row group that holds `row`.
    pub(crate) fn number_of_group(&self, row: u32) -> usize {
        self.groups.partition_point(|g| g.first_row <= row) - 1
    }

    /// The row group that holds `row`.
    pub(crate) fn group_of_row(&self, row: u32) -> &Group {
        &self.groups[self.number_of_group(row)]
    }
}

/// The end of a file, or pieces of it.
struct Tail {
    pieces: Fetched,
    file_size: u64,
}

impl Tail {
    fn new(bytes: &Bytes, file_size: u64) -> Result<Self> {
        let len = bytes.len() as u64;
        if len > file_size || file_size < 12 {
            return Err(corrupt("file", format!("a tail of {len} bytes of a file of {file_size}")));
        }
        let mut pieces = Fetched::new();
        pieces.insert(file_size - len, bytes.clone());
        Ok(Self { pieces, file_size })
    }

    fn slice(&self, range: Range<u64>, what: &'static str) -> Result<Bytes> {
        if range.start > range.end || range.end > self.file_size {
            return Err(corrupt(what, format!("bytes {range:?} of a file of {}", self.file_size)));
        }
        let (start, end) = (range.start, range.end);
        self.pieces.bytes(&range).ok_or(Error::NotFetched { start, end })
    }

    fn footer(&self) -> Result<ParquetMetaData> {
        if self.file_size < 12 {
            return Err(corrupt("file", format!("{} bytes are too few for one", self.file_size)));
        }
        let end = self.slice(self.file_size - 8..self.file_size, "footer")?;
        if end[4..] != MAGIC[..] {
            return Err(corrupt("file", "it does not end as a Parquet file does"));
        }
        let len = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
        if len + 12 > self.file_size {
            return Err(corrupt("footer", format!("{len} bytes in a file of {}", self.file_size)));
        }
        let footer = self.slice(self.file_size - 8 - len..self.file_size - 8, "footer")?;
        Ok(ParquetMetaDataReader::decode_metadata(&footer)?)
    }

    fn section(&self, at: Section, what: &'static str) -> Result<Bytes> {
        let end = at.offset.checked_add(at.length).ok_or_else(|| corrupt(what, "it has no end"))?;
        let bytes = self.slice(at.offset..end, what)?;
        if crc32fast::hash(&bytes) != at.crc {
            return Err(corrupt(what, "the checksum does not match"));
        }
        Ok(bytes)
    }

    fn with_page_index(&self, metadata: ParquetMetaData) -> Result<ParquetMetaData> {
        let mut decoder = ParquetMetaDataPushDecoder::try_new_with_metadata(self.file_size, metadata)?
            .with_page_index_policy(PageIndexPolicy::Optional);
        // Asks for one range; a second round would be a fault of the decoder.
        for _ in 0..3 {
            match decoder.try_decode()? {
                DecodeResult::Data(metadata) => return Ok(metadata),
                DecodeResult::NeedsData(ranges) => {
                    let bytes = ranges.iter().map(|r| self.slice(r.clone(), "page index"));
                    let bytes = bytes.collect::<Result<Vec<_>>>()?;
                    decoder.push_ranges(ranges, bytes)?;
                }
                DecodeResult::Finished => break,
            }
        }
        Err(corrupt("page index", "it can't be read"))
    }
}

fn read_pages(metadata: &ParquetMetaData, tail_offset: u64) -> Result<(ColumnPages, Vec<Group>)> {
    let (mut pages, mut groups, mut first_row) = (ColumnPages::default(), vec![], 0u32);
    if metadata.file_metadata().schema_descr().num_columns() != Column::ALL.len() {
        return Err(corrupt("footer", "other columns than a block has"));
    }
    for (i, group) in metadata.row_groups().iter().enumerate() {
        let offset_index = metadata.offset_index().and_then(|o| o.get(i));
        let locations = |c: Column| offset_index.and_then(|o| o.get(c as usize)).map(|o| o.page_locations());
        let rows = u32::try_from(group.num_rows()).ok().filter(|r| first_row.checked_add(*r).is_some());
        let rows = rows.ok_or_else(|| corrupt("footer", "more rows than a block can hold"))?;
        let p = &mut pages;
        for (column, target) in [
            (Column::Timestamp, &mut p.timestamp),
            (Column::Nanos, &mut p.nanos),
            (Column::Line, &mut p.line),
            (Column::MetadataKey, &mut p.metadata_key),
            (Column::MetadataValue, &mut p.metadata_value),
        ] {
            let chunk = group.columns().get(column as usize);
            check_codec(column, chunk.map(|c| c.compression()))?;
            let found = locations(column).ok_or_else(|| corrupt("page index", "a column has none"))?;
            for l in found {
                let size = u32::try_from(l.compressed_page_size).unwrap_or(0);
                let end = u64::try_from(l.offset).ok().and_then(|o| o.checked_add(u64::from(size)));
                let row = u32::try_from(l.first_row_index).ok().filter(|r| *r < rows);
                match (end, row) {
                    (Some(end), Some(row)) if size > 0 && end <= tail_offset => {
                        target.offsets.push(l.offset as u64);
                        target.sizes.push(size);
                        target.rows.push(first_row + row);
                    }
                    _ => return Err(corrupt("page index", "a page lies outside of the file")),
                }
            }
        }
        let index = metadata.column_index().and_then(|c| c.get(i)).and_then(|c| c.first());
        let Some(ColumnIndexMetaData::INT64(index)) = index else {
            return Err(corrupt("page index", "no bounds of timestamps"));
        };
        let bounds = index.min_values().iter().zip(index.max_values()).map(|(a, b)| (*a, *b));
        p.micros.extend(bounds);
        groups.push(Group { first_row, nanos_dictionary: nanos_dictionary(group, &locations, tail_offset)? });
        first_row += rows;
    }
    seal(&mut pages, first_row)?;
    Ok((pages, groups))
}

fn page_table_crc(pages: &ColumnPages, groups: &[Group]) -> u32 {
    let mut crc = PageTableCrc::default();
    // In the order of `READ_COLUMNS`.
    for p in [&pages.timestamp, &pages.nanos, &pages.line, &pages.metadata_key, &pages.metadata_value] {
        let places = p.offsets.iter().zip(&p.sizes).zip(&p.rows);
        places.for_each(|((offset, size), row)| crc.page(*offset, *size, *row));
    }
    pages.micros.iter().for_each(|(min, max)| crc.numbers(&[*min as u64, *max as u64]));
    groups.iter().for_each(|g| crc.numbers(&[g.nanos_dictionary.start]));
    crc.finish()
}

/// Blocks use one codec. A file that another tool has rewritten has no sections and is not read here.
fn check_codec(column: Column, found: Option<Compression>) -> Result<()> {
    let expected = match found {
        Some(Compression::ZSTD(_)) => column.is_compressed(),
        Some(Compression::UNCOMPRESSED) => !column.is_compressed(),
        _ => false,
    };
    if expected { Ok(()) } else { Err(corrupt("footer", format!("codec {found:?} of column {column:?}"))) }
}

fn nanos_dictionary<'a>(
    group: &parquet::file::metadata::RowGroupMetaData,
    locations: &impl Fn(Column) -> Option<&'a Vec<parquet::file::page_index::offset_index::PageLocation>>,
    tail_offset: u64,
) -> Result<Range<u64>> {
    let start = group.columns().get(Column::Nanos as usize).and_then(|c| c.dictionary_page_offset());
    let end = locations(Column::Nanos).and_then(|l| l.first()).map(|l| l.offset);
    match (start.and_then(|s| u64::try_from(s).ok()), end.and_then(|e| u64::try_from(e).ok())) {
        (Some(start), Some(end)) if start < end && end <= tail_offset && end - start < 1 << 20 => {
            Ok(start..end)
        }
        other => Err(corrupt("footer", format!("the dictionary of nanos lies at {other:?}"))),
    }
}

/// Adds the ends and checks that rows ascend and that columns that are read together are cut alike.
fn seal(pages: &mut ColumnPages, rows: u32) -> Result<()> {
    let p = pages;
    let all = [&mut p.timestamp, &mut p.nanos, &mut p.line, &mut p.metadata_key, &mut p.metadata_value];
    for column in all {
        column.rows.push(rows);
        let begins = rows == 0 || column.rows[0] == 0;
        if !begins || !column.rows.is_sorted_by(|a, b| a < b) {
            return Err(corrupt("page index", "pages do not follow each other"));
        }
    }
    if p.timestamp.rows != p.nanos.rows || p.metadata_key.rows != p.metadata_value.rows {
        return Err(corrupt("page index", "two columns that belong together are cut differently"));
    }
    if p.micros.len() != p.timestamp.len() {
        return Err(corrupt("page index", "pages without bounds"));
    }
    Ok(())
}
