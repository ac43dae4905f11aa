//! For benchmarks: a miner and one batch. Not part of the interface.

use skald_model::batch::Entries;
use skald_model::{Batch, BatchStream, EntryRef, Labels, StreamId, TenantId};

use super::{Config, Miner};

/// A miner at work on the same batch again and again.
#[derive(Debug)]
pub struct Bench {
    miner: Miner,
    tenant: TenantId,
    batch: Batch,
    now: i64,
}

impl Bench {
    /// A batch of `lines` in one stream, of which no line is left out.
    #[allow(clippy::missing_panics_doc, reason = "the name of the tenant is valid")]
    pub fn new(config: &Config, lines: &[String]) -> Self {
        let tenant = TenantId::new("bench").expect("the name is valid");
        let mut body = Vec::new();
        let mut refs = Vec::with_capacity(lines.len());
        for line in lines {
            let (line_start, line_len) = (body.len() as u32, line.len() as u32);
            refs.push(EntryRef { timestamp: 1, line_start, line_len, metadata_start: 0, metadata_len: 0 });
            body.extend_from_slice(line.as_bytes());
        }
        let labels = Labels::from_pairs([("service_name", "bench")]);
        let id = StreamId::of(&tenant, labels.as_ref());
        let streams = vec![BatchStream { id, labels, entries: 0..lines.len() as u32 }];
        let batch = Batch { streams, entries: Entries { body: body.into(), refs, ..Entries::default() } };
        let mut miner = Miner::new(config.clone());
        miner.without_sampling();
        Self { miner, tenant, batch, now: 1 }
    }

    /// Looks at all lines; returns how many were looked at.
    pub fn run(&mut self) -> u64 {
        self.miner.mine(&self.tenant, &self.batch, &self.batch.streams[0], self.now, 1).lines
    }
}
