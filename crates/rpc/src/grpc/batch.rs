//! A push or batch on the wire.

use bytes::{Buf, BufMut, Bytes};
use prost::DecodeError;
use prost::encoding::{self, DecodeContext, WireType};
use skald_model::{Batch, Error, Push, Result};

/// The message `skald.v1.EncodedBatch`: written from two buffers, read as one that shares the received bytes.
///
/// The generated type would have one buffer, into which head and body had to be copied before they are copied into
/// the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EncodedBatch {
    head: Bytes,
    body: Bytes,
}

const DATA: u32 = 1;

impl EncodedBatch {
    pub(super) fn of_push(push: &Push) -> Self {
        let (head, body) = push.encode();
        Self { head: head.into(), body }
    }

    pub(super) fn of_batch(batch: &Batch) -> Self {
        let (head, body) = batch.encode();
        Self { head: head.into(), body }
    }

    pub(super) fn into_push(self) -> Result<Push> {
        Push::decode(&self.joined(), &decompress)
            .map_err(|e| Error::invalid(format!("failed to decode push: {e}")))
    }

    pub(super) fn into_batch(self) -> Result<Batch> {
        Batch::decode(&self.joined(), &decompress)
            .map_err(|e| Error::invalid(format!("failed to decode batch: {e}")))
    }

    fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Head and body in one piece; costs nothing for one that was received.
    fn joined(self) -> Bytes {
        if self.body.is_empty() {
            return self.head;
        }
        [self.head, self.body].concat().into()
    }
}

/// A snappy block cannot expand more than this, so a stated length beyond it is a lie that must not be allocated.
const SNAPPY_RATIO_MAX: usize = 255;

fn decompress(compressed: &[u8], len: usize) -> Option<Vec<u8>> {
    if snap::raw::decompress_len(compressed).ok()? != len || len / SNAPPY_RATIO_MAX > compressed.len() {
        return None;
    }
    let mut out = vec![0; len];
    snap::raw::Decoder::new().decompress(compressed, &mut out).ok().map(|_| out)
}

impl prost::Message for EncodedBatch {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if self.len() == 0 {
            return;
        }
        encoding::encode_key(DATA, WireType::LengthDelimited, buf);
        encoding::encode_varint(self.len() as u64, buf);
        buf.put_slice(&self.head);
        buf.put_slice(&self.body);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> std::result::Result<(), DecodeError> {
        if tag != DATA {
            return encoding::skip_field(wire_type, tag, buf, ctx);
        }
        self.body.clear();
        encoding::bytes::merge(wire_type, &mut self.head, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        match self.len() {
            0 => 0,
            len => encoding::key_len(DATA) + encoding::encoded_len_varint(len as u64) + len,
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}
