//! Bringing the log back into memory at start.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use skald_model::{Batch, Error, Kind, Result, TenantId};
use skald_runtime::blocking;

use crate::core::Core;
use crate::flush::backoff;
use crate::quarantine;
use crate::segment::memory_cost;
use crate::table::Standing;
use crate::tenant::SealReason;
use crate::wal::{Lsn, Record, Replay};

/// Bytes of records after which no more are read at a time.
const READ_BYTES: usize = 1 << 20;
/// How often the table is asked how far it has come before the start fails.
const STANDING_TRIES: u32 = 8;
/// How long to wait for memory before saying so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Replays the log: what the table has already is left out, the rest goes to memory, and from there to the table as
/// soon as memory is full.
pub(crate) async fn replay(core: &Arc<Core>, replay: Replay) -> Result<()> {
    let started = std::time::Instant::now();
    let metrics = &core.metrics.wal;
    metrics.replay_active.set(1);
    let mut reading = blocking(move || read(replay));
    let mut known: FxHashMap<TenantId, Known> = FxHashMap::default();
    let (mut replayed, mut skipped, mut laid_aside) = (0u64, 0u64, 0u64);
    loop {
        let read_ahead = reading.await;
        let (replay, records) =
            read_ahead.map_err(|e| Error::internal(format!("the reader of the log panicked: {e}")))?;
        if records.is_empty() {
            break;
        }
        // The next ones are read while these are brought in.
        reading = blocking(move || read(replay));
        for next in records {
            let (record, batch) = next?;
            let of_tenant = match known.get(&record.tenant) {
                Some(known) => *known,
                None => {
                    let (standing, forgotten) = standing(core, &record.tenant).await?;
                    core.settle(&core.tenant(&record.tenant), standing);
                    let of_tenant = Known { committed: standing.committed, forgotten };
                    known.insert(record.tenant.clone(), of_tenant);
                    of_tenant
                }
            };
            if of_tenant.committed.is_some_and(|lsn| record.lsn <= lsn) {
                skipped += 1;
                continue;
            }
            if record.stamp.second <= of_tenant.forgotten {
                lay_aside(core, record, batch).await?;
                laid_aside += 1;
                continue;
            }
            insert(core, record, batch).await;
            replayed += 1;
        }
    }
    crate::flush::remove_covered(core).await;
    metrics.recovered_records.inc_by(replayed);
    metrics.replay_active.set(0);
    metrics.replay_seconds.set(started.elapsed().as_secs_f64());
    if replayed + skipped > 0 {
        tracing::info!(replayed, skipped, seconds = started.elapsed().as_secs_f64(), "replayed the log");
    }
    if laid_aside > 0 {
        tracing::error!(
            records = laid_aside,
            folder = %core.config.wal.dir.join("quarantine").display(),
            "the log holds entries so old that requests to delete them may have been forgotten; they were laid aside \
             and can be pushed again (skald push --format jsonl)"
        );
    }
    Ok(())
}

/// What the replay knows of a tenant.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The table has everything up to here.
    committed: Option<Lsn>,
    /// Delete requests up to this second may have been forgotten.
    forgotten: i64,
}

/// Lays a record aside instead of bringing it back. Until something newer of the tenant is in the table, it stays in the
/// log as well.
async fn lay_aside(core: &Arc<Core>, record: Record, batch: Batch) -> Result<()> {
    let (dir, tenant, lsn) = (core.config.wal.dir.clone(), record.tenant, record.lsn);
    let named = format!("failed to lay record {lsn} of tenant {tenant} aside");
    let written = blocking(move || quarantine::lay_aside(&dir, &tenant, lsn, &batch)).await;
    let written = written.map_err(|e| Error::internal(format!("{named}: {e}")))?;
    written.map(drop).map_err(|e| Error::internal(format!("{named}: {e}")))
}

/// How far the tenant's table has come, and until when its delete requests are forgotten. A store that is away for a moment does not end the start.
async fn standing(core: &Arc<Core>, tenant: &TenantId) -> Result<(Standing, i64)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let asked = async {
            let standing = core.table.standing(tenant).await?;
            Ok::<_, Error>((standing, core.table.forgotten(tenant).await?))
        };
        match asked.await {
            Ok(standing) => return Ok(standing),
            Err(error) if error.kind == Kind::Unavailable && tries < STANDING_TRIES => {
                let pause = backoff(tries, core.config.flush_op_backoff_max, tenant);
                tracing::warn!(%tenant, %error, ?pause, "the table can't be read yet; the replay waits for it");
                tokio::time::sleep(pause).await;
            }
            Err(error) => {
                return Err(error.context(&format!("failed to replay the log: the table of tenant {tenant}")));
            }
        }
    }
}

/// Reads and decodes some records; none at the end of the log. Nothing comes after an error.
fn read(mut replay: Replay) -> (Replay, Vec<Result<(Record, Batch)>>) {
    let (mut records, mut bytes) = (Vec::new(), 0);
    while bytes < READ_BYTES {
        let next = match replay.read_next() {
            Ok(None) => break,
            Ok(Some(record)) => {
                bytes += record.batch.len().max(1);
                decode(&record).map(|batch| (record, batch))
            }
            Err(e) => Err(e.into()),
        };
        let has_failed = next.is_err();
        records.push(next);
        if has_failed {
            break;
        }
    }
    (replay, records)
}

fn decode(record: &Record) -> Result<Batch> {
    Batch::decode(&record.batch, &decompress).map_err(|e| {
        Error::internal(format!(
            "failed to decode record {} of the write-ahead log, whose checksum is right: {e}; was it written by a newer \
             version?",
            record.lsn
        ))
    })
}

/// Decompresses a raw snappy block that must give `len` bytes.
pub(crate) fn decompress(block: &[u8], len: usize) -> Option<Vec<u8>> {
    // The length is checked before memory is taken for it.
    if snap::raw::decompress_len(block).ok()? != len {
        return None;
    }
    snap::raw::Decoder::new().decompress_vec(block).ok()
}

/// Puts a record into memory, flushing when there is too much in it.
async fn insert(core: &Arc<Core>, record: Record, mut batch: Batch) {
    batch.entries.compressed = None;
    // A budget that was made smaller since must not keep the log from being read.
    let bytes = memory_cost(&batch).min(core.memory.total());
    if core.memory.used() + bytes > core.config.replay_bytes() {
        for tenant in core.all() {
            core.seal_and_schedule(&tenant, SealReason::Replay);
        }
    }
    let reservation = loop {
        if let Some(reservation) = core.memory.reserve(bytes, PATIENCE).await {
            break reservation;
        }
        let failing = core.all().into_iter().find_map(|t| t.progress().borrow().error.clone());
        tracing::warn!(error = failing.map(|e| e.message), "the replay waits for flushes to free memory");
    };
    // Nothing else of the record is needed, and the batch may share its buffer.
    let Record { lsn, tenant, stamp, batch: _encoded } = record;
    core.replay(&tenant, batch, lsn, stamp, reservation);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_another_length_are_not_decompressed() {
        let block = snap::raw::Encoder::new().compress_vec(b"hello").unwrap();
        assert_eq!(decompress(&block, 5).as_deref(), Some(&b"hello"[..]));
        assert_eq!(decompress(&block, 6), None);
        assert_eq!(decompress(b"\xff\xff\xff\xff\x7f", 5), None);
    }
}
