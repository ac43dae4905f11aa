//! Reading the log back at start.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;
use skald_model::{PushStamp, TenantId};

use super::error::{Error, Result};
use super::files::{Files, list};
use super::format::{
    FILE_HEADER_LEN, FileHeader, RECORD_HEADER_LEN, RECORD_MAGIC, RecordHeader, VERSION, decode_payload,
};
use super::{CorruptAction, Lsn};
use crate::metrics::WalMetrics;

/// A record as it was logged.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub lsn: Lsn,
    /// Whose push it was.
    pub tenant: TenantId,
    /// The push's stamp.
    pub stamp: PushStamp,
    /// The encoded [`skald_model::Batch`].
    pub batch: Bytes,
}

/// The records that an earlier process left, in the order of their LSNs.
///
/// Those that are marked as covered are left out. Each record it gives keeps its file until it is covered. The end of the log that a crash tore is cut off; any other
/// damage is an error, or is skipped if the configuration says so.
#[derive(Debug)]
pub struct Replay {
    files: Arc<Files>,
    metrics: WalMetrics,
    action: CorruptAction,
    headers: Vec<Option<FileHeader>>,
    todo: VecDeque<(u64, u64)>,
    current: Option<OpenFile>,
    last_lsn: Lsn,
}

#[derive(Debug)]
struct OpenFile {
    sequence: u64,
    version: u32,
    reader: BufReader<File>,
    offset: u64,
    len: u64,
    /// Whether nothing was written after this file.
    last: bool,
}

/// What is wrong at some place of a file.
type Damage = String;

impl Replay {
    pub(super) fn new(files: &Arc<Files>, action: CorruptAction, metrics: &WalMetrics) -> Result<Self> {
        let mut todo = VecDeque::new();
        let mut headers = Vec::new();
        for sequence in list(files.dir())? {
            let path = files.path(sequence);
            let failed = |e| Error::io("opening", &path, e);
            let mut file = File::open(&path).map_err(failed)?;
            let len = file.metadata().map_err(failed)?.len();
            let mut header = Vec::with_capacity(FILE_HEADER_LEN);
            file.by_ref().take(FILE_HEADER_LEN as u64).read_to_end(&mut header).map_err(failed)?;
            headers.push(FileHeader::decode(&header).ok());
            files.add(sequence, len);
            todo.push_back((sequence, len));
        }
        Ok(Self {
            files: files.clone(),
            metrics: metrics.clone(),
            action,
            headers,
            todo,
            current: None,
            last_lsn: 0,
        })
    }

    pub(super) fn headers(&self) -> &[Option<FileHeader>] {
        &self.headers
    }

    pub(super) fn last_sequence(&self) -> Option<u64> {
        self.todo.back().map(|(sequence, _)| *sequence)
    }

    /// The next record; `None` at the end. Blocks on the file system.
    pub fn read_next(&mut self) -> Result<Option<Record>> {
        loop {
            let Some(mut file) = self.current.take() else {
                match self.open_next()? {
                    true => continue,
                    false => return Ok(None),
                }
            };
            if file.offset == file.len {
                self.files.done(file.sequence);
                continue;
            }
            match file.read_record(self.last_lsn) {
                Ok(Ok(record)) => {
                    self.current = Some(file);
                    self.last_lsn = record.lsn;
                    if self.files.is_covered(&record.tenant, record.lsn) {
                        continue;
                    }
                    return Ok(Some(self.deliver(record)));
                }
                Ok(Err(damage)) => {
                    self.settle(&mut file, &damage)?;
                    self.current = Some(file);
                }
                Err(e) => return Err(Error::io("reading", &self.files.path(file.sequence), e)),
            }
        }
    }

    fn deliver(&self, record: RecordIn) -> Record {
        let RecordIn { file, lsn, tenant, stamp, batch } = record;
        self.files.pin(file, &tenant, lsn);
        Record { lsn, tenant, stamp, batch }
    }

    /// Opens the next file, after its header. False at the end of the log.
    fn open_next(&mut self) -> Result<bool> {
        let Some((sequence, len)) = self.todo.pop_front() else { return Ok(false) };
        let path = self.files.path(sequence);
        let failed = |e| Error::io("opening", &path, e);
        let mut reader = BufReader::with_capacity(64 << 10, File::open(&path).map_err(failed)?);
        let last = self.todo.iter().all(|(_, len)| *len <= FILE_HEADER_LEN as u64);
        let mut header = Vec::with_capacity(FILE_HEADER_LEN);
        reader.by_ref().take(FILE_HEADER_LEN as u64).read_to_end(&mut header).map_err(failed)?;
        let decoded = FileHeader::decode(&header);
        let version = decoded.as_ref().map_or(VERSION, |h| h.version);
        let mut file = OpenFile { sequence, version, reader, offset: header.len() as u64, len, last };
        if let Err(reason) = decoded {
            if last && len <= FILE_HEADER_LEN as u64 {
                // The crash came while the file was made; nothing was ever written to it. It must not stay: once other
                // files follow, a bad header is corruption.
                self.files.done(sequence);
                self.files.remove_unpinned(&self.metrics)?;
                return Ok(true);
            }
            file.offset = 0;
            self.corrupt(&mut file, &reason)?;
        }
        self.current = Some(file);
        Ok(true)
    }

    /// Cuts a torn tail off, or deals with corruption.
    fn settle(&mut self, file: &mut OpenFile, damage: &Damage) -> Result<()> {
        let acknowledged = !file.last || {
            let rest = self.rest(file)?;
            let whole = WholeRecords { bytes: &rest, at: 0 };
            { whole }.any(|(_, header)| header.synced > file.offset)
        };
        if acknowledged {
            return self.corrupt(file, damage);
        }
        let path = self.files.path(file.sequence);
        tracing::warn!(path = %path.display(), offset = file.offset, bytes = file.len - file.offset, reason = damage,
            "cut the torn end off the write-ahead log; nothing in it had been acknowledged");
        self.metrics.torn_tails.inc();
        let cut = || {
            let out = OpenOptions::new().write(true).open(&path)?;
            out.set_len(file.offset)?;
            out.sync_all()
        };
        cut().map_err(|e| Error::io("truncating", &path, e))?;
        self.files.set_len(file.sequence, file.offset);
        file.len = file.offset;
        Ok(())
    }

    /// Refuses, or goes on at the next whole record.
    fn corrupt(&mut self, file: &mut OpenFile, reason: &str) -> Result<()> {
        let path = self.files.path(file.sequence);
        self.metrics.corruptions.inc();
        if self.action == CorruptAction::Refuse {
            return Err(Error::Corrupt { path, offset: file.offset, reason: reason.to_owned() });
        }
        let rest = self.rest(file)?;
        // From the second byte on: a record may be whole and still wrong.
        let next = WholeRecords { bytes: &rest, at: 1 }.next().map_or(rest.len(), |(at, _)| at) as u64;
        tracing::error!(path = %path.display(), offset = file.offset, bytes = next, reason,
            "skipped damage in the write-ahead log; the records in it are lost");
        file.offset += next;
        file.reader.seek(SeekFrom::Start(file.offset)).map_err(|e| Error::io("reading", &path, e)).map(drop)
    }

    /// The bytes of the file from the damage on.
    fn rest(&self, file: &mut OpenFile) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        file.reader
            .seek(SeekFrom::Start(file.offset))
            .and_then(|_| file.reader.read_to_end(&mut rest))
            .map_err(|e| Error::io("reading", &self.files.path(file.sequence), e))?;
        // What a failed reader leaves behind its measured length does not count.
        rest.truncate((file.len - file.offset) as usize);
        Ok(rest)
    }
}

struct RecordIn {
    file: u64,
    lsn: Lsn,
    tenant: TenantId,
    stamp: PushStamp,
    batch: Bytes,
}

impl OpenFile {
    /// Reads the record at the offset and moves behind it; on damage the offset stays.
    fn read_record(&mut self, last_lsn: Lsn) -> std::io::Result<std::result::Result<RecordIn, Damage>> {
        let left = self.len - self.offset;
        if left < RECORD_HEADER_LEN as u64 {
            return Ok(Err(format!("{left} bytes are too few for a record")));
        }
        let mut header = [0; RECORD_HEADER_LEN];
        self.reader.read_exact(&mut header)?;
        let Some(header) = RecordHeader::decode(&header) else {
            return Ok(Err("no sound record header".into()));
        };
        let payload_len = u64::from(header.payload_len);
        if payload_len > left - RECORD_HEADER_LEN as u64 {
            return Ok(Err(format!("a record of {payload_len} bytes is cut short")));
        }
        let mut payload = vec![0; payload_len as usize];
        self.reader.read_exact(&mut payload)?;
        if crc32fast::hash(&payload) != header.payload_crc {
            return Ok(Err(format!("the checksum of record {} does not match", header.lsn)));
        }
        if header.lsn <= last_lsn {
            return Ok(Err(format!("record {} comes after record {last_lsn}", header.lsn)));
        }
        let Some((tenant, stamp, batch)) = decode_payload(&Bytes::from(payload), self.version) else {
            return Ok(Err(format!("record {} has no tenant", header.lsn)));
        };
        self.offset += RECORD_HEADER_LEN as u64 + payload_len;
        Ok(Ok(RecordIn { file: self.sequence, lsn: header.lsn, tenant, stamp, batch }))
    }
}

/// Whole records wherever they lie in some bytes.
struct WholeRecords<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for WholeRecords<'_> {
    type Item = (usize, RecordHeader);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let found = self.at + memmem::find(self.bytes.get(self.at..)?, &RECORD_MAGIC)?;
            self.at = found + 1;
            let Some(header) = RecordHeader::decode(&self.bytes[found..]) else { continue };
            let payload_start = found + RECORD_HEADER_LEN;
            let payload_end = payload_start + header.payload_len as usize;
            let whole = self
                .bytes
                .get(payload_start..payload_end)
                .is_some_and(|payload| crc32fast::hash(payload) == header.payload_crc);
            if whole {
                self.at = payload_end;
                return Some((found, header));
            }
        }
    }
}
