//! Tests of the catalog against stores that are well, slow, faulty, or not ours.

mod faults;
mod maintenance;
mod reads;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use prometheus::Registry;
use skald_model::time::DAY;
use skald_model::{Digest, TenantId};

use super::*;
use crate::store::fault::{FaultConfig, FaultHandle, FaultStore};
use crate::store::instrumented::{InstrumentedStore, StoreMetrics};
use crate::store::retry::{RetryPolicy, RetryStore};

const DATE: i32 = 20_000;

fn tenant() -> TenantId {
    TenantId::new("fake").unwrap()
}

fn catalog_on(store: Arc<dyn ObjectStore>) -> Catalog {
    catalog_with(&CatalogConfig::default(), store)
}

fn catalog_with(config: &CatalogConfig, store: Arc<dyn ObjectStore>) -> Catalog {
    Catalog::new(config, store, "tables", &Registry::new()).unwrap()
}

/// A store in memory with faults (none drawn unless configured) and counters.
struct Rig {
    memory: Arc<InMemory>,
    store: Arc<dyn ObjectStore>,
    faults: FaultHandle,
    metrics: StoreMetrics,
}

fn rig(config: FaultConfig) -> Rig {
    let memory = Arc::new(InMemory::new());
    let core: Arc<dyn ObjectStore> = memory.clone();
    let faulty = FaultStore::new(core, config);
    let (faults, metrics) = (faulty.handle(), StoreMetrics::unregistered());
    let policy = RetryPolicy { pause_min: Duration::from_millis(1), ..Default::default() };
    let store = Arc::new(RetryStore::new(InstrumentedStore::new(faulty, metrics.clone()), policy, 1));
    Rig { memory, store, faults, metrics }
}

fn block(name: &str) -> NewBlock {
    let start = i64::from(DATE) * DAY;
    let summary = BlockSummary {
        rows: 10,
        raw_bytes: 1000,
        streams: 2,
        min_ts: start + 17,
        max_ts: start + 1_000_018,
        file_size: 500,
        tail_offset: 400,
        digest: Digest { count: 10, sum: u128::MAX / 3 },
        label_values: [("app".to_owned(), Some(["a".to_owned(), "b".to_owned()].into()))].into(),
        ..Default::default()
    };
    let origin = BlockOrigin { received_min: 7, received_max: 7, writer: "i".into(), ..Default::default() };
    NewBlock { path: block_path(DATE, name), date: DATE, summary, origin, stream_ids: Some((-9, 9)) }
}

fn flush(app: &str, version: i64) -> FlushCommit {
    FlushCommit {
        blocks: vec![block(&format!("{app}-{version}"))],
        app_id: app.to_owned(),
        app_version: version,
    }
}

fn paths(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.blocks.iter().map(|b| b.path.as_str()).collect()
}
