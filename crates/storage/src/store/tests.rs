//! Tests of the layers, each and together.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use prometheus::Registry;

use super::fault::{Fault, FaultConfig, FaultStore, Request};
use super::instrumented::{InstrumentedStore, Operation, StoreMetrics};
use super::local::LocalStore;
use super::retry::{RetryPolicy, RetryStore};
use super::*;

type StoreResult<T> = object_store::Result<T>;

fn create() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..Default::default() }
}

fn directory(path: &std::path::Path) -> StoreConfig {
    let filesystem = FilesystemConfig { directory: path.to_owned() };
    StoreConfig { filesystem: Some(filesystem), ..Default::default() }
}

async fn read(store: &dyn ObjectStore, path: &str) -> Bytes {
    store.get(&Path::from(path)).await.unwrap().bytes().await.unwrap()
}

async fn paths(store: &dyn ObjectStore) -> Vec<String> {
    let mut paths: Vec<_> = store.list(None).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
    paths.sort();
    paths
}

#[tokio::test]
async fn a_directory_is_made_probed_and_left_empty() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("a/b");
    open(&directory(&path), &Registry::new()).await.unwrap();
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
}

#[tokio::test]
async fn an_unusable_directory_is_named_with_its_setting() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    for path in [file.join("sub"), file.clone()] {
        let error = open(&directory(&path), &Registry::new()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(text.contains("common.storage.filesystem.chunks_directory"), "{text}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
}

#[tokio::test]
async fn contradicting_and_lacking_settings_are_named() {
    let check = async |config: StoreConfig, words: &str| {
        let text = open(&config, &Registry::new()).await.unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    };
    let two = StoreConfig {
        filesystem: Some(Default::default()),
        s3: Some(Default::default()),
        ..Default::default()
    };
    check(two, "only one of").await;
    check(StoreConfig { s3: Some(Default::default()), ..Default::default() }, "s3.bucketnames is not set")
        .await;
    let several = S3Config { bucketnames: "a,b".into(), ..Default::default() };
    check(StoreConfig { s3: Some(several), ..Default::default() }, "must name one bucket").await;
    check(StoreConfig { gcs: Some(Default::default()), ..Default::default() }, "gcs.bucket_name").await;
    check(StoreConfig { azure: Some(Default::default()), ..Default::default() }, "azure.container_name")
        .await;
}

#[test]
fn settings_have_lokis_names_and_hide_secrets() {
    let text = r#"{"s3": {"endpoint": "127.0.0.1:8333", "bucketnames": "logs", "region": "r", "access_key_id": "k",
        "secret_access_key": "hush", "s3forcepathstyle": true, "insecure": true}}"#;
    let config: StoreConfig = serde_json::from_str(text).unwrap();
    let s3 = config.s3.as_ref().unwrap();
    assert_eq!(s3.secret_access_key.reveal(), "hush");
    assert!(s3.s3forcepathstyle && s3.insecure);
    assert!(!format!("{config:?}").contains("hush"));
    assert!(!serde_json::to_string(&config).unwrap().contains("hush"));
    let chunks: StoreConfig = serde_json::from_str(r#"{"filesystem": {"chunks_directory": "/x"}}"#).unwrap();
    assert_eq!(chunks.filesystem.unwrap().directory, std::path::Path::new("/x"));
}

/// A store that takes "create" for "overwrite", as S3-likes without conditional put do.
#[derive(Debug)]
struct Overwriting(InMemory);

impl std::fmt::Display for Overwriting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Overwriting")
    }
}

#[async_trait]
impl ObjectStore for Overwriting {
    async fn put_opts(&self, to: &Path, payload: PutPayload, _: PutOptions) -> StoreResult<PutResult> {
        self.0.put(to, payload).await
    }
    async fn put_multipart_opts(
        &self,
        to: &Path,
        o: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(to, o).await
    }
    async fn get_opts(&self, from: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.0.get_opts(from, options).await
    }
    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.0.get_ranges(from, ranges).await
    }
    fn delete_stream(
        &self,
        paths: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        self.0.delete_stream(paths)
    }
    /// As strict as those over HTTP: asking on after the end panics.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let listing = self.0.list(prefix);
        futures::stream::unfold(listing, |mut l| async move { l.next().await.map(|item| (item, l)) }).boxed()
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_bucket_that_overwrites_is_refused_and_left_empty() {
    let store = Arc::new(Overwriting(InMemory::new()));
    let error = open::testing::verdict(Arc::clone(&store)).await.unwrap_err();
    assert!(matches!(error, Error::NoConditionalPut { .. }));
    assert!(error.to_string().contains("does not honour conditional put"), "{error}");
    assert!(paths(&*store).await.is_empty());
    open::testing::verdict(InMemory::new()).await.unwrap();
}

#[tokio::test]
async fn local_creates_refuse_and_overwrites_replace() {
    let temp = tempfile::tempdir().unwrap();
    let store = LocalStore::open(temp.path()).unwrap();
    let path = Path::from("t/date=2026-01-01/x");
    store.put_opts(&path, "one".into(), create()).await.unwrap();
    let again = store.put_opts(&path, "two".into(), create()).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })));
    assert_eq!(read(&store, path.as_ref()).await, "one");
    store.put(&path, "three".into()).await.unwrap();
    assert_eq!(read(&store, path.as_ref()).await, "three");
    assert_eq!(std::fs::read_dir(temp.path().join(".staging")).unwrap().count(), 0);
    let root = store.list_with_delimiter(None).await.unwrap();
    assert_eq!(root.common_prefixes, [Path::from("t")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_local_creates_one_wins() {
    let temp = tempfile::tempdir().unwrap();
    let store = LocalStore::open(temp.path()).unwrap();
    for round in 0..20 {
        let path = Path::from(format!("t/{round}"));
        let puts = (0..8).map(|n| {
            let (store, path) = (store.clone(), path.clone());
            tokio::spawn(
                async move { store.put_opts(&path, format!("{n}").into(), create()).await.map(|_| n) },
            )
        });
        let results = futures::future::join_all(puts).await;
        let winners: Vec<_> = results.into_iter().filter_map(|r| r.unwrap().ok()).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(read(&store, path.as_ref()).await, winners[0].to_string());
    }
}

#[tokio::test]
async fn local_uploads_in_parts_appear_whole_or_not_at_all() {
    let temp = tempfile::tempdir().unwrap();
    let store = LocalStore::open(temp.path()).unwrap();
    let path = Path::from("t/x");
    let mut upload = store.put_multipart(&path).await.unwrap();
    let parts = [upload.put_part("ab".into()), upload.put_part("cd".into()), upload.put_part("e".into())];
    // Polled in another order than they were put.
    for part in parts.into_iter().rev() {
        part.await.unwrap();
    }
    assert!(store.head(&path).await.is_err());
    upload.complete().await.unwrap();
    assert_eq!(read(&store, "t/x").await, "abcde");

    let mut holed = store.put_multipart(&Path::from("t/y")).await.unwrap();
    drop(holed.put_part("ab".into()));
    holed.put_part("cd".into()).await.unwrap();
    assert!(holed.complete().await.is_err());
    let mut aborted = store.put_multipart(&Path::from("t/z")).await.unwrap();
    aborted.put_part("ab".into()).await.unwrap();
    aborted.abort().await.unwrap();
    drop((holed, aborted));
    assert_eq!(paths(&store).await, ["t/x"]);
    assert_eq!(std::fs::read_dir(temp.path().join(".staging")).unwrap().count(), 0);
}

#[tokio::test]
async fn staging_of_a_killed_process_is_cleared_once_old() {
    let temp = tempfile::tempdir().unwrap();
    let staging = temp.path().join(".staging");
    std::fs::create_dir(&staging).unwrap();
    let old = std::fs::File::create(staging.join("1-2#3")).unwrap();
    old.set_modified(std::time::SystemTime::now() - Duration::from_secs(7200)).unwrap();
    std::fs::File::create(staging.join("1-2#4")).unwrap();
    let store = LocalStore::open(temp.path()).unwrap();
    let left: Vec<_> = std::fs::read_dir(&staging).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["1-2#4"]);
    assert!(paths(&store).await.is_empty());
}

#[tokio::test]
async fn local_listings_are_in_order() {
    let temp = tempfile::tempdir().unwrap();
    let store = LocalStore::open(temp.path()).unwrap();
    let mut expected: Vec<_> = (0..40).map(|n| format!("t/{:02}/x", n * 7 % 40)).collect();
    for path in &expected {
        store.put(&Path::from(path.as_str()), "".into()).await.unwrap();
    }
    expected.sort();
    let found: Vec<_> = store.list(None).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
    assert_eq!(found, expected);
    let after = store.list_with_offset(None, &Path::from("t/20"));
    let after: Vec<_> = after.map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
    assert_eq!(after, expected[20..]);
}

#[test]
fn faults_are_read_from_text_and_bad_text_is_named() {
    let config: FaultConfig = "seed:42,error:0.05,lost:0.1,slow:0.2,torn:0.02,slow_ms_max:7".parse().unwrap();
    assert_eq!(
        (config.seed, config.error, config.lost, config.slow, config.torn),
        (42, 0.05, 0.1, 0.2, 0.02)
    );
    assert_eq!(config.slow_max, Duration::from_millis(7));
    assert_eq!(String::from(config.clone()).parse(), Ok(config));
    for bad in ["error", "error:2", "error:x", "seed:-1", "flood:0.1"] {
        assert!(bad.parse::<FaultConfig>().is_err(), "{bad}");
    }
}

async fn outcomes(seed: u64) -> Vec<bool> {
    let config = FaultConfig { seed, error: 0.2, lost: 0.2, ..Default::default() };
    let store = FaultStore::new(InMemory::new(), config);
    let mut outcomes = Vec::new();
    for n in 0..50 {
        outcomes.push(store.put(&Path::from(format!("{n}")), "x".into()).await.is_ok());
    }
    let counts = store.handle().counts();
    assert_eq!(counts.error + counts.lost, outcomes.iter().filter(|ok| !**ok).count() as u64);
    store.handle().set_enabled(false);
    assert_eq!(paths(&store).await.len() as u64, 50 - counts.error);
    outcomes
}

#[tokio::test]
async fn one_seed_gives_one_sequence_of_faults() {
    assert_eq!(outcomes(1).await, outcomes(1).await);
    assert_ne!(outcomes(1).await, outcomes(2).await);
}

#[tokio::test]
async fn armed_faults_do_what_they_say_once() {
    let store = FaultStore::new(InMemory::new(), FaultConfig::default());
    let handle = store.handle();
    let (data, commit) = (Path::from("t/x.parquet"), Path::from("t/_delta_log/0.json"));

    handle.arm(Request::Put, "_delta_log", Fault::Lost);
    store.put(&data, "12345678".into()).await.unwrap();
    assert!(store.put_opts(&commit, "c".into(), create()).await.is_err());
    assert_eq!(read(&store, commit.as_ref()).await, "c");

    handle.arm(Request::Put, "x.parquet", Fault::Torn);
    assert!(store.put(&data, "12345678".into()).await.is_err());
    assert_eq!(read(&store, data.as_ref()).await, "1234");

    store.delete(&commit).await.unwrap();
    handle.arm(Request::Put, "_delta_log", Fault::Torn);
    assert!(store.put_opts(&commit, "c".into(), create()).await.is_err());
    assert!(store.head(&commit).await.is_err());

    handle.arm(Request::Get, "", Fault::Error);
    handle.arm(Request::List, "", Fault::Error);
    handle.arm(Request::Delete, "", Fault::Lost);
    assert!(store.get(&data).await.is_err());
    assert!(store.list(None).try_collect::<Vec<_>>().await.is_err());
    assert!(store.delete(&data).await.is_err());
    assert!(paths(&store).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn retries_ride_out_what_passes_and_never_repeat_a_create() {
    let faults = FaultStore::new(InMemory::new(), FaultConfig::default());
    let handle = faults.handle();
    let metrics = StoreMetrics::unregistered();
    let store = RetryStore::new(InstrumentedStore::new(faults, metrics.clone()), RetryPolicy::default(), 7);
    let path = Path::from("x");

    (0..3).for_each(|_| handle.arm(Request::Put, "x", Fault::Error));
    store.put(&path, "abc".into()).await.unwrap();
    assert_eq!(metrics.requests(Operation::Upload), 4);

    (0..2).for_each(|_| handle.arm(Request::Get, "x", Fault::Lost));
    assert_eq!(read(&store, "x").await, "abc");
    assert_eq!(store.get_range(&path, 1..2).await.unwrap(), "b");
    assert_eq!(store.head(&path).await.unwrap().size, 3);
    let counted = [Operation::Get, Operation::GetRange, Operation::Attributes].map(|o| metrics.requests(o));
    assert_eq!(counted, [3, 1, 1]);

    handle.arm(Request::Put, "y", Fault::Lost);
    assert!(store.put_opts(&Path::from("y"), "1".into(), create()).await.is_err());
    assert_eq!(metrics.requests(Operation::Upload), 5);
    assert!(matches!(store.get(&Path::from("z")).await, Err(StoreError::NotFound { .. })));
    assert_eq!(metrics.requests(Operation::Get), 4);

    // For ever is too long: the policy ends it.
    (0..1000).for_each(|_| handle.arm(Request::Get, "x", Fault::Error));
    assert!(store.get(&path).await.is_err());
    assert!(metrics.requests(Operation::Get) < 100);
}

#[tokio::test]
async fn listings_pass_all_layers_whole_even_if_empty() {
    let core = Overwriting(InMemory::new());
    let faulty = FaultStore::new(core, FaultConfig::default());
    let measured = InstrumentedStore::new(faulty, StoreMetrics::unregistered());
    let store = RetryStore::new(measured, RetryPolicy::default(), 1);
    assert!(paths(&store).await.is_empty());
    for path in ["a", "b/c", "d"] {
        store.put(&Path::from(path), "x".into()).await.unwrap();
    }
    assert_eq!(paths(&store).await, ["a", "b/c", "d"]);
}

#[tokio::test]
async fn failures_are_counted_but_absence_is_none() {
    let registry = Registry::new();
    let faults = FaultStore::new(InMemory::new(), FaultConfig::default());
    let handle = faults.handle();
    let store = InstrumentedStore::new(faults, StoreMetrics::new(&registry).unwrap());
    assert!(store.get(&Path::from("x")).await.is_err());
    handle.arm(Request::Get, "x", Fault::Error);
    assert!(store.get(&Path::from("x")).await.is_err());
    store.list(None).try_collect::<Vec<_>>().await.unwrap();
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for line in [
        "loki_objstore_bucket_operations_total{operation=\"get\"} 2",
        "loki_objstore_bucket_operation_failures_total{operation=\"get\"} 1",
        "loki_objstore_bucket_operation_duration_seconds_count{operation=\"iter\"} 1",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}
