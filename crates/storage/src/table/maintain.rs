//! Checkpoints, and cleaning up the log behind them: what keeps opening a table quick.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use deltalake_core::checkpoints::{cleanup_expired_logs_for, create_checkpoint};
use deltalake_core::logstore::{StorageConfig, default_logstore};
use deltalake_core::{DeltaTable, DeltaTableError};
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use url::Url;

use super::catalog::Catalog;
use super::error::{Error, Result};
use super::tenant::TenantTable;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// The version a checkpoint was written of, if one was due.
    pub checkpoint: Option<i64>,
    /// Files of the log that were removed.
    pub log_files_removed: usize,
}

pub(super) async fn maintain(catalog: &Catalog, table: &Arc<TenantTable>) -> Result<Maintained> {
    let snapshot = table.refresh().await?;
    let due = snapshot.version - table.checkpoint() >= catalog.config.checkpoint_interval.max(1) as i64;
    if snapshot.version < 0 || !due {
        return Ok(Maintained::default());
    }
    let failed = |what| {
        move |e: DeltaTableError| Error::Delta { what, tenant: table.tenant.clone(), reason: e.to_string() }
    };
    let version = snapshot.version as u64;
    let mut delta = open(table)?;
    delta.load_version(version).await.map_err(failed("open the table"))?;
    create_checkpoint(&delta, None).await.map_err(failed("checkpoint the table"))?;
    table.set_checkpoint(snapshot.version);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let cutoff_ms = now_ms - catalog.config.log_retention.as_millis() as i64;
    let removed = cleanup_expired_logs_for(version, delta.log_store().as_ref(), cutoff_ms, None).await;
    let log_files_removed = removed.map_err(failed("clean up the log of the table"))?;
    Ok(Maintained { checkpoint: Some(snapshot.version), log_files_removed })
}

/// The table as the Delta library sees it, through our own store.
fn open(table: &TenantTable) -> Result<DeltaTable> {
    // The library wants a URL to find the table below the root of a store; `memory` is one that it takes
    // without asking what kind of store that is.
    let mut url = Url::parse("memory:///").expect("a valid URL");
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(table.path.as_ref().split('/'));
    }
    let root: Arc<dyn ObjectStore> = Arc::clone(&table.store);
    let prefixed = Arc::new(PrefixStore::new(Arc::clone(&root), table.path.clone()));
    Ok(DeltaTable::new(default_logstore(prefixed, root, &url, &StorageConfig::default())))
}
