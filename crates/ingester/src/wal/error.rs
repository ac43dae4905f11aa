//! What can go wrong with the log.

use std::path::{Path, PathBuf};

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the write-ahead log can't be opened, replayed or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("write-ahead log: {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },

    /// Bytes that were acknowledged are not what was written.
    #[error(
        "write-ahead log: {path} is damaged at byte {offset}: {reason}; restore the file, or set ingester.wal.corrupt_action to `skip` to start without the damaged records, which are then lost",
        path = path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },

    /// Another process works in the directory.
    #[error(
        "write-ahead log: {path} is in use by another process; give each ingester a directory of its own (ingester.wal.dir)",
        path = path.display()
    )]
    InUse {
        /// The lock file.
        path: PathBuf,
    },

    /// The identity of this instance can't be read.
    #[error("write-ahead log: {path} does not hold an instance id: {reason}", path = path.display())]
    Instance {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The log stopped taking records after a failure.
    #[error(
        "write-ahead log refuses writes after a failure: {0}; restart the ingester once the disk is well"
    )]
    Failed(String),

    /// No room; nothing was kept, and the log goes on once there is room.
    #[error("write-ahead log: no space left on the disk of {path}", path = path.display())]
    DiskFull {
        /// The directory.
        path: PathBuf,
    },

    /// One push is larger than a record may be.
    #[error("write-ahead log: a push of {len} bytes is over the largest record of {max} bytes")]
    TooLarge {
        /// Its encoded length.
        len: usize,
        /// The bound.
        max: usize,
    },

    /// The log is being closed.
    #[error("write-ahead log is closed: the ingester is shutting down")]
    Closed,
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Error::Io { action, path: path.to_owned(), source }
    }

    /// What the caller should do about it.
    pub fn kind(&self) -> skald_model::Kind {
        use skald_model::Kind;
        match self {
            Error::Closed | Error::DiskFull { .. } => Kind::Unavailable,
            Error::TooLarge { .. } => Kind::TooLarge,
            _ => Kind::Internal,
        }
    }
}

impl From<Error> for skald_model::Error {
    fn from(e: Error) -> Self {
        skald_model::Error::new(e.kind(), e.to_string())
    }
}
