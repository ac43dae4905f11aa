//! What a compactor knows of the tables that it looks after, for people. Each process tells its own; nothing of it crosses the
//! wire.

use skald_model::Timestamp;

/// A tenant's table, as its compactor sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableStatus {
    /// The tenant.
    pub tenant: String,
    /// Version of its table.
    pub version: i64,
    /// Blocks, flushed ones among them.
    pub blocks: u64,
    /// Blocks as they were flushed.
    pub blocks_flushed: u64,
    /// Bytes of all blocks.
    pub bytes: u64,
    /// Bytes of all lines.
    pub raw_bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Time of the oldest entry, nanoseconds; absent without any.
    pub oldest_entry: Option<Timestamp>,
    /// Merges that are due.
    pub pending_merges: u64,
    /// Bytes that they read.
    pub pending_bytes: u64,
    /// Blocks that go, or are rewritten because something in them has to.
    pub pending_removals: u64,
    /// Delete requests that are not carried out yet.
    pub open_requests: u64,
    /// When the oldest of them was accepted, nanoseconds.
    pub oldest_request: Option<Timestamp>,
    /// Files that no version names and that wait to be removed.
    pub files_waiting: u64,
    /// Since when the first of them waits, nanoseconds.
    pub waiting_since: Option<Timestamp>,
    /// When it was looked at last, nanoseconds.
    pub last_run: Option<Timestamp>,
    /// What went wrong then, if something did.
    pub last_error: Option<String>,
    /// Bytes that were read by rewrites since the start of the process.
    pub rewritten_bytes_read: u64,
    /// Bytes that were written by them.
    pub rewritten_bytes_written: u64,
    /// Rows that retention and delete requests took out since then.
    pub rows_removed: u64,
    /// Files that were removed since then.
    pub files_removed: u64,
}

/// The compactor of this process.
pub trait Compaction: Send + Sync + 'static {
    /// The tables that it looks after, by tenant.
    fn tables(&self) -> Vec<TableStatus>;
}
