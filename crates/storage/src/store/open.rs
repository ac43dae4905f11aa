//! Opening a store, and finding out at once whether it can be used.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};
use prometheus::Registry;

use super::config::{AzureConfig, GcsConfig, S3Config, StoreConfig};
use super::fault::FaultStore;
use super::instrumented::{InstrumentedStore, StoreMetrics};
use super::local::LocalStore;
use super::retry::{RetryPolicy, RetryStore};
use super::{Error, FilesystemConfig, Result};

/// Opens the store that `config` names, in all its layers, with its metrics in `registry`.
///
/// Before it returns it has written, refused to overwrite, and deleted a probe object, so that a directory that
/// can't be written and a bucket without conditional put are found at start and not at the first flush.
pub async fn open(config: &StoreConfig, registry: &Registry) -> Result<Arc<dyn ObjectStore>> {
    let metrics = StoreMetrics::new(registry).map_err(|e| Error::Config(e.to_string()))?;
    let core = open_core(config).await?;
    Ok(layered(core, config, metrics))
}

/// Wraps a store in the layers of production: faults if configured, one measurement per request, retries.
fn layered(core: Arc<dyn ObjectStore>, config: &StoreConfig, metrics: StoreMetrics) -> Arc<dyn ObjectStore> {
    let seed = RandomState::new().build_hasher().finish();
    let core = match &config.faults {
        Some(faults) => {
            tracing::warn!(faults = %String::from(faults.clone()), "injecting faults into the object store");
            Arc::new(FaultStore::new(core, faults.clone()))
        }
        None => core,
    };
    Arc::new(RetryStore::new(InstrumentedStore::new(core, metrics), RetryPolicy::default(), seed))
}

async fn open_core(config: &StoreConfig) -> Result<Arc<dyn ObjectStore>> {
    match (&config.filesystem, &config.s3, &config.gcs, &config.azure) {
        (None, None, None, None) => open_directory(&FilesystemConfig::default()).await,
        (Some(filesystem), None, None, None) => open_directory(filesystem).await,
        (None, Some(s3), None, None) => open_s3(s3).await,
        (None, None, Some(gcs), None) => open_gcs(gcs).await,
        (None, None, None, Some(azure)) => open_azure(azure).await,
        _ => Err(Error::Config("set only one of filesystem, s3, gcs and azure under common.storage".into())),
    }
}

async fn open_directory(config: &FilesystemConfig) -> Result<Arc<dyn ObjectStore>> {
    let shown = config.directory.display().to_string();
    let unusable =
        |source: Box<dyn std::error::Error + Send + Sync>| Error::Directory { path: shown.clone(), source };
    let directory = config.directory.clone();
    let opened = tokio::task::spawn_blocking(move || LocalStore::open(&directory)).await;
    let store = opened.map_err(|e| unusable(e.into()))?.map_err(|e| unusable(e.into()))?;
    let probed = probe(&store).await;
    store.tidy();
    match probed {
        Ok(()) => Ok(Arc::new(store)),
        Err(Probe::Failed(e)) => Err(unusable(e.into())),
        Err(Probe::Overwrote(outcome)) => {
            Err(unusable(format!("a second create of the same file {outcome}").into()))
        }
    }
}

async fn open_s3(config: &S3Config) -> Result<Arc<dyn ObjectStore>> {
    let bucket = required("s3.bucketnames", &config.bucketnames)?;
    if bucket.contains(',') {
        return Err(Error::Config(format!(
            "s3.bucketnames must name one bucket, not several (got {bucket:?})"
        )));
    }
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(client_options())
        .with_retry(retries());
    if !config.region.is_empty() {
        builder = builder.with_region(&config.region);
    }
    if !config.endpoint.is_empty() {
        let endpoint = endpoint_url(&config.endpoint, config.insecure);
        builder = builder.with_allow_http(endpoint.starts_with("http://"));
        builder = if config.s3forcepathstyle {
            builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false)
        } else {
            let host = endpoint.replacen("://", &format!("://{bucket}."), 1);
            builder.with_endpoint(host).with_virtual_hosted_style_request(true)
        };
    }
    if !config.access_key_id.is_empty() {
        builder = builder
            .with_access_key_id(&config.access_key_id)
            .with_secret_access_key(config.secret_access_key.reveal());
    }
    let place = format!("bucket {bucket:?}");
    finish(place, "common.storage.s3", builder.build()).await
}

async fn open_gcs(config: &GcsConfig) -> Result<Arc<dyn ObjectStore>> {
    let bucket = required("gcs.bucket_name", &config.bucket_name)?;
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(client_options())
        .with_retry(retries());
    if !config.service_account.is_empty() {
        builder = builder.with_service_account_key(config.service_account.reveal());
    }
    finish(format!("bucket {bucket:?}"), "common.storage.gcs", builder.build()).await
}

async fn open_azure(config: &AzureConfig) -> Result<Arc<dyn ObjectStore>> {
    let container = required("azure.container_name", &config.container_name)?;
    let account = required("azure.account_name", &config.account_name)?;
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_account(account)
        .with_container_name(container)
        .with_client_options(client_options())
        .with_retry(retries());
    if !config.account_key.is_empty() {
        builder = builder.with_access_key(config.account_key.reveal());
    }
    if !config.endpoint_suffix.is_empty() {
        builder = builder.with_endpoint(format!("https://{account}.{}", config.endpoint_suffix));
    }
    finish(format!("container {container:?}"), "common.storage.azure", builder.build()).await
}

async fn finish<S: ObjectStore>(
    place: String,
    setting: &'static str,
    built: object_store::Result<S>,
) -> Result<Arc<dyn ObjectStore>> {
    let store = built.map_err(|e| Error::Config(format!("{setting}: {e}")))?;
    match probe(&store).await {
        Ok(()) => Ok(Arc::new(store)),
        Err(Probe::Failed(source)) => Err(Error::Unusable { place, setting, source }),
        Err(Probe::Overwrote(outcome)) => Err(Error::NoConditionalPut { place, outcome }),
    }
}

fn required<'a>(name: &str, value: &'a str) -> Result<&'a str> {
    if value.is_empty() {
        return Err(Error::Config(format!("{name} is not set")));
    }
    Ok(value)
}

fn endpoint_url(endpoint: &str, insecure: bool) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    match (endpoint.contains("://"), insecure) {
        (true, _) => endpoint.to_owned(),
        (false, true) => format!("http://{endpoint}"),
        (false, false) => format!("https://{endpoint}"),
    }
}

fn client_options() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout(Duration::from_secs(30))
        .with_pool_idle_timeout(Duration::from_secs(90))
}

/// The clients' own retries, much shorter than their default of three minutes: a caller that waits on a
/// commit has to be told in time.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 5,
        retry_timeout: Duration::from_secs(15),
    }
}

/// Why a probe did not pass.
enum Probe {
    Failed(object_store::Error),
    Overwrote(String),
}

/// Writes an object, tries to create it a second time, and deletes it.
async fn probe(store: &dyn ObjectStore) -> std::result::Result<(), Probe> {
    let unique = RandomState::new().build_hasher().finish();
    let path = Path::from(format!(".skald-probe-{}-{unique:016x}", std::process::id()));
    let create = |text: &'static str| {
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        store.put_opts(&path, PutPayload::from_static(text.as_bytes()), options)
    };
    create("first").await.map_err(Probe::Failed)?;
    let second = create("second").await;
    let deleted = store.delete(&path).await;
    match second {
        Err(object_store::Error::AlreadyExists { .. }) => deleted.map_err(Probe::Failed),
        Err(object_store::Error::NotImplemented { .. }) => {
            Err(Probe::Overwrote("is not implemented by this store".into()))
        }
        Err(e) => Err(Probe::Failed(e)),
        Ok(_) => Err(Probe::Overwrote("overwrote it".into())),
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! The probe's verdict on a store of a test's choice.
    use super::*;

    pub(crate) async fn verdict<S: ObjectStore>(store: S) -> Result<Arc<dyn ObjectStore>> {
        finish("bucket \"test\"".into(), "common.storage.s3", Ok(store)).await
    }
}
