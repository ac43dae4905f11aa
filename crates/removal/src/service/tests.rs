//! The service over a store in memory.

use object_store::ObjectStore;
use object_store::memory::InMemory;
use prometheus::Registry;
use skald_model::Kind;
use skald_model::time::SECOND;
use skald_runtime::clock::ManualClock;
use skald_storage::table::{
    BlockOrigin, BlockSummary, Catalog, CatalogConfig, FlushCommit, NewBlock, RewriteCommit, block_path,
};

use super::*;

const PERIOD: Duration = Duration::from_secs(3600);
const SETTLE: Duration = Duration::from_secs(60);
const CREATED: i64 = 1000 * SECOND;

struct Rig {
    catalog: Arc<Catalog>,
    lists: Arc<DeleteLists>,
    service: Service,
    clock: ManualClock,
}

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn rig() -> Rig {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let catalog = Arc::new(Catalog::new(&CatalogConfig::default(), store, "", &Registry::new()).unwrap());
    let lists = Arc::new(DeleteLists::new(catalog.clone()));
    let clock = ManualClock::new(CREATED);
    let service = Service::new(lists.clone(), Arc::new(clock.clone()), PERIOD, &Registry::new()).unwrap();
    Rig { catalog, lists, service, clock }
}

impl Rig {
    async fn add(&self, query: &str, start: i64, end: i64) -> Result<String> {
        self.service.add(NewDelete { tenant: tenant(), query: query.into(), start, end }).await
    }

    async fn progress(&self, id: &str) -> DeleteProgress {
        let all = self.service.list(&tenant()).await.unwrap();
        all.into_iter().find(|s| s.id == id).unwrap().progress
    }

    async fn finished(&self) -> Vec<String> {
        let now = self.clock.now();
        let snapshot = self.catalog.snapshot(&tenant()).await.unwrap();
        let loaded = self.lists.at(&tenant(), &snapshot).await.unwrap().unwrap();
        finished(&loaded, &snapshot, now, PERIOD, SETTLE)
    }
}

fn block(name: &str, size: u64, deletes: u64) -> NewBlock {
    let summary = BlockSummary {
        rows: 10,
        streams: 1,
        min_ts: 5 * SECOND,
        max_ts: 6 * SECOND,
        file_size: size,
        tail_offset: size - 1,
        label_values: [("app".to_owned(), Some(["a".to_owned()].into()))].into(),
        ..BlockSummary::default()
    };
    let origin = BlockOrigin { received_min: 7, received_max: 8, deletes, ..BlockOrigin::default() };
    NewBlock { path: block_path(0, name), date: 0, summary, origin, stream_ids: None }
}

#[tokio::test]
async fn a_request_goes_from_received_to_processed() {
    let rig = rig();
    let blocks = vec![block("one", 300, 0), block("two", 100, 0)];
    let flush = FlushCommit { blocks, app_id: "i".into(), app_version: 1 };
    rig.catalog.commit_flush(&tenant(), &flush).await.unwrap();
    let id = rig.add(r#"{app="a"}"#, 0, 10 * SECOND).await.unwrap();
    assert_eq!(rig.progress(&id).await, DeleteProgress::Received);
    assert_eq!(rig.service.generation(&tenant()).await.unwrap(), 1);
    rig.clock.set(CREATED + 3600 * SECOND);
    assert_eq!(rig.progress(&id).await, DeleteProgress::Received, "nothing of it is done");

    let rewrite = |base, from: &str, to| RewriteCommit {
        base,
        removes: vec![block(from, 300, 0).path],
        adds: vec![to],
        data_change: true,
        note: None,
    };
    let base = rig.catalog.snapshot(&tenant()).await.unwrap();
    let base =
        rig.catalog.commit_rewrite(&tenant(), &rewrite(base, "one", block("one-d", 300, 1))).await.unwrap();
    assert_eq!(rig.progress(&id).await, DeleteProgress::Percent(75));
    let error = rig.service.cancel(&tenant(), &id, false).await.unwrap_err();
    assert!(error.message.starts_with("Unable to cancel partially completed"), "{error}");
    let rewrite = rewrite(base.snapshot, "two", block("two-d", 100, 1));
    rig.catalog.commit_rewrite(&tenant(), &rewrite).await.unwrap();
    assert_eq!(rig.progress(&id).await, DeleteProgress::Processed, "nothing stored is left");
    // Something may be on its way.
    assert_eq!(rig.finished().await, [] as [String; 0]);
    rig.clock.set(CREATED + 3660 * SECOND);
    let done = rig.finished().await;
    assert_eq!(done, std::slice::from_ref(&id));
    rig.lists.mark_processed(&tenant(), &done, rig.clock.now()).await.unwrap();
    assert_eq!(rig.progress(&id).await, DeleteProgress::Processed);
    assert_eq!(rig.finished().await, [] as [String; 0]);
    let error = rig.service.cancel(&tenant(), &id, true).await.unwrap_err();
    assert!(error.message.contains("already processed is not allowed"), "{error}");
}

#[tokio::test]
async fn a_request_with_nothing_to_do_is_finished_once_it_is_final() {
    let rig = rig();
    let id = rig.add(r#"{app="nobody"}"#, 0, 10).await.unwrap();
    rig.clock.set(CREATED + 3659 * SECOND);
    assert_eq!(rig.finished().await, [] as [String; 0]);
    rig.clock.set(CREATED + 3660 * SECOND);
    assert_eq!(rig.finished().await, [id]);
}

#[tokio::test]
async fn cancelled_requests_are_gone() {
    let rig = rig();
    let id = rig.add("{}", 0, 10).await.unwrap();
    rig.service.cancel(&tenant(), &id, false).await.unwrap();
    assert_eq!(rig.service.list(&tenant()).await.unwrap(), []);
    assert_eq!(rig.service.generation(&tenant()).await.unwrap(), 2);
    let error = rig.service.cancel(&tenant(), &id, false).await.unwrap_err();
    assert_eq!(
        (error.kind, &*error.message),
        (Kind::NotFound, "could not find delete request with given id")
    );
}

#[tokio::test]
async fn nonsense_is_refused_before_anything_is_written() {
    let rig = rig();
    for (query, start, end, text) in [
        ("{app=}", 0, 9, "invalid query expression"),
        (r#"{app="a"} |~ "(""#, 0, 9, "invalid query expression"),
        ("{}", 10, 9, "start time can't be greater than end time"),
        (&*"x".repeat(QUERY_BYTES_MAX + 1), 0, 9, "the limit is 16384"),
    ] {
        let error = rig.add(query, start, end).await.unwrap_err();
        assert!(error.kind == Kind::InvalidArgument && error.message.contains(text), "{error}");
    }
    assert_eq!(rig.service.generation(&tenant()).await.unwrap(), 0);
    assert!(rig.catalog.tenants().await.unwrap().is_empty());
}
