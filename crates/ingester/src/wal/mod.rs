//! The write-ahead log: what makes an acknowledgement true.
//!
//! One log serves all tenants. Records go to one file after another (`00000000000000000007.wal`), by one thread that
//! writes everything that waits and syncs once for all of it. Each record has a log sequence number (LSN); LSNs only
//! grow, and every opening of the log begins a new *term*, far above the last, so that an LSN is never used twice
//! even if a power failure took the end of the log away. A whole file goes when the table has all that is in it.
//!
//! The order of LSNs is the order of [`Wal::append`], so a caller that appends and changes its memory under one lock
//! has both in the same order.

mod error;
mod files;
mod format;
mod marks;
mod replay;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skald_model::{Batch, PushStamp, TenantId};
use skald_runtime::Deterministic;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub use error::{Error, Result};
pub use replay::{Record, Replay};

use crate::metrics::WalMetrics;
use files::Files;
use format::FileHeader;
use writer::{Create, Job, Shared, Writer};

/// A log sequence number: the position of a record among all records of one log.
pub type Lsn = u64;

/// LSNs of one opening of the log; more than a process can ever use.
const TERM: u64 = 1 << 40;

/// What to do about damage that is not a torn tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CorruptAction {
    /// Do not start; the error names file and offset.
    #[default]
    Refuse,
    /// Go on behind the damage. The damaged records are lost; they are counted and logged.
    Skip,
}

/// Settings of the write-ahead log (`ingester.wal`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WalConfig {
    /// Whether there is a log at all. Without it a crash loses everything that was not flushed.
    pub enabled: bool,
    /// Its directory, of this ingester alone.
    pub dir: PathBuf,
    /// Whether an acknowledgement waits until the disk has the record. Off is faster on slow disks; then a crash of the
    /// process still loses nothing, but a power failure or a crash of the kernel loses acknowledged entries.
    pub fsync: bool,
    /// Bytes of one file of the log. Smaller files are given back sooner and cost a few more file creations.
    #[serde(with = "skald_runtime::units::bytes")]
    pub segment_bytes: u64,
    /// Bytes of pushes that may wait for the disk; more of them wait before they are taken in.
    #[serde(with = "skald_runtime::units::bytes")]
    pub queue_bytes: u64,
    /// Above this many bytes of log, tenants that keep the oldest files are flushed out of turn.
    #[serde(with = "skald_runtime::units::bytes")]
    pub size_target_bytes: u64,
    /// What to do at start about damage that a crash can't explain.
    pub corrupt_action: CorruptAction,
    /// Flush to the table before the process ends. Without it the next start replays the log.
    pub flush_on_shutdown: bool,
    /// While the log is replayed, flush when this many bytes are in memory; never more than three quarters of
    /// `ingester.memory_budget`.
    #[serde(with = "skald_runtime::units::bytes")]
    pub replay_memory_ceiling: u64,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            dir: "data/wal".into(),
            fsync: true,
            segment_bytes: 64 << 20,
            queue_bytes: 16 << 20,
            size_target_bytes: 1 << 30,
            corrupt_action: CorruptAction::Refuse,
            flush_on_shutdown: false,
            replay_memory_ceiling: 4 << 30,
        }
    }
}

/// The open log. Dropping it stops the writer without waiting; [`Wal::close`] waits.
#[derive(Debug)]
pub struct Wal {
    shared: Arc<Shared>,
    files: Arc<Files>,
    metrics: WalMetrics,
    room: Arc<Semaphore>,
    room_kib: u32,
    writing: Mutex<Writing>,
    writes_here: bool,
}

/// Where the writer is.
enum Writing {
    /// On a thread of its own.
    Thread(JoinHandle<()>),
    /// With whoever appends, because the thread must not hand anything to others.
    Here(Box<Writer>),
    Closed,
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Writing::Thread(_) => "Thread",
            Writing::Here(_) => "Here",
            Writing::Closed => "Closed",
        })
    }
}

/// A push in the form of the log, encoded and summed outside of all locks.
#[derive(Debug)]
pub struct EncodedRecord {
    prefix: Vec<u8>,
    head: Vec<u8>,
    body: Bytes,
    crc: u32,
}

/// A place in the queue of the log.
#[derive(Debug)]
pub struct Room(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// Tells when a record is on disk.
#[derive(Debug)]
pub struct Ack(oneshot::Receiver<skald_model::Result<()>>);

impl EncodedRecord {
    /// Encodes `batch`. Nothing of its body is copied.
    pub fn new(tenant: &TenantId, stamp: &PushStamp, batch: &Batch) -> Result<Self> {
        let (head, body) = batch.encode();
        let prefix = format::encode_prefix(tenant, stamp);
        let len = prefix.len() + head.len() + body.len();
        if len > format::PAYLOAD_LEN_MAX {
            return Err(Error::TooLarge { len, max: format::PAYLOAD_LEN_MAX });
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&prefix);
        crc.update(&head);
        crc.update(&body);
        Ok(Self { prefix, head, body, crc: crc.finalize() })
    }

    /// Bytes of the payload.
    pub fn payload_len(&self) -> usize {
        self.prefix.len() + self.head.len() + self.body.len()
    }
}

impl Ack {
    /// Waits until the record is on disk.
    pub async fn wait(self) -> skald_model::Result<()> {
        self.0.await.unwrap_or_else(|_| Err(Error::Closed.into()))
    }
}

impl Wal {
    /// Opens the log in `config.dir` for appending, and returns what an earlier process left in it for replay.
    ///
    /// Nothing may be appended before the replay has ended: only files that nothing was written after may have a torn tail.
    pub fn open(config: &WalConfig, metrics: &WalMetrics) -> Result<(Self, Replay)> {
        Self::open_on(config, metrics, writer::on_disk())
    }

    fn open_on(config: &WalConfig, metrics: &WalMetrics, create: Create) -> Result<(Self, Replay)> {
        std::fs::create_dir_all(&config.dir).map_err(|e| Error::io("creating", &config.dir, e))?;
        let files = Arc::new(Files::new(&config.dir));
        let replay = Replay::new(&files, config.corrupt_action, metrics)?;
        let shared = Arc::new(Shared::new(next_term(replay.headers(), files.highest_covered())));
        let sequence = replay.last_sequence().map_or(1, |s| s + 1);
        let writer = Writer::new(config, sequence, create, &files, metrics, &shared)?;
        let writing = match Deterministic::is_on() {
            true => Writing::Here(Box::new(writer)),
            false => {
                let thread = std::thread::Builder::new().name("skald-wal".into()).spawn(move || writer.run());
                Writing::Thread(thread.map_err(|e| Error::io("starting the writer of", &config.dir, e))?)
            }
        };
        let room_kib = kib(config.queue_bytes as usize).max(1);
        let wal = Self {
            shared,
            files,
            metrics: metrics.clone(),
            room: Arc::new(Semaphore::new(room_kib as usize)),
            room_kib,
            writing: Mutex::new(writing),
            writes_here: Deterministic::is_on(),
        };
        Ok((wal, replay))
    }

    /// Waits until there is room in the queue for `record`. Cancelling gives the place in the line up.
    pub async fn room_for(&self, record: &EncodedRecord) -> Result<Room> {
        let kib = kib(record.payload_len()).clamp(1, self.room_kib);
        let permit = self.room.clone().acquire_many_owned(kib).await.map_err(|_| Error::Closed)?;
        Ok(Room(permit))
    }

    /// Gives the record its LSN and its place in the queue. Does not block.
    pub fn append(&self, tenant: &TenantId, record: EncodedRecord, room: Room) -> Result<(Lsn, Ack)> {
        let (sender, receiver) = oneshot::channel();
        let lsn = self.shared.push(|lsn| Job { lsn, tenant: tenant.clone(), record, ack: sender, room })?;
        if self.writes_here
            && let Writing::Here(writer) = &mut *self.writing.lock()
        {
            writer.write_waiting();
        }
        Ok((lsn, Ack(receiver)))
    }

    /// The table has all records of `tenant` up to `lsn`.
    pub fn cover(&self, tenant: &TenantId, lsn: Lsn) {
        self.files.cover(tenant, lsn);
    }

    /// Deletes the files that nobody needs any more and returns how many; of the others the next start learns what of them
    /// the table has. Blocks on the file system.
    pub fn remove_covered(&self) -> Result<usize> {
        let removed = self.files.remove_unpinned(&self.metrics)?;
        self.files.mark_covered()?;
        Ok(removed)
    }

    /// Bytes of the log on disk.
    pub fn bytes(&self) -> u64 {
        self.files.bytes()
    }

    /// The tenants whose uncovered records keep the oldest files, as long as the log is over `bytes_max`.
    pub fn pinning_beyond(&self, bytes_max: u64) -> Vec<TenantId> {
        self.files.pinning_beyond(bytes_max)
    }

    /// Why the log refuses records, if it does.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// Writes and syncs what is queued, then stops. Appends after it fail. Blocks until the writer has ended.
    pub fn close(&self) {
        self.room.close();
        self.shared.close();
        match std::mem::replace(&mut *self.writing.lock(), Writing::Closed) {
            Writing::Thread(thread) => {
                if thread.join().is_err() {
                    tracing::error!("the writer of the write-ahead log panicked");
                }
            }
            Writing::Here(mut writer) => writer.finish(),
            Writing::Closed => {}
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Whether `dir` holds files of a log.
pub fn has_files(dir: &std::path::Path) -> Result<bool> {
    Ok(dir.exists() && !files::list(dir)?.is_empty())
}

/// The first LSN of the next term. A file whose header can't be read may have begun a term of its own.
/// The first LSN of the next term: above those of all files, and above what is marked as covered, should the files be gone.
fn next_term(headers: &[Option<FileHeader>], covered: Lsn) -> Lsn {
    let unreadable = headers.iter().filter(|h| h.is_none()).count() as u64;
    // A file may run over the end of a term by the records that fit in it.
    let known = headers.iter().flatten().map(|h| h.first_lsn).chain([covered]);
    let highest = known.map(|lsn| (lsn + (1 << 32)) / TERM).max().unwrap_or(0);
    (highest + unreadable + 1) * TERM
}

/// Bytes in units of the queue's semaphore, rounded up.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}
