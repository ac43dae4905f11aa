//! Undoes what rewrites have done.

use skald_model::{Error, Result, TenantId};
use skald_storage::table::{Catalog, NewBlock, RewriteCommit};

use crate::vacuum::marks;

/// What a restore has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The version that the table has now.
    pub version: i64,
    /// Blocks that came back.
    pub added: usize,
    /// Blocks that went.
    pub removed: usize,
}

/// Takes back every rewrite (compaction, retention, deletion, an earlier restore) that was committed after `version`. What
/// was flushed since stays. The restore is a rewrite itself, so it can be taken back like any other.
///
/// Files that the table no longer names are removed after `delay` seconds, so that is how long a rewrite can be undone;
/// some of it is left for the restore itself.
///
/// # Errors
/// When the log or the files do not reach back so far, or another rewrite comes in between; nothing was changed then.
pub async fn restore(
    catalog: &Catalog,
    tenant: &TenantId,
    version: i64,
    now: i64,
    delay: i64,
) -> Result<Restored> {
    let base = catalog.snapshot(tenant).await?;
    if version < 0 || version > base.version {
        return Err(Error::invalid(format!(
            "the table of tenant {tenant} has versions up to {}, not {version}",
            base.version
        )));
    }
    let target = catalog.without_rewrites_since(tenant, version).await?.ok_or_else(|| {
        Error::invalid(format!(
            "the log of the table of tenant {tenant} does not reach back to version {version} (table.log_retention)"
        ))
    })?;
    let adds: Vec<NewBlock> = target
        .blocks
        .iter()
        .filter(|b| base.block(&b.path).is_none())
        .map(|b| NewBlock::from(&**b))
        .collect();
    let removes: Vec<String> =
        base.blocks.iter().filter(|b| target.block(&b.path).is_none()).map(|b| b.path.clone()).collect();
    if adds.is_empty() && removes.is_empty() {
        return Ok(Restored { version: base.version, added: 0, removed: 0 });
    }
    let files = catalog.data_files(tenant).await?;
    let marks = marks(catalog, tenant).await?;
    for block in &adds {
        let path = &block.path;
        if files.binary_search_by(|f| f.path.as_str().cmp(path)).is_err() {
            return Err(Error::invalid(format!(
                "version {version} of the table of tenant {tenant} needs {path}, which vacuum has removed \
                 (compactor.retention_delete_delay)"
            )));
        }
        if marks.since(path).is_some_and(|since| since + delay - delay / 8 <= now) {
            return Err(Error::invalid(format!(
                "version {version} of the table of tenant {tenant} needs {path}, which vacuum is about to remove \
                 (compactor.retention_delete_delay)"
            )));
        }
    }
    let (added, removed) = (adds.len(), removes.len());
    let commit = RewriteCommit { base, removes, adds, data_change: true, note: None };
    let committed = catalog.commit_rewrite(tenant, &commit).await?;
    Ok(Restored { version: committed.snapshot.version, added, removed })
}
