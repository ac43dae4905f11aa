//! What the table owes the archive.
//!
//! Two tables cannot be committed together. So what is about to leave the table is uploaded to the archive first and listed in
//! a file there; the commit that takes it from the table notes the number of that list; then the list is committed to the
//! archive, and removed. Whoever finds a number noted whose list is still there takes the last step, and nobody notes
//! another one before. So every entry comes into the archive exactly once, whenever a compactor dies, and whoever else works
//! on the same table at the same time. Lists whose commit lost, and their files, are garbage.

use std::sync::Arc;

use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use skald_model::TenantId;
use skald_storage::store::{delete_if_there, read_if_there};
use skald_storage::table::{Catalog, CopiesCommit, Error, NewBlock, Result, Snapshot};

use crate::Compactor;

/// The application whose version in a table is the number of the list that its last commit with one noted.
const APP: &str = "skald.archive";
/// Where lists lie. No tenant can have this name.
const FOLDER: &str = "_skald/archive";
/// Numbers grow by up to this, so that two that are chosen at the same time differ.
const STEP: u64 = 1 << 32;

/// The lists of a tenant.
pub(crate) struct Outbox<'a> {
    archive: &'a Catalog,
    tenant: &'a TenantId,
}

impl<'a> Outbox<'a> {
    pub(crate) fn new(archive: &'a Catalog, tenant: &'a TenantId) -> Self {
        Self { archive, tenant }
    }

    /// Lists `blocks`, whose files lie in the archive. Returns what the commit on top of `base` has to note.
    pub(crate) async fn put(&self, base: &Snapshot, blocks: &[NewBlock]) -> Result<(String, i64)> {
        let step = 1 + skald_runtime::random() % STEP;
        let number = base.txn(APP).unwrap_or(0).saturating_add_unsigned(step);
        let text = serde_json::to_vec(blocks).map_err(|e| self.damaged(number, &e.to_string()))?;
        let written = self.store().put(&self.place(number), text.into()).await;
        written.map_err(|e| self.failed("list what is to be archived", e))?;
        Ok((APP.to_owned(), number))
    }

    async fn get(&self, number: i64) -> Result<Option<Vec<NewBlock>>> {
        let text = read_if_there(self.store(), &self.place(number)).await;
        let text = text.map_err(|e| self.failed("read what is to be archived", e))?;
        let parse = |text| serde_json::from_slice(text).map_err(|e| self.damaged(number, &e.to_string()));
        text.as_deref().map(parse).transpose()
    }

    async fn remove(&self, place: &Path) -> Result<()> {
        let removed = delete_if_there(self.store(), place).await;
        removed.map_err(|e| self.failed("remove the list of what was archived", e))
    }

    /// Removes lists that were written before second `before` and that the table, as it is in `snapshot`, does not note:
    /// their commits have lost.
    pub(crate) async fn sweep(&self, snapshot: &Snapshot, before: i64) -> Result<()> {
        let noted = snapshot.txn(APP).map(|number| self.place(number));
        let lists = self.store().list(Some(&self.folder())).try_collect::<Vec<_>>().await;
        let lists = lists.map_err(|e| self.failed("look for lists of what is to be archived", e))?;
        for list in lists {
            if list.last_modified.timestamp() < before && noted.as_ref() != Some(&list.location) {
                self.remove(&list.location).await?;
            }
        }
        Ok(())
    }

    fn folder(&self) -> Path {
        Path::from(format!("{FOLDER}/{}", self.tenant))
    }

    fn place(&self, number: i64) -> Path {
        self.folder().join(format!("{number:016x}.json"))
    }

    fn store(&self) -> &Arc<dyn ObjectStore> {
        self.archive.store()
    }

    fn failed(&self, what: &'static str, source: object_store::Error) -> Error {
        Error::Store { what, tenant: self.tenant.clone(), source: Arc::new(source) }
    }

    fn damaged(&self, number: i64, reason: &str) -> Error {
        Error::Damaged { table: self.place(number).to_string(), reason: reason.to_owned() }
    }
}

impl Compactor {
    /// Commits to the archive what the table, as it is in `snapshot`, notes that it owes.
    pub(crate) async fn deliver(&self, tenant: &TenantId, snapshot: &Snapshot) -> Result<()> {
        let (Some(archive), Some(number)) = (&self.parts.archive, snapshot.txn(APP)) else { return Ok(()) };
        if self.delivered.lock().get(tenant) == Some(&number) {
            return Ok(());
        }
        let outbox = Outbox::new(archive, tenant);
        if let Some(blocks) = outbox.get(number).await? {
            let rows = blocks.iter().map(|b| b.summary.rows).sum::<u64>();
            let commit = CopiesCommit { blocks, app_id: APP.into(), covered: None };
            if !archive.commit_copies(tenant, &commit).await?.already {
                self.metrics.rows_archived.inc_by(rows);
                tracing::info!(%tenant, blocks = commit.blocks.len(), rows, "archived what has expired");
            }
            outbox.remove(&outbox.place(number)).await?;
        }
        self.delivered.lock().insert(tenant.clone(), number);
        Ok(())
    }
}
