//! The stack and the catalog against a real S3-like server.
//!
//! Starts SeaweedFS (`weed` on the PATH, or the file that `SKALD_WEED` names) on free loopback ports with its
//! data in a temporary directory, and stops it at the end. Without it the test says so and passes.

#![expect(clippy::unwrap_used, reason = "what fails here is to fail the test")]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use prometheus::Registry;
use skald_model::{Digest, TenantId, time::DAY};
use skald_storage::store::{S3Config, Secret, StoreConfig, open};
use skald_storage::table::{
    BlockOrigin, BlockSummary, Catalog, CatalogConfig, FlushCommit, NewBlock, block_path,
};

const DATE: i32 = 20_000;
const BUCKET: &str = "skald-test";

struct Weed {
    child: Child,
    s3_port: u16,
    // Dropped after the server was stopped.
    _data: tempfile::TempDir,
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Weed {
    /// Starts a server and waits until its S3 port answers; `None` if there is no `weed` here.
    fn start() -> Option<Self> {
        let program = std::env::var("SKALD_WEED").unwrap_or_else(|_| "weed".into());
        Command::new(&program).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
        let data = tempfile::tempdir().unwrap();
        let identities = serde_json::json!({"identities": [{
            "name": "test",
            "credentials": [{"accessKey": "key", "secretKey": "secret"}],
            "actions": ["Admin", "Read", "Write", "List"],
        }]});
        let config = data.path().join("s3.json");
        std::fs::write(&config, identities.to_string()).unwrap();
        let [master, volume, filer, s3] = free_ports();
        let child = Command::new(&program)
            .args([
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-filer",
                "-s3",
                "-master.telemetry=false",
            ])
            .args(["-volume.max=20", "-master.volumeSizeLimitMB=64", "-s3.port.iceberg=0"])
            .arg(format!("-dir={}", data.path().display()))
            .arg(format!("-s3.config={}", config.display()))
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-s3.port={s3}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let weed = Self { child, s3_port: s3, _data: data };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", s3)).is_err() {
            assert!(Instant::now() < deadline, "SeaweedFS does not listen on port {s3}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(weed)
    }

    fn config(&self) -> S3Config {
        S3Config {
            endpoint: format!("127.0.0.1:{}", self.s3_port),
            bucketnames: BUCKET.into(),
            access_key_id: "key".into(),
            secret_access_key: Secret::new("secret"),
            s3forcepathstyle: true,
            insecure: true,
            ..Default::default()
        }
    }

    /// A store as a process of its own would open it. The server may need a moment more for its first write.
    async fn open(&self) -> Arc<dyn ObjectStore> {
        let config = StoreConfig { s3: Some(self.config()), ..Default::default() };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match open(&config, &Registry::new()).await {
                Ok(store) => return store,
                Err(e) => assert!(Instant::now() < deadline, "{e}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Free ports whose gRPC neighbours, 10000 above, are free as well.
fn free_ports<const N: usize>() -> [u16; N] {
    let mut held = Vec::new();
    while held.len() < N {
        let candidate = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = candidate.local_addr().unwrap().port();
        match port.checked_add(10_000).map(|grpc| TcpListener::bind(("127.0.0.1", grpc))) {
            Some(Ok(grpc)) => held.push((port, candidate, grpc)),
            _ => continue,
        }
    }
    std::array::from_fn(|n| held[n].0)
}

fn catalog(store: Arc<dyn ObjectStore>) -> Catalog {
    let config = CatalogConfig { checkpoint_interval: 10, ..Default::default() };
    Catalog::new(&config, store, "tables", &Registry::new()).unwrap()
}

fn tenant() -> TenantId {
    TenantId::new("fake").unwrap()
}

fn flush(app: &str, version: i64) -> FlushCommit {
    let start = i64::from(DATE) * DAY;
    let summary = BlockSummary {
        rows: 1,
        streams: 1,
        min_ts: start,
        max_ts: start + 5,
        file_size: 8,
        digest: Digest { count: 1, sum: 7 },
        ..Default::default()
    };
    let path = block_path(DATE, &format!("{app}-{version}"));
    let block = NewBlock { path, date: DATE, summary, origin: BlockOrigin::default(), stream_ids: None };
    FlushCommit { blocks: vec![block], app_id: app.into(), app_version: version }
}

async fn conditional_put_works(store: &dyn ObjectStore) {
    let path = Path::from("conditional");
    let create = || PutOptions { mode: PutMode::Create, ..Default::default() };
    store.put_opts(&path, "one".into(), create()).await.unwrap();
    let again = store.put_opts(&path, "two".into(), create()).await;
    assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one");
    store.delete(&path).await.unwrap();
}

async fn blocks_come_back_whole(weed: &Weed) {
    let catalog = catalog(weed.open().await);
    for length in [8usize, 35 << 20] {
        let bytes = Bytes::from((0..length).map(|n| (n % 251) as u8).collect::<Vec<_>>());
        let path = block_path(DATE, &format!("block-{length}"));
        catalog.put_block(&tenant(), &path, bytes.clone()).await.unwrap();
        let location = catalog.location(&tenant(), &path);
        let read = catalog.store().get(&location).await.unwrap().bytes().await.unwrap();
        assert!(read == bytes);
        let range = catalog.store().get_range(&location, 3..7).await.unwrap();
        assert_eq!(range, bytes.slice(3..7));
    }
}

async fn three_writers_lose_nothing(weed: &Weed) {
    let mut writers = Vec::new();
    for w in 0..3 {
        let catalog = catalog(weed.open().await);
        writers.push(tokio::spawn(async move {
            for version in 0..15 {
                catalog.commit_flush(&tenant(), &flush(&format!("i-{w}"), version)).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let reader = catalog(weed.open().await);
    let before = reader.snapshot(&tenant()).await.unwrap();
    assert_eq!(before.version, 44);
    assert_eq!(before.blocks.len(), 45);
    assert!((0..3).all(|w| before.txn(&format!("i-{w}")) == Some(14)));

    let maintained = reader.maintain(&tenant()).await.unwrap();
    assert_eq!(maintained.checkpoint, Some(44));
    let anew = catalog(weed.open().await);
    assert_eq!(anew.snapshot(&tenant()).await.unwrap(), before);
    assert_eq!(anew.tenants().await.unwrap(), [tenant()]);
}

async fn wrong_credentials_are_named(weed: &Weed) {
    let wrong = S3Config { secret_access_key: Secret::new("wrong"), ..weed.config() };
    let config = StoreConfig { s3: Some(wrong), ..Default::default() };
    let error = open(&config, &Registry::new()).await.unwrap_err().to_string();
    assert!(error.contains(BUCKET) && error.contains("common.storage.s3"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn works_on_seaweedfs() {
    let Some(weed) = Weed::start() else {
        println!(
            "note: no SeaweedFS here (weed is not on the PATH and SKALD_WEED is not set), nothing tested"
        );
        return;
    };
    conditional_put_works(&*weed.open().await).await;
    blocks_come_back_whole(&weed).await;
    three_writers_lose_nothing(&weed).await;
    wrong_credentials_are_named(&weed).await;
}
