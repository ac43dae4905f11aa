//! What can go wrong with a block.

/// Why a block could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A Parquet file that Skald did not write, or that another tool has rewritten: its rows can be had through
    /// [`super::convert_foreign`].
    #[error("the file has no Skald sections: {0}")]
    Foreign(&'static str),
    /// A block of a later version of the format.
    #[error("the block has format version {found}, this build reads versions up to {known}")]
    Version {
        /// The version in the file.
        found: u32,
        /// The newest version that this build reads.
        known: u32,
    },
    /// The end of the file that was handed in is too short; fetch it from `offset` on and try again.
    #[error("the tail of the block begins at byte {offset}")]
    NeedTail {
        /// First byte needed.
        offset: u64,
    },
    /// The bytes are damaged.
    #[error("the block is damaged: {what}: {detail}")]
    Corrupt {
        /// Part of the file.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Bytes that a plan asked for were not handed in: a mistake of the caller.
    #[error("bytes {start}..{end} of the block were not fetched")]
    NotFetched {
        /// First byte.
        start: u64,
        /// First byte after the range.
        end: u64,
    },
    /// Rows were not fed in order (labels, stream id, timestamp).
    #[error("rows are out of order: {0}")]
    Order(String),
    /// A row or a file exceeds what the format can hold.
    #[error("{what} of {value} exceeds the format's limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// The Parquet library refused the file.
    #[error("failed to read the Parquet file: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// The destination refused bytes.
    #[error("failed to write the block: {0}")]
    Io(#[from] std::io::Error),
}

/// A result of block code.
pub type Result<T> = std::result::Result<T, Error>;

/// An [`Error::Corrupt`].
pub(crate) fn corrupt(what: &'static str, detail: impl Into<String>) -> Error {
    Error::Corrupt { what, detail: detail.into() }
}
