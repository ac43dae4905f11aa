//! One process's way to the object store that all share.
//!
//! Requests take time. What was sent happens even when its sender is gone by then: a commit of a process that was killed
//! may land after its successor has begun.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::dice;
use crate::network::Network;
use crate::trace::{Trace, note};

/// See the module's page.
pub(crate) struct SimStore {
    pub(crate) inner: Arc<InMemory>,
    pub(crate) network: Network,
    pub(crate) trace: Trace,
    /// Whose way it is.
    pub(crate) process: String,
    /// How often what is written is under way for seconds.
    pub(crate) slow_puts: f64,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStore({})", self.process)
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStore({})", self.process)
    }
}

impl SimStore {
    async fn travel(&self) {
        tokio::time::sleep(dice::between(1, 15)).await;
        self.network.awake(&self.process).await;
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.network.awake(&self.process).await;
        let (inner, trace, process) = (self.inner.clone(), self.trace.clone(), self.process.clone());
        let path = location.clone();
        let slow = dice::chance(self.slow_puts);
        let put = tokio::spawn(async move {
            let on_the_way = if slow { dice::between(500, 8000) } else { dice::between(1, 15) };
            tokio::time::sleep(on_the_way).await;
            let outcome = inner.put_opts(&path, payload, opts).await;
            note!(trace, "{process} put {path}: {}", if outcome.is_ok() { "ok" } else { "refused" });
            outcome
        });
        let outcome = put.await.map_err(|e| Error::JoinError { source: e })?;
        self.travel().await;
        outcome
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.travel().await;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.travel().await;
        let outcome = self.inner.get_opts(location, options).await;
        self.travel().await;
        outcome
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.travel().await;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = self.inner.clone();
        let delete = move |location: Result<Path>| {
            let inner = inner.clone();
            async move {
                let location = location?;
                inner.delete(&location).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.travel().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.travel().await;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.travel().await;
        self.inner.rename_opts(from, to, options).await
    }
}
