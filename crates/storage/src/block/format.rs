//! What a block looks like on disk: columns, sections, names.
//!
//! ```text
//! "PAR1"
//! row group 0: line pages, then the pages of the other columns      rows sorted by labels, stream id, timestamp
//! row group 1 …
//! stream index                                                      ← tail_offset
//! line filter
//! metadata sizes                                                    if any row has metadata
//! column index, offset index, footer, its length, "PAR1"
//! ```
//!
//! Readers that know only Parquet see six columns. Skald finds its sections through key-value pairs of the footer:
//! `skald.version`, `skald.streams`, `skald.filter` and `skald.metadata` as `offset:length:crc32` in decimal, and `skald.pages`, a checksum
//! of the places of pages. Pages have the checksums that Parquet knows. Version 1 is read by every later build; a new
//! section gets a new key, which old builds do not look for.

use super::error::{Error, Result, corrupt};

/// Version of the format that this build writes.
pub const VERSION: u32 = 1;

/// Footer key: version of the format.
pub const KEY_VERSION: &str = "skald.version";
/// Footer key: where the stream index lies.
pub const KEY_STREAMS: &str = "skald.streams";
/// Footer key: where the line filter lies.
pub const KEY_FILTER: &str = "skald.filter";
/// Footer key: where the word index lies.
pub const KEY_WORDS: &str = "skald.words";
/// Footer key: where the sizes of the streams' metadata lie.
pub const KEY_METADATA: &str = "skald.metadata";
/// Place of the list of pushes.
pub const KEY_PUSHES: &str = "skald.pushes";

/// Footer key: checksum of what the page index and the footer tell about pages, see [`PageTableCrc`].
pub const KEY_PAGES: &str = "skald.pages";

/// The first and the last four bytes of a Parquet file.
pub(crate) const MAGIC: &[u8; 4] = b"PAR1";

/// Most rows of a block: row numbers have 32 bits.
pub(crate) const BLOCK_ROWS: u64 = u32::MAX as u64;
/// Longest line or metadata of one row.
pub(crate) const ROW_BYTES: usize = 1 << 30;

/// The leaf columns in the order of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// Microseconds since the Unix epoch, rounded down.
    Timestamp,
    /// The nanoseconds left, 0 to 999.
    Nanos,
    /// The stream's id, its 64 bits as a signed number.
    StreamId,
    /// The stream's labels as a JSON object.
    Labels,
    /// The line.
    Line,
    /// Names of the structured metadata.
    MetadataKey,
    /// Values of the structured metadata.
    MetadataValue,
}

impl Column {
    pub(crate) const ALL: [Column; 7] = [
        Column::Timestamp,
        Column::Nanos,
        Column::StreamId,
        Column::Labels,
        Column::Line,
        Column::MetadataKey,
        Column::MetadataValue,
    ];

    /// Where the column's leaf lies in the schema.
    pub(crate) fn path(self) -> &'static [&'static str] {
        match self {
            Column::Timestamp => &["timestamp"],
            Column::Nanos => &["nanos"],
            Column::StreamId => &["stream_id"],
            Column::Labels => &["labels"],
            Column::Line => &["line"],
            Column::MetadataKey => &["metadata", "key_value", "key"],
            Column::MetadataValue => &["metadata", "key_value", "value"],
        }
    }

    pub(crate) fn physical(self) -> Physical {
        match self {
            Column::Timestamp | Column::StreamId => Physical::Int64,
            Column::Nanos => Physical::Int32,
            _ => Physical::ByteArray,
        }
    }

    /// Whether pages of the column are compressed. Packed numbers do not shrink any further.
    pub(crate) fn is_compressed(self) -> bool {
        self.physical() == Physical::ByteArray
    }

    /// Whether the column's values lie in a dictionary page.
    pub(crate) fn has_dictionary(self) -> bool {
        matches!(self, Column::Nanos | Column::StreamId | Column::Labels)
    }
}

/// Parquet's physical types, with their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Physical {
    Int32 = 1,
    Int64 = 2,
    ByteArray = 6,
}

/// Parquet's encodings that blocks use, with their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain = 0,
    Rle = 3,
    DeltaBinaryPacked = 5,
    DeltaLengthByteArray = 6,
    RleDictionary = 8,
}

/// Where a section lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) crc: u32,
}

impl Section {
    /// The section with these bytes at `offset`.
    pub(crate) fn of(bytes: &[u8], offset: u64) -> Self {
        Self { offset, length: bytes.len() as u64, crc: crc32fast::hash(bytes) }
    }

    /// The value under its key in the footer.
    pub(crate) fn to_text(self) -> String {
        format!("{}:{}:{}", self.offset, self.length, self.crc)
    }

    /// The inverse of [`Section::to_text`].
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split(':').map(str::parse::<u64>);
        let mut next = || {
            parts
                .next()
                .and_then(|p| p.ok())
                .ok_or_else(|| corrupt("footer", format!("{text:?} is not the place of a section")))
        };
        let (offset, length, crc) = (next()?, next()?, next()?);
        let crc = u32::try_from(crc).map_err(|_| corrupt("footer", "a checksum has more than 32 bits"))?;
        Ok(Self { offset, length, crc })
    }
}

/// The columns that queries read.
pub(crate) const READ_COLUMNS: [Column; 5] =
    [Column::Timestamp, Column::Nanos, Column::Line, Column::MetadataKey, Column::MetadataValue];

/// A checksum over all that readers take from the page index and the footer, which have none themselves: for each of
/// [`READ_COLUMNS`] the place and the first row of each page, then the bounds of the timestamp pages, then the places
/// of the dictionaries of `nanos`.
#[derive(Default)]
pub(crate) struct PageTableCrc(crc32fast::Hasher);

impl PageTableCrc {
    pub(crate) fn page(&mut self, offset: u64, size: u32, first_row: u32) {
        self.numbers(&[offset, u64::from(size), u64::from(first_row)]);
    }

    pub(crate) fn numbers(&mut self, all: &[u64]) {
        all.iter().for_each(|v| self.0.update(&v.to_le_bytes()));
    }

    pub(crate) fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// Refuses versions that this build does not know.
pub(crate) fn check_version(text: &str) -> Result<u32> {
    let found = text.parse().map_err(|_| corrupt("footer", format!("{text:?} is not a version")))?;
    if found == 0 || found > VERSION {
        return Err(Error::Version { found, known: VERSION });
    }
    Ok(found)
}
