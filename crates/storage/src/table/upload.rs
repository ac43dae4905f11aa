//! Blocks that go to the store while they are written.

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt as _};
use skald_model::TenantId;

use super::catalog::Catalog;
use super::entry::NewBlock;
use super::error::Result;
use crate::store::delete_if_there;

/// A block on its way to the store. It has no name there before [`BlockUpload::finish`].
#[derive(Debug)]
pub struct BlockUpload<'a> {
    catalog: &'a Catalog,
    tenant: TenantId,
    path: String,
    part_bytes: usize,
    buffer: BytesMut,
    /// Of a block that has outgrown one request.
    parts: Option<Box<dyn MultipartUpload>>,
}

impl Catalog {
    /// Begins to upload a block to `path`, made by [`block_path`](super::block_path), a name that nobody else uses. Parts
    /// have `part_bytes`; a block of at most two parts goes off in one request.
    pub fn begin_block(&self, tenant: &TenantId, path: &str, part_bytes: usize) -> BlockUpload<'_> {
        BlockUpload {
            catalog: self,
            tenant: tenant.clone(),
            path: path.to_owned(),
            part_bytes: part_bytes.max(1),
            buffer: BytesMut::new(),
            parts: None,
        }
    }

    /// Deletes the files of blocks that no commit names or ever will: their names were made for a commit that was not
    /// tried, or that is known to have lost. What cannot be deleted now vacuum finds.
    pub async fn discard(&self, tenant: &TenantId, blocks: &[NewBlock]) {
        for block in blocks {
            let location = self.location(tenant, &block.path);
            if let Err(error) = delete_if_there(&self.store, &location).await {
                tracing::debug!(%tenant, path = block.path, %error, "left an unused file to vacuum");
            }
        }
    }
}

impl BlockUpload<'_> {
    /// Adds bytes.
    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<()> {
        let mut bytes: BytesMut = Bytes::from(bytes).into();
        let outcome = async {
            let goes_at_once = self.parts.is_none() && self.buffer.len() + bytes.len() <= 2 * self.part_bytes;
            if !self.buffer.is_empty() && !goes_at_once {
                // What completes a part is copied, the rest is not: it may be much.
                let missing = self.buffer.len().next_multiple_of(self.part_bytes) - self.buffer.len();
                self.buffer.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
                self.send_parts(bytes.is_empty()).await?;
            }
            match self.buffer.is_empty() {
                // Most blocks are small: their only bytes are not copied either.
                true => self.buffer = bytes,
                false => self.buffer.extend_from_slice(&bytes),
            }
            self.send_parts(true).await
        };
        let outcome = outcome.await;
        self.check(outcome).await
    }

    /// Completes the block. Durable when it returns; its path.
    pub async fn finish(mut self) -> Result<String> {
        let rest = self.buffer.split().freeze();
        let Some(upload) = &mut self.parts else {
            self.catalog.put_block(&self.tenant, &self.path, rest).await?;
            return Ok(self.path);
        };
        let completed = async {
            if !rest.is_empty() {
                upload.put_part(rest.into()).await?;
            }
            upload.complete().await.map(drop)
        };
        let outcome = completed.await;
        self.check(outcome).await?;
        Ok(self.path)
    }

    /// Sends off what is there in whole parts; of what may be the end of the block something is left.
    async fn send_parts(&mut self, may_end: bool) -> object_store::Result<()> {
        if self.parts.is_none() {
            if may_end && self.buffer.len() <= 2 * self.part_bytes {
                return Ok(());
            }
            let location: Path = self.catalog.location(&self.tenant, &self.path);
            self.parts = Some(self.catalog.store.put_multipart(&location).await?);
        }
        let Some(upload) = &mut self.parts else { return Ok(()) };
        while self.buffer.len() > self.part_bytes || (!may_end && self.buffer.len() == self.part_bytes) {
            let part = self.buffer.split_to(self.part_bytes).freeze();
            upload.put_part(part.into()).await?;
        }
        Ok(())
    }

    /// Gives up a failed upload.
    async fn check(&mut self, outcome: object_store::Result<()>) -> Result<()> {
        let Err(e) = outcome else { return Ok(()) };
        if let Some(mut upload) = self.parts.take()
            && let Err(error) = upload.abort().await
        {
            tracing::debug!(tenant = %self.tenant, path = self.path, %error, "failed to abort an upload");
        }
        Err(self.catalog.table(&self.tenant).failed("upload a block", e))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;
    use prometheus::Registry;
    use proptest::prelude::*;

    use super::*;
    use crate::table::CatalogConfig;

    proptest! {
        #[test]
        fn whatever_the_pieces_the_file_is_their_sum(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..12),
            part_bytes in 1usize..9,
        ) {
            let store = Arc::new(InMemory::new());
            let catalog =
                Catalog::new(&CatalogConfig::default(), store.clone(), "", &Registry::new()).unwrap();
            let tenant = TenantId::new("t").unwrap();
            let file = futures::executor::block_on(async {
                let mut upload = catalog.begin_block(&tenant, "date=2026-01-01/x", part_bytes);
                for piece in &pieces {
                    upload.write(piece.clone()).await.unwrap();
                }
                let path = upload.finish().await.unwrap();
                store.get(&catalog.location(&tenant, &path)).await.unwrap().bytes().await.unwrap()
            });
            prop_assert_eq!(&file[..], &pieces.concat()[..]);
        }
    }
}
