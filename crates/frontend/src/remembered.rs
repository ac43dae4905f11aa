//! Answers about the table that stay true: at one version it never changes.

use std::sync::Arc;

use skald_model::{GroupVolume, RemovalSpec, TenantId, TimeRange, VolumeSpec};
use skald_storage::table::Snapshot;

use crate::metadata::TableStreams;
use crate::removals::Left;

/// The table's parts of answers, within a budget of bytes. Clones share them.
#[derive(Clone)]
pub(crate) struct Cache(moka::sync::Cache<Key, Remembered>);

/// What an answer is about.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    tenant: TenantId,
    version: i64,
    start: i64,
    end: i64,
    selectors: Vec<String>,
    /// What was counted; `None` for the streams themselves.
    counted: Option<VolumeSpec>,
    /// What was not to be seen of the blocks, and which blocks were left out for it.
    removals: Option<Arc<RemovalSpec>>,
    gone: u64,
}

impl Key {
    pub(crate) fn new(
        tenant: &TenantId,
        snapshot: &Snapshot,
        range: TimeRange,
        selectors: &[String],
        counted: Option<&VolumeSpec>,
        left: &Left<'_>,
    ) -> Self {
        Self {
            tenant: tenant.clone(),
            version: snapshot.version,
            start: range.start,
            end: range.end,
            selectors: selectors.to_vec(),
            counted: counted.cloned(),
            removals: left.spec.clone(),
            gone: left.gone,
        }
    }
}

/// An answer.
#[derive(Clone)]
pub(crate) enum Remembered {
    /// Streams.
    Streams(Arc<TableStreams>),
    /// How much they hold.
    Volumes(Arc<Vec<GroupVolume>>),
}

impl Remembered {
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Streams(table) => table.memory_bytes(),
            Self::Volumes(groups) => {
                let group = |g: &GroupVolume| {
                    g.labels.packed().len() + 64 + g.steps.len() * size_of::<skald_model::StepVolume>()
                };
                groups.iter().map(group).sum()
            }
        }
    }
}

impl Cache {
    pub(crate) fn new(bytes: u64) -> Self {
        let weigh = |_: &Key, v: &Remembered| u32::try_from(v.memory_bytes() + 256).unwrap_or(u32::MAX);
        Self(moka::sync::Cache::builder().max_capacity(bytes).weigher(weigh).build())
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Remembered> {
        self.0.get(key)
    }

    pub(crate) fn insert(&self, key: Key, answer: Remembered) {
        self.0.insert(key, answer);
    }
}
