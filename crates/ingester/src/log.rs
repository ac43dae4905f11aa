//! The log as the ingester uses it: written ahead, or switched off.

use std::sync::atomic::{AtomicU64, Ordering};

use skald_model::{Batch, PushStamp, Result, TenantId};

use crate::wal::{Ack, EncodedRecord, Lsn, Room, Wal};

/// The write-ahead log, or only the numbers it would give.
#[derive(Debug)]
pub(crate) enum Log {
    /// On disk.
    On(Wal),
    /// Switched off: nothing survives a crash.
    Off(AtomicU64),
}

impl Log {
    /// Encodes a batch and waits for its place in the queue.
    pub(crate) async fn admit(
        &self,
        tenant: &TenantId,
        stamp: &PushStamp,
        batch: &Batch,
    ) -> Result<Option<(EncodedRecord, Room)>> {
        let Log::On(wal) = self else { return Ok(None) };
        let record = EncodedRecord::new(tenant, stamp, batch)?;
        let room = wal.room_for(&record).await?;
        Ok(Some((record, room)))
    }

    /// Gives the next LSN; with a log also the acknowledgement to wait for.
    pub(crate) fn append(
        &self,
        tenant: &TenantId,
        record: Option<(EncodedRecord, Room)>,
    ) -> Result<(Lsn, Option<Ack>)> {
        match (self, record) {
            (Log::On(wal), Some((record, room))) => {
                let (lsn, ack) = wal.append(tenant, record, room)?;
                Ok((lsn, Some(ack)))
            }
            (Log::On(_), None) => Err(skald_model::Error::internal("a push came without its record")),
            (Log::Off(next), _) => Ok((next.fetch_add(1, Ordering::Relaxed), None)),
        }
    }

    /// The table has all of the tenant's records up to `lsn`.
    pub(crate) fn cover(&self, tenant: &TenantId, lsn: Lsn) {
        if let Log::On(wal) = self {
            wal.cover(tenant, lsn);
        }
    }

    /// Why records are refused, if they are.
    pub(crate) fn failure(&self) -> Option<String> {
        match self {
            Log::On(wal) => wal.failure(),
            Log::Off(_) => None,
        }
    }

    /// The log on disk, if there is one.
    pub(crate) fn wal(&self) -> Option<&Wal> {
        match self {
            Log::On(wal) => Some(wal),
            Log::Off(_) => None,
        }
    }
}
