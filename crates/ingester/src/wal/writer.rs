//! The thread that writes the log: group commit.

use std::fs::File;
use std::io::{IoSlice, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use skald_model::TenantId;
use tokio::sync::oneshot;

use super::error::{Error, Result};
use super::files::{Files, sync_dir};
use super::format::{FILE_HEADER_LEN, FileHeader, RECORD_HEADER_LEN, RecordHeader, VERSION};
use super::{EncodedRecord, Lsn, Room, WalConfig};
use crate::metrics::WalMetrics;

/// The most slices that one system call takes.
const SLICES_MAX: usize = 1024;

/// A record on its way to the disk.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) lsn: Lsn,
    pub(super) tenant: TenantId,
    pub(super) record: EncodedRecord,
    pub(super) ack: oneshot::Sender<skald_model::Result<()>>,
    #[expect(dead_code, reason = "held until the record is written")]
    pub(super) room: Room,
}

/// What appenders and the writer share.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug)]
struct Queue {
    jobs: Vec<Job>,
    next_lsn: Lsn,
    closing: bool,
    failure: Option<String>,
}

impl Shared {
    pub(super) fn new(next_lsn: Lsn) -> Self {
        let queue = Queue { jobs: Vec::new(), next_lsn, closing: false, failure: None };
        Self { queue: Mutex::new(queue), wake: Condvar::new() }
    }

    pub(super) fn push(&self, job: impl FnOnce(Lsn) -> Job) -> Result<Lsn> {
        let mut queue = self.queue.lock();
        if let Some(failure) = &queue.failure {
            return Err(Error::Failed(failure.clone()));
        }
        if queue.closing {
            return Err(Error::Closed);
        }
        let lsn = queue.next_lsn;
        queue.next_lsn += 1;
        queue.jobs.push(job(lsn));
        drop(queue);
        self.wake.notify_one();
        Ok(lsn)
    }

    pub(super) fn close(&self) {
        self.queue.lock().closing = true;
        self.wake.notify_one();
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.queue.lock().failure.clone()
    }

    fn fail(&self, reason: String) {
        self.queue.lock().failure = Some(reason);
    }

    fn take_waiting(&self) -> Vec<Job> {
        std::mem::take(&mut self.queue.lock().jobs)
    }

    /// Everything that waits; `None` when nothing more will come.
    fn take(&self) -> Option<Vec<Job>> {
        let mut queue = self.queue.lock();
        while queue.jobs.is_empty() && !queue.closing {
            self.wake.wait(&mut queue);
        }
        Some(std::mem::take(&mut queue.jobs)).filter(|jobs| !jobs.is_empty())
    }
}

/// A file of the log as the writer needs it; tests put a failing one in.
pub(super) trait LogFile: Send {
    fn write(&mut self, slices: &mut [IoSlice<'_>]) -> std::io::Result<()>;
    fn sync(&mut self) -> std::io::Result<()>;
    /// Cuts the file at `len` and goes on writing there.
    fn truncate(&mut self, len: u64) -> std::io::Result<()>;
}

/// Makes a new, empty file.
pub(super) type Create = Box<dyn Fn(&Path) -> std::io::Result<Box<dyn LogFile>> + Send>;

/// Files of the file system.
pub(super) fn on_disk() -> Create {
    Box::new(|path| Ok(Box::new(File::create_new(path)?)))
}

impl LogFile for File {
    fn write(&mut self, mut slices: &mut [IoSlice<'_>]) -> std::io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let count = slices.len().min(SLICES_MAX);
            match self.write_vectored(&slices[..count]) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut slices, n),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, len: u64) -> std::io::Result<()> {
        self.set_len(len)?;
        self.seek(SeekFrom::Start(len)).map(drop)
    }
}

pub(super) struct Writer {
    files: Arc<Files>,
    metrics: WalMetrics,
    shared: Arc<Shared>,
    create: Create,
    segment_bytes: u64,
    fsync: bool,
    file: Box<dyn LogFile>,
    sequence: u64,
    len: u64,
    /// Bytes of the file that are known to be on disk; stays at 0 without fsync.
    synced: u64,
}

impl Writer {
    pub(super) fn new(
        config: &WalConfig,
        sequence: u64,
        create: Create,
        files: &Arc<Files>,
        metrics: &WalMetrics,
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let first_lsn = shared.queue.lock().next_lsn;
        let file = create_file(&create, files, FileHeader { version: VERSION, sequence, first_lsn })?;
        Ok(Self {
            files: files.clone(),
            metrics: metrics.clone(),
            shared: shared.clone(),
            create,
            segment_bytes: config.segment_bytes,
            fsync: config.fsync,
            file,
            sequence,
            len: FILE_HEADER_LEN as u64,
            synced: 0,
        })
    }

    /// Writes group after group until the log is closed and the queue is empty.
    pub(super) fn run(mut self) {
        while let Some(jobs) = self.shared.take() {
            self.write_and_acknowledge(jobs);
        }
        self.finish();
    }

    /// Writes what waits, if anything does, as one group.
    pub(super) fn write_waiting(&mut self) {
        let jobs = self.shared.take_waiting();
        if !jobs.is_empty() {
            self.write_and_acknowledge(jobs);
        }
    }

    fn write_and_acknowledge(&mut self, jobs: Vec<Job>) {
        let outcome = self.write_group(&jobs).map_err(skald_model::Error::from);
        for job in jobs {
            // Whoever pushed may have gone away; the record stands all the same.
            let _ = job.ack.send(outcome.clone());
        }
    }

    /// The log is closed and nothing waits.
    pub(super) fn finish(&mut self) {
        if let Err(e) = self.file.sync() {
            tracing::warn!(error = %e, "failed to sync the write-ahead log on closing");
        }
        self.files.done(self.sequence);
    }

    /// All of the jobs are on disk, or an error. After an error other than a full disk nothing is written any more:
    /// after a failed sync nobody knows what the disk has.
    fn write_group(&mut self, jobs: &[Job]) -> Result<()> {
        if let Some(failure) = self.shared.failure() {
            return Err(Error::Failed(failure));
        }
        let start = (self.sequence, self.len);
        let Err(e) = self.write_and_sync(jobs) else { return Ok(()) };
        if is_disk_full(&e) && self.undo(start).is_ok() {
            self.metrics.disk_full_failures.inc();
            return Err(Error::DiskFull { path: self.files.dir().to_owned() });
        }
        tracing::error!(error = %e, "the write-ahead log failed; pushes are refused from now on");
        self.shared.fail(e.to_string());
        Err(Error::Failed(e.to_string()))
    }

    fn write_and_sync(&mut self, mut jobs: &[Job]) -> Result<()> {
        while let Some(first) = jobs.first() {
            let fitting = self.fitting(jobs);
            if fitting == 0 {
                self.rotate(first.lsn)?;
                continue;
            }
            self.write(&jobs[..fitting])?;
            jobs = &jobs[fitting..];
        }
        self.sync()
    }

    /// How many of the jobs go into this file: as many as it has room for, but at least one if it is empty.
    fn fitting(&self, jobs: &[Job]) -> usize {
        let empty = self.len == FILE_HEADER_LEN as u64;
        let mut len = self.len;
        let fits = |(i, job): &(usize, &Job)| {
            len += (RECORD_HEADER_LEN + job.record.payload_len()) as u64;
            len <= self.segment_bytes || (empty && *i == 0)
        };
        jobs.iter().enumerate().take_while(fits).count()
    }

    fn write(&mut self, jobs: &[Job]) -> Result<()> {
        let headers: Vec<_> = jobs
            .iter()
            .map(|job| {
                RecordHeader {
                    payload_len: job.record.payload_len() as u32,
                    lsn: job.lsn,
                    synced: self.synced,
                    payload_crc: job.record.crc,
                }
                .encode()
            })
            .collect();
        let mut slices = Vec::with_capacity(jobs.len() * 4);
        for (job, header) in jobs.iter().zip(&headers) {
            let r = &job.record;
            slices.extend([&header[..], &r.prefix, &r.head, &r.body].map(IoSlice::new));
        }
        let bytes: usize = slices.iter().map(|s| s.len()).sum();
        self.file.write(&mut slices).map_err(|e| Error::io("writing", &self.files.path(self.sequence), e))?;
        self.len += bytes as u64;
        self.files.set_len(self.sequence, self.len);
        for job in jobs {
            self.files.pin(self.sequence, &job.tenant, job.lsn);
        }
        self.metrics.records_logged.inc_by(jobs.len() as u64);
        self.metrics.bytes_logged.inc_by(bytes as u64);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        if self.fsync {
            let timer = self.metrics.sync_seconds.start_timer();
            self.sync_file()?;
            timer.observe_duration();
            self.synced = self.len;
        }
        Ok(())
    }

    fn sync_file(&mut self) -> Result<()> {
        self.file.sync().map_err(|e| Error::io("syncing", &self.files.path(self.sequence), e))
    }

    /// Goes on in a new file. The old one is synced in any case, so that only the last file can have a torn tail.
    fn rotate(&mut self, first_lsn: Lsn) -> Result<()> {
        self.sync_file()?;
        let header = FileHeader { version: VERSION, sequence: self.sequence + 1, first_lsn };
        self.file = create_file(&self.create, &self.files, header)?;
        self.files.done(self.sequence);
        self.sequence = header.sequence;
        self.len = FILE_HEADER_LEN as u64;
        self.synced = 0;
        self.metrics.disk_bytes.set(self.files.bytes() as i64);
        Ok(())
    }

    /// Takes back what a group wrote to the present file.
    fn undo(&mut self, (sequence, len): (u64, u64)) -> std::io::Result<()> {
        let len = if sequence == self.sequence { len } else { FILE_HEADER_LEN as u64 };
        self.file.truncate(len)?;
        self.len = len;
        self.files.set_len(self.sequence, len);
        Ok(())
    }
}

/// Creates a file with its header, both durable.
fn create_file(create: &Create, files: &Files, header: FileHeader) -> Result<Box<dyn LogFile>> {
    let path = files.path(header.sequence);
    let made = create(&path).and_then(|mut file| {
        file.write(&mut [IoSlice::new(&header.encode())])?;
        file.sync()?;
        Ok(file)
    });
    match made {
        Ok(file) => {
            sync_dir(files.dir())?;
            files.add(header.sequence, FILE_HEADER_LEN as u64);
            Ok(file)
        }
        Err(e) => {
            // A later attempt takes the same name.
            let _ = std::fs::remove_file(&path);
            Err(Error::io("creating", &path, e))
        }
    }
}

fn is_disk_full(e: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    // A failed sync is never undone, whatever the reason: the kernel may have dropped the pages.
    matches!(e, Error::Io { action, source, .. }
        if *action != "syncing" && matches!(source.kind(), StorageFull | QuotaExceeded))
}
