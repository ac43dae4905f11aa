//! The data files of a table as the store has them, whether a commit names them or not.

use futures::TryStreamExt as _;
use object_store::ObjectStore as _;
use skald_model::TenantId;

use super::catalog::Catalog;
use super::error::Result;
use super::log::LOG_FOLDER;
use crate::store::delete_if_there;

/// A data file in the folder of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Path below the tenant's folder, as commits name it.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// When it was written last, seconds since the Unix epoch.
    pub modified: i64,
}

impl Catalog {
    /// All data files in the folder of a tenant's table, in order of their path.
    pub async fn data_files(&self, tenant: &TenantId) -> Result<Vec<DataFile>> {
        let folder = self.folder(tenant);
        let table = self.table(tenant);
        let listing = self.store.list(Some(&folder)).try_filter_map(|object| {
            let path = object.location.prefix_match(&folder).map(|parts| {
                let parts: Vec<String> = parts.map(|p| p.as_ref().to_owned()).collect();
                parts.join("/")
            });
            let is_data = |p: &String| p.ends_with(".parquet") && !p.starts_with(LOG_FOLDER);
            let file = path.filter(is_data).map(|path| DataFile {
                path,
                size: object.size,
                modified: object.last_modified.timestamp(),
            });
            std::future::ready(Ok(file))
        });
        let mut files: Vec<DataFile> =
            listing.try_collect().await.map_err(|e| table.failed("list the files", e))?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// Removes a data file for good. The caller knows that no version of the table that anybody needs names it, and that
    /// no commit under way will.
    pub async fn remove_file(&self, tenant: &TenantId, path: &str) -> Result<()> {
        let removed = delete_if_there(&self.store, &self.location(tenant, path)).await;
        removed.map_err(|e| self.table(tenant).failed("remove a file", e))
    }
}
