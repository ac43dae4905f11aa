//! The bytes of the log: a header per file, then records.
//!
//! ```text
//! file    "SKALDWAL" · u32 version (2) · u64 sequence · u64 first LSN · u32 crc32 of the 28 bytes before
//! record  u32 magic · u32 payload length · u64 LSN · u64 synced · u32 crc32 of the payload
//!         u32 crc32 of the 28 bytes before · payload
//! payload u8 tenant length · tenant · stamp (u64 origin · u64 sequence · i64 second) · encoded batch (head, body)
//! ```
//!
//! All numbers are little endian. The header of a record is checked before its length is believed. `synced` is the
//! length of the file that was known to be on disk when the record was written: damage before it, with a whole
//! record after it, is damage to something that had been acknowledged; damage beyond it is a torn write.

use bytes::Bytes;
use skald_model::{PushStamp, TenantId};

use super::Lsn;

/// The version that this build writes.
pub(crate) const VERSION: u32 = 2;
/// Bytes of a file's header.
pub(crate) const FILE_HEADER_LEN: usize = 32;
/// Bytes of a record's header.
pub(crate) const RECORD_HEADER_LEN: usize = 32;
/// The largest payload of one record in bytes.
pub(crate) const PAYLOAD_LEN_MAX: usize = 512 << 20;
/// The first bytes of a record, which make records findable behind damage.
pub(crate) const RECORD_MAGIC: [u8; 4] = [0xd7, b'S', b'k', 0x1e];

const FILE_MAGIC: &[u8; 8] = b"SKALDWAL";

/// What a file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    /// The version it was written in.
    pub(crate) version: u32,
    /// Its number, also its name.
    pub(crate) sequence: u64,
    /// No record in it has a lower LSN.
    pub(crate) first_lsn: Lsn,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> [u8; FILE_HEADER_LEN] {
        let mut out = [0; FILE_HEADER_LEN];
        out[..8].copy_from_slice(FILE_MAGIC);
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[12..20].copy_from_slice(&self.sequence.to_le_bytes());
        out[20..28].copy_from_slice(&self.first_lsn.to_le_bytes());
        let crc = crc32fast::hash(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; the error is the reason in words.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.get(..FILE_HEADER_LEN).ok_or("the header is cut short")?;
        if &bytes[..8] != FILE_MAGIC {
            return Err("not a write-ahead log of Skald".into());
        }
        if crc32fast::hash(&bytes[..28]) != u32_at(bytes, 28) {
            return Err("the header's checksum does not match".into());
        }
        let version = u32_at(bytes, 8);
        if !(1..=VERSION).contains(&version) {
            return Err(format!("version {version} of the log; this build reads versions 1 to {VERSION}"));
        }
        Ok(Self { version, sequence: u64_at(bytes, 12), first_lsn: u64_at(bytes, 20) })
    }
}

/// The part of a record before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) payload_len: u32,
    pub(crate) lsn: Lsn,
    /// Bytes of this file that were on disk when the record was written.
    pub(crate) synced: u64,
    pub(crate) payload_crc: u32,
}

impl RecordHeader {
    pub(crate) fn encode(&self) -> [u8; RECORD_HEADER_LEN] {
        let mut out = [0; RECORD_HEADER_LEN];
        out[..4].copy_from_slice(&RECORD_MAGIC);
        out[4..8].copy_from_slice(&self.payload_len.to_le_bytes());
        out[8..16].copy_from_slice(&self.lsn.to_le_bytes());
        out[16..24].copy_from_slice(&self.synced.to_le_bytes());
        out[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` unless `bytes` begin with a header whose checksum matches.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER_LEN)?;
        let sound = bytes[..4] == RECORD_MAGIC && crc32fast::hash(&bytes[..28]) == u32_at(bytes, 28);
        let header = Self {
            payload_len: u32_at(bytes, 4),
            lsn: u64_at(bytes, 8),
            synced: u64_at(bytes, 16),
            payload_crc: u32_at(bytes, 24),
        };
        (sound && header.payload_len as usize <= PAYLOAD_LEN_MAX).then_some(header)
    }
}

/// The part of a payload before the batch.
pub(crate) fn encode_prefix(tenant: &TenantId, stamp: &PushStamp) -> Vec<u8> {
    let name = tenant.as_str().as_bytes();
    let mut out = Vec::with_capacity(name.len() + 1 + PushStamp::ENCODED_LEN);
    out.push(u8::try_from(name.len()).expect("a tenant id has at most 150 bytes"));
    out.extend_from_slice(name);
    out.extend_from_slice(&stamp.encode());
    out
}

/// Takes a payload of a file of `version` apart: tenant, stamp, encoded batch.
pub(crate) fn decode_payload(payload: &Bytes, version: u32) -> Option<(TenantId, PushStamp, Bytes)> {
    let name_end = 1 + usize::from(*payload.first()?);
    let name = std::str::from_utf8(payload.get(1..name_end)?).ok()?;
    let rest = payload.get(name_end..)?;
    // Version 1 told the epoch of the push, whose length the log does not know: long ago is as good an answer.
    let (stamp, len) = match version {
        1 => (rest.first_chunk::<8>().map(|_| PushStamp::default())?, 8),
        _ => (PushStamp::decode(rest.first_chunk()?), PushStamp::ENCODED_LEN),
    };
    Some((TenantId::new(name).ok()?, stamp, payload.slice(name_end + len..)))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip_and_any_changed_bit_shows(
            sequence in any::<u64>(), lsn in any::<u64>(), len in 0..PAYLOAD_LEN_MAX as u32, synced in any::<u64>(),
            bit in 0usize..256,
        ) {
            let file = FileHeader { version: 1 + (len % 2), sequence, first_lsn: lsn };
            let record = RecordHeader { payload_len: len, lsn, synced, payload_crc: 7 };
            let (mut f, mut r) = (file.encode(), record.encode());
            prop_assert_eq!(FileHeader::decode(&f), Ok(file));
            prop_assert_eq!(RecordHeader::decode(&r), Some(record));
            f[bit / 8] ^= 1 << (bit % 8);
            r[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(FileHeader::decode(&f).is_err());
            prop_assert_eq!(RecordHeader::decode(&r), None);
        }

        #[test]
        fn payloads_round_trip_and_cut_ones_do_not_panic(n in any::<[u64; 2]>(), second in any::<i64>(), cut in 0usize..40) {
            let tenant = TenantId::new("team-a").unwrap();
            let stamp = PushStamp { origin: n[0], sequence: n[1] >> 1, second, partial: n[1] & 1 == 1 };
            let mut bytes = encode_prefix(&tenant, &stamp);
            bytes.extend_from_slice(b"batch");
            let bytes = Bytes::from(bytes);
            prop_assert_eq!(decode_payload(&bytes, VERSION), Some((tenant, stamp, Bytes::from_static(b"batch"))));
            let cut = bytes.slice(..cut.min(bytes.len()));
            let _ = (decode_payload(&cut, VERSION), decode_payload(&cut, 1));
        }
    }
}
