//! Which store, with Loki's names where the thing is the same.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fault::FaultConfig;

/// Where tables are kept: the one section that is filled in. Without any, the local directory `./data/chunks`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreConfig {
    /// A local directory. One process at a time; as durable as its disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemConfig>,
    /// Amazon S3 or anything that speaks its protocol with conditional put.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Config>,
    /// Google Cloud Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsConfig>,
    /// Azure Blob Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureConfig>,
    /// Faults to inject, for tests of the real process only. Not documented on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<FaultConfig>,
}

/// A local directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilesystemConfig {
    /// The directory; it is made if it is not there.
    #[serde(alias = "chunks_directory")]
    pub directory: PathBuf,
}

impl Default for FilesystemConfig {
    fn default() -> Self {
        Self { directory: "data/chunks".into() }
    }
}

/// S3 and its likes. Credentials that are not set come from the environment (`AWS_…`) or the instance's role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct S3Config {
    /// Host, `host:port` or URL of the service; empty means Amazon's of the region.
    pub endpoint: String,
    /// The bucket. Loki's key; Skald takes exactly one.
    pub bucketnames: String,
    /// The region; empty means `AWS_REGION` or else `us-east-1`, which most S3-likes ignore.
    pub region: String,
    /// Access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Secret,
    /// Address buckets as `endpoint/bucket`, as most S3-likes want, instead of `bucket.endpoint`.
    pub s3forcepathstyle: bool,
    /// Plain HTTP instead of HTTPS when `endpoint` names no scheme.
    pub insecure: bool,
}

/// Google Cloud Storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcsConfig {
    /// The bucket.
    pub bucket_name: String,
    /// The service account's key as JSON; empty means the environment's default credentials.
    pub service_account: Secret,
}

/// Azure Blob Storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AzureConfig {
    /// The storage account.
    pub account_name: String,
    /// Its key; empty means a managed identity or the environment.
    pub account_key: Secret,
    /// The container.
    pub container_name: String,
    /// The host after the account's name; empty means `blob.core.windows.net`.
    pub endpoint_suffix: String,
}

/// Text that is never shown: neither in logs nor by `config show`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the one place that has to hand it on.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it is not set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "<secret>" })
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "<secret>" })
    }
}
