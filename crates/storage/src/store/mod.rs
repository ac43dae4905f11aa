//! The object store stack.
//!
//! An onion of the same trait: the real store at the core (a durable local directory, S3, GCS or Azure), around
//! it [`fault`] in tests, [`instrumented`] (one measurement per request that goes out) and [`retry`]. Callers
//! see an `Arc<dyn ObjectStore>` and can't tell which.

mod absent;
mod buffers;
mod config;
mod error;
pub mod fault;
pub mod instrumented;
mod local;
mod open;
pub mod retry;

pub use absent::{delete_if_there, read_if_there};
pub use config::{AzureConfig, FilesystemConfig, GcsConfig, S3Config, Secret, StoreConfig};
pub use error::{Error, Result};
pub use open::open;

#[cfg(test)]
mod tests;
