//! Objects that need not be there.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, Result};

/// The content of an object, if it is there.
///
/// # Errors
/// When the store fails.
pub async fn read_if_there(store: &dyn ObjectStore, path: &Path) -> Result<Option<Bytes>> {
    let read = async { store.get(path).await?.bytes().await };
    match read.await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes an object; nothing happens if it is not there.
///
/// # Errors
/// When the store fails.
pub async fn delete_if_there(store: &dyn ObjectStore, path: &Path) -> Result<()> {
    match store.delete(path).await {
        Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
